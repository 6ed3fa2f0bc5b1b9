//! Shards of a few nodes that reach one another and their disks at once: just enough of a driver to run their steps.

use std::{collections::VecDeque, sync::Arc};

use broker::BrokerConfig;
use bytes::{Bytes, BytesMut};
use coordinator::GroupConfig;
use log::wal::recover;
use metadata::{Endpoint, StaticSettings};
use protocol::{
    ApiKey, Request, Response,
    client::{decode_response, encode_request},
    messages::{
        create_topics_request::{CreatableTopic, CreateTopicsRequestData},
        kafka_string,
    },
};
use shard::{DiskAnswer, Effect, Event, PeerAddress, Registration, Shard, ShardConfig};
use types::{ConnectionId, DirectoryId, NodeId, Now, ShardId, ShardLayout};

use crate::{
    codec::{body_of, header},
    measured,
};

const CREATE_TOPICS_VERSION: i16 = 7;
const PRODUCE_VERSION: i16 = 12;
/// Virtual time between two events that do not follow from one another.
const PASS_US: u64 = 1_000;
/// Virtual time in which a cluster must have formed.
const FORM_PASSES: usize = 20_000;

/// Nodes of one shard each, and what is on its way to them.
pub struct World {
    nodes: Vec<Node>,
    now: Now,
    /// Which steps callgrind counts.
    pub counted: Option<fn(&World, usize, &Event) -> bool>,
    leader: usize,
}

struct Node {
    shard: Shard,
    events: VecDeque<Event>,
    responses: VecDeque<Bytes>,
}

fn node_id(at: usize) -> NodeId {
    NodeId(i32::try_from(at).expect("a few nodes") + 1)
}

fn at(node: NodeId) -> usize {
    usize::try_from(node.0).expect("ids are counted from 1") - 1
}

impl World {
    /// A cluster that has formed, with a client at each node.
    pub fn new(nodes: usize) -> World {
        let now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
        let mut world = World { nodes: Vec::new(), now, counted: None, leader: 0 };
        let mut begun = Vec::new();
        for node in 0..nodes {
            let mut effects = Vec::new();
            let recovered = recover(&[]).expect("an empty WAL is recovered");
            let shard = Shard::new(config(node, nodes), recovered, now, &mut effects);
            world.nodes.push(Node { shard, events: VecDeque::new(), responses: VecDeque::new() });
            begun.push(effects);
        }
        for (node, effects) in begun.into_iter().enumerate() {
            effects.into_iter().for_each(|effect| world.carry_out(node, effect));
            let connected =
                Event::Connected { connection: ConnectionId(1), client_host: "/127.0.0.1".to_owned() };
            world.nodes[node].events.push_back(connected);
        }
        world.settle();
        world
    }

    /// Makes a topic of one partition on all nodes, as soon as the cluster is there.
    pub fn create_topic(&mut self, name: &str) {
        let topic = CreatableTopic {
            name: kafka_string(name),
            num_partitions: 1,
            replication_factor: i16::try_from(self.nodes.len()).expect("a few nodes"),
            ..Default::default()
        };
        let request =
            CreateTopicsRequestData { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
        let request = Request::CreateTopics(request);
        let frame = encode_request(&header(ApiKey::CreateTopics, CREATE_TOPICS_VERSION), &request)
            .expect("the version has every field");
        for _ in 0..FORM_PASSES {
            let response = self.ask(0, &frame);
            let (_, response) = decode_response(ApiKey::CreateTopics, CREATE_TOPICS_VERSION, response)
                .expect("a broker's answer can be decoded");
            let Response::CreateTopics(response) = response else { unreachable!("decoded as such") };
            if response.topics[0].error_code == 0 {
                return;
            }
            self.pass_time();
        }
        panic!("the topic was not made");
    }

    /// Finds the node that takes a Produce.
    pub fn find_leader(&mut self, frame: &BytesMut) -> usize {
        for pass in 0..FORM_PASSES {
            let node = pass % self.nodes.len();
            let response = self.ask(node, frame);
            let (_, response) = decode_response(ApiKey::Produce, PRODUCE_VERSION, response)
                .expect("a broker's answer can be decoded");
            let Response::Produce(response) = response else { unreachable!("decoded as such") };
            if response.responses[0].partition_responses[0].error_code == 0 {
                self.leader = node;
                return node;
            }
            self.pass_time();
        }
        panic!("nobody leads the partition");
    }

    /// A node that does not lead.
    pub fn follower(&self) -> usize {
        (self.leader + 1) % self.nodes.len()
    }

    /// Sends a Produce and takes its answer.
    pub fn produce(&mut self, node: usize, frame: &BytesMut) {
        self.ask(node, frame);
    }

    /// Time passes, and what is due happens.
    pub fn pass_time(&mut self) {
        self.now.mono_us += PASS_US;
        self.now.wall_ms += 1;
        for node in &mut self.nodes {
            if node.shard.next_deadline_us().is_some_and(|due_us| due_us <= self.now.mono_us) {
                node.events.push_back(Event::DeadlineReached);
            }
        }
        self.settle();
    }

    /// Sends a request, and lets time pass until it is answered.
    fn ask(&mut self, node: usize, frame: &[u8]) -> Bytes {
        let event = Event::Frame { connection: ConnectionId(1), frame: body_of(frame) };
        self.nodes[node].events.push_back(event);
        self.settle();
        for _ in 0..FORM_PASSES {
            if let Some(response) = self.nodes[node].responses.pop_front() {
                return response.slice(4..);
            }
            self.pass_time();
        }
        panic!("a request was not answered");
    }

    /// Feeds all events, those that come of them too. Each node's burst ends with `TurnEnded`.
    fn settle(&mut self) {
        while let Some(node) = (0..self.nodes.len()).find(|&node| !self.nodes[node].events.is_empty()) {
            while let Some(event) = self.nodes[node].events.pop_front() {
                self.step(node, event);
            }
            self.step(node, Event::TurnEnded);
        }
    }

    fn step(&mut self, node: usize, event: Event) {
        let is_counted = self.counted.is_some_and(|counted| counted(self, node, &event));
        let mut effects = Vec::new();
        let shard = &mut self.nodes[node].shard;
        if is_counted {
            measured(|| shard.step(self.now, event, &mut effects));
        } else {
            shard.step(self.now, event, &mut effects);
        }
        effects.into_iter().for_each(|effect| self.carry_out(node, effect));
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        let feed = |world: &mut World, to: usize, event: Event| world.nodes[to].events.push_back(event);
        match effect {
            Effect::Respond { connection, parts } => {
                let response = parts.concat();
                let sent = Event::ResponseSent { connection, bytes: response.len() };
                self.nodes[node].responses.push_back(response.into());
                feed(self, node, sent);
            }
            Effect::SetPeers { peers } => {
                for peer in peers {
                    feed(self, node, Event::PeerConnected { peer: peer.node });
                    feed(self, at(peer.node), Event::PeerJoined { peer: node_id(node) });
                }
            }
            Effect::SendToPeer { to, parts } => {
                let frame = parts.concat();
                feed(self, node, Event::PeerSent { peer: to, bytes: frame.len() });
                feed(self, at(to), Event::FromPeer { peer: node_id(node), frame: frame.into() });
            }
            Effect::CreateWalFile { file } | Effect::RecycleWalFile { file, .. } => {
                feed(self, node, Event::WalFileReady { file, result: Ok(()) });
            }
            Effect::WriteWal { number, .. } => feed(self, node, Event::WalFlushed { flush: number }),
            // Nothing is read back here.
            Effect::Disk { token, .. } => {
                feed(self, node, Event::Disk { token, result: Ok(DiskAnswer::Done) })
            }
            Effect::SetReading { .. } | Effect::KnownDirectories { .. } | Effect::Joined { .. } => {}
            Effect::Warn(what) => eprintln!("node {}: {what}", node_id(node)),
            other @ (Effect::Close { .. }
            | Effect::Abort { .. }
            | Effect::SendToShard { .. }
            | Effect::ShutdownComplete
            | Effect::Fatal(_)) => panic!("not expected here: {other:?}"),
        }
    }
}

fn config(node: usize, nodes: usize) -> ShardConfig {
    let id = node_id(node);
    let all = (0..nodes).map(node_id);
    let address = |node: NodeId| PeerAddress { node, host: "localhost".to_owned(), port: 9_000 };
    let broker = BrokerConfig {
        node: id,
        incarnation: 1,
        layout: ShardLayout::new(1, false),
        offsets_topic_partitions: 1,
        offsets_topic_replication: 1,
        reads_in_rack: false,
        producer_id_expiration_ms: 86_400_000,
        retention_check_interval_ms: 300_000,
        log_dir: "/data".to_owned(),
        groups: GroupConfig::default(),
    };
    let endpoint = Endpoint { listener: "PLAINTEXT".to_owned(), host: "localhost".to_owned(), port: 9_092 };
    ShardConfig {
        shard: ShardId(0),
        broker: Arc::new(broker),
        settings: StaticSettings::new([]).expect("no settings are valid settings"),
        registration: Registration {
            node: id,
            rack: None,
            endpoint,
            incarnation: 1,
            peer: None,
            directory_id: DirectoryId([u8::try_from(id.0).expect("a few nodes"); 16]),
            new_cluster_id: "instructions".to_owned(),
        },
        peers: all.clone().filter(|other| *other != id).map(address).collect(),
        first_voters: all.collect(),
        is_clustered: nodes > 1,
        move_bytes_per_second_max: 64 << 20,
        shares_out: true,
        may_begin_cluster: node == 0,
        replica_lag_ms_max: 30_000,
        leader_balance_interval_ms: None,
        seed: 7,
    }
}
