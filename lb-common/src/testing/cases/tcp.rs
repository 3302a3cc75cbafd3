//! TCP packets of the client: openings that are repeated, hits, ends, and packets without a flow.

use super::{ACK, FIN, PSH, RST, SYN, first, local_flow, remote_flow, syn, tcp, to_backend};
use crate::{
    abi::{Counter, backend_state, flow_state, proto},
    datapath::Verdict,
    testing::{
        Case, DEV_BRIDGE, FlowSpec, Net, PacketSpec, World,
        flows::Both as _,
        world::{LOCAL, REMOTE},
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = repeated(net);
    cases.extend(hits(net));
    cases.extend(without_flow(net));
    cases
}

/// A SYN on a tuple that has a flow. New choices fall on the remote backend.
fn repeated(net: Net) -> Vec<Case> {
    let local = local_flow(net, proto::TCP);
    let remote = remote_flow(net, proto::TCP);
    let world = |flow: &[FlowSpec]| World::tcp(net).slots(&[REMOTE]).flows(flow);
    let stays = |what: &str, world, after: &[FlowSpec; 2]| {
        Case::ingress(format!("SYN once more: {what}"), world, syn(net))
            .verdict(Verdict::Stack)
            .out(syn(net).with_tuple(after[0].to))
            .flows(after)
    };
    let anew = |what: &str, world| {
        Case::ingress(format!("SYN once more: {what}"), world, syn(net)).opens(&remote).verdict(Verdict::Stack)
    };
    let state = |flow: [FlowSpec; 2], state| world(&flow).with(|w| w.backend(LOCAL).state = state);
    let replied = local.answered();
    let other = local.map(|flow| FlowSpec { service: 2, ..flow });
    vec![
        stays("unanswered, it stays", world(&local), &local),
        stays("later, and both directions are touched", world(&local.age(5)), &local),
        stays("answered, it stays, and is no sign that the answer arrived", world(&replied), &replied),
        stays("answered and later", world(&replied.age(5)), &replied),
        stays("in a flow that is redirected", world(&local.oif(DEV_BRIDGE)), &local.oif(DEV_BRIDGE))
            .verdict(Verdict::Redirect(DEV_BRIDGE)),
        anew("an established connection is over", world(&local.established())),
        anew("a closing connection is over", world(&local.closing())),
        anew("a connection refused is over", world(&local.state(flow_state::CLOSING))),
        anew("the backend is gone", state(local, backend_state::GONE)),
        anew("the backend is terminating", state(local, backend_state::TERMINATING)),
        anew("the backend's id was reused", world(&local).with(|w| w.backend(LOCAL).generation = 2)),
        anew("the service is another", world(&local.map(|flow| FlowSpec { identity: 0x5555, ..flow }))),
        anew("the frontend went to another service index", world(&other)),
        anew("only the forward entry is left of a closing flow", world(&local.state(flow_state::CLOSING)[..1])),
        anew("only the reply entry is left of a closing flow", world(&local.closing()[1..])).with(|case| {
            // That entry is of another backend, so it harms nobody until its own client's port comes back to it.
            let kept = local.closing()[1];
            case.flows = Some(vec![remote[0], remote[1], kept]);
        }),
    ]
}

/// Packets of flows that are there.
fn hits(net: Net) -> Vec<Case> {
    let local = local_flow(net, proto::TCP);
    let replied = local.answered();
    let established = local.established();
    let closing = local.closing();
    let world = |flow: &[FlowSpec]| World::tcp(net).flows(flow);
    let hit = |what: &str, world, packet: PacketSpec, after: &[FlowSpec]| {
        let out = packet.clone().with_tuple(to_backend(net, proto::TCP, net.server()));
        Case::ingress(format!("TCP hit: {what}"), world, packet).verdict(Verdict::Stack).out(out).flows(after)
    };
    let gone = |w: &mut World| w.backend(LOCAL).state = backend_state::GONE;
    vec![
        hit("the client's ACK establishes", world(&replied), tcp(net, ACK), &established),
        hit("data establishes as well", world(&replied), tcp(net, ACK | PSH), &established),
        hit("before any reply nothing is established", world(&local), tcp(net, ACK), &local),
        hit("within a tick nothing is written", world(&established), tcp(net, ACK), &established),
        hit("a later packet touches both directions", world(&established.age(7)), tcp(net, ACK), &established),
        hit("FIN closes", world(&established), tcp(net, FIN | ACK), &closing),
        hit("RST closes", world(&established), tcp(net, RST), &closing),
        hit("RST closes before any reply", world(&local), tcp(net, RST), &local.state(flow_state::CLOSING)),
        hit("closing stays closing", world(&closing.age(3)), tcp(net, ACK), &closing),
        hit("the way back is mended when it was evicted", world(&established.age(3)[..1]), tcp(net, ACK), &established),
        hit(
            "the backend is gone, and the connection drains",
            world(&established).with(gone),
            tcp(net, ACK),
            &established,
        ),
        hit(
            "the service is gone, and the connection drains",
            world(&established).with(|w| w.services.clear()),
            tcp(net, ACK),
            &established,
        ),
        hit(
            "the backend terminates, and the connection goes on",
            world(&established).with(|w| w.backend(LOCAL).state = backend_state::TERMINATING),
            tcp(net, ACK),
            &established,
        ),
        hit("redirected", world(&established.oif(DEV_BRIDGE)), tcp(net, ACK), &established.oif(DEV_BRIDGE))
            .verdict(Verdict::Redirect(DEV_BRIDGE)),
        hit(
            "redirected as it was opened, whatever the setting is now",
            world(&established).redirect(),
            tcp(net, ACK),
            &established,
        ),
        hit("an empty segment", world(&established), tcp(net, ACK).with(|p| p.payload.clear()), &established),
        hit(
            "an odd number of bytes",
            world(&established),
            tcp(net, ACK).with(|p| p.payload = vec![1, 2, 3]),
            &established,
        ),
        hit("TCP options", world(&established), tcp(net, ACK).with(|p| p.tcp_options = vec![1; 40]), &established),
        hit(
            "a first fragment is remembered",
            world(&established),
            tcp(net, ACK).with(first),
            &[established[0], established[1], established[0].fragments()],
        ),
        Case::ingress("TCP hit: SYN with ACK is no opening", world(&established), tcp(net, SYN | ACK))
            .verdict(Verdict::Stack)
            .out(tcp(net, SYN | ACK).with_tuple(to_backend(net, proto::TCP, net.server()))),
    ]
}

/// Packets to a frontend that belong to no flow.
fn without_flow(net: Net) -> Vec<Case> {
    let case = |what: &str, flags, grace| {
        Case::ingress(format!("TCP without flow: {what}"), World::tcp(net).with(|w| w.grace = grace), tcp(net, flags))
    };
    let opened = local_flow(net, proto::TCP);
    vec![
        case("ACK", ACK, None).refused(Counter::DropNoFlow),
        case("data", ACK | PSH, None).refused(Counter::DropNoFlow),
        case("FIN", FIN | ACK, None).refused(Counter::DropNoFlow),
        case("RST", RST, None).dropped(Counter::DropNoFlow),
        case("SYN with ACK", SYN | ACK, None).refused(Counter::DropNoFlow),
        case("no flags at all", 0, None).refused(Counter::DropNoFlow),
        case("ACK passes in the grace time", ACK, Some(50)),
        case("ACK after the grace time", ACK, Some(-2)).refused(Counter::DropNoFlow),
        case("SYN opens in the grace time too", SYN, Some(50))
            .opens(&local_flow(net, proto::TCP))
            .verdict(Verdict::Stack),
        Case::ingress("TCP without flow: SYN in a first fragment", World::tcp(net), syn(net).with(first))
            .opens(&opened)
            .flows(&[opened[0], opened[1], opened[0].fragments()]),
        Case::ingress(
            "TCP without flow: ACK in a first fragment, in the grace time",
            World::tcp(net).with(|w| w.grace = Some(50)),
            tcp(net, ACK).with(first),
        ),
        Case::ingress("TCP without flow: ACK in a first fragment", World::tcp(net), tcp(net, ACK).with(first))
            .refused(Counter::DropNoFlow),
        Case::ingress("TCP to no frontend: ACK passes", World::tcp(net), tcp(net, ACK).to(net.server(), 80)),
    ]
}
