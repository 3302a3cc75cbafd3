//! The work of one apply, Service by Service: what is wanted, and how far it has come. It reads records and claims
//! ports; it writes nothing.

use std::sync::Arc;

use foldhash::HashSet;
use lb_common::abi::{Backend, ServiceKey, ServiceState, StateWord, map, service_flag};

use super::{
    error::{ApplyError, ApplyOutcome, Cause, Part, Problem},
    identity::{bump, port_identity, set_identity},
    runs::Run,
    shape::RangeEntry,
    store::MapStore,
    table::{PortName, Tables},
    wanted::{CLASSES, WantedPort},
};
use crate::plan::state::{Frontend, Protocol, ServiceChange, ServiceName};

/// Discriminators that a port is looked for under when it is first seen after a restart.
const CLAIMED: u32 = 10 * CLASSES;

/// One Service's change under way.
pub(super) struct Job {
    pub(super) service: ServiceName,
    pub(super) ports: Vec<PortJob>,
    pub(super) problems: Vec<Problem>,
    pub(super) outcome: ApplyOutcome,
}

/// One port of it.
pub(super) struct PortJob {
    pub(super) wanted: WantedPort,
    /// It keeps what it had; the problem is noted.
    pub(super) failed: bool,
    /// It failed for want of room: what was made for it so far is let go of, for others. Otherwise the next apply goes
    /// on from there.
    pub(super) no_room: bool,
    /// By position in the wanted sets; empty until they are made.
    pub(super) sets: Vec<SetJob>,
    /// Values of live backends that are to be lowered once no new connection goes to them.
    pub(super) lowered: Vec<(u32, Backend)>,
}

/// One backend set of it.
pub(super) struct SetJob {
    pub(super) index: u32,
    /// Made by this apply.
    pub(super) fresh: bool,
    /// The change of an existing set that waits for its moment.
    pub(super) pending: Option<Pending>,
    /// Entries of the old ranges, to be deleted when no frontend asks for them any more.
    pub(super) stale_ranges: Vec<RangeEntry>,
    /// Its generation is odd until everything is done, so that `dump` waits.
    pub(super) open: bool,
}

/// What a commit will store. The generation is filled in then.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    pub(super) run: Run,
    pub(super) slots: u64,
    pub(super) word: StateWord,
    pub(super) state: ServiceState,
}

impl PortJob {
    fn new(wanted: WantedPort) -> Self {
        Self { wanted, failed: false, no_room: false, sets: Vec::new(), lowered: Vec::new() }
    }
}

impl Job {
    pub(super) fn problem(&mut self, part: Part, cause: Cause) {
        self.problems.push(Problem { part, cause });
    }

    /// Notes that a port cannot be brought to its wanted state.
    pub(super) fn fail_port(&mut self, at: usize, cause: Cause) {
        let port = &mut self.ports[at];
        port.failed = true;
        port.no_room = matches!(cause, Cause::Full { .. } | Cause::TooManySlots { .. } | Cause::SmallTable { .. });
        let part = Part::Port { name: Arc::clone(&port.wanted.name), protocol: port.wanted.protocol };
        self.problem(part, cause);
    }

    /// Whether a set that could not be made chooses at random now, which takes fewer slots than the Maglev table that it was to
    /// have: better than no frontend, or than one that leads to endpoints which are gone.
    pub(super) fn choose_at_random(&mut self, port_at: usize, set_at: usize, cause: &Cause) -> bool {
        let set = &mut self.ports[port_at].wanted.sets[set_at];
        let was_maglev = set.flags & service_flag::MAGLEV != 0;
        let for_room = matches!(cause, Cause::Full { map: map::SLOTS, .. } | Cause::SmallTable { .. });
        if was_maglev && for_room {
            set.flags &= !service_flag::MAGLEV;
        }
        was_maglev && for_room
    }

    /// Tells of a port that does so, once.
    pub(super) fn fall_back(&mut self, port_at: usize, cause: Cause) {
        let WantedPort { name, protocol, .. } = &self.ports[port_at].wanted;
        let part = Part::Algorithm { name: Arc::clone(name), protocol: *protocol };
        if !self.problems.iter().any(|problem| problem.part == part) {
            self.problem(part, cause);
        }
    }

    pub(super) fn finish(self) -> Result<ApplyOutcome, ApplyError> {
        let Self { service, ports: _, problems, outcome } = self;
        if problems.is_empty() { Ok(outcome) } else { Err(ApplyError { service, problems, outcome }) }
    }
}

/// Which of its Service's ports a frontend is of.
fn port_of(f: &Frontend) -> (&str, Protocol) {
    (f.port_name.as_deref().unwrap_or_default(), f.protocol)
}

impl<S: MapStore> Tables<S> {
    /// Reads a change against the records.
    pub(super) fn open(&mut self, change: &ServiceChange) -> Job {
        let name_of = |f: &Frontend| f.port_name.clone().unwrap_or_default();
        let mut frontends: Vec<&Frontend> = change.frontends.iter().collect();
        frontends.sort_by(|a, b| port_of(a).cmp(&port_of(b)));
        let service = change.service.clone();
        let mut job = Job { service, ports: Vec::new(), problems: Vec::new(), outcome: ApplyOutcome::default() };
        let mut seen = HashSet::default();
        for frontends in frontends.chunk_by(|a, b| port_of(a) == port_of(b)) {
            let (name, protocol) = (name_of(frontends[0]), frontends[0].protocol);
            let identity = self.claim(&PortName { service: change.service.clone(), name: Arc::clone(&name), protocol });
            let own = |index: &u32| self.sets.get(*index).is_some_and(|set| set.port == Some(identity));
            let current = |key: &ServiceKey| self.frontends.get(key).map(|found| found.index()).filter(own);
            let mut wanted = WantedPort::new((name, protocol, identity), frontends, current);
            for key in &wanted.contradictions {
                job.problem(Part::Frontend(*key), Cause::Contradiction);
            }
            wanted.keys.retain(|key| {
                let new = seen.insert(key.key);
                if !new {
                    job.problems.push(Problem { part: Part::Frontend(key.key), cause: Cause::Contradiction });
                }
                new
            });
            self.reuse_unfinished_sets(&mut wanted);
            job.ports.push(PortJob::new(wanted));
        }
        self.open_leftover_ports(&mut job);
        job
    }

    /// A set that an apply made and did not come to use takes the place of a new one. No reader has ever seen it.
    fn reuse_unfinished_sets(&self, wanted: &mut WantedPort) {
        let Some(record) = self.ports.get(&wanted.identity) else { return };
        let unseen = |index: &u32| self.sets.get(*index).is_some_and(|set| set.unseen);
        let mut spare = record.sets.iter().copied().filter(unseen);
        for set in wanted.sets.iter_mut().filter(|set| set.current.is_none()) {
            set.current = spare.next();
        }
    }

    /// Ports that the Service has in the maps and not in the change.
    fn open_leftover_ports(&mut self, job: &mut Job) {
        let known = self.services.get(&job.service).cloned().unwrap_or_default();
        for identity in known {
            if job.ports.iter().any(|port| port.wanted.identity == identity) {
                continue;
            }
            let Some(owner) = self.ports.get(&identity).and_then(|record| record.owner.clone()) else { continue };
            let wanted = WantedPort::new((owner.name, owner.protocol, identity), &[], |_| None);
            job.ports.push(PortJob::new(wanted));
        }
    }

    /// The identity of a service port. The first time, it takes over what was adopted under that identity. Another
    /// port's identity is left alone: the next one is tried, in an order that depends on nothing but the identity.
    fn claim(&mut self, name: &PortName) -> u64 {
        let known = self.services.get(&name.service).into_iter().flatten();
        for identity in known {
            if self.ports.get(identity).is_some_and(|record| record.owner.as_ref() == Some(name)) {
                return *identity;
            }
        }
        let mut identity = port_identity(&*self.hash, &name.service, &name.name, name.protocol);
        while self.ports.get(&identity).is_some_and(|record| record.owner.is_some()) {
            identity = bump(identity);
        }
        let record = self.ports.entry(identity).or_default();
        record.owner = Some(name.clone());
        for discriminator in 0..CLAIMED {
            if self.nameless == 0 {
                break;
            }
            let Some(&index) = self.set_by_identity.get(&set_identity(&*self.hash, identity, discriminator)) else {
                continue;
            };
            let Some(set) = self.sets.get_mut(index) else { continue };
            if set.port.is_none() {
                set.port = Some(identity);
                record.sets.push(index);
                self.nameless -= 1;
            }
        }
        self.services.entry(name.service.clone()).or_default().push(identity);
        identity
    }
}
