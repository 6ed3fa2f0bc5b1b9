//! What the handlers of one group need beside the group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use types::Now;

use crate::group::StaticReplacement;
use crate::messages::*;
use crate::metrics::GroupCounts;
use crate::records::OffsetKey;
use crate::timers::Timers;
use crate::{Action, CoordinatorRecord, GroupConfig, GroupResponse, RequestToken, WriteId};

/// What is to be done once a write has committed or failed.
#[derive(Debug)]
pub(crate) enum PendingWrite {
    /// The leader's assignment for a generation.
    Assignment { group: Arc<str>, generation: i32, assignment: BTreeMap<Arc<str>, bytes::Bytes> },
    /// A group that lost its last member, with the LeaveGroup that waits for it.
    EmptyGroup { group: Arc<str>, leave: Option<LeaveAnswer> },
    /// A static member that came back under a new id while its group is stable.
    StaticMember { group: Arc<str>, generation: i32, replacement: StaticReplacement },
    /// Offsets that a client commits.
    OffsetCommit { token: RequestToken, response: OffsetCommitResponseData, keys: Vec<OffsetKey> },
    /// Offsets that a client deletes.
    OffsetDelete { token: RequestToken, response: OffsetDeleteResponseData, offsets: u64 },
    /// A group that a client deletes, with its offsets. Those of a large one take several writes, one after the other, and
    /// the group goes with the last.
    DeleteGroup { token: RequestToken, group: Arc<str>, offsets: u64, is_last: bool },
    /// Offsets that nobody needs any more, and groups that are left without any. Once it is written, more offsets of these
    /// deleted topics go.
    Cleanup { groups: Vec<Arc<str>>, expired: u64, topics_left: BTreeSet<Arc<str>> },
}

/// A LeaveGroup that waits for the record of the empty group.
#[derive(Debug)]
pub(crate) struct LeaveAnswer {
    pub token: RequestToken,
    pub response: LeaveGroupResponseData,
}

/// Writes under way, in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    last: u64,
    pending: BTreeMap<WriteId, PendingWrite>,
    /// How many commits are under way for each offset.
    offsets_in_flight: BTreeMap<OffsetKey, u32>,
}

impl Writes {
    /// `None` for a write of an earlier leadership: its requests were answered at the resignation.
    pub fn take(&mut self, write: WriteId) -> Option<PendingWrite> {
        assert!(write.0 <= self.last, "only writes that were submitted come back");
        let pending = self.pending.remove(&write)?;
        if let PendingWrite::OffsetCommit { keys, .. } = &pending {
            for key in keys {
                let count = self.offsets_in_flight.get_mut(key).expect("counted when it was submitted");
                *count -= 1;
                if *count == 0 {
                    self.offsets_in_flight.remove(key);
                }
            }
        }
        Some(pending)
    }

    pub fn get_mut(&mut self, write: WriteId) -> Option<&mut PendingWrite> {
        self.pending.get_mut(&write)
    }

    pub fn offsets_in_flight(&self) -> usize {
        self.offsets_in_flight.len()
    }

    /// The offsets of one group that commits are under way for.
    pub fn group_offsets_in_flight<'a>(&'a self, group: &'a Arc<str>) -> impl Iterator<Item = &'a OffsetKey> {
        let start = OffsetKey { group: group.clone(), topic: Arc::from(""), partition: i32::MIN };
        self.offsets_in_flight.range(start..).map(|(key, _)| key).take_while(move |key| key.group == *group)
    }

    /// The offsets of some topics that commits are under way for.
    pub fn topics_offsets_in_flight<'a>(
        &'a self,
        topics: &'a BTreeSet<Arc<str>>,
    ) -> impl Iterator<Item = &'a OffsetKey> {
        self.offsets_in_flight.keys().filter(move |key| topics.contains(&key.topic))
    }

    /// Gives up all writes, in order. Their ids are not used again.
    pub fn drain(&mut self) -> impl Iterator<Item = PendingWrite> + use<> {
        self.offsets_in_flight.clear();
        std::mem::take(&mut self.pending).into_values()
    }
}

/// The surroundings of a handler.
pub(crate) struct Env<'a> {
    pub now: Now,
    pub config: &'a GroupConfig,
    pub timers: &'a mut Timers,
    pub writes: &'a mut Writes,
    pub counts: &'a mut GroupCounts,
    pub actions: &'a mut Vec<Action>,
}

impl Env<'_> {
    pub fn respond(&mut self, token: RequestToken, response: GroupResponse) {
        self.actions.push(Action::Respond { token, response });
    }

    pub fn append(&mut self, records: Vec<CoordinatorRecord>, pending: PendingWrite) -> WriteId {
        assert!(!records.is_empty(), "a write without records would never be answered");
        self.writes.last += 1;
        let write = WriteId(self.writes.last);
        if let PendingWrite::OffsetCommit { keys, .. } = &pending {
            for key in keys {
                *self.writes.offsets_in_flight.entry(key.clone()).or_default() += 1;
            }
        }
        self.writes.pending.insert(write, pending);
        self.actions.push(Action::Append { write, records });
        write
    }
}

/// The error that clients of the group protocol get for a failed append (Kafka's
/// `appendGroupMetadataErrorToResponseError`).
pub(crate) fn append_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::NotEnoughReplicas | ErrorCode::RequestTimedOut => {
            ErrorCode::CoordinatorNotAvailable
        }
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::UnknownServerError
        }
        other => other,
    }
}

/// As [`append_error`], for OffsetCommit, which has an error of its own for what is too large.
pub(crate) fn commit_append_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::InvalidCommitOffsetSize
        }
        other => append_error(other),
    }
}

/// A string of a response.
pub(crate) fn kafka(text: &str) -> KafkaString {
    KafkaString::from(text.to_owned())
}

/// A string that outlives its request: copied, so that it does not keep the whole frame in memory.
pub(crate) fn owned(text: &KafkaString) -> Arc<str> {
    Arc::from(text.as_str())
}
