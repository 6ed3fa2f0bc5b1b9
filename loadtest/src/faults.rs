//! Brings faults about and heals them, one after the other, with quiet periods between.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    cluster::{ANSWER_TIMEOUT, Cluster},
    error::LoadtestError,
    history::{Operation, Outcome},
    network::{End, Network},
    scenario::{Direction, Reach, Role, Scenario, Step},
    wire::{ClusterView, Connection, PartitionView},
    workload::{GROUP, Shared},
};

/// The process that faults are written down under.
const NAME: &str = "faults";
const KILLED_MS: std::ops::Range<u64> = 200..8_000;
const PAUSED_MS: std::ops::Range<u64> = 1_000..20_000;
const CUT_MS: std::ops::Range<u64> = 3_000..15_000;
const FLAPS: std::ops::Range<u32> = 4..10;
const FLAP_MS: std::ops::Range<u64> = 200..2_000;
const QUIET_MS: std::ops::Range<u64> = 2_000..6_000;
const IN_SYNC_SECONDS_MAX: u64 = 60;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The cluster, and the hand that hurts it.
pub struct Injector<'a> {
    /// The nodes.
    pub cluster: &'a mut Cluster,
    /// Their network, if they have their own.
    pub network: Option<&'a mut Network>,
    /// The clients' view.
    pub shared: Arc<Shared>,
    /// Where choices come from.
    pub chance: fastrand::Rng,
    /// How long writes may take to resume.
    pub outage_max: Duration,
    /// Set by SIGINT and SIGTERM.
    pub interrupted: Arc<AtomicBool>,
}

/// Where a fault strikes, with how it is called.
struct Target {
    node: i32,
    role: String,
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "node {} ({})", self.node, self.role)
    }
}

impl Injector<'_> {
    /// Does the steps of a scenario until the time is over. Ends with everything healed.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Node`] when a node does not come back, [`LoadtestError::Interrupted`], or what keeps the
    /// injector from working.
    pub fn run(&mut self, scenario: &Scenario, steps: &[Step], until: Instant) -> Result<(), LoadtestError> {
        let mut turn = 0;
        loop {
            let quiet = Duration::from_millis(self.chance.u64(QUIET_MS));
            self.hold(quiet.min(until.saturating_duration_since(Instant::now())))?;
            if Instant::now() >= until {
                return Ok(());
            }
            if steps.is_empty() {
                continue;
            }
            let index =
                if scenario.is_mixed { self.chance.usize(0..steps.len()) } else { turn % steps.len() };
            turn += 1;
            self.inject(steps[index])?;
            self.await_recovery()?;
        }
    }

    fn inject(&mut self, step: Step) -> Result<(), LoadtestError> {
        match step {
            Step::Kill(role) => self.kill(role),
            Step::KillAll => self.kill_all(),
            Step::Pause(role) => self.pause(role),
            Step::Rolling => self.rolling(),
            Step::Cut(role, reach, direction) => self.cut(role, reach, direction),
            Step::Flap(role) => self.flap(role),
        }
    }

    fn kill(&mut self, role: Role) -> Result<(), LoadtestError> {
        let target = self.target(role);
        let start_us = self.begin(&format!("kill -9 of {target}"));
        self.cluster.kill(&[target.node])?;
        self.hold_at_random(KILLED_MS)?;
        self.cluster.start(target.node)?;
        self.end(start_us, format!("kill -9 of {target}"), vec![target.node], self.survives_one(), false);
        Ok(())
    }

    fn kill_all(&mut self) -> Result<(), LoadtestError> {
        let fault = "kill -9 of all nodes";
        let start_us = self.begin(fault);
        let nodes = self.cluster.ids();
        self.cluster.kill(&nodes)?;
        self.cluster.start_all()?;
        self.end(start_us, fault.to_owned(), nodes, false, false);
        Ok(())
    }

    fn pause(&mut self, role: Role) -> Result<(), LoadtestError> {
        let target = self.target(role);
        let start_us = self.begin(&format!("SIGSTOP of {target}"));
        self.cluster.pause(target.node)?;
        self.hold_at_random(PAUSED_MS)?;
        self.cluster.resume(target.node)?;
        self.end(start_us, format!("SIGSTOP of {target}"), vec![target.node], self.survives_one(), true);
        Ok(())
    }

    fn rolling(&mut self) -> Result<(), LoadtestError> {
        for node in self.cluster.ids() {
            let fault = format!("orderly restart of node {node}");
            let start_us = self.begin(&fault);
            self.cluster.stop(node)?;
            self.cluster.start(node)?;
            self.end(start_us, fault, vec![node], self.survives_one(), false);
            self.await_recovery()?;
        }
        Ok(())
    }

    fn cut(&mut self, role: Role, reach: Reach, direction: Direction) -> Result<(), LoadtestError> {
        let target = self.target(role);
        let fault = describe_cut(&target, reach, direction);
        let start_us = self.begin(&fault);
        self.cut_node(target.node, reach, direction)?;
        self.hold_at_random(CUT_MS)?;
        self.mend()?;
        // A leader that only its clients reach may keep some of them waiting until the cut is mended.
        let is_writable = reach == Reach::All && self.survives_one();
        self.end(start_us, fault, vec![target.node], is_writable, true);
        Ok(())
    }

    fn flap(&mut self, role: Role) -> Result<(), LoadtestError> {
        let target = self.target(role);
        let fault = format!("flapping network of {target}");
        let start_us = self.begin(&fault);
        for _ in 0..self.chance.u32(FLAPS) {
            self.cut_node(target.node, Reach::All, Direction::Both)?;
            self.hold_at_random(FLAP_MS)?;
            self.mend()?;
            self.hold_at_random(FLAP_MS)?;
        }
        self.end(start_us, fault, vec![target.node], false, true);
        Ok(())
    }

    fn cut_node(&mut self, node: i32, reach: Reach, direction: Direction) -> Result<(), LoadtestError> {
        let network = self.network.as_mut().expect("only possible steps are chosen");
        let own = End::Node(u8::try_from(node).expect("nodes are numbered from 1 to 253"));
        for other in network.ends().filter(|&end| end != own && (end != End::Clients || reach == Reach::All))
        {
            if direction != Direction::Incoming {
                network.cut(own, other)?;
            }
            if direction != Direction::Outgoing {
                network.cut(other, own)?;
            }
        }
        Ok(())
    }

    fn mend(&mut self) -> Result<(), LoadtestError> {
        self.network.as_mut().expect("only possible steps are chosen").heal()
    }

    /// Whether a majority is left of each partition and of the metadata when one node is away.
    fn survives_one(&self) -> bool {
        self.shared.plan.replication >= 3
    }

    fn begin(&self, fault: &str) -> u64 {
        let now_us = self.shared.recorder.clock.now_us();
        println!("  {:7.1} s  {fault}", now_us as f64 / 1e6);
        now_us
    }

    fn end(&self, start_us: u64, fault: String, nodes: Vec<i32>, is_writable: bool, leaves_behind: bool) {
        let operation = Operation::Fault { fault, nodes, is_writable, leaves_behind };
        self.shared.recorder.ok(NAME, start_us, operation);
    }

    /// The node that has a role now. When nobody is known to have it, any node is taken, and called so.
    fn target(&mut self, role: Role) -> Target {
        let view = self.shared.directory.view(|_| true).unwrap_or_default();
        let found = match role {
            Role::Leader => self.leader(&view),
            Role::Follower => self.follower(&view),
            Role::Controller => Some(view.controller).map(|node| (node, "metadata leader".to_owned())),
            Role::Coordinator => self.coordinator().map(|node| (node, "coordinator".to_owned())),
        };
        let ids = self.cluster.ids();
        match found.filter(|(node, _)| ids.contains(node)) {
            Some((node, role)) => Target { node, role },
            None => Target { node: ids[self.chance.usize(0..ids.len())], role: "any".to_owned() },
        }
    }

    fn leader(&mut self, view: &ClusterView) -> Option<(i32, String)> {
        let partition = self.partition(view)?;
        Some((partition.leader, format!("leader of {}", partition.at)))
    }

    fn follower(&mut self, view: &ClusterView) -> Option<(i32, String)> {
        let partition = self.partition(view)?;
        let followers: Vec<_> =
            partition.replicas.iter().copied().filter(|&node| node != partition.leader).collect();
        let node = self.chance.choice(followers)?;
        Some((node, format!("follower of {}", partition.at)))
    }

    fn partition(&mut self, view: &ClusterView) -> Option<PartitionView> {
        let topic = &self.shared.plan.topic;
        let partitions = view.partitions.iter().filter(|partition| partition.at.topic == *topic);
        self.chance.choice(partitions.collect::<Vec<_>>()).cloned()
    }

    fn coordinator(&self) -> Option<i32> {
        self.shared.directory.nodes().find_map(|(_, address)| {
            Connection::open(address, ANSWER_TIMEOUT)
                .and_then(|mut connection| connection.coordinator(GROUP))
                .ok()
        })
    }

    fn hold_at_random(&mut self, range_ms: std::ops::Range<u64>) -> Result<(), LoadtestError> {
        let duration = Duration::from_millis(self.chance.u64(range_ms));
        self.hold(duration)
    }

    /// Lets time pass, and notices nodes that end by themselves.
    fn hold(&mut self, duration: Duration) -> Result<(), LoadtestError> {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            self.look()?;
            thread::sleep(LOOK_PAUSE);
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), LoadtestError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(LoadtestError::Interrupted);
        }
        for crash in self.cluster.take_crashes()? {
            println!("  node {} ended by itself: {}", crash.node, crash.why);
            let now_us = self.shared.recorder.clock.now_us();
            let operation = Operation::Crash { node: crash.node };
            self.shared.recorder.record(NAME, now_us, Outcome::Fail, operation, Some(crash.why));
            self.cluster.start(crash.node)?;
        }
        Ok(())
    }

    /// Until all partitions are written again (or have had their time) and all replicas are caught up: the next
    /// fault then hurts a whole cluster.
    fn await_recovery(&mut self) -> Result<(), LoadtestError> {
        let healed_us = self.shared.recorder.clock.now_us();
        let deadline = Instant::now() + self.outage_max + Duration::from_secs(1);
        while self.shared.oldest_acknowledgement_us() <= healed_us && Instant::now() < deadline {
            self.look()?;
            thread::sleep(LOOK_PAUSE);
        }
        let within = Duration::from_secs(IN_SYNC_SECONDS_MAX);
        match self.cluster.await_view(within, |view| lagging(view, &self.shared.plan.topic)) {
            Err(LoadtestError::NotReady { seconds, why }) => {
                println!("  after {seconds} s: {why}");
                Ok(())
            }
            result => result,
        }
    }
}

fn describe_cut(target: &Target, reach: Reach, direction: Direction) -> String {
    let whom = if reach == Reach::All { "all" } else { "its peers" };
    match direction {
        Direction::Both => format!("{target} isolated from {whom}"),
        Direction::Outgoing => format!("{target} is not heard by {whom}"),
        Direction::Incoming => format!("{target} does not hear {whom}"),
    }
}

/// The partitions of a topic that lack a leader or a caught-up replica, if any.
fn lagging(view: &ClusterView, topic: &str) -> Option<String> {
    let partitions = view.partitions.iter().filter(|partition| partition.at.topic == topic);
    let lagging: Vec<_> = partitions
        .filter(|partition| {
            let in_sync: BTreeSet<_> = partition.in_sync.iter().collect();
            partition.leader < 0 || partition.replicas.iter().any(|node| !in_sync.contains(node))
        })
        .map(|partition| {
            format!("{} (leader {}, in sync {:?})", partition.at, partition.leader, partition.in_sync)
        })
        .collect();
    if lagging.is_empty() {
        None
    } else {
        Some(format!("not all replicas are in sync: {}", lagging.join(", ")))
    }
}
