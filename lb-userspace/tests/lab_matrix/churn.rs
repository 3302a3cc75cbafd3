//! Endpoints change a hundred times a second while many clients ask on all paths, over TCP and UDP: nobody is sent to a
//! backend that left, no new connection fails, and connections that are open stay so. `BERRYLB_CHURN_SECONDS=60` runs it
//! for longer.

use std::{
    collections::BTreeMap,
    env, fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use ipnet::IpNet;
use lb_lab::{
    Agent, Folder, Host, Lab, LabConfig, Node, Pair, Peer, Pending, Place, Pod,
    objects::{self, Endpoint, Port, Service},
    peer::{Failure, Held, Hold, HttpLoad, Load, Open, Serve, Transport},
};

use crate::world::{BERRYLB, counter};

const SERVICES: usize = 25;
/// Backends of each Service.
const BACKENDS: usize = 8;
const CHANGES_PER_SECOND: u32 = 100;
/// Of each client, between two connections. 200 clients make 1,000 connections in a second.
const PAUSE_MS: u64 = 200;
/// How long the datapath may take to follow a change here, on a machine that is busy with everything else of this test.
const FOLLOW_MS: u64 = 3_000;
/// First port of the backends, by Service; the first NodePort.
const TARGETS: u16 = 8000;
const NODE_PORTS: u16 = 31000;
const PORT: u16 = 80;
/// Limit of each step of a client.
const LIMIT_MS: u64 = 5_000;

/// What an endpoint is at a moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Is {
    Ready,
    /// Terminating and serving: open connections only.
    Draining,
    Gone,
}

/// The endpoints of one Service and when they left, in milliseconds since 1970.
struct Cast {
    number: usize,
    step: usize,
    endpoints: [Is; BACKENDS],
    /// By backend: from when to when it took no new connection.
    out: Vec<(usize, u64, u64)>,
}

impl Cast {
    fn new(number: usize) -> Self {
        Self { number, step: 0, endpoints: [Is::Ready; BACKENDS], out: Vec::new() }
    }

    /// The next of the Service's changes: one leaves, is gone, and the one that left four before comes back. At
    /// least three are ready at any time, and who is out is so for 3.5 seconds.
    fn next(&mut self, now: u64) {
        let (turn, kind) = (self.step / 3, self.step % 3);
        let leaving = turn % BACKENDS;
        match kind {
            0 => {
                self.endpoints[leaving] = Is::Draining;
                self.out.push((leaving, now, u64::MAX));
            }
            1 => self.endpoints[leaving] = Is::Gone,
            _ => {
                let back = (turn + BACKENDS - 4) % BACKENDS;
                self.endpoints[back] = Is::Ready;
                for out in self.out.iter_mut().filter(|out| out.0 == back) {
                    out.2 = out.2.min(now);
                }
            }
        }
        self.step += 1;
    }

    /// How many milliseconds before a connection began its backend had left; none if it had not.
    fn lateness(&self, backend: usize, began: u64) -> Option<u64> {
        let left = self.out.iter().filter(|(who, from, to)| *who == backend && (*from..*to).contains(&began));
        left.map(|(_, from, _)| began - from).max()
    }

    fn manifest(&self, pods: &[Pod]) -> String {
        let target = TARGETS + number(self.number);
        let node_port = Some(NODE_PORTS + number(self.number));
        let ports = [Port::tcp("tcp", PORT, target), Port::udp("udp", PORT, target)];
        let ports = ports.map(|port| Port { node_port, ..port });
        let both = |at: fn(usize, bool) -> IpAddr| [at(self.number, false), at(self.number, true)];
        let name = format!("churn-{}", self.number);
        let external_ips = both(external).into();
        let service = Service { kind: "NodePort", external_ips, ..Service::new(&name, &both(vip), &ports) };
        let mut text = service.to_string();
        for family in [Endpoint::v4, Endpoint::v6] {
            let endpoints = pods.iter().zip(self.endpoints).filter_map(|(pod, is)| match is {
                Is::Ready => Some(family(pod)),
                Is::Draining => Some(family(pod).terminating()),
                Is::Gone => None,
            });
            text.push_str(&format!("---\n{}", service.slice(&endpoints.collect::<Vec<_>>())));
        }
        text
    }
}

#[derive(Clone, Copy, Debug)]
enum Target {
    ClusterIp,
    NodePort,
    ExternalIp,
}

/// One who asks a Service again and again.
struct Client<'a> {
    what: &'static str,
    place: &'a Place,
    service: usize,
    transport: Transport,
    to: SocketAddr,
}

impl<'a> Client<'a> {
    fn new(
        (what, place, target): (&'static str, &'a Place, Target),
        transport: Transport,
        service: usize,
        nodes: &[Pair],
    ) -> Self {
        let v6 = service % 2 == 1;
        let node = nodes[service / 4 % nodes.len()];
        let to = match target {
            Target::ClusterIp => SocketAddr::new(vip(service, v6), PORT),
            Target::ExternalIp => SocketAddr::new(external(service, v6), PORT),
            Target::NodePort => {
                let ip = if v6 { node.v6.addr().into() } else { node.v4.addr().into() };
                SocketAddr::new(ip, NODE_PORTS + number(service))
            }
        };
        Self { what, place, service, transport, to }
    }

    const fn word(&self) -> &'static str {
        match self.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        }
    }

    fn load(&self, length: Duration) -> Pending<HttpLoad> {
        let load = HttpLoad {
            transport: self.transport,
            workers: 1,
            pause_ms: PAUSE_MS,
            log: true,
            timeout_ms: LIMIT_MS,
            ..HttpLoad::new(self.to, length)
        };
        self.place.begin(load).unwrap()
    }

    fn hold(&self, length: Duration) -> Pending<Hold> {
        let open = match self.transport {
            Transport::Tcp => Open::tcp(self.to),
            // A pod's connected socket takes the packet path. The node's has no other, and would be destroyed.
            Transport::Udp => Open { connect: self.what != "a node", ..Open::udp(self.to) },
        };
        let duration_ms = u64::try_from(length.as_millis()).unwrap();
        self.place.begin(Hold { open, interval_ms: 50, duration_ms, timeout_ms: LIMIT_MS }).unwrap()
    }
}

impl fmt::Display for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} to Service {} at {}", self.what, self.word(), self.service, self.to)
    }
}

/// What went wrong, and how late backends that left were asked.
#[derive(Default)]
struct Report {
    faults: Vec<String>,
    late: Vec<u64>,
}

impl Report {
    fn failures(&mut self, client: &Client<'_>, what: &str, failures: &[(u64, Failure)]) {
        let line = |(when, failure): &(u64, Failure)| format!("{client}: {what} failed after {when} ms: {failure}");
        self.faults.extend(failures.iter().map(line));
    }

    /// Who answered must be of the Service, and, where each question is `new`, not have left long ago.
    fn answers(&mut self, client: &Client<'_>, cast: &Cast, log: &[(u64, String)], new: bool) {
        for (began, name) in log {
            let Some((backend, _)) = name.split_once('/').filter(|(_, of)| *of == cast.number.to_string()) else {
                self.faults.push(format!("{client}: {name} answered"));
                continue;
            };
            if !new {
                continue;
            }
            if let Some(after) = cast.lateness(backend.parse().unwrap(), *began) {
                self.late.push(after);
                if after > FOLLOW_MS {
                    self.faults.push(format!("{client}: backend {name} was asked {after} ms after it had left"));
                }
            }
        }
    }
}

#[test]
fn a_hundred_changes_a_second() {
    let seconds = env::var("BERRYLB_CHURN_SECONDS").map_or(15, |text| text.parse().expect("a number of seconds"));
    check(Duration::from_secs(seconds));
}

fn check(length: Duration) {
    let lab =
        Lab::new(LabConfig { nodes: vec!["raspi001".into(), "raspi002".into()], ..LabConfig::default() }).unwrap();
    let [first, second] = lab.nodes() else { unreachable!("two nodes") };
    let backend = |index: usize| {
        let node = &lab.nodes()[index % 2];
        node.add_pod(&format!("backend-{index}")).unwrap()
    };
    let pods: Vec<Pod> = (0..BACKENDS).map(backend).collect();
    let _servers: Vec<Peer> = pods.iter().enumerate().map(|(index, pod)| serve(index, pod)).collect();
    let by_socket = first.add_pod("by-socket").unwrap();
    let by_packet = second.add_pod("by-packet").unwrap();

    let folder = Folder::create(&lab.dir().join("objects")).unwrap();
    folder.put("nodes", &[&objects::nodes(&lab)]).unwrap();
    let mut casts: Vec<Cast> = (0..SERVICES).map(Cast::new).collect();
    for cast in &casts {
        folder.put(&format!("churn-{}", cast.number), &[&cast.manifest(&pods)]).unwrap();
    }
    let start = |node, flags| Agent::start(node, Path::new(BERRYLB), folder.path(), flags).unwrap();
    let agents = [start(first, &[]), start(second, &["--socket-lb", "off"])];
    // What is to an externalIP enters by one node in IPv4, and by the other in IPv6.
    let [v4, v6] = [false, true].map(|v6| external(0, v6));
    lab.outside().route(IpNet::new(v4, 24).unwrap().trunc(), first.addresses().v4.addr().into()).unwrap();
    lab.outside().route(IpNet::new(v6, 64).unwrap().trunc(), second.addresses().v6.addr().into()).unwrap();

    let places: [(&str, &Place, Target); 5] = [
        ("a pod by socket", by_socket.place(), Target::ClusterIp),
        ("a pod by packet", by_packet.place(), Target::ClusterIp),
        ("a node", first.place(), Target::ClusterIp),
        ("outside to a NodePort", lab.outside().place(), Target::NodePort),
        ("outside to an externalIP", lab.outside().place(), Target::ExternalIp),
    ];
    let nodes = lab.nodes().iter().map(Node::addresses).collect::<Vec<_>>();
    let mut clients = Vec::new();
    for service in 0..SERVICES {
        let [by_socket, by_packet, node, node_port, external_ip] = places;
        // Eight for each, so those that ask only one of TCP and UDP take turns.
        let turn = if service / 2 % 2 == 0 { Transport::Tcp } else { Transport::Udp };
        for (place, transports) in [
            (by_socket, &[Transport::Tcp, Transport::Udp][..]),
            (by_packet, &[Transport::Tcp, Transport::Udp]),
            (node_port, &[Transport::Tcp, Transport::Udp]),
            (node, &[turn]),
            (external_ip, &[turn]),
        ] {
            clients.extend(transports.iter().map(|transport| Client::new(place, *transport, service, &nodes)));
        }
    }
    assert_eq!(clients.len(), 200, "clients");
    let long = 2 * length;
    let mut loads: Vec<Pending<HttpLoad>> = clients.iter().map(|client| client.load(long)).collect();
    // One of four keeps a connection open as well.
    let held: Vec<&Client> = clients.iter().filter(|client| client.service / 4 % 4 == 0).collect();
    let mut holds: Vec<Pending<Hold>> = held.iter().map(|client| client.hold(long)).collect();
    let changes = churn(&mut casts, &folder, &pods, length);

    // All at once, so that they end as they ran.
    loads.iter_mut().for_each(|load| load.tell_to_stop().unwrap());
    holds.iter_mut().for_each(|hold| hold.tell_to_stop().unwrap());
    let mut report = Report::default();
    let mut answered = BTreeMap::<_, u64>::new();
    for (client, load) in clients.iter().zip(loads) {
        let load: Load = load.finish().unwrap();
        report.failures(client, "a connection", &load.failures);
        *answered.entry((client.what, client.word())).or_default() += load.answered();
        report.answers(client, &casts[client.service], &load.log, true);
    }
    let mut pings = 0;
    for (client, hold) in held.iter().zip(holds) {
        let held: Held = hold.finish().unwrap();
        pings += held.pings;
        report.failures(client, "an open connection", &held.failures);
        // Established TCP stays where it is; a datagram does not go to a backend that left.
        let tcp = client.transport == Transport::Tcp;
        report.answers(client, &casts[client.service], &held.log, !tcp);
        if tcp && held.names.len() != 1 {
            report.faults.push(format!("{client}: an open connection was answered by {:?}", held.names));
        }
    }
    for agent in &agents {
        for name in ["drop_internal", "drop_no_flow", "drop_no_port", "drop_flow_table", "drop_no_endpoint"] {
            let dropped = counter(agent, name);
            if dropped > 0 {
                report.faults.push(format!("{name}: {dropped}"));
            }
        }
    }
    let Report { faults, mut late } = report;
    late.sort_unstable();
    let all: u64 = answered.values().sum();
    eprintln!(
        "{changes} changes in {length:?}; {} clients, {all} connections, {pings} pings on {} open ones; {} connections \
         went to a backend that had just left: half of them within {} ms, the latest after {} ms",
        clients.len(),
        held.len(),
        late.len(),
        late.get(late.len() / 2).unwrap_or(&0),
        late.last().unwrap_or(&0)
    );
    for ((what, word), count) in &answered {
        eprintln!("{count:>8} {word} connections of {what}");
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(answered.values().all(|count| *count > 0), "somebody never asked: {answered:?}");
    let changed = u128::from(changes) * 1000 / length.as_millis();
    assert!(changed >= 9 * u128::from(CHANGES_PER_SECOND) / 10, "only {changed} changes a second were made");
    assert!(all > u64::from(changes), "only {all} connections");
}

/// Changes endpoints at a steady rate, one Service after another; the number of changes.
fn churn(casts: &mut [Cast], folder: &Folder, pods: &[Pod], length: Duration) -> u32 {
    let start = Instant::now();
    let mut changes = 0;
    while start.elapsed() < length {
        let cast = &mut casts[changes as usize % SERVICES];
        cast.next(since_1970());
        folder.put(&format!("churn-{}", cast.number), &[&cast.manifest(pods)]).unwrap();
        changes += 1;
        let due = start + Duration::from_secs(1) * changes / CHANGES_PER_SECOND;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    changes
}

/// Serves every Service on a port of its own, as `BACKEND/SERVICE`.
fn serve(index: usize, pod: &Pod) -> Peer {
    let mut peer = pod.peer().unwrap();
    for service in 0..SERVICES {
        let port = TARGETS + number(service);
        let at = [SocketAddr::new(pod.ip4().into(), port), SocketAddr::new(pod.ip6().into(), port)];
        peer.ask(Serve { name: format!("{index}/{service}"), tcp: at.into(), udp: at.into() }).unwrap();
    }
    peer
}

fn vip(service: usize, v6: bool) -> IpAddr {
    let host = number(service) + 1;
    if v6 {
        IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x200 + host])
    } else {
        IpAddr::from([10, 96, 2, u8::try_from(host).unwrap()])
    }
}

fn external(service: usize, v6: bool) -> IpAddr {
    let host = number(service) + 1;
    if v6 {
        IpAddr::from([0x2001, 0xdb8, 0xe, 0, 0, 0, 0, host])
    } else {
        IpAddr::from([198, 51, 100, u8::try_from(host).unwrap()])
    }
}

fn number(index: usize) -> u16 {
    u16::try_from(index).unwrap()
}

fn since_1970() -> u64 {
    u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
