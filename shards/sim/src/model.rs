//! What the clients know together, and what must therefore hold: the judge of a history.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use protocol::batch;
use types::TopicId;
use types::limits::DECOMPRESSED_BYTES_MAX;

use crate::in_sync::Quorums;

/// Bytes of a value's head: the record's number and the value's length.
pub const VALUE_HEAD_BYTES: usize = 16;

/// What fills values, from a place that depends on the record.
const PATTERN_PERIOD: usize = 251;

/// A topic, by the order in which topics were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicRef(pub usize);

/// Where a topic is in its life, as far as acknowledgements tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its creation is under way.
    Creating,
    /// Its creation was acknowledged.
    Live,
    /// Its deletion is under way.
    Deleting,
    /// Its deletion was acknowledged.
    Deleted,
}

/// A topic.
#[derive(Debug)]
pub struct TopicModel {
    /// Its name.
    pub name: String,
    /// Its id, once it is known.
    pub id: Option<TopicId>,
    /// Where it is in its life.
    pub life: Life,
    /// How many replicas each partition has, at most.
    pub replication: usize,
    /// Its `min.insync.replicas`.
    pub in_sync_min: usize,
    /// Whether retention may move its start.
    pub has_retention: bool,
    /// Whether all its records go after a while.
    pub expires: bool,
    /// Whether the broker sets the timestamps.
    pub has_append_time: bool,
    /// Its partitions.
    pub partitions: Vec<PartitionModel>,
}

/// A record that was sent, perhaps more than once.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Its timestamp, as sent.
    pub timestamp_ms: i64,
    /// Whether it may stand at several offsets.
    pub may_repeat: bool,
    /// The producer, and the record's place in what that producer sent.
    pub producer: (usize, u64),
    /// Where it was seen or acknowledged first.
    pub offset: Option<i64>,
}

/// A record at its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The record's number.
    pub uid: u64,
    /// Its timestamp as stored, once it was read.
    pub timestamp_ms: Option<i64>,
    /// The leader epoch of its batch, once it was read.
    pub epoch: Option<i32>,
}

/// A partition.
#[derive(Debug, Default)]
pub struct PartitionModel {
    /// Records that were sent, by their numbers.
    pub sent: BTreeMap<u64, Sent>,
    /// Records that were acknowledged or read.
    pub slots: BTreeMap<i64, Slot>,
    /// The high watermark is at least this.
    pub end_floor: i64,
    /// The log starts here or behind.
    pub start_floor: i64,
    /// The furthest start that anybody asked for.
    pub start_asked_max: i64,
    /// The bounds that each run of a process has told. A follower, and a leader that does not know yet that it was deposed, tell
    /// older ones than others, but never older ones than they told before.
    told: BTreeMap<u64, Floor>,
}

/// The bounds of a partition as they were known when a request was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Floor {
    /// Of the high watermark.
    pub end: i64,
    /// Of the log's start.
    pub start: i64,
}

/// What is known of one group's offset of one partition; -1 while there is none.
#[derive(Debug)]
pub struct Committed {
    /// The last one that was acknowledged.
    pub acknowledged: i64,
    /// The last one that was sent.
    pub sent: i64,
    /// What each run of a process has acknowledged or told.
    told: BTreeMap<u64, i64>,
}

impl Committed {
    /// What a run of a process must know.
    pub fn told_by(&self, run: u64) -> i64 {
        self.told.get(&run).copied().unwrap_or(-1)
    }

    /// A run of a process acknowledged or told an offset.
    pub fn on_told(&mut self, run: u64, offset: i64) {
        let told = self.told.entry(run).or_insert(-1);
        *told = offset.max(*told);
    }
}

impl Default for Committed {
    fn default() -> Committed {
        Committed { acknowledged: -1, sent: -1, told: BTreeMap::new() }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct Model {
    /// By [`TopicRef`].
    pub topics: Vec<TopicModel>,
    /// By consumer group, topic and partition.
    pub committed: BTreeMap<(String, TopicRef, i32), Committed>,
    /// The newest generation that a member of a consumer group has heard of.
    pub generations: BTreeMap<String, i32>,
    /// When there were enough in-sync replicas.
    pub quorums: Quorums,
    /// Producer ids that were given out.
    pub producer_ids: BTreeSet<i64>,
    next_uid: u64,
    /// How many records were acknowledged.
    pub acknowledged_records: u64,
}

impl Model {
    /// Topics of this stage.
    pub fn topics_in(&self, life: Life) -> Vec<TopicRef> {
        let topics = self.topics.iter().enumerate().filter(|(_, topic)| topic.life == life);
        topics.map(|(number, _)| TopicRef(number)).collect()
    }

    /// A topic.
    pub fn topic(&mut self, topic: TopicRef) -> &mut TopicModel {
        &mut self.topics[topic.0]
    }

    /// A partition.
    pub fn partition(&mut self, topic: TopicRef, partition: i32) -> &mut PartitionModel {
        let index = usize::try_from(partition).expect("a partition's number is not negative");
        &mut self.topics[topic.0].partitions[index]
    }

    /// The number of a record that is about to be sent.
    pub fn next_uid(&mut self) -> u64 {
        self.next_uid += 1;
        self.next_uid
    }

    /// What a run of a process has told of a partition; of none in particular, what is known of it at all.
    pub fn floor_at(&mut self, topic: TopicRef, partition: i32, run: Option<u64>) -> Floor {
        match run {
            Some(run) => self.partition(topic, partition).told.get(&run).copied().unwrap_or_default(),
            None => self.floor(topic, partition),
        }
    }

    /// What is known of a partition now.
    pub fn floor(&mut self, topic: TopicRef, partition: i32) -> Floor {
        let partition = self.partition(topic, partition);
        Floor { end: partition.end_floor, start: partition.start_floor }
    }

    /// A node acknowledged a batch of records at this offset; `is_committed` says whether that is a promise.
    pub fn on_acknowledged(
        &mut self,
        (topic, partition): (TopicRef, i32),
        run: u64,
        base: i64,
        uids: &[u64],
        is_committed: bool,
    ) {
        self.acknowledged_records += uids.len() as u64;
        if !is_committed {
            return;
        }
        let name = self.topic(topic).name.clone();
        let found = self.partition(topic, partition);
        for (offset, uid) in (base..).zip(uids) {
            found.place(&name, partition, offset, Slot { uid: *uid, timestamp_ms: None, epoch: None });
        }
        let end = base + uids.len() as i64;
        found.end_floor = found.end_floor.max(end);
        let told = found.told.entry(run).or_default();
        told.end = told.end.max(end);
    }

    /// A node told both ends of a log, to which `floor` applied when it was asked.
    pub fn on_watermarks(
        &mut self,
        (topic, partition): (TopicRef, i32),
        run: u64,
        floor: Floor,
        start: i64,
        end: i64,
    ) {
        let (name, has_retention) = (self.topic(topic).name.clone(), self.topic(topic).has_retention);
        let found = self.partition(topic, partition);
        assert!(
            end >= floor.end,
            "{name}-{partition}: the high watermark went back from {} to {end}",
            floor.end
        );
        assert!(
            start >= floor.start,
            "{name}-{partition}: the log start went back from {} to {start}",
            floor.start
        );
        assert!(start <= end, "{name}-{partition}: the log starts at {start}, behind its end {end}");
        assert!(
            has_retention || start <= found.start_asked_max,
            "{name}-{partition}: the log starts at {start}, though nobody asked for more than {}",
            found.start_asked_max
        );
        found.end_floor = found.end_floor.max(end);
        found.start_floor = found.start_floor.max(start);
        let told = found.told.entry(run).or_default();
        *told = Floor { end: told.end.max(end), start: told.start.max(start) };
    }

    /// Checks batches that were read from `offset` on, and returns where to read on.
    pub fn on_read(
        &mut self,
        topic: TopicRef,
        partition: i32,
        offset: i64,
        end: i64,
        records: &Bytes,
    ) -> i64 {
        let (name, has_append_time) = (self.topic(topic).name.clone(), self.topic(topic).has_append_time);
        let place = format!("{name}-{partition}");
        let found = self.partition(topic, partition);
        let mut next: Option<i64> = None;
        for read in batch::batches(records) {
            let (header, range) = read.unwrap_or_else(|error| panic!("{place}: unreadable batch: {error}"));
            let bytes = records.slice(range);
            batch::check_crc(&header, &bytes).unwrap_or_else(|error| panic!("{place}: {error}"));
            let (base, last) = (header.base_offset.0, header.last_offset().0);
            match next {
                None => assert!(
                    base <= offset && offset <= last,
                    "{place}: asked for offset {offset}, got a batch from {base} to {last}"
                ),
                Some(next) => assert_eq!(base, next, "{place}: batches leave a gap"),
            }
            assert!(last < end, "{place}: offset {last} was served, but the high watermark is {end}");
            let walk = batch::records(&header, &bytes, DECOMPRESSED_BYTES_MAX);
            let mut expected = base;
            for record in walk.unwrap_or_else(|error| panic!("{place}: {error}")) {
                let record = record.unwrap_or_else(|error| panic!("{place}: {error}"));
                assert_eq!(record.offset.0, expected, "{place}: records leave a gap");
                expected += 1;
                let value =
                    record.value.as_ref().unwrap_or_else(|| panic!("{place}: a record without a value"));
                let uid = check_value(value)
                    .unwrap_or_else(|| panic!("{place}: damaged value at {}", record.offset));
                let sent = found.sent.get(&uid);
                let sent = sent.unwrap_or_else(|| panic!("{place}: record {uid} was never sent there"));
                assert!(
                    has_append_time || record.timestamp == sent.timestamp_ms,
                    "{place}: record {uid} was sent with timestamp {}, and has {}",
                    sent.timestamp_ms,
                    record.timestamp
                );
                let timestamp_ms = Some(record.timestamp);
                let epoch = Some(header.partition_leader_epoch);
                found.place(&name, partition, record.offset.0, Slot { uid, timestamp_ms, epoch });
            }
            assert_eq!(expected, last + 1, "{place}: a batch lacks records");
            next = Some(last + 1);
        }
        next.unwrap_or(offset)
    }
}

impl PartitionModel {
    /// A record was seen at an offset.
    fn place(&mut self, name: &str, partition: i32, offset: i64, seen: Slot) {
        let uid = seen.uid;
        let slot = self.slots.entry(offset).or_insert(seen);
        assert_eq!(
            slot.uid, uid,
            "{name}-{partition}: offset {offset} held record {} and now holds record {uid}",
            slot.uid
        );
        assert!(
            slot.timestamp_ms.is_none()
                || seen.timestamp_ms.is_none()
                || slot.timestamp_ms == seen.timestamp_ms,
            "{name}-{partition}: the timestamp at {offset} was {:?} and is now {:?}",
            slot.timestamp_ms,
            seen.timestamp_ms
        );
        slot.timestamp_ms = slot.timestamp_ms.or(seen.timestamp_ms);
        assert!(
            slot.epoch.is_none() || seen.epoch.is_none() || slot.epoch == seen.epoch,
            "{name}-{partition}: the epoch at {offset} was {:?} and is now {:?}",
            slot.epoch,
            seen.epoch
        );
        slot.epoch = slot.epoch.or(seen.epoch);
        let sent = self.sent.get_mut(&uid);
        let sent = sent.unwrap_or_else(|| panic!("{name}-{partition}: record {uid} was never sent there"));
        let first = *sent.offset.get_or_insert(offset);
        assert!(
            first == offset || sent.may_repeat,
            "{name}-{partition}: record {uid} stands at {first} and at {offset}"
        );
    }

    /// The first record at `timestamp_ms` or later among `[start, end)`, all of which were read: (timestamp, offset).
    pub fn scan(&self, start: i64, end: i64, timestamp_ms: i64) -> Option<(i64, i64)> {
        let mut records = self.slots.range(start..end);
        let found = records.find(|(_, slot)| slot.timestamp_ms.is_some_and(|time| time >= timestamp_ms));
        found.and_then(|(offset, slot)| slot.timestamp_ms.map(|time| (time, *offset)))
    }

    /// Checks that each idempotent producer's records stand in the order in which it sent them.
    pub fn assert_order(&self, place: &str) {
        let mut last: BTreeMap<usize, (u64, i64)> = BTreeMap::new();
        for sent in self.sent.values().filter(|sent| !sent.may_repeat) {
            let (producer, order) = sent.producer;
            let Some(offset) = sent.offset else { continue };
            if let Some((before, at)) = last.insert(producer, (order, offset)) {
                assert!(
                    before < order && at < offset,
                    "{place}: producer {producer} sent {before}, then {order}; they stand at {at} and {offset}"
                );
            }
        }
    }
}

/// The value of a record.
pub fn value_of(uid: u64, length: usize) -> Vec<u8> {
    assert!(length >= VALUE_HEAD_BYTES, "a value has a head");
    let mut value = Vec::with_capacity(length);
    value.extend_from_slice(&uid.to_be_bytes());
    value.extend_from_slice(&(length as u64).to_be_bytes());
    let period = filler(uid);
    while value.len() < length {
        let rest = length - value.len();
        value.extend_from_slice(&period[..rest.min(PATTERN_PERIOD)]);
    }
    value
}

fn filler(uid: u64) -> [u8; PATTERN_PERIOD] {
    std::array::from_fn(|at| (uid as usize * 31 + at * 7) as u8)
}

/// The number of the record whose value this is; `None` for what is no such value.
pub fn check_value(value: &[u8]) -> Option<u64> {
    let uid = u64::from_be_bytes(value.get(..8)?.try_into().ok()?);
    let length = u64::from_be_bytes(value.get(8..VALUE_HEAD_BYTES)?.try_into().ok()?);
    let period = filler(uid);
    let is_whole = length == value.len() as u64
        && value[VALUE_HEAD_BYTES..].chunks(PATTERN_PERIOD).all(|chunk| *chunk == period[..chunk.len()]);
    is_whole.then_some(uid)
}
