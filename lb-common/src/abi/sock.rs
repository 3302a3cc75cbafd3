//! What the socket hooks remember.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Addr, Port, Tuple, flow};

/// Kinds of a [`SockKey`].
pub mod sock_kind {
    /// `addr` is a backend; the entry tells the frontend that the application named.
    pub const REVNAT: u8 = 0;
    /// `addr` is a frontend; the entry tells the backend that this UDP socket's datagrams go to.
    pub const STICKY: u8 = 1;
}

/// Key of `sock_revnat`.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct SockKey {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// Backend or frontend address, by `kind`.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
    /// One of [`sock_kind`].
    pub kind: u8,
    reserved: [u8; 4],
}

impl SockKey {
    /// A key from its parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(cookie: u64, addr: Addr, port: Port, proto: u8, kind: u8) -> Self {
        Self { cookie, addr, port, proto, kind, reserved: [0; 4] }
    }
}

/// Value of `sock_revnat`.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct SockEntry {
    /// The other side: frontend for [`sock_kind::REVNAT`], backend for [`sock_kind::STICKY`].
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    reserved: [u8; 2],
    /// Service index.
    pub service: u32,
    /// Low half of the service's identity.
    pub identity: u32,
    /// Backend id.
    pub backend: u32,
    /// The backend's generation.
    pub backend_generation: u32,
    /// Over key and value, as in [`super::Flow::check`].
    pub check: u32,
}

impl SockEntry {
    /// An entry for `key`, sealed by its check word.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        key: &SockKey,
        addr: Addr,
        port: Port,
        service: u32,
        identity: u32,
        backend: u32,
        backend_generation: u32,
    ) -> Self {
        let mut entry = Self { addr, port, reserved: [0; 2], service, identity, backend, backend_generation, check: 0 };
        entry.check = entry.seal(key);
        entry
    }

    /// Whether the value is whole and belongs to `key`.
    #[inline(always)]
    #[must_use]
    pub const fn is_for(&self, key: &SockKey) -> bool {
        self.check == self.seal(key)
    }

    #[inline(never)]
    const fn seal(&self, key: &SockKey) -> u32 {
        let ends = flow::tuple_hash(&Tuple::new(key.addr, key.port, self.addr, self.port, key.proto));
        let a = (key.cookie ^ ends).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let b = (self.service as u64 | (self.identity as u64) << 32).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        let c = (self.backend as u64 | (self.backend_generation as u64) << 32).wrapping_add(key.kind as u64);
        ((a ^ b.rotate_left(23) ^ c.wrapping_mul(0x1656_67b1_9e37_79f9)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32)
            as u32
    }
}

/// Kinds of a [`SkipKey`].
pub mod skip_kind {
    /// A cgroup, and every one beneath it.
    pub const CGROUP: u32 = 1;
    /// A network namespace.
    pub const NETNS: u32 = 2;
}

/// Key of `skips`: whose sockets are left to the packet path.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, Ord, PartialEq, PartialOrd,
)]
#[repr(C)]
pub struct SkipKey {
    /// The cgroup's id (`bpf_get_current_ancestor_cgroup_id`) or the namespace's cookie (`bpf_get_netns_cookie`).
    pub id: u64,
    /// One of [`skip_kind`].
    pub kind: u32,
    reserved: u32,
}

impl SkipKey {
    /// A key from its parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(kind: u32, id: u64) -> Self {
        Self { id, kind, reserved: 0 }
    }
}

/// Key of `affinity`.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct AffinityKey {
    /// Service index.
    pub service: u32,
    /// Low half of the service's identity.
    pub identity: u32,
    /// The client: its address on the packet path, [`AffinityKey::netns`] on the socket path.
    pub client: Addr,
}

impl AffinityKey {
    /// A client that is known by its network namespace's cookie: `100::/64` (RFC 6666, discard-only) with the cookie,
    /// which no packet carries as a source.
    #[inline(always)]
    #[must_use]
    pub const fn netns(cookie: u64) -> Addr {
        let c = cookie.to_be_bytes();
        Addr::v6([1, 0, 0, 0, 0, 0, 0, 0, c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]])
    }
}

/// Value of `affinity`.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct AffinityEntry {
    /// Backend id.
    pub backend: u32,
    /// The backend's generation.
    pub backend_generation: u32,
    /// Time of the last new connection, in ticks.
    pub seen: u32,
    /// Over the key, the backend and its generation, as in [`super::Flow::check`].
    pub check: u32,
}

impl AffinityEntry {
    /// An entry for `key`, sealed by its check word.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: &AffinityKey, backend: u32, backend_generation: u32, seen: u32) -> Self {
        let mut entry = Self { backend, backend_generation, seen, check: 0 };
        entry.check = entry.seal(key);
        entry
    }

    /// Whether the value is whole and belongs to `key`.
    #[inline(always)]
    #[must_use]
    pub const fn is_for(&self, key: &AffinityKey) -> bool {
        self.check == self.seal(key)
    }

    #[inline(always)]
    const fn seal(&self, key: &AffinityKey) -> u32 {
        let c = key.client.words();
        let client = (c[0] as u64 | (c[1] as u64) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (c[2] as u64 | (c[3] as u64) << 32).wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(23);
        let service = (key.service as u64 | (key.identity as u64) << 32).wrapping_mul(0x1656_67b1_9e37_79f9);
        let backend =
            (self.backend as u64 | (self.backend_generation as u64) << 32).wrapping_mul(0x85eb_ca77_c2b2_ae63);
        ((client ^ service.rotate_left(11) ^ backend.rotate_left(37)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
    }
}
