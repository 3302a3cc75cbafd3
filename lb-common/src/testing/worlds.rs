//! Larger worlds: what can be reached from outside, and what damaged packets meet.

use super::{
    FlowSpec, Net, World,
    flows::{Both as _, outside_flow, pair},
    malformed::BACKENDS,
    world::LOCAL,
};
use crate::abi::{Addr, Port, ServiceKey, frontend, proto, scope};

/// The node port of `web`.
pub(crate) const NODE_PORT: u16 = 30_080;

/// A frontend of `web` that is open to the outside: the node port; of SCTP, which keeps its ports, the other.
pub(super) const fn open_frontend(net: Net, proto: u8) -> (Addr, u16) {
    if proto == proto::SCTP { (net.other_vip(), balancer_port(proto)) } else { (net.node(), NODE_PORT) }
}

const fn balancer_port(proto: u8) -> u16 {
    if proto == proto::SCTP { 80 } else { 8080 }
}

impl World {
    /// As [`World::web`], and open to the outside: at a LoadBalancer's address, port 8080 (SCTP: 80), and at a node port.
    #[must_use]
    pub fn outside(net: Net, proto: u8) -> Self {
        Self::web(net, proto).with(|world| {
            for scope in [scope::INTERNAL, scope::EXTERNAL] {
                let balancer =
                    ServiceKey { addr: net.other_vip(), port: Port::new(balancer_port(proto)), proto, scope };
                let node_port = ServiceKey::node_port(net.v4, Port::new(NODE_PORT), proto, scope);
                let frontends = &mut world.services[0].frontends;
                frontends.extend([(balancer, frontend::LOAD_BALANCER), (node_port, frontend::NODE_PORT)]);
            }
        })
    }

    /// [`World::outside`] in both families and all protocols, with backends and flows of each kind: what damaged packets
    /// meet.
    #[must_use]
    pub fn everything() -> Self {
        let mut all = Self::tcp(Net::V4);
        all.services.clear();
        all.backends.clear();
        all.addrs.clear();
        all.pod_nets.clear();
        let mut index = 1;
        for net in Net::BOTH {
            for proto in [proto::TCP, proto::UDP, proto::SCTP] {
                let mut world = Self::outside(net, proto).slots(&[LOCAL]);
                let base = 10 * index;
                world.backends.iter_mut().for_each(|(id, _)| *id += base);
                let service = &mut world.services[0];
                service.index = index;
                service.slots.iter_mut().for_each(|id| *id += base);
                let key = net.from_client(proto, net.vip(), 8080);
                let inside = pair(key, net.from_client(proto, net.server(), 80));
                let outside =
                    BACKENDS.map(|(backend, port)| outside_flow(net, proto, open_frontend(net, proto), port, backend));
                let flows = outside.into_iter().chain([inside]).flat_map(|flow| flow.established().age(3));
                all.flows.extend(flows.map(|flow| FlowSpec { service: index, backend: flow.backend + base, ..flow }));
                all.services.append(&mut world.services);
                all.backends.append(&mut world.backends);
                all.addrs.append(&mut world.addrs);
                all.pod_nets.append(&mut world.pod_nets);
                index += 1;
            }
        }
        all
    }
}
