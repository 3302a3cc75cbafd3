//! `healthCheckNodePort` as a load balancer outside sees it: follows the Service and its endpoints, on the addresses that
//! node ports have, and closed where there is none.

use std::net::{IpAddr, SocketAddr};

use lb_lab::{
    Host, Pod,
    objects::{Endpoint, Port, Service},
};
use serde_json::Value;

use crate::world::{World, eventually};

const PORT: u16 = 32_100;

/// What a load balancer learns: the status, the weight in the header, and the body.
#[derive(Debug, PartialEq)]
struct Health {
    status: u16,
    weight: String,
    body: Value,
}

/// Asks from the LAN with curl; an error is curl's own.
fn ask(world: &World, at: SocketAddr) -> Result<Health, String> {
    let url = format!("http://{at}/");
    let form = "\n%{http_code} %header{x-load-balancing-endpoint-weight}";
    let output = world.lab.outside().command("curl").args(["-gsS", "-m", "5", "-w", form, &url]).output().unwrap();
    if !output.status.success() {
        return Err(output.stderr.trim().to_owned());
    }
    let (body, last) = output.stdout.rsplit_once('\n').unwrap_or_else(|| panic!("{output}"));
    let (status, weight) = last.split_once(' ').unwrap_or_else(|| panic!("{output}"));
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {output}"));
    Ok(Health { status: status.parse().unwrap(), weight: weight.to_owned(), body })
}

fn health(local_endpoints: usize) -> Health {
    let text = format!(
        r#"{{"service":{{"namespace":"default","name":"web"}},"localEndpoints":{local_endpoints},"serviceProxyHealthy":true}}"#
    );
    Health {
        status: if local_endpoints > 0 { 200 } else { 503 },
        weight: local_endpoints.to_string(),
        body: serde_json::from_str(&text).unwrap(),
    }
}

#[track_caller]
fn assert_answers(world: &World, node: &str, port: u16, expected: usize) {
    for ip in world.node(node).ips() {
        eventually("the health check answers", || match ask(world, SocketAddr::new(ip, port)) {
            Ok(answer) if answer == health(expected) => Ok(()),
            other => Err(format!("{node} {ip}: {other:?} instead of {:?}", health(expected))),
        });
    }
}

#[track_caller]
fn assert_closed(world: &World, node: &str, port: u16) {
    for ip in world.node(node).ips() {
        eventually("the port is closed", || match ask(world, SocketAddr::new(ip, port)) {
            Err(error) if error.contains("refused") || error.contains("connect") => Ok(()),
            other => Err(format!("{node} {ip}: {other:?}")),
        });
    }
}

fn web(port: Option<u16>) -> Service {
    let ips: Vec<IpAddr> = ["10.96.7.7", "fd00:10:96::707"].map(|ip| ip.parse().unwrap()).into();
    let mut service = Service::new("web", &ips, &[Port::tcp("http", 80, 80)]);
    service.kind = "LoadBalancer";
    service.spec = vec!["externalTrafficPolicy: Local".into()];
    service.spec.extend(port.map(|port| format!("healthCheckNodePort: {port}")));
    service
}

fn put(world: &World, service: &Service, endpoints: impl IntoIterator<Item = Endpoint>) {
    let slice = service.slice(&endpoints.into_iter().collect::<Vec<_>>());
    world.put("web", &[service, &slice]);
}

#[test]
fn load_balancers_learn_where_endpoints_are() {
    let mut world = World::new(lb_lab::LabConfig::default());
    let nodes = ["raspi002", "raspi003"];
    nodes.iter().for_each(|node| world.start(node, &[]));
    let pods: Vec<Pod> = [("raspi002", "a"), ("raspi002", "b"), ("raspi003", "c")]
        .map(|(n, p)| world.node(n).add_pod(p).unwrap())
        .into();
    let [a, b, c] = [0, 1, 2].map(|i| Endpoint::v4(&pods[i]));

    put(&world, &web(None), [a.clone()]);
    assert_closed(&world, nodes[0], PORT);
    put(&world, &web(Some(PORT)), [a.clone(), b.clone(), c.clone()]);
    assert_answers(&world, nodes[0], PORT, 2);
    assert_answers(&world, nodes[1], PORT, 1);
    put(&world, &web(Some(PORT)), [a.clone(), b.clone().terminating(), c.clone().unready()]);
    assert_answers(&world, nodes[0], PORT, 1);
    assert_answers(&world, nodes[1], PORT, 0);
    put(&world, &web(Some(PORT)), []);
    assert_answers(&world, nodes[0], PORT, 0);

    put(&world, &web(Some(PORT + 1)), [a.clone(), c.clone()]);
    assert_answers(&world, nodes[0], PORT + 1, 1);
    assert_closed(&world, nodes[0], PORT);
    assert_closed(&world, nodes[1], PORT);
    put(&world, &web(None), [a.clone(), c.clone()]);
    assert_closed(&world, nodes[0], PORT + 1);

    put(&world, &web(Some(PORT)), [a, b, c]);
    assert_answers(&world, nodes[1], PORT, 1);
    world.remove("web");
    nodes.iter().for_each(|node| assert_closed(&world, node, PORT));
}

/// Somebody else has the port: the agent says who and what, and takes it as soon as it is free.
#[test]
fn a_port_in_use_is_told_and_taken_later() {
    let mut world = World::of_one_node();
    let pod = world.node("raspi002").add_pod("a").unwrap();
    let ip = world.node("raspi002").ips()[0];
    let holder = world.node("raspi002").serve_at("holder", &[SocketAddr::new(ip, PORT)]).unwrap();
    world.start("raspi002", &[]);
    put(&world, &web(Some(PORT)), [Endpoint::v4(&pod)]);
    eventually("the log tells", || {
        let log = world.agent("raspi002").log().unwrap();
        let told =
            ["service default/web", "healthCheckNodePort 32100", "ss -ltnp"].iter().all(|part| log.contains(part));
        if told { Ok(()) } else { Err(log) }
    });
    let listed = world.agent("raspi002").command(&["service", "list", "-o", "wide"]).ok().unwrap();
    assert!(listed.contains("healthCheckNodePort 32100: not served"), "{listed}");
    drop(holder);
    assert_answers(&world, "raspi002", PORT, 1);
}
