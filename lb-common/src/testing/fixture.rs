//! The small world of the packet cases: one node with a bridge, two pods on it, pods elsewhere, and its addresses in
//! both families. The kernel tests build the same devices and routes.

use crate::{
    abi::{Addr, Dev, Port, Tuple, dev_kind},
    datapath::Route,
};

/// Interface index of the node's bridge (`cni0`).
pub const DEV_BRIDGE: u32 = 3;
/// Interface index of the device that leaves the node.
pub const DEV_UPLINK: u32 = 4;
/// Interface index of the device towards the pods of a third node.
pub const DEV_OVERLAY: u32 = 6;
/// Interface index of the host side of the client pod's link.
pub const DEV_CLIENT: u32 = 10;
/// Interface index of the host side of the local server pod's link.
pub const DEV_SERVER: u32 = 12;

/// The addresses of one family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Net {
    /// IPv4, else IPv6.
    pub v4: bool,
}

impl Net {
    /// IPv4.
    pub const V4: Self = Self { v4: true };
    /// IPv6.
    pub const V6: Self = Self { v4: false };
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `v4` or `v6`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        if self.v4 { "v4" } else { "v6" }
    }

    const fn addr(self, v4: [u8; 4], v6: [u16; 8]) -> Addr {
        if self.v4 {
            return Addr::v4(v4);
        }
        let mut bytes = [0; 16];
        let mut i = 0;
        while i < 8 {
            let [high, low] = v6[i].to_be_bytes();
            bytes[2 * i] = high;
            bytes[2 * i + 1] = low;
            i += 1;
        }
        Addr::v6(bytes)
    }

    /// The pod that is the client.
    #[must_use]
    pub const fn client(self) -> Addr {
        self.addr([10, 244, 1, 10], [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x10])
    }

    /// A pod on the same bridge.
    #[must_use]
    pub const fn server(self) -> Addr {
        self.addr([10, 244, 1, 20], [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x20])
    }

    /// An address on that bridge which is reached by way of that pod.
    #[must_use]
    pub const fn behind(self) -> Addr {
        self.addr([10, 244, 1, 77], [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x77])
    }

    /// A pod on another node.
    #[must_use]
    pub const fn remote(self) -> Addr {
        self.addr([10, 244, 2, 30], [0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0x30])
    }

    /// The network of that node's pods, a /24 in both families.
    #[must_use]
    pub const fn remote_pods(self) -> Addr {
        self.addr([10, 244, 2, 0], [0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0])
    }

    /// A pod on a third node, behind the overlay.
    #[must_use]
    pub const fn far(self) -> Addr {
        self.addr([10, 244, 3, 40], [0xfd00, 0x10, 0x244, 3, 0, 0, 0, 0x40])
    }

    /// The network of that node's pods, a /24 or /64.
    #[must_use]
    pub const fn far_pods(self) -> Addr {
        self.addr([10, 244, 3, 0], [0xfd00, 0x10, 0x244, 3, 0, 0, 0, 0])
    }

    /// Another node's own address.
    #[must_use]
    pub const fn other_node(self) -> Addr {
        self.addr([192, 168, 0, 12], [0xfd00, 0x192, 0x168, 0, 0, 0, 0, 0x12])
    }

    /// An address that the node has no route to.
    #[must_use]
    pub const fn unreachable(self) -> Addr {
        self.addr([198, 51, 100, 66], [0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 0x66])
    }

    /// The node's address towards the overlay.
    #[must_use]
    pub const fn overlay(self) -> Addr {
        self.addr([10, 244, 1, 0], [0xfd00, 0x10, 0x244, 1, 0xffff, 0, 0, 0])
    }

    /// The bridge's own address, the pods' gateway.
    #[must_use]
    pub const fn gateway(self) -> Addr {
        self.addr([10, 244, 1, 1], [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1])
    }

    /// A clusterIP.
    #[must_use]
    pub const fn vip(self) -> Addr {
        self.addr([10, 111, 197, 69], [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x69])
    }

    /// Another frontend address.
    #[must_use]
    pub const fn other_vip(self) -> Addr {
        self.addr([203, 0, 113, 5], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 5])
    }

    /// The node's address.
    #[must_use]
    pub const fn node(self) -> Addr {
        self.addr([192, 168, 0, 11], [0xfd00, 0x192, 0x168, 0, 0, 0, 0, 0x11])
    }

    /// The loopback address.
    #[must_use]
    pub const fn loopback(self) -> Addr {
        self.addr([127, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1])
    }

    /// A machine outside the cluster.
    #[must_use]
    pub const fn outside(self) -> Addr {
        self.addr([192, 168, 0, 99], [0xfd00, 0x192, 0x168, 0, 0, 0, 0, 0x99])
    }

    /// From the client's port 40000 to a frontend or pod.
    #[must_use]
    pub const fn from_client(self, proto: u8, dst: Addr, port: u16) -> Tuple {
        Tuple::new(self.client(), Port::new(40_000), dst, Port::new(port), proto)
    }
}

/// Largest packet that the overlay takes.
pub(super) const OVERLAY_MTU: u16 = 1450;

/// The device by which the node forwards: pods of its own behind the bridge, a third node's by the overlay, everything
/// else by the uplink; nothing that is its own, and nothing for a device that it has not got.
#[must_use]
pub fn route(dst: &Addr, iif: u32) -> Route {
    match oif(dst, iif) {
        0 => Route::default(),
        DEV_OVERLAY => Route { oif: DEV_OVERLAY, mtu: OVERLAY_MTU.into(), on_link: false },
        oif => Route { oif, mtu: 1500, on_link: oif == DEV_BRIDGE && Net::BOTH.iter().all(|net| net.behind() != *dst) },
    }
}

fn oif(dst: &Addr, iif: u32) -> u32 {
    if ![DEV_BRIDGE, DEV_UPLINK, DEV_OVERLAY, DEV_CLIENT, DEV_SERVER].contains(&iif) {
        return 0;
    }
    for net in Net::BOTH {
        if [net.node(), net.gateway(), net.overlay(), net.loopback(), net.unreachable()].contains(dst) {
            return 0;
        }
        // The /24 or /64 of a node's pods.
        let len = if net.v4 { 15 } else { 8 };
        if dst.octets()[..len] == net.gateway().octets()[..len] {
            return DEV_BRIDGE;
        }
        if dst.octets()[..len] == net.far_pods().octets()[..len] {
            return DEV_OVERLAY;
        }
    }
    DEV_UPLINK
}

/// The entry of the uplink in `devs`.
#[must_use]
pub(super) fn uplink() -> Dev {
    Dev::new(dev_kind::UPLINK, 14, 1500, 0, Net::V4.node(), Net::V6.node())
}

/// The entry of the overlay in `devs`.
#[must_use]
pub(super) fn overlay() -> Dev {
    Dev::new(dev_kind::OVERLAY, 14, OVERLAY_MTU.into(), 0, Net::V4.overlay(), Net::V6.overlay())
}

/// The entry of a pod link in `devs`, as the agent writes it.
#[must_use]
pub(super) fn pod_link() -> Dev {
    Dev::new(dev_kind::POD, 14, 1500, DEV_BRIDGE, Net::V4.gateway(), Net::V6.gateway())
}
