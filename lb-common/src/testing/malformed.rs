//! Packets that no sender should send: built ones with damage, and noise. A seed makes the same packet everywhere.

use super::{
    Extension, Fragment, L4Sum, Net, PacketSpec, outside_flow,
    recycling::Random,
    world::{ELSEWHERE, FAR, HOST, LOCAL, REMOTE},
    worlds::open_frontend,
};
use crate::abi::{Addr, Port, Tuple, proto};

/// Bytes that mean something at many places of a header, and so get a packet deeper than noise does.
const TELLING: [u8; 20] = [0, 1, 2, 4, 6, 8, 14, 17, 20, 40, 43, 44, 58, 60, 0x40, 0x45, 0x4f, 0x60, 0x80, 0xff];

/// Backends that flows from outside lead to in [`World::everything`](super::World::everything), and the clients' ports.
pub(super) const BACKENDS: [(u32, u16); 5] =
    [(LOCAL, 50_000), (REMOTE, 50_001), (FAR, 50_002), (ELSEWHERE, 50_003), (HOST, 50_004)];

/// The packet of a seed, behind a link-layer header or not.
#[must_use]
pub fn malformed(seed: u64, ethernet: bool) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = if random.below(16) == 0 {
        let len = 15 + random.below(120);
        (0..len).map(|_| random.next() as u8).collect()
    } else {
        spec(&mut random, ethernet).build()
    };
    for _ in 0..random.below(4) {
        damage(&mut random, &mut bytes);
    }
    bytes
}

/// A packet that is whole: of the addresses and ports that tables in tests speak of, mostly.
fn spec(random: &mut Random, ethernet: bool) -> PacketSpec {
    let net = if random.below(2) == 0 { Net::V4 } else { Net::V6 };
    let addrs = [
        net.client(),
        net.server(),
        net.remote(),
        net.vip(),
        net.other_vip(),
        net.node(),
        net.gateway(),
        net.outside(),
        net.far(),
        net.other_node(),
        net.overlay(),
    ];
    let ports = [80, 8080, 40_000, 30_080, 50_001, 50_003, 0, 65_535];
    let mut end = || (pick(random, &addrs), Port::new(pick(random, &ports)));
    let ((src, sport), (dst, dport)) = (end(), end());
    let proto = pick(random, &[proto::TCP, proto::TCP, proto::UDP, proto::UDP, proto::ICMP, proto::SCTP]);
    // Now and then just what belongs to a flow or opens one.
    let tuple = match random.below(8) {
        0 | 1 => net.from_client(proto, net.vip(), 8080),
        2 => net.from_client(proto, net.server(), 80).reversed(),
        3 | 4 => {
            let open = open_frontend(net, proto);
            let dst = pick(random, &[open, open, (net.other_vip(), 8080)]);
            let sport = 50_000 + random.below(6) as u16;
            Tuple::new(net.outside(), Port::new(sport), dst.0, Port::new(dst.1), proto)
        }
        5 => {
            let flow = pick(random, &BACKENDS);
            outside_flow(net, proto, open_frontend(net, proto), flow.1, flow.0)[1].key
        }
        _ => Tuple::new(src, sport, dst, dport, proto),
    };
    let mut spec = PacketSpec::new(tuple).flags(random.next() as u8);
    spec.ethernet = ethernet;
    spec.ttl = pick(random, &[64, 64, 64, 2, 1, 0]);
    spec.payload = vec![random.next() as u8; random.below(64)];
    spec.l4_sum = pick(random, &[L4Sum::Good, L4Sum::Good, L4Sum::Zero]);
    if random.below(4) == 0 {
        spec.ip_options = vec![1; 4 * random.below(11)];
        spec.tcp_options = vec![1; 4 * random.below(11)];
        let kinds = [Extension::HopByHop, Extension::Routing, Extension::Destination];
        spec.extensions = (0..random.below(6)).map(|_| pick(random, &kinds)(random.below(5) as u8)).collect();
    }
    if random.below(8) == 0 {
        spec.fragment = Some(Fragment { offset: pick(random, &[0, 0, 1, 185]), more: random.below(2) == 0 });
    }
    spec
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    // Headers matter, so most damage falls on the first bytes.
    let reach = if random.below(4) == 0 { bytes.len() } else { bytes.len().min(64) };
    let at = random.below(reach);
    match random.below(6) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = pick(random, &TELLING),
        2 => bytes[at] = random.next() as u8,
        3 => bytes.truncate(at.max(15)),
        4 => bytes.extend((0..random.below(32)).map(|_| random.next() as u8)),
        _ => {
            // A mapped address where an IPv6 one stands.
            let mapped = Addr::v4([10, 244, 1, 10]).octets();
            let at = pick(random, &[22, 38, 8, 24]);
            if let Some(place) = bytes.get_mut(at..at + 16) {
                place.copy_from_slice(&mapped);
            }
        }
    }
}

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len())]
}
