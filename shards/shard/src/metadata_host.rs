//! The metadata group on its shard: commands are proposed, applied, published, and answered in this order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use broker::OpResult;
use bytes::Bytes;
use metadata::{Applied, Command, MetadataImage, MetadataState, StaticSettings};
use protocol::messages::ErrorCode;
use types::{GroupId, LogIndex, NodeId, Term};

use crate::event::LeaderChange;
use crate::partition_host::{Answer, Asker};

/// Applied bytes of commands after which the state is written as a checkpoint and the log before it goes.
const CHECKPOINT_AFTER_BYTES: usize = 256 * 1024;

struct Proposal {
    index: LogIndex,
    term: Term,
    asker: Option<(Asker, u64)>,
}

/// A change that is applied, and whose partitions have no leader yet.
struct Creation {
    asker: Asker,
    deadline_us: u64,
    leaderless: BTreeSet<GroupId>,
    applied: Applied,
}

/// The metadata state machine, its proposals, and what this node knows of leaders.
pub(crate) struct MetadataHost {
    state: MetadataState,
    proposals: VecDeque<Proposal>,
    published: LogIndex,
    /// Results of applied commands, to be given once the image is published.
    answers: Vec<(Asker, u64, Applied)>,
    /// Those whose command was replaced by that of another leader.
    lost: Vec<Asker>,
    creations: Vec<Creation>,
    leaders: BTreeMap<GroupId, LeaderChange>,
    bytes_since_checkpoint: usize,
    registered_in: Option<Term>,
}

impl MetadataHost {
    pub(crate) fn new(settings: StaticSettings, snapshot: Option<&[u8]>) -> Result<MetadataHost, String> {
        let mut state = MetadataState::new(settings);
        if let Some(snapshot) = snapshot {
            state.restore(snapshot).map_err(|error| format!("the metadata checkpoint: {error}"))?;
        }
        Ok(MetadataHost {
            state,
            proposals: VecDeque::new(),
            published: LogIndex(0),
            answers: Vec::new(),
            lost: Vec::new(),
            creations: Vec::new(),
            leaders: BTreeMap::new(),
            bytes_since_checkpoint: 0,
            registered_in: None,
        })
    }

    /// A command was proposed.
    pub(crate) fn on_proposed(&mut self, index: LogIndex, term: Term, asker: Option<(Asker, u64)>) {
        self.proposals.push_back(Proposal { index, term, asker });
    }

    /// Applies a committed entry; one without data begins a term.
    pub(crate) fn apply(&mut self, index: LogIndex, term: Term, data: &Bytes) -> Result<(), String> {
        let applied = match data.is_empty() {
            true => None,
            false => {
                let command =
                    Command::decode(data).map_err(|error| format!("metadata entry {index}: {error}"))?;
                self.bytes_since_checkpoint += data.len();
                Some(self.state.apply(index, command))
            }
        };
        while self.proposals.front().is_some_and(|proposal| proposal.index <= index) {
            let proposal = self.proposals.pop_front().expect("it was just seen");
            let Some((asker, deadline_us)) = proposal.asker else { continue };
            match &applied {
                Some(applied) if proposal.index == index && proposal.term == term => {
                    self.answers.push((asker, deadline_us, applied.clone()));
                }
                // Another leader's entry took its place.
                _ => self.lost.push(asker),
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

    /// Answers that may be given, now that the image is published. A change that made partitions waits for their leaders.
    pub(crate) fn take_answers(&mut self) -> Vec<Answer> {
        let lost = std::mem::take(&mut self.lost);
        let mut ready: Vec<Answer> = lost.into_iter().map(|asker| (asker, not_controller())).collect();
        for (asker, deadline_us, applied) in std::mem::take(&mut self.answers) {
            let groups = match &applied {
                Applied::TopicCreated { groups } | Applied::PartitionsCreated { groups } => groups.as_slice(),
                _ => &[],
            };
            let led = |group: &GroupId| self.leaders.get(group).is_some_and(|change| change.leader.is_some());
            let leaderless: BTreeSet<GroupId> = groups.iter().copied().filter(|group| !led(group)).collect();
            match leaderless.is_empty() {
                true => ready.push((asker, OpResult::Metadata(Ok(applied)))),
                false => self.creations.push(Creation { asker, deadline_us, leaderless, applied }),
            }
        }
        ready
    }

    /// A group of this node has a new leader. Returns the answers that waited for it.
    pub(crate) fn on_leader(&mut self, change: LeaderChange) -> Vec<Answer> {
        self.leaders.insert(change.group, change);
        if change.leader.is_none() {
            return Vec::new();
        }
        for creation in &mut self.creations {
            creation.leaderless.remove(&change.group);
        }
        self.creations
            .extract_if(.., |creation| creation.leaderless.is_empty())
            .map(|creation| (creation.asker, OpResult::Metadata(Ok(creation.applied))))
            .collect()
    }

    /// When [`MetadataHost::on_deadline`] is due.
    pub(crate) fn next_deadline_us(&self) -> Option<u64> {
        self.creations.iter().map(|creation| creation.deadline_us).min()
    }

    /// Changes whose partitions got no leader in time.
    pub(crate) fn on_deadline(&mut self, now_us: u64) -> Vec<Answer> {
        self.creations
            .extract_if(.., |creation| creation.deadline_us <= now_us)
            .map(|creation| (creation.asker, OpResult::Metadata(Err(ErrorCode::RequestTimedOut))))
            .collect()
    }

    /// This node no longer leads: what was proposed may or may not come about.
    pub(crate) fn on_resigned(&mut self) -> Vec<Answer> {
        let proposals = std::mem::take(&mut self.proposals);
        let askers = proposals.into_iter().filter_map(|proposal| proposal.asker);
        askers.map(|(asker, _)| (asker, not_controller())).collect()
    }

    /// A checkpoint, when enough was applied since the last one.
    pub(crate) fn take_checkpoint(&mut self, forced: bool) -> Option<Bytes> {
        if !forced && self.bytes_since_checkpoint < CHECKPOINT_AFTER_BYTES {
            return None;
        }
        self.bytes_since_checkpoint = 0;
        Some(self.state.snapshot())
    }

    /// The commands that this node owes the cluster at its start: the cluster's id, and its own registration.
    /// Once for each term that this node leads.
    pub(crate) fn plan_registration(&mut self, term: Term, registration: &Registration) -> Vec<Command> {
        if self.registered_in == Some(term) {
            return Vec::new();
        }
        self.registered_in = Some(term);
        let image = self.state.image();
        let mut commands = Vec::new();
        if image.cluster_id().is_none() {
            commands.push(Command::SetClusterId { cluster_id: registration.new_cluster_id.clone() });
        }
        let known = image.broker(registration.node);
        if known.is_none_or(|broker| broker.incarnation != registration.incarnation) {
            commands.push(registration.command());
        }
        commands
    }
}

/// The answer of a node that does not lead the metadata group: the client asks again.
fn not_controller() -> OpResult {
    OpResult::Metadata(Err(ErrorCode::NotController))
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
        }
    }
}
