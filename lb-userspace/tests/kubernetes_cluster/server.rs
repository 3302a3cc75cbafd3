//! A server that ends, comes back, and has forgotten what was; and one with very many objects.

use std::time::Instant;

use lb_lab::Host as _;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// So many Services, each with endpoints in a slice that somebody wrote.
const MANY: u16 = 1500;

fn service(number: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": format!("s{number}"), "namespace": "default" },
        "spec": { "ports": [{ "name": "http", "port": 80 }] },
    })
}

fn slice(number: u16, endpoints: u16) -> Value {
    let endpoint = |n: u16| json!({ "addresses": [format!("10.244.{}.{}", number % 250, n)], "nodeName": "raspi003" });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("s{number}"),
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": format!("s{number}") },
        },
        "addressType": "IPv4",
        "endpoints": (1..=endpoints).map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    })
}

fn list(items: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

#[test]
fn a_server_that_was_killed_and_an_agent_that_missed_what_came_after() {
    let mut cluster = Cluster::new();
    cluster.apply(&list((0..5).flat_map(|n| [service(n), slice(n, 3)]).collect()));
    let before = cluster.agents["raspi002"].dump_text().unwrap();
    cluster.api.kill_api_server().unwrap();
    assert_eq!(cluster.agents["raspi002"].dump_text().unwrap(), before, "the last state stays in force");
    cluster.api.start_api_server_again().unwrap();
    cluster.apply(&list(vec![service(5), slice(5, 2), slice(0, 1)]));

    // Stopped, it misses changes, and the server's memory of them: its watches are too old then.
    let node = "raspi002";
    cluster.agents.get_mut(node).unwrap().running().unwrap().signal(Signal::SIGSTOP).unwrap();
    cluster.api.apply(&list(vec![slice(1, 1), service(6), slice(6, 2)]).to_string()).unwrap();
    cluster.api.kubectl(["delete", "service", "s2"]).ok().unwrap();
    cluster.api.kill_api_server().unwrap();
    cluster.api.start_api_server_again().unwrap();
    cluster.api.apply(&list(vec![slice(3, 1)]).to_string()).unwrap();
    cluster.agents.get_mut(node).unwrap().running().unwrap().signal(Signal::SIGCONT).unwrap();
    cluster.settle();
    assert!(cluster.frontends(node, "s2").is_empty());
    assert_eq!(cluster.frontends(node, "s6").len(), 2);
    // The agent's own word on what it went through.
    let health = format!("http://{}/healthz", cluster.agents[node].healthz());
    let code = cluster.lab.node(node).command("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &health]);
    assert_eq!(code.ok().unwrap(), "200");
}

#[test]
fn a_cluster_of_many_services_and_a_change_in_it() {
    let mut cluster = Cluster::with(&["--max-backends", "32768", "--max-slots", "65536"]);
    let all: Vec<Value> = (0..MANY).flat_map(|n| [service(n), slice(n, 10)]).collect();
    for part in all.chunks(500) {
        cluster.api.kubectl(["create", "--filename", "-"]).input(list(part.to_vec()).to_string()).ok().unwrap();
    }
    cluster.settle();
    let node = "raspi002";
    let agent = cluster.agents.get_mut(node).unwrap();
    let start = Instant::now();
    agent.restart().unwrap();
    eprintln!("restart with {MANY} Services: {:?}; {} KiB", start.elapsed(), agent.rss_kib().unwrap());
    cluster.settle();
    cluster.apply(&slice(700, 3));
    let frontends = cluster.frontends(node, "s700");
    let backends = frontends.iter().find(|f| f["scope"] == "internal").map(|f| f["backends"].as_array().unwrap().len());
    assert_eq!(backends, Some(3));
}

/// Whatever happens to server, agents and objects, in the end every datapath is what `plan` says.
#[test]
fn a_life_of_changes_kills_and_restarts() {
    let mut cluster = Cluster::new();
    // The same each time, so that what fails once can be looked at again.
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for step in 0..60 {
        let number = random.below(12);
        let name = format!("s{number}");
        match random.below(14) {
            0 => {
                cluster.api.kill_api_server().unwrap();
                cluster.api.start_api_server_again().unwrap();
            }
            1 | 2 => {
                let node = ["raspi001", "raspi002", "raspi003"][usize::from(random.below(3))];
                let agent = cluster.agents.get_mut(node).unwrap();
                agent.kill9().unwrap();
                let change = list(vec![service(number), slice(number, random.below(5))]);
                cluster.api.apply(&change.to_string()).unwrap();
                cluster.agents.get_mut(node).unwrap().start_again().unwrap();
            }
            3 | 4 => {
                let gone = ["delete", "service,endpointslice", &name, "--ignore-not-found"];
                cluster.api.kubectl(gone).ok().unwrap();
            }
            5 => {
                cluster.api.kubectl(["delete", "service", &name, "--ignore-not-found"]).ok().unwrap();
                let mut headless = service(number);
                headless["spec"]["clusterIP"] = json!("None");
                cluster.api.apply(&headless.to_string()).unwrap();
            }
            6 | 7 => {
                let mut open = service(number);
                open["spec"]["type"] = json!("NodePort");
                // A headless Service keeps its kind: the server says no.
                if let Err(error) = cluster.api.apply(&open.to_string()) {
                    assert!(format!("{error:#}").contains("clusterIP"), "{error:#}");
                }
            }
            _ => {
                let endpoints = slice(number, random.below(9)).to_string();
                cluster.api.apply(&endpoints).unwrap();
            }
        }
        if step % 4 == 3 {
            cluster.settle();
        }
    }
    cluster.settle();
    for agent in cluster.agents.values() {
        let verified = agent.command(&["verify"]).output().unwrap();
        assert!(verified.status.success(), "{}{}", verified.stdout, verified.stderr);
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u16) -> u16 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 48) as u16) % limit
    }
}
