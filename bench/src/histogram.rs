//! Latency histograms with three significant digits.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies from 1 ns to an hour; what is longer counts as an hour.
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
}

const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// Enough for one point of a plot, in an eighth of the memory.
const SIGNIFICANT_DIGITS_COARSE: u8 = 2;

/// The shares of a percentile curve: evenly spaced in the logarithm of what lies beyond them.
const CURVE_POINTS_PER_DECADE: u32 = 10;

impl Default for Latency {
    fn default() -> Latency {
        Latency::new()
    }
}

impl Latency {
    /// An empty histogram.
    pub fn new() -> Latency {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are those that the histogram allows");
        Latency { histogram }
    }

    /// An empty histogram of two significant digits.
    pub fn new_coarse() -> Latency {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS_COARSE)
            .expect("the bounds are those that the histogram allows");
        Latency { histogram }
    }

    /// Counts one latency, in nanoseconds.
    pub fn record(&mut self, latency_ns: u64) {
        self.histogram.saturating_record(latency_ns.max(1));
    }

    /// Adds everything that another histogram counted.
    pub fn merge(&mut self, other: &Latency) {
        self.histogram.add(&other.histogram).expect("all histograms have the same bounds");
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// How many were longer.
    pub fn count_above_ns(&self, latency_ns: u64) -> u64 {
        self.count() - self.histogram.count_between(0, latency_ns)
    }

    /// The latency that a share of all (0 to 1) does not exceed; 0 when nothing was counted.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// The percentile curve, as far as there are latencies to tell one share from the next, and the longest.
    pub fn curve(&self) -> Vec<CurvePoint> {
        let mut curve = Vec::new();
        for step in 0.. {
            let beyond = 10_f64.powf(-f64::from(step) / f64::from(CURVE_POINTS_PER_DECADE));
            if beyond * (self.count() as f64) < 1.0 {
                break;
            }
            curve.push(CurvePoint { beyond, latency_ns: self.quantile_ns(1.0 - beyond) });
        }
        if let Some(summary) = self.summary() {
            curve.push(CurvePoint { beyond: 1.0 / summary.count as f64, latency_ns: summary.max_ns });
        }
        curve
    }

    /// The figures for a report; `None` when nothing was counted.
    pub fn summary(&self) -> Option<Summary> {
        (self.count() > 0).then(|| Summary {
            count: self.count(),
            min_ns: self.histogram.min(),
            mean_ns: self.histogram.mean() as u64,
            p50_ns: self.quantile_ns(0.50),
            p90_ns: self.quantile_ns(0.90),
            p99_ns: self.quantile_ns(0.99),
            p999_ns: self.quantile_ns(0.999),
            p9999_ns: self.quantile_ns(0.9999),
            max_ns: self.histogram.max(),
        })
    }
}

/// The figures of one histogram, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Latencies counted.
    pub count: u64,
    /// The shortest.
    pub min_ns: u64,
    /// The average.
    pub mean_ns: u64,
    /// The median.
    pub p50_ns: u64,
    /// 90 % are at most this.
    pub p90_ns: u64,
    /// 99 % are at most this.
    pub p99_ns: u64,
    /// 99.9 % are at most this.
    pub p999_ns: u64,
    /// 99.99 % are at most this.
    pub p9999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// One point of a percentile curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The share of latencies that may be longer, from 1 down: 0.01 is the 99th percentile.
    pub beyond: f64,
    /// What the others are at most, in nanoseconds.
    pub latency_ns: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_histogram_has_no_summary() {
        assert_eq!(Latency::new().summary(), None);
    }

    #[test]
    fn extremes_are_kept_in_range() {
        let mut latency = Latency::new();
        latency.record(0);
        latency.record(u64::MAX);
        let summary = latency.summary().unwrap();
        assert_eq!(summary.count, 2);
        assert_eq!(summary.min_ns, 1);
        assert!(summary.max_ns >= LATENCY_NS_MAX);
    }

    #[test]
    fn a_curve_goes_up_to_the_longest() {
        let mut latency = Latency::new();
        assert_eq!(latency.curve(), []);
        (1..=1_000).for_each(|value| latency.record(value));
        let curve = latency.curve();
        assert!(curve.windows(2).all(|pair| pair[0].latency_ns <= pair[1].latency_ns));
        let at = |beyond: f64| curve.iter().find(|point| (point.beyond / beyond - 1.0).abs() < 1e-6).unwrap();
        assert_eq!((at(0.1).latency_ns, at(0.01).latency_ns), (900, 990));
        assert_eq!(curve.last(), Some(&CurvePoint { beyond: 0.001, latency_ns: 1_000 }));
    }

    proptest! {
        #[test]
        fn merged_parts_are_the_whole(
            parts in prop::collection::vec(prop::collection::vec(1u64..10_000_000_000, 0..200), 1..5),
        ) {
            let (mut whole, mut merged) = (Latency::new(), Latency::new());
            for part in &parts {
                let mut histogram = Latency::new();
                for &latency_ns in part {
                    histogram.record(latency_ns);
                    whole.record(latency_ns);
                }
                merged.merge(&histogram);
            }
            prop_assert_eq!(merged.summary(), whole.summary());
        }

        #[test]
        fn quantiles_are_within_a_thousandth(mut values in prop::collection::vec(1u64..10_000_000_000, 1..300)) {
            let mut latency = Latency::new();
            values.iter().for_each(|&value| latency.record(value));
            values.sort_unstable();
            let summary = latency.summary().unwrap();
            let exact = values[values.len().div_ceil(2) - 1];
            prop_assert!(summary.p50_ns.abs_diff(exact) <= exact / 1_000 + 1, "{} {}", summary.p50_ns, exact);
            prop_assert!(summary.p50_ns <= summary.p99_ns && summary.p99_ns <= summary.max_ns);
        }
    }
}
