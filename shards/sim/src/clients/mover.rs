//! An operator who moves the replicas of partitions to other nodes, to fewer and to more.

use protocol::frame::{Request, Response};
use protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequestData, ReassignablePartition, ReassignableTopic,
};
use protocol::messages::{ErrorCode, kafka_string};

use crate::actor::{Actor, Answer, Context, Line, Target};
use crate::clients::is_retriable;
use crate::model::{Life, TopicRef};

/// How long the operator waits before trying again.
const BACKOFF_US: u64 = 50_000;

#[derive(Clone, Debug)]
struct Move {
    topic: TopicRef,
    partition: i32,
    /// Ids of nodes.
    replicas: Vec<i32>,
}

/// See the module.
pub struct Mover {
    replication_min: usize,
    moves_left: u64,
    pause_us: u64,
    line: Line,
    /// What is not decided yet.
    wanted: Option<Move>,
    asked: Option<i32>,
    wait_until_us: u64,
}

impl Mover {
    /// An operator who decides so many moves, one after the other, each to at least so many replicas.
    pub fn new(replication_min: usize, moves_left: u64, pause_us: u64) -> Mover {
        Mover {
            replication_min,
            moves_left,
            pause_us,
            line: Line::Down,
            wanted: None,
            asked: None,
            wait_until_us: 0,
        }
    }

    fn pump(&mut self, context: &mut Context<'_>) {
        if self.asked.is_some() || context.now.mono_us < self.wait_until_us {
            return;
        }
        let may_begin = !context.is_stopping && self.moves_left > 0;
        if self.wanted.is_none() && may_begin {
            self.moves_left -= 1;
            self.wanted = self.choose(context);
        }
        let Some(wanted) = self.wanted.clone() else {
            if may_begin {
                self.wait(context, self.pause_us);
            }
            return;
        };
        if self.line == Line::Up {
            self.asked = Some(ask(context, &wanted));
        } else if self.line == Line::Down {
            self.line = Line::Opening;
            context.connect(Target::Any);
        }
    }

    fn wait(&mut self, context: &mut Context<'_>, us: u64) {
        self.wait_until_us = context.now.mono_us + us;
        context.timer_us(us);
    }

    fn choose(&mut self, context: &mut Context<'_>) -> Option<Move> {
        let live = context.model.topics_in(Life::Live);
        if live.is_empty() {
            return None;
        }
        let topic = live[context.random.index(live.len())];
        let model = context.model.topic(topic);
        let partition = context.random.index(model.partitions.len());
        let least = self.replication_min.max(model.in_sync_min);
        let count = context.random.between(least as u64, context.nodes as u64) as usize;
        let mut nodes: Vec<i32> = (1..).take(context.nodes).collect();
        let replicas: Vec<i32> =
            (0..count).map(|_| nodes.remove(context.random.index(nodes.len()))).collect();
        Some(Move { topic, partition: i32::try_from(partition).expect("few partitions"), replicas })
    }
}

fn ask(context: &mut Context<'_>, wanted: &Move) -> i32 {
    let partitions = vec![ReassignablePartition {
        partition_index: wanted.partition,
        replicas: Some(wanted.replicas.clone()),
        ..Default::default()
    }];
    let name = kafka_string(&context.model.topic(wanted.topic).name);
    let topics = vec![ReassignableTopic { name, partitions, ..Default::default() }];
    let request = AlterPartitionReassignmentsRequestData { timeout_ms: 10_000, topics, ..Default::default() };
    context.send(0, &Request::AlterPartitionReassignments(request))
}

/// Whether a move is decided, or cannot be: the topic is gone, or a node was never heard of.
fn is_over(context: &mut Context<'_>, wanted: &Move, response: &Response) -> bool {
    let Response::AlterPartitionReassignments(response) = response else {
        panic!("{wanted:?} is answered with {response:?}");
    };
    let whole = ErrorCode::from(response.error_code);
    if whole != ErrorCode::None {
        assert!(is_retriable(whole), "moves are refused with {whole:?}");
        return false;
    }
    match ErrorCode::from(response.responses[0].partitions[0].error_code) {
        ErrorCode::None => {
            context.note_checked("replicas reassigned");
            true
        }
        ErrorCode::UnknownTopicOrPartition | ErrorCode::InvalidReplicaAssignment => true,
        code => {
            assert!(is_retriable(code), "{wanted:?} is refused with {code:?}");
            false
        }
    }
}

impl Actor for Mover {
    fn name(&self) -> String {
        format!("operator with {:?}", self.wanted)
    }

    fn on_timer(&mut self, context: &mut Context<'_>) {
        self.pump(context);
    }

    fn on_connected(&mut self, context: &mut Context<'_>) {
        self.line = Line::Up;
        self.pump(context);
    }

    fn on_disconnected(&mut self, context: &mut Context<'_>) {
        self.line = Line::Down;
        self.asked = None;
        self.wait(context, BACKOFF_US);
    }

    fn on_answer(&mut self, context: &mut Context<'_>, correlation_id: i32, answer: Answer) {
        assert_eq!(self.asked.take(), Some(correlation_id), "an answer belongs to the request");
        let Answer::Response(response) = answer else { panic!("an operator does not fetch") };
        let wanted = self.wanted.take().expect("an answer belongs to a move");
        let us = match is_over(context, &wanted, &response) {
            true => context.random.below(self.pause_us + 1),
            false => {
                // Another node may do better.
                self.wanted = Some(wanted);
                self.line = Line::Down;
                context.disconnect();
                BACKOFF_US
            }
        };
        self.wait(context, us);
    }

    fn is_idle(&self) -> bool {
        self.wanted.is_none()
    }
}
