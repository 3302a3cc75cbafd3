//! Following links over netlink against the kernel: what is seen, how soon, and that nothing is missed. Needs root.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use berrylb::{
    loader::LinkPin,
    net::{BridgeNetfilter, ClassifyOptions, Follower, LinkKind, NetEvent, Topology},
};
use lb_common::abi::program;

use crate::support::{OtherNs, index, ip, load, on_ground, quiet};

/// Runs async code on a runtime of this thread, which is in the test's namespace.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// Waits for events until `done` says so of the topology; the events that it took.
async fn until(follower: &mut Follower, what: &str, done: impl Fn(&Topology) -> bool) -> (Topology, Vec<NetEvent>) {
    let mut events = Vec::new();
    let waiting = async {
        loop {
            let topology = Topology::derive(follower.table(), &ClassifyOptions::default());
            if done(&topology) {
                return topology;
            }
            events.push(follower.next().await.expect("an event"));
        }
    };
    match tokio::time::timeout(Duration::from_secs(10), waiting).await {
        Ok(topology) => (topology, events),
        Err(_) => panic!("{what} was not seen"),
    }
}

fn kind_of(topology: &Topology, name: &str) -> Option<LinkKind> {
    topology.classified.iter().find(|link| link.name == name).and_then(|link| link.kind)
}

/// Many `ip` commands in one process.
fn ip_batch(commands: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip");
    child.stdin.take().expect("its input").write_all(commands.as_bytes()).expect("write");
    assert!(child.wait().expect("ip").success(), "ip -batch");
}

#[test]
fn a_node_that_grows_is_seen_step_by_step() {
    on_ground(|_| {
        let (lan, pods) = (OtherNs::new(), OtherNs::new());
        block_on(async {
            let mut follower = Follower::start().await.expect("start");
            let empty = Topology::derive(follower.table(), &ClassifyOptions::default());
            assert_eq!(empty.roles().count(), 0, "{:?}", empty.classified);

            // As a lab's node: its uplink is a veth, too, and an address makes the difference.
            ip(&format!("link add eth0 type veth peer name lan netns {}", lan.id()));
            quiet("eth0");
            until(&mut follower, "the link", |now| kind_of(now, "eth0") == Some(LinkKind::Pod)).await;
            ip("addr add 192.0.2.1/24 dev eth0");
            let (now, _) =
                until(&mut follower, "its address", |now| kind_of(now, "eth0") == Some(LinkKind::Uplink)).await;
            assert_eq!(now.node_addresses, ["192.0.2.1".parse::<std::net::IpAddr>().expect("ip")]);

            ip("link add cni0 type bridge");
            quiet("cni0");
            ip("addr add 10.77.0.1/24 dev cni0");
            ip(&format!("link add veth1 type veth peer name eth0 netns {}", pods.id()));
            ip("link set veth1 master cni0 up mtu 1450");
            let (veth1, cni0) = (index("veth1"), index("cni0"));
            let (now, _) = until(&mut follower, "the pod on its bridge", |now| {
                now.devs.get(&veth1).is_some_and(|dev| dev.bridge == cni0 && dev.mtu == 1450)
            })
            .await;
            assert_eq!(kind_of(&now, "veth1"), Some(LinkKind::Pod));
            assert_eq!(kind_of(&now, "cni0"), None);
            assert_eq!(std::net::IpAddr::from(now.devs[&veth1].source_v4).to_string(), "10.77.0.1");

            // Off the bridge: the bridge's own message about it must not be taken for the end of the link.
            ip("link set veth1 nomaster");
            until(&mut follower, "a pod without bridge", |now| now.devs.get(&veth1).is_some_and(|dev| dev.bridge == 0))
                .await;

            ip("link set eth0 up");
            lan.run(|| ip("link set lan up"));
            ip("route add default via 192.0.2.254");
            ip("link add br0 type bridge");
            ip("link set br0 up");
            ip("route replace default dev br0");
            until(&mut follower, "the default route", |now| kind_of(now, "br0") == Some(LinkKind::Uplink)).await;
            ip("route del default");
            until(&mut follower, "no default route", |now| kind_of(now, "br0").is_none()).await;

            ip("link del veth1");
            let (now, _) = until(&mut follower, "the pod's end", |now| !now.devs.contains_key(&veth1)).await;
            assert_eq!(kind_of(&now, "veth1"), None);
        });
    });
}

/// Networks as text, for comparison.
fn pod_nets(topology: &Topology) -> Vec<String> {
    topology.pod_nets.iter().map(ToString::to_string).collect()
}

#[test]
fn routes_to_other_nodes_pods_are_followed() {
    on_ground(|_| {
        let lan = OtherNs::new();
        block_on(async {
            ip(&format!("link add eth0 type veth peer name lan netns {}", lan.id()));
            lan.run(|| ip("link set lan up"));
            ip("addr add 192.0.2.1/24 dev eth0");
            ip("addr add 2001:db8::1/64 dev eth0 nodad");
            ip("link set eth0 up");
            ip("link add cni0 type bridge");
            ip("addr add 10.77.1.1/24 dev cni0");
            ip("addr add fd77:1::1/64 dev cni0 nodad");
            ip("link set cni0 up");
            let mut follower = Follower::start().await.expect("start");
            let start = Topology::derive(follower.table(), &ClassifyOptions::default());
            assert!(start.pod_nets.is_empty(), "{:?}", start.pod_nets);
            assert_eq!(std::net::IpAddr::from(start.pod_sources.0).to_string(), "10.77.1.1");
            assert_eq!(std::net::IpAddr::from(start.pod_sources.1).to_string(), "fd77:1::1");

            // As flannel's host-gw writes them; others of another size, or without a gateway, are no pods'.
            ip("route add 172.16.0.0/12 via 192.0.2.9");
            ip("route add 10.99.1.0/24 dev eth0");
            ip("route add 10.77.2.0/24 via 192.0.2.2");
            ip("-6 route add fd77:2::/64 via 2001:db8::2");
            let both = ["10.77.2.0/24", "fd77:2::/64"];
            until(&mut follower, "both families", |now| pod_nets(now) == both).await;
            // A replaced route comes as a new one, and without word of the old.
            ip("route replace 10.77.2.0/24 dev cni0");
            until(&mut follower, "the replaced route", |now| pod_nets(now) == both[1..]).await;
            ip("route replace 10.77.2.0/24 nexthop via 192.0.2.2 nexthop via 192.0.2.3");
            ip("-6 route append fd77:2::/64 via 2001:db8::3");
            until(&mut follower, "several next hops", |now| pod_nets(now) == both).await;
            ip("-6 route del fd77:2::/64 via 2001:db8::2");
            ip("route del 10.77.2.0/24");
            until(&mut follower, "one next hop less", |now| pod_nets(now) == both[1..]).await;
            ip("-6 route del fd77:2::/64 via 2001:db8::3");
            until(&mut follower, "no route", |now| now.pod_nets.is_empty()).await;

            // Over an overlay every network counts.
            ip("link add flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 nolearning dstport 8472");
            ip("addr add 10.77.1.0/32 dev flannel.1");
            ip("link set flannel.1 up");
            ip("route add 10.77.3.64/26 via 10.77.3.64 dev flannel.1 onlink");
            until(&mut follower, "the overlay's route", |now| pod_nets(now) == ["10.77.3.64/26"]).await;
            // Of the IPv4 routes that go with their device the kernel says nothing.
            ip("link set flannel.1 down");
            until(&mut follower, "the route's silent end", |now| now.pod_nets.is_empty()).await;
        });
    });
}

#[test]
fn a_peer_that_moves_to_another_namespace_makes_a_pod_link() {
    on_ground(|_| {
        let pods = OtherNs::new();
        block_on(async {
            let mut follower = Follower::start().await.expect("start");
            ip("link add veth1 type veth peer name inner");
            until(&mut follower, "the pair", |now| now.classified.len() == 3).await;
            ip(&format!("link set inner netns {}", pods.id()));
            until(&mut follower, "the move", |now| kind_of(now, "veth1") == Some(LinkKind::Pod)).await;
        });
    });
}

#[test]
fn a_pod_link_is_attached_within_100_ms() {
    on_ground(|ground| {
        const LINKS: u32 = 20;
        let pods = OtherNs::new();
        let mut datapath = load(&ground.options());
        block_on(async {
            let mut follower = Follower::start().await.expect("start");
            let mut times = Vec::new();
            for number in 0..LINKS {
                let name = format!("veth{number}");
                ip(&format!("link add {name} type veth peer name eth{number} netns {}", pods.id()));
                // `ip` has ended, so the link exists: this is an upper bound but for the kernel's own work.
                let start = Instant::now();
                let (topology, _) = until(&mut follower, "the link", |now| kind_of(now, &name).is_some()).await;
                let seen = start.elapsed();
                let ifindex = index(&name);
                let role = topology.roles().find(|role| role.ifindex == ifindex).expect("a role");
                datapath.attach_link(role).expect("attach");
                times.push((seen, start.elapsed()));
                let attached = datapath.attachments().expect("attachments");
                let pin = LinkPin::Tc { program: program::POD_INGRESS, ifindex };
                assert!(attached.iter().any(|attachment| attachment.pin == pin));
            }
            times.sort_unstable();
            let (seen, attached) = times[times.len() / 2];
            let worst = times.iter().map(|(_, attached)| *attached).max().expect("some");
            println_times(seen, attached, worst);
            assert!(worst < Duration::from_millis(100), "{times:?}");
        });
    });
}

#[expect(clippy::print_stdout, reason = "the figures belong to the test's output")]
fn println_times(seen: Duration, attached: Duration, worst: Duration) {
    println!("a link is seen after {seen:?} and attached after {attached:?} (medians), at worst {worst:?}");
}

#[test]
fn a_burst_is_a_few_events() {
    on_ground(|_| {
        let pods = OtherNs::new();
        block_on(async {
            const LINKS: usize = 100;
            let mut follower = Follower::start().await.expect("start");
            let mut commands = String::new();
            for number in 0..LINKS {
                writeln!(commands, "link add veth{number} type veth peer name eth{number} netns {}", pods.id())
                    .expect("a string");
            }
            // The runtime is this thread's, so nothing is read until all are made.
            ip_batch(&commands);
            let (_, events) = until(&mut follower, "all links", |now| now.roles().count() == LINKS).await;
            assert!(events.len() <= 3, "{events:?}");
            assert!(events.iter().all(|event| !event.resynced), "{events:?}");
        });
    });
}

#[test]
fn lost_notifications_lead_to_a_resync() {
    on_ground(|_| {
        block_on(async {
            let mut follower = Follower::start().await.expect("start");
            ip("link add d0 type bridge");
            until(&mut follower, "the device", |now| now.classified.len() == 2).await;
            // More than the socket's buffer holds, while nobody reads.
            let mut commands = String::new();
            for round in 0..3 {
                for number in 0..2500_u32 {
                    let (high, low) = (number / 250, number % 250 + 1);
                    writeln!(commands, "addr add 10.{round}.{high}.{low}/32 dev d0").expect("a string");
                }
            }
            ip_batch(&commands);
            ip("link add late type bridge");
            let late = index("late");
            let (_, events) =
                until(&mut follower, "what came last", |now| now.classified.iter().any(|link| link.ifindex == late))
                    .await;
            assert!(events.iter().any(|event| event.resynced), "{events:?}");
            assert_eq!(follower.table().addresses(index("d0")).len(), 7500);
            // And it goes on as before.
            ip("link del late");
            let (_, events) =
                until(&mut follower, "the end", |now| now.classified.iter().all(|link| link.ifindex != late)).await;
            assert!(events.iter().all(|event| !event.resynced), "{events:?}");
        });
    });
}

#[test]
fn waiting_may_be_given_up_and_taken_up_again() {
    on_ground(|_| {
        block_on(async {
            let mut follower = Follower::start().await.expect("start");
            for number in 0..50_u64 {
                ip(&format!("link add d{number} type bridge"));
                // Cut off at an arbitrary point, again and again.
                for _ in 0..3 {
                    let _cut = tokio::time::timeout(Duration::from_micros(37 * number), follower.next()).await;
                }
            }
            until(&mut follower, "all links", |now| now.classified.len() == 51).await;
        });
    });
}

#[test]
fn the_bridge_switch_is_read_in_this_namespace() {
    on_ground(|_| {
        let expected = std::path::Path::new("/proc/thread-self/root/proc/sys/net/bridge/bridge-nf-call-iptables");
        let before = BridgeNetfilter::read().expect("readable");
        if !expected.exists() {
            assert_eq!(before, BridgeNetfilter::default());
            return;
        }
        for value in ["0", "1"] {
            std::fs::write(expected, value).expect("set");
            assert_eq!(BridgeNetfilter::read().expect("readable").ipv4, value == "1");
        }
    });
}
