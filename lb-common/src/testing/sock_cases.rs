//! The table of socket cases: every row of the rule of which calls the hooks translate, what they remember, and what
//! they show of it.

use super::{
    ARRAY_LEN, Net, Request, SockCase, SockSpec, World, sock_affinity,
    sock_case::{COOKIE, POD_NETNS},
    world::{LOCAL, REMOTE, WEB, WEB_IDENTITY},
};
use crate::{
    abi::{
        Addr, Counter, Port, ServiceKey, SkipKey, SockKey, action, addr_flag, backend_state, frontend, proto, scope,
        skip_kind, sock_kind, socket_lb,
    },
    datapath::sock::Outcome,
};

/// Every socket case.
#[must_use]
pub fn all() -> Vec<SockCase> {
    let mut cases = Vec::new();
    for net in Net::BOTH {
        let mut family = rule(net);
        family.extend(refusals(net));
        family.extend(places(net));
        family.extend(loopback(net));
        family.extend(stickiness(net));
        family.extend(sock_affinity::cases(net));
        family.extend(reverse(net));
        family.extend(again(net));
        family.extend(opt_out(net));
        for case in family {
            cases.push(case.with(|case| case.name = format!("{} [{}]", case.name, net.name())));
        }
    }
    cases
}

/// A call to `web`'s frontend.
pub(super) fn call(name: impl Into<String>, net: Net, request: Request, proto: u8) -> SockCase {
    SockCase::new(name.into(), World::web(net, proto), request, net.vip(), 8080, proto)
}

/// The rule table: who, protocol, call, and the bit of `socket_lb` that the translation takes; `None`: never.
const RULE: [(bool, u8, Request, Option<u8>); 10] = [
    (false, proto::TCP, Request::Connect, Some(socket_lb::TCP)),
    (true, proto::TCP, Request::Connect, Some(socket_lb::TCP)),
    // A pod's connected UDP is the packet path's: a socket pinned to a dead backend would never learn of it.
    (false, proto::UDP, Request::Connect, None),
    (true, proto::UDP, Request::Connect, Some(socket_lb::UDP)),
    (false, proto::UDP, Request::SendMsg, Some(socket_lb::UDP)),
    (true, proto::UDP, Request::SendMsg, Some(socket_lb::UDP)),
    // sendmsg with an address on other sockets is nothing that the hooks translate.
    (false, proto::TCP, Request::SendMsg, None),
    (false, proto::SCTP, Request::Connect, None),
    (true, proto::SCTP, Request::SendMsg, None),
    (true, proto::ICMP, Request::Connect, None),
];

fn rule(net: Net) -> Vec<SockCase> {
    let mut cases = Vec::new();
    for (host, proto, request, bit) in RULE {
        for socket_lb in 0..4 {
            for has_set_retval in [false, true] {
                let who = if host { "host" } else { "pod" };
                let name = format!(
                    "rule: {who}, protocol {proto}, {request:?}, socket_lb {socket_lb}, set_retval {has_set_retval}"
                );
                let case = call(name, net, request, proto).with(|case| {
                    case.call.host = host;
                    case.policy.socket_lb = socket_lb;
                    case.policy.has_set_retval = has_set_retval;
                });
                let translated = bit.is_some_and(|bit| socket_lb & bit != 0);
                cases.push(if translated { case.translated(LOCAL) } else { case });
            }
        }
    }
    cases
}

/// Services that give no backend: refused, except that a pod's TCP goes to the packet path where the kernel cannot
/// refuse with ECONNREFUSED.
fn refusals(net: Net) -> Vec<SockCase> {
    let mut cases = Vec::new();
    let calls = [(proto::TCP, Request::Connect), (proto::UDP, Request::SendMsg)];
    for (proto, request) in calls {
        for host in [false, true] {
            for has_set_retval in [false, true] {
                let who = if host { "host" } else { "pod" };
                let left = !has_set_retval && !host && proto == proto::TCP;
                let case = |what: &str, counter, change: &dyn Fn(&mut World)| {
                    let name = format!("refusal: {what}, {who}, protocol {proto}, set_retval {has_set_retval}");
                    let case = call(name, net, request, proto).with(|case| {
                        case.call.host = host;
                        case.policy.has_set_retval = has_set_retval;
                        change(&mut case.world);
                    });
                    if left { case } else { case.refused(counter) }
                };
                cases.extend([
                    case("no endpoints", Counter::SocketRefused, &|w| w.services[0].action = action::REJECT),
                    case("none here", Counter::SocketDropped, &|w| w.services[0].action = action::DROP),
                    case("closed", Counter::SocketDropped, &|w| w.services[0].frontends[0].1 |= frontend::CLOSED),
                    case("a service index beyond the table", Counter::SocketDropped, &|w| {
                        w.services[0].index = ARRAY_LEN;
                    }),
                ]);
            }
        }
        // Past the checks there is no way back to the packet path, which would find the same.
        cases.push(
            call(format!("refusal: all endpoints have weight 0, protocol {proto}"), net, request, proto)
                .refused(Counter::SocketRefused)
                .with(|case| case.world.services[0].slots.clear()),
        );
        cases.push(
            call(format!("refusal: a slot leads nowhere, protocol {proto}"), net, request, proto)
                .refused(Counter::SocketDropped)
                .with(|case| case.world.services[0].slots = vec![99]),
        );
    }
    cases
}

/// Where frontends are found, and for whom.
fn places(net: Net) -> Vec<SockCase> {
    let node_port = |world: &mut World, proto| {
        let key = ServiceKey::node_port(net.v4, Port::new(30_080), proto, scope::INTERNAL);
        world.services[0].frontends.push((key, frontend::NODE_PORT));
    };
    let host = |case: &mut SockCase| case.call.host = true;
    let at = |name: &str, dst, port| {
        SockCase::new(
            format!("place: {name}"),
            World::tcp(net).with(|w| node_port(w, proto::TCP)),
            Request::Connect,
            dst,
            port,
            proto::TCP,
        )
    };
    let ranged = |name: &str, admitted: bool| {
        call(format!("place: {name}"), net, Request::Connect, proto::TCP).with(|case| {
            case.world.services[0].frontends[0].1 = frontend::LOAD_BALANCER | frontend::RANGES;
            // The agent keeps its answer for the node itself under the unspecified address.
            let unspecified = if net.v4 { (Addr::v4([0; 4]), 32) } else { (Addr::UNSPECIFIED, 128) };
            case.world.services[0].ranges = if admitted { vec![unspecified] } else { Vec::new() };
        })
    };
    vec![
        at("node port at the node's address, from a pod", net.node(), 30_080).translated(LOCAL),
        at("node port at the node's address, from the host", net.node(), 30_080).with(host).translated(LOCAL),
        at("node port at the host's loopback address", net.loopback(), 30_080).with(host).translated(LOCAL),
        at("a pod's loopback address is its own", net.loopback(), 30_080),
        at("no node port at another machine", net.outside(), 30_080).with(host),
        at("another port of the clusterIP", net.vip(), 8081).refused(Counter::SocketRefused),
        at("another port of an address that is not ours alone", net.vip(), 8081)
            .with(|case| case.world.services[0].frontends.iter_mut().for_each(|f| f.1 = frontend::LOAD_BALANCER)),
        at("a pod's address", net.server(), 80),
        at("a frontend for the outside only", net.vip(), 8080).with(|case| {
            let frontends = &mut case.world.services[0].frontends;
            frontends.retain(|(key, _)| key.scope == scope::EXTERNAL);
            frontends.iter_mut().for_each(|(_, bits)| *bits = frontend::LOAD_BALANCER);
        }),
        ranged("a pod's source is not known here: source ranges are the packet path's", true),
        ranged("the host is let in by one of its addresses", true).with(host).translated(LOCAL),
        ranged("the host has no address in the ranges", false).with(host).refused(Counter::SocketDropped),
        call("place: the table of sockets is full", net, Request::Connect, proto::TCP)
            .with(|case| {
                case.world.addrs.push((net.vip(), addr_flag::LOOPBACK));
            })
            .translated(LOCAL)
            .with(|case| case.name = "place: a loopback address with a frontend of its own".into()),
    ]
}

/// NodePorts on loopback addresses: for the node's own sockets only, in every form of call.
fn loopback(net: Net) -> Vec<SockCase> {
    let calls = [(proto::TCP, Request::Connect), (proto::UDP, Request::Connect), (proto::UDP, Request::SendMsg)];
    let mut others = vec![net.loopback()];
    if net.v4 {
        others.extend([Addr::v4([127, 0, 0, 0]), Addr::v4([127, 0, 0, 53]), Addr::v4([127, 255, 255, 255])]);
    }
    let mut cases = Vec::new();
    for (proto, request) in calls {
        let case = |dst: Addr, what: &str| {
            let name = format!("loopback: {dst:?} {what}, protocol {proto}, {request:?}");
            let key = ServiceKey::node_port(net.v4, Port::new(30_080), proto, scope::INTERNAL);
            let world = World::web(net, proto).with(|w| w.services[0].frontends.push((key, frontend::NODE_PORT)));
            SockCase::new(name, world, request, dst, 30_080, proto).with(|case| case.call.host = true)
        };
        let pods = |case: &mut SockCase| case.call.host = false;
        let none = |case: &mut SockCase| case.world.addrs.retain(|(addr, _)| *addr != net.loopback());
        for dst in &others {
            cases.push(case(*dst, "is the node's").translated(LOCAL));
            cases.push(case(*dst, "of a pod is its own").with(pods));
            cases.push(case(*dst, "while loopback is not served").with(none));
            cases.push(case(*dst, "on a port that is none").with(|case| case.call.dport = Port::new(30_081)));
        }
        for beside in [Addr::v4([126, 255, 255, 255]), Addr::v4([128, 0, 0, 1]), Addr::v6([0x7f; 16])] {
            cases.push(case(beside, "is no loopback address"));
        }
    }
    cases
}

/// What the socket of the cases remembers of its translation to `backend`.
pub(super) fn entries(net: Net, proto: u8, backend: u32) -> [SockSpec; 2] {
    let addr = if backend == LOCAL { net.server() } else { net.remote() };
    let revnat = SockSpec {
        key: SockKey::new(COOKIE, addr, Port::new(80), proto, sock_kind::REVNAT),
        addr: net.vip(),
        port: Port::new(8080),
        service: WEB,
        identity: WEB_IDENTITY as u32,
        backend,
        generation: 1,
    };
    let sticky = SockSpec {
        key: SockKey::new(COOKIE, net.vip(), Port::new(8080), proto, sock_kind::STICKY),
        addr,
        port: Port::new(80),
        ..revnat
    };
    [revnat, sticky]
}

/// An unconnected UDP socket stays with its backend. New choices fall on the local backend, the earlier one was remote.
fn stickiness(net: Net) -> Vec<SockCase> {
    let was = entries(net, proto::UDP, REMOTE);
    let to_remote = Outcome::To(net.remote(), Port::new(80));
    let send = |what: &str, socks: &[SockSpec]| {
        call(format!("sendmsg again: {what}"), net, Request::SendMsg, proto::UDP)
            .with(|case| case.world.socks = socks.to_vec())
    };
    let stays = |case: SockCase| case.with(|case| (case.outcome, case.socks) = (to_remote, Some(was.to_vec())));
    // The earlier way back stays until the table evicts it; the sticky entry is replaced.
    let anew = |case: SockCase| case.translated(LOCAL).with(|case| case.socks.get_or_insert_default().push(was[0]));
    let state = |state| move |case: &mut SockCase| case.world.backend(REMOTE).state = state;
    let stranger = was.map(|mut entry| {
        entry.key.cookie = 1;
        entry
    });
    vec![
        stays(send("it stays", &was)),
        send("a connected socket takes answers from its peer only", &[]).with(|case| case.call.connected = true),
        stays(send("the way back is mended when it was evicted", &was[1..])),
        stays(send(
            "the way back leads to the frontend that was asked last",
            &[SockSpec { addr: net.other_vip(), port: Port::new(53), ..was[0] }, was[1]],
        )),
        stays(send("the backend terminates, and nothing better exists", &was))
            .with(state(backend_state::TERMINATING))
            .with(|case| case.world.services[0].action = action::TERMINATING),
        anew(send("the backend is gone", &was)).with(state(backend_state::GONE)),
        anew(send("the backend terminates", &was)).with(state(backend_state::TERMINATING)),
        anew(send("the backend's id was reused", &was).with(|case| case.world.backend(REMOTE).generation = 2)),
        anew(send("the service is another", &was)).with(|case| case.world.services[0].identity = 0x77).with(|case| {
            for entry in case.socks.iter_mut().flatten().filter(|entry| entry.backend == LOCAL) {
                entry.identity = 0x77;
            }
        }),
        send("another socket's backend is its own", &stranger)
            .translated(LOCAL)
            .with(|case| case.socks.get_or_insert_default().extend(stranger)),
        send("refused once the backend is gone and there is no other", &was)
            .with(state(backend_state::GONE))
            .with(|case| case.world.services[0].action = action::REJECT)
            .refused(Counter::SocketRefused),
    ]
}

/// recvmsg and getpeername show the frontend.
fn reverse(net: Net) -> Vec<SockCase> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP] {
        let known = entries(net, proto, REMOTE);
        let case = |what: &str, port| {
            let world = World::web(net, proto).with(|w| w.socks = known.to_vec());
            SockCase::new(format!("peer: {what}, protocol {proto}"), world, Request::Reverse, net.remote(), port, proto)
        };
        let shown = Outcome::To(net.vip(), Port::new(8080));
        cases.extend([
            case("the backend is shown as the frontend", 80).with(|case| case.outcome = shown),
            case("even when the service is gone", 80).with(|case| {
                case.outcome = shown;
                case.world.services.clear();
            }),
            case("another port of the backend is itself", 81),
            case("another socket's peer is itself", 80).with(|case| case.call.cookie = 1),
            case("a peer that is the frontend's address", 8080).with(|case| case.call.dst = net.vip()),
        ]);
    }
    cases
}

/// A socket that connects a second time.
fn again(net: Net) -> Vec<SockCase> {
    let mut cases = Vec::new();
    for (proto, host) in [(proto::TCP, false), (proto::TCP, true), (proto::UDP, true)] {
        let was = entries(net, proto, REMOTE);
        let remembered: &[SockSpec] = if proto == proto::UDP { &was } else { &was[..1] };
        let case = |what: &str| {
            call(format!("again: {what}, protocol {proto}, host {host}"), net, Request::Connect, proto).with(|case| {
                case.call.host = host;
                case.world.socks = remembered.to_vec();
            })
        };
        // By the same name it may get another backend, which has a name of its own; the first one's leads to the same.
        cases.push(
            case("by the same name").translated(LOCAL).with(|case| case.socks.get_or_insert_default().push(was[0])),
        );
        // The backend that it is sent to is one already, by another name: the last name counts.
        cases.push(
            case("by another name to the same backend")
                .with(|case| {
                    let key = ServiceKey { addr: net.other_vip(), port: Port::new(53), proto, scope: scope::INTERNAL };
                    case.world.services[0].frontends.push((key, frontend::CLUSTER_IP));
                    case.world.services[0].slots = vec![REMOTE];
                    (case.call.dst, case.call.dport) = (net.other_vip(), Port::new(53));
                })
                .translated(REMOTE)
                .with(|case| case.socks.get_or_insert_default().extend_from_slice(&remembered[1..])),
        );
    }
    for host in [false, true] {
        let was = entries(net, proto::UDP, REMOTE);
        let direct = |what: &str| {
            let name = format!("again: UDP {what}, host {host}");
            let world = World::udp(net).with(|w| w.socks = was.to_vec());
            SockCase::new(name, world, Request::Connect, net.remote(), 80, proto::UDP).with(|case| {
                case.call.host = host;
            })
        };
        cases.extend([
            direct("to the backend itself: it is nobody else's name then").with(|case| case.socks = Some(vec![was[1]])),
            direct("to another port of the backend").with(|case| case.call.dport = Port::new(81)),
            direct("by another socket").with(|case| case.call.cookie = 1),
            direct("while UDP is not translated").with(|case| case.policy.socket_lb = socket_lb::TCP),
        ]);
    }
    cases
}

/// Pods that the operator left to the packet path.
fn opt_out(net: Net) -> Vec<SockCase> {
    // root / kubepods / pod / container
    const PATH: [u64; 4] = [1, 20, 300, 4000];
    let mut cases = Vec::new();
    for (proto, request) in [(proto::TCP, Request::Connect), (proto::UDP, Request::SendMsg)] {
        let case = |what: &str, skip: SkipKey| {
            call(format!("opt-out: {what}, protocol {proto}"), net, request, proto).with(|case| {
                case.skips = vec![skip];
                case.cgroups = PATH.to_vec();
                (case.policy.skip_cgroups, case.policy.skip_netns) = (0b1100, true);
            })
        };
        let group = |id| SkipKey::new(skip_kind::CGROUP, id);
        let netns = |id| SkipKey::new(skip_kind::NETNS, id);
        let host = |case: &mut SockCase| case.call.host = true;
        cases.extend([
            case("the caller's own cgroup", group(4000)),
            case("one above the caller's", group(300)),
            case("at a level where none is looked for", group(20)).translated(LOCAL),
            case("another cgroup", group(301)).translated(LOCAL),
            case("a cgroup that is less deep than a level", group(0))
                .with(|case| case.cgroups.truncate(3))
                .translated(LOCAL),
            case("a cgroup with the namespace's number", group(POD_NETNS)).translated(LOCAL),
            case("no cgroups are asked for", group(4000)).with(|case| case.policy.skip_cgroups = 0).translated(LOCAL),
            case("the deepest level", group(4000)).with(|case| {
                case.cgroups = (0..31).map(|level| level + 1).chain([4000]).collect();
                case.policy.skip_cgroups = 1 << 31;
            }),
            case("the network namespace", netns(POD_NETNS)),
            case("another network namespace", netns(POD_NETNS + 1)).translated(LOCAL),
            case("no namespaces are asked for", netns(POD_NETNS))
                .with(|case| case.policy.skip_netns = false)
                .translated(LOCAL),
            case("the node has no packet path: cgroup", group(300)).with(host).translated(LOCAL),
            case("the node has no packet path: namespace", netns(POD_NETNS)).with(host).translated(LOCAL),
        ]);
    }
    // What was translated before is left as well.
    let was = entries(net, proto::UDP, REMOTE);
    cases.push(call("opt-out: a socket that kept a backend", net, Request::SendMsg, proto::UDP).with(|case| {
        case.world.socks = was.to_vec();
        case.skips = vec![SkipKey::new(skip_kind::NETNS, POD_NETNS)];
        case.policy.skip_netns = true;
    }));
    cases
}
