//! The small tables: source ranges, the node's addresses and devices, run-time configuration, counters.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Addr;

/// Data part of a key of `source_ranges` (a longest-prefix-match trie), behind its u32 prefix length in bits.
/// The prefix covers the service index (32 bits) and then the mapped address: an IPv4 /24 has length 32 + 96 + 24.
/// An index holds the ranges of its own family only: `::/0` would cover every mapped IPv4 address as well.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct RangeKey {
    /// Service index, native byte order (matched whole, so the order does not matter).
    pub service: u32,
    /// Source address.
    pub addr: Addr,
}

/// Flags of an [`AddrInfo`].
pub mod addr_flag {
    /// An address of this node that NodePorts listen on.
    pub const NODE: u32 = 1;
    /// With [`NODE`]: a loopback address, matched for the node's own sockets only.
    pub const LOOPBACK: u32 = 1 << 1;
    /// A Service's clusterIP: all its ports and protocols are ours, so what no frontend claims is refused.
    pub const CLUSTER_IP: u32 = 1 << 2;
    /// At least one frontend names this address (any type but NodePort).
    pub const FRONTEND: u32 = 1 << 3;
    /// Translated packets bear it as source, so their replies come to it.
    pub const SOURCE: u32 = 1 << 4;
    /// With [`NODE`]: nobody named it: NodePorts listen there, but the state document does not list them.
    pub const IMPLIED: u32 = 1 << 5;
    /// What the agent's view of the links decides; the rest follows from the frontends.
    pub const LINKS: u32 = NODE | LOOPBACK | SOURCE | IMPLIED;
    /// An address of another node, at which that node's agent serves NodePorts.
    pub const PEER: u32 = 1 << 6;
}

/// Value of `addrs`: what this destination address is to us. A packet to an address that is not in the table is to no
/// frontend.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct AddrInfo {
    /// [`addr_flag`] bits.
    pub flags: u32,
}

/// Bits of the one value of `marks`: what has happened since the maps were made, so that programs on devices which
/// every packet leaves by look for its flows only where there may be some. Programs set them.
pub mod mark {
    /// A flow was opened to a backend that is this node itself: its replies are translated where they leave.
    pub const HOST_BACKEND: u32 = 1;
    /// A flow was opened with a source address that the node itself uses: its ports may clash.
    pub const SHARED_SOURCE: u32 = 1 << 1;
    /// A connection with an address of the node was given another port: it goes on with that.
    pub const REMAPPED: u32 = 1 << 2;
    /// What is looked for where packets leave the node.
    pub const LEAVING: u32 = HOST_BACKEND | SHARED_SOURCE | REMAPPED;
    /// Another node has handed a packet over to this one.
    pub const TAKEN_OVER: u32 = 1 << 3;

    /// Ports of one mark of [`node_port`], as a shift: 2048 of them, of which Kubernetes' default range (30000 to 32767)
    /// touches two and what usually listens on nodes others.
    const PORTS_SHIFT: u32 = 11;

    /// A flow was opened to a node port among these: it may outlive the frontend. There is none for ports from 32768 on, as
    /// packets to those are looked for among the flows anyway.
    #[inline(always)]
    #[must_use]
    pub const fn node_port(port: u16) -> u32 {
        if port < 0x8000 { 1 << (16 + (port >> PORTS_SHIFT)) } else { 0 }
    }
}

/// Value of `answers`, per CPU: how many refusals this processor has sent in its current tick.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Answers {
    /// The tick.
    pub tick: u32,
    /// Packets sent in it.
    pub sent: u32,
}

/// Kinds of a [`Dev`].
pub mod dev_kind {
    /// Host side of a pod's link.
    pub const POD: u8 = 1;
    /// A device that leaves the node.
    pub const UPLINK: u8 = 2;
    /// A device towards other nodes' pods.
    pub const OVERLAY: u8 = 3;
}

/// Values of [`Dev::delivery`].
pub mod delivery {
    /// What is for the pod leaves by the device that routes lead to, which is the bridge where there is one.
    pub const BRIDGE: u8 = 0;
    /// It may leave by the link itself, past the bridge.
    pub const LINK: u8 = 1;
    /// It may be put into the network namespace at the other end: the device is a veth.
    pub const DIRECT: u8 = 2;
}

/// Value of `devs`: a device that our programs are attached to.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Dev {
    /// One of [`dev_kind`].
    pub kind: u8,
    /// Bytes of link-layer header: 14 or 0.
    pub l2_len: u8,
    /// Of a pod link: one of [`delivery`].
    pub delivery: u8,
    reserved: u8,
    /// Largest packet without link-layer header, in bytes.
    pub mtu: u32,
    /// The bridge that this pod link is a port of; 0: none.
    pub bridge: u32,
    /// IPv4 source for translated packets through this device: for a pod link its gateway (the bridge's address).
    pub source_v4: Addr,
    /// IPv6 source likewise; [`Addr::UNSPECIFIED`]: none.
    pub source_v6: Addr,
}

impl Dev {
    /// The source address of this family.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self, v4: bool) -> Addr {
        let (a, b) = (self.source_v4.words(), self.source_v6.words());
        // By words: a choice between two places would put both on the BPF stack.
        Addr::from_words(if v4 { a } else { b })
    }

    /// A device from its parts, with [`delivery::BRIDGE`].
    #[must_use]
    pub const fn new(kind: u8, l2_len: u8, mtu: u32, bridge: u32, source_v4: Addr, source_v6: Addr) -> Self {
        Self { kind, l2_len, delivery: delivery::BRIDGE, reserved: 0, mtu, bridge, source_v4, source_v6 }
    }
}

/// Values of [`Config::local_path`].
pub mod local_path {
    /// Flows to a backend on the client's own bridge take the host's stack in both directions; needs
    /// `bridge-nf-call-iptables=1` where conntrack rules look at them.
    pub const STACK: u32 = 0;
    /// They bypass it in both directions.
    pub const REDIRECT: u32 = 1;
}

/// Values of [`Config::forwarding`]: how what comes from outside gets to backends on other nodes.
pub mod forwarding {
    /// With a source address of this node: replies come back here.
    pub const SNAT: u32 = 0;
    /// As it came, where there is an agent: the backend's node translates it, and replies go straight out.
    pub const DSR: u32 = 1;
}

/// Value of `config`: what may change while the programs run; read once per new flow.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Config {
    /// One of [`local_path`].
    pub local_path: u32,
    /// Tick until which TCP packets without SYN and without flow pass: connections that kube-proxy translated before
    /// us. 0: no grace.
    pub grace_until: u32,
    /// One of [`forwarding`].
    pub forwarding: u32,
    /// 0: no flow between pods of one bridge has taken the host's stack since the tables were made. The agent's own note:
    /// replies of such flows are met on the pods' links only, all others on the bridge.
    pub stack_taken: u32,
    /// Source of translated packets to backends in other nodes' pod networks: this node's pod gateway, which the node
    /// itself never uses towards them. [`Addr::UNSPECIFIED`]: none.
    pub pod_source_v4: Addr,
    /// As [`Self::pod_source_v4`], for IPv6.
    pub pod_source_v6: Addr,
}

/// Value of `svc_counters`, by backend id, per CPU. Programs clear it when they first count for a backend that has got the
/// id since; so it means nothing if its generation is not the backend's. There is one for each possible backend on each
/// CPU, so numbers that need no 64 bits have none.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct BackendCell {
    /// Generation of the backend that is counted for; 0: of none so far.
    generation: u32,
    /// As [`BackendCounter::connections`], modulo 2^32.
    connections: u32,
    /// [`Traffic::packets`] to the backend, modulo 2^32.
    packets_to: u32,
    /// [`Traffic::packets`] from the backend, modulo 2^32.
    packets_from: u32,
    /// [`Traffic::bytes`] to the backend.
    bytes_to: u64,
    /// [`Traffic::bytes`] from the backend.
    bytes_from: u64,
}

impl BackendCell {
    /// Counts a connection to a backend of this generation.
    #[inline(always)]
    pub fn count_connection(&mut self, generation: u32) {
        if self.is_for(generation) {
            self.connections = self.connections.wrapping_add(1);
        }
    }

    /// Counts a packet of so many bytes to a backend of this generation (`forward`), or from it.
    #[inline(always)]
    pub fn count_packet(&mut self, generation: u32, forward: bool, bytes: u32) {
        if !self.is_for(generation) {
            return;
        }
        let (packets, sum) = if forward {
            (&mut self.packets_to, &mut self.bytes_to)
        } else {
            (&mut self.packets_from, &mut self.bytes_from)
        };
        *packets = packets.wrapping_add(1);
        *sum = sum.wrapping_add(u64::from(bytes));
    }

    /// Whether it counts for this generation of its backend: from now on, if that is a later one than before. An earlier
    /// one's connections go on after it, and count no more.
    #[inline(always)]
    fn is_for(&mut self, generation: u32) -> bool {
        if self.generation == generation {
            return true;
        }
        if generation.wrapping_sub(self.generation) > u32::MAX / 2 {
            return false;
        }
        *self = Self { generation, ..Self::default() };
        true
    }
}

/// What all CPUs have counted for a backend. Connections and packets start again at 0 after 2^32 - 1, as whoever reads
/// counters expects of a restart.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BackendCounter {
    /// Generation of the backend; 0: nothing was counted.
    pub generation: u32,
    /// Connections (flows, sockets, sticky UDP pairs) sent to this backend.
    pub connections: u64,
    /// Packets that the packet path has translated on their way to this backend. The socket path sees none.
    pub to: Traffic,
    /// Packets that it has translated on their way from this backend.
    pub from: Traffic,
}

impl BackendCounter {
    /// The sum over CPUs, of the latest backend of the id.
    #[must_use]
    pub fn sum(cells: impl IntoIterator<Item = BackendCell>) -> Self {
        let mut sum = BackendCell::default();
        for cell in cells {
            if sum.is_for(cell.generation) {
                sum.connections = sum.connections.wrapping_add(cell.connections);
                sum.packets_to = sum.packets_to.wrapping_add(cell.packets_to);
                sum.packets_from = sum.packets_from.wrapping_add(cell.packets_from);
                sum.bytes_to = sum.bytes_to.wrapping_add(cell.bytes_to);
                sum.bytes_from = sum.bytes_from.wrapping_add(cell.bytes_from);
            }
        }
        Self {
            generation: sum.generation,
            connections: sum.connections.into(),
            to: Traffic { packets: sum.packets_to.into(), bytes: sum.bytes_to },
            from: Traffic { packets: sum.packets_from.into(), bytes: sum.bytes_from },
        }
    }
}

/// Packets of one direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Packets; what the kernel handles as one (GSO, GRO) is one.
    pub packets: u64,
    /// Bytes of these packets from the IP header on, as they came.
    pub bytes: u64,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Index into `counters`.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Counter {
            /// All counters in order of their index.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The counter of an index; [`Counter::DropInternal`] for one that is none.
            #[inline(always)]
            #[must_use]
            pub const fn from_index(index: u32) -> Self {
                $(
                    if index == Self::$variant as u32 {
                        return Self::$variant;
                    }
                )+
                Self::DropInternal
            }

            /// The name that the CLI and metrics show.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it counts, in a line.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)+
                }
            }
        }
    };
}

counters! {
    /// TCP sockets translated at connect.
    SocketTcp = "socket_tcp",
    /// UDP sockets translated at connect, or unconnected ones that took a backend.
    SocketUdp = "socket_udp",
    /// Flows that the packet path made.
    PacketFlows = "packet_flows",
    /// Sockets refused because the service has no usable endpoint.
    SocketRefused = "socket_refused",
    /// Sockets refused because policy or source ranges leave no endpoint for them.
    SocketDropped = "socket_dropped",
    /// Packets to a service without a usable endpoint.
    DropNoEndpoint = "drop_no_endpoint",
    /// Packets to a service whose policy Local leaves no endpoint on this node.
    DropNoLocalEndpoint = "drop_no_local_endpoint",
    /// Packets from outside to an address that is closed to the outside.
    DropClosed = "drop_closed",
    /// Packets from a source outside the service's ranges.
    DropSourceRange = "drop_source_range",
    /// TCP packets to a service, without SYN and without a flow.
    DropNoFlow = "drop_no_flow",
    /// Later IP fragments to a service whose first one was not seen.
    DropFragment = "drop_fragment",
    /// Packets to a clusterIP's port or protocol that no service names, or of the node itself, untranslated.
    DropUnclaimed = "drop_unclaimed",
    /// No free source port for a translated packet.
    DropNoPort = "drop_no_port",
    /// No address to translate from on the way to the backend.
    DropNoSource = "drop_no_source",
    /// No route to the backend.
    DropNoRoute = "drop_no_route",
    /// Packets whose hop limit ended here.
    DropTtl = "drop_ttl",
    /// Packets larger than the way to the backend or client takes.
    DropTooBig = "drop_too_big",
    /// The flow table took no entry.
    DropFlowTable = "drop_flow_table",
    /// SCTP packets to a service whose target port differs: its checksum (CRC32c) covers the ports.
    DropSctpPort = "drop_sctp_port",
    /// The packet could not be rewritten or a table was inconsistent.
    DropInternal = "drop_internal",
    /// Hash elements that were recycled under a look-up, and looked up once more.
    Recycled = "recycled",
    /// Socket translations that could not be remembered: the peer's name or a datagram's source shows the backend.
    SocketTable = "socket_table_full",
    /// Flows taken over by a direct connection on the same ports.
    FlowReplaced = "flow_replaced",
    /// Dropped packets that were answered by a TCP reset or an ICMP error.
    Answered = "answered",
    /// Dropped packets that were not answered, as too many had been lately.
    AnswerLimited = "answer_limited",
    /// Connections of the node itself that got another source port, as a translated flow had theirs.
    HostRemapped = "host_remapped",
    /// ICMP errors about translated packets, translated as well.
    IcmpErrors = "icmp_errors",
    /// Packets that XDP translated and sent on.
    XdpForwarded = "xdp_forwarded",
    /// Source ports that were taken when a flow asked for them.
    PortCollision = "port_collision",
    /// Flows whose packets are handed over to the backend's node unchanged.
    DsrFlows = "dsr_flows",
    /// Packets that another node handed over with a backend that is none of the frontend's here.
    DsrIgnored = "dsr_ignored",
}
