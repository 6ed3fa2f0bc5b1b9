//! Producers with acks=all, idempotent and plain.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig},
};

use super::{Shared, client_error, describe};
use crate::{
    error::LoadtestError,
    history::{Operation, Outcome, TopicPartition},
    values,
};

/// Records that a producer may have without an answer; then it waits.
const QUEUED_RECORDS_MAX: &str = "5000";
/// How long a producer waits for its last answers when the cluster is whole again.
const FLUSH_SECONDS_MAX: u64 = 60;

/// A producer's ways.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Its name, which is in all its values.
    pub name: &'static str,
    is_idempotent: bool,
    settings: &'static [Setting],
    /// In place of default time-outs and retries, where those are not wanted.
    impatience: &'static [Setting],
}

/// Name and value of a property of librdkafka.
type Setting = (&'static str, &'static str);

/// Against a node that hangs, the default waits half a minute for an answer.
const IMPATIENT: &[Setting] = &[("request.timeout.ms", "4000"), ("retry.backoff.max.ms", "200")];
/// Only a plain producer gives up: an idempotent one begins again under another producer id when a record times out, and
/// what was on its way may then be written late, out of order.
const GIVES_UP: &[Setting] =
    &[("request.timeout.ms", "4000"), ("retry.backoff.max.ms", "200"), ("message.timeout.ms", "15000")];

/// The producers of a run.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "idempotent-0",
        is_idempotent: true,
        settings: &[("linger.ms", "0")],
        impatience: IMPATIENT,
    },
    Kind {
        name: "idempotent-1",
        is_idempotent: true,
        settings: &[("linger.ms", "5"), ("compression.type", "lz4")],
        impatience: IMPATIENT,
    },
    Kind { name: "plain-0", is_idempotent: false, settings: &[("linger.ms", "5")], impatience: GIVES_UP },
    Kind {
        name: "plain-1",
        is_idempotent: false,
        settings: &[("linger.ms", "0"), ("max.in.flight.requests.per.connection", "1")],
        impatience: IMPATIENT,
    },
];

/// What is remembered of a record until its answer.
#[derive(Debug)]
pub struct Sent {
    at: TopicPartition,
    sequence: u64,
    start_us: u64,
}

/// Writes down each answer.
#[derive(Debug)]
pub struct Deliveries {
    name: String,
    shared: Arc<Shared>,
}

impl ClientContext for Deliveries {
    // Errors that matter come with a record; the rest is what faults are for.
    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        let (outcome, offset, error) = match result {
            Ok(message) => {
                self.shared.on_acknowledged(&sent.at);
                // A broker that had it already may not say where.
                (Outcome::Ok, Some(message.offset()).filter(|&offset| offset >= 0), None)
            }
            // The broker may have it all the same: an earlier attempt may have arrived.
            Err((error, _)) => (Outcome::Info, None, Some(describe(error))),
        };
        let Sent { at, sequence, start_us } = *sent;
        let operation = Operation::Send { at, sequence, offset };
        self.shared.recorder.record(&self.name, start_us, outcome, operation, error);
    }
}

/// A producer that counts its records and writes down what becomes of them.
pub struct CountingProducer {
    client: BaseProducer<Deliveries>,
    shared: Arc<Shared>,
    name: String,
    sequence: u64,
}

impl CountingProducer {
    /// Declares it in the history.
    pub fn create(
        shared: &Arc<Shared>,
        name: &str,
        is_idempotent: bool,
        config: &mut ClientConfig,
    ) -> Result<CountingProducer, LoadtestError> {
        let declaration = Operation::Producer { idempotent: is_idempotent };
        shared.recorder.ok(name, shared.recorder.clock.now_us(), declaration);
        let deliveries = Deliveries { name: name.to_owned(), shared: Arc::clone(shared) };
        let client = config
            .set("acks", "all")
            .set("enable.idempotence", is_idempotent.to_string())
            .set("queue.buffering.max.messages", QUEUED_RECORDS_MAX)
            .create_with_context(deliveries)
            .map_err(client_error("creating a producer"))?;
        Ok(CountingProducer { client, shared: Arc::clone(shared), name: name.to_owned(), sequence: 0 })
    }

    /// Hands one record to the client library; false when its queue is full and the record was not taken.
    pub fn send(&mut self, at: &TopicPartition, length: usize) -> Result<bool, LoadtestError> {
        let value = values::encode(&self.name, self.sequence, length);
        let sent =
            Sent { at: at.clone(), sequence: self.sequence, start_us: self.shared.recorder.clock.now_us() };
        let record: BaseRecord<'_, (), [u8], Box<Sent>> =
            BaseRecord::with_opaque_to(&at.topic, Box::new(sent)).partition(at.partition).payload(&value);
        match self.client.send(record) {
            Ok(()) => {
                self.sequence += 1;
                Ok(true)
            }
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((KafkaError::MessageProduction(code), sent)) => {
                // It never left this process.
                let Sent { at, sequence, start_us } = *sent.delivery_opaque;
                let operation = Operation::Send { at, sequence, offset: None };
                let error = Some(format!("{code:?}"));
                self.shared.recorder.record(&self.name, start_us, Outcome::Fail, operation, error);
                self.sequence += 1;
                // A producer with a fatal error refuses everything from then on: no need to ask it in a tight loop.
                self.poll(Duration::from_millis(100));
                Ok(true)
            }
            Err((error, _)) => Err(client_error("producing")(error)),
        }
    }

    /// Serves answers.
    pub fn poll(&self, timeout: Duration) {
        self.client.poll(timeout);
    }

    /// Waits for the last answers, and gives up on those that do not come.
    pub fn finish(self) {
        let start_us = self.shared.recorder.clock.now_us();
        let deadline = Instant::now() + Duration::from_secs(FLUSH_SECONDS_MAX);
        while self.client.in_flight_count() > 0 && Instant::now() < deadline {
            self.client.poll(Duration::from_millis(50));
        }
        let left = u64::try_from(self.client.in_flight_count()).expect("a count is not negative");
        let outcome = if left == 0 { Outcome::Ok } else { Outcome::Info };
        self.shared.recorder.record(&self.name, start_us, outcome, Operation::Flush { left }, None);
        // Those that are left get their line, as `info`.
        self.client.purge(PurgeConfig::default().queue().inflight());
        self.client.poll(Duration::from_millis(100));
    }
}

/// Keeps all partitions of the load topic busy at `rate` records per second until the run stops.
pub fn run(shared: &Arc<Shared>, kind: &Kind, rate: f64) -> Result<(), LoadtestError> {
    let mut config = shared.client();
    let impatience = if shared.plan.has_default_retries { &[] } else { kind.impatience };
    for (name, value) in kind.settings.iter().chain(impatience) {
        config.set(*name, *value);
    }
    let mut producer = CountingProducer::create(shared, kind.name, kind.is_idempotent, &mut config)?;
    let mut chance =
        fastrand::Rng::with_seed(shared.plan.seed ^ u64::from(crc32fast::hash(kind.name.as_bytes())));
    let partitions: Vec<_> = shared.load_partitions().collect();
    let pause = Duration::from_secs_f64(1.0 / rate);
    let mut due = Instant::now();
    while !shared.is_stopping() {
        let now = Instant::now();
        if now < due {
            producer.poll((due - now).min(Duration::from_millis(10)));
            continue;
        }
        if producer.send(chance.choice(&partitions).expect("there is a partition"), length(&mut chance))? {
            due += pause;
        } else {
            producer.poll(Duration::from_millis(10));
        }
        // What could not be sent in time is not made up for.
        due = due.max(now.checked_sub(Duration::from_millis(100)).unwrap_or(now));
    }
    producer.finish();
    Ok(())
}

/// Mostly small values, some large.
fn length(chance: &mut fastrand::Rng) -> usize {
    match chance.u32(0..100) {
        0..80 => chance.usize(20..300),
        80..99 => chance.usize(300..4_000),
        _ => chance.usize(4_000..100_000),
    }
}

/// Waits without holding up the end of the run.
pub fn wait(shared: &Shared, duration: Duration) {
    let deadline = Instant::now() + duration;
    while !shared.is_stopping() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
}
