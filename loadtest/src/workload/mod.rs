//! The clients of a run, each on a thread of its own: producers, readers, a group, an administrator, and an observer
//! of replicas. They go on through every fault and write down what they did and saw.

mod admin;
mod bulk;
mod fresh;
mod group;
mod observer;
mod producer;
mod reader;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::{
    cluster::Directory,
    error::LoadtestError,
    history::{Recorder, TopicPartition},
};

pub use self::admin::create_topic;
pub use self::bulk::Bulk;
pub use self::fresh::produce_to_fresh_topics;
pub use self::group::{GROUP, record_committed};
pub use self::reader::Collector;

/// What all threads of a run share.
#[derive(Debug)]
pub struct Shared {
    /// Where to write down.
    pub recorder: Arc<Recorder>,
    /// Where the nodes are.
    pub directory: Directory,
    /// What to do.
    pub plan: WorkloadPlan,
    /// When each partition of the load topic last acknowledged a record, in microseconds of the run's clock.
    last_acknowledged_us: Vec<AtomicU64>,
    acknowledged: AtomicU64,
    bulks: AtomicU64,
    is_stopping: AtomicBool,
}

/// How much of what.
#[derive(Clone, Debug)]
pub struct WorkloadPlan {
    /// The topic that producers keep busy.
    pub topic: String,
    /// Its partitions.
    pub partitions: i32,
    /// Replicas of each partition of every topic.
    pub replication: i32,
    /// Records per second of all producers together.
    pub rate: u32,
    /// Whether producers keep librdkafka's time-outs and retries as they are by default.
    pub has_default_retries: bool,
    /// Where random choices come from.
    pub seed: u64,
}

impl Shared {
    /// Nothing is acknowledged yet.
    pub fn new(recorder: Arc<Recorder>, directory: Directory, plan: WorkloadPlan) -> Shared {
        let last_acknowledged_us = (0..plan.partitions).map(|_| AtomicU64::new(0)).collect();
        Shared {
            recorder,
            directory,
            plan,
            last_acknowledged_us,
            acknowledged: AtomicU64::new(0),
            bulks: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// Records acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// When the partition that has waited longest for an acknowledgement had its last one.
    pub fn oldest_acknowledgement_us(&self) -> u64 {
        self.last_acknowledged_us.iter().map(|time| time.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// The partitions of the load topic.
    pub fn load_partitions(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        (0..self.plan.partitions).map(|partition| TopicPartition::new(&self.plan.topic, partition))
    }

    /// A number for each producer of much.
    fn next_bulk(&self) -> u64 {
        self.bulks.fetch_add(1, Ordering::Relaxed)
    }

    fn on_acknowledged(&self, at: &TopicPartition) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        if at.topic == self.plan.topic {
            let index = usize::try_from(at.partition).expect("partitions count from 0");
            self.last_acknowledged_us[index].store(self.recorder.clock.now_us(), Ordering::Relaxed);
        }
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// A client that notices a restart at once.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.directory.bootstrap())
            .set("reconnect.backoff.ms", "10")
            .set("reconnect.backoff.max.ms", "200")
            .set("topic.metadata.refresh.fast.interval.ms", "50")
            .set("socket.connection.setup.timeout.ms", "2000")
            .set("log_level", "0");
        if !self.plan.has_default_retries {
            // A question about metadata to a node that hangs would hold up all others for a minute.
            config.set("socket.timeout.ms", "4000");
        }
        config
    }
}

/// The running threads.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), LoadtestError>>>,
}

impl Workload {
    /// Starts all clients. The load topic must exist.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Process`] when a thread cannot be started.
    pub fn start(shared: &Arc<Shared>) -> Result<Workload, LoadtestError> {
        let mut workload = Workload { shared: Arc::clone(shared), threads: Vec::new() };
        let rate = f64::from(shared.plan.rate) / producer::KINDS.len() as f64;
        for kind in producer::KINDS {
            workload.spawn(kind.name.to_owned(), move |shared| producer::run(shared, kind, rate))?;
        }
        for number in 0..2 {
            let name = format!("reader-{number}");
            workload.spawn(name.clone(), move |shared| reader::run(shared, &name, number))?;
        }
        for number in 0..2 {
            let name = format!("member-{number}");
            workload.spawn(name.clone(), move |shared| group::run_member(shared, &name, number))?;
        }
        workload.spawn("group-offsets".to_owned(), group::run_watcher)?;
        workload.spawn("admin".to_owned(), admin::run)?;
        workload.spawn("observer".to_owned(), observer::run)?;
        Ok(workload)
    }

    /// Ends all clients, after what they have sent is answered or has waited long enough.
    ///
    /// # Errors
    ///
    /// The first client's that could not work at all.
    pub fn stop(self) -> Result<(), LoadtestError> {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        let ends: Vec<_> = self
            .threads
            .into_iter()
            .map(|thread| thread.join().expect("a panic aborts the process"))
            .collect();
        ends.into_iter().collect()
    }

    fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce(&Arc<Shared>) -> Result<(), LoadtestError> + Send + 'static,
    ) -> Result<(), LoadtestError> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || run(&shared))
            .map_err(|source| LoadtestError::Process { what: "starting a thread".to_owned(), source })?;
        self.threads.push(thread);
        Ok(())
    }
}

/// Turns an error of the client library at set-up into ours.
fn client_error(what: &str) -> impl Fn(KafkaError) -> LoadtestError + '_ {
    move |source| LoadtestError::Client { what: what.to_owned(), source }
}

/// The code in an error, for what is written down.
fn describe(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset) => "the offset does not exist".to_owned(),
        Some(code) => format!("{code:?}"),
        None => error.to_string(),
    }
}
