//! The checker is checked: a good history passes, each anomaly that is planted into it is found, and what Kafka allows
//! does not alarm.

use std::collections::BTreeMap;

use expect_test::expect;

use super::{Invariant, Judgement, Verdict, check};
use crate::history::{BatchSummary, Line, Operation, Outcome, RunFacts, TopicPartition, Value};

const RECORDS: i64 = 40;
const SECOND_US: u64 = 1_000_000;
const NODES: [i32; 3] = [1, 2, 3];
const FAULT_START_US: u64 = 20 * SECOND_US;
const GROUP: &str = "group";

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new("load", partition)
}

fn line(process: &str, start_us: u64, end_us: u64, operation: Operation) -> Line {
    let process = process.to_owned();
    Line { process, start_us, end_us, outcome: Outcome::Ok, operation, error: None }
}

/// What stands at an offset: the two producers take turns.
fn value_at(partition: i32, offset: i64) -> Value {
    let producer = if offset % 2 == 0 { "idempotent" } else { "plain" };
    Value(producer.to_owned(), (offset * 2) as u64 + partition as u64)
}

fn records(partition: i32, offsets: std::ops::Range<i64>) -> Vec<(i64, Value)> {
    offsets.map(|offset| (offset, value_at(partition, offset))).collect()
}

/// A record is acknowledged at each offset every second: 40 s of load on two partitions, with one fault at 20 s.
fn good() -> Vec<Line> {
    let facts = RunFacts {
        scenario: "test".to_owned(),
        seed: 1,
        nodes: 3,
        replication: 3,
        load_topic: "load".to_owned(),
        partitions: 2,
        outage_ms_max: 5_000,
        may_fail_sends: true,
    };
    let mut lines = vec![
        line("run", 0, 0, Operation::Run(facts)),
        line("idempotent", 0, 0, Operation::Producer { idempotent: true }),
        line("plain", 0, 0, Operation::Producer { idempotent: false }),
        line("admin", 0, 9, Operation::CreateTopic { topic: "load".to_owned(), partitions: 2 }),
    ];
    for partition in 0..2 {
        lines.push(line("reader", 0, 0, Operation::Assign { at: at(partition), offset: 0 }));
        for offset in 0..RECORDS {
            lines.extend(second(partition, offset));
        }
    }
    let fault = Operation::Fault {
        fault: "kill".to_owned(),
        nodes: vec![1],
        is_writable: true,
        leaves_behind: false,
        slowdown_max: Some(3.0),
    };
    lines.push(line("faults", FAULT_START_US, FAULT_START_US + SECOND_US, fault));
    lines.push(line("faults", 5 * SECOND_US, 15 * SECOND_US, Operation::Quiet));
    let partitions = (0..2).map(at).collect();
    lines.push(line(
        "member",
        0,
        0,
        Operation::Assigned { group: GROUP.to_owned(), generation: 1, partitions },
    ));
    let foreign = Operation::ForeignCommit { group: GROUP.to_owned() };
    lines.push(Line { outcome: Outcome::Info, ..line("watcher", 0, SECOND_US, foreign) });
    let (topic, errors) = ("load".to_owned(), Vec::new());
    let fresh = Operation::FreshTopic { topic, made_by: 1, asked: 2, known_us: 900, errors };
    lines.push(line("fresh", 0, SECOND_US, fresh));
    lines.push(line("run", 0, RECORDS as u64 * SECOND_US, Operation::Load));
    lines.extend(read_back());
    lines.push(line("run", 0, 50 * SECOND_US, Operation::End));
    lines
}

/// What happens in a partition in one second.
fn second(partition: i32, offset: i64) -> Vec<Line> {
    let start_us = offset as u64 * SECOND_US + 1_000 + partition as u64;
    let Value(producer, sequence) = value_at(partition, offset);
    let at = at(partition);
    let send = Operation::Send { at: at.clone(), sequence, offset: Some(offset) };
    let mut lines = vec![line(&producer, start_us, start_us + 1_000, send)];
    for process in ["reader", "member"] {
        let poll = Operation::Poll { at: at.clone(), records: records(partition, offset..offset + 1) };
        lines.push(line(process, start_us + 1_000, start_us + 2_000, poll));
    }
    let group = || GROUP.to_owned();
    let commit = Operation::Commit { group: group(), at: at.clone(), offset: offset + 1 };
    lines.push(line("member", start_us + 2_000, start_us + 3_000, commit));
    let committed = Operation::Committed { group: group(), at: at.clone(), offset: Some(offset + 1) };
    lines.push(line("watcher", start_us + 4_000, start_us + 5_000, committed));
    for node in NODES {
        let marks = Operation::Watermarks {
            node,
            incarnation: 1,
            leader_epoch: 1,
            at: at.clone(),
            log_start: 0,
            last_stable: offset + 1,
            high_watermark: offset + 1,
        };
        lines.push(line("observer", start_us + 6_000, start_us + 7_000, marks));
    }
    lines
}

fn read_back() -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |operation| lines.push(line("read-back", 42 * SECOND_US, 43 * SECOND_US, operation));
    add(Operation::Topics { topics: vec!["load".to_owned()] });
    for partition in 0..2 {
        let at = || at(partition);
        add(Operation::Drain { at: at(), records: records(partition, 0..RECORDS) });
        add(Operation::Drained { at: at(), log_start: 0, end: RECORDS });
        add(Operation::Replicas { at: at(), nodes: NODES.to_vec() });
        for node in NODES {
            let batch = |base_offset| BatchSummary {
                base_offset,
                last_offset: base_offset + 3,
                // Epoch 2 begins at offset 20.
                leader_epoch: if base_offset < 20 { 1 } else { 2 },
                timestamp_ms_max: base_offset * 10,
                bytes: 300,
                producer_id: 9,
                producer_epoch: 0,
                base_sequence: base_offset as i32,
                checksum: base_offset as u32,
            };
            let batches = (0..RECORDS / 4).map(|number| batch(number * 4)).collect();
            add(Operation::Replica { node, at: at(), batches });
            add(Operation::ReplicaRead { node, at: at(), log_start: 0, end: RECORDS });
        }
        for (timestamp_ms, offset) in [(0, Some(0)), (41, Some(9)), (80, Some(8)), (361, None)] {
            add(Operation::TimeLookUp { at: at(), timestamp_ms, offset });
        }
        for (epoch, offset) in [(0, 0), (1, 20), (2, RECORDS)] {
            add(Operation::EpochLookUp { at: at(), epoch, offset });
        }
    }
    lines
}

fn judge(lines: Vec<Line>) -> Judgement {
    check(lines.into_iter().map(Ok)).expect("no line is unreadable")
}

/// The first line that `pick` changes; it must find one.
fn change(lines: &mut [Line], mut pick: impl FnMut(&mut Line) -> bool) {
    assert!(lines.iter_mut().any(&mut pick), "there is such a line");
}

/// The acknowledgement at an offset of partition 0.
fn on_send(lines: &mut [Line], wanted: i64, mut edit: impl FnMut(&mut Line)) {
    change(lines, |line| {
        let is_it = matches!(&line.operation, Operation::Send { at, offset: Some(offset), .. }
            if at.partition == 0 && *offset == wanted);
        if is_it {
            edit(line);
        }
        is_it
    });
}

/// The records that a process was handed of partition 0 in the line that holds an offset.
fn on_records(lines: &mut [Line], process: &str, wanted: i64, mut edit: impl FnMut(&mut Vec<(i64, Value)>)) {
    change(lines, |line| {
        let (Operation::Poll { at, records } | Operation::Drain { at, records }) = &mut line.operation else {
            return false;
        };
        let is_it = line.process == process
            && at.partition == 0
            && records.iter().any(|&(offset, _)| offset == wanted);
        if is_it {
            edit(records);
        }
        is_it
    });
}

/// The answer about the group that follows the commit of an offset of partition 0.
fn on_committed(lines: &mut [Line], wanted: i64, answer: Option<i64>) {
    change(lines, |line| match &mut line.operation {
        Operation::Committed { at, offset, .. } if at.partition == 0 && *offset == Some(wanted) => {
            *offset = answer;
            true
        }
        _ => false,
    });
}

/// What node 2 shows of partition 0 at an end.
fn on_marks(lines: &mut [Line], end: i64, mut edit: impl FnMut(&mut Operation)) {
    change(lines, |line| {
        let is_it = matches!(&line.operation, Operation::Watermarks { node: 2, at, high_watermark, .. }
            if at.partition == 0 && *high_watermark == end);
        if is_it {
            edit(&mut line.operation);
        }
        is_it
    });
}

/// What the leader of partition 0 found for a time, or where it says that an epoch ends.
fn on_look_up(lines: &mut [Line], wanted: i64, answer: Option<i64>) {
    change(lines, |line| match &mut line.operation {
        Operation::TimeLookUp { at, timestamp_ms, offset }
            if at.partition == 0 && *timestamp_ms == wanted =>
        {
            *offset = answer;
            true
        }
        _ => false,
    });
}

fn on_epoch(lines: &mut [Line], wanted: i32, answer: i64) {
    change(lines, |line| match &mut line.operation {
        Operation::EpochLookUp { at, epoch, offset } if at.partition == 0 && *epoch == wanted => {
            *offset = answer;
            true
        }
        _ => false,
    });
}

/// The batches of partition 0 on node 3.
fn on_batches(lines: &mut [Line], mut edit: impl FnMut(&mut Vec<BatchSummary>)) {
    change(lines, |line| match &mut line.operation {
        Operation::Replica { node: 3, at, batches } if at.partition == 0 => {
            edit(batches);
            true
        }
        _ => false,
    });
}

/// The batches of partition 0 on all nodes.
fn on_all_batches(lines: &mut [Line], mut edit: impl FnMut(&mut Vec<BatchSummary>)) {
    for line in lines {
        if let Operation::Replica { at, batches, .. } = &mut line.operation
            && at.partition == 0
        {
            edit(batches);
        }
    }
}

/// From offset 20 on.
fn begin_epoch(batches: &mut [BatchSummary]) {
    for batch in batches.iter_mut().filter(|batch| batch.base_offset >= 20) {
        (batch.producer_epoch, batch.base_sequence) = (1, batch.base_sequence - 20);
    }
}

fn insert_before_end(lines: &mut Vec<Line>, added: Line) {
    lines.insert(lines.len() - 1, added);
}

/// Nobody but the producer knows of a record.
fn forget(lines: &mut [Line], offset: i64) {
    for process in ["reader", "member", "read-back"] {
        on_records(lines, process, offset, |records| records.retain(|&(other, _)| other != offset));
    }
}

/// Two records of one producer stand in each other's place.
fn exchange(lines: &mut [Line], offset: i64, other: i64) {
    for (offset, other) in [(offset, other), (other, offset)] {
        on_send(lines, offset, |line| {
            let Value(_, sequence) = value_at(0, other);
            line.operation = Operation::Send { at: at(0), sequence, offset: Some(offset) };
        });
        replace(lines, offset, value_at(0, other));
    }
}

/// All who read an offset of partition 0 are handed another value there.
fn replace(lines: &mut [Line], offset: i64, value: Value) {
    for process in ["reader", "member", "read-back"] {
        on_records(lines, process, offset, |records| {
            for record in records.iter_mut().filter(|record| record.0 == offset) {
                record.1 = value.clone();
            }
        });
    }
}

/// Removes acknowledgements of partition 0 in a range of seconds and keeps the records: producers had no answer.
fn silence(lines: &mut [Line], offsets: std::ops::Range<i64>) {
    for offset in offsets {
        on_send(lines, offset, |line| {
            line.outcome = Outcome::Info;
            if let Operation::Send { offset, .. } = &mut line.operation {
                *offset = None;
            }
        });
    }
}

type Mutation = (&'static str, Invariant, fn(&mut Vec<Line>));
type Harmless = (&'static str, fn(&mut Vec<Line>));

const ANOMALIES: &[Mutation] = &[
    ("an acknowledged record is not read", Invariant::LostWrite, |lines| forget(lines, 17)),
    ("a record that was read once is gone", Invariant::LostWrite, |lines| {
        silence(lines, 16..17);
        on_records(lines, "read-back", 16, |records| records.retain(|&(offset, _)| offset != 16));
    }),
    ("an acknowledged record behind the end is not read", Invariant::Unseen, |lines| {
        forget(lines, RECORDS - 1)
    }),
    ("an acknowledged duplicate is nowhere", Invariant::Unseen, |lines| {
        on_send(lines, 17, |line| {
            line.operation = Operation::Send { at: at(0), sequence: 34, offset: None };
        });
        forget(lines, 17);
    }),
    ("a partition is not read to its end", Invariant::Unseen, |lines| {
        change(lines, |line| {
            let is_it = matches!(line.operation, Operation::Drained { .. });
            line.outcome = if is_it { Outcome::Info } else { line.outcome };
            is_it
        });
    }),
    ("a replica is not read to its end", Invariant::Unseen, |lines| {
        change(lines, |line| {
            let is_it = matches!(line.operation, Operation::ReplicaRead { node: 2, .. });
            line.outcome = if is_it { Outcome::Info } else { line.outcome };
            is_it
        });
    }),
    ("a replica is not read at all", Invariant::Unseen, |lines| {
        lines.retain(|line| {
            !matches!(
                line.operation,
                Operation::ReplicaRead { node: 2, .. } | Operation::Replica { node: 2, .. }
            )
        });
    }),
    ("an idempotent value stands twice", Invariant::Duplicate, |lines| {
        silence(lines, 20..21);
        replace(lines, 20, value_at(0, 18));
    }),
    ("an idempotent value stands in two partitions", Invariant::Duplicate, |lines| {
        silence(lines, 20..21);
        replace(lines, 20, value_at(1, 18));
    }),
    ("a batch is repeated under the same sequence", Invariant::Duplicate, |lines| {
        on_all_batches(lines, |batches| batches[5].base_sequence = batches[4].base_sequence);
    }),
    ("an epoch that was over comes back", Invariant::Duplicate, |lines| {
        on_all_batches(lines, |batches| (batches[5].producer_epoch, batches[5].base_sequence) = (1, 0));
    }),
    ("another record is read than acknowledged", Invariant::InconsistentOffset, |lines| {
        on_records(lines, "read-back", 9, |records| records[9].1 = Value("plain".to_owned(), 999));
    }),
    ("two readers see different records", Invariant::InconsistentOffset, |lines| {
        on_records(lines, "member", 9, |records| records[0].1 = Value("plain".to_owned(), 999));
    }),
    ("two records are acknowledged at one offset", Invariant::InconsistentOffset, |lines| {
        on_send(lines, 11, |line| {
            line.operation = Operation::Send { at: at(0), sequence: 22, offset: Some(13) };
        });
    }),
    ("a value is damaged", Invariant::InconsistentOffset, |lines| {
        let damaged = Operation::Corrupt { at: at(0), offset: 5 };
        insert_before_end(lines, line("reader", 0, SECOND_US, damaged));
    }),
    ("a failed write is read", Invariant::FailedWriteRead, |lines| {
        on_send(lines, 13, |line| line.outcome = Outcome::Fail);
    }),
    ("a reader goes back", Invariant::MonotonePoll, |lines| {
        on_records(lines, "reader", 10, |records| records.push((8, value_at(0, 8))));
    }),
    ("a reader is handed a record twice", Invariant::MonotonePoll, |lines| {
        on_records(lines, "reader", 10, |records| records.push((10, value_at(0, 10))));
    }),
    ("a reader skips a record", Invariant::MonotonePoll, |lines| on_records(lines, "reader", 10, Vec::clear)),
    ("a reader skips the record that it asked for", Invariant::MonotonePoll, |lines| {
        on_records(lines, "reader", 0, Vec::clear);
    }),
    ("a reader's position is gone", Invariant::MonotonePoll, |lines| {
        insert_before_end(lines, line("reader", 0, SECOND_US, Operation::Reset));
    }),
    ("an idempotent producer's records are out of order", Invariant::MonotoneSend, |lines| {
        exchange(lines, 10, 12)
    }),
    ("a commit goes back", Invariant::GroupOffsets, |lines| on_committed(lines, 20, Some(12))),
    ("a commit is forgotten", Invariant::GroupOffsets, |lines| on_committed(lines, 20, None)),
    ("a commit comes from nowhere", Invariant::GroupOffsets, |lines| on_committed(lines, 20, Some(500))),
    ("a commit is seen before anybody made it", Invariant::GroupOffsets, |lines| {
        on_committed(lines, 20, Some(30))
    }),
    ("a failed commit is seen", Invariant::GroupOffsets, |lines| {
        change(lines, |line| {
            let is_it = matches!(line.operation, Operation::Commit { offset: 20, .. });
            line.outcome = if is_it { Outcome::Fail } else { line.outcome };
            is_it
        });
    }),
    ("somebody who is no member commits", Invariant::GroupOffsets, |lines| {
        change(lines, |line| {
            let is_it = matches!(line.operation, Operation::ForeignCommit { .. });
            line.outcome = if is_it { Outcome::Ok } else { line.outcome };
            is_it
        });
    }),
    ("a partition has two owners", Invariant::OneOwner, |lines| {
        let partitions = vec![at(1)];
        let assigned = Operation::Assigned { group: GROUP.to_owned(), generation: 1, partitions };
        insert_before_end(lines, line("another member", 0, SECOND_US, assigned));
    }),
    ("a look-up by time skips a record", Invariant::LookUps, |lines| on_look_up(lines, 41, Some(12))),
    ("a look-up by time is too early", Invariant::LookUps, |lines| on_look_up(lines, 80, Some(7))),
    ("a look-up by time finds nothing", Invariant::LookUps, |lines| on_look_up(lines, 41, None)),
    ("a look-up finds what is not there", Invariant::LookUps, |lines| on_look_up(lines, 361, Some(39))),
    ("an epoch is said to end too late", Invariant::LookUps, |lines| on_epoch(lines, 1, 24)),
    ("the last epoch is said to end before the end", Invariant::LookUps, |lines| on_epoch(lines, 2, 36)),
    ("a high watermark goes back", Invariant::Watermarks, |lines| {
        on_marks(lines, 22, |marks| {
            if let Operation::Watermarks { last_stable, high_watermark, .. } = marks {
                (*last_stable, *high_watermark) = (15, 15);
            }
        });
    }),
    ("a log start goes back", Invariant::Watermarks, |lines| {
        on_marks(lines, 22, |marks| {
            if let Operation::Watermarks { log_start, .. } = marks {
                *log_start = 3;
            }
        });
    }),
    ("a last stable offset lies beyond the high watermark", Invariant::Watermarks, |lines| {
        on_marks(lines, 22, |marks| {
            if let Operation::Watermarks { last_stable, .. } = marks {
                *last_stable = 23;
            }
        });
    }),
    ("a high watermark lies beyond the end", Invariant::Watermarks, |lines| {
        on_marks(lines, RECORDS, |marks| {
            if let Operation::Watermarks { high_watermark, .. } = marks {
                *high_watermark = RECORDS + 5;
            }
        });
    }),
    ("a batch differs", Invariant::Replicas, |lines| on_batches(lines, |batches| batches[5].checksum ^= 1)),
    ("a batch is longer", Invariant::Replicas, |lines| on_batches(lines, |batches| batches[5].bytes += 1)),
    ("a batch is missing", Invariant::Replicas, |lines| {
        on_batches(lines, |batches| {
            batches.remove(5);
        });
    }),
    ("the last batch is missing", Invariant::Replicas, |lines| {
        on_batches(lines, |batches| {
            batches.pop();
        });
    }),
    ("a topic is lost", Invariant::Metadata, |lines| {
        let created = Operation::CreateTopic { topic: "created-7".to_owned(), partitions: 1 };
        insert_before_end(lines, line("admin", 0, SECOND_US, created));
    }),
    ("writes stop for too long", Invariant::BoundedOutage, |lines| silence(lines, 20..26)),
    ("writes do not resume after the healing", Invariant::BoundedOutage, |lines| {
        silence(lines, 20..28);
        change(lines, |line| match &mut line.operation {
            Operation::Fault { is_writable, .. } => {
                *is_writable = false;
                true
            }
            _ => false,
        });
    }),
    ("writes never resume", Invariant::BoundedOutage, |lines| silence(lines, 20..RECORDS)),
    ("a producer has no answer in the end", Invariant::BoundedOutage, |lines| {
        insert_before_end(lines, line("plain", 0, SECOND_US, Operation::Flush { left: 1 }));
    }),
    ("acknowledgements take too long while they may not", Invariant::Slowdown, |lines| {
        on_send(lines, 20, |line| line.end_us += 2 * SECOND_US);
    }),
    ("a fresh topic has an error that passes", Invariant::FreshTopic, |lines| {
        change(lines, |line| match &mut line.operation {
            Operation::FreshTopic { errors, .. } => {
                errors.push("error code 6".to_owned());
                true
            }
            _ => false,
        });
    }),
    ("a producer sees an error where none may", Invariant::ProducerError, |lines| {
        silence(lines, 3..4);
        change(lines, |line| match &mut line.operation {
            Operation::Run(facts) => {
                facts.may_fail_sends = false;
                true
            }
            _ => false,
        });
    }),
    ("a broker ends by itself", Invariant::Crash, |lines| {
        insert_before_end(lines, line("faults", 0, SECOND_US, Operation::Crash { node: 2 }));
    }),
];

/// What Kafka allows.
const ALLOWED: &[Harmless] = &[
    ("a write that timed out and did not happen", |lines| {
        let send = Operation::Send { at: at(0), sequence: 5_000, offset: None };
        let mut timed_out = line("idempotent", 0, SECOND_US, send);
        timed_out.outcome = Outcome::Info;
        insert_before_end(lines, timed_out);
    }),
    ("a write that timed out and happened", |lines| silence(lines, 16..17)),
    ("a write that failed and did not happen", |lines| {
        silence(lines, 16..17);
        on_send_info(lines, 16);
        forget(lines, 16);
    }),
    ("an offset that no reader is handed, as of a control record", |lines| {
        silence(lines, 16..17);
        forget(lines, 16);
    }),
    ("an acknowledged duplicate without an offset", |lines| {
        on_send(lines, 16, |line| {
            if let Operation::Send { offset, .. } = &mut line.operation {
                *offset = None;
            }
        });
    }),
    ("a duplicate of a plain producer", |lines| {
        silence(lines, 19..20);
        replace(lines, 19, value_at(0, 17));
    }),
    ("a plain producer's records are out of order", |lines| exchange(lines, 11, 13)),
    ("a client begins a new epoch and repeats what it had no answer to", |lines| {
        silence(lines, 20..21);
        replace(lines, 20, value_at(0, 18));
        on_all_batches(lines, |batches| begin_epoch(batches));
    }),
    ("a client repeats several records in order", |lines| {
        silence(lines, 20..23);
        replace(lines, 20, value_at(0, 16));
        replace(lines, 22, value_at(0, 18));
        on_all_batches(lines, |batches| begin_epoch(batches));
    }),
    ("a group repeats and skips", |lines| {
        on_records(lines, "member", 10, |records| *records = self::records(0, 3..7));
    }),
    ("a reader that is assigned anew goes back", |lines| {
        insert_before_end(lines, line("reader", 0, SECOND_US, Operation::Assign { at: at(0), offset: 4 }));
        let poll = Operation::Poll { at: at(0), records: records(0, 4..9) };
        insert_before_end(lines, line("reader", 0, SECOND_US, poll));
    }),
    ("a commit that timed out comes late", |lines| {
        change(lines, |line| {
            let is_it =
                matches!(&line.operation, Operation::Commit { at, offset: 12, .. } if at.partition == 0);
            line.outcome = if is_it { Outcome::Info } else { line.outcome };
            is_it
        });
        on_committed(lines, 20, Some(12));
    }),
    ("a partition changes its owner with the generation", |lines| {
        let partitions = vec![at(1)];
        let assigned = Operation::Assigned { group: GROUP.to_owned(), generation: 2, partitions };
        insert_before_end(lines, line("another member", 0, SECOND_US, assigned));
    }),
    ("a coordinator that was left behind answers from memory", |lines| {
        change(lines, |line| match &mut line.operation {
            Operation::Fault { leaves_behind, .. } => {
                *leaves_behind = true;
                true
            }
            _ => false,
        });
        on_committed(lines, 22, Some(12));
        on_committed(lines, 23, None);
    }),
    ("a replica knows less after its restart", |lines| {
        change(lines, |line| match &mut line.operation {
            Operation::Watermarks { node: 2, at, incarnation, last_stable, high_watermark, .. }
                if at.partition == 0 && *high_watermark == RECORDS =>
            {
                (*incarnation, *last_stable, *high_watermark) = (2, 7, 7);
                true
            }
            _ => false,
        });
    }),
    ("a replica knows less under a new leader", |lines| {
        change(lines, |line| match &mut line.operation {
            Operation::Watermarks { node: 2, at, leader_epoch, last_stable, high_watermark, .. }
                if at.partition == 0 && *high_watermark == RECORDS =>
            {
                (*leader_epoch, *last_stable, *high_watermark) = (2, 7, 7);
                true
            }
            _ => false,
        });
    }),
    ("writes stop for as long as they may", |lines| silence(lines, 20..24)),
    ("a replica begins later", |lines| {
        on_batches(lines, |batches| {
            batches.drain(..2);
        });
        change(lines, |line| match &mut line.operation {
            Operation::ReplicaRead { node: 3, at, log_start, .. } if at.partition == 0 => {
                *log_start = 8;
                true
            }
            _ => false,
        });
    }),
];

/// The silenced send of an offset of partition 0 failed for certain.
fn on_send_info(lines: &mut [Line], offset: i64) {
    let Value(_, wanted) = value_at(0, offset);
    change(lines, |line| {
        let is_it =
            matches!(&line.operation, Operation::Send { sequence, offset: None, .. } if *sequence == wanted);
        line.outcome = if is_it { Outcome::Fail } else { line.outcome };
        is_it
    });
}

#[test]
fn a_good_history_passes() {
    let judgement = judge(good());
    assert_eq!(judgement.findings, BTreeMap::new());
    assert_eq!(judgement.verdict, Verdict::Pass);
    expect![[r#"
        Counts {
            lines: 686,
            acknowledged: 80,
            indefinite: 0,
            polled: 160,
            drained: 80,
            commits: 80,
            committed_reads: 80,
            replicas_read: 6,
            batches: 60,
            assignments: 1,
            foreign_commits: 1,
            look_ups: 14,
            fresh_topics: 1,
            fresh_topics_asked_again: 1,
            fresh_topics_known_us_max: 900,
        }
    "#]]
    .assert_debug_eq(&judgement.counts);
    // A record each second: the one at 19 s came before the fault, the next 2 ms after it.
    let fault = &judgement.faults[0];
    assert_eq!((fault.longest_gap_us, fault.resumed_after_us), (SECOND_US, 2_001));
}

#[test]
fn every_planted_anomaly_is_found() {
    for (name, invariant, plant) in ANOMALIES {
        let mut lines = good();
        plant(&mut lines);
        let judgement = judge(lines);
        assert_eq!(judgement.verdict, Verdict::Fail, "{name}");
        assert!(judgement.findings.contains_key(invariant), "{name}: {:?}", judgement.findings);
    }
}

#[test]
fn every_invariant_has_an_anomaly() {
    for invariant in Invariant::ALL {
        assert!(ANOMALIES.iter().any(|(_, planted, _)| *planted == invariant), "{invariant}");
    }
}

#[test]
fn what_kafka_allows_does_not_alarm() {
    for (name, plant) in ALLOWED {
        let mut lines = good();
        plant(&mut lines);
        let judgement = judge(lines);
        assert_eq!(judgement.findings, BTreeMap::new(), "{name}");
        assert_eq!(judgement.verdict, Verdict::Pass, "{name}");
    }
}

#[test]
fn a_history_that_ends_early_is_not_judged_good() {
    let mut lines = good();
    while lines.len() > 10 {
        lines.pop();
        let judgement = judge(lines.clone());
        assert_eq!(judgement.verdict, Verdict::Unknown, "{} lines: {:?}", lines.len(), judgement.findings);
        lines.truncate(lines.len() - lines.len() / 20);
    }
    assert_eq!(judge(Vec::new()).verdict, Verdict::Unknown);
}

#[test]
fn examples_are_few_and_counted_all() {
    let mut lines = good();
    for offset in 5..30 {
        forget(&mut lines, offset);
    }
    let finding = &judge(lines).findings[&Invariant::LostWrite];
    assert_eq!((finding.count, finding.examples.len()), (25, super::EXAMPLES_MAX));
}
