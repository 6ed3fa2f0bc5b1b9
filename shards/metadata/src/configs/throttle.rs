//! What an administrator throttles while replicas move (KIP-73).

use std::collections::BTreeSet;

use types::{NodeId, PartitionIndex};

use super::broker::{FOLLOWER_THROTTLED_RATE, LEADER_THROTTLED_RATE};
use super::{broker_config, resolve};
use crate::image::MetadataImage;

/// Replicas of one topic, as `leader.replication.throttled.replicas` and its counterpart of followers name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThrottledReplicas {
    /// Every replica of every partition.
    All,
    /// These.
    Listed(BTreeSet<(PartitionIndex, NodeId)>),
}

impl ThrottledReplicas {
    /// Reads `*`, nothing, or `partition:broker` once or several times with commas between; `None` for anything else.
    pub fn parse(value: &str) -> Option<ThrottledReplicas> {
        match value {
            "*" => Some(ThrottledReplicas::All),
            "" => Some(ThrottledReplicas::Listed(BTreeSet::new())),
            list => list.split(',').map(replica).collect::<Option<_>>().map(ThrottledReplicas::Listed),
        }
    }

    /// Whether the replica of a partition on a node is one of them.
    pub fn contains(&self, partition: PartitionIndex, node: NodeId) -> bool {
        match self {
            ThrottledReplicas::All => true,
            ThrottledReplicas::Listed(replicas) => replicas.contains(&(partition, node)),
        }
    }
}

fn replica(text: &str) -> Option<(PartitionIndex, NodeId)> {
    // Rust reads a sign, which Kafka does not.
    let number = |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|c| c.is_ascii_digit()));
    let (partition, node) = text.split_once(':')?;
    Some((PartitionIndex(number(partition)?), NodeId(number(node)?)))
}

/// What a broker moves of replicas that are throttled, in bytes per second; `None` for no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicationRates {
    /// Sent to others that pull [`leader.replication.throttled.rate`].
    pub leader: Option<u64>,
    /// Pulled [`follower.replication.throttled.rate`].
    pub follower: Option<u64>,
}

impl ReplicationRates {
    /// Those of this node: static settings are known of no other.
    pub(crate) fn resolve(image: &MetadataImage, node: NodeId) -> ReplicationRates {
        let rate = |name| {
            let definition = broker_config(name).expect("a name of the catalogue");
            let layers =
                resolve::broker_layers(definition, image.broker_configs(node), image.broker_layers());
            let rate = layers[0].effective.parse::<i64>().expect("an integer that was read as one");
            u64::try_from(rate).ok().filter(|_| rate < i64::MAX)
        };
        ReplicationRates { leader: rate(LEADER_THROTTLED_RATE), follower: rate(FOLLOWER_THROTTLED_RATE) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::{Command, ConfigResource};
    use crate::testing::{apply, state_with_racks};

    fn listed(replicas: &[(i32, i32)]) -> Option<ThrottledReplicas> {
        let replicas = replicas.iter().map(|(partition, node)| (PartitionIndex(*partition), NodeId(*node)));
        Some(ThrottledReplicas::Listed(replicas.collect()))
    }

    #[test]
    fn lists_are_read_as_kafka_writes_them() {
        assert_eq!(ThrottledReplicas::parse("*"), Some(ThrottledReplicas::All));
        assert_eq!(ThrottledReplicas::parse(""), listed(&[]));
        assert_eq!(ThrottledReplicas::parse("0:1,10:2147483647"), listed(&[(0, 1), (10, i32::MAX)]));
        for wrong in
            ["**", "*,0:1", "0:1,*", "0", "0:", ":1", "0:1,", ",", "0:1:2", "-1:1", "+1:1", "0:2147483648"]
        {
            assert_eq!(ThrottledReplicas::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_listed_is_contained_and_nothing_else(
            replicas in prop::collection::btree_set((0..i32::MAX, 0..i32::MAX), 0..20),
            other in (0..i32::MAX, 0..i32::MAX),
        ) {
            let text: Vec<String> = replicas.iter().map(|(partition, node)| format!("{partition}:{node}")).collect();
            let parsed = ThrottledReplicas::parse(&text.join(",")).expect("it is a list");
            let contains = |(partition, node)| parsed.contains(PartitionIndex(partition), NodeId(node));
            prop_assert!(replicas.iter().all(|replica| contains(*replica)));
            prop_assert_eq!(contains(other), replicas.contains(&other));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9:,*+ -]{0,12}") {
            if let Some(ThrottledReplicas::Listed(replicas)) = ThrottledReplicas::parse(&text) {
                prop_assert!(replicas.iter().all(|(partition, node)| partition.0 >= 0 && node.0 >= 0));
            }
        }
    }

    #[test]
    fn a_brokers_own_rate_beats_that_of_all() {
        let mut state = state_with_racks(&[2]);
        let none = ReplicationRates { leader: None, follower: None };
        assert_eq!(state.image().replication_rates(NodeId(1)), none);
        for (resource, name, value) in [
            (ConfigResource::BrokerDefault, LEADER_THROTTLED_RATE, "1000"),
            (ConfigResource::Broker(NodeId(1)), LEADER_THROTTLED_RATE, "0"),
            (ConfigResource::Broker(NodeId(1)), FOLLOWER_THROTTLED_RATE, "9223372036854775807"),
        ] {
            let set = vec![(name.to_owned(), Some(value.to_owned()))];
            apply(&mut state, Command::AlterConfigs { resource, set });
        }
        let image = state.image();
        assert_eq!(image.replication_rates(NodeId(1)), ReplicationRates { leader: Some(0), ..none });
        assert_eq!(image.replication_rates(NodeId(2)), ReplicationRates { leader: Some(1000), ..none });
    }
}
