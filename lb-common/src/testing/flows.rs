//! Flow entries of the cases, before and after.

use super::{
    DEV_BRIDGE, DEV_OVERLAY, DEV_UPLINK, Net,
    fixture::OVERLAY_MTU,
    packet_spec::FRAGMENT_ID,
    world::{ELSEWHERE, FAR, HOST, LOCAL, REMOTE, WEB, WEB_IDENTITY},
};
use crate::{
    abi::{Addr, Flow, Port, Tuple, flow_state, role},
    datapath::FlowTable,
};

/// One entry of a flow table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowSpec {
    /// The table it stands in.
    pub table: FlowTable,
    /// Its key.
    pub key: Tuple,
    /// What a packet of the key becomes.
    pub to: Tuple,
    /// Service index.
    pub service: u32,
    /// Low half of the service's identity.
    pub identity: u32,
    /// Backend id.
    pub backend: u32,
    /// The backend's generation.
    pub generation: u32,
    /// Device of the redirect, or 0.
    pub oif: u32,
    /// That of the other direction.
    pub mate_oif: u32,
    /// Largest packet, or 0.
    pub mtu: u16,
    /// That of the other direction.
    pub mate_mtu: u16,
    /// [`role`] bits.
    pub role: u8,
    /// One of [`flow_state`].
    pub state: u8,
    /// Ticks since the last packet.
    pub age: u32,
}

impl FlowSpec {
    /// The map value at this time.
    #[must_use]
    pub fn flow(&self, now: u32) -> Flow {
        let mut flow = Flow::default();
        flow.to = self.to;
        flow.service = self.service;
        flow.identity = self.identity;
        flow.backend = self.backend;
        flow.backend_generation = self.generation;
        flow.oif = self.oif;
        flow.mate_oif = self.mate_oif;
        flow.mtu = self.mtu;
        flow.mate_mtu = self.mate_mtu;
        flow.role = self.role;
        flow.state = self.state;
        flow.seen = now.wrapping_sub(self.age);
        flow.reseal(&self.key);
        flow
    }

    /// How the later fragments of a datagram are remembered, the first of which was translated by this entry. Built
    /// packets all have the same identification.
    #[must_use]
    pub fn fragments(&self) -> Self {
        let mut key = self.key;
        let id = FRAGMENT_ID.to_be_bytes();
        let bytes = if key.src.is_v4() { [id[2], id[3], 0, 0] } else { id };
        key.set_fragment(u32::from_ne_bytes(bytes));
        Self { table: FlowTable::Frags, key, age: 0, ..*self }
    }

    /// A copy with another service source port in place of 0, which stands for "whatever the core took".
    #[must_use]
    pub(super) fn with_port(mut self, port: Port) -> Self {
        let unknown = Port::new(0);
        if self.to.sport == unknown {
            self.to.sport = port;
        }
        if self.key.dport == unknown && self.table != FlowTable::Frags {
            self.key.dport = port;
        }
        self
    }
}

/// Both entries of a flow of the service `web` to its local backend, unanswered and just seen: forward, then reply.
#[must_use]
pub fn pair(key: Tuple, to: Tuple) -> [FlowSpec; 2] {
    let forward = FlowSpec {
        table: FlowTable::Embryos,
        key,
        to,
        service: WEB,
        identity: WEB_IDENTITY as u32,
        backend: LOCAL,
        generation: 1,
        oif: 0,
        mate_oif: 0,
        mtu: 0,
        mate_mtu: 0,
        role: role::FORWARD,
        state: flow_state::NEW,
        age: 0,
    };
    [forward, FlowSpec { key: to.reversed(), to: key.reversed(), role: 0, ..forward }]
}

/// Both entries of a flow that a client outside opened from this port, to a frontend and on to this backend of `web`.
#[must_use]
pub fn outside_flow(net: Net, proto: u8, frontend: (Addr, u16), port: u16, backend: u32) -> [FlowSpec; 2] {
    let (addr, dport) = frontend;
    let key = Tuple::new(net.outside(), Port::new(port), addr, Port::new(dport), proto);
    let to = |src, dst| Tuple::new(src, Port::new(port), dst, Port::new(80), proto);
    let (to, oif, mtu) = match backend {
        LOCAL => (to(net.outside(), net.server()), DEV_BRIDGE, 1500),
        REMOTE => (to(net.gateway(), net.remote()), DEV_UPLINK, 1500),
        FAR => (to(net.gateway(), net.far()), DEV_OVERLAY, OVERLAY_MTU),
        ELSEWHERE => (to(net.node(), net.other_node()), DEV_UPLINK, 1500),
        HOST => (to(net.outside(), net.node()), 0, 0),
        other => panic!("backend {other} cannot be reached from outside"),
    };
    let routed = if oif == 0 { 0 } else { role::ROUTED };
    let [mut forward, mut reply] = pair(key, to).backend(backend).both(|flow| flow.role |= role::OUTSIDE | routed);
    if oif != 0 {
        (forward.oif, forward.mate_oif, forward.mtu, forward.mate_mtu) = (oif, DEV_UPLINK, mtu, 1500);
        (reply.oif, reply.mate_oif, reply.mtu, reply.mate_mtu) = (DEV_UPLINK, oif, 1500, mtu);
    }
    [forward, reply]
}

/// Changes to both entries of a flow.
pub(super) trait Both: Sized {
    /// Applies a change to both.
    fn both(self, change: impl Fn(&mut FlowSpec)) -> Self;

    /// Redirected between neighbours at this device.
    fn oif(self, oif: u32) -> Self {
        self.through_router(oif).both(|flow| flow.role |= role::ON_LINK)
    }

    /// Redirected by this device, where one of the two is behind a router.
    fn through_router(self, oif: u32) -> Self {
        self.both(|flow| (flow.oif, flow.mate_oif) = (oif, oif))
    }

    /// Of a client that is its own backend.
    fn hairpin(self) -> Self {
        self.both(|flow| flow.role |= role::HAIRPIN)
    }

    /// In this state, in whatever table it is.
    fn state(self, state: u8) -> Self {
        self.both(|flow| flow.state = state)
    }

    /// Answered once.
    fn answered(self) -> Self {
        self.state(flow_state::REPLIED)
    }

    /// Answered, and the client has gone on.
    fn established(self) -> Self {
        self.both(|flow| (flow.table, flow.state) = (FlowTable::Flows, flow_state::ESTABLISHED))
    }

    /// It was established, and one side has ended it.
    fn closing(self) -> Self {
        self.established().state(flow_state::CLOSING)
    }

    /// Last seen this many ticks ago.
    fn age(self, age: u32) -> Self {
        self.both(|flow| flow.age = age)
    }

    /// To this backend id.
    fn backend(self, backend: u32) -> Self {
        self.both(|flow| flow.backend = backend)
    }
}

impl Both for [FlowSpec; 2] {
    fn both(mut self, change: impl Fn(&mut FlowSpec)) -> Self {
        self.iter_mut().for_each(change);
        self
    }
}
