//! RemoveRaftVoter (key 81): a node is taken out of the metadata group (KIP-853). Its registration and its replicas stay.

use metadata::{Command, MetadataError};
use protocol::frame::Response;
use protocol::messages::remove_raft_voter_request::RemoveRaftVoterRequestData;
use protocol::messages::remove_raft_voter_response::RemoveRaftVoterResponseData;
use protocol::messages::{ErrorCode, topic_id};
use types::{NodeId, TopicId};

use crate::add_raft_voter::check_cluster;
use crate::proposals::{CHANGE_TIMEOUT_MS, Refusal, propose_one};
use crate::state::State;
use crate::step::{RequestInfo, Step};

pub(crate) fn handle(state: &State, info: RequestInfo<'_>, request: RemoveRaftVoterRequestData) -> Step {
    let deadline_us = info.now.after_ms(CHANGE_TIMEOUT_MS);
    propose_one(plan(state, &request), deadline_us, |error_code, error_message| {
        Response::RemoveRaftVoter(RemoveRaftVoterResponseData {
            error_code,
            error_message,
            ..Default::default()
        })
    })
}

fn plan(state: &State, request: &RemoveRaftVoterRequestData) -> Result<Command, Refusal> {
    check_cluster(state, request.cluster_id.as_ref())?;
    let node = NodeId(request.voter_id);
    if node.0 < 0 {
        return Err(MetadataError::VoterNotFound(node).into());
    }
    let asked = topic_id(request.voter_directory_id);
    let registered = state.image.broker(node).and_then(|broker| broker.directory_id);
    match registered {
        // The directory is a part of the voter's name, where it is said.
        Some(directory) if asked != TopicId::ZERO && asked.0 != directory.0 => {
            let message = format!("node {node} is registered with the data directory {directory}");
            Err(Refusal::new(ErrorCode::VoterNotFound, &message))
        }
        _ => Ok(Command::RemoveVoter { node }),
    }
}
