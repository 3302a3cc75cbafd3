//! The turning point of an apply: frontends go, come and move, and changed sets are committed. A set is committed only
//! when the frontends that leave it have left, and a frontend moves only to a set that is as wanted: so each frontend
//! sees its old answer, then its new one, and nothing between.

use foldhash::{HashMap, HashSet};
use lb_common::abi::{Addr, ServiceKey, ServiceRef};

use super::{
    error::Part,
    jobs::{Job, Pending, PortJob},
    sets::{Place, closed_after, open_after, same_rest},
    store::{MapStore, StoreError, write_each},
    table::Tables,
};
use crate::plan::state::ServiceName;

/// A frontend that is to be written.
struct Put {
    place: Place,
    set: usize,
    key: ServiceKey,
    reference: ServiceRef,
    /// The set of the same port that it leaves.
    from: Option<u32>,
}

impl Put {
    /// The set that it goes to.
    fn index(&self) -> u32 {
        self.reference.index()
    }
}

impl<S: MapStore> Tables<S> {
    /// Deletes the frontends of the jobs' Services that none of the jobs wants.
    pub(super) fn delete_frontends(&mut self, jobs: &mut [Job]) {
        let has_keys = |index: &u32| self.sets.get(*index).is_some_and(|set| !set.keys.is_empty());
        let served = |port: &PortJob| {
            self.ports.get(&port.wanted.identity).is_some_and(|record| record.sets.iter().any(has_keys))
        };
        if !jobs.iter().flat_map(|job| &job.ports).any(served) {
            return;
        }
        let wanted: HashSet<ServiceKey> =
            jobs.iter().flat_map(|job| &job.ports).flat_map(|port| &port.wanted.keys).map(|key| key.key).collect();
        let mut stale: Vec<(usize, ServiceKey)> = Vec::new();
        for (job_at, job) in jobs.iter().enumerate() {
            for port in &job.ports {
                let Some(record) = self.ports.get(&port.wanted.identity) else { continue };
                let keys = record.sets.iter().filter_map(|index| self.sets.get(*index)).flat_map(|set| &set.keys);
                stale.extend(keys.filter(|key| !wanted.contains(key)).map(|key| (job_at, *key)));
            }
        }
        let keys: Vec<ServiceKey> = stale.iter().map(|(_, key)| *key).collect();
        let mut failed: HashMap<usize, StoreError> =
            write_each(&keys, |items| self.store.delete_services(items)).into_iter().collect();
        for (at, (job_at, key)) in stale.into_iter().enumerate() {
            match failed.remove(&at) {
                None => {
                    self.forget_frontend(&key, Some(&jobs[job_at].service));
                    jobs[job_at].outcome.frontends_deleted += 1;
                }
                Some(error) => {
                    let cause = self.cause(error);
                    jobs[job_at].problem(Part::StaleFrontend(key), cause);
                }
            }
        }
    }

    /// Writes frontends and commits sets, each as soon as it may.
    pub(super) fn write_frontends(&mut self, jobs: &mut [Job]) {
        let mut waiting = self.plan_puts(jobs);
        // Frontends that have not left their set yet, or could not.
        let mut leaving: HashMap<u32, usize> = HashMap::default();
        for index in waiting.iter().filter_map(|put| put.from) {
            *leaving.entry(index).or_default() += 1;
        }
        // Sets that a frontend could not leave.
        let mut stuck: HashSet<u32> = HashSet::default();
        loop {
            let (ready, rest): (Vec<Put>, Vec<Put>) = waiting.into_iter().partition(|put| !is_pending(jobs, put));
            waiting = rest;
            let written = !ready.is_empty();
            self.put(jobs, ready, &mut leaving, &mut stuck);
            let committed = self.commit_ready(jobs, &leaving);
            if written || committed {
                continue;
            }
            // Two sets that exchange frontends wait for each other. All that frontends of one port can see of that
            // is the port's other answer.
            let exchanged = waiting.iter().map(|put| put.index()).find(|index| !stuck.contains(index));
            let Some(index) = exchanged else { break };
            leaving.remove(&index);
        }
        for put in waiting {
            // Its set was not committed, as a frontend could not leave it: that one's problem is noted.
            jobs[put.place.job].ports[put.place.port].failed = true;
        }
        for job in jobs {
            for port_at in 0..job.ports.len() {
                if job.ports[port_at].sets.iter().any(|set| set.pending.is_some()) {
                    job.ports[port_at].failed = true;
                    self.abandon(job, port_at);
                }
            }
        }
    }

    fn plan_puts(&self, jobs: &[Job]) -> Vec<Put> {
        let mut puts = Vec::new();
        for (job_at, job) in jobs.iter().enumerate() {
            for (port_at, port) in job.ports.iter().enumerate().filter(|(_, port)| !port.failed) {
                for wanted in &port.wanted.keys {
                    let index = port.sets[wanted.set].index;
                    let reference = ServiceRef::new(wanted.key, index, wanted.bits);
                    let now = self.frontends.get(&wanted.key);
                    if now == Some(&reference) {
                        continue;
                    }
                    let own =
                        |index: &u32| self.sets.get(*index).is_some_and(|set| set.port == Some(port.wanted.identity));
                    let from = now.map(|now| now.index()).filter(|from| *from != index && own(from));
                    let place = Place { job: job_at, port: port_at };
                    puts.push(Put { place, set: wanted.set, key: wanted.key, reference, from });
                }
            }
        }
        puts
    }

    fn put(&mut self, jobs: &mut [Job], puts: Vec<Put>, leaving: &mut HashMap<u32, usize>, stuck: &mut HashSet<u32>) {
        let puts = self.announce(jobs, puts, stuck);
        let items: Vec<(ServiceKey, ServiceRef)> = puts.iter().map(|put| (put.key, put.reference)).collect();
        let mut failed: HashMap<usize, StoreError> =
            write_each(&items, |items| self.store.put_services(items)).into_iter().collect();
        for (at, put) in puts.into_iter().enumerate() {
            let job = &mut jobs[put.place.job];
            if let Some(error) = failed.remove(&at) {
                let cause = self.cause(error);
                job.problem(Part::Frontend(put.key), cause);
                job.ports[put.place.port].failed = true;
                stuck.extend(put.from);
                continue;
            }
            self.forget_frontend(&put.key, Some(&job.service));
            self.frontends.insert(put.key, put.reference);
            self.addresses.add(&put.key, put.reference);
            if let Some(set) = self.sets.get_mut(put.index()) {
                if !set.keys.contains(&put.key) {
                    set.keys.push(put.key);
                }
                set.unseen = false;
            }
            job.outcome.frontends_written += 1;
            if let Some(count) = put.from.and_then(|from| leaving.get_mut(&from)) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// Commits the sets that no frontend is still to leave. Gives whether there were any.
    fn commit_ready(&mut self, jobs: &mut [Job], leaving: &HashMap<u32, usize>) -> bool {
        let mut any = false;
        for job in jobs {
            for port in &mut job.ports {
                let more_to_come = !port.lowered.is_empty();
                for set in &mut port.sets {
                    if leaving.get(&set.index).is_some_and(|count| *count > 0) {
                        continue;
                    }
                    let Some(pending) = set.pending.take() else { continue };
                    let stays_open = more_to_come || !set.stale_ranges.is_empty();
                    self.commit(set.index, pending, stays_open);
                    set.open = stays_open;
                    job.outcome.sets_committed += 1;
                    any = true;
                }
            }
        }
        any
    }

    fn commit(&mut self, index: u32, Pending { run, slots, word, state }: Pending, stays_open: bool) {
        let now = self.store.state(index).unwrap_or_default();
        if !same_rest(&now, &state) {
            self.store.put_state(index, &state);
        }
        let word = if stays_open { open_after(word, now.word) } else { closed_after(word, now.word) };
        self.store.commit(index, word);
        if let Some(set) = self.sets.get_mut(index) {
            set.slots = slots;
            if set.run != run {
                self.limbo.runs.push(std::mem::replace(&mut set.run, run));
            }
        }
    }

    /// Makes the addresses of frontends that are to be written known. Those whose address cannot be are left out, as the
    /// datapath would not look for them, and fail.
    fn announce(&mut self, jobs: &mut [Job], puts: Vec<Put>, stuck: &mut HashSet<u32>) -> Vec<Put> {
        let wanted = puts.iter().map(|put| (put.place.job, &jobs[put.place.job].service, &put.key, put.reference));
        let refused = self.addresses.announce(&mut self.store, wanted);
        let unknown: HashSet<(usize, Addr)> = refused.iter().map(|(job, addr, _)| (*job, *addr)).collect();
        for (job, addr, error) in refused {
            let cause = self.cause(error);
            jobs[job].problem(Part::Address(addr), cause);
        }
        let (refused, known): (Vec<Put>, Vec<Put>) =
            puts.into_iter().partition(|put| unknown.contains(&(put.place.job, put.key.addr)));
        for put in refused {
            jobs[put.place.job].ports[put.place.port].failed = true;
            stuck.extend(put.from);
        }
        known
    }

    /// Takes a frontend out of the records; that its address is deleted after it is on account of `service`.
    pub(super) fn forget_frontend(&mut self, key: &ServiceKey, service: Option<&ServiceName>) {
        let Some(now) = self.frontends.remove(key) else { return };
        self.addresses.remove(key, now, service);
        if let Some(set) = self.sets.get_mut(now.index()) {
            set.keys.retain(|other| *other != *key);
        }
    }
}

fn is_pending(jobs: &[Job], put: &Put) -> bool {
    jobs[put.place.job].ports[put.place.port].sets[put.set].pending.is_some()
}
