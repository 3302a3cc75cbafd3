//! A pod reaches itself through its Service. By socket it sees its own address as the client; by packet that is
//! impossible, and it sees its node's gateway address, as behind kube-proxy.

use std::net::IpAddr;

use lb_lab::{Host, LabConfig, Network, peer::Big};

use crate::{
    rules::{Call, Client, Manner, Mode, Path},
    world::{VIPS, World, at, manifest, sample_service},
};

#[test]
fn by_socket() {
    check(Mode::Socket, Network::HostGw, true);
}

#[test]
fn by_packet() {
    check(Mode::Packet, Network::HostGw, false);
}

#[test]
fn by_both() {
    check(Mode::Both, Network::Vxlan, false);
}

/// `port_mode` is the hairpin mode of the pod's bridge port, which must not matter.
fn check(mode: Mode, network: Network, port_mode: bool) {
    for bridge_netfilter in [false, true] {
        let config = LabConfig {
            network,
            bridge_netfilter,
            hairpin: port_mode,
            invalid_drop: true,
            rp_filter: 1,
            ..LabConfig::default()
        };
        let mut world = World::new(config);
        let pod = world.node("raspi002").add_pod("alone").unwrap();
        let _server = pod.serve(&[80]).unwrap();
        world.start("raspi002", mode.flags());
        world.put("sample", &[&manifest(&sample_service(), &[&pod])]);
        let client = Client::Pod(&pod);
        let gateway = world.node("raspi002").gateway();
        for vip in VIPS {
            let own = pod.ip_like(vip.parse().unwrap());
            let gateway: IpAddr = if own.is_ipv4() { gateway.v4.addr().into() } else { gateway.v6.addr().into() };
            for call in Call::ALL {
                let source = match client.path(mode, call) {
                    Path::Socket => own,
                    Path::Packet => gateway,
                    Path::None => continue,
                };
                let answers = call.ask(pod.place(), at(vip), Manner::times(50));
                for seen in answers.all() {
                    assert_eq!((seen.client.ip(), seen.name.as_str()), (source, "alone"), "{call:?} to {vip}");
                }
                call.assert_shows(&answers, at(vip));
            }
            let echoed = pod.ask(Big::new(at(vip), 1 << 20)).unwrap();
            assert_eq!(echoed.result.unwrap().name, "alone", "1 MiB to {vip}");
        }
        assert_eq!(world.node("raspi002").invalid_drops().unwrap(), 0);
    }
}
