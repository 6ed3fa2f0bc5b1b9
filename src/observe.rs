//! What the process shows of itself: log lines and metrics.

use std::io::IsTerminal;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::exit::Error;
use crate::options::LogFormat;

/// How often histograms are folded together; between two times they grow with each observation.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Upper bounds of the buckets of every `*_seconds` histogram: 10 µs to 10 s.
const SECONDS_BUCKETS: &[f64] = &[
    10e-6, 25e-6, 50e-6, 75e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 1.5e-3, 2e-3, 3e-3,
    5e-3, 7.5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5, 5.0, 10.0,
];

/// Upper bounds of the buckets of histograms that count something: powers of 4 up to 16 Mi.
const COUNT_BUCKETS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// Sends log lines to standard error from here on.
///
/// # Errors
///
/// [`Error::Usage`] when the level is none.
pub fn start_logging(level: &str, format: LogFormat) -> Result<(), Error> {
    let filter = parse_level(level).ok_or_else(|| {
        Error::Usage(format!("--log-level {level:?} is not a level such as info or info,reactor=debug"))
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Reads levels with or without a module. The filter itself would take a misspelt level for a module's name.
fn parse_level(text: &str) -> Option<EnvFilter> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |part: &str| {
        let (module, level) = part.rsplit_once('=').unwrap_or(("chronik", part));
        let is_name = |char: char| char.is_ascii_alphanumeric() || "_:".contains(char);
        !module.is_empty() && module.chars().all(is_name) && LEVELS.contains(&level)
    };
    let is_valid = text.split(',').all(is_level);
    is_valid.then(|| EnvFilter::builder().parse(text).ok()).flatten()
}

/// Installs the recorder for the metrics of the whole process and keeps it in order on a thread of its own.
///
/// # Errors
///
/// [`Error::System`] when the thread is refused.
///
/// # Panics
///
/// When there is a recorder already.
pub fn start_metrics() -> Result<PrometheusHandle, Error> {
    let buckets = "the buckets are not empty";
    let recorder = PrometheusBuilder::new()
        .set_buckets(COUNT_BUCKETS)
        .expect(buckets)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)
        .expect(buckets)
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).expect("the process has one recorder");
    let upkeep = handle.clone();
    let run = move || {
        loop {
            std::thread::sleep(UPKEEP_INTERVAL);
            upkeep.run_upkeep();
        }
    };
    match std::thread::Builder::new().name("metrics".to_owned()).spawn(run) {
        Ok(_) => Ok(handle),
        Err(source) => Err(Error::System { what: "start a thread for metrics", source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for valid in ["info", "off", "warn,reactor=debug,chronik_server::http=trace"] {
            assert!(parse_level(valid).is_some(), "{valid}");
        }
        for wrong in ["", "loud", "loud=,", "info,", "=info", "reactor=loud", "a b=info"] {
            assert!(parse_level(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn buckets_ascend() {
        assert!(SECONDS_BUCKETS.is_sorted_by(|left, right| left < right));
        assert!(COUNT_BUCKETS.is_sorted_by(|left, right| left < right));
    }
}
