//! A blocking rtnetlink socket that belongs to one network namespace, with the few requests a lab needs.
//!
//! A socket keeps the namespace that it was opened in, so any thread may use it afterwards. It never dumps or
//! follows anything: the lab knows what it made.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
    sync::Mutex,
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A link-layer address.
pub type Mac = [u8; 6];

/// A socket to the routing part of one namespace's kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: Mutex<Conversation>,
}

#[derive(Debug)]
struct Conversation {
    socket: Socket,
    sequence: u32,
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Interface name.
    pub name: &'a str,
    /// Namespace to put it into; the socket's own without one.
    pub netns: Option<BorrowedFd<'a>>,
    /// Index of the bridge (in the socket's own namespace) to enslave it to.
    pub bridge: Option<u32>,
    /// Link-layer address; the kernel draws one without it.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
}

/// A static VXLAN device as flannel makes it: no learning, no group.
#[derive(Clone, Copy, Debug)]
pub struct VxlanDevice<'a> {
    /// Interface name.
    pub name: &'a str,
    /// Link-layer address.
    pub mac: Mac,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port in host order.
    pub port: u16,
    /// Index of the underlay device.
    pub underlay: u32,
    /// Source address of the outer packets; its family is that of the underlay.
    pub local: IpAddr,
    /// MTU in bytes.
    pub mtu: u32,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("open a netlink route socket")?;
        socket.bind_auto().context("bind a netlink route socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("connect a netlink route socket to the kernel")?;
        Ok(Self { socket: Mutex::new(Conversation { socket, sequence: 0 }) })
    }

    /// Sends one request and waits for the kernel's answer: the reply, if there is one before the acknowledgement.
    fn request(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Option<RouteNetlinkMessage>> {
        let mut conversation = self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        conversation.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = conversation.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        conversation.socket.send(&bytes, 0).context("send to netlink")?;

        let mut reply = None;
        loop {
            let (bytes, _) = conversation.socket.recv_from_full().context("receive from netlink")?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).context("parse netlink")?;
                let length = (answer.header.length as usize).next_multiple_of(4).min(rest.len());
                if length == 0 {
                    bail!("netlink sent a message of length 0");
                }
                rest = &rest[length..];
                if answer.header.sequence_number != conversation.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(reply),
                        Some(_) => return Err(error.to_io().into()),
                    },
                    NetlinkPayload::InnerMessage(inner) => reply = Some(inner),
                    NetlinkPayload::Done(_) => return Ok(reply),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) => {}
                    other => bail!("unexpected netlink answer {other:?}"),
                }
            }
        }
    }

    /// Index of the link `name`.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn index(&self, name: &str) -> Result<u32> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        match self.request(RouteNetlinkMessage::GetLink(message), 0).with_context(|| format!("find link {name}"))? {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(link.header.index),
            other => bail!("find link {name}: netlink answered {other:?}"),
        }
    }

    /// Makes a bridge, up. IPv6 snooping and STP stay as the kernel's defaults.
    ///
    /// # Errors
    /// The name is taken, or the kernel has no bridges.
    pub fn add_bridge(&self, name: &str, mac: Mac, mtu: u32) -> Result<u32> {
        let mut message = up_link(name, Some(mac), mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.create(message).with_context(|| format!("add bridge {name}"))?;
        self.index(name)
    }

    /// Makes a veth pair. `own` comes up, `peer` does not (its namespace brings it up).
    ///
    /// # Errors
    /// A name is taken, or the bridge is not there.
    pub fn add_veth(&self, own: VethEnd<'_>, peer: VethEnd<'_>) -> Result<()> {
        let mut other = LinkMessage::default();
        other.attributes.push(LinkAttribute::IfName(peer.name.into()));
        other.attributes.push(LinkAttribute::Mtu(peer.mtu));
        other.attributes.extend(peer.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        other.attributes.extend(peer.netns.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
        let mut message = up_link(own.name, own.mac, own.mtu);
        message.attributes.extend(own.bridge.map(LinkAttribute::Controller));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        self.create(message).with_context(|| format!("add veth {} with peer {}", own.name, peer.name))
    }

    /// Makes a VXLAN device, up.
    ///
    /// # Errors
    /// The name is taken, or the kernel has no VXLAN.
    pub fn add_vxlan(&self, device: VxlanDevice<'_>) -> Result<u32> {
        let mut message = up_link(device.name, Some(device.mac), device.mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vec![
                InfoVxlan::Id(device.vni),
                InfoVxlan::Link(device.underlay),
                match device.local {
                    IpAddr::V4(local) => InfoVxlan::Local(local),
                    IpAddr::V6(local) => InfoVxlan::Local6(local),
                },
                InfoVxlan::Port(device.port),
                InfoVxlan::Learning(false),
            ])),
        ]));
        self.create(message).with_context(|| format!("add vxlan {}", device.name))?;
        self.index(device.name)
    }

    /// Makes the link a port of the bridge.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn enslave(&self, index: u32, bridge: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Controller(bridge));
        self.request(RouteNetlinkMessage::SetLink(message), 0)
            .with_context(|| format!("make link {index} a port of bridge {bridge}"))?;
        Ok(())
    }

    /// Sets a bridge port's hairpin mode: whether a frame may leave by the port it came in by.
    ///
    /// # Errors
    /// The link is not a bridge port.
    pub fn set_hairpin(&self, index: u32, on: bool) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(on)])),
        ]));
        self.request(RouteNetlinkMessage::NewLink(message), 0)
            .with_context(|| format!("set hairpin of link {index}"))?;
        Ok(())
    }

    /// Brings a link up or down.
    ///
    /// # Errors
    /// There is no such link.
    pub fn set_up(&self, name: &str, up: bool) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::NewLink(message), 0)
            .with_context(|| format!("set link {name} {}", if up { "up" } else { "down" }))?;
        Ok(())
    }

    /// Deletes a link; the other end of a veth pair goes with it.
    ///
    /// # Errors
    /// There is no such link.
    pub fn delete_link(&self, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        self.request(RouteNetlinkMessage::DelLink(message), 0).with_context(|| format!("delete link {name}"))?;
        Ok(())
    }

    /// Gives a link an address with its prefix. IPv6 addresses are usable at once (no duplicate address detection).
    ///
    /// # Errors
    /// The link has the address, or IPv6 is off.
    pub fn add_address(&self, index: u32, address: IpNet) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Address(address.addr()));
        match address {
            IpNet::V4(net) if net.prefix_len() < 31 => {
                message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
            }
            IpNet::V4(_) => {}
            IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
        }
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("add address {address} to link {index}"))?;
        Ok(())
    }

    /// Adds or replaces the route to `to`. With `on_link`, the gateway need not be covered by an address of the link.
    ///
    /// # Errors
    /// The gateway cannot be reached through the link.
    pub fn replace_route(&self, to: IpNet, via: IpAddr, index: Option<u32>, on_link: bool) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(to.addr());
        message.header.destination_prefix_length = to.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        if on_link {
            message.header.flags = RouteFlags::Onlink;
        }
        if to.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(to.network().into()));
        }
        message.attributes.push(RouteAttribute::Gateway(via.into()));
        message.attributes.extend(index.map(RouteAttribute::Oif));
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("route {to} via {via}"))?;
        Ok(())
    }

    /// A permanent neighbour: `address` is at `mac` behind the link.
    ///
    /// # Errors
    /// There is no such link.
    pub fn add_neighbour(&self, index: u32, address: IpAddr, mac: Mac) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("add neighbour {address} on link {index}"))?;
        Ok(())
    }

    /// A permanent forwarding entry of a VXLAN device: frames to `mac` are sent to the node `remote`.
    ///
    /// # Errors
    /// The link is not a VXLAN device of that address family.
    pub fn add_forwarding(&self, index: u32, mac: Mac, remote: IpAddr) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        message.attributes.push(NeighbourAttribute::Destination(match remote {
            IpAddr::V4(remote) => NeighbourAddress::Inet(remote),
            IpAddr::V6(remote) => NeighbourAddress::Inet6(remote),
        }));
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("add forwarding entry to {remote} on link {index}"))?;
        Ok(())
    }

    fn create(&self, message: LinkMessage) -> Result<()> {
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)?;
        Ok(())
    }
}

/// The default route of `address`'s family.
#[must_use]
pub fn default_route(address: IpAddr) -> IpNet {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::new_assert(any, 0)
}

fn up_link(name: &str, mac: Option<Mac>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::IfName(name.into()));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
