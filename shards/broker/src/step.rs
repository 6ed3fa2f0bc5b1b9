//! How a handler says what comes next.

use bytes::Bytes;
use protocol::frame::Response;

use crate::broker::Target;
use crate::op::{Op, OpResult};
use crate::state::State;

/// What a handler wants.
pub(crate) enum Step {
    /// The answer, to be encoded in the request's version.
    Reply(Response),
    /// The answer, encoded, length prefix first.
    Encoded(Vec<Bytes>),
    /// No answer is due: `acks=0`.
    NoReply,
    /// The client broke the protocol.
    Close(String),
    /// Results of operations are needed first.
    Gather(Gather),
    /// There is no memory for what would be read: go on when there is.
    AwaitMemory(Retry),
    /// Nothing is there yet: wait until one of the owners says so, or the deadline passes.
    Park {
        /// On the monotonic clock.
        deadline_us: u64,
        /// What then.
        resume: Resume,
    },
}

/// Operations under way for a request.
pub(crate) struct Gather {
    /// The operations; their results come in the same order.
    pub ops: Vec<(Target, Op)>,
    /// When to go on without the results that are missing, as [`OpResult::TimedOut`].
    pub deadline_us: Option<u64>,
    /// The most that the operations bring, as far as memory is reserved for it.
    pub reserved_bytes: usize,
    /// What then.
    pub finish: Finish,
}

pub(crate) type Finish = Box<dyn FnOnce(&mut State, RequestInfo<'_>, Vec<OpResult>) -> Step>;
pub(crate) type Retry = Box<dyn FnOnce(&mut State, RequestInfo<'_>) -> Step>;
pub(crate) type Resume = Box<dyn FnOnce(&mut State, RequestInfo<'_>, Wake) -> Step>;

/// Why a parked request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// An owner has more.
    Data,
    /// The deadline passed.
    Deadline,
}

/// What is known of a request beside its body.
#[derive(Clone, Copy)]
pub(crate) struct RequestInfo<'a> {
    pub now: types::Now,
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: &'a str,
    pub client_host: &'a str,
}

impl Step {
    /// Waits for all of `ops`, without a deadline: owners always answer.
    pub(crate) fn gather(
        ops: Vec<(Target, Op)>,
        finish: impl FnOnce(&mut State, RequestInfo<'_>, Vec<OpResult>) -> Step + 'static,
    ) -> Step {
        Step::Gather(Gather { ops, deadline_us: None, reserved_bytes: 0, finish: Box::new(finish) })
    }
}
