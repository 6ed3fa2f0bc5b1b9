//! The shard: its state, and where each event goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use broker::{Broker, BrokerConfig, MetadataOp, Op, OpResult, OpToken, Output, ProduceOp, Target};
use log::wal::{Record, Recovered, RecoveredGroup};
use metadata::{MetadataImage, StaticSettings};
use partition::Partition;
use raft_group::{Group, GroupOptions};
use types::hash::mix64;
use types::mutants::{Mutant, is_planted};
use types::{GroupId, NodeId, Now, ShardId};

use crate::disk::DiskWork;
use crate::event::{Effect, Event, FatalReason, LeaderChange, PeerAddress, ShardMessage};
use crate::leadership::Handover;
use crate::metadata_host::{MetadataHost, Registration, logged_directories};
use crate::partition_host::{Answer, Asker, PartitionHost};
use crate::peers::Peers;
use crate::raft_metrics::RaftMetrics;
use crate::wal::{Unit, Wal};

/// What a shard is told at its start.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// This shard.
    pub shard: ShardId,
    /// The broker side's settings, the same for all shards.
    pub broker: Arc<BrokerConfig>,
    /// What the process was started with, for the metadata state machine.
    pub settings: StaticSettings,
    /// What this node tells the cluster of itself.
    pub registration: Registration,
    /// The other nodes, ascending; empty for a broker that is alone.
    pub peers: Vec<PeerAddress>,
    /// The voters of the metadata group, ascending, as the data directory remembers them.
    pub metadata_voters: Vec<NodeId>,
    /// Whether this node may begin a cluster, or has been in one before; otherwise it waits for one that finds it.
    pub may_begin_cluster: bool,
    /// A follower that was not caught up for so many milliseconds is out of sync [`replica.lag.time.max.ms`].
    pub replica_lag_ms_max: i64,
    /// Milliseconds between two looks at whether partitions are led by their first replicas
    /// [`leader.imbalance.check.interval.seconds`]; `None` where nobody looks [`auto.leader.rebalance.enable`].
    pub leader_balance_interval_ms: Option<i64>,
    /// The source of all ids and time-outs; differs at each start of the process.
    pub seed: u64,
}

/// A Raft group of this shard, with the state machine that its entries feed.
pub(crate) struct Hosted {
    pub raft: Group,
    pub machine: Machine,
    /// The leader's node has connected anew: until its word comes, it may have ceased to lead.
    pub awaits_leader: bool,
    /// Bytes of messages taken in since the group was last driven.
    pub stepped_bytes: usize,
}

/// What a group replicates.
pub(crate) enum Machine {
    Partition(Box<PartitionHost>),
    Metadata(Box<MetadataHost>),
}

impl Hosted {
    pub(crate) fn partition(&mut self) -> Option<(&mut Group, &mut PartitionHost)> {
        match &mut self.machine {
            Machine::Partition(host) => Some((&mut self.raft, host)),
            Machine::Metadata(_) => None,
        }
    }

    /// How many replicas are in sync, of a partition that this node leads.
    pub(crate) fn in_sync(&self) -> Option<usize> {
        match &self.machine {
            Machine::Partition(host) if host.role.serving => Some(host.in_sync.len()),
            _ => None,
        }
    }
}

/// A fetch that waits for more bytes.
pub(crate) struct FetchWait {
    pub groups: Vec<GroupId>,
    pub missing_bytes: usize,
    pub token: OpToken,
}

/// Everything that one core owns.
///
/// Lifecycle: made from what the WAL held, fed events until [`Effect::ShutdownComplete`] or [`Effect::Fatal`].
/// Between two steps: outputs of the broker are routed, and every group with work is in `dirty`.
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) node: NodeId,
    pub(crate) broker: Broker,
    pub(crate) hosted: BTreeMap<GroupId, Hosted>,
    /// What the WAL holds of groups that the metadata has not named yet.
    recovered: BTreeMap<GroupId, RecoveredGroup>,
    pub(crate) image: Arc<MetadataImage>,
    pub(crate) peers: Peers,
    pub(crate) raft_metrics: RaftMetrics,
    /// Replicas that pull what they lack.
    pub(crate) pulling: BTreeSet<GroupId>,
    pub(crate) wal: Wal,
    pub(crate) disk: DiskWork,
    pub(crate) dirty: BTreeSet<GroupId>,
    /// Partitions of `__consumer_offsets` with a coordinator here.
    pub(crate) coordinators: BTreeSet<GroupId>,
    pub(crate) fetch_waits: BTreeMap<(ShardId, u64), FetchWait>,
    /// Batches that wait for room in the WAL.
    pub(crate) stalled: VecDeque<(Asker, ProduceOp)>,
    pub(crate) stalled_bytes: usize,
    pub(crate) answers: Vec<Answer>,
    pub(crate) effects: Vec<Effect>,
    /// Set while the process ends and hands over what it leads.
    pub(crate) handover: Option<Handover>,
    pub(crate) is_shutting_down: bool,
    is_shut_down: bool,
}

impl Shard {
    /// Restores a shard from its WAL. Events may be fed at once; groups are led within a few flushes.
    pub fn new(config: ShardConfig, mut recovered: Recovered, now: Now, effects: &mut Vec<Effect>) -> Shard {
        let seed = mix64(config.seed ^ u64::from(config.shard.0));
        let wal = Wal::new(config.shard, &mut recovered);
        let mut shard = Shard {
            node: config.broker.node,
            broker: Broker::new(Arc::clone(&config.broker), seed),
            hosted: BTreeMap::new(),
            recovered: recovered.groups,
            image: Arc::new(MetadataImage::default()),
            peers: Peers::new(now, &config.peers, config.leader_balance_interval_ms),
            raft_metrics: RaftMetrics::new(config.shard),
            pulling: BTreeSet::new(),
            wal,
            disk: DiskWork::new(now, config.broker.retention_check_interval_ms),
            dirty: BTreeSet::new(),
            coordinators: BTreeSet::new(),
            fetch_waits: BTreeMap::new(),
            stalled: VecDeque::new(),
            stalled_bytes: 0,
            answers: Vec::new(),
            effects: Vec::new(),
            handover: None,
            is_shutting_down: false,
            is_shut_down: false,
            config,
        };
        shard.refuse_strangers();
        if shard.config.broker.layout.metadata_shard() == shard.config.shard {
            shard.host_metadata(now);
        }
        shard.begin_peers();
        shard.end_turn(now);
        effects.append(&mut shard.effects);
        shard
    }

    /// A group in the WAL of a shard that does not host it would begin anew, empty, on the shard that does.
    fn refuse_strangers(&mut self) {
        let layout = self.config.broker.layout;
        let stranger = self.recovered.keys().find(|group| layout.shard_of(**group) != self.config.shard);
        if let Some(group) = stranger {
            let why = format!("group {group} belongs to shard {}, not to this one", layout.shard_of(*group));
            self.fatal(FatalReason::Damaged(why));
        }
    }

    /// Takes one event and says what is to be done about it.
    pub fn step(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Connected { connection, client_host } => self.broker.on_connected(connection, client_host),
            Event::Disconnected { connection } => self.broker.on_disconnected(now, connection),
            Event::Frame { connection, frame } => self.broker.on_frame(now, connection, frame),
            Event::ResponseSent { connection, bytes } => {
                self.broker.on_response_sent(now, connection, bytes);
            }
            Event::FromShard { from, message } => self.on_message(now, from, message),
            Event::WalFlushed { flush } => self.on_wal_flushed(now, flush),
            Event::WalFileReady { file, result } => {
                if let Err(why) = self.wal.on_file_ready(now, file, result) {
                    self.fatal(FatalReason::WalFile(why));
                }
            }
            Event::Disk { token, result } => self.on_disk(now, token, result),
            Event::PeerConnected { peer } => self.on_peer_connected(now, peer),
            Event::PeerDisconnected { peer, has_ended } => self.on_peer_disconnected(now, peer, has_ended),
            Event::PeerJoined { peer } => self.on_peer_joined(now, peer),
            Event::FromPeer { peer, frame } => self.on_peer_frame(now, peer, frame),
            Event::PeerSent { peer, bytes } => self.on_peer_sent(peer, bytes),
            Event::TurnEnded => self.end_turn(now),
            Event::DeadlineReached => self.on_deadline(now),
            Event::ShutdownRequested => self.on_shutdown(now),
        }
        self.route(now);
        if self.is_shutting_down && !self.is_shut_down && self.is_idle() {
            self.is_shut_down = true;
            self.effects.push(Effect::ShutdownComplete);
        }
        effects.append(&mut self.effects);
    }

    /// When [`Event::DeadlineReached`] is due, on the monotonic clock in microseconds.
    pub fn next_deadline_us(&self) -> Option<u64> {
        let coordinators = self.coordinators.iter().filter_map(|group| {
            let Some(Hosted { machine: Machine::Partition(host), .. }) = self.hosted.get(group) else {
                return None;
            };
            host.coordinator.as_ref()?.coordinator.next_deadline_us()
        });
        let metadata = match self.hosted.get(&GroupId::METADATA) {
            Some(Hosted { machine: Machine::Metadata(host), .. }) => host.next_deadline_us(),
            _ => None,
        };
        let own = [
            self.broker.next_deadline_us(),
            self.wal.next_deadline_us(),
            self.disk.next_deadline_us(),
            self.peers.next_deadline_us(),
            self.handover.map(|handover| handover.next_deadline_us()),
            metadata,
        ];
        coordinators.chain(own.into_iter().flatten()).min()
    }

    /// Asserts what holds between any two steps. Linear in groups: for simulators and tests.
    pub fn assert_consistent(&self) {
        self.wal.assert_consistent();
        for wait in self.fetch_waits.values() {
            assert!(wait.missing_bytes > 0, "a fetch that has enough does not wait");
        }
    }

    fn is_idle(&self) -> bool {
        self.broker.is_idle() && self.wal.is_idle() && self.stalled.is_empty()
    }

    pub(crate) fn fatal(&mut self, reason: FatalReason) {
        self.effects.push(Effect::Fatal(reason));
    }

    fn on_shutdown(&mut self, now: Now) {
        match self.config.peers.is_empty() {
            true => self.finish_accepted(now),
            false => self.begin_handover(now),
        }
    }

    /// Nothing new is accepted any more, and what was is finished.
    pub(crate) fn finish_accepted(&mut self, now: Now) {
        self.is_shutting_down = true;
        for group in self.coordinators.clone() {
            self.resign_coordinator(group);
        }
        self.refuse_stalled();
        self.broker.on_shutdown(now);
    }

    fn on_deadline(&mut self, now: Now) {
        self.broker.on_deadline(now);
        self.wal.on_deadline(now, &mut self.effects);
        self.on_disk_deadline(now);
        self.on_peers_deadline(now);
        for group in self.coordinators.clone() {
            self.on_coordinator_timer(now, group);
        }
        self.on_metadata_deadline(now);
    }

    fn on_message(&mut self, now: Now, from: ShardId, message: ShardMessage) {
        match message {
            ShardMessage::Op { token, op } => self.on_op(now, Asker { shard: from, token }, op),
            ShardMessage::OpDone { token, result } => self.broker.on_op_result(now, token, result),
            ShardMessage::Image(image) => self.on_image(now, image),
            ShardMessage::Leader(change) => self.on_leader(change),
            ShardMessage::Alive(alive) => self.on_alive(now, alive),
            ShardMessage::FromPeer { peer, message } => self.on_peer_message(now, peer, message),
        }
    }

    /// Brings answers to those who asked and operations to those who own the group, until none is left.
    pub(crate) fn route(&mut self, now: Now) {
        loop {
            for (asker, result) in std::mem::take(&mut self.answers) {
                if asker.shard == self.config.shard {
                    self.broker.on_op_result(now, asker.token, result);
                } else {
                    let message = ShardMessage::OpDone { token: asker.token, result };
                    self.effects.push(Effect::SendToShard { to: asker.shard, message });
                }
            }
            let outputs = self.broker.take_outputs();
            if outputs.is_empty() && self.answers.is_empty() {
                return;
            }
            for output in outputs {
                self.on_output(now, output);
            }
        }
    }

    fn on_output(&mut self, now: Now, output: Output) {
        match output {
            Output::Respond { connection, parts } => self.effects.push(Effect::Respond { connection, parts }),
            Output::Close { connection, reason } => self.effects.push(Effect::Close { connection, reason }),
            Output::SetReading { connection, reading } => {
                self.effects.push(Effect::SetReading { connection, reading });
            }
            Output::Op { to, token, op } => {
                let layout = self.config.broker.layout;
                let to = match to {
                    Target::Group(group) => layout.shard_of(group),
                    Target::Metadata => layout.metadata_shard(),
                };
                if to == self.config.shard {
                    self.on_op(now, Asker { shard: to, token }, op);
                } else {
                    self.effects.push(Effect::SendToShard { to, message: ShardMessage::Op { token, op } });
                }
            }
        }
    }

    /// Carries out an operation on a group of this shard.
    fn on_op(&mut self, now: Now, asker: Asker, op: Op) {
        match op {
            Op::Produce(op) => self.on_produce(now, asker, op),
            Op::Fetch(op) => self.on_fetch(asker, &op),
            Op::CancelFetchWait => {
                self.cancel_fetch_wait((asker.shard, asker.token.request));
            }
            Op::ListOffsets(op) => self.on_list_offsets(asker, op),
            Op::OffsetForLeaderEpoch { group, current_leader_epoch, leader_epoch } => {
                let result = self.offset_for_leader_epoch(group, current_leader_epoch, leader_epoch);
                self.answers.push((asker, OpResult::OffsetForLeaderEpoch(result)));
            }
            Op::DeleteRecords { group, offset } => self.on_delete_records(now, asker, group, offset),
            Op::DescribeProducers { group } => {
                let result = self.describe_producers(group);
                self.answers.push((asker, OpResult::DescribeProducers(result)));
            }
            Op::DescribeLogs { groups } => {
                let sizes = groups.into_iter().filter_map(|group| match self.hosted.get(&group) {
                    Some(Hosted { machine: Machine::Partition(host), .. }) => {
                        Some((group, host.partition.bytes()))
                    }
                    _ => None,
                });
                let sizes = sizes.collect();
                self.answers.push((asker, OpResult::DescribeLogs(sizes)));
            }
            Op::Group(op) => self.on_group_request(now, asker, op),
            Op::Metadata(MetadataOp::Propose { command, deadline_us }) => {
                self.change_metadata(&command, Some((asker, deadline_us)));
            }
            Op::Metadata(MetadataOp::HandOver { group, from, to, deadline_us }) => {
                self.await_hand_over(group, to, (asker, deadline_us));
                self.ask_hand_over(from, group, to);
            }
        }
    }

    fn host_metadata(&mut self, now: Now) {
        let recovered = self.recovered.remove(&GroupId::METADATA);
        let snapshot =
            recovered.as_ref().and_then(|group| group.checkpoint.as_ref()).map(|c| c.state.clone());
        let mut host = match MetadataHost::new(self.config.settings.clone(), snapshot.as_deref()) {
            Ok(host) => host,
            Err(why) => return self.fatal(FatalReason::Damaged(why)),
        };
        if !self.config.peers.is_empty() {
            // Before anybody is talked to, and all at once.
            let mut directories = host.directories();
            let logged = recovered.as_ref().map(|group| logged_directories(&group.entries));
            directories.extend(logged.unwrap_or_default());
            self.effects.push(Effect::KnownDirectories { directories });
        }
        let raft = self.new_group(GroupId::METADATA, self.config.metadata_voters.clone(), recovered);
        let machine = Machine::Metadata(Box::new(host));
        self.hosted
            .insert(GroupId::METADATA, Hosted { raft, machine, awaits_leader: false, stepped_bytes: 0 });
        self.watch_ticks(now, GroupId::METADATA);
    }

    /// A group of which this node is a voter. The only voter, and the first replica of a new group, campaign at once.
    fn new_group(&mut self, group: GroupId, voters: Vec<NodeId>, recovered: Option<RecoveredGroup>) -> Group {
        let is_new = recovered.is_none() && group != GroupId::METADATA;
        let is_first = voters.first() == Some(&self.node);
        let mut raft = Group::new(GroupOptions { group, node: self.node, voters }, recovered);
        if raft.is_single_voter() || (is_new && is_first) {
            raft.campaign();
        }
        self.dirty.insert(group);
        raft
    }

    /// A newer image: the groups that it places here are to be hosted, and no others.
    pub(crate) fn on_image(&mut self, now: Now, image: Arc<MetadataImage>) {
        let before = std::mem::replace(&mut self.image, Arc::clone(&image));
        if !self.config.peers.is_empty() && !before.directories().eq(image.directories()) {
            let directories = image.directories().collect();
            self.effects.push(Effect::KnownDirectories { directories });
        }
        if !self.coordinators.is_empty() {
            for topic in before.topics().filter(|topic| image.topic_by_id(topic.id).is_none()) {
                self.forget_topic_offsets(now, &topic.name);
            }
        }
        let gone: Vec<GroupId> = self
            .hosted
            .keys()
            .chain(self.recovered.keys())
            .copied()
            // A group that the image has not allocated yet is one that it does not know of, not one that is gone.
            .filter(|group| *group != GroupId::METADATA && !image.may_allocate(*group))
            .filter(|group| image.partition_of_group(*group).is_none())
            .collect();
        for group in gone {
            if !is_planted(Mutant::KeepDeletedPartition) {
                self.remove_partition(group);
            }
        }
        // A group without a trace in the WAL may be new here, or deleted by a change that an image from before the last
        // start lacks. Made anew, it would vote again in terms in which it has voted.
        let is_current = image
            .broker(self.node)
            .is_some_and(|broker| broker.incarnation == self.config.broker.incarnation);
        for topic in image.topics() {
            for (index, partition) in (0i32..).zip(&topic.partitions) {
                let here = self.config.broker.layout.shard_of(partition.group) == self.config.shard
                    && partition.replicas.contains(&self.node);
                match self.hosted.get_mut(&partition.group) {
                    Some(Hosted { machine: Machine::Partition(host), .. }) => host.topic = Arc::clone(topic),
                    None if here && (is_current || self.recovered.contains_key(&partition.group)) => {
                        self.host_partition(now, topic, index, partition.group)
                    }
                    _ => {}
                }
            }
        }
        self.drop_early();
        self.broker.on_image(image);
    }

    fn host_partition(&mut self, now: Now, topic: &Arc<metadata::Topic>, index: i32, group: GroupId) {
        let recovered = self.recovered.remove(&group);
        let checkpoint = recovered.as_ref().and_then(|recovered| recovered.checkpoint.as_ref());
        let partition = match checkpoint.map(|c| Partition::restore(c.index, &c.state)) {
            None => Partition::new(),
            Some(Ok(partition)) => partition,
            Some(Err(error)) => {
                let why = format!("partition {}-{index} (group {group}): {error}", topic.name);
                return self.fatal(FatalReason::Damaged(why));
            }
        };
        let is_new = recovered.is_none();
        let replicas = topic.partitions[index as usize].replicas.clone();
        let raft = self.new_group(group, replicas, recovered);
        let mut host = PartitionHost::new(
            Arc::clone(topic),
            partition,
            raft.role(),
            self.raft_metrics.commit_seconds.clone(),
        );
        let retired = host.partition.take_retired_segments();
        let machine = Machine::Partition(Box::new(host));
        self.hosted.insert(group, Hosted { raft, machine, awaits_leader: false, stepped_bytes: 0 });
        self.watch_ticks(now, group);
        if is_new {
            self.create_folder(group);
        }
        self.remove_segments(group, retired);
        self.deliver_early(now, group);
    }

    /// Whether the WAL holds a group that the metadata has not named yet.
    pub(crate) fn has_recovered(&self, group: GroupId) -> bool {
        self.recovered.contains_key(&group)
    }

    /// The topic of a partition is deleted: whoever waits hears of it, and its data goes.
    fn remove_partition(&mut self, group: GroupId) {
        self.recovered.remove(&group);
        self.dirty.remove(&group);
        self.peers.forget_group(group);
        self.pulling.remove(&group);
        if let Some(mut hosted) = self.hosted.remove(&group)
            && let Some((_, host)) = hosted.partition()
        {
            self.wal.on_driven(host.undriven_bytes);
            self.abandon(group, host);
        }
        self.forget_disk_work(group);
        // The WAL forgets the group only after its folder is gone: a crash in between makes the next start remove it.
        if is_planted(Mutant::RecoverDeletedGroup) {
            self.wal.push(Unit::of_shard(group, vec![Record::GroupRemoved { group }], true));
        }
        self.submit_removal(group);
    }

    /// A group of this node has a new leader: the metadata shard hears of it first and tells everybody.
    pub(crate) fn report_leader(&mut self, change: LeaderChange) {
        let hub = self.config.broker.layout.metadata_shard();
        if hub == self.config.shard {
            self.on_leader(change);
        } else {
            self.effects.push(Effect::SendToShard { to: hub, message: ShardMessage::Leader(change) });
        }
    }

    pub(crate) fn on_leader(&mut self, change: LeaderChange) {
        let LeaderChange { group, term, leader, in_sync } = change.clone();
        self.broker.on_leader(group, term, leader, in_sync);
        if let Some(Hosted { machine: Machine::Metadata(host), .. }) = self.hosted.get_mut(&GroupId::METADATA)
        {
            let answers = host.on_leader(self.node, change.clone());
            self.send_to_all(|| ShardMessage::Leader(change.clone()));
            self.answers.extend(answers);
        }
    }

    /// Sends a message to every other shard.
    pub(crate) fn send_to_all(&mut self, message: impl Fn() -> ShardMessage) {
        for shard in (0..self.config.broker.layout.shards()).map(ShardId) {
            if shard != self.config.shard {
                self.effects.push(Effect::SendToShard { to: shard, message: message() });
            }
        }
    }
}
