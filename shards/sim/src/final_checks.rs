//! What must hold of a cluster that has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use protocol::batch;
use protocol::messages::kafka_uuid;
use shard::{GroupStatus, PartitionBounds};
use types::{GroupId, Offset};

use crate::disk::GroupFolder;
use crate::faults::NODE_STARTS_US_MAX;
use crate::model::{Life, TopicModel};
use crate::process::node_id;
use crate::world::World;

/// How long a quiet cluster may take to remove what is not needed and to write the rest to segments, in microseconds: batches wait
/// for company, segments that end early go to the disk one after the other, and the clock may have been set back.
const SETTLE_US_MAX: u64 = 900_000_000;

/// How often it is looked whether it has, in microseconds.
const SETTLE_STEP_US: u64 = 4_000_000;

/// How long a cluster of several nodes may take until every partition has a leader that serves, once a majority of its
/// replicas is healed, in microseconds: many times what an election takes.
const ELECTIONS_US_MAX: u64 = 15_000_000;

impl World {
    /// Lets elections happen, and checks that every group has a leader that all its replicas follow.
    pub fn check_leaders(&mut self) {
        if self.nodes.len() == 1 {
            return;
        }
        // Nodes that are on their way up are among those that must agree.
        self.run_for_us(NODE_STARTS_US_MAX);
        let begun_us = self.now_us;
        while self.leaderless().is_some() {
            // A leader may need an acknowledgement of a replica that pulls first what it lacks, from slow disks.
            let may_take_us = if self.is_any_catching_up() { SETTLE_US_MAX } else { ELECTIONS_US_MAX };
            if self.now_us >= begun_us + may_take_us {
                break;
            }
            self.run_for_us(ELECTIONS_US_MAX / 50);
        }
        if let Some(why) = self.leaderless() {
            panic!("{why}");
        }
        self.coverage.mark("leaders judged");
    }

    /// What has no leader, or is not known to the node that knows most.
    fn leaderless(&self) -> Option<String> {
        let images = self.running().map(|node| {
            let process = self.nodes[node].process.as_ref().expect("it runs");
            process.lanes[0].shard.image().clone()
        });
        let Some(newest) = images.max_by_key(|image| image.epoch()) else {
            return Some("no node runs".to_owned());
        };
        for topic in newest.topics() {
            for partition in &topic.partitions {
                let replicas = self.replicas(partition.group);
                if !replicas.values().any(|status| status.role.serving) {
                    return Some(format!(
                        "group {} of {} on {:?} has no leader long after the faults: {replicas:?}",
                        partition.group, topic.name, partition.replicas
                    ));
                }
            }
        }
        let metadata = self.replicas(GroupId::METADATA);
        if metadata.values().filter(|status| status.role.serving).count() != 1 {
            return Some(format!("the metadata group has no leader long after the faults: {metadata:?}"));
        }
        for topic in self.model.topics.iter().filter(|topic| topic.life == Life::Live) {
            let found = newest.topic(&topic.name);
            if found.is_none_or(|found| Some(found.id) != topic.id) {
                return Some(format!("topic {} was acknowledged and is lost", topic.name));
            }
        }
        None
    }

    fn is_any_catching_up(&self) -> bool {
        self.running().any(|node| {
            let process = self.nodes[node].process.as_ref().expect("it runs");
            process.lanes.iter().flat_map(|lane| lane.shard.groups()).any(|status| status.is_catching_up)
        })
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].process.is_some())
    }

    pub(crate) fn leads_metadata(&self, node: usize) -> bool {
        let status = self.status(node, GroupId::METADATA);
        status.is_some_and(|status| status.role.serving)
    }

    fn status(&self, node: usize, group: GroupId) -> Option<GroupStatus> {
        let process = self.nodes[node].process.as_ref()?;
        let lane = &process.lanes[usize::from(process.layout.shard_of(group).0)];
        lane.shard.groups().find(|status| status.group == group)
    }

    /// The replicas of a group that run, by node.
    fn replicas(&self, group: GroupId) -> BTreeMap<usize, GroupStatus> {
        self.running().filter_map(|node| self.status(node, group).map(|status| (node, status))).collect()
    }

    /// Checks what must and must not be on the disks of a quiet cluster.
    pub fn check_rest(&mut self) {
        let end_us = self.now_us + SETTLE_US_MAX;
        while self.unsettled().is_some() && self.now_us < end_us {
            self.run_for_us(SETTLE_STEP_US);
        }
        if let Some(why) = self.unsettled() {
            panic!("{why}");
        }
        if self.model.topics.iter().any(|topic| topic.expires) {
            self.coverage.mark("aged record expired");
        }
        if self.nodes.len() > 1 {
            self.check_replicas();
        }
    }

    /// What is not as it must be in the end.
    fn unsettled(&self) -> Option<String> {
        if let Some(why) = (0..self.nodes.len()).find_map(|node| self.left_on_disk(node)) {
            return Some(why);
        }
        if self.nodes.len() == 1 {
            return None;
        }
        if !self.is_all_written() {
            return Some("what is committed does not go to segments".to_owned());
        }
        self.differing_images().or_else(|| self.differing_replicas())
    }

    /// What is on the disk of a node and should not be.
    fn left_on_disk(&self, node: usize) -> Option<String> {
        let ids = |is_meant: fn(&TopicModel) -> bool| -> Vec<String> {
            let topics = self.model.topics.iter().filter(|topic| is_meant(topic));
            topics.filter_map(|topic| topic.id.map(|id| kafka_uuid(id).to_string())).collect()
        };
        let deleted = ids(|topic| topic.life == Life::Deleted);
        let expired = ids(|topic| topic.expires);
        let name = node_id(node);
        let process = self.nodes[node].process.as_ref()?;
        let image = process.lanes[0].shard.image();
        for (group, folder) in &self.nodes[node].disk.groups {
            let description = folder.description.as_deref().unwrap_or_default();
            let is_of = |ids: &[String]| ids.iter().any(|id| description.contains(id));
            if is_of(&expired) && !folder.segments.is_empty() {
                let segments: Vec<&Offset> = folder.segments.keys().collect();
                return Some(format!("node {name}: group {group} keeps expired segments: {segments:?}"));
            }
            if is_of(&deleted) {
                return Some(format!(
                    "node {name}: group {group} of a deleted topic is still there: {description}"
                ));
            }
            let is_empty = folder.segments.values().all(|files| files.log.is_empty());
            if !is_empty && folder.description.is_none() {
                return Some(format!("node {name}: group {group} has no description"));
            }
            let placed = image.partition_of_group(*group);
            let is_here = placed.as_ref().is_some_and(|(topic, index)| {
                topic.partition(*index).is_some_and(|partition| partition.replicas.contains(&name))
            });
            if !is_here {
                return Some(format!(
                    "node {name}: there is a folder of group {group}, whose place is {placed:?}"
                ));
            }
        }
        for topic in image.topics().filter(|topic| !topic.internal) {
            let known = self.model.topics.iter().find(|known| *known.name == *topic.name);
            let life = known.map(|known| known.life);
            // An attempt to make it that was given up may come about after it was deleted: another topic of its name.
            let is_same = known.is_some_and(|known| known.id == Some(topic.id));
            let may_be_there = life.is_some_and(|life| life != Life::Deleted || !is_same);
            if !may_be_there {
                return Some(format!("node {name}: there is a topic {}, which is {life:?}", topic.name));
            }
        }
        None
    }

    /// All shards of all nodes have the same metadata in the end.
    fn differing_images(&self) -> Option<String> {
        let mut epochs = BTreeSet::new();
        for node in &self.nodes {
            let process = node.process.as_ref()?;
            epochs.extend(process.lanes.iter().map(|lane| lane.shard.image().epoch()));
        }
        (epochs.len() != 1)
            .then(|| format!("a quiet cluster has more than one image of its metadata: {epochs:?}"))
    }

    /// All replicas of a partition know the same of it in the end: its bounds, leader epochs and producers.
    fn differing_replicas(&self) -> Option<String> {
        let process = self.nodes[0].process.as_ref()?;
        for topic in process.lanes[0].shard.image().topics() {
            for partition in &topic.partitions {
                let group = partition.group;
                let replicas = self.replicas(group);
                if replicas.len() != partition.replicas.len() {
                    return Some(format!("group {group} lacks a replica: {replicas:?}"));
                }
                let known = |node: &usize| {
                    let process = self.nodes[*node].process.as_ref()?;
                    process.lanes[usize::from(process.layout.shard_of(group).0)].shard.memory(group)
                };
                let mut all = replicas.iter().map(|(node, status)| (status.partition, known(node)));
                let first = all.next();
                if let Some(other) = all.find(|other| Some(other) != first.as_ref()) {
                    let name = &topic.name;
                    return Some(format!(
                        "group {group} of {name}: replicas differ: {first:?} and {other:?} in {replicas:?}"
                    ));
                }
            }
        }
        None
    }

    /// Whether everything committed is in segments, on every node.
    fn is_all_written(&self) -> bool {
        self.running().all(|node| {
            let process = self.nodes[node].process.as_ref().expect("it runs");
            let statuses = process.lanes.iter().flat_map(|lane| lane.shard.groups());
            let mut partitions = statuses.filter_map(|status| Some((status.group, status.partition?)));
            partitions.all(|(group, bounds)| {
                let folder = self.nodes[node].disk.groups.get(&group);
                bounds.log_start == bounds.high_watermark
                    || folder.is_some_and(|folder| {
                        // What a crash left of a write is there until it is written again.
                        batches(folder, bounds)
                            .is_some_and(|found| end_of(&found, bounds) == bounds.high_watermark)
                    })
            })
        })
    }

    /// All replicas of a partition hold the same batches, byte for byte.
    fn check_replicas(&mut self) {
        let process = self.nodes[0].process.as_ref().expect("all nodes run in the end");
        let image = process.lanes[0].shard.image().clone();
        for topic in image.topics() {
            for partition in &topic.partitions {
                let group = partition.group;
                let replicas = self.replicas(group);
                let bounds = replicas.values().next().and_then(|status| status.partition);
                let bounds = bounds.expect("a topic's group is a partition");
                self.check_contents(group, bounds, replicas.keys().copied());
                if replicas.len() > 1 && bounds.high_watermark > bounds.log_start {
                    self.coverage.mark("replicas compared");
                }
            }
        }
    }

    fn check_contents(&self, group: GroupId, bounds: PartitionBounds, nodes: impl Iterator<Item = usize>) {
        if bounds.log_start == bounds.high_watermark {
            return;
        }
        let mut first: Option<(usize, BTreeMap<Offset, Bytes>)> = None;
        for node in nodes {
            let contents = self.nodes[node].disk.groups.get(&group).map(|folder| {
                batches(folder, bounds).unwrap_or_else(|| {
                    panic!("group {group}: a segment of node {} holds no whole batches", node_id(node))
                })
            });
            let contents = contents.unwrap_or_default();
            let end = end_of(&contents, bounds);
            assert!(
                end == bounds.high_watermark,
                "group {group}: the segments of node {} end at {end}: {bounds:?}",
                node_id(node)
            );
            match &first {
                None => first = Some((node, contents)),
                Some((other, expected)) => {
                    let differs = expected.iter().zip(&contents).find(|(one, other)| one != other);
                    assert!(
                        differs.is_none() && expected.len() == contents.len(),
                        "group {group}: nodes {} and {} differ at {:?} (of {} and {})",
                        node_id(*other),
                        node_id(node),
                        differs.map(|((offset, _), _)| offset),
                        expected.len(),
                        contents.len()
                    );
                }
            }
        }
    }
}

/// Where batches of a log end.
fn end_of(batches: &BTreeMap<Offset, Bytes>, bounds: PartitionBounds) -> Offset {
    batches.last_key_value().map_or(bounds.log_start, |(_, batch)| {
        batch::BatchHeader::parse(batch).expect("it was parsed before").next_offset()
    })
}

/// The batches of a log, by their first offsets; `None` where its segments do not consist of batches.
fn batches(folder: &GroupFolder, bounds: PartitionBounds) -> Option<BTreeMap<Offset, Bytes>> {
    let mut found = BTreeMap::new();
    for files in folder.segments.values() {
        let log = Bytes::copy_from_slice(&files.log);
        for read in batch::batches(&log) {
            let (header, range) = read.ok()?;
            if header.next_offset() > bounds.log_start && header.base_offset < bounds.high_watermark {
                found.insert(header.base_offset, log.slice(range));
            }
        }
    }
    Some(found)
}
