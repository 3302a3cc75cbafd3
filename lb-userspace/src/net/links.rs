//! The table of links and addresses, and how netlink messages change it. Pure: no I/O, no clock.
//!
//! Notifications carry the whole state of their object, so that replaying old ones after a dump ends in the right
//! state. Those that do not (see `Table::new_link`) are merged.
#![expect(clippy::wildcard_enum_match_arm, reason = "netlink's messages and attributes are an open set")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{InfoBridge, InfoData, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
};

use super::routes::{self, Route};

/// Kind of link-layer header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layer {
    /// 14 bytes of Ethernet.
    Ethernet,
    /// The loopback device (which also has 14 bytes, all zero).
    Loopback,
    /// None, or none that a tc program sees: tunnels, tun, wireguard, ppp.
    None,
}

/// A network device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Kind, such as `veth` or `bridge`; `None` for hardware.
    pub kind: Option<String>,
    /// Index of the bridge, bond or other device that it is a port of.
    pub master: Option<u32>,
    /// Index of the device below or at the other end.
    pub peer: Option<u32>,
    /// Set if that device lives in another network namespace.
    pub peer_netns: Option<i32>,
    /// A bridge that keeps VLANs apart.
    pub filters_vlans: bool,
    /// Largest packet without link-layer header, in bytes.
    pub mtu: u32,
    /// Link-layer address, as many bytes as the kind has.
    pub mac: Vec<u8>,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier and is ready for traffic.
    pub running: bool,
    /// Link-layer header.
    pub layer: Layer,
    /// Tells this device from an earlier one that had the same index.
    pub serial: u64,
}

impl Link {
    /// Whether it is a bridge.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }
}

/// An address of a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    /// The node's own address.
    pub ip: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// Whether its scope is global.
    pub global: bool,
    /// IPv6: not usable (yet): tentative, or a duplicate was found.
    pub tentative: bool,
    /// IPv6: not for new connections of the node's own.
    pub deprecated: bool,
}

/// What a message did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Nothing that anyone looks at.
    None,
    /// The table changed.
    Changed,
    /// Routes must be read anew.
    Routes,
    /// The table changed, and routes may have gone with that, of which the kernel says nothing.
    ChangedAndRoutes,
    /// Everything must be read anew.
    Resync,
}

/// Links, addresses and routes of one network namespace.
#[derive(Clone, Debug, Default)]
pub struct Table {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<u32, Vec<Address>>,
    routes: BTreeSet<Route>,
    next_serial: u64,
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        let Self { links, addresses, routes, next_serial: _ } = self;
        (links, addresses, routes) == (&other.links, &other.addresses, &other.routes)
    }
}

impl Table {
    /// All links, by index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// One link.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    /// The bridge that a link is a port of.
    #[must_use]
    pub fn bridge_of(&self, ifindex: u32) -> Option<u32> {
        let master = self.link(self.link(ifindex)?.master?)?;
        master.is_bridge().then_some(master.ifindex)
    }

    /// Addresses of a link, in the kernel's order.
    #[must_use]
    pub fn addresses(&self, ifindex: u32) -> &[Address] {
        self.addresses.get(&ifindex).map_or(&[], Vec::as_slice)
    }

    /// Addresses of a link that others may use: of global scope, no link-local, no loopback, none that is tentative.
    pub fn global_addresses(&self, ifindex: u32) -> impl Iterator<Item = &Address> {
        self.addresses(ifindex).iter().filter(|address| address.global && !address.tentative)
    }

    /// Whether a default route of the main table leaves through a link.
    #[must_use]
    pub fn has_default_route(&self, ifindex: u32) -> bool {
        self.routes.iter().any(|route| route.ifindex == ifindex && route.is_default())
    }

    /// Routes of the main table, by destination; one of several next hops is several.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// Replaces the routes by those among `messages`, the dump of a routing table.
    pub fn set_routes(&mut self, messages: &[RouteNetlinkMessage]) -> Effect {
        let found = messages.iter().flat_map(routes::next_hops).collect();
        let changed = found != self.routes;
        self.routes = found;
        if changed { Effect::Changed } else { Effect::None }
    }

    /// Replaces everything by what the dump of links and addresses in `messages` says, except for the routes.
    /// A link that looks as before counts as the same.
    pub fn resync(&mut self, messages: &[RouteNetlinkMessage]) -> Effect {
        let mut new = Self { next_serial: self.next_serial, ..Self::default() };
        for message in messages {
            new.apply(message);
        }
        new.routes = self.routes.iter().copied().filter(|route| new.links.contains_key(&route.ifindex)).collect();
        for (ifindex, link) in &mut new.links {
            if let Some(old) = self.links.get(ifindex)
                && (&old.name, &old.kind, &old.mac) == (&link.name, &link.kind, &link.mac)
            {
                link.serial = old.serial;
            }
        }
        let changed = new != *self;
        *self = new;
        if changed { Effect::Changed } else { Effect::None }
    }

    /// Takes in one message.
    pub fn apply(&mut self, message: &RouteNetlinkMessage) -> Effect {
        match message {
            RouteNetlinkMessage::NewLink(message) => self.new_link(message),
            RouteNetlinkMessage::DelLink(message) => self.del_link(message),
            RouteNetlinkMessage::NewAddress(message) => self.new_address(message),
            RouteNetlinkMessage::DelAddress(message) => self.del_address(message),
            RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
                if routes::is_followed(message) { Effect::Routes } else { Effect::None }
            }
            _ => Effect::None,
        }
    }

    fn new_link(&mut self, message: &LinkMessage) -> Effect {
        // A bridge tells of its ports with messages of its own family that hold little; the device's own message about
        // the change of master comes as well.
        if message.header.interface_family != AddressFamily::Unspec {
            return Effect::None;
        }
        let ifindex = message.header.index;
        let mut link = Link {
            ifindex,
            name: String::new(),
            kind: None,
            master: None,
            peer: None,
            peer_netns: None,
            filters_vlans: false,
            mtu: 0,
            mac: Vec::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            running: message.header.flags.contains(LinkFlags::LowerUp),
            layer: match message.header.link_layer_type {
                LinkLayerType::Ether => Layer::Ethernet,
                LinkLayerType::Loopback => Layer::Loopback,
                _ => Layer::None,
            },
            serial: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::Controller(index) => link.master = Some(*index).filter(|index| *index != 0),
                LinkAttribute::Link(index) => link.peer = Some(*index).filter(|index| *index != 0),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(*id),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                            LinkInfo::Data(InfoData::Bridge(data)) => {
                                link.filters_vlans = data.contains(&InfoBridge::VlanFiltering(true));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        // Wireless events come as link messages that hold a name and the event, and nothing of the link's state. The
        // MTU is the sign: every real one has it.
        if link.mtu == 0 && !message.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::Mtu(_))) {
            return if self.links.contains_key(&ifindex) { Effect::None } else { Effect::Resync };
        }
        link.serial = match self.links.get(&ifindex) {
            Some(old) => old.serial,
            None => {
                self.next_serial += 1;
                self.next_serial
            }
        };
        if self.links.get(&ifindex) == Some(&link) {
            return Effect::None;
        }
        let up = link.up;
        let old = self.links.insert(ifindex, link);
        if old.is_some_and(|old| old.up && !up) { Effect::ChangedAndRoutes } else { Effect::Changed }
    }

    fn del_link(&mut self, message: &LinkMessage) -> Effect {
        // With the bridge's family it means: no longer a port of that bridge.
        if message.header.interface_family != AddressFamily::Unspec {
            return Effect::None;
        }
        let ifindex = message.header.index;
        self.addresses.remove(&ifindex);
        self.routes.retain(|route| route.ifindex != ifindex);
        if self.links.remove(&ifindex).is_none() {
            return Effect::None;
        }
        // One end of a veth that is moved to another namespace is a removal here, and the kernel says nothing of what
        // it means for the other end.
        if self.links.values().any(|link| link.peer == Some(ifindex) && link.peer_netns.is_none()) {
            return Effect::Resync;
        }
        Effect::Changed
    }

    fn new_address(&mut self, message: &AddressMessage) -> Effect {
        let Some(address) = address(message) else { return Effect::None };
        let addresses = self.addresses.entry(message.header.index).or_default();
        match addresses.iter_mut().find(|known| known.ip == address.ip && known.prefix == address.prefix) {
            Some(known) if *known == address => Effect::None,
            Some(known) => {
                *known = address;
                Effect::Changed
            }
            None => {
                addresses.push(address);
                Effect::Changed
            }
        }
    }

    fn del_address(&mut self, message: &AddressMessage) -> Effect {
        let Some(address) = address(message) else { return Effect::None };
        let Some(addresses) = self.addresses.get_mut(&message.header.index) else { return Effect::None };
        let before = addresses.len();
        addresses.retain(|known| known.ip != address.ip || known.prefix != address.prefix);
        let changed = addresses.len() != before;
        if addresses.is_empty() {
            self.addresses.remove(&message.header.index);
        }
        if changed { Effect::ChangedAndRoutes } else { Effect::None }
    }
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut other) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            // IPv4 has its own address here, and the other end's in IFA_ADDRESS; IPv6 mostly has only the latter.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let ip = local.or(other)?;
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_loopback(),
    };
    Some(Address {
        ip,
        prefix: message.header.prefix_len,
        global: message.header.scope == AddressScope::Universe && !link_local,
        tentative: flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic)
            || flags.contains(AddressFlags::Dadfailed),
        deprecated: flags.contains(AddressFlags::Deprecated),
    })
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
