//! What a thread counts during a run.

use std::collections::BTreeMap;

use protocol::{ApiKey, ErrorCode};

use crate::{error::kafka_name, histogram::Latency, schedule::Window, timeline::Timeline};

/// Errors by API and code, each with its count. Nothing is retried, so each is a request or partition that failed.
pub type Errors = BTreeMap<String, u64>;

/// Counts an error that a broker answered.
pub fn count_broker_error(errors: &mut Errors, api: ApiKey, code: i16) {
    count_error(errors, format!("{} {}", api.name(), kafka_name(ErrorCode::from(code))), 1);
}

/// Counts errors that have no code.
pub fn count_error(errors: &mut Errors, what: String, count: u64) {
    if count > 0 {
        *errors.entry(what).or_default() += count;
    }
}

/// The times of one request, in nanoseconds of the run's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When it was due. In closed load, when it was made.
    pub scheduled_ns: u64,
    /// When its first byte was handed to the socket.
    pub sent_ns: u64,
    /// When its answer was read.
    pub answered_ns: u64,
}

/// What was measured. Latencies are of what was due within the window; amounts are of what was answered within it.
#[derive(Clone, Debug)]
pub struct Tally {
    window: Window,
    /// From due to answered.
    pub latency: Latency,
    /// From sent to answered: what the broker and the kernel took.
    pub service: Latency,
    /// From due to sent: what the client took, or the socket when it was full.
    pub lateness: Latency,
    /// From due to read back by a consumer.
    pub end_to_end: Latency,
    /// Requests answered without error.
    pub requests: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the record batches in them.
    pub batch_bytes: u64,
    /// Latency over time.
    pub timeline: Timeline,
    /// Everything that went wrong, the warm-up included.
    pub errors: Errors,
}

impl Tally {
    /// Nothing counted.
    pub fn new(window: Window) -> Tally {
        Tally {
            window,
            latency: Latency::new(),
            service: Latency::new(),
            lateness: Latency::new(),
            end_to_end: Latency::new(),
            requests: 0,
            records: 0,
            batch_bytes: 0,
            timeline: Timeline::new(window),
            errors: Errors::new(),
        }
    }

    /// Counts a request that was answered without error.
    ///
    /// # Panics
    ///
    /// When it was sent before it was due or answered before it was sent.
    pub fn count_success(&mut self, times: Times, records: u64, batch_bytes: u64) {
        assert!(times.scheduled_ns <= times.sent_ns, "nothing is sent before it is due");
        assert!(times.sent_ns <= times.answered_ns, "nothing is answered before it is sent");
        if self.window.contains(times.scheduled_ns) {
            self.latency.record(times.answered_ns - times.scheduled_ns);
            self.service.record(times.answered_ns - times.sent_ns);
            self.lateness.record(times.sent_ns - times.scheduled_ns);
            self.timeline.record(times.scheduled_ns, times.answered_ns - times.scheduled_ns);
        }
        if self.window.contains(times.answered_ns) {
            self.requests += 1;
            self.records += records;
            self.batch_bytes += batch_bytes;
        }
    }

    /// Counts a record that a consumer read.
    pub fn count_read_back(&mut self, scheduled_ns: u64, read_ns: u64) {
        if self.window.contains(scheduled_ns) {
            self.end_to_end.record(read_ns.saturating_sub(scheduled_ns));
        }
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: &Tally) {
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.lateness.merge(&other.lateness);
        self.end_to_end.merge(&other.end_to_end);
        self.requests += other.requests;
        self.records += other.records;
        self.batch_bytes += other.batch_bytes;
        self.timeline.merge(&other.timeline);
        for (what, count) in &other.errors {
            count_error(&mut self.errors, what.clone(), *count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counts_by_due_time_and_throughput_by_answer() {
        let mut tally = Tally::new(Window::new(0, 1e-6, 1e-6));
        for (scheduled_ns, sent_ns, answered_ns) in
            [(900, 900, 950), (990, 1_000, 1_010), (1_000, 1_300, 1_400), (1_990, 1_990, 2_500)]
        {
            tally.count_success(Times { scheduled_ns, sent_ns, answered_ns }, 10, 1_000);
        }
        assert_eq!(tally.latency.count(), 2);
        assert_eq!(tally.latency.summary().unwrap().max_ns, 510);
        assert_eq!(tally.lateness.summary().unwrap().max_ns, 300);
        assert_eq!(tally.service.summary().unwrap().min_ns, 100);
        assert_eq!((tally.requests, tally.records, tally.batch_bytes), (2, 20, 2_000));
    }

    #[test]
    fn errors_add_up_over_threads() {
        let window = Window::new(0, 0.0, 1.0);
        let (mut one, mut other) = (Tally::new(window), Tally::new(window));
        count_broker_error(&mut one.errors, ApiKey::Produce, 6);
        count_broker_error(&mut other.errors, ApiKey::Produce, 6);
        count_error(&mut other.errors, "nothing".to_owned(), 0);
        one.merge(&other);
        assert_eq!(one.errors, Errors::from([("Produce NOT_LEADER_OR_FOLLOWER".to_owned(), 2)]));
    }
}
