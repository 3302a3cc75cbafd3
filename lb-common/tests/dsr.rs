//! Direct server return over two nodes: whatever a client's packets look like, the backend gets them under the client's own
//! name, and the client hears from whom it asked.

use lb_common::{
    abi::{Port, Tuple, addr_flag, forwarding, proto},
    datapath::Verdict,
    testing::{DEV_SERVER, Hook, MemTables, Net, PacketSpec, Sum, VecPacket, World, dissect, fuzz::check_flows, route},
};
use proptest::prelude::*;

const NOW: u32 = 1_000_000;
const NODE_PORT: u16 = 30_080;
/// Ids of backends: this node's pod, and the other node's.
const HERE: u32 = 5;
const THERE: u32 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The node that the client asks, whose only backend is elsewhere, and that backend's node. Both are the same small world,
/// so the second is told that the backend is its own pod.
fn nodes(net: Net, proto: u8) -> [MemTables; 2] {
    let world = World::outside(net, proto);
    let first = world.clone().slots(&[THERE]).with(|w| w.forwarding = forwarding::DSR);
    let second = world.slots(&[THERE, HERE]).with(|w| {
        w.addrs.retain(|(addr, _)| *addr != net.node());
        w.addrs.push((net.node(), addr_flag::PEER));
        w.backend(THERE).addr = net.server();
        w.backend(HERE).addr = net.client();
    });
    // What the first calls by another network's address is the second's own pod.
    let first = first.with(|w| {
        w.backend(THERE).addr = net.server();
        w.pod_nets.push((net.server(), if net.v4 { 32 } else { 128 }));
    });
    [first, second].map(|world| MemTables::with(&world.contents(NOW)))
}

/// To the first node, every pod is elsewhere.
fn out(_dst: &lb_common::abi::Addr, _iif: u32) -> lb_common::datapath::Route {
    lb_common::datapath::Route { oif: 4, mtu: 1500, on_link: false }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 600 }) })]

    #[test]
    fn the_client_hears_from_whom_it_asked(
        v4 in any::<bool>(),
        tcp in any::<bool>(),
        port in any::<u16>(),
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6),
        options in 0..=8_usize,
        ttl in 4..=255_u8,
    ) {
        let (net, proto) = (if v4 { Net::V4 } else { Net::V6 }, if tcp { proto::TCP } else { proto::UDP });
        let [first, second] = nodes(net, proto);
        let asked = Tuple::new(net.outside(), Port::new(port), net.node(), Port::new(NODE_PORT), proto);
        let served = Tuple::new(net.outside(), Port::new(port), net.server(), Port::new(80), proto);
        for (i, payload) in payloads.iter().enumerate() {
            let spec = PacketSpec::new(asked).flags(if i == 0 { SYN } else { ACK }).with(|p| {
                p.payload.clone_from(payload);
                p.ttl = ttl;
                if v4 {
                    p.ip_options = vec![1; 4 * options];
                }
            });
            let mut packet = VecPacket::new(spec.build(), out);
            prop_assert_eq!(Hook::Uplink.run(&mut packet, &first), Verdict::HandOver(4));
            let there = dissect(&packet.bytes, 14).expect("a packet");
            prop_assert_eq!((there.tuple, there.ttl, there.l4_sum), (asked, ttl - 1, Sum::Good));
            prop_assert_ne!(there.ip_sum, Sum::Bad);

            let mut packet = VecPacket::new(packet.bytes, route);
            let verdict = Hook::Uplink.run(&mut packet, &second);
            prop_assert!(matches!(verdict, Verdict::Redirect(_)), "{:?}", verdict);
            let seen = dissect(&packet.bytes, 14).expect("a packet");
            prop_assert_eq!((seen.tuple, seen.ttl, seen.l4_sum), (served, ttl - 2, Sum::Good));
            prop_assert_ne!(seen.ip_sum, Sum::Bad);

            let reply = PacketSpec::new(served.reversed()).flags(if i == 0 { SYN | ACK } else { ACK });
            let mut packet = reply.packet();
            let verdict = Hook::PodIngress(DEV_SERVER).run(&mut packet, &second);
            prop_assert_eq!(verdict, Verdict::Redirect(4), "straight out");
            prop_assert_eq!(dissect(&packet.bytes, 14).expect("a packet").tuple, asked.reversed());
        }
        check_flows(&first);
        check_flows(&second);
    }
}
