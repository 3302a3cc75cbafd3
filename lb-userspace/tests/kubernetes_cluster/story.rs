//! The story by kubectl: a Deployment, a Service that gets its addresses from the server, endpoints from the controllers;
//! then what a Deployment goes through.

use std::{net::SocketAddr, time::Duration};

use lb_lab::{
    Host as _,
    peer::{Cause, Failure, HttpLoad, Step},
};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::cluster::{Cluster, failure, names};

const SAMPLE: &str = "sample-deployment";
const CLUSTER_IP: &str = "10.111.197.69";

/// The Deployment of the story, by a pod template of this version.
fn deployment(replicas: u32, version: &str) -> Value {
    let port = |number: u16| json!([{ "containerPort": number }]);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": SAMPLE, "namespace": "default" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "sample-app" } },
            "strategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": { "labels": { "app": "sample-app", "version": version } },
                "spec": {
                    "terminationGracePeriodSeconds": 3,
                    "containers": [
                        { "name": "nginx", "image": "nginx", "ports": port(80) },
                        { "name": "redis", "image": "redis", "ports": port(6379) },
                    ],
                },
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "sample-clusterip", "namespace": "default" },
        "spec": {
            "clusterIP": CLUSTER_IP,
            "ipFamilyPolicy": "PreferDualStack",
            "selector": { "app": "sample-app" },
            "ports": [{ "name": "http-port", "port": 8080, "targetPort": 80 }],
        },
    })
}

#[test]
fn a_deployment_behind_a_service_from_its_first_pod_to_its_last() {
    let mut cluster = Cluster::new();
    cluster.apply(&service());
    let to = SocketAddr::new(CLUSTER_IP.parse().unwrap(), 8080);
    let refused = Failure::errno(Step::Connect, Errno::ECONNREFUSED);
    assert_eq!(failure(cluster.lab.node("raspi001"), to), refused, "no pod so far");

    cluster.apply(&deployment(3, "1"));
    cluster.wait_endpoints("sample-clusterip", 6);
    let client = cluster.lab.node("raspi002").add_pod("client").unwrap();
    for to in cluster.cluster_ips("sample-clusterip").into_iter().map(|ip| SocketAddr::new(ip, 8080)) {
        assert_eq!(names(&client, to, 60).len(), 3, "from a pod to {to}");
        assert_eq!(names(cluster.lab.node("raspi001"), to, 60).len(), 3, "from a node to {to}");
    }
    let silence = Failure { step: Step::Connect, cause: Cause::Timeout };
    assert_eq!(failure(cluster.lab.outside(), to), silence, "from outside the cluster");

    // A rolling update: each pod terminates while it still serves, and goes.
    let before: Vec<String> = cluster.kubelets.pods().map(|pod| pod.name().to_owned()).collect();
    let running = client.begin(HttpLoad { pause_ms: 1, ..HttpLoad::new(to, Duration::from_secs(600)) }).unwrap();
    cluster.apply(&deployment(3, "2"));
    cluster.until("three new pods and no old one", |it| {
        let now: Vec<&str> = it.kubelets.pods().map(lb_lab::Host::name).collect();
        let replaced = now.len() == 3 && !before.iter().any(|old| now.contains(&old.as_str()));
        (!replaced).then(|| format!("{now:?}"))
    });
    cluster.wait_endpoints("sample-clusterip", 6);
    let load = running.stop().unwrap();
    assert_eq!(load.failed, 0, "{:?} of {} requests", load.failures, load.answered());
    assert!(load.names.len() >= 6, "old and new pods answered: {:?}", load.names);

    cluster.apply(&deployment(0, "2"));
    cluster.wait_endpoints("sample-clusterip", 0);
    assert_eq!(failure(&client, to), refused, "all pods are gone");
    cluster.delete(&["deployment", SAMPLE]);
    cluster.delete(&["service", "sample-clusterip"]);
    cluster.until("nothing is left of the Service", |it| {
        let left = it.frontends("raspi002", "sample-clusterip");
        (!left.is_empty()).then(|| format!("{left:?}"))
    });
}

/// The server's own Service, which the server keeps itself, leads pods to it.
#[test]
fn pods_reach_the_api_server_by_its_service() {
    let mut cluster = Cluster::new();
    cluster.settle();
    let client = cluster.lab.node("raspi003").add_pod("client").unwrap();
    let [ip, ..] = cluster.cluster_ips("kubernetes")[..] else { panic!("an address") };
    let url = format!("https://{}/livez", SocketAddr::new(ip, 443));
    // Anybody may ask for that, and nobody checks the certificate, which is for another address.
    assert_eq!(client.command("curl").args(["-sSk", "-m", "5", &url]).ok().unwrap(), "ok");
    assert_eq!(cluster.frontends("raspi003", "kubernetes").len(), 2, "in both scopes");
}
