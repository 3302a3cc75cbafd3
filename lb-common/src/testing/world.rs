//! What the tables hold before a packet: services, backends, flows and the node, said briefly.

use std::collections::BTreeMap;

use super::{
    DEV_CLIENT, DEV_OVERLAY, DEV_SERVER, DEV_UPLINK, FlowSpec, Net, SockSpec,
    fixture::{overlay, pod_link, uplink},
};
use crate::{
    abi::{
        Addr, AddrInfo, AffinityEntry, AffinityKey, Backend, Config, Dev, Flow, Port, RangeKey, ServiceKey, ServiceRef,
        ServiceState, SockEntry, SockKey, StateWord, Tuple, action, addr_flag, backend_flag, forwarding, frontend,
        local_path, mark, proto, scope,
    },
    datapath::FlowTable,
};

/// Service index of `web`: port 8080 of the clusterIP, to port 80 of its backends.
pub(super) const WEB: u32 = 1;
/// Its identity.
pub(super) const WEB_IDENTITY: u64 = 0x1111_2222_3333_4444;
/// Backend id of `web` on the node's own bridge.
pub const LOCAL: u32 = 5;
/// Backend id of `web` on another node.
pub const REMOTE: u32 = 6;
/// Backend id of `web` that is the client pod itself.
pub(super) const SELF: u32 = 7;
/// Backend id of `web` that is the node itself.
pub const HOST: u32 = 8;
/// Backend id of `web` that is another node itself.
pub(super) const ELSEWHERE: u32 = 9;
/// Backend id of `web` behind the overlay.
pub(super) const FAR: u32 = 10;
/// Backend id of `web` that no route leads to.
pub(super) const LOST: u32 = 11;

/// One backend set with its frontends.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// Service index.
    pub index: u32,
    /// Identity; the low half goes into flows.
    pub identity: u64,
    /// Frontends and their [`frontend`] bits.
    pub frontends: Vec<(ServiceKey, u8)>,
    /// [`action`] byte.
    pub action: u8,
    /// Selectable backend ids.
    pub slots: Vec<u32>,
    /// Affinity timeout in seconds, or 0.
    pub affinity_seconds: u32,
    /// [`crate::abi::service_flag`] bits.
    pub flags: u8,
    /// Source ranges: address and length in bits of its own family.
    pub ranges: Vec<(Addr, u32)>,
}

/// One entry of `affinity`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AffinitySpec {
    /// The client.
    pub client: Addr,
    /// Service index.
    pub service: u32,
    /// Low half of the service's identity.
    pub identity: u32,
    /// Backend id.
    pub backend: u32,
    /// The backend's generation.
    pub generation: u32,
    /// Ticks since the last new connection.
    pub age: u32,
}

impl AffinitySpec {
    /// Of `web`, just seen.
    #[must_use]
    pub const fn new(client: Addr, backend: u32) -> Self {
        Self { client, service: WEB, identity: WEB_IDENTITY as u32, backend, generation: 1, age: 0 }
    }

    /// Key and value at this time.
    #[must_use]
    pub fn entry(&self, now: u32) -> (AffinityKey, AffinityEntry) {
        let key = AffinityKey { service: self.service, identity: self.identity, client: self.client };
        (key, AffinityEntry::new(&key, self.backend, self.generation, now.wrapping_sub(self.age)))
    }
}

/// Everything before a packet.
#[derive(Clone, Debug)]
pub struct World {
    /// Services; `web` first.
    pub services: Vec<ServiceSpec>,
    /// Backends by id.
    pub backends: Vec<(u32, Backend)>,
    /// Flow entries.
    pub flows: Vec<FlowSpec>,
    /// Affinity entries.
    pub affinity: Vec<AffinitySpec>,
    /// Socket entries.
    pub socks: Vec<SockSpec>,
    /// The node's addresses with their flags; those of the frontends follow from the services.
    pub addrs: Vec<(Addr, u32)>,
    /// Other nodes' pod networks, with their length in bits of their own family.
    pub pod_nets: Vec<(Addr, u32)>,
    /// Devices.
    pub devs: Vec<(u32, Dev)>,
    /// [`local_path`] value.
    pub local_path: u32,
    /// [`forwarding`] value.
    pub forwarding: u32,
    /// [`mark`] bits.
    pub marks: u32,
    /// Other nodes' pods are reached from this node's pod gateway.
    pub pod_source: bool,
    /// Ticks until the grace time ends; negative: it ended; `None`: there was none.
    pub grace: Option<i32>,
}

impl World {
    /// The service `web` in this family and protocol with its local backend, and a node that knows its links.
    #[must_use]
    pub fn web(net: Net, proto: u8) -> Self {
        let key = |scope| ServiceKey { addr: net.vip(), port: Port::new(8080), proto, scope };
        let backend = |addr, flags| {
            let mut backend = Backend::new(addr, Port::new(80), proto, 0x99);
            backend.flags = flags;
            backend
        };
        Self {
            services: vec![ServiceSpec {
                index: WEB,
                identity: WEB_IDENTITY,
                frontends: vec![
                    (key(scope::INTERNAL), frontend::CLUSTER_IP),
                    (key(scope::EXTERNAL), frontend::CLUSTER_IP | frontend::CLOSED),
                ],
                action: action::FORWARD,
                slots: vec![LOCAL],
                affinity_seconds: 0,
                flags: 0,
                ranges: Vec::new(),
            }],
            backends: vec![
                (LOCAL, backend(net.server(), backend_flag::LOCAL)),
                (REMOTE, backend(net.remote(), 0)),
                (SELF, backend(net.client(), backend_flag::LOCAL)),
                (HOST, backend(net.node(), backend_flag::LOCAL)),
                (ELSEWHERE, backend(net.other_node(), 0)),
                (FAR, backend(net.far(), 0)),
                (LOST, backend(net.unreachable(), 0)),
            ],
            flows: Vec::new(),
            affinity: Vec::new(),
            socks: Vec::new(),
            addrs: vec![
                (net.node(), addr_flag::NODE | addr_flag::SOURCE),
                (net.gateway(), addr_flag::NODE | addr_flag::SOURCE),
                (net.overlay(), addr_flag::NODE | addr_flag::SOURCE),
                (net.loopback(), addr_flag::NODE | addr_flag::LOOPBACK),
            ],
            pod_nets: [net.remote_pods(), net.far_pods()].map(|pods| (pods, if net.v4 { 24 } else { 64 })).to_vec(),
            devs: vec![
                (DEV_CLIENT, pod_link()),
                (DEV_SERVER, pod_link()),
                (DEV_UPLINK, uplink()),
                (DEV_OVERLAY, overlay()),
            ],
            local_path: local_path::STACK,
            forwarding: forwarding::SNAT,
            marks: mark::HOST_BACKEND | mark::SHARED_SOURCE,
            pod_source: true,
            grace: None,
        }
    }

    /// TCP.
    #[must_use]
    pub fn tcp(net: Net) -> Self {
        Self::web(net, proto::TCP)
    }

    /// UDP.
    #[must_use]
    pub fn udp(net: Net) -> Self {
        Self::web(net, proto::UDP)
    }

    /// Changed by hand.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// `web` chooses among these backend ids only.
    #[must_use]
    pub fn slots(self, slots: &[u32]) -> Self {
        self.with(|w| w.services[0].slots = slots.to_vec())
    }

    /// The flows bypass the stack where they can.
    #[must_use]
    pub fn redirect(self) -> Self {
        self.with(|w| w.local_path = local_path::REDIRECT)
    }

    /// With these flow entries.
    #[must_use]
    pub fn flows(self, flows: &[FlowSpec]) -> Self {
        self.with(|w| w.flows.extend_from_slice(flows))
    }

    /// A backend of this world, to be changed.
    ///
    /// # Panics
    /// If there is none of that id.
    #[must_use]
    pub fn backend(&mut self, id: u32) -> &mut Backend {
        &mut self.backends.iter_mut().find(|(found, _)| *found == id).expect("a backend of this id").1
    }

    /// The node's addresses and those of the frontends.
    fn all_addrs(&self) -> Vec<(Addr, AddrInfo)> {
        let mut all: BTreeMap<[u8; 16], u32> = BTreeMap::new();
        for (addr, flags) in &self.addrs {
            *all.entry(addr.octets()).or_default() |= flags;
        }
        for (key, bits) in self.services.iter().flat_map(|service| &service.frontends) {
            let flags = match bits & frontend::TYPE_MASK {
                frontend::NODE_PORT => continue,
                frontend::CLUSTER_IP => addr_flag::FRONTEND | addr_flag::CLUSTER_IP,
                _ => addr_flag::FRONTEND,
            };
            *all.entry(key.addr.octets()).or_default() |= flags;
        }
        all.into_iter().map(|(addr, flags)| (Addr::v6(addr), AddrInfo { flags })).collect()
    }

    /// Keys and values of every map at this time.
    #[must_use]
    pub fn contents(&self, now: u32) -> Contents {
        let mut contents = Contents {
            services: Vec::new(),
            states: Vec::new(),
            slots: Vec::new(),
            backends: self.backends.clone(),
            flows: self.flows.iter().map(|flow| (flow.table, flow.key, flow.flow(now))).collect(),
            affinity: self.affinity.iter().map(|entry| entry.entry(now)).collect(),
            socks: self.socks.iter().map(SockSpec::entry).collect(),
            ranges: Vec::new(),
            addrs: self.all_addrs(),
            pod_nets: self.pod_nets.iter().map(|(addr, len)| (mapped_len(addr, *len), *addr)).collect(),
            devs: self.devs.clone(),
            config: Config {
                stack_taken: 0,
                local_path: self.local_path,
                forwarding: self.forwarding,
                grace_until: self.grace.map_or(0, |ticks| now.wrapping_add_signed(ticks)),
                pod_source_v4: if self.pod_source { Net::V4.gateway() } else { Addr::UNSPECIFIED },
                pod_source_v6: if self.pod_source { Net::V6.gateway() } else { Addr::UNSPECIFIED },
            },
            marks: self.marks,
        };
        for service in &self.services {
            contents.add(service);
        }
        contents
    }
}

/// What every map holds, as keys and values of the ABI.
#[derive(Clone, Debug)]
pub struct Contents {
    /// `services`.
    pub services: Vec<(ServiceKey, ServiceRef)>,
    /// `svc_state`.
    pub states: Vec<(u32, ServiceState)>,
    /// `slots`, from 16 on: a zero offset would hide mistakes.
    pub slots: Vec<(u32, u32)>,
    /// `backends`.
    pub backends: Vec<(u32, Backend)>,
    /// `flows` and `embryos`.
    pub flows: Vec<(FlowTable, Tuple, Flow)>,
    /// `affinity`.
    pub affinity: Vec<(AffinityKey, AffinityEntry)>,
    /// `sock_revnat`.
    pub socks: Vec<(SockKey, SockEntry)>,
    /// `source_ranges`, by prefix length in bits over the whole key.
    pub ranges: Vec<(u32, RangeKey)>,
    /// `addrs`.
    pub addrs: Vec<(Addr, AddrInfo)>,
    /// `pod_nets`, by prefix length in bits over the mapped form.
    pub pod_nets: Vec<(u32, Addr)>,
    /// `devs`.
    pub devs: Vec<(u32, Dev)>,
    /// `config`.
    pub config: Config,
    /// `marks`.
    pub marks: u32,
}

impl Contents {
    fn add(&mut self, service: &ServiceSpec) {
        let ServiceSpec { index, identity, frontends, action, slots, affinity_seconds, flags, ranges } = service;
        self.services.extend(frontends.iter().map(|(key, bits)| (*key, ServiceRef::new(*key, *index, *bits))));
        let offset = 16 + self.slots.len() as u32;
        self.slots.extend((offset..).zip(slots.iter().copied()));
        let word = StateWord::new(offset, slots.len() as u16, *action, 1);
        self.states.push((*index, ServiceState::new(word, *identity, *affinity_seconds, *flags, 0)));
        self.ranges.extend(
            ranges.iter().map(|(addr, len)| (32 + mapped_len(addr, *len), RangeKey { service: *index, addr: *addr })),
        );
    }
}

/// Length of a prefix over the mapped form.
fn mapped_len(addr: &Addr, len: u32) -> u32 {
    if addr.is_v4() { 96 + len } else { len }
}
