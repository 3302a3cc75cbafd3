//! Pods, their addresses and links, and the services as the agent would write them.

use lb_common::{
    abi::{
        Addr, Backend, Port, ServiceKey, ServiceRef, ServiceState, StateWord, action, addr_flag, backend_state,
        frontend, proto, scope,
    },
    testing::{DEV_CLIENT, DEV_SERVER, Net},
};

use super::{Cluster, PORT, life::Target};

impl Cluster {
    /// The two clients, also pods 0 and 1; pods 2 and 3 are a neighbour and one on another node.
    pub(super) fn pod(&self, pod: u8) -> Addr {
        match pod {
            0 => self.net.client(),
            1 => neighbour(self.net),
            2 => self.net.server(),
            _ => self.net.remote(),
        }
    }

    pub(super) const fn link(pod: u8) -> Option<u32> {
        match pod {
            0 => Some(DEV_CLIENT),
            1 | 2 => Some(DEV_SERVER),
            _ => None,
        }
    }

    pub(super) fn pod_of(&self, addr: Addr) -> Option<u8> {
        (0..4).find(|pod| self.pod(*pod) == addr)
    }

    pub(super) fn frontend(&self, service: u8) -> Addr {
        let mut octets = self.net.vip().octets();
        octets[15] = 100 + service;
        Addr::v6(octets)
    }

    pub(super) fn target(&self, to: Target) -> Addr {
        match to {
            Target::Service(service) => self.frontend(service),
            Target::Pod(pod) => self.pod(pod),
        }
    }

    /// As the agent does: new ids are written before the word that leads to them, old ones end.
    pub(super) fn set_backends(&mut self, service: u8, backends: u8) {
        for proto in [proto::TCP, proto::UDP] {
            let index = index(service, proto);
            let before = self.services[usize::from(service)].0;
            let slots: Vec<u32> = (0..4).filter(|pod| backends >> pod & 1 == 1).map(|pod| id(index, pod)).collect();
            for pod in 0..4 {
                let id = id(index, pod);
                let (was, is) = (before >> pod & 1 == 1, backends >> pod & 1 == 1);
                let mut backend = Backend::new(self.pod(pod), Port::new(PORT), proto, u64::from(index));
                let generation = self.generations.entry(id).or_insert(1);
                *generation += u32::from(was != is);
                backend.generation = *generation;
                backend.state = if is { backend_state::ACTIVE } else { backend_state::GONE };
                self.tables.set_backend(id, backend);
            }
            for (slot, id) in (index * 8..).zip(&slots) {
                self.tables.set_slot(slot, *id);
            }
            let act = if slots.is_empty() { action::REJECT } else { action::FORWARD };
            let word = StateWord::new(index * 8, slots.len() as u16, act, 0);
            self.tables.set_state(index, ServiceState::new(word, u64::from(index) << 8, 0, 0, 0));
        }
        self.services[usize::from(service)].0 = backends;
    }

    pub(super) fn set_frontend(&mut self, service: u8, there: bool) {
        self.services[usize::from(service)].1 = there;
        for proto in [proto::TCP, proto::UDP] {
            let key = ServiceKey { addr: self.frontend(service), port: Port::new(PORT), proto, scope: scope::INTERNAL };
            let value = there.then(|| ServiceRef::new(key, index(service, proto), frontend::CLUSTER_IP));
            self.tables.set_addr(key.addr, addr_flag::FRONTEND);
            self.tables.set_service(key, value);
        }
    }
}

const fn index(service: u8, proto: u8) -> u32 {
    1 + service as u32 * 2 + (proto == proto::UDP) as u32
}

const fn id(index: u32, pod: u8) -> u32 {
    index * 4 + pod as u32
}

/// A third pod of the bridge, which is a client as well.
fn neighbour(net: Net) -> Addr {
    let mut octets = net.client().octets();
    octets[15] = 0x1d;
    Addr::v6(octets)
}
