//! Commands that make several runs.

use std::time::Duration;

use super::Harness;
use crate::{
    cli::{BacklogOptions, IdleOptions, LoadOptions, SearchOptions, SweepOptions, WorkloadOptions},
    error::BenchError,
    plan::{ConsumePlan, IdlePlan, ProducePlan, Rate, TopicPlan},
    report::{RunReport, SearchReport},
};

/// Requests that each connection keeps outstanding while a backlog is made.
const FILL_IN_FLIGHT: usize = 5;
/// A backlog that is not there by then is none.
const FILL_SECONDS_MAX: f64 = 3_600.0;
const MIB: u64 = 1 << 20;
/// A search gives a rate up when an answer takes so many times the bound, and no less than this.
const HOPELESS_FACTOR: f64 = 20.0;
const HOPELESS_MS_MIN: f64 = 1_000.0;
/// Times that a rate is tried before it counts as too high: one stall of the machine is none of the broker.
const TRIES: usize = 2;

impl Harness<'_> {
    pub(super) fn workload(&mut self, options: &WorkloadOptions) -> Result<(), BenchError> {
        let workload = options.name.workload(options.rate, options.duration, options.warm_up);
        let name = options.name.name();
        let mut topics = TopicPlan::own(self.common, &name);
        topics.is_kept = self.common.keep;
        topics.partitions = Some(workload.partitions);
        topics.configs.extend(workload.topic_configs);
        match workload.backlog_mib {
            Some(backlog_mib) => self.drain(&name, &topics, &workload.load, backlog_mib),
            None => self.produce(&name, &topics, &workload.load),
        }
    }

    pub(super) fn sweep(&mut self, options: &SweepOptions) -> Result<(), BenchError> {
        for value in &options.values {
            let run = options.with(value)?;
            let topics =
                TopicPlan { partitions: run.common.partitions, ..TopicPlan::own(self.common, value) };
            let plan = ProducePlan::new(&run.load, Rate::RecordsPerSecond(run.rate));
            let over = serde_json::to_value(options.over).expect("a name is plain data");
            let name = format!("{} {value}", over.as_str().unwrap_or_default());
            self.produce(&name, &topics, &plan)?;
        }
        Ok(())
    }

    pub(super) fn search(&mut self, options: &SearchOptions) -> Result<SearchReport, BenchError> {
        let topics = TopicPlan::new(self.common);
        let mut best: Option<(f64, String)> = None;
        let mut too_high: Option<f64> = None;
        let mut rate = options.from;
        loop {
            let name = format!("rate {rate:.0}");
            let mut holds = false;
            for _ in 0..TRIES {
                let run = self.try_rate(&name, &topics, options, rate)?;
                holds = is_within(&run, options.p99_ms);
                self.add(run);
                if holds {
                    break;
                }
            }
            if holds {
                best = Some((rate, name));
            } else {
                too_high = Some(rate);
            }
            let reached = best.as_ref().map(|(rate, _)| *rate);
            match next_rate(reached, too_high, options) {
                Some(next) => rate = next,
                None => break,
            }
        }
        let (records_per_second, run) = best.unzip();
        Ok(SearchReport { p99_ms_max: options.p99_ms, records_per_second, run })
    }

    fn try_rate(
        &self,
        name: &str,
        topics: &TopicPlan,
        options: &SearchOptions,
        rate: f64,
    ) -> Result<RunReport, BenchError> {
        let plan = ProducePlan {
            lag_ms_max: Some((options.p99_ms * HOPELESS_FACTOR).max(HOPELESS_MS_MIN)),
            ..ProducePlan::new(&options.load, Rate::RecordsPerSecond(rate))
        };
        self.with_topics(topics, |session| session.produce(name, &plan))
    }

    pub(super) fn backlog(&mut self, options: &BacklogOptions) -> Result<(), BenchError> {
        let LoadOptions { consumers, .. } = options.load;
        let plan = ProducePlan {
            consumers: consumers.max(1),
            ..ProducePlan::new(&options.load, Rate::RecordsPerSecond(options.rate))
        };
        self.drain("backlog", &TopicPlan::new(self.common), &plan, options.backlog_mib)
    }

    /// Fills topics, then reads them to their end as of then while `plan` goes on.
    fn drain(
        &mut self,
        name: &str,
        topics: &TopicPlan,
        plan: &ProducePlan,
        backlog_mib: u64,
    ) -> Result<(), BenchError> {
        let batch_bytes = (plan.batch_records * plan.record_bytes) as u64;
        let fill = ProducePlan {
            rate: Rate::Highest { in_flight: FILL_IN_FLIGHT },
            consumers: 0,
            warm_up: 0.0,
            duration: FILL_SECONDS_MAX,
            requests_max: Some((backlog_mib * MIB).div_ceil(batch_bytes)),
            ..plan.clone()
        };
        let drain = ConsumePlan {
            consumers: plan.consumers,
            bytes_max: 8 << 20,
            partition_bytes_max: 1 << 20,
            passes: 1,
            is_beside_load: true,
        };
        let meanwhile = ProducePlan { consumers: 0, warm_up: 0.0, ..plan.clone() };
        let runs = self.with_topics(topics, |session| {
            let filled = session.produce(&format!("{name}: fill"), &fill)?;
            let (drained, produced) = std::thread::scope(|scope| {
                let drain = scope.spawn(|| session.consume(&format!("{name}: drain"), &drain));
                let produced = session.produce(&format!("{name}: produce meanwhile"), &meanwhile);
                (drain.join().expect("a run does not panic"), produced)
            });
            Ok([filled, drained?, produced?])
        })?;
        runs.into_iter().for_each(|run| self.add(run));
        Ok(())
    }

    pub(super) fn idle(&mut self, options: &IdleOptions) -> Result<(), BenchError> {
        let plan = IdlePlan {
            settle: Duration::from_secs_f64(options.warm_up),
            duration: Duration::from_secs_f64(options.duration),
        };
        let run = self.with_topics(&TopicPlan::new(self.common), |session| session.idle("idle", plan))?;
        self.add(run);
        Ok(())
    }
}

fn is_within(run: &RunReport, p99_ms_max: f64) -> bool {
    let p99_ms = run.results.latency.map(|latency| latency.p99_ns as f64 / 1e6);
    run.errors.is_empty() && p99_ms.is_some_and(|p99_ms| p99_ms <= p99_ms_max)
}

/// The rate to try next: twice the highest that holds, then half way to the lowest that does not, until they are close.
fn next_rate(reached: Option<f64>, too_high: Option<f64>, options: &SearchOptions) -> Option<f64> {
    match (reached, too_high) {
        (Some(reached), None) => (reached < options.to).then(|| (reached * 2.0).min(options.to)),
        (Some(reached), Some(too_high)) => {
            (too_high / reached > 1.0 + options.precision).then(|| (reached * too_high).sqrt())
        }
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn a_search_doubles_and_then_closes_in() {
        let line = "chronik-bench search --bootstrap a:1 --from 100 --to 100000 --precision 0.05";
        let Command::Search(options) = Cli::parse_from(line.split_whitespace()).command else {
            panic!("a search was parsed")
        };
        let (mut reached, mut too_high, mut rate) = (None, None, options.from);
        let mut tried = Vec::new();
        loop {
            tried.push(rate.round());
            if rate <= 700.0 {
                reached = Some(rate)
            } else {
                too_high = Some(rate)
            }
            let Some(next) = next_rate(reached, too_high, &options) else { break };
            rate = next;
        }
        assert_eq!(tried, [100.0, 200.0, 400.0, 800.0, 566.0, 673.0, 734.0, 703.0]);
        assert_eq!(next_rate(Some(100_000.0), None, &options), None, "the end of the range");
        assert_eq!(next_rate(None, Some(100.0), &options), None, "not even the first");
    }
}
