//! Endpoints come and go: 3 → 1 → 0 → 3, established connections drain, and at zero a client is told at once where
//! its path can tell it.

use std::time::Duration;

use lb_lab::{
    Host, LabConfig, Pod,
    peer::{Failure, Hold, Open, Step},
};
use nix::errno::Errno;

use crate::{
    rules::{Call, Client, Manner, Mode, PATIENT_MS, Path},
    world::{Sample, VIPS, World, at, manifest, sample_service},
};

#[test]
fn three_one_none_three() {
    for mode in [Mode::Both, Mode::Packet] {
        let mut world = World::new(LabConfig::default());
        let sample = Sample::start(&world.lab, &[80]);
        let pod = world.node("raspi002").add_pod("client").unwrap();
        world.start("raspi002", mode.flags());
        let [one, two, three] = sample.all();
        for backends in [&[one, two, three][..], &[two], &[], &[one, two, three]] {
            world.put("sample", &[&manifest(&sample_service(), backends)]);
            for client in [Client::Pod(&pod), Client::Node(world.node("raspi002"))] {
                for vip in VIPS {
                    for call in Call::ALL {
                        match (client.path(mode, call), backends) {
                            (Path::None, _) => {}
                            (path, []) => nobody(&world, client, vip, call, path),
                            (_, backends) => everybody(client, vip, call, backends),
                        }
                    }
                }
            }
        }
    }
}

/// Each backend answers, and nobody else: sixty random choices among three miss one with a chance below 1e-9.
fn everybody(client: Client<'_>, vip: &str, call: Call, backends: &[&Pod]) {
    let answers = call.ask(client.place(), at(vip), Manner::times(60));
    assert_eq!(answers.all().len(), 60);
    let mut wanted: Vec<&str> = backends.iter().map(|pod| pod.name()).collect();
    wanted.sort_unstable();
    assert_eq!(answers.names().keys().map(String::as_str).collect::<Vec<_>>(), wanted, "{call:?} to {vip}");
}

fn nobody(world: &World, client: Client<'_>, vip: &str, call: Call, path: Path) {
    let node = client.node_name();
    let step = match call {
        Call::Tcp | Call::Connected => Step::Connect,
        Call::Unconnected => Step::Send,
    };
    match path {
        Path::Socket => {
            let before = world.counter(node, "socket_refused");
            let answers = call.ask(client.place(), at(vip), Manner::times(1));
            let refused = Err(Failure::errno(step, Errno::ECONNREFUSED));
            assert_eq!(answers.one().result, refused, "{} {call:?} to {vip}", client.place().name());
            assert_eq!(world.counter(node, "socket_refused"), before + 1);
        }
        Path::Packet => {
            let before = world.counter(node, "drop_no_endpoint");
            let answers = call.ask(client.place(), at(vip), Manner::times(1));
            // TCP is reset. Whoever asks over UDP is told by ICMP, if he is connected: else his kernel has nobody to tell.
            let told = match call {
                Call::Tcp => Err(Failure::errno(Step::Connect, Errno::ECONNREFUSED)),
                Call::Connected => Err(Failure::errno(Step::Receive, Errno::ECONNREFUSED)),
                Call::Unconnected => Err(Failure::timeout(Step::Receive)),
            };
            assert_eq!(answers.one().result, told, "{call:?} to {vip}");
            assert!(world.counter(node, "drop_no_endpoint") > before);
        }
        Path::None => unreachable!("nothing refuses what is not translated"),
    }
}

/// Connections to a backend that leaves its slice go on until they end; new ones go elsewhere.
#[test]
fn established_connections_drain() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pods = ["raspi002", "raspi003"].map(|node| world.node(node).add_pod(&format!("client-{node}")).unwrap());
    world.start("raspi002", Mode::Both.flags());
    world.start("raspi003", Mode::Packet.flags());
    let node = Client::Node(world.node("raspi002"));
    for client in [Client::Pod(&pods[0]), Client::Pod(&pods[1]), node] {
        for vip in VIPS {
            let what = format!("{} to {vip}", client.place().name());
            world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
            // Six connections at once, so that some of them lose their backend.
            let hold =
                || Hold { open: Open::tcp(at(vip)), interval_ms: 2, duration_ms: 60_000, timeout_ms: PATIENT_MS };
            let held: Vec<_> = (0..6).map(|_| client.place().begin(hold()).unwrap()).collect();
            std::thread::sleep(Duration::from_millis(200));
            world.put("sample", &[&manifest(&sample_service(), &sample.without("sample-2"))]);
            let new = Call::Tcp.ask(client.place(), at(vip), Manner::times(40));
            assert_eq!(new.all().len(), 40);
            assert!(!new.names().contains_key("sample-2"), "{what}: {:?}", new.names());

            world.put("sample", &[&manifest(&sample_service(), &[])]);
            std::thread::sleep(Duration::from_millis(200));
            for held in held {
                let held = held.stop().unwrap();
                assert!(held.failures.is_empty() && held.pings > 10, "{what}: {held:?}");
                assert_eq!(held.names.len(), 1, "{what}: {held:?}");
            }
        }
    }
}
