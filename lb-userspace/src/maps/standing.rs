//! What a service port sends new connections to now, as the maps have it: for whoever has taken them over and wants to go on
//! from there. Reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::abi::{action, backend_flag, backend_state};

use super::{content::RunContent, identity::port_identity, store::MapStore, table::Tables};
use crate::plan::state::{Protocol, ServiceName};

/// A backend that new connections go to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Standing {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// It was chosen by the terminating fallback.
    pub terminating: bool,
    /// It is on this node.
    pub local: bool,
}

impl<S: MapStore> Tables<S> {
    /// The backends that new connections to any frontend of this service port go to, in order; none if it has none, or is
    /// not in the maps.
    #[must_use]
    pub fn standing(&self, service: &ServiceName, port_name: &str, protocol: Protocol) -> Vec<Standing> {
        let identity = port_identity(&*self.hash, service, port_name, protocol);
        let Some(record) = self.ports.get(&identity) else { return Vec::new() };
        let forwards = |index: &u32| {
            let state = self.store.state(*index)?;
            (state.word.action() & action::MASK == action::FORWARD).then_some(state.word)
        };
        let mut chosen: BTreeSet<u32> = BTreeSet::new();
        for word in record.sets.iter().filter_map(forwards) {
            let slots = self.store.slots(word.offset(), word.count().into()).unwrap_or_default();
            chosen.extend(RunContent::from_slots(&slots, word.count()).members());
        }
        let live = record.backends.iter(self.whose(identity)).filter(|(id, ..)| chosen.contains(id));
        let live = live.map(|(_, value, _)| Standing {
            address: value.addr.into(),
            port: value.port.get(),
            terminating: value.state == backend_state::TERMINATING,
            local: value.flags & backend_flag::LOCAL != 0,
        });
        let by_endpoint: BTreeMap<(IpAddr, u16), Standing> =
            live.map(|standing| ((standing.address, standing.port), standing)).collect();
        by_endpoint.into_values().collect()
    }
}
