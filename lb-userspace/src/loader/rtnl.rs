//! Questions and orders over rtnetlink, in the network namespace of the thread that opened the socket. It decides nothing.
#![expect(clippy::wildcard_enum_match_arm, reason = "netlink's messages and attributes are an open set")]

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::error::{Error, Result};

/// An open socket.
#[derive(Debug)]
pub(super) struct Rtnl(Socket);

/// Ids of the XDP programs on a device; the kernel allows one at each place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct OnDevice {
    /// In the driver.
    pub(super) driver: Option<u32>,
    /// In the stack.
    pub(super) stack: Option<u32>,
}

impl Rtnl {
    pub(super) fn open() -> Result<Self> {
        Socket::new(NETLINK_ROUTE)
            .and_then(|mut socket| socket.bind_auto().map(|_| Self(socket)))
            .map_err(Error::kernel("open a netlink socket"))
    }

    /// What XDP programs a device has; none if the device is gone.
    pub(super) fn xdp(&self, ifindex: u32) -> Result<OnDevice> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let answers = match self.request(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Ok(answers) => answers,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(OnDevice::default()),
            Err(error) => return Err(Error::kernel(format!("ask what XDP programs device {ifindex} has"))(error)),
        };
        let mut found = OnDevice::default();
        for answer in &answers {
            let RouteNetlinkMessage::NewLink(link) = answer else { continue };
            let xdp = link.attributes.iter().filter_map(|attribute| match attribute {
                LinkAttribute::Xdp(xdp) => Some(xdp),
                _ => None,
            });
            for attribute in xdp.flatten() {
                match attribute {
                    LinkXdp::DrvProgId(id) => found.driver = Some(*id),
                    LinkXdp::SkbProgId(id) => found.stack = Some(*id),
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// One request and its answers. Requests go one after the other, so the sequence number may stay the same.
    pub(super) fn request(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = 1;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.0.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = (answer.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(_) => Err(error.to_io()),
                        };
                    }
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) => {}
                    _ => return Err(io::Error::other("a netlink answer of an unknown kind")),
                }
            }
        }
    }
}
