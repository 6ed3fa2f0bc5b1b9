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
    disks::Disks,
    error::LoadtestError,
    history::{Operation, Outcome, TopicPartition},
    means::Means,
    network::Network,
    relay::{End, Weather},
    scenario::{Direction, Reach, Role, Scenario, Step, Trouble},
    wire::{ClusterView, Connection, PartitionView},
    workload::{Bulk, GROUP, Shared, produce_to_fresh_topics},
};

/// The process that faults are written down under.
const NAME: &str = "faults";
const KILLED_MS: std::ops::Range<u64> = 200..8_000;
const PAUSED_MS: std::ops::Range<u64> = 1_000..20_000;
const CUT_MS: std::ops::Range<u64> = 3_000..15_000;
const FLAPS: std::ops::Range<u32> = 4..10;
const FLAP_MS: std::ops::Range<u64> = 200..2_000;
const QUIET_MS: std::ops::Range<u64> = 2_000..6_000;
const FULL_MS: std::ops::Range<u64> = 3_000..8_000;
/// What is written while a disk is full: more than a node's WAL has room for without new files.
const FULL_BYTES: u64 = 256 << 20;
const FULL_SECONDS_MAX: u64 = 30;
const SLOW_MS: std::ops::Range<u64> = 5_000..15_000;
const SLOW_WRITES_PER_SECOND: std::ops::Range<u32> = 10..60;
const MOVED_MS: std::ops::Range<u64> = 0..200;
const CLOCK_MS: std::ops::Range<u64> = 3_000..10_000;
/// Less than Kafka's `message.timestamp.after.max.ms`, over which a leader refuses records of clients whose clock is right.
const CLOCK_AHEAD_MS_MAX: i64 = 45 * 60 * 1_000;
const SLOWDOWN_MAX: f64 = 3.0;
const AWAY_SECONDS_MAX: u64 = 1_800;
const FRESH_TOPICS: u64 = 100;
const IN_SYNC_SECONDS_MAX: u64 = 60;
const CATCH_UP_SECONDS_MAX: u64 = 600;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The cluster, and the hand that hurts it.
pub struct Injector<'a> {
    /// The nodes.
    pub cluster: &'a mut Cluster,
    /// What the run has made for itself.
    pub means: &'a Means,
    /// The clients' view.
    pub shared: Arc<Shared>,
    /// Where choices come from.
    pub chance: fastrand::Rng,
    /// How long writes may take to resume.
    pub outage_max: Duration,
    /// What is written while a follower is away.
    pub away_bytes: u64,
    /// Faults, at most.
    pub rounds: Option<u32>,
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

/// A fault that is not healed yet. The words are those of [`Operation::Fault`].
struct Fault {
    start_us: u64,
    what: String,
    nodes: Vec<i32>,
    is_writable: bool,
    leaves_behind: bool,
    slowdown_max: Option<f64>,
}

impl Fault {
    fn writable(self, is_writable: bool) -> Fault {
        Fault { is_writable, ..self }
    }

    fn leaving_behind(self) -> Fault {
        Fault { leaves_behind: true, ..self }
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
        // The first answers of all are late: connections, producer ids.
        self.hold_at_random(QUIET_MS)?;
        loop {
            self.quiet(until)?;
            let is_over = self.rounds.is_some_and(|rounds| turn >= rounds as usize);
            if is_over || Instant::now() >= until {
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

    fn quiet(&mut self, until: Instant) -> Result<(), LoadtestError> {
        let quiet = Duration::from_millis(self.chance.u64(QUIET_MS));
        let start_us = self.shared.recorder.clock.now_us();
        self.hold(quiet.min(until.saturating_duration_since(Instant::now())))?;
        self.shared.recorder.ok(NAME, start_us, Operation::Quiet);
        Ok(())
    }

    fn inject(&mut self, step: Step) -> Result<(), LoadtestError> {
        match step {
            Step::Kill(role) => self.kill(role),
            Step::KillAll => self.kill_all(),
            Step::Pause(role) => self.pause(role),
            Step::Rolling => self.rolling(),
            Step::Cut(role, reach, direction) => self.cut(role, reach, direction),
            Step::Flap(role) => self.flap(role),
            Step::Packets(trouble) => self.trouble_packets(trouble),
            Step::FullDisk(role) => self.fill_disk(role),
            Step::SlowDisk(role) => self.slow_disk(role),
            Step::SetClock(role) => self.set_clock(role),
            Step::CatchUp => self.catch_up(),
            Step::Reassign => self.reassign(),
            Step::Replace(role) => self.replace(role, None),
            Step::Refill => self.replace(Role::Follower, Some(SLOWDOWN_MAX)),
            Step::FreshTopics => self.fresh_topics(),
        }
    }

    fn kill(&mut self, role: Role) -> Result<(), LoadtestError> {
        let target = self.target(role);
        let fault =
            self.begin(format!("kill -9 of {target}"), vec![target.node]).writable(self.survives_one());
        self.cluster.kill(&[target.node])?;
        self.hold_at_random(KILLED_MS)?;
        self.cluster.start(target.node)?;
        self.end(fault);
        Ok(())
    }

    fn kill_all(&mut self) -> Result<(), LoadtestError> {
        let nodes = self.cluster.ids();
        let fault = self.begin("kill -9 of all nodes".to_owned(), nodes.clone());
        self.cluster.kill(&nodes)?;
        self.cluster.start_all()?;
        self.end(fault);
        Ok(())
    }

    fn pause(&mut self, role: Role) -> Result<(), LoadtestError> {
        let target = self.target(role);
        let fault = self.begin(format!("SIGSTOP of {target}"), vec![target.node]);
        let fault = fault.writable(self.survives_one()).leaving_behind();
        self.cluster.pause(target.node)?;
        self.hold_at_random(PAUSED_MS)?;
        self.cluster.resume(target.node)?;
        self.end(fault);
        Ok(())
    }

    fn rolling(&mut self) -> Result<(), LoadtestError> {
        for node in self.cluster.ids() {
            let fault = self.begin(format!("orderly restart of node {node}"), vec![node]);
            self.cluster.stop(node)?;
            self.cluster.start(node)?;
            self.end(fault.writable(self.survives_one()));
            self.await_recovery()?;
        }
        Ok(())
    }

    fn cut(&mut self, role: Role, reach: Reach, direction: Direction) -> Result<(), LoadtestError> {
        let target = self.target(role);
        // A leader that only its clients reach may keep some of them waiting until the cut is mended.
        let is_writable = reach == Reach::All && self.survives_one();
        let fault = self.begin(describe_cut(&target, reach, direction), vec![target.node]);
        let fault = fault.writable(is_writable).leaving_behind();
        self.cut_node(target.node, reach, direction);
        self.hold_at_random(CUT_MS)?;
        self.network().heal();
        self.end(fault);
        Ok(())
    }

    fn flap(&mut self, role: Role) -> Result<(), LoadtestError> {
        let target = self.target(role);
        let fault = self.begin(format!("flapping network of {target}"), vec![target.node]).leaving_behind();
        for _ in 0..self.chance.u32(FLAPS) {
            self.cut_node(target.node, Reach::All, Direction::Both);
            self.hold_at_random(FLAP_MS)?;
            self.network().heal();
            self.hold_at_random(FLAP_MS)?;
        }
        self.end(fault);
        Ok(())
    }

    fn network(&self) -> &Network {
        self.means.network.as_ref().expect("only possible steps are chosen")
    }

    fn disks(&self) -> &Disks {
        self.means.disks.as_ref().expect("only possible steps are chosen")
    }

    fn cut_node(&self, node: i32, reach: Reach, direction: Direction) {
        let network = self.network();
        let cut = Weather { is_cut: true, ..Weather::default() };
        let own = End::Node(u8::try_from(node).expect("nodes are numbered from 1 to 253"));
        for other in network.ends().filter(|&end| end != own && (end != End::Clients || reach == Reach::All))
        {
            if direction != Direction::Incoming {
                network.set(own, other, cut);
            }
            if direction != Direction::Outgoing {
                network.set(other, own, cut);
            }
        }
    }

    fn trouble_packets(&mut self, trouble: Trouble) -> Result<(), LoadtestError> {
        let (what, weather) = weather(trouble);
        let fault = self.begin(format!("packets: {what}"), self.cluster.ids()).leaving_behind();
        let network = self.network();
        for from in network.ends() {
            for to in network.ends().filter(|&to| to != from) {
                let is_between_nodes = from != End::Clients && to != End::Clients;
                let exchanged = if is_between_nodes { weather.exchanged } else { 0.0 };
                network.set(from, to, Weather { exchanged, ..weather });
            }
        }
        self.hold_at_random(CUT_MS)?;
        self.network().heal();
        self.end(fault);
        Ok(())
    }

    /// A leader without space refuses records until it has some again, and does not hand its partitions over.
    fn fill_disk(&mut self, role: Role) -> Result<(), LoadtestError> {
        let target = self.target(role);
        let fault = self.begin(format!("no space on the disk of {target}"), vec![target.node]);
        self.disks().fill(target.node)?;
        let bulk = self.write_much(FULL_BYTES, FULL_SECONDS_MAX)?;
        self.hold_at_random(FULL_MS)?;
        self.disks().free(target.node)?;
        self.end(fault);
        bulk.join()
    }

    fn slow_disk(&mut self, role: Role) -> Result<(), LoadtestError> {
        let target = self.target(role);
        let per_second = self.chance.u32(SLOW_WRITES_PER_SECOND);
        let what = format!("{per_second} writes a second on the disk of {target}");
        let fault = self.begin(what, vec![target.node]).writable(self.survives_one());
        let process = self.cluster.process(target.node).expect("all nodes run between faults");
        self.disks().bound_writes(target.node, process, Some(per_second))?;
        self.hold_at_random(SLOW_MS)?;
        self.disks().bound_writes(target.node, process, None)?;
        self.end(fault);
        Ok(())
    }

    fn set_clock(&mut self, role: Role) -> Result<(), LoadtestError> {
        let target = self.target(role);
        let ahead_ms = self.chance.i64(-CLOCK_AHEAD_MS_MAX..=CLOCK_AHEAD_MS_MAX);
        let what = format!("clock of {target} set by {:.1} s", ahead_ms as f64 / 1e3);
        let fault = self.begin(what, vec![target.node]).writable(true);
        let clocks = self.means.clocks.as_ref().expect("only possible steps are chosen");
        clocks.set(target.node, ahead_ms)?;
        self.hold_at_random(CLOCK_MS)?;
        clocks.set(target.node, 0)?;
        self.end(fault);
        Ok(())
    }

    /// Three lines in the history: the absence, the start, which costs the nodes of one machine what it would cost one alone, and
    /// what it costs the others that the follower catches up.
    fn catch_up(&mut self) -> Result<(), LoadtestError> {
        let target = self.target(Role::Follower);
        let nodes = vec![target.node];
        let away = self.begin(format!("kill -9 of {target}"), nodes.clone()).writable(self.survives_one());
        self.cluster.kill(&nodes)?;
        let bulk = self.write_much(self.away_bytes, AWAY_SECONDS_MAX)?;
        let megabytes = bulk.sent_bytes() / 1_000_000;
        bulk.join()?;
        self.end(away);
        self.hold_at_random(QUIET_MS)?;
        let start = self.begin(format!("start of node {}", target.node), nodes.clone());
        let start = start.writable(self.survives_one());
        self.cluster.start(target.node)?;
        self.end(start);
        let back = self.begin(format!("node {} catches up with {megabytes} MB", target.node), nodes);
        let back = Fault { slowdown_max: Some(SLOWDOWN_MAX), ..back.writable(self.survives_one()) };
        let within = Duration::from_secs(CATCH_UP_SECONDS_MAX);
        self.cluster.await_view(within, |view| lagging(view, &self.shared.plan.topic))?;
        self.end(back);
        Ok(())
    }

    /// One node alone holds a partition in between, and may be killed itself while the others learn from it: then nobody can write.
    fn reassign(&mut self) -> Result<(), LoadtestError> {
        let view = self.shared.directory.view(|_| true).unwrap_or_default();
        let Some(partition) = self.partition(&view) else { return Ok(()) };
        let mut all = self.cluster.ids();
        self.chance.shuffle(&mut all);
        let one = all[0];
        let moves = [
            (vec![one], all[self.chance.usize(1..all.len())]),
            (all.clone(), all[self.chance.usize(0..all.len())]),
        ];
        for (replicas, killed) in moves {
            let what = format!("replicas of {} go to {replicas:?}, kill -9 of node {killed}", partition.at);
            let fault = self.begin(what, vec![killed]).leaving_behind();
            for node in replicas.iter().filter(|node| **node != one) {
                self.shared.directory.renew(*node);
            }
            self.ask_to_move(&partition.at, &replicas)?;
            self.hold_at_random(MOVED_MS)?;
            self.cluster.kill(&[killed])?;
            self.hold_at_random(KILLED_MS)?;
            self.cluster.start(killed)?;
            let within = Duration::from_secs(CATCH_UP_SECONDS_MAX);
            self.cluster.await_view(within, |view| elsewhere(view, &partition.at, &replicas))?;
            self.end(fault);
        }
        Ok(())
    }

    /// Whoever can says that replicas are to be elsewhere.
    fn ask_to_move(&mut self, at: &TopicPartition, replicas: &[i32]) -> Result<(), LoadtestError> {
        let deadline = Instant::now() + Duration::from_secs(IN_SYNC_SECONDS_MAX);
        loop {
            let mut failure = None;
            for (_, address) in self.shared.directory.nodes() {
                let asked = Connection::open(address, ANSWER_TIMEOUT)
                    .and_then(|mut connection| connection.reassign(at, replicas, ANSWER_TIMEOUT));
                match asked {
                    Ok(()) => return Ok(()),
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure.filter(|_| Instant::now() > deadline) {
                let why = format!("{at} is not moved to {replicas:?}: {error}");
                return Err(LoadtestError::NotReady { seconds: IN_SYNC_SECONDS_MAX, why });
            }
            self.hold(LOOK_PAUSE)?;
        }
    }

    /// What the node held is on a majority without it, which the others must all be part of. What it costs them that the disk is
    /// filled may be judged.
    fn replace(&mut self, role: Role, slowdown_max: Option<f64>) -> Result<(), LoadtestError> {
        let within = Duration::from_secs(IN_SYNC_SECONDS_MAX);
        self.cluster.await_view(within, |view| lagging_among(view.partitions.iter()))?;
        let target = self.target(role);
        let fault = self.begin(format!("kill -9 of {target}, and another disk for it"), vec![target.node]);
        let fault = fault.writable(self.survives_one()).leaving_behind();
        self.cluster.kill(&[target.node])?;
        self.hold_at_random(KILLED_MS)?;
        self.cluster.replace(target.node)?;
        // That others take over what it led is of its death.
        self.cluster.await_view(within, |view| not_led_by_others(view, target.node))?;
        self.end(fault);
        let filled = self.begin(format!("node {} fills its disk", target.node), vec![target.node]);
        let filled = Fault { slowdown_max, ..filled.writable(self.survives_one()).leaving_behind() };
        let within = Duration::from_secs(CATCH_UP_SECONDS_MAX);
        self.cluster.await_view(within, |view| lagging_among(view.partitions.iter()))?;
        self.end(filled);
        Ok(())
    }

    /// Writes so much beside the load, or for so long.
    fn write_much(&mut self, bytes: u64, seconds_max: u64) -> Result<Bulk, LoadtestError> {
        let bulk = Bulk::start(&self.shared)?;
        let deadline = Instant::now() + Duration::from_secs(seconds_max);
        while bulk.sent_bytes() < bytes && Instant::now() < deadline {
            self.look()?;
            thread::sleep(LOOK_PAUSE);
        }
        bulk.end();
        Ok(bulk)
    }

    fn fresh_topics(&mut self) -> Result<(), LoadtestError> {
        let now_us = self.shared.recorder.clock.now_us();
        println!("  {:7.1} s  {FRESH_TOPICS} topics, produced to at once", now_us as f64 / 1e6);
        let shared = Arc::clone(&self.shared);
        produce_to_fresh_topics(&shared, FRESH_TOPICS, || self.look())
    }

    /// Whether a majority is left of each partition and of the metadata when one node is away.
    fn survives_one(&self) -> bool {
        self.shared.plan.replication >= 3
    }

    fn begin(&self, what: String, nodes: Vec<i32>) -> Fault {
        let start_us = self.shared.recorder.clock.now_us();
        println!("  {:7.1} s  {what}", start_us as f64 / 1e6);
        Fault { start_us, what, nodes, is_writable: false, leaves_behind: false, slowdown_max: None }
    }

    fn end(&self, fault: Fault) {
        let Fault { start_us, what, nodes, is_writable, leaves_behind, slowdown_max } = fault;
        let operation = Operation::Fault { fault: what, nodes, is_writable, leaves_behind, slowdown_max };
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

fn weather(trouble: Trouble) -> (&'static str, Weather) {
    let clear = Weather::default();
    let ms = Duration::from_millis;
    match trouble {
        Trouble::Late => ("5 to 45 ms late", Weather { delay: ms(5), late: ms(40), ..clear }),
        Trouble::Lost => ("5 % lost", Weather { lost: 0.05, ..clear }),
        Trouble::Doubled => ("20 % twice, up to 5 ms late", Weather { doubled: 0.2, late: ms(5), ..clear }),
        Trouble::Flipped => ("2 % with a changed bit", Weather { flipped: 0.02, ..clear }),
        Trouble::Exchanged => (
            "0.5 % between nodes with exchanged words, past TCP's checksum",
            Weather { exchanged: 0.005, ..clear },
        ),
        Trouble::Storm => (
            "up to 10 ms late, 2 % lost, 5 % twice, 1 % with a changed bit, 0.1 % with exchanged words",
            Weather { late: ms(10), lost: 0.02, doubled: 0.05, flipped: 0.01, exchanged: 0.001, ..clear },
        ),
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

/// Where the replicas of a partition are, or which of them lag, if that is not as it is to be.
fn elsewhere(view: &ClusterView, at: &TopicPartition, replicas: &[i32]) -> Option<String> {
    let sorted = |nodes: &[i32]| nodes.iter().copied().collect::<BTreeSet<_>>();
    let Some(found) = view.partitions.iter().find(|partition| partition.at == *at) else {
        return Some(format!("{at} is not known"));
    };
    let is_there = found.replicas == replicas && sorted(&found.in_sync) == sorted(replicas);
    (!is_there).then(|| format!("{at} is on {:?}, in sync {:?}", found.replicas, found.in_sync))
}

/// The partitions of a topic that lack a leader or a caught-up replica, if any.
fn lagging(view: &ClusterView, topic: &str) -> Option<String> {
    lagging_among(view.partitions.iter().filter(|partition| partition.at.topic == topic))
}

/// The partition that nobody leads, or this node does, if there is one.
fn not_led_by_others(view: &ClusterView, node: i32) -> Option<String> {
    let found = view.partitions.iter().find(|partition| [-1, node].contains(&partition.leader));
    found.map(|partition| format!("{} is led by {}", partition.at, partition.leader))
}

fn lagging_among<'a>(partitions: impl Iterator<Item = &'a PartitionView>) -> Option<String> {
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
