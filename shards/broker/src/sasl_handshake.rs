//! SaslHandshake (key 17). Without a SASL listener it comes at the wrong time, whatever mechanism it asks for.

use protocol::frame::Response;
use protocol::messages::ErrorCode;
use protocol::messages::sasl_handshake_response::SaslHandshakeResponseData;

use crate::step::Step;

pub(crate) fn handle() -> Step {
    Step::Reply(Response::SaslHandshake(SaslHandshakeResponseData {
        error_code: ErrorCode::IllegalSaslState.code(),
        ..Default::default()
    }))
}
