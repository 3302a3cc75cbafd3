//! Many changes at once: planned by a thread beside the one that brings them to the maps, so that a node with more than one
//! processor has its first state sooner.

use std::{sync::mpsc, thread};

use super::Planner;
use crate::plan::state::ServiceChange;

/// Batches that are planned while one is being taken.
const AHEAD: usize = 1;

impl Planner {
    /// Gives all changes to `take`, in the order and the portions of [`Planner::take_some_changes`]. Where they are many, the
    /// next portion is planned while one is being taken; few are planned by this thread.
    pub fn take_changes_in_batches(&mut self, services: usize, mut take: impl FnMut(&[ServiceChange])) {
        self.settle_claims();
        if self.waiting.len() <= 2 * services {
            loop {
                let changes = self.take_some_changes(services);
                if changes.is_empty() {
                    return;
                }
                take(&changes);
            }
        }
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel::<Vec<ServiceChange>>(AHEAD);
            // Who planned them takes them apart again: it has less to do, and their memory is its own.
            let (taken, back) = mpsc::channel();
            scope.spawn(move || {
                loop {
                    let changes = self.take_some_changes(services);
                    if changes.is_empty() || sender.send(changes).is_err() {
                        return;
                    }
                    back.try_iter().for_each(drop::<Vec<ServiceChange>>);
                }
            });
            for changes in receiver {
                take(&changes);
                // The last ones come back to nobody, and end here.
                drop(taken.send(changes));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SERVICES, mk_planner, mk_slice};
    use crate::model::Object;

    #[test]
    fn changes_in_batches_are_the_same_ones() {
        let services: usize = SERVICES.into();
        // By another thread, and by this one.
        for portion in [services / 8, services] {
            let (mut planner, mut again) = (mk_planner(), mk_planner());
            for planner in [&mut planner, &mut again] {
                (0..SERVICES).for_each(|n| planner.upsert(Object::EndpointSlice(mk_slice(n, 9))));
            }
            let mut batches = Vec::new();
            planner.take_changes_in_batches(portion, |batch| {
                assert!(batch.len() <= portion, "{}", batch.len());
                batches.extend_from_slice(batch);
            });
            assert_eq!(batches, again.take_changes());
            planner.take_changes_in_batches(portion, |batch| panic!("{} changes once more", batch.len()));
        }
    }
}
