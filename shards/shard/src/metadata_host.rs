//! The metadata group on its shard: commands are proposed, applied, published, and answered in this order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use broker::OpResult;
use bytes::Bytes;
use log::wal::Entry;
use metadata::{Applied, Command, MetadataImage, MetadataState, StaticSettings};
use protocol::messages::ErrorCode;
use types::limits::{METADATA_CHECKPOINT_BYTES, PARTITIONS_MAX};
use types::{DirectoryId, GroupId, LogIndex, NodeId, Now, Term};

use crate::event::LeaderChange;
use crate::partition_host::{Answer, Asker};

/// Changes that wait for a leader of the metadata group, or for its answer. More are refused.
const CHANGES_WAITING_MAX: usize = 1_000;

/// Hand-overs that are waited for: all that there can be may be asked for at once. Of more, nobody here says whether they came
/// about.
const HAND_OVERS_WAITING_MAX: usize = PARTITIONS_MAX;

/// Between two attempts of this node to register.
const REGISTRATION_INTERVAL_MS: i64 = 500;

/// How long to wait before a change goes once more to a leader that did not take it.
const FORWARD_RETRY_MS: i64 = 50;

/// Who waits for a change, and until when on the monotonic clock in microseconds.
pub(crate) type Waiter = (Asker, u64);

/// An entry of the metadata group that somebody on this node waits for, proposed here or by the leader for us.
struct Proposal {
    term: Term,
    waiter: Waiter,
}

/// A change that is applied, and whose partitions have no leader yet.
struct Creation {
    asker: Asker,
    deadline_us: u64,
    leaderless: BTreeSet<GroupId>,
    applied: Applied,
}

/// What was sent to the leader.
struct Forwarded {
    to: NodeId,
    /// The change, for another try; `None` for a question.
    command: Option<Bytes>,
    waiter: Option<Waiter>,
}

/// The metadata state machine, its proposals, and what this node knows of leaders.
pub(crate) struct MetadataHost {
    state: MetadataState,
    proposals: BTreeMap<LogIndex, Vec<Proposal>>,
    /// Changes that were sent to the leader, which has not said yet where they stand in the log.
    forwarded: BTreeMap<u64, Forwarded>,
    /// Numbers what was forwarded, and those who wait for a hand-over.
    next_request: u64,
    /// Changes that wait for a leader.
    waiting: Vec<(Bytes, Waiter)>,
    /// When they are tried again, on the monotonic clock in microseconds, because a leader did not serve yet.
    retry_at_us: Option<u64>,
    published: LogIndex,
    /// Results of applied commands, to be given once the image is published.
    answers: Vec<(Waiter, Applied)>,
    /// Answers to changes that did not come about.
    failed: Vec<Answer>,
    creations: Vec<Creation>,
    /// Those who wait for a replica to lead a group, by the group and a number of their own.
    hand_overs: BTreeMap<(GroupId, u64), (NodeId, Waiter)>,
    /// When the first of them gives up, on the monotonic clock in microseconds, or sooner: they are too many to be looked
    /// through in each turn.
    hand_overs_due_us: u64,
    leaders: BTreeMap<GroupId, LeaderChange>,
    /// Groups led by this node that the others have not been told of.
    untold: BTreeSet<GroupId>,
    /// Decisions that leaders on this node have carried out, and that the metadata have not been told of.
    moved: BTreeMap<GroupId, u32>,
    bytes_since_checkpoint: usize,
    leader: Option<NodeId>,
    cluster_id_proposed_in: Option<Term>,
    register_at_us: u64,
    is_joined: bool,
    is_refusal_told: bool,
}

impl MetadataHost {
    pub(crate) fn new(settings: StaticSettings, snapshot: Option<&[u8]>) -> Result<MetadataHost, String> {
        let mut state = MetadataState::new(settings);
        if let Some(snapshot) = snapshot {
            state.restore(snapshot).map_err(|error| format!("the metadata checkpoint: {error}"))?;
        }
        Ok(MetadataHost {
            state,
            proposals: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            next_request: 0,
            waiting: Vec::new(),
            retry_at_us: None,
            published: LogIndex(0),
            answers: Vec::new(),
            failed: Vec::new(),
            creations: Vec::new(),
            hand_overs: BTreeMap::new(),
            hand_overs_due_us: u64::MAX,
            leaders: BTreeMap::new(),
            untold: BTreeSet::new(),
            moved: BTreeMap::new(),
            bytes_since_checkpoint: 0,
            leader: None,
            cluster_id_proposed_in: None,
            register_at_us: 0,
            is_joined: false,
            is_refusal_told: false,
        })
    }

    /// Takes over the state of a snapshot. What was proposed before it may or may not be in it.
    pub(crate) fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.state.restore(snapshot).map_err(|error| format!("a metadata snapshot: {error}"))?;
        let proposals = std::mem::take(&mut self.proposals).into_values().flatten();
        self.failed.extend(proposals.map(|proposal| timed_out(proposal.waiter.0)));
        Ok(())
    }

    /// The state as of the last applied entry.
    pub(crate) fn snapshot(&self) -> Bytes {
        self.state.snapshot()
    }

    /// The data directories that nodes are registered with.
    pub(crate) fn directories(&mut self) -> Vec<(NodeId, Option<DirectoryId>)> {
        self.state.image().directories().collect()
    }

    /// A command stands at `index` if `term` lasts until it is committed.
    pub(crate) fn on_proposed(&mut self, index: LogIndex, term: Term, waiter: Waiter) {
        if index <= self.state.applied() {
            // Its fate is decided, and was not observed.
            return self.failed.push(timed_out(waiter.0));
        }
        self.proposals.entry(index).or_default().push(Proposal { term, waiter });
    }

    /// A change, or a question, goes to the leader on another node. Returns the number of the request.
    pub(crate) fn on_forwarded(&mut self, to: NodeId, command: Option<Bytes>, waiter: Option<Waiter>) -> u64 {
        self.next_request += 1;
        self.forwarded.insert(self.next_request, Forwarded { to, command, waiter });
        self.next_request
    }

    /// The leader has proposed what was forwarded, or refuses to. One that has just been elected does not serve yet, and one that
    /// was may know of its successor: nothing was proposed, so that it is tried again.
    pub(crate) fn on_forwarded_answered(
        &mut self,
        now: Now,
        request: u64,
        outcome: Result<(LogIndex, Term), ErrorCode>,
    ) {
        let Some(Forwarded { command, waiter, .. }) = self.forwarded.remove(&request) else { return };
        let Some(waiter) = waiter else {
            // Nobody waits for this node's registration either.
            if outcome == Err(ErrorCode::NotController) {
                self.register_at_us = self.register_at_us.min(now.after_ms(FORWARD_RETRY_MS));
            }
            return;
        };
        match (outcome, command) {
            (Ok((index, term)), _) => self.on_proposed(index, term, waiter),
            (Err(ErrorCode::NotController), Some(command)) => {
                self.retry_at_us.get_or_insert(now.after_ms(FORWARD_RETRY_MS));
                self.wait_for_leader(command, waiter);
            }
            (Err(error), _) => self.failed.push((waiter.0, OpResult::Metadata(Err(error)))),
        }
    }

    /// Whether changes that a leader did not take are to be tried again now.
    pub(crate) fn take_retry(&mut self, now: Now) -> bool {
        self.retry_at_us.take_if(|at_us| *at_us <= now.mono_us).is_some()
    }

    /// Who waits for the answer to a question that was forwarded, which has come.
    pub(crate) fn take_forwarded(&mut self, request: u64) -> Option<Waiter> {
        self.forwarded.remove(&request)?.waiter
    }

    /// The connection to a node is gone: what was forwarded to it may or may not come about.
    pub(crate) fn on_forwarded_lost(&mut self, to: NodeId) {
        let lost = self.forwarded.extract_if(.., |_, forwarded| forwarded.to == to);
        let waiters = lost.filter_map(|(_, forwarded)| forwarded.waiter);
        self.failed.extend(waiters.map(|(asker, _)| timed_out(asker)));
    }

    /// Somebody waits for a replica to lead a group.
    pub(crate) fn await_hand_over(&mut self, group: GroupId, to: NodeId, waiter: Waiter) {
        if self.hand_overs.len() >= HAND_OVERS_WAITING_MAX {
            return self.failed.push(timed_out(waiter.0));
        }
        self.hand_overs_due_us = self.hand_overs_due_us.min(waiter.1);
        self.next_request += 1;
        self.hand_overs.insert((group, self.next_request), (to, waiter));
    }

    /// Notes who leads the metadata group; whether that is another one than before.
    pub(crate) fn watch_leader(&mut self, leader: Option<NodeId>) -> bool {
        std::mem::replace(&mut self.leader, leader) != leader
    }

    /// A change waits for a leader.
    pub(crate) fn wait_for_leader(&mut self, command: Bytes, waiter: Waiter) {
        if self.waiting.len() + self.forwarded.len() >= CHANGES_WAITING_MAX {
            return self.failed.push(not_controller(waiter.0));
        }
        self.waiting.push((command, waiter));
    }

    /// Changes that waited for a leader, now that there is one.
    pub(crate) fn take_waiting(&mut self) -> Vec<(Bytes, Waiter)> {
        std::mem::take(&mut self.waiting)
    }

    /// The leader of a group on this node has carried out a decision.
    pub(crate) fn on_moved(&mut self, group: GroupId, decision: u32) {
        self.moved.insert(group, decision);
    }

    /// Decisions that were carried out, to be told the metadata. Their leaders report them again if this is lost.
    pub(crate) fn take_moved(&mut self) -> Vec<(GroupId, u32)> {
        std::mem::take(&mut self.moved).into_iter().collect()
    }

    /// Applies a committed entry; those of Raft's own have no command.
    pub(crate) fn apply(
        &mut self,
        index: LogIndex,
        term: Term,
        command: Option<&Bytes>,
    ) -> Result<(), String> {
        let applied = match command {
            None => None,
            Some(data) => {
                let command =
                    Command::decode(data).map_err(|error| format!("metadata entry {index}: {error}"))?;
                self.bytes_since_checkpoint += data.len();
                Some(self.state.apply(index, command))
            }
        };
        let behind = self.proposals.split_off(&index.next());
        for (proposed_at, proposals) in std::mem::replace(&mut self.proposals, behind) {
            for Proposal { term: proposed_in, waiter } in proposals {
                match &applied {
                    Some(applied) if proposed_at == index && proposed_in == term => {
                        self.answers.push((waiter, applied.clone()));
                    }
                    // Another leader's entry took its place.
                    _ => self.failed.push(not_controller(waiter.0)),
                }
            }
        }
        Ok(())
    }

    /// The image, if it changed since it was last taken.
    pub(crate) fn take_image(&mut self) -> Option<Arc<MetadataImage>> {
        let image = self.state.image();
        if image.epoch() == self.published {
            return None;
        }
        self.published = image.epoch();
        self.leaders.retain(|group, _| image.partition_of_group(*group).is_some());
        Some(image)
    }

    /// Answers that may be given, now that the image is published. A change that made partitions waits for the word of their
    /// leaders that they serve, so that a produce right after the answer works.
    pub(crate) fn take_answers(&mut self) -> Vec<Answer> {
        let mut ready = std::mem::take(&mut self.failed);
        for ((asker, deadline_us), applied) in std::mem::take(&mut self.answers) {
            let groups = match &applied {
                Applied::TopicCreated { groups } | Applied::PartitionsCreated { groups } => groups.as_slice(),
                _ => &[],
            };
            let is_served = |group: &GroupId| self.leaders.get(group).is_some_and(LeaderChange::serves);
            let leaderless: BTreeSet<GroupId> =
                groups.iter().copied().filter(|group| !is_served(group)).collect();
            match leaderless.is_empty() {
                true => ready.push((asker, OpResult::Metadata(Ok(applied)))),
                false => self.creations.push(Creation { asker, deadline_us, leaderless, applied }),
            }
        }
        ready
    }

    /// A group has a new leader. Returns the answers that waited for it.
    pub(crate) fn on_leader(&mut self, own: NodeId, change: LeaderChange) -> Vec<Answer> {
        let (group, leader) = (change.group, change.leader);
        if let Some(known) = self.leaders.get(&group) {
            let is_said_before = known.term == change.term && known.leader == leader && known.serves();
            if known.term > change.term || is_said_before && !change.serves() {
                return Vec::new();
            }
        }
        let serves = change.serves();
        if leader == Some(own) {
            self.untold.insert(group);
        }
        self.leaders.insert(group, change);
        if leader.is_none() {
            return Vec::new();
        }
        for creation in self.creations.iter_mut().filter(|_| serves) {
            creation.leaderless.remove(&group);
        }
        let created = self.creations.extract_if(.., |creation| creation.leaderless.is_empty());
        let mut answers: Vec<Answer> =
            created.map(|creation| (creation.asker, OpResult::Metadata(Ok(creation.applied)))).collect();
        let of_group = (group, 0)..=(group, u64::MAX);
        let led = self.hand_overs.extract_if(of_group, |_, (to, _)| leader == Some(*to));
        answers.extend(led.map(|(_, (_, waiter))| (waiter.0, OpResult::HandedOver(true))));
        answers
    }

    /// News of groups that this node leads, for the others.
    pub(crate) fn take_untold(&mut self) -> Vec<LeaderChange> {
        let untold = std::mem::take(&mut self.untold);
        untold.into_iter().filter_map(|group| self.leaders.get(&group).cloned()).collect()
    }

    /// All groups that this node leads.
    pub(crate) fn led_by(&self, own: NodeId) -> Vec<LeaderChange> {
        self.leaders.values().filter(|change| change.leader == Some(own)).cloned().collect()
    }

    /// When [`MetadataHost::on_deadline`] is due.
    pub(crate) fn next_deadline_us(&self) -> Option<u64> {
        let registration = (!self.is_joined).then_some(self.register_at_us);
        self.deadlines().chain(registration).chain(self.retry_at_us).min()
    }

    fn deadlines(&self) -> impl Iterator<Item = u64> {
        let creations = self.creations.iter().map(|creation| creation.deadline_us);
        let proposals = self.proposals.values().flatten().map(|proposal| proposal.waiter.1);
        let forwarded =
            self.forwarded.values().filter_map(|forwarded| forwarded.waiter.map(|(_, at_us)| at_us));
        let waiting = self.waiting.iter().map(|(_, waiter)| waiter.1);
        let hand_overs = (!self.hand_overs.is_empty()).then_some(self.hand_overs_due_us);
        creations.chain(proposals).chain(forwarded).chain(waiting).chain(hand_overs)
    }

    /// Gives up waiting for changes whose time is over. They may still come about.
    pub(crate) fn on_deadline(&mut self, now: Now) {
        if self.deadlines().all(|at_us| at_us > now.mono_us) {
            return;
        }
        let is_over = |waiter: &Waiter| waiter.1 <= now.mono_us;
        let mut over: Vec<Asker> = Vec::new();
        let creations = self.creations.extract_if(.., |creation| creation.deadline_us <= now.mono_us);
        over.extend(creations.map(|creation| creation.asker));
        for proposals in self.proposals.values_mut() {
            let late = proposals.extract_if(.., |proposal| is_over(&proposal.waiter));
            over.extend(late.map(|proposal| proposal.waiter.0));
        }
        self.proposals.retain(|_, proposals| !proposals.is_empty());
        let is_late = |_: &u64, forwarded: &mut Forwarded| forwarded.waiter.as_ref().is_some_and(is_over);
        let late = self.forwarded.extract_if(.., is_late);
        over.extend(late.filter_map(|(_, forwarded)| forwarded.waiter).map(|(asker, _)| asker));
        over.extend(self.waiting.extract_if(.., |(_, waiter)| is_over(waiter)).map(|(_, waiter)| waiter.0));
        self.failed.extend(over.into_iter().map(timed_out));
        if self.hand_overs_due_us <= now.mono_us {
            let late = self.hand_overs.extract_if(.., |_, (_, waiter)| is_over(waiter));
            self.failed.extend(late.map(|(_, (_, waiter))| (waiter.0, OpResult::HandedOver(false))));
            self.hand_overs_due_us =
                self.hand_overs.values().map(|(_, waiter)| waiter.1).min().unwrap_or(u64::MAX);
        }
    }

    /// A checkpoint, when enough was applied since the last one.
    pub(crate) fn take_checkpoint(&mut self, forced: bool) -> Option<Bytes> {
        if !forced && self.bytes_since_checkpoint < METADATA_CHECKPOINT_BYTES {
            return None;
        }
        self.bytes_since_checkpoint = 0;
        Some(self.state.snapshot())
    }

    /// The command that gives a new cluster its id, once for each term that this node leads.
    pub(crate) fn plan_cluster_id(
        &mut self,
        term: Term,
        voters: &[NodeId],
        registration: &Registration,
    ) -> Option<Command> {
        if self.state.image().cluster_id().is_some() || self.cluster_id_proposed_in == Some(term) {
            return None;
        }
        self.cluster_id_proposed_in = Some(term);
        let cluster_id = registration.new_cluster_id.clone();
        Some(Command::SetClusterId { cluster_id, voters: voters.to_vec() })
    }

    /// The command by which this node registers, while it has not, and not too often. `has_leader` says whether there
    /// is anybody to take it.
    pub(crate) fn plan_registration(
        &mut self,
        now: Now,
        has_leader: bool,
        registration: &Registration,
    ) -> Option<Command> {
        if self.is_joined || self.register_at_us > now.mono_us {
            return None;
        }
        self.register_at_us = now.after_ms(REGISTRATION_INTERVAL_MS);
        let is_due =
            has_leader && !self.is_registered(registration) && self.other_directory(registration).is_none();
        is_due.then(|| registration.command())
    }

    /// The data directory that this node is registered with, where that is not its own: it would be refused.
    fn other_directory(&mut self, registration: &Registration) -> Option<DirectoryId> {
        let image = self.state.image();
        let mut directories = image.directories();
        let (_, registered) = directories.find(|(node, _)| *node == registration.node)?;
        registered.filter(|registered| *registered != registration.directory_id)
    }

    /// Why this node cannot register, once.
    pub(crate) fn take_refusal(&mut self, registration: &Registration) -> Option<String> {
        let registered = self.other_directory(registration).filter(|_| !self.is_refusal_told)?;
        self.is_refusal_told = true;
        Some(format!(
            "this node does not join: it was registered with the data directory {registered}, and this is {}",
            registration.directory_id
        ))
    }

    /// Whether this process is a member of the cluster.
    pub(crate) fn is_joined(&self) -> bool {
        self.is_joined
    }

    /// There is a leader to register with: no need to wait for the next attempt.
    pub(crate) fn register_now(&mut self) {
        self.register_at_us = 0;
    }

    fn is_registered(&mut self, registration: &Registration) -> bool {
        let image = self.state.image();
        image.broker(registration.node).is_some_and(|broker| broker.incarnation == registration.incarnation)
    }

    /// The cluster's id, the first time that this process is a member of it.
    pub(crate) fn take_joined(&mut self, registration: &Registration) -> Option<String> {
        if self.is_joined || !self.is_registered(registration) {
            return None;
        }
        let cluster_id = self.state.image().cluster_id()?.to_owned();
        self.is_joined = true;
        Some(cluster_id)
    }
}

/// The data directories that a node was or may have been registered with, as the end of its metadata log says. What is
/// committed of it is not known at a start, and a node that lost its disk must not vote meanwhile.
pub(crate) fn logged_directories(entries: &[Entry]) -> Vec<(NodeId, Option<DirectoryId>)> {
    let registered = entries.iter().filter_map(|entry| match Command::decode(&entry.data) {
        Ok(Command::RegisterBroker { node, directory_id, .. }) => Some((node, Some(directory_id?))),
        Ok(Command::AddVoter { node, .. }) => Some((node, None)),
        // One that cannot be read ends the process when it is applied.
        Ok(_) | Err(_) => None,
    });
    registered.collect()
}

/// The answer of a node that does not lead the metadata group: the client asks again.
fn not_controller(asker: Asker) -> Answer {
    (asker, OpResult::Metadata(Err(ErrorCode::NotController)))
}

/// The answer to a change that may or may not come about.
fn timed_out(asker: Asker) -> Answer {
    (asker, OpResult::Metadata(Err(ErrorCode::RequestTimedOut)))
}

/// What this node tells the cluster of itself.
#[derive(Clone, Debug)]
pub struct Registration {
    /// This node.
    pub node: NodeId,
    /// Its rack.
    pub rack: Option<String>,
    /// Where clients reach it.
    pub endpoint: metadata::Endpoint,
    /// Differs at each start of the process.
    pub incarnation: u64,
    /// Where other nodes reach it; `None` where it is alone.
    pub peer: Option<metadata::Endpoint>,
    /// Its data directory.
    pub directory_id: DirectoryId,
    /// The id of the cluster, if this node begins it.
    pub new_cluster_id: String,
}

impl Registration {
    fn command(&self) -> Command {
        Command::RegisterBroker {
            node: self.node,
            rack: self.rack.clone(),
            endpoints: vec![self.endpoint.clone()],
            incarnation: self.incarnation,
            directory_id: Some(self.directory_id),
            peer: self.peer.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: DirectoryId = DirectoryId([3; 16]);

    fn registration(directory_id: DirectoryId) -> Registration {
        Registration {
            node: NodeId(3),
            rack: None,
            endpoint: metadata::Endpoint { listener: "PLAINTEXT".to_owned(), host: "h".to_owned(), port: 1 },
            incarnation: 1,
            peer: None,
            directory_id,
            new_cluster_id: "a".to_owned(),
        }
    }

    fn entry(index: u64, data: Bytes) -> Entry {
        Entry { term: Term(1), index: LogIndex(index), entry_type: 0, context: Bytes::new(), data }
    }

    #[test]
    fn directories_are_known_from_the_log_before_anything_is_applied() {
        let other = Command::SetClusterId { cluster_id: "a".to_owned(), voters: vec![NodeId(3)] };
        let payloads = [Bytes::new(), other.encode(), registration(OWN).command().encode()];
        let entries: Vec<Entry> = (1..).zip(payloads).map(|(index, data)| entry(index, data)).collect();
        assert_eq!(logged_directories(&entries), [(NodeId(3), Some(OWN))]);
    }

    fn asker(request: u64) -> Asker {
        Asker { shard: types::ShardId(0), token: broker::OpToken { request, part: 0 } }
    }

    fn host() -> MetadataHost {
        MetadataHost::new(StaticSettings::default(), None).expect("no snapshot is no bad one")
    }

    #[test]
    fn hand_overs_are_answered_by_their_leader_or_their_time_and_not_too_many_wait() {
        let mut host = host();
        let (own, to) = (NodeId(1), NodeId(2));
        for (request, group, deadline_us) in [(1, 7, 30), (2, 7, 20), (3, 8, 10), (4, 8, 40)] {
            host.await_hand_over(GroupId(group), to, (asker(request), deadline_us));
        }
        host.is_joined = true;
        assert_eq!(host.next_deadline_us(), Some(10));
        let outcomes = |answers: Vec<Answer>| -> Vec<(u64, bool)> {
            let outcome = |(to, result): Answer| match result {
                OpResult::HandedOver(is_done) => (to.token.request, is_done),
                other => panic!("{other:?}"),
            };
            answers.into_iter().map(outcome).collect()
        };
        let led_by = |leader| LeaderChange {
            group: GroupId(7),
            term: Term(3),
            leader: Some(leader),
            in_sync: [leader].into(),
        };
        assert_eq!(outcomes(host.on_leader(own, led_by(NodeId(3)))), [], "by somebody else");
        assert_eq!(outcomes(host.on_leader(own, led_by(to))), [(1, true), (2, true)]);
        let at = |mono_us| Now { mono_us, wall_ms: 0 };
        host.on_deadline(at(9));
        assert_eq!(outcomes(host.take_answers()), []);
        host.on_deadline(at(10));
        assert_eq!(outcomes(host.take_answers()), [(3, false)]);
        assert_eq!(host.next_deadline_us(), Some(40));
        host.on_deadline(at(40));
        assert_eq!((outcomes(host.take_answers()), host.next_deadline_us()), (vec![(4, false)], None));

        for request in 0..HAND_OVERS_WAITING_MAX as u64 {
            host.await_hand_over(GroupId(9), to, (asker(request), 50));
        }
        assert!(host.take_answers().is_empty());
        host.await_hand_over(GroupId(9), to, (asker(77), 50));
        let refused = host.take_answers();
        let too_many = OpResult::Metadata(Err(ErrorCode::RequestTimedOut));
        assert_eq!(format!("{refused:?}"), format!("{:?}", [(asker(77), too_many)]));
        host.on_deadline(at(50));
        assert_eq!(host.take_answers().len(), HAND_OVERS_WAITING_MAX);
    }

    #[test]
    fn what_made_partitions_is_answered_when_their_leaders_say_that_they_serve() {
        let mut host = host();
        let groups = vec![GroupId(7), GroupId(8)];
        host.answers.push(((asker(1), u64::MAX), Applied::TopicCreated { groups: groups.clone() }));
        assert_eq!(host.take_answers().len(), 0);
        let word = |group, in_sync: &[NodeId]| LeaderChange {
            group,
            term: Term(3),
            leader: Some(NodeId(2)),
            in_sync: in_sync.into(),
        };
        for group in groups.clone() {
            assert_eq!(host.on_leader(NodeId(1), word(group, &[])).len(), 0, "a follower's word");
        }
        assert_eq!(host.on_leader(NodeId(1), word(GroupId(7), &[NodeId(2)])).len(), 0, "one of two");
        // Late, and does not make the leader's own word undone.
        assert_eq!(host.on_leader(NodeId(1), word(GroupId(7), &[])).len(), 0);
        let answers = host.on_leader(NodeId(1), word(GroupId(8), &[NodeId(2)]));
        assert!(matches!(&answers[..], [(to, OpResult::Metadata(Ok(_)))] if to.token == asker(1).token));
        // The same partitions asked for later: nothing is left to wait for.
        host.answers.push(((asker(2), u64::MAX), Applied::PartitionsCreated { groups }));
        assert_eq!(host.take_answers().len(), 1);
    }

    #[test]
    fn a_node_that_is_registered_with_another_directory_says_so_once_and_does_not_try() {
        let mut host = host();
        let blank = registration(DirectoryId([9; 16]));
        let now = |ms: u64| Now { mono_us: ms * 1_000, wall_ms: 0 };
        assert!(host.plan_registration(now(0), true, &blank).is_some(), "it was not registered yet");
        let registered = registration(OWN).command().encode();
        host.apply(LogIndex(1), Term(1), Some(&registered)).expect("a good command");
        assert_eq!(host.directories(), [(NodeId(3), Some(OWN))]);
        assert_eq!(host.plan_registration(now(1_000), true, &blank), None);
        let refusal = host.take_refusal(&blank).expect("told");
        assert!(
            refusal.contains(&OWN.to_string()) && refusal.contains(&blank.directory_id.to_string()),
            "{refusal}"
        );
        assert_eq!(host.take_refusal(&blank), None);
        let restarted = Registration { incarnation: 2, ..registration(OWN) };
        assert_eq!(host.take_refusal(&restarted), None);
        assert!(host.plan_registration(now(2_000), true, &restarted).is_some());
    }
}
