//! The world carries out what shards ask for.

use bytes::Bytes;
use shard::{DiskAnswer, DiskError, DiskRequest, Effect, Event, FatalReason};
use types::GroupId;
use types::limits::BLOCK_BYTES;

use crate::disk::WalWork;
use crate::disk_request::{Asked, group_of};
use crate::node::Place;
use crate::world::{Happening, World};

/// How much longer everything takes on a slow disk.
const DISK_SLOWNESS: u64 = 200;

/// How long a process may end itself after a write has failed, in microseconds.
const DAMAGE_US: u64 = 1_000_000;

impl World {
    pub(crate) fn carry_out(&mut self, place: Place, effect: Effect) {
        match effect {
            Effect::Respond { connection, parts } => self.respond(connection, &parts),
            Effect::Close { connection, reason } | Effect::Abort { connection, reason } => {
                self.close(place, connection, &reason)
            }
            Effect::SetReading { connection, reading } => self.set_reading(place, connection, reading),
            Effect::SendToShard { to, message } => {
                assert_ne!(to, place.shard, "a shard sends to others only");
                let delay_us = self.random.delay_us(self.delays.ring_us);
                let due_us = self.now_us + delay_us;
                let last_us = self.nodes[place.node].rings.entry((place.shard, to)).or_default();
                *last_us = due_us.max(*last_us);
                let delay_us = *last_us - self.now_us;
                let from = place.shard;
                let to = Place { node: place.node, shard: to };
                let what = Happening::Message { from, to, message: Box::new(message) };
                self.schedule_at_node(delay_us, place.node, what);
            }
            Effect::CreateWalFile { file } => self.begin_wal_file(place, WalWork::Create { file }),
            Effect::RecycleWalFile { from, file } => {
                self.begin_wal_file(place, WalWork::Recycle { from, file })
            }
            Effect::WriteWal { number, file, position, flush } => {
                assert!(position.is_multiple_of(BLOCK_BYTES as u64), "flushes are aligned");
                assert_eq!(
                    (flush.file_sequence, flush.flush_sequence),
                    (file, number),
                    "a flush knows its place"
                );
                let bytes: usize = flush.parts.iter().map(Bytes::len).sum();
                assert_eq!(bytes, flush.bytes, "a flush has the size that it claims");
                let lane = self.nodes[place.node].lane(place.shard);
                assert!(lane.flush.is_none(), "one flush is under way at a time");
                let work = WalWork::Write { file, position, parts: flush.parts };
                lane.flush = Some((number, work, flush.notes));
                let delay_us = 5 + bytes as u64 / 1_000 + self.disk_delay_us(place, self.delays.wal_us);
                self.schedule_at_node(delay_us, place.node, Happening::WalWritten(place));
            }
            Effect::Disk { token, request } => {
                let group = group_of(&request);
                self.mark_disk_request(place, &request);
                self.note(format_args!("{place}: disk {} asked to {}", token.0, Asked(&request)));
                let queue = self.nodes[place.node].lane(place.shard).disk.entry(group).or_default();
                queue.push_back((token, request));
                if queue.len() == 1 {
                    self.begin_disk(place, group);
                }
            }
            // No virtual node loses its disk whole.
            Effect::KnownDirectories { .. } => {}
            Effect::SetPeers { peers } => self.set_peers(place, &peers),
            Effect::SendToPeer { to, parts } => self.send_to_peer(place, to, &parts),
            Effect::Joined { cluster_id } => {
                self.note(format_args!("{place}: joined {cluster_id}"));
                self.nodes[place.node].has_joined = true;
            }
            Effect::Warn(what) => {
                if what.contains(": segment ") {
                    self.coverage.mark("damaged batch refused");
                }
                self.note(format_args!("{place} warns: {what}"));
            }
            Effect::ShutdownComplete => self.on_shut_down(place),
            Effect::Fatal(reason) => self.on_fatal(place, &reason),
        }
    }

    fn mark_disk_request(&mut self, place: Place, request: &DiskRequest) {
        match request {
            DiskRequest::AppendSegment { data, .. } if data.is_empty() => {
                self.coverage.mark("segment sealed")
            }
            DiskRequest::RemoveSegments { .. } => self.coverage.mark("segment removed"),
            DiskRequest::ReadIndexes { .. } => self.coverage.mark("index read back"),
            DiskRequest::ReadSegment { group, .. } => {
                let image = self.nodes[place.node].lane(place.shard).shard.image();
                let topic = image.partition_of_group(*group).map(|(topic, _)| topic);
                if topic.is_some_and(|topic| topic.internal) {
                    self.coverage.mark("group offsets loaded from a segment");
                }
            }
            DiskRequest::AppendSegment { .. }
            | DiskRequest::CreateGroup { .. }
            | DiskRequest::RemoveGroup { .. }
            | DiskRequest::MeasureSpace => {}
        }
    }

    /// The process ends itself, which only a disk that fails may lead to.
    fn on_fatal(&mut self, place: Place, reason: &FatalReason) {
        let node = &self.nodes[place.node];
        assert!(node.damaged_until_us > self.now_us, "{place} ends its process: {reason}");
        self.coverage.mark("process ended itself");
        self.note(format_args!("{place} ends its process: {reason}"));
        self.crash_soon(place.node);
    }

    /// How long a disk takes for something. What it began while it is slow ends soon after it is quick again.
    fn disk_delay_us(&mut self, place: Place, us: u64) -> u64 {
        let slow_us = self.nodes[place.node].slow_until_us.saturating_sub(self.now_us);
        match slow_us {
            0 => self.random.delay_us(us),
            _ => self.random.delay_us(us * DISK_SLOWNESS).min(slow_us + us),
        }
    }

    /// Whether a disk completes nothing now: then this happens when it goes on.
    fn hangs(&mut self, place: Place, what: Happening) -> bool {
        let until_us = self.nodes[place.node].hung_until_us;
        if until_us <= self.now_us {
            return false;
        }
        self.coverage.mark("disk request held up");
        self.schedule_at_node(until_us - self.now_us, place.node, what);
        true
    }

    /// Whether a write fails now: what reached the disk of it is unknown.
    fn write_fails(&mut self, place: Place) -> bool {
        let fails = std::mem::take(&mut self.nodes[place.node].write_fails);
        if fails {
            self.coverage.mark("write failed");
            let node = &mut self.nodes[place.node];
            node.damaged_until_us = node.damaged_until_us.max(self.now_us + DAMAGE_US);
        }
        fails
    }

    fn begin_wal_file(&mut self, place: Place, work: WalWork) {
        let lane = self.nodes[place.node].lane(place.shard);
        assert!(lane.file.is_none(), "one WAL file is made at a time");
        if matches!(work, WalWork::Recycle { .. }) {
            self.coverage.mark("WAL file recycled");
        }
        let lane = self.nodes[place.node].lane(place.shard);
        lane.file = Some(work);
        let delay_us = 5 + self.random.delay_us(self.delays.wal_file_us);
        self.schedule_at_node(delay_us, place.node, Happening::WalFileDone(place));
    }

    pub(crate) fn on_wal_written(&mut self, place: Place) {
        if self.hangs(place, Happening::WalWritten(place)) {
            return;
        }
        if self.write_fails(place) {
            // The driver ends the process without asking the shard.
            return self.crash_soon(place.node);
        }
        let node = &mut self.nodes[place.node];
        let (number, work, notes) = node.lane(place.shard).flush.take().expect("a flush is under way");
        node.disk.complete_wal(place.shard, &work).expect("writes to files that exist succeed");
        self.judge.durable.on_flushed(place.node, &notes);
        self.feed(place, Event::WalFlushed { flush: number });
    }

    pub(crate) fn on_wal_file_done(&mut self, place: Place) {
        if self.hangs(place, Happening::WalFileDone(place)) {
            return;
        }
        let node = &mut self.nodes[place.node];
        let work = node.lane(place.shard).file.take().expect("a file is being made");
        let result = node.disk.complete_wal(place.shard, &work);
        self.on_files_changed(place.node);
        let (WalWork::Create { file } | WalWork::Recycle { file, .. } | WalWork::Write { file, .. }) = work;
        self.feed(place, Event::WalFileReady { file, result });
    }

    fn begin_disk(&mut self, place: Place, group: GroupId) {
        let delay_us = 20 + self.disk_delay_us(place, self.delays.disk_us);
        self.schedule_at_node(delay_us, place.node, Happening::DiskDone(place, group));
    }

    pub(crate) fn on_disk_done(&mut self, place: Place, group: GroupId) {
        if self.hangs(place, Happening::DiskDone(place, group)) {
            return;
        }
        let lane = self.nodes[place.node].lane(place.shard);
        let queue = lane.disk.get_mut(&group).expect("a request is under way");
        let (token, request) = queue.pop_front().expect("a request is under way");
        if queue.is_empty() {
            lane.disk.remove(&group);
        } else {
            self.begin_disk(place, group);
        }
        let result = self.complete_disk(place, &request);
        let is_of_files =
            !matches!(request, DiskRequest::ReadSegment { .. } | DiskRequest::ReadIndexes { .. });
        if is_of_files {
            self.on_files_changed(place.node);
        }
        self.feed(place, Event::Disk { token, result });
    }

    fn complete_disk(&mut self, place: Place, request: &DiskRequest) -> Result<DiskAnswer, DiskError> {
        let is_read = matches!(request, DiskRequest::ReadSegment { .. } | DiskRequest::ReadIndexes { .. });
        let reads_fail = self.nodes[place.node].reads_fail_until_us > self.now_us;
        if is_read && reads_fail && self.random.percent(50) {
            self.coverage.mark("read failed");
            return Err(DiskError::Failed("the device has an error".to_owned()));
        }
        let is_write = matches!(request, DiskRequest::AppendSegment { .. });
        if is_write && self.write_fails(place) {
            self.nodes[place.node].disk.tear(request, &mut self.random);
            return Err(DiskError::Failed("the device has an error".to_owned()));
        }
        self.nodes[place.node].disk.complete(request)
    }
}
