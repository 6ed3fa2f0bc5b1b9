//! The broker processes of a run: started, killed, stopped and continued by their own ids only.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::{
    cleanup, command,
    error::LoadtestError,
    means::Means,
    network, wall_clock,
    wire::{ClusterView, Connection, WireError},
};

const READY_SECONDS_MAX: u64 = 60;
const STOP_SECONDS_MAX: u64 = 60;
const FREE_PORT_SECONDS_MAX: u64 = 5;
/// Kafka, Raft and metrics.
const NODE_PORTS: usize = 3;
const POLL_PAUSE: Duration = Duration::from_millis(20);
/// How long a node may take for one answer to our own client.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What the nodes of a cluster have in common.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The program chronik-server.
    pub program: PathBuf,
    /// Where data and logs go.
    pub folder: PathBuf,
    /// How many nodes.
    pub nodes: u8,
    /// Shards of each.
    pub shards: u32,
    /// Broker settings, NAME=VALUE.
    pub settings: Vec<String>,
}

/// Where clients find the nodes, and the how manieth process each of them is: for threads.
#[derive(Clone, Debug)]
pub struct Directory {
    nodes: Arc<[Entry]>,
}

#[derive(Debug)]
struct Entry {
    id: i32,
    address: SocketAddr,
    incarnation: AtomicU64,
}

impl Directory {
    /// Ids and addresses for Kafka clients.
    pub fn nodes(&self) -> impl Iterator<Item = (i32, SocketAddr)> + '_ {
        self.nodes.iter().map(|entry| (entry.id, entry.address))
    }

    /// The address of a node.
    pub fn address(&self, node: i32) -> Option<SocketAddr> {
        self.nodes().find(|&(id, _)| id == node).map(|(_, address)| address)
    }

    /// A node is to hold replicas anew that it gave up, which know nothing of what it has shown of them.
    pub fn renew(&self, node: i32) {
        if let Some(entry) = self.nodes.iter().find(|entry| entry.id == node) {
            entry.incarnation.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Grows with each start of a node, and when it is to hold replicas anew.
    pub fn incarnation(&self, node: i32) -> u64 {
        self.nodes
            .iter()
            .find(|entry| entry.id == node)
            .map_or(0, |entry| entry.incarnation.load(Ordering::SeqCst))
    }

    /// The list that librdkafka starts from.
    pub fn bootstrap(&self) -> String {
        self.nodes().map(|(_, address)| address.to_string()).collect::<Vec<_>>().join(",")
    }

    /// What the first node that answers says, of those for which `may_ask` holds.
    ///
    /// # Errors
    ///
    /// [`WireError`] of the last one.
    pub fn view(&self, may_ask: impl Fn(i32) -> bool) -> Result<ClusterView, WireError> {
        let mut failure = WireError::Malformed("no node may be asked");
        for (_, address) in self.nodes().filter(|&(id, _)| may_ask(id)) {
            match Connection::open(address, ANSWER_TIMEOUT).and_then(|mut connection| connection.metadata()) {
                Ok(view) => return Ok(view),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

#[derive(Debug)]
struct Node {
    id: i32,
    address: IpAddr,
    kafka_port: u16,
    raft_port: u16,
    metrics_port: u16,
    namespace: Option<String>,
    /// The library that stands before its clock, and its file.
    clock: Option<(PathBuf, PathBuf)>,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    is_paused: bool,
}

/// A process that ended without being asked to.
#[derive(Debug)]
pub struct Crash {
    /// Its node.
    pub node: i32,
    /// Its exit status and the end of its log.
    pub why: String,
}

/// All nodes. Dropped, their processes are killed.
#[derive(Debug)]
pub struct Cluster {
    /// Where clients find them.
    pub directory: Directory,
    options: ClusterOptions,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Nodes that are not started yet, with what there is of network, file systems and clocks; else on loopback.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::File`], [`LoadtestError::Process`] when there is no free port.
    pub fn new(options: ClusterOptions, means: &Means) -> Result<Cluster, LoadtestError> {
        let ports = free_ports(usize::from(options.nodes) * NODE_PORTS)?;
        let nodes: Vec<_> = (1..=options.nodes)
            .zip(ports.chunks_exact(NODE_PORTS))
            .map(|(number, ports)| Node::new(number, &options.folder, means, ports))
            .collect();
        let entry = |node: &Node| Entry {
            id: node.id,
            address: SocketAddr::new(node.address, node.kafka_port),
            incarnation: AtomicU64::new(0),
        };
        let directory = Directory { nodes: nodes.iter().map(entry).collect() };
        Ok(Cluster { directory, options, nodes })
    }

    /// Starts a node, with the data it has, and waits until it answers.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Process`], [`LoadtestError::Node`] with the end of its log.
    pub fn start(&mut self, id: i32) -> Result<(), LoadtestError> {
        self.spawn(id)?;
        self.await_answer(id)
    }

    /// Empties the disk of a node that does not run, says so to the others, and starts it.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::File`], [`LoadtestError::Command`] of the last attempt to say so, and as [`Cluster::start`].
    pub fn replace(&mut self, id: i32) -> Result<(), LoadtestError> {
        let node = &self.nodes[self.index(id)];
        assert!(node.child.is_none(), "a node that runs is not replaced");
        std::fs::remove_dir_all(&node.data)
            .map_err(|source| LoadtestError::File { path: node.data.clone(), source })?;
        let raft_address = format!("{}:{}", node.address, node.raft_port);
        let number = id.to_string();
        let bootstrap = self.directory.bootstrap();
        let program = self.options.program.to_string_lossy();
        let arguments = [
            "cluster",
            "replace-node",
            &number,
            "--raft-addr",
            &raft_address,
            "--bootstrap-server",
            &bootstrap,
        ];
        let deadline = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        // Refused until the others know that it is dead.
        while let Err(error) = command::run(&program, &arguments) {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(POLL_PAUSE);
        }
        let mut joiner = self.command(id);
        joiner.arg("--join");
        self.spawn_command(id, joiner)?;
        self.await_answer(id)
    }

    /// Starts a node and does not wait.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Process`].
    pub fn spawn(&mut self, id: i32) -> Result<(), LoadtestError> {
        let mut command = self.command(id);
        if self.nodes.len() > 1 {
            command.arg("--bootstrap");
        }
        self.spawn_command(id, command)
    }

    fn spawn_command(&mut self, id: i32, mut command: Command) -> Result<(), LoadtestError> {
        let index = self.index(id);
        let node = &mut self.nodes[index];
        assert!(node.child.is_none(), "a node has one process");
        let log = OpenOptions::new().create(true).append(true).open(&node.log);
        let log = log.map_err(|source| LoadtestError::File { path: node.log.clone(), source })?;
        let failed = |source| LoadtestError::Process { what: format!("starting {command:?}"), source };
        let error_log = log.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(log).stderr(error_log);
        // SAFETY: between fork and exec the closure makes one system call and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn().map_err(|source| LoadtestError::Process {
            what: format!("starting {}", self.options.program.display()),
            source,
        })?;
        cleanup::note_process(child.id());
        node.child = Some(child);
        self.directory.nodes[index].incarnation.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Waits until a node answers requests.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Node`] when it ends or takes too long.
    pub fn await_answer(&mut self, id: i32) -> Result<(), LoadtestError> {
        let deadline = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        loop {
            let node = self.node_mut(id);
            if let Some(status) = node.take_exit()? {
                return Err(node.failed(&format!("it ended at its start: {status}")));
            }
            if node.is_healthy() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(node.failed(&format!("it does not answer within {READY_SECONDS_MAX} s")));
            }
            thread::sleep(POLL_PAUSE);
        }
    }

    /// Starts all nodes at once and waits until each of them knows all of them.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`], and [`LoadtestError::NotReady`].
    pub fn start_all(&mut self) -> Result<(), LoadtestError> {
        let ids = self.ids();
        for &id in &ids {
            self.spawn(id)?;
        }
        for &id in &ids {
            self.await_answer(id)?;
        }
        self.await_view(Duration::from_secs(READY_SECONDS_MAX), |view| {
            let mut known = view.nodes.clone();
            known.sort_unstable();
            if known == ids { None } else { Some(format!("nodes {known:?} are known, not {ids:?}")) }
        })
    }

    /// Waits until `missing` has nothing to say about the cluster's metadata any more.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::NotReady`] with its last word.
    pub fn await_view(
        &self,
        within: Duration,
        missing: impl Fn(&ClusterView) -> Option<String>,
    ) -> Result<(), LoadtestError> {
        let deadline = Instant::now() + within;
        loop {
            let why = match self.directory.view(|_| true) {
                Ok(view) => missing(&view),
                Err(error) => Some(error.to_string()),
            };
            let Some(why) = why else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(LoadtestError::NotReady { seconds: within.as_secs(), why });
            }
            thread::sleep(POLL_PAUSE);
        }
    }

    /// kill −9 of several nodes at once. Returns when their processes are gone.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Process`]; [`LoadtestError::Node`] when one was gone already: the others are not killed then.
    pub fn kill(&mut self, ids: &[i32]) -> Result<(), LoadtestError> {
        for &id in ids {
            let node = self.node_mut(id);
            if let Some(status) = node.take_exit()? {
                return Err(node.failed(&format!("it had ended by itself: {status}")));
            }
        }
        for &id in ids {
            self.node_mut(id).signal(Signal::KILL)?;
        }
        ids.iter().try_for_each(|&id| self.node_mut(id).await_kill())
    }

    /// SIGTERM, and waits for an orderly end.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Node`] when it takes too long (it is killed then) or ends with another code than 0.
    pub fn stop(&mut self, id: i32) -> Result<(), LoadtestError> {
        self.terminate(id)?;
        self.await_end(id)
    }

    /// SIGTERM to all running nodes at once. Returns each one's failure, if it had one, as [`Cluster::stop`].
    pub fn stop_all(&mut self) -> Vec<LoadtestError> {
        let running: Vec<_> =
            self.nodes.iter().filter(|node| node.child.is_some()).map(|node| node.id).collect();
        let signalled: Vec<_> = running.iter().map(|&id| self.terminate(id)).collect();
        let ended = running.iter().map(|&id| self.await_end(id));
        signalled.into_iter().chain(ended).filter_map(Result::err).collect()
    }

    fn terminate(&mut self, id: i32) -> Result<(), LoadtestError> {
        self.resume(id)?;
        self.node_mut(id).signal(Signal::TERM)
    }

    fn await_end(&mut self, id: i32) -> Result<(), LoadtestError> {
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
        loop {
            let node = self.node_mut(id);
            match node.take_exit()? {
                Some(status) if status.success() => return node.await_free_port(),
                Some(status) => return Err(node.failed(&format!("its orderly end failed: {status}"))),
                None if Instant::now() > deadline => {
                    self.kill(&[id])?;
                    return Err(self
                        .node_mut(id)
                        .failed(&format!("SIGTERM does not end it within {STOP_SECONDS_MAX} s")));
                }
                None => thread::sleep(POLL_PAUSE),
            }
        }
    }

    /// SIGSTOP.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Process`].
    pub fn pause(&mut self, id: i32) -> Result<(), LoadtestError> {
        let node = self.node_mut(id);
        node.signal(Signal::STOP)?;
        node.is_paused = true;
        Ok(())
    }

    /// SIGCONT, where SIGSTOP went before.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Process`].
    pub fn resume(&mut self, id: i32) -> Result<(), LoadtestError> {
        let node = self.node_mut(id);
        if node.is_paused {
            node.signal(Signal::CONT)?;
            node.is_paused = false;
        }
        Ok(())
    }

    /// The process of a node that runs.
    pub fn process(&self, id: i32) -> Option<u32> {
        self.nodes[self.index(id)].child.as_ref().map(Child::id)
    }

    /// Ids of all nodes.
    pub fn ids(&self) -> Vec<i32> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// Ids of the nodes that should be running and are not. Each is reported once; it can be started again.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Process`].
    pub fn take_crashes(&mut self) -> Result<Vec<Crash>, LoadtestError> {
        let mut crashes = Vec::new();
        for node in &mut self.nodes {
            if let Some(status) = node.take_exit()? {
                crashes.push(Crash { node: node.id, why: format!("{status}: {}", last_line(&node.log)) });
            }
        }
        Ok(crashes)
    }

    fn index(&self, id: i32) -> usize {
        self.nodes.iter().position(|node| node.id == id).expect("ids come from this cluster")
    }

    fn node_mut(&mut self, id: i32) -> &mut Node {
        let index = self.index(id);
        &mut self.nodes[index]
    }

    fn command(&self, id: i32) -> Command {
        let node = &self.nodes[self.index(id)];
        let mut command = match &node.namespace {
            // `ip netns exec` becomes the program that it runs, so that the process id is the broker's.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.options.program);
                command
            }
            None => Command::new(&self.options.program),
        };
        if let Some((library, file)) = &node.clock {
            command.env("LD_PRELOAD", library).env(wall_clock::VARIABLE, file);
        }
        let address = node.address.to_string();
        command
            .args(["--bind-addr", &address, "--advertised-addr", &address])
            .args([
                "--kafka-port",
                &node.kafka_port.to_string(),
                "--metrics-port",
                &node.metrics_port.to_string(),
            ])
            .args(["--node-id", &id.to_string(), "--data-dir"])
            .arg(&node.data)
            .args(["--no-pin", "--shards", &self.options.shards.to_string()]);
        for setting in &self.options.settings {
            command.args(["--set", setting]);
        }
        if self.nodes.len() == 1 {
            command.arg("standalone");
            return command;
        }
        let others = self.nodes.iter().filter(|other| other.id != id);
        let peers: Vec<_> =
            others.map(|other| format!("{}@{}:{}", other.id, other.address, other.raft_port)).collect();
        command
            .args(["raft-cluster", "--raft-addr", &format!("{address}:{}", node.raft_port)])
            .args(["--peers", &peers.join(",")]);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.child.is_some()) {
            if let Err(error) = node.signal(Signal::KILL).and_then(|()| node.await_kill()) {
                eprintln!("{error}");
            }
        }
    }
}

impl Node {
    fn new(number: u8, folder: &Path, means: &Means, ports: &[u16]) -> Node {
        let id = i32::from(number);
        let network = means.network.as_ref();
        // In a folder of the file system: the root of one holds other things.
        let on_disk = means.disks.as_ref().map(|disks| disks.folder(id).join("data"));
        Node {
            id,
            address: network.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |network| network.address(number)),
            kafka_port: ports[0],
            raft_port: ports[1],
            metrics_port: ports[2],
            namespace: network.map(|network| network.namespace(number)),
            clock: means.clocks.as_ref().map(|clocks| (clocks.library(), clocks.file(id))),
            data: on_disk.unwrap_or_else(|| folder.join(format!("node-{number}"))),
            log: folder.join(format!("node-{number}.log")),
            child: None,
            is_paused: false,
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), LoadtestError> {
        let child = self.child.as_ref().expect("only running nodes are signalled");
        kill_process(Pid::from_child(child), signal).map_err(|error| LoadtestError::Process {
            what: format!("signalling node {}", self.id),
            source: error.into(),
        })
    }

    /// How its process ended, if it had one and it ended: then it has none any more.
    fn take_exit(&mut self) -> Result<Option<ExitStatus>, LoadtestError> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait().map_err(|source| LoadtestError::Process {
            what: format!("awaiting node {}", self.id),
            source,
        })?;
        if status.is_some() {
            cleanup::forget_process(child.id());
            self.child = None;
            self.is_paused = false;
        }
        Ok(status)
    }

    /// Waits for the end of a process that was killed.
    fn await_kill(&mut self) -> Result<(), LoadtestError> {
        let mut child = self.child.take().expect("only running nodes are killed");
        let ended = child.wait();
        cleanup::forget_process(child.id());
        self.is_paused = false;
        ended
            .map_err(|source| LoadtestError::Process { what: format!("killing node {}", self.id), source })?;
        self.await_free_port()
    }

    /// Whether /health answers 200 and the Kafka port answers Metadata.
    fn is_healthy(&self) -> bool {
        let kafka = SocketAddr::new(self.address, self.kafka_port);
        is_ok(SocketAddr::new(self.address, self.metrics_port))
            && Connection::open(kafka, ANSWER_TIMEOUT)
                .and_then(|mut connection| connection.metadata())
                .is_ok()
    }

    /// The kernel closes sockets that io_uring knows a little after the process is gone.
    fn await_free_port(&self) -> Result<(), LoadtestError> {
        let deadline = Instant::now() + Duration::from_secs(FREE_PORT_SECONDS_MAX);
        while !self.is_port_free()? {
            if Instant::now() > deadline {
                return Err(self.failed("its port stays in use after its end"));
            }
            thread::sleep(POLL_PAUSE);
        }
        Ok(())
    }

    fn is_port_free(&self) -> Result<bool, LoadtestError> {
        match &self.namespace {
            Some(namespace) => Ok(!network::is_listening(namespace, self.kafka_port)?),
            None => Ok(TcpListener::bind((self.address, self.kafka_port)).is_ok()),
        }
    }

    fn failed(&self, why: &str) -> LoadtestError {
        LoadtestError::Node { node: self.id, why: format!("{why}; its log ends: {}", last_line(&self.log)) }
    }
}

/// GET /health.
fn is_ok(address: SocketAddr) -> bool {
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.ends_with(b" 200"))
}

/// Ports below those that connections take, so that they are still free when a killed broker comes back.
fn free_ports(count: usize) -> Result<Vec<u16>, LoadtestError> {
    const LOWEST: u16 = 10_000;
    const HIGHEST: u16 = 32_000;
    const ATTEMPTS_MAX: u32 = 10_000;
    // Listeners are kept until all are found, so that no port is found twice.
    let mut found: Vec<(u16, TcpListener)> = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        if found.len() == count {
            return Ok(found.iter().map(|&(port, _)| port).collect());
        }
        let port = fastrand::u16(LOWEST..HIGHEST);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            found.push((port, listener));
        }
    }
    Err(LoadtestError::Process {
        what: "looking for free ports".to_owned(),
        source: io::ErrorKind::AddrInUse.into(),
    })
}

/// The last line of a log that is not empty.
fn last_line(path: &Path) -> String {
    let mut text = Vec::new();
    if let Err(error) = File::open(path).and_then(|mut file| file.read_to_end(&mut text)) {
        return format!("(its log cannot be read: {error})");
    }
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("(no output)").to_owned()
}
