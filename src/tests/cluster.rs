//! Three brokers, each a process of its own: what `cluster` says of them, and a disk that comes back empty.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use serde_json::Value;
use support::nodes::{Nodes, PATIENCE};

/// What the log of node 3 says when a node does not recognise it.
fn refusal_of(cluster: &Nodes, node: usize) -> String {
    let address = cluster.raft_address(node);
    format!("cannot reach node {node} at {address}: it refuses: node 3 comes with another data directory")
}

#[test]
fn the_cluster_is_shown_as_it_is() {
    let mut cluster = Nodes::three("shown", 1);
    let create = ["topic", "create", "t", "--partitions", "3", "--replication-factor", "3"];
    cluster.node(1).ask(&create, "");
    cluster.node(1).ask(&["produce", "t", "--partition", "1"], "a\nb\n");
    cluster.await_healthy();
    let (code, nodes) = cluster.json("nodes");
    assert_eq!((code, nodes["nodes"].as_array().map(Vec::len)), (Some(0), Some(3)), "{nodes}");
    for node in nodes["nodes"].as_array().expect("nodes") {
        assert!(node["alive"] == true && node["replicas"] == 3 && node["bytes"].is_u64(), "{node}");
    }
    let (_, partitions) = cluster.json("partitions");
    let ends: Vec<_> = (0..3).map(|index| partitions["partitions"][index]["end_offset"].as_i64()).collect();
    assert_eq!(ends, [Some(0), Some(2), Some(0)], "{partitions}");
    let isr = cluster.node(1).ask(&["cluster", "isr"], "");
    assert_eq!(isr, "all replicas of 3 partitions are in sync\n");
    let health = cluster.node(1).ask(&["cluster", "health"], "");
    assert!(health.lines().all(|line| line.starts_with("ok ")), "{health}");

    cluster.kill(3);
    let status = ["cluster", "status", "-o", "json"];
    // Leaders move first.
    let shrunk = cluster.ask_until(&status, |outcome| {
        let status: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
        status["under_replicated"] == 3 && status["leaderless"] == 0
    });
    assert_eq!(shrunk.code, Some(3));
    assert_eq!(
        shrunk.stderr,
        "chronik-server: the cluster is not healthy: 1 nodes not alive, 3 partitions under-replicated\n"
    );
    let (_, isr) = cluster.json("isr");
    let missing = &isr["under_replicated"][0]["missing"];
    assert!(missing[0]["node"] == 3 && missing[0]["reason"] == "not alive", "{isr}");
    let (_, nodes) = cluster.json("nodes");
    let third = &nodes["nodes"][2];
    assert!(third["alive"] == false && third["leaders"] == 0, "{nodes}");
    assert_eq!(third["bytes"]["unknown"], "node 3 is not alive");
    let (code, health) = cluster.json("health");
    assert!(code == Some(3) && health["healthy"] == false, "{health}");

    cluster.start(3, cluster.founder(3));
    cluster.await_healthy();
}

/// A node that nobody lets in. Killed when dropped.
struct Blank {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Blank {
    /// Starts a node that is not to become ready, with its log at hand.
    fn start(mut command: Command) -> Blank {
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Blank { child, lines }
    }

    /// Waits until each of these texts stood in a line of its log. Until then nobody has let it in.
    fn await_lines(&self, texts: &[String]) {
        let mut missing = texts.to_vec();
        while !missing.is_empty() {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("{error} before {missing:?}"));
            assert!(!line.contains("reached node"), "{line}");
            missing.retain(|text| !line.contains(text));
        }
    }
}

impl Drop for Blank {
    fn drop(&mut self) {
        self.child.kill().expect("it runs until then");
        self.child.wait().expect("it ends");
    }
}

fn directory_id(data_dir: &Path) -> String {
    let meta = std::fs::read_to_string(data_dir.join("meta.properties")).expect("it has been started");
    let id = meta.lines().find_map(|line| line.strip_prefix("directory.id="));
    id.expect("a directory has an id").to_owned()
}

#[test]
fn a_node_whose_disk_was_emptied_is_refused_until_it_has_its_data_again() {
    let mut cluster = Nodes::three("emptied", 2);
    let create = ["topic", "create", "t", "--partitions", "1", "--replication-factor", "3"];
    cluster.node(1).ask(&create, "");
    cluster.produce(0..200);
    cluster.await_healthy();

    cluster.kill(3);
    let (own, kept) = (cluster.data_dir(3), cluster.folder.join("kept"));
    let registered = directory_id(&own);
    std::fs::rename(&own, &kept).expect("moved away");
    cluster.produce(200..300);
    let blank = Blank::start(cluster.founder(3));
    blank.await_lines(&[refusal_of(&cluster, 1), refusal_of(&cluster, 2)]);
    let found = directory_id(&own);
    assert_ne!(found, registered);

    // The others go on without it.
    cluster.produce(300..400);
    let consume = ["consume", "t", "--from-beginning", "--max-messages", "400"];
    let expected: String = (0..400).map(|number| format!("{number}\n")).collect();
    assert_eq!(cluster.node(1).ask(&consume, ""), expected);
    let (code, status) = cluster.json("status");
    assert_eq!((code, &status["nodes_alive"]), (Some(3), &Value::from(2)), "{status}");

    drop(blank);
    std::fs::remove_dir_all(&own).expect("removed");
    std::fs::rename(&kept, &own).expect("put back");
    cluster.start(3, cluster.founder(3));
    assert_eq!(directory_id(&own), registered);
    cluster.await_healthy();
    assert_eq!(cluster.node(1).ask(&consume, ""), expected);
}

#[test]
fn an_emptied_node_is_no_majority_with_one_that_restarts() {
    let mut cluster = Nodes::three("restarted", 3);
    let create = ["topic", "create", "t", "--partitions", "1", "--replication-factor", "3"];
    cluster.node(1).ask(&create, "");
    // Node 1 may lack what these two have acknowledged.
    cluster.produce(0..200);
    (1..=3).for_each(|node| cluster.kill(node));
    std::fs::remove_dir_all(cluster.data_dir(3)).expect("emptied");
    let one = cluster.start_aside(&mut cluster.founder(1));
    let blank = Blank::start(cluster.founder(3));
    blank.await_lines(&[refusal_of(&cluster, 1)]);
    // Both have kept their data: they are the cluster.
    let two = cluster.start_aside(&mut cluster.founder(2));
    for (node, broker) in [(1, one), (2, two)] {
        cluster.put(node, broker.join().expect("it is ready"));
    }
    let expected: String = (0..200).map(|number| format!("{number}\n")).collect();
    let consume = ["consume", "t", "--from-beginning", "--max-messages", "200"];
    assert_eq!(cluster.node(1).ask(&consume, ""), expected);
    blank.await_lines(&[refusal_of(&cluster, 2)]);
}
