//! Running the binary: commands to their end, and brokers until they are stopped.

#[allow(dead_code, reason = "each test binary uses its part of this module")]
pub mod nodes;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_chronik-server");

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A command without the variables of whoever runs the tests.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    // Whatever starts by mistake keeps its files out of the sources.
    command.args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHRONIK_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end with `input` on its standard input.
pub fn finish(command: &mut Command, input: &str) -> Outcome {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.expect("the binary runs");
    let mut stdin: ChildStdin = child.stdin.take().expect("piped");
    // A command that refuses its options never reads.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs a command to its end.
#[allow(dead_code, reason = "each test binary uses its part of this module")]
pub fn run(arguments: &[&str]) -> Outcome {
    finish(&mut command(arguments), "")
}

/// An empty folder of one test, removed when dropped.
pub struct Folder(PathBuf);

/// Makes a folder.
pub fn folder(name: &str) -> Folder {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a folder for tests");
    Folder(path)
}

impl std::ops::Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays behind is no reason to fail a test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running broker on free ports. Killed when dropped.
#[allow(dead_code, reason = "each test binary uses its part of this module")]
pub struct Broker {
    child: Child,
    pub address: String,
    pub metrics_port: u16,
    pub ready: String,
}

#[allow(dead_code, reason = "each test binary uses its part of this module")]
impl Broker {
    /// Starts a broker and waits until it says that it is ready.
    pub fn start(data_dir: &Path, arguments: &[&str]) -> Broker {
        Broker::start_command(&mut Broker::command(data_dir, arguments))
    }

    /// Runs a broker's command and waits until it says that it is ready.
    pub fn start_command(command: &mut Command) -> Broker {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary runs");
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        while !ready.contains("Stop it with Ctrl-C.") {
            assert_ne!(stdout.read_line(&mut ready).expect("text"), 0, "it ended early: {ready}");
        }
        let after = |words: &str| {
            let rest = ready.split_once(words).expect("the ready lines name it").1;
            rest.split_whitespace().next().expect("a value").to_owned()
        };
        let address = after("serves Kafka clients at ");
        let metrics_port = after("metrics and health at port ").parse().expect("a port");
        Broker { child, address, metrics_port, ready }
    }

    /// The process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// A broker's command, on free ports of loopback.
    pub fn command(data_dir: &Path, arguments: &[&str]) -> Command {
        let mut command = Broker::pinned_command(data_dir, arguments);
        command.arg("--no-pin");
        command
    }

    /// The same, with shards bound to cores.
    pub fn pinned_command(data_dir: &Path, arguments: &[&str]) -> Command {
        let mut all = vec!["--kafka-port", "0", "--metrics-port", "0", "--bind-addr", "127.0.0.1"];
        all.extend([
            "--set",
            "offsets.topic.num.partitions=3",
            "--set",
            "group.initial.rebalance.delay.ms=0",
        ]);
        all.extend(arguments);
        let mut command = command(&all);
        command.arg("--data-dir").arg(data_dir);
        command
    }

    /// Runs a client command against this broker.
    pub fn client(&self, arguments: &[&str], input: &str) -> Outcome {
        finish(command(arguments).args(["--bootstrap-server", &self.address]), input)
    }

    /// Runs a client command that must succeed, and gives what it prints.
    pub fn ask(&self, arguments: &[&str], input: &str) -> String {
        let outcome = self.client(arguments, input);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
        outcome.stdout
    }

    /// What the monitoring endpoint answers to a GET.
    pub fn get(&self, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.metrics_port)).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    /// Sends a signal by its name and waits for the end.
    pub fn signal(mut self, name: &str) -> ExitStatus {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
        self.child.wait().expect("it ends")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
