//! Requests of this shard's connections, from their frame to their response.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use metadata::MetadataImage;
use metrics::{Counter, Histogram};
use protocol::api::ApiKey;
use protocol::frame::{self, RequestHeader};
use types::limits::REQUEST_BYTES_IN_FLIGHT_PER_SHARD_MAX;
use types::{ConnectionId, GroupId, NodeId, Now, Term};

use crate::connection::{Connection, STALLED_READER_MS};
use crate::fetch_session::FetchSessions;
use crate::op::{FetchOp, Op, OpResult, OpToken};
use crate::response_memory::ResponseMemory;
use crate::state::{KnownLeader, State};
use crate::step::{Finish, Gather, RequestInfo, Resume, Retry, Step, Wake};
use crate::{BrokerConfig, api_versions, handlers, produce};

/// Who carries out an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The shard that hosts this group.
    Group(GroupId),
    /// The shard that hosts the metadata group.
    Metadata,
}

/// What the broker wants its shard to do.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most of what is put out are operations, and none stays for long"
)]
pub enum Output {
    /// Bring an operation to its owner.
    Op {
        /// The owner.
        to: Target,
        /// Names it in the result.
        token: OpToken,
        /// What to do.
        op: Op,
    },
    /// Send a response.
    Respond {
        /// To this connection.
        connection: ConnectionId,
        /// Length prefix first.
        parts: Vec<Bytes>,
    },
    /// Send what was given, then close.
    Close {
        /// This connection.
        connection: ConnectionId,
        /// Why, for the log.
        reason: String,
    },
    /// Close at once; what was not sent yet goes.
    Abort {
        /// This connection.
        connection: ConnectionId,
        /// Why, for the log.
        reason: String,
    },
    /// Stop or resume reading requests.
    SetReading {
        /// Of this connection.
        connection: ConnectionId,
        /// Whether to read.
        reading: bool,
    },
}

/// Between two looks at clients that do not read.
const REVIEW_READERS_MS: i64 = 1_000;

struct Pending {
    connection: ConnectionId,
    header: RequestHeader,
    client_id: Arc<str>,
    bytes: usize,
    started_us: u64,
    /// An owner said that data came, perhaps before the request was parked.
    woken: bool,
    /// Parts whose owners were asked to tell of more data and have not said that they will not. Each is told once
    /// the request goes on or away, or it would remember the request until data comes.
    waits: Vec<(u32, Target)>,
    stage: Stage,
}

enum Stage {
    Running,
    Gathering { missing: usize, results: Vec<Option<OpResult>>, deadline_us: Option<u64>, finish: Finish },
    Parked { deadline_us: u64, resume: Resume },
    AwaitingMemory { retry: Retry },
}

struct ApiMetrics {
    latency: Histogram,
}

/// The broker side of one shard.
pub struct Broker {
    state: State,
    connections: BTreeMap<ConnectionId, Connection>,
    pending: BTreeMap<u64, Pending>,
    deadlines: BTreeSet<(u64, u64)>,
    paused: BTreeSet<ConnectionId>,
    bytes_in_flight: usize,
    next_request: u64,
    outputs: Vec<Output>,
    api_metrics: HashMap<ApiKey, ApiMetrics>,
    invalid_requests: Counter,
    /// When clients are looked at that do not read their responses; set while fetches wait for memory.
    review_readers_us: Option<u64>,
    shutting_down: bool,
}

impl Broker {
    /// A broker without connections, which knows nothing of the cluster yet. `seed` makes ids of this shard unique.
    pub fn new(config: Arc<BrokerConfig>, seed: u64) -> Broker {
        let no_producer_ids: Range<i64> = 0..0;
        let alone = BTreeSet::from([config.node]);
        Broker {
            state: State {
                config,
                image: Arc::new(MetadataImage::default()),
                leaders: HashMap::new(),
                alive: Arc::new(alone),
                sessions: FetchSessions::new(seed),
                memory: ResponseMemory::default(),
                producer_ids: no_producer_ids,
                seed,
            },
            connections: BTreeMap::new(),
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            paused: BTreeSet::new(),
            bytes_in_flight: 0,
            next_request: 0,
            outputs: Vec::new(),
            api_metrics: HashMap::new(),
            invalid_requests: metrics::counter!("chronik_requests_invalid_total"),
            review_readers_us: None,
            shutting_down: false,
        }
    }

    /// Takes what is to be done, in order.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// When [`Broker::on_deadline`] is due.
    pub fn next_deadline_us(&self) -> Option<u64> {
        let of_requests = self.deadlines.first().map(|(deadline, _)| *deadline);
        of_requests.into_iter().chain(self.review_readers_us).min()
    }

    /// Whether every request is answered, and every answer sent.
    pub fn is_idle(&self) -> bool {
        self.connections.values().all(Connection::is_idle)
    }

    /// A client connected.
    pub fn on_connected(&mut self, connection: ConnectionId, client_host: String) {
        let mut new = Connection::new(client_host);
        // Answers from an empty image would deny topics that exist.
        if !self.knows_cluster() {
            new.reading = false;
            self.paused.insert(connection);
            self.outputs.push(Output::SetReading { connection, reading: false });
        }
        self.connections.insert(connection, new);
    }

    /// Whether the image is one of a cluster that this process has joined. A registration of an earlier one may be all that an
    /// old image holds.
    fn knows_cluster(&self) -> bool {
        let config = &self.state.config;
        self.state.image.broker(config.node).is_some_and(|broker| broker.incarnation == config.incarnation)
    }

    /// A connection is gone: its requests go on where they change something, and wait for nothing.
    pub fn on_disconnected(&mut self, now: Now, connection: ConnectionId) {
        let Some(gone) = self.connections.remove(&connection) else { return };
        self.paused.remove(&connection);
        for request in gone.unanswered() {
            self.forget(request);
        }
        self.state.memory.on_gone(gone.response_bytes());
        self.resume_fetches(now);
        self.resume_connections();
    }

    /// The socket took response bytes.
    pub fn on_response_sent(&mut self, now: Now, connection: ConnectionId, bytes: usize) {
        if let Some(found) = self.connections.get_mut(&connection) {
            found.on_sent(now, bytes);
            self.state.memory.on_gone(bytes);
            self.resume_fetches(now);
            if self.paused.contains(&connection) {
                self.resume_connections();
            }
        }
    }

    /// The process is ending: no more requests are read, and nothing waits for data.
    pub fn on_shutdown(&mut self, now: Now) {
        self.shutting_down = true;
        let connections: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for connection in connections {
            self.outputs.push(Output::SetReading { connection, reading: false });
        }
        let parked = |pending: &Pending| matches!(pending.stage, Stage::Parked { .. });
        let waiting: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| parked(pending)).map(|(request, _)| *request).collect();
        for request in waiting {
            self.resume(now, request, Wake::Deadline);
        }
        for request in self.state.memory.take_waiting() {
            self.refuse_for_shutdown(request);
        }
    }

    /// Nobody knows when there will be memory for this fetch: its client asks elsewhere.
    fn refuse_for_shutdown(&mut self, request: u64) {
        let connection = self.pending.get(&request).expect("a waiting request is pending").connection;
        self.forget(request);
        if let Some(found) = self.connections.get_mut(&connection) {
            found.closing = true;
            found.give_up(request);
        }
        let reason = "the broker ends while a fetch waits for memory".to_owned();
        self.outputs.push(Output::Close { connection, reason });
    }

    /// A newer image of the metadata.
    pub fn on_image(&mut self, image: Arc<MetadataImage>) {
        assert!(image.epoch() >= self.state.image.epoch(), "images come in order");
        self.state.image = image;
        let State { leaders, image, .. } = &mut self.state;
        leaders.retain(|group, _| image.partition_of_group(*group).is_some());
        self.resume_connections();
    }

    /// A group has a new leader, term or set of in-sync replicas.
    pub fn on_leader(&mut self, group: GroupId, term: Term, leader: Option<NodeId>, in_sync: Arc<[NodeId]>) {
        let known = self.state.leaders.entry(group).or_default();
        if term < known.term {
            return;
        }
        // Only the leader knows who is in sync; what it said last holds until it speaks again.
        let in_sync = if in_sync.is_empty() { std::mem::take(&mut known.in_sync) } else { in_sync };
        *known = KnownLeader { term, leader, in_sync };
    }

    /// Other nodes have come or gone.
    pub fn on_alive(&mut self, alive: Arc<BTreeSet<NodeId>>) {
        assert!(alive.contains(&self.state.config.node), "this node is alive");
        self.state.alive = alive;
    }

    /// One request, header first.
    pub fn on_frame(&mut self, now: Now, connection: ConnectionId, mut frame: BytesMut) {
        let bytes = frame.len();
        let request = self.next_request;
        self.next_request += 1;
        let Some(found) = self.connections.get_mut(&connection) else { return };
        if found.closing {
            return;
        }
        let header = match frame::decode_header(&mut frame) {
            Ok(header) => header,
            Err(error) => return self.close(connection, format!("unreadable request header: {error}")),
        };
        found.begin(request, header.api_key == ApiKey::Fetch.wire());
        self.bytes_in_flight += bytes;
        let client_id: Arc<str> = header.client_id.as_ref().map_or("", |id| id.as_str()).into();
        let pending = Pending {
            connection,
            header,
            client_id,
            bytes,
            started_us: now.mono_us,
            woken: false,
            waits: Vec::new(),
            stage: Stage::Running,
        };
        self.pending.insert(request, pending);
        self.pause_if_full(connection);
        let step = self.dispatch(now, request, frame);
        self.drive(now, request, step);
    }

    fn dispatch(&mut self, now: Now, request: u64, body: BytesMut) -> Step {
        let pending = self.pending.get(&request).expect("it was just inserted");
        let client_host = self.connections.get(&pending.connection).map_or("", |c| c.client_host.as_str());
        let info = info(now, pending, client_host);
        let (api_key, api_version) = (pending.header.api_key, pending.header.api_version);
        match ApiKey::from_wire(api_key) {
            Some(ApiKey::ApiVersions) => api_versions::handle(&self.state, info, body.freeze()),
            Some(ApiKey::Produce) => produce::handle(&mut self.state, info, body),
            _ => match frame::decode_request(&pending.header, body.freeze()) {
                Ok(decoded) => handlers::handle(&mut self.state, info, decoded),
                Err(error) => Step::Close(format!("API {api_key} version {api_version}: {error}")),
            },
        }
    }

    /// Follows a request's steps until it waits for something or is answered.
    fn drive(&mut self, now: Now, request: u64, mut step: Step) {
        loop {
            match step {
                Step::Reply(response) => {
                    let header = &self.pending.get(&request).expect("a driven request is pending").header;
                    match frame::encode_response(header.api_version, header.correlation_id, &response) {
                        Ok(bytes) => return self.complete(now, request, vec![bytes]),
                        Err(error) => step = Step::Close(format!("response cannot be encoded: {error}")),
                    }
                }
                Step::Encoded(parts) => return self.complete(now, request, parts),
                Step::NoReply => return self.complete(now, request, Vec::new()),
                Step::Close(reason) => {
                    let connection =
                        self.pending.get(&request).expect("a driven request is pending").connection;
                    self.forget(request);
                    return self.close(connection, reason);
                }
                Step::Gather(gather) if gather.ops.is_empty() => {
                    step =
                        self.with_info(now, request, |state, info| (gather.finish)(state, info, Vec::new()));
                }
                Step::Gather(gather) => return self.gather(request, gather),
                Step::AwaitMemory(_) if self.shutting_down => return self.refuse_for_shutdown(request),
                Step::AwaitMemory(retry) => {
                    let pending = self.pending.get_mut(&request).expect("a driven request is pending");
                    pending.stage = Stage::AwaitingMemory { retry };
                    self.review_readers_us.get_or_insert(now.after_ms(STALLED_READER_MS));
                    return self.state.memory.wait(request);
                }
                Step::Park { deadline_us, resume } => {
                    let pending = self.pending.get_mut(&request).expect("a driven request is pending");
                    let wake = match std::mem::take(&mut pending.woken) {
                        true => Some(Wake::Data),
                        false => self.shutting_down.then_some(Wake::Deadline),
                    };
                    if let Some(wake) = wake {
                        self.cancel_waits(request);
                        step = self.with_info(now, request, |state, info| resume(state, info, wake));
                        continue;
                    }
                    pending.stage = Stage::Parked { deadline_us, resume };
                    self.deadlines.insert((deadline_us, request));
                    return;
                }
            }
        }
    }

    fn gather(&mut self, request: u64, gather: Gather) {
        let pending = self.pending.get_mut(&request).expect("a driven request is pending");
        // Whoever is asked again is not told of what came of the last time.
        cancel(&mut self.outputs, request, &mut pending.waits);
        let missing = gather.ops.len();
        if gather.reserved_bytes > 0 {
            self.state.memory.reserve(request, missing, gather.reserved_bytes);
        }
        let results = std::iter::repeat_with(|| None).take(missing).collect();
        pending.stage =
            Stage::Gathering { missing, results, deadline_us: gather.deadline_us, finish: gather.finish };
        if let Some(deadline_us) = gather.deadline_us {
            self.deadlines.insert((deadline_us, request));
        }
        for (part, (to, op)) in (0u32..).zip(gather.ops) {
            if matches!(&op, Op::Fetch(FetchOp { wait: true, .. })) {
                pending.waits.push((part, to));
            }
            self.outputs.push(Output::Op { to, token: OpToken { request, part }, op });
        }
    }

    /// The owner of a group answered.
    pub fn on_op_result(&mut self, now: Now, token: OpToken, result: OpResult) {
        if matches!(result, OpResult::FetchWake) {
            return self.on_fetch_wake(now, token.request);
        }
        if matches!(result, OpResult::Fetch { .. }) {
            self.state.memory.on_answered(token.request);
        }
        self.on_gathered(now, token, result);
        self.resume_fetches(now);
    }

    fn on_gathered(&mut self, now: Now, token: OpToken, result: OpResult) {
        let Some(pending) = self.pending.get_mut(&token.request) else { return };
        let Stage::Gathering { missing, results, .. } = &mut pending.stage else { return };
        if matches!(result, OpResult::Fetch { waiting: false, .. }) {
            pending.waits.retain(|(part, _)| *part != token.part);
        }
        let slot = &mut results[token.part as usize];
        assert!(slot.is_none(), "an operation is answered once");
        *slot = Some(result);
        *missing -= 1;
        if *missing == 0 {
            self.finish_gathering(now, token.request);
        }
    }

    fn finish_gathering(&mut self, now: Now, request: u64) {
        let pending = self.pending.get_mut(&request).expect("the caller found it");
        let Stage::Gathering { results, deadline_us, finish, .. } =
            std::mem::replace(&mut pending.stage, Stage::Running)
        else {
            unreachable!("only a request that gathers finishes gathering")
        };
        if let Some(deadline_us) = deadline_us {
            self.deadlines.remove(&(deadline_us, request));
        }
        let results = results.into_iter().map(|result| result.unwrap_or(OpResult::TimedOut)).collect();
        let step = self.with_info(now, request, |state, info| finish(state, info, results));
        self.drive(now, request, step);
    }

    /// Memory came free: fetches that waited for it go on.
    fn resume_fetches(&mut self, now: Now) {
        while let Some(request) = self.state.memory.next_ready() {
            let pending = self.pending.get_mut(&request).expect("a waiting request is pending");
            let Stage::AwaitingMemory { retry } = std::mem::replace(&mut pending.stage, Stage::Running)
            else {
                unreachable!("a request that waits for memory does nothing else")
            };
            let step = self.with_info(now, request, retry);
            self.drive(now, request, step);
        }
    }

    fn on_fetch_wake(&mut self, now: Now, request: u64) {
        let Some(pending) = self.pending.get_mut(&request) else { return };
        pending.woken = true;
        if matches!(pending.stage, Stage::Parked { .. }) {
            self.resume(now, request, Wake::Data);
        }
    }

    fn resume(&mut self, now: Now, request: u64, wake: Wake) {
        let pending = self.pending.get_mut(&request).expect("the caller found it");
        pending.woken = false;
        let Stage::Parked { deadline_us, resume } = std::mem::replace(&mut pending.stage, Stage::Running)
        else {
            unreachable!("only a parked request is resumed")
        };
        self.deadlines.remove(&(deadline_us, request));
        self.cancel_waits(request);
        let step = self.with_info(now, request, |state, info| resume(state, info, wake));
        self.drive(now, request, step);
    }

    /// While fetches wait for memory, clients that hold it and do not read are cut off: a few of them could keep all others
    /// from reading until their connections count as idle.
    fn review_readers(&mut self, now: Now) {
        self.review_readers_us = self.state.memory.is_short().then(|| now.after_ms(REVIEW_READERS_MS));
        if self.review_readers_us.is_none() {
            return;
        }
        for (connection, found) in &mut self.connections {
            if found.is_stalled(now) && !found.aborted {
                (found.closing, found.aborted) = (true, true);
                let reason = "it does not read its responses, and others wait for their memory".to_owned();
                self.outputs.push(Output::Abort { connection: *connection, reason });
            }
        }
    }

    /// The time of [`Broker::next_deadline_us`] has come.
    pub fn on_deadline(&mut self, now: Now) {
        if self.review_readers_us.is_some_and(|review_us| review_us <= now.mono_us) {
            self.review_readers(now);
        }
        while let Some((deadline_us, request)) = self.deadlines.first().copied() {
            if deadline_us > now.mono_us {
                break;
            }
            self.deadlines.pop_first();
            match self.pending.get(&request).map(|pending| &pending.stage) {
                Some(Stage::Gathering { .. }) => self.finish_gathering(now, request),
                Some(Stage::Parked { .. }) => self.resume(now, request, Wake::Deadline),
                Some(Stage::Running | Stage::AwaitingMemory { .. }) | None => {}
            }
        }
    }

    fn cancel_waits(&mut self, request: u64) {
        let pending = self.pending.get_mut(&request).expect("the caller found it");
        cancel(&mut self.outputs, request, &mut pending.waits);
    }

    fn with_info<T>(
        &mut self,
        now: Now,
        request: u64,
        call: impl FnOnce(&mut State, RequestInfo<'_>) -> T,
    ) -> T {
        let pending = self.pending.get(&request).expect("a driven request is pending");
        let client_host = self.connections.get(&pending.connection).map_or("", |c| c.client_host.as_str());
        call(&mut self.state, info(now, pending, client_host))
    }

    /// The response is known: it goes out as soon as those before it have.
    fn complete(&mut self, now: Now, request: u64, parts: Vec<Bytes>) {
        let mut pending = self.pending.remove(&request).expect("a completed request is pending");
        cancel(&mut self.outputs, request, &mut pending.waits);
        self.bytes_in_flight -= pending.bytes;
        self.record_latency(&pending, now);
        let Some(connection) = self.connections.get_mut(&pending.connection) else { return };
        self.state.memory.on_response(parts.iter().map(Bytes::len).sum());
        connection.complete(now, request, parts);
        while let Some(parts) = connection.pop_sendable() {
            if !parts.is_empty() {
                self.outputs.push(Output::Respond { connection: pending.connection, parts });
            }
        }
        if !self.paused.is_empty() {
            self.resume_connections();
        }
    }

    /// Drops a request whose answer nobody waits for. Operations under way end by themselves.
    fn forget(&mut self, request: u64) {
        let Some(mut pending) = self.pending.remove(&request) else { return };
        cancel(&mut self.outputs, request, &mut pending.waits);
        self.bytes_in_flight -= pending.bytes;
        match pending.stage {
            Stage::Gathering { deadline_us: Some(deadline_us), .. } | Stage::Parked { deadline_us, .. } => {
                self.deadlines.remove(&(deadline_us, request));
            }
            Stage::AwaitingMemory { .. } => self.state.memory.forget(request),
            Stage::Gathering { .. } | Stage::Running => {}
        }
    }

    fn close(&mut self, connection: ConnectionId, reason: String) {
        self.invalid_requests.increment(1);
        if let Some(found) = self.connections.get_mut(&connection) {
            found.closing = true;
            self.outputs.push(Output::Close { connection, reason });
        }
    }

    fn pause_if_full(&mut self, connection: ConnectionId) {
        let Some(found) = self.connections.get_mut(&connection) else { return };
        if found.reading && (found.is_full() || self.bytes_in_flight >= REQUEST_BYTES_IN_FLIGHT_PER_SHARD_MAX)
        {
            found.reading = false;
            self.paused.insert(connection);
            self.outputs.push(Output::SetReading { connection, reading: false });
        }
    }

    fn resume_connections(&mut self) {
        let is_full = self.bytes_in_flight >= REQUEST_BYTES_IN_FLIGHT_PER_SHARD_MAX;
        if self.shutting_down || is_full || !self.knows_cluster() {
            return;
        }
        let connections = &mut self.connections;
        let outputs = &mut self.outputs;
        self.paused.retain(|id| match connections.get_mut(id) {
            Some(connection) if connection.is_full() => true,
            Some(connection) => {
                connection.reading = true;
                outputs.push(Output::SetReading { connection: *id, reading: true });
                false
            }
            None => false,
        });
    }

    fn record_latency(&mut self, pending: &Pending, now: Now) {
        let Some(api) = ApiKey::from_wire(pending.header.api_key) else { return };
        let metrics = self.api_metrics.entry(api).or_insert_with(|| ApiMetrics {
            latency: metrics::histogram!("chronik_request_duration_seconds", "api" => api.name()),
        });
        metrics.latency.record(now.mono_us.saturating_sub(pending.started_us) as f64 / 1e6);
    }
}

/// Tells owners that a request no longer waits for data. It reaches them after the operation that asked them to.
fn cancel(outputs: &mut Vec<Output>, request: u64, waits: &mut Vec<(u32, Target)>) {
    for (_, to) in waits.drain(..) {
        outputs.push(Output::Op { to, token: OpToken { request, part: 0 }, op: Op::CancelFetchWait });
    }
}

fn info<'a>(now: Now, pending: &'a Pending, client_host: &'a str) -> RequestInfo<'a> {
    RequestInfo {
        now,
        api_version: pending.header.api_version,
        correlation_id: pending.header.correlation_id,
        client_id: &pending.client_id,
        client_host,
    }
}
