//! How long to wait after failures: longer with each, and never in step with other nodes. Knows no clock.

use std::{collections::hash_map::RandomState, hash::BuildHasher as _, time::Duration};

/// Bounds of a wait that doubles.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub least: Duration,
    /// However many there were.
    pub most: Duration,
}

impl Backoff {
    /// The wait after so many failures in a row, at least one: half to one and a half of what it would be in step.
    #[must_use]
    pub fn delay(self, failures: u32) -> Duration {
        let doubled = self.least.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.most).mul_f64(0.5 + fraction())
    }
}

/// Something between `least` and twice that.
pub(super) fn spread(least: Duration) -> Duration {
    least.mul_f64(1.0 + fraction())
}

/// Anything from 0 to 1. The standard library seeds its hashers at random: enough to fall out of step.
#[must_use]
pub fn fraction() -> f64 {
    let random = RandomState::new().hash_one(0_u8) >> 32;
    f64::from(u32::try_from(random).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let backoff = Backoff { least: Duration::from_millis(500), most: Duration::from_secs(30) };
        let Backoff { least, most } = backoff;
        for (failures, middle) in [(1, least), (2, least * 2), (5, least * 16), (60, most)] {
            let waits: Vec<_> = (0..50).map(|_| backoff.delay(failures)).collect();
            assert!(waits.iter().all(|w| *w >= middle / 2 && *w <= middle * 3 / 2), "{failures}: {waits:?}");
            assert!(waits.iter().any(|w| *w != waits[0]), "{failures}");
        }
        assert!(spread(most) >= most && spread(most) <= most * 2);
    }
}
