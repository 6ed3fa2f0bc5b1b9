//! The virtual world: one clock, one queue of what happens next.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use shard::{Effect, Event, ShardMessage};
use types::{ConnectionId, GroupId, Now, ShardId, ShardLayout};

use crate::actor::{Actor, Context, Wish};
use crate::coverage::Coverage;
use crate::judge::{Judge, Look};
use crate::links::Links;
use crate::model::Model;
use crate::network::{LineId, Network};
use crate::node::{Node, Place};
use crate::plan::{Delays, Fault, Plan};
use crate::random::Random;
use crate::trace::Trace;

/// The wall clock at the beginning, in milliseconds.
const WALL_START_MS: i64 = 1_700_000_000_000;

/// Events at one instant beyond which the shards are taken to be running in circles.
const EVENTS_AT_ONCE_MAX: u64 = 200_000;

/// How long an answer may take once faults are over, in microseconds.
const ANSWER_US_MAX: u64 = 120_000_000;

/// How long a phase without faults may take, in microseconds.
const QUIET_US_MAX: u64 = 600_000_000;

/// What happens, and in which run of which process; `None` for what outlives it.
struct Scheduled {
    owner: Option<(usize, u64)>,
    what: Happening,
}

pub(crate) enum Happening {
    Turn(Place),
    Deadline(Place, u64),
    Message { from: ShardId, to: Place, message: Box<ShardMessage> },
    WalWritten(Place),
    WalFileDone(Place),
    DiskDone(Place, GroupId),
    Opened(ConnectionId),
    FrameArrived(ConnectionId, Bytes),
    Gone(ConnectionId),
    Sent(ConnectionId, usize),
    Connected { client: usize, connection: ConnectionId },
    Lost { client: usize, connection: Option<ConnectionId> },
    ResponseArrived { client: usize, connection: ConnectionId, frame: Bytes },
    Expired { connection: ConnectionId, correlation_id: i32 },
    Timer(usize),
    Dial { from: Place, to: usize },
    LineJoined(LineId),
    LineConnected(LineId),
    LineLost(LineId),
    LineTimedOut(LineId),
    FrameDue(LineId),
    PeerSent { from: Place, to: usize, bytes: usize },
    Mended(Vec<(usize, usize)>),
    Fault(Fault),
    Started(usize, ShardLayout),
    Ended { node: usize, down_us: u64, layout: ShardLayout },
    HasSpace(usize),
    RotEnds(usize),
}

pub(crate) struct Client {
    pub(crate) actor: Box<dyn Actor>,
    pub(crate) connection: Option<ConnectionId>,
    /// What it asks its way to.
    pub(crate) resolving: Option<crate::actor::Target>,
    random: Random,
    pub(crate) next_correlation_id: i32,
}

/// The world.
pub struct World {
    pub(crate) now_us: u64,
    pub(crate) random: Random,
    pub(crate) delays: Delays,
    queue: BTreeMap<(u64, u64), Scheduled>,
    next_event: u64,
    events_at_once: u64,
    pub(crate) plan: Plan,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) incarnation: u64,
    pub(crate) links: Links,
    pub(crate) clients: Vec<Client>,
    /// The coordinators of consumer groups, as clients heard of them last.
    pub(crate) coordinators: BTreeMap<String, usize>,
    /// What the clients know.
    pub model: Model,
    pub(crate) judge: Judge,
    /// What was exercised.
    pub coverage: Coverage,
    pub(crate) is_stopping: bool,
    pub(crate) healed_us: Option<u64>,
    /// When it is looked next whether anything waits for too long.
    next_wait_check_us: u64,
    pub(crate) trace: Trace,
}

impl World {
    /// A world before its beginning.
    pub fn new(plan: Plan, trace: Trace) -> World {
        let mut random = Random::new(plan.seed);
        World {
            now_us: 1_000_000,
            delays: plan.delays,
            random: random.fork(),
            queue: BTreeMap::new(),
            next_event: 0,
            events_at_once: 0,
            nodes: (0..plan.node.nodes).map(|_| Node::default()).collect(),
            network: Network::default(),
            incarnation: 0,
            links: Links::default(),
            clients: Vec::new(),
            coordinators: BTreeMap::new(),
            model: Model::default(),
            judge: Judge::default(),
            coverage: Coverage::default(),
            is_stopping: false,
            healed_us: None,
            next_wait_check_us: 0,
            trace,
            plan,
        }
    }

    /// Adds a client, which begins within a millisecond.
    pub fn add_client(&mut self, actor: Box<dyn Actor>) {
        let random = self.random.fork();
        let client = Client { actor, connection: None, resolving: None, random, next_correlation_id: 0 };
        self.clients.push(client);
        let begin_us = self.random.below(1_000);
        self.schedule(begin_us, None, Happening::Timer(self.clients.len() - 1));
    }

    /// Runs the history until faults end.
    pub fn run(&mut self) {
        self.begin();
        let end_us = self.now_us + self.plan.duration_us;
        while self.next_at().is_some_and(|at| at <= end_us) {
            self.next();
        }
        self.heal();
    }

    /// Runs the beginning of the history, however far that is.
    pub fn run_for_ms(&mut self, ms: u64) {
        self.begin();
        self.run_for_us(ms * 1_000);
    }

    fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            let layout = self.plan.layouts[node];
            self.schedule(0, None, Happening::Started(node, layout));
        }
        for (at_us, fault) in self.plan.faults.clone() {
            self.schedule(at_us, None, Happening::Fault(fault));
        }
    }

    /// Runs until every client is done.
    ///
    /// # Panics
    ///
    /// When that takes too long.
    pub fn run_until_idle(&mut self) {
        let begin_us = self.now_us;
        while !self.clients.iter().all(|client| client.actor.is_idle()) {
            assert!(
                self.next_at().is_some(),
                "nothing is left to happen, but clients wait: {}",
                self.waiting()
            );
            self.next();
            assert!(
                self.now_us - begin_us < QUIET_US_MAX,
                "clients do not come to an end without faults: {}",
                self.waiting()
            );
        }
    }

    /// The monotonic clock, in microseconds.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Lets time pass.
    pub fn run_for_us(&mut self, us: u64) {
        let end_us = self.now_us + us;
        while self.next_at().is_some_and(|at| at <= end_us) {
            self.next();
        }
        self.now_us = end_us;
    }

    /// A hash over everything that happened.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    fn waiting(&self) -> String {
        let busy = self.clients.iter().filter(|client| !client.actor.is_idle());
        let lines = busy.map(|client| {
            let awaited = client.connection.and_then(|connection| self.links.open.get(&connection));
            let awaited = awaited.map(|link| {
                let requests = link.awaited.iter().map(|a| format!("{}@{}", a.key.name(), a.sent_us));
                (link.at, link.is_reading, requests.collect::<Vec<_>>())
            });
            format!("{} awaits {awaited:?}", client.actor.name())
        });
        lines.collect::<Vec<_>>().join("; ")
    }

    /// The clocks of a node.
    pub(crate) fn now(&self, node: usize) -> Now {
        let elapsed_ms = i64::try_from(self.now_us / 1_000).expect("a short history");
        Now { mono_us: self.now_us, wall_ms: WALL_START_MS + self.nodes[node].wall_skew_ms + elapsed_ms }
    }

    pub(crate) fn note(&mut self, text: fmt::Arguments<'_>) {
        self.trace.note(self.now_us, text);
    }

    pub(crate) fn schedule(&mut self, delay_us: u64, owner: Option<(usize, u64)>, what: Happening) {
        self.schedule_at(self.now_us + delay_us, owner, what);
    }

    pub(crate) fn schedule_at(&mut self, at_us: u64, owner: Option<(usize, u64)>, what: Happening) {
        self.queue.insert((at_us, self.next_event), Scheduled { owner, what });
        self.next_event += 1;
    }

    /// Schedules what happens only while the process of a node that runs now still runs.
    pub(crate) fn schedule_at_node(&mut self, delay_us: u64, node: usize, what: Happening) {
        if let Some(incarnation) = self.nodes[node].incarnation() {
            self.schedule(delay_us, Some((node, incarnation)), what);
        }
    }

    fn next_at(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((at_us, _), _)| *at_us)
    }

    fn next(&mut self) {
        let ((at_us, _), next) = self.queue.pop_first().expect("the caller looked");
        self.events_at_once = if at_us > self.now_us { 0 } else { self.events_at_once + 1 };
        assert!(self.events_at_once < EVENTS_AT_ONCE_MAX, "the shards run in circles: {}", self.waiting());
        self.now_us = self.now_us.max(at_us);
        match next.owner {
            None => self.happen(next.what),
            Some((node, incarnation)) if self.nodes[node].incarnation() == Some(incarnation) => {
                let paused_until_us = self.nodes[node].paused_until_us;
                match paused_until_us > self.now_us {
                    true => self.schedule_at(paused_until_us, next.owner, next.what),
                    false => self.happen(next.what),
                }
            }
            Some(_) => {}
        }
        self.check_waiting();
    }

    /// Whether a node may leave a request without an answer: once the faults are over, only one that others do not hear.
    pub(crate) fn may_fall_silent(&self, node: usize) -> bool {
        self.healed_us.is_none() || self.plan.left_out.contains(&node)
    }

    /// Once faults are over, nothing waits for long.
    fn check_waiting(&mut self) {
        let Some(healed_us) = self.healed_us.filter(|_| self.next_wait_check_us <= self.now_us) else {
            return;
        };
        self.next_wait_check_us = self.now_us + ANSWER_US_MAX / 100;
        let since_us = |sent_us: u64| self.now_us - sent_us.max(healed_us);
        let links = self.links.open.values().filter(|link| !self.may_fall_silent(link.at.node));
        let awaited = links.flat_map(|link| link.awaited.front());
        let late = awaited.into_iter().find(|awaited| since_us(awaited.sent_us) > ANSWER_US_MAX);
        if let Some(late) = late {
            panic!("a {} sent at {} is not answered: {}", late.key.name(), late.sent_us, self.waiting());
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Turn(place) => self.on_turn(place),
            Happening::Deadline(place, at_us) => self.on_deadline(place, at_us),
            Happening::Message { from, to, message } => {
                self.feed(to, Event::FromShard { from, message: *message })
            }
            Happening::WalWritten(place) => self.on_wal_written(place),
            Happening::WalFileDone(place) => self.on_wal_file_done(place),
            Happening::DiskDone(place, group) => self.on_disk_done(place, group),
            Happening::Opened(connection) => self.on_opened(connection),
            Happening::FrameArrived(connection, frame) => self.on_frame(connection, frame),
            Happening::Gone(connection) => self.on_gone(connection),
            Happening::Sent(connection, bytes) => self.on_sent(connection, bytes),
            Happening::Connected { client, connection } => self.on_connected(client, connection),
            Happening::Lost { client, connection } => self.on_lost(client, connection),
            Happening::ResponseArrived { client, connection, frame } => {
                self.on_response(client, connection, frame)
            }
            Happening::Expired { connection, correlation_id } => self.on_expired(connection, correlation_id),
            Happening::Timer(client) => self.act(client, |actor, context| actor.on_timer(context)),
            Happening::Dial { from, to } => self.on_dial(from, to),
            Happening::LineJoined(line) => self.on_line_joined(line),
            Happening::LineConnected(line) => self.on_line_connected(line),
            Happening::LineLost(line) => self.on_line_lost(line),
            Happening::LineTimedOut(line) => self.on_line_timed_out(line),
            Happening::FrameDue(line) => self.on_frame_due(line),
            Happening::PeerSent { from, to, bytes } => {
                let peer = Place { node: to, shard: from.shard }.node_id();
                self.feed(from, Event::PeerSent { peer, bytes });
            }
            // Healing has opened these ways, and may have closed them for a node that is left out.
            Happening::Mended(_) if self.is_stopping => {}
            Happening::Mended(pairs) => self.mend(&pairs),
            Happening::Fault(fault) => self.on_fault(fault),
            Happening::Started(node, layout) => self.start(node, layout),
            Happening::Ended { node, down_us, layout } => {
                self.crash(node);
                self.schedule(down_us, None, Happening::Started(node, layout));
            }
            Happening::HasSpace(node) => self.nodes[node].disk.is_full = false,
            Happening::RotEnds(node) => self.end_rot(node),
        }
    }

    pub(crate) fn feed(&mut self, place: Place, event: Event) {
        if !self.nodes[place.node].runs() {
            return;
        }
        self.trace_event(place, &event);
        let now = self.now(place.node);
        let is_turn_end = matches!(event, Event::TurnEnded);
        let ends_turn = is_turn_end || matches!(event, Event::WalFlushed { .. });
        let lane = self.nodes[place.node].lane(place.shard);
        let mut effects = Vec::new();
        lane.shard.step(now, event, &mut effects);
        if !is_turn_end && !std::mem::replace(&mut lane.is_turn_due, true) {
            let delay_us = self.random.delay_us(self.delays.turn_us);
            self.schedule_at_node(delay_us, place.node, Happening::Turn(place));
        }
        let fails = effects.iter().any(|effect| matches!(effect, Effect::Fatal(_)));
        self.look(place, ends_turn && !fails);
        for effect in effects {
            if self.nodes[place.node].runs() {
                self.carry_out(place, effect);
            }
        }
    }

    /// Takes note of a step, and judges the shard at the end of a turn, before anybody hears of what it did.
    fn look(&mut self, place: Place, is_judged: bool) {
        let node = &mut self.nodes[place.node];
        let incarnation = node.incarnation().expect("the process runs");
        let awake_us = node.awake_us;
        let lane = node.lane(place.shard);
        let (quorums, coverage) = (&mut self.model.quorums, &mut self.coverage);
        self.judge.note_leaders(&lane.shard, incarnation, self.now_us, quorums, coverage);
        if !is_judged {
            return;
        }
        lane.shard.assert_consistent();
        if lane.shard.has_full_groups() {
            self.coverage.mark("batch waited for commits");
        }
        let look = Look {
            node: place.node,
            incarnation,
            shard: &lane.shard,
            now_us: self.now_us,
            awake_us,
            lag_ms_max: self.plan.node.replica_lag_ms_max,
        };
        self.judge.look(look, &mut self.coverage);
    }

    fn on_turn(&mut self, place: Place) {
        self.nodes[place.node].lane(place.shard).is_turn_due = false;
        self.feed(place, Event::TurnEnded);
        let node = &mut self.nodes[place.node];
        if !node.runs() {
            return;
        }
        let lane = node.lane(place.shard);
        let deadline_us = lane.shard.next_deadline_us();
        if lane.deadline_us != deadline_us {
            lane.deadline_us = deadline_us;
            if let Some(at_us) = deadline_us {
                let late_us = self.random.delay_us(self.delays.turn_us);
                let delay_us = at_us.saturating_sub(self.now_us) + late_us;
                self.schedule_at_node(delay_us, place.node, Happening::Deadline(place, at_us));
            }
        }
    }

    fn on_deadline(&mut self, place: Place, at_us: u64) {
        let lane = self.nodes[place.node].lane(place.shard);
        if lane.deadline_us == Some(at_us) {
            lane.deadline_us = None;
            self.feed(place, Event::DeadlineReached);
        }
    }

    pub(crate) fn act(&mut self, client: usize, call: impl FnOnce(&mut dyn Actor, &mut Context<'_>)) {
        // Clients have the clock of the first node, as good as any.
        let now = self.now(0);
        let mut wishes = Vec::new();
        let found = &mut self.clients[client];
        let link = found.connection.and_then(|connection| self.links.open.get(&connection));
        let mut context = Context {
            now,
            run: link.and_then(|link| self.nodes[link.at.node].incarnation()),
            nodes: self.nodes.len(),
            coverage: &mut self.coverage,
            random: &mut found.random,
            model: &mut self.model,
            is_stopping: self.is_stopping,
            may_be_damaged: self.plan.has_damage && self.healed_us.is_none(),
            wishes: &mut wishes,
            next_correlation_id: &mut found.next_correlation_id,
        };
        call(found.actor.as_mut(), &mut context);
        for wish in wishes {
            match wish {
                Wish::Connect(target) => self.connect(client, target),
                Wish::Disconnect => self.disconnect(client),
                Wish::Send(request) => self.send(client, request),
                Wish::Timer(delay_us) => self.schedule(delay_us, None, Happening::Timer(client)),
            }
        }
    }
}
