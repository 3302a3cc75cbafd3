//! ICMP errors about translated packets: translated outside, and inside where they quote the packet. What they must become
//! is built from scratch, of the packet as its sender knows it.

use super::{BACKENDS, ELSEWHERE, FAR, LOCAL, MASKED, REMOTE, at, dsr, flow, name, reply_hook, world};
use crate::{
    abi::{Addr, Counter, Port, Tuple, proto},
    datapath::Verdict,
    testing::{
        Case, FlowSpec, Hook, Net, PacketSpec, World,
        cases::{first, later, local_flow, open::hairpin_flow},
        flows::Both as _,
    },
};

/// Type, code and the word behind the checksum, by family: IPv4, then IPv6.
type Kind = (&'static str, [(u8, u8); 2], u32);

const UNREACHABLE: Kind = ("port unreachable", [(3, 3), (1, 4)], 0);
const TOO_BIG: Kind = ("too big", [(3, 4), (2, 0)], 1280);
const EXCEEDED: Kind = ("time exceeded", [(11, 0), (3, 0)], 0);
const PARAMETER: Kind = ("parameter problem", [(12, 0), (4, 1)], 0x0600_0000);

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (backend, whom) in BACKENDS {
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            cases.extend(about_forward(net, proto, backend, whom));
            cases.extend(about_replies(net, proto, backend, whom));
        }
    }
    for backend in [REMOTE, FAR, ELSEWHERE] {
        cases.push(about_direct_replies(net, backend));
    }
    cases.extend(shapes(net));
    cases.extend(of_pods(net));
    cases.extend(not_ours(net));
    cases
}

/// A reply that went straight out meets a narrow way: the error comes to the node that was asked, and is the backend's.
fn about_direct_replies(net: Net, backend: u32) -> Case {
    let flow = dsr::over(net, proto::TCP, backend).established();
    let sent = |tuple: Tuple, to| {
        let reply = PacketSpec::new(tuple).with(|p| (p.ttl, p.payload) = (61, vec![4; 30]));
        error(Hook::Uplink, (router(net), to), PARAMETER, &reply, Quote::All)
    };
    let title = format!("ICMP error about a reply that went straight out, backend {backend}");
    let packet = sent(flow[0].key.reversed(), flow[0].key.dst);
    Case::new(title, Hook::Uplink, dsr::dsr(net, proto::TCP, backend).flows(&flow), packet)
        .out(sent(flow[0].to.reversed(), flow[0].to.dst).with(|p| p.ttl -= 1))
        .counts(Counter::IcmpErrors)
        .verdict(Verdict::Redirect(flow[0].oif))
}

/// How much of the packet an error quotes.
#[derive(Clone, Copy)]
enum Quote {
    /// The IP header and eight bytes.
    Little,
    /// All of it.
    All,
}

/// An error that quotes a packet of this tuple, from and to these addresses.
fn error(hook: Hook, (src, dst): (Addr, Addr), kind: Kind, inner: &PacketSpec, quote: Quote) -> PacketSpec {
    let v4 = src.is_v4();
    let proto = if v4 { proto::ICMP } else { proto::ICMPV6 };
    let bytes = inner.clone().with(|p| p.ethernet = false).build();
    let header = if v4 { 20 } else { 40 };
    let len = match quote {
        Quote::Little => header + 8,
        Quote::All => bytes.len(),
    };
    at(hook, Tuple::new(src, Port::new(0), dst, Port::new(0), proto)).with(|p| {
        let (number, code) = kind.1[usize::from(!v4)];
        p.icmp = Some((number, code, kind.2));
        p.payload = bytes[..len].to_vec();
    })
}

/// The packet that `entry` translates, as it left the node, and as its sender made it.
fn inner(entry: &FlowSpec, before: bool) -> PacketSpec {
    PacketSpec::new(if before { entry.key } else { entry.to }).with(|p| (p.ttl, p.payload) = (61, vec![4; 30]))
}

/// An error about a packet that was translated by `sent` and is met at `hook`; it must go the way of `answers`.
struct Error {
    hook: Hook,
    kind: Kind,
    quote: Quote,
    /// Who sends it.
    from: Addr,
    /// Who its receiver is told.
    shown: Addr,
}

impl Error {
    fn case(&self, title: String, world: World, [sent, answers]: [&FlowSpec; 2]) -> Case {
        let Self { hook, kind, quote, from, shown } = *self;
        let packet = error(hook, (from, sent.to.src), kind, &inner(sent, false), quote);
        let out = error(hook, (shown, sent.key.src), kind, &inner(sent, true), quote);
        let case = Case::new(title, hook, world, packet).follows(answers);
        let ttl = case.out.as_ref().map_or(64, |out| out.ttl);
        case.out(out.with(|p| p.ttl = ttl)).counts(Counter::IcmpErrors)
    }
}

/// A router on the way.
const fn router(net: Net) -> Addr {
    net.other_vip()
}

/// About packets of the client: from routers on the way to the backend, and from the backend.
fn about_forward(net: Net, proto: u8, backend: u32, whom: &str) -> Vec<Case> {
    let established = flow(net, proto, backend).established();
    let world = || world(net, proto, backend).flows(&established);
    let hook = reply_hook(backend);
    let [forward, reply] = &established;
    let mut cases = Vec::new();
    for (quote, much) in [(Quote::Little, "little"), (Quote::All, "all")] {
        let title = |what: &str| format!("ICMP: {} to {whom}, {what}, quoting {much}", name(proto));
        let by_backend = Error { hook, kind: UNREACHABLE, quote, from: forward.to.dst, shown: forward.key.dst };
        cases.push(by_backend.case(title("unreachable says the backend"), world(), [forward, reply]));
        if MASKED.iter().any(|(masked, _)| *masked == backend) {
            let by_router = Error { hook, kind: TOO_BIG, quote, from: router(net), shown: router(net) };
            cases.push(by_router.case(title("too big says a router"), world(), [forward, reply]));
        }
    }
    cases
}

/// About replies: from routers on the way to the client, and from the client.
fn about_replies(net: Net, proto: u8, backend: u32, whom: &str) -> Vec<Case> {
    let established = flow(net, proto, backend).established();
    let world = || world(net, proto, backend).flows(&established);
    let [forward, reply] = &established;
    let masked = MASKED.iter().any(|(masked, _)| *masked == backend);
    let mut cases = Vec::new();
    for (quote, much) in [(Quote::Little, "little"), (Quote::All, "all")] {
        let title = |what: &str| format!("ICMP: a {} reply from {whom}, {what}, quoting {much}", name(proto));
        let hook = Hook::Uplink;
        // The backend of a masked flow knows of nobody but us.
        let shown = |addr| if masked { forward.to.src } else { addr };
        let by_client = Error { hook, kind: UNREACHABLE, quote, from: net.outside(), shown: shown(net.outside()) };
        let by_router = Error { hook, kind: TOO_BIG, quote, from: router(net), shown: shown(router(net)) };
        cases.push(by_client.case(title("unreachable says the client"), world(), [reply, forward]));
        cases.push(by_router.case(title("too big says a router"), world(), [reply, forward]));
    }
    cases
}

/// All kinds of errors, and packets of all shapes inside.
fn shapes(net: Net) -> Vec<Case> {
    let established = flow(net, proto::UDP, REMOTE).established();
    let [forward, reply] = &established;
    let world = || world(net, proto::UDP, REMOTE).flows(&established);
    let mut cases = Vec::new();
    for kind in [UNREACHABLE, TOO_BIG, EXCEEDED, PARAMETER] {
        let by_router = Error { hook: Hook::Uplink, kind, quote: Quote::All, from: router(net), shown: router(net) };
        cases.push(by_router.case(format!("ICMP kinds: {}", kind.0), world(), [forward, reply]));
    }
    let by_router =
        Error { hook: Hook::Uplink, kind: TOO_BIG, quote: Quote::All, from: router(net), shown: router(net) };
    let inside = |what: &str, change: &dyn Fn(&mut PacketSpec)| {
        let mut case = by_router.case(format!("ICMP shapes: {what}"), world(), [forward, reply]);
        let quoting =
            |entry: &FlowSpec, before| inner(entry, before).with(|p| p.ethernet = false).with(|p| change(p)).build();
        case.packet.payload = quoting(forward, false);
        case.out.as_mut().expect("translated").payload = quoting(forward, true);
        case
    };
    cases.extend([
        inside("an odd number of bytes", &|p| p.payload = vec![1; 7]),
        inside("no UDP checksum", &|p| p.l4_sum = crate::testing::L4Sum::Zero),
        inside("cut in the midst", &|p| p.truncate = Some(if net.v4 { 45 } else { 65 })),
        inside("a first fragment", &|p| {
            p.fragment = Some(crate::testing::Fragment { offset: 0, more: true });
        }),
    ]);
    let headers = |p: &mut PacketSpec| {
        if net.v4 {
            p.ip_options = vec![1; 8];
        } else {
            p.extensions = vec![crate::testing::Extension::Destination(0)];
        }
    };
    cases.push(inside("options inside", &headers));
    let mut outer = by_router.case("ICMP shapes: options outside".into(), world(), [forward, reply]);
    headers(&mut outer.packet);
    headers(outer.out.as_mut().expect("translated"));
    cases.push(outer);
    let mut last_hop = by_router.case("ICMP shapes: its own hops have run out".into(), world(), [forward, reply]);
    last_hop.packet.ttl = 1;
    (last_hop.out, last_hop.counters) = (None, Vec::new());
    cases.push(last_hop.dropped(Counter::DropTtl));
    cases
}

/// About pods' packets, through the stack.
fn of_pods(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP] {
        let flow = local_flow(net, proto).established();
        let [forward, reply] = &flow;
        let world = || World::web(net, proto).flows(&flow);
        let case = |what: &str, hook, kind, from, shown, entries| {
            let error = Error { hook, kind, quote: Quote::All, from, shown };
            error.case(format!("ICMP of pods: {} {what}", name(proto)), world(), entries)
        };
        let pod = Hook::PodIngress(10);
        cases.extend([
            case("too big says the node", Hook::PodEgress, TOO_BIG, net.gateway(), net.gateway(), [forward, reply]),
            case(
                "unreachable says the backend",
                Hook::PodEgress,
                UNREACHABLE,
                net.server(),
                net.vip(),
                [forward, reply],
            ),
            case("unreachable says the client", pod, UNREACHABLE, net.client(), net.client(), [reply, forward]),
        ]);
        let hairpin = hairpin_flow(net, proto).established();
        let [forward, reply] = &hairpin;
        let error = Error { hook: pod, kind: UNREACHABLE, quote: Quote::All, from: net.client(), shown: net.vip() };
        cases.push(error.case(
            format!("ICMP of pods: {} unreachable says the pod to itself", name(proto)),
            World::web(net, proto).flows(&hairpin),
            [forward, reply],
        ));
    }
    cases
}

/// What is no error, or about nothing of ours.
fn not_ours(net: Net) -> Vec<Case> {
    let established = flow(net, proto::UDP, ELSEWHERE).established();
    let [forward, _] = &established;
    let case = |what: &str, packet: PacketSpec| {
        let world = world(net, proto::UDP, ELSEWHERE).flows(&established);
        Case::new(format!("ICMP, not ours: {what}"), Hook::Uplink, world, packet)
    };
    let ends = (router(net), net.node());
    let quoting = |inner: &PacketSpec| error(Hook::Uplink, ends, UNREACHABLE, inner, Quote::All);
    let ours = || inner(forward, false);
    let kind = |kind, code| quoting(&ours()).with(|p| p.icmp = Some((kind, code, 0)));
    let cut = |len| quoting(&ours()).with(|p| p.payload.truncate(len));
    let other_port = ours().with(|p| p.tuple.sport = Port::new(50_009));
    let mut cases = vec![
        case("an echo request", kind(if net.v4 { 8 } else { 128 }, 0)),
        case("an echo reply", kind(if net.v4 { 0 } else { 129 }, 0)),
        case("a redirect", kind(if net.v4 { 5 } else { 137 }, 0)),
        case("about a connection of the node", quoting(&other_port)),
        case("about another protocol", quoting(&ours().with(|p| p.tuple.proto = proto::TCP))),
        case("about a protocol without ports", quoting(&ours().with(|p| p.tuple.proto = 47))),
        case("quoting nothing", cut(0)),
        case("quoting half an IP header", cut(10)),
        case("quoting four bytes of ports", cut(if net.v4 { 24 } else { 44 })),
        case("about a later fragment", quoting(&ours().with(later))),
        case("in a first fragment", quoting(&ours()).with(first)),
        case("in a later fragment", quoting(&ours()).with(later)),
        case("about the client's packet, from the client's side", quoting(&inner(forward, true))),
    ];
    // A pod's error about a flow that is none of its own.
    let packet = quoting(&ours());
    let at_pod = Case::ingress(
        "ICMP, not ours: an error about a flow that passes this node, from a pod",
        world(net, proto::UDP, LOCAL),
        packet.with(|p| p.tuple.dst = net.vip()),
    );
    cases.push(at_pod.dropped(Counter::DropUnclaimed));
    cases
}
