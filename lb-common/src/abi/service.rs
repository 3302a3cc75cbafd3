//! Services: frontends, their state, and the backends that slots point to.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Addr, Port};

/// Where a frontend's traffic comes from.
pub mod scope {
    /// From this node's pods or the node itself.
    pub const INTERNAL: u8 = 0;
    /// Entered from outside, through an uplink or overlay.
    pub const EXTERNAL: u8 = 1;
}

/// Key of `services`: one frontend. A NodePort has the address [`Addr::UNSPECIFIED`] of its family (see
/// [`ServiceKey::node_port`]) and is matched when the destination is in `addrs`.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct ServiceKey {
    /// Destination address.
    pub addr: Addr,
    /// Destination port.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
    /// One of [`scope`].
    pub scope: u8,
}

impl ServiceKey {
    /// The key under which a NodePort of the given family stands: `0.0.0.0` (mapped) or `::`.
    #[inline(always)]
    #[must_use]
    pub const fn node_port(v4: bool, port: Port, proto: u8, scope: u8) -> Self {
        let addr = if v4 { Addr::v4([0; 4]) } else { Addr::UNSPECIFIED };
        Self { addr, port, proto, scope }
    }

    /// 24 bits over the whole key, kept in its [`ServiceRef`]: a hash element that was recycled for another key while
    /// a reader stood on it shows a foreign tag.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u32 {
        let w = self.addr.words();
        let p = self.port.octets();
        let tail = u32::from_ne_bytes([p[0], p[1], self.proto, self.scope]);
        let a = (w[0] as u64).wrapping_add(0x9e37_79b9).wrapping_mul((w[1] as u64).wrapping_add(0x85eb_ca6b));
        let b = (w[2] as u64).wrapping_add(0xc2b2_ae35).wrapping_mul((w[3] as u64).wrapping_add(0x27d4_eb2f));
        let c = (tail as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((a.wrapping_add(b.rotate_left(17)) ^ c).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 40) as u32
    }
}

/// Value of `services`. Eight aligned bytes, read and written as one word.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C, align(8))]
pub struct ServiceRef {
    index: u32,
    /// 24 bits in native byte order.
    tag: [u8; 3],
    bits: u8,
}

/// Bits of a [`ServiceRef`] that belong to the frontend rather than to its service.
pub mod frontend {
    /// Mask of the frontend's type.
    pub const TYPE_MASK: u8 = 0b11;
    /// The address is the Service's clusterIP.
    pub const CLUSTER_IP: u8 = 0;
    /// The port is a node port.
    pub const NODE_PORT: u8 = 1;
    /// The address is one of `spec.externalIPs`.
    pub const EXTERNAL_IP: u8 = 2;
    /// The address is a load balancer's ingress address.
    pub const LOAD_BALANCER: u8 = 3;
    /// Closed to this scope: dropped and counted, whatever the service's state.
    pub const CLOSED: u8 = 1 << 2;
    /// Only sources in `source_ranges` may use it.
    pub const RANGES: u8 = 1 << 3;
}

impl ServiceRef {
    /// A reference for the frontend `key`; `bits` from [`frontend`].
    #[inline(always)]
    #[must_use]
    pub const fn new(key: ServiceKey, index: u32, bits: u8) -> Self {
        let [a, b, c, _] = key.tag().to_le_bytes();
        Self { index, tag: [a, b, c], bits }
    }

    /// From the eight bytes as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        zerocopy::transmute!(word)
    }

    /// Index into `svc_state`.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// The tag of the key that this reference was stored under, see [`ServiceKey::tag`].
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u32 {
        let [a, b, c] = self.tag;
        u32::from_le_bytes([a, b, c, 0])
    }

    /// The [`frontend`] bits.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }
}

/// What a service does with a new connection; in [`StateWord`].
pub mod action {
    /// To one of the slots.
    pub const FORWARD: u8 = 0;
    /// Refused at once: no usable endpoint on any node.
    pub const REJECT: u8 = 1;
    /// Dropped: endpoints exist, but policy Local leaves none on this node.
    pub const DROP: u8 = 2;
    /// Mask of the three values above.
    pub const MASK: u8 = 0b11;
    /// The slots hold serving, terminating endpoints, as nothing better exists (KEP-1669).
    pub const TERMINATING: u8 = 1 << 7;
}

/// First word of a [`ServiceState`]: one release store of it commits a new backend set for every frontend of the
/// service. Eight aligned bytes, read and written as one word.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C, align(8))]
pub struct StateWord {
    offset: u32,
    count: u16,
    action: u8,
    generation: u8,
}

impl StateWord {
    /// From the parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(offset: u32, count: u16, action: u8, generation: u8) -> Self {
        Self { offset, count, action, generation }
    }

    /// From the eight bytes as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        zerocopy::transmute!(word)
    }

    /// The eight bytes as they lie in memory, for one store.
    #[inline(always)]
    #[must_use]
    pub const fn to_word(self) -> u64 {
        zerocopy::transmute!(self)
    }

    /// First slot of the run.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self) -> u32 {
        self.offset
    }

    /// Slots that selection draws from. Draining backends stand behind them (see [`ServiceState::draining`]).
    #[inline(always)]
    #[must_use]
    pub const fn count(self) -> u16 {
        self.count
    }

    /// [`action`] value and flag.
    #[inline(always)]
    #[must_use]
    pub const fn action(self) -> u8 {
        self.action
    }

    /// Counts commits, modulo 256.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u8 {
        self.generation
    }
}

/// Flags of a [`ServiceState`].
pub mod service_flag {
    /// The slots are a Maglev table: selection is by flow hash.
    pub const MAGLEV: u8 = 1;
}

/// Value of `svc_state`, by service index: one *backend set* of one service port. A service port has one set for each
/// different answer to "which endpoints may this traffic take" (see the agent's plan).
/// An index is reused only after an RCU grace period.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct ServiceState {
    /// The commit word.
    pub word: StateWord,
    /// Identity of the set: a hash of namespace, name, port name, protocol and set. 0: the index is free.
    pub identity: u64,
    /// Session affinity timeout in seconds; 0: no affinity.
    pub affinity_seconds: u32,
    /// [`service_flag`] bits.
    pub flags: u8,
    reserved: u8,
    /// Backend ids that stand in the run behind the selectable ones: still existing, no new connections.
    pub draining: u16,
}

impl ServiceState {
    /// A state from its parts.
    #[must_use]
    pub const fn new(word: StateWord, identity: u64, affinity_seconds: u32, flags: u8, draining: u16) -> Self {
        Self { word, identity, affinity_seconds, flags, reserved: 0, draining }
    }
}

/// States of a [`Backend`].
pub mod backend_state {
    /// The id is free.
    pub const GONE: u8 = 0;
    /// Ready.
    pub const ACTIVE: u8 = 1;
    /// Serving and terminating.
    pub const TERMINATING: u8 = 2;
}

/// Flags of a [`Backend`].
pub mod backend_flag {
    /// The endpoint's node is this node.
    pub const LOCAL: u8 = 1;
}

/// Value of `backends`, by backend id: one endpoint of one service port. While an id is in use its address, port,
/// protocol and service never change; it is reused only after an RCU grace period, with another generation.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Backend {
    /// The endpoint's address.
    pub addr: Addr,
    /// Identity of the service port: a hash of namespace, name, port name and protocol.
    pub service: u64,
    /// Changes with each reuse of the id; never 0 for an id in use.
    pub generation: u32,
    /// The endpoint's port.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
    /// One of [`backend_state`].
    pub state: u8,
    /// Share of new connections relative to its peers; 1 unless an annotation says otherwise.
    pub weight: u16,
    /// [`backend_flag`] bits.
    pub flags: u8,
    reserved: [u8; 5],
}

impl Backend {
    /// A backend of weight 1 in its first generation.
    #[must_use]
    pub const fn new(addr: Addr, port: Port, proto: u8, service: u64) -> Self {
        Self {
            addr,
            service,
            generation: 1,
            port,
            proto,
            state: backend_state::ACTIVE,
            weight: 1,
            flags: 0,
            reserved: [0; 5],
        }
    }

    /// Whether a flow that chose this backend earlier may go on with it, where `word` is its service's commit word:
    /// active, or terminating while the service has nothing better.
    #[inline(always)]
    #[must_use]
    pub const fn usable(&self, word: StateWord) -> bool {
        self.state == backend_state::ACTIVE
            || (self.state == backend_state::TERMINATING && word.action() & action::TERMINATING != 0)
    }
}
