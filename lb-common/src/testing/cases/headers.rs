//! Headers of all shapes, whole and broken. What cannot be described passes untouched, but for what a clusterIP gets.

use super::{first, later, local_flow, syn, tcp, udp};
use crate::{
    abi::{Addr, Counter, proto},
    datapath::Verdict,
    testing::{Case, Extension, FlowSpec, Fragment, Net, PacketSpec, Told, World, flows::Both as _},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = whole();
    cases.extend(broken());
    cases.extend(mapped());
    cases
}

/// Packets that open a flow whatever stands between their headers.
fn whole() -> Vec<Case> {
    let opens = |what: &str, net: Net, packet: PacketSpec| {
        let flow = local_flow(net, packet.tuple.proto);
        let world = World::web(net, packet.tuple.proto);
        Case::ingress(format!("headers: {what}"), world, packet).opens(&flow).verdict(Verdict::Stack)
    };
    let (v4, v6) = (Net::V4, Net::V6);
    let ext = |packet: PacketSpec, list: &[Extension]| packet.with(|p| p.extensions = list.to_vec());
    let atomic = |packet: PacketSpec| packet.with(|p| p.fragment = Some(Fragment { offset: 0, more: false }));
    use Extension::{Destination, HopByHop, Routing};
    vec![
        opens("IPv4 with one option word", v4, syn(v4).with(|p| p.ip_options = vec![1, 1, 1, 0])),
        opens("IPv4 with all option words", v4, syn(v4).with(|p| p.ip_options = vec![1; 40])),
        opens("UDP over IPv4 with options", v4, udp(v4).with(|p| p.ip_options = vec![1; 8])),
        opens("IPv4 with don't-fragment off", v4, atomic(syn(v4))),
        opens("Ethernet padding behind a short packet", v4, syn(v4).with(|p| p.padding = 6)),
        opens("hop-by-hop options", v6, ext(syn(v6), &[HopByHop(0)])),
        opens("long hop-by-hop options", v6, ext(syn(v6), &[HopByHop(255)])),
        opens("routing header without segments left", v6, ext(syn(v6), &[Routing(2)])),
        opens("destination options before UDP", v6, ext(udp(v6), &[Destination(1)])),
        opens("four extension headers", v6, ext(syn(v6), &[HopByHop(0), Destination(0), Routing(0), Destination(3)])),
        opens("an atomic fragment", v6, atomic(syn(v6))),
        opens("an atomic fragment behind options", v6, atomic(ext(udp(v6), &[HopByHop(0), Routing(0)]))),
        opens("a jumbo payload", v6, syn(v6).with(|p| p.payload = vec![9; 1440])),
        opens("a large segment", v4, syn(v4).with(|p| p.payload = vec![9; 1460])),
    ]
}

/// Packets that cannot be described, each on a flow that they must not touch.
fn broken() -> Vec<Case> {
    let mut cases = Vec::new();
    for net in Net::BOTH {
        let established = local_flow(net, proto::TCP).established().age(5);
        let spoken = local_flow(net, proto::UDP).established().age(5);
        let case = |what: &str, packet: PacketSpec, flow: &[FlowSpec]| {
            let world = World::web(net, packet.tuple.proto).flows(flow);
            Case::ingress(format!("headers: {what} [{}]", net.name()), world, packet)
        };
        let ack = || tcp(net, 0x10);
        let l4 = 14 + if net.v4 { 20 } else { 40 };
        let cut = |packet: PacketSpec, len| packet.with(|p| p.truncate = Some(len));
        let edit = |packet: PacketSpec, at: usize, bytes: &[u8]| packet.with(|p| p.edits.push((at, bytes.to_vec())));
        let proto_at = if net.v4 { 23 } else { 20 };
        let len_at = if net.v4 { 16 } else { 18 };
        let len_of = |l4_bytes: usize| (if net.v4 { 20 + l4_bytes } else { l4_bytes } as u16).to_be_bytes();
        cases.extend([
            case("cut behind the link layer", cut(ack(), 14), &established),
            case("cut in the IP header", cut(ack(), l4 - 1), &established),
            case("cut behind the IP header", cut(ack(), l4), &established),
            case("cut in the TCP header", cut(ack(), l4 + 19), &established),
            case("cut in the UDP header", cut(udp(net), l4 + 7), &spoken),
            case("IP version of the other family", edit(ack(), 14, &[if net.v4 { 0x65 } else { 0x45 }]), &established),
            case("IP version 0", edit(ack(), 14, &[0x05]), &established),
            case(
                "ethertype of the other family",
                edit(ack(), 12, if net.v4 { &[0x86, 0xdd] } else { &[8, 0] }),
                &established,
            ),
            case("ARP", edit(ack(), 12, &[8, 6]), &established),
            case("a VLAN tag", edit(ack(), 12, &[0x81, 0]), &established),
            case(
                "ICMP",
                ack().with(|p| p.tuple.proto = if net.v4 { proto::ICMP } else { proto::ICMPV6 }),
                &established,
            )
            .dropped(Counter::DropUnclaimed),
            case("SCTP", ack().with(|p| p.tuple.proto = proto::SCTP), &established)
                .with(|case| {
                    // The service is of TCP; this world's is of the packet's protocol.
                    case.world = World::tcp(net).flows(&established);
                })
                .refused(Counter::DropUnclaimed),
            case("a TCP header of 16 bytes", edit(ack(), l4 + 12, &[0x40]), &established),
            case("a TCP header of 0 bytes", edit(ack(), l4 + 12, &[0]), &established),
            case("an unknown protocol", edit(ack(), proto_at, &[0xff]), &established)
                .answered(Counter::DropUnclaimed, Told::NoProtocol),
            case("an IP packet that ends in its TCP header", edit(ack(), len_at, &len_of(19)), &established),
            case("an IP packet that ends in its UDP header", edit(udp(net), len_at, &len_of(7)), &spoken),
        ]);
    }
    let v4 = Net::V4;
    let v6 = Net::V6;
    let pass = |what: &str, net, packet: PacketSpec| Case::ingress(format!("headers: {what}"), World::tcp(net), packet);
    let edit = |packet: PacketSpec, at: usize, bytes: &[u8]| packet.with(|p| p.edits.push((at, bytes.to_vec())));
    let opened = local_flow(v6, proto::TCP);
    cases.extend([
        pass("IPv4 header of 16 bytes", v4, edit(syn(v4), 14, &[0x44])),
        pass("IPv4 header of 0 bytes", v4, edit(syn(v4), 14, &[0x40])),
        pass("IPv4 header longer than the packet", v4, edit(syn(v4), 14, &[0x4f])),
        pass("IPv4 packet shorter than its header", v4, edit(syn(v4), 16, &[0, 19])),
        pass("five extension headers", v6, syn(v6).with(|p| p.extensions = vec![Extension::Destination(0); 5]))
            .dropped(Counter::DropUnclaimed),
        pass(
            "five extension headers and enough to quote",
            v6,
            tcp(v6, 0x10).with(|p| (p.extensions, p.payload) = (vec![Extension::Destination(0); 5], vec![1; 20])),
        )
        .answered(Counter::DropUnclaimed, Told::NoProtocol),
        pass(
            "an extension header longer than the packet",
            v6,
            edit(syn(v6).with(|p| p.extensions = vec![Extension::HopByHop(0)]), 55, &[200]),
        ),
        pass("no next header", v6, edit(syn(v6), 20, &[59])).answered(Counter::DropUnclaimed, Told::NoProtocol),
        pass("an encrypted payload", v6, edit(syn(v6), 20, &[50])).answered(Counter::DropUnclaimed, Told::NoProtocol),
        pass(
            "a later fragment behind options, of an unknown datagram",
            v6,
            syn(v6).with(later).with(|p| p.extensions = vec![Extension::HopByHop(0)]),
        )
        .dropped(Counter::DropFragment),
        pass(
            "a first fragment is seen behind options",
            v6,
            syn(v6).with(first).with(|p| p.extensions = vec![Extension::HopByHop(0)]),
        )
        .opens(&opened)
        .flows(&[opened[0], opened[1], opened[0].fragments()]),
    ]);
    cases
}

/// Genuine IPv6 packets from or to `::ffff:0:0/96` would be taken for IPv4: they pass, whatever the tables say of IPv4.
fn mapped() -> Vec<Case> {
    let net = Net::V4;
    let case = |what: &str, src: Addr, dst: Addr| {
        // Built as IPv6 with stand-in addresses, then patched: the builder takes mapped ones for IPv4.
        let world = World::tcp(net).flows(&local_flow(net, proto::TCP).established());
        let packet = syn(Net::V6).flags(0x10).with(|p| {
            p.edits.push((22, src.octets().to_vec()));
            p.edits.push((38, dst.octets().to_vec()));
        });
        Case::ingress(format!("headers: a genuine IPv6 packet {what}"), world, packet)
    };
    vec![
        case("from and to mapped addresses", net.client(), net.vip()),
        case("to a mapped address", Net::V6.client(), net.vip()),
        case("from a mapped address", net.client(), Net::V6.vip()),
    ]
}
