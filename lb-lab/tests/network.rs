//! Point 2 of the story, without any Service: what must work before berrylb comes, on every kind of network.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::process::ExitStatusExt as _,
    time::Duration,
};

use lb_lab::{
    Host, Lab, LabConfig, Network,
    peer::{Big, TcpAsk, UdpAsk},
};
use nix::sys::signal::{SigSet, Signal};

/// A pod to itself, to its neighbour, to the other node's pod; a node without pods to each; over both families.
fn check(config: LabConfig) {
    let lab = Lab::new(config).unwrap();
    let config = lab.config();
    let one = lab.node("raspi002").add_pod_at("one", 72).unwrap();
    let two = lab.node("raspi003").add_pod_at("two", 66).unwrap();
    let three = lab.node("raspi003").add_pod_at("three", 67).unwrap();
    let pods = [&one, &two, &three];
    let _servers = pods.map(|pod| pod.serve(&[80]).unwrap());

    let mut families: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap()];
    if config.ipv6 {
        families.push("::1".parse().unwrap());
    }
    for localhost in families {
        // "Its own pod" goes by localhost; all others by address, and the server sees the pod's own address.
        for client in pods {
            let own = client.ask(TcpAsk::to(SocketAddr::new(localhost, 80))).unwrap();
            assert_eq!(own.all()[0].name, client.name());
            for server in pods {
                let to = SocketAddr::new(server.ip_like(localhost), 80);
                let tcp = client.ask(TcpAsk::to(to)).unwrap();
                let seen = tcp.all()[0];
                assert_eq!((seen.name.as_str(), seen.server), (server.name(), to));
                assert_eq!(seen.client.ip(), client.ip_like(localhost), "{} to {}", client.name(), server.name());
                assert_eq!(tcp.one().peer, Some(to));

                let udp = client.ask(UdpAsk { size: 1000, ..UdpAsk::to(to) }).unwrap();
                assert_eq!((udp.all()[0].name.as_str(), udp.one().from), (server.name(), Some(to)));
            }
        }
        let control_plane = lab.node("raspi001");
        for server in pods {
            let to = SocketAddr::new(server.ip_like(localhost), 80);
            let answers = control_plane.ask(TcpAsk { count: 3, ..TcpAsk::to(to) }).unwrap();
            assert_eq!(answers.names(), [(server.name().to_owned(), 3)].into());
        }
        // A megabyte: segmentation offload, and packets of full size through the overlay.
        let to = SocketAddr::new(two.ip_like(localhost), 80);
        let big = one.ask(Big::new(to, 1 << 20)).unwrap();
        assert_eq!(big.result.unwrap().name, "two");
    }
    if config.invalid_drop {
        for node in lab.nodes() {
            assert_eq!(node.invalid_drops().unwrap(), 0, "{}", node.name());
        }
    }
}

#[test]
fn host_gw() {
    check(LabConfig { bridge_netfilter: false, ..LabConfig::default() });
}

#[test]
fn host_gw_with_bridge_netfilter() {
    check(LabConfig { bridge_netfilter: true, invalid_drop: true, ..LabConfig::default() });
}

#[test]
fn vxlan() {
    check(LabConfig { network: Network::Vxlan, bridge_netfilter: false, ..LabConfig::default() });
}

#[test]
fn vxlan_with_bridge_netfilter() {
    check(LabConfig {
        network: Network::Vxlan,
        bridge_netfilter: true,
        invalid_drop: true,
        rp_filter: 1,
        ..LabConfig::default()
    });
}

#[test]
fn without_ipv6_and_without_rules() {
    check(LabConfig { ipv6: false, masquerade: false, rp_filter: 0, ..LabConfig::default() });
}

#[test]
fn settings_are_as_asked_for() {
    for on in [false, true] {
        let config = LabConfig { bridge_netfilter: on, rp_filter: 1, network: Network::Vxlan, ..LabConfig::default() };
        let lab = Lab::new(config).unwrap();
        let node = lab.node("raspi003");
        let wanted = if on { "1" } else { "0" };
        assert_eq!(node.netns().get("bridge/bridge-nf-call-iptables").unwrap(), wanted);
        assert_eq!(node.netns().get("bridge/bridge-nf-call-ip6tables").unwrap(), wanted);
        assert_eq!(node.netns().get("ipv4/conf/cni0/rp_filter").unwrap(), "1");
        assert_eq!(node.overlays(), ["flannel.1", "flannel-v6.1"]);
        let pod = node.add_pod("sample").unwrap();
        let links = node.sh("ip -o link show master cni0; cat /sys/class/net/*/ifindex | wc -l").unwrap();
        assert!(links.contains(pod.link()), "{links}");
        let routes = node.sh("ip route; ip -6 route").unwrap();
        for wanted in
            ["10.244.1.0/24 via 10.244.1.0 dev flannel.1", "fd00:10:244:1::/64 via fd00:10:244:1:: dev flannel-v6.1"]
        {
            assert!(routes.contains(wanted), "no `{wanted}` in\n{routes}");
        }
    }
}

#[test]
fn a_closed_port_and_an_unused_address_fail_differently() {
    use lb_lab::peer::{Failure, Step};
    use nix::errno::Errno;
    let lab = Lab::story().unwrap();
    let pod = lab.node("raspi002").add_pod("sample").unwrap();
    let refused = lab.node("raspi002").ask(TcpAsk::to((pod.ip4(), 81).into())).unwrap();
    assert_eq!(refused.one().result, Err(Failure::errno(Step::Connect, Errno::ECONNREFUSED)));
    // The outside machine has a route for the service network: silence or an error would be the nodes' doing.
    let outside = lab.outside().sh("ip route get 10.111.197.69").unwrap();
    assert!(outside.contains("via 192.168.178.12"), "{outside}");
}

#[test]
fn a_pod_that_goes_takes_its_link_and_processes_along() {
    let lab = Lab::story().unwrap();
    let node = lab.node("raspi002");
    let pod = node.add_pod("sample").unwrap();
    let (link, cgroup) = (pod.link().to_owned(), pod.cgroup().to_owned());
    let mut sleeper = pod.command("sleep").arg("600").spawn("sleep").unwrap();
    assert!(node.netns().netlink().index(&link).is_ok());
    drop(pod);
    assert!(node.netns().netlink().index(&link).is_err());
    assert!(!cgroup.exists());
    let status = sleeper.wait(std::time::Duration::from_secs(5)).unwrap();
    assert!(!status.success());
    node.add_pod("sample").expect("the name is free again");
}

#[test]
fn two_labs_do_not_meet() {
    let labs = [Lab::story().unwrap(), Lab::story().unwrap()];
    let pods = [0, 1].map(|i| labs[i].node("raspi002").add_pod_at(&format!("sample-{i}"), 72).unwrap());
    let _servers = pods.each_ref().map(|pod| pod.serve(&[80]).unwrap());
    for (lab, pod) in labs.iter().zip(&pods) {
        let answers = lab.node("raspi001").ask(TcpAsk { count: 5, ..TcpAsk::to((pod.ip4(), 80).into()) }).unwrap();
        assert_eq!(answers.names(), [(pod.name().to_owned(), 5)].into());
    }
}

#[test]
fn people_enter_by_the_script() {
    let lab = Lab::story().unwrap();
    let node = lab.node("raspi002");
    let mut pod = node.add_pod_at("sample", 72).unwrap();
    let enter = |name: &str, command: &str| {
        let mut sh = std::process::Command::new("sh");
        sh.arg(lab.enter_script()).arg(name).args(["sh", "-c", command]);
        let output = sh.output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    for (name, address, cgroup) in [
        ("raspi002", "192.168.178.12/24", node.cgroup()),
        ("sample", "10.244.1.72/24", pod.cgroup()),
        ("outside", "192.168.178.200/24", lab.outside().cgroup()),
        ("router", "192.168.178.1/24", lab.router().cgroup()),
    ] {
        let text = enter(name, "ip -4 -o addr; cat /proc/self/cgroup");
        let inside = cgroup.to_string_lossy().split_once(lab.name()).map(|(_, rest)| format!("{}{rest}\n", lab.name()));
        assert!(text.contains(address) && text.contains(&inside.unwrap()), "{name}: {text}");
    }
    let here = enter("raspi002", "echo $BERRYLB_BPFFS $BERRYLB_API_SOCKET $BERRYLB_CGROUP");
    assert_eq!(here, node.sh("echo $BERRYLB_BPFFS $BERRYLB_API_SOCKET $BERRYLB_CGROUP").unwrap());
    assert!(here.starts_with(&format!("{} ", node.bpffs().display())), "{here}");
    // Without an agent, and where none ever is, berrylb does not look at the machine's own either.
    for name in ["raspi001", "sample", "outside", "router"] {
        let there = enter(name, "echo $BERRYLB_BPFFS $BERRYLB_API_SOCKET $BERRYLB_CGROUP");
        assert_eq!(there.matches(lab.name()).count(), 3, "{name}: {there}");
    }
    pod.set_dns("10.96.0.10".parse().unwrap()).unwrap();
    assert!(enter("sample", "cat /etc/resolv.conf").contains("nameserver 10.96.0.10\n"));
    let bin = lab.dir().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink("/bin/echo", bin.join("say")).unwrap();
    assert_eq!(enter("raspi002", "say by name"), "by name\n");
    assert!(enter("nobody", "true").contains("has no node, pod or machine nobody"));
    let names = std::process::Command::new("sh").arg(lab.enter_script()).output().unwrap();
    let names = String::from_utf8(names.stderr).unwrap();
    for name in ["raspi002", "sample", "outside", "router"] {
        assert!(names.lines().any(|line| line == format!("  {name}")), "no {name} in {names}");
    }
}

/// `make lab` holds Ctrl-C back until it is ready for it. Agents of its nodes are not to inherit that.
#[test]
fn signals_that_the_owner_holds_back_end_what_runs_in_a_lab() {
    let lab = Lab::story().unwrap();
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().unwrap();
    let mut sleeper = lab.node("raspi002").command("sleep").arg("60").spawn("sleep").unwrap();
    let ended = sleeper.terminate(Duration::from_secs(5));
    signals.thread_unblock().unwrap();
    assert_eq!(ended.unwrap().signal(), Some(Signal::SIGTERM as i32));
}
