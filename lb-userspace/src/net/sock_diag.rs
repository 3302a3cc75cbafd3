//! UDP sockets of this network namespace: lists the connected ones, and destroys single ones (`SOCK_DESTROY`, Linux 4.9,
//! commit 5d77dca82839, where the kernel was built with `CONFIG_INET_DIAG_DESTROY`). It never decides which.

use std::{
    collections::{BTreeSet, HashSet},
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

/// A connected UDP socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectedUdp {
    /// `AF_INET` or `AF_INET6`; an IPv6 socket may be connected to an IPv4 peer.
    family: u8,
    id: SocketId,
}

impl ConnectedUdp {
    /// The kernel's number for the socket, which is `bpf_get_socket_cookie`'s as well.
    #[must_use]
    pub const fn cookie(&self) -> u64 {
        // Two words, the lower half first (`sock_diag_save_cookie`).
        let [a, b, c, d, e, f, g, h] = self.id.cookie;
        let (low, high) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
        low as u64 | (high as u64) << 32
    }

    /// The peer that the kernel sends to; an IPv4 one in its own form.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.id.destination_address.to_canonical(), self.id.destination_port)
    }
}

impl fmt::Display for ConnectedUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = SocketAddr::new(self.id.source_address.to_canonical(), self.id.source_port);
        write!(f, "UDP {local} to {}", self.peer())
    }
}

/// The connected UDP sockets of this thread's network namespace: those whose peer is one of `peers`, or all.
///
/// # Errors
/// When the kernel cannot be asked; `ENOENT` is a kernel without the module `udp_diag`.
pub fn connected_udp(peers: Option<&HashSet<SocketAddr>>) -> io::Result<Vec<ConnectedUdp>> {
    let ports: BTreeSet<u16> = peers.into_iter().flatten().map(SocketAddr::port).collect();
    // The kernel's own filter knows one port; several are cheaper to tell apart here than to ask for in turn.
    let port = if ports.len() == 1 { ports.first().copied() } else { None };
    let has_v4 = peers.is_none_or(|peers| peers.iter().any(SocketAddr::is_ipv4));
    let socket = open()?;
    let mut found = Vec::new();
    // IPv6 sockets may be connected to mapped addresses.
    for family in if has_v4 { &[AF_INET, AF_INET6][..] } else { &[AF_INET6][..] } {
        let mut id = SocketId::new_v6();
        id.destination_port = port.unwrap_or(0);
        let request = InetRequest {
            family: *family,
            protocol: IPPROTO_UDP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::ESTABLISHED,
            socket_id: id,
        };
        send(&socket, SockDiagMessage::InetRequest(request), NLM_F_DUMP)?;
        receive::<SockDiagMessage>(&socket, |message| {
            if let SockDiagMessage::InetResponse(response) = message {
                let socket = ConnectedUdp { family: response.header.family, id: response.header.socket_id };
                if peers.is_none_or(|peers| peers.contains(&socket.peer())) {
                    found.push(socket);
                }
            }
        })?;
    }
    Ok(found)
}

/// Destroys a socket: its owner gets ECONNABORTED from the call that waits on it, or from the next one, and the socket
/// is connected to nobody. False if it is gone or connected to another peer by now.
///
/// # Errors
/// `EOPNOTSUPP` where the kernel has no `CONFIG_INET_DIAG_DESTROY`.
pub fn destroy(socket: &ConnectedUdp) -> io::Result<bool> {
    let request = InetRequest {
        family: socket.family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED,
        socket_id: socket.id.clone(),
    };
    let diag = open()?;
    send(&diag, SockDiagDestroy::new(SockDiagMessage::InetRequest(request)), NLM_F_ACK)?;
    match receive::<SockDiagMessage>(&diag, |_| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether sockets can be destroyed here: tries it on one of its own.
///
/// # Errors
/// What the kernel answered.
pub fn probe_destroy() -> io::Result<()> {
    let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = own.local_addr()?;
    own.connect(address)?;
    let listed = connected_udp(Some(&HashSet::from([address])))?;
    let is_own = |socket: &&ConnectedUdp| {
        socket.id.source_port == address.port() && socket.id.source_address == IpAddr::V4(Ipv4Addr::LOCALHOST)
    };
    let Some(own) = listed.iter().find(is_own) else {
        return Err(io::Error::other("the kernel does not list a socket of our own"));
    };
    if destroy(own)? { Ok(()) } else { Err(io::Error::other("the kernel does not find a socket of our own")) }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    Ok(socket)
}

fn send<M: NetlinkSerializable>(socket: &Socket, message: M, flags: u16) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &NetlinkAddr::new(0, 0), 0).map(drop)
}

/// Reads one answer, to its end or its error.
fn receive<M: NetlinkDeserializable>(socket: &Socket, mut each: impl FnMut(M)) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return error.code.map_or(Ok(()), |_| Err(error.to_io())),
                NetlinkPayload::InnerMessage(message) => each(message),
                NetlinkPayload::Overrun(_) => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
                NetlinkPayload::Noop | _ => {}
            }
            // Messages are aligned to four bytes.
            let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
            rest = &rest[length..];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    /// A server, and a client that is connected to it.
    fn pair(server: IpAddr, client: IpAddr) -> (UdpSocket, UdpSocket, SocketAddr) {
        let server = UdpSocket::bind((server, 0)).expect("bound");
        let at = server.local_addr().expect("an address");
        let client = UdpSocket::bind((client, 0)).expect("bound");
        let to = if client.local_addr().expect("an address").is_ipv6() && at.is_ipv4() {
            let IpAddr::V4(ip) = at.ip() else { unreachable!() };
            SocketAddr::new(ip.to_ipv6_mapped().into(), at.port())
        } else {
            at
        };
        client.connect(to).expect("connected");
        (server, client, at)
    }

    #[test]
    fn connected_sockets_are_found_by_their_peer_and_with_their_cookie() {
        let v4 = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (v6, any6) = (IpAddr::from(Ipv6Addr::LOCALHOST), IpAddr::from(Ipv6Addr::UNSPECIFIED));
        let pairs = [pair(v4, v4), pair(v6, v6), pair(v4, any6)];
        let peers: HashSet<SocketAddr> = pairs.iter().map(|(_, _, at)| *at).collect();
        for peers in [Some(&peers), None] {
            let found = connected_udp(peers).expect("listed");
            for (_, client, at) in &pairs {
                let own: Vec<&ConnectedUdp> = found.iter().filter(|socket| socket.peer() == *at).collect();
                assert_eq!(own.len(), 1, "{at}: {found:?}");
                assert_eq!(own[0].cookie(), socket2::SockRef::from(client).cookie().expect("a cookie"));
            }
            assert!(peers.is_none() || found.len() == 3, "{found:?}");
        }
        let (_, _, at) = &pairs[2];
        let one = connected_udp(Some(&HashSet::from([*at]))).expect("listed");
        assert_eq!(one.len(), 1, "{one:?}");
        let nobody = SocketAddr::new(v4, 9);
        assert_eq!(connected_udp(Some(&HashSet::from([nobody]))).expect("listed"), []);
    }
}
