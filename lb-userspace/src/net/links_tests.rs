//! Cases for the table of links: messages as the kernel sends them, and what must come of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_route::link::InfoKind;

use super::*;

fn link(ifindex: u32, name: &str, more: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(1500)];
    message.attributes.extend(more);
    message
}

fn new(message: LinkMessage) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(message)
}

fn del(ifindex: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(link(ifindex, "gone", Vec::new()))
}

fn veth(ifindex: u32, name: &str, peer: u32, netns: Option<i32>) -> RouteNetlinkMessage {
    let mut more = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]), LinkAttribute::Link(peer)];
    more.extend(netns.map(LinkAttribute::LinkNetNsId));
    new(link(ifindex, name, more))
}

fn address(ifindex: u32, ip: IpAddr, prefix: u8, flags: AddressFlags) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.index = ifindex;
    message.header.prefix_len = prefix;
    message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Flags(flags)];
    message
}

#[test]
fn a_link_is_read_in_full_and_only_real_changes_count() {
    let mut table = Table::default();
    assert_eq!(table.apply(&veth(5, "veth1", 2, Some(0))), Effect::Changed);
    let found = table.link(5).expect("the link");
    assert_eq!((found.name.as_str(), found.kind.as_deref(), found.mtu), ("veth1", Some("veth"), 1500));
    assert_eq!((found.peer, found.peer_netns, found.layer), (Some(2), Some(0), Layer::Ethernet));
    assert!(found.up && found.running);
    assert_eq!(table.apply(&veth(5, "veth1", 2, Some(0))), Effect::None);
    assert_eq!(table.apply(&new(link(5, "renamed", Vec::new()))), Effect::Changed);
}

#[test]
fn messages_of_a_bridge_about_its_ports_are_not_about_the_link() {
    let mut table = Table::default();
    table.apply(&veth(5, "veth1", 2, Some(0)));
    let before = table.clone();
    let mut port = link(5, "veth1", vec![LinkAttribute::Controller(3)]);
    port.header.interface_family = AddressFamily::Bridge;
    assert_eq!(table.apply(&new(port.clone())), Effect::None);
    assert_eq!(table.apply(&RouteNetlinkMessage::DelLink(port)), Effect::None);
    assert_eq!(table, before);
}

#[test]
fn a_wireless_event_does_not_wipe_the_link() {
    let mut table = Table::default();
    table.apply(&new(link(3, "wlan0", vec![LinkAttribute::Controller(9)])));
    let before = table.clone();
    let mut event = link(3, "wlan0", Vec::new());
    event.attributes.retain(|attribute| !matches!(attribute, LinkAttribute::Mtu(_)));
    assert_eq!(table.apply(&new(event.clone())), Effect::None);
    assert_eq!(table, before);
    event.header.index = 4;
    assert_eq!(table.apply(&new(event)), Effect::Resync);
}

#[test]
fn a_link_that_goes_takes_addresses_and_routes_along() {
    let mut table = Table::default();
    table.apply(&new(link(2, "eth0", Vec::new())));
    let ip = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
    table.apply(&RouteNetlinkMessage::NewAddress(address(2, ip, 24, AddressFlags::Permanent)));
    let mut route = netlink_packet_route::route::RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = 254;
    route.header.kind = netlink_packet_route::route::RouteType::Unicast;
    route.attributes.push(netlink_packet_route::route::RouteAttribute::Oif(2));
    let route = RouteNetlinkMessage::NewRoute(route);
    assert_eq!(table.apply(&route), Effect::Routes);
    assert_eq!(table.set_routes(std::slice::from_ref(&route)), Effect::Changed);
    assert_eq!(table.set_routes(std::slice::from_ref(&route)), Effect::None);
    assert!(table.has_default_route(2));

    assert_eq!(table.apply(&del(2)), Effect::Changed);
    assert!(table.link(2).is_none() && table.addresses(2).is_empty() && !table.has_default_route(2));
    assert_eq!(table.apply(&del(2)), Effect::None);
}

#[test]
fn an_index_that_is_used_again_is_another_link() {
    let mut table = Table::default();
    table.apply(&veth(5, "veth1", 2, Some(0)));
    let first = table.link(5).expect("first").serial;
    table.apply(&del(5));
    table.apply(&veth(5, "veth1", 2, Some(0)));
    assert_ne!(table.link(5).expect("second").serial, first);
}

#[test]
fn a_peer_that_moves_away_asks_for_a_resync() {
    let mut table = Table::default();
    table.apply(&veth(5, "a", 6, None));
    table.apply(&veth(6, "b", 5, None));
    assert_eq!(table.apply(&del(6)), Effect::Resync);
    // With the peer elsewhere from the start, its index means nothing here.
    let mut table = Table::default();
    table.apply(&veth(5, "a", 6, Some(1)));
    table.apply(&new(link(6, "eth6", Vec::new())));
    assert_eq!(table.apply(&del(6)), Effect::Changed);
}

#[test]
fn a_resync_keeps_what_looks_the_same() {
    let mut table = Table::default();
    table.apply(&veth(5, "a", 2, Some(0)));
    table.apply(&veth(6, "b", 2, Some(1)));
    let (a, b) = (table.link(5).expect("a").serial, table.link(6).expect("b").serial);
    let same = [veth(5, "a", 2, Some(0)), veth(6, "b", 2, Some(1))];
    assert_eq!(table.resync(&same), Effect::None);
    assert_eq!(table.resync(&[veth(5, "a", 2, Some(0)), veth(6, "c", 2, Some(1))]), Effect::Changed);
    assert_eq!(table.link(5).expect("a").serial, a);
    assert_ne!(table.link(6).expect("c").serial, b);
    assert_eq!(table.resync(&[]), Effect::Changed);
    assert_eq!(table.links().count(), 0);
}

#[test]
fn addresses_know_whether_others_may_use_them() {
    let mut table = Table::default();
    let v6 = |text: &str| IpAddr::from(text.parse::<Ipv6Addr>().expect("an address"));
    let cases = [
        (IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)), 24, AddressFlags::Permanent, true),
        (IpAddr::from(Ipv4Addr::new(169, 254, 20, 10)), 32, AddressFlags::Permanent, false),
        (IpAddr::from(Ipv4Addr::LOCALHOST), 8, AddressFlags::Permanent, false),
        (v6("2001:db8::1"), 64, AddressFlags::Permanent, true),
        (v6("2001:db8::2"), 64, AddressFlags::Tentative, false),
        (v6("2001:db8::3"), 64, AddressFlags::Tentative | AddressFlags::Dadfailed, false),
        (v6("2001:db8::4"), 64, AddressFlags::Tentative | AddressFlags::Optimistic, true),
        (v6("2001:db8::5"), 64, AddressFlags::Deprecated, true),
        (v6("fd00::1"), 64, AddressFlags::Permanent, true),
        (v6("fe80::1"), 64, AddressFlags::Permanent, false),
    ];
    for (index, (ip, prefix, flags, usable)) in (1..).zip(cases) {
        table.apply(&RouteNetlinkMessage::NewAddress(address(index, ip, prefix, flags)));
        assert_eq!(table.global_addresses(index).count(), usize::from(usable), "{ip} {flags:?}");
        assert_eq!(table.addresses(index).len(), 1);
    }
}

#[test]
fn an_address_changes_in_place_and_goes() {
    let mut table = Table::default();
    let ip = IpAddr::from("2001:db8::1".parse::<Ipv6Addr>().expect("an address"));
    let message = |flags| address(2, ip, 64, flags);
    assert_eq!(table.apply(&RouteNetlinkMessage::NewAddress(message(AddressFlags::Tentative))), Effect::Changed);
    assert_eq!(table.global_addresses(2).count(), 0);
    assert_eq!(table.apply(&RouteNetlinkMessage::NewAddress(message(AddressFlags::Permanent))), Effect::Changed);
    assert_eq!(table.apply(&RouteNetlinkMessage::NewAddress(message(AddressFlags::Permanent))), Effect::None);
    assert_eq!(table.global_addresses(2).count(), 1);
    let gone = RouteNetlinkMessage::DelAddress(message(AddressFlags::Permanent));
    assert_eq!(table.apply(&gone), Effect::ChangedAndRoutes, "routes of that source went unsaid");
    assert_eq!(table.apply(&RouteNetlinkMessage::DelAddress(message(AddressFlags::Permanent))), Effect::None);
}

#[test]
fn of_a_point_to_point_address_the_local_end_counts() {
    let (own, other) = (IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::from(Ipv4Addr::new(10, 0, 0, 2)));
    let mut message = address(2, other, 32, AddressFlags::Permanent);
    message.attributes.push(AddressAttribute::Local(own));
    let mut table = Table::default();
    table.apply(&RouteNetlinkMessage::NewAddress(message));
    assert_eq!(table.addresses(2).first().map(|address| address.ip), Some(own));
}
