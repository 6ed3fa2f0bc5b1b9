//! What goes wrong, and how it is put right again.

use log::wal::Recovered;
use partition::Partition;
use protocol::batch;
use shard::{DiskRequest, Event};
use types::{GroupId, Offset, ShardId, ShardLayout};

use crate::damage;
use crate::node::{Place, Rot};
use crate::plan::{Absence, Fault, LeaderFault};
use crate::process::{Process, Start, node_id};
use crate::world::{Happening, World};

/// How long a node may take to start, in microseconds.
pub(crate) const NODE_STARTS_US_MAX: u64 = 100_000;

impl World {
    /// Starts a node. What was planned before the faults ended may come late: it runs already, or is left out.
    pub(crate) fn start(&mut self, node: usize, layout: ShardLayout) {
        if self.healed_us.is_some()
            && (self.nodes[node].process.is_some()
                || (self.plan.left_out.contains(&node) && self.plan.absence == Absence::Down))
        {
            return;
        }
        assert!(self.nodes[node].process.is_none(), "one process at a time");
        self.incarnation += 1;
        let incarnation = self.incarnation;
        self.note(format_args!("node {} starts as {incarnation} with {layout:?}", node_id(node)));
        let now = self.now(node);
        let found = &mut self.nodes[node];
        if found.disk.layout.is_some_and(|before| before != layout) {
            self.coverage.mark("layout changed");
        }
        let wals = Process::recover(layout, &mut found.disk);
        if self.plan.has_damage {
            for (shard, recovered) in (0..).map(ShardId).zip(&wals) {
                let done = damage::check(&found.disk.wals[&shard], recovered, &mut self.random);
                done.into_iter().for_each(|what| self.coverage.mark(what));
            }
        }
        for recovered in wals.iter().flat_map(|wal| wal.groups.values()) {
            if recovered.checkpoint.is_some() && !recovered.entries.is_empty() {
                self.coverage.mark("start with checkpoint and entries");
            }
            if recovered.last_index() > recovered.commit {
                self.coverage.mark("start with uncommitted entries");
            }
        }
        self.check_checkpoints(node, &wals);
        self.judge.on_recovered(node, &wals);
        let start = Start {
            options: &self.plan.node,
            node: node_id(node),
            has_joined: self.nodes[node].has_joined,
            layout,
            incarnation,
            now,
        };
        let (process, begun) = Process::start(&start, wals, &mut self.random);
        let found = &mut self.nodes[node];
        found.process = Some(process);
        found.awake_us = self.now_us;
        for (shard, effects) in begun {
            let place = Place { node, shard };
            for effect in effects {
                if self.nodes[node].runs() {
                    self.carry_out(place, effect);
                }
            }
            self.nodes[node].lane(shard).is_turn_due = true;
            self.schedule_at_node(0, node, Happening::Turn(place));
        }
    }

    /// What a durable checkpoint counts on is on the disk.
    fn check_checkpoints(&mut self, node: usize, wals: &[Recovered]) {
        let found = &self.nodes[node];
        for (group, recovered) in wals.iter().flat_map(|wal| &wal.groups) {
            if *group == GroupId::METADATA || raft_group::is_being_removed(recovered) {
                continue;
            }
            let Some(checkpoint) = &recovered.checkpoint else { continue };
            let read = raft_group::read_checkpoint(checkpoint.state.clone());
            let (_, _, state) = read.unwrap_or_else(|error| panic!("group {group}: {error}"));
            let partition = Partition::restore(checkpoint.index, &state);
            let partition = partition.unwrap_or_else(|error| panic!("group {group}: {error}"));
            let live: Vec<Offset> =
                partition.segment_files().into_iter().filter(|base| partition.has_segment(*base)).collect();
            let folder = found.disk.groups.get(group);
            let length = |base: &Offset| {
                let files = folder.and_then(|folder| folder.segments.get(base));
                files.map(|files| files.log.len() as u64)
            };
            let bytes: Option<u64> = live.iter().map(length).sum();
            assert!(
                bytes.is_some_and(|bytes| bytes >= partition.bytes()),
                "node {}: a checkpoint of group {group} counts on {} bytes in segments {live:?}, of which there are {bytes:?}",
                node_id(node),
                partition.bytes()
            );
            if !live.is_empty() {
                self.coverage.mark("checkpoint judged");
            }
        }
    }

    pub(crate) fn on_fault(&mut self, fault: Fault) {
        if self.healed_us.is_some() {
            return;
        }
        self.note(format_args!("{fault:?}"));
        match fault {
            Fault::Crash { node, down_us } => self.crash_for(node, down_us),
            Fault::CrashAtFileChange { node, down_us } => {
                self.nodes[node].crashes_at_file_change = Some(down_us);
            }
            Fault::CrashAll { down_us } => {
                self.coverage.mark("crash of all");
                for node in 0..self.nodes.len() {
                    let down_us = self.random.between(1, down_us);
                    self.crash_for(node, down_us);
                }
            }
            Fault::Shutdown { node, down_us } => self.shut_down(node, down_us),
            Fault::DiskFull { node, for_us } => {
                self.coverage.mark("disk full");
                self.nodes[node].disk.is_full = true;
                self.schedule(for_us, None, Happening::HasSpace(node));
            }
            Fault::SlowDisk { node, for_us } => {
                self.coverage.mark("slow disk");
                self.nodes[node].slow_until_us = self.now_us + for_us;
            }
            Fault::HungDisk { node, for_us } => {
                self.coverage.mark("hung disk");
                self.nodes[node].hung_until_us = self.now_us + for_us;
            }
            Fault::FailingReads { node, for_us } => {
                self.coverage.mark("failing reads");
                let found = &mut self.nodes[node];
                found.reads_fail_until_us = self.now_us + for_us;
                found.damaged_until_us = found.damaged_until_us.max(self.now_us + for_us + 1);
            }
            Fault::FailingWrite { node } => {
                self.coverage.mark("failing write");
                self.nodes[node].write_fails = true;
            }
            Fault::Rot { node, for_us } => self.rot(node, for_us),
            Fault::Pause { node, for_us } => self.pause(node, for_us),
            Fault::AtLeader { what, for_us } => self.at_leader(what, for_us),
            Fault::Storm { pairs, for_us } => {
                self.coverage.mark("restart storm");
                self.cut(&pairs);
                self.schedule(for_us, None, Happening::Mended(pairs));
            }
            Fault::Cut { pairs, for_us } => {
                self.coverage.mark(if pairs.len() == 1 { "one-way cut" } else { "cut" });
                self.cut(&pairs);
                self.schedule(for_us, None, Happening::Mended(pairs));
            }
            Fault::Reset { one, other } => {
                self.coverage.mark("connection reset");
                self.reset_lines(one, other);
            }
            Fault::SlowNetwork { for_us } => {
                self.coverage.mark("slow network");
                self.slow_network(for_us);
            }
            Fault::ClientGone => {
                self.coverage.mark("client gone");
                let client = self.random.index(self.clients.len());
                self.disconnect(client);
            }
            Fault::ClockJump { node, by_ms } => {
                self.coverage.mark("clock jump");
                self.nodes[node].wall_skew_ms += by_ms;
            }
        }
    }

    /// Files of a node have changed: not the contents of its WAL.
    pub(crate) fn on_files_changed(&mut self, node: usize) {
        if let Some(down_us) = self.nodes[node].crashes_at_file_change.take() {
            self.coverage.mark("crash at a change of files");
            let delay_us = self.random.below(20);
            self.schedule(delay_us, None, Happening::Fault(Fault::Crash { node, down_us }));
        }
    }

    fn crash_for(&mut self, node: usize, down_us: u64) {
        if self.nodes[node].process.is_some() {
            self.coverage.mark("crash");
            let layout = self.plan.layout_of(node, &mut self.random);
            self.crash(node);
            self.schedule(down_us, None, Happening::Started(node, layout));
        }
    }

    /// Something happens to a node that leads a group.
    fn at_leader(&mut self, what: LeaderFault, for_us: u64) {
        let leaders: Vec<usize> =
            (0..self.nodes.len()).flat_map(|node| self.led_by(node).into_iter().map(move |_| node)).collect();
        if leaders.is_empty() {
            return;
        }
        let node = leaders[self.random.index(leaders.len())];
        match what {
            LeaderFault::Crash => {
                self.coverage.mark("leader crashed");
                self.crash_for(node, for_us);
            }
            LeaderFault::Pause => self.pause(node, for_us),
            LeaderFault::Cut => {
                self.coverage.mark("leader cut off from nodes, not from clients");
                let others = (0..self.nodes.len()).filter(|other| *other != node);
                let pairs: Vec<(usize, usize)> =
                    others.flat_map(|other| [(node, other), (other, node)]).collect();
                self.cut(&pairs);
                self.schedule(for_us, None, Happening::Mended(pairs));
            }
            LeaderFault::HungDisk => {
                self.coverage.mark("disk of a leader hangs");
                self.nodes[node].hung_until_us = self.now_us + for_us;
            }
        }
    }

    /// The groups that a node leads.
    fn led_by(&self, node: usize) -> Vec<GroupId> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Vec::new() };
        let statuses = process.lanes.iter().flat_map(|lane| lane.shard.groups());
        statuses.filter(|status| status.role.serving).map(|status| status.group).collect()
    }

    fn pause(&mut self, node: usize, for_us: u64) {
        let found = &mut self.nodes[node];
        // A pause is not made longer: what waits for its end would come behind what arrives until then.
        if found.process.is_some() && found.paused_until_us <= self.now_us {
            found.paused_until_us = self.now_us + for_us;
            found.awake_us = found.paused_until_us;
            self.coverage.mark("process paused");
        }
    }

    /// A bit of a segment changes by itself, where the checksum of its batch covers it.
    fn rot(&mut self, node: usize, for_us: u64) {
        let found = &mut self.nodes[node];
        let mut places: Vec<(GroupId, Offset)> = Vec::new();
        for (group, folder) in &found.disk.groups {
            let segments = folder.segments.iter().filter(|(_, files)| !files.log.is_empty());
            places.extend(segments.map(|(segment, _)| (*group, *segment)));
        }
        if places.is_empty() {
            return;
        }
        let (group, segment) = places[self.random.index(places.len())];
        let folder = found.disk.groups.get_mut(&group).expect("it was just listed");
        let log = &mut folder.segments.get_mut(&segment).expect("it was just listed").log;
        let whole = bytes::Bytes::copy_from_slice(log);
        let batches: Vec<_> = batch::batches(&whole).map_while(Result::ok).collect();
        let Some((_, range)) = batches.get(self.random.index(batches.len().max(1))) else { return };
        let at = range.start + batch::ATTRIBUTES_AT + self.random.index(range.len() - batch::ATTRIBUTES_AT);
        let was = log[at];
        log[at] ^= 1 << self.random.below(8);
        found.rot.push(Rot { group, segment, at, was, is: log[at] });
        found.damaged_until_us = found.damaged_until_us.max(self.now_us + for_us + 1);
        self.coverage.mark("segment bit rot");
        self.schedule(for_us, None, Happening::RotEnds(node));
    }

    /// An operator has put the bytes right again.
    pub(crate) fn end_rot(&mut self, node: usize) {
        let found = &mut self.nodes[node];
        for rot in std::mem::take(&mut found.rot).into_iter().rev() {
            let folder = found.disk.groups.get_mut(&rot.group);
            let files = folder.and_then(|folder| folder.segments.get_mut(&rot.segment));
            if let Some(byte) =
                files.and_then(|files| files.log.get_mut(rot.at)).filter(|byte| **byte == rot.is)
            {
                *byte = rot.was;
            }
        }
    }

    /// The process of a node ends by itself, and is started again.
    pub(crate) fn crash_soon(&mut self, node: usize) {
        if std::mem::replace(&mut self.nodes[node].is_ending, true) {
            return;
        }
        let layout = self.plan.layout_of(node, &mut self.random);
        let down_us = self.random.between(100, 300_000);
        self.schedule_at_node(0, node, Happening::Ended { node, down_us, layout });
    }

    fn shut_down(&mut self, node: usize, down_us: u64) {
        let layout = self.plan.layout_of(node, &mut self.random);
        let found = &mut self.nodes[node];
        if found.process.is_none() || found.restart.is_some() {
            return;
        }
        self.coverage.mark("shutdown");
        found.restart = Some((down_us, layout));
        for shard in (0..found.shards()).map(|shard| ShardId(u16::try_from(shard).expect("few shards"))) {
            self.feed(Place { node, shard }, Event::ShutdownRequested);
        }
    }

    pub(crate) fn on_shut_down(&mut self, place: Place) {
        self.note(format_args!("{place} has shut down"));
        let node = &mut self.nodes[place.node];
        assert!(!node.shut_down.contains(&place.shard), "a shard shuts down once");
        node.shut_down.push(place.shard);
        if node.shut_down.len() == node.shards()
            && let Some((down_us, layout)) = node.restart.take()
        {
            let node = place.node;
            self.schedule_at_node(0, node, Happening::Ended { node, down_us, layout });
        }
    }

    /// Ends the process of a node as a power failure does.
    pub(crate) fn crash(&mut self, node: usize) {
        let found = &mut self.nodes[node];
        let process = found.process.take().expect("only what runs crashes");
        let mut appends =
            process.lanes.iter().flat_map(|lane| lane.disk.values().filter_map(|queue| queue.front()));
        if appends.any(|(_, request)| matches!(request, DiskRequest::AppendSegment { .. })) {
            self.coverage.mark("torn segment write");
        }
        if process.lanes.iter().any(|lane| lane.flush.is_some()) {
            self.coverage.mark("torn WAL write");
        }
        process.crash(&mut found.disk, &mut self.random);
        found.rings.clear();
        found.is_ending = false;
        found.paused_until_us = 0;
        found.shut_down.clear();
        found.restart = None;
        self.note(format_args!("node {} crashes", node_id(node)));
        self.end_lines_of(node);
        self.lose_links_of(node);
    }

    /// Ends all faults, but for the nodes that are left out: they stay down.
    pub(crate) fn heal(&mut self) {
        self.note(format_args!("healed"));
        self.is_stopping = true;
        self.healed_us = Some(self.now_us);
        self.mend_all();
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.is_full = false;
            self.end_rot(node);
            let found = &mut self.nodes[node];
            found.slow_until_us = 0;
            found.hung_until_us = 0;
            found.reads_fail_until_us = 0;
            found.write_fails = false;
            found.crashes_at_file_change = None;
            if !self.plan.left_out.contains(&node) {
                self.ensure_started(node);
            } else if self.plan.absence != Absence::Down {
                self.ensure_started(node);
                self.cut_off(node);
            } else if self.nodes[node].process.is_some() {
                self.crash(node);
            }
        }
    }

    /// Closes one way of a node that is left out.
    fn cut_off(&mut self, node: usize) {
        let others = (0..self.nodes.len()).filter(|other| *other != node);
        let pairs: Vec<(usize, usize)> = match self.plan.absence {
            Absence::Deaf => others.map(|other| (other, node)).collect(),
            Absence::Mute | Absence::Down => others.map(|other| (node, other)).collect(),
        };
        self.coverage.mark("progress without a node that hears or is heard");
        self.cut(&pairs);
    }

    /// Brings back the nodes that were left out.
    pub(crate) fn heal_the_rest(&mut self) {
        if self.plan.left_out.is_empty() {
            return;
        }
        self.mend_all();
        for node in std::mem::take(&mut self.plan.left_out) {
            self.coverage.mark("left out nodes came back");
            self.ensure_started(node);
        }
        self.check_leaders();
    }

    fn ensure_started(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        let layout = self.plan.layouts[node];
        let delay_us = self.random.below(NODE_STARTS_US_MAX);
        self.schedule(delay_us, None, Happening::Started(node, layout));
    }

    /// Crashes all nodes of a quiet cluster at once and starts them again.
    pub fn restart(&mut self) {
        for node in 0..self.nodes.len() {
            self.crash(node);
            let layout = self.plan.layout_of(node, &mut self.random);
            let delay_us = self.random.below(NODE_STARTS_US_MAX);
            self.schedule(delay_us, None, Happening::Started(node, layout));
        }
        // What is under way in the world still reaches the clients.
        self.run_for_us(1_000_000);
    }
}
