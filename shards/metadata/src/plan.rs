//! Requests about topics, turned into commands.

use std::collections::{BTreeMap, BTreeSet};

use types::limits::{METADATA_BYTES_MAX, METADATA_MOVING_BYTES_MAX, PARTITIONS_MAX};
use types::{NodeId, TopicId};

use crate::command::{Command, PartitionSpec};
use crate::error::MetadataError;
use crate::image::{MetadataImage, Topic, topic_bytes};
use crate::names::{collision_key, is_internal_topic, validate_topic_name};
use crate::partition::{Partition, new_partition_bytes};
use crate::placement::Placer;
use crate::plan_configs::new_topic_configs;
use crate::topic_id::topic_id_from_seed;

/// One topic of CreateTopics, or one that the broker creates by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRequest {
    /// Its name.
    pub name: String,
    /// The number of partitions; -1 for `num.partitions`, and with manual assignments.
    pub num_partitions: i32,
    /// The number of replicas; -1 for `default.replication.factor`, and with manual assignments.
    pub replication_factor: i16,
    /// The replicas of each partition, or empty to have them placed.
    pub assignments: Vec<ManualAssignment>,
    /// Names and values of configurations.
    pub configs: Vec<(String, Option<String>)>,
    /// Whether the broker creates one of its own topics. Clients never do: they may neither create
    /// those names nor compact a topic.
    pub internal: bool,
}

/// Where a client wants one partition of a new topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManualAssignment {
    /// The partition.
    pub partition: i32,
    /// Its brokers, the preferred leader first.
    pub replicas: Vec<NodeId>,
}

/// One topic of CreatePartitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionsRequest {
    /// The topic.
    pub name: String,
    /// How many partitions it should have.
    pub count: i32,
    /// The replicas of each new partition, or `None` to have them placed.
    pub assignments: Option<Vec<Vec<NodeId>>>,
}

/// How a client names a topic that it wants deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicSelector<'a> {
    /// By name.
    Name(&'a str),
    /// By id.
    Id(TopicId),
}

/// Plans the topics of one request, each with regard to those before it: their names are taken and
/// their replicas weigh on the brokers.
pub struct CreateTopicPlanner<'a> {
    image: &'a MetadataImage,
    placer: Placer,
    names: BTreeSet<String>,
    /// The names of this request by what they collide on.
    collision_keys: BTreeMap<String, String>,
    partitions: usize,
    /// What the topics planned so far add to the metadata.
    bytes: usize,
}

impl<'a> CreateTopicPlanner<'a> {
    /// A planner for one request, told which brokers are alive.
    pub fn new(image: &'a MetadataImage, is_alive: impl Fn(NodeId) -> bool) -> CreateTopicPlanner<'a> {
        CreateTopicPlanner {
            image,
            placer: Placer::new(image, is_alive),
            names: BTreeSet::new(),
            collision_keys: BTreeMap::new(),
            partitions: image.partition_count(),
            bytes: 0,
        }
    }

    /// Plans one topic by Kafka's rules. `seed` must differ from request to request: it gives the
    /// topic's id and breaks ties of the placement.
    ///
    /// # Errors
    ///
    /// `InvalidTopicName`, `InternalTopic`, `TopicExists`, `TopicNameCollision`, `InvalidConfig`,
    /// `InvalidPartitions`, `InvalidReplicationFactor`, `InvalidReplicaAssignment`, `TooLarge`, and
    /// `InvalidRequest` for fields that contradict each other.
    pub fn plan(&mut self, request: &TopicRequest, seed: u64) -> Result<Command, MetadataError> {
        self.check_name(&request.name, request.internal)?;
        let configs = new_topic_configs(self.image, request)?;
        let partitions = if request.assignments.is_empty() {
            self.place(request, seed)?
        } else {
            self.take_manual_assignment(request)?
        };
        let of_topic = topic_bytes(&request.name, configs.iter().map(|(name, value)| (name, value)));
        let bytes = self.bytes + of_topic + bytes_of(&partitions);
        check_bytes(self.image, bytes)?;
        self.bytes = bytes;
        self.partitions += partitions.len();
        self.placer.count(&partitions);
        self.names.insert(request.name.clone());
        self.collision_keys.extend(collision_key(&request.name).map(|key| (key, request.name.clone())));
        let id = self.unused_id(&request.name, seed);
        Ok(Command::CreateTopic { name: request.name.clone(), id, partitions, configs })
    }

    fn check_name(&self, name: &str, internal: bool) -> Result<(), MetadataError> {
        validate_topic_name(name)?;
        if is_internal_topic(name) && !internal {
            let reason = "only the broker creates it";
            return Err(MetadataError::InternalTopic { name: name.to_owned(), reason });
        }
        if self.image.topic(name).is_some() || self.names.contains(name) {
            return Err(MetadataError::TopicExists(name.to_owned()));
        }
        let collision = |existing: &str| MetadataError::TopicNameCollision {
            name: name.to_owned(),
            existing: existing.to_owned(),
        };
        if let Some(existing) = self.image.colliding_topic(name) {
            return Err(collision(existing));
        }
        match collision_key(name).and_then(|key| self.collision_keys.get(&key)) {
            Some(existing) => Err(collision(existing)),
            None => Ok(()),
        }
    }

    fn place(&self, request: &TopicRequest, seed: u64) -> Result<Vec<PartitionSpec>, MetadataError> {
        let defaults = self.image.broker_defaults();
        let count = match request.num_partitions {
            -1 => defaults.num_partitions,
            count => count,
        };
        let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
            MetadataError::InvalidPartitions(format!("num_partitions is {count}: it must be positive, or -1"))
        })?;
        self.check_room(count)?;
        let replication_factor = match request.replication_factor {
            -1 => defaults.default_replication_factor,
            replication_factor => replication_factor,
        };
        let replication_factor = checked_replication_factor(replication_factor.into(), &self.placer)?;
        Ok(self.placer.place(std::iter::empty(), count, replication_factor, seed))
    }

    fn take_manual_assignment(&self, request: &TopicRequest) -> Result<Vec<PartitionSpec>, MetadataError> {
        if request.num_partitions != -1 || request.replication_factor != -1 {
            return Err(MetadataError::InvalidRequest(
                "with assignments, num_partitions and replication_factor must both be -1".to_owned(),
            ));
        }
        self.check_room(request.assignments.len())?;
        let mut assignments: Vec<&ManualAssignment> = request.assignments.iter().collect();
        assignments.sort_by_key(|assignment| assignment.partition);
        if (0i32..).zip(&assignments).any(|(expected, assignment)| assignment.partition != expected) {
            return Err(MetadataError::InvalidReplicaAssignment(
                "assignments must name each partition from 0 on exactly once".to_owned(),
            ));
        }
        let replication_factor = assignments[0].replicas.len();
        assignments
            .into_iter()
            .map(|assignment| manual_spec(&assignment.replicas, replication_factor, &self.placer))
            .collect()
    }

    fn check_room(&self, count: usize) -> Result<(), MetadataError> {
        check_room(self.partitions, count)
    }

    fn unused_id(&self, name: &str, seed: u64) -> TopicId {
        (0..)
            .map(|attempt: u64| topic_id_from_seed(seed.wrapping_add(attempt << 32), name))
            .find(|id| self.image.topic_by_id(*id).is_none())
            .expect("there are fewer topics than ids")
    }
}

/// Plans more partitions for the topics of one request, each with regard to those before it. No topic is planned twice.
pub struct CreatePartitionsPlanner<'a> {
    image: &'a MetadataImage,
    placer: Placer,
    partitions: usize,
    /// What the partitions planned so far add to the metadata.
    bytes: usize,
}

impl<'a> CreatePartitionsPlanner<'a> {
    /// A planner for one request, told which brokers are alive.
    pub fn new(image: &'a MetadataImage, is_alive: impl Fn(NodeId) -> bool) -> CreatePartitionsPlanner<'a> {
        CreatePartitionsPlanner {
            image,
            placer: Placer::new(image, is_alive),
            partitions: image.partition_count(),
            bytes: 0,
        }
    }

    /// Plans more partitions for one topic. They have as many replicas as its first one.
    ///
    /// # Errors
    ///
    /// `UnknownTopic`, `InternalTopic`, `InvalidPartitions` unless the count grows,
    /// `InvalidReplicaAssignment`, `TooLarge`, and `InvalidReplicationFactor` when too few brokers are registered.
    pub fn plan(&mut self, request: &PartitionsRequest, seed: u64) -> Result<Command, MetadataError> {
        let topic = find_topic(self.image, TopicSelector::Name(&request.name))?;
        refuse_internal(topic, "its number of partitions decides where groups are looked for")?;
        let current = topic.partitions.len();
        let added = usize::try_from(request.count).unwrap_or(0).saturating_sub(current);
        if added == 0 {
            let reason =
                format!("count is {}, but the topic has {current} partitions already", request.count);
            return Err(MetadataError::InvalidPartitions(reason));
        }
        check_room(self.partitions, added)?;
        let partitions = self.place(topic, added, request.assignments.as_deref(), seed)?;
        let bytes = self.bytes + bytes_of(&partitions);
        check_bytes(self.image, bytes)?;
        self.bytes = bytes;
        self.partitions += added;
        self.placer.count(&partitions);
        let current_count = u32::try_from(current).expect("partitions are bounded far below 2^32");
        Ok(Command::CreatePartitions { id: topic.id, current_count, partitions })
    }

    fn place(
        &self,
        topic: &Topic,
        added: usize,
        assignments: Option<&[Vec<NodeId>]>,
        seed: u64,
    ) -> Result<Vec<PartitionSpec>, MetadataError> {
        let replication_factor = topic.partitions[0].wanted_brokers().len();
        match assignments {
            Some(assignments) if assignments.len() != added => Err(MetadataError::InvalidReplicaAssignment(
                format!("there are {added} new partitions, but {} assignments", assignments.len()),
            )),
            Some(assignments) => assignments
                .iter()
                .map(|replicas| manual_spec(replicas, replication_factor, &self.placer))
                .collect(),
            None => {
                let replication_factor = checked_replication_factor(replication_factor as i64, &self.placer)?;
                let existing = topic.partitions.iter().map(Partition::wanted_brokers);
                Ok(self.placer.place(existing, added, replication_factor, seed))
            }
        }
    }
}

/// Plans the deletion of a topic.
///
/// # Errors
///
/// `UnknownTopic`, `UnknownTopicId`, and `InternalTopic`: groups and transactions live there.
pub fn plan_delete_topic(
    image: &MetadataImage,
    selector: TopicSelector<'_>,
) -> Result<Command, MetadataError> {
    let topic = find_topic(image, selector)?;
    refuse_internal(topic, "it cannot be deleted")?;
    Ok(Command::DeleteTopic { id: topic.id })
}

fn find_topic<'a>(image: &'a MetadataImage, selector: TopicSelector<'_>) -> Result<&'a Topic, MetadataError> {
    let topic = match selector {
        TopicSelector::Name(name) => {
            image.topic(name).ok_or_else(|| MetadataError::UnknownTopic(name.to_owned()))
        }
        TopicSelector::Id(id) => image.topic_by_id(id).ok_or(MetadataError::UnknownTopicId(id)),
    };
    Ok(topic?)
}

fn refuse_internal(topic: &Topic, reason: &'static str) -> Result<(), MetadataError> {
    if topic.internal {
        return Err(MetadataError::InternalTopic { name: topic.name.to_string(), reason });
    }
    Ok(())
}

fn check_room(current: usize, added: usize) -> Result<(), MetadataError> {
    if current.saturating_add(added) > PARTITIONS_MAX {
        return Err(MetadataError::InvalidPartitions(format!(
            "{added} more would exceed the cluster's {PARTITIONS_MAX} partitions"
        )));
    }
    Ok(())
}

/// What new partitions take of a snapshot.
pub(crate) fn bytes_of(partitions: &[PartitionSpec]) -> usize {
    partitions.iter().map(|spec| new_partition_bytes(spec.replicas.len())).sum()
}

/// Whether the metadata may grow by so much for topics, partitions and configurations. Asked when a request is planned and once
/// more when it is applied: others may have been planned at the same time.
pub(crate) fn check_bytes(image: &MetadataImage, bytes: usize) -> Result<(), MetadataError> {
    check_growth(image, bytes, METADATA_BYTES_MAX)
}

/// Whether the metadata may grow by so much for replicas that are to be elsewhere.
pub(crate) fn check_moving_bytes(image: &MetadataImage, bytes: usize) -> Result<(), MetadataError> {
    check_growth(image, bytes, METADATA_MOVING_BYTES_MAX)
}

fn check_growth(image: &MetadataImage, bytes: usize, bytes_max: usize) -> Result<(), MetadataError> {
    let is_too_large = bytes > 0 && image.snapshot_bytes() + bytes > bytes_max;
    if is_too_large { Err(MetadataError::TooLarge) } else { Ok(()) }
}

fn checked_replication_factor(replication_factor: i64, placer: &Placer) -> Result<usize, MetadataError> {
    let brokers = placer.broker_count();
    match usize::try_from(replication_factor) {
        Err(_) | Ok(0) => Err(MetadataError::InvalidReplicationFactor(format!(
            "replication_factor is {replication_factor}: it must be positive, or -1"
        ))),
        Ok(replication_factor) if replication_factor > brokers => {
            Err(MetadataError::InvalidReplicationFactor(format!(
                "replication_factor is {replication_factor}, but {brokers} brokers are registered"
            )))
        }
        Ok(replication_factor) => Ok(replication_factor),
    }
}

fn manual_spec(
    replicas: &[NodeId],
    replication_factor: usize,
    placer: &Placer,
) -> Result<PartitionSpec, MetadataError> {
    let invalid = |reason: String| Err(MetadataError::InvalidReplicaAssignment(reason));
    if replicas.is_empty() {
        return invalid("a partition has no replica".to_owned());
    }
    if replicas.len() != replication_factor {
        return invalid(format!(
            "a partition has {} replicas where others have {replication_factor}",
            replicas.len()
        ));
    }
    let mut distinct = BTreeSet::new();
    for node in replicas {
        if !placer.contains(*node) {
            return invalid(format!("broker {node} is not registered"));
        }
        if !distinct.insert(*node) {
            return invalid(format!("broker {node} stands twice in one partition"));
        }
    }
    Ok(PartitionSpec { replicas: replicas.to_vec() })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use types::limits::TOPIC_NAME_CHARS_MAX;

    use super::*;

    fn plan_create_topic(
        image: &MetadataImage,
        request: &TopicRequest,
        seed: u64,
    ) -> Result<Command, MetadataError> {
        CreateTopicPlanner::new(image, |_| true).plan(request, seed)
    }

    fn plan_create_partitions(
        image: &MetadataImage,
        request: &PartitionsRequest,
    ) -> Result<Command, MetadataError> {
        CreatePartitionsPlanner::new(image, |_| true).plan(request, 1)
    }

    use crate::command::{Applied, ConfigResource};
    use crate::plan_configs::{ConfigOperation, ConfigOperationKind, plan_incremental_alter};
    use crate::state::MetadataState;
    use crate::testing::{apply, state_with_racks};

    fn request(name: &str) -> TopicRequest {
        TopicRequest {
            name: name.to_owned(),
            num_partitions: 1,
            replication_factor: 1,
            assignments: Vec::new(),
            configs: Vec::new(),
            internal: false,
        }
    }

    fn manual(assignments: &[(i32, &[i32])]) -> TopicRequest {
        TopicRequest {
            num_partitions: -1,
            replication_factor: -1,
            assignments: assignments
                .iter()
                .map(|(partition, replicas)| ManualAssignment {
                    partition: *partition,
                    replicas: nodes(replicas),
                })
                .collect(),
            ..request("manual")
        }
    }

    fn nodes(ids: &[i32]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn create(state: &mut MetadataState, request: &TopicRequest) {
        let command = plan_create_topic(&state.image(), request, 1).expect("a valid request");
        assert!(matches!(apply(state, command), Applied::TopicCreated { .. }));
    }

    /// Three brokers, and the topics `orders` (3 partitions, 2 replicas), `a.b` and `__consumer_offsets`.
    fn state() -> MetadataState {
        let mut state = state_with_racks(&[3]);
        create(&mut state, &TopicRequest { num_partitions: 3, replication_factor: 2, ..request("orders") });
        create(&mut state, &request("a.b"));
        create(
            &mut state,
            &TopicRequest {
                internal: true,
                configs: vec![("cleanup.policy".to_owned(), Some("compact".to_owned()))],
                ..request("__consumer_offsets")
            },
        );
        state
    }

    /// Partitions with their replicas, or the error with its code.
    fn show(planned: Result<Command, MetadataError>) -> String {
        let partitions = match planned {
            Ok(Command::CreateTopic { partitions, .. } | Command::CreatePartitions { partitions, .. }) => {
                partitions
            }
            Ok(other) => return format!("{other:?}"),
            Err(error) => return format!("{:?}: {error}", error.error_code()),
        };
        let replicas = |spec: &PartitionSpec| {
            spec.replicas.iter().map(|node| node.to_string()).collect::<Vec<_>>().join(",")
        };
        partitions.iter().map(replicas).collect::<Vec<_>>().join(" ")
    }

    fn check(request: TopicRequest, expected: Expect) {
        expected.assert_eq(&show(plan_create_topic(&state().image(), &request, 1)));
    }

    #[test]
    fn metadata_that_could_not_be_sent_whole_do_not_grow() {
        let mut state = state();
        let id = TopicId([9; 16]);
        let room = METADATA_BYTES_MAX - state.image().snapshot_bytes();
        let filler = Command::CreateTopic {
            name: "filler".to_owned(),
            id,
            partitions: vec![PartitionSpec { replicas: nodes(&[1]) }],
            configs: vec![("name".to_owned(), "x".repeat(room - 1_000))],
        };
        assert!(matches!(apply(&mut state, filler), Applied::TopicCreated { .. }));
        let throttled: Vec<String> = (0..300).map(|partition| format!("{partition}:1")).collect();
        let throttle = ConfigOperation {
            name: "leader.replication.throttled.replicas".to_owned(),
            kind: ConfigOperationKind::Set,
            value: Some(throttled.join(",")),
        };
        let orders = ConfigResource::Topic(state.image().topic("orders").expect("it is there").id);
        let plans = |image: &MetadataImage| {
            let wide = TopicRequest { num_partitions: 100, ..request("wide") };
            let more = PartitionsRequest { name: "orders".to_owned(), count: 103, assignments: None };
            let mut planner = CreateTopicPlanner::new(image, |_| true);
            let many = (0..20).map(|number| planner.plan(&request(&format!("many-{number}")), 1));
            [
                plan_create_topic(image, &wide, 1).err(),
                plan_create_partitions(image, &more).err(),
                many.filter_map(Result::err).next(),
                plan_incremental_alter(image, orders, std::slice::from_ref(&throttle)).err(),
            ]
        };
        assert_eq!(plans(&state.image()), [const { Some(MetadataError::TooLarge) }; 4]);
        assert!(plan_create_topic(&state.image(), &request("small"), 1).is_ok());
        assert!(matches!(apply(&mut state, Command::DeleteTopic { id }), Applied::TopicDeleted { .. }));
        assert_eq!(plans(&state.image()), [const { None }; 4]);
    }

    #[test]
    fn names_follow_the_rules_of_kafka() {
        check(request("fine"), expect!["3"]);
        check(request(""), expect![[r#"InvalidTopicException: topic name "" is invalid: it is empty"#]]);
        check(
            request(".."),
            expect![[r#"InvalidTopicException: topic name ".." is invalid: it is '.' or '..'"#]],
        );
        check(
            request("sp ace"),
            expect![[
                r#"InvalidTopicException: topic name "sp ace" is invalid: it has a character other than ASCII letters, digits, '.', '_' and '-'"#
            ]],
        );
        check(request("orders"), expect![[r#"TopicAlreadyExists: topic "orders" already exists"#]]);
        check(
            request("a_b"),
            expect![[
                r#"InvalidTopicException: topic name "a_b" collides with the existing topic "a.b": '.' and '_' are not told apart"#
            ]],
        );
        check(request("a-b"), expect!["3"]);
        check(
            request("__consumer_offsets"),
            expect![[
                r#"InvalidTopicException: topic "__consumer_offsets" is internal: only the broker creates it"#
            ]],
        );
        check(
            request("__transaction_state"),
            expect![[
                r#"InvalidTopicException: topic "__transaction_state" is internal: only the broker creates it"#
            ]],
        );
        check(TopicRequest { internal: true, ..request("__transaction_state") }, expect!["3"]);
        let error = plan_create_topic(&state().image(), &request(&"x".repeat(1 << 20)), 1);
        assert!(error.expect_err("too long").to_string().len() < TOPIC_NAME_CHARS_MAX + 100);
    }

    #[test]
    fn counts_follow_the_rules_of_kafka() {
        let counts = |num_partitions, replication_factor| TopicRequest {
            num_partitions,
            replication_factor,
            ..request("new")
        };
        check(counts(4, 3), expect!["3,1,2 2,3,1 1,2,3 3,1,2"]);
        check(counts(-1, -1), expect!["3"]);
        check(
            counts(0, 1),
            expect![
                "InvalidPartitions: the number of partitions is invalid: num_partitions is 0: it must be positive, or -1"
            ],
        );
        check(
            counts(-2, 1),
            expect![
                "InvalidPartitions: the number of partitions is invalid: num_partitions is -2: it must be positive, or -1"
            ],
        );
        check(
            counts(1, 0),
            expect![
                "InvalidReplicationFactor: the replication factor is invalid: replication_factor is 0: it must be positive, or -1"
            ],
        );
        check(
            counts(1, -2),
            expect![
                "InvalidReplicationFactor: the replication factor is invalid: replication_factor is -2: it must be positive, or -1"
            ],
        );
        check(
            counts(1, 4),
            expect![
                "InvalidReplicationFactor: the replication factor is invalid: replication_factor is 4, but 3 brokers are registered"
            ],
        );
        check(
            counts(200_000, 1),
            expect![
                "InvalidPartitions: the number of partitions is invalid: 200000 more would exceed the cluster's 200000 partitions"
            ],
        );
        check(
            counts(i32::MAX, i16::MAX),
            expect![
                "InvalidPartitions: the number of partitions is invalid: 2147483647 more would exceed the cluster's 200000 partitions"
            ],
        );
    }

    #[test]
    fn without_a_broker_nothing_is_created() {
        let image = MetadataState::default().image();
        expect!["InvalidReplicationFactor: the replication factor is invalid: replication_factor is 1, but 0 brokers are registered"].assert_eq(&show(plan_create_topic(&image, &request("t"), 1)));
    }

    #[test]
    fn defaults_come_from_the_cluster() {
        let mut state = state();
        let set = [("num.partitions", "2"), ("default.replication.factor", "3")]
            .map(|(name, value)| (name.to_owned(), Some(value.to_owned())))
            .to_vec();
        apply(&mut state, Command::AlterConfigs { resource: ConfigResource::BrokerDefault, set });
        let request = TopicRequest { num_partitions: -1, replication_factor: -1, ..request("new") };
        expect!["3,1,2 2,3,1"].assert_eq(&show(plan_create_topic(&state.image(), &request, 1)));
    }

    #[test]
    fn manual_assignments_follow_the_rules_of_kafka() {
        check(manual(&[(1, &[2, 3]), (0, &[1, 2])]), expect!["1,2 2,3"]);
        check(
            manual(&[(1, &[1])]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: assignments must name each partition from 0 on exactly once"
            ],
        );
        check(
            manual(&[(0, &[1]), (0, &[2])]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: assignments must name each partition from 0 on exactly once"
            ],
        );
        check(
            manual(&[(-1, &[1])]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: assignments must name each partition from 0 on exactly once"
            ],
        );
        check(
            manual(&[(0, &[])]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: a partition has no replica"
            ],
        );
        check(
            manual(&[(0, &[1, 1])]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: broker 1 stands twice in one partition"
            ],
        );
        check(
            manual(&[(0, &[1, 9])]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: broker 9 is not registered"
            ],
        );
        check(
            manual(&[(0, &[-1])]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: broker -1 is not registered"
            ],
        );
        check(
            manual(&[(0, &[1]), (1, &[1, 2])]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: a partition has 2 replicas where others have 1"
            ],
        );
        check(
            TopicRequest { num_partitions: 1, ..manual(&[(0, &[1])]) },
            expect![
                "InvalidRequest: the request is invalid: with assignments, num_partitions and replication_factor must both be -1"
            ],
        );
        check(
            TopicRequest { replication_factor: 1, ..manual(&[(0, &[1])]) },
            expect![
                "InvalidRequest: the request is invalid: with assignments, num_partitions and replication_factor must both be -1"
            ],
        );
    }

    #[test]
    fn configurations_are_checked() {
        let with = |configs: &[(&str, Option<&str>)]| TopicRequest {
            configs: configs
                .iter()
                .map(|(name, value)| (name.to_string(), value.map(str::to_owned)))
                .collect(),
            ..request("new")
        };
        check(with(&[("retention.ms", Some("1000")), ("segment.bytes", Some("52428800"))]), expect!["3"]);
        check(
            with(&[("retention.ms", None)]),
            expect!["InvalidRequest: the request is invalid: configuration retention.ms has no value"],
        );
        check(
            with(&[("retention.ms", Some("1")), ("retention.ms", Some("2"))]),
            expect!["InvalidRequest: the request is invalid: configuration retention.ms stands there twice"],
        );
        check(
            with(&[("cleanup.policy", Some("compact"))]),
            expect![[
                r#"InvalidConfig: configuration cleanup.policy: "compact" is not supported: the broker does not compact the logs of clients' topics; it accepts only "delete""#
            ]],
        );
        check(
            with(&[("log.retention.ms", Some("1"))]),
            expect![
                "InvalidConfig: configuration log.retention.ms: it is a broker configuration; that of a topic is retention.ms"
            ],
        );
        check(
            with(&[("no.such.thing", Some("1"))]),
            expect!["InvalidConfig: configuration no.such.thing: there is no such topic configuration"],
        );
        check(
            with(&[("min.compaction.lag.ms", Some("9")), ("max.compaction.lag.ms", Some("5"))]),
            expect![
                "InvalidConfig: configuration min.compaction.lag.ms: 9 is greater than max.compaction.lag.ms, 5"
            ],
        );
    }

    #[test]
    fn the_topics_of_one_request_are_planned_together() {
        let image = state().image();
        let mut planner = CreateTopicPlanner::new(&image, |_| true);
        let mut plan = |request: TopicRequest, expected: Expect| {
            expected.assert_eq(&show(planner.plan(&request, 1)));
        };
        plan(request("x.y"), expect!["3"]);
        plan(request("x.y"), expect![[r#"TopicAlreadyExists: topic "x.y" already exists"#]]);
        plan(
            request("x_y"),
            expect![[
                r#"InvalidTopicException: topic name "x_y" collides with the existing topic "x.y": '.' and '_' are not told apart"#
            ]],
        );
        plan(
            TopicRequest { num_partitions: 150_000, replication_factor: 9, ..request("refused") },
            expect![
                "InvalidReplicationFactor: the replication factor is invalid: replication_factor is 9, but 3 brokers are registered"
            ],
        );
        let half = TopicRequest { num_partitions: 100_001, ..request("half") };
        assert!(planner.plan(&half, 1).is_ok());
        let mut plan = |request: TopicRequest, expected: Expect| {
            expected.assert_eq(&show(planner.plan(&request, 1)));
        };
        plan(
            TopicRequest { name: "other-half".to_owned(), ..half },
            expect![
                "InvalidPartitions: the number of partitions is invalid: 100001 more would exceed the cluster's 200000 partitions"
            ],
        );
    }

    #[test]
    fn topics_of_one_request_do_not_all_go_to_the_same_broker() {
        let image = state_with_racks(&[4]).image();
        let mut planner = CreateTopicPlanner::new(&image, |_| true);
        let mut leaders = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for topic in 0..4 {
            let planned = planner.plan(&request(&format!("topic-{topic}")), 7).expect("a valid request");
            let Command::CreateTopic { partitions, id, .. } = planned else { panic!("another command") };
            leaders.insert(partitions[0].replicas[0]);
            ids.insert(id);
        }
        assert_eq!((leaders.len(), ids.len()), (4, 4));
    }

    #[test]
    fn ids_in_use_are_not_given_again() {
        let mut state = state();
        let first = plan_create_topic(&state.image(), &request("new"), 3).expect("a valid request");
        let Command::CreateTopic { id, .. } = &first else { panic!("another command") };
        let taken = Command::CreateTopic {
            name: "other".to_owned(),
            id: *id,
            partitions: vec![PartitionSpec { replicas: nodes(&[1]) }],
            configs: Vec::new(),
        };
        apply(&mut state, taken);
        let second = plan_create_topic(&state.image(), &request("new"), 3).expect("a valid request");
        assert_ne!(first, second);
        assert!(matches!(apply(&mut state, second), Applied::TopicCreated { .. }));
    }

    #[test]
    fn partitions_are_added() {
        let image = state().image();
        let check = |name: &str, count: i32, assignments: Option<&[&[i32]]>, expected: Expect| {
            let assignments = assignments.map(|lists| lists.iter().map(|list| nodes(list)).collect());
            let request = PartitionsRequest { name: name.to_owned(), count, assignments };
            expected.assert_eq(&show(plan_create_partitions(&image, &request)));
        };
        check("orders", 6, None, expect!["3,1 2,3 1,2"]);
        check("orders", 4, Some(&[&[3, 1]]), expect!["3,1"]);
        check(
            "orders",
            3,
            None,
            expect![
                "InvalidPartitions: the number of partitions is invalid: count is 3, but the topic has 3 partitions already"
            ],
        );
        check(
            "orders",
            2,
            None,
            expect![
                "InvalidPartitions: the number of partitions is invalid: count is 2, but the topic has 3 partitions already"
            ],
        );
        check(
            "orders",
            -1,
            None,
            expect![
                "InvalidPartitions: the number of partitions is invalid: count is -1, but the topic has 3 partitions already"
            ],
        );
        check(
            "orders",
            i32::MAX,
            None,
            expect![
                "InvalidPartitions: the number of partitions is invalid: 2147483644 more would exceed the cluster's 200000 partitions"
            ],
        );
        check(
            "orders",
            5,
            Some(&[&[3, 1]]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: there are 2 new partitions, but 1 assignments"
            ],
        );
        check(
            "orders",
            4,
            Some(&[&[3]]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: a partition has 1 replicas where others have 2"
            ],
        );
        check(
            "orders",
            4,
            Some(&[&[3, 3]]),
            expect![
                "InvalidReplicaAssignment: the replica assignment is invalid: broker 3 stands twice in one partition"
            ],
        );
        check("missing", 4, None, expect![[r#"UnknownTopicOrPartition: topic "missing" does not exist"#]]);
        check(
            "__consumer_offsets",
            4,
            None,
            expect![[
                r#"InvalidTopicException: topic "__consumer_offsets" is internal: its number of partitions decides where groups are looked for"#
            ]],
        );
    }

    #[test]
    fn the_partitions_of_one_request_are_planned_together() {
        let image = state().image();
        let mut planner = CreatePartitionsPlanner::new(&image, |_| true);
        let mut plan = |name: &str, count| {
            let request = PartitionsRequest { name: name.to_owned(), count, assignments: None };
            planner.plan(&request, 1)
        };
        assert!(plan("orders", 150_000).is_ok());
        expect![
            "InvalidPartitions: the number of partitions is invalid: 50000 more would exceed the cluster's 200000 partitions"
        ]
        .assert_eq(&show(plan("a.b", 50_001)));
        assert!(plan("a.b", 49_000).is_ok(), "what is refused takes no room");

        // The bound of bytes adds up as well.
        let mut state = state_with_racks(&[12]);
        for name in ["first", "second"] {
            create(&mut state, &TopicRequest { replication_factor: 12, ..request(name) });
        }
        let image = state.image();
        let mut planner = CreatePartitionsPlanner::new(&image, |_| true);
        let mut plan = |name: &str| {
            let request = PartitionsRequest { name: name.to_owned(), count: 60_000, assignments: None };
            planner.plan(&request, 1).err()
        };
        assert_eq!([plan("first"), plan("second")], [None, Some(MetadataError::TooLarge)]);
    }

    #[test]
    fn topics_are_deleted_by_name_or_id() {
        let image = state().image();
        let id = image.topic("orders").expect("a topic").id;
        for selector in [TopicSelector::Name("orders"), TopicSelector::Id(id)] {
            assert_eq!(plan_delete_topic(&image, selector), Ok(Command::DeleteTopic { id }));
        }
        let check = |selector: TopicSelector<'_>, expected: Expect| {
            expected.assert_eq(&show(plan_delete_topic(&image, selector)));
        };
        check(
            TopicSelector::Name("missing"),
            expect![[r#"UnknownTopicOrPartition: topic "missing" does not exist"#]],
        );
        check(
            TopicSelector::Id(TopicId::ZERO),
            expect!["UnknownTopicId: topic id AAAAAAAAAAAAAAAAAAAAAA does not exist"],
        );
        check(
            TopicSelector::Name("__consumer_offsets"),
            expect![[
                r#"InvalidTopicException: topic "__consumer_offsets" is internal: it cannot be deleted"#
            ]],
        );
    }
}
