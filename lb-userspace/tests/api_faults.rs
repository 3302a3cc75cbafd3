//! Random lives over a real connection: objects change at an API server that fails in every way it can, writes to the maps
//! fail, agents are stopped and killed. Once the server is well again, the maps hold what a planner makes of its objects.
//!
//! Not here: faults that only hours reveal, as a server that answers nothing, or counts its versions anew below what the
//! agent knows. Their limits are tested beside the watches.

#[expect(dead_code, unused_imports, reason = "shared with tests of the maps")]
mod maps_support;

use std::{
    collections::BTreeSet,
    rc::Rc,
    time::{Duration, Instant},
};

use berrylb::{
    k8s::{
        self,
        watch::{self, Access, Event, KINDS, Update, Watches},
    },
    maps::Faults,
    model::Kind,
    plan::{PlanConfig, Planner, state::State},
};
use lb_lab::api_server::{ApiConfig, ApiServer, End, Fault, Resource, Rule, Verb};
use maps_support::{Rng, agent::Agent};
use tokio::{sync::Semaphore, task::LocalSet, time::timeout};

/// Until the server is well for this long, the maps have to agree; back-offs end long before.
const PATIENCE: Duration = Duration::from_secs(180);
/// Lives that go on side by side: most of each is waiting.
const TOGETHER: usize = 50;

fn config() -> PlanConfig {
    PlanConfig { node_name: "n1".to_owned(), ..PlanConfig::default() }
}

fn pick<'a>(rng: &mut Rng, all: &[&'a str]) -> &'a str {
    all[rng.below(all.len() as u64) as usize]
}

fn maybe(rng: &mut Rng, text: &str) -> String {
    if rng.one_in(3) { text.to_owned() } else { String::new() }
}

/// Few names and addresses, so that objects meet.
fn service(rng: &mut Rng) -> String {
    let (namespace, name) = (pick(rng, &["a", "b"]), pick(rng, &["web", "db", "api"]));
    let label = match rng.below(12) {
        0 => "service.kubernetes.io/headless: ''",
        1 => "service.kubernetes.io/service-proxy-name: other",
        _ => "app: x",
    };
    let kind = pick(rng, &["ClusterIP", "NodePort", "LoadBalancer", "NodePort", "ExternalName"]);
    let port = format!("name: http, port: {}", pick(rng, &["80", "81"]));
    let node_port = if kind == "ClusterIP" { "" } else { pick(rng, &[", nodePort: 30080", ", nodePort: 30081", ""]) };
    let address = pick(rng, &["10.96.0.1", "10.96.0.2", "10.96.0.3"]);
    let external = maybe(rng, ", externalIPs: [192.0.2.7]");
    let affinity = maybe(rng, ", sessionAffinity: ClientIP");
    let local = maybe(rng, ", internalTrafficPolicy: Local");
    let status = maybe(rng, ", status: {loadBalancer: {ingress: [{ip: 198.51.100.1}]}}");
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{namespace: {namespace}, name: {name}, labels: {{{label}}}}}, \
         spec: {{type: {kind}, clusterIP: {address}, selector: {{app: x}}, ports: [{{{port}{node_port}}}]{external}{affinity}{local}}}{status}}}"
    )
}

fn slice(rng: &mut Rng) -> String {
    let (namespace, name) = (pick(rng, &["a", "b"]), pick(rng, &["s1", "s2", "s3"]));
    let labels = match rng.below(10) {
        0 => String::new(),
        1 => "kubernetes.io/service-name: web, service.kubernetes.io/headless: ''".to_owned(),
        _ => format!("kubernetes.io/service-name: {}", pick(rng, &["web", "db", "api"])),
    };
    let endpoints: Vec<String> = (0..rng.below(4))
        .map(|_| {
            let (ready, leaving) = (rng.below(4) > 0, rng.one_in(4));
            let node = pick(rng, &["n1", "n2"]);
            let conditions = format!("ready: {}, serving: true, terminating: {leaving}", ready && !leaving);
            format!("{{addresses: [10.1.0.{}], nodeName: {node}, conditions: {{{conditions}}}}}", 1 + rng.below(6))
        })
        .collect();
    let (port, endpoints) = (pick(rng, &["8080", "9090"]), endpoints.join(", "));
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{namespace: {namespace}, name: {name}, \
         labels: {{{labels}}}}}, addressType: IPv4, ports: [{{name: http, port: {port}}}], endpoints: [{endpoints}]}}"
    )
}

fn node(rng: &mut Rng) -> String {
    let zone = pick(rng, &["za", "zb"]);
    let address = pick(rng, &["192.168.1.11", "192.168.1.12"]);
    format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: n1, labels: {{topology.kubernetes.io/zone: {zone}}}}}, \
         status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}"
    )
}

fn change_objects(rng: &mut Rng, server: &ApiServer) {
    let mut text = String::new();
    for _ in 0..=rng.below(3) {
        match rng.below(10) {
            0..=3 => text += &service(rng),
            4..=7 => text += &slice(rng),
            8 => text += &node(rng),
            _ => {
                let resource = [Resource::Services, Resource::EndpointSlices, Resource::Nodes][rng.below(3) as usize];
                let all = server.objects(resource);
                if !all.is_empty() {
                    let metadata = &all[rng.below(all.len() as u64) as usize]["metadata"];
                    let word = |key: &str| metadata[key].as_str().unwrap_or("").to_owned();
                    server.delete(resource, &word("namespace"), &word("name"));
                }
                continue;
            }
        }
        text += "\n---\n";
    }
    server.apply(&text).expect("good objects");
}

/// True for a lie, which is believed until the next list.
fn break_something(rng: &mut Rng, server: &ApiServer) -> bool {
    let after = rng.below(4) as usize;
    let status = |code, retry_after| Fault::Status { code, retry_after };
    let faults = [
        Fault::Hangup,
        status(500, None),
        status(503, None),
        status(429, Some(1)),
        status(410, None),
        Fault::Delay(Duration::from_millis(60)),
        Fault::EmptyList,
        Fault::TruncatedList,
        Fault::HalfLine { after },
        Fault::Close { after },
        Fault::ErrorEvent { after, code: 410 },
        Fault::ErrorEvent { after, code: 500 },
        Fault::Silent { after },
        Fault::SwapEvents,
        Fault::RepeatEvents,
    ];
    match rng.below(12) {
        0 => server.drop_connections(),
        1 => server
            .end_watches([End::Close, End::Break, End::HalfLine, End::Expired, End::Silent][rng.below(5) as usize]),
        2 => server.compact(),
        3 => server.restart(false),
        4 => server.refuse(),
        5 => server.listen_again(),
        6 => server.forbid([Verb::List, Verb::Watch][rng.below(2) as usize], Resource::Services),
        7 => server.heal(),
        _ => {
            let fault = faults[rng.below(faults.len() as u64) as usize];
            let rule = Rule::next(fault).times(1 + rng.below(2) as usize);
            server.script(if rng.one_in(2) { rule } else { rule.of(Resource::ALL[rng.below(3) as usize]) });
            return fault == Fault::EmptyList;
        }
    }
    false
}

/// An agent as its loop is, but for the kernel.
struct Life {
    watches: Watches,
    agent: Agent,
    whole: BTreeSet<Kind>,
    /// Whether this agent has pruned what its predecessor left.
    pruned: bool,
}

impl Life {
    async fn watch(server: &ApiServer) -> Watches {
        let access = Access::new(None, Some(&server.url()), |_| None).expect("a URL");
        watch::start(access).await.expect("nothing to be read")
    }

    async fn start(server: &ApiServer, faults: Faults) -> Self {
        let agent = Agent::new(config(), faults);
        Self { watches: Self::watch(server).await, agent, whole: BTreeSet::new(), pruned: true }
    }

    /// Another agent takes the maps over, and knows nothing yet.
    async fn restart(self, server: &ApiServer) -> Self {
        let Self { watches, agent, .. } = self;
        drop(watches);
        let agent = agent.adopted(config());
        Self { watches: Self::watch(server).await, agent, whole: BTreeSet::new(), pruned: false }
    }

    fn take(&mut self, Update { kind, events, .. }: Update, context: &str) {
        let planner = &mut self.agent.planner;
        for event in events {
            match event {
                Event::Put(object) => planner.upsert(*object),
                Event::Bad { key, cause, uid: _ } => panic!("{context}: {key}: {cause}"),
                Event::Gone(key) => planner.remove(&key),
                Event::Whole(keys) => {
                    planner.retain(|key| key.kind != kind || keys.contains(key));
                    self.whole.insert(kind);
                }
                Event::Failing(_) | Event::Working => {}
            }
        }
        // Nothing reaches the maps before every kind was read whole.
        if self.whole.len() == KINDS.len() {
            self.agent.follow(context);
            if !std::mem::replace(&mut self.pruned, true) {
                self.agent.prune();
            }
        }
    }

    async fn follow_for(&mut self, time: Duration, context: &str) {
        let end = Instant::now() + time;
        while let Ok(update) = timeout(end.saturating_duration_since(Instant::now()), self.watches.next()).await {
            self.take(update, context);
        }
    }

    fn is_done(&mut self, wanted: &State) -> bool {
        self.whole.len() == KINDS.len() && self.agent.planner.state() == *wanted
    }
}

/// What a planner makes of all that the server has.
fn wanted(server: &ApiServer) -> State {
    let mut planner = Planner::new(config());
    for resource in [Resource::Services, Resource::EndpointSlices, Resource::Nodes] {
        for object in server.objects(resource) {
            let parsed = k8s::parse("server", object.to_string().as_bytes());
            assert!(parsed.bad.is_empty(), "{:?}", parsed.bad);
            parsed.objects.into_iter().for_each(|located| planner.upsert(located.object));
        }
    }
    planner.state()
}

/// What a life has met: a test that meets nothing would always pass.
#[derive(Clone, Copy, Default)]
struct Met {
    /// Requests that were refused or hung up on.
    failures: usize,
    /// Lists, by pages or as streams.
    lists: usize,
    restarts: usize,
    frontends: usize,
}

async fn live(seed: u64) -> Met {
    let (mut restarts, mut lied) = (0, false);
    let mut rng = Rng::new(seed);
    let config = ApiConfig {
        watch_list: rng.one_in(2),
        bookmark_every: Duration::from_millis(100),
        gzip_from: 512,
        seed,
        ..ApiConfig::default()
    };
    let server = ApiServer::start(config).expect("it listens");
    for _ in 0..3 {
        change_objects(&mut rng, &server);
    }
    let percent = [0, 10, 30][rng.below(3) as usize];
    let mut life = Life::start(&server, Faults::Percent { percent, seed }).await;
    for step in 0..4 + rng.below(8) {
        let context = format!("seed {seed}, step {step}");
        match rng.below(10) {
            killed @ 0..=1 => {
                if killed == 0 {
                    life.agent.be_killed(rng.below(40));
                }
                life = life.restart(&server).await;
                restarts += 1;
            }
            2..=4 => lied |= break_something(&mut rng, &server),
            _ => change_objects(&mut rng, &server),
        }
        if rng.one_in(2) {
            life.follow_for(Duration::from_millis(rng.below(150)), &context).await;
        }
    }
    // Well again. Only a lie needs another list; all else was told once, and has to have been heard.
    server.heal();
    if lied {
        server.compact();
    }
    server.drop_connections();
    let context = format!("seed {seed}, the end");
    let (wanted, end) = (wanted(&server), Instant::now() + PATIENCE);
    while !life.is_done(&wanted) {
        let (is, lists) = (life.agent.planner.state(), &life.whole);
        assert!(
            Instant::now() < end,
            "{context}: {is:#?}\nis not\n{wanted:#?}, or not all of it was listed: {lists:?}"
        );
        life.follow_for(Duration::from_millis(50), &context).await;
    }
    life.agent.check(&wanted, &context);
    life.agent.end(&context);
    let seen = server.take_seen();
    let lists = seen.iter().filter(|s| s.verb == Verb::List || s.query.contains("sendInitialEvents")).count();
    Met {
        failures: seen.iter().filter(|s| s.code != Some(200)).count(),
        lists,
        restarts,
        frontends: wanted.frontends.len(),
    }
}

#[test]
fn in_the_end_the_maps_hold_what_the_server_has() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lives = std::env::var("BERRYLB_API_LIVES").ok().map_or(500, |text| text.parse().expect("a number"));
    let mut met = Met::default();
    let (turns, tasks) = (Rc::new(Semaphore::new(TOGETHER)), LocalSet::new());
    let all: Vec<_> = (0..lives)
        .map(|seed| {
            let turns = Rc::clone(&turns);
            tasks.spawn_local(async move {
                let _turn = turns.acquire().await.expect("never closed");
                live(seed).await
            })
        })
        .collect();
    runtime.block_on(tasks.run_until(async {
        for one in all {
            let Met { failures, lists, restarts, frontends } = one.await.expect("no life panics");
            met.failures += failures;
            met.lists += lists;
            met.restarts += restarts;
            met.frontends += frontends;
        }
    }));
    let Met { failures, lists, restarts, frontends } = met;
    eprintln!("{lives} lives: {failures} failures, {lists} lists, {restarts} restarts, {frontends} frontends left");
    let lives = lives as usize;
    assert!(failures > lives / 2 && lists > 3 * lives && restarts > lives && frontends > 2 * lives);
}
