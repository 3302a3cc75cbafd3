//! A lab with a real control plane, agents that follow it by the rights and the manifest that users get, and pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use lb_lab::{
    Agent, Folder, Host, Lab, LabConfig,
    kubernetes::{ControlPlane, Kubelets},
    peer::{Failure, TcpAsk},
};
use serde_json::{Value, json};

const BERRYLB: &str = env!("CARGO_BIN_EXE_berrylb");
const MANIFEST: &str = include_str!("../../../manifests/berrylb.yaml");
/// What it grants rights to.
const ACCOUNT: (&str, &str) = ("berrylb-system", "berrylb");
/// Nodes that run pods, and their zones.
const WORKERS: [(&str, &str); 2] = [("raspi002", "attic"), ("raspi003", "cellar")];
/// Controllers work in their own time, on a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(60);
/// A token's least lifetime is ten minutes.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// All of it. Agents go before the server, and that before the lab.
pub(crate) struct Cluster {
    pub(crate) agents: BTreeMap<String, Agent>,
    pub(crate) kubelets: Kubelets,
    pub(crate) api: ControlPlane,
    objects: Folder,
    pub(crate) lab: Lab,
}

impl Cluster {
    /// A control plane on the machine outside, and an agent on each node.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With more flags for the agents.
    pub(crate) fn with(more: &[&str]) -> Self {
        let binaries = env::var_os("BERRYLB_KUBERNETES").map(PathBuf::from);
        let binaries = binaries.expect("BERRYLB_KUBERNETES names the folder of Kubernetes' programs");
        let lab = Lab::new(LabConfig::default()).unwrap();
        let objects = Folder::create(&lab.dir().join("objects")).unwrap();
        let address = lab.outside().addresses().v4.addr().into();
        let api = ControlPlane::start(lab.outside(), address, &binaries).unwrap();
        api.apply(MANIFEST).unwrap();
        let kubeconfig = api.account(ACCOUNT.0, ACCOUNT.1, TOKEN_LIFETIME).unwrap();
        api.kubectl(["create", "--filename", "-"]).input(nodes(&lab).to_string()).ok().unwrap();
        let flags = [&["--kubeconfig", kubeconfig.to_str().unwrap(), "--log-level", "debug"], more].concat();
        let start = |node: &lb_lab::Node| {
            let agent = Agent::start_at_api_server(node, Path::new(BERRYLB), objects.path(), &api.url(), &flags);
            (node.name().to_owned(), agent.unwrap())
        };
        let agents = lab.nodes().iter().map(start).collect();
        let kubelets = Kubelets::new(&WORKERS.map(|(name, _)| name));
        Self { agents, kubelets, api, objects, lab }
    }

    /// `kubectl apply`, then [`Self::settle`].
    pub(crate) fn apply(&mut self, objects: &Value) {
        self.api.apply(&objects.to_string()).unwrap();
        self.settle();
    }

    /// `kubectl delete`, then [`Self::settle`].
    pub(crate) fn delete(&mut self, args: &[&str]) {
        self.api.kubectl(["delete", "--wait=false"]).args(args).ok().unwrap();
        self.settle();
    }

    /// Lets controllers and kubelets work until no pod is to be started or ended and each node's datapath is what `plan` makes of
    /// what the server holds.
    pub(crate) fn settle(&mut self) {
        self.until("all nodes hold what the server says", |it| {
            it.agents.iter().find_map(|(node, agent)| {
                let (plan, dump) = (agent.plan_text().unwrap(), agent.dump_text().unwrap());
                (plan != dump).then(|| format!("{node}: {}\nlog:\n{}", difference(&plan, &dump), agent.log().unwrap()))
            })
        });
    }

    /// Lets controllers and kubelets work until `differs` finds nothing.
    pub(crate) fn until(&mut self, what: &str, mut differs: impl FnMut(&Self) -> Option<String>) {
        let start = Instant::now();
        loop {
            let settled = self.kubelets.step(&self.lab, &self.api).unwrap();
            let kinds = "service,endpointslice,node";
            let all = self.api.get([kinds, "--all-namespaces"]).unwrap();
            self.objects.put("all", &[&all]).unwrap();
            let difference = if settled { differs(self) } else { Some("pods start or end".to_owned()) };
            let Some(difference) = difference else { return };
            assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}: {difference}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until so many endpoints of a Service are ready, as its slices say, and all nodes hold them.
    pub(crate) fn wait_endpoints(&mut self, service: &str, count: usize) {
        self.until(&format!("{count} endpoints of {service}"), |it| {
            let ready = it.ready_endpoints(service);
            (ready.len() != count).then(|| format!("{ready:?}"))
        });
        self.settle();
    }

    fn ready_endpoints(&self, service: &str) -> BTreeSet<String> {
        let label = format!("kubernetes.io/service-name={service}");
        let slices = self.api.get(["endpointslices", "--namespace", "default", "--selector", &label]).unwrap();
        let endpoints = slices["items"].as_array().unwrap().iter().flat_map(|slice| slice["endpoints"].as_array());
        let ready = endpoints.flatten().filter(|endpoint| endpoint["conditions"]["ready"] == true);
        ready.map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned()).collect()
    }

    /// The clusterIPs that the server gave to a Service.
    pub(crate) fn cluster_ips(&self, service: &str) -> Vec<IpAddr> {
        let found = self.api.get(["service", service, "--namespace", "default"]).unwrap();
        let ips = found["spec"]["clusterIPs"].as_array().unwrap();
        ips.iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect()
    }

    /// Frontends of a Service on a node, as the datapath holds them.
    pub(crate) fn frontends(&self, node: &str, service: &str) -> Vec<Value> {
        let dump = self.agents[node].dump().unwrap();
        let frontends = dump["frontends"].as_array().unwrap();
        let service = format!("default/{service}");
        frontends.iter().filter(|frontend| frontend["service"] == service).cloned().collect()
    }
}

/// The first lines that differ, with some around them.
fn difference(plan: &str, dump: &str) -> String {
    let at = plan.lines().zip(dump.lines()).position(|(wanted, found)| wanted != found).unwrap_or(0);
    let around = |text: &str| text.lines().skip(at.saturating_sub(12)).take(24).collect::<Vec<_>>().join("\n");
    format!("line {at} of {}, plan:\n{}\ndump:\n{}", plan.lines().count(), around(plan), around(dump))
}

/// How often who answers at an address, each time on a new connection.
///
/// # Panics
/// One was not answered.
pub(crate) fn names(client: &impl Host, to: SocketAddr, count: u32) -> BTreeMap<String, u64> {
    let answers = client.ask(TcpAsk { count, ..TcpAsk::to(to) }).unwrap();
    assert!(answers.failures().is_empty(), "{to}: {:?}", answers.failures());
    answers.names()
}

/// Why an address does not answer.
///
/// # Panics
/// It does.
pub(crate) fn failure(client: &impl Host, to: SocketAddr) -> Failure {
    let answers = client.ask(TcpAsk { timeout_ms: 1500, ..TcpAsk::to(to) }).unwrap();
    answers.one().result.clone().expect_err("nobody answers there")
}

/// The lab's nodes as kubelets register them.
fn nodes(lab: &Lab) -> Value {
    let node = |node: &lb_lab::Node| {
        let zone = WORKERS.iter().find(|(name, _)| *name == node.name()).map_or("attic", |(_, zone)| zone);
        let addresses: Vec<Value> =
            node.ips().iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
        let resources = json!({ "cpu": "4", "memory": "4Gi", "pods": "110" });
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": node.name(), "labels": { "topology.kubernetes.io/zone": zone } },
            "status": {
                "addresses": addresses,
                "allocatable": resources,
                "capacity": resources,
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        })
    };
    json!({ "apiVersion": "v1", "kind": "List", "items": lab.nodes().iter().map(node).collect::<Vec<_>>() })
}
