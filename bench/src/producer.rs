//! Producers: one thread's share of the load, on one event loop.

use std::{sync::atomic::Ordering, time::Duration};

use protocol::ApiKey;

use crate::{
    admin::Cluster,
    clock::Clock,
    connection::{Connection, Outgoing, Ticket, wait},
    consumer::FetchLane,
    error::BenchError,
    fetch::{FetchLimits, FetchSession, Position},
    frames::{PreparedProduce, Stamp, Templates, read_produce_response},
    keys::partition_of,
    progress::Progress,
    schedule::{Schedule, Window},
    sys::{self, Interest},
    tally::{Tally, Times, count_broker_error, count_error},
};

/// How often a thread that has nothing left to do looks whether the others have.
const OTHERS_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// When requests are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// On a schedule that is fixed before the run, whatever the broker does.
    Open {
        /// Over all threads.
        requests_per_second: f64,
    },
    /// When an earlier one is answered: a throughput, and the latency of a full queue.
    Closed {
        /// Requests that each connection keeps outstanding.
        in_flight: usize,
    },
}

/// What all threads of a run share.
#[derive(Debug)]
pub struct ProduceLoad {
    /// The run's clock.
    pub clock: Clock,
    /// When requests are made.
    pub pace: Pace,
    /// Where the partitions are.
    pub cluster: Cluster,
    /// The version of Produce.
    pub api_version: i16,
    /// The batches.
    pub templates: Templates,
    /// Whether partitions are taken as the hashes of random keys fall, instead of in turn.
    pub is_keyed: bool,
    /// The request of each partition.
    pub prepared: Vec<PreparedProduce>,
    /// The run's number when records are stamped to be read back.
    pub stamp_run: Option<u64>,
    /// Producers over all threads.
    pub producers: usize,
    /// Threads.
    pub threads: usize,
    /// How long before a request is due the thread spins instead of sleeping.
    pub spin_ns: u64,
    /// How long answers are waited for after the load's end.
    pub timeout: Duration,
    /// Requests of all threads in closed load; the window's end ends it otherwise.
    pub requests_max: Option<u64>,
    /// A request that is unanswered for longer ends the run: the rate is too high to go on.
    pub lag_ns_max: Option<u64>,
    /// What all threads have done so far.
    pub progress: Progress,
}

/// What reads the records back.
#[derive(Clone, Debug)]
pub struct TailOptions {
    /// The version of Fetch.
    pub api_version: i16,
    /// Where each partition ends before the load, in the cluster's order.
    pub offsets: Vec<i64>,
    /// The limits of each Fetch.
    pub limits: FetchLimits,
    /// Consumers over all threads; partitions are dealt out to them.
    pub consumers: usize,
}

/// A client that writes to all partitions.
#[derive(Debug)]
struct Producer {
    /// The connection to each partition's leader.
    routes: Vec<usize>,
    next: Turn,
}

/// Which of some partitions is next.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// One after the other.
    Cyclic { next: usize },
    /// As the hashes of random keys fall.
    Keyed { state: u64 },
}

impl Turn {
    fn new(is_keyed: bool, start: usize, seed: usize) -> Turn {
        if is_keyed { Turn::Keyed { state: seed as u64 + 1 } } else { Turn::Cyclic { next: start } }
    }

    fn take(&mut self, count: usize) -> usize {
        match self {
            Turn::Cyclic { next } => {
                let taken = *next;
                *next = (taken + 1) % count;
                taken
            }
            Turn::Keyed { state } => {
                *state = state.wrapping_add(1);
                partition_of(&state.to_be_bytes(), count)
            }
        }
    }
}

/// What one connection writes to when it is kept full.
#[derive(Debug)]
struct Lane {
    partitions: Vec<usize>,
    next: Turn,
}

/// The connections of one thread: its producers, and the consumers that read back.
#[derive(Debug, Default)]
pub struct Clients {
    producers: Vec<Producer>,
    /// Those of the producers, one lane each, then those of the tails.
    connections: Vec<Connection>,
    lanes: Vec<Lane>,
    tails: Vec<FetchLane>,
}

impl Clients {
    /// Connects the producers of a thread, and what reads back.
    ///
    /// # Errors
    ///
    /// As [`Connection::open`].
    pub fn connect(
        load: &ProduceLoad,
        thread: usize,
        tail: Option<&TailOptions>,
    ) -> Result<Clients, BenchError> {
        let mut clients = Clients::default();
        for producer in (thread..load.producers).step_by(load.threads) {
            clients.add_producer(load, producer)?;
        }
        if let Some(tail) = tail {
            for consumer in (thread..tail.consumers).step_by(load.threads) {
                clients.add_consumer(load, tail, consumer)?;
            }
        }
        Ok(clients)
    }

    fn add_producer(&mut self, load: &ProduceLoad, number: usize) -> Result<(), BenchError> {
        let cluster = &load.cluster;
        let mut routes = vec![0; cluster.partitions.len()];
        for (leader, address) in &cluster.nodes {
            let partitions: Vec<usize> =
                (0..routes.len()).filter(|&at| cluster.partitions[at].leader == *leader).collect();
            if partitions.is_empty() {
                continue;
            }
            partitions.iter().for_each(|&at| routes[at] = self.connections.len());
            self.connections.push(Connection::open(address, load.timeout)?);
            // Producers begin at different partitions, so that they do not visit each in a herd.
            let next = Turn::new(load.is_keyed, number * partitions.len() / load.producers, number);
            self.lanes.push(Lane { partitions, next });
        }
        let next = Turn::new(load.is_keyed, number * routes.len() / load.producers, number << 32);
        self.producers.push(Producer { routes, next });
        Ok(())
    }

    fn add_consumer(
        &mut self,
        load: &ProduceLoad,
        tail: &TailOptions,
        number: usize,
    ) -> Result<(), BenchError> {
        let cluster = &load.cluster;
        for (leader, address) in &cluster.nodes {
            let share = cluster.partitions.iter().zip(&tail.offsets).skip(number).step_by(tail.consumers);
            let positions: Vec<Position> = share
                .filter(|(place, _)| place.leader == *leader)
                .map(|(place, &offset)| Position::new(place.topic, place.partition, offset, None))
                .collect();
            if positions.is_empty() {
                continue;
            }
            let session = FetchSession::new(tail.api_version, tail.limits, cluster.topics.clone(), positions);
            self.tails.push(FetchLane::new(session));
            self.connections.push(Connection::open(address, load.timeout)?);
        }
        Ok(())
    }
}

/// The next scheduled request, made before it is due: making it is no part of its latency.
#[derive(Debug)]
struct Upcoming {
    due_ns: u64,
    connection: usize,
    request: Outgoing,
}

/// One thread at work.
#[derive(Debug)]
pub struct ProduceWorker<'load> {
    load: &'load ProduceLoad,
    window: Window,
    schedule: Option<Schedule>,
    clients: Clients,
    next_producer: usize,
    upcoming: Option<Upcoming>,
    correlation_id: i32,
    outstanding: usize,
    submitted: u64,
    is_producing: bool,
    tally: Tally,
}

impl<'load> ProduceWorker<'load> {
    /// A thread that works in a window.
    ///
    /// # Panics
    ///
    /// When the thread has no producer.
    pub fn new(
        load: &'load ProduceLoad,
        window: Window,
        thread: usize,
        clients: Clients,
    ) -> ProduceWorker<'load> {
        assert!(!clients.producers.is_empty(), "every thread has a share of the arrivals");
        let schedule = match load.pace {
            Pace::Open { requests_per_second } => {
                Some(Schedule::new(window, requests_per_second, thread, load.threads))
            }
            Pace::Closed { .. } => None,
        };
        ProduceWorker {
            load,
            window,
            schedule,
            clients,
            next_producer: 0,
            upcoming: None,
            correlation_id: 0,
            outstanding: 0,
            submitted: 0,
            is_producing: true,
            tally: Tally::new(window),
        }
    }

    /// Puts the load on the broker until its end, and waits for what is outstanding.
    pub fn run(mut self) -> Tally {
        sys::precise_timers();
        if let Err(error) = self.drive() {
            count_error(&mut self.tally.errors, error.to_string(), 1);
        }
        let unanswered: usize =
            self.clients.connections[..self.clients.lanes.len()].iter().map(Connection::outstanding).sum();
        count_error(&mut self.tally.errors, "Produce unanswered".to_owned(), unanswered as u64);
        self.finish_producing();
        self.tally
    }

    fn drive(&mut self) -> Result<(), BenchError> {
        for at in 0..self.clients.tails.len() {
            self.clients.tails[at]
                .submit(&mut self.clients.connections[self.clients.lanes.len() + at], &self.load.clock)?;
        }
        let mut interests: Vec<Interest> = Vec::new();
        loop {
            self.submit_due()?;
            for connection in &mut self.clients.connections {
                connection.flush(&self.load.clock)?;
            }
            self.count_completed();
            self.check_lag()?;
            self.make_upcoming();
            let Some(timeout) = self.time_to_wait() else { return Ok(()) };
            wait(&self.clients.connections, &mut interests, timeout)?;
            for (at, interest) in interests.iter().enumerate() {
                if interest.is_readable() {
                    self.on_readable(at)?;
                }
            }
        }
    }

    fn submit_due(&mut self) -> Result<(), BenchError> {
        let now_ns = self.load.clock.now_ns();
        if let Pace::Closed { in_flight } = self.load.pace {
            if (self.window.load_start_ns..self.window.end_ns).contains(&now_ns) {
                self.fill_lanes(in_flight);
            }
            return Ok(());
        }
        while let Some(due_ns) = self.schedule.as_mut().and_then(|schedule| schedule.take_due(now_ns)) {
            if self.outstanding >= self.load.outstanding_max() {
                return Err(BenchError::Overload { outstanding: self.outstanding });
            }
            let upcoming = self.upcoming.take().unwrap_or_else(|| self.make_scheduled(due_ns));
            assert_eq!(upcoming.due_ns, due_ns, "requests are due in the order of the schedule");
            self.submit(upcoming.connection, upcoming.request);
        }
        Ok(())
    }

    fn make_upcoming(&mut self) {
        if self.upcoming.is_none() {
            let due_ns = self.schedule.as_ref().and_then(Schedule::next_due_ns);
            self.upcoming = due_ns.map(|due_ns| self.make_scheduled(due_ns));
        }
    }

    fn make_scheduled(&mut self, due_ns: u64) -> Upcoming {
        let at = self.next_producer;
        self.next_producer = (at + 1) % self.clients.producers.len();
        let producer = &mut self.clients.producers[at];
        let partition = producer.next.take(producer.routes.len());
        let connection = producer.routes[partition];
        Upcoming { due_ns, connection, request: self.make(partition, due_ns) }
    }

    fn check_lag(&self) -> Result<(), BenchError> {
        let Some(lag_ns_max) = self.load.lag_ns_max else { return Ok(()) };
        let oldest_ns = self.clients.connections[..self.clients.lanes.len()]
            .iter()
            .filter_map(Connection::oldest_scheduled_ns)
            .min();
        match oldest_ns {
            Some(oldest_ns) if self.load.clock.now_ns().saturating_sub(oldest_ns) > lag_ns_max => {
                Err(BenchError::Overload { outstanding: self.outstanding })
            }
            _ => Ok(()),
        }
    }

    fn fill_lanes(&mut self, in_flight: usize) {
        for at in 0..self.clients.lanes.len() {
            while self.clients.connections[at].outstanding() < in_flight && !self.has_submitted_all() {
                let lane = &mut self.clients.lanes[at];
                let partition = lane.partitions[lane.next.take(lane.partitions.len())];
                let now_ns = self.load.clock.now_ns();
                let request = self.make(partition, now_ns);
                self.submit(at, request);
            }
        }
    }

    fn make(&mut self, partition: usize, scheduled_ns: u64) -> Outgoing {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let ticket = Ticket { correlation_id: self.correlation_id, scheduled_ns, sent_ns: 0 };
        let prepared = &self.load.prepared[partition];
        match self.load.stamp_run {
            Some(run) => prepared
                .request_with(self.load.templates.of(partition).stamped(Stamp { run, scheduled_ns }), ticket),
            None => prepared.request(ticket),
        }
    }

    fn submit(&mut self, connection: usize, request: Outgoing) {
        self.outstanding += 1;
        self.submitted += 1;
        self.clients.connections[connection].enqueue(request);
    }

    /// How long to sleep; `None` when there is nothing left to wait for.
    fn time_to_wait(&mut self) -> Option<Duration> {
        let now_ns = self.load.clock.now_ns();
        if let Some(next_ns) = self.next_send_ns(now_ns) {
            return Some(Duration::from_nanos(next_ns.saturating_sub(now_ns + self.load.spin_ns)));
        }
        let give_up_ns = self.window.end_ns.saturating_add(self.load.timeout.as_nanos() as u64);
        let producers = &self.clients.connections[..self.clients.lanes.len()];
        let is_answered = producers.iter().all(|connection| connection.outstanding() == 0);
        if is_answered {
            self.finish_producing();
        }
        let is_over = is_answered && (self.clients.tails.is_empty() || self.load.progress.is_all_read());
        if is_over || now_ns >= give_up_ns {
            return None;
        }
        let left = Duration::from_nanos(give_up_ns - now_ns);
        // Nothing wakes this thread when another one's last record is acknowledged.
        Some(if is_answered { left.min(OTHERS_POLL_INTERVAL) } else { left })
    }

    /// When something is to be sent next; `None` when all is.
    fn next_send_ns(&self, now_ns: u64) -> Option<u64> {
        let window = self.window;
        match &self.schedule {
            Some(schedule) => schedule.next_due_ns(),
            None if self.has_submitted_all() => None,
            None if now_ns < window.load_start_ns => Some(window.load_start_ns),
            // Without answers there is nothing to wake up for, but there is room again.
            None if self.load.stops_when_written() && now_ns < window.end_ns => Some(now_ns),
            None => (now_ns < window.end_ns).then_some(window.end_ns),
        }
    }

    fn has_submitted_all(&self) -> bool {
        self.load.requests_max.is_some_and(|max| self.submitted >= max.div_ceil(self.load.threads as u64))
    }

    fn finish_producing(&mut self) {
        if std::mem::take(&mut self.is_producing) {
            self.load.progress.producing.fetch_sub(1, Ordering::Release);
        }
    }

    fn on_readable(&mut self, at: usize) -> Result<(), BenchError> {
        if !self.clients.connections[at].receive()? {
            return Ok(());
        }
        let answered_ns = self.load.clock.now_ns();
        match at.checked_sub(self.clients.lanes.len()) {
            None => self.on_acknowledgements(at, answered_ns),
            Some(tail) => self.on_fetched(at, tail, answered_ns),
        }
    }

    fn on_acknowledgements(&mut self, at: usize, answered_ns: u64) -> Result<(), BenchError> {
        while let Some((ticket, frame)) = self.clients.connections[at].next_response()? {
            self.outstanding -= 1;
            let error_code = read_produce_response(self.load.api_version, frame)?;
            if error_code == 0 {
                self.count_success(ticket, answered_ns);
            } else {
                count_broker_error(&mut self.tally.errors, ApiKey::Produce, error_code);
            }
        }
        Ok(())
    }

    fn count_completed(&mut self) {
        if !self.load.stops_when_written() {
            return;
        }
        let now_ns = self.load.clock.now_ns();
        for at in 0..self.clients.lanes.len() {
            for ticket in self.clients.connections[at].take_completed() {
                self.outstanding -= 1;
                self.count_success(ticket, now_ns);
            }
        }
    }

    fn count_success(&mut self, ticket: Ticket, answered_ns: u64) {
        let template = self.load.templates.any();
        self.load.progress.acknowledged.fetch_add(template.records() as u64, Ordering::Release);
        let times = Times { scheduled_ns: ticket.scheduled_ns, sent_ns: ticket.sent_ns, answered_ns };
        self.tally.count_success(times, template.records() as u64, template.batch_bytes() as u64);
    }

    fn on_fetched(&mut self, at: usize, tail: usize, read_ns: u64) -> Result<(), BenchError> {
        let load = self.load;
        while let Some((_, frame)) = self.clients.connections[at].next_response()? {
            let tally = &mut self.tally;
            let (mut records, mut failed) = (0, false);
            let mut errors = Vec::new();
            self.clients.tails[tail].session.accept(
                frame,
                |header, batch| {
                    records += header.record_count.max(0) as u64;
                    let Some(run) = load.stamp_run else { return };
                    match load.templates.any().read_stamp(batch) {
                        Some(stamp) if stamp.run == run => tally.count_read_back(stamp.scheduled_ns, read_ns),
                        _ => failed = true,
                    }
                },
                |code| errors.push(code),
            )?;
            load.progress.read.fetch_add(records, Ordering::Release);
            if failed {
                count_error(&mut tally.errors, "read back a record of another producer".to_owned(), 1);
            }
            if !errors.is_empty() {
                errors.iter().for_each(|&code| count_broker_error(&mut tally.errors, ApiKey::Fetch, code));
                return Err(BenchError::UnexpectedResponse("reading back failed".to_owned()));
            }
            self.clients.tails[tail].submit(&mut self.clients.connections[at], &load.clock)?;
        }
        Ok(())
    }
}

/// Requests of one thread that may be outstanding in open load, and their bytes where each has a batch of its own: the
/// memory that an overload may take.
const OUTSTANDING_MAX: usize = 1_000_000;
const STAMPED_BYTES_MAX: usize = 1 << 30;

impl ProduceLoad {
    fn outstanding_max(&self) -> usize {
        match self.stamp_run {
            Some(_) => (STAMPED_BYTES_MAX / self.templates.any().batch_bytes()).clamp(1, OUTSTANDING_MAX),
            None => OUTSTANDING_MAX,
        }
    }

    /// Whether requests are over when the socket has them, without an answer.
    fn stops_when_written(&self) -> bool {
        self.prepared.first().is_some_and(|prepared| !prepared.is_answered())
    }
}
