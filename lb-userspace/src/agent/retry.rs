//! When what failed is tried again, and what is said of failures that stand. Knows no clock: times are given.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use tokio::time::Instant;

/// A failed write, attach or read is tried again after this, doubled up to [`MOST`] for as long as anything fails.
const LEAST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(30);

/// The next try.
#[derive(Debug)]
pub(super) struct Retry {
    at: Option<Instant>,
    after: Duration,
    /// A try is under way: what fails from now on has failed again.
    trying: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self { at: None, after: LEAST, trying: false }
    }
}

impl Retry {
    /// Something failed.
    pub(super) fn schedule(&mut self, now: Instant) {
        if self.at.is_none() {
            self.at = Some(now + self.after);
            self.after = (self.after * 2).min(MOST);
        }
    }

    /// When to try again; `None`: nothing fails.
    pub(super) const fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Everything is tried again from here on, until [`Self::rest`].
    pub(super) const fn begin(&mut self) {
        self.at = None;
        self.trying = true;
    }

    /// Everything that can fail was tried. If nothing did, the next failure is a new one.
    pub(super) fn rest(&mut self) {
        if std::mem::take(&mut self.trying) && self.at.is_none() {
            self.after = LEAST;
        }
    }
}

/// Failures that stand, by what is not as it should be: each is logged when it appears or changes, and when it is gone.
#[derive(Debug, Default)]
pub(super) struct Standing(BTreeMap<&'static str, String>);

impl Standing {
    /// Notes what came of a try; gives whether it failed.
    pub(super) fn note(&mut self, what: &'static str, result: Result<(), impl Display>) -> bool {
        match self.news(what, result) {
            Some(Ok(())) => tracing::info!("no longer so: {what}"),
            Some(Err(cause)) => tracing::error!("{what}: {cause}"),
            None => {}
        }
        self.0.contains_key(what)
    }

    /// What there is to be said.
    fn news(&mut self, what: &'static str, result: Result<(), impl Display>) -> Option<Result<(), String>> {
        match result {
            Ok(()) => self.0.remove(what).map(|_| Ok(())),
            Err(cause) => {
                let cause = cause.to_string();
                let known = self.0.insert(what, cause.clone());
                (known.as_ref() != Some(&cause)).then_some(Err(cause))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round of the loop: what is due is tried, and fails or not; gives the wait until the next try.
    fn round(retry: &mut Retry, now: Instant, fails: bool) -> Option<Duration> {
        if retry.at().is_some_and(|at| at <= now) {
            retry.begin();
        }
        if fails {
            retry.schedule(now);
        }
        retry.rest();
        retry.at().map(|at| at - now)
    }

    #[test]
    fn waits_double_while_it_fails_and_are_short_again_afterwards() {
        let (mut retry, mut now) = (Retry::default(), Instant::now());
        assert_eq!(round(&mut retry, now, false), None);
        for millis in [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            let wait = Duration::from_millis(millis);
            assert_eq!(round(&mut retry, now, true), Some(wait));
            // Whatever else happens meanwhile, in between, changes nothing of it.
            assert_eq!(round(&mut retry, now + wait / 2, true), Some(wait / 2));
            assert_eq!(round(&mut retry, now + wait / 2, false), Some(wait / 2));
            now += wait;
        }
        assert_eq!(round(&mut retry, now, false), None);
        assert_eq!(round(&mut retry, now, true), Some(LEAST));
    }

    #[test]
    fn a_failure_is_said_once_and_that_it_is_gone() {
        let mut standing = Standing::default();
        let mut news = |result: Result<(), &str>| standing.news("x", result);
        assert_eq!(news(Ok(())), None);
        assert_eq!(news(Err("full")), Some(Err("full".to_owned())));
        assert_eq!(news(Err("full")), None);
        assert_eq!(news(Err("gone")), Some(Err("gone".to_owned())));
        assert_eq!(news(Ok(())), Some(Ok(())));
        assert_eq!(news(Ok(())), None);
        assert!(standing.note("x", Err("full")) && !standing.note("y", Ok::<(), &str>(())));
    }
}
