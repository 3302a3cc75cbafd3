//! Readers between every two writes: whatever a BPF program can see while the tables change, from hash elements that go
//! to another key under it to a set that it found before the change, it follows to a backend of its own service.

#[expect(dead_code, unused_imports, reason = "shared with tests that compare whole states")]
mod maps_support;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
};

use berrylb::{
    maps::{Capacities, Contents, Event, Faults, MemStore, Tables},
    plan::state::{Action, Frontend, FrontendType, ServiceChange, ServiceName},
};
use lb_common::abi::{Addr, Port, ServiceKey, ServiceRef, StateWord, action, addr_flag, frontend, scope};
use maps_support::{Cluster, Rng, settle, small};

/// Few elements, so that they are reused all the time, and applies run out of room.
const TIGHT: Capacities = Capacities {
    services: 120,
    svc_state: 48,
    slots: 400,
    backends: 160,
    flows: 16,
    embryos: 16,
    frags: 16,
    sock_revnat: 16,
    affinity: 16,
    source_ranges: 300,
    addrs: 128,
    pod_nets: 16,
    devs: 16,
};

/// What a connection gets.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Outcome {
    Backend(Addr, Port),
    /// Forwarded, but all weights are 0.
    Nothing,
    Reject,
    Drop,
    Closed,
    /// There is no such frontend.
    Unknown,
    /// An id that no backend has.
    Wild,
}

type PortId = (ServiceName, String, u8, bool);

/// What may be seen in one state of the cluster.
#[derive(Default)]
struct Epoch {
    frontends: HashMap<ServiceKey, (PortId, HashSet<Outcome>)>,
    ports: HashMap<PortId, HashSet<Outcome>>,
}

fn key(f: &Frontend) -> ServiceKey {
    let (port, proto) = (Port::new(f.port), f.protocol.number());
    let scope = if f.scope == berrylb::plan::state::Scope::Internal { scope::INTERNAL } else { scope::EXTERNAL };
    if f.kind == FrontendType::NodePort {
        ServiceKey::node_port(f.address.is_ipv4(), port, proto, scope)
    } else {
        ServiceKey { addr: f.address.into(), port, proto, scope }
    }
}

impl Epoch {
    fn new(wanted: &BTreeMap<ServiceName, ServiceChange>) -> Self {
        let mut epoch = Self::default();
        for f in wanted.values().flat_map(|change| &change.frontends) {
            let name = f.service.clone().expect("a plan has names");
            let port_name = f.port_name.as_deref().expect("a plan has names").to_owned();
            let port: PortId = (name, port_name, f.protocol.number(), f.address.is_ipv4());
            let closed = (f.kind, scope::EXTERNAL, f.action) == (FrontendType::ClusterIp, key(f).scope, Action::Drop);
            let chosen = f.backends.iter().filter(|b| b.weight > 0);
            let mut outcomes: HashSet<Outcome> =
                chosen.map(|b| Outcome::Backend(b.address.into(), Port::new(b.port))).collect();
            match f.action {
                _ if closed => drop(outcomes.insert(Outcome::Closed)),
                Action::Forward if outcomes.is_empty() => drop(outcomes.insert(Outcome::Nothing)),
                Action::Forward => {}
                Action::Reject => drop(outcomes.insert(Outcome::Reject)),
                Action::Drop => drop(outcomes.insert(Outcome::Drop)),
            }
            epoch.ports.entry(port.clone()).or_default().extend(&outcomes);
            epoch.frontends.insert(key(f), (port, outcomes));
        }
        epoch
    }
}

/// How far a reader has come.
#[derive(Clone, Copy, Debug)]
enum Step {
    Element(usize),
    Reference(ServiceRef),
    Word(StateWord),
    Backend(u32),
    Done(Outcome),
}

#[derive(Clone, Debug)]
struct Reader {
    key: ServiceKey,
    /// The epoch that was settled when it began.
    since: usize,
    step: Step,
}

#[derive(Clone, Copy, Default)]
struct Manners {
    /// Takes any value for its own.
    no_tags: bool,
    /// Goes on past grace periods.
    no_grace: bool,
}

/// Readers that are held at some step at once.
const HELD: usize = 24;
/// Changes over which one is held at most, where grace periods do not end it.
const LONGEST: usize = 6;

struct Model {
    rng: Rng,
    manners: Manners,
    /// Some writes fail.
    faulty: bool,
    epochs: Vec<Epoch>,
    /// The frontends of the last two epochs.
    keys: Vec<ServiceKey>,
    readers: Vec<Reader>,
    checks: u64,
    recycled: u64,
    held_over_commits: u64,
    violations: Vec<String>,
}

impl Model {
    fn next_epoch(&mut self, epoch: Epoch) {
        let last = self.epochs.last().into_iter().chain([&epoch]);
        self.keys = last.flat_map(|epoch| epoch.frontends.keys().copied()).collect();
        self.keys.sort_by_key(|key| (key.addr.octets(), key.port.get(), key.proto, key.scope));
        self.epochs.push(epoch);
        let oldest = self.epochs.len().saturating_sub(LONGEST);
        self.readers.retain(|reader| reader.since >= oldest);
    }

    fn any_key(&mut self) -> ServiceKey {
        self.keys[self.rng.below(self.keys.len() as u64) as usize]
    }

    fn find(contents: &Contents, key: &ServiceKey) -> Step {
        contents.services.find(key).map_or(Step::Done(Outcome::Unknown), Step::Element)
    }

    /// One step of a lookup, as the datapath does it.
    fn step(&mut self, contents: &Contents, key: &ServiceKey, step: Step) -> Step {
        match step {
            Step::Element(at) => {
                let value = contents.services.value(at);
                if value.tag() == key.tag() || self.manners.no_tags {
                    return Step::Reference(value);
                }
                self.recycled += 1;
                let again = contents.services.find(key).map(|at| contents.services.value(at));
                again.filter(|value| value.tag() == key.tag()).map_or(Step::Done(Outcome::Unknown), Step::Reference)
            }
            Step::Reference(found) if found.bits() & frontend::CLOSED != 0 => Step::Done(Outcome::Closed),
            Step::Reference(found) => Step::Word(contents.svc_state[found.index() as usize].word),
            Step::Word(word) => match word.action() & action::MASK {
                action::REJECT => Step::Done(Outcome::Reject),
                action::DROP => Step::Done(Outcome::Drop),
                _ if word.count() == 0 => Step::Done(Outcome::Nothing),
                _ => {
                    let x = self.rng.below(u64::from(word.count())) as usize;
                    Step::Backend(contents.slots[word.offset() as usize + x])
                }
            },
            Step::Backend(id) => {
                let backend = contents.backends.get(id as usize);
                Step::Done(backend.map_or(Outcome::Wild, |backend| Outcome::Backend(backend.addr, backend.port)))
            }
            done @ Step::Done(_) => done,
        }
    }

    fn finish(&mut self, contents: &Contents, key: &ServiceKey, mut step: Step) -> Outcome {
        loop {
            match step {
                Step::Done(outcome) => return outcome,
                next @ (Step::Element(_) | Step::Reference(_) | Step::Word(_) | Step::Backend(_)) => {
                    step = self.step(contents, key, next);
                }
            }
        }
    }

    fn violation(&mut self, what: &str, reader: &Reader, outcome: Outcome) {
        if self.violations.len() < 10 {
            self.violations.push(format!("{what}: {reader:?} got {outcome:?}"));
        }
    }

    /// A reader that begins and ends between two writes gets what its frontend had before the change or has after it.
    fn check_at_once(&mut self, contents: &Contents, key: ServiceKey) {
        let since = self.epochs.len().saturating_sub(2);
        let outcome = self.finish(contents, &key, Self::find(contents, &key));
        let entries: Vec<Option<&(PortId, HashSet<Outcome>)>> =
            self.epochs[since..].iter().map(|epoch| epoch.frontends.get(&key)).collect();
        // An address that goes from one service to another is nobody's between the two changes.
        let owners: HashSet<Option<&PortId>> = entries.iter().map(|entry| entry.map(|(port, _)| port)).collect();
        let allowed = entries.iter().any(|entry| match entry {
            Some((_, outcomes)) => outcomes.contains(&outcome),
            None => outcome == Outcome::Unknown,
        }) || (owners.len() > 1 && outcome == Outcome::Unknown);
        // A frontend whose deletion failed goes on with its port until it is tried again.
        let lingers = self.faulty
            && owners.len() > 1
            && owners.iter().flatten().any(|port| {
                self.epochs[since..].iter().any(|epoch| epoch.ports.get(*port).is_some_and(|p| p.contains(&outcome)))
            });
        let allowed = allowed || lingers;
        self.checks += 1;
        if !allowed {
            self.violation("at once", &Reader { key, since, step: Step::Done(outcome) }, outcome);
        }
    }

    /// A reader that began earlier gets a backend that its service port has had since.
    fn check_held(&mut self, contents: &Contents, reader: &Reader) {
        let outcome = self.finish(contents, &reader.key, reader.step);
        let mut allowed = false;
        let mut owners = HashSet::new();
        for epoch in &self.epochs[reader.since..] {
            let port = epoch.frontends.get(&reader.key).map(|(port, _)| port);
            owners.insert(port);
            allowed |= match port {
                Some(port) => epoch.ports[port].contains(&outcome),
                None => outcome == Outcome::Unknown,
            };
            // Whoever still stands in a set of the port sees what the port became, even if the frontend is gone.
            allowed |= owners.iter().flatten().any(|port| epoch.ports.get(*port).is_some_and(|p| p.contains(&outcome)));
        }
        allowed |= owners.len() > 1 && outcome == Outcome::Unknown;
        self.checks += 1;
        if !allowed {
            self.violation("held", reader, outcome);
        }
    }

    /// The datapath looks for a frontend only at an address that it knows.
    fn check_addresses(&mut self, contents: &Contents) {
        for (key, found) in contents.services.entries() {
            let needed = match found.bits() & frontend::TYPE_MASK {
                frontend::NODE_PORT => continue,
                frontend::CLUSTER_IP => addr_flag::FRONTEND | addr_flag::CLUSTER_IP,
                _ => addr_flag::FRONTEND,
            };
            let flags = contents.addrs.get(&key.addr).map_or(0, |info| info.flags);
            if flags & needed != needed && self.violations.len() < 10 {
                self.violations.push(format!("frontend {key:?} at an address with the flags {flags:#x}"));
            }
        }
    }

    fn event(&mut self, event: Event, contents: &Contents) {
        let settled = self.epochs.len().saturating_sub(2);
        let readers = std::mem::take(&mut self.readers);
        for reader in &readers {
            self.check_held(contents, reader);
        }
        self.readers = readers;
        if event == Event::Grace && !self.manners.no_grace {
            self.readers.clear();
            return;
        }
        self.check_addresses(contents);
        if self.keys.is_empty() {
            return;
        }
        for _ in 0..4 {
            let key = self.any_key();
            self.check_at_once(contents, key);
        }
        // Some go a step on and are held there.
        for at in 0..self.readers.len() {
            if self.rng.one_in(12) {
                let Reader { key, step, .. } = self.readers[at].clone();
                self.readers[at].step = self.step(contents, &key, step);
            }
        }
        self.readers.retain(|reader| !matches!(reader.step, Step::Done(_)));
        for _ in 0..2 {
            if self.readers.len() >= HELD {
                let gone = self.rng.below(HELD as u64) as usize;
                self.readers.swap_remove(gone);
            }
            let key = self.any_key();
            self.readers.push(Reader { key, since: settled, step: Self::find(contents, &key) });
        }
        self.held_over_commits += self.readers.iter().filter(|reader| reader.since < settled).count() as u64;
    }
}

/// Random changes under readers' eyes.
fn run(seed: u64, faults: Faults, manners: Manners) -> Model {
    let model = Model {
        rng: Rng::new(seed ^ 0xdead),
        manners,
        faulty: faults != Faults::None,
        epochs: vec![Epoch::default()],
        keys: Vec::new(),
        readers: Vec::new(),
        checks: 0,
        recycled: 0,
        held_over_commits: 0,
        violations: Vec::new(),
    };
    let model = Arc::new(Mutex::new(model));
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::new(4, 6);
    let mut store = MemStore::new(TIGHT);
    let observer = Arc::clone(&model);
    store.observe(Box::new(move |event, contents| {
        observer.lock().expect("no test panics while it looks").event(event, contents);
    }));
    let mut tables = small(Tables::new(store));
    let mut before = BTreeMap::new();
    for step in 0..40 {
        for _ in 0..=rng.below(2) {
            cluster.step(&mut rng);
        }
        let mut changes = cluster.changes(&before);
        rng.shuffle(&mut changes);
        model.lock().expect("it looks").next_epoch(Epoch::new(&cluster.wanted()));
        tables.store_mut().set_faults(faults);
        settle(&mut tables, &changes, &format!("seed {seed} step {step}"));
        before = cluster.wanted();
        if rng.one_in(4) {
            // With faults it may fail; then it is for the next time.
            let _later = tables.collect();
        }
    }
    drop(tables);
    Arc::into_inner(model).expect("the store is gone").into_inner().expect("it looked")
}

#[test]
fn no_reader_follows_a_mixture() {
    let (mut checks, mut recycled, mut held) = (0, 0, 0);
    for seed in 0..45 {
        let faults = if seed % 3 == 0 { Faults::Percent { percent: 10, seed } } else { Faults::None };
        let model = run(seed, faults, Manners::default());
        assert!(model.violations.is_empty(), "seed {seed}: {:#?}", model.violations);
        checks += model.checks;
        recycled += model.recycled;
        held += model.held_over_commits;
    }
    eprintln!("{checks} checks, {recycled} recycled elements met, {held} times held over a change");
    assert!(checks > 300_000, "{checks} checks");
    assert!(recycled > 500, "{recycled} recycled elements were met");
    assert!(held > 10_000, "readers were held over a change {held} times");
}

/// The test has teeth: a reader that does not look at tags follows other keys' values.
#[test]
fn without_tags_readers_are_misled() {
    let manners = Manners { no_tags: true, ..Manners::default() };
    let misled = (0..30).filter(|seed| !run(*seed, Faults::None, manners).violations.is_empty()).count();
    assert!(misled > 5, "{misled} of 30 runs");
}

/// And a reader that outlives a grace period finds another service's backends behind what it holds.
#[test]
fn without_grace_periods_readers_are_misled() {
    let manners = Manners { no_grace: true, ..Manners::default() };
    let misled = (0..30).filter(|seed| !run(*seed, Faults::None, manners).violations.is_empty()).count();
    assert!(misled > 5, "{misled} of 30 runs");
}
