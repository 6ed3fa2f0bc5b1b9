//! The world carries out what shards ask for.

use bytes::Bytes;
use shard::{Effect, Event};
use types::GroupId;
use types::limits::BLOCK_BYTES;

use crate::disk::WalWork;
use crate::disk_request::{Asked, group_of};
use crate::node::Place;
use crate::world::{Happening, World};

/// How much longer everything takes on a slow disk.
const DISK_SLOWNESS: u64 = 200;

impl World {
    pub(crate) fn carry_out(&mut self, place: Place, effect: Effect) {
        match effect {
            Effect::Respond { connection, parts } => self.respond(connection, &parts),
            Effect::Close { connection, reason } => self.close(place, connection, &reason),
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
                lane.flush = Some((number, WalWork::Write { file, position, parts: flush.parts }));
                let delay_us = 5 + bytes as u64 / 1_000 + self.disk_delay_us(place, self.delays.wal_us);
                self.schedule_at_node(delay_us, place.node, Happening::WalWritten(place));
            }
            Effect::Disk { token, request } => {
                let group = group_of(&request);
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
            Effect::Warn(what) => self.note(format_args!("{place} warns: {what}")),
            Effect::ShutdownComplete => self.on_shut_down(place),
            Effect::Fatal(reason) => panic!("{place} ends its process: {reason}"),
        }
    }

    fn disk_delay_us(&mut self, place: Place, us: u64) -> u64 {
        let is_slow = self.nodes[place.node].slow_until_us > self.now_us;
        self.random.delay_us(us * if is_slow { DISK_SLOWNESS } else { 1 })
    }

    fn begin_wal_file(&mut self, place: Place, work: WalWork) {
        let lane = self.nodes[place.node].lane(place.shard);
        assert!(lane.file.is_none(), "one WAL file is made at a time");
        lane.file = Some(work);
        let delay_us = 50 + self.random.delay_us(self.delays.wal_file_us);
        self.schedule_at_node(delay_us, place.node, Happening::WalFileDone(place));
    }

    pub(crate) fn on_wal_written(&mut self, place: Place) {
        let node = &mut self.nodes[place.node];
        let (number, work) = node.lane(place.shard).flush.take().expect("a flush is under way");
        node.disk.complete_wal(place.shard, &work).expect("writes to files that exist succeed");
        self.feed(place, Event::WalFlushed { flush: number });
    }

    pub(crate) fn on_wal_file_done(&mut self, place: Place) {
        let node = &mut self.nodes[place.node];
        let work = node.lane(place.shard).file.take().expect("a file is being made");
        let result = node.disk.complete_wal(place.shard, &work);
        let (WalWork::Create { file } | WalWork::Recycle { file, .. } | WalWork::Write { file, .. }) = work;
        self.feed(place, Event::WalFileReady { file, result });
    }

    fn begin_disk(&mut self, place: Place, group: GroupId) {
        let delay_us = 20 + self.disk_delay_us(place, self.delays.disk_us);
        self.schedule_at_node(delay_us, place.node, Happening::DiskDone(place, group));
    }

    pub(crate) fn on_disk_done(&mut self, place: Place, group: GroupId) {
        let lane = self.nodes[place.node].lane(place.shard);
        let queue = lane.disk.get_mut(&group).expect("a request is under way");
        let (token, request) = queue.pop_front().expect("a request is under way");
        if queue.is_empty() {
            lane.disk.remove(&group);
        } else {
            self.begin_disk(place, group);
        }
        let result = self.nodes[place.node].disk.complete(&request);
        self.feed(place, Event::Disk { token, result });
    }
}
