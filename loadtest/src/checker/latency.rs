//! How long acknowledgements took in quiet times, and while a fault lasted.

use serde::Serialize;

use super::{Findings, Invariant};
use crate::history::{Line, Operation, Outcome};

/// Times from send to acknowledgement of some stretch of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Of how many records.
    pub records: u64,
    /// The median.
    pub p50_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The longest.
    pub longest_us: u64,
}

impl Quantiles {
    fn of(mut times_us: Vec<u32>) -> Quantiles {
        times_us.sort_unstable();
        let Some(last) = times_us.len().checked_sub(1) else { return Quantiles::default() };
        let at = |share: f64| u64::from(times_us[(last as f64 * share).round() as usize]);
        Quantiles { records: times_us.len() as u64, p50_us: at(0.5), p99_us: at(0.99), longest_us: at(1.0) }
    }
}

/// All acknowledgements of the load, and the quiet times.
#[derive(Debug, Default)]
pub struct Latencies {
    /// When each record was sent, and after how long its acknowledgement came.
    acknowledged_us: Vec<(u64, u32)>,
    quiet_us: Vec<(u64, u64)>,
}

/// What writes as much as it can says nothing about latency.
const BULK: &str = "bulk-";

impl Latencies {
    /// Takes note of what a line says about time.
    pub fn absorb(&mut self, line: &Line) {
        match &line.operation {
            Operation::Send { .. } if line.outcome == Outcome::Ok && !line.process.starts_with(BULK) => {
                let took_us = u32::try_from(line.end_us - line.start_us).unwrap_or(u32::MAX);
                self.acknowledged_us.push((line.start_us, took_us));
            }
            Operation::Quiet => self.quiet_us.push((line.start_us, line.end_us)),
            _ => {}
        }
    }

    /// Call it before anything is asked for.
    pub fn sort(&mut self) {
        self.acknowledged_us.sort_unstable();
    }

    /// Those of what was sent within a time: what waited through a fault says nothing about the quiet time behind it.
    pub fn within(&self, start_us: u64, end_us: u64) -> Quantiles {
        Quantiles::of(self.times(start_us, end_us).collect())
    }

    /// Those of all quiet times.
    pub fn quiet(&self) -> Quantiles {
        let times = self.quiet_us.iter().flat_map(|&(start_us, end_us)| self.times(start_us, end_us));
        Quantiles::of(times.collect())
    }

    fn times(&self, start_us: u64, end_us: u64) -> impl Iterator<Item = u32> + '_ {
        let first = self.acknowledged_us.partition_point(|&(sent_us, _)| sent_us < start_us);
        let inside = self.acknowledged_us[first..].iter().take_while(move |&&(sent_us, _)| sent_us <= end_us);
        inside.map(|&(_, took_us)| took_us)
    }
}

/// Judges a time in which the p99 may only be so many times the quiet one.
pub fn judge(fault: &str, seen: Quantiles, quiet: Quantiles, slowdown_max: f64, findings: &mut Findings) {
    let is_known = seen.records > 0 && quiet.records > 0;
    if is_known && seen.p99_us as f64 > quiet.p99_us as f64 * slowdown_max {
        findings.add(Invariant::Slowdown, || {
            let ms = |us: u64| us as f64 / 1e3;
            format!(
                "{fault}: p99 {:.1} ms, where it is {:.1} ms in quiet times",
                ms(seen.p99_us),
                ms(quiet.p99_us)
            )
        });
    }
}
