//! What the machine itself costs: no broker can answer faster than a round trip and a durable write. With replicas the
//! leader's round trips to its followers are added, who write at the same time, until a majority has written.
//!
//! That takes longer after a rest than back to back: an idle CPU has to wake up, and a file system may write more with
//! the first write of a clock tick (ext4: the inode with its new time). So a paced load is compared with samples at its
//! own pace.

mod replicas;

use std::{
    hint::black_box,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use self::replicas::{Answered, Replicas};
use crate::{
    clock::Clock,
    error::BenchError,
    histogram::{CurvePoint, Latency, Summary},
    schedule::Window,
    sys,
};

const MEMORY_BYTES: usize = 64 << 20;
const MEMORY_CHUNK_BYTES: usize = 64 << 10;
const SAMPLES_MAX: u64 = 5_000;

/// Samples per second of the paced floor at most: beyond it not every gap between requests has one.
const PACED_RATE_MAX: f64 = 200.0;
/// The same where gaps are so short that a sample may meet a request, and would show in its latency.
const PACED_RATE_MAX_IN_SHORT_GAPS: f64 = 10.0;
const SHORT_GAP_NS: f64 = 1e6;

/// The floor of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloorReport {
    /// Bytes of the request that makes the round trip.
    pub request_bytes: usize,
    /// Replicas of the load's partitions; 1 in reports of versions that did not say.
    #[serde(default = "one")]
    pub replicas: usize,
    /// Sampled without a pause, before and after the load.
    pub back_to_back: FloorFigures,
    /// Sampled during the load, half way between two of its requests: as rested as CPUs and device are then. Absent for
    /// load that has no gaps.
    pub paced: Option<FloorFigures>,
    /// The medians of each part, one before and one after the load. Where they differ much, something else was using
    /// the machine, and ratios to the floor mean little.
    pub parts: Vec<FloorPart>,
    /// Copying between buffers larger than the caches.
    pub memcpy_bytes_per_second: f64,
    /// CRC-32C over such a buffer.
    pub crc32c_bytes_per_second: f64,
}

fn one() -> usize {
    1
}

/// What a request takes whose replicas do nothing but hand it on and write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloorFigures {
    /// What is left beside the leader's own write: a loopback TCP round trip, the request there and 64 bytes back, and with
    /// replicas the leader's requests to all followers and what the faster ones' answers take beyond its own write.
    #[serde(alias = "round_trip")]
    pub messages: Summary,
    /// The leader's write of 4 KiB that is durable when it returns: direct, synchronous, onto blocks written before.
    /// With replicas each follower writes as much to a file of its own at the same time.
    pub durable_write: Summary,
    /// From the request until a majority has written it: the floor of `acks=all`.
    pub acks_all: Summary,
}

/// The medians of one part of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloorPart {
    /// What is left beside the leader's write.
    #[serde(alias = "round_trip_p50_ns")]
    pub messages_p50_ns: u64,
    /// The leader's durable write.
    pub durable_write_p50_ns: u64,
}

impl FloorPart {
    fn acks_all_p50_ns(&self) -> u64 {
        self.messages_p50_ns + self.durable_write_p50_ns
    }
}

impl FloorReport {
    /// What latencies are compared with: the floor at the load's pace, where there is one.
    pub fn reference(&self) -> &FloorFigures {
        self.paced.as_ref().unwrap_or(&self.back_to_back)
    }

    /// By how much the parts differ: the highest `acks=all` floor over the lowest, at least 1.
    pub fn spread(&self) -> f64 {
        let floors = || self.parts.iter().map(FloorPart::acks_all_p50_ns);
        match (floors().max(), floors().min()) {
            (Some(highest), Some(lowest)) if lowest > 0 => highest as f64 / lowest as f64,
            _ => 1.0,
        }
    }
}

/// When the floor is sampled during a load.
#[derive(Clone, Copy, Debug)]
pub struct FloorPace {
    /// The run's clock.
    pub clock: Clock,
    /// When the load runs, and which part of it counts.
    pub window: Window,
    /// The load's requests over all producers.
    pub requests_per_second: f64,
    /// How long before a sample the thread spins instead of sleeping, as the load does before a request.
    pub spin_ns: u64,
}

impl FloorPace {
    /// From one sample to the next: a whole number of the load's gaps.
    fn interval_ns(&self) -> f64 {
        let gap_ns = 1e9 / self.requests_per_second;
        let rate_max = if gap_ns < SHORT_GAP_NS { PACED_RATE_MAX_IN_SHORT_GAPS } else { PACED_RATE_MAX };
        gap_ns * (1e9 / rate_max / gap_ns).ceil().max(1.0)
    }

    /// When sample `number` is due: half way between two requests.
    fn due_ns(&self, number: u64) -> u64 {
        let half_gap_ns = 0.5e9 / self.requests_per_second;
        self.window.load_start_ns + (half_gap_ns + number as f64 * self.interval_ns()) as u64
    }

    /// Waits for a time, and returns when it was over.
    fn wait_until(&self, due_ns: u64) -> Result<u64, BenchError> {
        loop {
            let now_ns = self.clock.now_ns();
            match due_ns.checked_sub(now_ns) {
                None | Some(0) => return Ok(now_ns),
                Some(left_ns) if left_ns <= self.spin_ns => std::hint::spin_loop(),
                Some(left_ns) => sys::poll(&mut [], Duration::from_nanos(left_ns - self.spin_ns))
                    .map_err(BenchError::Poll)?,
            }
        }
    }
}

/// Measures the floor, in parts before and after the load, and at its pace.
#[derive(Debug)]
pub struct FloorProbe {
    directory: PathBuf,
    request_bytes: usize,
    replica_count: usize,
    replicas: Replicas,
    memory: MemorySpeed,
    back_to_back: Samples,
    paced: Samples,
    parts: Vec<FloorPart>,
}

#[derive(Debug, Default)]
struct Samples {
    messages: Latency,
    durable_write: Latency,
    acks_all: Latency,
}

impl Samples {
    fn record(&mut self, answered: Answered) {
        self.messages.record(answered.total.saturating_sub(answered.leader_write).as_nanos() as u64);
        self.durable_write.record(answered.leader_write.as_nanos() as u64);
        self.acks_all.record(answered.total.as_nanos() as u64);
    }

    fn merge(&mut self, other: &Samples) {
        self.messages.merge(&other.messages);
        self.durable_write.merge(&other.durable_write);
        self.acks_all.merge(&other.acks_all);
    }

    fn figures(&self) -> Option<FloorFigures> {
        Some(FloorFigures {
            messages: self.messages.summary()?,
            durable_write: self.durable_write.summary()?,
            acks_all: self.acks_all.summary()?,
        })
    }
}

impl FloorProbe {
    /// Starts as many replicas, with a file for each in a directory, for requests of a size.
    ///
    /// # Errors
    ///
    /// [`BenchError::Floor`]: the directory's file system has no direct I/O or no room, or there is no loopback.
    pub fn new(
        directory: &Path,
        request_bytes: usize,
        replica_count: usize,
    ) -> Result<FloorProbe, BenchError> {
        let replicas = Replicas::start(directory, request_bytes, replica_count)
            .map_err(|source| BenchError::Floor { directory: directory.to_owned(), source })?;
        Ok(FloorProbe {
            directory: directory.to_owned(),
            request_bytes,
            replica_count,
            replicas,
            memory: MemorySpeed::measure(),
            back_to_back: Samples::default(),
            paced: Samples::default(),
            parts: Vec::new(),
        })
    }

    /// Adds a part: samples one after the other for `budget`.
    ///
    /// # Errors
    ///
    /// As [`FloorProbe::new`].
    pub fn sample(&mut self, budget: Duration) -> Result<(), BenchError> {
        let mut samples = Samples::default();
        let begun = Instant::now();
        while samples.acks_all.count() < SAMPLES_MAX
            && (begun.elapsed() < budget || samples.acks_all.count() == 0)
        {
            samples.record(self.sample_once()?);
        }
        self.parts.push(FloorPart {
            messages_p50_ns: samples.messages.quantile_ns(0.5),
            durable_write_p50_ns: samples.durable_write.quantile_ns(0.5),
        });
        self.back_to_back.merge(&samples);
        Ok(())
    }

    /// Samples at a load's pace until its end. What comes too late to lie between two requests is left out.
    ///
    /// # Errors
    ///
    /// As [`FloorProbe::new`].
    pub fn sample_paced(&mut self, pace: FloorPace) -> Result<(), BenchError> {
        sys::precise_timers();
        let late_ns_max = (0.25e9 / pace.requests_per_second) as u64;
        for number in 0.. {
            let due_ns = pace.due_ns(number);
            if due_ns >= pace.window.end_ns {
                break;
            }
            if pace.wait_until(due_ns)? - due_ns > late_ns_max {
                continue;
            }
            let answered = self.sample_once()?;
            if pace.window.contains(due_ns) {
                self.paced.record(answered);
            }
        }
        Ok(())
    }

    fn sample_once(&mut self) -> Result<Answered, BenchError> {
        self.replicas
            .request()
            .map_err(|source| BenchError::Floor { directory: self.directory.clone(), source })
    }

    /// The percentile curve of what latencies are compared with.
    pub fn curve(&self) -> Vec<CurvePoint> {
        let paced = &self.paced.acks_all;
        if paced.count() > 0 { paced.curve() } else { self.back_to_back.acks_all.curve() }
    }

    /// The figures; `None` before the first sample.
    pub fn report(&self) -> Option<FloorReport> {
        Some(FloorReport {
            request_bytes: self.request_bytes,
            replicas: self.replica_count,
            back_to_back: self.back_to_back.figures()?,
            paced: self.paced.figures(),
            parts: self.parts.clone(),
            memcpy_bytes_per_second: self.memory.memcpy_bytes_per_second,
            crc32c_bytes_per_second: self.memory.crc32c_bytes_per_second,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct MemorySpeed {
    memcpy_bytes_per_second: f64,
    crc32c_bytes_per_second: f64,
}

impl MemorySpeed {
    fn measure() -> MemorySpeed {
        let source = vec![3_u8; MEMORY_BYTES];
        let mut target = vec![4_u8; MEMORY_BYTES];
        let memcpy_bytes_per_second = best_speed(|| {
            target.copy_from_slice(black_box(&source));
            black_box(&target);
        });
        let crc32c_bytes_per_second = best_speed(|| {
            for chunk in source.chunks(MEMORY_CHUNK_BYTES) {
                black_box(crc32c::crc32c(black_box(chunk)));
            }
        });
        MemorySpeed { memcpy_bytes_per_second, crc32c_bytes_per_second }
    }
}

/// Bytes per second of the best of some passes over all the memory.
fn best_speed(mut pass: impl FnMut()) -> f64 {
    const PASSES: usize = 5;
    let best = (0..PASSES).map(|_| {
        let before = Instant::now();
        pass();
        before.elapsed()
    });
    let best = best.min().expect("there is more than one pass");
    MEMORY_BYTES as f64 / best.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(replicas: usize) -> FloorProbe {
        let executable = std::env::current_exe().unwrap();
        FloorProbe::new(executable.parent().unwrap(), 200, replicas).unwrap()
    }

    #[test]
    fn parts_add_up() {
        let mut probe = probe(1);
        assert_eq!(probe.report(), None);
        probe.sample(Duration::from_millis(5)).unwrap();
        let report = probe.report().unwrap();
        assert_eq!(report.request_bytes, 200);
        assert_eq!((report.parts.len(), report.spread()), (1, 1.0));
        assert_eq!((report.paced, report.reference()), (None, &report.back_to_back));
        probe.sample(Duration::from_millis(5)).unwrap();
        let both = probe.report().unwrap();
        assert_eq!(both.parts.len(), 2);
        assert!(
            both.spread() >= 1.0 && both.back_to_back.acks_all.count > report.back_to_back.acks_all.count
        );
        assert!(report.memcpy_bytes_per_second > 1e6 && report.crc32c_bytes_per_second > 1e6);
    }

    #[test]
    fn replicas_have_a_floor_of_their_own() {
        let mut probe = probe(3);
        probe.sample(Duration::ZERO).unwrap();
        let report = probe.report().unwrap();
        let figures = report.back_to_back;
        assert_eq!((report.replicas, figures.acks_all.count), (3, 1));
        assert!(figures.messages.min_ns > 0 && figures.durable_write.min_ns > 0);
    }

    #[test]
    fn a_paced_load_has_a_floor_of_its_own() {
        let mut probe = probe(1);
        probe.sample(Duration::ZERO).unwrap();
        let clock = Clock::start();
        let window = Window::new(clock.now_ns(), 0.1, 0.4);
        probe.sample_paced(FloorPace { clock, window, requests_per_second: 20.0, spin_ns: 0 }).unwrap();
        let report = probe.report().unwrap();
        let paced = report.paced.unwrap();
        assert!(
            (1..=8).contains(&paced.acks_all.count),
            "one in each gap that counts: {}",
            paced.acks_all.count
        );
        assert!(paced.acks_all.max_ns >= paced.messages.min_ns + paced.durable_write.min_ns);
        assert_eq!(report.reference(), &paced);
    }

    #[test]
    fn samples_lie_half_way_between_requests() {
        let window = Window::new(1_000, 0.0, 1.0);
        let times = |requests_per_second| {
            let pace = FloorPace { clock: Clock::start(), window, requests_per_second, spin_ns: 0 };
            [0, 1, 2].map(|number| pace.due_ns(number) - window.load_start_ns)
        };
        assert_eq!(times(200.0), [2_500_000, 7_500_000, 12_500_000]);
        assert_eq!(times(100.0), [5_000_000, 15_000_000, 25_000_000]);
        assert_eq!(times(500.0), [1_000_000, 7_000_000, 13_000_000]);
        assert_eq!(times(2_000.0), [250_000, 100_250_000, 200_250_000]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = FloorProbe::new(Path::new("/does/not/exist"), 1, 1).unwrap_err();
        assert!(error.to_string().contains("/does/not/exist"), "{error}");
    }
}
