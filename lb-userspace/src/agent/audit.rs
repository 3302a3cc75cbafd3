//! The slow look in the background: every few minutes what `berrylb verify --repair` does, counted and logged. It looks
//! at nothing in between, and not at what is being tried again anyway.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use tokio::time::Instant;

use super::{state::Agent, verify::Scope};
use crate::plan::compare::Difference;

/// Differences that are named in the log; of more only the number is told.
const NAMED: usize = 5;

/// When the next look is, and what the last ones found.
#[derive(Debug, Default)]
pub(super) struct Audit {
    every: Duration,
    at: Option<Instant>,
    /// What could not be mended, as it was logged.
    told: BTreeSet<Difference>,
    /// Differences that were found so far.
    pub(super) drift: u64,
}

impl Audit {
    /// Every so many seconds; 0: never. Nodes that start together look at different times.
    pub(super) fn new(seconds: u32) -> Self {
        let every = Duration::from_secs(seconds.into());
        let percent = u32::try_from(RandomState::new().build_hasher().finish() % 100).unwrap_or(0);
        let first = every / 2 + every * percent / 100;
        Self { every, at: (seconds > 0).then(|| Instant::now() + first), ..Self::default() }
    }

    pub(super) const fn at(&self) -> Option<Instant> {
        self.at
    }
}

impl Agent {
    /// Looks, mends, counts, and tells what is new.
    pub(super) fn audit(&mut self) {
        self.audit.at = Some(Instant::now() + self.audit.every);
        if !self.ready {
            return;
        }
        let verdict = match self.verify(true, Scope::News) {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::warn!("cannot compare the datapath with what it should be: {error:#}; tried again later");
                return;
            }
        };
        let left: BTreeSet<Difference> = verdict.left.into_iter().collect();
        let new: Vec<&Difference> = left.difference(&self.audit.told).collect();
        if !verdict.repaired.is_empty() {
            tracing::warn!(
                "the datapath was not what it should be, and is again; somebody else changed it: {}",
                list(&verdict.repaired.iter().collect::<Vec<_>>())
            );
        }
        if !new.is_empty() {
            let problems = verdict.problems.join("; ");
            tracing::error!(
                "the datapath is not what it should be, and could not be mended: {}; {problems}; see `berrylb verify`",
                list(&new)
            );
        }
        let drift = verdict.repaired.len() + new.len();
        self.audit.drift += u64::try_from(drift).unwrap_or(u64::MAX);
        self.audit.told = left;
    }
}

fn list(differences: &[&Difference]) -> String {
    let named: Vec<String> = differences.iter().take(NAMED).map(ToString::to_string).collect();
    let more = differences.len().saturating_sub(NAMED);
    let text = named.join("; ");
    if more > 0 { format!("{text}; and {more} more") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_is_spread_and_zero_is_never() {
        assert_eq!(Audit::new(0).at(), None);
        for _ in 0..50 {
            let now = Instant::now();
            let wait = Audit::new(300).at().unwrap() - now;
            assert!((150..=451).contains(&wait.as_secs()), "{wait:?}");
        }
    }

    #[test]
    fn many_differences_are_one_line() {
        let all: Vec<Difference> = (0..7).map(|n| Difference::new(format!("x{n}"), "a", "b")).collect();
        let text = list(&all.iter().collect::<Vec<_>>());
        assert!(text.starts_with("x0: a, intent b; x1") && text.ends_with("x4: a, intent b; and 2 more"), "{text}");
    }
}
