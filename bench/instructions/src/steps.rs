//! Whole steps of a shard.

use shard::Event;

use crate::{
    REPETITIONS,
    codec::{batch, produce_frame as frame_of},
    world::World,
};

const TOPIC: &str = "topic";

/// Produces batches of one record, and counts the steps that `counted` picks.
fn produce_counting(mut world: World, counted: fn(&World, usize, &Event) -> bool) {
    world.create_topic(TOPIC);
    let frame = frame_of(TOPIC, &batch(1));
    let leader = world.find_leader(&frame);
    for _ in 0..REPETITIONS {
        world.counted = None;
        world.pass_time();
        world.counted = Some(counted);
        world.produce(leader, &frame);
    }
}

/// The step that takes a Produce in: decoded, validated, given its offsets and proposed.
pub fn produce_frame() {
    produce_counting(World::new(1), |_, _, event| matches!(event, Event::Frame { .. }));
}

/// Every step from the request to its answer, on a broker that is alone.
pub fn produce_whole() {
    produce_counting(World::new(1), |_, _, _| true);
}

/// Every step of one follower of three for one batch.
pub fn follower_append() {
    produce_counting(World::new(3), |world, node, _| node == world.follower());
}
