//! The names behind the numbers: what the agent tells `dump` and the listing commands, as the maps hold none.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use lb_common::abi::BackendCounter;
use serde::{Deserialize, Serialize};

use super::{store::MapStore, table::Tables};
use crate::plan::state::{Protocol, ServiceName};

/// Whose backend set an index is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetName {
    /// Service index.
    pub index: u32,
    /// Identity that the index must have for the name to be right: indexes are reused.
    pub identity: u64,
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// `spec.ports[].name`.
    pub port_name: String,
}

/// The zone of a backend that has one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendZone {
    /// Backend id.
    pub id: u32,
    /// Generation that the backend must have for the zone to be right: ids are reused.
    pub generation: u32,
    /// The endpoint's zone.
    pub zone: String,
}

/// All names, as the agent serves them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    /// By index.
    pub sets: Vec<SetName>,
    /// By backend id; those without a zone are not among them.
    pub zones: Vec<BackendZone>,
}

impl<S: MapStore> Tables<S> {
    /// The names of all that has been applied. What was adopted and not yet claimed has none.
    pub fn names(&self) -> Names {
        let mut names = Names::default();
        for (identity, record) in &self.ports {
            let Some(owner) = &record.owner else { continue };
            for index in &record.sets {
                let Some(set) = self.sets.get(*index) else { continue };
                names.sets.push(SetName {
                    index: *index,
                    identity: set.identity,
                    namespace: owner.service.namespace().to_owned(),
                    name: owner.service.name().to_owned(),
                    port_name: owner.name.to_string(),
                });
            }
            for (id, value, zone) in record.backends.iter(self.whose(*identity)) {
                let Some(zone) = zone else { continue };
                let generation = value.generation;
                names.zones.push(BackendZone { id, generation, zone: zone.to_string() });
            }
        }
        names.sets.sort_unstable_by_key(|set| set.index);
        names.zones.sort_unstable_by_key(|zone| zone.id);
        names
    }
}

/// What the datapath has counted for a backend of a service port since it became one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendCounts {
    /// The Service.
    pub service: ServiceName,
    /// `spec.ports[].name`.
    pub port_name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// The endpoint.
    pub backend: SocketAddr,
    /// Its connections and packets.
    pub counter: BackendCounter,
}

impl BackendCounts {
    /// Puts counts in order of service port and backend.
    pub fn sort(counts: &mut [Self]) {
        let order = |it: &Self| (it.service.clone(), Arc::clone(&it.port_name), it.protocol, it.backend);
        counts.sort_by_cached_key(order);
    }
}

impl<S: MapStore> Tables<S> {
    /// Whose counters these are ([`MapStore::backend_counters`]), in no order; without those that were counted for backends
    /// which are gone, or of an earlier agent that no apply has claimed.
    pub fn backend_counts(&self, counted: Vec<(u32, BackendCounter)>) -> Vec<BackendCounts> {
        if counted.is_empty() {
            return Vec::new();
        }
        let counters: foldhash::HashMap<u32, BackendCounter> = counted.into_iter().collect();
        let ports = self.ports.iter().filter_map(|(port, record)| Some((port, record.owner.as_ref()?, record)));
        ports
            .flat_map(|(port, owner, record)| record.backends.iter(self.whose(*port)).map(move |live| (owner, live)))
            .filter_map(|(owner, (id, value, _))| {
                let counter = *counters.get(&id)?;
                (counter.generation == value.generation).then(|| BackendCounts {
                    service: owner.service.clone(),
                    port_name: Arc::clone(&owner.name),
                    protocol: owner.protocol,
                    backend: SocketAddr::new(value.addr.into(), value.port.get()),
                    counter,
                })
            })
            .collect()
    }
}

/// Names by number.
#[derive(Debug, Default)]
pub(super) struct NameIndex<'a> {
    sets: HashMap<(u32, u64), &'a SetName>,
    zones: HashMap<(u32, u32), &'a str>,
}

impl<'a> NameIndex<'a> {
    pub(super) fn new(names: &'a Names) -> Self {
        let Names { sets, zones } = names;
        Self {
            sets: sets.iter().map(|set| ((set.index, set.identity), set)).collect(),
            zones: zones.iter().map(|zone| ((zone.id, zone.generation), zone.zone.as_str())).collect(),
        }
    }

    /// Service and port name of a backend set.
    pub(super) fn set(&self, index: u32, identity: u64) -> Option<(ServiceName, &'a str)> {
        let set = self.sets.get(&(index, identity))?;
        Some((ServiceName::new(&set.namespace, &set.name), &set.port_name))
    }

    /// Zone of a backend.
    pub(super) fn zone(&self, id: u32, generation: u32) -> Option<&'a str> {
        self.zones.get(&(id, generation)).copied()
    }
}
