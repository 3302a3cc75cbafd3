//! Deletes what the maps hold beyond the confirmed desired state. To be called once a complete list from every source
//! has been applied, and never before: what is deleted here was serving traffic.

use std::collections::HashSet;

use lb_common::abi::ServiceKey;
use thiserror::Error;

use super::{
    error::{ApplyError, ApplyOutcome},
    store::{MapStore, StoreError, write_each},
    table::Tables,
};
use crate::plan::state::{ServiceChange, ServiceName};

/// Something that could not be deleted. Pruning again tries again.
#[derive(Debug, Error)]
pub enum PruneError {
    /// A Service that is no longer wanted.
    #[error(transparent)]
    Service(#[from] ApplyError),
    /// Something that an earlier agent left, and whose name nobody knows.
    #[error("cannot delete what an earlier agent left of an unknown service ({frontends} frontends): {source}")]
    Unknown {
        /// Frontends that still lead to it.
        frontends: usize,
        /// The kernel's reason.
        source: StoreError,
    },
}

impl<S: MapStore> Tables<S> {
    /// Deletes all Services but those of `keep`, and everything adopted that no Service has claimed.
    ///
    /// # Errors
    /// All that could not be deleted; the rest is.
    pub fn prune(&mut self, keep: &HashSet<ServiceName>) -> Result<ApplyOutcome, Vec<PruneError>> {
        let mut outcome = ApplyOutcome::default();
        let mut errors = Vec::new();
        let stale: Vec<ServiceName> = self.services.keys().filter(|name| !keep.contains(name)).cloned().collect();
        for service in stale {
            match self.apply(&ServiceChange { service, frontends: Vec::new() }) {
                Ok(done) => outcome.add(&done),
                Err(error) => {
                    outcome.add(&error.outcome);
                    errors.push(error.into());
                }
            }
        }
        let unclaimed: Vec<u64> =
            self.ports.iter().filter(|(_, record)| record.owner.is_none()).map(|(port, _)| *port).collect();
        for port in unclaimed {
            let sets = self.ports.get(&port).map(|record| record.sets.clone()).unwrap_or_default();
            let pruned = self.prune_frontends(&sets, &mut outcome).and_then(|()| {
                let ApplyOutcome { sets_removed, backends_removed, .. } = &mut outcome;
                self.sweep_port(port, None, None, sets_removed, backends_removed)
            });
            if let Err(source) = pruned {
                errors.push(PruneError::Unknown { frontends: self.count_frontends(&sets), source });
            } else {
                self.ports.remove(&port);
            }
        }
        let nameless: Vec<u32> =
            self.sets.iter().filter(|(_, set)| set.port.is_none()).map(|(index, _)| index).collect();
        for index in nameless {
            let pruned = self.prune_frontends(&[index], &mut outcome).and_then(|()| self.release_set(index));
            match pruned {
                Ok(()) => outcome.sets_removed += 1,
                Err(source) => {
                    errors.push(PruneError::Unknown { frontends: self.count_frontends(&[index]), source });
                }
            }
        }
        if let Err(source) = self.settle_unowned_addresses() {
            errors.push(PruneError::Unknown { frontends: 0, source });
        }
        if errors.is_empty() { Ok(outcome) } else { Err(errors) }
    }

    fn prune_frontends(&mut self, sets: &[u32], outcome: &mut ApplyOutcome) -> Result<(), StoreError> {
        let keys: Vec<ServiceKey> =
            sets.iter().filter_map(|index| self.sets.get(*index)).flat_map(|set| set.keys.iter().copied()).collect();
        let failed = write_each(&keys, |items| self.store.delete_services(items));
        let kept: HashSet<usize> = failed.iter().map(|(at, _)| *at).collect();
        for (_, key) in keys.iter().enumerate().filter(|(at, _)| !kept.contains(at)) {
            self.forget_frontend(key, None);
            outcome.frontends_deleted += 1;
        }
        failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    fn count_frontends(&self, sets: &[u32]) -> usize {
        sets.iter().filter_map(|index| self.sets.get(*index)).map(|set| set.keys.len()).sum()
    }
}
