//! The story's cluster: lab, pods with nginx and redis, agents, and the folder of objects that the agents watch.

use std::{
    fmt::Display,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use lb_lab::{
    Agent, Folder, Host, Lab, LabConfig, Node, Pod, Process, apps,
    objects::{self, Endpoint, Port, Service},
    patience,
};

use crate::{Options, stage::Stage};

/// The story's pods: node, last number of the address, and name.
const PODS: [(&str, u8, &str); 3] = [
    ("raspi002", 72, "sample-deployment-7d9c8b6f5d-2xkqv"),
    ("raspi003", 66, "sample-deployment-7d9c8b6f5d-8hzrm"),
    ("raspi003", 67, "sample-deployment-7d9c8b6f5d-wt4nc"),
];
/// The story's ClusterIP.
pub(crate) const CLUSTER_IP: &str = "10.111.197.69";
/// Its second address, of the other family.
pub(crate) const CLUSTER_IP6: &str = "fd00:10:96::c545";
/// How long the datapath may take to follow the objects, on a machine that is busy.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Everything that runs. Agents go before pods, and these before the lab.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) agents: Vec<Agent>,
    pub(crate) servers: Vec<Process>,
    pub(crate) more_pods: Vec<Pod>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) folder: Folder,
    pub(crate) sample: Service,
    pub(crate) lab: Lab,
    berrylb: PathBuf,
    agent_flags: Vec<String>,
}

impl Cluster {
    /// Point 1: the network, and three pods with two containers each.
    pub(crate) fn new(stage: &mut Stage, options: &Options) -> Result<Self> {
        let berrylb = options.berrylb.canonicalize();
        let berrylb = berrylb.with_context(|| format!("find the program {}", options.berrylb.display()))?;
        stage.find_programs_in(berrylb.parent().unwrap_or(Path::new("/")))?;

        stage.scene("1. A cluster, and a Deployment of three pods")?;
        let start = Instant::now();
        let config = LabConfig { network: options.network.into(), ..LabConfig::default() };
        let lab = Lab::new(config)?;
        stage.say(&format!(
            "Lab {} on Linux {}: a LAN 192.168.178.0/24 with a router, three nodes and a\nmachine outside the \
             cluster, each a network namespace; made in {} ms.\n",
            lab.name(),
            std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?.trim(),
            start.elapsed().as_millis()
        ))?;
        let folder = Folder::create(&lab.dir().join("objects"))?;
        let (mut pods, mut servers) = (Vec::new(), Vec::new());
        for (node, host, name) in PODS {
            let pod = lab.node(node).add_pod_at(name, host)?;
            servers.push(apps::nginx(&pod)?);
            servers.push(apps::redis(&pod)?);
            pods.push(pod);
        }
        stage.say(&format!("{:38}{:10}{:14}{}", "POD", "NODE", "ADDRESS", "CONTAINERS"))?;
        for pod in &pods {
            let address = pod.ip4().to_string();
            stage.say(&format!("{:38}{:10}{address:14}nginx:80, redis:6379", pod.name(), pod.node_name()))?;
        }
        let port = Port::tcp("http-port", 8080, 80);
        let sample = Service::new("sample-clusterip", &[CLUSTER_IP.parse()?, CLUSTER_IP6.parse()?], &[port]);
        let agent_flags = options.agent_flag.clone();
        Ok(Self { agents: Vec::new(), servers, more_pods: Vec::new(), pods, folder, sample, lab, berrylb, agent_flags })
    }

    /// One agent on each node.
    pub(crate) fn start_agents(&mut self, stage: &mut Stage) -> Result<()> {
        stage.scene("berrylb on every node")?;
        self.folder.put("nodes", &[&objects::nodes(&self.lab)])?;
        let flags: Vec<&str> = self.agent_flags.iter().map(String::as_str).collect();
        for node in self.lab.nodes() {
            let start = Instant::now();
            let agent = Agent::start(node, &self.berrylb, self.folder.path(), &flags)?;
            let line = agent.agent_command().text().replacen(&self.berrylb.display().to_string(), "berrylb", 1);
            stage.typed(node, &line.replace(" --", " \\\n    --"))?;
            stage.answer(&format!("ready\n  (after {} ms)", start.elapsed().as_millis()))?;
            self.agents.push(agent);
        }
        Ok(())
    }

    /// Point 3: the story's Service and its slices.
    pub(crate) fn apply_story(&mut self, stage: &mut Stage) -> Result<()> {
        stage.scene("3. A Service in front of the three pods")?;
        let slice = self.sample.slice(&self.pods.iter().map(Endpoint::v4).collect::<Vec<_>>());
        let slice6 = self.sample.slice(&self.pods.iter().map(Endpoint::v6).collect::<Vec<_>>());
        self.apply(stage, "sample-clusterip", &[&self.sample, &slice, &slice6])?;
        let file = self.folder.path().join("sample-clusterip.yaml");
        stage.run(
            self.control_plane(),
            &format!("sed -n '1,/^---/p; /^addressType: IPv4/,/^---/p' {}", file.display()),
        )?;
        Ok(())
    }

    /// Writes objects and waits until every node's datapath holds them.
    pub(crate) fn apply(&self, stage: &mut Stage, name: &str, objects: &[&dyn Display]) -> Result<()> {
        self.folder.put(name, objects)?;
        let millis = self.settle()?;
        stage.say(&format!(
            "{name}.yaml is in the agents' folder; `dump` equals `plan` on all nodes, seen after {millis} ms."
        ))
    }

    /// Takes objects away and waits until every node's datapath has followed.
    pub(crate) fn delete(&self, stage: &mut Stage, name: &str) -> Result<()> {
        self.folder.remove(name)?;
        let millis = self.settle()?;
        stage.say(&format!("{name}.yaml is deleted; `dump` equals `plan` on all nodes, seen after {millis} ms."))
    }

    /// Waits until `dump` equals `plan` on every node; milliseconds.
    fn settle(&self) -> Result<u128> {
        let (start, limit) = (Instant::now(), patience::limit(SETTLE_LIMIT));
        for agent in &self.agents {
            let plan = agent.plan_text()?;
            loop {
                let dump = agent.dump_text()?;
                if dump == plan {
                    break;
                }
                if start.elapsed() > limit {
                    bail!("the datapath did not follow the objects within {limit:?}\nplan:\n{plan}\ndump:\n{dump}");
                }
            }
        }
        Ok(start.elapsed().as_millis())
    }

    /// The control plane's node.
    pub(crate) fn control_plane(&self) -> &Node {
        self.lab.node("raspi001")
    }

    /// How to look around in a lab that stays up.
    pub(crate) fn guide(&self, stage: &mut Stage) -> Result<()> {
        stage.scene("The lab stays up until you press Ctrl-C")?;
        let enter = format!("sh {}", self.lab.enter_script().display());
        let bin = self.lab.dir().join("bin");
        fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
        let link = bin.join("berrylb");
        symlink(&self.berrylb, &link).with_context(|| format!("make {}", link.display()))?;
        let [first, second, ..] = self.pods.as_slice() else { bail!("the story has three pods") };
        let node = self.lab.node(first.node_name());
        let bpffs = node.bpffs();
        stage.say(&format!(
            "From another terminal, as root, `NAME` being a node, a pod, `outside` or `router`:\n\n  \
             {enter} NAME [COMMAND…]\n\nFor example:\n\n  \
             {enter} {} curl -s {CLUSTER_IP}:8080\n  \
             {enter} {}\n  \
             {enter} {}\n  \
             {enter} outside curl -m 2 {CLUSTER_IP}:8080\n  \
             {enter} {} berrylb service list\n  \
             bpftool map dump pinned {}/v*/services\n\n\
             Objects to change: {}\nLogs: {}/*/agent.err",
            self.control_plane().name(),
            first.name(),
            second.name(),
            node.name(),
            bpffs.display(),
            self.folder.path().display(),
            self.lab.dir().display(),
        ))
    }
}
