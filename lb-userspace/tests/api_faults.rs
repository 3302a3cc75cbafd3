//! Random lives over a real connection: objects change at an API server that fails in every way it can, writes to the maps
//! fail, agents are stopped and killed, etcd is restored from a backup. Once the server is well again, the maps hold what a
//! planner makes of its objects.
//!
//! Waits are shorter than a node's, so that they run out within a life: in half of the lives nothing but they ends a
//! connection that has fallen silent. How long all of it takes is not looked at, as other work may slow it down: a life
//! fails if nothing happens any more, or if it goes on asking without getting anywhere.

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
        watch::{self, Access, Backoff, Event, Hints, KINDS, Patience, Update, Watches},
    },
    maps::Faults,
    model::Kind,
    plan::{PlanConfig, Planner, state::State},
};
use lb_lab::api_server::{ApiConfig, ApiServer, Backup, End, Fault, Resource, Rule, Seen, Verb};
use maps_support::{Rng, agent::Agent};
use tokio::{sync::Semaphore, task::LocalSet, time::timeout};

/// So long nothing at all may happen. Every wait of [`patience`] is over long before.
const STUCK: Duration = Duration::from_secs(120);
/// Requests that get a well server's objects; a list and a watch of each kind are 6.
const REQUESTS: usize = 200;
/// Lives that go on side by side: most of each is waiting.
const TOGETHER: usize = 50;
const WATCHED: [Resource; 3] = [Resource::Services, Resource::EndpointSlices, Resource::Nodes];

/// `short`: it runs out within a life.
fn patience(short: bool, outage: Duration) -> Patience {
    let ms = Duration::from_millis;
    let common = Patience { useful: ms(100), empty: ms(20), rights: ms(200), outage, ..Patience::default() };
    if short {
        Patience {
            head: ms(600),
            list: ms(600),
            stream: ms(500),
            watch: ms(900),
            retry: Backoff { least: ms(100), most: ms(1000) },
            ..common
        }
    } else {
        let long = Duration::from_secs(10);
        Patience {
            head: long,
            list: long,
            stream: long,
            watch: long,
            retry: Backoff { least: ms(100), most: ms(2000) },
            ..common
        }
    }
}

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
                let resource = WATCHED[rng.below(3) as usize];
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
        Fault::Stall,
        Fault::HalfClose,
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

/// An agent as its loop is, but for the kernel, and what it has met.
struct Life<'a> {
    server: &'a ApiServer,
    patience: Patience,
    watches: Watches,
    agent: Agent,
    whole: BTreeSet<Kind>,
    /// Whether this agent has pruned what its predecessor left.
    pruned: bool,
    /// Whether anything was told since the planner was last asked.
    told: bool,
    met: Met,
}

impl<'a> Life<'a> {
    async fn watch(server: &ApiServer, patience: Patience) -> Watches {
        let access = Access::new(Hints { server: Some(&server.url()), ..Hints::default() }, |_| None).expect("a URL");
        watch::start(access, patience).await.expect("nothing to be read")
    }

    async fn start(server: &'a ApiServer, patience: Patience, faults: Faults) -> Self {
        let (agent, watches) = (Agent::new(config(), faults), Self::watch(server, patience).await);
        let (whole, met) = (BTreeSet::new(), Met::default());
        Self { server, patience, watches, agent, whole, pruned: true, told: true, met }
    }

    /// Another agent takes the maps over, and knows nothing yet.
    async fn restart(self) -> Self {
        let Self { server, patience, watches, agent, met, .. } = self;
        drop(watches);
        let agent = agent.adopted(config());
        let (watches, whole) = (Self::watch(server, patience).await, BTreeSet::new());
        Self {
            server,
            patience,
            watches,
            agent,
            whole,
            pruned: false,
            told: true,
            met: Met { restarts: met.restarts + 1, ..met },
        }
    }

    fn take(&mut self, Update { kind, events, .. }: Update, context: &str) {
        self.told = true;
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

    /// Gives how many updates came.
    async fn follow_for(&mut self, time: Duration, context: &str) -> usize {
        let (end, mut updates) = (Instant::now() + time, 0);
        while let Ok(update) = timeout(end.saturating_duration_since(Instant::now()), self.watches.next()).await {
            self.take(update, context);
            updates += 1;
        }
        updates
    }

    /// Follows until it is `done`, which is told what was asked of the server meanwhile.
    async fn follow_until(&mut self, context: &str, mut done: impl FnMut(&mut Self, &[Seen]) -> bool) {
        let (mut last, mut asked) = (Instant::now(), 0);
        loop {
            let seen = self.look();
            if done(self, &seen) {
                return;
            }
            asked += seen.len();
            let updates = self.follow_for(Duration::from_millis(50), context).await;
            if updates > 0 || !seen.is_empty() {
                last = Instant::now();
            }
            let hopeless = if last.elapsed() >= STUCK {
                "nothing happens any more"
            } else if asked >= REQUESTS {
                "it asks and asks"
            } else {
                continue;
            };
            let (is, whole) = (self.agent.planner.state(), &self.whole);
            panic!("{context}: {hopeless}; read whole: {whole:?}; last asked: {seen:?}; it is {is:#?}");
        }
    }

    /// What was asked of the server since the last look.
    fn look(&mut self) -> Vec<Seen> {
        let seen = self.server.take_seen();
        self.met.failures += seen.iter().filter(|s| s.code != Some(200)).count();
        let lists = seen.iter().filter(|s| s.verb == Verb::List || s.query.contains("sendInitialEvents"));
        self.met.lists += lists.count();
        seen
    }

    /// etcd is restored from a backup. Versions that were given to what is no more are given once more.
    async fn restore(&mut self, backup: &Backup, context: &str) {
        self.server.heal();
        self.server.restore(backup);
        self.look();
        self.follow_for(Duration::from_millis(30), context).await;
        self.server.listen_again();
        self.met.restores += 1;
        if self.patience.outage >= self.patience.watch {
            // Not away for long enough: a watch can tell by the version as long as that is before its own.
            let mut back = BTreeSet::new();
            self.follow_until(context, |_, seen| {
                let watches = seen.iter().filter(|s| s.verb == Verb::Watch);
                back.extend(watches.filter_map(|s| s.resource).map(Resource::plural));
                back.len() == WATCHED.len()
            })
            .await;
        }
    }

    fn is_done(&mut self, wanted: &State) -> bool {
        std::mem::take(&mut self.told) && self.whole.len() == KINDS.len() && self.agent.planner.state() == *wanted
    }
}

/// What a planner makes of all that the server has.
fn wanted(server: &ApiServer) -> State {
    let mut planner = Planner::new(config());
    for resource in WATCHED {
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
    restores: usize,
    frontends: usize,
}

async fn live(seed: u64) -> Met {
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
    let short = rng.one_in(2);
    // The least wait after a failure is half of `retry.least`, and counts as an outage or does not.
    let outage = if rng.one_in(2) { Duration::from_millis(40) } else { Duration::from_secs(60) };
    let faults = Faults::Percent { percent, seed };
    let mut life = Life::start(&server, patience(short, outage), faults).await;
    let (mut backup, mut lied) = (server.backup(), false);
    for step in 0..4 + rng.below(8) {
        let context = format!("seed {seed}, step {step}");
        match rng.below(22) {
            killed @ 0..=3 => {
                if killed < 2 {
                    life.agent.be_killed(rng.below(40));
                }
                life = life.restart().await;
            }
            4..=9 => lied |= break_something(&mut rng, &server),
            10 => backup = server.backup(),
            11 => life.restore(&backup, &context).await,
            12 if short => drop(life.follow_for(life.patience.watch * 2, &context).await),
            _ => change_objects(&mut rng, &server),
        }
        if rng.one_in(2) {
            life.follow_for(Duration::from_millis(rng.below(150)), &context).await;
        }
    }
    // Well again. Only a lie needs another list; all else was told once, and has to have been heard.
    server.heal();
    if lied {
        // A watch that goes on from the very version that everything before is forgotten at has missed nothing.
        server.count_on();
        server.compact();
    }
    if lied || !short {
        server.drop_connections();
    }
    let context = format!("seed {seed}, the end");
    let wanted = wanted(&server);
    life.look();
    life.follow_until(&context, |life, _| life.is_done(&wanted)).await;
    life.agent.check(&wanted, &context);
    life.look();
    let Life { agent, met, .. } = life;
    agent.end(&context);
    Met { frontends: wanted.frontends.len(), ..met }
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
            let Met { failures, lists, restarts, restores, frontends } = one.await.expect("no life panics");
            met.failures += failures;
            met.lists += lists;
            met.restarts += restarts;
            met.restores += restores;
            met.frontends += frontends;
        }
    }));
    let Met { failures, lists, restarts, restores, frontends } = met;
    eprintln!(
        "{lives} lives: {failures} failures, {lists} lists, {restarts} restarts, {restores} restores, {frontends} frontends left"
    );
    let lives = lives as usize;
    assert!(failures > lives / 2 && lists > 3 * lives && restarts > lives && frontends > 2 * lives);
    assert!(restores > lives / 8);
}
