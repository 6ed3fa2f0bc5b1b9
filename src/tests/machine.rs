//! What the broker does with the machine it finds: cores, and what a kernel, a file system or a limit denies it.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use support::{Broker, finish, folder};

/// Client connections that a shard takes (`types::limits::CONNECTIONS_PER_SHARD_MAX`).
const CONNECTIONS_MAX: usize = types::limits::CONNECTIONS_PER_SHARD_MAX;

/// The value of a line of a `/proc/.../status` file.
fn status_value(path: &str, name: &str) -> String {
    let status = fs::read_to_string(path).expect("a status file");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("the line is there").trim().to_owned()
}

/// The numbers of a list such as `0-2,5`.
fn numbers(list: &str) -> Vec<usize> {
    let parse = |text: &str| text.parse::<usize>().expect("a core");
    let ranges = list.split(',').map(|part| part.split_once('-').unwrap_or((part, part)));
    ranges.flat_map(|(first, last)| parse(first)..=parse(last)).collect()
}

#[test]
fn shards_run_on_the_cores_they_are_given() {
    let usable = numbers(&status_value("/proc/self/status", "Cpus_allowed_list"));
    let [first, second, ..] = usable[..] else {
        return eprintln!("skipped: there is one core, {usable:?}");
    };
    let data = folder("pinned");
    let cpus = format!("{first},{second}");
    let mut command = Broker::pinned_command(&data, &["--shards", "2", "--cpus", &cpus]);
    let broker = Broker::start_command(&mut command);
    let tasks = format!("/proc/{}/task", broker.process());
    let entries = fs::read_dir(&tasks).expect("its threads");
    let mut numbers_of_tasks: Vec<u32> = entries
        .map(|task| task.expect("a thread").file_name().to_string_lossy().parse().expect("a number"))
        .collect();
    numbers_of_tasks.sort_unstable();
    // Helpers of a shard bear its name, come after it, and run anywhere in the end.
    let mut cores: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for task in numbers_of_tasks {
        let status = format!("{tasks}/{task}/status");
        let name = status_value(&status, "Name");
        if name.starts_with("shard-") {
            cores.entry(name).or_insert_with(|| numbers(&status_value(&status, "Cpus_allowed_list")));
        }
    }
    let expected = [("shard-0", second), ("shard-1", first)];
    let expected: BTreeMap<String, Vec<usize>> =
        expected.into_iter().map(|(name, core)| (name.to_owned(), vec![core])).collect();
    assert_eq!(cores, expected);
    assert!(!broker.ready.contains("not pinned"), "{}", broker.ready);

    // Pinned shards poll for the ends of their writes.
    broker.ask(&["topic", "create", "t", "--partitions", "8"], "");
    for round in 0..20 {
        broker.ask(&["produce", "t"], &format!("{round}\n"));
    }
    let read = broker.ask(&["consume", "t", "--from-beginning", "--max-messages", "20"], "");
    let mut read: Vec<u32> = read.lines().map(|line| line.parse().expect("a number")).collect();
    read.sort_unstable();
    assert_eq!(read, (0..20).collect::<Vec<u32>>());
}

#[test]
fn a_file_system_without_direct_io_is_named() {
    let folder = folder("no-direct-io");
    let broker = Broker::command(&folder.join("data"), &[]);
    // A ramfs knows no direct I/O. It is mounted where nobody but this command sees it.
    let script = "mount -t ramfs none \"$0\" || exit 250; exec \"$@\"";
    let mut mounted = Command::new("unshare");
    mounted.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    mounted.arg(&*folder).arg(broker.get_program()).args(broker.get_args());
    let outcome = finish(&mut mounted, "");
    let is_denied = outcome.code == Some(250) || outcome.stderr.starts_with("unshare:");
    if is_denied {
        return eprintln!("skipped: no file system can be mounted here: {}", outcome.stderr);
    }
    assert_eq!(outcome.code, Some(69), "{}", outcome.stderr);
    let last = outcome.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("direct I/O") && last.contains("no-direct-io"), "{last:?}");
}

#[test]
fn a_kernel_that_gives_no_io_uring_is_named() {
    let data = folder("no-io-uring");
    let mut command = Broker::command(&data, &[]);
    // SAFETY: between fork and exec it makes two system calls and touches nothing that another thread may hold.
    unsafe { command.pre_exec(deny_io_uring) };
    let outcome = finish(&mut command, "");
    assert_eq!(outcome.code, Some(71), "{}", outcome.stderr);
    let last = outcome.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("io_uring") && last.contains("not permitted"), "{last:?}");
}

/// Lets `io_uring_setup` fail in this process as container runtimes do, with a seccomp filter.
fn deny_io_uring() -> io::Result<()> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        // The number of the system call stands first in `seccomp_data`.
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the program and its steps outlive the call that reads them.
    let is_denied = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if is_denied { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises this process's limit of open files to `wanted`; `false` where it may not.
fn may_open(wanted: usize) -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid pointer to a `rlimit` that outlives them, and keep nothing of it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return false;
        }
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= wanted as u64
    }
}

/// An ApiVersions request, version 0, is answered with its correlation id.
fn is_served(stream: &mut TcpStream) -> bool {
    let request = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    let mut answer = [0; 8];
    // A connection that is closed at once fails here or there.
    stream.write_all(&request).is_ok() && stream.read_exact(&mut answer).is_ok() && answer[7] == 7
}

#[test]
fn a_shard_takes_so_many_connections_and_no_more() {
    if !may_open(CONNECTIONS_MAX + 200) {
        return eprintln!("skipped: fewer than {CONNECTIONS_MAX} files may be open");
    }
    let data = folder("connections");
    let broker = Broker::start(&data, &["--shards", "1"]);
    let connect = || TcpStream::connect(&broker.address).expect("the port is open");
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| connect()).collect();
    // The last one is taken after all before it.
    let last = streams.last_mut().expect("many");
    assert!(is_served(last), "as many as there may be");
    assert!(!is_served(&mut connect()), "one too many");
    assert!(is_served(&mut streams[0]), "the others do not notice");
    drop(streams);
    // Room comes when the broker has seen them go.
    while !is_served(&mut connect()) {}
}

/// A command whose process may have so many files open, and cannot raise that.
fn limited(mut command: Command, open_files: u64) -> Command {
    let limit = libc::rlimit { rlim_cur: open_files, rlim_max: open_files };
    let lower = move || {
        // SAFETY: the call gets a valid pointer to a `rlimit` and keeps nothing of it.
        match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec it makes one system call and touches nothing that another thread may hold.
    unsafe { command.pre_exec(lower) };
    command
}

#[test]
fn clients_leave_descriptors_for_the_brokers_own_files() {
    // 64 for the process, 384 for the shard, 40 for clients.
    let data = folder("open-files");
    let broker = Broker::start_command(&mut limited(Broker::command(&data, &["--shards", "1"]), 488));
    let connect = || TcpStream::connect(&broker.address).expect("the port is open");
    let mut streams: Vec<TcpStream> = (0..40).map(|_| connect()).collect();
    assert!(is_served(&mut streams[39]), "as many as descriptors are left for");
    assert!(!is_served(&mut connect()), "one too many");
    assert!(is_served(&mut streams[0]), "the others do not notice");
}

#[test]
fn too_few_open_files_are_named() {
    let data = folder("no-files");
    let outcome = finish(&mut limited(Broker::command(&data, &["--shards", "1"]), 400), "");
    assert_eq!(outcome.code, Some(74), "{}", outcome.stderr);
    let last = outcome.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("ulimit -n 480"), "{last:?}");
}
