//! Sockets of a peer: making, binding, connecting, with every error as a [`Failure`].

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::answer::{Cause, Failure, Step};

/// A socket towards `to` that is bound but not connected. With `mapped` it is an IPv6 socket whatever `to` is.
pub(super) fn towards(
    to: SocketAddr,
    kind: Type,
    mapped: bool,
    from: Option<SocketAddr>,
    timeout: Duration,
) -> Result<Socket, Failure> {
    let make = || {
        let domain = if mapped || to.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, kind, None)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        if let Some(from) = from {
            socket.set_reuse_address(true)?;
            socket.bind(&target(from, mapped))?;
        }
        // A timeout of zero would mean none at all.
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        socket.set_read_timeout(timeout)?;
        socket.set_write_timeout(timeout)?;
        Ok(socket)
    };
    make().map_err(|error| failure(Step::Socket, &error))
}

/// The address to hand to the kernel.
pub(super) fn target(address: SocketAddr, mapped: bool) -> SockAddr {
    match address.ip() {
        IpAddr::V4(v4) if mapped => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()).into(),
        IpAddr::V4(_) | IpAddr::V6(_) => address.into(),
    }
}

/// An error of one step as what the test wants to know of it.
pub(super) fn failure(step: Step, error: &io::Error) -> Failure {
    let cause = match (error.kind(), error.raw_os_error()) {
        // A receive or send that ran into the socket's own time limit.
        (io::ErrorKind::WouldBlock, _) | (io::ErrorKind::TimedOut, None) => Cause::Timeout,
        (io::ErrorKind::UnexpectedEof, _) => Cause::Closed,
        (_, Some(errno)) => Cause::Errno(errno),
        (_, None) => Cause::Wrong(error.to_string()),
    };
    Failure { step, cause }
}

/// Canonical form of an address: v4-mapped ones as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// getpeername.
pub(super) fn peer(socket: &Socket) -> Option<SocketAddr> {
    socket.peer_addr().ok().and_then(|a| a.as_socket()).map(canonical)
}

/// getsockname.
pub(super) fn local(socket: &Socket) -> Option<SocketAddr> {
    socket.local_addr().ok().and_then(|a| a.as_socket()).map(canonical)
}
