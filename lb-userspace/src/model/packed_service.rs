//! Services in few bytes, without their names, for as long as nobody looks at them. Equal Services are equal bytes.
//!
//! Two bytes of flags; the numbers of the names of ports, and of nodes that have weights; what the flags say that there is of creation,
//! uid and algorithm; cluster IPs; ports; and, if the flags say so, what few Services have.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::{
    BadAnnotation, Created, Policy, Service, ServicePort, ServiceType, Uid, Weights,
    bytes::{address, number, put_address, put_count, put_number, put_text, put_u16, take, take_array, text, u16},
    names::{Names, Numbers},
    packed::protocol,
};
use crate::plan::state::{Algorithm, ServiceName};

const IGNORED: u16 = 1;
const HEADLESS: u16 = 1 << 1;
const SELECTOR: u16 = 1 << 2;
const INTERNAL_LOCAL: u16 = 1 << 3;
const EXTERNAL_LOCAL: u16 = 1 << 4;
const CREATED: u16 = 1 << 5;
const UUID: u16 = 1 << 6;
/// A uid of another form.
const TEXT_UID: u16 = 1 << 7;
const RANDOM: u16 = 1 << 8;
const MAGLEV: u16 = 1 << 9;
/// Has something of what few have.
const MORE: u16 = 1 << 10;
/// Where the place in [`TYPES`] is.
const TYPE_SHIFT: u32 = 14;
const TYPES: [ServiceType; 4] =
    [ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer, ServiceType::ExternalName];

/// Beside a protocol's IANA number, of which none of ours has this bit: there is a node port.
const NODE_PORT: u8 = 1 << 6;

/// Packs a Service, and takes the numbers of its names: [`give_back_service`] is to be called at its end.
pub(super) fn pack_service(service: &Service, numbers: &mut Numbers, out: &mut Vec<u8>) {
    let flags = flags(service);
    put_u16(flags, out);
    put_count(service.ports.len(), out);
    service.ports.iter().for_each(|port| put_number(numbers.take(&port.name), out));
    if flags & MORE != 0 {
        put_count(service.weights.nodes.len(), out);
        service.weights.nodes.keys().for_each(|name| put_number(numbers.take(name), out));
    }
    if let Some(nanoseconds) = service.created.0 {
        out.extend(nanoseconds.to_le_bytes());
    }
    if let Some(uid) = &service.uid {
        match uid.as_uuid() {
            Some(bytes) => out.extend(bytes),
            None => put_text(&uid.to_string(), out),
        }
    }
    put_addresses(&service.cluster_ips, out);
    for ServicePort { name: _, port, node_port, protocol } in &service.ports {
        out.push(protocol.number() | if node_port.is_some() { NODE_PORT } else { 0 });
        put_u16(*port, out);
        node_port.iter().for_each(|port| put_u16(*port, out));
    }
    if flags & MORE != 0 {
        pack_more(service, out);
    }
}

/// The Service that these bytes are, by its name and the names of its numbers.
pub(super) fn unpack_service(name: ServiceName, mut rest: &[u8], names: &[Arc<str>]) -> Service {
    let flags = u16(&mut rest);
    let has = |flag| flags & flag != 0;
    let policy = |flag| if has(flag) { Policy::Local } else { Policy::Cluster };
    let [port_names, nodes] = [true, has(MORE)].map(|there| numbers_of(&mut rest, there));
    let named = |number| names[number as usize].clone();
    let created = Created(has(CREATED).then(|| i64::from_le_bytes(take_array(&mut rest))));
    let uid = if has(UUID) {
        Some(Uid::from_uuid(take_array(&mut rest)))
    } else if has(TEXT_UID) {
        Uid::new(text(&mut rest))
    } else {
        None
    };
    let cluster_ips = addresses(&mut rest);
    let port = |number| {
        let has_node_port = rest[0] & NODE_PORT != 0;
        ServicePort {
            name: named(number),
            protocol: protocol(take(&mut rest) & !NODE_PORT),
            port: u16(&mut rest),
            node_port: has_node_port.then(|| u16(&mut rest)),
        }
    };
    let ports = Numbered(port_names).map(port).collect();
    let mut service = Service {
        created,
        uid,
        ignored: has(IGNORED),
        kind: TYPES[usize::from(flags >> TYPE_SHIFT)],
        headless: has(HEADLESS),
        has_selector: has(SELECTOR),
        ports,
        internal_policy: policy(INTERNAL_LOCAL),
        external_policy: policy(EXTERNAL_LOCAL),
        algorithm: match (has(RANDOM), has(MAGLEV)) {
            (true, _) => Some(Algorithm::Random),
            (false, true) => Some(Algorithm::Maglev),
            (false, false) => None,
        },
        ..Service::new(name, cluster_ips)
    };
    if has(MORE) {
        unpack_more(&mut service, &mut rest, Numbered(nodes).map(named));
    }
    service
}

/// The names of the Service that these bytes are are no longer needed.
pub(super) fn give_back_service(mut rest: &[u8], numbers: &mut Numbers) {
    let flags = u16(&mut rest);
    for there in [true, flags & MORE != 0] {
        Numbered(numbers_of(&mut rest, there)).for_each(|number| numbers.give_back(number));
    }
}

/// A Service that stays as it is, whatever happens to the index that it is from. Written as [`Service`] is.
#[derive(Clone, Debug)]
pub struct SharedService {
    name: ServiceName,
    packed: Box<[u8]>,
    names: Names,
}

impl SharedService {
    pub(super) fn new(name: ServiceName, packed: &[u8], names: Names) -> Self {
        Self { name, packed: packed.into(), names }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &ServiceName {
        &self.name
    }

    /// The Service itself.
    #[must_use]
    pub fn to_service(&self) -> Service {
        unpack_service(self.name.clone(), &self.packed, &self.names)
    }
}

impl Serialize for SharedService {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_service().serialize(serializer)
    }
}

fn flags(service: &Service) -> u16 {
    let kind = TYPES.iter().position(|kind| *kind == service.kind).expect("all types are there");
    let is_uuid = service.uid.as_ref().map(|uid| uid.as_uuid().is_some());
    let all = [
        (service.ignored, IGNORED),
        (service.headless, HEADLESS),
        (service.has_selector, SELECTOR),
        (service.internal_policy == Policy::Local, INTERNAL_LOCAL),
        (service.external_policy == Policy::Local, EXTERNAL_LOCAL),
        (service.created.0.is_some(), CREATED),
        (is_uuid == Some(true), UUID),
        (is_uuid == Some(false), TEXT_UID),
        (service.algorithm == Some(Algorithm::Random), RANDOM),
        (service.algorithm == Some(Algorithm::Maglev), MAGLEV),
        (has_more(service), MORE),
    ];
    all.into_iter().filter(|(set, _)| *set).fold((kind as u16) << TYPE_SHIFT, |all, (_, flag)| all | flag)
}

fn has_more(service: &Service) -> bool {
    let Weights { addresses, nodes } = &service.weights;
    let lists = service.external_ips.len() + service.load_balancer_ips.len() + service.source_ranges.len();
    lists + addresses.len() + nodes.len() + service.bad_annotations.len() > 0
        || service.affinity_seconds.is_some()
        || service.health_check_node_port.is_some()
}

fn pack_more(service: &Service, out: &mut Vec<u8>) {
    put_addresses(&service.external_ips, out);
    put_addresses(&service.load_balancer_ips, out);
    put_count(service.affinity_seconds.iter().count(), out);
    service.affinity_seconds.iter().for_each(|seconds| put_number(*seconds, out));
    put_count(service.source_ranges.len(), out);
    for range in &service.source_ranges {
        put_either(range.addr(), out);
        out.push(range.prefix_len());
    }
    put_count(service.health_check_node_port.iter().count(), out);
    service.health_check_node_port.iter().for_each(|port| put_u16(*port, out));
    put_count(service.weights.addresses.len(), out);
    for (address, weight) in &service.weights.addresses {
        put_either(*address, out);
        put_u16(*weight, out);
    }
    // Of the nodes that are named in front.
    service.weights.nodes.values().for_each(|weight| put_u16(*weight, out));
    put_count(service.bad_annotations.len(), out);
    for BadAnnotation { name, cause } in &service.bad_annotations {
        put_text(name, out);
        put_text(cause, out);
    }
}

fn unpack_more(service: &mut Service, rest: &mut &[u8], nodes: impl Iterator<Item = Arc<str>>) {
    service.external_ips = addresses(rest);
    service.load_balancer_ips = addresses(rest);
    service.affinity_seconds = (number(rest) > 0).then(|| number(rest));
    service.source_ranges = list(rest, |rest| {
        let address = either(rest);
        IpNet::new(address, take(rest)).expect("it was a range")
    });
    service.health_check_node_port = (number(rest) > 0).then(|| u16(rest));
    service.weights.addresses = list(rest, |rest| (either(rest), u16(rest))).into_iter().collect();
    service.weights.nodes = nodes.map(|name| (name, u16(rest))).collect();
    let text = |rest: &mut &[u8]| text(rest).to_owned();
    service.bad_annotations = list(rest, |rest| BadAnnotation { name: text(rest), cause: text(rest) });
}

/// As many as there are by the number in front.
fn list<T>(rest: &mut &[u8], one: impl Fn(&mut &[u8]) -> T) -> Vec<T> {
    let count = number(rest);
    (0..count).map(|_| one(rest)).collect()
}

/// How many numbers there are, and those. `there`: there is a list at all.
fn numbers_of<'a>(rest: &mut &'a [u8], there: bool) -> (u32, &'a [u8]) {
    let count = if there { number(rest) } else { 0 };
    let listed = *rest;
    for _ in 0..count {
        number(rest);
    }
    (count, listed)
}

/// The numbers of such a list.
struct Numbered<'a>((u32, &'a [u8]));

impl Iterator for Numbered<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let Self((left, rest)) = self;
        *left = left.checked_sub(1)?;
        Some(number(rest))
    }
}

fn put_addresses(all: &[IpAddr], out: &mut Vec<u8>) {
    put_count(all.len(), out);
    all.iter().for_each(|address| put_either(*address, out));
}

fn addresses(rest: &mut &[u8]) -> Vec<IpAddr> {
    list(rest, either)
}

/// An address with its family.
fn put_either(address: IpAddr, out: &mut Vec<u8>) {
    out.push(address.is_ipv6().into());
    put_address(address, out);
}

fn either(rest: &mut &[u8]) -> IpAddr {
    let is_v6 = take(rest) != 0;
    address(rest, is_v6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::state::Protocol;

    fn mk_name() -> impl Strategy<Value = Arc<str>> {
        (0_u16..400).prop_map(|n| format!("name{n}").into())
    }

    fn mk_port() -> impl Strategy<Value = ServicePort> {
        let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
        (mk_name(), any::<u16>(), any::<Option<u16>>(), protocol)
            .prop_map(|(name, port, node_port, protocol)| ServicePort { name, port, node_port, protocol })
    }

    fn mk_range() -> impl Strategy<Value = IpNet> {
        (any::<IpAddr>(), 0_u8..=32).prop_map(|(address, length)| IpNet::new(address, length).unwrap())
    }

    fn mk_weights() -> impl Strategy<Value = Weights> {
        let addresses = prop::collection::btree_map(any::<IpAddr>(), any::<u16>(), 0..3);
        (addresses, prop::collection::btree_map(mk_name(), any::<u16>(), 0..3))
            .prop_map(|(addresses, nodes)| Weights { addresses, nodes })
    }

    fn mk_service() -> impl Strategy<Value = Service> {
        let addresses = || prop::collection::vec(any::<IpAddr>(), 0..3);
        let policy = || prop::sample::select(vec![Policy::Cluster, Policy::Local]);
        let uid = prop::option::of(prop::sample::select(vec!["5f1a4a0e-6f0b-4c7e-9d8c-0123456789ab", "of a file"]));
        let algorithm = prop::option::of(prop::sample::select(vec![Algorithm::Random, Algorithm::Maglev]));
        let bad = ("[a-z/]{0,5}", "[a-zé ]{0,5}").prop_map(|(name, cause)| BadAnnotation { name, cause });
        (
            (any::<Option<i64>>(), uid, any::<[bool; 3]>(), prop::sample::select(TYPES.to_vec()), policy(), policy()),
            (addresses(), prop::collection::vec(mk_port(), 0..4), algorithm),
            (addresses(), addresses(), prop::collection::vec(mk_range(), 0..3)),
            (any::<Option<u32>>(), any::<Option<u16>>(), mk_weights(), prop::collection::vec(bad, 0..3)),
            prop::bool::weighted(0.7),
        )
            .prop_map(|(first, (cluster_ips, ports, algorithm), lists, rest, plain)| {
                let (created, uid, [ignored, headless, has_selector], kind, internal_policy, external_policy) = first;
                let (external_ips, load_balancer_ips, source_ranges) = lists;
                let (affinity_seconds, health_check_node_port, weights, bad_annotations) = rest;
                let service = Service {
                    created: Created(created),
                    uid: uid.and_then(Uid::new),
                    ignored,
                    kind,
                    headless,
                    has_selector,
                    ports,
                    internal_policy,
                    external_policy,
                    algorithm,
                    ..Service::new(ServiceName::new("a", "b"), cluster_ips)
                };
                if plain {
                    return service;
                }
                Service {
                    external_ips,
                    load_balancer_ips,
                    affinity_seconds,
                    source_ranges,
                    health_check_node_port,
                    weights,
                    bad_annotations,
                    ..service
                }
            })
    }

    proptest! {
        #[test]
        fn a_service_comes_back_as_it_was(services in prop::collection::vec(mk_service(), 1..20)) {
            let mut numbers = Numbers::default();
            let pack = |service: &Service, numbers: &mut Numbers| {
                let mut bytes = Vec::new();
                pack_service(service, numbers, &mut bytes);
                bytes
            };
            let packed: Vec<Vec<u8>> = services.iter().map(|service| pack(service, &mut numbers)).collect();
            for (service, packed) in services.iter().zip(&packed) {
                prop_assert_eq!(&unpack_service(service.name.clone(), packed, numbers.as_names()), service);
                let again = pack(service, &mut numbers);
                prop_assert_eq!(&again, packed, "equal Services are equal bytes");
                give_back_service(&again, &mut numbers);
            }
            packed.iter().for_each(|packed| give_back_service(packed, &mut numbers));
            prop_assert!(numbers.is_empty(), "{:?}", numbers);
        }
    }
}
