//! Session affinity by client address.

use super::{local_flow, remote_flow, syn, udp};
use crate::{
    abi::{action, backend_state, proto, ticks},
    datapath::Verdict,
    testing::{
        AffinitySpec, Case, FlowSpec, Net, World,
        world::{LOCAL, REMOTE},
    },
};

/// Affinity timeout of the cases, in seconds.
const TIMEOUT: u32 = 10_800;

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, proto, packet) in [("TCP", proto::TCP, syn(net)), ("UDP", proto::UDP, udp(net))] {
        let (local, remote) = (local_flow(net, proto), remote_flow(net, proto));
        // New choices fall on the local backend, the client's earlier one was the remote one.
        let was = AffinitySpec::new(net.client(), REMOTE);
        let is = AffinitySpec::new(net.client(), LOCAL);
        let sticky = |entries: &[AffinitySpec]| {
            World::web(net, proto).with(|w| {
                w.services[0].affinity_seconds = TIMEOUT;
                w.affinity = entries.to_vec();
            })
        };
        let case = |what: &str, world, flow: &[FlowSpec; 2], after: &[AffinitySpec]| {
            Case::ingress(format!("{name} affinity: {what}"), world, packet.clone())
                .opens(flow)
                .verdict(Verdict::Stack)
                .affinity(after)
        };
        let old = AffinitySpec { age: 100, ..was };
        let oldest = AffinitySpec { age: ticks(TIMEOUT) - 2, ..was };
        let expired = AffinitySpec { age: ticks(TIMEOUT) + 2, ..was };
        let stranger = AffinitySpec { client: net.outside(), ..was };
        let of_another_service = AffinitySpec { identity: 0x5555, ..was };
        let other_generation = AffinitySpec { generation: 9, ..was };
        let state = |world: World, state| world.with(|w| w.backend(REMOTE).state = state);
        cases.extend([
            case("the first connection is remembered", sticky(&[]), &local, &[is]),
            case("the next goes to the same backend", sticky(&[was]), &remote, &[was]),
            case("each connection renews it", sticky(&[old]), &remote, &[was]),
            case("it lasts as long as asked for", sticky(&[oldest]), &remote, &[was]),
            case("it expires", sticky(&[expired]), &local, &[is]),
            case("other clients' are theirs", sticky(&[stranger]), &local, &[stranger, is]),
            case(
                "an earlier service's does not count",
                sticky(&[of_another_service]),
                &local,
                &[of_another_service, is],
            ),
            case("a backend that is gone is left", state(sticky(&[was]), backend_state::GONE), &local, &[is]),
            case("a terminating backend is left", state(sticky(&[was]), backend_state::TERMINATING), &local, &[is]),
            case("a reused backend id is left", sticky(&[other_generation]), &local, &[is]),
            case(
                "a terminating backend is kept where nothing better exists",
                state(sticky(&[was]), backend_state::TERMINATING)
                    .with(|w| w.services[0].action = action::FORWARD | action::TERMINATING),
                &remote,
                &[was],
            ),
            Case::ingress(
                format!("{name} affinity: a service without it remembers nobody"),
                sticky(&[was]).with(|w| w.services[0].affinity_seconds = 0),
                packet.clone(),
            )
            .opens(&local)
            .verdict(Verdict::Stack),
        ]);
    }
    cases
}
