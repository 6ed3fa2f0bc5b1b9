//! UnregisterBroker (key 64): a broker is forgotten, and is no voter any more. It may hold no replicas.

use metadata::{Command, MetadataError};
use protocol::frame::Response;
use protocol::messages::unregister_broker_request::UnregisterBrokerRequestData;
use protocol::messages::unregister_broker_response::UnregisterBrokerResponseData;
use types::NodeId;

use crate::proposals::{CHANGE_TIMEOUT_MS, propose_one};
use crate::step::{RequestInfo, Step};

pub(crate) fn handle(info: RequestInfo<'_>, request: UnregisterBrokerRequestData) -> Step {
    let node = NodeId(request.broker_id);
    let planned = match node.0 {
        ..0 => Err(MetadataError::BrokerNotRegistered(node).into()),
        0.. => Ok(Command::UnregisterBroker { node }),
    };
    propose_one(planned, info.now.after_ms(CHANGE_TIMEOUT_MS), |error_code, error_message| {
        Response::UnregisterBroker(UnregisterBrokerResponseData {
            error_code,
            error_message,
            ..Default::default()
        })
    })
}
