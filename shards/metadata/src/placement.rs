//! Which brokers hold the replicas of new partitions.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use types::NodeId;
use types::hash::mix64;

use crate::command::PartitionSpec;
use crate::image::{BrokerLoad, MetadataImage};

/// The registered brokers with what they hold, counting what was placed since the image.
pub(crate) struct Placer {
    brokers: Vec<PlacementBroker>,
    /// Brokers without a rack share one.
    racks: Vec<PlacementRack>,
}

#[derive(Clone)]
struct PlacementBroker {
    node: NodeId,
    /// Its position in `Placer::racks`.
    rack: usize,
    is_avoided: bool,
    total: BrokerLoad,
}

struct PlacementRack {
    /// Positions in `Placer::brokers`.
    brokers: Vec<usize>,
    /// Replicas of all topics on its brokers.
    total_replicas: u64,
}

/// The work on one topic. Counts are by position in `Placer::brokers` or `Placer::racks` and span the
/// topic only.
struct TopicPlacement<'a> {
    placer: &'a Placer,
    loads: Vec<BrokerLoad>,
    rack_replicas: Vec<u64>,
    seed: u64,
}

impl Placer {
    /// Of the registered brokers, and which of them are alive.
    pub(crate) fn new(image: &MetadataImage, is_alive: impl Fn(NodeId) -> bool) -> Placer {
        let mut by_rack: BTreeMap<Option<&str>, Vec<NodeId>> = BTreeMap::new();
        for broker in image.brokers() {
            by_rack.entry(broker.rack.as_deref()).or_default().push(broker.node);
        }
        let mut brokers: Vec<PlacementBroker> = (0..)
            .zip(by_rack.values())
            .flat_map(|(rack, nodes)| nodes.iter().map(move |node| (rack, *node)))
            .map(|(rack, node)| {
                let is_avoided = image.is_draining(node) || !is_alive(node);
                PlacementBroker { node, rack, is_avoided, total: image.load(node) }
            })
            .collect();
        brokers.sort_by_key(|broker| broker.node);
        Placer::of_brokers(brokers, by_rack.len())
    }

    /// Of brokers by their ids.
    fn of_brokers(brokers: Vec<PlacementBroker>, rack_count: usize) -> Placer {
        let empty_rack = || PlacementRack { brokers: Vec::new(), total_replicas: 0 };
        let mut racks: Vec<PlacementRack> = (0..rack_count).map(|_| empty_rack()).collect();
        for (at, broker) in brokers.iter().enumerate() {
            racks[broker.rack].brokers.push(at);
            racks[broker.rack].total_replicas += u64::from(broker.total.replicas);
        }
        Placer { brokers, racks }
    }

    pub(crate) fn broker_count(&self) -> usize {
        self.brokers.len()
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.position(node).is_some()
    }

    /// Takes an assignment into account for those that follow.
    pub(crate) fn count(&mut self, partitions: &[PartitionSpec]) {
        for partition in partitions {
            for (order, node) in partition.replicas.iter().enumerate() {
                if let Some(at) = self.position(*node) {
                    let broker = &mut self.brokers[at];
                    broker.total.replicas += 1;
                    broker.total.leaders += u32::from(order == 0);
                    self.racks[broker.rack].total_replicas += 1;
                }
            }
        }
    }

    /// Without the brokers that are to be emptied or are down, where the others are enough for a partition.
    fn without_avoided(&self, replication_factor: usize) -> Option<Placer> {
        let staying: Vec<PlacementBroker> =
            self.brokers.iter().filter(|broker| !broker.is_avoided).cloned().collect();
        let is_needed = staying.len() < self.brokers.len() && staying.len() >= replication_factor;
        is_needed.then(|| Placer::of_brokers(staying, self.racks.len()))
    }

    /// Places `count` partitions of `replication_factor` replicas beside those that the topic has.
    ///
    /// A partition spreads over as many racks as it can. Within that, the topic's replicas spread evenly
    /// over racks by their size and over the brokers of each rack, its leaders evenly over its brokers;
    /// what remains open goes to those that hold least of all topics, and then by the seed. Brokers that are to be emptied
    /// or are down get nothing, unless the others are too few.
    pub(crate) fn place<'e>(
        &self,
        existing: impl Iterator<Item = &'e [NodeId]>,
        count: usize,
        replication_factor: usize,
        seed: u64,
    ) -> Vec<PartitionSpec> {
        match self.without_avoided(replication_factor) {
            Some(placer) => placer.place_on_all(existing, count, replication_factor, seed),
            None => self.place_on_all(existing, count, replication_factor, seed),
        }
    }

    fn place_on_all<'e>(
        &self,
        existing: impl Iterator<Item = &'e [NodeId]>,
        count: usize,
        replication_factor: usize,
        seed: u64,
    ) -> Vec<PartitionSpec> {
        assert!((1..=self.brokers.len()).contains(&replication_factor), "{replication_factor} replicas");
        let mut topic = TopicPlacement {
            placer: self,
            loads: vec![BrokerLoad::default(); self.brokers.len()],
            rack_replicas: vec![0; self.racks.len()],
            seed,
        };
        for replicas in existing {
            topic.count(replicas.iter().filter_map(|node| self.position(*node)));
        }
        let mut partitions = Vec::with_capacity(count);
        for number in 0..count as u64 {
            let mut replicas = topic.choose_replicas(number, replication_factor);
            let leader = topic.choose_leader(number, &replicas);
            replicas.swap(0, leader);
            topic.count(replicas.iter().copied());
            partitions.push(replicas);
        }
        let leaders = topic.loads.iter().map(|load| load.leaders);
        balance_leaders(&mut leaders.collect::<Vec<u32>>(), &mut partitions);
        let node = |at: usize| self.brokers[at].node;
        partitions
            .into_iter()
            .map(|replicas| PartitionSpec { replicas: replicas.into_iter().map(node).collect() })
            .collect()
    }

    fn position(&self, node: NodeId) -> Option<usize> {
        self.brokers.binary_search_by_key(&node, |broker| broker.node).ok()
    }
}

impl TopicPlacement<'_> {
    fn count(&mut self, replicas: impl Iterator<Item = usize>) {
        for (order, at) in replicas.enumerate() {
            self.loads[at].replicas += 1;
            self.loads[at].leaders += u32::from(order == 0);
            self.rack_replicas[self.placer.brokers[at].rack] += 1;
        }
    }

    fn choose_replicas(&self, number: u64, replication_factor: usize) -> Vec<usize> {
        let racks = &self.placer.racks;
        let mut used = vec![0; racks.len()];
        let mut replicas = Vec::with_capacity(replication_factor);
        while replicas.len() < replication_factor {
            let rack = (0..racks.len())
                .filter(|rack| used[*rack] < racks[*rack].brokers.len())
                .min_by(|left, right| {
                    used[*left].cmp(&used[*right]).then_with(|| self.compare_racks(number, *left, *right))
                })
                .expect("there are as many brokers as replicas");
            let broker = racks[rack]
                .brokers
                .iter()
                .copied()
                .filter(|at| !replicas.contains(at))
                .min_by_key(|at| {
                    let total = self.placer.brokers[*at].total.replicas;
                    (self.loads[*at].replicas, total, self.tie(number, *at))
                })
                .expect("the rack has an unused broker");
            used[rack] += 1;
            replicas.push(broker);
        }
        replicas
    }

    /// By replicas per broker of the rack: of this topic, then of all topics.
    fn compare_racks(&self, number: u64, left: usize, right: usize) -> Ordering {
        let (left_rack, right_rack) = (&self.placer.racks[left], &self.placer.racks[right]);
        let compare = |left_replicas: u64, right_replicas: u64| {
            let left_scaled = left_replicas * right_rack.brokers.len() as u64;
            left_scaled.cmp(&(right_replicas * left_rack.brokers.len() as u64))
        };
        compare(self.rack_replicas[left], self.rack_replicas[right])
            .then_with(|| compare(left_rack.total_replicas, right_rack.total_replicas))
            .then_with(|| self.tie(!number, left).cmp(&self.tie(!number, right)))
    }

    fn choose_leader(&self, number: u64, replicas: &[usize]) -> usize {
        (0..replicas.len())
            .min_by_key(|order| {
                let at = replicas[*order];
                (self.loads[at].leaders, self.placer.brokers[at].total.leaders, self.tie(number, at))
            })
            .expect("a partition has a replica")
    }

    fn tie(&self, number: u64, at: usize) -> u64 {
        mix64(mix64(self.seed ^ number).wrapping_add(at as u64))
    }
}

/// Moves leaderships among the replicas of partitions, which are positions in `leaders`, until no chain of moves relieves
/// any broker by two. (Choosing leaders one by one comes close but can paint itself into a corner.) `leaders` counts the
/// partitions that each broker leads, these included.
pub(crate) fn balance_leaders(leaders: &mut [u32], partitions: &mut [Vec<usize>]) {
    // Each round makes the sum of squares of the counts smaller, and few are needed.
    for _ in 0..partitions.len() {
        let least = leaders.iter().copied().min().unwrap_or(0);
        let mut overloaded: Vec<usize> =
            (0..leaders.len()).filter(|at| leaders[*at] >= least.saturating_add(2)).collect();
        overloaded.sort_by_key(|at| std::cmp::Reverse(leaders[*at]));
        let Some(chain) = overloaded.iter().find_map(|at| relieving_chain(*at, leaders, partitions)) else {
            return;
        };
        for (partition, leader) in chain {
            let replicas = &mut partitions[partition];
            let order = replicas.iter().position(|at| *at == leader).expect("a replica of the partition");
            leaders[replicas[0]] -= 1;
            leaders[leader] += 1;
            replicas.swap(0, order);
        }
    }
}

/// The moves (partition, new leader) that pass one leadership from `from` on to a broker with at least two fewer.
fn relieving_chain(from: usize, leaders: &[u32], partitions: &[Vec<usize>]) -> Option<Vec<(usize, usize)>> {
    let mut led_by = vec![Vec::new(); leaders.len()];
    for (partition, replicas) in partitions.iter().enumerate() {
        led_by[replicas[0]].push(partition);
    }
    let mut reached_by: Vec<Option<usize>> = vec![None; leaders.len()];
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        for partition in &led_by[at] {
            for next in &partitions[*partition][1..] {
                if *next == from || reached_by[*next].is_some() {
                    continue;
                }
                reached_by[*next] = Some(*partition);
                if leaders[*next] + 2 <= leaders[from] {
                    return Some(chain_to(*next, from, &reached_by, partitions));
                }
                queue.push_back(*next);
            }
        }
    }
    None
}

fn chain_to(
    last: usize,
    from: usize,
    reached_by: &[Option<usize>],
    partitions: &[Vec<usize>],
) -> Vec<(usize, usize)> {
    let mut chain = Vec::new();
    let mut at = last;
    while at != from {
        let partition = reached_by[at].expect("the search came this way");
        chain.push((partition, at));
        at = partitions[partition][0];
    }
    chain
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::command::{Command, ConfigResource};
    use crate::configs::BROKER_DRAINING;
    use crate::state::MetadataState;
    use crate::testing::{apply, image_with_racks, state_with_racks};

    fn spread(counts: impl Iterator<Item = u32>) -> u32 {
        let counts: Vec<u32> = counts.collect();
        counts.iter().max().expect("a broker") - counts.iter().min().expect("a broker")
    }

    fn loads(placer: &Placer, partitions: &[PartitionSpec]) -> Vec<BrokerLoad> {
        let mut loads = vec![BrokerLoad::default(); placer.broker_count()];
        for partition in partitions {
            for (order, node) in partition.replicas.iter().enumerate() {
                let at = placer.position(*node).expect("a registered broker");
                loads[at].replicas += 1;
                loads[at].leaders += u32::from(order == 0);
            }
        }
        loads
    }

    #[test]
    fn brokers_that_are_to_be_emptied_get_nothing_while_the_others_suffice() {
        let mut state = state_with_racks(&[4]);
        let set = vec![(BROKER_DRAINING.to_owned(), Some("true".to_owned()))];
        let drain =
            |node| Command::AlterConfigs { resource: ConfigResource::Broker(NodeId(node)), set: set.clone() };
        apply(&mut state, drain(2));
        let placed_on = |state: &mut MetadataState, replication_factor| {
            let placed =
                Placer::new(&state.image(), |_| true).place(std::iter::empty(), 12, replication_factor, 1);
            placed.into_iter().flat_map(|spec| spec.replicas).collect::<BTreeSet<NodeId>>()
        };
        assert_eq!(placed_on(&mut state, 3), [1, 3, 4].map(NodeId).into());
        assert_eq!(placed_on(&mut state, 4), [1, 2, 3, 4].map(NodeId).into());
        apply(&mut state, Command::UnregisterBroker { node: NodeId(2) });
        assert!(!state.image().is_draining(NodeId(2)), "forgotten with the broker");
    }

    #[test]
    fn brokers_that_are_down_get_nothing_while_the_others_suffice() {
        let image = image_with_racks(&[3]);
        let placed_on = |replication_factor| {
            let placer = Placer::new(&image, |node| node != NodeId(2));
            let placed = placer.place(std::iter::empty(), 12, replication_factor, 1);
            placed.into_iter().flat_map(|spec| spec.replicas).collect::<BTreeSet<NodeId>>()
        };
        assert_eq!(placed_on(1), [1, 3].map(NodeId).into());
        assert_eq!(placed_on(2), [1, 3].map(NodeId).into());
        assert_eq!(placed_on(3), [1, 2, 3].map(NodeId).into());
    }

    fn rack_of(placer: &Placer, node: NodeId) -> usize {
        placer.brokers[placer.position(node).expect("a registered broker")].rack
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn equal_racks_give_an_even_placement(
            racks in 1usize..5,
            brokers_per_rack in 1usize..5,
            count in 1usize..40,
            replication_factor in 1usize..6,
            seed: u64,
        ) {
            let replication_factor = replication_factor.min(racks * brokers_per_rack);
            let placer = Placer::new(&image_with_racks(&vec![brokers_per_rack; racks]), |_| true);
            let partitions = placer.place(std::iter::empty(), count, replication_factor, seed);
            prop_assert_eq!(partitions.len(), count);
            let loads = loads(&placer, &partitions);
            prop_assert!(spread(loads.iter().map(|load| load.replicas)) <= 1, "{:?}", loads);
            prop_assert!(spread(loads.iter().map(|load| load.leaders)) <= 1, "{:?}", loads);
        }

        #[test]
        fn every_partition_spreads_over_the_racks(
            rack_sizes in prop::collection::vec(1usize..6, 1..5),
            count in 1usize..30,
            replication_factor in 1usize..6,
            seed: u64,
        ) {
            let placer = Placer::new(&image_with_racks(&rack_sizes), |_| true);
            let replication_factor = replication_factor.min(placer.broker_count());
            let partitions = placer.place(std::iter::empty(), count, replication_factor, seed);
            for partition in &partitions {
                let distinct: BTreeSet<_> = partition.replicas.iter().collect();
                prop_assert_eq!(distinct.len(), replication_factor);
                let racks: BTreeSet<_> =
                    partition.replicas.iter().map(|node| rack_of(&placer, *node)).collect();
                prop_assert_eq!(racks.len(), replication_factor.min(rack_sizes.len()));
            }
            prop_assert_eq!(&partitions, &placer.place(std::iter::empty(), count, replication_factor, seed));
            let loads = loads(&placer, &partitions);
            prop_assert!(
                rack_sizes.len() > 1 || spread(loads.iter().map(|load| load.leaders)) <= 1,
                "{:?}",
                loads
            );
        }

        #[test]
        fn added_partitions_even_out_what_was_uneven(
            first in 1usize..10,
            added in 20usize..40,
            brokers in 3usize..7,
            seed: u64,
        ) {
            let small = Placer::new(&image_with_racks(&[2]), |_| true);
            let before = small.place(std::iter::empty(), first, 2, seed);
            let placer = Placer::new(&image_with_racks(&[brokers]), |_| true);
            let existing = before.iter().map(|partition| partition.replicas.as_slice());
            let mut all = placer.place(existing, added, 2, seed);
            all.extend(before.iter().cloned());
            let loads = loads(&placer, &all);
            let enough = (first + added) * 2 >= first * brokers;
            prop_assert!(!enough || spread(loads.iter().map(|load| load.replicas)) <= 1, "{:?}", loads);
            prop_assert!(!enough || spread(loads.iter().map(|load| load.leaders)) <= 1, "{:?}", loads);
        }

        #[test]
        fn many_small_topics_even_out_over_the_cluster(
            racks in 1usize..4,
            brokers_per_rack in 1usize..4,
            topics in 1usize..60,
            replication_factor in 1usize..4,
            seed: u64,
        ) {
            let replication_factor = replication_factor.min(racks * brokers_per_rack);
            let mut placer = Placer::new(&image_with_racks(&vec![brokers_per_rack; racks]), |_| true);
            let mut all = Vec::new();
            for topic in 0..topics as u64 {
                let partitions = placer.place(std::iter::empty(), 1, replication_factor, mix64(seed ^ topic));
                placer.count(&partitions);
                all.extend(partitions);
            }
            let loads = loads(&placer, &all);
            prop_assert!(spread(loads.iter().map(|load| load.replicas)) <= 1, "{:?}", loads);
            // What is placed stays, so that of thousands of clusters a few are off by 3.
            prop_assert!(spread(loads.iter().map(|load| load.leaders)) <= 3, "{:?}", loads);
        }
    }

    #[test]
    fn the_largest_topic_is_placed_evenly() {
        let placer = Placer::new(&image_with_racks(&[4, 4, 4]), |_| true);
        let partitions = placer.place(std::iter::empty(), types::limits::PARTITIONS_MAX, 3, 1);
        let loads = loads(&placer, &partitions);
        assert!(spread(loads.iter().map(|load| load.leaders)) <= 1, "{loads:?}");
        assert!(spread(loads.iter().map(|load| load.replicas)) <= 1, "{loads:?}");
    }

    #[test]
    fn seeds_vary_the_placement() {
        let placer = Placer::new(&image_with_racks(&[6]), |_| true);
        let placements: BTreeSet<_> =
            (0..50).map(|seed| placer.place(std::iter::empty(), 1, 3, seed)[0].replicas.clone()).collect();
        assert!(placements.len() > 20, "{} of 50 differ", placements.len());
        let sets: BTreeSet<BTreeSet<_>> = placer
            .place(std::iter::empty(), 100, 3, 1)
            .into_iter()
            .map(|partition| partition.replicas.into_iter().collect())
            .collect();
        assert!(sets.len() >= 10, "a failed broker's load falls on all others: {} sets of 20", sets.len());
    }
}
