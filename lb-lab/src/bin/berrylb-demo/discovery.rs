//! Point 7 of the story: environment variables, and DNS as a Service.
//!
//! dnsmasq stands in for CoreDNS with the records that the Kubernetes DNS specification asks for; the router's own
//! dnsmasq is the world outside.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use lb_lab::{
    Host, apps,
    apps::Records,
    objects::{Endpoint, Port, Service},
    patience,
};

use crate::{
    cluster::{CLUSTER_IP, Cluster},
    kinds,
    stage::{Stage, curl},
    story::only_pods,
};

/// The cluster's domain.
pub(crate) const DOMAIN: &str = "cluster.local";
const DNS_IP: &str = "10.96.0.10";
/// A name that only the world outside knows; it belongs to the machine outside.
const FOREIGN: &str = "www.example.org";

/// How long a server may take to answer; kdig asks three times.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Two DNS pods behind a Service, which every pod uses from then on. Once.
pub(crate) fn start_dns(stage: &mut Stage, cluster: &mut Cluster) -> Result<()> {
    let outside = cluster.lab.outside().addresses().v4.addr().into();
    let world = Records { hosts: vec![(FOREIGN.into(), outside)], ..Records::default() };
    let world = apps::dnsmasq(cluster.lab.router(), &world)?;
    cluster.servers.push(world);

    let ports = [Port::udp("dns", 53, 53), Port::tcp("dns-tcp", 53, 53)];
    let dns = Service {
        namespace: "kube-system".into(),
        selector: Some(("k8s-app".into(), "kube-dns".into())),
        ..Service::new("kube-dns", &[DNS_IP.parse()?], &ports)
    };
    let records = records(cluster, &dns)?;
    let mut endpoints = Vec::new();
    for (node, name) in [("raspi002", "dns-5d78c9869d-4vnlq"), ("raspi003", "dns-5d78c9869d-qxw7z")] {
        let pod = cluster.lab.node(node).add_pod(name)?;
        cluster.servers.push(apps::dnsmasq(&pod, &records)?);
        endpoints.push(Endpoint::v4(&pod));
        cluster.more_pods.push(pod);
    }
    for pod in &mut cluster.pods {
        pod.set_dns(DNS_IP.parse()?)?;
    }
    cluster.apply(stage, "kube-dns", &[&dns, &dns.slice(&endpoints)])
}

/// What CoreDNS would answer for these Services.
fn records(cluster: &Cluster, dns: &Service) -> Result<Records> {
    let upstream = cluster.lab.router().addresses().v4.addr().into();
    let mut records = Records { domain: Some(DOMAIN.into()), upstream: Some(upstream), ..Records::default() };
    let mut services = vec![cluster.sample.clone(), dns.clone(), kinds::nas()?, kinds::ingress()?];
    services.extend(kinds::of_sample()?);
    for service in &services {
        let name = name(service);
        records.hosts.extend(service.cluster_ips.iter().map(|ip| (name.clone(), *ip)));
        if service.cluster_ips.is_empty() {
            records.hosts.extend(cluster.pods.iter().map(|pod| (name.clone(), IpAddr::from(pod.ip4()))));
        }
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            let owner = format!("_{}._{}.{name}", port.name, port.protocol.to_lowercase());
            records.services.push((owner, name.clone(), port.port));
        }
    }
    records.aliases.push((name(&kinds::alias()), name(&cluster.sample)));
    Ok(records)
}

fn name(service: &Service) -> String {
    format!("{}.{}.svc.{DOMAIN}", service.name, service.namespace)
}

/// Plays point 7.
pub(crate) fn play(stage: &mut Stage, cluster: &mut Cluster) -> Result<()> {
    stage.scene("7. Discovery")?;
    let seconds = patience::limit(ANSWER_LIMIT).as_secs();
    let pod = &cluster.pods[1];
    stage.say("The kubelet gives a container the Services of its namespace as environment variables:")?;
    let curl = curl();
    let line = format!(
        "env | grep ^SAMPLE_CLUSTERIP_ | sort; {curl} $SAMPLE_CLUSTERIP_SERVICE_HOST:$SAMPLE_CLUSTERIP_SERVICE_PORT"
    );
    stage.typed(pod, &line)?;
    let container = pod.command("sh").args(["-c", &line]);
    let container = cluster.sample.environment().iter().fold(container, |c, (key, value)| c.env(key, value));
    let output = container.output()?;
    stage.answer(&output.to_string())?;
    let last = output.stdout.lines().last().unwrap_or_default();
    stage.expect(only_pods(cluster, last, 1), "the address in them is answered by a pod")?;

    let sample = name(&cluster.sample);
    stage.say(&format!("\nDNS is a Service itself, {DNS_IP} port 53, over UDP and TCP:"))?;
    for (question, answer, promise) in [
        (sample.clone(), format!("{CLUSTER_IP}\n"), "A over UDP"),
        (format!("+tcp {sample}"), format!("{CLUSTER_IP}\n"), "A over TCP"),
        (format!("_http-port._tcp.{sample} SRV"), format!("0 0 8080 {sample}.\n"), "SRV: port and name"),
        (format!("-x {CLUSTER_IP}"), format!("{sample}.\n"), "reverse look-up"),
        (FOREIGN.into(), "192.168.178.200\n".into(), "a foreign name is asked for outside"),
    ] {
        let output = stage.run(pod, &format!("kdig +short +timeout={seconds} @{DNS_IP} {question}"))?;
        stage.expect(output.stdout == answer, promise)?;
    }
    let node = stage.run(cluster.control_plane(), &format!("kdig +short +timeout={seconds} @{DNS_IP} {sample}"))?;
    stage.expect(node.stdout.trim() == CLUSTER_IP, "a node can ask as well")?;

    stage.say("\nAnd so a pod's own resolver finds everything by name:")?;
    stage.run(pod, "cat /etc/resolv.conf")?;
    let by_name = stage.run(pod, &format!("{curl} sample-clusterip:8080; {curl} {FOREIGN}"))?.stdout;
    let (first, second) = by_name.split_once('\n').unwrap_or_default();
    stage.expect(only_pods(cluster, first, 1) && second == "outside\n", "in the cluster and outside")
}
