//! An administrator: makes and deletes topics, deletes records, and insists until each is done.

use protocol::frame::{Request, Response};
use protocol::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequestData, DeleteRecordsTopic,
};
use protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequestData};
use protocol::messages::metadata_request::{MetadataRequestData, MetadataRequestTopic};
use protocol::messages::{ErrorCode, kafka_string, topic_id};
use types::limits::{BATCH_BYTES_MAX, SEGMENT_BYTES_MIN};

use crate::actor::{Actor, Answer, Context, Line, Target};
use crate::clients::is_retriable;
use crate::model::{Floor, Life, PartitionModel, TopicModel, TopicRef};

/// How long the administrator waits before it tries again.
const BACKOFF_US: u64 = 50_000;

#[derive(Clone, Debug)]
enum Task {
    Create { topic: TopicRef, configs: Vec<(&'static str, String)>, is_made: bool },
    Delete { topic: TopicRef, is_retry: bool },
    DeleteRecords { topic: TopicRef, partition: i32, offset: i64, floor: Floor },
}

/// See the module.
pub struct Admin {
    is_heavy: bool,
    topics_max: usize,
    replication_min: usize,
    tasks_left: u64,
    pause_us: u64,
    line: Line,
    task: Option<Task>,
    asked: Option<i32>,
    /// The last error of the task.
    refused: Option<ErrorCode>,
    wait_until_us: u64,
}

impl Admin {
    /// An administrator who keeps so many topics and begins so many tasks.
    pub fn new(
        is_heavy: bool,
        topics_max: usize,
        replication_min: usize,
        tasks_left: u64,
        pause_us: u64,
    ) -> Admin {
        Admin {
            is_heavy,
            topics_max,
            replication_min,
            tasks_left,
            pause_us,
            line: Line::Down,
            task: None,
            asked: None,
            refused: None,
            wait_until_us: 0,
        }
    }

    fn pump(&mut self, context: &mut Context<'_>) {
        if self.asked.is_some() || context.now.mono_us < self.wait_until_us {
            return;
        }
        if self.task.is_none() && !context.is_stopping && self.tasks_left > 0 {
            self.tasks_left -= 1;
            self.task = self.choose(context);
        }
        let Some(task) = self.task.clone() else {
            if !context.is_stopping && self.tasks_left > 0 {
                self.wait(context, self.pause_us);
            }
            return;
        };
        if self.line == Line::Up {
            self.asked = Some(self.ask(context, &task));
        } else if self.line == Line::Down {
            self.line = Line::Opening;
            let target = match &task {
                Task::DeleteRecords { topic, partition, .. } => context.leader(*topic, *partition),
                Task::Create { .. } | Task::Delete { .. } => Target::Any,
            };
            context.connect(target);
        }
    }

    fn wait(&mut self, context: &mut Context<'_>, us: u64) {
        self.wait_until_us = context.now.mono_us + us;
        context.timer_us(us);
    }

    fn choose(&mut self, context: &mut Context<'_>) -> Option<Task> {
        let live = context.model.topics_in(Life::Live);
        let may_create = live.len() < self.topics_max;
        if live.is_empty() || (may_create && context.random.percent(50)) {
            return Some(self.plan_topic(context));
        }
        let topic = live[context.random.index(live.len())];
        match context.random.below(10) {
            0..3 if live.len() > 1 => {
                context.model.topic(topic).life = Life::Deleting;
                Some(Task::Delete { topic, is_retry: false })
            }
            0..8 => {
                let partitions = context.model.topic(topic).partitions.len();
                let partition = i32::try_from(context.random.index(partitions)).expect("few partitions");
                let floor = context.model.floor(topic, partition);
                let asked = match context.random.below(3) {
                    0 => floor.end,
                    _ => {
                        floor.start
                            + i64::try_from(context.random.below((floor.end - floor.start) as u64 + 1))
                                .ok()?
                    }
                };
                let known = context.model.partition(topic, partition);
                known.start_asked_max = known.start_asked_max.max(asked);
                Some(Task::DeleteRecords { topic, partition, offset: asked, floor })
            }
            _ => None,
        }
    }

    fn plan_topic(&mut self, context: &mut Context<'_>) -> Task {
        let topic = TopicRef(context.model.topics.len());
        let partitions = context.random.between(1, if self.is_heavy { 2 } else { 6 });
        let mut configs = vec![("max.message.bytes", BATCH_BYTES_MAX.to_string())];
        if topic.0 % 3 == 1 {
            configs.push(("leader.replication.throttled.replicas", "*".to_owned()));
            configs.push(("follower.replication.throttled.replicas", "*".to_owned()));
        }
        let segment_bytes = SEGMENT_BYTES_MIN as u64 * context.random.between(1, 4);
        configs.push(("segment.bytes", segment_bytes.to_string()));
        let has_retention = context.random.percent(30);
        let expires = has_retention && context.random.percent(50);
        if has_retention {
            match expires {
                true => configs.push(("retention.ms", context.random.between(500, 5_000).to_string())),
                false => configs.push((
                    "retention.bytes",
                    context.random.between(1, 6 * SEGMENT_BYTES_MIN as u64).to_string(),
                )),
            }
        }
        if context.random.percent(20) {
            configs.push(("segment.ms", context.random.between(100, 3_000).to_string()));
        }
        let has_append_time = context.random.percent(20);
        if has_append_time {
            configs.push(("message.timestamp.type", "LogAppendTime".to_owned()));
        }
        let replication = match context.nodes {
            1 => 1,
            nodes => context.random.between(self.replication_min as u64, nodes as u64),
        };
        let replication = usize::try_from(replication).expect("few nodes");
        let mut in_sync_min = 1;
        if replication > 1 && context.random.percent(50) {
            // With nodes that stay away to the end, no more than a majority can be asked for.
            let most = if self.replication_min > 1 { replication / 2 + 1 } else { replication };
            in_sync_min = context.random.between(1, most as u64) as usize;
            configs.push(("min.insync.replicas", in_sync_min.to_string()));
        }
        context.model.topics.push(TopicModel {
            name: format!("t{}", topic.0),
            id: None,
            life: Life::Creating,
            replication,
            in_sync_min,
            has_retention,
            expires,
            has_append_time,
            partitions: (0..partitions).map(|_| PartitionModel::default()).collect(),
        });
        Task::Create { topic, configs, is_made: false }
    }

    fn ask(&mut self, context: &mut Context<'_>, task: &Task) -> i32 {
        match task {
            Task::Create { topic, is_made: true, .. } => {
                let name = kafka_string(&context.model.topic(*topic).name);
                let topics = vec![MetadataRequestTopic { name: Some(name), ..Default::default() }];
                let request = MetadataRequestData { topics: Some(topics), ..Default::default() };
                context.send(12, &Request::Metadata(request))
            }
            Task::Create { topic, configs, is_made: false } => {
                let model = context.model.topic(*topic);
                let configs = configs.iter().map(|(name, value)| CreatableTopicConfig {
                    name: kafka_string(name),
                    value: Some(kafka_string(value)),
                    ..Default::default()
                });
                let wanted = CreatableTopic {
                    name: kafka_string(&model.name),
                    num_partitions: i32::try_from(model.partitions.len()).expect("few partitions"),
                    replication_factor: i16::try_from(model.replication).expect("few nodes"),
                    configs: configs.collect(),
                    ..Default::default()
                };
                let request = CreateTopicsRequestData {
                    topics: vec![wanted],
                    timeout_ms: 10_000,
                    ..Default::default()
                };
                context.send(7, &Request::CreateTopics(request))
            }
            Task::Delete { topic, .. } => {
                let name = kafka_string(&context.model.topic(*topic).name);
                let topics = vec![DeleteTopicState { name: Some(name), ..Default::default() }];
                let request = DeleteTopicsRequestData { topics, timeout_ms: 10_000, ..Default::default() };
                context.send(6, &Request::DeleteTopics(request))
            }
            Task::DeleteRecords { topic, partition, offset, .. } => {
                let partitions = vec![DeleteRecordsPartition {
                    partition_index: *partition,
                    offset: *offset,
                    ..Default::default()
                }];
                let name = kafka_string(&context.model.topic(*topic).name);
                let topics = vec![DeleteRecordsTopic { name, partitions, ..Default::default() }];
                let request = DeleteRecordsRequestData { topics, timeout_ms: 10_000, ..Default::default() };
                context.send(2, &Request::DeleteRecords(request))
            }
        }
    }

    /// Takes in a response; returns the task that is left of it.
    fn on_response(&mut self, context: &mut Context<'_>, task: Task, response: Response) -> Option<Task> {
        match (task, response) {
            (Task::Create { topic, configs, .. }, Response::CreateTopics(response)) => {
                let code = ErrorCode::from(response.topics[0].error_code);
                self.refused = Some(code);
                let is_made = matches!(code, ErrorCode::None | ErrorCode::TopicAlreadyExists);
                // A node that does not know all others yet cannot place that many replicas.
                let is_early = context.nodes > 1 && code == ErrorCode::InvalidReplicationFactor;
                if is_early && context.is_stopping {
                    // Nodes that are left out may never have been heard of.
                    return None;
                }
                assert!(
                    is_made || is_early || is_retriable(code),
                    "a topic is refused with {code:?}: {response:?}"
                );
                Some(Task::Create { topic, configs, is_made })
            }
            (Task::Create { topic, configs, .. }, Response::Metadata(response)) => {
                let found = &response.topics[0];
                let code = ErrorCode::from(found.error_code);
                self.refused = Some(code);
                if code != ErrorCode::None {
                    assert!(is_retriable(code), "the metadata of a topic is refused with {code:?}");
                    return Some(Task::Create { topic, configs, is_made: true });
                }
                let model = context.model.topic(topic);
                assert_eq!(
                    found.partitions.len(),
                    model.partitions.len(),
                    "a topic has the partitions asked for"
                );
                model.id = Some(topic_id(found.topic_id));
                model.life = Life::Live;
                None
            }
            (Task::Delete { topic, is_retry }, Response::DeleteTopics(response)) => {
                let code = ErrorCode::from(response.responses[0].error_code);
                self.refused = Some(code);
                let is_gone = code == ErrorCode::UnknownTopicOrPartition;
                if is_gone && context.nodes > 1 {
                    // It is deleted, or this node has not heard of it yet: nobody counts on it any more.
                    return None;
                }
                let name = &context.model.topic(topic).name;
                assert!(is_retry || !is_gone, "{name} was acknowledged, and is unknown");
                if code == ErrorCode::None || is_gone {
                    context.model.topic(topic).life = Life::Deleted;
                    context.note_checked("topic deleted");
                    return None;
                }
                assert!(is_retriable(code), "the deletion of {name} is refused with {code:?}");
                Some(Task::Delete { topic, is_retry: true })
            }
            (Task::DeleteRecords { topic, partition, offset, floor }, Response::DeleteRecords(response)) => {
                let answer = &response.topics[0].partitions[0];
                let code = ErrorCode::from(answer.error_code);
                self.refused = Some(code);
                let name = context.model.topic(topic).name.clone();
                if code != ErrorCode::None {
                    // A leader that was deposed may not know of what was committed since.
                    let is_deposed = context.nodes > 1 && code == ErrorCode::OffsetOutOfRange;
                    assert!(
                        is_retriable(code) || is_deposed,
                        "{name}-{partition}: deletion up to {offset} is refused with {code:?}"
                    );
                    return Some(Task::DeleteRecords { topic, partition, offset, floor });
                }
                let low = answer.low_watermark;
                assert!(
                    low >= offset && low >= floor.start,
                    "{name}-{partition}: deletion up to {offset} left the log start at {low}, which was {}",
                    floor.start
                );
                let known = context.model.partition(topic, partition);
                known.start_floor = known.start_floor.max(low);
                known.end_floor = known.end_floor.max(low);
                None
            }
            (task, response) => panic!("{task:?} is answered with {response:?}"),
        }
    }
}

impl Actor for Admin {
    fn name(&self) -> String {
        format!("administrator with {:?}, refused with {:?}", self.task, self.refused)
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
        if self.asked.take().is_some()
            && let Some(Task::Delete { is_retry, .. }) = &mut self.task
        {
            *is_retry = true;
        }
        self.wait(context, BACKOFF_US);
    }

    fn on_answer(&mut self, context: &mut Context<'_>, correlation_id: i32, answer: Answer) {
        assert_eq!(self.asked.take(), Some(correlation_id), "an answer belongs to the request");
        let Answer::Response(response) = answer else { panic!("an administrator does not fetch") };
        let task = self.task.take().expect("an answer belongs to a task");
        let was_made = matches!(task, Task::Create { is_made: true, .. });
        self.task = self.on_response(context, task, response);
        let us = match &self.task {
            Some(Task::Create { is_made: true, .. }) if !was_made => 0,
            Some(_) => {
                if context.nodes > 1 {
                    // Another node may do better.
                    self.line = Line::Down;
                    context.disconnect();
                }
                BACKOFF_US
            }
            None => context.random.below(self.pause_us + 1),
        };
        self.wait(context, us);
    }

    fn is_idle(&self) -> bool {
        self.task.is_none()
    }
}
