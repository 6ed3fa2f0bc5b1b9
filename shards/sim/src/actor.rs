//! Virtual clients: what happens to them, and what they do about it.

use bytes::Bytes;
use protocol::api::ApiKey;
use protocol::client;
use protocol::frame::{Request, RequestHeader, Response};
use protocol::messages::fetch_response::FetchResponseData;
use protocol::messages::kafka_string;
use protocol::messages::produce_request::ProduceRequestData;
use types::Now;

use crate::coverage::Coverage;
use crate::model::{Model, TopicRef};
use crate::random::Random;

/// A decoded response.
#[derive(Debug)]
pub enum Answer {
    /// Of any API but Fetch.
    Response(Response),
    /// Of Fetch.
    Fetch(FetchResponseData),
}

/// A client's only connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// There is none.
    Down,
    /// It was asked for.
    Opening,
    /// Requests may be sent.
    Up,
}

/// Whom a client wants to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any node.
    Any,
    /// The leader of a partition.
    Leader {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The coordinator of a consumer group.
    Coordinator(String),
}

/// What a client wants of the world.
pub enum Wish {
    /// Connect to a node. [`Actor::on_connected`] or [`Actor::on_disconnected`] follows. It may be another one than wanted.
    Connect(Target),
    /// Drop the connection. Nothing that was under way is answered.
    Disconnect,
    /// Send a request.
    Send(Outgoing),
    /// Call [`Actor::on_timer`] so many microseconds from now.
    Timer(u64),
}

/// An encoded request.
pub struct Outgoing {
    /// Its API.
    pub key: ApiKey,
    /// Its version.
    pub version: i16,
    /// Names the response.
    pub correlation_id: i32,
    /// Whether there is a response.
    pub is_answered: bool,
    /// Header and body, without the length prefix.
    pub frame: Bytes,
}

/// What a client may look at and do, during one call.
pub struct Context<'a> {
    /// The clocks.
    pub now: Now,
    /// The run of the process that the client is connected to.
    pub run: Option<u64>,
    /// How many nodes there are.
    pub nodes: usize,
    /// Whether damaged data may be met with.
    pub may_be_damaged: bool,
    /// What was exercised.
    pub coverage: &'a mut Coverage,
    /// The client's own randomness.
    pub random: &'a mut Random,
    /// What all clients know together.
    pub model: &'a mut Model,
    /// Whether new work is to be begun.
    pub is_stopping: bool,
    /// In order.
    pub wishes: &'a mut Vec<Wish>,
    /// Differs for each request of the client.
    pub next_correlation_id: &'a mut i32,
}

impl Context<'_> {
    fn header(&mut self, key: ApiKey, version: i16) -> RequestHeader {
        *self.next_correlation_id += 1;
        RequestHeader {
            api_key: key.wire(),
            api_version: version,
            correlation_id: *self.next_correlation_id,
            client_id: Some(kafka_string("sim")),
        }
    }

    /// Sends a request and returns its correlation id.
    pub fn send(&mut self, version: i16, request: &Request) -> i32 {
        let key = request.api_key();
        let header = self.header(key, version);
        let frame = client::encode_request(&header, request).expect("clients send what can be encoded");
        self.push_frame(&header, key, true, frame.freeze())
    }

    /// Sends a Produce and returns its correlation id.
    pub fn send_produce(&mut self, version: i16, request: &ProduceRequestData) -> i32 {
        let header = self.header(ApiKey::Produce, version);
        let frame = client::encode_produce(&header, request).expect("clients send what can be encoded");
        self.push_frame(&header, ApiKey::Produce, request.acks != 0, frame.freeze())
    }

    fn push_frame(&mut self, header: &RequestHeader, key: ApiKey, is_answered: bool, frame: Bytes) -> i32 {
        let (version, correlation_id) = (header.api_version, header.correlation_id);
        let frame = frame.slice(4..);
        self.wishes.push(Wish::Send(Outgoing { key, version, correlation_id, is_answered, frame }));
        correlation_id
    }

    /// Something was compared with what is known.
    pub fn note_checked(&mut self, what: &'static str) {
        self.coverage.mark(what);
    }

    /// Connects.
    pub fn connect(&mut self, target: Target) {
        self.wishes.push(Wish::Connect(target));
    }

    /// The leader of a partition.
    pub fn leader(&mut self, topic: TopicRef, partition: i32) -> Target {
        Target::Leader { topic: self.model.topic(topic).name.clone(), partition }
    }

    /// Disconnects.
    pub fn disconnect(&mut self) {
        self.wishes.push(Wish::Disconnect);
    }

    /// Arms a timer.
    pub fn timer_us(&mut self, delay_us: u64) {
        self.wishes.push(Wish::Timer(delay_us));
    }
}

/// One virtual client. It has at most one connection.
pub trait Actor {
    /// For traces and messages.
    fn name(&self) -> String;

    /// A timer of its own went off; also the first thing that happens to it.
    fn on_timer(&mut self, context: &mut Context<'_>);

    /// It is connected.
    fn on_connected(&mut self, context: &mut Context<'_>);

    /// The connection is gone, or did not come about.
    fn on_disconnected(&mut self, context: &mut Context<'_>);

    /// A response came.
    fn on_answer(&mut self, context: &mut Context<'_>, correlation_id: i32, answer: Answer);

    /// Whether it has nothing under way and, once it was told to stop, will not begin anything.
    fn is_idle(&self) -> bool;
}
