//! A lab with a folder of objects and agents that read it, and what all tests ask of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use berrylb::loader::Layout;
use lb_common::abi::map;
use lb_lab::{
    Agent, Folder, Host, Lab, LabConfig, Node, Peer, Pod,
    objects::{self, Endpoint, Port, Service},
};
use serde_json::Value;

/// The program under test.
pub(crate) const BERRYLB: &str = env!("CARGO_BIN_EXE_berrylb");

/// The Service's addresses in both families.
pub(crate) const VIPS: [&str; 2] = ["10.111.197.69", "fd00:10:96::c545"];
/// The Service's port.
pub(crate) const PORT: u16 = 8080;

/// How long the datapath may take to follow a change here. Not what users may expect, but what a machine that builds
/// something at the same time may need.
const FOLLOW_LIMIT: Duration = Duration::from_secs(10);

/// A lab, its objects, and an agent on some nodes.
pub(crate) struct World {
    agents: BTreeMap<String, Agent>,
    pub(crate) objects: Folder,
    pub(crate) lab: Lab,
}

impl World {
    /// A lab with its Node objects, without agents.
    pub(crate) fn new(config: LabConfig) -> Self {
        let lab = Lab::new(config).unwrap();
        let objects = Folder::create(&lab.dir().join("objects")).unwrap();
        objects.put("nodes", &[&objects::nodes(&lab)]).unwrap();
        Self { agents: BTreeMap::new(), objects, lab }
    }

    /// One node, for what does not depend on others.
    pub(crate) fn of_one_node() -> Self {
        Self::new(LabConfig { nodes: vec!["raspi002".into()], service_gateway: 0, ..LabConfig::default() })
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        self.lab.node(name)
    }

    /// Starts an agent on a node.
    pub(crate) fn start(&mut self, node: &str, flags: &[&str]) {
        let agent = Agent::start(self.lab.node(node), Path::new(BERRYLB), self.objects.path(), flags).unwrap();
        assert_agrees(&agent);
        self.agents.insert(node.to_owned(), agent);
    }

    /// Starts an agent on every node.
    pub(crate) fn start_everywhere(&mut self, flags: &[&str]) {
        let names: Vec<String> = self.lab.nodes().iter().map(|node| node.name().to_owned()).collect();
        names.iter().for_each(|name| self.start(name, flags));
    }

    pub(crate) fn agent(&self, node: &str) -> &Agent {
        &self.agents[node]
    }

    pub(crate) fn agent_mut(&mut self, node: &str) -> &mut Agent {
        self.agents.get_mut(node).unwrap()
    }

    /// Writes `NAME.yaml` and waits until all agents have it in the datapath.
    pub(crate) fn put(&self, name: &str, objects: &[&dyn Display]) {
        self.objects.put(name, objects).unwrap();
        self.settle();
    }

    /// Removes `NAME.yaml` and waits until all agents have it out of the datapath.
    pub(crate) fn remove(&self, name: &str) {
        self.objects.remove(name).unwrap();
        self.settle();
    }

    /// Waits until every node's datapath is what its plan says, byte for byte.
    pub(crate) fn settle(&self) {
        self.agents.values().for_each(assert_agrees);
    }

    /// A counter of a node's datapath.
    pub(crate) fn counter(&self, node: &str, name: &str) -> u64 {
        counter(self.agent(node), name)
    }
}

/// Waits until `berrylb dump` prints what `berrylb plan` prints.
pub(crate) fn assert_agrees(agent: &Agent) {
    let plan = agent.plan_text().unwrap();
    assert_dumps(agent, &plan);
}

/// Waits until `berrylb dump` prints this.
pub(crate) fn assert_dumps(agent: &Agent, plan: &str) {
    eventually("dump equals plan", || {
        let dump = agent.dump_text().unwrap();
        if dump == plan { Ok(()) } else { Err(format!("plan:\n{plan}\ndump:\n{dump}\nlog:\n{}", agent.log().unwrap())) }
    });
}

/// Tries until it succeeds.
///
/// # Panics
/// It never does.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + FOLLOW_LIMIT;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(why) => assert!(Instant::now() < deadline, "not within {FOLLOW_LIMIT:?}: {what}: {why}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A counter of a datapath.
pub(crate) fn counter(agent: &Agent, name: &str) -> u64 {
    let rows = json(agent, &["counters"]);
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("no counter {name} in {rows}"))["value"].as_u64().unwrap()
}

/// What a live command prints as JSON.
pub(crate) fn json(agent: &Agent, command: &[&str]) -> Value {
    let text = agent.command(command).args(["-o", "json"]).ok().unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command:?} printed no JSON ({error}): {text}"))
}

/// Where a program runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Attachment {
    /// Id of the link.
    pub(crate) link: u64,
    /// Id of the program.
    pub(crate) program: u64,
}

/// The pinned links of a node's agent, by the names of their pins, as bpftool sees them.
pub(crate) fn attachments(node: &Node) -> BTreeMap<String, Attachment> {
    let look = |pin: PathBuf| {
        let shown = bpftool(node, &["link", "show", "pinned", pin.to_str().unwrap()]);
        let id = |key: &str| shown[key].as_u64().unwrap_or_else(|| panic!("no {key} in {shown}"));
        (pin.file_name().unwrap().to_str().unwrap().to_owned(), Attachment { link: id("id"), program: id("prog_id") })
    };
    link_pins(node).into_iter().map(look).collect()
}

/// Where the maps and links of a node's agent are pinned.
pub(crate) fn layout(node: &Node) -> Layout {
    Layout::new(node.bpffs())
}

/// The pins of a node's links; none if there is no such folder.
pub(crate) fn link_pins(node: &Node) -> Vec<PathBuf> {
    match fs::read_dir(layout(node).links()) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

/// Interface indexes in a node's table of devices.
pub(crate) fn devices(node: &Node) -> BTreeSet<u32> {
    let pin = layout(node).map(map::DEVS);
    let entries = bpftool(node, &["map", "dump", "pinned", pin.to_str().unwrap()]);
    let key = |entry: &Value| entry["formatted"]["key"].as_u64().unwrap_or_else(|| panic!("no key in {entry}"));
    entries.as_array().unwrap().iter().map(|entry| u32::try_from(key(entry)).unwrap()).collect()
}

/// What bpftool prints.
pub(crate) fn bpftool(node: &Node, args: &[&str]) -> Value {
    let text = node.command("bpftool").arg("-j").args(args).ok().unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("bpftool {args:?} ({error}): {text}"))
}

/// A virtual address with the Service's port.
pub(crate) fn at(vip: &str) -> SocketAddr {
    SocketAddr::new(vip.parse().unwrap(), PORT)
}

/// A Service on both [`VIPS`] with these ports.
pub(crate) fn dual_stack(name: &str, ports: &[Port]) -> Service {
    Service::new(name, &VIPS.map(|vip| vip.parse::<IpAddr>().unwrap()), ports)
}

/// The Service of the story, with UDP beside TCP on its port.
pub(crate) fn sample_service() -> Service {
    dual_stack("sample-clusterip", &[Port::tcp("http-port", PORT, 80), Port::udp("udp-port", PORT, 80)])
}

/// A Service with a slice of these pods for each of its families.
pub(crate) fn manifest(service: &Service, pods: &[&Pod]) -> String {
    let mut text = service.to_string();
    for ip in &service.cluster_ips {
        let endpoint = |pod: &&Pod| if ip.is_ipv4() { Endpoint::v4(pod) } else { Endpoint::v6(pod) };
        let mut slice = service.slice(&pods.iter().map(endpoint).collect::<Vec<_>>());
        if pods.is_empty() && ip.is_ipv6() {
            // Without an endpoint to tell it by.
            slice.family = "IPv6";
            slice.name = slice.name.replace("ipv4", "ipv6");
        }
        text.push_str(&format!("---\n{slice}"));
    }
    text
}

/// The story's three pods, each serving under its name.
pub(crate) struct Sample {
    pub(crate) pods: [Pod; 3],
    _servers: [Peer; 3],
}

impl Sample {
    /// Starts them, on these ports.
    pub(crate) fn start(lab: &Lab, ports: &[u16]) -> Self {
        let places = [("raspi002", "sample-1", 72), ("raspi003", "sample-2", 66), ("raspi003", "sample-3", 67)];
        let pods = places.map(|(node, name, host)| lab.node(node).add_pod_at(name, host).unwrap());
        let servers = pods.each_ref().map(|pod| pod.serve(ports).unwrap());
        Self { pods, _servers: servers }
    }

    pub(crate) fn all(&self) -> [&Pod; 3] {
        self.pods.each_ref()
    }

    pub(crate) fn names(&self) -> [&str; 3] {
        self.pods.each_ref().map(Pod::name)
    }

    /// All but the one of this name.
    pub(crate) fn without(&self, name: &str) -> Vec<&Pod> {
        let rest: Vec<&Pod> = self.pods.iter().filter(|pod| pod.name() != name).collect();
        assert_eq!(rest.len(), 2, "no pod is called {name}");
        rest
    }
}
