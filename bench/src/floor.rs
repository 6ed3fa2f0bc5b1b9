//! What the machine itself costs: no broker can answer faster than a round trip and a durable write.

use std::{
    fs::{self, File, OpenOptions},
    hint::black_box,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    error::BenchError,
    histogram::{Latency, Summary},
};

const BLOCK_BYTES: usize = 4096;
const PROBE_FILE_BYTES: usize = 16 << 20;
const MEMORY_BYTES: usize = 64 << 20;
const MEMORY_CHUNK_BYTES: usize = 64 << 10;
/// About what a Produce of one partition is answered with.
const RESPONSE_BYTES: usize = 64;
const SAMPLES_MAX: usize = 5_000;

/// The floor of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FloorReport {
    /// Bytes of the request that makes the round trip.
    pub request_bytes: usize,
    /// Loopback TCP round trip between two threads: the request there, 64 bytes back.
    pub round_trip: Summary,
    /// One write of 4 KiB that is durable when it returns: direct, synchronous, onto blocks written before.
    pub durable_write: Summary,
    /// Round trip and durable write, the median of each.
    pub acks_all_p50_ns: u64,
    /// Round trip and durable write, the 99th percentile of each.
    pub acks_all_p99_ns: u64,
    /// The medians of each part, one before and one after the load. Where they differ much, something else was using
    /// the machine, and ratios to the floor mean little.
    pub parts: Vec<FloorPart>,
    /// Copying between buffers larger than the caches.
    pub memcpy_bytes_per_second: f64,
    /// CRC-32C over such a buffer.
    pub crc32c_bytes_per_second: f64,
}

/// The medians of one part of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FloorPart {
    /// Loopback round trip.
    pub round_trip_p50_ns: u64,
    /// Durable write.
    pub durable_write_p50_ns: u64,
}

impl FloorPart {
    fn acks_all_p50_ns(&self) -> u64 {
        self.round_trip_p50_ns + self.durable_write_p50_ns
    }
}

impl FloorReport {
    /// By how much the parts differ: the highest `acks=all` floor over the lowest, at least 1.
    pub fn spread(&self) -> f64 {
        let floors = || self.parts.iter().map(FloorPart::acks_all_p50_ns);
        match (floors().max(), floors().min()) {
            (Some(highest), Some(lowest)) if lowest > 0 => highest as f64 / lowest as f64,
            _ => 1.0,
        }
    }
}

/// Measures the floor, in parts before and after the load.
#[derive(Debug)]
pub struct FloorProbe {
    disk: DiskProbe,
    round_trip: RoundTripProbe,
    memory: MemorySpeed,
    round_trip_all: Latency,
    durable_write_all: Latency,
    parts: Vec<FloorPart>,
}

impl FloorProbe {
    /// Prepares a file in a directory, and a round trip of a request's size.
    ///
    /// # Errors
    ///
    /// [`BenchError::Floor`] when the directory's file system has no direct I/O, [`BenchError::Loopback`].
    pub fn new(directory: &Path, request_bytes: usize) -> Result<FloorProbe, BenchError> {
        let disk = DiskProbe::new(directory)
            .map_err(|source| BenchError::Floor { directory: directory.to_owned(), source })?;
        let round_trip = RoundTripProbe::new(request_bytes).map_err(BenchError::Loopback)?;
        Ok(FloorProbe {
            disk,
            round_trip,
            memory: MemorySpeed::measure(),
            round_trip_all: Latency::new(),
            durable_write_all: Latency::new(),
            parts: Vec::new(),
        })
    }

    /// Adds a part: samples of both for at most `budget` each.
    ///
    /// # Errors
    ///
    /// As [`FloorProbe::new`].
    pub fn sample(&mut self, budget: Duration) -> Result<(), BenchError> {
        let round_trip = self.round_trip.sample(budget).map_err(BenchError::Loopback)?;
        let durable_write = self
            .disk
            .sample(budget)
            .map_err(|source| BenchError::Floor { directory: self.disk.path.clone(), source })?;
        self.parts.push(FloorPart {
            round_trip_p50_ns: round_trip.quantile_ns(0.5),
            durable_write_p50_ns: durable_write.quantile_ns(0.5),
        });
        self.round_trip_all.merge(&round_trip);
        self.durable_write_all.merge(&durable_write);
        Ok(())
    }

    /// The figures; `None` before the first sample.
    pub fn report(&self) -> Option<FloorReport> {
        let (round_trip, durable_write) = (self.round_trip_all.summary()?, self.durable_write_all.summary()?);
        Some(FloorReport {
            request_bytes: self.round_trip.request.len(),
            round_trip,
            durable_write,
            acks_all_p50_ns: round_trip.p50_ns + durable_write.p50_ns,
            acks_all_p99_ns: round_trip.p99_ns + durable_write.p99_ns,
            parts: self.parts.clone(),
            memcpy_bytes_per_second: self.memory.memcpy_bytes_per_second,
            crc32c_bytes_per_second: self.memory.crc32c_bytes_per_second,
        })
    }
}

/// A file whose blocks are written once, so that overwriting them needs no change of the file system's metadata.
#[derive(Debug)]
struct DiskProbe {
    path: PathBuf,
    file: File,
    /// One block, and as much again to align it in.
    buffer: Vec<u8>,
    block_at: usize,
}

impl DiskProbe {
    fn new(directory: &Path) -> io::Result<DiskProbe> {
        let path = directory.join(format!("chronik-bench-floor-{}", std::process::id()));
        let created = Self::prepare(&path);
        if created.is_err() {
            let _ = fs::remove_file(&path);
        }
        let file = created?;
        let buffer = vec![0x5a; 2 * BLOCK_BYTES];
        let block_at = buffer.as_ptr().align_offset(BLOCK_BYTES);
        assert!(block_at <= BLOCK_BYTES, "an aligned block lies in twice its size");
        Ok(DiskProbe { path, file, buffer, block_at })
    }

    fn prepare(path: &Path) -> io::Result<File> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(&vec![0xa5; PROBE_FILE_BYTES])?;
        file.sync_all()?;
        OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path)
    }

    fn sample(&mut self, budget: Duration) -> io::Result<Latency> {
        let mut latency = Latency::new();
        let block = &self.buffer[self.block_at..self.block_at + BLOCK_BYTES];
        let begun = Instant::now();
        for at in 0..SAMPLES_MAX {
            let offset = (at * BLOCK_BYTES % PROBE_FILE_BYTES) as u64;
            let before = Instant::now();
            self.file.write_all_at(block, offset)?;
            latency.record(before.elapsed().as_nanos() as u64);
            if begun.elapsed() >= budget {
                break;
            }
        }
        Ok(latency)
    }
}

impl Drop for DiskProbe {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A thread that answers each request of a fixed size.
#[derive(Debug)]
struct RoundTripProbe {
    request: Vec<u8>,
    stream: Option<TcpStream>,
    echo: Option<JoinHandle<()>>,
}

impl RoundTripProbe {
    fn new(request_bytes: usize) -> io::Result<RoundTripProbe> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        stream.set_nodelay(true)?;
        let (mut peer, _) = listener.accept()?;
        peer.set_nodelay(true)?;
        let echo = std::thread::spawn(move || {
            let mut request = vec![0; request_bytes];
            while peer.read_exact(&mut request).is_ok() && peer.write_all(&[1; RESPONSE_BYTES]).is_ok() {}
        });
        Ok(RoundTripProbe { request: vec![2; request_bytes], stream: Some(stream), echo: Some(echo) })
    }

    fn sample(&mut self, budget: Duration) -> io::Result<Latency> {
        let mut latency = Latency::new();
        let stream = self.stream.as_mut().expect("the stream is there until the drop");
        let mut response = [0; RESPONSE_BYTES];
        let begun = Instant::now();
        for _ in 0..SAMPLES_MAX {
            let before = Instant::now();
            stream.write_all(&self.request)?;
            stream.read_exact(&mut response)?;
            latency.record(before.elapsed().as_nanos() as u64);
            if begun.elapsed() >= budget {
                break;
            }
        }
        Ok(latency)
    }
}

impl Drop for RoundTripProbe {
    fn drop(&mut self) {
        drop(self.stream.take());
        if let Some(echo) = self.echo.take() {
            let _ = echo.join();
        }
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

    #[test]
    fn the_floor_is_the_sum_of_its_medians_and_leaves_nothing_behind() {
        let executable = std::env::current_exe().unwrap();
        let mut probe = FloorProbe::new(executable.parent().unwrap(), 200).unwrap();
        assert_eq!(probe.report(), None);
        probe.sample(Duration::from_millis(5)).unwrap();
        let report = probe.report().unwrap();
        assert_eq!(report.acks_all_p50_ns, report.round_trip.p50_ns + report.durable_write.p50_ns);
        assert_eq!(report.request_bytes, 200);
        assert_eq!(report.parts.len(), 1);
        assert_eq!(report.spread(), 1.0);
        probe.sample(Duration::from_millis(5)).unwrap();
        let both = probe.report().unwrap();
        assert_eq!(both.parts.len(), 2);
        assert!(both.spread() >= 1.0 && both.durable_write.count > report.durable_write.count);
        assert!(report.memcpy_bytes_per_second > 1e6 && report.crc32c_bytes_per_second > 1e6);
        let path = probe.disk.path.clone();
        assert!(path.exists());
        drop(probe);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = FloorProbe::new(Path::new("/does/not/exist"), 1).unwrap_err();
        assert!(error.to_string().contains("/does/not/exist"), "{error}");
    }
}
