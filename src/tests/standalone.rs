//! A broker of the binary, alone or in a cluster, its refusals, and the client commands against it.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Broker, Outcome, finish, folder};

fn refused(data_dir: &Path, arguments: &[&str]) -> Outcome {
    finish(&mut Broker::command(data_dir, arguments), "")
}

/// The last line: log lines may stand before it.
fn check(outcome: Outcome, code: i32, parts: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "", "it never was ready");
    let last = outcome.stderr.lines().last().unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "{part:?} in {last:?}");
    }
}

#[test]
fn taken_ports_are_named_with_their_options() {
    let folder = folder("ports");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let port = taken.local_addr().expect("bound").port().to_string();
    let mut kafka =
        support::command(&["--bind-addr", "127.0.0.1", "--kafka-port", &port, "--metrics-port", "0"]);
    check(finish(kafka.arg("--data-dir").arg(&*folder), ""), 64, &[&address, "in use", "--kafka-port"]);
    let mut metrics =
        support::command(&["--bind-addr", "127.0.0.1", "--kafka-port", "0", "--metrics-port", &port]);
    check(finish(metrics.arg("--data-dir").arg(&*folder), ""), 64, &[&address, "in use", "--metrics-port"]);
}

#[test]
fn a_data_directory_has_one_process_and_one_node() {
    let data = folder("owner");
    let elsewhere = folder("owner-2");
    let broker = Broker::start(&data, &["--node-id", "7"]);
    check(refused(&data, &["--node-id", "7"]), 66, &["in use by process", "another data directory"]);
    let another = support::command(&["--bind-addr", "127.0.0.1", "--kafka-port"])
        .arg(broker.address.rsplit(':').next().expect("a port"))
        .args(["--metrics-port", "0", "--data-dir"])
        .arg(&*elsewhere)
        .output()
        .expect("it runs");
    assert_eq!(another.status.code(), Some(64), "two brokers must not share a port");
    assert_eq!(broker.signal("TERM").code(), Some(0));
    check(refused(&data, &["--node-id", "8"]), 67, &["belongs to node 7, not 8"]);
}

#[test]
fn too_little_locked_memory_is_named() {
    let data = folder("memlock");
    let broker = Broker::command(&data, &[]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -l 64 && exec \"$0\" \"$@\""])
        .arg(broker.get_program())
        .args(broker.get_args());
    check(finish(&mut limited, ""), 70, &["64 KiB", "ulimit -l"]);
}

#[test]
fn a_file_in_place_of_the_data_directory_is_named() {
    let folder = folder("not-a-folder");
    let file = folder.join("data");
    std::fs::write(&file, "x").expect("written");
    check(refused(&file, &[]), 68, &["not-a-folder"]);
}

#[test]
fn a_damaged_wal_is_refused_and_left_alone() {
    let data = folder("damaged");
    let broker = Broker::start(&data, &[]);
    broker.ask(&["produce", "t"], "one\n");
    broker.ask(&["produce", "t"], "two\n");
    broker.signal("KILL");
    let file = data.join("wal/shard-0/0000000000000001.wal");
    let mut content = std::fs::read(&file).expect("the first WAL file");
    // Within the first flush, which valid ones follow.
    content[64] ^= 0xff;
    std::fs::write(&file, &content).expect("written");
    check(refused(&data, &[]), 72, &["WAL of shard 0", "0000000000000001.wal"]);
    assert_eq!(std::fs::read(&file).expect("still there"), content);
}

#[test]
fn it_says_how_to_use_it_and_how_it_is() {
    let data = folder("observe");
    let broker = Broker::start(&data, &["--shards", "2", "--advertised-addr", "localhost"]);
    assert!(
        broker.ready.contains(&format!("produce --bootstrap-server {} demo", broker.address)),
        "{}",
        broker.ready
    );
    assert!(broker.ready.contains("2 shards (not pinned)"), "{}", broker.ready);
    assert!(broker.address.starts_with("localhost:"), "{}", broker.address);
    let health = broker.get("/health");
    assert!(health.starts_with("HTTP/1.1 200 ") && health.contains("\"shards_serving\":2"), "{health}");
    broker.ask(&["produce", "t"], "x\n");
    let metrics = broker.get("/metrics");
    assert!(
        metrics.contains("chronik_wal_flush_duration_seconds_bucket{shard=\"0\",le=\"0.0001\"}"),
        "{metrics}"
    );
    assert_eq!(broker.signal("INT").code(), Some(0));
}

#[test]
fn records_go_in_and_come_out() {
    let data = folder("records");
    let broker = Broker::start(&data, &[]);
    broker.ask(&["produce", "made-by-use"], "first\nsecond\n");
    let consume = ["consume", "made-by-use", "--from-beginning", "--max-messages", "2"];
    assert_eq!(broker.ask(&consume, ""), "first\nsecond\n");

    let create = ["topic", "create", "keyed", "--partitions", "3", "--topic-config", "retention.ms=3600000"];
    assert_eq!(broker.ask(&create, ""), "created topic keyed with 3 partitions and replication factor 1\n");
    let again = broker.client(&create, "");
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("TopicAlreadyExists"), "{}", again.stderr);
    let again: Vec<&str> = create.into_iter().chain(["--if-not-exists"]).collect();
    broker.ask(&again, "");

    let lines: String = (0..300).map(|number| format!("k{number}=v{number}\n")).collect();
    broker.ask(&["produce", "keyed", "--key-separator", "="], &lines);
    let all = ["consume", "keyed", "--from-beginning", "--max-messages", "300", "--key-separator", "="];
    let consumed = broker.ask(&all, "");
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&consumed), sorted(&lines));

    for acks in ["0", "1", "all"] {
        let produce = ["produce", "keyed", "--partition", "2", "--acks", acks];
        broker.ask(&produce, acks);
    }
    let described = broker.ask(&["topic", "describe", "keyed"], "");
    assert!(
        described.contains("\n  retention.ms=3600000\n") && described.lines().count() == 6,
        "{described}"
    );

    assert_eq!(broker.ask(&["topic", "list"], ""), "keyed\nmade-by-use\n");
    assert_eq!(broker.ask(&["topic", "delete", "keyed"], ""), "deleted topic keyed\n");
    assert_eq!(broker.ask(&["topic", "list"], ""), "made-by-use\n");
    let gone = broker.client(&["consume", "keyed"], "");
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains("there is no topic keyed"), "{}", gone.stderr);

    assert_eq!(broker.signal("TERM").code(), Some(0));
    let dumped = finish(support::command(&["dump-log"]).arg(&*data), "");
    assert_eq!(dumped.code, Some(0), "{}", dumped.stderr);
    assert!(dumped.stdout.contains("0000000000000001.wal\nflush 1 at 0 "), "{}", dumped.stdout);
}

#[test]
fn produce_and_consume_go_on_when_their_broker_is_back() {
    let data = folder("back");
    // An address of this test alone: its port stays free while nobody listens.
    let [.., high, low] = std::process::id().to_be_bytes();
    let probe = TcpListener::bind((Ipv4Addr::new(127, 250, high, low), 0)).expect("a free port");
    let address = probe.local_addr().expect("bound");
    drop(probe);
    let start = || {
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let mut broker =
            support::command(&["--bind-addr", &host, "--kafka-port", &port, "--metrics-port", "0"]);
        Broker::start_command(broker.arg("--no-pin").arg("--data-dir").arg(&*data))
    };
    let client = |arguments: &[&str]| {
        let mut client = support::command(arguments);
        client.args(["--bootstrap-server", &address.to_string()]);
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        client.spawn().expect("the binary runs")
    };
    let broker = start();
    broker.ask(&["topic", "create", "t"], "");
    let mut consumer = client(&["consume", "t", "--from-beginning", "--max-messages", "2"]);
    let mut consumed = BufReader::new(consumer.stdout.take().expect("piped")).lines();
    let mut consumed = || consumed.next().expect("it goes on").expect("text");
    let mut producer = client(&["produce", "t"]);
    let mut lines = producer.stdin.take().expect("piped");
    writeln!(lines, "before").expect("it goes on");
    assert_eq!(consumed(), "before");

    broker.signal("KILL");
    writeln!(lines, "after").expect("it goes on");
    // The kernel closes what io_uring knows a little after the process is gone.
    while TcpListener::bind(address).is_err() {}
    let _broker = start();
    assert_eq!(consumed(), "after");
    drop(lines);
    for mut client in [consumer, producer] {
        assert!(client.wait().expect("it ends").success());
    }
}

#[test]
fn a_topic_that_is_made_anew_with_fewer_partitions_ends_produce() {
    let data = folder("fewer");
    let broker = Broker::start(&data, &[]);
    broker.ask(&["topic", "create", "t", "--partitions", "3"], "");
    let mut producer = support::command(&["produce", "t", "--partition", "2"])
        .args(["--bootstrap-server", &broker.address])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = producer.stdin.take().expect("piped");
    writeln!(lines, "one").expect("it goes on");
    broker.ask(&["consume", "t", "--from-beginning", "--max-messages", "1"], "");
    broker.ask(&["topic", "delete", "t"], "");
    broker.ask(&["topic", "create", "t", "--partitions", "1"], "");
    writeln!(lines, "two").expect("it goes on");
    let ended = producer.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "chronik-server: topic t has no partition 2\n");
}

#[test]
fn groups_share_and_remember() {
    let data = folder("groups");
    let broker = Broker::start(&data, &["--shards", "2", "--set", "num.partitions=4"]);
    let lines: String = (0..100).map(|number| format!("{number}\n")).collect();
    broker.ask(&["produce", "t"], &lines);
    let consume = |broker: &Broker, count: &str| {
        broker.ask(&["consume", "t", "--from-beginning", "--group", "g", "--max-messages", count], "")
    };
    let mut seen = consume(&broker, "60");
    // A restart with another number of shards keeps records and offsets.
    broker.signal("KILL");
    let broker = Broker::start(&data, &["--shards", "3"]);
    seen += &consume(&broker, "40");
    let mut numbers: Vec<u32> = seen.lines().map(|line| line.parse().expect("a number")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());

    std::thread::scope(|scope| {
        let members: Vec<_> = (0..2).map(|_| scope.spawn(|| consume(&broker, "50"))).collect();
        broker.ask(&["produce", "t"], &lines);
        broker.ask(&["produce", "t"], &lines);
        let counts = members.into_iter().map(|member| member.join().expect("it ended").lines().count());
        assert_eq!(counts.sum::<usize>(), 100);
    });
}

/// The command line of a node whose peer is never there.
fn lonely(data_dir: &Path, peer: &str) -> Command {
    Broker::command(
        data_dir,
        &["--node-id", "1", "raft-cluster", "--raft-addr", "127.0.0.1:0", "--peers", peer],
    )
}

#[test]
fn a_node_remembers_the_cluster_that_it_was_begun_with() {
    let data = folder("voters");
    let nowhere = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let mut node = lonely(&data, &format!("2@{nowhere},3@{nowhere}"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut log = BufReader::new(node.stderr.take().expect("piped"));
    let mut lines = String::new();
    while !lines.contains("looking for the other nodes") {
        assert_ne!(log.read_line(&mut lines).expect("text"), 0, "it ended early: {lines}");
    }
    let meta = std::fs::read_to_string(data.join("meta.properties")).expect("written");
    assert!(meta.contains("\nmetadata.voters=1,2,3\n"), "{meta}");
    let terminated = Command::new("kill").args(["-TERM", &node.id().to_string()]).status();
    assert!(terminated.expect("it runs").success());
    assert_eq!(node.wait().expect("it ends").code(), Some(0));
    check(refused(&data, &["--node-id", "1"]), 2, &["of a cluster of nodes 1,2,3", "raft-cluster"]);
}

#[test]
fn a_taken_port_for_nodes_is_named_with_its_option() {
    let data = folder("raft-port");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let arguments = ["raft-cluster", "--raft-addr", &address, "--peers", "2@127.0.0.1:1,3@127.0.0.1:1"];
    check(refused(&data, &arguments), 64, &[&address, "in use", "--raft-addr"]);
}
