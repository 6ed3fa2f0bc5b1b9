//! Invariant 15: after a fault writes resume within a stated time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Findings, Invariant,
    latency::{self, Latencies, Quantiles},
};
use crate::history::{Line, Operation, Outcome, RunFacts};

#[derive(Clone, Debug)]
struct Fault {
    text: String,
    start_us: u64,
    end_us: u64,
    is_writable: bool,
    slowdown_max: Option<f64>,
}

/// A fault and what it did to writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultReport {
    /// What was done to whom.
    pub fault: String,
    /// When it was injected.
    pub start_us: u64,
    /// When it was healed.
    pub end_us: u64,
    /// Whether writes had to go on while it lasted.
    pub is_writable: bool,
    /// The longest time in which one partition acknowledged nothing, from the injection on and up to the next fault.
    pub longest_gap_us: u64,
    /// The longest time from the healing to a partition's next acknowledgement.
    pub resumed_after_us: u64,
    /// From send to acknowledgement, of what was sent while it lasted.
    pub latency: Quantiles,
}

/// Acknowledgements and faults.
#[derive(Debug, Default)]
pub struct Outages {
    load_topic: Option<String>,
    /// When each partition of the load topic acknowledged.
    acknowledged_us: BTreeMap<i32, Vec<u64>>,
    faults: Vec<Fault>,
    load_end_us: Option<u64>,
}

impl Outages {
    /// Takes note of what a line says about faults and acknowledgements.
    pub fn absorb(&mut self, line: &Line) {
        match &line.operation {
            Operation::Run(facts) => {
                self.load_topic = Some(facts.load_topic.clone());
                self.acknowledged_us =
                    (0..facts.partitions).map(|partition| (partition, Vec::new())).collect();
            }
            Operation::Send { at, .. }
                if line.outcome == Outcome::Ok && self.load_topic.as_ref() == Some(&at.topic) =>
            {
                self.acknowledged_us.entry(at.partition).or_default().push(line.end_us);
            }
            Operation::Fault { fault, is_writable, slowdown_max, .. } => self.faults.push(Fault {
                text: fault.clone(),
                start_us: line.start_us,
                end_us: line.end_us,
                is_writable: *is_writable,
                slowdown_max: *slowdown_max,
            }),
            Operation::Load => self.load_end_us = Some(line.end_us),
            _ => {}
        }
    }

    /// Measures each fault, and judges it by the limits of the run and its own.
    pub fn conclude(
        &mut self,
        run: Option<&RunFacts>,
        latencies: &Latencies,
        findings: &mut Findings,
    ) -> Vec<FaultReport> {
        let quiet = latencies.quiet();
        for times in self.acknowledged_us.values_mut() {
            times.sort_unstable();
        }
        self.faults.sort_by_key(|fault| fault.start_us);
        let mut reports = Vec::new();
        for (index, fault) in self.faults.iter().enumerate() {
            let next_us = self.faults.get(index + 1).map(|next| next.start_us);
            // Without an end of the load there is nothing to measure behind the last acknowledgement.
            let until_us = next_us.or(self.load_end_us).unwrap_or(fault.end_us).max(fault.end_us);
            let report = self.measure(fault, until_us, latencies);
            if let Some(slowdown_max) = fault.slowdown_max {
                latency::judge(&report.fault, report.latency, quiet, slowdown_max, findings);
            }
            if let Some(run) = run {
                judge(&report, run, findings);
            }
            reports.push(report);
        }
        reports
    }

    fn measure(&self, fault: &Fault, until_us: u64, latencies: &Latencies) -> FaultReport {
        let longest = |from_us| {
            self.acknowledged_us
                .values()
                .map(|times| longest_gap(times, from_us, until_us))
                .max()
                .unwrap_or(0)
        };
        let first_after = |from_us| {
            let first = |times: &Vec<u64>| {
                let next = times.partition_point(|&time| time < from_us);
                times.get(next).copied().unwrap_or(until_us).min(until_us).saturating_sub(from_us)
            };
            self.acknowledged_us.values().map(first).max().unwrap_or(0)
        };
        FaultReport {
            fault: fault.text.clone(),
            start_us: fault.start_us,
            end_us: fault.end_us,
            is_writable: fault.is_writable,
            longest_gap_us: longest(fault.start_us),
            resumed_after_us: first_after(fault.end_us),
            latency: latencies.within(fault.start_us, fault.end_us),
        }
    }
}

fn judge(report: &FaultReport, run: &RunFacts, findings: &mut Findings) {
    let limit_us = run.outage_ms_max * 1_000;
    let (measured_us, what) = if report.is_writable {
        (report.longest_gap_us, "a partition acknowledged nothing for")
    } else {
        (report.resumed_after_us, "after its healing a partition acknowledged nothing for")
    };
    if measured_us > limit_us {
        findings.add(Invariant::BoundedOutage, || {
            let seconds = |us: u64| us as f64 / 1e6;
            format!(
                "{} at {:.1} s: {what} {:.1} s",
                report.fault,
                seconds(report.start_us),
                seconds(measured_us)
            )
        });
    }
}

/// The longest stretch without an acknowledgement between two times.
fn longest_gap(times_us: &[u64], from_us: u64, until_us: u64) -> u64 {
    let first = times_us.partition_point(|&time| time < from_us);
    let inside = times_us[first..].iter().copied().take_while(|&time| time < until_us);
    let mut last_us = from_us;
    let mut longest_us = 0;
    for time_us in inside.chain([until_us]) {
        longest_us = longest_us.max(time_us.saturating_sub(last_us));
        last_us = time_us;
    }
    longest_us
}
