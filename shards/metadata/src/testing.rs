//! What the tests of several modules share.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use types::{DirectoryId, GroupId, NodeId, PartitionIndex, TopicId};

use crate::command::{Applied, Command, ConfigResource, Endpoint, PartitionSpec, Reassignment};
use crate::image::{BrokerLoad, MetadataImage};
use crate::state::MetadataState;

pub(crate) fn endpoint(host: &str, port: u16) -> Endpoint {
    Endpoint { listener: "PLAINTEXT".to_owned(), host: host.to_owned(), port }
}

/// Applies a command at the next index.
pub(crate) fn apply(state: &mut MetadataState, command: Command) -> Applied {
    state.apply(state.applied().next(), command)
}

pub(crate) fn state_after(commands: &[Command]) -> MetadataState {
    let mut state = MetadataState::default();
    for command in commands {
        apply(&mut state, command.clone());
    }
    state
}

/// Brokers from 1 on, so many per rack; a single rack has no name.
pub(crate) fn state_with_racks(rack_sizes: &[usize]) -> MetadataState {
    let mut state = MetadataState::default();
    let racks = (0..).zip(rack_sizes).flat_map(|(rack, size)| std::iter::repeat_n(rack, *size));
    for (node, rack) in (1..).zip(racks) {
        let command = Command::RegisterBroker {
            node: NodeId(node),
            rack: (rack_sizes.len() > 1).then(|| format!("rack-{rack}")),
            endpoints: vec![endpoint("localhost", 9092)],
            incarnation: 1,
            directory_id: None,
            peer: None,
        };
        assert_eq!(apply(&mut state, command), Applied::BrokerRegistered);
    }
    state
}

pub(crate) fn image_with_racks(rack_sizes: &[usize]) -> MetadataImage {
    (*state_with_racks(rack_sizes).image()).clone()
}

/// Commands over few names, ids and brokers, so that sequences of them conflict.
pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    let node = || (0i32..5).prop_map(NodeId);
    let id = || (0u8..6).prop_map(|byte| TopicId([byte; 16]));
    let specs = || prop::collection::vec(any_spec(), 1..4);
    let name = prop::sample::select(vec!["a", "a.b", "a_b", "c", "__consumer_offsets"]);
    let resource = prop_oneof![
        id().prop_map(ConfigResource::Topic),
        node().prop_map(ConfigResource::Broker),
        Just(ConfigResource::BrokerDefault),
    ];
    prop_oneof![
        1 => ("[xy]", prop::collection::btree_set(node(), 0..3)).prop_map(|(cluster_id, voters)| {
            Command::SetClusterId { cluster_id, voters: voters.into_iter().collect() }
        }),
        2 => (node(), prop::option::of("[rs]"), 1u16..3, 0u64..3, directory()).prop_map(
            |(node, rack, port, incarnation, directory_id)| {
                let endpoints = vec![endpoint("host", port)];
                let peer = (port == 1).then(|| endpoint("peer", port));
                Command::RegisterBroker { node, rack, endpoints, incarnation, directory_id, peer }
            }
        ),
        1 => node().prop_map(|node| Command::UnregisterBroker { node }),
        6 => (name, id(), specs(), configs()).prop_map(|(name, id, partitions, configs)| {
            Command::CreateTopic { name: name.to_owned(), id, partitions, configs }
        }),
        2 => id().prop_map(|id| Command::DeleteTopic { id }),
        3 => (id(), 0u32..5, specs()).prop_map(|(id, current_count, partitions)| {
            Command::CreatePartitions { id, current_count, partitions }
        }),
        3 => (resource, changes()).prop_map(|(resource, set)| Command::AlterConfigs { resource, set }),
        1 => (node(), 0u32..2000).prop_map(|(node, count)| Command::AllocateProducerIds { node, count }),
        4 => prop::collection::vec((1u64..8, prop::option::of(any_spec())), 1..4).prop_map(|partitions| {
            let decided = |(group, spec): (u64, Option<PartitionSpec>)| Reassignment {
                group: GroupId(group),
                replicas: spec.map(|spec| spec.replicas),
            };
            Command::Reassign { partitions: partitions.into_iter().map(decided).collect() }
        }),
        3 => prop::collection::vec((1u64..8, 1u32..4), 1..4).prop_map(|moves| Command::CompleteMoves {
            moves: moves.into_iter().map(|(group, decision)| (GroupId(group), decision)).collect(),
        }),
        1 => Just(Command::FinishRebalance),
        2 => node().prop_map(|node| Command::AddVoter { node, peer: endpoint("peer", 2) }),
        1 => node().prop_map(|node| Command::RemoveVoter { node }),
    ]
}

fn directory() -> impl Strategy<Value = Option<DirectoryId>> {
    prop::option::of((0u8..2).prop_map(|byte| DirectoryId([byte; 16])))
}

fn any_spec() -> impl Strategy<Value = PartitionSpec> {
    prop::sample::subsequence(vec![0, 1, 2, 3], 1..=3)
        .prop_shuffle()
        .prop_map(|nodes| PartitionSpec { replicas: nodes.into_iter().map(NodeId).collect() })
}

fn config_name() -> impl Strategy<Value = String> {
    let names = ["retention.ms", "log.retention.ms", "num.partitions", "cleanup.policy", "from.the.future"];
    prop::sample::select(names.map(str::to_owned).to_vec())
}

fn config_value() -> impl Strategy<Value = String> {
    prop_oneof![(0u32..5).prop_map(|number| number.to_string()), Just("compact".to_owned())]
}

fn configs() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::btree_map(config_name(), config_value(), 0..3)
        .prop_map(|configs| configs.into_iter().collect())
}

fn changes() -> impl Strategy<Value = Vec<(String, Option<String>)>> {
    prop::collection::btree_map(config_name(), prop::option::of(config_value()), 0..3)
        .prop_map(|configs| configs.into_iter().collect())
}

/// Asserts that the indexes of an image say what its topics say.
pub(crate) fn check_image(image: &MetadataImage) {
    let mut groups = BTreeSet::new();
    let mut loads: BTreeMap<NodeId, BrokerLoad> = BTreeMap::new();
    let mut previous: Option<&str> = None;
    for topic in image.topics() {
        assert!(previous.is_none_or(|previous| previous < &*topic.name), "topics are sorted");
        previous = Some(&topic.name);
        assert_eq!(image.topic(&topic.name), Some(topic));
        assert_eq!(image.topic_by_id(topic.id), Some(topic));
        assert_eq!(topic.internal, topic.name.starts_with("__"));
        for (index, partition) in (0..).zip(&topic.partitions) {
            assert!(partition.group != GroupId::METADATA && groups.insert(partition.group));
            let place = Some((topic.clone(), PartitionIndex(index)));
            assert_eq!(image.partition_of_group(partition.group), place);
            assert_eq!(topic.partition(PartitionIndex(index)), Some(partition));
            for (order, node) in partition.brokers().into_iter().enumerate() {
                assert!(partition.replica_on(node).is_some(), "{partition:?}");
                let load = loads.entry(node).or_default();
                load.replicas += 1;
                load.leaders += u32::from(order == 0);
            }
        }
    }
    assert_eq!(image.partition_count(), groups.len());
    assert_eq!(image.topic_count(), image.topics().count());
    for node in (0..10).map(NodeId) {
        assert_eq!(image.load(node), loads.get(&node).copied().unwrap_or_default(), "{node:?}");
    }
}
