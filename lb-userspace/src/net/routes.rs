//! Default routes, read out of netlink messages. Pure. Other routes do not interest us.
#![expect(clippy::wildcard_enum_match_arm, reason = "netlink's messages and attributes are an open set")]

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
};

/// Whether a route is a default route of the main table.
pub(super) fn is_default(message: &RouteMessage) -> bool {
    let header = &message.header;
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    header.destination_prefix_length == 0
        && header.kind == RouteType::Unicast
        && matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6)
        && table.unwrap_or(header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

/// Devices through which a default route leaves; several if it has several next hops, none for any other message.
pub(super) fn default_devices(message: &RouteNetlinkMessage) -> Vec<u32> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return Vec::new() };
    if !is_default(message) {
        return Vec::new();
    }
    let mut devices = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    devices
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn only_unicast_defaults_of_the_main_table_count() {
        let oif = || vec![RouteAttribute::Oif(3)];
        let devices = |message| default_devices(&RouteNetlinkMessage::NewRoute(message));
        assert_eq!(devices(route(0, 254, RouteType::Unicast, oif())), [3]);
        assert!(devices(route(16, 254, RouteType::Unicast, oif())).is_empty());
        assert!(devices(route(0, 253, RouteType::Unicast, oif())).is_empty());
        assert!(devices(route(0, 254, RouteType::Unreachable, oif())).is_empty());
        // Tables above 255 stand in an attribute, with 252 (compat) in the header.
        let big = vec![RouteAttribute::Oif(3), RouteAttribute::Table(1000)];
        assert!(devices(route(0, 252, RouteType::Unicast, big)).is_empty());
        assert!(default_devices(&RouteNetlinkMessage::DelRoute(route(0, 254, RouteType::Unicast, oif()))).is_empty());
    }
}
