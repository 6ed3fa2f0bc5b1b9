//! The deterministic simulator: production shards in a virtual world that follows from one seed.
//!
//! One thread, a virtual clock, a virtual disk and virtual clients. The same seed gives the same history, twice.
//! A history ends with healing, a full read-back and a restart; whatever does not hold panics.

pub mod actor;
pub mod clients;
pub mod disk;
mod disk_request;
pub mod model;
pub mod plan;
pub mod process;
pub mod random;
pub mod trace;
pub mod world;

use clients::admin::Admin;
use clients::auditor::Auditor;
use clients::consumer::Consumer;
use clients::member::Member;
use clients::producer::{Producer, ProducerOptions};
use plan::{Load, Plan};
use random::Random;
use trace::Trace;
use world::World;

/// What a history came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Over everything that happened.
    pub trace_hash: u64,
    /// Records that were acknowledged.
    pub acknowledged_records: u64,
}

/// Runs the history of a seed.
///
/// # Panics
///
/// When something does not hold.
pub fn run_seed(seed: u64, is_traced: bool) -> Outcome {
    let plan = Plan::new(seed);
    let mut random = Random::new(seed ^ 0xc11e);
    let mut world = World::new(plan.clone(), Trace::new(is_traced));
    add_clients(&mut world, &plan, &mut random);
    world.run();
    audit(&mut world);
    for _ in 0..random.between(1, 2) {
        world.restart();
        audit(&mut world);
    }
    world.check_disk();
    Outcome { trace_hash: world.trace_hash(), acknowledged_records: world.model.acknowledged_records }
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
            Load::Heavy => (900_000, 4, 60),
            Load::Flood => (2_000_000, 3, 100),
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
    for group in 0..random.below(3) {
        for number in 0..random.between(1, 3) as usize {
            world.add_client(Box::new(Member::new(number, format!("group-{group}"), random.percent(50))));
        }
    }
}
