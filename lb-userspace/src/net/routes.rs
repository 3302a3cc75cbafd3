//! Routes of the main table, read out of netlink messages. Pure. Local, broadcast and unreachable ones, and those of
//! other tables, do not interest us.
#![expect(clippy::wildcard_enum_match_arm, reason = "netlink's messages and attributes are an open set")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};

/// One next hop of a route.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Route {
    /// Where it leads to.
    pub to: IpNet,
    /// Interface index of the device that it leaves by.
    pub ifindex: u32,
    /// Whether another router is next; otherwise the destination is on the link.
    pub gateway: bool,
}

impl Route {
    /// Whether it leads everywhere.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.to.prefix_len() == 0
    }
}

/// Whether a route is one of those that we follow.
pub(super) fn is_followed(message: &RouteMessage) -> bool {
    let header = &message.header;
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    header.kind == RouteType::Unicast
        && matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6)
        && table.unwrap_or(header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

/// The next hops of a route; none for a message that is no new route of ours.
pub(super) fn next_hops(message: &RouteNetlinkMessage) -> Vec<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return Vec::new() };
    if !is_followed(message) {
        return Vec::new();
    }
    let Some(to) = destination(message) else { return Vec::new() };
    let mut hops: Vec<Route> = device(&message.attributes)
        .map(|ifindex| Route { to, ifindex, gateway: has_gateway(&message.attributes) })
        .into_iter()
        .collect();
    for attribute in &message.attributes {
        if let RouteAttribute::MultiPath(several) = attribute {
            hops.extend(several.iter().map(|hop| {
                let gateway = has_gateway(&hop.attributes);
                Route { to, ifindex: hop.interface_index, gateway }
            }));
        }
    }
    hops
}

fn destination(message: &RouteMessage) -> Option<IpNet> {
    let given = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::from(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::from(*ip)),
        _ => None,
    });
    // A default route has no destination.
    let address = given.unwrap_or(match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    });
    Some(IpNet::new(address, message.header.destination_prefix_length).ok()?.trunc())
}

fn device(attributes: &[RouteAttribute]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn has_gateway(attributes: &[RouteAttribute]) -> bool {
    // `Via` is a next hop of the other family.
    attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    fn route(prefix: u8, table: u8, kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = prefix;
        message.header.table = table;
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    fn read(message: RouteMessage) -> Vec<(String, u32, bool)> {
        let hops = next_hops(&RouteNetlinkMessage::NewRoute(message));
        hops.into_iter().map(|hop| (hop.to.to_string(), hop.ifindex, hop.gateway)).collect()
    }

    fn to(ip: &str) -> RouteAttribute {
        RouteAttribute::Destination(match ip.parse().expect("an address") {
            IpAddr::V4(ip) => RouteAddress::Inet(ip),
            IpAddr::V6(ip) => RouteAddress::Inet6(ip),
        })
    }

    fn via(ip: [u8; 4]) -> RouteAttribute {
        RouteAttribute::Gateway(RouteAddress::Inet(ip.into()))
    }

    #[test]
    fn only_unicast_routes_of_the_main_table_count() {
        let oif = || vec![RouteAttribute::Oif(3)];
        let default = || ("0.0.0.0/0".to_owned(), 3, false);
        assert_eq!(read(route(0, 254, RouteType::Unicast, oif())), [default()]);
        assert!(read(route(0, 253, RouteType::Unicast, oif())).is_empty());
        assert!(read(route(0, 254, RouteType::Unreachable, oif())).is_empty());
        // Tables above 255 stand in an attribute, with 252 (compat) in the header.
        let big = vec![RouteAttribute::Oif(3), RouteAttribute::Table(1000)];
        assert!(read(route(0, 252, RouteType::Unicast, big)).is_empty());
        assert!(next_hops(&RouteNetlinkMessage::DelRoute(route(0, 254, RouteType::Unicast, oif()))).is_empty());
    }

    #[test]
    fn a_route_knows_its_network_device_and_gateway() {
        let gateway = vec![to("10.244.2.0"), RouteAttribute::Oif(2), via([192, 168, 1, 3])];
        assert_eq!(read(route(24, 254, RouteType::Unicast, gateway)), [("10.244.2.0/24".to_owned(), 2, true)]);
        let mut v6 = route(64, 254, RouteType::Unicast, vec![to("fd00:2::"), RouteAttribute::Oif(4)]);
        v6.header.address_family = AddressFamily::Inet6;
        assert_eq!(read(v6), [("fd00:2::/64".to_owned(), 4, false)]);
    }

    #[test]
    fn each_next_hop_counts() {
        let hop = |ifindex, attributes| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = ifindex;
            hop.attributes = attributes;
            hop
        };
        let several = vec![hop(2, vec![via([192, 168, 1, 3])]), hop(5, Vec::new())];
        let message = route(24, 254, RouteType::Unicast, vec![to("10.244.2.0"), RouteAttribute::MultiPath(several)]);
        let net = || "10.244.2.0/24".to_owned();
        assert_eq!(read(message), [(net(), 2, true), (net(), 5, false)]);
    }
}
