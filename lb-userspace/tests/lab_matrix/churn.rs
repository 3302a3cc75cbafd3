//! Endpoints change a hundred times a second while many clients ask on all paths: nobody is sent to a backend that left,
//! no new connection fails, and connections that are open stay so. `BERRYLB_CHURN_SECONDS=60` runs it for longer.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use lb_lab::{
    Agent, Folder, Host, Lab, LabConfig, Peer, Pending, Place, Pod,
    objects::{self, Endpoint, Port, Service},
    peer::{Hold, HttpLoad, Load, Open, Serve},
};

use crate::world::{BERRYLB, counter};

const SERVICES: usize = 25;
/// Backends of each Service.
const BACKENDS: usize = 8;
const CHANGES_PER_SECOND: u32 = 100;
/// Clients of each Service on the socket path, on the packet path, and from outside.
const CLIENTS: [u32; 3] = [3, 3, 2];
/// Of each client, between two connections. 200 clients make 1,000 connections in a second.
const PAUSE_MS: u64 = 200;
/// How long the datapath may take to follow a change here, on a machine that is busy with everything else of this test.
const FOLLOW_MS: u64 = 3_000;
/// First port of the backends, by Service; the first NodePort.
const TARGETS: u16 = 8000;
const NODE_PORTS: u16 = 31000;
const PORT: u16 = 80;

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
        let port = Port { node_port: Some(NODE_PORTS + number(self.number)), ..Port::tcp("http", PORT, target) };
        let ips = [vip(self.number, false), vip(self.number, true)];
        let service = Service { kind: "NodePort", ..Service::new(&format!("churn-{}", self.number), &ips, &[port]) };
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

    let clients: [(&str, &Place); 3] =
        [("by socket", by_socket.place()), ("by packet", by_packet.place()), ("from outside", lab.outside().place())];
    let long = 2 * length;
    let mut loads = Vec::new();
    let mut holds = Vec::new();
    for (kind, (what, place)) in clients.iter().enumerate() {
        for service in 0..SERVICES {
            let v6 = service % 2 == 1;
            let node = &lab.nodes()[service / 2 % 2];
            let to = if *what == "from outside" {
                let addresses = node.addresses();
                let ip: IpAddr = if v6 { addresses.v6.addr().into() } else { addresses.v4.addr().into() };
                SocketAddr::new(ip, NODE_PORTS + number(service))
            } else {
                SocketAddr::new(vip(service, v6), PORT)
            };
            let workers = CLIENTS[kind];
            let load =
                HttpLoad { workers, pause_ms: PAUSE_MS, log: true, timeout_ms: 5_000, ..HttpLoad::new(to, long) };
            loads.push((*what, service, place.begin(load).unwrap()));
            if service < BACKENDS {
                let duration_ms = u64::try_from(long.as_millis()).unwrap();
                let hold = Hold { open: Open::tcp(to), interval_ms: 50, duration_ms, timeout_ms: 5_000 };
                holds.push((*what, service, place.begin(hold).unwrap()));
            }
        }
    }
    let changes = churn(&mut casts, &folder, &pods, length);

    let mut report = Vec::new();
    let (mut answered, mut late) = (0, Vec::new());
    for (what, service, load) in loads {
        let load: Load = stop(load);
        report.extend(load.failures.iter().map(|(when, failure)| {
            format!("{what}: a connection to Service {service} failed after {when} ms: {failure}")
        }));
        answered += load.answered();
        for (began, name) in &load.log {
            match name.split_once('/') {
                Some((backend, of)) if of == service.to_string() => {
                    let Some(after) = casts[service].lateness(backend.parse().unwrap(), *began) else { continue };
                    late.push(after);
                    if after > FOLLOW_MS {
                        report.push(format!("{what}: backend {name} was asked {after} ms after it had left"));
                    }
                }
                Some(_) | None => report.push(format!("{what}: {name} answered for Service {service}")),
            }
        }
    }
    let mut pings = 0;
    for (what, service, hold) in holds {
        let held = stop(hold);
        pings += held.pings;
        report.extend(held.failures.iter().map(|(when, failure)| {
            format!("{what}: an open connection to Service {service} broke after {when} ms: {failure}")
        }));
        if held.names.len() != 1 {
            report.push(format!("{what}: an open connection to Service {service} was answered by {:?}", held.names));
        }
    }
    for agent in &agents {
        for name in ["drop_internal", "drop_no_flow", "drop_no_port", "drop_flow_table", "drop_no_endpoint"] {
            let dropped = counter(agent, name);
            if dropped > 0 {
                report.push(format!("{name}: {dropped}"));
            }
        }
    }
    late.sort_unstable();
    let median = late.get(late.len() / 2).unwrap_or(&0);
    eprintln!(
        "{changes} changes in {length:?}; {answered} connections, {pings} pings on open ones; {} connections went to a \
         backend that had just left: half of them within {median} ms, the latest after {} ms",
        late.len(),
        late.last().unwrap_or(&0)
    );
    assert!(report.is_empty(), "{} faults:\n{}", report.len(), report.join("\n"));
    let changed = u128::from(changes) * 1000 / length.as_millis();
    assert!(changed >= 9 * u128::from(CHANGES_PER_SECOND) / 10, "only {changed} changes a second were made");
    assert!(answered > u64::from(changes), "only {answered} connections");
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
        peer.ask(Serve { name: format!("{index}/{service}"), tcp: at.into(), udp: Vec::new() }).unwrap();
    }
    peer
}

fn stop<A: lb_lab::peer::Ask>(pending: Pending<A>) -> A::Answer {
    pending.stop().unwrap()
}

fn vip(service: usize, v6: bool) -> IpAddr {
    let host = number(service) + 1;
    if v6 {
        IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x200 + host])
    } else {
        IpAddr::from([10, 96, 2, u8::try_from(host).unwrap()])
    }
}

fn number(index: usize) -> u16 {
    u16::try_from(index).unwrap()
}

fn since_1970() -> u64 {
    u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
