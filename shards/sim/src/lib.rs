//! The deterministic simulator: production shards in a virtual world that follows from one seed.
//!
//! One thread, a virtual clock, virtual disks, a virtual network and virtual clients; one node or several. The same seed gives the
//! same history, twice. A history ends with healing, a full read-back and restarts; whatever does not hold panics.

pub mod actor;
pub mod clients;
pub mod coverage;
mod damage;
pub mod disk;
mod disk_request;
mod durable;
mod effects;
mod event_text;
mod faults;
mod final_checks;
pub mod hunt;
mod in_sync;
mod judge;
mod links;
pub mod model;
mod network;
pub mod node;
pub mod plan;
pub mod process;
pub mod random;
mod resolve;
pub mod runner;
pub mod trace;
pub mod world;

use clients::admin::Admin;
use clients::auditor::Auditor;
use clients::consumer::Consumer;
use clients::member::Member;
use clients::mover::Mover;
use clients::producer::{Producer, ProducerOptions};
use coverage::Coverage;
use plan::{Load, Plan};
use random::Random;
use trace::Trace;
use types::mutants::Mutant;
use world::World;

/// What a history came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Over everything that happened.
    pub trace_hash: u64,
    /// Records that were acknowledged.
    pub acknowledged_records: u64,
    /// How much virtual time passed, in microseconds.
    pub virtual_us: u64,
    /// What was exercised.
    pub coverage: Coverage,
}

/// One history: all that decides it.
#[derive(Clone, Debug)]
pub struct History {
    /// Everything follows from it.
    pub seed: u64,
    /// How many nodes the cluster has.
    pub nodes: usize,
    /// Whether every event is printed.
    pub is_traced: bool,
    /// Ends the history after so many virtual milliseconds, unfinished.
    pub ticks: Option<u64>,
    /// The planted bug. Takes the feature `full`.
    pub mutant: Option<Mutant>,
}

impl History {
    /// The history of a seed for so many nodes.
    pub fn new(seed: u64, nodes: usize) -> History {
        History { seed, nodes, is_traced: false, ticks: None, mutant: None }
    }

    /// Lets it happen.
    ///
    /// # Panics
    ///
    /// When something does not hold.
    pub fn run(&self) -> Outcome {
        plant(self.mutant);
        let plan = Plan::new(self.seed, self.nodes);
        let mut random = Random::new(self.seed ^ 0xc11e);
        let mut world = World::new(plan.clone(), Trace::new(self.is_traced));
        add_clients(&mut world, &plan, &mut random);
        match self.ticks {
            Some(ms) => world.run_for_ms(ms),
            None => run_whole(&mut world, &mut random),
        }
        Outcome {
            trace_hash: world.trace_hash(),
            acknowledged_records: world.model.acknowledged_records,
            virtual_us: world.now_us,
            coverage: world.coverage,
        }
    }
}

#[cfg(feature = "full")]
fn plant(mutant: Option<Mutant>) {
    types::mutants::plant(mutant);
}

#[cfg(not(feature = "full"))]
fn plant(mutant: Option<Mutant>) {
    assert!(mutant.is_none(), "bugs are planted with the feature `full` only");
}

/// How long a request that nobody waits for may be under way, in microseconds.
const IN_FLIGHT_US_MAX: u64 = 8_000_000;

fn run_whole(world: &mut World, random: &mut Random) {
    world.run();
    world.check_leaders();
    world.run_until_idle();
    // What clients gave up or never wait for may still come about.
    world.run_for_us(IN_FLIGHT_US_MAX);
    audit(world);
    world.heal_the_rest();
    for _ in 0..random.between(1, 2) {
        world.restart();
        world.check_leaders();
        audit(world);
    }
    world.check_rest();
}

fn audit(world: &mut World) {
    world.add_client(Box::new(Auditor::new()));
    world.run_until_idle();
}

fn add_clients(world: &mut World, plan: &Plan, random: &mut Random) {
    let topics_max = random.between(1, 3) as usize;
    let tasks = random.between(3, 80);
    world.add_client(Box::new(Admin::new(
        plan.load != Load::Light,
        topics_max,
        plan.replication_min,
        tasks,
        random.between(10_000, 400_000),
    )));
    for number in 0..random.between(1, 5) as usize {
        let is_idempotent = random.percent(60);
        let acks = match random.below(10) {
            0 if !is_idempotent => 0,
            1..4 if !is_idempotent => 1,
            _ => -1,
        };
        let (value_bytes_max, records_max, batches_left) = match plan.load {
            Load::Light => {
                ([20, 500, 20_000][random.index(3)], random.between(1, 20), random.between(10, 800))
            }
            Load::Heavy => (60_000, 4, 60),
            Load::Flood => (120_000, 3, 100),
        };
        world.add_client(Box::new(Producer::new(ProducerOptions {
            number,
            is_idempotent,
            acks,
            window: [1, 2, 5][random.index(3)],
            batches_left,
            value_bytes_max,
            records_max,
            pause_us: if plan.load == Load::Flood { 100 } else { [100, 5_000, 100_000][random.index(3)] },
        })));
    }
    for number in 0..random.below(3) as usize {
        world.add_client(Box::new(Consumer::new(number)));
    }
    if plan.has_moves {
        let (moves, pause_us) = (random.between(1, 20), random.between(10_000, 400_000));
        world.add_client(Box::new(Mover::new(plan.replication_min, moves, pause_us)));
    }
    // The topic of their offsets has as many replicas as there were nodes when it was made, which may be those left out.
    let groups = if plan.left_out.is_empty() { random.below(3) } else { 0 };
    for group in 0..groups {
        for number in 0..random.between(1, 3) as usize {
            world.add_client(Box::new(Member::new(number, format!("group-{group}"), random.percent(50))));
        }
    }
}
