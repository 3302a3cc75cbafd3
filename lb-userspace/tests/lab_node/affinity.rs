//! Session affinity on the socket path: the client is its network namespace, a backend that goes is left at once, and the
//! time is counted from the last connection.

use std::{thread, time::Duration};

use lb_lab::{
    Host, LabConfig,
    objects::{Endpoint, Service},
};

use crate::{
    rules::{Call, Client, Manner},
    world::{Sample, VIPS, World, at, manifest, sample_service},
};

/// As short as Kubernetes allows is 1 s; this is longer than any pause between two questions here.
const SECONDS: u32 = 3;

fn sticky() -> Service {
    let mut service = sample_service();
    service.affinity_seconds = Some(SECONDS);
    service
}

/// The calls of the socket path.
fn calls(client: Client<'_>) -> &'static [Call] {
    match client {
        Client::Pod(_) => &[Call::Tcp, Call::Unconnected],
        Client::Node(_) => &Call::ALL,
    }
}

/// Who answers this client, whatever socket it uses; the protocols are ports of their own, with a choice each.
fn answering(client: Client<'_>, call: Call, vip: &str) -> String {
    let answers = call.ask(client.place(), at(vip), Manner::times(12));
    call.assert_shows(&answers, at(vip));
    let names: Vec<String> = answers.names().into_keys().collect();
    assert_eq!(names.len(), 1, "{call:?} of {} to {vip}: {names:?}", client.place().name());
    names[0].clone()
}

#[test]
fn a_namespace_keeps_its_backend_while_that_is_usable() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pod = world.node("raspi002").add_pod("client").unwrap();
    world.start("raspi002", &[]);
    let all = manifest(&sticky(), &sample.all());
    for client in [Client::Pod(&pod), Client::Node(world.node("raspi002"))] {
        for vip in VIPS {
            for call in calls(client) {
                world.put("sample", &[&all]);
                let first = answering(client, *call, vip);
                // It terminates: it serves on, but takes no new connection.
                let endpoint = |pod: &lb_lab::Pod| {
                    let endpoint = if at(vip).is_ipv4() { Endpoint::v4(pod) } else { Endpoint::v6(pod) };
                    if pod.name() == first { endpoint.terminating() } else { endpoint }
                };
                let endpoints: Vec<Endpoint> = sample.pods.iter().map(endpoint).collect();
                let service = sticky();
                world.put("sample", &[&service, &service.slice(&endpoints)]);
                let second = answering(client, *call, vip);
                assert_ne!(second, first, "{call:?}");
                // It is gone, and the one that took its place stays.
                world.put("sample", &[&manifest(&sticky(), &sample.without(&first))]);
                assert_eq!(answering(client, *call, vip), second, "{call:?}");
                world.put("sample", &[&all]);
                assert_eq!(
                    answering(client, *call, vip),
                    second,
                    "{call:?}: one that comes back is no reason to change"
                );
            }
        }
    }
}

#[test]
fn the_time_counts_from_the_last_connection() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pod = world.node("raspi002").add_pod("client").unwrap();
    world.start("raspi002", &[]);
    world.put("sample", &[&manifest(&sticky(), &sample.all())]);
    let clients = [Client::Pod(&pod), Client::Node(world.node("raspi002"))];
    let ask = || -> Vec<String> {
        clients.iter().flat_map(|client| VIPS.map(|vip| answering(*client, Call::Tcp, vip))).collect()
    };
    let first = ask();
    // Longer than the time in all, but never between two connections.
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(500));
        assert_eq!(ask(), first);
    }
    // Four clients choose anew. The chance that all of them choose as before four times in a row is below 1e-7.
    let changed = (0..4).any(|_| {
        // Ticks are 2^30 ns, and the last one counts whole.
        thread::sleep(Duration::from_secs(u64::from(SECONDS) + 3));
        ask() != first
    });
    assert!(changed, "affinity never ends");
}
