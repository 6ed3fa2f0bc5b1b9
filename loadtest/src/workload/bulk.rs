//! A producer that writes as much as it can, for as long as it lives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Shared, producer::CountingProducer};
use crate::error::LoadtestError;

const RECORD_BYTES: usize = 50_000;
/// What it may have without an answer.
const QUEUED_KILOBYTES_MAX: &str = "32768";

/// The producer's thread.
#[derive(Debug)]
pub struct Bulk {
    is_stopping: Arc<AtomicBool>,
    sent_bytes: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), LoadtestError>>,
}

impl Bulk {
    /// Begins to write to all partitions of the load topic in turn.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Process`] when the thread cannot be started.
    pub fn start(shared: &Arc<Shared>) -> Result<Bulk, LoadtestError> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let sent_bytes = Arc::new(AtomicU64::new(0));
        let name = format!("bulk-{}", shared.next_bulk());
        let (stop, sent, shared) = (Arc::clone(&is_stopping), Arc::clone(&sent_bytes), Arc::clone(shared));
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(move || write(&shared, &name, &stop, &sent))
            .map_err(|source| LoadtestError::Process { what: "starting bulk".to_owned(), source })?;
        Ok(Bulk { is_stopping, sent_bytes, thread })
    }

    /// How much it has handed to the client library, which holds little.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Lets it write nothing more. It still waits for its answers.
    pub fn end(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Waits for its answers, once no fault holds them up.
    ///
    /// # Errors
    ///
    /// What kept it from working at all.
    pub fn join(self) -> Result<(), LoadtestError> {
        self.thread.join().expect("a panic has ended the process")
    }
}

fn write(shared: &Arc<Shared>, name: &str, stop: &AtomicBool, sent: &AtomicU64) -> Result<(), LoadtestError> {
    let mut config = shared.client();
    config.set("queue.buffering.max.kbytes", QUEUED_KILOBYTES_MAX).set("linger.ms", "5");
    let mut producer = CountingProducer::create(shared, name, true, &mut config)?;
    let partitions: Vec<_> = shared.load_partitions().collect();
    for at in partitions.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if producer.send(at, RECORD_BYTES)? {
            sent.fetch_add(RECORD_BYTES as u64, Ordering::Relaxed);
            producer.poll(Duration::ZERO);
        } else {
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.finish();
    Ok(())
}
