//! Brokers of one cluster, each a process of its own on addresses of its own, and what tests do with them.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use protocol::batch::{batches, records};
use protocol::messages::fetch_request::{FetchPartition, FetchRequestData, FetchTopic};
use protocol::messages::kafka_string;
use protocol::{ApiKey, Request, RequestHeader, client};
use serde_json::Value;

use super::{Broker, Folder, Outcome, command, folder};

/// Longer than anything in these tests takes, so that a failure ends instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A version of Fetch in which followers answer, and topics go by their names.
const FETCH_VERSION: i16 = 11;

/// The most that a batch in these tests holds once it is unpacked.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A loopback address of one test and node alone: a port there that was free stays so until it is used.
fn host(test: u8, node: usize) -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let node = u8::try_from(node).expect("a test has few nodes");
    assert!(test < 15 && node < 16, "tests and nodes share the second byte");
    Ipv4Addr::new(127, 16 * test + node, high, low)
}

/// Brokers and where each listens for the others.
pub struct Nodes {
    pub folder: Folder,
    number: u8,
    raft_addresses: BTreeMap<usize, SocketAddr>,
    brokers: BTreeMap<usize, Broker>,
}

impl Nodes {
    /// No broker yet. The tests of one file have different numbers.
    pub fn none(name: &str, number: u8) -> Nodes {
        Nodes { folder: folder(name), number, raft_addresses: BTreeMap::new(), brokers: BTreeMap::new() }
    }

    /// A new cluster of three.
    pub fn three(name: &str, number: u8) -> Nodes {
        let mut nodes = Nodes::none(name, number);
        for node in 1..=3 {
            nodes.choose_raft_address(node);
        }
        // None is ready before a majority runs.
        let starting = [1, 2, 3].map(|node| (node, nodes.start_aside(&mut nodes.founder(node))));
        for (node, broker) in starting {
            nodes.brokers.insert(node, broker.join().expect("it is ready"));
        }
        nodes
    }

    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{node}"))
    }

    /// Chooses where a node listens for others, unless that was done.
    pub fn choose_raft_address(&mut self, node: usize) -> String {
        let number = self.number;
        let choose = || {
            let listener = TcpListener::bind((host(number, node), 0)).expect("a free port");
            listener.local_addr().expect("bound")
        };
        self.raft_addresses.entry(node).or_insert_with(choose).to_string()
    }

    pub fn raft_address(&self, node: usize) -> String {
        self.raft_addresses[&node].to_string()
    }

    /// Other nodes as `--peers` names them.
    fn peers_of(&self, node: usize) -> String {
        let others = self.raft_addresses.iter().filter(|(other, _)| **other != node);
        others.map(|(other, address)| format!("{other}@{address}")).collect::<Vec<_>>().join(",")
    }

    /// How a node is started, without what makes it one of a cluster.
    pub fn command(&self, node: usize, mode: &str) -> Command {
        let mut command = command(&[mode, "--no-pin", "--node-id", &node.to_string()]);
        command
            .args(["--bind-addr", &host(self.number, node).to_string(), "--kafka-port", "0"])
            .args(["--metrics-port", "0", "--data-dir"])
            .arg(self.data_dir(node))
            .stdin(Stdio::null());
        command
    }

    /// How one of the nodes that begin a cluster is started.
    pub fn founder(&self, node: usize) -> Command {
        let mut command = self.clustered(node);
        command.args(["--bootstrap", "--peers", &self.peers_of(node)]);
        command
    }

    /// How a node that was added is started.
    pub fn joiner(&self, node: usize) -> Command {
        let mut command = self.clustered(node);
        command.args(["--join", "--peers", &self.peers_of(node)]);
        command
    }

    /// How a node is started that knows the others already, or was alone before.
    pub fn clustered(&self, node: usize) -> Command {
        let mut command = self.command(node, "raft-cluster");
        command.args(["--raft-addr", &self.raft_address(node)]);
        command
    }

    /// Starts a node; the thread ends when it is ready.
    pub fn start_aside(&self, command: &mut Command) -> JoinHandle<Broker> {
        let mut owned = std::mem::replace(command, Command::new(""));
        thread::spawn(move || Broker::start_command(&mut owned))
    }

    /// Starts a node and waits until it is ready.
    pub fn start(&mut self, node: usize, mut command: Command) {
        self.brokers.insert(node, Broker::start_command(&mut command));
    }

    pub fn put(&mut self, node: usize, broker: Broker) {
        self.brokers.insert(node, broker);
    }

    pub fn kill(&mut self, node: usize) {
        self.stop(node, "KILL");
    }

    pub fn stop(&mut self, node: usize, signal: &str) {
        self.brokers.remove(&node).expect("it runs").signal(signal);
    }

    /// A broker that runs.
    pub fn node(&self, node: usize) -> &Broker {
        self.brokers.get(&node).expect("it runs")
    }

    /// The first broker that runs.
    pub fn any(&self) -> &Broker {
        self.brokers.values().next().expect("one runs")
    }

    /// Asks a broker until the outcome is as wanted.
    pub fn ask_until(&self, arguments: &[&str], is_wanted: impl Fn(&Outcome) -> bool) -> Outcome {
        let started = Instant::now();
        loop {
            let outcome = self.any().client(arguments, "");
            if is_wanted(&outcome) {
                return outcome;
            }
            assert!(started.elapsed() < PATIENCE, "{arguments:?}: {outcome:?}");
        }
    }

    pub fn await_healthy(&self) {
        self.ask_until(&["cluster", "status"], |outcome| outcome.code == Some(0));
    }

    /// A view of the cluster.
    pub fn json(&self, view: &str) -> (Option<i32>, Value) {
        let outcome = self.any().client(&["cluster", view, "--output", "json"], "");
        (outcome.code, serde_json::from_str(&outcome.stdout).expect("JSON"))
    }

    /// Produces these numbers to the topic `t`.
    pub fn produce(&self, numbers: std::ops::Range<u32>) {
        let lines: String = numbers.map(|number| format!("{number}\n")).collect();
        self.any().ask(&["produce", "t"], &lines);
    }

    /// Produces numbers from 0 on to partition 0 of a topic, until it is told to end.
    pub fn feed(&self, topic: &str) -> Feed {
        let all: Vec<&str> = self.brokers.values().map(|broker| broker.address.as_str()).collect();
        let arguments = ["produce", topic, "--partition", "0", "--bootstrap-server", &all.join(",")];
        let mut producer = command(&arguments)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let ends = Arc::new(AtomicBool::new(false));
        let is_ending = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut lines = producer.stdin.take().expect("piped");
            let mut number = 0;
            while !is_ending.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    writeln!(lines, "{number}").expect("the producer goes on");
                    number += 1;
                }
                // A pace that leaves the machine to the brokers.
                thread::sleep(Duration::from_millis(5));
            }
            drop(lines);
            let output = producer.wait_with_output().expect("it ends");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            number
        });
        Feed { ends, thread }
    }

    /// Asserts that a node's replica of partition 0 of a topic holds exactly the numbers below `count`, in order.
    pub fn check_replica(&self, node: usize, topic: &str, count: u32) {
        let found = read_replica(&self.node(node).address, topic, count as usize);
        let wrong = (0..count).zip(&found).find(|(number, value)| **value != number.to_string());
        assert_eq!((wrong, found.len()), (None, count as usize), "on node {node}");
    }
}

/// A producer that goes on.
pub struct Feed {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Feed {
    /// How many numbers were acknowledged: all that were sent.
    pub fn end(self) -> u32 {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().expect("everything was acknowledged")
    }
}

/// The values of partition 0 of a topic, as the broker at an address has them itself, once there are so many.
fn read_replica(address: &str, topic: &str, count: usize) -> Vec<String> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let started = Instant::now();
    let mut values = Vec::new();
    let mut offset = 0;
    while values.len() < count {
        assert!(started.elapsed() < PATIENCE, "{address} has {} of {count} records of {topic}", values.len());
        let partition = FetchPartition {
            fetch_offset: offset,
            partition_max_bytes: 8 << 20,
            ..FetchPartition::default()
        };
        let request = FetchRequestData {
            max_wait_ms: 200,
            min_bytes: 1,
            topics: vec![FetchTopic {
                topic: kafka_string(topic),
                partitions: vec![partition],
                ..FetchTopic::default()
            }],
            session_epoch: -1,
            ..FetchRequestData::default()
        };
        let response = fetch(&mut stream, request);
        let mut response = client::decode_fetch_response(FETCH_VERSION, response).expect("a response").1;
        let partition = response.responses.remove(0).partitions.remove(0);
        // It may not know yet who leads, or hold the partition.
        let bytes = partition.records.unwrap_or_default();
        // The last batch may be cut off.
        for (header, place) in batches(&bytes).map_while(Result::ok) {
            let batch = bytes.slice(place);
            for record in records(&header, &batch, BATCH_BYTES_MAX).expect("a readable batch") {
                let record = record.expect("a readable record");
                if record.offset.0 >= offset {
                    let value = record.value.expect("a value").to_vec();
                    values.push(String::from_utf8(value).expect("text"));
                    offset = record.offset.0 + 1;
                }
            }
        }
    }
    values
}

fn fetch(stream: &mut TcpStream, request: FetchRequestData) -> Bytes {
    let header = RequestHeader {
        api_key: ApiKey::Fetch.wire(),
        api_version: FETCH_VERSION,
        correlation_id: 1,
        client_id: None,
    };
    let frame = client::encode_request(&header, &Request::Fetch(request)).expect("a request");
    stream.write_all(&frame).expect("sent");
    let mut length = [0; 4];
    std::io::Read::read_exact(stream, &mut length).expect("answered");
    let mut response = vec![0; (&length[..]).get_u32() as usize];
    std::io::Read::read_exact(stream, &mut response).expect("answered");
    Bytes::from(response)
}
