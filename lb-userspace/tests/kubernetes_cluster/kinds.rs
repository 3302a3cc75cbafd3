//! Every kind of Service as a real server completes and controllers fill it; and objects that change their kind.

use std::net::SocketAddr;

use lb_lab::Host as _;
use serde_json::{Value, json};

use crate::cluster::{Cluster, names};

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": "web" } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "web", "image": "web", "ports": [{ "name": "http", "containerPort": 80 }] }],
        },
    })
}

/// A Service of this `spec` for the pods above.
fn service(spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("ports").is_none() {
        spec["ports"] = json!([{ "name": "http", "port": 80, "targetPort": "http" }]);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": spec,
    })
}

/// Frontends of `web` on a node by kind and action, each once.
fn shape(cluster: &Cluster, node: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let shown = |f: &Value| format!("{} {} {}", text(&f["type"]), text(&f["scope"]), text(&f["action"]));
    let mut all: Vec<String> = cluster.frontends(node, "web").iter().map(shown).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn each_kind_of_service_and_the_ways_between_them() {
    let mut cluster = Cluster::new();
    let selector = json!({ "app": "web" });
    for (name, node) in [("web-1", "raspi002"), ("web-2", "raspi003"), ("web-3", "raspi003")] {
        cluster.api.apply(&pod(name, node).to_string()).unwrap();
    }
    cluster.apply(&service(json!({ "selector": selector, "ipFamilyPolicy": "RequireDualStack" })));
    cluster.wait_endpoints("web", 6);
    let closed = ["ClusterIP external drop", "ClusterIP internal forward"];
    assert_eq!(shape(&cluster, "raspi002"), closed);

    // Only the node's own endpoints, for traffic from inside.
    cluster.apply(&service(
        json!({ "selector": selector, "ipFamilyPolicy": "RequireDualStack", "internalTrafficPolicy": "Local" }),
    ));
    let client = cluster.lab.node("raspi002").add_pod("client").unwrap();
    for ip in cluster.cluster_ips("web") {
        assert_eq!(names(&client, SocketAddr::new(ip, 80), 20), [("web-1".to_owned(), 20)].into());
    }

    // The controller writes hints; both nodes' zones have endpoints.
    cluster.apply(&service(
        json!({ "selector": selector, "ipFamilyPolicy": "RequireDualStack", "trafficDistribution": "PreferSameZone" }),
    ));
    cluster.until("hints", |it| {
        let dump = it.frontends("raspi002", "web");
        let inside = dump.iter().find(|f| f["scope"] == "internal").cloned().unwrap_or_default();
        (inside["backends"].as_array().map(Vec::len) != Some(1)).then(|| inside.to_string())
    });
    for ip in cluster.cluster_ips("web") {
        assert_eq!(names(&client, SocketAddr::new(ip, 80), 20), [("web-1".to_owned(), 20)].into());
    }

    cluster.apply(&service(json!({ "selector": selector, "type": "NodePort" })));
    let node_port = cluster.api.get(["service", "web"]).unwrap()["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    let at_node = |ip| SocketAddr::new(ip, u16::try_from(node_port).unwrap());
    let ip = cluster.lab.node("raspi003").ips()[0];
    assert_eq!(names(cluster.lab.outside(), at_node(ip), 60).len(), 3);

    let ingress = "192.168.178.241";
    cluster.apply(&service(json!({
        "selector": selector,
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "loadBalancerSourceRanges": ["192.168.178.0/24"],
        "externalIPs": ["192.168.178.242"],
    })));
    let status = json!({ "loadBalancer": { "ingress": [{ "ip": ingress, "ipMode": "VIP" }] } });
    cluster.api.set_status("default", "service", "web", &status).unwrap();
    cluster.settle();
    let health = cluster.api.get(["service", "web"]).unwrap()["spec"]["healthCheckNodePort"].as_u64().unwrap();
    for (node, code, pods) in [("raspi001", "503", 0), ("raspi002", "200", 1), ("raspi003", "200", 2)] {
        let node = cluster.lab.node(node);
        let url = format!("http://{}/", SocketAddr::new(node.ips()[0], u16::try_from(health).unwrap()));
        let shown = cluster.lab.outside().command("curl").args(["-s", "-w", "\n%{http_code}", &url]).ok().unwrap();
        let (body, status) = shown.rsplit_once('\n').unwrap();
        assert_eq!(status, code, "{} {body}", node.name());
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["localEndpoints"], pods, "{}", node.name());
    }
    let via = cluster.lab.node("raspi003").ips()[0];
    for ip in [ingress, "192.168.178.242"] {
        let ip = ip.parse().unwrap();
        cluster.lab.outside().route(std::net::IpAddr::into(ip), via).unwrap();
        let answers = names(cluster.lab.outside(), SocketAddr::new(ip, 80), 40);
        assert_eq!(answers.keys().map(String::as_str).collect::<Vec<_>>(), ["web-2", "web-3"], "{ip}");
    }

    // The server takes back what another type does not have.
    cluster.apply(&service(json!({ "type": "ExternalName", "externalName": "example.org", "ports": [] })));
    assert!(shape(&cluster, "raspi002").is_empty(), "{:?}", shape(&cluster, "raspi002"));
    cluster.apply(&service(json!({ "selector": selector, "type": "ClusterIP" })));
    assert_eq!(shape(&cluster, "raspi002"), closed);
    cluster.delete(&["service", "web"]);
    cluster.apply(&service(json!({ "selector": selector, "clusterIP": "None" })));
    assert!(shape(&cluster, "raspi002").is_empty(), "headless");
    cluster.delete(&["service", "web"]);

    // An address that another Service has had a moment ago.
    let taken = json!({ "selector": selector, "clusterIP": "10.100.7.7" });
    cluster.apply(&service(taken.clone()));
    cluster.api.kubectl(["delete", "service", "web"]).ok().unwrap();
    let mut heir = service(taken);
    heir["metadata"]["name"] = json!("heir");
    cluster.apply(&heir);
    cluster.wait_endpoints("heir", 3);
    assert_eq!(names(&client, "10.100.7.7:80".parse().unwrap(), 60).len(), 3);
    assert!(shape(&cluster, "raspi002").is_empty());
}

/// Without a selector: Endpoints that a controller mirrors, or slices that somebody writes.
#[test]
fn endpoints_that_somebody_writes() {
    let mut cluster = Cluster::new();
    cluster.api.apply(&pod("web-1", "raspi003").to_string()).unwrap();
    cluster.settle();
    let ip = cluster.kubelets.pods().next().unwrap().ip4().to_string();
    cluster.apply(&service(json!({ "clusterIP": "10.100.7.8" })));
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": { "name": "web", "namespace": "default" },
        "subsets": [{ "addresses": [{ "ip": ip }], "ports": [{ "name": "http", "port": 80 }] }],
    });
    cluster.apply(&endpoints);
    cluster.wait_endpoints("web", 1);
    let client = cluster.lab.node("raspi002").add_pod("client").unwrap();
    let to = "10.100.7.8:80".parse().unwrap();
    assert_eq!(names(&client, to, 5), [("web-1".to_owned(), 5)].into());
    cluster.delete(&["endpoints", "web"]);
    cluster.wait_endpoints("web", 0);

    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-of-mine",
            "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": "web",
                "endpointslice.kubernetes.io/managed-by": "somebody",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [ip] }],
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
    });
    cluster.apply(&slice);
    // Conditions that are not told count as met.
    cluster.settle();
    assert_eq!(names(&client, to, 5), [("web-1".to_owned(), 5)].into());
}

/// Two Services with one external address: the younger one's owner is told, where owners look.
#[test]
fn an_owner_reads_in_kubectl_what_is_wrong() {
    let mut cluster = Cluster::new();
    let mut first = service(json!({ "selector": { "app": "web" }, "externalIPs": ["192.168.178.242"] }));
    first["metadata"]["name"] = json!("first");
    cluster.apply(&first);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    cluster.apply(&service(json!({ "selector": { "app": "web" }, "externalIPs": ["192.168.178.242"] })));
    cluster.until("the Event", |it| {
        let selector = "involvedObject.kind=Service,reportingComponent=berrylb";
        let events = it.api.get(["events", "--all-namespaces", "--field-selector", selector]).unwrap();
        let about = |event: &&Value| event["involvedObject"]["name"] == "web";
        let told = events["items"].as_array().unwrap().iter().find(about);
        told.is_none().then(|| format!("{events}\n{}", it.agents["raspi002"].log().unwrap()))
    });
    let described = cluster.api.kubectl(["describe", "service", "web"]).ok().unwrap();
    let (_, events) = described.split_once("Events:").unwrap_or_else(|| panic!("no Events in {described}"));
    assert!(events.contains("default/first"), "it names the owner: {described}");
}
