//! The committed offsets, as the log has them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::records::{OffsetKey, OffsetValue};

/// Offsets of one group, by topic and partition.
pub(crate) type GroupOffsets = BTreeMap<Arc<str>, BTreeMap<i32, OffsetValue>>;

/// Committed offsets by group. No group and no topic is kept without one.
#[derive(Debug, Default)]
pub(crate) struct OffsetStore {
    groups: BTreeMap<Arc<str>, GroupOffsets>,
    len: usize,
}

impl OffsetStore {
    pub fn put(&mut self, key: OffsetKey, value: OffsetValue) {
        let partitions = self.groups.entry(key.group).or_default().entry(key.topic).or_default();
        if partitions.insert(key.partition, value).is_none() {
            self.len += 1;
        }
    }

    pub fn remove(&mut self, key: &OffsetKey) {
        let Some(topics) = self.groups.get_mut(&key.group) else { return };
        let Some(partitions) = topics.get_mut(&key.topic) else { return };
        if partitions.remove(&key.partition).is_none() {
            return;
        }
        self.len -= 1;
        if partitions.is_empty() {
            topics.remove(&key.topic);
        }
        if topics.is_empty() {
            self.groups.remove(&key.group);
        }
    }

    pub fn get(&self, group: &str, topic: &str, partition: i32) -> Option<&OffsetValue> {
        self.groups.get(group)?.get(topic)?.get(&partition)
    }

    pub fn group(&self, group: &str) -> Option<&GroupOffsets> {
        self.groups.get(group)
    }

    pub fn groups(&self) -> &BTreeMap<Arc<str>, GroupOffsets> {
        &self.groups
    }

    /// The names of a group's offsets.
    pub fn group_keys(&self, group: &Arc<str>) -> impl Iterator<Item = OffsetKey> {
        self.groups.get(group).into_iter().flatten().flat_map(move |(topic, partitions)| {
            partitions.keys().map(move |partition| OffsetKey {
                group: group.clone(),
                topic: topic.clone(),
                partition: *partition,
            })
        })
    }

    /// The names of the offsets of some topics, over all groups.
    pub fn topics_keys(&self, topics: &BTreeSet<Arc<str>>) -> impl Iterator<Item = OffsetKey> {
        self.groups.iter().flat_map(move |(group, stored)| {
            in_both(stored, topics).into_iter().flat_map(move |(topic, partitions)| {
                partitions.keys().map(move |partition| OffsetKey {
                    group: group.clone(),
                    topic: topic.clone(),
                    partition: *partition,
                })
            })
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

/// The topics of a group that are among `topics`, in the time that the fewer of both take: there may be many deleted topics
/// of which a group has none, and many topics of a group of which one is deleted.
fn in_both<'a>(
    stored: &'a GroupOffsets,
    topics: &BTreeSet<Arc<str>>,
) -> Vec<(&'a Arc<str>, &'a BTreeMap<i32, OffsetValue>)> {
    if stored.len() < topics.len() {
        stored.iter().filter(|(topic, _)| topics.contains(*topic)).collect()
    } else {
        topics.iter().filter_map(|topic| stored.get_key_value(topic)).collect()
    }
}
