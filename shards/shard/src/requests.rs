//! What the owner of a group does for a request.

use broker::{
    ActiveProducer, FetchItem, FetchOp, FetchedPartition, ListOffsetsOp, OpResult, OpToken, PartitionError,
    ProduceOp,
};
use bytes::Bytes;
use metadata::MetadataImage;
use partition::{Position, ReadError, TimestampPosition};
use protocol::messages::ErrorCode;
use types::limits::{READS_PER_FETCH_MAX, STALLED_BYTES_MAX, WAL_FLUSH_BYTES_MAX};
use types::mutants::{Mutant, is_planted};
use types::{GroupId, Now, Offset, ShardId};

use crate::catch_up::is_newcomer;
use crate::partition_host::{Asker, PartitionHost};
use crate::reads::{self, FetchJob, Read, Want};
use crate::shard::{FetchWait, Hosted, Shard};

/// Kafka's marks in place of a timestamp (`ListOffsetsRequest`).
mod mark {
    pub const LATEST: i64 = -1;
    pub const EARLIEST: i64 = -2;
    pub const MAX_TIMESTAMP: i64 = -3;
    pub const EARLIEST_LOCAL: i64 = -4;
    pub const LATEST_TIERED: i64 = -5;
    pub const EARLIEST_PENDING_UPLOAD: i64 = -6;
}

/// "There is none", in the answer of ListOffsets.
const NO_OFFSET: (i64, i64, i32) = (-1, -1, -1);

/// What one partition gave to a fetch at once.
enum Fetched {
    Now(FetchedPartition),
    FromDisk(Read, FetchedPartition),
}

impl Shard {
    /// The partition of a group that this node serves, or the error that says why it does not.
    fn serving(&mut self, group: GroupId) -> Result<&mut PartitionHost, PartitionError> {
        match self.hosted.get_mut(&group).and_then(Hosted::partition) {
            Some((_, host)) if host.role.serving => Ok(host),
            Some((_, host)) => Err(host.not_leader()),
            None => Err(not_hosted(&self.image, group).into()),
        }
    }

    /// The partition of a group that a fetch may read here: that of its leader, which may not serve yet and then knows what any
    /// replica does, or of a replica that has a leader and is not only being filled: another one that was here before may have told
    /// readers more than it has.
    fn readable(&mut self, item: &FetchItem) -> Result<&mut PartitionHost, PartitionError> {
        let node = self.node;
        match self.hosted.get_mut(&item.group).and_then(Hosted::partition) {
            Some((raft, host)) => match host.role.leader {
                Some(leader) if leader == node || (item.may_follow && !is_newcomer(raft)) => Ok(host),
                _ => Err(host.not_leader()),
            },
            None => Err(not_hosted(&self.image, item.group).into()),
        }
    }

    pub(crate) fn on_produce(&mut self, now: Now, asker: Asker, op: ProduceOp) {
        if !self.stalled.is_empty() || !self.wal.has_room(op.batch.len()) {
            let is_too_much = self.stalled_bytes + op.batch.len() > STALLED_BYTES_MAX;
            if self.is_out_of_space() || self.is_shutting_down || is_too_much {
                return self.refuse(asker, &op, ErrorCode::KafkaStorageError);
            }
            self.stalled_bytes += op.batch.len();
            return self.stalled.push_back((asker, op));
        }
        self.append(now, asker, op);
    }

    /// Gives a batch that the WAL has room for to its group.
    pub(crate) fn propose(&mut self, now: Now, asker: Asker, op: ProduceOp) {
        let group = op.group;
        let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else {
            let error = not_hosted(&self.image, group).into();
            return self.answers.push((asker, OpResult::Produce(Err(error))));
        };
        let undriven_before = host.undriven_bytes;
        let answer = host.produce(now, raft, asker, op);
        self.wal.on_proposed(host.undriven_bytes - undriven_before);
        let is_much = host.undriven_bytes >= WAL_FLUSH_BYTES_MAX;
        self.answers.extend(answer);
        self.dirty.insert(group);
        if is_much {
            // What one group is given in a turn must fit one flush.
            self.dirty.remove(&group);
            self.drive(now, group);
        }
    }

    /// Whether room in the WAL will not come by itself: no file can be made, or what would free one cannot be written.
    fn is_out_of_space(&self) -> bool {
        self.wal.is_out_of_space() || self.disk.is_out_of_space()
    }

    /// Nothing is appended any more: batches that wait for room are refused.
    pub(crate) fn refuse_stalled(&mut self) {
        self.stalled_bytes = 0;
        for (asker, op) in std::mem::take(&mut self.stalled) {
            self.refuse(asker, &op, ErrorCode::KafkaStorageError);
        }
    }

    /// Nothing is appended; the client may try again.
    pub(crate) fn refuse(&mut self, asker: Asker, op: &ProduceOp, error: ErrorCode) {
        if let Some((_, host)) = self.hosted.get_mut(&op.group).and_then(Hosted::partition) {
            host.partition.on_refused(&op.header);
        }
        self.answers.push((asker, OpResult::Produce(Err(error.into()))));
    }

    /// Batches that waited for room in the WAL.
    pub(crate) fn retry_stalled(&mut self, now: Now) {
        while let Some((_, op)) = self.stalled.front() {
            let (group, bytes) = (op.group, op.batch.len());
            let has_room = self.wal.has_room(bytes);
            let is_too_early = match has_room {
                true => self.must_wait(group, bytes) && !self.may_wait(group, bytes),
                false => !self.is_out_of_space(),
            };
            if is_too_early {
                return;
            }
            let (asker, op) = self.stalled.pop_front().expect("it was just seen");
            self.stalled_bytes -= op.batch.len();
            match has_room {
                true => self.append(now, asker, op),
                false => self.refuse(asker, &op, ErrorCode::KafkaStorageError),
            }
        }
    }

    pub(crate) fn on_fetch(&mut self, asker: Asker, op: &FetchOp) {
        let mut results = Vec::with_capacity(op.items.len());
        let mut from_disk = Vec::new();
        let mut bytes_left = op.max_bytes;
        let mut found_any = false;
        let job = self.disk.next_job();
        for item in op.items.iter() {
            // Where no more is read from the disk, what is there may still go to the others.
            let may_read = from_disk.len() < READS_PER_FETCH_MAX;
            match self.fetch_one(job, item, bytes_left, found_any, may_read) {
                Fetched::Now(fetched) => {
                    let bytes = fetched.records.iter().map(Bytes::len).sum::<usize>();
                    found_any |= bytes > 0;
                    bytes_left = bytes_left.saturating_sub(bytes);
                    results.push(fetched);
                }
                Fetched::FromDisk(read, fetched) => {
                    found_any = true;
                    bytes_left = bytes_left.saturating_sub(item.max_bytes);
                    from_disk.push(read);
                    results.push(fetched);
                }
            }
        }
        if !from_disk.is_empty() {
            self.disk.begin_job(job, FetchJob { asker, results, reads_under_way: from_disk.len() });
            for read in from_disk {
                self.begin_read(read);
            }
            return;
        }
        let waiting = op.wait && self.wait_for_more(asker, op, &results);
        self.answers.push((asker, OpResult::Fetch { partitions: results, waiting }));
    }

    fn fetch_one(
        &mut self,
        job: u64,
        item: &FetchItem,
        bytes_left: usize,
        found_any: bool,
        may_read: bool,
    ) -> Fetched {
        let mut fetched = FetchedPartition {
            slot: item.slot,
            error: None,
            high_watermark: -1,
            log_start: -1,
            diverging: None,
            records: Vec::new(),
        };
        let host = match self.readable(item) {
            Ok(host) => host,
            Err(error) => {
                fetched.error = Some(error);
                return Fetched::Now(fetched);
            }
        };
        let partition = &host.partition;
        fetched.high_watermark = match is_planted(Mutant::ServeBeyondHighWatermark) {
            true => partition.next_offset().0,
            false => partition.high_watermark().0,
        };
        fetched.log_start = partition.log_start().0;
        if let Err(error) = partition.check_epoch(item.current_leader_epoch, host.role.term) {
            fetched.error = Some(PartitionError { leader: host.not_leader().leader, ..error.into() });
            return Fetched::Now(fetched);
        }
        // Where the client has more than this replica knows of, that is no sign of another log.
        if host.role.serving
            && let Some(diverging) = diverging_epoch(host, item)
        {
            fetched.diverging = Some(diverging);
            return Fetched::Now(fetched);
        }
        let max_bytes = item.max_bytes.min(bytes_left);
        match partition.locate(item.offset) {
            // A follower may not know yet what its leader has told the client.
            Err(ReadError::OutOfRange { offset, high_watermark, .. })
                if !host.role.serving && offset > high_watermark =>
            {
                Fetched::Now(fetched)
            }
            Err(error) => {
                fetched.error = Some(error.into());
                Fetched::Now(fetched)
            }
            Ok(Position::End) => Fetched::Now(fetched),
            Ok(_) if bytes_left == 0 && found_any => Fetched::Now(fetched),
            Ok(Position::Memory) => {
                fetched.records = partition.read_memory(item.offset, max_bytes);
                // The first batch of a partition may be larger than what is left, and then only as the first of all.
                let bytes: usize = fetched.records.iter().map(Bytes::len).sum();
                if bytes > bytes_left && found_any {
                    fetched.records.clear();
                }
                Fetched::Now(fetched)
            }
            Ok(Position::Disk(_)) if !may_read => Fetched::Now(fetched),
            Ok(Position::Disk(segment)) => {
                let limit = partition.high_watermark();
                let want = Want::Fetch { job, slot: item.slot, limit, max_bytes };
                Fetched::FromDisk(Read::new(item.group, want, item.offset, segment), fetched)
            }
        }
    }

    /// Registers a fetch that found too little; `false` when it should be answered as it is.
    fn wait_for_more(&mut self, asker: Asker, op: &FetchOp, results: &[FetchedPartition]) -> bool {
        let bytes: usize = results.iter().flat_map(|fetched| &fetched.records).map(Bytes::len).sum();
        if bytes >= op.min_bytes || results.iter().any(|f| f.error.is_some() || f.diverging.is_some()) {
            return false;
        }
        let key = (asker.shard, asker.token.request);
        let groups: Vec<GroupId> = op.items.iter().map(|item| item.group).collect();
        for item in op.items.iter() {
            if let Ok(host) = self.readable(item) {
                host.fetch_waits.insert(key);
            }
        }
        let missing_bytes = op.min_bytes - bytes;
        self.fetch_waits.insert(key, FetchWait { groups, missing_bytes, token: asker.token });
        true
    }

    pub(crate) fn cancel_fetch_wait(&mut self, key: (ShardId, u64)) -> Option<OpToken> {
        let wait = self.fetch_waits.remove(&key)?;
        for group in &wait.groups {
            if let Some((_, host)) = self.hosted.get_mut(group).and_then(Hosted::partition) {
                host.fetch_waits.remove(&key);
            }
        }
        Some(wait.token)
    }

    /// Bytes were committed to a partition: fetches that waited for as many go on.
    pub(crate) fn wake_fetches(&mut self, group: GroupId, bytes: usize) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let mut woken = Vec::new();
        for key in &host.fetch_waits {
            let wait = self.fetch_waits.get_mut(key).expect("a registered wait is known");
            wait.missing_bytes = wait.missing_bytes.saturating_sub(bytes);
            if wait.missing_bytes == 0 {
                woken.push(*key);
            }
        }
        for key in woken {
            self.wake(key);
        }
    }

    fn wake(&mut self, key: (ShardId, u64)) {
        if let Some(token) = self.cancel_fetch_wait(key) {
            self.answers.push((Asker { shard: key.0, token }, OpResult::FetchWake));
        }
    }

    /// The partition is going away: whoever waits hears of it.
    pub(crate) fn abandon(&mut self, group: GroupId, host: &mut PartitionHost) {
        let mut written = Vec::new();
        host.on_resigned(&mut self.answers, &mut written);
        for key in std::mem::take(&mut host.fetch_waits) {
            self.wake(key);
        }
        if let Some(mut coordinator) = host.coordinator.take() {
            self.coordinators.remove(&group);
            let mut actions = Vec::new();
            coordinator.coordinator.on_resigned(&mut actions);
            self.answer_resigned(&mut coordinator, actions);
        }
        for read in std::mem::take(&mut host.waiting_reads) {
            self.fail_read_unhosted(read);
        }
    }

    pub(crate) fn on_list_offsets(&mut self, asker: Asker, op: ListOffsetsOp) {
        let result = match self.serving(op.group) {
            Ok(host) => list_offsets(host, op),
            Err(error) => Err(error),
        };
        match result {
            Ok(Lookup::Known(found)) => self.answers.push((asker, OpResult::ListOffsets(Ok(found)))),
            Ok(Lookup::Search { timestamp_ms, from }) => {
                self.search_timestamp(asker, op.group, timestamp_ms, from)
            }
            Err(error) => self.answers.push((asker, OpResult::ListOffsets(Err(error)))),
        }
    }

    /// Looks for the first record at `timestamp_ms` or later, at `from` or behind.
    pub(crate) fn search_timestamp(
        &mut self,
        asker: Asker,
        group: GroupId,
        timestamp_ms: i64,
        mut from: Offset,
    ) {
        loop {
            let host = match self.serving(group) {
                Ok(host) => host,
                Err(error) => return self.answers.push((asker, OpResult::ListOffsets(Err(error)))),
            };
            match host.partition.locate_timestamp(timestamp_ms, from) {
                TimestampPosition::Nowhere => {
                    return self.answers.push((asker, OpResult::ListOffsets(Ok(NO_OFFSET))));
                }
                TimestampPosition::Disk(segment) => {
                    let want = Want::Timestamp { asker, timestamp_ms };
                    return self.begin_read(Read::new(group, want, from, segment));
                }
                TimestampPosition::Memory(batch) => {
                    let start = from.max(host.partition.log_start());
                    match self.answer_timestamp(asker, group, timestamp_ms, start, &batch) {
                        Some(next) => from = next,
                        None => return,
                    }
                }
            }
        }
    }

    /// Answers with the first record of that age in a batch; if it has none, returns where to go on.
    pub(crate) fn answer_timestamp(
        &mut self,
        asker: Asker,
        group: GroupId,
        timestamp_ms: i64,
        from: Offset,
        batch: &Bytes,
    ) -> Option<Offset> {
        let result = match reads::find_timestamp(batch, timestamp_ms, from) {
            Ok(Some((timestamp, offset))) => {
                let epoch = self
                    .serving(group)
                    .ok()
                    .and_then(|host| host.partition.epochs().epoch_at(Offset(offset)));
                Ok((timestamp, offset, epoch.unwrap_or(-1)))
            }
            Ok(None) => {
                let header = protocol::batch::BatchHeader::parse(batch).expect("it was just read");
                return Some(header.next_offset());
            }
            Err(_) => Err(ErrorCode::CorruptMessage.into()),
        };
        self.answers.push((asker, OpResult::ListOffsets(result)));
        None
    }

    pub(crate) fn offset_for_leader_epoch(
        &mut self,
        group: GroupId,
        current_leader_epoch: i32,
        leader_epoch: i32,
    ) -> Result<(i32, i64), PartitionError> {
        let host = self.serving(group)?;
        host.partition.check_epoch(current_leader_epoch, host.role.term)?;
        let end = host.partition.epochs().end_of(leader_epoch, host.partition.high_watermark());
        Ok(end.map_or((-1, -1), |(epoch, offset)| (epoch, offset.0)))
    }

    pub(crate) fn on_delete_records(&mut self, now: Now, asker: Asker, group: GroupId, offset: i64) {
        let result = match self.hosted.get_mut(&group).and_then(Hosted::partition) {
            None => Err(not_hosted(&self.image, group).into()),
            Some((raft, host)) => {
                let offset = match offset {
                    -1 => host.partition.high_watermark(),
                    offset => Offset(offset),
                };
                host.move_log_start(now, raft, offset, Some(asker))
            }
        };
        match result {
            Ok(()) => {
                self.dirty.insert(group);
            }
            Err(error) => self.answers.push((asker, OpResult::DeleteRecords(Err(error)))),
        }
    }

    pub(crate) fn describe_producers(
        &mut self,
        group: GroupId,
    ) -> Result<Vec<ActiveProducer>, PartitionError> {
        let host = self.serving(group)?;
        let active = host.partition.producers().into_iter().map(|(id, state)| ActiveProducer {
            id,
            epoch: state.epoch,
            last_sequence: state.batches.back().map_or(-1, |batch| batch.last_sequence),
            last_timestamp_ms: state.batches.back().map_or(-1, |batch| batch.timestamp_ms),
        });
        Ok(active.collect())
    }
}

/// The error of a node that has no replica of a group: its partition is elsewhere, or deleted.
pub(crate) fn not_hosted(image: &MetadataImage, group: GroupId) -> ErrorCode {
    match image.partition_of_group(group) {
        Some(_) => ErrorCode::NotLeaderOrFollower,
        None => ErrorCode::UnknownTopicOrPartition,
    }
}

/// Where a consumer's log parts from this one (KIP-595): the last record it has must be of the epoch it says.
fn diverging_epoch(host: &PartitionHost, item: &FetchItem) -> Option<(i32, i64)> {
    if item.last_fetched_epoch < 0 {
        return None;
    }
    let partition = &host.partition;
    let (epoch, end) = partition.epochs().end_of(item.last_fetched_epoch, partition.high_watermark())?;
    (epoch < item.last_fetched_epoch || end < item.offset).then_some((epoch, end.0))
}

enum Lookup {
    Known((i64, i64, i32)),
    Search { timestamp_ms: i64, from: Offset },
}

fn list_offsets(host: &PartitionHost, op: ListOffsetsOp) -> Result<Lookup, PartitionError> {
    let partition = &host.partition;
    partition.check_epoch(op.current_leader_epoch, host.role.term)?;
    let log_start = partition.log_start();
    Ok(match op.timestamp {
        mark::LATEST => Lookup::Known((-1, partition.high_watermark().0, host.role.term.leader_epoch())),
        mark::EARLIEST | mark::EARLIEST_LOCAL => {
            Lookup::Known((-1, log_start.0, partition.epochs().epoch_at(log_start).unwrap_or(-1)))
        }
        // Nothing is tiered.
        mark::LATEST_TIERED | mark::EARLIEST_PENDING_UPLOAD => Lookup::Known(NO_OFFSET),
        mark::MAX_TIMESTAMP => match partition.max_timestamp_ms() {
            Some(timestamp_ms) => Lookup::Search { timestamp_ms, from: log_start },
            None => Lookup::Known(NO_OFFSET),
        },
        timestamp_ms if timestamp_ms < 0 => return Err(ErrorCode::UnsupportedVersion.into()),
        timestamp_ms => Lookup::Search { timestamp_ms, from: log_start },
    })
}
