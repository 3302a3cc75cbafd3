//! Pods, their addresses and links, and the services as the agent would write them.

use lb_common::{
    abi::{
        Addr, Backend, Port, ServiceKey, ServiceRef, ServiceState, StateWord, action, addr_flag, backend_state,
        frontend, proto, scope,
    },
    testing::{DEV_CLIENT, DEV_SERVER, Hook, Net},
};

use super::{Cluster, PORT, life::Target};

/// Everybody who may be a backend.
pub(super) const PODS: u8 = 7;
/// The backend that is this node itself.
pub(super) const HOST: u8 = 4;
/// The client that is this node itself: it speaks with backends directly.
pub(super) const NODE_CLIENT: u8 = 4;

impl Cluster {
    /// Backends: the two pods that are clients as well, a neighbour of theirs, a pod on another node, this node, another
    /// node, and a pod behind the overlay.
    pub(super) fn pod(&self, pod: u8) -> Addr {
        match pod {
            0 => self.net.client(),
            1 => neighbour(self.net),
            2 => self.net.server(),
            3 => self.net.remote(),
            HOST => self.net.node(),
            5 => self.net.other_node(),
            _ => self.net.far(),
        }
    }

    /// Clients: pods 0 and 1, two machines outside, this node.
    pub(super) fn client(&self, client: u8) -> Addr {
        match client {
            0 | 1 => self.pod(client),
            2 => self.net.outside(),
            3 => stranger(self.net),
            _ => self.net.node(),
        }
    }

    /// Our own address that stands for a client outside towards this backend, if one does.
    pub(super) fn mask(&self, client: u8, pod: u8) -> Option<Addr> {
        match (client, pod) {
            (2 | 3, 3 | 6) => Some(self.net.gateway()),
            (2 | 3, 5) => Some(self.net.node()),
            _ => None,
        }
    }

    pub(super) const fn link(pod: u8) -> Option<u32> {
        match pod {
            0 => Some(DEV_CLIENT),
            1 | 2 => Some(DEV_SERVER),
            _ => None,
        }
    }

    /// Where packets from this address come in; the node's own are met where they leave.
    pub(super) fn way_in(&self, src: Addr) -> Option<Hook> {
        match self.pod_of(src) {
            Some(HOST) => None,
            Some(6) => Some(Hook::Overlay),
            Some(pod) => Some(Self::link(pod).map_or(Hook::Uplink, Hook::PodIngress)),
            None => Some(Hook::Uplink),
        }
    }

    /// Where packets to this address leave the node's stack, unless it is the node itself.
    pub(super) fn way_out(&self, dst: Addr) -> Option<Hook> {
        if dst == self.net.gateway() {
            return None;
        }
        match self.pod_of(dst) {
            Some(HOST) => None,
            Some(6) => Some(Hook::OverlayOut),
            Some(pod) => Some(if Self::link(pod).is_some() { Hook::PodEgress } else { Hook::UplinkOut }),
            None => Some(Hook::UplinkOut),
        }
    }

    pub(super) fn pod_of(&self, addr: Addr) -> Option<u8> {
        (0..PODS).find(|pod| self.pod(*pod) == addr)
    }

    pub(super) fn frontend(&self, service: u8) -> Addr {
        let mut octets = self.net.vip().octets();
        octets[15] = 100 + service;
        Addr::v6(octets)
    }

    pub(super) fn target(&self, to: Target) -> (Addr, Port) {
        match to {
            Target::Service(service) => (self.frontend(service), Port::new(PORT)),
            Target::NodePort(service) => (self.net.node(), node_port(service)),
            Target::Pod(pod) => (self.pod(pod), Port::new(PORT)),
        }
    }

    /// As the agent does: new ids are written before the word that leads to them, old ones end.
    pub(super) fn set_backends(&mut self, service: u8, backends: u8) {
        for proto in [proto::TCP, proto::UDP] {
            let index = index(service, proto);
            let before = self.services[usize::from(service)].0;
            let slots: Vec<u32> = (0..PODS).filter(|pod| backends >> pod & 1 == 1).map(|pod| id(index, pod)).collect();
            for pod in 0..PODS {
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
            self.tables.set_addr(self.frontend(service), addr_flag::FRONTEND);
            for scope in [scope::INTERNAL, scope::EXTERNAL] {
                let own = ServiceKey { addr: self.frontend(service), port: Port::new(PORT), proto, scope };
                let at_node = ServiceKey::node_port(self.net.v4, node_port(service), proto, scope);
                for (key, bits) in [(own, frontend::LOAD_BALANCER), (at_node, frontend::NODE_PORT)] {
                    let value = there.then(|| ServiceRef::new(key, index(service, proto), bits));
                    self.tables.set_service(key, value);
                }
            }
        }
    }
}

const fn index(service: u8, proto: u8) -> u32 {
    1 + service as u32 * 2 + (proto == proto::UDP) as u32
}

const fn node_port(service: u8) -> Port {
    Port::new(30_000 + service as u16)
}

const fn id(index: u32, pod: u8) -> u32 {
    index * 8 + pod as u32
}

/// A second machine outside.
fn stranger(net: Net) -> Addr {
    let mut octets = net.outside().octets();
    octets[15] = 0x98;
    Addr::v6(octets)
}

/// A third pod of the bridge, which is a client as well.
fn neighbour(net: Net) -> Addr {
    let mut octets = net.client().octets();
    octets[15] = 0x1d;
    Addr::v6(octets)
}
