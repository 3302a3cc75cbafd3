//! What Prometheus reads from an agent: text that is valid to the letter, and numbers that follow what happens.

use std::{collections::BTreeMap, process::Command};

use lb_lab::{
    Host as _,
    api_server::End,
    objects::{Endpoint, Port, Service},
    peer::{TcpAsk, UdpAsk},
};

use crate::{
    api::Cluster,
    exposition,
    world::{VIPS, at, dual_stack, eventually},
};

const NODE: &str = "raspi002";
const PROGRAMMING: &str = "kubeproxy_network_programming_duration_seconds";

fn scrape(cluster: &Cluster) -> BTreeMap<String, f64> {
    let curl = ["-sS", "-m", "5", "http://127.0.0.1:10249/metrics"];
    exposition::read(&cluster.world.node(NODE).command("curl").args(curl).ok().unwrap())
}

/// Waits until a series has this value.
fn reaches(cluster: &Cluster, series: &str, wanted: f64) {
    eventually(series, || match scrape(cluster).get(series) {
        Some(found) if found.to_bits() == wanted.to_bits() => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

/// Now, as controllers write it.
fn now() -> String {
    let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%NZ"]).output().unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

/// The Service's slice with the time of what has caused it.
fn slice(service: &Service, endpoints: &[Endpoint], cause: &str) -> String {
    let slice = service.slice(endpoints).to_string();
    let annotation =
        format!("metadata:\n  annotations: {{endpoints.kubernetes.io/last-change-trigger-time: \"{cause}\"}}\n");
    assert_eq!(slice.matches("metadata:\n").count(), 1, "{slice}");
    slice.replace("metadata:\n", &annotation)
}

#[test]
fn numbers_follow_what_happens() {
    let cluster = Cluster::of_one_node();
    let node = cluster.world.node(NODE);
    let (pod, client) = (node.add_pod("web").unwrap(), node.add_pod("client").unwrap());
    let _serving = pod.serve(&[80]).unwrap();
    let service = dual_stack("web", &[Port::tcp("http", 8080, 80), Port::udp("dns", 8080, 80)]);
    let (endpoint, other) = (Endpoint::v4(&pod), Endpoint::new([10, 244, 9, 9].into(), "raspi003"));
    cluster.put_service(1, 2);

    // From long before the agent, as all that it finds at its start.
    cluster.put(
        "web",
        &format!("{service}---\n{}", slice(&service, std::slice::from_ref(&other), "2020-01-01T00:00:00Z")),
    );
    cluster.settle();
    reaches(&cluster, &format!("{PROGRAMMING}_count"), 0.0);
    cluster.put("web", &format!("{service}---\n{}", slice(&service, std::slice::from_ref(&endpoint), &now())));
    cluster.settle();
    reaches(&cluster, &format!("{PROGRAMMING}_count"), 1.0);
    let seconds = scrape(&cluster)[&format!("{PROGRAMMING}_sum")];
    assert!(seconds > 0.0 && seconds < 10.0, "{seconds}");
    // No time, and nothing new: neither is counted.
    cluster.put("web", &format!("{service}---\n{}", slice(&service, &[endpoint.clone(), other], "yesterday")));
    cluster.put("web", &format!("{service}---\n{}", slice(&service, &[endpoint], "yesterday")));
    cluster.settle();
    reaches(&cluster, &format!("{PROGRAMMING}_count"), 1.0);

    client.ask(TcpAsk { count: 3, ..TcpAsk::to(at(VIPS[0])) }).unwrap();
    let backend = pod.ip4();
    let of = |counts: &str, port: &str, protocol: &str, more: &str| {
        format!(
            "berrylb_backend_{counts}_total{{namespace=\"default\",service=\"web\",port=\"{port}\",protocol=\"{protocol}\",\
             backend=\"{backend}:80\"{more}}}"
        )
    };
    reaches(&cluster, &of("connections", "http", "TCP", ""), 3.0);
    // A pod's connected UDP is on the packet path, where each datagram and each answer is seen, with its IP and UDP header.
    let datagrams = UdpAsk { count: 5, connect: true, size: 1000, ..UdpAsk::to(at(VIPS[0])) };
    assert_eq!(client.ask(datagrams).unwrap().all().len(), 5);
    reaches(&cluster, &of("connections", "dns", "UDP", ""), 1.0);
    for direction in [",direction=\"to\"", ",direction=\"from\""] {
        reaches(&cluster, &of("packets", "dns", "UDP", direction), 5.0);
        reaches(&cluster, &of("bytes", "dns", "UDP", direction), 5.0 * (20.0 + 8.0 + 1000.0));
        let sockets = of("packets", "http", "TCP", direction);
        assert!(!scrape(&cluster).contains_key(&sockets), "the socket path sees no packets");
    }

    // What a list does not hold any more is a change like a deletion that was told.
    let changes = "kubeproxy_sync_proxy_rules_service_changes_total";
    let before = scrape(&cluster)[changes];
    cluster.server.refuse();
    cluster.remove_service(1);
    cluster.server.compact();
    cluster.server.listen_again();
    cluster.settle();
    // One that is listed again, and one that is not.
    reaches(&cluster, changes, before + 2.0);

    cluster.server.end_watches(End::Close);
    let all = scrape(&cluster);
    for series in [
        "berrylb_ready",
        "berrylb_failed_services",
        "berrylb_audit_drift_total",
        "berrylb_socket_tcp_total",
        "berrylb_packet_flows_total",
        "berrylb_drop_no_endpoint_total",
        "berrylb_flows{state=\"established\"}",
        "berrylb_flows{state=\"opening\"}",
        "berrylb_map_entries{map=\"services\"}",
        "berrylb_map_capacity{map=\"services\"}",
        "berrylb_map_entries{map=\"flows\"}",
        "berrylb_map_capacity{map=\"flows\"}",
        "berrylb_event_to_datapath_seconds_count",
        "kubeproxy_sync_proxy_rules_duration_seconds_count",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
        "kubeproxy_sync_proxy_rules_service_changes_pending",
    ] {
        assert!(all.contains_key(series), "no {series} in {all:#?}");
    }
}
