//! The rules that expected results are computed from: which path a call takes, what it then shows on both ends, and how
//! even a spread has to be. They restate the design's table of paths; nothing here asks berrylb.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_lab::{
    Host, Node, Place, Pod,
    peer::{Answers, TcpAsk, UdpAsk},
};

/// Which paths the agents are told to serve.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    /// Sockets only.
    Socket,
    /// Packets of pods only.
    Packet,
    /// Both, as by default.
    Both,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Socket, Self::Packet, Self::Both];

    /// The agent's flags.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Socket => &["--packet-path", "off"],
            Self::Packet => &["--socket-lb", "off"],
            Self::Both => &[],
        }
    }
}

/// How an application reaches its server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Call {
    Tcp,
    /// UDP with connect and send.
    Connected,
    /// UDP with sendto.
    Unconnected,
}

/// A client: where it runs decides its path and what servers see of it.
#[derive(Clone, Copy)]
pub(crate) enum Client<'a> {
    Pod(&'a Pod),
    Node(&'a Node),
}

/// Where a call is translated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Path {
    Socket,
    Packet,
    /// Nowhere: it leaves the node as it is, and nobody out there has the address.
    None,
}

impl Client<'_> {
    pub(crate) fn place(&self) -> &Place {
        match self {
            Self::Pod(pod) => pod.place(),
            Self::Node(node) => node.place(),
        }
    }

    /// Name of the node whose agent serves it.
    pub(crate) fn node_name(&self) -> &str {
        match self {
            Self::Pod(pod) => pod.node_name(),
            Self::Node(node) => node.name(),
        }
    }

    /// `docs/datapath.md`: connected UDP of pods takes the packet path, all else the socket path;
    /// a node's own sockets have no packet path.
    pub(crate) fn path(&self, mode: Mode, call: Call) -> Path {
        let pod = matches!(self, Self::Pod(_));
        let socket_is_for_it = !(pod && call == Call::Connected);
        match mode {
            Mode::Socket | Mode::Both if socket_is_for_it => Path::Socket,
            Mode::Packet | Mode::Both if pod => Path::Packet,
            Mode::Socket | Mode::Packet | Mode::Both => Path::None,
        }
    }

    /// Whether a server on another address may see `client` as the source: a pod keeps its own address on both paths;
    /// a node shows the address of the device that leads to the server.
    pub(crate) fn is_seen_as(&self, client: IpAddr) -> bool {
        match self {
            Self::Pod(pod) => client == pod.ip_like(client),
            Self::Node(node) => {
                let gateway = node.gateway();
                let bridge: IpAddr = if client.is_ipv4() { gateway.v4.addr().into() } else { gateway.v6.addr().into() };
                client == bridge || node.ips().contains(&client) || is_overlay_address(node, client)
            }
        }
    }
}

/// flannel gives its overlay device the first address of the node's pod subnet.
fn is_overlay_address(node: &Node, client: IpAddr) -> bool {
    let gateway = node.gateway();
    !node.overlays().is_empty() && [gateway.v4.network().into(), gateway.v6.network().into()].contains(&client)
}

/// How a question is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Each with a socket of its own.
    pub(crate) count: u32,
    /// IPv6 sockets to the v4-mapped address.
    pub(crate) mapped: bool,
    pub(crate) timeout_ms: u64,
}

/// Long enough for any answer on a machine that is busy with something else.
pub(crate) const PATIENT_MS: u64 = 5_000;
/// Long enough to tell that no answer comes.
pub(crate) const SHORT_MS: u64 = 300;

impl Manner {
    pub(crate) fn times(count: u32) -> Self {
        Self { count, mapped: false, timeout_ms: PATIENT_MS }
    }

    /// Once, and no answer is expected.
    pub(crate) fn in_vain() -> Self {
        Self { count: 1, mapped: false, timeout_ms: SHORT_MS }
    }
}

impl Call {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Connected, Self::Unconnected];

    /// Asks `count` times, but no more after a first question in vain: a test that fails does so soon.
    pub(crate) fn ask(self, client: &Place, to: SocketAddr, manner: Manner) -> Answers {
        let mut answers = self.ask_all(client, to, Manner { count: 1, ..manner });
        if manner.count > 1 && answers.failures().is_empty() {
            answers.0.extend(self.ask_all(client, to, Manner { count: manner.count - 1, ..manner }).0);
        }
        answers
    }

    fn ask_all(self, client: &Place, to: SocketAddr, manner: Manner) -> Answers {
        let Manner { count, mapped, timeout_ms } = manner;
        let udp = |connect| UdpAsk { count, connect, fresh: true, mapped, timeout_ms, ..UdpAsk::to(to) };
        let answers = match self {
            Self::Tcp => client.ask(TcpAsk { count, mapped, timeout_ms, ..TcpAsk::to(to) }),
            Self::Connected => client.ask(udp(true)),
            Self::Unconnected => client.ask(udp(false)),
        };
        answers.unwrap()
    }

    /// Asserts that the application saw only the frontend: by getpeername on connected sockets, else by recvfrom.
    pub(crate) fn assert_shows(self, answers: &Answers, frontend: SocketAddr) {
        for exchange in &answers.0 {
            match self {
                Self::Tcp | Self::Connected => assert_eq!(exchange.peer, Some(frontend), "getpeername: {exchange:?}"),
                Self::Unconnected => assert_eq!(exchange.from, Some(frontend), "recvfrom: {exchange:?}"),
            }
        }
    }
}

/// Asserts that a random choice among these three would spread like this with a probability above 1e-6 (Pearson's χ²;
/// with two degrees of freedom its tail is exp(-χ²/2)).
pub(crate) fn assert_spread(names: &BTreeMap<String, u64>, three: [&str; 3]) {
    let expected = names.values().sum::<u64>() as f64 / 3.0;
    let deviation = |name: &str| (names.get(name).copied().unwrap_or(0) as f64 - expected).powi(2) / expected;
    let p = (-three.into_iter().map(deviation).sum::<f64>() / 2.0).exp();
    assert!(names.keys().all(|name| three.contains(&name.as_str())), "somebody else answered: {names:?}");
    assert!(p > 1e-6, "p = {p:e} for {names:?}");
}
