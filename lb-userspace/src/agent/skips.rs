//! Brings what is left to the packet path into the table `skips`, and says so.

use std::{collections::BTreeSet, io};

use lb_common::abi::{SkipKey, skip_kind};
use tokio::sync::mpsc;

use super::{
    skip_rules::SkipRules,
    skip_scan::{Found, Scanner},
};
use crate::{
    loader::{Datapath, Feature},
    maps::{MapStore, StoreError},
    plan::compare::Difference,
};

/// What is in the table, and changes of it.
pub(super) struct Skips {
    found: Found,
    changes: Option<mpsc::UnboundedReceiver<Found>>,
}

impl Skips {
    /// Looks at the machine, and follows it from then on.
    ///
    /// # Errors
    /// If the kernel gives no inotify instance or no thread.
    pub(super) fn start(mut rules: SkipRules, datapath: &Datapath) -> io::Result<Self> {
        if !rules.netns.is_empty() && !datapath.probe().has(Feature::NetnsCookie) {
            tracing::error!(
                "--socket-lb-skip-netns has no effect: this kernel tells nobody the cookie of a network namespace (Linux \
                 5.14); use --socket-lb-skip-cgroups"
            );
            rules.netns.clear();
        }
        let Some(cgroup) = datapath.cgroup().filter(|_| rules != SkipRules::default()) else {
            return Ok(Self { found: Found::default(), changes: None });
        };
        let scanner = Scanner::new(rules, cgroup.path())?;
        let found = scanner.scan();
        tell(found.problems.iter());
        let (sender, changes) = mpsc::unbounded_channel();
        scanner.follow(found.clone(), sender)?;
        Ok(Self { found, changes: Some(changes) })
    }

    /// Waits for a change. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Option<Found> {
        match &mut self.changes {
            Some(changes) => changes.recv().await,
            None => None,
        }
    }

    /// Takes over a change, for [`Self::apply`].
    pub(super) fn update(&mut self, found: Found) {
        tell(found.problems.difference(&self.found.problems));
        self.found = found;
    }

    /// Makes the table hold what was found.
    ///
    /// # Errors
    /// At the first write that fails; calling again goes on.
    pub(super) fn apply(&self, store: &mut impl MapStore) -> Result<(), StoreError> {
        let held: BTreeSet<SkipKey> = store.skips()?.into_iter().collect();
        for key in held.iter().filter(|key| !self.found.keys.contains_key(key)) {
            store.delete_skip(*key)?;
            tracing::info!("sockets of {} {} are translated again, if it is still there", kind(*key), key.id);
        }
        for (key, name) in self.found.keys.iter().filter(|(key, _)| !held.contains(key)) {
            store.put_skip(*key)?;
            tracing::info!("sockets of {name} are left to the packet path");
        }
        Ok(())
    }

    /// How the table differs from what was found.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(super) fn verify(&self, store: &impl MapStore) -> Result<Vec<Difference>, StoreError> {
        const SKIPPED: &str = "that its sockets are left to the packet path";
        const SERVED: &str = "nothing";
        let held: BTreeSet<SkipKey> = store.skips()?.into_iter().collect();
        let missing = self.found.keys.iter().filter(|(key, _)| !held.contains(key));
        let missing = missing.map(|(_, name)| Difference::of_map(format!("skip of {name}"), SERVED, SKIPPED));
        let strange = held.iter().filter(|key| !self.found.keys.contains_key(key));
        let strange =
            strange.map(|key| Difference::of_map(format!("skip of {} {}", kind(*key), key.id), SKIPPED, SERVED));
        Ok(missing.chain(strange).collect())
    }

    /// What people call it.
    pub(super) fn names(&self) -> Vec<String> {
        self.found.keys.values().cloned().collect()
    }
}

fn tell<'a>(problems: impl Iterator<Item = &'a String>) {
    for problem in problems {
        tracing::warn!("cannot tell whether its sockets are to be skipped: {problem}");
    }
}

const fn kind(key: SkipKey) -> &'static str {
    if key.kind == skip_kind::CGROUP { "cgroup" } else { "network namespace" }
}
