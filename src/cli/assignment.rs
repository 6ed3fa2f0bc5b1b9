//! How the members of a consumer group share a topic, and how that is written down.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use protocol::messages::consumer_protocol_assignment::{ConsumerProtocolAssignmentData, TopicPartition};
use protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscriptionData;
use protocol::messages::kafka_string;

/// The one way of sharing that every classic consumer knows.
pub const PROTOCOL: &str = "range";

/// The version of both structures that is written. Readers take what they know of newer ones.
const VERSION: i16 = 0;

/// A member's wish for a topic, as it stands in JoinGroup.
pub fn encode_subscription(topic: &str) -> Bytes {
    let data = ConsumerProtocolSubscriptionData {
        topics: vec![kafka_string(topic)],
        ..ConsumerProtocolSubscriptionData::default()
    };
    let mut bytes = begin();
    data.write(&mut bytes, VERSION).expect("a topic's name fits a string");
    bytes.freeze()
}

/// The topics that a member wants; `None` when they cannot be read.
pub fn decode_subscription(mut bytes: Bytes) -> Option<Vec<String>> {
    let version = bytes.try_get_i16().ok()?;
    let data = ConsumerProtocolSubscriptionData::read(&mut bytes, version.clamp(0, 3)).ok()?;
    Some(data.topics.iter().map(|topic| topic.as_str().to_owned()).collect())
}

/// A member's share, as it stands in SyncGroup.
pub fn encode_assignment(share: &BTreeMap<String, Vec<i32>>) -> Bytes {
    let assigned_partitions = share
        .iter()
        .map(|(topic, partitions)| TopicPartition {
            topic: kafka_string(topic),
            partitions: partitions.clone(),
            ..TopicPartition::default()
        })
        .collect();
    let data =
        ConsumerProtocolAssignmentData { assigned_partitions, ..ConsumerProtocolAssignmentData::default() };
    let mut bytes = begin();
    data.write(&mut bytes, VERSION).expect("a topic's name fits a string");
    bytes.freeze()
}

/// The partitions of one topic in a share; `None` when it cannot be read. An empty share is no share.
pub fn decode_assignment(mut bytes: Bytes, topic: &str) -> Option<Vec<i32>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let version = bytes.try_get_i16().ok()?;
    let data = ConsumerProtocolAssignmentData::read(&mut bytes, version.clamp(0, 3)).ok()?;
    let own = data.assigned_partitions.into_iter().filter(|assigned| assigned.topic.as_str() == topic);
    Some(own.flat_map(|assigned| assigned.partitions).collect())
}

fn begin() -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_i16(VERSION);
    bytes
}

/// Gives each topic's partitions in ranges to the members that want it, by member id; the first ones get one more
/// where they do not divide evenly (Kafka's range assignor).
pub fn assign_ranges(
    wishes: &BTreeMap<String, Vec<String>>,
    partition_counts: &BTreeMap<String, i32>,
) -> BTreeMap<String, BTreeMap<String, Vec<i32>>> {
    let mut shares: BTreeMap<String, BTreeMap<String, Vec<i32>>> =
        wishes.keys().map(|member| (member.clone(), BTreeMap::new())).collect();
    for (topic, &count) in partition_counts {
        let members: Vec<&String> =
            wishes.iter().filter(|(_, topics)| topics.contains(topic)).map(|(member, _)| member).collect();
        let Ok(member_count) = i32::try_from(members.len()) else { continue };
        let mut next = 0;
        for (place, member) in (0..).zip(members) {
            let size = count / member_count + i32::from(place < count % member_count);
            if size > 0 {
                let share = shares.get_mut(member).expect("every member has a share");
                share.insert(topic.clone(), (next..next + size).collect());
            }
            next += size;
        }
        assert!(next == count || member_count == 0, "every partition is given to one member");
    }
    shares
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn wishes(members: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        let topics = |topics: &[&str]| topics.iter().map(|topic| (*topic).to_owned()).collect();
        members.iter().map(|(member, wanted)| ((*member).to_owned(), topics(wanted))).collect()
    }

    #[test]
    fn ranges_cover_every_partition_once() {
        let counts = BTreeMap::from([("a".to_owned(), 5), ("b".to_owned(), 1), ("nobody's".to_owned(), 3)]);
        let wishes = wishes(&[("m1", &["a", "b"]), ("m2", &["a", "b"]), ("m3", &["b"]), ("m4", &[])]);
        let shares = assign_ranges(&wishes, &counts);
        let lines: String = shares.iter().map(|(member, share)| format!("{member} {share:?}\n")).collect();
        expect![[r#"
            m1 {"a": [0, 1, 2], "b": [0]}
            m2 {"a": [3, 4]}
            m3 {}
            m4 {}
        "#]]
        .assert_eq(&lines);
    }

    #[test]
    fn what_is_written_is_read() {
        let subscription = encode_subscription("orders");
        expect![[r#"b"\0\0\0\0\0\x01\0\x06orders\xff\xff\xff\xff""#]].assert_eq(&format!("{subscription:?}"));
        assert_eq!(decode_subscription(subscription), Some(vec!["orders".to_owned()]));
        let share = BTreeMap::from([("a".to_owned(), vec![0, 2]), ("b".to_owned(), vec![1])]);
        let assignment = encode_assignment(&share);
        assert_eq!(decode_assignment(assignment.clone(), "a"), Some(vec![0, 2]));
        assert_eq!(decode_assignment(assignment.clone(), "c"), Some(vec![]));
        assert_eq!(decode_assignment(assignment.slice(..5), "a"), None);
        assert_eq!(decode_assignment(Bytes::new(), "a"), Some(vec![]));
    }
}
