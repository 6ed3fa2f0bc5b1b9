//! Requests that name topics and partitions, ask the owner of each, and answer in the same shape.

use std::collections::HashSet;

use protocol::messages::{ErrorCode, KafkaString};
use types::TopicId;

use crate::PartitionError;
use crate::broker::Target;
use crate::op::{Op, OpResult};
use crate::state::State;
use crate::step::{Gather, RequestInfo, Step};

/// The partitions of a request: those that an owner is asked about, and those refused at once.
#[derive(Default)]
pub(crate) struct PartitionRequests {
    topics: Vec<RequestedTopic>,
    ops: Vec<(Target, Op)>,
    /// Whom a question is for.
    asked: HashSet<Target>,
}

/// A topic's name or id, and the refusals of its partitions by their number; `None` where an owner is asked.
type RequestedTopic = (KafkaString, TopicId, Vec<(i32, Option<PartitionError>)>);

/// A topic of the request with what came of its partitions.
pub(crate) struct AskedTopic {
    pub name: KafkaString,
    pub id: TopicId,
    pub partitions: Vec<Asked>,
}

/// A partition of the request with what came of it.
pub(crate) struct Asked {
    pub index: i32,
    pub outcome: Result<OpResult, PartitionError>,
}

impl PartitionRequests {
    /// The next topic; partitions that follow are its.
    pub(crate) fn topic(&mut self, name: KafkaString, id: TopicId) {
        self.topics.push((name, id, Vec::new()));
    }

    /// The next partition of the last topic.
    pub(crate) fn partition(&mut self, index: i32, op: Result<(Target, Op), PartitionError>) {
        let (_, _, partitions) = self.topics.last_mut().expect("a partition follows its topic");
        match op {
            Ok(op) => {
                self.ops.push(op);
                partitions.push((index, None));
            }
            Err(error) => partitions.push((index, Some(error))),
        }
    }

    /// The same for a question. The owner is asked once, however often the client names the partition, which costs the client
    /// a few bytes each time and could cost us a walk through a batch and a long answer.
    pub(crate) fn question(&mut self, index: i32, op: Result<(Target, Op), PartitionError>) {
        let op = op.and_then(|(target, op)| match self.asked.insert(target) {
            true => Ok((target, op)),
            false => Err(ErrorCode::InvalidRequest.into()),
        });
        self.partition(index, op);
    }

    /// Asks the owners and goes on with their answers. Owners always answer in the end; a deadline is for
    /// answers that depend on other nodes.
    pub(crate) fn gather(
        self,
        deadline_us: Option<u64>,
        finish: impl FnOnce(&mut State, Vec<AskedTopic>) -> Step + 'static,
    ) -> Step {
        let PartitionRequests { topics, ops, .. } = self;
        let finish = move |state: &mut State, _: RequestInfo<'_>, results: Vec<OpResult>| {
            let mut results = results.into_iter();
            let mut outcome = |refused: Option<PartitionError>| match refused {
                Some(error) => Err(error),
                None => Ok(results.next().expect("every operation has a result")),
            };
            let answered = topics.into_iter().map(|(name, id, partitions)| AskedTopic {
                name,
                id,
                partitions: partitions
                    .into_iter()
                    .map(|(index, refused)| Asked { index, outcome: outcome(refused) })
                    .collect(),
            });
            let answered = answered.collect();
            finish(state, answered)
        };
        Step::Gather(Gather { ops, deadline_us, reserved_bytes: 0, finish: Box::new(finish) })
    }
}
