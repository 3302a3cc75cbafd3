//! Endpoint groups in few bytes, for as long as nobody looks at them: a cluster has far more endpoints than one change
//! touches. Equal groups are equal bytes.
//!
//! The number of ports, and of each the number of its name, the port and the protocol. Then each endpoint, up to the end: a byte
//! of flags, the address, and what the flags say there is: the number of its node, that of its zone, and how many hints
//! there are of each kind, with their numbers.

use std::sync::Arc;

use super::{
    Endpoint, EndpointGroup, EndpointPort,
    bytes::{address, number, put_address, put_count, put_number, put_u16, take, take_slice, u16},
    names::Numbers,
};
use crate::plan::state::Protocol;

const V6: u8 = 1;
const READY: u8 = 1 << 1;
const SERVING: u8 = 1 << 2;
const TERMINATING: u8 = 1 << 3;
const NODE: u8 = 1 << 4;
const ZONE: u8 = 1 << 5;
const HINTS: u8 = 1 << 6;

/// Packs a group, and takes the numbers of its names: [`give_back_group`] is to be called at its end.
pub(super) fn pack_group(group: &EndpointGroup, numbers: &mut Numbers, out: &mut Vec<u8>) {
    put_count(group.ports.len(), out);
    for EndpointPort { name, port, protocol } in &group.ports {
        put_number(numbers.take(name), out);
        put_u16(*port, out);
        out.push(protocol.number());
    }
    out.reserve(group.endpoints.len() * 7);
    for endpoint in &group.endpoints {
        pack_endpoint(endpoint, numbers, out);
    }
}

/// The group that these bytes are, by the names of its numbers.
pub(super) fn unpack_group(mut rest: &[u8], names: &[Arc<str>]) -> EndpointGroup {
    let ports = (0..number(&mut rest)).map(|_| EndpointPort {
        name: names[number(&mut rest) as usize].clone(),
        port: u16(&mut rest),
        protocol: protocol(take(&mut rest)),
    });
    let ports = ports.collect();
    let mut endpoints = Vec::with_capacity(rest.len() / 5);
    while !rest.is_empty() {
        endpoints.push(unpack_endpoint(&mut rest, names));
    }
    EndpointGroup { ports, endpoints }
}

/// The names of the group that these bytes are are no longer needed.
pub(super) fn give_back_group(mut rest: &[u8], numbers: &mut Numbers) {
    for _ in 0..number(&mut rest) {
        numbers.give_back(number(&mut rest));
        take_slice(&mut rest, 3);
    }
    while !rest.is_empty() {
        let flags = take(&mut rest);
        take_slice(&mut rest, if flags & V6 == 0 { 4 } else { 16 });
        for _ in 0..(flags & NODE).count_ones() + (flags & ZONE).count_ones() {
            numbers.give_back(number(&mut rest));
        }
        if flags & HINTS != 0 {
            for _kind in 0..2 {
                for _ in 0..number(&mut rest) {
                    numbers.give_back(number(&mut rest));
                }
            }
        }
    }
}

/// A protocol by its IANA number.
pub(super) fn protocol(number: u8) -> Protocol {
    Protocol::from_number(number).expect("it was a protocol")
}

fn pack_endpoint(endpoint: &Endpoint, numbers: &mut Numbers, out: &mut Vec<u8>) {
    let Endpoint { address, ready, serving, terminating, node_name, zone, zone_hints, node_hints } = endpoint;
    let has_hints = !zone_hints.is_empty() || !node_hints.is_empty();
    let flags = [
        (address.is_ipv6(), V6),
        (*ready, READY),
        (*serving, SERVING),
        (*terminating, TERMINATING),
        (node_name.is_some(), NODE),
        (zone.is_some(), ZONE),
        (has_hints, HINTS),
    ];
    out.push(flags.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag));
    put_address(*address, out);
    for name in node_name.iter().chain(zone) {
        put_number(numbers.take(name), out);
    }
    if has_hints {
        for hints in [zone_hints, node_hints] {
            put_count(hints.len(), out);
            hints.iter().for_each(|hint| put_number(numbers.take(hint), out));
        }
    }
}

fn unpack_endpoint(rest: &mut &[u8], names: &[Arc<str>]) -> Endpoint {
    let flags = take(rest);
    let address = address(rest, flags & V6 != 0);
    let named = |number: u32| names[number as usize].clone();
    let mut name = |flag: u8| (flags & flag != 0).then(|| named(number(rest)));
    let (node_name, zone) = (name(NODE), name(ZONE));
    let mut hints = || -> Vec<_> {
        let count = if flags & HINTS == 0 { 0 } else { number(rest) };
        (0..count).map(|_| named(number(rest))).collect()
    };
    let (zone_hints, node_hints) = (hints(), hints());
    Endpoint {
        address,
        ready: flags & READY != 0,
        serving: flags & SERVING != 0,
        terminating: flags & TERMINATING != 0,
        node_name,
        zone,
        zone_hints,
        node_hints,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn mk_name() -> impl Strategy<Value = Arc<str>> {
        (0_u16..400).prop_map(|n| format!("name{n}").into())
    }

    fn mk_endpoint() -> impl Strategy<Value = Endpoint> {
        let some = || prop::option::of(mk_name());
        let hints = || prop::collection::vec(mk_name(), 0..3);
        (any::<IpAddr>(), any::<[bool; 3]>(), some(), some(), hints(), hints()).prop_map(
            |(address, [ready, serving, terminating], node_name, zone, zone_hints, node_hints)| Endpoint {
                address,
                ready,
                serving,
                terminating,
                node_name,
                zone,
                zone_hints,
                node_hints,
            },
        )
    }

    proptest! {
        #[test]
        fn a_group_comes_back_as_it_was(groups in prop::collection::vec(prop::collection::vec(mk_endpoint(), 0..20), 1..30)) {
            let mut numbers = Numbers::default();
            let ports = vec![EndpointPort { name: "http".into(), port: 80, protocol: Protocol::Tcp }];
            let groups: Vec<EndpointGroup> =
                groups.into_iter().map(|endpoints| EndpointGroup { ports: ports.clone(), endpoints }).collect();
            let pack = |group: &EndpointGroup, numbers: &mut Numbers| {
                let mut bytes = Vec::new();
                pack_group(group, numbers, &mut bytes);
                bytes
            };
            let packed: Vec<Vec<u8>> = groups.iter().map(|group| pack(group, &mut numbers)).collect();
            for (group, packed) in groups.iter().zip(&packed) {
                prop_assert_eq!(&unpack_group(packed, numbers.as_names()), group);
                let again = pack(group, &mut numbers);
                prop_assert_eq!(&again, packed, "equal groups are equal bytes");
                give_back_group(&again, &mut numbers);
            }
            packed.iter().for_each(|packed| give_back_group(packed, &mut numbers));
            prop_assert!(numbers.is_empty(), "{:?}", numbers);
        }
    }
}
