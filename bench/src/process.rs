//! What processes cost: CPU time, memory and context switches, from /proc and from the kernel's own count of ours.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{error::BenchError, sys};

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Usage {
    user_ticks: u64,
    system_ticks: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
    written_bytes: u64,
}

/// What processes used during the measured part of a run, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessReport {
    /// CPU time in user space.
    pub cpu_user_seconds: f64,
    /// CPU time in the kernel.
    pub cpu_system_seconds: f64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// The most resident memory that was seen, sampled ten times a second.
    pub rss_max_bytes: u64,
    /// Times that a thread slept.
    pub voluntary_switches: u64,
    /// Times that a thread was made to wait for a CPU.
    pub involuntary_switches: u64,
    /// Bytes sent to devices, where the kernel counts them.
    pub written_bytes: u64,
}

/// What processes used at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessSample {
    /// Seconds since the beginning of the measured part.
    pub seconds: f64,
    /// CPU time since then.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// CPU time is counted in ticks of 10 ms: over a shorter time it says little.
const SAMPLE_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// Samples that are kept; when there are more, every second one goes.
const SAMPLES_MAX: usize = 240;

/// Watches processes during a run.
#[derive(Debug)]
pub struct Watch {
    pids: Vec<u32>,
    begun: Instant,
    before: Usage,
    samples: Vec<ProcessSample>,
    interval: Duration,
    rss_bytes: u64,
    rss_max_bytes: u64,
}

impl Watch {
    /// Begins to watch. The measurement begins with [`Watch::begin`].
    ///
    /// # Errors
    ///
    /// [`BenchError::Process`] for a process that is not there.
    pub fn new(pids: &[u32]) -> Result<Watch, BenchError> {
        let mut watch = Watch {
            pids: pids.to_vec(),
            begun: Instant::now(),
            before: Usage::default(),
            samples: Vec::new(),
            interval: SAMPLE_INTERVAL_MIN,
            rss_bytes: 0,
            rss_max_bytes: 0,
        };
        watch.begin()?;
        Ok(watch)
    }

    /// Starts counting from here.
    ///
    /// # Errors
    ///
    /// [`BenchError::Process`].
    pub fn begin(&mut self) -> Result<(), BenchError> {
        self.begun = Instant::now();
        self.before = self.usage()?;
        self.samples.clear();
        self.rss_max_bytes = 0;
        self.sample()
    }

    /// Takes note of memory and CPU time.
    ///
    /// # Errors
    ///
    /// [`BenchError::Process`].
    pub fn sample(&mut self) -> Result<(), BenchError> {
        self.rss_bytes = 0;
        for &pid in &self.pids {
            let read = |source| BenchError::Process { pid, source };
            let statm = fs::read_to_string(format!("/proc/{pid}/statm")).map_err(read)?;
            let pages: u64 = statm
                .split_whitespace()
                .nth(1)
                .and_then(|pages| pages.parse().ok())
                .ok_or_else(|| read(io::ErrorKind::InvalidData.into()))?;
            self.rss_bytes += pages * sys::page_bytes();
        }
        self.rss_max_bytes = self.rss_max_bytes.max(self.rss_bytes);
        self.keep_sample()
    }

    fn keep_sample(&mut self) -> Result<(), BenchError> {
        let elapsed = self.begun.elapsed();
        if self
            .samples
            .last()
            .is_some_and(|last| elapsed.as_secs_f64() - last.seconds < self.interval.as_secs_f64())
        {
            return Ok(());
        }
        let mut ticks = 0;
        for &pid in &self.pids {
            let read = |source| BenchError::Process { pid, source };
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(read)?;
            let (user, system) =
                parse_cpu_ticks(&stat).ok_or_else(|| read(io::ErrorKind::InvalidData.into()))?;
            ticks += user + system;
        }
        let ticks = ticks.saturating_sub(self.before.user_ticks + self.before.system_ticks);
        self.samples.push(ProcessSample {
            seconds: elapsed.as_secs_f64(),
            cpu_seconds: ticks as f64 / sys::ticks_per_second() as f64,
            rss_bytes: self.rss_bytes,
        });
        if self.samples.len() > SAMPLES_MAX {
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.interval = self.interval.max(elapsed / SAMPLES_MAX as u32) * 2;
        }
        Ok(())
    }

    /// CPU time and memory over the time since [`Watch::begin`].
    pub fn samples(&self) -> &[ProcessSample] {
        &self.samples
    }

    /// What was used since [`Watch::begin`].
    ///
    /// # Errors
    ///
    /// [`BenchError::Process`].
    pub fn report(&mut self) -> Result<ProcessReport, BenchError> {
        self.sample()?;
        let (before, after) = (self.before, self.usage()?);
        let seconds = |ticks: u64| ticks as f64 / sys::ticks_per_second() as f64;
        Ok(ProcessReport {
            cpu_user_seconds: seconds(after.user_ticks.saturating_sub(before.user_ticks)),
            cpu_system_seconds: seconds(after.system_ticks.saturating_sub(before.system_ticks)),
            rss_bytes: self.rss_bytes,
            rss_max_bytes: self.rss_max_bytes,
            // Threads that ended meanwhile took their counts with them.
            voluntary_switches: after.voluntary_switches.saturating_sub(before.voluntary_switches),
            involuntary_switches: after.involuntary_switches.saturating_sub(before.involuntary_switches),
            written_bytes: after.written_bytes.saturating_sub(before.written_bytes),
        })
    }

    fn usage(&self) -> Result<Usage, BenchError> {
        let mut sum = Usage::default();
        for &pid in &self.pids {
            let one = read_usage(pid).map_err(|source| BenchError::Process { pid, source })?;
            sum.user_ticks += one.user_ticks;
            sum.system_ticks += one.system_ticks;
            sum.voluntary_switches += one.voluntary_switches;
            sum.involuntary_switches += one.involuntary_switches;
            sum.written_bytes += one.written_bytes;
        }
        Ok(sum)
    }
}

fn read_usage(pid: u32) -> io::Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (user_ticks, system_ticks) =
        parse_cpu_ticks(&stat).ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
    let mut usage = Usage { user_ticks, system_ticks, ..Usage::default() };
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        usage.voluntary_switches += parse_field(&status, "voluntary_ctxt_switches").unwrap_or(0);
        usage.involuntary_switches += parse_field(&status, "nonvoluntary_ctxt_switches").unwrap_or(0);
    }
    // Another user's counts of bytes are not readable.
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    usage.written_bytes = parse_field(&io, "write_bytes").unwrap_or(0);
    Ok(usage)
}

/// User and system time of /proc/PID/stat, in ticks.
fn parse_cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    const USER_AFTER_NAME: usize = 11;
    // The name is in parentheses and may hold anything, spaces and parentheses too.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(USER_AFTER_NAME);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A line `name: number` of a file in /proc.
fn parse_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 12 0 0 0 31 41 0 0 20 0 9 0 55 1 2";
        assert_eq!(parse_cpu_ticks(stat), Some((31, 41)));
        assert_eq!(parse_cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t15\nnonvoluntary_ctxt_switches:\t4\n";
        assert_eq!(parse_field(status, "voluntary_ctxt_switches"), Some(15));
        assert_eq!(parse_field(status, "nonvoluntary_ctxt_switches"), Some(4));
        assert_eq!(parse_field(status, "ctxt_switches"), None);
    }

    #[test]
    fn this_process_can_be_watched_and_a_missing_one_cannot() {
        let mut watch = Watch::new(&[std::process::id()]).unwrap();
        let report = watch.report().unwrap();
        assert!(report.rss_bytes > 0 && report.rss_max_bytes >= report.rss_bytes);
        assert!(matches!(Watch::new(&[u32::MAX]), Err(BenchError::Process { pid: u32::MAX, .. })));
    }
}
