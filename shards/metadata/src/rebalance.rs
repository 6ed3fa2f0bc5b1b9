//! Where replicas are to be instead of where they are: evenly over the brokers, away from one, or more or fewer of them.
//!
//! The plans know nothing of how a cluster is asked: they take brokers and partitions as plain data and give the partitions
//! that are to change. Planning again after a plan was carried out gives nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use types::{NodeId, PartitionIndex};

use crate::error::MetadataError;
use crate::placement::balance_leaders;

/// A broker that may hold replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanBroker {
    /// Its id.
    pub node: NodeId,
    /// Its rack; brokers without one share one.
    pub rack: Option<String>,
    /// Whether it is to be emptied, so that it takes no new replicas.
    pub is_draining: bool,
}

/// A partition with the brokers that hold it, or are to hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedPartition {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub index: PartitionIndex,
    /// The brokers, each once, the preferred leader first; never empty.
    pub replicas: Vec<NodeId>,
}

/// Plans an even spread of replicas, and of preferred leaders, over the brokers that are not to be emptied, in as few moves
/// as can be. A partition spreads over as many racks as it can, and never over fewer than before. What brokers that
/// are to be emptied hold stays there, but they are no preferred leaders where another replica can be.
pub fn plan_rebalance(brokers: &[PlanBroker], partitions: &[PlacedPartition]) -> Vec<PlacedPartition> {
    let mut plan = Plan::new(brokers, partitions);
    for partition in 0..partitions.len() {
        plan.spread_over_racks(partition);
    }
    while plan.relieve_a_broker() {}
    plan.balance_preferred_leaders();
    plan.changes(partitions)
}

/// Plans other brokers for everything that one holds.
///
/// # Errors
///
/// `InvalidReplicationFactor` where a partition has as many replicas as there are other brokers to take them.
pub fn plan_drain(
    brokers: &[PlanBroker],
    partitions: &[PlacedPartition],
    node: NodeId,
) -> Result<Vec<PlacedPartition>, MetadataError> {
    let mut plan = Plan::new(brokers, partitions);
    let Some(leaving) = plan.position(node) else { return Ok(Vec::new()) };
    plan.brokers[leaving].may_take = false;
    for partition in plan.held[leaving].clone() {
        let Some(target) = plan.best_target(partition, Some(leaving)) else {
            let PlacedPartition { topic, index, replicas } = &partitions[partition];
            return Err(MetadataError::InvalidReplicationFactor(format!(
                "{topic}-{index} has {} replicas, and no other broker can take that of broker {node}: add one, or give \
                 the topic fewer replicas first",
                replicas.len(),
            )));
        };
        let was_preferred = plan.replicas[partition][0] == leaving;
        plan.replace(partition, leaving, target);
        if was_preferred {
            plan.prefer_the_least_leading(partition);
        }
    }
    Ok(plan.changes(partitions))
}

/// Plans so many replicas for each partition of a topic. Those that are added go to the brokers that hold least, those
/// that go leave brokers that are to be emptied, or hold most; racks are spread over as far as can be. Preferred leaders
/// stay where they do not go.
///
/// # Errors
///
/// `UnknownTopic`, and `InvalidReplicationFactor` for none, or for more than there are brokers to take them.
pub fn plan_replication_factor(
    brokers: &[PlanBroker],
    partitions: &[PlacedPartition],
    topic: &str,
    replication_factor: usize,
) -> Result<Vec<PlacedPartition>, MetadataError> {
    if replication_factor == 0 {
        return Err(MetadataError::InvalidReplicationFactor("a partition needs a replica".to_owned()));
    }
    let mut plan = Plan::new(brokers, partitions);
    let of_topic: Vec<usize> = (0..partitions.len()).filter(|at| partitions[*at].topic == topic).collect();
    if of_topic.is_empty() {
        return Err(MetadataError::UnknownTopic(topic.to_owned()));
    }
    for partition in of_topic {
        while plan.replicas[partition].len() > replication_factor {
            plan.remove(partition);
        }
        while plan.replicas[partition].len() < replication_factor {
            let Some(target) = plan.best_target(partition, None) else {
                return Err(MetadataError::InvalidReplicationFactor(format!(
                    "there are no brokers to take {replication_factor} replicas of {topic}-{}",
                    partitions[partition].index
                )));
            };
            plan.add(partition, target);
        }
    }
    Ok(plan.changes(partitions))
}

/// The work on a plan. Brokers, racks, topics and partitions go by their positions.
struct Plan {
    /// By their ids; those too that hold replicas and are not registered.
    brokers: Vec<Place>,
    /// By partition, the preferred leader first.
    replicas: Vec<Vec<usize>>,
    topic_of: Vec<usize>,
    /// What each broker holds.
    held: Vec<BTreeSet<usize>>,
    /// How many partitions each broker is the preferred leader of.
    leads: Vec<u32>,
    /// How many partitions of each topic each broker holds.
    held_of_topic: Vec<Vec<u32>>,
}

struct Place {
    node: NodeId,
    rack: usize,
    may_take: bool,
}

impl Plan {
    fn new(brokers: &[PlanBroker], partitions: &[PlacedPartition]) -> Plan {
        let racks: BTreeSet<Option<&str>> = brokers.iter().map(|broker| broker.rack.as_deref()).collect();
        let racks: BTreeMap<Option<&str>, usize> = racks.into_iter().zip(0..).collect();
        let mut places: BTreeMap<NodeId, Place> = BTreeMap::new();
        for PlanBroker { node, rack, is_draining } in brokers {
            let place = Place { node: *node, rack: racks[&rack.as_deref()], may_take: !is_draining };
            places.insert(*node, place);
        }
        for node in partitions.iter().flat_map(|partition| &partition.replicas) {
            // In a rack that nobody can take replicas in.
            places.entry(*node).or_insert(Place { node: *node, rack: racks.len(), may_take: false });
        }
        let topics: BTreeSet<&str> = partitions.iter().map(|partition| partition.topic.as_str()).collect();
        let topics: BTreeMap<&str, usize> = topics.into_iter().zip(0..).collect();
        let count = places.len();
        let mut plan = Plan {
            brokers: places.into_values().collect(),
            replicas: vec![Vec::new(); partitions.len()],
            topic_of: partitions.iter().map(|partition| topics[partition.topic.as_str()]).collect(),
            held: vec![BTreeSet::new(); count],
            leads: vec![0; count],
            held_of_topic: vec![vec![0; count]; topics.len()],
        };
        for (at, partition) in partitions.iter().enumerate() {
            for node in &partition.replicas {
                let broker = plan.position(*node).expect("every broker with replicas has a place");
                plan.add(at, broker);
            }
        }
        plan
    }

    fn position(&self, node: NodeId) -> Option<usize> {
        self.brokers.binary_search_by_key(&node, |place| place.node).ok()
    }

    /// The partitions that are to change.
    fn changes(&self, partitions: &[PlacedPartition]) -> Vec<PlacedPartition> {
        let planned = partitions.iter().zip(&self.replicas).map(|(before, replicas)| PlacedPartition {
            replicas: replicas.iter().map(|at| self.brokers[*at].node).collect(),
            ..before.clone()
        });
        planned
            .zip(partitions)
            .filter(|(planned, before)| planned != *before)
            .map(|(planned, _)| planned)
            .collect()
    }

    fn add(&mut self, partition: usize, broker: usize) {
        self.leads[broker] += u32::from(self.replicas[partition].is_empty());
        self.replicas[partition].push(broker);
        self.count_in(partition, broker);
    }

    fn count_in(&mut self, partition: usize, broker: usize) {
        assert!(self.held[broker].insert(partition), "a broker holds a partition once");
        self.held_of_topic[self.topic_of[partition]][broker] += 1;
    }

    fn count_out(&mut self, partition: usize, broker: usize) {
        assert!(self.held[broker].remove(&partition), "the broker held the partition");
        self.held_of_topic[self.topic_of[partition]][broker] -= 1;
    }

    fn replace(&mut self, partition: usize, from: usize, to: usize) {
        let order = self.order(partition, from);
        self.replicas[partition][order] = to;
        if order == 0 {
            self.leads[from] -= 1;
            self.leads[to] += 1;
        }
        self.count_out(partition, from);
        self.count_in(partition, to);
    }

    fn order(&self, partition: usize, broker: usize) -> usize {
        let order = self.replicas[partition].iter().position(|at| *at == broker);
        order.expect("the broker holds the partition")
    }

    /// Takes the replica away that is missed least.
    fn remove(&mut self, partition: usize) {
        let replicas = &self.replicas[partition];
        let order = (0..replicas.len())
            .min_by_key(|order| {
                let broker = replicas[*order];
                let racks = self.racks_of(partition, Some(broker), None);
                let is_staying = self.brokers[broker].may_take;
                (
                    is_staying,
                    is_staying && *order == 0,
                    Reverse(racks),
                    Reverse(self.held[broker].len()),
                    Reverse(*order),
                )
            })
            .expect("a partition has replicas");
        let broker = self.replicas[partition].remove(order);
        self.count_out(partition, broker);
        if order == 0 {
            self.leads[broker] -= 1;
            self.leads[self.replicas[partition][0]] += 1;
        }
    }

    /// How many racks a partition spreads over without one of its brokers and with another one.
    fn racks_of(&self, partition: usize, without: Option<usize>, with: Option<usize>) -> usize {
        let staying = self.replicas[partition].iter().copied().filter(|at| Some(*at) != without);
        let racks: BTreeSet<usize> = staying.chain(with).map(|at| self.brokers[at].rack).collect();
        racks.len()
    }

    /// The brokers that may take a replica of a partition.
    fn targets(&self, partition: usize) -> impl Iterator<Item = usize> {
        (0..self.brokers.len()).filter(move |at| self.may_take(partition, *at))
    }

    fn may_take(&self, partition: usize, broker: usize) -> bool {
        self.brokers[broker].may_take && !self.replicas[partition].contains(&broker)
    }

    /// The broker to take a new replica of a partition, in place of one of its brokers or beside all of them.
    fn best_target(&self, partition: usize, leaving: Option<usize>) -> Option<usize> {
        let of_topic = &self.held_of_topic[self.topic_of[partition]];
        self.targets(partition).min_by_key(|at| {
            let racks = self.racks_of(partition, leaving, Some(*at));
            (Reverse(racks), self.held[*at].len(), of_topic[*at], *at)
        })
    }

    /// Of those that may, the replica that is the preferred leader of the fewest partitions becomes that of this one.
    fn prefer_the_least_leading(&mut self, partition: usize) {
        let replicas = &self.replicas[partition];
        let candidates = (0..replicas.len()).filter(|order| self.brokers[replicas[*order]].may_take);
        let chosen = candidates.min_by_key(|order| {
            let broker = replicas[*order];
            (self.leads[broker] - u32::from(*order == 0), *order)
        });
        self.prefer(partition, chosen.unwrap_or(0));
    }

    fn prefer(&mut self, partition: usize, order: usize) {
        let replicas = &mut self.replicas[partition];
        self.leads[replicas[0]] -= 1;
        replicas.swap(0, order);
        self.leads[replicas[0]] += 1;
    }

    /// While replicas share a rack and a broker in another one could take one of them, it does.
    fn spread_over_racks(&mut self, partition: usize) {
        loop {
            let racks = self.racks_of(partition, None, None);
            let shared = self.replicas[partition]
                .iter()
                .copied()
                .filter(|at| self.racks_of(partition, Some(*at), None) == racks)
                .max_by_key(|at| (self.held[*at].len(), self.order(partition, *at)));
            let Some(shared) = shared else { return };
            match self.best_target(partition, Some(shared)) {
                Some(target) if self.racks_of(partition, Some(shared), Some(target)) > racks => {
                    self.replace(partition, shared, target);
                }
                _ => return,
            }
        }
    }

    /// Moves one replica, or several one after the other where racks demand it, so that a broker holds one less and another
    /// one, which holds at least two fewer, one more. Whether there were such.
    fn relieve_a_broker(&mut self) -> bool {
        let mut taking: Vec<usize> =
            (0..self.brokers.len()).filter(|at| self.brokers[*at].may_take).collect();
        taking.sort_by_key(|at| (self.held[*at].len(), *at));
        let mut pairs = Vec::new();
        for from in taking.iter().rev() {
            let much_less = taking.iter().filter(|to| self.held[**to].len() + 2 <= self.held[*from].len());
            pairs.extend(much_less.map(|to| (*from, *to)));
        }
        let direct = pairs.iter().find_map(|(from, to)| Some(vec![(self.movable(*from, *to)?, *from, *to)]));
        let overloaded: BTreeSet<usize> = pairs.iter().map(|(from, _)| *from).collect();
        let found = direct.or_else(|| overloaded.iter().find_map(|from| self.chain(*from, &taking)));
        for (partition, from, to) in found.iter().flatten() {
            self.replace(*partition, *from, *to);
        }
        found.is_some()
    }

    /// The partition that had best move from one broker to another, without loss of racks: one of a topic that the
    /// first holds most more of.
    fn movable(&self, from: usize, to: usize) -> Option<usize> {
        let movable = self.held[from].iter().copied().filter(|partition| {
            self.may_take(*partition, to)
                && self.racks_of(*partition, Some(from), Some(to)) >= self.racks_of(*partition, None, None)
        });
        movable.min_by_key(|partition| {
            let of_topic = &self.held_of_topic[self.topic_of[*partition]];
            (i64::from(of_topic[to]) - i64::from(of_topic[from]), *partition)
        })
    }

    /// Moves (partition, from, to), each of another partition, that pass one replica on from a broker to one that holds at
    /// least two fewer.
    fn chain(&self, from: usize, taking: &[usize]) -> Option<Vec<(usize, usize, usize)>> {
        let mut reached_by: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            for next in taking.iter().copied() {
                if next == from || reached_by.contains_key(&next) {
                    continue;
                }
                let Some(partition) = self.movable(at, next) else { continue };
                reached_by.insert(next, (partition, at));
                queue.push_back(next);
                if self.held[next].len() + 2 > self.held[from].len() {
                    continue;
                }
                let mut chain = Vec::new();
                let mut end = next;
                while end != from {
                    let (partition, before) = reached_by[&end];
                    chain.push((partition, before, end));
                    end = before;
                }
                let moved: BTreeSet<usize> = chain.iter().map(|(partition, ..)| *partition).collect();
                if moved.len() == chain.len() {
                    return Some(chain);
                }
            }
        }
        None
    }

    /// Evens out preferred leaders among the brokers that are not to be emptied.
    fn balance_preferred_leaders(&mut self) {
        let may_lead: Vec<usize> = (0..self.brokers.len()).filter(|at| self.brokers[*at].may_take).collect();
        let mut movable = Vec::new();
        let mut candidates: Vec<Vec<usize>> = Vec::new();
        for (partition, replicas) in self.replicas.iter().enumerate() {
            let of_partition: Vec<usize> =
                replicas.iter().filter_map(|at| may_lead.binary_search(at).ok()).collect();
            if !of_partition.is_empty() {
                movable.push(partition);
                candidates.push(of_partition);
            }
        }
        let mut leads = vec![0; may_lead.len()];
        candidates.iter().for_each(|of_partition| leads[of_partition[0]] += 1);
        balance_leaders(&mut leads, &mut candidates);
        for (partition, of_partition) in movable.into_iter().zip(candidates) {
            self.prefer(partition, self.order(partition, may_lead[of_partition[0]]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A cluster: brokers from 1 on in so many racks (one without names), and topics of some partitions each.
    fn any_cluster(
        racks: usize,
        factors: std::ops::RangeInclusive<usize>,
    ) -> impl Strategy<Value = (Vec<PlanBroker>, Vec<PlacedPartition>)> {
        (3usize..8).prop_flat_map(move |count| {
            let rack = move |at: usize| (racks > 1).then(|| format!("r{}", at % racks));
            let broker = move |at: usize| PlanBroker {
                node: NodeId(at as i32 + 1),
                rack: rack(at),
                is_draining: false,
            };
            let brokers: Vec<PlanBroker> = (0..count).map(broker).collect();
            let nodes: Vec<NodeId> = brokers.iter().map(|broker| broker.node).collect();
            // Skewed, as after brokers have come.
            let held_by = nodes[..nodes.len().div_ceil(2).max(3)].to_vec();
            let replicas = prop::sample::subsequence(held_by, factors.clone()).prop_shuffle();
            let partitions = prop::collection::vec((0u8..3, replicas), 1..40).prop_map(|placed| {
                let partition = |(index, (topic, replicas)): (i32, (u8, Vec<NodeId>))| PlacedPartition {
                    topic: format!("t{topic}"),
                    index: PartitionIndex(index),
                    replicas,
                };
                (0i32..).zip(placed).map(partition).collect::<Vec<_>>()
            });
            (Just(brokers), partitions)
        })
    }

    fn carried_out(partitions: &[PlacedPartition], plan: &[PlacedPartition]) -> Vec<PlacedPartition> {
        let planned = |partition: &PlacedPartition| {
            plan.iter().find(|to| (&to.topic, to.index) == (&partition.topic, partition.index)).cloned()
        };
        partitions.iter().map(|partition| planned(partition).unwrap_or_else(|| partition.clone())).collect()
    }

    fn held(partitions: &[PlacedPartition], node: NodeId) -> usize {
        partitions.iter().filter(|partition| partition.replicas.contains(&node)).count()
    }

    fn spread(brokers: &[PlanBroker], count: impl Fn(NodeId) -> usize) -> usize {
        let counts: Vec<usize> =
            brokers.iter().filter(|broker| !broker.is_draining).map(|broker| count(broker.node)).collect();
        counts.iter().max().expect("a broker") - counts.iter().min().expect("a broker")
    }

    fn racks(brokers: &[PlanBroker], partition: &PlacedPartition) -> usize {
        let rack = |node: &NodeId| &brokers.iter().find(|broker| broker.node == *node).expect("known").rack;
        partition.replicas.iter().map(rack).collect::<BTreeSet<_>>().len()
    }

    /// What holds of every plan.
    fn check(before: &[PlacedPartition], after: &[PlacedPartition]) {
        for (before, after) in before.iter().zip(after) {
            let distinct: BTreeSet<_> = after.replicas.iter().collect();
            assert_eq!(distinct.len(), after.replicas.len(), "{after:?}");
            assert_eq!(before.replicas.len(), after.replicas.len(), "{after:?}");
        }
    }

    proptest! {
        #[test]
        fn replicas_and_leaders_are_spread_evenly_in_as_few_moves_as_can_be(
            (brokers, partitions) in (1usize..=3).prop_flat_map(|factor| any_cluster(1, factor..=factor)),
        ) {
            let plan = plan_rebalance(&brokers, &partitions);
            let after = carried_out(&partitions, &plan);
            check(&partitions, &after);
            prop_assert!(spread(&brokers, |node| held(&after, node)) <= 1);
            let leads = |node| after.iter().filter(|partition| partition.replicas[0] == node).count();
            prop_assert!(spread(&brokers, leads) <= 1, "{:?}", after);
            let moved: usize = partitions.iter().zip(&after).map(|(before, after)| {
                after.replicas.iter().filter(|node| !before.replicas.contains(node)).count()
            }).sum();
            let gained = |node: NodeId| held(&after, node).saturating_sub(held(&partitions, node));
            prop_assert_eq!(moved, brokers.iter().map(|broker| gained(broker.node)).sum::<usize>());
            prop_assert_eq!(plan_rebalance(&brokers, &after), []);
        }

        #[test]
        fn a_partition_spreads_over_as_many_racks_as_it_can(
            (brokers, partitions) in any_cluster(3, 1..=3),
            draining in prop::option::of(0usize..3),
        ) {
            let mut brokers = brokers;
            if let Some(at) = draining {
                brokers[at].is_draining = true;
            }
            let before_spread = spread(&brokers, |node| held(&partitions, node));
            let after = carried_out(&partitions, &plan_rebalance(&brokers, &partitions));
            check(&partitions, &after);
            let open: BTreeSet<_> =
                brokers.iter().filter(|broker| !broker.is_draining).map(|broker| &broker.rack).collect();
            for (before, after) in partitions.iter().zip(&after) {
                prop_assert!(racks(&brokers, after) >= after.replicas.len().min(open.len()));
                prop_assert!(racks(&brokers, after) >= racks(&brokers, before));
            }
            for broker in brokers.iter().filter(|broker| broker.is_draining) {
                prop_assert!(held(&after, broker.node) <= held(&partitions, broker.node));
                let may_not_lead = after.iter().all(|partition| {
                    partition.replicas.len() == 1 || partition.replicas[0] != broker.node
                });
                prop_assert!(may_not_lead);
            }
            prop_assert!(spread(&brokers, |node| held(&after, node)) <= before_spread.max(2));
            prop_assert_eq!(plan_rebalance(&brokers, &after), []);
        }

        #[test]
        fn a_drained_broker_holds_nothing(
            (brokers, partitions) in any_cluster(3, 1..=3),
            at in 0usize..3,
        ) {
            let node = brokers[at].node;
            match plan_drain(&brokers, &partitions, node) {
                Ok(plan) => {
                    let after = carried_out(&partitions, &plan);
                    check(&partitions, &after);
                    prop_assert_eq!(held(&after, node), 0);
                    prop_assert_eq!(plan.len(), held(&partitions, node), "nothing else moves");
                    prop_assert_eq!(plan_drain(&brokers, &after, node), Ok(Vec::new()));
                }
                Err(_) => {
                    let is_full = |partition: &PlacedPartition| partition.replicas.len() >= brokers.len();
                    prop_assert!(partitions.iter().any(is_full));
                }
            }
        }

        #[test]
        fn a_topic_has_the_replicas_that_it_is_given(
            (brokers, partitions) in any_cluster(2, 1..=3),
            factor in 1usize..4,
        ) {
            let topic = partitions[0].topic.clone();
            let plan = plan_replication_factor(&brokers, &partitions, &topic, factor).expect("enough brokers");
            let after = carried_out(&partitions, &plan);
            for (before, after) in partitions.iter().zip(&after) {
                if before.topic != topic {
                    prop_assert_eq!(before, after);
                    continue;
                }
                prop_assert_eq!(after.replicas.len(), factor);
                prop_assert_eq!(after.replicas.iter().collect::<BTreeSet<_>>().len(), factor);
                prop_assert_eq!(after.replicas[0], before.replicas[0], "the preferred leader stays");
                let kept = after.replicas.iter().filter(|node| before.replicas.contains(node)).count();
                prop_assert_eq!(kept, factor.min(before.replicas.len()));
            }
            prop_assert_eq!(plan_replication_factor(&brokers, &after, &topic, factor), Ok(Vec::new()));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let broker = |node| PlanBroker { node: NodeId(node), rack: None, is_draining: node == 3 };
        let brokers = [1, 2, 3].map(broker);
        let replicas = [1, 2].map(NodeId).to_vec();
        let partitions = [PlacedPartition { topic: "t".to_owned(), index: PartitionIndex(0), replicas }];
        let text =
            |outcome: Result<Vec<PlacedPartition>, MetadataError>| outcome.expect_err("refused").to_string();
        let factor = |topic, factor| text(plan_replication_factor(&brokers, &partitions, topic, factor));
        assert_eq!(factor("missing", 1), "topic \"missing\" does not exist");
        assert!(factor("t", 0).contains("needs a replica"));
        assert!(factor("t", 3).contains("no brokers to take 3 replicas of t-0"), "broker 3 takes none");
        let refused = text(plan_drain(&brokers, &partitions, NodeId(1)));
        assert!(refused.contains("no other broker can take that of broker 1"), "{refused}");
        assert_eq!(plan_drain(&brokers, &partitions, NodeId(9)), Ok(Vec::new()));
    }
}
