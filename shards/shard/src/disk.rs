//! Work on segments: committed batches are written to them in the background, readers are served from them, old ones go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use broker::OpResult;
use bytes::Bytes;
use log::segment::{RetentionConfig, RollConfig};
use log::wal::Record;
use metadata::TopicConfig;
use partition::{FlushPlan, IndexRestore, NextFlush, Position};
use protocol::messages::ErrorCode;
use types::limits::{
    READ_BYTES_UNDER_WAY_MAX, SEGMENT_CHUNK_BYTES, SEGMENT_WRITE_BYTES_MAX, TAIL_CACHE_BYTES_MAX,
};
use types::mutants::{Mutant, is_planted};
use types::{GroupId, Now, Offset};

use crate::event::{DiskAnswer, DiskError, DiskRequest, DiskToken, Effect, FatalReason};
use crate::partition_host::{Asker, Folder};
use crate::reads::{FetchJob, Progress, Read, Want};
use crate::requests::not_hosted;
use crate::shard::{Hosted, Shard};
use crate::wal::Unit;

/// Segment writes under way at once: enough to keep a device busy, few enough to leave it to the WAL.
const FLUSHES_MAX: usize = 4;

/// How long to wait before a write is tried again on a full file system.
const NO_SPACE_RETRY_MS: i64 = 1_000;

/// How long committed batches wait for company before they are written to their segment all the same. It bounds what a
/// restart reads from the WAL, and how long other tools wait to see them.
const LINGER_MS: i64 = 10_000;

/// Partitions that have lingered are written out one after the other, so that the WAL's writes never wait for many: those that
/// are due share `LINGERED_SPREAD_US`, each anew when its turn comes, with bounds for how far apart two begin.
const LINGERED_SPREAD_US: u64 = 2_000_000;
const LINGERED_DISTANCE_US_MIN: u64 = 12_500;
const LINGERED_DISTANCE_US_MAX: u64 = 250_000;

/// The size of an index file at which a segment is full (Kafka's `segment.index.bytes`).
const INDEX_BYTES_MAX: u32 = 10 * 1024 * 1024;

/// What a disk request is for.
enum Purpose {
    Flush(GroupId),
    RestoreIndex(GroupId),
    /// With the bytes it may bring.
    Read(Read, usize),
    CreateFolder(GroupId),
    RemoveFolder(GroupId),
    RemoveSegments(GroupId, Vec<Offset>),
    MeasureSpace(Asker),
}

impl Purpose {
    fn group(&self) -> GroupId {
        match self {
            Purpose::Flush(group)
            | Purpose::RestoreIndex(group)
            | Purpose::CreateFolder(group)
            | Purpose::RemoveFolder(group)
            | Purpose::RemoveSegments(group, _) => *group,
            Purpose::Read(read, _) => read.group,
            Purpose::MeasureSpace(_) => GroupId::METADATA,
        }
    }
}

/// Disk requests under way, and what waits to become one.
pub(crate) struct DiskWork {
    next_token: u64,
    under_way: BTreeMap<DiskToken, Purpose>,
    next_job: u64,
    jobs: BTreeMap<u64, FetchJob>,
    /// What reads under way may bring.
    reading_bytes: usize,
    /// Reads that wait for others to end. Fetches that brought them have their share of the memory for responses.
    waiting_reads: VecDeque<Read>,
    /// Partitions with enough to write, or whose WAL file is wanted.
    flush_wanted: BTreeSet<GroupId>,
    flushes_under_way: usize,
    /// Partitions with batches that are in no segment, and when they have waited long enough, soonest first.
    lingering: VecDeque<(u64, GroupId)>,
    /// When the next of them may be written.
    lingered_ready_us: u64,
    /// Flushed batches in memory, oldest first, and their bytes.
    cached: VecDeque<(GroupId, usize)>,
    cached_bytes: usize,
    retry_at_us: Option<u64>,
    retry: BTreeSet<GroupId>,
    retry_folders: BTreeSet<GroupId>,
    /// Replicas whose files could not be removed for lack of space.
    retry_removals: BTreeSet<GroupId>,
    retention_interval_ms: i64,
    retention_at_us: u64,
}

impl DiskWork {
    pub(crate) fn new(now: Now, retention_interval_ms: i64) -> DiskWork {
        DiskWork {
            next_token: 0,
            under_way: BTreeMap::new(),
            next_job: 0,
            jobs: BTreeMap::new(),
            reading_bytes: 0,
            waiting_reads: VecDeque::new(),
            flush_wanted: BTreeSet::new(),
            flushes_under_way: 0,
            lingering: VecDeque::new(),
            lingered_ready_us: 0,
            cached: VecDeque::new(),
            cached_bytes: 0,
            retry_at_us: None,
            retry: BTreeSet::new(),
            retry_folders: BTreeSet::new(),
            retry_removals: BTreeSet::new(),
            retention_interval_ms,
            retention_at_us: now.after_ms(retention_interval_ms),
        }
    }

    pub(crate) fn next_deadline_us(&self) -> Option<u64> {
        let lingered = self.lingering.front().map(|(at_us, _)| self.lingered_ready_us.max(*at_us));
        [Some(self.retention_at_us), self.retry_at_us, lingered].into_iter().flatten().min()
    }

    /// Whether a segment write waits for space.
    pub(crate) fn is_out_of_space(&self) -> bool {
        !self.retry.is_empty()
    }

    pub(crate) fn next_job(&mut self) -> u64 {
        self.next_job += 1;
        self.next_job
    }

    pub(crate) fn begin_job(&mut self, number: u64, job: FetchJob) {
        self.jobs.insert(number, job);
    }

    /// Whether so much more may be read at once; one read always may.
    fn may_read(&self, bytes: usize) -> bool {
        self.reading_bytes == 0 || self.reading_bytes + bytes <= READ_BYTES_UNDER_WAY_MAX
    }

    /// Whether a request for a group is under way or waits.
    pub(crate) fn is_busy_with(&self, group: GroupId) -> bool {
        self.under_way.values().any(|purpose| purpose.group() == group)
            || self.waiting_reads.iter().any(|read| read.group == group)
    }

    fn register(&mut self, purpose: Purpose) -> DiskToken {
        let token = DiskToken(self.next_token);
        self.next_token += 1;
        self.under_way.insert(token, purpose);
        token
    }
}

impl DiskWork {
    /// The partition's batches are to be written soon, however few they are.
    pub(crate) fn want_flush(&mut self, group: GroupId) {
        self.flush_wanted.insert(group);
    }
}

impl Shard {
    fn submit(&mut self, purpose: Purpose, request: DiskRequest) {
        let token = self.disk.register(purpose);
        self.effects.push(Effect::Disk { token, request });
    }

    pub(crate) fn measure_space(&mut self, asker: Asker) {
        self.submit(Purpose::MeasureSpace(asker), DiskRequest::MeasureSpace);
    }

    /// A disk request ended.
    pub(crate) fn on_disk(&mut self, now: Now, token: DiskToken, result: Result<DiskAnswer, DiskError>) {
        let purpose = self.disk.under_way.remove(&token).expect("a disk request is answered once");
        let group = purpose.group();
        match (purpose, result) {
            (Purpose::Flush(group), Ok(_)) => self.on_segment_flushed(now, group),
            (Purpose::Flush(group), Err(DiskError::NoSpace)) => self.retry_later(now, group),
            (Purpose::CreateFolder(group), Ok(_)) => self.on_folder_created(now, group),
            (Purpose::CreateFolder(group), Err(DiskError::NoSpace)) => {
                self.disk.retry_folders.insert(group);
                self.disk.retry_at_us.get_or_insert(now.after_ms(NO_SPACE_RETRY_MS));
            }
            (Purpose::RemoveFolder(group), Ok(_)) => {
                self.wal.push(Unit::of_shard(group, vec![Record::GroupRemoved { group }], true));
            }
            (Purpose::RemoveSegments(group, segments), Ok(_)) => {
                self.on_segments_removed(now, group, &segments);
            }
            (
                Purpose::Flush(_)
                | Purpose::CreateFolder(_)
                | Purpose::RemoveFolder(_)
                | Purpose::RemoveSegments(..),
                Err(DiskError::Failed(why)),
            ) => self.fatal(FatalReason::SegmentWrite(why)),
            // There are file systems on which removing takes space.
            (Purpose::RemoveFolder(group), Err(DiskError::NoSpace)) => {
                self.disk.retry_removals.insert(group);
                self.disk.retry_at_us.get_or_insert(now.after_ms(NO_SPACE_RETRY_MS));
            }
            // The next start removes files that no checkpoint knows of.
            (Purpose::RemoveSegments(..), Err(DiskError::NoSpace)) => {}
            (Purpose::RestoreIndex(group), Ok(answer)) => self.on_index_piece(now, group, answer),
            (Purpose::RestoreIndex(group), Err(error)) => self.on_index_unreadable(group, &error),
            (Purpose::Read(read, bytes), result) => {
                self.disk.reading_bytes -= bytes;
                match result {
                    Ok(answer) => self.on_read(now, read, answer),
                    Err(_) => self.on_read_failed(read),
                }
                self.start_waiting_reads(now);
            }
            (Purpose::MeasureSpace(asker), result) => {
                let space = match result {
                    Ok(DiskAnswer::Space { total_bytes, usable_bytes }) => Some((total_bytes, usable_bytes)),
                    _ => None,
                };
                self.answers.push((asker, OpResult::Space(space)));
            }
        }
        self.watch_removal(now, group);
    }

    /// The time of [`DiskWork::next_deadline_us`] has come.
    pub(crate) fn on_disk_deadline(&mut self, now: Now) {
        if self.disk.retry_at_us.is_some_and(|at| at <= now.mono_us) {
            self.disk.retry_at_us = None;
            for group in std::mem::take(&mut self.disk.retry_folders) {
                self.create_folder(group);
            }
            for group in std::mem::take(&mut self.disk.retry_removals) {
                self.submit_removal(group);
            }
            for group in std::mem::take(&mut self.disk.retry) {
                let plan = match self.hosted.get_mut(&group).and_then(Hosted::partition) {
                    Some((_, host)) => host.partition.flush_to_retry().cloned(),
                    None => None,
                };
                if let Some(plan) = plan {
                    self.submit(Purpose::Flush(group), append_request(group, plan, true));
                }
            }
        }
        self.flush_lingering(now);
        if self.disk.retention_at_us <= now.mono_us {
            self.disk.retention_at_us = now.after_ms(self.disk.retention_interval_ms);
            self.enforce_retention(now);
            self.review_deleted_topics(now);
        }
    }

    /// The group is gone; what is under way for it ends by itself.
    pub(crate) fn forget_disk_work(&mut self, group: GroupId) {
        self.disk.flush_wanted.remove(&group);
        self.disk.retry_folders.remove(&group);
        if self.disk.retry.remove(&group) {
            self.disk.flushes_under_way -= 1;
        }
    }

    /// Batches of a partition are in no segment: they are written once there are enough of them, or after a while.
    pub(crate) fn consider_flush(&mut self, now: Now, group: GroupId) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        if host.partition.unflushed_bytes() >= SEGMENT_CHUNK_BYTES {
            self.disk.flush_wanted.insert(group);
        } else if host.partition.unflushed_bytes() > 0 && !std::mem::replace(&mut host.is_lingering, true) {
            self.disk.lingering.push_back((now.after_ms(LINGER_MS), group));
        }
    }

    /// Writes out the partition that has lingered longest, if it is time to.
    fn flush_lingering(&mut self, now: Now) {
        if now.mono_us < self.disk.lingered_ready_us {
            return;
        }
        let due = self.disk.lingering.partition_point(|(at_us, _)| *at_us <= now.mono_us);
        for _ in 0..due {
            let Some((_, group)) = self.disk.lingering.pop_front() else { return };
            let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { continue };
            host.is_lingering = false;
            if host.partition.unflushed_bytes() > 0 {
                self.disk.flush_wanted.insert(group);
                let distance_us = LINGERED_SPREAD_US / due as u64;
                self.disk.lingered_ready_us =
                    now.mono_us + distance_us.clamp(LINGERED_DISTANCE_US_MIN, LINGERED_DISTANCE_US_MAX);
                return;
            }
        }
    }

    /// The WAL file of a partition's oldest entries is wanted: they go to the segment, or are known to be there.
    pub(crate) fn force_flush(&mut self, group: GroupId) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        match host.partition.unflushed_bytes() {
            0 => self.checkpoint_partition(group),
            _ => {
                self.disk.flush_wanted.insert(group);
            }
        }
    }

    /// Starts segment writes, as many as may be under way.
    pub(crate) fn start_flushes(&mut self, now: Now) {
        while self.disk.flushes_under_way < FLUSHES_MAX {
            let Some(group) = self.disk.flush_wanted.pop_first() else { return };
            let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { continue };
            if host.folder != Folder::There {
                if host.folder != Folder::BeingMade {
                    self.create_folder(group);
                }
                continue;
            }
            let roll = roll_config(&host.topic.config);
            let bytes = host.partition.unflushed_bytes().clamp(SEGMENT_CHUNK_BYTES, SEGMENT_WRITE_BYTES_MAX);
            match host.partition.plan_flush(&roll, bytes, now.wall_ms) {
                None => {}
                Some(NextFlush::RestoreIndex) => self.restore_index(group),
                Some(NextFlush::Write(plan)) => {
                    self.disk.flushes_under_way += 1;
                    let in_a_hurry = host.catch_up.is_some() || self.wal.is_under_pressure();
                    self.submit(Purpose::Flush(group), append_request(group, plan, in_a_hurry));
                }
            }
        }
    }

    fn on_segment_flushed(&mut self, now: Now, group: GroupId) {
        self.disk.flushes_under_way -= 1;
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let (was_seal, rolls) =
            host.partition.flush_to_retry().map_or((false, false), |plan| (plan.data.is_empty(), plan.rolls));
        let bytes = host.partition.on_flushed(now.wall_ms);
        if was_seal || rolls {
            // The batches that did not fit the complete segment go to the next one at once.
            self.disk.flush_wanted.insert(group);
        }
        if was_seal {
            return self.remove_old_segments(group);
        }
        self.disk.cached.push_back((group, bytes));
        self.disk.cached_bytes += bytes;
        self.checkpoint_partition(group);
        self.evict_cached();
        self.consider_flush(now, group);
        self.remove_old_segments(group);
        self.catch_up(now, group);
    }

    /// Makes the group's folder, without which nothing is written to segments, for the first write: by then the WAL knows of the
    /// group, so that a crash leaves no folder of a group that nobody remembers. What was written to it before a crash, and
    /// is in no checkpoint, goes: where the next segments begin may have changed since.
    pub(crate) fn create_folder(&mut self, group: GroupId) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let Some(index) = host.topic.partitions.iter().position(|partition| partition.group == group) else {
            return;
        };
        host.folder = Folder::BeingMade;
        let (topic, topic_id) = (&host.topic.name, protocol::messages::kafka_uuid(host.topic.id));
        let description = format!("version: 1\ntopic: {topic}\npartition: {index}\ntopic_id: {topic_id}\n");
        let segments = host.partition.segment_files();
        let request = DiskRequest::CreateGroup { group, description, segments };
        self.submit(Purpose::CreateFolder(group), request);
    }

    /// The WAL knows of the group.
    pub(crate) fn clean_folder(&mut self, group: GroupId) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        if host.folder == Folder::Stale {
            self.create_folder(group);
        }
    }

    fn on_folder_created(&mut self, now: Now, group: GroupId) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        host.folder = Folder::There;
        // It is made for a flush.
        self.disk.flush_wanted.insert(group);
        self.start_flushes(now);
    }

    /// Removes the group's folder with all its segments, and then all that the WAL holds of it.
    pub(crate) fn submit_removal(&mut self, group: GroupId) {
        self.submit(Purpose::RemoveFolder(group), DiskRequest::RemoveGroup { group });
    }

    fn retry_later(&mut self, now: Now, group: GroupId) {
        if self.hosted.contains_key(&group) {
            self.disk.retry.insert(group);
            self.disk.retry_at_us.get_or_insert(now.after_ms(NO_SPACE_RETRY_MS));
        } else {
            self.disk.flushes_under_way -= 1;
        }
    }

    /// What is in segments need not stay in the WAL: the group's log now starts behind it.
    pub(crate) fn checkpoint_partition(&mut self, group: GroupId) {
        let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let (index, state) = host.partition.checkpoint();
        let (checkpointed, _) = raft.checkpointed();
        // What is pulled is in no entry, so it is not behind an index of its own.
        if index <= checkpointed && !host.partition.has_retired_segments() && host.catch_up.is_none() {
            return;
        }
        let mut retired_segments = host.partition.take_retired_segments();
        // The state may be newer than the index that it goes by, where segments are retired and nothing was flushed.
        let index = index.max(checkpointed);
        raft.on_checkpointed(index);
        let records = vec![raft.checkpoint_record(&state)];
        let must_sync = self.wal.is_under_pressure() || !retired_segments.is_empty();
        if is_planted(Mutant::RemoveSegmentBeforeCheckpoint) {
            self.remove_segments(group, std::mem::take(&mut retired_segments));
        }
        self.wal.push(Unit { group, number: None, records, must_sync, retired_segments });
    }

    fn evict_cached(&mut self) {
        while self.disk.cached_bytes > TAIL_CACHE_BYTES_MAX {
            let Some((group, bytes)) = self.disk.cached.pop_front() else { return };
            self.disk.cached_bytes -= bytes;
            let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else {
                continue;
            };
            // What readers no longer find in memory, followers do not either.
            if let Some(index) = host.partition.evict(bytes) {
                raft.compact(index);
            }
        }
    }

    /// Moves the start of logs that are too long or too old.
    fn enforce_retention(&mut self, now: Now) {
        let producers_before_ms = now.wall_ms - self.config.broker.producer_id_expiration_ms;
        let groups: Vec<GroupId> = self.hosted.keys().copied().collect();
        for group in groups {
            let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else {
                continue;
            };
            host.partition.expire_producers(producers_before_ms);
            let Some(retention) = retention_config(&host.topic.config) else { continue };
            if let Some(offset) = host.partition.plan_retention(&retention, now.wall_ms)
                && host.move_log_start(now, raft, offset, None).is_ok()
            {
                self.dirty.insert(group);
            }
        }
    }

    /// Segments that lie below the start of the log go, as soon as a checkpoint says that they are not needed: after a
    /// crash the log must not end in a segment whose files are gone, nor may files stay that nobody knows of.
    pub(crate) fn remove_old_segments(&mut self, group: GroupId) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let is_unknown = host.folder == Folder::Unknown;
        if is_unknown {
            // What is gone may be in files that no checkpoint knows of, and nothing may ever be written to have them looked at.
            host.folder = Folder::Stale;
        }
        if is_unknown || host.partition.has_retired_segments() {
            self.checkpoint_partition(group);
        }
    }

    /// Removes the files of retired segments, which no checkpoint will ask for.
    pub(crate) fn remove_segments(&mut self, group: GroupId, segments: Vec<Offset>) {
        if !segments.is_empty() && self.hosted.contains_key(&group) {
            let request = DiskRequest::RemoveSegments { group, segments: segments.clone() };
            self.submit(Purpose::RemoveSegments(group, segments), request);
        }
    }

    fn on_segments_removed(&mut self, now: Now, group: GroupId, segments: &[Offset]) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        host.partition.on_segments_removed(segments);
        // A flush may have waited for their names.
        self.consider_flush(now, group);
        self.catch_up(now, group);
        self.start_flushes(now);
    }

    fn restore_index(&mut self, group: GroupId) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        if !host.is_restoring_index {
            host.is_restoring_index = true;
            self.next_index_piece(group);
        }
    }

    fn next_index_piece(&mut self, group: GroupId) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let request = match host.partition.plan_index_restore() {
            Some(IndexRestore::ReadIndexes { segment }) => DiskRequest::ReadIndexes { group, segment },
            Some(IndexRestore::ReadSegment { segment, position, length }) => {
                DiskRequest::ReadSegment { group, segment, position, length }
            }
            None => {
                host.is_restoring_index = false;
                let reads = std::mem::take(&mut host.waiting_reads);
                self.disk.flush_wanted.insert(group);
                for read in reads {
                    self.relocate(read);
                }
                return;
            }
        };
        self.submit(Purpose::RestoreIndex(group), request);
    }

    fn on_index_piece(&mut self, now: Now, group: GroupId, answer: DiskAnswer) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        if host.partition.plan_index_restore().is_none() {
            // The segment was retired meanwhile; who waited for its index is told.
            self.next_index_piece(group);
            return self.start_flushes(now);
        }
        let outcome = match answer {
            DiskAnswer::Indexes { offsets, times } => {
                host.partition.on_indexes_read(&offsets, &times);
                Ok(())
            }
            DiskAnswer::Bytes(chunk) => {
                host.partition.on_rescan_read(&chunk).map_err(|error| error.to_string())
            }
            DiskAnswer::Done | DiskAnswer::Space { .. } => unreachable!("a read brings bytes"),
        };
        match outcome {
            Ok(()) => {
                self.next_index_piece(group);
                self.start_flushes(now);
            }
            Err(why) => self.fatal(FatalReason::Damaged(format!("group {group}: {why}"))),
        }
    }

    fn on_index_unreadable(&mut self, group: GroupId, error: &DiskError) {
        match self.hosted.get_mut(&group).and_then(Hosted::partition) {
            Some((_, host)) if host.partition.plan_index_restore().is_some() => {
                self.fatal(FatalReason::Damaged(format!("group {group}: {error:?}")));
            }
            // It is not needed any more.
            Some(_) => self.next_index_piece(group),
            None => {}
        }
    }

    /// Starts a read from the disk, or lets it wait for the index it needs.
    pub(crate) fn begin_read(&mut self, read: Read) {
        let group = read.group;
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else {
            return self.fail_read_unhosted(read);
        };
        if host.partition.needs_index_restore(read.segment.segment) {
            host.waiting_reads.push(read);
            return self.restore_index(group);
        }
        let bytes = read.bytes();
        if !self.disk.may_read(bytes) {
            return self.disk.waiting_reads.push_back(read);
        }
        self.disk.reading_bytes += bytes;
        let request = read.request();
        self.submit(Purpose::Read(read, bytes), request);
    }

    fn start_waiting_reads(&mut self, now: Now) {
        while self.disk.waiting_reads.front().is_some_and(|read| self.disk.may_read(read.bytes())) {
            let read = self.disk.waiting_reads.pop_front().expect("it was just seen");
            let group = read.group;
            self.begin_read(read);
            self.watch_removal(now, group);
        }
    }

    /// A segment cannot be read. Where it left the log meanwhile, with its files, the log is asked again.
    fn on_read_failed(&mut self, read: Read) {
        match self.hosted.get_mut(&read.group).and_then(Hosted::partition) {
            Some((_, host)) if !host.partition.has_segment(read.segment.segment) => self.relocate(read),
            _ => self.fail_read(read, ErrorCode::KafkaStorageError),
        }
    }

    /// Looks again where the data of a read is, which may have moved since.
    fn relocate(&mut self, read: Read) {
        let Some((_, host)) = self.hosted.get_mut(&read.group).and_then(Hosted::partition) else {
            return self.fail_read_unhosted(read);
        };
        if let Want::Timestamp { asker, timestamp_ms } = read.want {
            return self.search_timestamp(asker, read.group, timestamp_ms, read.offset);
        }
        match host.partition.locate(read.offset) {
            Ok(Position::Disk(segment)) => {
                self.begin_read(Read::new(read.group, read.want, read.offset, segment))
            }
            Ok(Position::Memory) => {
                let max_bytes = match read.want {
                    Want::Fetch { max_bytes, .. } => max_bytes,
                    Want::Timestamp { .. } | Want::Load { .. } | Want::Pull { .. } => SEGMENT_CHUNK_BYTES,
                };
                let records = host.partition.read_memory(read.offset, max_bytes);
                self.finish_read(read, records);
            }
            Ok(Position::End) => self.finish_read(read, Vec::new()),
            Err(_) => self.fail_read(read, ErrorCode::OffsetOutOfRange),
        }
    }

    fn on_read(&mut self, now: Now, read: Read, answer: DiskAnswer) {
        let progress = match answer {
            DiskAnswer::Indexes { offsets, times } => read.on_indexes(&offsets, &times),
            DiskAnswer::Bytes(chunk) => read.on_bytes(chunk),
            DiskAnswer::Done | DiskAnswer::Space { .. } => unreachable!("a read brings bytes"),
        };
        match progress {
            Progress::Continue(read) => self.begin_read(read),
            Progress::NextSegment(read) => self.relocate(read),
            Progress::Found(read, data) => match read.want {
                Want::Timestamp { asker, timestamp_ms } => {
                    let next = self.answer_timestamp(asker, read.group, timestamp_ms, read.offset, &data);
                    if let Some(next) = next {
                        self.search_timestamp(asker, read.group, timestamp_ms, next);
                    }
                }
                Want::Load { .. } => {
                    if self.load_batches(read.group, &data) {
                        self.load_coordinator(now, read.group);
                    }
                }
                Want::Fetch { .. } | Want::Pull { .. } => self.finish_read(read, vec![data]),
            },
            Progress::Damaged(read, why) => {
                self.effects.push(Effect::Warn(format!("group {}: {why}", read.group)));
                self.fail_read(read, ErrorCode::CorruptMessage);
            }
        }
    }

    /// A part of a fetch is there; the last one answers.
    fn finish_read(&mut self, read: Read, records: Vec<Bytes>) {
        let (job, slot) = match read.want {
            Want::Fetch { job, slot, .. } => (job, slot),
            Want::Pull { peer, .. } => return self.send_pulled(peer, read.group, read.offset, records),
            Want::Timestamp { .. } | Want::Load { .. } => unreachable!("a look-up does not end with batches"),
        };
        let found = self.disk.jobs.get_mut(&job).expect("a fetch waits for all its reads");
        let part = found.results.iter_mut().find(|part| part.slot == slot).expect("the part was asked for");
        part.records = records;
        self.finish_job_part(job);
    }

    /// The group of a read is not hosted here any more.
    pub(crate) fn fail_read_unhosted(&mut self, read: Read) {
        let error = not_hosted(&self.image, read.group);
        self.fail_read(read, error);
    }

    /// A read came to nothing: whoever waits for it hears why.
    fn fail_read(&mut self, read: Read, error: ErrorCode) {
        match read.want {
            Want::Fetch { job, slot, .. } => {
                let found = self.disk.jobs.get_mut(&job).expect("a fetch waits for all its reads");
                let part =
                    found.results.iter_mut().find(|part| part.slot == slot).expect("the part was asked for");
                part.error = Some(error.into());
                self.finish_job_part(job);
            }
            Want::Timestamp { asker, .. } => {
                self.answers.push((asker, OpResult::ListOffsets(Err(error.into()))));
            }
            Want::Load { .. } if self.hosted.contains_key(&read.group) => {
                let why =
                    format!("group {}: the records of consumer groups cannot be read: {error:?}", read.group);
                self.fatal(FatalReason::Damaged(why));
            }
            Want::Load { .. } => {}
            // The follower takes the empty answer for the end of this snapshot and waits for another.
            Want::Pull { peer, .. } => {
                if let Some(hosted) = self.hosted.get_mut(&read.group) {
                    hosted.raft.on_snapshot_failed(peer);
                    self.dirty.insert(read.group);
                }
                self.send_pulled(peer, read.group, read.offset, Vec::new());
            }
        }
    }

    fn finish_job_part(&mut self, job: u64) {
        let found = self.disk.jobs.get_mut(&job).expect("the caller found it");
        found.reads_under_way -= 1;
        if found.reads_under_way == 0 {
            let FetchJob { asker, results, .. } = self.disk.jobs.remove(&job).expect("it was just found");
            self.answers.push((asker, OpResult::Fetch { partitions: results, waiting: false }));
        }
    }
}

fn append_request(group: GroupId, plan: FlushPlan, in_a_hurry: bool) -> DiskRequest {
    DiskRequest::AppendSegment {
        group,
        segment: plan.segment,
        position: plan.position,
        data: plan.data,
        offsets: plan.offsets,
        times: plan.times,
        in_a_hurry,
    }
}

fn roll_config(config: &TopicConfig) -> RollConfig {
    RollConfig {
        segment_bytes: config.segment_bytes,
        segment_ms: config.segment_ms,
        index_bytes: INDEX_BYTES_MAX,
    }
}

/// What the policy `delete` keeps; `None` where nothing is deleted.
fn retention_config(config: &TopicConfig) -> Option<RetentionConfig> {
    if config.cleanup_policy == metadata::CleanupPolicy::Compact {
        return None;
    }
    Some(RetentionConfig {
        retention_ms: config.retention_ms.unwrap_or(-1),
        retention_bytes: config.retention_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
    })
}
