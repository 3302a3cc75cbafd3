//! The matrix: what a cell is, and all cells of a lab. Nothing here knows what comes of a cell.

use std::fmt;

use lb_lab::Network;

/// A node of the lab. C has no backend and no client.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum NodeId {
    A,
    B,
    C,
}

/// Who may answer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Backend {
    PodA,
    PodB,
    /// A process of node A itself (`hostNetwork: true`).
    HostA,
    HostB,
}

impl Backend {
    pub(crate) const ALL: [Self; 4] = [Self::PodA, Self::PodB, Self::HostA, Self::HostB];

    pub(crate) fn node(self) -> NodeId {
        match self {
            Self::PodA | Self::HostA => NodeId::A,
            Self::PodB | Self::HostB => NodeId::B,
        }
    }

    pub(crate) fn is_pod(self) -> bool {
        matches!(self, Self::PodA | Self::PodB)
    }

    /// What it calls itself in its answers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PodA => "pod-a",
            Self::PodB => "pod-b",
            Self::HostA => "host-a",
            Self::HostB => "host-b",
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Client {
    /// The pod on A that is itself a backend.
    BackendA,
    /// Another pod on A.
    PodA,
    /// A pod on B that is no backend.
    PodB,
    HostA,
    HostB,
    /// A machine outside the cluster.
    Outside,
}

impl Client {
    pub(crate) const ALL: [Self; 6] = [Self::BackendA, Self::PodA, Self::PodB, Self::HostA, Self::HostB, Self::Outside];

    /// The node whose datapath it meets first; none for a machine outside.
    pub(crate) fn node(self) -> Option<NodeId> {
        match self {
            Self::BackendA | Self::PodA | Self::HostA => Some(NodeId::A),
            Self::PodB | Self::HostB => Some(NodeId::B),
            Self::Outside => None,
        }
    }

    pub(crate) fn is_pod(self) -> bool {
        matches!(self, Self::BackendA | Self::PodA | Self::PodB)
    }
}

/// What is asked: an address of the Service.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Target {
    ClusterIp,
    /// At this node's address.
    NodePort(NodeId),
    /// The NodePort at 127.0.0.1 or ::1.
    Loopback,
    ExternalIp,
    LoadBalancer,
}

impl Target {
    pub(crate) const ALL: [Self; 7] = [
        Self::ClusterIp,
        Self::NodePort(NodeId::A),
        Self::NodePort(NodeId::B),
        Self::NodePort(NodeId::C),
        Self::Loopback,
        Self::ExternalIp,
        Self::LoadBalancer,
    ];

    /// An address of the Service's own, on no device.
    pub(crate) fn is_virtual(self) -> bool {
        matches!(self, Self::ClusterIp | Self::ExternalIp | Self::LoadBalancer)
    }
}

/// How it is asked.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Call {
    Tcp,
    /// Much over one TCP connection: packets of full size, segmentation offload, partial checksums.
    Bulk,
    /// UDP with connect and send.
    Connected,
    /// UDP with sendto.
    Unconnected,
}

impl Call {
    pub(crate) const ALL: [Self; 4] = [Self::Tcp, Self::Bulk, Self::Connected, Self::Unconnected];
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// Both of a Service's traffic policies.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Policy {
    Cluster,
    Local,
}

/// `loadBalancerSourceRanges`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Ranges {
    None,
    /// The nodes' LAN addresses.
    Nodes,
    /// All pods and the machine outside; no address of a node.
    PodsAndOutside,
}

/// One Service of the lab.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Variant {
    pub(crate) backends: &'static [Backend],
    pub(crate) policy: Policy,
    pub(crate) ranges: Ranges,
}

/// The Services of a lab.
pub(crate) fn variants() -> Vec<Variant> {
    const SETS: [&[Backend]; 6] = [
        &[Backend::PodA],
        &[Backend::PodB],
        &[Backend::HostA],
        &[Backend::HostB],
        &[Backend::PodA, Backend::PodB],
        &[],
    ];
    let mut all = Vec::new();
    for policy in [Policy::Cluster, Policy::Local] {
        all.extend(SETS.map(|backends| Variant { backends, policy, ranges: Ranges::None }));
    }
    for ranges in [Ranges::Nodes, Ranges::PodsAndOutside] {
        let held = |backends| Variant { backends, policy: Policy::Cluster, ranges };
        all.extend([held(SETS[0]), held(SETS[1])]);
    }
    all
}

/// Which port of the target.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Port {
    Service,
    /// One that no Service names.
    Unused,
}

/// One question.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Cell {
    pub(crate) client: Client,
    pub(crate) target: Target,
    pub(crate) port: Port,
    pub(crate) call: Call,
    pub(crate) family: Family,
    pub(crate) service: Variant,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, target, port, call, family, service: Variant { backends, policy, ranges } } = self;
        write!(f, "{client:?} → {target:?} {call:?} {family:?} of {backends:?}, {policy:?}")?;
        if *ranges != Ranges::None {
            write!(f, ", ranges: {ranges:?}")?;
        }
        if *port == Port::Unused {
            write!(f, ", unused port")?;
        }
        Ok(())
    }
}

/// All cells of a lab.
pub(crate) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    let variants = variants();
    for client in Client::ALL {
        for target in Target::ALL {
            for call in Call::ALL {
                for family in Family::ALL {
                    let cell = |service, port| Cell { client, target, port, call, family, service };
                    cells.extend(variants.iter().map(|service| cell(*service, Port::Service)));
                    if call != Call::Bulk {
                        cells.push(cell(variants[0], Port::Unused));
                    }
                }
            }
        }
    }
    cells
}

/// Which calls of pods the agents translate in the socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    /// The default.
    Sockets,
    /// `--socket-lb off`.
    Packets,
}

/// What of a lab matters to a cell's result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Setup {
    pub(crate) network: Network,
    /// flannel's masquerading.
    pub(crate) masquerade: bool,
    pub(crate) mode: Mode,
}
