//! Session affinity on the socket path: the client is its network namespace, and what is remembered of it is looked at
//! anew with each connection.

use super::{
    Net, Request, SockCase, World,
    sock_case::POD_NETNS,
    sock_cases::{call, entries},
    world::{AffinitySpec, LOCAL, REMOTE},
};
use crate::{
    abi::{AffinityKey, Counter, Port, action, backend_state, proto, ticks},
    datapath::sock::Outcome,
};

/// Every row, for each form of call that the hooks translate.
pub(super) fn cases(net: Net) -> Vec<SockCase> {
    const TIMEOUT: u32 = 600;
    let mut cases = Vec::new();
    let forms = [(proto::TCP, false, Request::Connect), (proto::TCP, true, Request::Connect)];
    let datagrams = [(proto::UDP, true, Request::Connect), (proto::UDP, false, Request::SendMsg)];
    for (proto, host, request) in forms.into_iter().chain(datagrams) {
        let client = AffinityKey::netns(POD_NETNS);
        let (was, is) = (AffinitySpec::new(client, REMOTE), AffinitySpec::new(client, LOCAL));
        let case = |what: &str, entries: &[AffinitySpec], change: &dyn Fn(&mut World)| {
            call(format!("affinity: {what}, protocol {proto}, host {host}"), net, request, proto).with(|case| {
                case.call.host = host;
                case.world.services[0].affinity_seconds = TIMEOUT;
                case.world.affinity = entries.to_vec();
                change(&mut case.world);
            })
        };
        let as_it_is = |_: &mut World| {};
        let state = |state| move |world: &mut World| world.backend(REMOTE).state = state;
        let kept = |what: &str, entry: AffinitySpec, change: &dyn Fn(&mut World)| {
            case(what, &[entry], change).translated(REMOTE).with(|case| case.affinity = Some(vec![was]))
        };
        let left = |what: &str, entry: AffinitySpec, change: &dyn Fn(&mut World)| {
            case(what, &[entry], change).translated(LOCAL).with(|case| case.affinity = Some(vec![is]))
        };
        let others = |what: &str, entry: AffinitySpec| {
            case(what, &[entry], &as_it_is).translated(LOCAL).with(|case| case.affinity = Some(vec![entry, is]))
        };
        let terminating = |world: &mut World| {
            state(backend_state::TERMINATING)(world);
            world.services[0].action = action::FORWARD | action::TERMINATING;
        };
        cases.extend([
            case("the first connection is remembered", &[], &as_it_is)
                .translated(LOCAL)
                .with(|case| case.affinity = Some(vec![is])),
            kept("the next connection goes to the same backend", was, &as_it_is),
            kept("each connection renews it", AffinitySpec { age: 100, ..was }, &as_it_is),
            kept("it lasts to the last tick", AffinitySpec { age: ticks(TIMEOUT), ..was }, &as_it_is),
            kept("a terminating backend is kept where nothing better exists", was, &terminating),
            left("it expires", AffinitySpec { age: ticks(TIMEOUT) + 1, ..was }, &as_it_is),
            left("a backend that is gone is left", was, &state(backend_state::GONE)),
            left("a terminating backend is left", was, &state(backend_state::TERMINATING)),
            left("a reused backend id is left", AffinitySpec { generation: 9, ..was }, &as_it_is),
            left("a backend of weight 0 takes no new connection", was, &|world| world.backend(REMOTE).weight = 0),
            left("a backend that never was is left", AffinitySpec { backend: 99, ..was }, &as_it_is),
            others("another namespace's is its own", AffinitySpec { client: AffinityKey::netns(POD_NETNS + 1), ..was }),
            others("an address's is its own", AffinitySpec { client: net.client(), ..was }),
            others("an earlier service's does not count", AffinitySpec { identity: 0x5555, ..was }),
            case("a service without it remembers nobody", &[was], &|world| world.services[0].affinity_seconds = 0)
                .translated(LOCAL),
            case("a refused connection remembers nobody", &[], &|world| world.services[0].action = action::REJECT)
                .refused(Counter::SocketRefused),
        ]);
    }
    // An unconnected socket keeps its own backend, whatever the namespace's newest one is.
    let was = entries(net, proto::UDP, REMOTE);
    cases.push(call("affinity: a socket that has a backend", net, Request::SendMsg, proto::UDP).with(|case| {
        case.world.services[0].affinity_seconds = TIMEOUT;
        case.world.affinity = vec![AffinitySpec::new(AffinityKey::netns(POD_NETNS), LOCAL)];
        case.world.socks = was.to_vec();
        case.outcome = Outcome::To(net.remote(), Port::new(80));
    }));
    cases
}
