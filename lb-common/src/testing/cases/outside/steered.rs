//! Flows between networks whose way is another one by now: a device was made anew, with another index, or the routes lead
//! elsewhere.

use super::{ACK, at, dsr, flow, name, reply_hook, world};
use crate::{
    abi::proto,
    testing::{
        Case, DEV_UPLINK, FlowSpec, Hook, Net, World,
        flows::Both as _,
        world::{ELSEWHERE, FAR, LOCAL, LOST, REMOTE},
    },
};

/// The index of a device that is gone.
const GONE: u32 = 99;

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP, proto::SCTP] {
        for (backend, whom) in [
            (LOCAL, "a local pod"),
            (REMOTE, "another node's pod"),
            (FAR, "a pod behind the overlay"),
            (ELSEWHERE, "another node"),
        ] {
            let to = |what: &str| format!("{} to {whom}: {what}", name(proto));
            cases.extend(both_ways(&to, flow(net, proto, backend).established(), reply_hook(backend), |flows| {
                world(net, proto, backend).flows(flows)
            }));
        }
        if proto != proto::SCTP {
            let over = dsr::over(net, proto, FAR).established();
            let world = |flows: &[FlowSpec]| dsr::dsr(net, proto, FAR).flows(flows);
            cases.push(
                by(over, GONE, DEV_UPLINK, |before| {
                    let title = format!("{}: a device made anew, for what is handed over", name(proto));
                    Case::new(title, Hook::Uplink, world(&before), at(Hook::Uplink, over[0].key).flags(ACK))
                })
                .handed_over(&over[0])
                .flows(&over),
            );
        }
    }
    cases.extend(kept(net));
    cases
}

/// A case whose flow has these devices and small MTUs, and was not heard of for some ticks.
fn by(flow: [FlowSpec; 2], oif: u32, mate_oif: u32, case: impl Fn([FlowSpec; 2]) -> Case) -> Case {
    let [mut forward, mut reply] = flow.age(2);
    (forward.oif, reply.mate_oif) = (oif, oif);
    (forward.mate_oif, reply.oif) = (mate_oif, mate_oif);
    if oif != flow[0].oif {
        (forward.mtu, reply.mate_mtu) = (1280, 1280);
    }
    if mate_oif != flow[0].mate_oif {
        (forward.mate_mtu, reply.mtu) = (1280, 1280);
    }
    case([forward, reply])
}

/// Whatever has become another device, the next packet of either direction finds it.
fn both_ways(
    to: &dyn Fn(&str) -> String,
    flow: [FlowSpec; 2],
    replies: Hook,
    world: impl Fn(&[FlowSpec]) -> World,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, oif, mate_oif) in [
        ("the backend's device is made anew", GONE, flow[0].mate_oif),
        ("the client's device is made anew", flow[0].oif, GONE),
        ("both devices are made anew", GONE, GONE),
    ] {
        for (hook, index, who) in [(Hook::Uplink, 0, "the client"), (replies, 1, "the backend")] {
            cases.push(
                by(flow, oif, mate_oif, |before| {
                    let title = to(&format!("{what}, {who} goes on"));
                    Case::new(title, hook, world(&before), at(hook, flow[index].key).flags(ACK))
                })
                .follows(&flow[index])
                .flows(&flow),
            );
        }
    }
    cases
}

/// Ways that stay.
fn kept(net: Net) -> Vec<Case> {
    let far = flow(net, proto::UDP, FAR).established();
    let at_uplink = |flow: &FlowSpec| at(Hook::Uplink, flow.key);
    let case = |what: &str, flow: [FlowSpec; 2], backend| {
        let world = world(net, proto::UDP, backend).flows(&flow.age(2));
        Case::new(format!("the way stays: {what}"), Hook::Uplink, world, at_uplink(&flow[0]))
            .follows(&flow[0])
            .flows(&flow)
    };
    let by_gone = |[mut forward, mut reply]: [FlowSpec; 2]| {
        (forward.oif, reply.mate_oif) = (GONE, GONE);
        [forward, reply]
    };
    let to = |flow: [FlowSpec; 2], dst, backend| {
        let [mut forward, mut reply] = by_gone(flow.backend(backend));
        forward.to.dst = dst;
        reply.key = forward.to.reversed();
        [forward, reply]
    };
    let lost = to(far, net.unreachable(), LOST);
    let bare = to(flow(net, proto::UDP, LOCAL).established(), net.remote(), REMOTE);
    let mut moved_route = far;
    (moved_route[0].oif, moved_route[1].mate_oif) = (DEV_UPLINK, DEV_UPLINK);
    let rerouted = {
        let world = world(net, proto::UDP, FAR).flows(&moved_route.age(2));
        Case::new("the routes lead by another device", Hook::Uplink, world, at_uplink(&far[0]))
            .follows(&far[0])
            .flows(&far)
    };
    let soon = by_gone(far);
    let same_tick = {
        let world = world(net, proto::UDP, FAR).flows(&soon);
        Case::new("the way is asked for once in a tick", Hook::Uplink, world, at_uplink(&far[0]))
            .follows(&soon[0])
            .flows(&soon)
    };
    vec![
        case("no route leads there", lost, LOST),
        case("the client's own name does not leave the node", bare, REMOTE),
        rerouted,
        same_tick,
    ]
}
