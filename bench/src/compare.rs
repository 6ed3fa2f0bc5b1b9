//! Two reports side by side.

use std::fmt::Write;

use crate::report::{LoadKind, Report, RunReport};

/// A figure of a run.
struct Figure {
    name: &'static str,
    pick: fn(&RunReport) -> Option<f64>,
}

const FIGURES: [Figure; 9] = [
    Figure {
        name: "records/s",
        pick: |run| (run.results.records > 0).then_some(run.results.records_per_second),
    },
    Figure {
        name: "MB/s of batches",
        pick: |run| (run.results.batch_bytes > 0).then_some(run.results.batch_bytes_per_second / 1e6),
    },
    Figure { name: "p50 ms", pick: |run| latency(run).map(|summary| summary.p50_ns as f64 / 1e6) },
    Figure { name: "p99 ms", pick: |run| latency(run).map(|summary| summary.p99_ns as f64 / 1e6) },
    Figure { name: "p99.9 ms", pick: |run| latency(run).map(|summary| summary.p999_ns as f64 / 1e6) },
    Figure {
        name: "end to end p99 ms",
        pick: |run| run.results.end_to_end.map(|summary| summary.p99_ns as f64 / 1e6),
    },
    Figure { name: "p50 × floor", pick: |run| run.ratios.map(|ratios| ratios.latency_p50) },
    Figure { name: "broker CPU s/GB", pick: |run| run.broker.and_then(|broker| broker.cpu_seconds_per_gb) },
    Figure {
        name: "broker MiB",
        pick: |run| run.broker.map(|broker| broker.process.rss_max_bytes as f64 / f64::from(1 << 20)),
    },
];

fn latency(run: &RunReport) -> Option<crate::histogram::Summary> {
    run.results.latency.filter(|_| run.load != LoadKind::Drain)
}

/// The runs that both reports have by the same name, figure by figure, with the second as a multiple of the first; and
/// the names of those that only one has.
pub fn compare(first: &Report, second: &Report) -> String {
    let mut out = String::new();
    let name = |report: &Report, other: &str| report.label.clone().unwrap_or(other.to_owned());
    writeln!(out, "{:<24}{:>16}{:>16}{:>10}", "", name(first, "first"), name(second, "second"), "ratio")
        .expect("a string takes everything");
    for run in &first.runs {
        let Some(other) = second.runs.iter().find(|other| other.name == run.name) else {
            writeln!(out, "{}: only in the first", run.name).expect("a string takes everything");
            continue;
        };
        writeln!(out, "{}", run.name).expect("a string takes everything");
        for figure in &FIGURES {
            if let (Some(one), Some(two)) = ((figure.pick)(run), (figure.pick)(other)) {
                let ratio = if one > 0.0 { format!("{:.2}", two / one) } else { "-".to_owned() };
                writeln!(out, "  {:<22}{one:>16.3}{two:>16.3}{ratio:>10}", figure.name)
                    .expect("a string takes everything");
            }
        }
        for (side, run) in [("first", run), ("second", other)] {
            let errors: u64 = run.errors.values().sum();
            if errors > 0 {
                writeln!(out, "  {errors} errors in the {side}").expect("a string takes everything");
            }
        }
    }
    for run in second.runs.iter().filter(|run| first.runs.iter().all(|other| other.name != run.name)) {
        writeln!(out, "{}: only in the second", run.name).expect("a string takes everything");
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::report::samples;

    #[test]
    fn runs_meet_by_name() {
        let first = samples::report();
        let mut second = samples::report();
        second.label = None;
        second.runs[0].results.records_per_second = 2_000.0;
        second.runs[0].broker = None;
        second.runs[0].errors.insert("Produce unanswered".to_owned(), 4);
        let mut other = samples::run();
        other.name = "another".to_owned();
        second.runs.push(other);
        expect![[r#"
                                          a <broker>          second     ratio
            produce
              records/s                     1000.000        2000.000      2.00
              MB/s of batches                  0.170           0.170      1.00
              p50 ms                           0.180           0.180      1.00
              p99 ms                           0.540           0.540      1.00
              p99.9 ms                         0.594           0.594      1.00
              p50 × floor                      2.000           2.000      1.00
              4 errors in the second
            another: only in the second
        "#]]
        .assert_eq(&compare(&first, &second));
    }
}
