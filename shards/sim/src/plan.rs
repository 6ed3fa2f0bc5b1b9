//! What a seed decides before the history begins.

use types::ShardLayout;
use types::hash::mix64;

use crate::process::NodeOptions;
use crate::random::Random;

/// How slow things are at most, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// From an event to the end of its turn.
    pub turn_us: u64,
    /// A message between shards.
    pub ring_us: u64,
    /// A flush of the WAL.
    pub wal_us: u64,
    /// The making of a WAL file.
    pub wal_file_us: u64,
    /// A request on segments.
    pub disk_us: u64,
    /// One way between client and node, or between two nodes.
    pub network_us: u64,
}

/// Something that goes wrong. Nodes are named by their place in the cluster.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Power fails.
    Crash {
        /// Where.
        node: usize,
        /// How long the node stays down.
        down_us: u64,
    },
    /// Power fails right after files were made, renamed or removed or a segment was written, while other writes are under way.
    CrashAtFileChange {
        /// Where.
        node: usize,
        /// How long the node stays down.
        down_us: u64,
    },
    /// Power fails everywhere.
    CrashAll {
        /// How long the nodes stay down at most.
        down_us: u64,
    },
    /// The process is asked to end.
    Shutdown {
        /// Which.
        node: usize,
        /// How long the node stays down.
        down_us: u64,
    },
    /// The file system is full.
    DiskFull {
        /// Where.
        node: usize,
        /// For how long.
        for_us: u64,
    },
    /// Flushes and requests on segments take much longer.
    SlowDisk {
        /// Where.
        node: usize,
        /// For how long.
        for_us: u64,
    },
    /// No request on the disk completes.
    HungDisk {
        /// Where.
        node: usize,
        /// For how long.
        for_us: u64,
    },
    /// Reads from segments fail now and then.
    FailingReads {
        /// Where.
        node: usize,
        /// For how long.
        for_us: u64,
    },
    /// The next write fails, to the WAL or to a segment.
    FailingWrite {
        /// Where.
        node: usize,
    },
    /// A bit of a segment changes by itself, until an operator puts it right.
    Rot {
        /// Where.
        node: usize,
        /// For how long.
        for_us: u64,
    },
    /// The process stands still (SIGSTOP).
    Pause {
        /// Which.
        node: usize,
        /// For how long.
        for_us: u64,
    },
    /// Something happens to a node that leads.
    AtLeader {
        /// What.
        what: LeaderFault,
        /// For how long.
        for_us: u64,
    },
    /// Two nodes do not hear each other, while the node that both hear restarts again and again.
    Storm {
        /// Sender and receiver.
        pairs: Vec<(usize, usize)>,
        /// For how long.
        for_us: u64,
    },
    /// Nothing passes from these nodes to those.
    Cut {
        /// Sender and receiver.
        pairs: Vec<(usize, usize)>,
        /// For how long.
        for_us: u64,
    },
    /// The connections between two nodes break; they may dial again at once.
    Reset {
        /// The one.
        one: usize,
        /// The other.
        other: usize,
    },
    /// Everything between nodes takes much longer.
    SlowNetwork {
        /// For how long.
        for_us: u64,
    },
    /// A client drops its connection.
    ClientGone,
    /// The wall clock is set.
    ClockJump {
        /// Where.
        node: usize,
        /// By this much.
        by_ms: i64,
    },
}

/// What happens to a leader.
#[derive(Clone, Copy, Debug)]
pub enum LeaderFault {
    /// Power fails.
    Crash,
    /// The process stands still.
    Pause,
    /// No node hears it, nor it them; clients do.
    Cut,
    /// No request on its disk completes.
    HungDisk,
}

/// A history before it happens.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// The nodes' settings.
    pub node: NodeOptions,
    /// The shards of each node at its first start.
    pub layouts: Vec<ShardLayout>,
    /// Whether the number of shards changes at restarts.
    pub has_layout_changes: bool,
    /// How slow things are.
    pub delays: Delays,
    /// Whether disks lose what they had: bits rot, writes go astray, requests fail.
    pub has_damage: bool,
    /// When what goes wrong.
    pub faults: Vec<(u64, Fault)>,
    /// When faults end.
    pub duration_us: u64,
    /// How much is written.
    pub load: Load,
    /// Whether an operator moves replicas. Not where disks are damaged: of a partition that moves to one node nothing may be left then.
    pub has_moves: bool,
    /// Topics have at least so many replicas.
    pub replication_min: usize,
    /// The nodes that come back only after the others have shown that they make progress without them.
    pub left_out: Vec<usize>,
    /// How they are away.
    pub absence: Absence,
}

/// How a node is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Its process does not run.
    Down,
    /// It hears no other node, but is heard.
    Deaf,
    /// No other node hears it.
    Mute,
}

/// How much a history writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A few megabytes: nothing fills up.
    Light,
    /// Segments fill up.
    Heavy,
    /// All WAL files fill up.
    Flood,
}

impl Plan {
    /// The plan of a seed for so many nodes.
    pub fn new(seed: u64, nodes: usize) -> Plan {
        assert!((1..=9).contains(&nodes), "a cluster has a few nodes");
        let mut random = Random::new(seed ^ 0x5117);
        let load = match random.below(100) {
            // A flood of several nodes would not fit the memory of a small machine.
            0..3 if nodes == 1 => Load::Flood,
            0..15 => Load::Heavy,
            _ => Load::Light,
        };
        let is_long = nodes > 1 && random.percent(20);
        let duration_us = match is_long {
            true => random.between(25_000_000, 50_000_000),
            false => random.between(1_000_000, 12_000_000),
        };
        let scale = [1, 1, 4, 20][random.index(4)];
        let delays = Delays {
            turn_us: 20 * scale,
            ring_us: 30 * scale,
            wal_us: 200 * scale,
            wal_file_us: 20_000,
            disk_us: if load == Load::Flood || random.percent(15) { 100_000 } else { 500 * scale },
            network_us: 200 * scale,
        };
        let layout = random_layout(&mut random, load);
        let small = |number: u64| i64::try_from(number).expect("it is small");
        let retention_check_interval_ms = small(random.between(200, 5_000));
        let offsets_topic_partitions = i32::try_from(random.between(1, 4)).expect("it is small");
        let has_layout_changes = random.percent(40);
        let is_half_healed = nodes > 2 && random.percent(25);
        let replication_min = if is_half_healed { nodes } else { 1 };
        let has_damage = random.percent(25);
        let offsets_replicas = random.between(replication_min as u64, nodes as u64);
        let mut plan = Plan {
            seed,
            node: NodeOptions {
                nodes,
                may_all_begin: is_half_healed || random.percent(50),
                replica_lag_ms_max: [500, 3_000, 30_000][random.index(3)],
                leader_balance_interval_ms: [None, Some(300), Some(10_000)][random.index(3)],
                retention_check_interval_ms,
                offsets_topic_partitions,
                offsets_topic_replication: i16::try_from(offsets_replicas).expect("few nodes"),
            },
            layouts: (0..nodes).map(|_| layout).collect(),
            has_layout_changes,
            delays,
            has_damage,
            faults: Vec::new(),
            duration_us,
            load,
            // Apart from the other choices, which stay those of the seed.
            has_moves: nodes > 1 && !has_damage && mix64(seed).is_multiple_of(2),
            replication_min,
            left_out: Vec::new(),
            absence: [Absence::Down, Absence::Deaf, Absence::Mute][random.index(3)],
        };
        if random.percent(20) {
            plan.layouts = (0..nodes).map(|_| random_layout(&mut random, load)).collect();
        }
        if is_half_healed {
            let first = random.index(nodes);
            let count = usize::try_from(random.between(1, (nodes as u64 - 1) / 2)).expect("few nodes");
            plan.left_out = (first..first + count).map(|node| node % nodes).collect();
        }
        let faults = Faults { nodes, is_long, has_damage, duration_us, planned: Vec::new() };
        plan.faults = faults.plan(&mut random);
        plan
    }

    /// The shards of a node at another start.
    pub fn layout_of(&self, node: usize, random: &mut Random) -> ShardLayout {
        match self.has_layout_changes && random.percent(50) {
            true => random_layout(random, self.load),
            false => self.layouts[node],
        }
    }
}

fn random_layout(random: &mut Random, load: Load) -> ShardLayout {
    let shards_max = match load {
        Load::Light => 4,
        Load::Heavy => 2,
        Load::Flood => 1,
    };
    let data_shards = u16::try_from(random.between(1, shards_max)).expect("it is small");
    ShardLayout::new(data_shards, random.percent(50))
}

/// The faults of a history, as they are drawn.
struct Faults {
    nodes: usize,
    is_long: bool,
    has_damage: bool,
    duration_us: u64,
    planned: Vec<(u64, Fault)>,
}

impl Faults {
    /// Each kind of fault comes or stays away as a whole, and some time passes without any.
    fn plan(mut self, random: &mut Random) -> Vec<(u64, Fault)> {
        self.plan_processes(random);
        self.plan_machines(random);
        if self.has_damage {
            self.plan_damage(random);
        }
        if self.nodes > 1 {
            self.plan_leaders(random);
            self.plan_network(random);
        }
        if random.percent(40) {
            let begin_us = random.below(self.duration_us);
            let end_us = begin_us + random.below(self.duration_us / 2);
            self.planned.retain(|(at_us, _)| *at_us < begin_us || *at_us >= end_us);
        }
        self.planned
    }

    fn add(&mut self, random: &mut Random, count: u64, fault: impl Fn(&mut Random) -> Fault) {
        for _ in 0..count {
            let at_us = random.below(self.duration_us);
            self.planned.push((at_us, fault(random)));
        }
    }

    fn plan_processes(&mut self, random: &mut Random) {
        let (nodes, is_long) = (self.nodes, self.is_long);
        let down_us = move |random: &mut Random, us: u64| match is_long && random.percent(40) {
            true => random.between(1_000_000, 25_000_000),
            false => random.between(100, us),
        };
        if self.nodes == 1 || random.percent(70) {
            let times = random.below(10);
            self.add(random, times, |random| {
                let node = random.index(nodes);
                Fault::Crash { node, down_us: down_us(random, 300_000) }
            });
        }
        if random.percent(30) {
            let times = random.between(1, 6);
            self.add(random, times, |random| Fault::CrashAtFileChange {
                node: random.index(nodes),
                down_us: random.between(100, 300_000),
            });
        }
        if self.nodes > 1 && random.percent(30) {
            let times = random.between(1, 2);
            self.add(random, times, |random| Fault::CrashAll { down_us: random.between(100, 300_000) });
        }
        if self.nodes == 1 || random.percent(50) {
            let times = random.below(4);
            self.add(random, times, |random| {
                let node = random.index(nodes);
                Fault::Shutdown { node, down_us: down_us(random, 100_000) }
            });
        }
    }

    /// What the protocol between replicas is most sensitive to: leaders that fall silent and come back, and restarts between the
    /// steps of an election.
    fn plan_leaders(&mut self, random: &mut Random) {
        let (nodes, duration_us) = (self.nodes, self.duration_us);
        if random.percent(50) {
            let kinds = [LeaderFault::Crash, LeaderFault::Pause, LeaderFault::Cut, LeaderFault::HungDisk];
            let times = random.between(1, 6);
            self.add(random, times, |random| {
                let what = kinds[random.index(kinds.len())];
                let for_us = match what {
                    LeaderFault::Crash => random.between(100, 1_000_000),
                    LeaderFault::Pause | LeaderFault::Cut | LeaderFault::HungDisk => {
                        random.between(100_000, 4_000_000)
                    }
                };
                Fault::AtLeader { what, for_us }
            });
        }
        if random.percent(25) {
            let times = random.between(1, 4);
            self.add(random, times, |random| {
                let node = random.index(nodes);
                Fault::Pause { node, for_us: random.between(10_000, 4_000_000) }
            });
        }
        if nodes > 2 && random.percent(25) {
            let node = random.index(nodes);
            let (one, other) = ((node + 1) % nodes, (node + 2) % nodes);
            let begin_us = random.below(duration_us);
            let for_us = random.between(3_000_000, 10_000_000);
            self.planned.push((begin_us, Fault::Storm { pairs: vec![(one, other), (other, one)], for_us }));
            let mut at_us = begin_us;
            while at_us < begin_us + for_us {
                self.planned.push((at_us, Fault::Crash { node, down_us: random.between(1_000, 200_000) }));
                at_us += random.between(300_000, 1_500_000);
            }
        }
    }

    fn plan_damage(&mut self, random: &mut Random) {
        let nodes = self.nodes;
        if random.percent(50) {
            let times = random.between(1, 4);
            self.add(random, times, |random| {
                let node = random.index(nodes);
                Fault::FailingReads { node, for_us: random.between(1_000, 3_000_000) }
            });
        }
        if random.percent(50) {
            let times = random.between(1, 4);
            self.add(random, times, |random| Fault::FailingWrite { node: random.index(nodes) });
        }
        if random.percent(60) {
            let times = random.between(5, 60);
            self.add(random, times, |random| {
                let node = random.index(nodes);
                Fault::Rot { node, for_us: random.between(100_000, 5_000_000) }
            });
        }
    }

    fn plan_machines(&mut self, random: &mut Random) {
        let nodes = self.nodes;
        if random.percent(30) {
            let times = random.between(1, 4);
            self.add(random, times, |random| {
                let node = random.index(nodes);
                Fault::DiskFull { node, for_us: random.between(1_000, 4_000_000) }
            });
        }
        if random.percent(30) {
            let times = random.between(1, 4);
            for _ in 0..times {
                let (at_us, node) = (random.below(self.duration_us), random.index(nodes));
                let for_us = random.between(1_000, 3_000_000);
                self.planned.push((at_us, Fault::SlowDisk { node, for_us }));
                if random.percent(60) {
                    // With much under way that is not durable.
                    let crash_us = at_us + random.below(for_us);
                    self.planned
                        .push((crash_us, Fault::Crash { node, down_us: random.between(100, 300_000) }));
                }
            }
        }
        if random.percent(25) {
            let times = random.between(1, 3);
            self.add(random, times, |random| {
                let node = random.index(nodes);
                Fault::HungDisk { node, for_us: random.between(10_000, 5_000_000) }
            });
        }
        if random.percent(60) {
            let times = random.between(1, 60);
            self.add(random, times, |_| Fault::ClientGone);
        }
        if random.percent(20) {
            let times = random.between(1, 3);
            self.add(random, times, |random| {
                let node = random.index(nodes);
                Fault::ClockJump { node, by_ms: random.below(20_000) as i64 - 10_000 }
            });
        }
    }

    fn plan_network(&mut self, random: &mut Random) {
        let nodes = self.nodes;
        if random.percent(60) {
            let times = random.between(1, 6);
            self.add(random, times, |random| {
                let pairs = random_cut(random, nodes);
                Fault::Cut { pairs, for_us: random.between(10_000, 5_000_000) }
            });
        }
        if random.percent(30) {
            let pairs = random_cut(random, nodes);
            let times = random.between(5, 20);
            self.add(random, times, |random| {
                let for_us = random.between(1_000, 400_000);
                Fault::Cut { pairs: pairs.clone(), for_us }
            });
        }
        if random.percent(40) {
            let times = random.between(1, 20);
            self.add(random, times, |random| {
                let one = random.index(nodes);
                let other = (one + 1 + random.index(nodes - 1)) % nodes;
                Fault::Reset { one, other }
            });
        }
        if random.percent(25) {
            let times = random.between(1, 3);
            self.add(random, times, |random| Fault::SlowNetwork {
                for_us: random.between(100_000, 3_000_000),
            });
        }
    }
}

/// Which ways are closed: around one node, between two halves, between two nodes, or one way only.
fn random_cut(random: &mut Random, nodes: usize) -> Vec<(usize, usize)> {
    let all =
        (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to))).filter(|(from, to)| from != to);
    let one = random.index(nodes);
    let other = (one + 1 + random.index(nodes - 1)) % nodes;
    match random.below(5) {
        0 => all.filter(|(from, to)| *from == one || *to == one).collect(),
        1 => {
            let sides = random.next_u64();
            let side = |node: usize| sides >> node & 1;
            all.filter(|(from, to)| side(*from) != side(*to)).collect()
        }
        2 => vec![(one, other), (other, one)],
        3 => vec![(one, other)],
        // It hears everybody and is not heard, or the other way round.
        _ => {
            let is_deaf = random.percent(50);
            all.filter(|(from, to)| if is_deaf { *to == one } else { *from == one }).collect()
        }
    }
}
