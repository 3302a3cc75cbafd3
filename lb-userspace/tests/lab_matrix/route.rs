//! What a route says on the way to a backend: that a packet is too big, that it has lived too long. The client must hear
//! it about the packet that *it* sent, so its kernel can tell whose it was.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use lb_lab::{Host, LabConfig, Network};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use crate::{
    cell::{Backend, Call, Cell, Client, Family, Mode, NodeId, Policy, Port, Ranges, Target, Variant},
    world::World,
};

const PATIENT: Duration = Duration::from_secs(2);
/// Largest packets of pods in a VXLAN lab with IPv6.
const POD_MTU: usize = 1430;

#[test]
fn host_gw() {
    check(LabConfig { rp_filter: 1, ..LabConfig::default() });
}

#[test]
fn vxlan() {
    check(LabConfig { network: Network::Vxlan, ..LabConfig::default() });
}

/// A client, what it asks, who answers, and how many routers are between them.
const WAYS: [(Client, Target, &[Backend], u8); 4] = [
    (Client::Outside, Target::NodePort(NodeId::B), &[Backend::PodB], 1),
    (Client::Outside, Target::NodePort(NodeId::A), &[Backend::PodB], 2),
    (Client::PodA, Target::ClusterIp, &[Backend::PodB], 2),
    (Client::PodA, Target::ClusterIp, &[Backend::PodA], 1),
];

fn check(config: LabConfig) {
    let world = World::new(config, Mode::Packets);
    let mut report = Vec::new();
    for (client, target, backends, routers) in WAYS {
        for family in Family::ALL {
            let service = Variant { backends, policy: Policy::Cluster, ranges: Ranges::None };
            let cell = Cell { client, target, port: Port::Service, call: Call::Connected, family, service };
            let to = world.destination(&cell);
            let netns = world.place(client).netns();
            let mut note = |what: &str, result: Result<(), String>| {
                report.extend(result.err().map(|fault| format!("{cell}: {what}: {fault}")));
            };
            note("lives long enough", netns.enter(|| Ok(arrives_after(to, routers + 1))).unwrap());
            for hops in 1..=routers {
                note("lived too long", netns.enter(|| Ok(dies_after(to, hops))).unwrap());
            }
            if world.setup.network == Network::Vxlan && client == Client::Outside {
                note("too big", netns.enter(|| Ok(finds_mtu(to))).unwrap());
            }
        }
    }
    assert!(report.is_empty(), "\n{}", report.join("\n"));
}

/// A socket that hears of ICMP errors to what it sent, and waits a while for answers.
fn connected(to: SocketAddr) -> UdpSocket {
    let any: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENT)).unwrap();
    if to.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap();
    }
    socket
}

fn with_hops(to: SocketAddr, hops: u8) -> io::Result<usize> {
    let socket = connected(to);
    if to.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4Ttl, &i32::from(hops)).unwrap();
    } else {
        setsockopt(&socket, sockopt::Ipv6Ttl, &i32::from(hops)).unwrap();
    }
    socket.send(b"1")?;
    socket.recv(&mut [0; 2048])
}

fn dies_after(to: SocketAddr, hops: u8) -> Result<(), String> {
    match with_hops(to, hops) {
        // What the kernel makes of "time exceeded".
        Err(error) if error.raw_os_error() == Some(Errno::EHOSTUNREACH as i32) => Ok(()),
        other => Err(format!("after {hops} hops: {other:?}")),
    }
}

fn arrives_after(to: SocketAddr, hops: u8) -> Result<(), String> {
    with_hops(to, hops).map(drop).map_err(|error| format!("after {hops} hops: {error}"))
}

/// Sends what the path is believed to take until an answer comes; each ICMP error corrects the belief.
fn finds_mtu(to: SocketAddr) -> Result<(), String> {
    const HEADERS: [usize; 2] = [20 + 8, 40 + 8];
    let socket = connected(to);
    never_fragment(&socket, to);
    let headers = HEADERS[usize::from(to.is_ipv6())];
    let mut believed = Vec::new();
    for _ in 0..5 {
        let mtu = mtu(&socket, to);
        believed.push(mtu);
        let question = format!("{:<1$}", 1, mtu - headers);
        let answer = socket.send(question.as_bytes()).and_then(|_| socket.recv(&mut [0; 2048]));
        if answer.is_ok() {
            return if mtu == POD_MTU { Ok(()) } else { Err(format!("answered at {believed:?}")) };
        }
    }
    Err(format!("no answer at {believed:?}"))
}

/// Larger packets than the path takes are an error, and none is fragmented (ip(7), ipv6(7)).
fn never_fragment(socket: &UdpSocket, to: SocketAddr) {
    let (level, option, value) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
    };
    let (value, length) = (core::ptr::from_ref(&value), size_of_val(&value) as libc::socklen_t);
    // SAFETY: the kernel reads `length` bytes of an integer that lives until the call returns.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.cast(), length) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// What the kernel believes that the path takes, in bytes.
fn mtu(socket: &UdpSocket, to: SocketAddr) -> usize {
    let (level, option) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    let into = core::ptr::from_mut(&mut value);
    // SAFETY: the kernel writes `length` bytes into an integer that lives until the call returns.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, into.cast(), &mut length) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    usize::try_from(value).unwrap()
}
