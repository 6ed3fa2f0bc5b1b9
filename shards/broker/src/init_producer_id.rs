//! InitProducerId (key 22): ids come from blocks that the metadata group hands to each shard.

use metadata::{Applied, Command};
use protocol::frame::Response;
use protocol::messages::ErrorCode;
use protocol::messages::init_producer_id_request::InitProducerIdRequestData;
use protocol::messages::init_producer_id_response::InitProducerIdResponseData;

use crate::broker::Target;
use crate::op::{MetadataOp, Op, OpResult};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// Ids of one block (Kafka's `ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`). What is left of it is lost with the process.
const BLOCK_IDS: u32 = 1_000;

/// How long a new block may take.
const BLOCK_TIMEOUT_MS: i64 = 30_000;

pub(crate) fn handle(state: &mut State, info: RequestInfo<'_>, request: InitProducerIdRequestData) -> Step {
    if request.transactional_id.is_some() {
        // Transactions are not served, and none of their APIs is advertised.
        return refuse(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    if let Some(id) = next_id(state) {
        return respond(id);
    }
    let command = Command::AllocateProducerIds { node: state.config.node, count: BLOCK_IDS };
    let op = MetadataOp::Propose { command, deadline_us: info.now.after_ms(BLOCK_TIMEOUT_MS) };
    Step::gather(vec![(Target::Metadata, Op::Metadata(op))], |state, _, mut results| {
        match results.pop() {
            Some(OpResult::Metadata(Ok(Applied::ProducerIdBlock { first, count }))) => {
                // Requests that came while this one waited have asked for blocks of their own; the newest serves.
                state.producer_ids = first.0..first.0 + i64::from(count);
                respond(next_id(state).expect("a block holds ids"))
            }
            // Whatever hindered it, the client is to try again. Kafka says so with this error, as older clients take most others
            // for the end of their producer (KAFKA-14417).
            Some(OpResult::Metadata(Err(_))) => refuse(ErrorCode::CoordinatorLoadInProgress),
            other => unreachable!("a producer id block is answered as such, not by {other:?}"),
        }
    })
}

fn next_id(state: &mut State) -> Option<i64> {
    state.producer_ids.next()
}

fn respond(producer_id: i64) -> Step {
    let response = InitProducerIdResponseData { producer_id, producer_epoch: 0, ..Default::default() };
    Step::Reply(Response::InitProducerId(response))
}

fn refuse(error: ErrorCode) -> Step {
    Step::Reply(Response::InitProducerId(InitProducerIdResponseData {
        error_code: error.code(),
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    }))
}
