//! What the binary says to its command line, environment and file, where no broker runs.

mod support;

use expect_test::{Expect, expect};
use support::{Outcome, command, finish, folder, run};

fn check_refused(outcome: Outcome, code: i32, expected: Expect) {
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches('\n').count(), 1, "one line: {}", outcome.stderr);
    expected.assert_eq(outcome.stderr.trim_end());
}

#[test]
fn versions() {
    let expected = format!("chronik-server {}\n", env!("CARGO_PKG_VERSION"));
    for argument in ["version", "--version"] {
        assert_eq!(
            run(&[argument]),
            Outcome { code: Some(0), stdout: expected.clone(), stderr: String::new() }
        );
    }
}

/// A pipe whose reader has gone, as that of `head` may have.
fn closed_pipe() -> std::process::Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[test]
fn output_that_nobody_reads_is_an_end() {
    let printed = command(&["version"]).stdout(closed_pipe()).status().expect("it runs");
    assert_eq!(printed.code(), Some(0));
    let told = command(&["--kafka-prt", "1"]).stderr(closed_pipe()).status().expect("it runs");
    assert_eq!(told.code(), Some(2));
}

#[test]
fn help_lists_options_variables_and_exit_codes() {
    let help = run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for part in ["--kafka-port <PORT>", "[env: CHRONIK_NO_PIN=]", "   64  a port is in use", "  dump-log "] {
        assert!(help.stdout.contains(part), "{part}: {}", help.stdout);
    }
    assert_eq!(run(&["topic"]).code, Some(2));
}

#[test]
fn mistakes_on_the_command_line() {
    check_refused(
        run(&["--kafka-prt", "1"]),
        2,
        expect![
            "chronik-server: unexpected argument '--kafka-prt' found; tip: a similar argument exists: '--kafka-port'; see chronik-server --help"
        ],
    );
    check_refused(
        run(&["--kafka-port", "x"]),
        2,
        expect![
            "chronik-server: invalid value 'x' for '--kafka-port <PORT>': invalid digit found in string; see chronik-server --help"
        ],
    );
    check_refused(
        run(&["topic", "create"]),
        2,
        expect![
            "chronik-server: the following required arguments were not provided: <NAME>; see chronik-server --help"
        ],
    );
    check_refused(
        run(&["serve"]),
        2,
        expect!["chronik-server: unrecognized subcommand 'serve'; see chronik-server --help"],
    );
    check_refused(run(&["--shards", "0"]), 2, expect!["chronik-server: --shards must be 1 to 256"]);
    check_refused(
        run(&["--busy-poll-us", "1000001"]),
        2,
        expect!["chronik-server: --busy-poll-us must be 0 to 1000000"],
    );
    check_refused(
        run(&["--no-pin", "--busy-poll-us", "50"]),
        2,
        expect![
            "chronik-server: --busy-poll-us needs shards that are pinned to cores, but --no-pin is given"
        ],
    );
    check_refused(
        run(&["--cpus", "5-2"]),
        2,
        expect![[r#"chronik-server: --cpus "5-2" is not a list of cores such as 2-15 or 0,2,4-7"#]],
    );
    check_refused(
        run(&["--log-level", "loud"]),
        2,
        expect![[r#"chronik-server: --log-level "loud" is not a level such as info or info,reactor=debug"#]],
    );
    check_refused(
        run(&["--kafka-port", "65000"]),
        2,
        expect!["chronik-server: the Kafka port 65000 + 1000 is no port: choose one with --metrics-port"],
    );
    check_refused(
        run(&["--set", "num.partitions=none"]),
        2,
        expect![[r#"chronik-server: configuration num.partitions: "none" is not a 32-bit integer"#]],
    );
    check_refused(
        run(&["--set", "compression"]),
        2,
        expect![[r#"chronik-server: --set "compression" is not NAME=VALUE"#]],
    );
    check_refused(
        run(&["consume", "t", "--group", "g", "--partition", "1"]),
        2,
        expect![
            "chronik-server: the argument '--group <GROUP>' cannot be used with '--partition <PARTITION>'; see chronik-server --help"
        ],
    );
    check_refused(
        run(&["--bind-addr", "192.0.2.1"]),
        65,
        expect![
            "chronik-server: cannot listen on 192.0.2.1:9092: Cannot assign requested address (os error 99); choose an address of this machine with --bind-addr"
        ],
    );
}

#[test]
fn peers_that_make_no_cluster_are_refused() {
    check_refused(
        run(&["--node-id", "2", "raft-cluster"]),
        2,
        expect![
            "chronik-server: raft-cluster without --peers would be a single node: use `chronik-server standalone`, or name the others with --peers"
        ],
    );
    check_refused(
        run(&["raft-cluster", "--node-id", "2", "--peers", "2@b:9192,3@c:9192"]),
        2,
        expect!["chronik-server: --peers names node 2, which is this one (--node-id): name the others only"],
    );
    check_refused(
        run(&["raft-cluster", "--peers", "2@b:9192,3@c:9192,2@d:9192"]),
        2,
        expect!["chronik-server: --peers names node 2 twice"],
    );
    check_refused(
        run(&["raft-cluster", "--peers", "b:9192"]),
        2,
        expect![[r#"chronik-server: peer "b:9192" is not ID@HOST:PORT"#]],
    );
    check_refused(
        run(&["raft-cluster", "--peers", "2@b:9192", "--raft-addr", "9192"]),
        2,
        expect![[r#"chronik-server: --raft-addr "9192" is not HOST:PORT"#]],
    );
    check_refused(
        run(&["local", "--nodes", "1"]),
        2,
        expect![
            "chronik-server: invalid value '1' for '--nodes <NODES>': 1 is not in 2..=9; see chronik-server --help"
        ],
    );
    check_refused(
        run(&["local", "--bootstrap"]),
        2,
        expect!["chronik-server: local arranges its brokers itself and takes no --bootstrap"],
    );
    check_refused(
        finish(command(&["local"]).env("CHRONIK_KAFKA_PORT", "9092"), ""),
        2,
        expect!["chronik-server: local arranges its brokers itself and takes no --kafka-port"],
    );
}

#[test]
fn standalone_takes_no_peers() {
    let refusal = || {
        expect![
            "chronik-server: standalone is a single broker and takes no --peers: use `chronik-server raft-cluster` for several"
        ]
    };
    check_refused(run(&["--peers", "2@b:9192"]), 2, refusal());
    check_refused(run(&["standalone", "--peers", "2@b:9192"]), 2, refusal());
    check_refused(finish(command(&["standalone"]).env("CHRONIK_PEERS", "2@b:9192"), ""), 2, refusal());
    let folder_of_file = folder("peers");
    let file = folder_of_file.join("chronik.toml");
    std::fs::write(&file, "peers = ['2@b:9192']").expect("written");
    check_refused(finish(command(&["standalone", "--config"]).arg(&file), ""), 2, refusal());
}

/// The port shows in the error of a client that finds nobody there.
#[test]
fn the_command_line_beats_the_environment_beats_the_file() {
    let folder_of_file = folder("precedence");
    let file = folder_of_file.join("chronik.toml");
    std::fs::write(&file, "kafka-port = 3").expect("written");
    let port = |argument: Option<&str>, variable: Option<&str>, with_file: bool| {
        let mut command = command(&["topic", "list"]);
        command.args(argument.into_iter().flat_map(|port| ["--kafka-port", port]));
        command.envs(variable.map(|port| ("CHRONIK_KAFKA_PORT", port)));
        command.envs(with_file.then_some(("CHRONIK_CONFIG", &file)));
        let outcome = finish(&mut command, "");
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let (_, rest) = outcome.stderr.split_once("localhost:").expect("it names the address");
        rest.split(':').next().expect("a port").to_owned()
    };
    assert_eq!(port(Some("1"), Some("2"), true), "1");
    assert_eq!(port(None, Some("2"), true), "2");
    assert_eq!(port(None, None, true), "3");
    assert_eq!(port(Some("1"), None, false), "1");
    assert_eq!(port(Some("1"), Some("2"), false), "1");

    // Before the command and behind it are the same.
    let outcome = finish(command(&["--kafka-port", "1", "topic", "list"]).env("CHRONIK_KAFKA_PORT", "2"), "");
    assert!(outcome.stderr.contains("localhost:1:"), "{outcome:?}");
}

#[test]
fn mistakes_in_the_file() {
    let folder = folder("file");
    let check = |text: &str, expected: Expect| {
        std::fs::write(folder.join("c.toml"), text).expect("written");
        check_refused(finish(command(&["--config", "c.toml"]).current_dir(&*folder), ""), 2, expected);
    };
    check(
        "[settings]\nretention.ms = 1",
        expect![
            "chronik-server: setting retention.ms is a topic's: its default for all topics is log.retention.ms"
        ],
    );
    check("node-id = -1", expect!["chronik-server: --node-id -1 is below 0"]);
    check(
        "\nports = [1]",
        expect![
            "chronik-server: the configuration file c.toml is wrong: line 2: unknown field `ports`, expected one of `kafka-port`, `bind-addr`, `advertised-addr`, `advertised-port`, `node-id`, `data-dir`, `metrics-port`, `metrics-addr`, `shards`, `cpus`, `no-pin`, `busy-poll-us`, `log-level`, `log-format`, `bootstrap-server`, `raft-addr`, `peers`, `bootstrap`, `join`, `settings`"
        ],
    );
    check(
        "[broker]\nkafka-port = 1",
        expect![
            "chronik-server: the configuration file c.toml is wrong: line 1: unknown field `broker`, expected one of `kafka-port`, `bind-addr`, `advertised-addr`, `advertised-port`, `node-id`, `data-dir`, `metrics-port`, `metrics-addr`, `shards`, `cpus`, `no-pin`, `busy-poll-us`, `log-level`, `log-format`, `bootstrap-server`, `raft-addr`, `peers`, `bootstrap`, `join`, `settings`"
        ],
    );
    let missing = finish(command(&["--config", "none.toml"]).current_dir(&*folder), "");
    check_refused(
        missing,
        2,
        expect![
            "chronik-server: cannot read the configuration file none.toml: No such file or directory (os error 2)"
        ],
    );
}

#[test]
fn settings_of_the_environment_are_checked() {
    let outcome = finish(command(&[]).env("CHRONIK_SET", "num.partitions=3;node.id=4"), "");
    check_refused(outcome, 2, expect!["chronik-server: setting node.id is given by --node-id"]);
}

#[test]
fn client_commands_need_a_broker() {
    check_refused(
        run(&["produce", "t", "--bootstrap-server", "127.0.0.1:1"]),
        1,
        expect![
            "chronik-server: cannot reach a broker at 127.0.0.1:1: Connection refused (os error 111); is it running, and is --bootstrap-server right?"
        ],
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let answering = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = [0; 16];
        stream.read_exact(&mut request).expect("a request");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("sent");
    });
    let outcome = run(&["topic", "list", "--bootstrap-server", &address]);
    answering.join().expect("it answered");
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("does not answer like a Kafka broker"), "{}", outcome.stderr);
}

#[test]
fn what_cannot_be_dumped_is_named() {
    let folder = folder("dump");
    std::fs::write(folder.join("notes.txt"), "x").expect("written");
    let dump = |path: &str| finish(command(&["dump-log", path]).current_dir(&*folder), "");
    check_refused(
        dump("notes.txt"),
        1,
        expect!["chronik-server: notes.txt is neither a WAL file (.wal) nor a segment (.log)"],
    );
    check_refused(dump("."), 1, expect!["chronik-server: there is no WAL file and no segment in ."]);
    check_refused(
        dump("missing"),
        1,
        expect!["chronik-server: cannot read missing: No such file or directory (os error 2)"],
    );
}
