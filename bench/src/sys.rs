//! What the standard library does not offer of the kernel.

use std::{
    io,
    os::fd::{BorrowedFd, RawFd},
    time::Duration,
};

/// One socket to wait for.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Interest(libc::pollfd);

impl Interest {
    /// Waits for the socket to be readable, and writable where `write`. The descriptor must stay open for as long as
    /// the interest is polled; a closed one is reported as ready.
    pub fn new(socket: BorrowedFd<'_>, write: bool) -> Interest {
        use std::os::fd::AsRawFd;
        let fd: RawFd = socket.as_raw_fd();
        let events = if write { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        Interest(libc::pollfd { fd, events, revents: 0 })
    }

    /// Whether there is something to read, an error and an end included.
    pub fn is_readable(&self) -> bool {
        self.0.revents & !libc::POLLOUT != 0
    }

    /// Whether there is room to write.
    pub fn is_writable(&self) -> bool {
        self.0.revents & libc::POLLOUT != 0
    }
}

/// Waits until a socket is ready or the time is over, to the nanosecond that the kernel's timer allows.
///
/// # Errors
///
/// What the kernel says. A signal is no error: nothing is ready then.
pub fn poll(interests: &mut [Interest], timeout: Duration) -> io::Result<()> {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: `Interest` is a transparent pollfd, the slice is exclusive and its length is given; the time-out is
    // only read, and a null signal mask is allowed.
    let ready = unsafe {
        libc::ppoll(
            interests.as_mut_ptr().cast::<libc::pollfd>(),
            interests.len() as libc::nfds_t,
            &timeout,
            std::ptr::null(),
        )
    };
    if ready >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted {
        interests.iter_mut().for_each(|interest| interest.0.revents = 0);
        return Ok(());
    }
    Err(error)
}

/// Asks the kernel not to delay this thread's timers to save wake-ups; by default it may, by 50 µs.
pub fn precise_timers() {
    // SAFETY: the call takes integers only and changes nothing but this thread's timer slack.
    let result = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64, 0_u64, 0_u64, 0_u64) };
    assert_eq!(result, 0, "every kernel since 2.6.28 has a timer slack");
}

/// CPU time of this process, user and system.
pub fn own_cpu_time() -> (Duration, Duration) {
    // SAFETY: an all-zero rusage is a valid value of the plain struct, and the kernel is given its only pointer.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0, "the arguments are valid");
        usage
    };
    (to_duration(usage.ru_utime), to_duration(usage.ru_stime))
}

fn to_duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}

/// Clock ticks per second in /proc.
pub fn ticks_per_second() -> u64 {
    // SAFETY: the call takes an integer and has no side effects.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).expect("Linux has a tick rate")
}

/// Bytes of a page of memory.
pub fn page_bytes() -> u64 {
    // SAFETY: the call takes an integer and has no side effects.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).expect("Linux has a page size")
}
