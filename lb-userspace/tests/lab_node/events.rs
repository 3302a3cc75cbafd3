//! Events on Services: what owners are told, by agents that follow one API server. `kubectl describe service` shows an
//! Event if it names the Service's uid.

use std::{path::Path, thread, time::Duration};

use lb_lab::{
    Agent, Host as _, LabConfig,
    api_server::{ApiConfig, ApiServer, Fault, Resource, Rule, Seen, Verb},
    objects,
};
use serde_json::{Value, json};

use crate::world::{BERRYLB, World, eventually};

/// A finding stands for three seconds before it is told; a little more.
const SETTLED: Duration = Duration::from_secs(4);

/// Agents of some nodes, and the server that they follow.
struct Cluster {
    agents: Vec<Agent>,
    server: ApiServer,
    world: World,
}

impl Cluster {
    fn new(nodes: &[&str], flags: &[&str]) -> Self {
        let nodes = nodes.iter().map(ToString::to_string).collect();
        let world = World::new(LabConfig { nodes, service_gateway: 0, ..LabConfig::default() });
        let first = &world.lab.nodes()[0];
        let address = first.ips().into_iter().find(std::net::IpAddr::is_ipv4).unwrap();
        let server = ApiServer::start_in(first.netns(), (address, 0).into(), ApiConfig::default()).unwrap();
        server.apply(&objects::nodes(&world.lab)).unwrap();
        server.apply(&service("first", "10.96.8.1", "creationTimestamp: 2020-01-01T00:00:00Z", "")).unwrap();
        let start = |node| {
            Agent::start_at_api_server(node, Path::new(BERRYLB), world.objects.path(), &server.url(), flags).unwrap()
        };
        let agents = world.lab.nodes().iter().map(start).collect();
        Self { agents, server, world }
    }

    /// Events by Service, reason and type.
    fn events(&self) -> Vec<[String; 3]> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let shown = |event: &Value| [text(&event["regarding"]["name"]), text(&event["reason"]), text(&event["type"])];
        let mut events: Vec<_> = self.server.objects(Resource::Events).iter().map(shown).collect();
        events.sort();
        events
    }

    /// Waits until there are these Events and no others.
    fn assert_events(&self, wanted: &[[&str; 3]]) {
        eventually("the Events are there", || {
            let events = self.events();
            let same = events == wanted.iter().map(|event| event.map(str::to_owned)).collect::<Vec<_>>();
            if same { Ok(()) } else { Err(format!("{events:?}, {}", self.agents[0].log().unwrap())) }
        });
    }

    fn event(&self, service: &str) -> Value {
        let events = self.server.objects(Resource::Events);
        let found = events.into_iter().find(|event| event["regarding"]["name"] == service);
        found.unwrap_or_else(|| panic!("no Event on {service}"))
    }

    /// The answers to requests to create an Event since this was last called; `None`: one that is not answered yet.
    fn creates(&self) -> Vec<Option<u16>> {
        let of_events = |seen: &Seen| (seen.resource, seen.verb) == (Some(Resource::Events), Verb::Create);
        self.server.take_seen().into_iter().filter(of_events).map(|seen| seen.code).collect()
    }

    /// Waits until an agent's requests have had such results so often, all of them together.
    fn wait_results(&self, agent: usize, results: &[&str], wanted: u64) {
        let of = |result: &&str| self.metric(agent, &format!("berrylb_kube_events_total{{result=\"{result}\"}}"));
        eventually("the metrics count requests", || match results.iter().map(of).sum::<u64>() {
            sum if sum >= wanted => Ok(()),
            sum => Err(format!("{sum} of {wanted} {results:?}: {}", self.agents[agent].log().unwrap())),
        });
    }

    fn metric(&self, agent: usize, series: &str) -> u64 {
        let node = &self.world.lab.nodes()[agent];
        let text = node.command("curl").args(["-sS", "http://127.0.0.1:10249/metrics"]).ok().unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
    }
}

/// A Service with the external address that all of these want.
fn service(name: &str, cluster_ip: &str, metadata: &str, rest: &str) -> String {
    let comma = if metadata.is_empty() { "" } else { ", " };
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default{comma}{metadata}}}, \
         spec: {{clusterIP: {cluster_ip}, externalIPs: [192.0.2.1], ports: [{{port: 80}}]}}{rest}}}"
    )
}

fn loser(name: &str, number: u8) -> String {
    service(name, &format!("10.96.8.{number}"), "creationTimestamp: 2021-01-01T00:00:00Z", "")
}

/// A Service with as many endpoints.
fn backends(name: &str, endpoints: u8) -> String {
    let service = objects::Service::new(name, &[[10, 96, 8, 99].into()], &[objects::Port::tcp("http", 80, 8080)]);
    let endpoint = |n| objects::Endpoint::new([10, 244, 9, n].into(), "raspi003");
    let slice = service.slice(&(1..=endpoints).map(endpoint).collect::<Vec<_>>());
    format!("{service}---\n{slice}")
}

#[test]
fn owners_are_told_once_by_all_agents_together() {
    let mut cluster = Cluster::new(&["raspi001", "raspi002"], &[]);
    let port = objects::Port { protocol: "SCTP", ..objects::Port::tcp("m3ua", 2905, 2906) };
    let sctp = objects::Service::new("sctp", &[[10, 96, 8, 4].into()], &[port]);
    let slice = sctp.slice(&[objects::Endpoint::new([10, 244, 9, 1].into(), "raspi003")]);
    let annotated = service("annotated", "10.96.8.3", "annotations: {berrylb.io/algorithm: best}", "")
        .replace("externalIPs: [192.0.2.1], ", "");
    let odd = service("odd", "10.96.8.5", "", ", status: {loadBalancer: {ingress: [{ip: 192.0.2.9, ipMode: Odd}]}}");
    for text in [loser("second", 2), annotated, format!("{sctp}---\n{slice}"), odd] {
        cluster.server.apply(&text).unwrap();
    }
    let wanted = [
        ["annotated", "InvalidAnnotation", "Warning"],
        ["odd", "InvalidService", "Warning"],
        ["sctp", "ProtocolNotSupported", "Warning"],
        ["second", "AddressConflict", "Warning"],
    ];
    cluster.assert_events(&wanted);
    // Both have tried, and one came first.
    (0..2).for_each(|agent| cluster.wait_results(agent, &["created", "known"], 4));
    let mut codes = cluster.creates();
    codes.sort_unstable();
    assert_eq!(codes, [[Some(201); 4], [Some(409); 4]].concat());
    for event in cluster.server.objects(Resource::Events) {
        let name = event["regarding"]["name"].as_str().unwrap();
        let services = cluster.server.objects(Resource::Services);
        let service = services.iter().find(|service| service["metadata"]["name"] == name).unwrap();
        let about = json!({"apiVersion": "v1", "kind": "Service", "namespace": "default", "name": name, "uid": service["metadata"]["uid"]});
        assert_eq!((&event["regarding"], &event["reportingController"]), (&about, &json!("berrylb")));
        assert!(["raspi001", "raspi002"].contains(&event["reportingInstance"].as_str().unwrap()), "{event}");
    }
    let note = cluster.event("second")["note"].as_str().unwrap().to_owned();
    assert!(note.starts_with("ExternalIP 192.0.2.1:80/TCP is left out: service default/first"), "{note}");

    // An agent that starts again finds the same, and says nothing new.
    let before = cluster.server.objects(Resource::Events);
    for agent in &mut cluster.agents {
        agent.kill9().unwrap();
        agent.start_again().unwrap();
    }
    (0..2).for_each(|agent| cluster.wait_results(agent, &["known"], 4));
    assert_eq!(cluster.creates(), [Some(409); 8]);
    assert_eq!(cluster.server.objects(Resource::Events), before);

    // A Service made anew under the same name has an owner who does not know yet.
    assert!(cluster.server.delete(Resource::Services, "default", "second"));
    cluster.server.apply(&loser("second", 2)).unwrap();
    let mut wanted = wanted.to_vec();
    wanted.push(["second", "AddressConflict", "Warning"]);
    cluster.assert_events(&wanted);
}

#[test]
fn a_full_table_is_told_with_its_flag_and_so_is_the_end_of_it() {
    let cluster = Cluster::new(&["raspi001", "raspi002"], &["--max-backends", "8"]);
    cluster.server.apply(&backends("large", 12)).unwrap();
    cluster.assert_events(&[["large", "DatapathFull", "Warning"]]);
    let note = cluster.event("large")["note"].as_str().unwrap().to_owned();
    assert!(note.starts_with("On node raspi00") && note.contains("raise --max-backends"), "{note}");
    (0..2).for_each(|agent| cluster.wait_results(agent, &["created", "known"], 1));
    let version = cluster.server.version();
    // It is tried again meanwhile, and fails in other words.
    cluster.server.apply(&backends("large", 11)).unwrap();
    thread::sleep(SETTLED);
    assert_eq!(cluster.server.version() - version, 1, "the slice's change, and no Event's");

    cluster.server.apply(&backends("large", 3)).unwrap();
    cluster.assert_events(&[["large", "DatapathFull", "Warning"], ["large", "InDatapath", "Normal"]]);

    // Who told the failure counts its return.
    cluster.server.apply(&backends("large", 12)).unwrap();
    eventually("the Event is counted", || match &cluster.event("large")["series"]["count"] {
        count if *count == json!(2) => Ok(()),
        other => Err(format!("{other}")),
    });
}

#[test]
fn an_agent_that_may_not_write_events_says_so_once_and_goes_on() {
    let cluster = Cluster::new(&["raspi001"], &[]);
    let said = |text: &str| cluster.agents[0].log().unwrap().matches(text).count();
    cluster.server.forbid(Verb::Create, Resource::Events);
    cluster.server.apply(&loser("second", 2)).unwrap();
    cluster.wait_results(0, &["failed"], 3);
    let refused = cluster.creates();
    assert_eq!(refused[..3], [Some(403); 3], "{refused:?}");
    eventually("it is said", || match said("Events on Services are not written") {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(said("create and patch on events of events.k8s.io"), 1);
    cluster.server.apply(&backends("more", 2)).unwrap();
    eventually("it goes on", || match cluster.agents[0].dump_text().unwrap().contains("10.244.9.2") {
        true => Ok(()),
        false => Err("the Service is not there".to_owned()),
    });
    cluster.server.heal();
    cluster.assert_events(&[["second", "AddressConflict", "Warning"]]);
    eventually("that it works again is said", || match said("Events on Services are written again") {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(said("Events on Services are not written"), 1);

    // What often passes is not worth a word.
    for fault in [Fault::Hangup, Fault::Status { code: 429, retry_after: Some(1) }] {
        cluster.server.script(Rule::next(fault).on(Verb::Create).of(Resource::Events));
    }
    cluster.server.apply(&loser("third", 3)).unwrap();
    cluster.assert_events(&[["second", "AddressConflict", "Warning"], ["third", "AddressConflict", "Warning"]]);
    assert_eq!(said("Events on Services are not written"), 1);

    // A namespace that is being deleted takes its Services along: nothing to be tried again, and nothing to say.
    cluster.server.end_namespace("shop");
    cluster.creates();
    cluster.server.apply(&loser("fourth", 4).replace("namespace: default", "namespace: shop")).unwrap();
    cluster.wait_results(0, &["refused"], 1);
    thread::sleep(SETTLED);
    assert_eq!((cluster.creates(), said("not written")), (vec![Some(403)], 1));
}

#[test]
fn events_can_be_switched_off() {
    let cluster = Cluster::new(&["raspi001"], &["--events", "off"]);
    cluster.server.apply(&loser("second", 2)).unwrap();
    eventually("the log has it", || match cluster.agents[0].log().unwrap() {
        log if log.contains("service default/second: ExternalIP 192.0.2.1:80/TCP is left out") => Ok(()),
        log => Err(log),
    });
    thread::sleep(SETTLED);
    assert!(cluster.creates().is_empty());
}
