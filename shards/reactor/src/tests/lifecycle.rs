//! Starting, stopping, dying, and the rings between shards.

use shard::{FatalReason, LeaderChange, ShardMessage};
use std::sync::Arc;
use types::Term;

use super::*;
use crate::{Exit, Fatal, stored_cluster_id};

#[test]
fn every_shard_is_asked_to_finish_and_the_port_is_free_afterwards() {
    let dir = temporary();
    let (sender, asked) = crossbeam_channel::unbounded();
    let node = start(dir.path(), 3, move |ShardStart { shard, .. }, _| {
        let sender = sender.clone();
        closure_core(move |_, event, effects, _| match event {
            Event::ShutdownRequested => sender.send(shard).expect("the test listens"),
            Event::Frame { connection, frame } => effects.push(respond(connection, frame)),
            _ => {}
        })
    });
    let mut streams: Vec<_> = (0..12).map(|_| connect(&node)).collect();
    for stream in &mut streams {
        send(stream, b"hello");
        assert_eq!(receive(stream), b"hello");
    }
    node.store_cluster_id("abc").expect("stored");
    let waiting = std::thread::spawn({
        let stopper = node.stopper();
        move || stopper.request_stop()
    });
    assert_eq!(node.wait(), Exit::Finished);
    waiting.join().expect("asked");
    let mut shards: Vec<_> = asked.try_iter().collect();
    shards.sort();
    assert_eq!(shards, [0, 1, 2].map(ShardId));
    for mut stream in streams {
        assert!(is_closed(&mut stream));
    }
    assert_eq!(stored_cluster_id(dir.path()).expect("read"), Some("abc".to_owned()));
    let mut again = options(dir.path(), 3);
    again.listen = node.addresses().to_vec();
    let again = Node::start(again, echo_core).expect("the port and the data directory are free");
    assert_eq!(again.stop(), Exit::Finished);
    assert_eq!(node.stop(), Exit::Finished, "stopping twice does nothing more");
}

#[test]
fn a_shard_that_never_finishes_is_given_the_grace_period() {
    struct Stubborn;
    impl ShardCore for Stubborn {
        fn step(&mut self, _: Now, _: Event, _: &mut Vec<Effect>) {}
        fn next_deadline_us(&self) -> Option<u64> {
            None
        }
    }
    let dir = temporary();
    let mut options = options(dir.path(), 2);
    options.stop_grace = Duration::from_millis(100);
    let node = Node::start(options, |_, _| Stubborn).expect("started");
    assert_eq!(node.stop(), Exit::GraceExpired);
}

#[test]
fn a_port_and_a_data_directory_are_used_once() {
    let dir = temporary();
    let node = start(dir.path(), 2, echo_core);
    let second = Node::start(options(dir.path(), 2), echo_core);
    assert!(matches!(second, Err(StartError::DataDirLocked { .. })), "{second:?}");
    let other_dir = temporary();
    let mut on_same_port = options(other_dir.path(), 1);
    on_same_port.listen = node.addresses().to_vec();
    let third = Node::start(on_same_port, echo_core);
    assert!(matches!(third, Err(StartError::PortTaken { .. })), "{third:?}");
    assert_eq!(node.stop(), Exit::Finished);
    let mut of_other_node = options(dir.path(), 2);
    of_other_node.node_id = NodeId(2);
    let other_node = Node::start(of_other_node, echo_core);
    assert!(matches!(other_node, Err(StartError::OtherNode { .. })), "{other_node:?}");
}

#[test]
fn impossible_options_are_named() {
    let dir = temporary();
    for (change, why) in [
        (
            (|options| options.shards = 0) as fn(&mut NodeOptions),
            "the options are not possible: there must be at least one shard",
        ),
        (
            |options| options.placement = crate::Placement::Pinned(vec![0, 1, 2]),
            "the options are not possible: 1 shards are to be pinned to 3 processors",
        ),
        (
            |options| options.request_bytes_max = 1 << 31,
            "the options are not possible: requests of 2147483648 bytes cannot be framed",
        ),
    ] {
        let mut options = options(dir.path(), 1);
        change(&mut options);
        let refused = Node::start(options, echo_core).expect_err("impossible");
        assert_eq!(refused.to_string(), why);
    }
}

#[test]
fn a_fatal_effect_ends_the_node_without_another_word() {
    let dir = temporary();
    let node = start(dir.path(), 2, |_, _| {
        closure_core(|_, event, effects, _| {
            if let Event::Frame { connection, frame } = event {
                effects.push(Effect::Fatal(FatalReason::Damaged("a test".to_owned())));
                effects.push(respond(connection, frame));
            }
        })
    });
    let mut stream = connect(&node);
    send(&mut stream, b"die");
    let exit = node.wait();
    let reason = FatalReason::Damaged("a test".to_owned());
    assert!(matches!(&exit, Exit::Fatal(Fatal::Shard { reason: found, .. }) if *found == reason), "{exit:?}");
    assert!(is_closed(&mut stream), "nothing is answered after a fatal effect");
}

#[test]
fn rings_keep_the_order_and_drop_nothing() {
    const MESSAGES: u64 = 5_000;
    let leader = |number: u64| {
        ShardMessage::Leader(LeaderChange {
            group: GroupId(number),
            term: Term(number),
            leader: None,
            in_sync: Arc::default(),
        })
    };
    let dir = temporary();
    let (sender, counts) = crossbeam_channel::unbounded();
    let node = start(dir.path(), 3, move |ShardStart { shard, .. }, effects| {
        // More at once than a ring holds, to both others.
        for number in 0..MESSAGES {
            for to in (0..3).map(ShardId).filter(|to| *to != shard) {
                effects.push(Effect::SendToShard { to, message: leader(number) });
            }
        }
        let mut next = [0; 3];
        let sender = sender.clone();
        closure_core(move |_, event, _, _| {
            if let Event::FromShard { from, message: ShardMessage::Leader(change) } = event {
                let next = &mut next[usize::from(from.0)];
                assert_eq!(change.group, GroupId(*next), "from {from} to {shard}");
                *next += 1;
                if *next == MESSAGES {
                    sender.send((from, shard)).expect("the test listens");
                }
            }
        })
    });
    let mut pairs: Vec<_> = (0..6).map(|_| counts.recv_timeout(PATIENCE).expect("all messages")).collect();
    pairs.sort();
    let expected = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
    assert_eq!(pairs, expected.map(|(from, to)| (ShardId(from), ShardId(to))));
    assert_eq!(node.stop(), Exit::Finished);
}

#[test]
fn each_burst_ends_with_one_turn() {
    let dir = temporary();
    let (sender, turns) = crossbeam_channel::unbounded();
    let node = start(dir.path(), 1, move |_, _| {
        let sender = sender.clone();
        let mut since_turn = 0;
        closure_core(move |_, event, effects, _| match event {
            Event::TurnEnded => {
                sender.send(since_turn).expect("the test listens");
                since_turn = 0;
            }
            Event::Frame { connection, frame } => {
                since_turn += 1;
                effects.push(respond(connection, frame));
            }
            _ => {}
        })
    });
    let mut stream = connect(&node);
    let wire: Vec<u8> = (0..500).flat_map(|_| framed(b"small")).collect();
    stream.write_all(&wire).expect("sent");
    for _ in 0..500 {
        assert_eq!(receive(&mut stream), b"small");
    }
    assert_eq!(node.stop(), Exit::Finished);
    let bursts: Vec<usize> = turns.try_iter().collect();
    assert_eq!(bursts.iter().sum::<usize>(), 500, "a turn follows the last request");
    let largest = bursts.iter().max().expect("some");
    assert!(*largest > 20, "what comes together shares a turn, but the largest burst was {largest}");
}
