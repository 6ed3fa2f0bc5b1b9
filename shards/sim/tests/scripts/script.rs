//! A world without faults, and a client that asks one thing after the other.

use std::collections::VecDeque;

use protocol::batch::{BatchBuilder, BatchOptions};
use protocol::frame::{Request, Response};
use protocol::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use protocol::messages::kafka_string;
use protocol::messages::produce_request::{PartitionProduceData, ProduceRequestData, TopicProduceData};
use sim::actor::{Actor, Answer, Context, Target};
use sim::plan::{Absence, Delays, Load, Plan};
use sim::process::NodeOptions;
use sim::trace::Trace;
use sim::world::World;
use types::ShardLayout;

const BACKOFF_US: u64 = 50_000;

/// What is asked.
pub enum Question {
    Any(Request),
    Produce(ProduceRequestData),
}

/// A request with its version, and what looks at the answer: `false` asks again.
pub struct Ask {
    pub version: i16,
    pub question: Question,
    pub look: Box<dyn FnMut(&Answer) -> bool>,
}

impl Ask {
    /// Any request but Fetch and Produce.
    pub fn new(version: i16, request: Request, mut look: impl FnMut(&Response) -> bool + 'static) -> Ask {
        let look = move |answer: &Answer| match answer {
            Answer::Response(response) => look(response),
            Answer::Fetch(_) => panic!("no fetch was sent"),
        };
        Ask { version, question: Question::Any(request), look: Box::new(look) }
    }
}

/// Makes the topic `topic`.
pub fn create_topic(partitions: i32, configs: &[(&str, &str)]) -> Ask {
    let configs = configs.iter().map(|(name, value)| CreatableTopicConfig {
        name: kafka_string(name),
        value: Some(kafka_string(value)),
        ..Default::default()
    });
    let topic = CreatableTopic {
        name: kafka_string("topic"),
        num_partitions: partitions,
        replication_factor: 1,
        configs: configs.collect(),
        ..Default::default()
    };
    create(topic)
}

/// Makes a topic.
pub fn create(topic: CreatableTopic) -> Ask {
    let request = CreateTopicsRequestData { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    Ask::new(5, Request::CreateTopics(request), |response| match response {
        Response::CreateTopics(response) => response.topics[0].error_code == 0,
        other => panic!("another response: {other:?}"),
    })
}

/// Writes a record with a value of so many bytes to a partition of the topic `topic`.
pub fn produce(partition: i32, value_bytes: usize) -> Ask {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(1_700_000_000_000, None, Some(&vec![7; value_bytes]), &[]);
    let partition = PartitionProduceData {
        index: partition,
        records: Some(builder.build().freeze()),
        ..Default::default()
    };
    let topic = TopicProduceData {
        name: kafka_string("topic"),
        partition_data: vec![partition],
        ..Default::default()
    };
    let request =
        ProduceRequestData { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() };
    let is_produced = |answer: &Answer| match answer {
        Answer::Response(Response::Produce(response)) => {
            response.responses[0].partition_responses[0].error_code == 0
        }
        other => panic!("another answer: {other:?}"),
    };
    Ask { version: 9, question: Question::Produce(request), look: Box::new(is_produced) }
}

struct Script {
    asks: VecDeque<Ask>,
    is_connected: bool,
}

/// A world with one shard, one partition for consumer groups and nothing that goes wrong.
pub fn quiet_world(disk_us: u64) -> World {
    quiet_cluster(1, disk_us)
}

/// A world with several such nodes.
pub fn quiet_cluster(nodes: usize, disk_us: u64) -> World {
    let plan = Plan {
        seed: 7,
        node: NodeOptions {
            nodes,
            may_all_begin: true,
            replica_lag_ms_max: 30_000,
            leader_balance_interval_ms: None,
            offsets_topic_replication: 1,
            retention_check_interval_ms: 300_000,
            offsets_topic_partitions: 1,
        },
        layouts: vec![ShardLayout::new(1, false); nodes],
        has_layout_changes: false,
        delays: Delays {
            turn_us: 20,
            ring_us: 30,
            wal_us: 200,
            wal_file_us: 20_000,
            disk_us,
            network_us: 200,
        },
        has_damage: false,
        faults: Vec::new(),
        duration_us: 1_000_000,
        load: Load::Light,
        has_moves: false,
        replication_min: 1,
        left_out: Vec::new(),
        absence: Absence::Down,
    };
    let mut world = World::new(plan, Trace::new(false));
    world.run();
    world
}

/// Asks all of it, in order, until everybody has their answers.
pub fn ask_all(world: &mut World, asks: impl IntoIterator<Item = Ask>) {
    begin_to_ask(world, asks);
    world.run_until_idle();
}

/// Adds a client that asks all of it, in order.
pub fn begin_to_ask(world: &mut World, asks: impl IntoIterator<Item = Ask>) {
    world.add_client(Box::new(Script { asks: asks.into_iter().collect(), is_connected: false }));
}

impl Script {
    fn ask(&mut self, context: &mut Context<'_>) {
        match (self.is_connected, self.asks.front()) {
            (_, None) => {}
            (true, Some(Ask { version, question: Question::Any(request), .. })) => {
                context.send(*version, request);
            }
            (true, Some(Ask { version, question: Question::Produce(request), .. })) => {
                context.send_produce(*version, request);
            }
            (false, Some(_)) => context.connect(Target::Any),
        }
    }
}

impl Actor for Script {
    fn name(&self) -> String {
        "script".to_owned()
    }

    fn on_timer(&mut self, context: &mut Context<'_>) {
        self.ask(context);
    }

    fn on_connected(&mut self, context: &mut Context<'_>) {
        self.is_connected = true;
        self.ask(context);
    }

    fn on_disconnected(&mut self, context: &mut Context<'_>) {
        self.is_connected = false;
        context.timer_us(BACKOFF_US);
    }

    fn on_answer(&mut self, context: &mut Context<'_>, _: i32, answer: Answer) {
        let ask = self.asks.front_mut().expect("something was asked");
        if (ask.look)(&answer) {
            self.asks.pop_front();
            self.ask(context);
        } else {
            // Another node may do better.
            context.disconnect();
        }
    }

    fn is_idle(&self) -> bool {
        self.asks.is_empty()
    }
}
