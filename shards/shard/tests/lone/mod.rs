//! The data shard of the only node, with a WAL that is written when these tests want it.

use shard::{Effect, Event, Shard};
use types::{NodeId, Now};

use crate::common::new_shard;

pub const NODE: NodeId = NodeId(1);

pub struct LoneShard {
    pub now: Now,
    pub shard: Shard,
    unwritten: Option<u64>,
    /// What concerns others than the WAL.
    effects: Vec<Effect>,
}

impl LoneShard {
    pub fn new() -> LoneShard {
        let now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
        let mut effects = Vec::new();
        let shard = new_shard(NODE, &[NODE], now, &mut effects);
        let mut lone = LoneShard { now, shard, unwritten: None, effects: Vec::new() };
        lone.carry_out(effects);
        lone
    }

    pub fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.shard.step(self.now, event, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::CreateWalFile { file } => self.step(Event::WalFileReady { file, result: Ok(()) }),
                Effect::WriteWal { number, .. } => self.unwritten = Some(number),
                Effect::Fatal(reason) => panic!("the node ends: {reason}"),
                other => self.effects.push(other),
            }
        }
    }

    /// Makes the write that is under way durable. Whether there was one.
    pub fn write(&mut self) -> bool {
        let flush = self.unwritten.take();
        flush.map(|flush| self.step(Event::WalFlushed { flush })).is_some()
    }

    /// What the shard asked of others than its WAL since the last look.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }
}
