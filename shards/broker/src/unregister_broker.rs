//! UnregisterBroker (key 64): a broker is forgotten, and is no voter any more. It may hold no replicas.

use metadata::Command;
use protocol::frame::Response;
use protocol::messages::unregister_broker_request::UnregisterBrokerRequestData;
use protocol::messages::unregister_broker_response::UnregisterBrokerResponseData;
use types::NodeId;

use crate::proposals::{CHANGE_TIMEOUT_MS, propose_one};
use crate::step::{RequestInfo, Step};

pub(crate) fn handle(info: RequestInfo<'_>, request: UnregisterBrokerRequestData) -> Step {
    let command = Command::UnregisterBroker { node: NodeId(request.broker_id) };
    propose_one(Ok(command), info.now.after_ms(CHANGE_TIMEOUT_MS), |error_code, error_message| {
        Response::UnregisterBroker(UnregisterBrokerResponseData {
            error_code,
            error_message,
            ..Default::default()
        })
    })
}
