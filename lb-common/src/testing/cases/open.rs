//! First packets: which way a new flow takes.

use super::{ECE_CWR, SYN, local_flow, remote_flow, syn, tcp, to_backend, to_web, udp};
use crate::{
    abi::{Addr, Counter, Dev, Port, ServiceKey, backend_flag, dev_kind, frontend, proto, scope},
    datapath::Verdict,
    testing::{
        Case, DEV_BRIDGE, DEV_CLIENT, FlowSpec, Hook, Net, PacketSpec, World,
        flows::{Both as _, pair},
        world::{LOCAL, REMOTE, SELF},
    },
};

/// The flow of the client to itself, behind the gateway's address.
pub(super) fn hairpin_flow(net: Net, proto: u8) -> [FlowSpec; 2] {
    let mut to = to_backend(net, proto, net.client());
    to.src = net.gateway();
    pair(to_web(net, proto), to).hairpin().backend(SELF)
}

pub(super) fn cases(net: Net) -> Vec<Case> {
    let stack = |case: Case, flow: &[FlowSpec; 2]| case.opens(flow).verdict(Verdict::Stack);
    let mut cases = Vec::new();
    for (name, proto, packet) in [("TCP", proto::TCP, syn(net)), ("UDP", proto::UDP, udp(net))] {
        let web = || World::web(net, proto);
        let local = local_flow(net, proto);
        let remote = remote_flow(net, proto);
        let hairpin = hairpin_flow(net, proto);
        let open = |what: &str, world| Case::ingress(format!("{name} opens: {what}"), world, packet.clone());
        cases.extend([
            stack(open("remote backend through the stack", web().slots(&[REMOTE])), &remote),
            stack(open("local backend through the stack", web()), &local),
            open("local backend redirected", web().redirect())
                .opens(&local.oif(DEV_BRIDGE))
                .verdict(Verdict::Redirect(DEV_BRIDGE)),
            stack(
                open(
                    "remote backend takes the stack where local ones are redirected",
                    web().redirect().slots(&[REMOTE]),
                ),
                &remote,
            ),
            open("the client itself, behind the gateway's address", web().slots(&[SELF]))
                .opens(&hairpin)
                .verdict(Verdict::Bounce),
            open("the client itself where local flows are redirected", web().slots(&[SELF]).redirect())
                .opens(&hairpin)
                .verdict(Verdict::Bounce),
            open("the client itself, and the link has no gateway", web().slots(&[SELF]).with(no_source))
                .dropped(Counter::DropNoSource),
            stack(
                Case::new(
                    format!("{name} opens: from a link that is not in devs"),
                    Hook::PodIngress(DEV_CLIENT),
                    web().redirect().with(|w| w.devs.clear()),
                    packet.clone(),
                ),
                &local,
            ),
            open("the client itself on a link that is not in devs", web().slots(&[SELF]).with(|w| w.devs.clear()))
                .dropped(Counter::DropNoSource),
            stack(open("from a routed link without a bridge", web().redirect().with(|w| routed(w, net))), &local),
        ]);
        cases.extend(behind_a_router(net, name, proto, &packet));
        cases.extend(node_ports(net, name, proto, &packet));
    }
    let local = local_flow(net, proto::TCP);
    let opens =
        |what: &str, packet| stack(Case::ingress(format!("TCP opens: {what}"), World::tcp(net), packet), &local);
    cases.extend([
        opens("SYN with data", tcp(net, SYN)),
        opens("SYN that offers ECN", tcp(net, SYN | ECE_CWR)),
        opens("SYN with options", syn(net).with(|p| p.tcp_options = vec![2, 4, 5, 0xb4, 1, 1, 4, 2])),
        host_network(net),
        Case::ingress(
            "TCP to a port of the address that is no frontend",
            World::tcp(net),
            syn(net).to(net.vip(), 8081),
        )
        .refused(Counter::DropUnclaimed),
        Case::ingress("TCP to a frontend of UDP", World::udp(net), syn(net)).refused(Counter::DropUnclaimed),
        Case::ingress("UDP to a frontend of TCP", World::tcp(net), udp(net)).refused(Counter::DropUnclaimed),
        Case::ingress("TCP to a pod's own address", World::tcp(net), syn(net).to(net.server(), 80)),
    ]);
    cases
}

fn no_source(world: &mut World) {
    world.devs =
        vec![(DEV_CLIENT, Dev::new(dev_kind::POD, 14, 1500, DEV_BRIDGE, Addr::UNSPECIFIED, Addr::UNSPECIFIED))];
}

fn routed(world: &mut World, net: Net) {
    world.devs = vec![(DEV_CLIENT, Dev::new(dev_kind::POD, 14, 1500, 0, net.gateway(), net.gateway()))];
}

/// A backend in the node's own network is delivered locally: no redirect can take it there.
fn host_network(net: Net) -> Case {
    let world = World::tcp(net).redirect().slots(&[REMOTE]).with(|w| {
        let backend = w.backend(REMOTE);
        backend.addr = net.node();
        backend.flags = backend_flag::LOCAL;
    });
    let mut flow = pair(to_web(net, proto::TCP), to_backend(net, proto::TCP, net.node()));
    flow.iter_mut().for_each(|entry| entry.backend = REMOTE);
    Case::ingress("TCP opens: backend on the host's network", world, syn(net)).opens(&flow).verdict(Verdict::Stack)
}

/// Redirected, but the routes are asked for each packet: the next hop is a pod that one of the two is behind.
fn behind_a_router(net: Net, name: &str, proto: u8, packet: &PacketSpec) -> [Case; 2] {
    let case = |who: &str, world: World, packet: PacketSpec, flow: [FlowSpec; 2]| {
        Case::ingress(format!("{name} opens: redirected, {who} behind another pod"), world, packet)
            .opens(&flow.through_router(DEV_BRIDGE))
            .verdict(Verdict::Redirect(DEV_BRIDGE))
    };
    let world = || World::web(net, proto).redirect();
    let backend = world().with(|w| w.backend(LOCAL).addr = net.behind());
    let to = pair(to_web(net, proto), to_backend(net, proto, net.behind()));
    let (mut key, mut from) = (to_web(net, proto), to_backend(net, proto, net.server()));
    (key.src, from.src) = (net.behind(), net.behind());
    [
        case("the backend", backend, packet.clone(), to),
        case("the client", world(), packet.clone().with(|p| p.tuple.src = net.behind()), pair(key, from)),
    ]
}

fn node_ports(net: Net, name: &str, proto: u8, packet: &PacketSpec) -> Vec<Case> {
    let node_port = |world: &mut World| {
        let key = ServiceKey::node_port(net.v4, Port::new(30_080), proto, scope::INTERNAL);
        world.services[0].frontends.push((key, frontend::NODE_PORT));
    };
    let world = || World::web(net, proto).with(node_port);
    let at = |addr: Addr| packet.clone().to(addr, 30_080);
    let flow = pair(net.from_client(proto, net.node(), 30_080), to_backend(net, proto, net.server()));
    let own = world().slots(&[]).with(|w| {
        let key = ServiceKey { addr: net.node(), port: Port::new(30_080), proto, scope: scope::INTERNAL };
        let mut service = w.services[0].clone();
        service.index = 2;
        service.identity = 0x77;
        service.slots = vec![REMOTE];
        service.frontends = vec![(key, frontend::EXTERNAL_IP)];
        w.services.push(service);
    });
    let mut own_flow = pair(net.from_client(proto, net.node(), 30_080), to_backend(net, proto, net.remote()));
    own_flow.iter_mut().for_each(|entry| (entry.service, entry.identity, entry.backend) = (2, 0x77, REMOTE));
    vec![
        Case::ingress(format!("{name} opens: node port at a node address"), world(), at(net.node()))
            .opens(&flow)
            .verdict(Verdict::Stack),
        Case::ingress(format!("{name}: a pod's loopback address has no node ports"), world(), at(net.loopback())),
        Case::ingress(format!("{name}: node ports are not at other machines' addresses"), world(), at(net.outside())),
        Case::ingress(format!("{name}: node ports are not at the clusterIP"), world(), at(net.vip()))
            .refused(Counter::DropUnclaimed),
        Case::ingress(
            format!("{name} opens: an address's own frontend comes before the node port"),
            own,
            at(net.node()),
        )
        .opens(&own_flow)
        .verdict(Verdict::Stack),
    ]
}
