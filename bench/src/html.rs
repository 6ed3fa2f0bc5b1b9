//! A report as one page that needs nothing else: figures, and plots of percentiles, of latency over time, of throughput
//! against p99, and of what the broker cost.

use std::{fmt::Write, fs, path::Path};

use crate::{
    error::BenchError,
    plot::{Axis, Scale, Series, escape, plot},
    report::{LoadKind, Report, RunReport},
    table::{overview_cells, render_run},
};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;font-size:14px}td,th{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:right}\
td:first-child,th:first-child{text-align:left}figure{margin:2em 0}figcaption{font-weight:600}\
svg{width:100%;height:auto}svg text{font-size:12px;fill:#444}.grid{stroke:#e4e4e4}polyline{stroke-width:2}\
.legend span{margin-right:1.2em;font-size:13px;white-space:nowrap}.legend i{display:inline-block;width:1em;height:.3em;\
margin-right:.4em;vertical-align:middle}pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:12px}\
.bad{color:#b00020;font-weight:600}";

/// Runs that have plots of their own over time.
const TIMELINES_MAX: usize = 12;

/// Writes the page.
///
/// # Errors
///
/// [`BenchError::WriteReport`].
pub fn write(report: &Report, path: &Path) -> Result<(), BenchError> {
    fs::write(path, page(report)).map_err(|source| BenchError::WriteReport { path: path.to_owned(), source })
}

/// The page.
pub fn page(report: &Report) -> String {
    let title = match &report.label {
        Some(label) => format!("chronik-bench {}: {label}", report.command),
        None => format!("chronik-bench {}", report.command),
    };
    let title = escape(&title);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<p>{} CPUs, {}, Linux {}; chronik-bench {}.</p>\n",
        report.machine.cpus,
        escape(&report.machine.cpu_model),
        escape(&report.machine.kernel),
        escape(&report.version),
    );
    write_overview(&mut out, report);
    let curves = |pick: fn(&RunReport) -> Vec<(f64, f64)>| series_of(report, pick);
    let beyond = Axis { title: "percentile", scale: Scale::Log, label: percentile };
    let milliseconds = Axis { title: "milliseconds", scale: Scale::Log, label: short };
    out.push_str(&plot("Latency by percentile, from due to answered", &beyond, &milliseconds, &{
        let mut series = curves(|run| curve_points(&run.curves.latency));
        series.extend(report.runs.iter().find_map(floor_series));
        series
    }));
    let end_to_end = curves(|run| curve_points(&run.curves.end_to_end));
    out.push_str(&plot(
        "End-to-end latency by percentile, from due to read",
        &beyond,
        &milliseconds,
        &end_to_end,
    ));
    if report.runs.len() > 1 {
        out.push_str(&throughput_plot(report, &milliseconds));
    }
    for run in report.runs.iter().take(TIMELINES_MAX) {
        out.push_str(&time_plots(run, &milliseconds));
    }
    out.push_str("<h2>Every run</h2>\n");
    for run in &report.runs {
        writeln!(out, "<pre>{}</pre>", escape(&render_run(run))).expect("a string takes everything");
    }
    let options = serde_json::to_string_pretty(&report.options).expect("options are plain data");
    writeln!(out, "<h2>Options</h2>\n<pre>{}</pre>\n</body></html>", escape(&options))
        .expect("a string takes everything");
    out
}

fn write_overview(out: &mut String, report: &Report) {
    out.push_str(
        "<table><tr><th>run</th><th>records/s</th><th>MB/s</th><th>p50 ms</th><th>p99 ms</th><th>p99.9 ms</th>\
         <th>max ms</th><th>end to end p99 ms</th><th>broker CPU s/GB</th><th>broker MiB</th><th>p50 × floor</th>\
         <th>p99 × floor</th></tr>\n",
    );
    for run in &report.runs {
        let ratio = |pick: fn(&crate::report::Ratios) -> f64| {
            run.ratios.as_ref().map_or("-".to_owned(), |ratios| format!("{:.2}", pick(ratios)))
        };
        let mut cells = overview_cells(run).to_vec();
        cells.extend([ratio(|ratios| ratios.latency_p50), ratio(|ratios| ratios.latency_p99)]);
        write!(out, "<tr><td>{}", escape(&run.name)).expect("a string takes everything");
        if !run.errors.is_empty() {
            out.push_str(" <span class=\"bad\">errors</span>");
        }
        out.push_str("</td>");
        cells.iter().for_each(|cell| write!(out, "<td>{cell}</td>").expect("a string takes everything"));
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
    if let Some(search) = &report.search {
        let found = match search.records_per_second {
            Some(rate) => {
                format!("Highest rate with p99 within {} ms: {rate:.0} records/s.", search.p99_ms_max)
            }
            None => format!("No rate that was tried has its p99 within {} ms.", search.p99_ms_max),
        };
        writeln!(out, "<p>{found}</p>").expect("a string takes everything");
    }
}

fn series_of(report: &Report, pick: fn(&RunReport) -> Vec<(f64, f64)>) -> Vec<Series> {
    report
        .runs
        .iter()
        .filter(|run| run.load != LoadKind::Drain)
        .map(|run| Series { name: run.name.clone(), points: pick(run), is_line: true })
        .filter(|series| !series.points.is_empty())
        .collect()
}

fn floor_series(run: &RunReport) -> Option<Series> {
    let points = curve_points(&run.curves.floor);
    (!points.is_empty()).then(|| Series { name: format!("floor during {}", run.name), points, is_line: true })
}

fn curve_points(curve: &[crate::histogram::CurvePoint]) -> Vec<(f64, f64)> {
    curve.iter().map(|point| (1.0 / point.beyond, point.latency_ns as f64 / 1e6)).collect()
}

fn throughput_plot(report: &Report, milliseconds: &Axis) -> String {
    let point = |run: &RunReport| {
        let p99_ns = run.results.latency?.p99_ns;
        Some(Series {
            name: run.name.clone(),
            points: vec![(run.results.batch_bytes_per_second / 1e6, p99_ns as f64 / 1e6)],
            is_line: false,
        })
    };
    let series: Vec<Series> =
        report.runs.iter().filter(|run| run.load != LoadKind::Drain).filter_map(point).collect();
    let throughput = Axis { title: "MB/s", scale: Scale::Linear, label: short };
    plot("p99 against throughput", &throughput, milliseconds, &series)
}

fn time_plots(run: &RunReport, milliseconds: &Axis) -> String {
    let seconds = Axis { title: "seconds", scale: Scale::Linear, label: short };
    let line = |name: &str, points: Vec<(f64, f64)>| Series { name: name.to_owned(), points, is_line: true };
    let over_time = |name: &str, pick: fn(&crate::timeline::TimelinePoint) -> u64| {
        let points = run.timeline.iter().map(|point| (point.start_seconds(), pick(point) as f64 / 1e6));
        line(name, points.collect())
    };
    let mut out = String::new();
    if run.load != LoadKind::Drain && run.timeline.len() > 1 {
        let series = [
            over_time("p50", |point| point.p50_ns),
            over_time("p99", |point| point.p99_ns),
            over_time("max", |point| point.max_ns),
        ];
        out.push_str(&plot(&format!("{}: latency over time", run.name), &seconds, milliseconds, &series));
    }
    if run.broker_samples.len() > 2 {
        let cores =
            run.broker_samples.windows(2).filter(|pair| pair[1].seconds > pair[0].seconds).map(|pair| {
                let busy = (pair[1].cpu_seconds - pair[0].cpu_seconds) / (pair[1].seconds - pair[0].seconds);
                (pair[1].seconds, busy)
            });
        let axis = Axis { title: "cores, GiB", scale: Scale::Linear, label: short };
        let memory = run
            .broker_samples
            .iter()
            .map(|sample| (sample.seconds, sample.rss_bytes as f64 / f64::from(1 << 30)));
        let series = [line("CPU, cores", cores.collect()), line("resident memory, GiB", memory.collect())];
        out.push_str(&plot(&format!("{}: the broker", run.name), &seconds, &axis, &series));
    }
    out
}

/// The percentile beyond which one in so many lies: 100 is p99.
fn percentile(one_in: f64) -> String {
    let decimals = (one_in.log10().round() as usize).saturating_sub(2);
    format!("p{:.decimals$}", 100.0 - 100.0 / one_in)
}

/// A number in few digits.
fn short(value: f64) -> String {
    if value >= 10.0 || value == 0.0 {
        return format!("{value:.0}");
    }
    format!("{}", (value * 1e4).round() / 1e4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn the_page_shows_every_run_and_needs_nothing_else() {
        let mut report = samples::report();
        let mut second = samples::run();
        second.name = "rate 2000".to_owned();
        second.broker_samples = vec![second.broker_samples[0]; 3];
        report.runs.push(second);
        let page = page(&report);
        for title in [
            "Latency by percentile",
            "p99 against throughput",
            "produce: latency over time",
            "rate 2000: the",
        ] {
            assert!(page.contains(title), "{title}");
        }
        assert!(page.contains("a &lt;broker&gt;") && !page.contains("<broker>"));
        assert!(!page.contains("http"), "nothing is loaded from elsewhere");
        assert_eq!(page.matches("<figure>").count(), page.matches("</figure>").count());
    }

    #[test]
    fn ticks_are_named_for_people() {
        assert_eq!([1.0, 10.0, 100.0, 1e3, 1e5].map(percentile), ["p0", "p90", "p99", "p99.9", "p99.999"]);
        assert_eq!([0.0, 0.05, 0.25, 1.0, 150.0].map(short), ["0", "0.05", "0.25", "1", "150"]);
    }
}
