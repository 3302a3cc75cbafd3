//! The datapath does not need its agent: killed, ended, away for a while, replaced by another, no request fails and no
//! connection is cut; and whatever changed meanwhile is right when an agent is back.

use std::{collections::BTreeMap, thread, time::Duration};

use lb_lab::{
    Host, LabConfig, Network, Pending, Place,
    objects::{Port, Service},
    peer::{Hold, HttpLoad, Open},
};

use crate::{
    rules::{Call, Client, Manner, Mode, PATIENT_MS, Path},
    world::{PORT, Sample, VIPS, World, at, attachments, devices, manifest, sample_service},
};

#[test]
fn kill_9_under_load() {
    under_load(Network::HostGw, |world| {
        for node in ["raspi002", "raspi003"] {
            world.agent_mut(node).kill9().unwrap();
        }
        thread::sleep(Duration::from_secs(2));
        for node in ["raspi002", "raspi003"] {
            world.agent_mut(node).start_again().unwrap();
        }
        // At once, in the middle of whatever it does after `ready`, and before the other one is done.
        for node in ["raspi002", "raspi003", "raspi002"] {
            world.agent_mut(node).kill9().unwrap();
            world.agent_mut(node).start_again().unwrap();
        }
    });
}

#[test]
fn restart_under_load() {
    under_load(Network::Vxlan, |world| {
        for node in ["raspi002", "raspi003"] {
            assert!(world.agent_mut(node).terminate().unwrap().success());
        }
        thread::sleep(Duration::from_secs(2));
        for node in ["raspi002", "raspi003"] {
            world.agent_mut(node).start_again().unwrap();
            world.agent_mut(node).restart().unwrap();
        }
    });
}

/// Load over both paths while `act` ends and starts agents; then the programs are new ones, in the same places.
fn under_load(network: Network, act: impl FnOnce(&mut World)) {
    let mut world = World::new(LabConfig { network, ..LabConfig::default() });
    let sample = Sample::start(&world.lab, &[80]);
    let pods = ["raspi002", "raspi003"].map(|node| world.node(node).add_pod(&format!("client-{node}")).unwrap());
    world.start("raspi002", Mode::Both.flags());
    world.start("raspi003", Mode::Packet.flags());
    world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
    let before = ["raspi002", "raspi003"].map(|node| attachments(world.node(node)));

    let long = Duration::from_secs(120);
    let [vip4, vip6] = VIPS.map(at);
    let node = world.node("raspi002").place().clone();
    let http = |place: &Place, to| {
        let load = HttpLoad { timeout_ms: PATIENT_MS, pause_ms: 2, ..HttpLoad::new(to, long) };
        (format!("HTTP from {} to {to}", place.name()), place.begin(load).unwrap())
    };
    let loads = [http(&node, vip4), http(&node, vip6)]
        .into_iter()
        .chain(pods.iter().flat_map(|pod| [http(pod.place(), vip4), http(pod.place(), vip6)]));
    let loads: Vec<(String, Pending<HttpLoad>)> = loads.collect();
    let hold = |place: &Place, open: Open| {
        let what = format!("{:?} connection of {} to {}", open.transport, place.name(), open.to);
        let held = Hold { open, interval_ms: 2, duration_ms: 120_000, timeout_ms: PATIENT_MS };
        (what, place.begin(held).unwrap())
    };
    let connected = |to| Open { connect: true, ..Open::udp(to) };
    let held: Vec<(String, Pending<Hold>)> = vec![
        hold(&node, Open::tcp(vip4)),
        hold(&node, Open::udp(vip4)),
        hold(pods[0].place(), Open::tcp(vip6)),
        hold(pods[0].place(), connected(vip4)),
        hold(pods[0].place(), Open::udp(vip6)),
        hold(pods[1].place(), Open::tcp(vip4)),
        hold(pods[1].place(), connected(vip6)),
    ];
    thread::sleep(Duration::from_millis(500));

    act(&mut world);

    thread::sleep(Duration::from_millis(500));
    for (what, load) in loads {
        let load = load.stop().unwrap();
        assert!(load.failed == 0 && load.names.len() == 3, "{what}: {load:?}");
        assert!(load.answered() > 100, "{what}: only {} requests in {} ms", load.answered(), load.elapsed_ms);
    }
    for (what, held) in held {
        let held = held.stop().unwrap();
        assert!(held.failures.is_empty() && held.names.len() == 1, "{what}: {held:?}");
        assert!(held.pings > 100, "{what}: only {} pings in {} ms", held.pings, held.elapsed_ms);
    }
    world.settle();
    for (node, before) in ["raspi002", "raspi003"].into_iter().zip(before) {
        let after = attachments(world.node(node));
        assert!(before.keys().eq(after.keys()), "{node}: {before:?} became {after:?}");
        for (pin, old) in before {
            let new = after[&pin];
            assert_eq!(old.link, new.link, "{node}: {pin} was made anew, so there was a moment without it");
            assert_ne!(old.program, new.program, "{node}: {pin} runs the old program");
        }
    }
}

/// Objects, pods and links that change while no agent runs.
#[test]
fn changes_while_the_agent_is_down() {
    for mode in [Mode::Both, Mode::Packet] {
        let mut world = World::new(LabConfig::default());
        let sample = Sample::start(&world.lab, &[80]);
        let stays = world.node("raspi002").add_pod("stays").unwrap();
        let goes = world.node("raspi002").add_pod("goes").unwrap();
        world.start("raspi002", mode.flags());
        let service =
            |name: &str, address: &str| Service::new(name, &[address.parse().unwrap()], &[Port::tcp("http", PORT, 80)]);
        world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
        world.put("deleted", &[&manifest(&service("deleted", "10.96.1.1"), &sample.all())]);
        world.put("moved", &[&manifest(&service("moved", "10.96.1.2"), &sample.all())]);
        let gone_device = world.node("raspi002").netns().netlink().index(goes.link()).unwrap();
        let [_, vip6] = VIPS;
        let hold = Hold { open: Open::tcp(at(vip6)), interval_ms: 5, duration_ms: 60_000, timeout_ms: PATIENT_MS };
        let held = stays.begin(hold).unwrap();

        world.agent_mut("raspi002").kill9().unwrap();
        world.objects.put("sample", &[&manifest(&sample_service(), &sample.without("sample-2"))]).unwrap();
        world.objects.remove("deleted").unwrap();
        world.objects.put("moved", &[&manifest(&service("moved", "10.96.1.3"), &sample.all()[1..])]).unwrap();
        world.objects.put("new", &[&manifest(&service("new", "10.96.1.4"), &sample.all()[..1])]).unwrap();
        drop(goes);
        let comes = world.node("raspi002").add_pod("comes").unwrap();
        world.agent_mut("raspi002").start_again().unwrap();
        // What it says to be ready for is in the datapath already, not soon.
        let agent = world.agent("raspi002");
        assert_eq!(agent.dump_text().unwrap(), agent.plan_text().unwrap());

        let expected: BTreeMap<&str, &[&str]> = [
            (VIPS[0], &["sample-1", "sample-3"][..]),
            (VIPS[1], &["sample-1", "sample-3"]),
            ("10.96.1.1", &[]),
            ("10.96.1.2", &[]),
            ("10.96.1.3", &["sample-2", "sample-3"]),
            ("10.96.1.4", &["sample-1"]),
        ]
        .into();
        for client in [Client::Pod(&stays), Client::Pod(&comes), Client::Node(world.node("raspi002"))] {
            for (vip, names) in &expected {
                let manner = if names.is_empty() { Manner::in_vain() } else { Manner::times(40) };
                if client.path(mode, Call::Tcp) == Path::None {
                    continue;
                }
                let answers = Call::Tcp.ask(client.place(), at(vip), manner);
                let who: Vec<_> = answers.names().into_keys().collect();
                assert_eq!(who, *names, "{} to {vip}: {:?}", client.place().name(), answers.failures());
            }
        }
        let held = held.stop().unwrap();
        assert!(held.failures.is_empty() && held.pings > 20 && held.names.len() == 1, "{held:?}");
        let node = world.node("raspi002");
        let pins: Vec<_> =
            attachments(node).into_keys().filter(|pin| pin.ends_with(&format!("-{gone_device}"))).collect();
        assert_eq!(pins, [""; 0], "programs of a link that went while the agent was down");
        assert!(!devices(node).contains(&gone_device), "a device that went while the agent was down");
    }
}
