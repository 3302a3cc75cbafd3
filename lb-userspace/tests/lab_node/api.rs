//! Objects from an API server in place of files: what it tells gets into the datapath, whatever it does meanwhile.
//! What `plan` makes of a folder with the same objects is what has to be there.

use std::{path::Path, thread, time::Duration};

use lb_lab::{
    Agent, Host as _, LabConfig,
    api_server::{ApiConfig, ApiServer, End, Fault, Resource, Rule, Verb},
    objects,
    peer::TcpAsk,
};

use crate::world::{BERRYLB, Sample, VIPS, World, assert_dumps, at, eventually, manifest, sample_service};

/// A node's agent and the server that it follows; the world's folder holds what the server holds.
pub(crate) struct Cluster {
    pub(crate) agent: Agent,
    pub(crate) server: ApiServer,
    pub(crate) world: World,
}

impl Cluster {
    fn new(config: LabConfig) -> Self {
        Self::with(config, |_| Vec::new())
    }

    /// With more flags for the agent.
    pub(crate) fn with(config: LabConfig, flags: impl FnOnce(&World) -> Vec<String>) -> Self {
        let world = World::new(config);
        let node = world.node("raspi002");
        let server =
            ApiServer::start_in(node.netns(), (std::net::Ipv4Addr::LOCALHOST, 0).into(), ApiConfig::default()).unwrap();
        server.apply(&objects::nodes(&world.lab)).unwrap();
        let url = server.url();
        let more = flags(&world);
        let flags: Vec<&str> = ["--log-level", "debug"].into_iter().chain(more.iter().map(String::as_str)).collect();
        let agent = Agent::start_at_api_server(node, Path::new(BERRYLB), world.objects.path(), &url, &flags).unwrap();
        Self { agent, server, world }
    }

    pub(crate) fn of_one_node() -> Self {
        Self::new(one_node())
    }

    /// Puts it into the folder and to the server.
    pub(crate) fn put(&self, name: &str, text: &str) {
        self.world.objects.put(name, &[&text]).unwrap();
        self.server.apply(text).unwrap();
    }

    /// A Service with so many endpoints that nobody serves.
    pub(crate) fn put_service(&self, number: u8, endpoints: u8) {
        self.put(&format!("s{number}"), &service(number, endpoints));
    }

    pub(crate) fn remove_service(&self, number: u8) {
        self.world.objects.remove(&format!("s{number}")).unwrap();
        let name = format!("s{number}");
        assert!(self.server.delete(Resource::Services, "default", &name));
        for slice in self.server.objects(Resource::EndpointSlices) {
            let slice = slice["metadata"]["name"].as_str().unwrap();
            if slice.starts_with(&name) {
                self.server.delete(Resource::EndpointSlices, "default", slice);
            }
        }
    }

    pub(crate) fn settle(&self) {
        assert_dumps(&self.agent, &self.agent.plan_text().unwrap());
    }

    pub(crate) fn health(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.agent.healthz());
        self.world
            .node("raspi002")
            .command("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])
            .ok()
            .unwrap()
    }
}

pub(crate) fn one_node() -> LabConfig {
    LabConfig { nodes: vec!["raspi002".into()], service_gateway: 0, ..LabConfig::default() }
}

fn service(number: u8, endpoints: u8) -> String {
    let service = objects::Service::new(
        &format!("s{number}"),
        &[std::net::IpAddr::from([10, 96, 9, number])],
        &[objects::Port::tcp("http", 80, 8080)],
    );
    let endpoint = |n| objects::Endpoint::new([10, 244, number, n].into(), "raspi003");
    let slice = service.slice(&(1..=endpoints).map(endpoint).collect::<Vec<_>>());
    format!("{service}---\n{slice}")
}

#[test]
fn objects_of_an_api_server_are_served_and_followed() {
    let cluster = Cluster::new(LabConfig::default());
    let sample = Sample::start(&cluster.world.lab, &[80]);
    let pod = cluster.world.node("raspi002").add_pod("client").unwrap();
    cluster.put("sample", &manifest(&sample_service(), &sample.all()));
    cluster.settle();
    let answers = pod.ask(TcpAsk { count: 60, ..TcpAsk::to(at(VIPS[0])) }).unwrap();
    let mut names: Vec<&str> = answers.all().iter().map(|answer| answer.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(cluster.agent.log().unwrap().contains("from API event to datapath"));

    cluster.put("sample", &manifest(&sample_service(), &sample.without("sample-2")));
    cluster.settle();
    let answers = pod.ask(TcpAsk { count: 40, ..TcpAsk::to(at(VIPS[0])) }).unwrap();
    assert!(answers.all().iter().all(|answer| answer.name != "sample-2"));
}

#[test]
fn whatever_the_server_does_the_objects_get_there() {
    let cluster = Cluster::of_one_node();
    let (server, mut number) = (&cluster.server, 0);
    for n in 1..=5 {
        cluster.put_service(n, 3);
    }
    cluster.settle();
    let mut change = || {
        number += 1;
        cluster.put_service(10 + number, 2);
        cluster.put_service(1, number % 4);
        if number > 1 {
            cluster.remove_service(9 + number);
        }
    };
    let faults: [(&str, &dyn Fn()); 10] = [
        ("connections are closed", &|| server.drop_connections()),
        ("history is forgotten", &|| {
            server.compact();
            server.end_watches(End::Close);
        }),
        ("a watch ends in a line", &|| server.end_watches(End::HalfLine)),
        ("a watch expires", &|| server.end_watches(End::Expired)),
        ("a list lies that it is empty", &|| {
            server.script(Rule::next(Fault::EmptyList).of(Resource::Services));
            server.end_watches(End::Expired);
        }),
        ("lists are cut", &|| {
            server.script(Rule::next(Fault::Status { code: 422, retry_after: None }).on(Verb::Watch).times(3));
            server.script(Rule::next(Fault::TruncatedList).times(3));
            server.end_watches(End::Expired);
        }),
        ("it is busy", &|| {
            server.script(Rule::next(Fault::Status { code: 429, retry_after: Some(1) }).times(3));
            server.drop_connections();
        }),
        ("events change places and come twice", &|| {
            server.script(Rule::next(Fault::SwapEvents));
            server.script(Rule::next(Fault::RepeatEvents));
            server.end_watches(End::Break);
        }),
        ("it restarts", &|| server.restart(false)),
        ("it restarts from a backup", &|| server.restart(true)),
    ];
    for (what, fault) in faults {
        eprintln!("{what}");
        fault();
        change();
        cluster.settle();
        server.heal();
    }
}

/// An agent that starts while the server is away leaves what serves, and prunes once it has read every list.
#[test]
fn the_datapath_serves_until_every_list_was_read() {
    let mut cluster = Cluster::of_one_node();
    for n in 1..=3 {
        cluster.put_service(n, 2);
    }
    cluster.settle();
    let before = cluster.agent.dump_text().unwrap();
    cluster.agent.kill9().unwrap();
    cluster.server.refuse();
    cluster.remove_service(2);
    cluster.put_service(3, 1);
    let dump = cluster.agent.command(&["dump"]).args(["-o", "json"]);
    thread::scope(|scope| {
        let starting = scope.spawn(|| cluster.agent.start_again());
        thread::sleep(Duration::from_secs(2));
        assert_eq!(frontends(&dump.ok().unwrap()), frontends(&before), "nothing changes without lists");
        cluster
            .server
            .script(Rule::next(Fault::Status { code: 503, retry_after: None }).of(Resource::EndpointSlices).times(2));
        cluster.server.listen_again();
        starting.join().unwrap().unwrap();
    });
    cluster.settle();
}

/// Names come from the agent, which may know none yet.
pub(crate) fn frontends(dump: &str) -> Vec<String> {
    let dump: serde_json::Value = serde_json::from_str(dump).unwrap();
    let shown = |f: &serde_json::Value| format!("{}:{} {} {}", f["address"], f["port"], f["scope"], f["backends"]);
    dump["frontends"].as_array().unwrap().iter().map(shown).collect()
}

#[test]
fn a_node_that_is_to_be_deleted_is_unhealthy_and_its_agent_alive() {
    let cluster = Cluster::of_one_node();
    assert_eq!((cluster.health("/healthz"), cluster.health("/livez")), ("200".into(), "200".into()));
    let node = "{apiVersion: v1, kind: Node, metadata: {name: raspi002}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}}";
    cluster.server.apply(node).unwrap();
    eventually("/healthz is 503", || match cluster.health("/healthz").as_str() {
        "503" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert_eq!(cluster.health("/livez"), "200");
}

/// What a hundred Services cost, and how long a change takes from the socket to the maps; printed, as it is measured on
/// whatever runs beside it. `--nocapture` shows it.
#[test]
fn a_hundred_services_fit_the_budget() {
    let mut cluster = Cluster::of_one_node();
    (1..=100).for_each(|n| cluster.put_service(n, 3));
    cluster.settle();
    let before = micros(&cluster.agent).len();
    for round in 0..100_u8 {
        cluster.put_service(1 + round % 100, 2);
        // Apart, so that each is a change of its own, as most are.
        thread::sleep(Duration::from_millis(10));
    }
    cluster.settle();
    let mut times = micros(&cluster.agent).split_off(before);
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let rss = cluster.agent.rss_kib().unwrap();
    eprintln!("event to datapath: p50 {} µs, p99 {} µs of {}; RSS {rss} KiB", at(50), at(99), times.len());
    // The budget is 20 MiB; a build without optimization and a log at debug level take more.
    assert!(rss < 40 << 10, "{rss} KiB");
}

/// The times that the log tells.
fn micros(agent: &Agent) -> Vec<u64> {
    let log = agent.log().unwrap();
    let told =
        log.lines().filter_map(|line| line.split_once("from API event to datapath micros=")?.1.split(' ').next());
    told.map(|number| number.parse().unwrap()).collect()
}
