//! Brings the maps to the wanted state of Services, in the one order in which readers never see a mixture:
//!
//! 1. new backends, and better states of old ones;
//! 2. new backend sets whole, new runs of slots for changed ones, new source ranges;
//! 3. frontends that are to go;
//! 4. addresses of frontends that are to come; those frontends, others that are to move, and commit words, so that no
//!    frontend sees a set meant for another one;
//! 5. worse states of backends and source ranges that nobody asks for any more;
//! 6. what nothing leads to: into limbo, until a grace period has passed; addresses without frontend are deleted.
//!
//! Each write that succeeds is in the records, so an apply that failed or was cut off is completed by the next one.

use super::{
    error::{ApplyError, ApplyOutcome},
    jobs::Job,
    store::MapStore,
    table::Tables,
};
use crate::plan::state::ServiceChange;
use foldhash::HashSet;

/// Services whose writes are batched together: enough for batches to pay, few enough to stay small in memory.
pub const BATCH: usize = 256;

impl<S: MapStore> Tables<S> {
    /// Brings one Service to its wanted state. Equal states cost no write; an endpoint change costs the new backends'
    /// writes and one store. A Service that is gone before its first apply after [`Tables::adopt`] cannot be found by
    /// its name: it goes with [`Tables::prune`].
    ///
    /// # Errors
    /// If a part of the Service could not be written. The rest is, the maps are consistent, and the next apply of the
    /// Service's then wanted state completes it. Never retry an outdated change: an address may have gone to another
    /// Service meanwhile.
    pub fn apply(&mut self, change: &ServiceChange) -> Result<ApplyOutcome, ApplyError> {
        self.run(std::slice::from_ref(change)).pop().map_or_else(|| Ok(ApplyOutcome::default()), Job::finish)
    }

    /// The same for many Services, with batched writes: for the first full state. Gives what was done in all, and the
    /// Services that are incomplete.
    pub fn apply_all(&mut self, changes: &[ServiceChange]) -> (ApplyOutcome, Vec<ApplyError>) {
        let mut outcome = ApplyOutcome::default();
        let mut errors = Vec::new();
        let mut rest = changes;
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(chunk_len(rest));
            rest = behind;
            for job in self.run(chunk) {
                outcome.add(&job.outcome);
                errors.extend(job.finish().err());
            }
        }
        (outcome, errors)
    }

    fn run(&mut self, changes: &[ServiceChange]) -> Vec<Job> {
        let mut jobs: Vec<Job> = changes.iter().map(|change| self.open(change)).collect();
        self.write_backends(&mut jobs);
        self.write_sets(&mut jobs);
        self.delete_frontends(&mut jobs);
        self.write_frontends(&mut jobs);
        self.settle(&mut jobs);
        self.sweep(&mut jobs);
        self.settle_addresses(&mut jobs);
        jobs
    }
}

/// How many changes from the start go together: no Service twice, as each is read against the records once.
fn chunk_len(changes: &[ServiceChange]) -> usize {
    let mut seen = HashSet::default();
    changes.iter().take(BATCH).take_while(|change| seen.insert(&change.service)).count()
}
