//! Connected UDP sockets of the node whose backend goes: the kernel destroys them, so that the application learns of it.
//! No other socket is touched.

use std::{net::SocketAddr, thread, time::Duration};

use lb_lab::{
    Agent, Host, LabConfig, Peer,
    objects::Endpoint,
    peer::{Failure, Hold, Open, Ping, Step, UdpAsk},
};
use nix::errno::Errno;

use crate::{
    rules::{Call, Manner, PATIENT_MS},
    world::{Sample, VIPS, World, at, eventually, manifest, sample_service},
};

/// Longer than the agent takes from the end of a backend to the look at sockets.
const LOOKED: Duration = Duration::from_millis(600);

/// A socket that stays open, and who answered it first.
struct Client {
    peer: Peer,
    id: u32,
    name: String,
}

impl Client {
    fn open(host: &impl Host, open: Open) -> Self {
        let mut peer = host.peer().unwrap();
        let id = peer.ask(open).unwrap().id.unwrap();
        let mut client = Self { peer, id, name: String::new() };
        client.name = client.ping().unwrap();
        client
    }

    fn ping(&mut self) -> Result<String, Failure> {
        let ping = Ping { timeout_ms: PATIENT_MS, ..Ping::new(self.id) };
        self.peer.ask(ping).unwrap().result.map(|seen| seen.name)
    }

    fn assert_lives(&mut self, what: &str) {
        assert_eq!(self.ping().as_ref(), Ok(&self.name), "{what}");
    }

    /// Asks until the socket is destroyed; up to then its backend answers, as it is still alive. A receive or a send that
    /// is under way gives ECONNABORTED (a send takes no lock of the socket, and so meets the error that was just put
    /// there); what follows is a socket without a peer, whose send gives EDESTADDRREQ.
    fn assert_destroyed(&mut self, agent: &Agent, what: &str) {
        let failure = eventually(what, || match self.ping() {
            Ok(name) if name == self.name => Err(format!("answered by {name}; log:\n{}", agent.log().unwrap())),
            other => Ok(other),
        });
        let expected = [
            (Step::Receive, Errno::ECONNABORTED),
            (Step::Send, Errno::ECONNABORTED),
            (Step::Send, Errno::EDESTADDRREQ),
        ];
        let expected = expected.map(|(step, errno)| Err(Failure::errno(step, errno)));
        assert!(expected.contains(&failure), "{what}: {failure:?}");
    }
}

fn connected(to: SocketAddr) -> Open {
    Open { connect: true, ..Open::udp(to) }
}

#[test]
fn a_connected_socket_of_the_node_is_destroyed_with_its_backend() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pod = world.node("raspi002").add_pod("bystander").unwrap();
    world.start("raspi002", &[]);
    let all = manifest(&sample_service(), &sample.all());
    for vip in VIPS {
        world.put("sample", &[&all]);
        let node = world.node("raspi002");
        let mut client = Client::open(node, connected(at(vip)));
        let backend = sample.pods.iter().find(|pod| pod.name() == client.name).unwrap();
        let direct = SocketAddr::new(backend.ip_like(at(vip).ip()), 80);
        let mut bystanders = [
            ("connected to the backend itself", Client::open(node, connected(direct))),
            ("a pod's, on the packet path", Client::open(&pod, connected(direct))),
            ("TCP, which drains", Client::open(node, Open::tcp(direct))),
        ];

        let left = manifest(&sample_service(), &sample.without(&client.name));
        world.put("sample", &[&left]);
        client.assert_destroyed(world.agent("raspi002"), vip);
        for (what, bystander) in &mut bystanders {
            bystander.assert_lives(what);
        }
        // The next socket reaches another backend.
        let answers = Call::Connected.ask(node.place(), at(vip), Manner::times(20));
        assert!(answers.all().iter().all(|seen| seen.name != client.name), "{answers:?}");
    }
}

/// The case that matters: the backend is dead, and the application waits for an answer that never comes.
#[test]
fn a_receive_that_waits_for_a_dead_backend_is_aborted() {
    let mut world = World::new(LabConfig::default());
    let server = world.node("raspi003").add_pod("server").unwrap();
    let _serving = server.serve(&[80]).unwrap();
    world.start("raspi002", &[]);
    world.put("sample", &[&manifest(&sample_service(), &[&server])]);
    for vip in VIPS {
        world.put("sample", &[&manifest(&sample_service(), &[&server])]);
        let node = world.node("raspi002");
        let hold = Hold { open: connected(at(vip)), interval_ms: 5, duration_ms: 20_000, timeout_ms: 10_000 };
        let held = node.begin(hold).unwrap();
        thread::sleep(Duration::from_millis(200));
        // No address of its own answers any more, and nobody says so.
        server.sh("nft add table inet dead && nft add chain inet dead in '{ type filter hook input priority 0; policy drop; }'").unwrap();
        thread::sleep(Duration::from_millis(50));
        world.put("sample", &[&manifest(&sample_service(), &[])]);
        thread::sleep(LOOKED);
        let held = held.stop().unwrap();
        assert!(held.pings > 0, "{held:?}");
        assert_eq!(
            held.failures.first().map(|(_, failure)| failure),
            Some(&Failure::errno(Step::Receive, Errno::ECONNABORTED))
        );
        server.sh("nft delete table inet dead").unwrap();
    }
}

/// An IPv6 socket that speaks IPv4 is the kernel's IPv6 table's, with an IPv4 peer.
#[test]
fn a_mapped_socket_is_destroyed_as_well_and_an_unconnected_one_needs_it_not() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    world.start("raspi002", &[]);
    world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
    let [vip, _] = VIPS;
    let node = world.node("raspi002");
    let mut mapped = Client::open(node, Open { mapped: true, ..connected(at(vip)) });
    let mut unconnected = Client::open(node, Open::udp(at(vip)));
    world.put("sample", &[&manifest(&sample_service(), &[])]);
    mapped.assert_destroyed(world.agent("raspi002"), "mapped");
    let refused = unconnected.ping();
    assert_eq!(refused, Err(Failure::errno(Step::Send, Errno::ECONNREFUSED)), "nobody is left");
    world.put("sample", &[&manifest(&sample_service(), &sample.without(&unconnected.name))]);
    let other = unconnected.ping().unwrap();
    assert_ne!(other, unconnected.name);
}

/// As behind kube-proxy: a terminating endpoint keeps its UDP clients as long as it serves.
#[test]
fn a_terminating_backend_keeps_its_sockets_and_a_departed_one_is_found_after_a_restart() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    world.start("raspi002", &[]);
    let service = sample_service();
    world.put("sample", &[&manifest(&service, &sample.all())]);
    let [vip, _] = VIPS;
    let mut client = Client::open(world.node("raspi002"), connected(at(vip)));
    let endpoints: Vec<Endpoint> = sample
        .pods
        .iter()
        .map(|pod| if pod.name() == client.name { Endpoint::v4(pod).terminating() } else { Endpoint::v4(pod) })
        .collect();
    world.put("sample", &[&service, &service.slice(&endpoints)]);
    thread::sleep(LOOKED);
    client.assert_lives("its backend terminates");
    let answers = Call::Connected.ask(world.node("raspi002").place(), at(vip), Manner::times(20));
    assert!(answers.all().iter().all(|seen| seen.name != client.name), "{answers:?}");

    world.agent_mut("raspi002").kill9().unwrap();
    world.objects.put("sample", &[&manifest(&service, &sample.without(&client.name))]).unwrap();
    client.assert_lives("no agent runs");
    let mut direct =
        Client::open(world.node("raspi002"), connected(SocketAddr::new(sample.pods[0].ip_like(at(vip).ip()), 80)));
    world.agent_mut("raspi002").start_again().unwrap();
    client.assert_destroyed(world.agent("raspi002"), "its backend went while no agent ran");
    direct.assert_lives("connected to a pod itself");
    let asked = world.node("raspi002").ask(UdpAsk { connect: true, ..UdpAsk::to(at(vip)) }).unwrap();
    assert_ne!(asked.all()[0].name, client.name);
}
