//! Point 6 of the story: every kind of discovery and load balancing that it names.

use std::net::IpAddr;

use anyhow::{Context, Result};
use lb_lab::{
    apps,
    objects::{Endpoint, Port, Service},
};

use crate::{
    cluster::{CLUSTER_IP, Cluster},
    discovery,
    stage::{Stage, curl},
    story::only_pods,
};

const NODE_PORT: u16 = 30080;
const EXTERNAL_IP: &str = "192.168.178.240";
const LOAD_BALANCER_IP: &str = "192.168.178.241";
const NAS_IP: &str = "10.100.0.35";
const INGRESS_IP: &str = "10.100.0.36";
/// The site that the Ingress serves.
const SITE: &str = "shop.example.org";

fn http() -> Port {
    Port::tcp("http-port", 8080, 80)
}

fn service(name: &str, ip: &str) -> Result<Service> {
    Ok(Service::new(name, &[ip.parse().with_context(|| format!("{name}: {ip}"))?], &[http()]))
}

/// The Services of this scene whose endpoints are the story's pods.
pub(crate) fn of_sample() -> Result<Vec<Service>> {
    let port = Port { node_port: Some(NODE_PORT), ..http() };
    Ok(vec![
        Service { kind: "NodePort", ports: vec![port], ..service("sample-nodeport", "10.100.0.31")? },
        Service { external_ips: vec![EXTERNAL_IP.parse()?], ..service("sample-externalip", "10.100.0.32")? },
        Service {
            kind: "LoadBalancer",
            load_balancer_ips: vec![LOAD_BALANCER_IP.parse()?],
            ..service("sample-loadbalancer", "10.100.0.33")?
        },
        Service::new("sample-headless", &[], &[Port::tcp("http-port", 80, 80)]),
    ])
}

/// A name for another name.
pub(crate) fn alias() -> Service {
    Service {
        kind: "ExternalName",
        selector: None,
        spec: vec![format!("externalName: sample-clusterip.default.svc.{}", discovery::DOMAIN)],
        ..Service::new("sample-alias", &[], &[])
    }
}

/// A Service without selector, for the machine outside.
pub(crate) fn nas() -> Result<Service> {
    Ok(Service { selector: None, ports: vec![Port::tcp("http", 80, 80)], ..service("nas", NAS_IP)? })
}

/// The proxy of the Ingress.
pub(crate) fn ingress() -> Result<Service> {
    let selector = Some(("app".into(), "ingress-nginx".into()));
    Ok(Service { selector, ports: vec![Port::tcp("http", 80, 80)], ..service("ingress-nginx", INGRESS_IP)? })
}

/// Plays point 6. It leaves its objects for the clean-up.
pub(crate) fn play(stage: &mut Stage, cluster: &mut Cluster) -> Result<()> {
    stage.scene("6. All kinds of Services")?;
    discovery::start_dns(stage, cluster)?;
    let outside_server = apps::nginx(cluster.lab.outside())?;
    cluster.servers.push(outside_server);
    for service in of_sample()? {
        let slice = service.slice(&cluster.pods.iter().map(Endpoint::v4).collect::<Vec<_>>());
        cluster.apply(stage, &service.name, &[&service, &slice])?;
    }
    cluster.apply(stage, "sample-alias", &[&alias()])?;

    let node_ip = cluster.control_plane().addresses().v4.addr();
    let pods_node_ip = cluster.lab.node(cluster.pods[0].node_name()).addresses().v4.addr();
    let curl = curl();
    let external = format!("{EXTERNAL_IP}:8080");
    let balanced = format!("{LOAD_BALANCER_IP}:8080");
    for (title, from_node, from_pod) in [
        (
            "NodePort: the Service's port on each node's own address",
            format!("{node_ip}:{NODE_PORT}"),
            format!("{pods_node_ip}:{NODE_PORT}"),
        ),
        ("ExternalIP: an address of the LAN that the operator names", external.clone(), external),
        ("LoadBalancer: an address that a load balancer gave", balanced.clone(), balanced),
    ] {
        stage.say(&format!("\n{title}"))?;
        let line = |to: &str| format!("for i in 1 2 3; do {curl} {to}; done");
        let node = stage.run(cluster.control_plane(), &line(&from_node))?.stdout;
        let pod = stage.run(&cluster.pods[0], &line(&from_pod))?.stdout;
        let kept = only_pods(cluster, &node, 3) && only_pods(cluster, &pod, 3);
        stage.expect(kept, "pods answer, to a node and to a pod")?;
    }

    stage.say("\nHeadless (clusterIP: None): the name has the pods' own addresses")?;
    let names = stage.run(&cluster.pods[0], "getent ahostsv4 sample-headless | awk '/STREAM/ {print $1}' | sort")?;
    let mut addresses: Vec<String> = cluster.pods.iter().map(|pod| pod.ip4().to_string()).collect();
    addresses.sort();
    stage.expect(names.stdout.lines().eq(addresses), "three addresses, and no virtual one")?;
    let direct = stage.run(&cluster.pods[0], &format!("{curl} sample-headless"))?.stdout;
    stage.expect(only_pods(cluster, &direct, 1), "a pod answers")?;

    stage.say("\nExternalName: a name for another name")?;
    let by_alias = stage.run(&cluster.pods[0], &format!("{curl} sample-alias:8080"))?.stdout;
    stage.expect(only_pods(cluster, &by_alias, 1), "a pod answers")?;

    stage.say("\nA Service without selector: its slice names a machine outside the cluster")?;
    let nas = nas()?;
    let outside = IpAddr::from(cluster.lab.outside().addresses().v4.addr());
    let endpoint = Endpoint { node: None, ..Endpoint::new(outside, "") };
    cluster.apply(stage, "nas", &[&nas, &nas.slice(&[endpoint])])?;
    let answer = stage.run(&cluster.pods[1], &format!("{curl} {NAS_IP}; {curl} nas"))?.stdout;
    stage.expect(answer == "outside\noutside\n", "it answers, by address and by name")?;

    ingress_scene(stage, cluster)
}

fn ingress_scene(stage: &mut Stage, cluster: &mut Cluster) -> Result<()> {
    stage.say(&format!("\nIngress: an L7 proxy's pods behind us, which send {SITE} on to sample-clusterip"))?;
    let pod = cluster.lab.node("raspi003").add_pod("ingress-nginx-controller-0")?;
    let proxy = apps::ingress(&pod, &[(SITE, (CLUSTER_IP.parse::<IpAddr>()?, 8080).into())])?;
    let service = ingress()?;
    cluster.apply(stage, "ingress-nginx", &[&service, &service.slice(&[Endpoint::v4(&pod)])])?;
    cluster.servers.push(proxy);
    cluster.more_pods.push(pod);
    let curl = curl();
    let site = stage.run(&cluster.pods[0], &format!("{curl} -H 'Host: {SITE}' {INGRESS_IP}"))?.stdout;
    stage.expect(only_pods(cluster, &site, 1), "the site is served by a pod")?;
    let other = format!("{curl} -o /dev/null -w '%{{http_code}}\\n' -H 'Host: other.example.org' {INGRESS_IP}");
    let other = stage.run(&cluster.pods[0], &other)?.stdout;
    stage.expect(other == "404\n", "another site is not")
}
