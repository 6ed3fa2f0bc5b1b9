//! AddRaftVoter (key 80): a node is added to the metadata group, and may register from then on (KIP-853).
//!
//! The node may be started later, with any data directory: it is registered with the one that it comes with.

use metadata::{Command, Endpoint};
use protocol::frame::Response;
use protocol::messages::add_raft_voter_request::AddRaftVoterRequestData;
use protocol::messages::add_raft_voter_response::AddRaftVoterResponseData;
use protocol::messages::{ErrorCode, KafkaString};
use types::NodeId;

use crate::proposals::{Refusal, change_deadline_us, propose_one};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// The longest name of a listener or a host, in bytes; DNS has none beyond 253.
const HOST_BYTES_MAX: usize = 255;

pub(crate) fn handle(state: &State, info: RequestInfo<'_>, request: AddRaftVoterRequestData) -> Step {
    let deadline_us = change_deadline_us(info.now, request.timeout_ms);
    propose_one(plan(state, &request), deadline_us, |error_code, error_message| {
        Response::AddRaftVoter(AddRaftVoterResponseData { error_code, error_message, ..Default::default() })
    })
}

fn plan(state: &State, request: &AddRaftVoterRequestData) -> Result<Command, Refusal> {
    check_cluster(state, request.cluster_id.as_ref())?;
    if request.voter_id < 0 {
        return Err(Refusal::new(ErrorCode::InvalidRequest, "a node's id is 0 or greater"));
    }
    // One network for all: the first listener is where the others reach the node.
    let listener =
        request.listeners.first().filter(|listener| !listener.host.as_str().is_empty() && listener.port > 0);
    let listener = listener.ok_or_else(|| {
        Refusal::new(ErrorCode::InvalidRequest, "there is no listener by which other nodes reach the node")
    })?;
    if listener.host.as_str().len() > HOST_BYTES_MAX || listener.name.as_str().len() > HOST_BYTES_MAX {
        let why = format!("the name of a listener or of its host has more than {HOST_BYTES_MAX} bytes");
        return Err(Refusal::new(ErrorCode::InvalidRequest, &why));
    }
    let peer = Endpoint {
        listener: listener.name.to_string(),
        host: listener.host.to_string(),
        port: listener.port,
    };
    Ok(Command::AddVoter { node: NodeId(request.voter_id), peer })
}

/// A request may say which cluster it is for.
pub(crate) fn check_cluster(state: &State, cluster_id: Option<&KafkaString>) -> Result<(), Refusal> {
    match (cluster_id, state.image.cluster_id()) {
        (Some(asked), Some(own)) if asked.as_str() != own => {
            Err(Refusal::new(ErrorCode::InconsistentClusterId, &format!("this is cluster {own}")))
        }
        _ => Ok(()),
    }
}
