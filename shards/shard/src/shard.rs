//! The shard: its state, and where each event goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use broker::{Broker, BrokerConfig, MetadataOp, Op, OpResult, OpToken, Output, ProduceOp, Target};
use log::wal::{Record, Recovered, RecoveredGroup};
use metadata::{MetadataImage, StaticSettings};
use partition::Partition;
use raft_group::{Group, read_checkpoint};
use types::hash::mix64;
use types::mutants::{Mutant, is_planted};
use types::{GroupId, NodeId, Now, Offset, PartitionIndex, ReplicaId, ShardId};

use crate::disk::DiskWork;
use crate::event::{Effect, Event, FatalReason, LeaderChange, PeerAddress, ShardMessage};
use crate::group_metrics::GroupMetrics;
use crate::leader_waits::LeaderWaits;
use crate::leadership::Handover;
use crate::metadata_host::{MetadataHost, Registration, logged_directories};
use crate::partition_host::{Answer, Asker, PartitionHost};
use crate::peers::Peers;
use crate::pull_pace::PullPace;
use crate::raft_metrics::RaftMetrics;
use crate::throttle::{DeferredPull, PullRates};
use crate::wal::{Removal, Unit, Wal};

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
    /// Whether there may be other nodes, now or later.
    pub is_clustered: bool,
    /// Other nodes as they were configured, ascending. The metadata name those that came later.
    pub peers: Vec<PeerAddress>,
    /// The nodes that the cluster was begun with, ascending: the first voters of the metadata group. Empty where this node
    /// joins a cluster that is there.
    pub first_voters: Vec<NodeId>,
    /// Whether this node may begin a cluster, or has been in one before; otherwise it waits for one that finds it.
    pub may_begin_cluster: bool,
    /// A follower that was not caught up for so many milliseconds is out of sync [`replica.lag.time.max.ms`].
    pub replica_lag_ms_max: i64,
    /// Milliseconds between two looks at whether partitions are led by their first replicas
    /// [`leader.imbalance.check.interval.seconds`]; `None` where nobody looks [`auto.leader.rebalance.enable`].
    pub leader_balance_interval_ms: Option<i64>,
    /// Whether brokers that join get their share of the partitions by themselves [`auto.replica.rebalance.enable`].
    pub shares_out: bool,
    /// Bytes per second that replicas which are new on this node may pull [`replica.move.bytes.per.second.max`].
    pub move_bytes_per_second_max: u64,
    /// The source of all ids and time-outs; differs at each start of the process.
    pub seed: u64,
}

/// A Raft group of this shard, with the state machine that its entries feed.
pub(crate) struct Hosted {
    pub raft: Group,
    pub machine: Machine,
    /// Bytes of entries that came from the leader since the group was last driven.
    pub undriven_bytes: usize,
    /// Since when the group has no leader, and since when this node hands its leadership over, on the monotonic clock in
    /// microseconds.
    pub leaderless_since_us: Option<u64>,
    pub handing_over_since_us: Option<u64>,
    /// The leader's node has connected anew: until its word comes, it may have ceased to lead.
    pub awaits_leader: bool,
}

/// What a group replicates.
pub(crate) enum Machine {
    Partition(Box<PartitionHost>),
    Metadata(Box<MetadataHost>),
}

impl Hosted {
    fn new(raft: Group, machine: Machine) -> Hosted {
        Hosted {
            raft,
            machine,
            undriven_bytes: 0,
            leaderless_since_us: None,
            handing_over_since_us: None,
            awaits_leader: false,
        }
    }

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
    pub(crate) group_metrics: GroupMetrics,
    /// Replicas that are being removed here, and whether the WAL has durably forgotten them. Another one of the same group
    /// is made only when nothing is under way for the former one.
    removing: BTreeMap<GroupId, bool>,
    /// Partitions of this shard whose replicas are to be elsewhere. Their leaders see to it.
    pub(crate) moving: BTreeSet<GroupId>,
    /// Whether this node leads the metadata group, and others are to vote in it than do.
    pub(crate) is_changing_voters: bool,
    /// Replicas that pull what they lack, and whether they are throttled.
    pub(crate) pulling: BTreeMap<GroupId, bool>,
    /// How fast that may be, beside live traffic and where it is bounded.
    pub(crate) pull_pace: PullPace,
    pub(crate) pull_rates: PullRates,
    /// Those that wait because of it, and until when on the monotonic clock in microseconds.
    pub(crate) paced_pulls: BTreeMap<GroupId, u64>,
    /// Pulls of other nodes that wait because of it.
    pub(crate) deferred_pulls: BTreeMap<(GroupId, NodeId), DeferredPull>,
    pub(crate) wal: Wal,
    pub(crate) disk: DiskWork,
    pub(crate) dirty: BTreeSet<GroupId>,
    /// Partitions of `__consumer_offsets` with a coordinator here.
    pub(crate) coordinators: BTreeSet<GroupId>,
    pub(crate) fetch_waits: BTreeMap<(ShardId, u64), FetchWait>,
    /// Batches that wait for room in the WAL.
    pub(crate) stalled: VecDeque<(Asker, ProduceOp)>,
    pub(crate) stalled_bytes: usize,
    /// Requests that their leaders cannot carry out yet.
    pub(crate) leader_waits: LeaderWaits,
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
            peers: Peers::new(now, config.broker.node, config.leader_balance_interval_ms),
            removing: BTreeMap::new(),
            moving: BTreeSet::new(),
            is_changing_voters: false,
            raft_metrics: RaftMetrics::new(config.shard),
            group_metrics: GroupMetrics::new(config.shard),
            pulling: BTreeMap::new(),
            pull_pace: PullPace::new(),
            pull_rates: PullRates::new(now, config.move_bytes_per_second_max),
            paced_pulls: BTreeMap::new(),
            deferred_pulls: BTreeMap::new(),
            wal,
            disk: DiskWork::new(now, config.broker.retention_check_interval_ms),
            dirty: BTreeSet::new(),
            coordinators: BTreeSet::new(),
            fetch_waits: BTreeMap::new(),
            stalled: VecDeque::new(),
            stalled_bytes: 0,
            leader_waits: LeaderWaits::default(),
            answers: Vec::new(),
            effects: Vec::new(),
            handover: None,
            is_shutting_down: false,
            is_shut_down: false,
            config,
        };
        shard.refuse_strangers();
        shard.resume_removals();
        if shard.config.broker.layout.metadata_shard() == shard.config.shard {
            shard.host_metadata(now);
        }
        shard.begin_peers(now);
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

    /// Goes on with removals that the last process did not end. The metadata may not say yet, once more, that they were due.
    fn resume_removals(&mut self) {
        let begun = self.recovered.extract_if(.., |_, recovered| raft_group::is_being_removed(recovered));
        let begun: Vec<GroupId> = begun.map(|(group, _)| group).collect();
        for group in begun {
            self.removing.insert(group, false);
            self.submit_removal(group);
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
            self.peers.next_deadline_us(
                !self.moving.is_empty() || self.is_changing_voters || self.image.is_rebalancing(),
            ),
            self.leader_waits.next_deadline_us(),
            self.handover.map(|handover| handover.next_deadline_us()),
            self.next_pull_deadline_us(),
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
        match self.config.is_clustered {
            false => self.finish_accepted(now),
            true => self.begin_handover(now),
        }
    }

    /// Nothing new is accepted any more, and what was is finished.
    pub(crate) fn finish_accepted(&mut self, now: Now) {
        self.is_shutting_down = true;
        for group in self.coordinators.clone() {
            self.resign_coordinator(group);
        }
        self.refuse_stalled();
        self.end_all_waits(now);
        self.broker.on_shutdown(now);
    }

    fn on_deadline(&mut self, now: Now) {
        self.broker.on_deadline(now);
        self.wal.on_deadline(now, &mut self.effects);
        self.on_disk_deadline(now);
        self.on_leader_waits_deadline(now);
        self.on_peers_deadline(now);
        self.on_pulls_deadline(now);
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
            ShardMessage::Moved { group, decision } => self.on_moved(group, decision),
            ShardMessage::Pulls(kinds) => self.on_other_pulls(now, from, kinds),
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
            Output::Abort { connection, reason } => self.effects.push(Effect::Abort { connection, reason }),
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

    /// Carries out an operation, or says why that cannot be.
    pub(crate) fn do_op(&mut self, now: Now, asker: Asker, op: Op) {
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
            Op::MeasureSpace => self.measure_space(asker),
            Op::Group(op) => self.on_group_request(now, asker, op),
            Op::Metadata(MetadataOp::Propose { command, deadline_us }) => {
                self.change_metadata(&command, Some((asker, deadline_us)));
            }
            Op::Metadata(MetadataOp::DescribeQuorum { deadline_us }) => {
                self.describe_quorum(now, (asker, deadline_us));
            }
            Op::Metadata(MetadataOp::HandOver { group, from, to, deadline_us }) => {
                self.await_hand_over(group, to, (asker, deadline_us));
                self.ask_hand_over(now, from, group, to);
            }
        }
    }

    fn host_metadata(&mut self, now: Now) {
        let recovered = self.recovered.remove(&GroupId::METADATA);
        let logged = recovered.as_ref().map(|group| logged_directories(&group.entries)).unwrap_or_default();
        let restored = recovered.map(|recovered| Group::restore(GroupId::METADATA, recovered)).transpose();
        let restored = match restored {
            Ok(restored) => restored,
            Err(error) => return self.fatal(FatalReason::Damaged(format!("the metadata group: {error}"))),
        };
        let snapshot = restored.as_ref().map(|(_, snapshot)| snapshot.as_ref());
        let mut host = match MetadataHost::new(self.config.settings.clone(), snapshot) {
            Ok(host) => host,
            Err(why) => return self.fatal(FatalReason::Damaged(why)),
        };
        if self.config.is_clustered {
            // Before anybody is talked to, and all at once.
            let mut directories = host.directories();
            directories.extend(logged);
            self.effects.push(Effect::KnownDirectories { directories });
        }
        let raft = match restored {
            Some((raft, _)) => raft,
            None => {
                let voters = self.config.first_voters.iter().map(|node| ReplicaId::first(*node)).collect();
                self.create_group(GroupId::METADATA, ReplicaId::first(self.node), voters, &host.snapshot())
            }
        };
        let machine = Machine::Metadata(Box::new(host));
        self.begin_group(now, GroupId::METADATA, Hosted::new(raft, machine), false);
    }

    /// A replica that was not here before. The WAL says so before anything else of it.
    pub(crate) fn create_group(
        &mut self,
        group: GroupId,
        own: ReplicaId,
        voters: Vec<ReplicaId>,
        machine: &[u8],
    ) -> Group {
        let raft = Group::create(group, own, voters);
        let records = vec![raft.checkpoint_record(machine)];
        // That of a partition is written with the first thing that happens to it. Nothing may happen to a node that joins
        // before its metadata group is asked to be another replica, for which nothing of this one may wait.
        self.wal.push(Unit::of_shard(group, records, group == GroupId::METADATA));
        raft
    }

    /// A group is hosted from now on. The only voter, and the first replica of a new group, campaign at once.
    fn begin_group(&mut self, now: Now, group: GroupId, mut hosted: Hosted, is_first: bool) {
        if hosted.raft.is_single_voter() || is_first {
            hosted.raft.campaign();
        }
        self.hosted.insert(group, hosted);
        self.dirty.insert(group);
        self.watch_ticks(now, group);
    }

    /// Whether the newest image is from this process's life, so that it places replicas here that are to be here. One from
    /// before may lack what was decided since.
    pub(crate) fn is_image_current(&self) -> bool {
        let registered = self.image.broker(self.node);
        registered.is_some_and(|broker| broker.incarnation == self.config.broker.incarnation)
    }

    /// A newer image: the replicas that it places here are to be hosted, and no others.
    pub(crate) fn on_image(&mut self, now: Now, image: Arc<MetadataImage>) {
        let before = std::mem::replace(&mut self.image, Arc::clone(&image));
        if self.config.is_clustered {
            self.update_peers(now, &before);
        }
        if !self.coordinators.is_empty() {
            let deleted = before.topics().filter(|topic| image.topic_by_id(topic.id).is_none());
            let deleted: BTreeSet<Arc<str>> = deleted.map(|topic| Arc::clone(&topic.name)).collect();
            if !deleted.is_empty() {
                self.forget_topic_offsets(now, &deleted);
            }
        }
        let is_current = self.is_image_current();
        for group in self.misplaced(is_current) {
            if !is_planted(Mutant::KeepDeletedPartition) {
                self.remove_partition(now, group);
            }
        }
        for topic in image.topics() {
            for (index, partition) in (0i32..).zip(&topic.partitions) {
                let group = partition.group;
                if self.config.broker.layout.shard_of(group) != self.config.shard {
                    continue;
                }
                // A replica without a trace in the WAL may be new here, or gone by a change that an image from before the
                // last start lacks. Made anew, it would vote again in terms in which it has voted.
                let is_wanted = is_current && partition.replica_on(self.node).is_some();
                match self.hosted.get_mut(&group).and_then(Hosted::partition) {
                    Some((_, host)) => host.topic = Arc::clone(topic),
                    None if self.recovered.contains_key(&group) => {
                        self.host_partition(now, topic, index, group)
                    }
                    None if is_wanted && !self.removing.contains_key(&group) => {
                        self.host_partition(now, topic, index, group)
                    }
                    None => {}
                }
                if partition.is_moving() {
                    self.moving.insert(group);
                    self.continue_move(now, group);
                }
            }
        }
        self.drop_early();
        self.review_pulls(now);
        self.broker.on_image(image);
    }

    /// Groups here whose partition is deleted, or whose replica here is not, or no longer, one of it.
    fn misplaced(&self, is_current: bool) -> Vec<GroupId> {
        let of_recovered = |recovered: &RecoveredGroup| {
            let state = recovered.checkpoint.as_ref().map(|checkpoint| checkpoint.state.clone());
            // One that cannot be read ends the process when it is restored.
            state.and_then(|state| read_checkpoint(state).ok()).map(|(own, ..)| own)
        };
        let hosted = self.hosted.iter().map(|(group, hosted)| (*group, Some(hosted.raft.own())));
        let recovered = self.recovered.iter().map(|(group, recovered)| (*group, of_recovered(recovered)));
        let is_misplaced = |(group, own): &(GroupId, Option<ReplicaId>)| {
            // A group that the image has not allocated yet is one that it does not know of, not one that is gone.
            if *group == GroupId::METADATA || self.image.may_allocate(*group) {
                return false;
            }
            match self.image.partition_of_group(*group) {
                None => true,
                Some((topic, index)) => {
                    let partition = topic.partition(index).expect("a group's partition is there");
                    is_current && own.is_some() && partition.replica_on(self.node) != *own
                }
            }
        };
        hosted.chain(recovered).filter(is_misplaced).map(|(group, _)| group).collect()
    }

    fn host_partition(&mut self, now: Now, topic: &Arc<metadata::Topic>, index: i32, group: GroupId) {
        let damaged = |error: &dyn std::fmt::Display| {
            FatalReason::Damaged(format!("partition {}-{index} (group {group}): {error}", topic.name))
        };
        let recovered = self.recovered.remove(&group);
        let (raft, state, is_first) = match recovered.map(|recovered| Group::restore(group, recovered)) {
            Some(Ok((raft, state))) => (raft, state, false),
            Some(Err(error)) => return self.fatal(damaged(&error)),
            None => {
                let placed = &topic.partitions[index as usize];
                let own = placed.replica_on(self.node).expect("the caller has looked");
                let mut voters = placed.first_voters();
                if !voters.contains(&own) {
                    voters.clear();
                }
                let is_first = voters.first() == Some(&own);
                let (_, state) = Partition::new().checkpoint();
                (self.create_group(group, own, voters, &state), state, is_first)
            }
        };
        let partition = match Partition::restore(raft.checkpointed().0, &state) {
            Ok(partition) => partition,
            Err(error) => return self.fatal(damaged(&error)),
        };
        let mut host = PartitionHost::new(
            Arc::clone(topic),
            PartitionIndex(index),
            partition,
            raft.role(),
            self.raft_metrics.commit_seconds.clone(),
        );
        let retired = host.partition.take_retired_segments();
        let has_none_left =
            host.partition.segment_files().is_empty() && host.partition.log_start() > Offset(0);
        let is_cleaned = !retired.is_empty() || has_none_left;
        let machine = Machine::Partition(Box::new(host));
        self.begin_group(now, group, Hosted::new(raft, machine), is_first);
        self.remove_segments(group, retired);
        if is_cleaned {
            // Of records that are gone by now, a crash may have left files that no checkpoint knows of. They would stay until
            // something is written.
            self.create_folder(group);
        }
        self.deliver_early(now, group);
    }

    /// Once nothing is left of a replica that was removed, another one of the same partition may be wanted here.
    pub(crate) fn watch_removal(&mut self, now: Now, group: GroupId) {
        let is_forgotten = self.removing.get(&group).copied();
        if is_forgotten != Some(true) || self.disk.is_busy_with(group) {
            return;
        }
        self.removing.remove(&group);
        // An image from before the last start may name the very replica that was removed.
        if !self.is_image_current() {
            return;
        }
        let Some((topic, index)) = self.image.partition_of_group(group) else { return };
        let placed = topic.partition(index).expect("a group's partition is there");
        if placed.replica_on(self.node).is_some() {
            self.host_partition(now, &topic, index.0, group);
        }
    }

    /// Whether the WAL holds a group that the metadata has not named yet.
    pub(crate) fn has_recovered(&self, group: GroupId) -> bool {
        self.recovered.contains_key(&group)
    }

    /// A partition is deleted, or is not to be here: whoever waits hears of it, and its data goes.
    fn remove_partition(&mut self, now: Now, group: GroupId) {
        let recovered = self.recovered.remove(&group);
        let mut checkpointed = recovered
            .and_then(|recovered| recovered.checkpoint)
            .map(|checkpoint| (checkpoint.index, checkpoint.term));
        self.removing.insert(group, false);
        self.moving.remove(&group);
        self.dirty.remove(&group);
        self.peers.forget_group(group);
        self.pulling.remove(&group);
        self.paced_pulls.remove(&group);
        self.deferred_pulls.retain(|(of, _), _| *of != group);
        if let Some(mut hosted) = self.hosted.remove(&group)
            && let Some((raft, host)) = hosted.partition()
        {
            self.wal.on_driven(host.undriven_bytes);
            checkpointed = Some(raft.checkpointed());
            self.abandon(group, host);
        }
        self.end_waits(now, group);
        self.forget_disk_work(group);
        let (index, term) = checkpointed.unwrap_or_default();
        self.wal.push(Unit::of_shard(group, vec![raft_group::removal_record(group, index, term)], true));
        if is_planted(Mutant::RecoverDeletedGroup) {
            self.wal.push(Unit::of_shard(group, vec![Record::GroupRemoved { group }], true));
        }
    }

    /// Whether a replica of the group is being removed here.
    pub(crate) fn is_removing(&self, group: GroupId) -> bool {
        self.removing.contains_key(&group)
    }

    /// A step of a removal is durable. The WAL says first that the replica goes, and forgets it once its folder is gone, so that
    /// a start in between neither serves what is left of it nor leaves that behind.
    pub(crate) fn go_on_removing(&mut self, now: Now, group: GroupId, removal: Removal) {
        match removal {
            Removal::Begun => self.submit_removal(group),
            Removal::Done => {
                self.removing.insert(group, true);
                self.watch_removal(now, group);
            }
        }
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
