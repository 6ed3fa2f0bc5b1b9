//! Kafka's wire: framing, requests and responses, record batches of format 2, error codes.
//!
//! The way of a request: [`frame::decode_header`], then [`produce::decode_produce`] for Produce or
//! [`frame::decode_request`] for everything else. The way back: [`fetch::encode_fetch_response`] for Fetch and
//! [`frame::encode_response`] for everything else. Records go through [`batch`].
//!
//! [`client`] is the other end of the wire, for the simulator, tools and tests.
//!
//! Only this crate knows the generated message code; [`messages`] passes its structs on. Strings and byte fields
//! of a decoded request are slices of its frame and keep the whole frame in memory: copy what outlives the request.

pub mod api;
pub mod batch;
pub mod client;
pub mod error;
pub mod fetch;
pub mod frame;
pub mod messages;
pub mod produce;

mod schema;
mod wire;

pub use api::{ApiKey, ApiRange, SUPPORTED};
pub use batch::{BatchHeader, Codec};
pub use error::{BatchError, DecodeError, EncodeError};
pub use frame::{Request, RequestHeader, Response, decode_header, decode_request, encode_response};
pub use messages::{ErrorCode, KafkaString, KafkaUuid};
