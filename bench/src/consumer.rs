//! Consumers: partitions read to their end, on one event loop.

use std::{sync::atomic::Ordering, time::Duration};

use protocol::ApiKey;

use crate::{
    admin::Cluster,
    clock::Clock,
    connection::{Connection, Outgoing, Ticket, wait},
    error::BenchError,
    fetch::{FetchLimits, FetchSession, Position},
    progress::Progress,
    schedule::Window,
    sys::{self, Interest},
    tally::{Tally, Times, count_broker_error, count_error},
};

/// A consumer's partitions on one broker. One Fetch is outstanding at a time, since each says where the next begins.
#[derive(Debug)]
pub struct FetchLane {
    /// What is read.
    pub session: FetchSession,
    correlation_id: i32,
}

impl FetchLane {
    /// A lane that has not asked yet.
    pub fn new(session: FetchSession) -> FetchLane {
        FetchLane { session, correlation_id: 0 }
    }

    /// Puts the next Fetch on a connection.
    ///
    /// # Errors
    ///
    /// [`BenchError::Encode`].
    pub fn submit(&mut self, connection: &mut Connection, clock: &Clock) -> Result<(), BenchError> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let frame = self.session.request(self.correlation_id)?.freeze();
        let ticket = Ticket { correlation_id: self.correlation_id, scheduled_ns: clock.now_ns(), sent_ns: 0 };
        connection.enqueue(Outgoing::from_frame(frame, ticket));
        Ok(())
    }
}

/// What all threads of a run share.
#[derive(Debug)]
pub struct ConsumeLoad {
    /// The run's clock.
    pub clock: Clock,
    /// Where the partitions are.
    pub cluster: Cluster,
    /// First offset of each partition, and the one after its last, in the cluster's order.
    pub ranges: Vec<(i64, i64)>,
    /// The version of Fetch.
    pub api_version: i16,
    /// The limits of each Fetch.
    pub limits: FetchLimits,
    /// Times that everything is read.
    pub passes: usize,
    /// Consumers over all threads.
    pub consumers: usize,
    /// Threads.
    pub threads: usize,
    /// How long a broker may return nothing.
    pub timeout: Duration,
    /// What all threads have done so far.
    pub progress: Progress,
}

/// One thread's consumers.
#[derive(Debug)]
pub struct ConsumeWorker<'load> {
    load: &'load ConsumeLoad,
    /// One per lane.
    connections: Vec<Connection>,
    lanes: Vec<ConsumeLane>,
    progress_ns: u64,
    tally: Tally,
}

#[derive(Debug)]
struct ConsumeLane {
    fetch: FetchLane,
    starts: Vec<i64>,
    passes_left: usize,
}

impl<'load> ConsumeWorker<'load> {
    /// Everything counts.
    pub const WINDOW: Window = Window { load_start_ns: 0, start_ns: 0, end_ns: u64::MAX };

    /// Connects the consumers of a thread. Partitions are dealt out to consumers in turn.
    ///
    /// # Errors
    ///
    /// As [`Connection::open`].
    pub fn connect(load: &'load ConsumeLoad, thread: usize) -> Result<ConsumeWorker<'load>, BenchError> {
        let mut worker = ConsumeWorker {
            load,
            connections: Vec::new(),
            lanes: Vec::new(),
            progress_ns: 0,
            tally: Tally::new(Self::WINDOW),
        };
        for consumer in (thread..load.consumers).step_by(load.threads) {
            worker.add_consumer(consumer)?;
        }
        Ok(worker)
    }

    fn add_consumer(&mut self, number: usize) -> Result<(), BenchError> {
        let cluster = &self.load.cluster;
        for (leader, address) in &cluster.nodes {
            let share = (number..cluster.partitions.len()).step_by(self.load.consumers);
            let mine: Vec<usize> = share
                .filter(|&at| cluster.partitions[at].leader == *leader)
                .filter(|&at| self.load.ranges[at].0 < self.load.ranges[at].1)
                .collect();
            if mine.is_empty() {
                continue;
            }
            let position = |&at: &usize| {
                let (place, (start, end)) = (&cluster.partitions[at], self.load.ranges[at]);
                Position::new(place.topic, place.partition, start, Some(end))
            };
            let session = FetchSession::new(
                self.load.api_version,
                self.load.limits,
                cluster.topics.clone(),
                mine.iter().map(position).collect(),
            );
            self.connections.push(Connection::open(address, self.load.timeout)?);
            self.lanes.push(ConsumeLane {
                fetch: FetchLane::new(session),
                starts: mine.iter().map(|&at| self.load.ranges[at].0).collect(),
                passes_left: self.load.passes - 1,
            });
        }
        Ok(())
    }

    /// Reads everything. Returns what was counted, and when the last byte came.
    pub fn run(mut self) -> (Tally, u64) {
        sys::precise_timers();
        self.progress_ns = self.load.clock.now_ns();
        if let Err(error) = self.drive() {
            count_error(&mut self.tally.errors, error.to_string(), 1);
        }
        (self.tally, self.progress_ns)
    }

    fn drive(&mut self) -> Result<(), BenchError> {
        for (lane, connection) in self.lanes.iter_mut().zip(&mut self.connections) {
            lane.fetch.submit(connection, &self.load.clock)?;
        }
        let mut interests: Vec<Interest> = Vec::new();
        while self.connections.iter().any(|connection| connection.outstanding() > 0) {
            for connection in &mut self.connections {
                connection.flush(&self.load.clock)?;
            }
            let waited = Duration::from_nanos(self.load.clock.now_ns() - self.progress_ns);
            let Some(timeout) = self.load.timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
                return Err(BenchError::UnexpectedResponse("Fetch returns nothing more".to_owned()));
            };
            wait(&self.connections, &mut interests, timeout)?;
            for (at, interest) in interests.iter().enumerate() {
                if interest.is_readable() && self.connections[at].receive()? {
                    self.on_fetched(at)?;
                }
            }
        }
        Ok(())
    }

    fn on_fetched(&mut self, at: usize) -> Result<(), BenchError> {
        let answered_ns = self.load.clock.now_ns();
        while let Some((ticket, frame)) = self.connections[at].next_response()? {
            let lane = &mut self.lanes[at];
            let (mut records, mut batch_bytes) = (0, 0);
            let mut errors = Vec::new();
            lane.fetch.session.accept(
                frame,
                |header, batch| {
                    records += header.record_count.max(0) as u64;
                    batch_bytes += batch.len() as u64;
                },
                |code| errors.push(code),
            )?;
            if !errors.is_empty() {
                let tally = &mut self.tally.errors;
                errors.iter().for_each(|&code| count_broker_error(tally, ApiKey::Fetch, code));
                return Err(BenchError::UnexpectedResponse("reading failed".to_owned()));
            }
            self.load.progress.read.fetch_add(records, Ordering::Relaxed);
            if batch_bytes > 0 {
                self.progress_ns = answered_ns;
            }
            let times = Times { scheduled_ns: ticket.scheduled_ns, sent_ns: ticket.sent_ns, answered_ns };
            self.tally.count_success(times, records, batch_bytes);
            if lane.fetch.session.is_done() {
                if lane.passes_left == 0 {
                    continue;
                }
                lane.passes_left -= 1;
                lane.fetch.session.restart(lane.starts.iter().copied());
            }
            lane.fetch.submit(&mut self.connections[at], &self.load.clock)?;
        }
        Ok(())
    }
}
