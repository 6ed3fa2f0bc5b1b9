//! Requests that change several things of the metadata: each is planned, committed and answered for itself.

use metadata::{Applied, Command, MetadataError};
use protocol::frame::Response;
use protocol::messages::{ErrorCode, KafkaString, kafka_string};
use types::Now;
use types::limits::CHANGE_WAIT_MS_MAX;

use crate::broker::Target;
use crate::op::{MetadataOp, Op, OpResult};
use crate::state::State;
use crate::step::Step;

/// How long a change may take where the request does not say (Kafka's `request.timeout.ms`).
pub(crate) const CHANGE_TIMEOUT_MS: i64 = 30_000;

/// Partitions of one request (Kafka's `MAX_PARTITIONS_PER_BATCH`).
const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;

/// Until when a change is waited for that may take as long as the request says.
pub(crate) fn change_deadline_us(now: Now, timeout_ms: i32) -> u64 {
    now.after_ms(i64::from(timeout_ms).min(CHANGE_WAIT_MS_MAX))
}

/// Why a request that makes so many partitions is refused as a whole, if it is.
pub(crate) fn too_many_partitions(partitions: usize) -> Option<Refusal> {
    let why = format!("one request may create {PARTITIONS_PER_REQUEST_MAX} partitions at most");
    (partitions > PARTITIONS_PER_REQUEST_MAX).then(|| Refusal::new(ErrorCode::PolicyViolation, &why))
}

/// Why one change was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub code: ErrorCode,
    pub message: Option<String>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: &str) -> Refusal {
        Refusal { code, message: Some(message.to_owned()) }
    }

    /// The error as seen by a client that named the topic by its name: that its id is gone since says nothing to it.
    pub(crate) fn by_name(mut self) -> Refusal {
        if self.code == ErrorCode::UnknownTopicId {
            self.code = ErrorCode::UnknownTopicOrPartition;
        }
        self
    }
}

impl From<MetadataError> for Refusal {
    fn from(error: MetadataError) -> Refusal {
        Refusal { code: error.error_code(), message: Some(error.to_string()) }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Refusal {
        Refusal { code, message: None }
    }
}

/// The changes of one request in its order, each with what the response needs of it.
pub(crate) struct Proposals<T> {
    validate_only: bool,
    deadline_us: u64,
    planned: Vec<(T, Result<(), Refusal>)>,
    ops: Vec<(Target, Op)>,
}

impl<T: 'static> Proposals<T> {
    /// With `validate_only`, what could be planned counts as done.
    pub(crate) fn new(validate_only: bool, deadline_us: u64) -> Proposals<T> {
        Proposals { validate_only, deadline_us, planned: Vec::new(), ops: Vec::new() }
    }

    /// The next change, or why there is none.
    pub(crate) fn push(&mut self, item: T, planned: Result<Command, Refusal>) {
        let planned = planned.map(|command| {
            if !self.validate_only {
                let op = MetadataOp::Propose { command, deadline_us: self.deadline_us };
                self.ops.push((Target::Metadata, Op::Metadata(op)));
            }
        });
        self.planned.push((item, planned));
    }

    /// Commits the changes and goes on with what became of each.
    pub(crate) fn gather(
        self,
        finish: impl FnOnce(&mut State, Vec<(T, Result<(), Refusal>)>) -> Step + 'static,
    ) -> Step {
        let Proposals { validate_only, planned, ops, .. } = self;
        Step::gather(ops, move |state, _, results| {
            let mut results = results.into_iter();
            let mut done = |planned: Result<(), Refusal>| match planned {
                Ok(()) if !validate_only => outcome(results.next().expect("every proposal has a result")),
                planned => planned,
            };
            let outcomes = planned.into_iter().map(|(item, planned)| (item, done(planned))).collect();
            finish(state, outcomes)
        })
    }
}

/// Commits the only change of a request, where it could be planned, and answers with a code and words.
pub(crate) fn propose_one(
    planned: Result<Command, Refusal>,
    deadline_us: u64,
    respond: impl FnOnce(i16, Option<KafkaString>) -> Response + 'static,
) -> Step {
    let mut proposals = Proposals::new(false, deadline_us);
    proposals.push((), planned);
    proposals.gather(|_, outcomes| {
        let (_, outcome) = outcomes.into_iter().next().expect("there is one change");
        let (code, message) = match outcome {
            Ok(()) => (ErrorCode::None, None),
            Err(Refusal { code, message }) => (code, message),
        };
        Step::Reply(respond(code.code(), message.as_deref().map(kafka_string)))
    })
}

/// What came of a proposal.
pub(crate) fn outcome(result: OpResult) -> Result<(), Refusal> {
    match result {
        OpResult::Metadata(Ok(Applied::Refused(error))) => Err(error.into()),
        OpResult::Metadata(Ok(_)) => Ok(()),
        OpResult::Metadata(Err(error)) => Err(error.into()),
        other => unreachable!("a metadata change is answered as such, not by {other:?}"),
    }
}
