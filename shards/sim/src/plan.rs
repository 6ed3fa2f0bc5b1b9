//! What a seed decides before the history begins.

use types::{NodeId, ShardLayout};

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
    /// One way between client and node.
    pub network_us: u64,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Power fails.
    Crash {
        /// How long the node stays down.
        down_us: u64,
    },
    /// The process is asked to end.
    Shutdown {
        /// How long the node stays down.
        down_us: u64,
    },
    /// The file system is full.
    DiskFull {
        /// For how long.
        for_us: u64,
    },
    /// A client drops its connection.
    ClientGone,
    /// The wall clock is set.
    ClockJump {
        /// By this much.
        by_ms: i64,
    },
}

/// A history before it happens.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// The node's settings.
    pub node: NodeOptions,
    /// The shards at the first start.
    pub layout: ShardLayout,
    /// Whether the number of shards changes at restarts.
    pub has_layout_changes: bool,
    /// How slow things are.
    pub delays: Delays,
    /// When what goes wrong.
    pub faults: Vec<(u64, Fault)>,
    /// When faults end.
    pub duration_us: u64,
    /// How much is written.
    pub load: Load,
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
    /// The plan of a seed.
    pub fn new(seed: u64) -> Plan {
        let mut random = Random::new(seed ^ 0x5117);
        let load = match random.below(100) {
            0..3 => Load::Flood,
            3..15 => Load::Heavy,
            _ => Load::Light,
        };
        let duration_us = random.between(1_000_000, 12_000_000);
        let scale = [1, 1, 4, 20][random.index(4)];
        let delays = Delays {
            turn_us: 20 * scale,
            ring_us: 30 * scale,
            wal_us: 200 * scale,
            wal_file_us: 20_000,
            disk_us: if load == Load::Flood { 100_000 } else { 500 * scale },
            network_us: 200 * scale,
        };
        let layout = random_layout(&mut random, load);
        let mut plan = Plan {
            seed,
            node: NodeOptions {
                node: NodeId(1),
                retention_check_interval_ms: i64::try_from(random.between(200, 5_000)).expect("it is small"),
                offsets_topic_partitions: i32::try_from(random.between(1, 4)).expect("it is small"),
            },
            layout,
            has_layout_changes: random.percent(40),
            delays,
            faults: Vec::new(),
            duration_us,
            load,
        };
        plan.faults = faults(&mut random, duration_us);
        plan
    }

    /// The shards at another start.
    pub fn layout_of(&self, random: &mut Random) -> ShardLayout {
        match self.has_layout_changes && random.percent(50) {
            true => random_layout(random, self.load),
            false => self.layout,
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

fn faults(random: &mut Random, duration_us: u64) -> Vec<(u64, Fault)> {
    let mut faults = Vec::new();
    let mut add = |random: &mut Random, count: u64, fault: &dyn Fn(&mut Random) -> Fault| {
        for _ in 0..count {
            let at_us = random.below(duration_us);
            faults.push((at_us, fault(random)));
        }
    };
    let crashes = random.below(10);
    add(random, crashes, &|random| Fault::Crash { down_us: random.between(100, 300_000) });
    let shutdowns = random.below(3);
    add(random, shutdowns, &|random| Fault::Shutdown { down_us: random.between(100, 100_000) });
    if random.percent(30) {
        let times = random.between(1, 4);
        add(random, times, &|random| Fault::DiskFull { for_us: random.between(1_000, 4_000_000) });
    }
    if random.percent(60) {
        let times = random.between(1, 60);
        add(random, times, &|_| Fault::ClientGone);
    }
    if random.percent(20) {
        let times = random.between(1, 3);
        add(random, times, &|random| Fault::ClockJump { by_ms: random.below(20_000) as i64 - 10_000 });
    }
    faults
}
