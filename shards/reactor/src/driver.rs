//! The loop around one shard: events in, effects out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use glommio::TaskQueueHandle;
use shard::{Effect, Event};
use types::{Now, ShardId};

use crate::clock::Clock;
use crate::connection::Connections;
use crate::core::ShardCore;
use crate::deadlines::Deadlines;
use crate::disk::Disk;
use crate::exit::Fatal;
use crate::metrics::ShardMetrics;
use crate::notify::Notify;
use crate::peer_link::Peers;
use crate::ring::Rings;
use crate::supervisor::{LoopCounts, Report, Reports};
use crate::wal::Wal;

/// Everything that one executor drives. Lives on its thread, shared by its tasks, from the moment the shards
/// serve until they end.
///
/// A task that has something to tell the shard calls [`Driver::feed`]. Effects are carried out right after the step
/// that wants them, never inside another step: what completes at once becomes an event behind those that wait.
pub(crate) struct Driver<C> {
    pub(crate) shard: ShardId,
    pub(crate) clock: Clock,
    pub(crate) metrics: ShardMetrics,
    pub(crate) connections: Connections,
    pub(crate) deadlines: Deadlines,
    pub(crate) disk: Disk,
    pub(crate) peers: Peers,
    pub(crate) rings: Rings,
    pub(crate) wal: Wal,
    /// The task queue of segment I/O, with a smaller share than the one of requests.
    pub(crate) disk_queue: TaskQueueHandle,
    core: RefCell<C>,
    events: RefCell<VecDeque<Event>>,
    /// The effects of one step; kept for its allocation.
    effects: RefCell<Vec<Effect>>,
    is_stepping: Cell<bool>,
    is_holding_responses: Cell<bool>,
    is_turn_due: Cell<bool>,
    turn: Notify,
    /// A turn has begun, or a WAL write.
    pub(crate) woken: Notify,
    is_dead: Cell<bool>,
    counts: Arc<LoopCounts>,
    reports: Reports,
}

/// What a driver is made of.
pub(crate) struct DriverParts<C> {
    pub(crate) shard: ShardId,
    pub(crate) clock: Clock,
    pub(crate) connections: Connections,
    pub(crate) disk: Disk,
    pub(crate) disk_queue: TaskQueueHandle,
    pub(crate) peers: Peers,
    pub(crate) rings: Rings,
    pub(crate) wal: Wal,
    pub(crate) core: C,
    pub(crate) counts: Arc<LoopCounts>,
    pub(crate) reports: Reports,
}

impl<C: ShardCore> Driver<C> {
    pub(crate) fn new(parts: DriverParts<C>) -> Rc<Driver<C>> {
        Rc::new(Driver {
            shard: parts.shard,
            clock: parts.clock,
            metrics: ShardMetrics::new(parts.shard),
            connections: parts.connections,
            deadlines: Deadlines::default(),
            disk: parts.disk,
            peers: parts.peers,
            rings: parts.rings,
            wal: parts.wal,
            disk_queue: parts.disk_queue,
            core: RefCell::new(parts.core),
            events: RefCell::new(VecDeque::new()),
            effects: RefCell::new(Vec::new()),
            is_stepping: Cell::new(false),
            is_holding_responses: Cell::new(false),
            is_turn_due: Cell::new(false),
            turn: Notify::default(),
            woken: Notify::default(),
            is_dead: Cell::new(false),
            counts: parts.counts,
            reports: parts.reports,
        })
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// Tells the shard what happened, carries out what it wants, and sends what it answered.
    pub(crate) fn feed(self: &Rc<Self>, event: Event) {
        self.enqueue(event);
        self.run();
    }

    /// Carries out the effects of the shard's making, before its first event.
    pub(crate) fn begin(self: &Rc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            self.carry_out(effect);
        }
        self.run();
        self.schedule_turn();
    }

    /// Puts an event behind those that wait. [`Driver::run`] follows.
    pub(crate) fn enqueue(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
    }

    /// Steps through all waiting events and sends the responses and the frames for peers that they brought.
    pub(crate) fn run(self: &Rc<Self>) {
        if self.is_stepping.replace(true) {
            // The outer call goes on with what was put into the queue.
            return;
        }
        loop {
            while let Some(event) = self.next_event() {
                self.step(event);
            }
            // Both, whatever the first brings.
            if self.is_holding_responses.get() || !(self.send_dirty() | self.send_to_peers()) {
                break;
            }
        }
        self.is_stepping.set(false);
    }

    /// Runs `work`, which feeds several events, and sends their responses together afterwards.
    pub(crate) fn hold_responses<T>(self: &Rc<Self>, work: impl FnOnce() -> T) -> T {
        self.is_holding_responses.set(true);
        let result = work();
        self.is_holding_responses.set(false);
        self.run();
        result
    }

    fn next_event(&self) -> Option<Event> {
        let mut events = self.events.borrow_mut();
        if self.is_dead.get() {
            events.clear();
        }
        events.pop_front()
    }

    fn step(self: &Rc<Self>, event: Event) {
        if !matches!(event, Event::TurnEnded) {
            self.schedule_turn();
        }
        self.metrics.events.increment(1);
        let mut effects = self.effects.take();
        self.core.borrow_mut().step(self.now(), event, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
        self.effects.replace(effects);
    }

    fn carry_out(self: &Rc<Self>, effect: Effect) {
        if self.is_dead.get() {
            return;
        }
        match effect {
            Effect::Respond { connection, parts } => self.respond(connection, parts),
            Effect::Close { connection, reason } => self.close_when_sent(connection, &reason),
            Effect::Abort { connection, reason } => self.abort(connection, &reason),
            Effect::SetReading { connection, reading } => self.set_reading(connection, reading),
            Effect::SendToShard { to, message } => self.send_to_shard(to, message),
            Effect::SetPeers { peers } => self.set_peers(peers),
            Effect::KnownDirectories { directories } => self.know_directories(directories),
            Effect::SendToPeer { to, parts } => self.send_to_peer(to, parts),
            Effect::Joined { cluster_id } => {
                self.reports.send(Report::Joined { shard: self.shard, cluster_id })
            }
            Effect::CreateWalFile { file } => self.create_wal_file(file),
            Effect::RecycleWalFile { from, file } => self.recycle_wal_file(from, file),
            Effect::WriteWal { number, file, position, flush } => {
                self.wal.submit(number, file, position, flush);
                self.woken.notify();
            }
            Effect::Disk { token, request } => self.submit_disk(token, request),
            Effect::Warn(what) => tracing::warn!(shard = %self.shard, "{what}"),
            Effect::ShutdownComplete => self.reports.send(Report::Complete(self.shard)),
            Effect::Fatal(reason) => self.die(Fatal::Shard { shard: self.shard, reason }),
        }
    }

    /// Ends the shard on the spot: no further event reaches it and no further effect leaves it.
    pub(crate) fn die(&self, fatal: Fatal) {
        if !self.is_dead.replace(true) {
            tracing::error!(shard = %self.shard, "{fatal}");
            self.reports.send(Report::Fatal(fatal));
        }
    }

    /// Like [`Driver::die`], but for an end that was asked for.
    pub(crate) fn retire(&self) {
        self.is_dead.set(true);
    }

    fn schedule_turn(&self) {
        if !self.is_turn_due.replace(true) {
            self.turn.notify();
            self.woken.notify();
        }
    }

    /// Ends each turn: its task, woken by the first event of a burst, runs behind all tasks that were ready then.
    pub(crate) async fn run_turns(self: Rc<Self>) {
        loop {
            self.turn.notified().await;
            self.is_turn_due.set(false);
            self.metrics.turns.increment(1);
            self.counts.turns.fetch_add(1, Ordering::Relaxed);
            self.feed(Event::TurnEnded);
            let deadline_us = self.core.borrow().next_deadline_us();
            self.deadlines.set_core(deadline_us);
        }
    }
}
