//! A replica that pulls the batches it lacks, and what it then makes of its leader's snapshot and entries.

use bytes::Bytes;
use log::segment::RollConfig;
use partition::{Applied, Command, NextFlush, Partition, Position};
use protocol::batch::{self, BatchBuilder, BatchOptions, Producer};
use types::{LogIndex, Offset, Term};

const ROLL: RollConfig = RollConfig { segment_bytes: 1 << 20, segment_ms: i64::MAX, index_bytes: 4_096 };
const NOW_MS: i64 = 1_000;

fn batch_at(base: i64, records: i64) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    (0..records).for_each(|_| builder.append(NOW_MS, None, Some(b"some value"), &[]));
    let mut batch = builder.build();
    batch::assign(&mut batch, Offset(base), 1);
    batch.freeze()
}

/// A leader with one batch in each entry, and the log's start where it is said to be.
fn leader(batches: &[Bytes], log_start: i64) -> Partition {
    let mut partition = Partition::new();
    for (index, batch) in (1..).zip(batches) {
        partition.apply(LogIndex(index), Term(1), Command::Batch, batch.clone(), NOW_MS);
    }
    let index = LogIndex(batches.len() as u64 + 1);
    partition.apply(index, Term(1), Command::LogStart(Offset(log_start)), Bytes::new(), NOW_MS);
    partition
}

fn flush(partition: &mut Partition) {
    while let Some(next) = partition.plan_flush(&ROLL, usize::MAX, NOW_MS) {
        assert!(matches!(next, NextFlush::Write(_)), "the index is there");
        partition.on_flushed(NOW_MS);
    }
}

fn restored(partition: &Partition) -> Partition {
    let (index, state) = partition.checkpoint();
    Partition::restore(index, &state).expect("what was written can be read")
}

#[test]
fn a_log_that_starts_within_a_batch_is_pulled_whole() {
    let batches = [batch_at(0, 10), batch_at(10, 5)];
    let leader = leader(&batches, 4);
    let mut follower = Partition::new();
    follower.reset_to(LogIndex(0), leader.log_start());
    // A crash makes no difference.
    let mut follower = restored(&follower);
    assert_eq!(follower.high_watermark(), Offset(4));
    for batch in leader.read_memory(Offset(4), usize::MAX) {
        follower.append_pulled(&batch).expect("they go on from there");
    }
    assert_eq!((follower.log_start(), follower.high_watermark()), (Offset(4), Offset(15)));
    assert_eq!(follower.locate(Offset(4)), Ok(Position::Memory));
    follower.locate(Offset(3)).expect_err("it is before the log's start");
    // After a crash before the flush it is pulled again.
    let anew = restored(&follower);
    assert_eq!((anew.log_start(), anew.high_watermark()), (Offset(4), Offset(4)));
    flush(&mut follower);
    follower.install(LogIndex(3), &leader.snapshot()).expect("it is a snapshot");
    assert_eq!(follower.segment_files(), [Offset(0)]);
    let follower = restored(&follower);
    assert_eq!((follower.log_start(), follower.high_watermark()), (Offset(4), Offset(15)));
}

#[test]
fn a_log_that_is_not_empty_takes_no_batch_from_before_its_end() {
    let mut follower = Partition::new();
    follower.append_pulled(&batch_at(0, 10)).expect("it begins the log");
    follower.append_pulled(&batch_at(9, 3)).expect_err("it does not go on from 10");
    follower.append_pulled(&batch_at(11, 3)).expect_err("there is a gap");
    assert_eq!(follower.high_watermark(), Offset(10));
}

/// What was pulled came from one leader, and the snapshot from the next, which has applied less.
#[test]
fn a_replica_that_pulled_more_than_its_snapshot_knows_survives_a_restart() {
    let batches = [batch_at(0, 10), batch_at(10, 5)];
    let mut follower = Partition::new();
    follower.reset_to(LogIndex(0), Offset(12));
    follower.append_pulled(&batches[1]).expect("the log starts within it");
    flush(&mut follower);
    follower.install(LogIndex(2), &leader(&batches[..1], 0).snapshot()).expect("it is a snapshot");
    let mut follower = restored(&follower);
    assert_eq!((follower.log_start(), follower.high_watermark()), (Offset(12), Offset(15)));
    let applied = follower.apply(LogIndex(3), Term(1), Command::Batch, batches[1].clone(), NOW_MS);
    assert_eq!(applied, Applied::Known);
    let start = Command::LogStart(Offset(12));
    let applied = follower.apply(LogIndex(4), Term(1), start, Bytes::new(), NOW_MS);
    assert_eq!(applied, Applied::LogStart(Offset(12)));
    let next = follower.apply(LogIndex(5), Term(1), Command::Batch, batch_at(15, 1), NOW_MS);
    assert!(matches!(next, Applied::Batch { base: Offset(15), .. }));
    restored(&follower);
}

/// The leader that made the offer is gone before it is taken up, and the next one still has the entries.
#[test]
fn a_replica_that_began_anew_and_is_sent_entries_after_all_remembers_what_its_leader_does() {
    let producer = Producer { id: 7, epoch: 0, base_sequence: 0 };
    let mut builder = BatchBuilder::new(BatchOptions { producer: Some(producer), ..Default::default() });
    (0..10).for_each(|_| builder.append(NOW_MS, None, Some(b"some value"), &[]));
    let mut idempotent = builder.build();
    batch::assign(&mut idempotent, Offset(0), 1);
    let batches = [idempotent.freeze(), batch_at(10, 5)];
    let leader = leader(&batches, 15);
    let mut follower = Partition::new();
    follower.apply(LogIndex(1), Term(1), Command::Batch, batches[0].clone(), NOW_MS);
    for (log_start, has_batch) in [(15, false), (12, true)] {
        let mut follower = restored(&follower);
        follower.reset_to(LogIndex(1), Offset(log_start));
        let mut follower = restored(&follower);
        let applied = follower.apply(LogIndex(2), Term(1), Command::Batch, batches[1].clone(), NOW_MS);
        assert_eq!(matches!(applied, Applied::Batch { .. }), has_batch, "the log starts at {log_start}");
        follower.apply(LogIndex(3), Term(1), Command::LogStart(Offset(15)), Bytes::new(), NOW_MS);
        assert_eq!(follower.snapshot(), leader.snapshot());
    }
}

#[test]
fn a_flush_that_ends_with_its_segment_says_that_more_is_left() {
    let roll = RollConfig { segment_bytes: 150, ..ROLL };
    let mut partition = leader(&[batch_at(0, 1), batch_at(1, 1), batch_at(2, 1)], 0);
    let mut rolls = Vec::new();
    while let Some(NextFlush::Write(plan)) = partition.plan_flush(&roll, usize::MAX, NOW_MS) {
        rolls.push((plan.segment, plan.data.len(), plan.rolls));
        partition.on_flushed(NOW_MS);
    }
    let seal = |base| (Offset(base), 0, true);
    assert_eq!(rolls, [(Offset(0), 1, true), seal(0), (Offset(1), 1, true), seal(1), (Offset(2), 1, false)]);
}
