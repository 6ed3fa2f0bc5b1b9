//! What goes wrong, and how it is put right again.

use shard::Event;
use types::{ShardId, ShardLayout};

use crate::node::Place;
use crate::plan::Fault;
use crate::process::{Process, Start, node_id};
use crate::world::{Happening, World};

/// How long a node may take to start, in microseconds.
const NODE_STARTS_US_MAX: u64 = 100_000;

impl World {
    /// Starts a node. What was planned before the faults ended may come late: it runs already, or is left out.
    pub(crate) fn start(&mut self, node: usize, layout: ShardLayout) {
        if self.healed_us.is_some()
            && (self.nodes[node].process.is_some() || self.plan.left_out.contains(&node))
        {
            return;
        }
        assert!(self.nodes[node].process.is_none(), "one process at a time");
        self.incarnation += 1;
        let incarnation = self.incarnation;
        self.note(format_args!("node {} starts as {incarnation} with {layout:?}", node_id(node)));
        let now = self.now(node);
        let found = &mut self.nodes[node];
        if found.disk.layout.is_some_and(|before| before != layout) {
            self.coverage.mark("layout changed");
        }
        let start = Start {
            options: &self.plan.node,
            node: node_id(node),
            has_joined: found.has_joined,
            layout,
            incarnation,
            now,
        };
        let (process, begun) = Process::start(&start, &mut found.disk, &mut self.random);
        found.process = Some(process);
        for (shard, effects) in begun {
            let place = Place { node, shard };
            for effect in effects {
                self.carry_out(place, effect);
            }
            self.nodes[node].lane(shard).is_turn_due = true;
            self.schedule_at_node(0, node, Happening::Turn(place));
        }
    }

    pub(crate) fn on_fault(&mut self, fault: Fault) {
        if self.healed_us.is_some() {
            return;
        }
        self.note(format_args!("{fault:?}"));
        match fault {
            Fault::Crash { node, down_us } => self.crash_for(node, down_us),
            Fault::CrashAll { down_us } => {
                self.coverage.mark("crash of all");
                for node in 0..self.nodes.len() {
                    let down_us = self.random.between(1, down_us);
                    self.crash_for(node, down_us);
                }
            }
            Fault::Shutdown { node, down_us } => self.shut_down(node, down_us),
            Fault::DiskFull { node, for_us } => {
                self.coverage.mark("disk full");
                self.nodes[node].disk.is_full = true;
                self.schedule(for_us, None, Happening::HasSpace(node));
            }
            Fault::SlowDisk { node, for_us } => {
                self.coverage.mark("slow disk");
                self.nodes[node].slow_until_us = self.now_us + for_us;
            }
            Fault::Cut { pairs, for_us } => {
                self.coverage.mark("cut");
                self.cut(&pairs);
                self.schedule(for_us, None, Happening::Mended(pairs));
            }
            Fault::Reset { one, other } => {
                self.coverage.mark("connection reset");
                self.reset_lines(one, other);
            }
            Fault::SlowNetwork { for_us } => {
                self.coverage.mark("slow network");
                self.slow_network(for_us);
            }
            Fault::ClientGone => {
                self.coverage.mark("client gone");
                let client = self.random.index(self.clients.len());
                self.disconnect(client);
            }
            Fault::ClockJump { node, by_ms } => {
                self.coverage.mark("clock jump");
                self.nodes[node].wall_skew_ms += by_ms;
            }
        }
    }

    fn crash_for(&mut self, node: usize, down_us: u64) {
        if self.nodes[node].process.is_some() {
            self.coverage.mark("crash");
            let layout = self.plan.layout_of(node, &mut self.random);
            self.crash(node);
            self.schedule(down_us, None, Happening::Started(node, layout));
        }
    }

    fn shut_down(&mut self, node: usize, down_us: u64) {
        let layout = self.plan.layout_of(node, &mut self.random);
        let found = &mut self.nodes[node];
        if found.process.is_none() || found.restart.is_some() {
            return;
        }
        self.coverage.mark("shutdown");
        found.restart = Some((down_us, layout));
        for shard in (0..found.shards()).map(|shard| ShardId(u16::try_from(shard).expect("few shards"))) {
            self.feed(Place { node, shard }, Event::ShutdownRequested);
        }
    }

    pub(crate) fn on_shut_down(&mut self, place: Place) {
        self.note(format_args!("{place} has shut down"));
        let node = &mut self.nodes[place.node];
        assert!(!node.shut_down.contains(&place.shard), "a shard shuts down once");
        node.shut_down.push(place.shard);
        if node.shut_down.len() == node.shards()
            && let Some((down_us, layout)) = node.restart.take()
        {
            let node = place.node;
            self.schedule_at_node(0, node, Happening::Ended { node, down_us, layout });
        }
    }

    /// Ends the process of a node as a power failure does.
    pub(crate) fn crash(&mut self, node: usize) {
        let found = &mut self.nodes[node];
        let process = found.process.take().expect("only what runs crashes");
        process.crash(&mut found.disk, &mut self.random);
        found.rings.clear();
        found.shut_down.clear();
        found.restart = None;
        self.note(format_args!("node {} crashes", node_id(node)));
        self.end_lines_of(node);
        self.lose_links_of(node);
    }

    /// Ends all faults, but for the nodes that are left out: they stay down.
    pub(crate) fn heal(&mut self) {
        self.note(format_args!("healed"));
        self.is_stopping = true;
        self.healed_us = Some(self.now_us);
        self.mend_all();
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.is_full = false;
            self.nodes[node].slow_until_us = 0;
            if self.plan.left_out.contains(&node) {
                if self.nodes[node].process.is_some() {
                    self.crash(node);
                }
            } else {
                self.ensure_started(node);
            }
        }
    }

    /// Brings back the nodes that were left out.
    pub(crate) fn heal_the_rest(&mut self) {
        if self.plan.left_out.is_empty() {
            return;
        }
        for node in std::mem::take(&mut self.plan.left_out) {
            self.coverage.mark("left out nodes came back");
            self.ensure_started(node);
        }
        self.check_leaders();
    }

    fn ensure_started(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        let layout = self.plan.layouts[node];
        let delay_us = self.random.below(NODE_STARTS_US_MAX);
        self.schedule(delay_us, None, Happening::Started(node, layout));
    }

    /// Crashes all nodes of a quiet cluster at once and starts them again.
    pub fn restart(&mut self) {
        for node in 0..self.nodes.len() {
            self.crash(node);
            let layout = self.plan.layout_of(node, &mut self.random);
            let delay_us = self.random.below(NODE_STARTS_US_MAX);
            self.schedule(delay_us, None, Happening::Started(node, layout));
        }
        // What is under way in the world still reaches the clients.
        self.run_for_us(1_000_000);
    }
}
