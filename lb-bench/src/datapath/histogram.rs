//! How long single operations took: a histogram of fixed size, so that adding to it costs a few nanoseconds and no memory.
//! Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets for each doubling of the time: each is 1/16 wide, so a quantile is at most 6 % above the true one.
const STEPS: u32 = 16;
/// Doublings from a nanosecond up.
const DOUBLINGS: u32 = 40;

/// Counts by logarithm of the time.
pub(super) struct Histogram(Vec<u64>);

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; (DOUBLINGS * STEPS) as usize])
    }
}

impl Histogram {
    pub(super) fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(STEPS.into());
        let doubling = nanos.ilog2();
        // The four bits below the highest one.
        let step = (nanos >> (doubling - 4)) as u32 - STEPS;
        let at = (doubling * STEPS + step) as usize;
        if let Some(count) = self.0.get_mut(at) {
            *count += 1;
        }
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        Quantiles { p50: self.quantile(50), p99: self.quantile(99) }
    }

    /// Upper end of the bucket that holds the value that so many percent are not above; 0 of nothing.
    fn quantile(&self, percent: u64) -> f64 {
        let rank = (self.0.iter().sum::<u64>() * percent).div_ceil(100);
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            rank > 0 && seen >= rank
        });
        let Some(at) = found else { return 0.0 };
        let (doubling, step) = (at as u32 / STEPS, at as u32 % STEPS);
        f64::from(STEPS + step + 1) * f64::from(doubling - 4).exp2() / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_step() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|micros| histogram.add(Duration::from_micros(micros)));
        let Quantiles { p50, p99 } = histogram.quantiles();
        assert!((500.0..=532.0).contains(&p50) && (990.0..=1053.0).contains(&p99), "{p50} {p99}");
        assert_eq!(Histogram::default().quantiles(), Quantiles { p50: 0.0, p99: 0.0 });
        let mut short = Histogram::default();
        short.add(Duration::from_nanos(1));
        assert!(short.quantiles().p50 < 0.02);
    }
}
