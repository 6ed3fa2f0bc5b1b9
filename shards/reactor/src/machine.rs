//! What the machine must give before an executor can start, and what is asked of it.

use std::io;
use std::thread;

use types::limits::CONNECTIONS_PER_SHARD_MAX;

use crate::error::StartError;

/// What an io_uring executor insists on.
const LOCKED_BYTES_MIN: u64 = 512 * 1024;

/// Memory for disk buffers that each executor registers with each of its rings; the rest comes from the heap.
const IO_MEMORY_BYTES_MAX: u64 = 1024 * 1024;
const IO_MEMORY_BYTES_MIN: u64 = 64 * 1024;
const RINGS_PER_EXECUTOR: u64 = 3;

/// Files of a shard that are no clients: 256 segments and 16 WAL files at most, its rings, the connections to and from
/// other nodes, and what the threads for blocking work have open.
const FILES_PER_SHARD: u64 = 384;

/// Files of the process: listeners, the metrics' clients, the log.
const FILES_PER_PROCESS: u64 = 64;

/// Below it a broker is not started: its shards would refuse clients at once.
const CONNECTIONS_PER_SHARD_MIN: u64 = 32;

/// What each executor may have of the process's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Bytes that it may register.
    pub(crate) io_memory: usize,
    /// Clients that may be connected.
    pub(crate) connections: usize,
}

/// Checks io_uring and the limits of open files and locked memory, which it raises as far as it may.
pub(crate) fn prepare(shards: u16) -> Result<Allowance, StartError> {
    let open_files = raise_limit(libc::RLIMIT_NOFILE);
    let connections = connections(open_files, shards).ok_or(StartError::OpenFiles {
        limit: open_files,
        needed: files_needed(shards, CONNECTIONS_PER_SHARD_MIN),
    })?;
    if connections < CONNECTIONS_PER_SHARD_MAX {
        let for_all = files_needed(shards, CONNECTIONS_PER_SHARD_MAX as u64);
        tracing::warn!(
            open_files,
            "a shard takes {connections} client connections at most: raise RLIMIT_NOFILE (ulimit -n {for_all}) for \
             {CONNECTIONS_PER_SHARD_MAX}"
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
    Ok(Allowance { io_memory: io_memory(locked_bytes, shards), connections })
}

fn files_needed(shards: u16, connections: u64) -> u64 {
    FILES_PER_PROCESS + u64::from(shards) * (FILES_PER_SHARD + connections)
}

/// Client connections for each shard, so that descriptors are left for files: a shard that cannot open its next WAL file
/// ends the process. `None` if too few are left.
fn connections(open_files: u64, shards: u16) -> Option<usize> {
    let share = open_files.saturating_sub(FILES_PER_PROCESS) / u64::from(shards);
    let connections = share.checked_sub(FILES_PER_SHARD).filter(|left| *left >= CONNECTIONS_PER_SHARD_MIN)?;
    Some(usize::try_from(connections).unwrap_or(usize::MAX).min(CONNECTIONS_PER_SHARD_MAX))
}

/// Registered buffers count against the limit, once for each ring of each executor.
fn io_memory(locked_bytes: u64, shards: u16) -> usize {
    let share = locked_bytes / (RINGS_PER_EXECUTOR * u64::from(shards));
    let bytes = share.clamp(IO_MEMORY_BYTES_MIN, IO_MEMORY_BYTES_MAX);
    // A power of two, as the buddy allocator over it likes.
    1 << bytes.ilog2()
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
            assert_eq!(io_memory(locked_kib * 1024, shards), expected_kib * 1024);
        }
        assert_eq!(io_memory(u64::MAX, 64), 1024 * 1024);
    }

    #[test]
    fn clients_leave_descriptors_for_files() {
        for (open_files, shards, expected) in [
            (1024, 1, Some(576)),
            (1024, 2, Some(96)),
            (1024, 3, None),
            (480, 1, Some(32)),
            (479, 1, None),
            (0, 1, None),
            (1_048_576, 64, Some(CONNECTIONS_PER_SHARD_MAX)),
            (u64::MAX, 1, Some(CONNECTIONS_PER_SHARD_MAX)),
        ] {
            assert_eq!(connections(open_files, shards), expected, "{open_files} files, {shards} shards");
        }
    }

    #[test]
    fn this_machine_will_do() {
        prepare(1).expect("the tests of this crate need io_uring");
    }
}
