//! Builds tables for the tests of the pure parts, through the same messages that the kernel sends.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use super::links::Table;

/// A table and the messages that its links came from.
#[derive(Clone, Debug, Default)]
pub(super) struct TestTable {
    pub(super) table: Table,
    links: std::collections::BTreeMap<u32, LinkMessage>,
    routes: Vec<RouteNetlinkMessage>,
}

impl TestTable {
    /// An Ethernet link that is up.
    pub(super) fn link(&mut self, ifindex: u32, name: &str, kind: Option<&str>) -> &mut Self {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(1500)];
        if let Some(kind) = kind {
            message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Other(kind.to_owned()))]));
        }
        self.send(message)
    }

    /// A veth whose other end lives elsewhere, as a port of `bridge` or of none.
    pub(super) fn pod(&mut self, ifindex: u32, name: &str, bridge: Option<u32>) -> &mut Self {
        self.link(ifindex, name, Some("veth"));
        self.more(ifindex, LinkAttribute::Link(2)).more(ifindex, LinkAttribute::LinkNetNsId(ifindex as i32));
        if let Some(bridge) = bridge {
            self.port_of(ifindex, bridge);
        }
        self
    }

    /// Makes a link a port.
    pub(super) fn port_of(&mut self, ifindex: u32, master: u32) -> &mut Self {
        self.more(ifindex, LinkAttribute::Controller(master))
    }

    /// Makes a bridge keep VLANs apart.
    pub(super) fn vlan_filtering(&mut self, ifindex: u32) -> &mut Self {
        let data = InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]);
        self.more(ifindex, LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)]))
    }

    /// Another MTU.
    pub(super) fn mtu(&mut self, ifindex: u32, mtu: u32) -> &mut Self {
        self.more(ifindex, LinkAttribute::Mtu(mtu))
    }

    /// Without link-layer header.
    pub(super) fn headerless(&mut self, ifindex: u32) -> &mut Self {
        let mut message = self.links[&ifindex].clone();
        message.header.link_layer_type = LinkLayerType::None;
        self.send(message)
    }

    /// The loopback device.
    pub(super) fn loopback(&mut self) -> &mut Self {
        self.link(1, "lo", None);
        let mut message = self.links[&1].clone();
        message.header.link_layer_type = LinkLayerType::Loopback;
        self.send(message)
    }

    /// Administratively down.
    pub(super) fn down(&mut self, ifindex: u32) -> &mut Self {
        let mut message = self.links[&ifindex].clone();
        message.header.flags = LinkFlags::empty();
        self.send(message)
    }

    /// Removes a link.
    pub(super) fn gone(&mut self, ifindex: u32) -> &mut Self {
        let message = self.links.remove(&ifindex).expect("a link of this index");
        self.table.apply(&RouteNetlinkMessage::DelLink(message));
        self
    }

    /// An address in use.
    pub(super) fn address(&mut self, ifindex: u32, ip: &str, prefix: u8) -> &mut Self {
        self.flagged(ifindex, ip, prefix, AddressFlags::Permanent)
    }

    /// An address that is no longer preferred.
    pub(super) fn deprecated(&mut self, ifindex: u32, ip: &str, prefix: u8) -> &mut Self {
        self.flagged(ifindex, ip, prefix, AddressFlags::Deprecated)
    }

    /// An address under duplicate address detection.
    pub(super) fn tentative(&mut self, ifindex: u32, ip: &str, prefix: u8) -> &mut Self {
        self.flagged(ifindex, ip, prefix, AddressFlags::Tentative)
    }

    /// A default route.
    pub(super) fn default_route(&mut self, ifindex: u32) -> &mut Self {
        self.route("0.0.0.0/0", ifindex, true)
    }

    /// A route, to a gateway or to the link itself.
    pub(super) fn route(&mut self, to: &str, ifindex: u32, gateway: bool) -> &mut Self {
        let to: IpNet = to.parse().expect("a network");
        let mut message = RouteMessage::default();
        message.header.table = 254;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = to.prefix_len();
        let address = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => (AddressFamily::Inet, RouteAddress::Inet(ip)),
            IpAddr::V6(ip) => (AddressFamily::Inet6, RouteAddress::Inet6(ip)),
        };
        let (family, network) = address(to.addr());
        message.header.address_family = family;
        message.attributes = vec![RouteAttribute::Destination(network.clone()), RouteAttribute::Oif(ifindex)];
        if gateway {
            message.attributes.push(RouteAttribute::Gateway(network));
        }
        self.routes.push(RouteNetlinkMessage::NewRoute(message));
        self.table.set_routes(&self.routes);
        self
    }

    /// Takes all routes away.
    pub(super) fn no_routes(&mut self) -> &mut Self {
        self.routes.clear();
        self.table.set_routes(&self.routes);
        self
    }

    fn flagged(&mut self, ifindex: u32, ip: &str, prefix: u8, flags: AddressFlags) -> &mut Self {
        let ip: IpAddr = ip.parse().expect("an address");
        let mut message = AddressMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.index = ifindex;
        message.header.prefix_len = prefix;
        message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Flags(flags)];
        self.table.apply(&RouteNetlinkMessage::NewAddress(message));
        self
    }

    fn more(&mut self, ifindex: u32, attribute: LinkAttribute) -> &mut Self {
        let mut message = self.links[&ifindex].clone();
        message.attributes.push(attribute);
        self.send(message)
    }

    fn send(&mut self, message: LinkMessage) -> &mut Self {
        self.table.apply(&RouteNetlinkMessage::NewLink(message.clone()));
        self.links.insert(message.header.index, message);
        self
    }
}
