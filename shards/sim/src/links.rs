//! Connections between clients and nodes, seen from both ends.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use protocol::api::ApiKey;
use protocol::client;
use shard::Event;
use types::{ConnectionId, NodeId, ShardId};

use crate::actor::{Answer, Outgoing, Target};
use crate::node::Place;
use crate::resolve::{self, Found};
use crate::world::{Happening, World};

/// How long a client waits for an answer while things go wrong, in microseconds. Then it goes elsewhere, as real ones do.
const REQUEST_TIMEOUT_US: u64 = 6_000_000;

/// One connection.
pub(crate) struct Link {
    pub(crate) client: usize,
    pub(crate) at: Place,
    pub(crate) is_reading: bool,
    /// Whether the server was told of it.
    is_open: bool,
    is_closing: bool,
    held: VecDeque<Bytes>,
    up_us: u64,
    down_us: u64,
    pub(crate) awaited: VecDeque<Awaited>,
}

/// A request that is not answered yet.
pub(crate) struct Awaited {
    correlation_id: i32,
    pub(crate) key: ApiKey,
    version: i16,
    pub(crate) sent_us: u64,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Links {
    pub(crate) open: BTreeMap<ConnectionId, Link>,
    next: u64,
}

impl World {
    /// A client wants to talk to whoever serves `target`. It asks any node who that is, unless it believes to know.
    pub(crate) fn connect(&mut self, client: usize, target: Target) {
        assert!(self.clients[client].connection.is_none(), "a client has one connection");
        let node = self.random.index(self.nodes.len());
        let asks = self.nodes.len() > 1 && target != Target::Any && !self.random.percent(10);
        self.clients[client].resolving = asks.then_some(target);
        self.connect_to(client, node);
    }

    fn connect_to(&mut self, client: usize, node: usize) {
        let Some(process) = &self.nodes[node].process else {
            return self.schedule(1_000, None, Happening::Lost { client, connection: None });
        };
        let shard =
            ShardId(u16::try_from(self.random.below(process.lanes.len() as u64)).expect("few shards"));
        self.links.next += 1;
        let connection = ConnectionId(self.links.next);
        self.clients[client].connection = Some(connection);
        let up_us = self.now_us + 10 + self.random.delay_us(self.delays.network_us);
        let link = Link {
            client,
            at: Place { node, shard },
            is_reading: true,
            is_open: false,
            is_closing: false,
            held: VecDeque::new(),
            up_us,
            down_us: up_us,
            awaited: VecDeque::new(),
        };
        self.links.open.insert(connection, link);
        self.schedule_at_node(up_us - self.now_us, node, Happening::Opened(connection));
        self.schedule_at(up_us, None, Happening::Connected { client, connection });
    }

    pub(crate) fn on_opened(&mut self, connection: ConnectionId) {
        let Some(link) = self.links.open.get_mut(&connection) else { return };
        link.is_open = true;
        let at = link.at;
        self.feed(at, Event::Connected { connection, client_host: "/127.0.0.1".to_owned() });
    }

    pub(crate) fn on_connected(&mut self, client: usize, connection: ConnectionId) {
        if self.clients[client].connection != Some(connection) {
            return;
        }
        let found = &mut self.clients[client];
        match &found.resolving {
            None => self.act(client, |actor, context| actor.on_connected(context)),
            Some(target) => {
                let request = resolve::request(target, &mut found.next_correlation_id);
                self.send(client, request);
            }
        }
    }

    pub(crate) fn disconnect(&mut self, client: usize) {
        let Some(connection) = self.hang_up(client) else { return };
        self.note(format_args!("client {client} leaves {connection}"));
        self.schedule(100, None, Happening::Lost { client, connection: None });
    }

    fn hang_up(&mut self, client: usize) -> Option<ConnectionId> {
        let connection = self.clients[client].connection.take()?;
        if let Some(link) = self.links.open.get_mut(&connection) {
            link.awaited.clear();
            // Half of the time the node still reads what was sent before.
            let late = if self.random.percent(50) { link.up_us.saturating_sub(self.now_us) } else { 0 };
            let node = link.at.node;
            self.schedule_at_node(late, node, Happening::Gone(connection));
        }
        Some(connection)
    }

    pub(crate) fn on_lost(&mut self, client: usize, connection: Option<ConnectionId>) {
        if self.clients[client].connection == connection {
            self.clients[client].connection = None;
            self.clients[client].resolving = None;
            self.act(client, |actor, context| actor.on_disconnected(context));
        }
    }

    pub(crate) fn send(&mut self, client: usize, request: Outgoing) {
        let Some(connection) = self.clients[client].connection else { return };
        let Some(link) = self.links.open.get_mut(&connection) else { return };
        let delay_us = 10 + self.random.delay_us(self.delays.network_us);
        link.up_us = link.up_us.max(self.now_us + delay_us);
        let Outgoing { key, version, correlation_id, is_answered, frame } = request;
        if is_answered {
            link.awaited.push_back(Awaited { correlation_id, key, version, sent_us: self.now_us });
        }
        let (delay_us, at) = (link.up_us - self.now_us, link.at);
        self.schedule_at_node(delay_us, at.node, Happening::FrameArrived(connection, frame));
        if is_answered && self.nodes.len() > 1 {
            let expired = Happening::Expired { connection, correlation_id };
            self.schedule(REQUEST_TIMEOUT_US, None, expired);
        }
        let name = key.name();
        self.note(format_args!("client {client} sends {name} over {connection} to {at}"));
    }

    pub(crate) fn on_expired(&mut self, connection: ConnectionId, correlation_id: i32) {
        let Some(link) = self.links.open.get(&connection) else { return };
        if !self.may_fall_silent(link.at.node) {
            return;
        }
        if link.awaited.iter().any(|awaited| awaited.correlation_id == correlation_id) {
            self.coverage.mark("request timed out");
            let client = link.client;
            self.disconnect(client);
        }
    }

    pub(crate) fn on_frame(&mut self, connection: ConnectionId, frame: Bytes) {
        let Some(link) = self.links.open.get_mut(&connection) else { return };
        link.held.push_back(frame);
        self.drain(connection);
    }

    fn drain(&mut self, connection: ConnectionId) {
        while let Some(link) = self.links.open.get_mut(&connection)
            && link.is_reading
            && !link.is_closing
            && let Some(frame) = link.held.pop_front()
        {
            let at = link.at;
            if !frame.is_empty() {
                self.feed(at, Event::Frame { connection, frame: BytesMut::from(&frame[..]) });
            }
        }
    }

    pub(crate) fn set_reading(&mut self, place: Place, connection: ConnectionId, reading: bool) {
        if let Some(link) = self.links.open.get_mut(&connection) {
            link.is_reading = reading;
            // Not from within a step: an empty frame makes the driver look again.
            self.schedule_at_node(0, place.node, Happening::FrameArrived(connection, Bytes::new()));
        }
    }

    pub(crate) fn respond(&mut self, connection: ConnectionId, parts: &[Bytes]) {
        let Some(link) = self.links.open.get_mut(&connection) else { return };
        let whole = Bytes::from(parts.concat());
        let length = i32::from_be_bytes(whole[..4].try_into().expect("four bytes"));
        assert_eq!(usize::try_from(length), Ok(whole.len() - 4), "a response has the length that it claims");
        let delay_us = 10 + self.random.delay_us(self.delays.network_us);
        link.down_us = link.down_us.max(self.now_us + delay_us);
        let (client, at_us, node) = (link.client, link.down_us, link.at.node);
        let what = Happening::ResponseArrived { client, connection, frame: whole.slice(4..) };
        self.schedule_at(at_us, None, what);
        let sent_us = self.random.delay_us(self.delays.network_us);
        self.schedule_at_node(sent_us, node, Happening::Sent(connection, whole.len()));
    }

    pub(crate) fn on_sent(&mut self, connection: ConnectionId, bytes: usize) {
        if let Some(link) = self.links.open.get(&connection) {
            self.feed(link.at, Event::ResponseSent { connection, bytes });
        }
    }

    pub(crate) fn close(&mut self, place: Place, connection: ConnectionId, reason: &str) {
        self.note(format_args!("connection {connection} is closed: {reason}"));
        let Some(link) = self.links.open.get_mut(&connection) else { return };
        link.is_closing = true;
        let (client, at_us) = (link.client, link.down_us.max(self.now_us));
        self.schedule_at(at_us, None, Happening::Lost { client, connection: Some(connection) });
        self.schedule_at_node(at_us - self.now_us, place.node, Happening::Gone(connection));
    }

    pub(crate) fn on_gone(&mut self, connection: ConnectionId) {
        let Some(link) = self.links.open.remove(&connection) else { return };
        if link.is_open {
            self.feed(link.at, Event::Disconnected { connection });
        }
    }

    /// The process at the other end is gone.
    pub(crate) fn lose_links_of(&mut self, node: usize) {
        let lost: Vec<(ConnectionId, Link)> =
            self.links.open.extract_if(.., |_, link| link.at.node == node).collect();
        for (connection, link) in lost {
            let lost = Happening::Lost { client: link.client, connection: Some(connection) };
            self.schedule(100, None, lost);
        }
    }

    pub(crate) fn on_response(&mut self, client: usize, connection: ConnectionId, frame: Bytes) {
        if self.clients[client].connection != Some(connection) {
            return;
        }
        let Some(link) = self.links.open.get_mut(&connection) else { return };
        let awaited = link.awaited.pop_front().expect("a response belongs to a request");
        let at = link.at;
        let (correlation_id, answer) = decode(awaited.key, awaited.version, frame);
        assert_eq!(correlation_id, awaited.correlation_id, "responses keep the order of requests");
        let (key, took_us) = (awaited.key, self.now_us - awaited.sent_us);
        self.note(format_args!("client {client} {} answered after {took_us} by {at}", key.name()));
        if let Some(target) = self.clients[client].resolving.take() {
            return self.on_resolved(client, target, answer);
        }
        if matches!(key, ApiKey::CreateTopics | ApiKey::DeleteTopics) && !self.leads_metadata(at.node) {
            self.coverage.mark("forwarded change");
        }
        self.act(client, |actor, context| actor.on_answer(context, correlation_id, answer));
    }

    /// The client has heard who serves what it wants, and goes there.
    fn on_resolved(&mut self, client: usize, target: Target, answer: Answer) {
        match resolve::found(&target, answer) {
            Found::Nobody => self.disconnect(client),
            Found::Node(NodeId(id)) => {
                let node = usize::try_from(id - 1).expect("ids are counted from 1");
                assert!(node < self.nodes.len(), "{target:?} is served by node {id}, which does not exist");
                if let Target::Coordinator(group) = target
                    && self.coordinators.insert(group, node).is_some_and(|before| before != node)
                {
                    self.coverage.mark("coordinator moved");
                }
                self.hang_up(client);
                self.connect_to(client, node);
            }
        }
    }
}

fn decode(key: ApiKey, version: i16, frame: Bytes) -> (i32, Answer) {
    match key {
        ApiKey::Fetch => {
            let (id, response) =
                client::decode_fetch_response(version, frame).expect("a well-formed response");
            (id, Answer::Fetch(response))
        }
        _ => {
            let (id, response) =
                client::decode_response(key, version, frame).expect("a well-formed response");
            (id, Answer::Response(response))
        }
    }
}
