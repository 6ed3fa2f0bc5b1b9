//! The virtual world: one clock, one queue of what happens next.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::{Bytes, BytesMut};
use protocol::api::ApiKey;
use protocol::client;
use protocol::messages::kafka_uuid;
use shard::{DiskAnswer, Effect, Event, ShardMessage};
use types::limits::BLOCK_BYTES;
use types::{ConnectionId, GroupId, Now, ShardId, ShardLayout};

use crate::actor::{Actor, Answer, Context, Outgoing, Wish};
use crate::disk::{Disk, WalWork};
use crate::disk_request::{Asked, group_of};
use crate::model::{Life, Model};
use crate::plan::{Delays, Fault, Plan};
use crate::process::{Lane, Process};
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

/// What happens, and in which run of the process; `None` for what outlives it.
struct Scheduled {
    incarnation: Option<u64>,
    what: Happening,
}

enum Happening {
    Turn(ShardId),
    Deadline(ShardId, u64),
    Message { from: ShardId, to: ShardId, message: Box<ShardMessage> },
    WalWritten(ShardId),
    WalFileDone(ShardId),
    DiskDone(ShardId, GroupId),
    Opened(ConnectionId),
    FrameArrived(ConnectionId, Bytes),
    Gone(ConnectionId),
    Sent(ConnectionId, usize),
    Connected { client: usize, connection: ConnectionId },
    Lost { client: usize, connection: Option<ConnectionId> },
    ResponseArrived { client: usize, connection: ConnectionId, frame: Bytes },
    Timer(usize),
    Fault(Fault),
    Started(ShardLayout),
    Ended { down_us: u64, layout: ShardLayout },
    HasSpace,
}

/// A connection, seen from both ends.
struct Link {
    client: usize,
    shard: ShardId,
    is_reading: bool,
    /// Whether the server was told of it.
    is_open: bool,
    is_closing: bool,
    held: VecDeque<Bytes>,
    up_us: u64,
    down_us: u64,
    awaited: VecDeque<Awaited>,
}

struct Awaited {
    correlation_id: i32,
    key: ApiKey,
    version: i16,
    sent_us: u64,
}

struct Client {
    actor: Box<dyn Actor>,
    connection: Option<ConnectionId>,
    random: Random,
    next_correlation_id: i32,
}

/// The world.
pub struct World {
    now_us: u64,
    wall_skew_ms: i64,
    random: Random,
    delays: Delays,
    queue: BTreeMap<(u64, u64), Scheduled>,
    next_event: u64,
    events_at_once: u64,
    plan: Plan,
    disk: Disk,
    process: Option<Process>,
    shut_down: Vec<ShardId>,
    restart: Option<(u64, ShardLayout)>,
    incarnation: u64,
    rings: BTreeMap<(ShardId, ShardId), u64>,
    links: BTreeMap<ConnectionId, Link>,
    next_connection: u64,
    clients: Vec<Client>,
    /// What the clients know.
    pub model: Model,
    is_stopping: bool,
    healed_us: Option<u64>,
    trace: Trace,
}

impl World {
    /// A world before its beginning.
    pub fn new(plan: Plan, trace: Trace) -> World {
        let mut random = Random::new(plan.seed);
        World {
            now_us: 1_000_000,
            wall_skew_ms: 0,
            delays: plan.delays,
            random: random.fork(),
            queue: BTreeMap::new(),
            next_event: 0,
            events_at_once: 0,
            disk: Disk::default(),
            process: None,
            shut_down: Vec::new(),
            restart: None,
            incarnation: 0,
            rings: BTreeMap::new(),
            links: BTreeMap::new(),
            next_connection: 0,
            clients: Vec::new(),
            model: Model::default(),
            is_stopping: false,
            healed_us: None,
            trace,
            plan,
        }
    }

    /// Adds a client, which begins within a millisecond.
    pub fn add_client(&mut self, actor: Box<dyn Actor>) {
        let random = self.random.fork();
        self.clients.push(Client { actor, connection: None, random, next_correlation_id: 0 });
        let begin_us = self.random.below(1_000);
        self.schedule(begin_us, None, Happening::Timer(self.clients.len() - 1));
    }

    /// Runs the history: faults until the plan's end, then quiet until every client is done.
    pub fn run(&mut self) {
        let layout = self.plan.layout;
        self.schedule(0, None, Happening::Started(layout));
        for (at_us, fault) in self.plan.faults.clone() {
            self.schedule(at_us, None, Happening::Fault(fault));
        }
        let end_us = self.now_us + self.plan.duration_us;
        while self.next_at().is_some_and(|at| at <= end_us) {
            self.next();
        }
        self.heal();
        self.run_until_idle();
    }

    /// Ends all faults.
    fn heal(&mut self) {
        self.note(format_args!("healed"));
        self.is_stopping = true;
        self.healed_us = Some(self.now_us);
        self.disk.is_full = false;
        let layout = self.plan.layout;
        if self.process.is_none()
            && !self.queue.values().any(|next| matches!(next.what, Happening::Started(_)))
        {
            self.schedule(0, None, Happening::Started(layout));
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

    /// Crashes the quiet node and starts it again.
    pub fn restart(&mut self) {
        self.crash();
        let layout = self.plan.layout_of(&mut self.random);
        self.schedule(0, None, Happening::Started(layout));
        // What is under way in the world still reaches the clients.
        self.run_for_us(1_000_000);
    }

    /// Lets time pass.
    pub fn run_for_us(&mut self, us: u64) {
        let end_us = self.now_us + us;
        while self.next_at().is_some_and(|at| at <= end_us) {
            self.next();
        }
        self.now_us = end_us;
    }

    /// Checks what must and must not be on the disk of a quiet node.
    pub fn check_disk(&mut self) {
        self.run_for_us(5_000_000);
        let deleted = self.model.topics.iter().filter(|topic| topic.life == Life::Deleted);
        let deleted: Vec<String> =
            deleted.filter_map(|topic| topic.id.map(|id| kafka_uuid(id).to_string())).collect();
        for (group, folder) in &self.disk.groups {
            let description = folder.description.as_deref().unwrap_or_default();
            for id in &deleted {
                assert!(
                    !description.contains(id),
                    "group {group} of a deleted topic is still there: {description}"
                );
            }
            let is_empty = folder.segments.values().all(|files| files.log.is_empty());
            assert!(is_empty || folder.description.is_some(), "group {group} has no description");
        }
        let partitions: usize = self
            .model
            .topics
            .iter()
            .map(|topic| match topic.life {
                Life::Live => topic.partitions.len(),
                _ => 0,
            })
            .sum();
        let offsets = usize::try_from(self.plan.node.offsets_topic_partitions).expect("a small number");
        let folders = self.disk.groups.len();
        assert!(folders <= partitions + offsets, "there are {folders} folders for {partitions} partitions");
    }

    /// A hash over everything that happened.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    fn waiting(&self) -> String {
        let busy = self.clients.iter().filter(|client| !client.actor.is_idle());
        let lines = busy.map(|client| {
            let awaited = client.connection.and_then(|connection| self.links.get(&connection));
            let awaited = awaited.map(|link| {
                let requests = link.awaited.iter().map(|a| format!("{}@{}", a.key.name(), a.sent_us));
                (link.shard, link.is_reading, requests.collect::<Vec<_>>())
            });
            format!("{} awaits {awaited:?}", client.actor.name())
        });
        lines.collect::<Vec<_>>().join("; ")
    }

    fn now(&self) -> Now {
        let wall_ms =
            WALL_START_MS + self.wall_skew_ms + i64::try_from(self.now_us / 1_000).expect("a short history");
        Now { mono_us: self.now_us, wall_ms }
    }

    fn note(&mut self, text: fmt::Arguments<'_>) {
        self.trace.note(self.now_us, text);
    }

    fn schedule(&mut self, delay_us: u64, incarnation: Option<u64>, what: Happening) {
        self.schedule_at(self.now_us + delay_us, incarnation, what);
    }

    fn schedule_at(&mut self, at_us: u64, incarnation: Option<u64>, what: Happening) {
        self.queue.insert((at_us, self.next_event), Scheduled { incarnation, what });
        self.next_event += 1;
    }

    fn schedule_inside(&mut self, delay_us: u64, what: Happening) {
        self.schedule(delay_us, Some(self.incarnation), what);
    }

    fn next_at(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((at_us, _), _)| *at_us)
    }

    fn next(&mut self) {
        let ((at_us, _), next) = self.queue.pop_first().expect("the caller looked");
        self.events_at_once = if at_us > self.now_us { 0 } else { self.events_at_once + 1 };
        assert!(self.events_at_once < EVENTS_AT_ONCE_MAX, "the shards run in circles: {}", self.waiting());
        self.now_us = self.now_us.max(at_us);
        if next
            .incarnation
            .is_none_or(|incarnation| self.process.is_some() && incarnation == self.incarnation)
        {
            self.happen(next.what);
        }
        if let Some(healed_us) = self.healed_us {
            let limit = ANSWER_US_MAX;
            let late = self
                .links
                .values()
                .flat_map(|link| link.awaited.front())
                .find(|awaited| self.now_us - awaited.sent_us.max(healed_us) > limit);
            if let Some(late) = late {
                panic!("a {} sent at {} is not answered: {}", late.key.name(), late.sent_us, self.waiting());
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Turn(shard) => self.on_turn(shard),
            Happening::Deadline(shard, at_us) => {
                let lane = self.lane(shard);
                if lane.deadline_us == Some(at_us) {
                    lane.deadline_us = None;
                    self.feed(shard, Event::DeadlineReached);
                }
            }
            Happening::Message { from, to, message } => {
                self.feed(to, Event::FromShard { from, message: *message })
            }
            Happening::WalWritten(shard) => {
                let (number, work) = self.lane(shard).flush.take().expect("a flush is under way");
                self.disk.complete_wal(shard, &work).expect("writes to files that exist succeed");
                self.feed(shard, Event::WalFlushed { flush: number });
            }
            Happening::WalFileDone(shard) => {
                let work = self.lane(shard).file.take().expect("a file is being made");
                let result = self.disk.complete_wal(shard, &work);
                let (WalWork::Create { file } | WalWork::Recycle { file, .. } | WalWork::Write { file, .. }) =
                    work;
                self.feed(shard, Event::WalFileReady { file, result });
            }
            Happening::DiskDone(shard, group) => self.on_disk_done(shard, group),
            Happening::Opened(connection) => {
                let Some(link) = self.links.get_mut(&connection) else { return };
                link.is_open = true;
                let shard = link.shard;
                self.feed(shard, Event::Connected { connection, client_host: "/127.0.0.1".to_owned() });
            }
            Happening::FrameArrived(connection, frame) => {
                let Some(link) = self.links.get_mut(&connection) else { return };
                link.held.push_back(frame);
                self.drain(connection);
            }
            Happening::Gone(connection) => {
                let Some(link) = self.links.remove(&connection) else { return };
                if link.is_open {
                    self.feed(link.shard, Event::Disconnected { connection });
                }
            }
            Happening::Sent(connection, bytes) => {
                if let Some(link) = self.links.get(&connection) {
                    self.feed(link.shard, Event::ResponseSent { connection, bytes });
                }
            }
            Happening::Connected { client, connection } => {
                if self.clients[client].connection == Some(connection) {
                    self.act(client, |actor, context| actor.on_connected(context));
                }
            }
            Happening::Lost { client, connection } => {
                if self.clients[client].connection == connection {
                    self.clients[client].connection = None;
                    self.act(client, |actor, context| actor.on_disconnected(context));
                }
            }
            Happening::ResponseArrived { client, connection, frame } => {
                self.on_response(client, connection, frame)
            }
            Happening::Timer(client) => self.act(client, |actor, context| actor.on_timer(context)),
            Happening::Fault(fault) => self.on_fault(fault),
            Happening::Started(layout) => self.start(layout),
            Happening::Ended { down_us, layout } => {
                self.crash();
                self.schedule(down_us, None, Happening::Started(layout));
            }
            Happening::HasSpace => self.disk.is_full = false,
        }
    }

    fn lane(&mut self, shard: ShardId) -> &mut Lane {
        self.process.as_mut().expect("the process runs").lane(shard)
    }

    fn feed(&mut self, shard: ShardId, event: Event) {
        self.trace_event(shard, &event);
        let now = self.now();
        let is_turn_end = matches!(event, Event::TurnEnded);
        let lane = self.lane(shard);
        let mut effects = Vec::new();
        lane.shard.step(now, event, &mut effects);
        if !is_turn_end && !std::mem::replace(&mut lane.is_turn_due, true) {
            let delay_us = self.random.delay_us(self.delays.turn_us);
            self.schedule_inside(delay_us, Happening::Turn(shard));
        }
        for effect in effects {
            self.carry_out(shard, effect);
        }
    }

    fn on_turn(&mut self, shard: ShardId) {
        self.lane(shard).is_turn_due = false;
        self.feed(shard, Event::TurnEnded);
        let lane = self.lane(shard);
        lane.shard.assert_consistent();
        let deadline_us = lane.shard.next_deadline_us();
        if lane.deadline_us != deadline_us {
            lane.deadline_us = deadline_us;
            if let Some(at_us) = deadline_us {
                let late_us = self.random.delay_us(self.delays.turn_us);
                let due_us = at_us.max(self.now_us) + late_us;
                self.schedule_at(due_us, Some(self.incarnation), Happening::Deadline(shard, at_us));
            }
        }
    }

    fn carry_out(&mut self, shard: ShardId, effect: Effect) {
        match effect {
            Effect::Respond { connection, parts } => self.respond(connection, &parts),
            Effect::Close { connection, reason } => self.close(connection, &reason),
            Effect::SetReading { connection, reading } => {
                if let Some(link) = self.links.get_mut(&connection) {
                    link.is_reading = reading;
                    // Not from within a step: an empty frame makes the driver look again.
                    self.schedule_inside(0, Happening::FrameArrived(connection, Bytes::new()));
                }
            }
            Effect::SendToShard { to, message } => {
                assert_ne!(to, shard, "a shard sends to others only");
                let delay_us = self.random.delay_us(self.delays.ring_us);
                let due_us = self.now_us + delay_us;
                let last_us = self.rings.entry((shard, to)).or_default();
                *last_us = due_us.max(*last_us);
                let at_us = *last_us;
                let what = Happening::Message { from: shard, to, message: Box::new(message) };
                self.schedule_at(at_us, Some(self.incarnation), what);
            }
            Effect::CreateWalFile { file } => self.begin_wal_file(shard, WalWork::Create { file }),
            Effect::RecycleWalFile { from, file } => {
                self.begin_wal_file(shard, WalWork::Recycle { from, file })
            }
            Effect::WriteWal { number, file, position, flush } => {
                assert!(position.is_multiple_of(BLOCK_BYTES as u64), "flushes are aligned");
                assert_eq!(
                    (flush.file_sequence, flush.flush_sequence),
                    (file, number),
                    "a flush knows its place"
                );
                let bytes: usize = flush.parts.iter().map(Bytes::len).sum();
                assert_eq!(bytes, flush.bytes, "a flush has the size that it claims");
                let lane = self.lane(shard);
                assert!(lane.flush.is_none(), "one flush is under way at a time");
                lane.flush = Some((number, WalWork::Write { file, position, parts: flush.parts }));
                let delay_us = 5 + bytes as u64 / 1_000 + self.random.delay_us(self.delays.wal_us);
                self.schedule_inside(delay_us, Happening::WalWritten(shard));
            }
            Effect::Disk { token, request } => {
                let group = group_of(&request);
                self.note(format_args!("{shard}: disk {} asked to {}", token.0, Asked(&request)));
                let queue = self.lane(shard).disk.entry(group).or_default();
                queue.push_back((token, request));
                if queue.len() == 1 {
                    let delay_us = 20 + self.random.delay_us(self.delays.disk_us);
                    self.schedule_inside(delay_us, Happening::DiskDone(shard, group));
                }
            }
            Effect::Warn(what) => self.note(format_args!("shard {shard} warns: {what}")),
            Effect::ShutdownComplete => self.on_shut_down(shard),
            Effect::Fatal(reason) => panic!("shard {shard} ends its process: {reason}"),
        }
    }

    fn begin_wal_file(&mut self, shard: ShardId, work: WalWork) {
        let lane = self.lane(shard);
        assert!(lane.file.is_none(), "one WAL file is made at a time");
        lane.file = Some(work);
        let delay_us = 50 + self.random.delay_us(self.delays.wal_file_us);
        self.schedule_inside(delay_us, Happening::WalFileDone(shard));
    }

    fn on_disk_done(&mut self, shard: ShardId, group: GroupId) {
        let queue = self.lane(shard).disk.get_mut(&group).expect("a request is under way");
        let (token, request) = queue.pop_front().expect("a request is under way");
        if queue.is_empty() {
            self.lane(shard).disk.remove(&group);
        } else {
            let delay_us = 20 + self.random.delay_us(self.delays.disk_us);
            self.schedule_inside(delay_us, Happening::DiskDone(shard, group));
        }
        let result = self.disk.complete(&request);
        self.feed(shard, Event::Disk { token, result });
    }

    fn drain(&mut self, connection: ConnectionId) {
        while let Some(link) = self.links.get_mut(&connection)
            && link.is_reading
            && !link.is_closing
            && let Some(frame) = link.held.pop_front()
        {
            let shard = link.shard;
            if !frame.is_empty() {
                self.feed(shard, Event::Frame { connection, frame: BytesMut::from(&frame[..]) });
            }
        }
    }

    fn respond(&mut self, connection: ConnectionId, parts: &[Bytes]) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        let whole = Bytes::from(parts.concat());
        let length = i32::from_be_bytes(whole[..4].try_into().expect("four bytes"));
        assert_eq!(usize::try_from(length), Ok(whole.len() - 4), "a response has the length that it claims");
        let delay_us = 10 + self.random.delay_us(self.delays.network_us);
        link.down_us = link.down_us.max(self.now_us + delay_us);
        let (client, at_us) = (link.client, link.down_us);
        let what = Happening::ResponseArrived { client, connection, frame: whole.slice(4..) };
        self.schedule_at(at_us, None, what);
        let sent_us = self.random.delay_us(self.delays.network_us);
        self.schedule_inside(sent_us, Happening::Sent(connection, whole.len()));
    }

    fn close(&mut self, connection: ConnectionId, reason: &str) {
        self.note(format_args!("connection {connection} is closed: {reason}"));
        let Some(link) = self.links.get_mut(&connection) else { return };
        link.is_closing = true;
        let (client, at_us) = (link.client, link.down_us.max(self.now_us));
        self.schedule_at(at_us, None, Happening::Lost { client, connection: Some(connection) });
        self.schedule_at(at_us, Some(self.incarnation), Happening::Gone(connection));
    }

    fn on_response(&mut self, client: usize, connection: ConnectionId, frame: Bytes) {
        if self.clients[client].connection != Some(connection) {
            return;
        }
        let Some(link) = self.links.get_mut(&connection) else { return };
        let awaited = link.awaited.pop_front().expect("a response belongs to a request");
        let (key, version) = (awaited.key, awaited.version);
        let (correlation_id, answer) = match key {
            ApiKey::Fetch => {
                let (id, response) =
                    client::decode_fetch_response(version, frame).expect("a well-formed response");
                (id, Answer::Fetch(response))
            }
            _ => {
                let (id, response) =
                    client::decode_response(key, version, frame).expect("a well-formed response");
                (id, Answer::Response(response))
            }
        };
        assert_eq!(correlation_id, awaited.correlation_id, "responses keep the order of requests");
        self.note(format_args!(
            "client {client} {} answered after {}",
            key.name(),
            self.now_us - awaited.sent_us
        ));
        self.act(client, |actor, context| actor.on_answer(context, correlation_id, answer));
    }

    fn act(&mut self, client: usize, call: impl FnOnce(&mut dyn Actor, &mut Context<'_>)) {
        let now = self.now();
        let mut wishes = Vec::new();
        let found = &mut self.clients[client];
        let mut context = Context {
            now,
            random: &mut found.random,
            model: &mut self.model,
            is_stopping: self.is_stopping,
            wishes: &mut wishes,
            next_correlation_id: &mut found.next_correlation_id,
        };
        call(found.actor.as_mut(), &mut context);
        for wish in wishes {
            match wish {
                Wish::Connect => self.connect(client),
                Wish::Disconnect => self.disconnect(client),
                Wish::Send(request) => self.send(client, request),
                Wish::Timer(delay_us) => self.schedule(delay_us, None, Happening::Timer(client)),
            }
        }
    }

    fn connect(&mut self, client: usize) {
        assert!(self.clients[client].connection.is_none(), "a client has one connection");
        let Some(process) = &self.process else {
            self.schedule(1_000, None, Happening::Lost { client, connection: None });
            return;
        };
        let shard =
            ShardId(u16::try_from(self.random.below(process.lanes.len() as u64)).expect("few shards"));
        self.next_connection += 1;
        let connection = ConnectionId(self.next_connection);
        self.clients[client].connection = Some(connection);
        let up_us = self.now_us + 10 + self.random.delay_us(self.delays.network_us);
        let link = Link {
            client,
            shard,
            is_reading: true,
            is_open: false,
            is_closing: false,
            held: VecDeque::new(),
            up_us,
            down_us: up_us,
            awaited: VecDeque::new(),
        };
        self.links.insert(connection, link);
        self.schedule_at(up_us, Some(self.incarnation), Happening::Opened(connection));
        self.schedule_at(up_us, None, Happening::Connected { client, connection });
    }

    fn disconnect(&mut self, client: usize) {
        let Some(connection) = self.clients[client].connection.take() else { return };
        self.schedule(100, None, Happening::Lost { client, connection: None });
        let Some(link) = self.links.get_mut(&connection) else { return };
        link.awaited.clear();
        // Half of the time the node still reads what was sent before.
        let at_us = if self.random.percent(50) { link.up_us.max(self.now_us) } else { self.now_us };
        self.schedule_at(at_us, Some(self.incarnation), Happening::Gone(connection));
    }

    fn send(&mut self, client: usize, request: Outgoing) {
        let Some(connection) = self.clients[client].connection else { return };
        let Some(link) = self.links.get_mut(&connection) else { return };
        let delay_us = 10 + self.random.delay_us(self.delays.network_us);
        link.up_us = link.up_us.max(self.now_us + delay_us);
        if request.is_answered {
            link.awaited.push_back(Awaited {
                correlation_id: request.correlation_id,
                key: request.key,
                version: request.version,
                sent_us: self.now_us,
            });
        }
        let at_us = link.up_us;
        self.schedule_at(at_us, Some(self.incarnation), Happening::FrameArrived(connection, request.frame));
        let name = request.key.name();
        self.note(format_args!("client {client} sends {name} over {connection}"));
    }

    fn start(&mut self, layout: ShardLayout) {
        assert!(self.process.is_none(), "one process at a time");
        self.incarnation += 1;
        let incarnation = self.incarnation;
        self.note(format_args!("start {incarnation} with {layout:?}"));
        let now = self.now();
        let (process, begun) =
            Process::start(&self.plan.node, layout, self.incarnation, now, &mut self.disk, &mut self.random);
        self.process = Some(process);
        for (shard, effects) in begun {
            for effect in effects {
                self.carry_out(shard, effect);
            }
            self.lane(shard).is_turn_due = true;
            self.schedule_inside(0, Happening::Turn(shard));
        }
    }

    fn on_fault(&mut self, fault: Fault) {
        if self.healed_us.is_some() {
            return;
        }
        self.note(format_args!("{fault:?}"));
        match fault {
            Fault::Crash { down_us } => {
                if self.process.is_some() {
                    let layout = self.plan.layout_of(&mut self.random);
                    self.crash();
                    self.schedule(down_us, None, Happening::Started(layout));
                }
            }
            Fault::Shutdown { down_us } => {
                if self.process.is_some() && self.restart.is_none() {
                    self.restart = Some((down_us, self.plan.layout_of(&mut self.random)));
                    let shards = self.process.as_ref().map_or(0, |process| process.layout.shards());
                    for shard in (0..shards).map(ShardId) {
                        self.feed(shard, Event::ShutdownRequested);
                    }
                }
            }
            Fault::DiskFull { for_us } => {
                self.disk.is_full = true;
                self.schedule(for_us, None, Happening::HasSpace);
            }
            Fault::ClientGone => {
                let client = self.random.index(self.clients.len());
                self.disconnect(client);
            }
            Fault::ClockJump { by_ms } => self.wall_skew_ms += by_ms,
        }
    }

    fn on_shut_down(&mut self, shard: ShardId) {
        self.note(format_args!("shard {shard} has shut down"));
        assert!(!self.shut_down.contains(&shard), "a shard shuts down once");
        self.shut_down.push(shard);
        let shards = self.process.as_ref().map_or(0, |process| process.lanes.len());
        if self.shut_down.len() == shards
            && let Some((down_us, layout)) = self.restart.take()
        {
            self.schedule_inside(0, Happening::Ended { down_us, layout });
        }
    }

    fn crash(&mut self) {
        let process = self.process.take().expect("only what runs crashes");
        self.note(format_args!("crash"));
        process.crash(&mut self.disk, &mut self.random);
        self.rings.clear();
        self.shut_down.clear();
        self.restart = None;
        for (connection, link) in std::mem::take(&mut self.links) {
            let lost = Happening::Lost { client: link.client, connection: Some(connection) };
            self.schedule(100, None, lost);
        }
    }

    fn trace_event(&mut self, shard: ShardId, event: &Event) {
        let now_us = self.now_us;
        match event {
            Event::Connected { connection, .. } => {
                self.trace.note(now_us, format_args!("{shard}: connected {connection}"))
            }
            Event::Disconnected { connection } => {
                self.trace.note(now_us, format_args!("{shard}: gone {connection}"))
            }
            Event::Frame { connection, frame } => {
                self.trace.note(now_us, format_args!("{shard}: frame of {} from {connection}", frame.len()));
            }
            Event::ResponseSent { connection, bytes } => {
                self.trace.note(now_us, format_args!("{shard}: sent {bytes} to {connection}"));
            }
            Event::FromShard { from, message } => {
                let kind = match message {
                    ShardMessage::Op { token, .. } => format!("op {token:?}"),
                    ShardMessage::OpDone { token, .. } => format!("op done {token:?}"),
                    ShardMessage::Image(image) => format!("image {}", image.epoch()),
                    ShardMessage::Leader(change) => format!("{change:?}"),
                };
                self.trace.note(now_us, format_args!("{shard}: from {from}: {kind}"));
            }
            Event::WalFlushed { flush } => self.trace.note(now_us, format_args!("{shard}: flushed {flush}")),
            Event::WalFileReady { file, result } => {
                self.trace.note(now_us, format_args!("{shard}: WAL file {file} {result:?}"));
            }
            Event::Disk { token, result } => {
                let what = match result {
                    Ok(DiskAnswer::Done) => "done".to_owned(),
                    Ok(DiskAnswer::Bytes(bytes)) => format!("{} bytes", bytes.len()),
                    Ok(DiskAnswer::Indexes { offsets, times }) => {
                        format!("indexes {} {}", offsets.len(), times.len())
                    }
                    Err(error) => format!("{error:?}"),
                };
                self.trace.note(now_us, format_args!("{shard}: disk {} {what}", token.0));
            }
            Event::TurnEnded => self.trace.note(now_us, format_args!("{shard}: turn")),
            Event::DeadlineReached => self.trace.note(now_us, format_args!("{shard}: deadline")),
            Event::ShutdownRequested => self.trace.note(now_us, format_args!("{shard}: shutdown")),
        }
    }
}
