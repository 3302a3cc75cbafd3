//! Beside kube-proxy: the agent starts on a node whose netfilter translates Services, as kube-proxy's iptables mode writes it.
//! What was translated before stays with netfilter, what comes later is the agent's, and after `cleanup` it is netfilter's again.
//! Whose answer it is shows by who gives it: netfilter's rules know another backend than the agent's objects.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_lab::{
    Host, LabConfig, Node, Peer, Place,
    objects::{Port, Service},
    peer::{Open, Ping},
};

use crate::{
    rules::{Call, Manner},
    world::{Sample, World, assert_agrees, manifest},
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 111, 197, 69);
const PORT: u16 = 8080;
const NODE_PORT: u16 = 30080;
/// Who answers behind netfilter's rules.
const OLD: &str = "old-backend";

/// kube-proxy's chains for one Service with one endpoint: its marks, and the masquerading that they ask for.
fn write_rules(node: &Node, backend: Ipv4Addr) {
    let lines = [
        "-N KUBE-SERVICES".to_owned(),
        "-N KUBE-NODEPORTS".to_owned(),
        "-N KUBE-SEP".to_owned(),
        "-A PREROUTING -j KUBE-SERVICES".to_owned(),
        "-A OUTPUT -j KUBE-SERVICES".to_owned(),
        "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE".to_owned(),
        format!("-A KUBE-SERVICES -d {VIP}/32 -p tcp --dport {PORT} -j KUBE-SEP"),
        format!("-A KUBE-SERVICES -d {VIP}/32 -p udp --dport {PORT} -j KUBE-SEP"),
        "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS".to_owned(),
        format!("-A KUBE-NODEPORTS -p tcp --dport {NODE_PORT} -j MARK --set-xmark 0x4000/0x4000"),
        format!("-A KUBE-NODEPORTS -p tcp --dport {NODE_PORT} -j KUBE-SEP"),
        format!("-A KUBE-SEP -p tcp -j DNAT --to-destination {backend}:80"),
        format!("-A KUBE-SEP -p udp -j DNAT --to-destination {backend}:80"),
    ];
    for line in lines {
        node.sh(&format!("iptables -w -t nat {line}")).unwrap();
    }
}

/// Connections that netfilter has translated so far.
fn translated(node: &Node) -> u64 {
    let text = node.sh("iptables -w -t nat -nvxL KUBE-SEP").unwrap();
    let packets = |line: &str| line.split_whitespace().next()?.parse::<u64>().ok();
    text.lines().filter(|line| line.contains("DNAT")).filter_map(packets).sum()
}

/// A connection that is held open, and who serves it.
struct Held {
    what: String,
    peer: Peer,
    id: u32,
}

impl Held {
    fn open(place: &Place, to: SocketAddr) -> Self {
        let what = format!("connection of {} to {to}", place.name());
        let mut peer = place.peer().unwrap();
        let id = peer.ask(Open::tcp(to)).unwrap().id.unwrap();
        Self { what, peer, id }
    }

    fn assert_served_by(&mut self, name: &str) {
        let seen = self.peer.ask(Ping::new(self.id)).unwrap().result;
        let seen = seen.unwrap_or_else(|failure| panic!("{}: {failure}", self.what));
        assert_eq!(seen.name, name, "{}", self.what);
    }
}

#[test]
fn beside_kube_proxy_old_connections_are_its_and_new_ones_ours() {
    let mut world = World::new(LabConfig { ipv6: false, ..LabConfig::default() });
    let sample = Sample::start(&world.lab, &[80]);
    let old = world.node("raspi003").add_pod(OLD).unwrap();
    let _serving = old.serve(&[80]).unwrap();
    let client = world.node("raspi002").add_pod("client").unwrap();
    write_rules(world.node("raspi002"), old.ip4());

    let vip = SocketAddr::from((VIP, PORT));
    let node_port = SocketAddr::from((world.node("raspi002").addresses().v4.addr(), NODE_PORT));
    let pod = client.place().clone();
    let node = world.node("raspi002").place().clone();
    let outside = world.lab.outside().place().clone();
    let asked = [(&pod, vip, Call::Tcp), (&pod, vip, Call::Connected), (&pod, vip, Call::Unconnected)]
        .into_iter()
        .chain([(&node, vip, Call::Tcp), (&node, vip, Call::Unconnected), (&outside, node_port, Call::Tcp)]);
    let asked: Vec<_> = asked.collect();
    let ask = |place: &Place, to: SocketAddr, call: Call| -> Vec<String> {
        let answers = call.ask(place, to, Manner::times(12));
        answers.all().iter().map(|answer| answer.name.clone()).collect()
    };
    for (place, to, call) in &asked {
        let names = ask(place, *to, *call);
        assert!(names.iter().all(|name| name == OLD), "before, {call:?} of {} to {to}: {names:?}", place.name());
    }
    let mut held: Vec<Held> =
        [(&pod, vip), (&node, vip), (&outside, node_port)].map(|(place, to)| Held::open(place, to)).into();
    held.iter_mut().for_each(|held| held.assert_served_by(OLD));
    let before = translated(world.node("raspi002"));
    assert!(before > 0, "the rules translate");

    let port = |port: Port| Port { node_port: Some(NODE_PORT), ..port };
    let vips = [IpAddr::from(VIP)];
    let ports = [port(Port::tcp("http", PORT, 80)), Port::udp("udp", PORT, 80)];
    let service = Service { kind: "NodePort", ..Service::new("sample", &vips, &ports) };
    world.objects.put("sample", &[&manifest(&service, &sample.all())]).unwrap();
    // As manifests/components/kube-proxy-coexist sets it.
    let flags = ["--healthz", "0.0.0.0:10266", "--metrics", "127.0.0.1:10267", "--grace-seconds", "86400"];
    world.start("raspi002", &flags);
    for (place, to, call) in &asked {
        let names = ask(place, *to, *call);
        let ours = names.iter().all(|name| sample.names().contains(&name.as_str()));
        assert!(ours, "beside, {call:?} of {} to {to}: {names:?}", place.name());
    }
    held.iter_mut().for_each(|held| held.assert_served_by(OLD));
    assert_eq!(translated(world.node("raspi002")), before, "netfilter met no new connection");
    assert_agrees(world.agent("raspi002"));

    world.agent_mut("raspi002").terminate().unwrap();
    world.agent("raspi002").cleanup().unwrap();
    for (place, to, call) in &asked {
        let names = ask(place, *to, *call);
        assert!(names.iter().all(|name| name == OLD), "after, {call:?} of {} to {to}: {names:?}", place.name());
    }
    held.iter_mut().for_each(|held| held.assert_served_by(OLD));
}
