//! What the maps hold against what they are to hold. It writes nothing: what differs is mended by adopting the maps anew
//! ([`Tables::go_on_from`]) and applying every Service once more, which is what a new agent would do.
//!
//! Twice over: the document that `dump` reads against the wanted one, in words that people know; then each element
//! against the records, for what no document tells.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::{Addr, Backend, Port, ServiceKey, ServiceRef, addr_flag, backend_state, scope};

use super::{
    adopt::run_of,
    content::slots_sum,
    dump::{DumpError, dump},
    runs::Run,
    sets::is_open,
    shape::RangeEntry,
    store::{MapStore, StoreError},
    table::{SetRecord, Tables},
    wanted,
};
use crate::plan::{
    compare::{Difference, compare},
    state::{Protocol, ServiceName, State},
};

const NOTHING: &str = "nothing";

impl<S: MapStore> Tables<S> {
    /// All differences between the maps and `intent`, sorted. With `keeps_unknown`, what an earlier agent left and nobody
    /// has claimed is none; nor is what `intent` says of the Services `unfinished`, whose last apply failed.
    ///
    /// # Errors
    /// If the maps cannot be read.
    pub fn verify(
        &self,
        intent: &State,
        keeps_unknown: bool,
        unfinished: &HashSet<ServiceName>,
    ) -> Result<Vec<Difference>, DumpError> {
        let found = dump(&self.store, Some(&self.names()), &intent.node, Vec::new())?;
        let mut differences = Vec::new();
        let mut told = HashSet::new();
        for (frontend, difference) in compare(&found, intent) {
            let key = wanted::key(frontend);
            if frontend.service.is_none() && keeps_unknown && self.frontends.contains_key(&key) {
                continue;
            }
            if frontend.service.as_ref().is_some_and(|service| unfinished.contains(service)) {
                continue;
            }
            told.insert(key);
            differences.push(difference);
        }
        self.verify_frontends(&told, &mut differences)?;
        self.verify_sets(&mut differences);
        self.verify_backends(&mut differences)?;
        self.verify_ranges(&mut differences)?;
        self.verify_addresses(&mut differences)?;
        differences.sort_unstable();
        Ok(differences)
    }

    /// Elements whose tag, index or bits are not as written, or that nobody wrote; `told` are named already.
    fn verify_frontends(&self, told: &HashSet<ServiceKey>, to: &mut Vec<Difference>) -> Result<(), StoreError> {
        let found: HashMap<ServiceKey, ServiceRef> = self.store.services()?.into_iter().collect();
        for key in union(found.keys(), self.frontends.keys()).filter(|key| !told.contains(key)) {
            let (now, wanted) = (found.get(key), self.frontends.get(key));
            if now != wanted {
                to.push(Difference::of_map(frontend_name(key), reference_text(now), reference_text(wanted)));
            }
        }
        Ok(())
    }

    fn verify_sets(&self, to: &mut Vec<Difference>) {
        for (index, set) in self.sets.iter() {
            let state = self.store.state(index).unwrap_or_default();
            let slots = || self.store.slots(set.run.offset, set.run.len).map(|slots| slots_sum(&slots));
            if state.identity != set.identity {
                let text = |identity| format!("identity {identity:#x}");
                to.push(Difference::of_map(self.set_name(index, set), text(state.identity), text(set.identity)));
            } else if !is_open(state.word) && run_of(&state) != set.run {
                let text = |Run { offset, len }| format!("{len} slots from {offset}");
                to.push(Difference::of_map(self.set_name(index, set), text(run_of(&state)), text(set.run)));
            } else if !is_open(state.word) && slots() != Some(set.slots) {
                let name = self.set_name(index, set);
                to.push(Difference::of_map(name, "slots that somebody else wrote", "those of its backends"));
            }
        }
    }

    fn set_name(&self, index: u32, set: &SetRecord) -> String {
        let owner = set.port.and_then(|port| self.ports.get(&port)?.owner.as_ref());
        match owner {
            Some(owner) => format!("service {} port {:?} backend set {index}", owner.service, &*owner.name),
            None => format!("backend set {index}"),
        }
    }

    fn verify_backends(&self, to: &mut Vec<Difference>) -> Result<(), StoreError> {
        let mut found: HashMap<u32, Backend> = self.store.backends()?.into_iter().collect();
        for (id, value, _) in self.ports.iter().flat_map(|(identity, port)| port.backends.iter(self.whose(*identity))) {
            let now = found.remove(&id);
            if now != Some(value) {
                let name = backend_name(id, &value);
                to.push(Difference::of_map(name, backend_text(now.as_ref()), backend_text(Some(&value))));
            }
        }
        let strangers = found.into_iter().filter(|(_, backend)| backend.state != backend_state::GONE);
        to.extend(strangers.map(|(id, backend)| {
            Difference::of_map(backend_name(id, &backend), backend_text(Some(&backend)), NOTHING)
        }));
        Ok(())
    }

    fn verify_ranges(&self, to: &mut Vec<Difference>) -> Result<(), StoreError> {
        let found: HashSet<RangeEntry> = self.store.source_ranges()?.into_iter().collect();
        let wanted: HashSet<RangeEntry> = self.sets.iter().flat_map(|(_, set)| set.ranges.iter().copied()).collect();
        to.extend(wanted.difference(&found).map(|entry| Difference::of_map(range_name(entry), NOTHING, "the range")));
        to.extend(found.difference(&wanted).map(|entry| Difference::of_map(range_name(entry), "the range", NOTHING)));
        Ok(())
    }

    fn verify_addresses(&self, to: &mut Vec<Difference>) -> Result<(), StoreError> {
        let found = self.store.addrs()?.into_iter().map(|(addr, info)| (addr, info.flags)).collect();
        to.extend(self.addresses.differing(&found).into_iter().map(|(addr, found, wanted)| {
            Difference::of_map(format!("address {}", IpAddr::from(addr)), flags_text(found), flags_text(wanted))
        }));
        Ok(())
    }
}

/// Each key once.
fn union<'a, K: Copy + Eq + std::hash::Hash + 'a>(
    a: impl Iterator<Item = &'a K>,
    b: impl Iterator<Item = &'a K>,
) -> impl Iterator<Item = &'a K> {
    a.chain(b).collect::<HashSet<_>>().into_iter()
}

fn end_text(addr: Addr, port: Port, proto: u8) -> String {
    let protocol = Protocol::from_number(proto).map_or_else(|| proto.to_string(), |protocol| protocol.to_string());
    format!("{}/{protocol}", SocketAddr::new(addr.into(), port.get()))
}

fn frontend_name(key: &ServiceKey) -> String {
    let scope = if key.scope == scope::INTERNAL { "internal" } else { "external" };
    format!("frontend {} {scope}", end_text(key.addr, key.port, key.proto))
}

fn reference_text(reference: Option<&ServiceRef>) -> String {
    reference.map_or_else(
        || NOTHING.to_owned(),
        |r| format!("index {}, tag {:#x}, bits {:#x}", r.index(), r.tag(), r.bits()),
    )
}

fn backend_name(id: u32, backend: &Backend) -> String {
    format!("backend {} (id {id})", end_text(backend.addr, backend.port, backend.proto))
}

fn backend_text(backend: Option<&Backend>) -> String {
    let Some(b) = backend else { return NOTHING.to_owned() };
    let end = end_text(b.addr, b.port, b.proto);
    let Backend { service, generation, state, weight, flags, .. } = b;
    format!("{end}, state {state}, weight {weight}, flags {flags:#x}, generation {generation}, port {service:#x}")
}

fn range_name(entry: &RangeEntry) -> String {
    let set = entry.key.service;
    if entry.is_node_itself() {
        return format!("source range \"the node itself\" of backend set {set}");
    }
    let len = entry.family_prefix_len().map_or_else(|| "?".to_owned(), |len| len.to_string());
    format!("source range {}/{len} of backend set {set}", IpAddr::from(entry.key.addr))
}

fn flags_text(flags: u32) -> String {
    const NAMES: [(u32, &str); 7] = [
        (addr_flag::NODE, "node"),
        (addr_flag::LOOPBACK, "loopback"),
        (addr_flag::CLUSTER_IP, "clusterIP"),
        (addr_flag::FRONTEND, "frontend"),
        (addr_flag::SOURCE, "source"),
        (addr_flag::IMPLIED, "implied"),
        (addr_flag::PEER, "peer"),
    ];
    let mut names: Vec<String> =
        NAMES.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| (*name).to_owned()).collect();
    let unknown = NAMES.iter().fold(flags, |left, (flag, _)| left & !flag);
    if unknown != 0 {
        names.push(format!("{unknown:#x}"));
    }
    if names.is_empty() { NOTHING.to_owned() } else { names.join("+") }
}
