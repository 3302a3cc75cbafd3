//! The end of an apply: what became worse or needless is written last, and what nothing leads to goes to limbo. It
//! never hands anything out again; that is for `Tables::collect`, after a grace period.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use lb_common::abi::{Backend, backend_state, proto};

use super::{
    backends::Endpoint,
    error::Part,
    jobs::Job,
    runs::Run,
    sets::{Place, closed_after, is_open},
    shape::RangeEntry,
    store::{MapStore, StoreError, write_each},
    table::{SetRecord, Tables},
    wanted::WantedPort,
};

impl<S: MapStore> Tables<S> {
    /// Deletes ranges that no frontend asks for, lowers backends, and closes the sets that were open for that.
    pub(super) fn settle(&mut self, jobs: &mut [Job]) {
        let mut ranges: Vec<RangeEntry> = Vec::new();
        let mut range_places: Vec<Place> = Vec::new();
        let mut lowered: Vec<(u32, Backend)> = Vec::new();
        let mut lowered_places: Vec<Place> = Vec::new();
        for (job_at, job) in jobs.iter_mut().enumerate() {
            for (port_at, port) in job.ports.iter_mut().enumerate().filter(|(_, port)| !port.failed) {
                let place = Place { job: job_at, port: port_at };
                for set in &mut port.sets {
                    ranges.append(&mut set.stale_ranges);
                }
                range_places.resize(ranges.len(), place);
                lowered.append(&mut port.lowered);
                lowered_places.resize(lowered.len(), place);
            }
        }
        let failed = write_each(&ranges, |items| self.store.delete_source_ranges(items));
        self.note(jobs, &range_places, failed, |tables, at, _| {
            let entry = ranges[at];
            if let Some(set) = tables.sets.get_mut(entry.key.service) {
                set.ranges.retain(|other| *other != entry);
            }
        });
        let failed = write_each(&lowered, |items| self.store.put_backends(items));
        self.note(jobs, &lowered_places, failed, |tables, at, (job, place)| {
            let (_, value) = lowered[at];
            if let Some(record) = tables.ports.get_mut(&job.ports[place.port].wanted.identity) {
                record.backends.update(&value);
            }
            job.outcome.backends_changed += 1;
        });
        for port in jobs.iter().flat_map(|job| &job.ports).filter(|port| !port.failed) {
            for set in port.sets.iter().filter(|set| set.open) {
                if let Some(state) = self.store.state(set.index)
                    && is_open(state.word)
                {
                    self.store.commit(set.index, closed_after(state.word, state.word));
                }
            }
        }
    }

    /// Calls `done` for each write of a batch that succeeded; the others fail their port.
    fn note(
        &mut self,
        jobs: &mut [Job],
        places: &[Place],
        failed: Vec<(usize, StoreError)>,
        mut done: impl FnMut(&mut Self, usize, (&mut Job, Place)),
    ) {
        let mut failed: HashMap<usize, StoreError> = failed.into_iter().collect();
        for (at, place) in places.iter().enumerate() {
            let job = &mut jobs[place.job];
            match failed.remove(&at) {
                None => done(self, at, (job, *place)),
                Some(error) => {
                    let cause = self.cause(error);
                    if !job.ports[place.port].failed {
                        job.fail_port(place.port, cause);
                    }
                }
            }
        }
    }

    /// Lets go of everything of the jobs' Services that nothing leads to any more.
    pub(super) fn sweep(&mut self, jobs: &mut [Job]) {
        for job in jobs {
            for port_at in 0..job.ports.len() {
                let port = &job.ports[port_at];
                let identity = port.wanted.identity;
                let finished = (!port.failed).then_some(&port.wanted);
                let unfinished = (port.failed && !port.no_room).then_some(&port.wanted);
                let (mut sets, mut backends) = (0, 0);
                let swept = self.sweep_port(identity, finished, unfinished, &mut sets, &mut backends);
                job.outcome.sets_removed += sets;
                job.outcome.backends_removed += backends;
                if let Err(error) = swept {
                    let cause = self.cause(error);
                    job.problem(Part::Leftover, cause);
                }
                if self.ports.get(&identity).is_some_and(|port| port.sets.is_empty() && port.backends.is_empty()) {
                    self.ports.remove(&identity);
                    if let Some(ports) = self.services.get_mut(&job.service) {
                        ports.retain(|port| *port != identity);
                    }
                }
            }
            if self.services.get(&job.service).is_some_and(|ports| ports.is_empty()) {
                self.services.remove(&job.service);
            }
        }
    }

    /// Releases the sets of a port that no frontend leads to, and then the backends that stand in no set's run; but not
    /// what an apply of `unfinished` has made, for the next one to go on with. `finished`: it is as wanted.
    pub(super) fn sweep_port(
        &mut self,
        port: u64,
        finished: Option<&WantedPort>,
        unfinished: Option<&WantedPort>,
        sets: &mut usize,
        backends: &mut usize,
    ) -> Result<(), StoreError> {
        let Some(record) = self.ports.get(&port) else { return Ok(()) };
        let is_unused = |set: &SetRecord| set.keys.is_empty() && !(set.unseen && unfinished.is_some());
        let unused: Vec<u32> =
            record.sets.iter().copied().filter(|index| self.sets.get(*index).is_none_or(is_unused)).collect();
        let all_used = unused.is_empty();
        for index in unused {
            self.release_set(index)?;
            if let Some(record) = self.ports.get_mut(&port) {
                record.sets.retain(|other| *other != index);
            }
            *sets += 1;
        }
        let Some(record) = self.ports.get(&port) else { return Ok(()) };
        // All that is wanted has an id, and the sets' runs hold nothing else.
        let same = |wanted: &WantedPort| wanted.uses_all() && wanted.endpoints.len() == record.backends.len();
        if all_used && finished.is_some_and(same) {
            return Ok(());
        }
        let kept = unfinished.map(|wanted| wanted.endpoints.iter().map(|e| e.endpoint).collect());
        self.release_backends(port, &kept.unwrap_or_default(), backends)
    }

    /// Lets go of a set that no frontend leads to.
    pub(super) fn release_set(&mut self, index: u32) -> Result<(), StoreError> {
        let Some(set) = self.sets.get_mut(index) else { return Ok(()) };
        // An index is not reused with ranges that were another set's.
        let ranges = std::mem::take(&mut set.ranges);
        let failed = write_each(&ranges, |items| self.store.delete_source_ranges(items));
        set.ranges.extend(failed.iter().map(|(at, _)| ranges[*at]));
        if let Some((_, error)) = failed.into_iter().next() {
            return Err(error);
        }
        let Some(SetRecord { identity, run, .. }) = self.sets.remove(index) else { return Ok(()) };
        if self.set_by_identity.get(&identity) == Some(&index) {
            self.set_by_identity.remove(&identity);
        }
        self.limbo.indexes.push(index);
        self.limbo.runs.push(run);
        Ok(())
    }

    fn release_backends(&mut self, port: u64, kept: &HashSet<Endpoint>, count: &mut usize) -> Result<(), StoreError> {
        let Some(record) = self.ports.get(&port) else { return Ok(()) };
        let mut used: Vec<u32> = Vec::new();
        for Run { offset, len } in record.sets.iter().filter_map(|index| self.sets.get(*index)).map(|set| set.run) {
            used.extend(self.store.slots(offset, len).unwrap_or_default());
        }
        used.sort_unstable();
        let unused: Vec<(u32, Backend)> = record
            .backends
            .iter(self.whose(port))
            .filter(|(id, value, _)| used.binary_search(id).is_err() && !kept.contains(&(value.addr, value.port)))
            .map(|(id, value, _)| (id, value))
            .collect();
        let gone: Vec<(u32, Backend)> = unused
            .iter()
            .map(|(id, value)| {
                let (id, mut value) = (*id, *value);
                // A reader that chose it just before the commit still finds its address. The generation changes now and
                // with the next owner, so a flow of the old one never fits the new one.
                value.state = backend_state::GONE;
                value.generation = self.generations.next(id);
                (id, value)
            })
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let failed = write_each(&gone, |items| self.store.put_backends(items));
        let failed_at: HashSet<usize> = failed.iter().map(|(at, _)| *at).collect();
        for at in &failed_at {
            let (id, value) = &unused[*at];
            self.generations.set(*id, value.generation);
        }
        let record = self.ports.entry(port).or_default();
        for (_, (id, value)) in gone.iter().enumerate().filter(|(at, _)| !failed_at.contains(at)) {
            record.backends.remove((value.addr, value.port));
            self.limbo.backends.push(*id);
            if value.proto == proto::UDP {
                self.retired_udp.insert(SocketAddr::new(value.addr.into(), value.port.get()));
            }
            *count += 1;
        }
        failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }
}
