//! What holds for whole flows, whatever their packets look like: a reply undoes what was done on the way there, answers in
//! place of a destination are right packets, and no two flows wait for the same replies.

use std::collections::HashSet;

use lb_common::{
    abi::{Addr, Counter, Port, Tuple, action, proto, role},
    datapath::{FlowTable, Scratch, Verdict},
    testing::{
        DEV_CLIENT, DEV_SERVER, Extension, Fragment, Hook, L4Sum, MemTables, Net, PacketSpec, Sum, World, check_answer,
        dissect, fuzz::check_flows,
    },
};
use proptest::prelude::*;

fn config() -> ProptestConfig {
    let cases = if cfg!(miri) { 8 } else { 1500 };
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

const NOW: u32 = 1_000_000;

/// Shape of a packet, apart from its tuple.
#[derive(Clone, Debug)]
struct Shape {
    payload: Vec<u8>,
    ip_options: Vec<u8>,
    tcp_options: Vec<u8>,
    extensions: Vec<Extension>,
    padding: usize,
    sum: L4Sum,
    ttl: u8,
}

impl Shape {
    /// A packet of this shape; what its family or protocol has not got is left out.
    fn packet(&self, tuple: Tuple, flags: u8) -> PacketSpec {
        let v4 = tuple.src.is_v4();
        PacketSpec::new(tuple).flags(flags).with(|p| {
            p.payload.clone_from(&self.payload);
            p.padding = self.padding;
            p.ttl = self.ttl;
            if v4 {
                p.ip_options.clone_from(&self.ip_options);
            } else {
                p.extensions.clone_from(&self.extensions);
            }
            if tuple.proto == proto::TCP {
                p.tcp_options.clone_from(&self.tcp_options);
            }
            p.l4_sum = match self.sum {
                // No device sums SCTP up here, and only UDP goes without.
                L4Sum::Partial if tuple.proto == proto::SCTP => L4Sum::Good,
                L4Sum::Zero if tuple.proto != proto::UDP => L4Sum::Good,
                L4Sum::Good | L4Sum::Zero | L4Sum::Partial => self.sum,
            };
        })
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let words = |most: usize| prop::collection::vec(any::<[u8; 4]>(), 0..=most).prop_map(|words| words.concat());
    let extension = (0..3_u8, 0..3_u8).prop_map(|(kind, units)| match kind {
        0 => Extension::HopByHop(units),
        1 => Extension::Routing(units),
        _ => Extension::Destination(units),
    });
    let sum = prop_oneof![4 => Just(L4Sum::Good), 1 => Just(L4Sum::Zero), 1 => Just(L4Sum::Partial)];
    (
        prop::collection::vec(any::<u8>(), 0..300),
        words(10),
        words(10),
        prop::collection::vec(extension, 0..=4),
        0..8_usize,
        sum,
        2..=255_u8,
    )
        .prop_map(|(payload, ip_options, tcp_options, extensions, padding, sum, ttl)| Shape {
            payload,
            ip_options,
            tcp_options,
            extensions,
            padding,
            sum,
            ttl,
        })
}

fn net() -> impl Strategy<Value = Net> {
    prop_oneof![Just(Net::V4), Just(Net::V6)]
}

fn any_proto() -> impl Strategy<Value = u8> {
    prop_oneof![Just(proto::TCP), Just(proto::UDP), Just(proto::SCTP)]
}

/// Backends of `web`: this node's pod, another node's, the client itself, this node, another node, a pod behind the
/// overlay.
const BACKENDS: core::ops::RangeInclusive<u32> = 5..=10;

/// A world in which SCTP finds its ports unchanged.
fn world(net: Net, proto: u8, backend: u32) -> World {
    World::outside(net, proto).slots(&[backend]).with(|w| {
        if proto == proto::SCTP {
            w.backends.iter_mut().for_each(|(_, backend)| backend.port = Port::new(8080));
            w.services[0].frontends.iter_mut().filter(|(key, _)| key.port.get() != 30_080).for_each(|(key, _)| {
                key.port = Port::new(8080);
            });
        }
    })
}

/// Hooks that a packet of the node passes from where it comes in, by the way that its address leads.
fn way(net: Net, src: Addr, dst: Addr, verdict: Verdict) -> Option<Hook> {
    if verdict != Verdict::Stack && verdict != Verdict::Pass {
        return None;
    }
    let pods = [net.client(), net.server()];
    if pods.contains(&dst) {
        Some(Hook::PodEgress)
    } else if src == net.node() {
        Some(Hook::UplinkOut)
    } else {
        None
    }
}

/// Where packets from this address come in.
fn place(net: Net, src: Addr) -> Hook {
    if src == net.client() {
        Hook::PodIngress(DEV_CLIENT)
    } else if src == net.server() {
        Hook::PodIngress(DEV_SERVER)
    } else if src == net.far() {
        Hook::Overlay
    } else {
        Hook::Uplink
    }
}

/// Sends a packet all its way through the node; what comes out, if it was not dropped.
fn pass(net: Net, tables: &MemTables, scratch: &mut Scratch, spec: &PacketSpec) -> Option<(Verdict, Vec<u8>)> {
    let mut packet = spec.packet();
    let src = spec.tuple.src;
    let mut verdict = Verdict::Pass;
    // What the node itself sends is met where it leaves only.
    if src != net.node() {
        verdict = place(net, src).run_after(&mut packet, tables, scratch);
    }
    let dst = dissect(&packet.bytes, 14).map_or(spec.tuple.dst, |packet| packet.tuple.dst);
    if let Some(hook) = way(net, src, dst, verdict) {
        let last = hook.run_after(&mut packet, tables, scratch);
        if last != Verdict::Pass {
            verdict = last;
        }
    }
    (!matches!(verdict, Verdict::Drop(_))).then_some((verdict, packet.bytes))
}

/// The transport checksum after a translation is as the one before it was.
const fn sum_of(spec: &PacketSpec) -> Sum {
    match spec.l4_sum {
        L4Sum::Good => Sum::Good,
        L4Sum::Zero => Sum::None,
        L4Sum::Partial => Sum::Partial,
    }
}

fn same(spec: &PacketSpec, tuple: Tuple, hops: u8, bytes: &[u8]) -> Result<(), TestCaseError> {
    let found = dissect(bytes, 14).map_err(TestCaseError::fail)?;
    prop_assert_eq!(found.tuple, tuple);
    prop_assert_eq!(found.ttl, spec.ttl - hops);
    prop_assert_eq!(found.l4_sum, sum_of(spec));
    prop_assert!(found.ip_sum != Sum::Bad);
    let wanted = spec.clone().with(|p| (p.tuple, p.ttl) = (tuple, spec.ttl - hops)).build();
    prop_assert_eq!(&bytes[14..], &wanted[14..]);
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    /// Client to backend and back: the backend's answer reaches the client from the address that he had named, to the
    /// byte as if it had been made there.
    #[test]
    fn a_reply_undoes_the_translation(
        net in net(),
        proto in any_proto(),
        backend in BACKENDS,
        outside in any::<bool>(),
        redirect in any::<bool>(),
        (node_port, port) in (any::<bool>(), any::<u16>()),
        (forth, back) in (shape(), shape()),
    ) {
        let client = if outside { net.outside() } else { net.client() };
        let node_port = node_port && proto != proto::SCTP;
        let target = if node_port { (net.node(), 30_080) } else { (net.other_vip(), 8080) };
        // Nobody outside is a pod of this node.
        prop_assume!(!outside || backend != 7);
        let mut world = world(net, proto, backend);
        if redirect {
            world = world.redirect();
        }
        let tables = MemTables::with(&world.contents(NOW));
        let scratch = &mut Scratch::default();
        let tuple = Tuple::new(client, Port::new(port), target.0, Port::new(target.1), proto);
        let opening = forth.packet(tuple, 0x02);
        let Some((verdict, sent)) = pass(net, &tables, scratch, &opening) else {
            return Err(TestCaseError::fail(format!("dropped: {:?}", tables.counters())));
        };
        let entries = tables.flow_entries();
        let (_, _, flow) = entries.iter().find(|(.., flow)| flow.role & role::FORWARD != 0).expect("a flow");
        let routed = u8::from(flow.role & role::ROUTED != 0);
        prop_assert!(verdict != Verdict::Pass);
        same(&opening, flow.to, routed, &sent)?;
        check_flows(&tables);

        let answer = back.packet(flow.to.reversed(), 0x12);
        let Some((verdict, received)) = pass(net, &tables, scratch, &answer) else {
            return Err(TestCaseError::fail(format!("the reply is dropped: {:?}", tables.counters())));
        };
        prop_assert!(verdict != Verdict::Pass);
        same(&answer, tuple.reversed(), routed, &received)?;
        check_flows(&tables);
        prop_assert!(tables.flow_entries().iter().all(|(table, ..)| *table == FlowTable::Embryos));

        // And on, with what the first packets left in the working memory.
        let next = back.packet(tuple, 0x10);
        let Some((_, sent)) = pass(net, &tables, scratch, &next) else {
            return Err(TestCaseError::fail(format!("the third packet is dropped: {:?}", tables.counters())));
        };
        same(&next, flow.to, routed, &sent)?;
        check_flows(&tables);
        prop_assert!(tables.flow_entries().iter().all(|(table, ..)| *table == FlowTable::Flows));
    }

    /// Whoever is refused hears of it in a right packet, or there is a reason not to tell him.
    #[test]
    fn refusals_are_right_packets(
        net in net(),
        proto in any_proto(),
        outside in any::<bool>(),
        flags in any::<u8>(),
        port in any::<u16>(),
        shape in shape(),
        fragment in prop::option::of(any::<bool>()),
        empty in any::<bool>(),
    ) {
        let world = world(net, proto, 5).with(|w| {
            if empty {
                w.services[0].action = action::REJECT;
                w.services[0].slots.clear();
            }
        });
        let tables = MemTables::with(&world.contents(NOW));
        let client = if outside { net.outside() } else { net.client() };
        // A clusterIP's unused port is refused to pods only.
        let target = if outside || empty { (net.other_vip(), 8080) } else { (net.vip(), 9) };
        let tuple = Tuple::new(client, Port::new(port), target.0, Port::new(target.1), proto);
        let flags = if outside && !empty { flags & !0x02 } else { flags };
        let mut spec = shape.packet(tuple, flags);
        spec.fragment = fragment.map(|more| Fragment { offset: 0, more });
        // More headers than are looked through hide the ports.
        prop_assume!(net.v4 || spec.extensions.len() + usize::from(fragment.is_some()) <= 4);
        let refused = empty || !outside || proto == proto::TCP;
        prop_assume!(refused);
        let sent = spec.build();
        let mut packet = spec.packet();
        let verdict = place(net, client).run(&mut packet, &tables);
        let tcp = proto == proto::TCP;
        let plain = if net.v4 { spec.ip_options.is_empty() } else { spec.extensions.is_empty() && fragment.is_none() };
        let quotable = plain || sent.len() >= 14 + if net.v4 { 68 } else { 112 };
        if (tcp && flags & 0x04 == 0) || (!tcp && quotable) {
            prop_assert_eq!(verdict, Verdict::Bounce);
            prop_assert_eq!(tables.counter(Counter::Answered), 1);
            check_answer(&sent, &packet.bytes, 14).map_err(TestCaseError::fail)?;
        } else {
            prop_assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
            prop_assert_eq!(tables.counter(Counter::Answered), 0);
        }
    }

    /// Clients with the same ports, few ports to choose among, and the node's own connections between them: every flow has
    /// replies of its own.
    #[test]
    fn no_two_flows_share_their_replies(
        net in net(),
        proto in prop_oneof![Just(proto::TCP), Just(proto::UDP)],
        opens in prop::collection::vec((0..6_u8, 0..4_u16, 0..4_usize, any::<bool>()), 1..40),
        random in prop::collection::vec(0..12_u32, 200),
    ) {
        let tables = MemTables::with(&world(net, proto, 9).contents(NOW));
        let scratch = &mut Scratch::default();
        let backends = [6, 9, 10, 5];
        for (client, port, backend, own) in opens {
            tables.fill(&world(net, proto, backends[backend]).contents(NOW));
            tables.script_random(&random);
            let mut octets = net.outside().octets();
            octets[15] = 0x90 + client;
            let (src, port) = (Addr::v6(octets), Port::new(if port == 3 { 20_000 } else { 0x8000 + port }));
            let _verdict = if own {
                let tuple = Tuple::new(net.node(), port, net.other_node(), Port::new(80), proto);
                let mut packet = PacketSpec::new(tuple).flags(0x02).packet();
                Hook::UplinkOut.run_after(&mut packet, &tables, scratch)
            } else {
                let tuple = Tuple::new(src, port, net.node(), Port::new(30_080), proto);
                let mut packet = PacketSpec::new(tuple).flags(0x02).packet();
                Hook::Uplink.run_after(&mut packet, &tables, scratch)
            };
            check_flows(&tables);
            let entries = tables.flow_entries();
            let forward: Vec<_> = entries.iter().filter(|(.., flow)| flow.role & role::FORWARD != 0).collect();
            let seen: HashSet<_> = forward.iter().map(|(.., flow)| flow.to).collect();
            prop_assert_eq!(seen.len(), forward.len(), "two flows look alike to their backend");
        }
    }
}
