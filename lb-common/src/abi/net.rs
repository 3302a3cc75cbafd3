//! Addresses, ports and tuples as they stand in map keys.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// IP protocol numbers (IANA).
pub mod proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// An IPv4 or IPv6 address in network byte order; IPv4 in its mapped form `::ffff:a.b.c.d` (RFC 4291 2.5.5.2).
///
/// Aligned to 4 bytes so that the BPF back end moves it in words.
#[derive(Clone, Copy, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(4))]
pub struct Addr {
    bytes: [u8; 16],
}

impl Addr {
    /// `::`, which also stands for "any address of this node" in the key of a NodePort.
    pub const UNSPECIFIED: Self = Self { bytes: [0; 16] };

    /// From the four bytes of an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn v4([a, b, c, d]: [u8; 4]) -> Self {
        Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] }
    }

    /// From the sixteen bytes of an IPv6 address (or of a v4-mapped one, which means the IPv4 address).
    #[inline(always)]
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// The sixteen bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        self.bytes
    }

    /// As [`Self::octets`], in place.
    #[inline(always)]
    #[must_use]
    pub const fn as_octets(&self) -> &[u8; 16] {
        &self.bytes
    }

    /// The last four bytes: the address, if [`Self::is_v4`].
    #[inline(always)]
    #[must_use]
    pub const fn v4_octets(self) -> [u8; 4] {
        let b = self.bytes;
        [b[12], b[13], b[14], b[15]]
    }

    /// From four words in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { bytes: zerocopy::transmute!(words) }
    }

    /// The address as four words in memory order, for comparing and hashing.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u32; 4] {
        zerocopy::transmute!(self.bytes)
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        let w = self.words();
        // One comparison, from which the verifier learns nothing of each word that it would then hold on to.
        w[0] | w[1] | (w[2] ^ u32::from_ne_bytes([0, 0, 0xff, 0xff])) == 0
    }

    /// Whether this is `::`.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        let w = self.words();
        w[0] | w[1] | w[2] | w[3] == 0
    }
}

impl Addr {
    /// `127.0.0.1`, which also stands for all of `127.0.0.0/8` in the table of the node's addresses.
    pub const LOCALHOST_V4: Self = Self::v4([127, 0, 0, 1]);

    /// Whether this is an IPv4 address of `127.0.0.0/8` (RFC 1122 3.2.1.3).
    #[inline(always)]
    #[must_use]
    pub const fn is_v4_loopback(self) -> bool {
        self.is_v4() && self.words()[3] & u32::from_ne_bytes([0xff, 0, 0, 0]) == u32::from_ne_bytes([127, 0, 0, 0])
    }
}

impl PartialEq for Addr {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.words(), other.words());
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
    }
}

impl core::hash::Hash for Addr {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.words().hash(state);
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.octets())
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() { Self::V4(addr.v4_octets().into()) } else { Self::V6(addr.bytes.into()) }
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

/// A port in network byte order.
#[derive(Clone, Copy, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C, align(2))]
pub struct Port {
    bytes: [u8; 2],
}

impl Port {
    /// From a port in host order.
    #[inline(always)]
    #[must_use]
    pub const fn new(port: u16) -> Self {
        Self { bytes: port.to_be_bytes() }
    }

    /// From the two bytes of a header.
    #[inline(always)]
    #[must_use]
    pub const fn from_octets(bytes: [u8; 2]) -> Self {
        Self { bytes }
    }

    /// The two bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn octets(self) -> [u8; 2] {
        self.bytes
    }

    /// The port in host order.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.bytes)
    }
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.get(), f)
    }
}

/// Source, destination, ports and protocol of a packet, in the direction in which it travels. The key of a flow.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// IP protocol number.
    pub proto: u8,
    reserved: [u8; 3],
}

impl Tuple {
    /// A tuple from its parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(src: Addr, sport: Port, dst: Addr, dport: Port, proto: u8) -> Self {
        Self { src, dst, sport, dport, proto, reserved: [0; 3] }
    }

    /// The tuple as words in memory order: four of each address, the ports, the protocol. What is written as words can
    /// be read as words at once; a processor waits for the cache where a read covers several smaller writes.
    #[inline(always)]
    #[must_use]
    pub const fn as_words(&self) -> &[u32; 10] {
        zerocopy::transmute_ref!(self)
    }

    /// As [`Self::as_words`], for writing.
    #[inline(always)]
    pub fn as_words_mut(&mut self) -> &mut [u32; 10] {
        zerocopy::transmute_mut!(self)
    }

    /// Puts a fragment's identification in place of the ports, which later fragments do not carry.
    #[inline(always)]
    pub fn set_fragment(&mut self, id: u32) {
        self.as_words_mut()[8] = id;
    }

    /// The tuple's bytes.
    #[inline(always)]
    #[must_use]
    pub const fn as_octets(&self) -> &[u8; 40] {
        zerocopy::transmute_ref!(self)
    }

    /// The tuple of a packet that answers this one.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        let mut reversed = Self::default();
        reversed.set_reverse_of(self);
        reversed
    }

    /// Becomes the tuple of a packet that answers it.
    #[inline(always)]
    pub fn reverse(&mut self) {
        let [s0, s1, s2, s3, d0, d1, d2, d3, ports, _] = self.as_words_mut();
        core::mem::swap(s0, d0);
        core::mem::swap(s1, d1);
        core::mem::swap(s2, d2);
        core::mem::swap(s3, d3);
        *ports = ports.rotate_left(16);
    }

    /// Becomes the tuple of a packet that answers `other`; in place, unlike [`Self::reversed`].
    #[inline(always)]
    pub fn set_reverse_of(&mut self, other: &Self) {
        let [s0, s1, s2, s3, d0, d1, d2, d3, ports, proto] = other.as_words();
        let to = self.as_words_mut();
        (to[0], to[1], to[2], to[3]) = (*d0, *d1, *d2, *d3);
        (to[4], to[5], to[6], to[7]) = (*s0, *s1, *s2, *s3);
        // Two ports of 16 bits change places in either byte order.
        to[8] = ports.rotate_left(16);
        to[9] = *proto;
    }

    /// Whether `other` is the tuple of a packet that answers this one.
    #[inline(always)]
    #[must_use]
    pub fn is_reverse_of(&self, other: &Self) -> bool {
        let (a, b) = (self.as_words(), other.as_words());
        self.src == other.dst && self.dst == other.src && a[8] == b[8].rotate_left(16) && a[9] == b[9]
    }
}
