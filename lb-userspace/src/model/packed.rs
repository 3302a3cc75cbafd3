//! Endpoint groups in few bytes, for as long as nobody looks at them: a cluster has far more endpoints than one change
//! touches. Equal groups are equal bytes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{Endpoint, EndpointGroup, EndpointPort, names::Numbers};

const V6: u8 = 1;
const READY: u8 = 1 << 1;
const SERVING: u8 = 1 << 2;
const TERMINATING: u8 = 1 << 3;
const NODE: u8 = 1 << 4;
const ZONE: u8 = 1 << 5;
const HINTS: u8 = 1 << 6;

/// A group. It has taken the numbers of its names, and [`Self::give_back`] is to be called at its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Packed {
    ports: Box<[EndpointPort]>,
    /// Each endpoint: a byte of flags, the address, and what the flags say there is: the number of its node, that of its
    /// zone, and how many hints there are of each kind, with their numbers.
    endpoints: Box<[u8]>,
}

impl Packed {
    /// Packs a group.
    pub(super) fn new(group: EndpointGroup, numbers: &mut Numbers) -> Self {
        let mut bytes = Vec::with_capacity(group.endpoints.len() * 8);
        for endpoint in &group.endpoints {
            pack(endpoint, numbers, &mut bytes);
        }
        Self { ports: group.ports.into(), endpoints: bytes.into() }
    }

    /// The group, by the names of its numbers.
    pub(super) fn unpack(&self, names: &[Arc<str>]) -> EndpointGroup {
        let mut rest = &*self.endpoints;
        let mut endpoints = Vec::with_capacity(rest.len() / 5);
        while !rest.is_empty() {
            endpoints.push(unpack(&mut rest, names));
        }
        EndpointGroup { ports: self.ports.to_vec(), endpoints }
    }

    /// Its names are no longer needed.
    pub(super) fn give_back(&self, numbers: &mut Numbers) {
        let mut rest = &*self.endpoints;
        while !rest.is_empty() {
            let flags = take(&mut rest);
            let (_, behind) = rest.split_at(if flags & V6 == 0 { 4 } else { 16 });
            rest = behind;
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
}

fn pack(endpoint: &Endpoint, numbers: &mut Numbers, out: &mut Vec<u8>) {
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
    match address {
        IpAddr::V4(v4) => out.extend(v4.octets()),
        IpAddr::V6(v6) => out.extend(v6.octets()),
    }
    for name in node_name.iter().chain(zone) {
        put_number(numbers.take(name), out);
    }
    if has_hints {
        for hints in [zone_hints, node_hints] {
            put_number(u32::try_from(hints.len()).expect("an object has less than 4 GB"), out);
            hints.iter().for_each(|hint| put_number(numbers.take(hint), out));
        }
    }
}

fn unpack(rest: &mut &[u8], names: &[Arc<str>]) -> Endpoint {
    let flags = take(rest);
    let address = if flags & V6 == 0 {
        Ipv4Addr::from(take_array::<4>(rest)).into()
    } else {
        Ipv6Addr::from(take_array::<16>(rest)).into()
    };
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

/// Seven bits a byte, the lowest first; the highest bit says that there are more.
fn put_number(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(rest: &mut &[u8]) -> u32 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = take(rest);
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
        shift += 7;
    }
}

fn take(rest: &mut &[u8]) -> u8 {
    let [byte] = take_array(rest);
    byte
}

/// What was packed is whole.
fn take_array<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (taken, behind) = rest.split_first_chunk::<N>().expect("an endpoint ends where the next begins");
    *rest = behind;
    *taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::state::Protocol;

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
            let packed: Vec<Packed> = groups.iter().map(|group| Packed::new(group.clone(), &mut numbers)).collect();
            for (group, packed) in groups.iter().zip(&packed) {
                prop_assert_eq!(&packed.unpack(numbers.as_names()), group);
                let again = Packed::new(group.clone(), &mut numbers);
                prop_assert_eq!(&again, packed, "equal groups are equal bytes");
                again.give_back(&mut numbers);
            }
            packed.into_iter().for_each(|packed| packed.give_back(&mut numbers));
            prop_assert!(numbers.is_empty(), "{:?}", numbers);
        }
    }
}
