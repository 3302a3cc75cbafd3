//! Stations: two nodes for each mode, all alike but for what serves their Services. The first has a client pod and a server
//! pod, the second a server pod. All are there at once, so that modes can take turns.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_lab::{
    Agent, Folder, Host, Lab, LabConfig, Machine, Node, Pod,
    config::{POD_NETWORK, POD_NETWORK6},
    objects,
};

use serde_json::Value;

use super::{
    crew::{Order, Worker},
    iptables,
    kube_proxy::KubeProxy,
    modes::{Absent, Mode},
    nftables,
    options::{Cluster, Options},
    scenarios::{Client, Frontend, Scenario},
    services::{self, Backend, Family, Place, TARGET, Transport},
    worker::Job,
};

/// A mode with a number of Services.
pub(super) type Key = (Mode, u32);

/// So that clients take ports of connections that ended more than a second ago again: there are more connections here in
/// a minute than ports.
const REUSE: [(&str, &str); 1] = [("ipv4/tcp_tw_reuse", "1")];

/// What an agent may take to serve, and a tool to load rules, with tens of thousands of Services on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// All stations, in one lab.
pub(super) struct Stations {
    stations: BTreeMap<Key, Station>,
    /// Modes that do not do here what they are to do, and why.
    pub(super) absent: Absent,
    lab: Lab,
}

/// What belongs to one of them.
struct Station {
    node: String,
    client: Pod,
    local: Pod,
    remote: Pod,
    agents: Vec<Agent>,
    _kube_proxies: Vec<KubeProxy>,
}

impl Stations {
    /// Sets them up.
    ///
    /// # Errors
    /// Not root, a tool is missing, or an agent does not start.
    pub(super) fn new(keys: &[Key], options: &Options) -> Result<Self> {
        let cluster = options.cluster;
        let nodes = keys.iter().flat_map(|key| names(*key)).collect();
        let config = LabConfig {
            nodes,
            service_gateway: 0,
            masquerade: cluster == Cluster::Flannel,
            bridge_netfilter: cluster == Cluster::Flannel,
            ..LabConfig::default()
        };
        let lab = Lab::new(config)?;
        let mut stations = BTreeMap::new();
        for key in keys {
            let (mode, services) = *key;
            let what = || format!("set up {} with {services} Services", mode.name());
            stations.insert(*key, Station::new(&lab, *key, options).with_context(what)?);
        }
        lab.outside().netns().set(&REUSE)?;
        let no_xdp = stations.get(&(Mode::Xdp, 1)).map(Station::no_xdp).transpose()?.flatten();
        let absent = no_xdp.map(|why| (Mode::Xdp, why)).into_iter().collect();
        let stations = Self { stations, absent, lab };
        stations.route_pods()?;
        Ok(stations)
    }

    /// The outside machine asks pods of the station without a proxy by their own addresses.
    fn route_pods(&self) -> Result<()> {
        for name in names((Mode::Direct, 1)) {
            let node = self.lab.node(&name);
            let (own, pods) = (node.addresses(), node.gateway());
            self.lab.outside().route(pods.v4.trunc().into(), own.v4.addr().into())?;
            self.lab.outside().route(pods.v6.trunc().into(), own.v6.addr().into())?;
        }
        Ok(())
    }

    /// Starts all agents once more, in another order. So their programs are loaded anew, to other places: how fast machine code
    /// runs also depends on what else has its address in the processor's tables, and that would favour one mode as long as it
    /// stays where it is.
    ///
    /// # Errors
    /// An agent does not end or start.
    pub(super) fn restart_agents(&mut self, order: &mut Order) -> Result<()> {
        let mut agents: Vec<&mut Agent> = self.stations.values_mut().flat_map(|station| &mut station.agents).collect();
        for next in order.next(agents.len()) {
            agents[next].restart_within(PATIENCE)?;
        }
        Ok(())
    }

    /// A folder that goes with the lab.
    pub(super) fn folder(&self) -> &Path {
        self.lab.dir()
    }

    /// Starts the worker of a mode.
    ///
    /// # Errors
    /// Its first operation fails: nothing serves what it asks.
    pub(super) fn worker(&self, scenario: &Scenario, key: Key, processor: usize) -> Result<Worker> {
        let Scenario { work, client, frontend, backend, family, modes: _ } = scenario;
        let station = self.stations.get(&key).with_context(|| format!("no station {key:?}"))?;
        let node = self.lab.node(&station.node);
        let server = match backend {
            Backend::Local => &station.local,
            Backend::Remote => &station.remote,
        };
        let pod = SocketAddr::new(family.of(pair(server)), TARGET);
        let transport = if work.is_tcp() { Transport::Tcp } else { Transport::Udp };
        let (port, node_port) = services::port(transport, *backend);
        let to = match (key.0, frontend) {
            (Mode::Direct, _) | (_, Frontend::None) => pod,
            (_, Frontend::ClusterIp) => SocketAddr::new(services::cluster_ip(*family), port),
            (_, Frontend::NodePort) => SocketAddr::new(node_ip(node, *family), node_port),
        };
        let place = match client {
            Client::Pod => station.client.place(),
            Client::Node => node.place(),
            Client::Outside => self.lab.outside().place(),
        };
        let job = Job {
            work: *work,
            server: pod,
            to,
            netns: place.netns().path(),
            cgroup: place.cgroup().join("cgroup.procs"),
            processor,
        };
        Worker::start(server, &job)
    }

    /// Whether the machine outside and all nodes of the modes sum up checksums as a wire has them, before packets leave. XDP
    /// needs it of what is sent to its uplink.
    ///
    /// # Errors
    /// `ethtool` fails.
    pub(super) fn whole_checksums(&self, keys: &[Key], whole: bool) -> Result<()> {
        let offload = if whole { "off" } else { "on" };
        let outside: &Machine = self.lab.outside();
        let command = |host: &dyn Fn(&str) -> Result<String>| host(&format!("ethtool -K eth0 tx {offload}")).map(drop);
        command(&|line| outside.sh(line))?;
        keys.iter().flat_map(|key| names(*key)).try_for_each(|name| command(&|line| self.lab.node(&name).sh(line)))
    }
}

/// Names of its nodes: the one with the clients, and the other one.
fn names((mode, services): Key) -> [String; 2] {
    [format!("{}-{services}", mode.name()), format!("{}-{services}b", mode.name())]
}

fn pair(pod: &Pod) -> [IpAddr; 2] {
    [pod.ip4().into(), pod.ip6().into()]
}

fn node_ip(node: &Node, family: Family) -> IpAddr {
    let own = node.addresses();
    family.of([own.v4.addr().into(), own.v6.addr().into()])
}

impl Station {
    fn new(lab: &Lab, key: Key, options: &Options) -> Result<Self> {
        let (mode, count) = key;
        let nodes = names(key).map(|name| lab.node(&name));
        let [here, there] = nodes;
        let client = here.add_pod(&format!("{}-c", here.name()))?;
        let local = here.add_pod(&format!("{}-s", here.name()))?;
        let remote = there.add_pod(&format!("{}-s", there.name()))?;
        here.netns().set(&REUSE)?;
        client.netns().set(&REUSE)?;
        let place = |pod: &Pod| -> Place { (pair(pod), pod.node_name().to_owned()) };
        let services = services::all(count, &place(&local), &place(&remote));
        let mut agents = Vec::new();
        // At scale nobody asks the other node, and what it holds is not looked at.
        let serving = if count > 1 { &nodes[..1] } else { &nodes[..] };
        if let Some(flags) = mode.flags() {
            let folder = objects_of(lab, here, &services)?;
            for node in serving {
                let sizes = services::flags(count);
                let flags: Vec<&str> = flags.iter().copied().chain(sizes.iter().map(String::as_str)).collect();
                agents.push(Agent::start_within(node, options.berrylb(), &folder, PATIENCE, &flags)?);
            }
        }
        let mut kube_proxies = Vec::new();
        for node in serving.iter().filter(|_| mode.is_rules()) {
            // Without it, replies between pods of one bridge would not be translated back. It is what Kubernetes asks for.
            node.netns().set(&[("bridge/bridge-nf-call-iptables", "1"), ("bridge/bridge-nf-call-ip6tables", "1")])?;
            if mode.is_kube_proxy() {
                let program = options.kube_proxy.as_deref().context("--kube-proxy names the program")?;
                // The lab's server takes some hundreds of documents at once.
                let texts = services.chunks(100).map(yaml);
                let objects: Vec<String> = std::iter::once(objects::nodes(lab)).chain(texts).collect();
                kube_proxies.push(KubeProxy::start(node, program, mode, &objects, PATIENCE)?);
            } else {
                rules(node, mode, &services)?;
            }
        }
        Ok(Self { node: here.name().to_owned(), client, local, remote, agents, _kube_proxies: kube_proxies })
    }

    /// Why XDP does not run on the uplink, if it does not: tc would serve it then.
    fn no_xdp(&self) -> Result<Option<String>> {
        let agent = self.agents.first().context("no agent")?;
        let text = agent.command(&["link", "list", "-o", "json"]).ok()?;
        let links: Vec<Value> = serde_json::from_str(&text).context("read `berrylb link list`")?;
        let uplink = links.iter().find(|link| link["name"] == "eth0").context("no eth0 in `berrylb link list`")?;
        let xdp = &uplink["xdp"];
        let runs = xdp["mode"] == "generic";
        Ok((!runs).then(|| format!("mode {}: {}", xdp["mode"], xdp["reason"])))
    }
}

fn objects_of(lab: &Lab, node: &Node, all: &[services::Service]) -> Result<PathBuf> {
    let folder = Folder::create(&node.dir().join("objects"))?;
    folder.put("nodes", &[&objects::nodes(lab)])?;
    folder.put("services", &[&yaml(all)])?;
    Ok(folder.path().to_owned())
}

fn yaml(all: &[services::Service]) -> String {
    all.iter().map(services::Service::yaml).collect::<Vec<_>>().join("---\n")
}

/// Gives a node its rules.
fn rules(node: &Node, mode: Mode, services: &[services::Service]) -> Result<()> {
    for family in Family::BOTH {
        let pods = family.of([&POD_NETWORK.to_string(), &POD_NETWORK6.to_string()].map(String::as_str)).to_owned();
        let (command, text) = if mode == Mode::Iptables {
            let program = family.of(["iptables-restore", "ip6tables-restore"]);
            (node.command(program), iptables::rules(services, family, &pods))
        } else {
            let text = nftables::rules(services, family, &pods, node_ip(node, family));
            (node.command("nft").args(["-f", "-"]), text)
        };
        command.input(text).timeout(PATIENCE).ok()?;
    }
    Ok(())
}
