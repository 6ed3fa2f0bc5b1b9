//! What the machine must give before an executor can start, and what is asked of it.

use std::io;
use std::thread;

use crate::error::StartError;

/// What an io_uring executor insists on.
const LOCKED_BYTES_MIN: u64 = 512 * 1024;

/// Memory for disk buffers that each executor registers with each of its rings; the rest comes from the heap.
const IO_MEMORY_BYTES_MAX: u64 = 1024 * 1024;
const IO_MEMORY_BYTES_MIN: u64 = 64 * 1024;
const RINGS_PER_EXECUTOR: u64 = 3;

/// Below this many open files a broker with a few thousand clients gets into trouble.
const OPEN_FILES_COMFORTABLE: u64 = 65_536;

/// Bytes that each executor may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IoMemory(pub(crate) usize);

/// Checks io_uring and the locked-memory limit, and raises this process's limits as far as it may.
pub(crate) fn prepare(shards: u16) -> Result<IoMemory, StartError> {
    let open_files = raise_limit(libc::RLIMIT_NOFILE);
    if open_files < OPEN_FILES_COMFORTABLE {
        tracing::warn!(
            open_files,
            "few files may be open at once: raise RLIMIT_NOFILE (ulimit -n) for many clients"
        );
    }
    let locked_bytes = raise_limit(libc::RLIMIT_MEMLOCK);
    if locked_bytes < LOCKED_BYTES_MIN {
        return Err(StartError::LockedMemory {
            limit_kib: locked_bytes / 1024,
            needed_kib: LOCKED_BYTES_MIN / 1024,
        });
    }
    // On a thread of its own: the end of a ring interrupts system calls of the thread that made it.
    let checked =
        thread::spawn(check_io_uring).join().unwrap_or_else(|_| Err(io::Error::other("the check panicked")));
    checked.map_err(|source| StartError::NoIoUring { source })?;
    Ok(io_memory(locked_bytes, shards))
}

/// Registered buffers count against the limit, once for each ring of each executor.
fn io_memory(locked_bytes: u64, shards: u16) -> IoMemory {
    let share = locked_bytes / (RINGS_PER_EXECUTOR * u64::from(shards));
    let bytes = share.clamp(IO_MEMORY_BYTES_MIN, IO_MEMORY_BYTES_MAX);
    // A power of two, as the buddy allocator over it likes.
    IoMemory(1 << bytes.ilog2())
}

/// Raises the soft limit to the hard one and returns what holds now.
fn raise_limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid pointer to a `rlimit` that outlives them, and keep nothing of it.
    unsafe {
        if libc::getrlimit(resource, &mut limit) != 0 {
            return 0;
        }
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        if limit.rlim_cur < limit.rlim_max && libc::setrlimit(resource, &raised) == 0 {
            return raised.rlim_cur;
        }
    }
    limit.rlim_cur
}

/// Makes a ring and drops it: a kernel without io_uring, a sysctl and a seccomp profile all show here.
fn check_io_uring() -> io::Result<()> {
    const PARAMETERS_BYTES: usize = 120;
    let mut parameters = [0u64; PARAMETERS_BYTES / 8];
    // SAFETY: io_uring_setup(2) takes an entry count and a pointer to a zeroed `io_uring_params` of 120 bytes, which
    // it fills in; the array is that large, suitably aligned, and outlives the call.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2 as libc::c_long, parameters.as_mut_ptr()) };
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just returned to us and nothing else knows it.
    unsafe { libc::close(ring as libc::c_int) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_memory_fits_the_limit() {
        for (locked_kib, shards, expected_kib) in
            [(8192, 1, 1024), (8192, 2, 1024), (8192, 3, 512), (8192, 8, 256), (512, 1, 128), (512, 16, 64)]
        {
            assert_eq!(io_memory(locked_kib * 1024, shards), IoMemory(expected_kib * 1024));
        }
        assert_eq!(io_memory(u64::MAX, 64), IoMemory(1024 * 1024));
    }

    #[test]
    fn this_machine_will_do() {
        prepare(1).expect("the tests of this crate need io_uring");
    }
}
