//! Packets from outside that no frontend is open to: clusterIPs are closed to them, all else passes.

use super::{ACK, RST, SYN, first, later, local_flow, to_web};
use crate::{
    abi::{Counter, Port, ServiceKey, Tuple, action, frontend, proto, scope},
    testing::{Case, Extension, Hook, Net, PacketSpec, World, flows::Both as _},
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (hook, place) in [(Hook::Uplink, "uplink"), (Hook::UplinkL3, "uplink without link layer")] {
        for (name, proto) in [("TCP", proto::TCP), ("UDP", proto::UDP)] {
            let from = Tuple::new(net.outside(), Port::new(50_000), net.vip(), Port::new(8080), proto);
            let packet = || PacketSpec::new(from).flags(SYN).with(|p| p.ethernet = hook == Hook::Uplink);
            let web = || World::web(net, proto);
            let case = |what: &str, world, packet| Case::new(format!("{place}: {name} {what}"), hook, world, packet);
            let closed = |what: &str, world, packet| case(what, world, packet).dropped(Counter::DropClosed);
            let flow = local_flow(net, proto);
            let icmp = if net.v4 { proto::ICMP } else { proto::ICMPV6 };
            cases.extend([
                closed("to a clusterIP", web(), packet()),
                closed("to a clusterIP in mid-stream", web(), packet().flags(ACK)),
                closed("to a clusterIP, resetting", web(), packet().flags(RST)),
                closed(
                    "to a clusterIP without endpoints",
                    web().with(|w| w.services[0].action = action::REJECT),
                    packet(),
                ),
                closed("to a clusterIP, first fragment", web(), packet().with(first)),
                closed("to a clusterIP, from a pod of another node", web(), packet().from(net.remote(), 1)),
                closed("to another port of a clusterIP", web(), packet().to(net.vip(), 8081)),
                closed("to a clusterIP by ICMP", web(), packet().with(|p| p.tuple.proto = icmp)),
                closed("to a clusterIP by another protocol", web(), packet().with(|p| p.tuple.proto = 47)),
                case("to a pod", web(), packet().to(net.server(), 80)),
                case("to the node", web(), packet().to(net.node(), 22)),
                closed(
                    "to an address that has no frontend for the outside",
                    web().with(|w| w.services[0].frontends.truncate(1)),
                    packet(),
                ),
                case("to a clusterIP, later fragment", web(), packet().with(later)).dropped(Counter::DropFragment),
                case(
                    "on a flow's ports",
                    web().flows(&flow.established()),
                    PacketSpec::new(to_web(net, proto)).with(|p| {
                        p.ethernet = hook == Hook::Uplink;
                    }),
                )
                .dropped(Counter::DropClosed),
                closed(
                    "to a closed node port",
                    web().with(|w| {
                        let key = ServiceKey::node_port(net.v4, Port::new(30_080), proto, scope::EXTERNAL);
                        w.services[0].frontends.push((key, frontend::NODE_PORT | frontend::CLOSED));
                    }),
                    packet().to(net.node(), 30_080),
                ),
            ]);
            if !net.v4 {
                cases.push(closed(
                    "to a clusterIP behind extension headers",
                    web(),
                    packet().with(|p| p.extensions = vec![Extension::HopByHop(0), Extension::Destination(2)]),
                ));
            }
        }
    }
    cases
}
