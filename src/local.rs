//! A whole cluster on this machine, for trying it out: each broker is a process of its own, started from here.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use types::NodeId;

use crate::exit::Error;
use crate::options::{LocalOptions, LogFormat, Options};

/// The address that everything listens on: nobody else is to reach a cluster for trying out.
const HOST: &str = "127.0.0.1";

/// News that wait for being told; those who bring more wait.
const NEWS_MAX: usize = 64;

/// How a broker says on its standard output that it serves.
const READY: &str = " is ready: ";

/// Something that the parent has to know.
enum News {
    /// A broker serves.
    Ready(usize),
    /// A broker has closed one of its two outputs: both are closed when it ends.
    OutputClosed(usize),
    /// The parent was told to stop.
    Signal,
}

/// One broker.
struct Node {
    number: usize,
    kafka_port: u16,
    child: Child,
    is_ready: bool,
    open_outputs: usize,
    is_ended: bool,
}

/// The ports of one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    kafka: u16,
    metrics: u16,
    raft: u16,
}

/// Runs the cluster until a signal ends it.
///
/// # Errors
///
/// When it cannot be started, or every broker has ended by itself.
pub fn run(options: &Options, local: &LocalOptions) -> Result<(), Error> {
    if let Some(option) = options.cluster_options.iter().chain(&options.broker_options).next() {
        return Err(Error::Usage(format!("local arranges its brokers itself and takes no {option}")));
    }
    check_voters(&options.data_dir, local.nodes)?;
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(|source| Error::System { what: "catch signals", source })?;
    let program = std::env::current_exe()
        .map_err(|source| Error::System { what: "find the program's own file", source })?;
    let ports = free_ports(usize::from(local.nodes))
        .map_err(|source| Error::System { what: "find free ports", source })?;

    let (sender, news) = bounded(NEWS_MAX);
    let mut cluster = Cluster { nodes: Vec::new(), is_told_ready: false };
    for number in 1..=ports.len() {
        let mut command = Command::new(&program);
        arrange(&mut command, options, &ports, number);
        cluster.start(number, ports[number - 1].kafka, command, &sender)?;
    }
    watch_signals(signals, sender)?;
    cluster.watch(&news)
}

/// The brokers, and what was said of them. Those that still run are killed when it is dropped.
struct Cluster {
    nodes: Vec<Node>,
    is_told_ready: bool,
}

impl Cluster {
    fn start(
        &mut self,
        number: usize,
        kafka_port: u16,
        mut command: Command,
        news: &Sender<News>,
    ) -> Result<(), Error> {
        let refused = |source| Error::System { what: "start a broker", source };
        let mut child = command.spawn().map_err(refused)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        self.nodes.push(Node {
            number,
            kafka_port,
            child,
            is_ready: false,
            open_outputs: 2,
            is_ended: false,
        });
        let index = self.nodes.len() - 1;
        let to_parent = news.clone();
        spawn(move || watch_stdout(index, number, stdout.expect("piped"), &to_parent))?;
        let to_parent = news.clone();
        spawn(move || watch_stderr(index, number, stderr.expect("piped"), &to_parent))
    }

    /// Tells what happens until no broker runs any more.
    fn watch(&mut self, news: &Receiver<News>) -> Result<(), Error> {
        let mut signals = 0;
        while self.nodes.iter().any(|node| !node.is_ended) {
            // The thread that waits for signals never ends.
            match news.recv().expect("somebody can still send") {
                News::Ready(index) => {
                    self.nodes[index].is_ready = true;
                    self.tell_ready();
                }
                News::OutputClosed(index) => {
                    let node = &mut self.nodes[index];
                    node.open_outputs -= 1;
                    if node.open_outputs == 0 {
                        node.await_end();
                    }
                }
                News::Signal => {
                    signals += 1;
                    say(&format!("stopping {} brokers", self.running().count()));
                    // They are asked once, and made to at the second time.
                    self.nodes
                        .iter_mut()
                        .filter(|node| !node.is_ended)
                        .for_each(|node| node.stop(signals > 1));
                }
            }
        }
        match signals {
            0 => Err(Error::Command("every broker has ended".to_owned())),
            _ => Ok(()),
        }
    }

    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.is_ended)
    }

    fn tell_ready(&mut self) {
        if self.is_told_ready || !self.nodes.iter().all(|node| node.is_ready) {
            return;
        }
        self.is_told_ready = true;
        let servers: Vec<String> =
            self.nodes.iter().map(|node| format!("{HOST}:{}", node.kafka_port)).collect();
        let program = std::env::args().next().unwrap_or_else(|| "chronik-server".to_owned());
        say(&format!(
            "{count} brokers are ready: {all}\n\
             \n\
             Try it:\n\
             \x20 echo hello | {program} produce --bootstrap-server {first} demo\n\
             \x20 {program} consume --bootstrap-server {first} demo --from-beginning\n\
             Stop them with Ctrl-C.",
            count = servers.len(),
            all = servers.join(","),
            first = servers[0],
        ));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| !node.is_ended) {
            node.stop(true);
            node.await_end();
        }
    }
}

impl Node {
    fn stop(&mut self, at_once: bool) {
        let stopped = if at_once { self.child.kill() } else { terminate(&self.child) };
        if let Err(error) = stopped {
            say(&format!("[{}] cannot be stopped: {error}", self.number));
        }
    }

    /// Reaps the process, whose outputs are closed.
    fn await_end(&mut self) {
        self.is_ended = true;
        let how = match self.child.wait() {
            Ok(status) => match status.code() {
                Some(code) => format!("ended with exit code {code}"),
                None => format!("ended by {status}"),
            },
            Err(error) => format!("ended, and cannot be asked how: {error}"),
        };
        say(&format!("[{}] {how}", self.number));
    }
}

fn terminate(child: &Child) -> io::Result<()> {
    let process = i32::try_from(child.id()).expect("a process id fits");
    // SAFETY: `kill` touches no memory of this process. The child was not reaped yet, so the id is its own.
    match unsafe { libc::kill(process, libc::SIGTERM) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A cluster keeps the nodes that it began with.
fn check_voters(data_dir: &Path, nodes: u16) -> Result<(), Error> {
    let first = data_dir.join("node-1");
    let stored = reactor::stored_voters(&first).map_err(|error| Error::Usage(error.to_string()))?;
    let expected: Vec<NodeId> = (1..=i32::from(nodes)).map(NodeId).collect();
    match stored {
        Some(stored) if stored != expected => Err(Error::Usage(format!(
            "the cluster in {} has {} brokers: give --nodes {}, or another --data-dir",
            data_dir.display(),
            stored.len(),
            stored.len()
        ))),
        _ => Ok(()),
    }
}

/// Takes free ports and gives them back: the brokers have to know each other's before any listens.
fn free_ports(nodes: usize) -> io::Result<Vec<Ports>> {
    let listeners: Vec<TcpListener> =
        (0..3 * nodes).map(|_| TcpListener::bind((HOST, 0))).collect::<Result<_, _>>()?;
    let ports: Vec<u16> = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?;
    Ok(ports.chunks(3).map(|ports| Ports { kafka: ports[0], metrics: ports[1], raft: ports[2] }).collect())
}

/// The command line of the broker of this number, which counts from 1.
fn arrange(command: &mut Command, options: &Options, ports: &[Ports], number: usize) {
    let own = ports[number - 1];
    let peers: Vec<String> = (1..=ports.len())
        .filter(|other| *other != number)
        .map(|other| format!("{other}@{HOST}:{}", ports[other - 1].raft))
        .collect();
    // What it is to know, it is told: variables of the parent may say otherwise.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHRONIK_") {
            command.env_remove(name);
        }
    }
    command
        .args(["--bind-addr", HOST, "--advertised-addr", HOST, "--no-pin", "--log-level", &options.log_level])
        .args(["--kafka-port", &own.kafka.to_string(), "--metrics-port", &own.metrics.to_string()])
        .args(["--node-id", &number.to_string(), "--data-dir"])
        .arg(options.data_dir.join(format!("node-{number}")));
    if options.log_format == LogFormat::Json {
        command.args(["--log-format", "json"]);
    }
    if let Some(shards) = options.shards {
        command.args(["--shards", &shards.to_string()]);
    }
    // A topic on one broker only would not be worth a cluster.
    let replicas = ("default.replication.factor", ports.len().min(3).to_string());
    if !options.settings.contains_key(replicas.0) {
        command.args(["--set", &format!("{}={}", replicas.0, replicas.1)]);
    }
    for (name, value) in &options.settings {
        command.args(["--set", &format!("{name}={value}")]);
    }
    command
        .args(["raft-cluster", "--raft-addr", &format!("{HOST}:{}", own.raft)])
        .args(["--peers", &peers.join(","), "--bootstrap"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C in a terminal reaches a whole process group, and a second signal would cut the stop short.
        .process_group(0);
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    match thread::Builder::new().spawn(run) {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::System { what: "start a thread for a broker", source }),
    }
}

/// Passes on that a broker is ready; how to use it the parent says itself.
fn watch_stdout(index: usize, number: usize, output: impl Read, news: &Sender<News>) {
    each_line(output, |line| {
        if line.contains(READY) {
            say(&format!("[{number}] {line}"));
            tell(news, News::Ready(index));
        }
    });
    tell(news, News::OutputClosed(index));
}

fn watch_stderr(index: usize, number: usize, output: impl Read, news: &Sender<News>) {
    each_line(output, |line| {
        // Whoever started this may have closed its output.
        let _ = writeln!(io::stderr(), "[{number}] {line}");
    });
    tell(news, News::OutputClosed(index));
}

/// Reads to the end, whatever bytes come; what cannot be read any more counts as the end.
fn each_line(output: impl Read, mut on_line: impl FnMut(&str)) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        on_line(&String::from_utf8_lossy(&line));
    }
}

fn tell(news: &Sender<News>, what: News) {
    // Nobody listens any more when the parent is at its end.
    let _ = news.send(what);
}

fn say(text: &str) {
    // Whoever started this may have closed its output; that is no reason to stop.
    let _ = writeln!(io::stdout(), "{text}");
}

fn watch_signals(mut signals: Signals, news: Sender<News>) -> Result<(), Error> {
    spawn(move || {
        for _ in signals.forever() {
            tell(&news, News::Signal);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broker_is_told_of_the_others() {
        let options = Options::resolve(crate::options::GlobalOptions::default()).expect("defaults");
        let ports = [1, 2, 3].map(|port| Ports { kafka: port, metrics: 10 + port, raft: 20 + port });
        let mut command = Command::new("x");
        arrange(&mut command, &options, &ports, 2);
        let arguments: Vec<&str> =
            command.get_args().map(|argument| argument.to_str().expect("text")).collect();
        let expected = "--bind-addr 127.0.0.1 --advertised-addr 127.0.0.1 --no-pin --log-level info --kafka-port 2 \
                        --metrics-port 12 --node-id 2 --data-dir ./data/node-2 --set default.replication.factor=3 \
                        raft-cluster --raft-addr 127.0.0.1:22 --peers 1@127.0.0.1:21,3@127.0.0.1:23 --bootstrap";
        assert_eq!(arguments.join(" "), expected);
    }
}
