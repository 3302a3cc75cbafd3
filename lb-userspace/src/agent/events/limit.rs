//! So many at once, and one in so much time after that. Knows no clock: whoever asks says what time it is.

use std::time::Duration;

use tokio::time::Instant;

/// A rate, with a reserve that fills up again while it is not used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// At once.
    pub(super) burst: u32,
    /// One more after so long.
    pub(super) every: Duration,
}

/// How much of a [`Limit`] is used: since when there is a whole reserve again, if it was ever touched (the generic cell
/// rate algorithm of ATM, ITU-T I.371).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used(Option<Instant>);

impl Used {
    /// The first time at which there is one to take; `now` if there is one now.
    pub(super) fn ready_at(self, limit: Limit, now: Instant) -> Instant {
        let reserve = limit.every * limit.burst.saturating_sub(1);
        match self.0 {
            Some(full_at) if full_at > now + reserve => full_at - reserve,
            Some(_) | None => now,
        }
    }

    /// Takes one, whether there is one or not.
    pub(super) fn take(&mut self, limit: Limit, now: Instant) {
        let full_at = self.0.unwrap_or(now).max(now);
        self.0 = Some(full_at + limit.every);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let limit = Limit { burst: 3, every: Duration::from_secs(10) };
        let (mut used, start) = (Used::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(used.ready_at(limit, start), start);
            used.take(limit, start);
        }
        assert_eq!(used.ready_at(limit, start), start + limit.every);
        let later = start + limit.every;
        used.take(limit, later);
        assert_eq!(used.ready_at(limit, later), later + limit.every, "one in ten seconds");
        let much_later = start + limit.every * 100;
        for _ in 0..3 {
            assert_eq!(used.ready_at(limit, much_later), much_later, "the reserve is full, and no more than that");
            used.take(limit, much_later);
        }
        assert_eq!(used.ready_at(limit, much_later), much_later + limit.every);
    }
}
