//! What a run shows: a table on the terminal and a page of HTML that needs nothing else.

use std::fmt::Write;

use crate::{
    checker::{Counts, FaultReport, Finding, Invariant, Judgement, Quantiles, Verdict},
    error::LoadtestError,
    history::{Line, Operation, Outcome},
};

/// What happened in each second of a run.
#[derive(Debug, Default)]
pub struct Seconds {
    seconds: Vec<Second>,
}

#[derive(Clone, Debug, Default)]
struct Second {
    polled: u64,
    indefinite: u64,
    /// From send to acknowledgement, of all records acknowledged in this second.
    latencies_us: Vec<u64>,
}

impl Second {
    /// In milliseconds; none when nothing was acknowledged.
    fn latency_ms(&self, quantile: f64) -> Option<f64> {
        let last = self.latencies_us.len().checked_sub(1)?;
        Some(self.latencies_us[(last as f64 * quantile).round() as usize] as f64 / 1e3)
    }
}

impl Seconds {
    /// Gathers a history.
    ///
    /// # Errors
    ///
    /// Those of the lines.
    pub fn gather(
        lines: impl Iterator<Item = Result<Line, LoadtestError>>,
    ) -> Result<Seconds, LoadtestError> {
        let mut gathered = Seconds::default();
        for line in lines {
            gathered.absorb(&line?);
        }
        for second in &mut gathered.seconds {
            second.latencies_us.sort_unstable();
        }
        Ok(gathered)
    }

    fn absorb(&mut self, line: &Line) {
        let index = usize::try_from(line.end_us / 1_000_000).expect("a run has not so many seconds");
        match &line.operation {
            Operation::Send { .. } => {
                let second = self.second(index);
                match line.outcome {
                    Outcome::Ok => second.latencies_us.push(line.end_us - line.start_us),
                    Outcome::Info | Outcome::Fail => second.indefinite += 1,
                }
            }
            Operation::Poll { records, .. } => self.second(index).polled += records.len() as u64,
            _ => {}
        }
    }

    fn second(&mut self, index: usize) -> &mut Second {
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        &mut self.seconds[index]
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        Verdict::Unknown => "UNKNOWN: the history ends before everything was read back",
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn counts_text(counts: &Counts) -> String {
    format!(
        "{} records acknowledged, {} without an answer, {} polled, {} read back; {} commits, {} answers about them; \
         {} replicas read, {} batches compared; {} look-ups, {} assignments, {} foreign commits, {} fresh topics ({} asked for again, for {:.1} ms at most)",
        counts.acknowledged,
        counts.indefinite,
        counts.polled,
        counts.drained,
        counts.commits,
        counts.committed_reads,
        counts.replicas_read,
        counts.batches,
        counts.look_ups,
        counts.assignments,
        counts.foreign_commits,
        counts.fresh_topics,
        counts.fresh_topics_asked_again,
        ms(counts.fresh_topics_known_us_max),
    )
}

/// The longest that writes stood still where they had to go on, and the longest after healing where not.
fn worst(faults: &[FaultReport]) -> (u64, u64) {
    let writable = faults.iter().filter(|fault| fault.is_writable).map(|fault| fault.longest_gap_us).max();
    let others = faults.iter().filter(|fault| !fault.is_writable).map(|fault| fault.resumed_after_us).max();
    (writable.unwrap_or(0), others.unwrap_or(0))
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

fn latency_text(latency: &Quantiles) -> String {
    format!(
        "p50 {:.2} ms, p99 {:.1} ms, longest {:.0} ms over {} records",
        ms(latency.p50_us),
        ms(latency.p99_us),
        ms(latency.longest_us),
        latency.records
    )
}

/// The judgement for the terminal.
pub fn table(judgement: &Judgement) -> String {
    let mut text = String::new();
    let mut line = |content: String| {
        text.push_str(&content);
        text.push('\n');
    };
    if !judgement.faults.is_empty() {
        line(format!(
            "{:>8} {:>8} {:>10} {:>12} {:>9}  fault",
            "at s", "lasted s", "stopped s", "resumed s", "p99 ms"
        ));
    }
    for fault in &judgement.faults {
        line(format!(
            "{:8.1} {:8.1} {:9.2}{} {:12.2} {:9.1}  {}",
            seconds(fault.start_us),
            seconds(fault.end_us - fault.start_us),
            seconds(fault.longest_gap_us),
            if fault.is_writable { "*" } else { " " },
            seconds(fault.resumed_after_us),
            ms(fault.latency.p99_us),
            fault.fault,
        ));
    }
    if !judgement.faults.is_empty() {
        let (writable, others) = worst(&judgement.faults);
        line("stopped: longest time without an acknowledgement in a partition (* bounded); resumed: after healing".to_owned());
        line(format!(
            "worst: stopped {:.2} s where bounded, resumed {:.2} s elsewhere",
            seconds(writable),
            seconds(others)
        ));
    }
    line(format!("from send to acknowledgement in quiet times: {}", latency_text(&judgement.quiet)));
    line(counts_text(&judgement.counts));
    for invariant in Invariant::ALL {
        match judgement.findings.get(&invariant) {
            None => line(format!("ok    {invariant}")),
            Some(Finding { count, examples }) => {
                line(format!("FAIL  {invariant}: {count}"));
                for example in examples {
                    line(format!("        {example}"));
                }
            }
        }
    }
    line(word(judgement.verdict).to_owned());
    text
}

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 180.0;

/// The page.
pub fn page(judgement: &Judgement, gathered: &Seconds) -> String {
    let mut html = String::from(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>chronik-loadtest</title>\n<style>\
         body{font:14px/1.4 sans-serif;max-width:1040px;margin:2em auto;padding:0 1em}\
         svg{background:#fafafa;border:1px solid #ddd;width:100%}table{border-collapse:collapse}\
         td,th{padding:2px 8px;border-bottom:1px solid #eee;text-align:left}td.n{text-align:right}\
         .pass{color:#187a33}.fail{color:#b3261e}.note{color:#666}text{font:11px sans-serif;fill:#666}\
         </style>\n",
    );
    let class = if judgement.verdict == Verdict::Pass { "pass" } else { "fail" };
    push(
        &mut html,
        format_args!(
            "<h1>chronik-loadtest: <span class=\"{class}\">{}</span></h1>\n",
            word(judgement.verdict)
        ),
    );
    if let Some(run) = &judgement.run {
        push(
            &mut html,
            format_args!(
                "<p>Scenario {}, seed {}, {} nodes, {} partitions with {} replicas; writes must resume within {:.1} s.</p>\n",
                escape(&run.scenario),
                run.seed,
                run.nodes,
                run.partitions,
                run.replication,
                run.outage_ms_max as f64 / 1e3
            ),
        );
    }
    push(&mut html, format_args!("<p>{}.</p>\n", counts_text(&judgement.counts)));
    push(
        &mut html,
        format_args!(
            "<p>From send to acknowledgement in quiet times: {}.</p>\n",
            latency_text(&judgement.quiet)
        ),
    );
    charts(&mut html, judgement, gathered);
    invariants(&mut html, judgement);
    faults(&mut html, &judgement.faults);
    html
}

fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    html.write_fmt(text).expect("a string takes everything");
}

fn charts(html: &mut String, judgement: &Judgement, gathered: &Seconds) {
    let each = |value: fn(&Second) -> Option<f64>| gathered.seconds.iter().map(value).collect::<Vec<_>>();
    let rates = [
        ("acknowledged", "#1f6feb", each(|second| Some(second.latencies_us.len() as f64))),
        ("polled", "#2da44e", each(|second| Some(second.polled as f64))),
        ("without answer", "#b3261e", each(|second| Some(second.indefinite as f64))),
    ];
    html.push_str("<h2>Records per second</h2>\n");
    chart(html, &judgement.faults, &rates, |value| value, |value| format!("{value:.0}"));
    let latencies = [
        ("p50", "#1f6feb", each(|second| second.latency_ms(0.5))),
        ("p99", "#bf8700", each(|second| second.latency_ms(0.99))),
        ("highest", "#b3261e", each(|second| second.latency_ms(1.0))),
    ];
    html.push_str("<h2>Milliseconds from send to acknowledgement (logarithmic)</h2>\n");
    let logarithm = |value: f64| (value.max(0.1) / 0.1).log10();
    chart(html, &judgement.faults, &latencies, logarithm, |value| format!("{value:.1}"));
}

/// One chart: time to the right, faults as bands behind the lines. A second without a value interrupts its line.
fn chart(
    html: &mut String,
    faults: &[FaultReport],
    series: &[(&str, &str, Vec<Option<f64>>)],
    scale: impl Fn(f64) -> f64,
    label: impl Fn(f64) -> String,
) {
    let count = series.iter().map(|(_, _, values)| values.len()).max().unwrap_or(0).max(1);
    let highest =
        series.iter().flat_map(|(_, _, values)| values.iter().flatten()).copied().fold(1.0, f64::max);
    let x = |second: f64| second / count as f64 * WIDTH;
    push(html, format_args!("<svg viewBox=\"0 0 {WIDTH} {}\">\n", HEIGHT + 20.0));
    for fault in faults {
        let (from, to) = (x(seconds(fault.start_us)), x(seconds(fault.end_us)));
        push(
            html,
            format_args!(
                "<rect x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"#f6c6c2\"><title>{}</title></rect>\n",
                (to - from).max(1.0),
                escape(&fault.fault)
            ),
        );
    }
    for (index, (name, colour, values)) in series.iter().enumerate() {
        let mut path = String::new();
        let mut is_interrupted = true;
        for (second, value) in values.iter().enumerate() {
            let Some(value) = value else {
                is_interrupted = true;
                continue;
            };
            let y = HEIGHT - scale(*value) / scale(highest).max(1e-9) * (HEIGHT - 12.0);
            let verb = if is_interrupted { 'M' } else { 'L' };
            push(&mut path, format_args!("{verb}{:.1} {y:.1}", x(second as f64 + 0.5)));
            is_interrupted = false;
        }
        push(
            html,
            format_args!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\"/>\n"),
        );
        let right = 120.0 + 120.0 * index as f64;
        push(
            html,
            format_args!(
                "<text x=\"{right}\" y=\"{}\" style=\"fill:{colour}\">{name}</text>\n",
                HEIGHT + 15.0
            ),
        );
    }
    push(html, format_args!("<text x=\"2\" y=\"11\">{}</text>\n", label(highest)));
    push(html, format_args!("<text x=\"2\" y=\"{}\">0 to {count} s</text>\n</svg>\n", HEIGHT + 15.0));
}

fn invariants(html: &mut String, judgement: &Judgement) {
    html.push_str("<h2>What must hold</h2>\n<table>\n");
    for invariant in Invariant::ALL {
        let Some(finding) = judgement.findings.get(&invariant) else {
            push(html, format_args!("<tr><td>{invariant}<td class=\"pass\">holds\n"));
            continue;
        };
        let examples: Vec<_> = finding.examples.iter().map(|example| escape(example)).collect();
        push(
            html,
            format_args!(
                "<tr><td>{invariant}<td class=\"fail\">broken {} times<br><span class=\"note\">{}</span>\n",
                finding.count,
                examples.join("<br>")
            ),
        );
    }
    html.push_str("</table>\n");
}

fn faults(html: &mut String, faults: &[FaultReport]) {
    if faults.is_empty() {
        return;
    }
    html.push_str(
        "<h2>Faults</h2>\n<p class=\"note\">Stopped: the longest time in which a partition acknowledged nothing, bounded \
         where marked. Resumed: from the healing to the last partition's next acknowledgement, bounded elsewhere.</p>\n\
         <table>\n<tr><th>at s<th>lasted s<th>stopped s<th>resumed s<th>p50 ms<th>p99 ms<th>fault\n",
    );
    for fault in faults {
        push(
            html,
            format_args!(
                "<tr><td class=\"n\">{:.1}<td class=\"n\">{:.1}<td class=\"n\">{:.2}{}<td class=\"n\">{:.2}<td class=\"n\">{:.2}\
                 <td class=\"n\">{:.1}<td>{}\n",
                seconds(fault.start_us),
                seconds(fault.end_us - fault.start_us),
                seconds(fault.longest_gap_us),
                if fault.is_writable { "*" } else { "" },
                seconds(fault.resumed_after_us),
                ms(fault.latency.p50_us),
                ms(fault.latency.p99_us),
                escape(&fault.fault)
            ),
        );
    }
    html.push_str("</table>\n");
}

/// Text as it stands in HTML: logs of brokers end up in it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
