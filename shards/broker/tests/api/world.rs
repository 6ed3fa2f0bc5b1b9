//! A broker with a cluster of two nodes around it, of which it is node 1.

use std::collections::VecDeque;
use std::sync::Arc;

use broker::{
    Broker, BrokerConfig, FetchItem, FetchOp, FetchedPartition, MetadataOp, Op, OpResult, OpToken, Output,
    PartitionError, ProduceOp, Target,
};
use bytes::{Buf, Bytes, BytesMut};
use coordinator::GroupConfig;
use metadata::{Applied, Command, Endpoint, MetadataState, PartitionSpec, StaticSettings};
use protocol::api::ApiKey;
use protocol::batch::{BatchBuilder, BatchOptions};
use protocol::client;
use protocol::frame::{Request, RequestHeader, Response};
use protocol::messages::fetch_response::FetchResponseData;
use protocol::messages::produce_request::ProduceRequestData;
use protocol::messages::produce_response::ProduceResponseData;
use protocol::messages::{ErrorCode, kafka_string};
use types::{ConnectionId, GroupId, NodeId, Now, ShardLayout, Term, TopicId};

pub const NODE: NodeId = NodeId(1);
pub const OTHER_NODE: NodeId = NodeId(2);
pub const CLIENT: ConnectionId = ConnectionId(1);

/// The topic of most tests: three partitions, the last of which the other node holds.
pub const ORDERS: &str = "orders";
pub const ORDERS_ID: TopicId = TopicId([7; 16]);

pub struct World {
    pub broker: Broker,
    pub state: MetadataState,
    pub now: Now,
    /// Operations that nobody has answered.
    pub ops: VecDeque<(Target, OpToken, Op)>,
    /// Responses without their length prefix.
    pub responses: VecDeque<(ConnectionId, Bytes)>,
    pub closed: Vec<(ConnectionId, String)>,
    pub aborted: Vec<(ConnectionId, String)>,
    /// Changes of reading, in order.
    pub reading: Vec<(ConnectionId, bool)>,
    next_correlation_id: i32,
}

pub fn config(data_shards: u16) -> BrokerConfig {
    BrokerConfig {
        node: NODE,
        incarnation: 1,
        layout: ShardLayout::new(data_shards, false),
        offsets_topic_partitions: 4,
        offsets_topic_replication: 1,
        reads_in_rack: false,
        producer_id_expiration_ms: 86_400_000,
        retention_check_interval_ms: 300_000,
        log_dir: "/var/lib/chronik".to_owned(),
        groups: GroupConfig::default(),
    }
}

impl World {
    /// A cluster with its topic, and one connection.
    pub fn new() -> World {
        let mut world = World::empty(&[], 1);
        world.create_topic(ORDERS, ORDERS_ID, &[1, 1, 2]);
        world
    }

    /// A cluster without topics, whose broker was started with these settings.
    pub fn empty(settings: &[(&str, &str)], data_shards: u16) -> World {
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let mut world = World {
            broker: Broker::new(Arc::new(config(data_shards)), 42),
            state: MetadataState::new(StaticSettings::new(settings).expect("valid settings")),
            now: Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 },
            ops: VecDeque::new(),
            responses: VecDeque::new(),
            closed: Vec::new(),
            aborted: Vec::new(),
            reading: Vec::new(),
            next_correlation_id: 100,
        };
        world.apply(Command::SetClusterId { cluster_id: "cluster".to_owned(), voters: Vec::new() });
        for (node, host) in [(NODE, "one"), (OTHER_NODE, "two")] {
            let endpoint = Endpoint { listener: "PLAINTEXT".to_owned(), host: host.to_owned(), port: 9092 };
            let rack = (node == OTHER_NODE).then(|| "rack-b".to_owned());
            let (endpoints, directory_id) = (vec![endpoint], None);
            let peer = None;
            world.apply(Command::RegisterBroker {
                node,
                rack,
                endpoints,
                incarnation: 1,
                directory_id,
                peer,
            });
        }
        world.broker.on_alive(Arc::new([NODE, OTHER_NODE].into()));
        world.broker.on_connected(CLIENT, "/127.0.0.1".to_owned());
        world
    }

    /// Makes a topic with a partition on each of the nodes; their groups have leaders of term 5.
    pub fn create_topic(&mut self, name: &str, id: TopicId, nodes: &[i32]) -> Vec<GroupId> {
        let partitions = nodes.iter().map(|node| PartitionSpec { replicas: vec![NodeId(*node)] }).collect();
        match self.apply(Command::CreateTopic { name: name.to_owned(), id, partitions, configs: Vec::new() })
        {
            Applied::TopicCreated { groups } => groups,
            other => panic!("no topic: {other:?}"),
        }
    }

    pub fn apply(&mut self, command: Command) -> Applied {
        assert_eq!(
            Command::decode(&command.encode()).as_ref(),
            Ok(&command),
            "nodes end at what they cannot read"
        );
        let applied = self.state.apply(self.state.applied().next(), command);
        let image = self.state.image();
        self.broker.on_image(Arc::clone(&image));
        if let Applied::TopicCreated { groups } | Applied::PartitionsCreated { groups } = &applied {
            for group in groups {
                let (topic, index) = image.partition_of_group(*group).expect("it was just made");
                let leader = topic.partition(index).expect("it was just made").replicas[0];
                self.broker.on_leader(*group, Term(5), Some(leader), Arc::default());
            }
        }
        applied
    }

    pub fn group(&mut self, topic: &str, partition: usize) -> GroupId {
        self.state.image().topic(topic).expect("a topic").partitions[partition].group
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.now.mono_us += ms * 1_000;
        if self.broker.next_deadline_us().is_some_and(|deadline_us| deadline_us <= self.now.mono_us) {
            self.broker.on_deadline(self.now);
        }
        self.pump();
    }

    /// Takes over what the broker wants done.
    pub fn pump(&mut self) {
        for output in self.broker.take_outputs() {
            match output {
                Output::Op { to, token, op } => self.ops.push_back((to, token, op)),
                Output::Respond { connection, parts } => {
                    let mut frame: Bytes = parts.concat().into();
                    assert_eq!(frame.get_i32() as usize, frame.len(), "the length prefix");
                    self.responses.push_back((connection, frame));
                }
                Output::Close { connection, reason } => self.closed.push((connection, reason)),
                Output::Abort { connection, reason } => self.aborted.push((connection, reason)),
                Output::SetReading { connection, reading } => self.reading.push((connection, reading)),
            }
        }
    }

    fn header(&mut self, key: ApiKey, api_version: i16) -> RequestHeader {
        self.next_correlation_id += 1;
        RequestHeader {
            api_key: key.wire(),
            api_version,
            correlation_id: self.next_correlation_id,
            client_id: Some(kafka_string("tester")),
        }
    }

    pub fn frame(&mut self, connection: ConnectionId, frame: &[u8]) {
        self.broker.on_frame(self.now, connection, BytesMut::from(frame));
        self.pump();
    }

    /// Sends a request and returns its correlation id.
    pub fn send(&mut self, connection: ConnectionId, api_version: i16, request: &Request) -> i32 {
        let header = self.header(request.api_key(), api_version);
        let frame = client::encode_request(&header, request).expect("a request of this version");
        self.frame(connection, &frame[4..]);
        header.correlation_id
    }

    pub fn send_produce(&mut self, api_version: i16, request: &ProduceRequestData) -> i32 {
        let header = self.header(ApiKey::Produce, api_version);
        let frame = client::encode_produce(&header, request).expect("a request of this version");
        self.frame(CLIENT, &frame[4..]);
        header.correlation_id
    }

    pub fn answer(&mut self, token: OpToken, result: OpResult) {
        self.broker.on_op_result(self.now, token, result);
        self.pump();
    }

    /// Answers operations until there are none.
    pub fn serve(&mut self, mut owner: impl FnMut(&Op) -> OpResult) {
        while let Some((_, token, op)) = self.ops.pop_front() {
            if matches!(op, Op::CancelFetchWait) {
                continue;
            }
            let result = owner(&op);
            self.answer(token, result);
        }
    }

    /// Answers changes of the metadata by making them, and lets every replica lead that is to.
    pub fn serve_metadata(&mut self) {
        while let Some((target, token, op)) = self.ops.pop_front() {
            assert_eq!(target, Target::Metadata);
            let result = match op {
                Op::Metadata(MetadataOp::Propose { command, .. }) => {
                    OpResult::Metadata(Ok(self.apply(command)))
                }
                Op::Metadata(MetadataOp::HandOver { group, to, .. }) => {
                    self.broker.on_leader(group, Term(100), Some(to), Arc::default());
                    OpResult::HandedOver(true)
                }
                other => panic!("not for the metadata: {other:?}"),
            };
            self.answer(token, result);
        }
    }

    pub fn pop_op(&mut self) -> (Target, OpToken, Op) {
        self.ops.pop_front().expect("an operation")
    }

    pub fn pop_frame(&mut self) -> Bytes {
        assert_eq!(self.closed, [], "the connection stays open");
        self.responses.pop_front().expect("a response").1
    }

    pub fn pop_response(&mut self, key: ApiKey, api_version: i16) -> (i32, Response) {
        let frame = self.pop_frame();
        client::decode_response(key, api_version, frame).expect("a response of this version")
    }

    pub fn pop_fetch_response(&mut self, api_version: i16) -> FetchResponseData {
        let frame = self.pop_frame();
        client::decode_fetch_response(api_version, frame).expect("a response of this version").1
    }

    pub fn pop_produce_response(&mut self, api_version: i16) -> ProduceResponseData {
        match self.pop_response(ApiKey::Produce, api_version).1 {
            Response::Produce(response) => response,
            other => panic!("another response: {other:?}"),
        }
    }

    /// Sends a request that the broker answers by itself or by changes of the metadata.
    pub fn ask(&mut self, api_version: i16, request: &Request) -> Response {
        self.ask_with(api_version, request, World::serve_metadata)
    }

    pub fn ask_with(
        &mut self,
        api_version: i16,
        request: &Request,
        serve: impl FnOnce(&mut World),
    ) -> Response {
        let sent = self.send(CLIENT, api_version, request);
        serve(self);
        let (correlation_id, response) = self.pop_response(request.api_key(), api_version);
        assert_eq!(correlation_id, sent);
        assert!(self.ops.is_empty() && self.responses.is_empty(), "one request has one response");
        response
    }
}

pub fn code(code: i16) -> ErrorCode {
    ErrorCode::from(code)
}

/// A batch of one record with so many bytes of value.
pub fn batch(value_bytes: usize, options: BatchOptions) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    builder.append(1_700_000_000_000, None, Some(&vec![b'x'; value_bytes]), &[]);
    builder.build().freeze()
}

pub fn not_leader() -> PartitionError {
    PartitionError {
        code: ErrorCode::NotLeaderOrFollower,
        leader: Some((OTHER_NODE, Term(6))),
        message: Some("node 2 leads".to_owned()),
    }
}

pub fn produce_op(op: &Op) -> &ProduceOp {
    match op {
        Op::Produce(op) => op,
        other => panic!("no Produce: {other:?}"),
    }
}

pub fn fetch_op(op: &Op) -> &FetchOp {
    match op {
        Op::Fetch(op) => op,
        other => panic!("no Fetch: {other:?}"),
    }
}

/// What an owner answers for an item: these records below this high watermark.
pub fn fetched(item: &FetchItem, high_watermark: i64, records: Vec<Bytes>) -> FetchedPartition {
    FetchedPartition { slot: item.slot, error: None, high_watermark, log_start: 0, diverging: None, records }
}
