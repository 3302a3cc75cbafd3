//! What must come of a cell, from the rules alone: `docs/datapath.md` for the paths and refusals, Kubernetes' own rules
//! for policies and source ranges, flannel's rules and the kernel's source addresses for who a server sees.
//!
//! Pure, and asks nothing of berrylb: nothing here was copied from a run.

use lb_lab::Network;

use crate::cell::{Backend, Call, Cell, Client, Mode, NodeId, Policy, Port, Ranges, Setup, Target, Variant};

/// What must come of a cell.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Expected {
    /// One of these answers, and sees its client so.
    Answer(Vec<(Backend, Source)>),
    /// The application hears of it at once: ECONNREFUSED.
    Refused,
    /// Nothing comes back.
    Silence,
    /// Out of reach by design: no answer, in whatever way. The sentence is the documentation's.
    OutOfReach(&'static str),
}

/// The address that a server sees as its client's.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Source {
    /// The asking pod's or machine's own.
    Own,
    /// The node's on the LAN.
    Lan(NodeId),
    /// The node's in its pod network: the pods' gateway.
    Gateway(NodeId),
    /// The node's on its overlay device.
    Overlay(NodeId),
}

/// Where a call meets the datapath first that knows its destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Entry {
    /// In the socket call.
    Socket(NodeId),
    /// On the client's pod link.
    PodLink(NodeId),
    /// On the uplink of a node.
    Uplink(NodeId),
    /// Nowhere: the destination is the client's own loopback.
    OwnLoopback,
    /// The node's own call, with no path for it.
    Unserved,
}

/// What the frontend does with it.
enum Action {
    Forward(Vec<Backend>),
    Reject,
    Drop,
}

/// The node that the outside machine routes the virtual addresses to.
pub(crate) const GATEWAY: NodeId = NodeId::A;

/// What must come of it.
pub(crate) fn expected(setup: Setup, cell: &Cell) -> Expected {
    let entry = entry(setup, cell);
    if entry == Entry::OwnLoopback {
        return refused(cell.call, false);
    }
    if cell.port == Port::Unused && !cell.target.is_virtual() {
        // "A port that no frontend claims on a node address passes": the node's own stack says that it is closed.
        return refused(cell.call, false);
    }
    if cell.port == Port::Unused && cell.target.is_virtual() && cell.target != Target::ClusterIp {
        return Expected::OutOfReach("left to the node's routes: ports of a Service's address that no Service names");
    }
    if entry == Entry::Unserved {
        return Expected::OutOfReach("`--socket-lb off`: all packet; the node itself: Services do not work");
    }
    let in_socket = matches!(entry, Entry::Socket(_));
    match action(setup, cell, entry) {
        Action::Forward(backends) => {
            let seen = |backend| (backend, seen(setup, cell.client, entry, backend));
            Expected::Answer(backends.into_iter().map(seen).collect())
        }
        Action::Reject => refused(cell.call, in_socket),
        // "`drop`: in a socket call ECONNREFUSED".
        Action::Drop if in_socket => Expected::Refused,
        Action::Drop => Expected::Silence,
    }
}

/// A refusal by packet is a TCP reset or an ICMP error, which the kernel does not tell an unconnected UDP socket of.
fn refused(call: Call, in_socket: bool) -> Expected {
    if call == Call::Unconnected && !in_socket { Expected::Silence } else { Expected::Refused }
}

fn entry(setup: Setup, cell: &Cell) -> Entry {
    let Some(own) = cell.client.node() else {
        return match cell.target {
            Target::Loopback => Entry::OwnLoopback,
            Target::NodePort(node) => Entry::Uplink(node),
            Target::ClusterIp | Target::ExternalIp | Target::LoadBalancer => Entry::Uplink(GATEWAY),
        };
    };
    match cell.target {
        // A NodePort is known at the addresses of this node only: another's is reached from outside.
        Target::NodePort(node) if node != own => Entry::Uplink(node),
        Target::Loopback if cell.client.is_pod() => Entry::OwnLoopback,
        Target::ClusterIp | Target::NodePort(_) | Target::Loopback | Target::ExternalIp | Target::LoadBalancer => {
            path(setup, cell, own)
        }
    }
}

/// The table of paths in `docs/datapath.md`.
fn path(setup: Setup, cell: &Cell, own: NodeId) -> Entry {
    match (setup.mode, cell.client.is_pod()) {
        (Mode::Sockets, false) => Entry::Socket(own),
        (Mode::Packets, false) => Entry::Unserved,
        (Mode::Sockets, true) if cell.call != Call::Connected && !has_ranges(cell, true) => Entry::Socket(own),
        (Mode::Sockets | Mode::Packets, true) => Entry::PodLink(own),
    }
}

/// Whether source ranges hold here: at LoadBalancer addresses for everybody, at external IPs from outside.
fn has_ranges(cell: &Cell, internal: bool) -> bool {
    let held = match cell.target {
        Target::LoadBalancer => true,
        Target::ExternalIp => !internal,
        Target::ClusterIp | Target::NodePort(_) | Target::Loopback => false,
    };
    held && cell.service.ranges != Ranges::None && cell.port == Port::Service
}

/// Whether the cell's client is in the ranges; a node is if one of its addresses is.
fn is_in_ranges(cell: &Cell) -> bool {
    match cell.service.ranges {
        Ranges::None => true,
        Ranges::Nodes => matches!(cell.client, Client::HostA | Client::HostB),
        Ranges::PodsAndOutside => cell.client.is_pod() || cell.client == Client::Outside,
    }
}

fn action(setup: Setup, cell: &Cell, entry: Entry) -> Action {
    let (at, internal) = match entry {
        Entry::Socket(node) | Entry::PodLink(node) => (node, true),
        Entry::Uplink(node) => (node, false),
        Entry::OwnLoopback | Entry::Unserved => unreachable!("{setup:?} {cell}: no frontend is asked"),
    };
    let Variant { backends, policy, .. } = cell.service;
    if cell.target == Target::ClusterIp && !internal {
        // Closed to the outside.
        return Action::Drop;
    }
    if cell.port == Port::Unused {
        return Action::Reject;
    }
    if has_ranges(cell, internal) && !is_in_ranges(cell) {
        return Action::Drop;
    }
    if backends.is_empty() {
        return Action::Reject;
    }
    // The internal policy decides only the ClusterIP, the external one only what comes from outside to the others.
    let policy = if internal && cell.target != Target::ClusterIp { Policy::Cluster } else { policy };
    let mut usable = backends.to_vec();
    if policy == Policy::Local {
        usable.retain(|backend| backend.node() == at);
    }
    if usable.is_empty() { Action::Drop } else { Action::Forward(usable) }
}

fn seen(setup: Setup, client: Client, entry: Entry, backend: Backend) -> Source {
    let itself = client == Client::BackendA && backend == Backend::PodA;
    match (entry, client.node()) {
        (Entry::Uplink(at), _) if backend.node() != at => {
            // So that the answer comes back here: for pods the gateway address, which the node never uses towards
            // them itself; for a node's process the address of the device that leads there.
            if backend.is_pod() { Source::Gateway(at) } else { Source::Lan(at) }
        }
        (Entry::Uplink(_), Some(own)) if client.is_pod() => leaving(setup, own),
        (Entry::Uplink(_), Some(own)) => Source::Lan(own),
        (Entry::Uplink(_), None) => Source::Own,
        // A pod takes no packet that bears its own address as source.
        (Entry::PodLink(own), _) if itself => Source::Gateway(own),
        (Entry::Socket(_) | Entry::PodLink(_), Some(own)) if client.is_pod() => {
            if backend.is_pod() || backend.node() == own { Source::Own } else { leaving(setup, own) }
        }
        (Entry::Socket(own), _) => host_source(setup, own, backend),
        (Entry::PodLink(_) | Entry::OwnLoopback | Entry::Unserved, _) => {
            unreachable!("{setup:?} {client:?} {entry:?}: nothing is forwarded")
        }
    }
}

/// A pod's packet that leaves the node to elsewhere than a pod: flannel masquerades it.
fn leaving(setup: Setup, own: NodeId) -> Source {
    if setup.masquerade { Source::Lan(own) } else { Source::Own }
}

/// The source that the kernel gives to a node's own socket: the address of the device that leads there.
fn host_source(setup: Setup, own: NodeId, backend: Backend) -> Source {
    match (backend.is_pod(), backend.node() == own, setup.network) {
        (false, _, _) | (true, false, Network::HostGw) => Source::Lan(own),
        (true, true, _) => Source::Gateway(own),
        (true, false, Network::Vxlan) => Source::Overlay(own),
    }
}
