//! The scheduler and the kubelets of a lab's nodes, as far as Services see them: pods get a node, an address, and become
//! ready; those that are deleted end after their grace period.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::ControlPlane;
use crate::{Lab, Peer, Pod};

/// A pod of the lab that stands for one of the API server's.
#[derive(Debug)]
struct Running {
    /// Before the pod that it runs in.
    _server: Peer,
    pod: Pod,
    /// Its end, once it is being deleted.
    until: Option<Instant>,
}

/// Runs the pods of the namespace `default` in a lab. Each answers at the container's ports with its own name.
#[derive(Debug)]
pub struct Kubelets {
    /// Names of the nodes that get pods, in turn.
    nodes: Vec<String>,
    turn: usize,
    running: BTreeMap<String, Running>,
}

impl Kubelets {
    /// For these nodes of the lab.
    #[must_use]
    pub fn new(nodes: &[&str]) -> Self {
        let nodes = nodes.iter().map(ToString::to_string).collect();
        Self { nodes, turn: 0, running: BTreeMap::new() }
    }

    /// One round: starts what is new, ends what is to end. Gives whether all pods are as they should be.
    ///
    /// # Errors
    /// The API server refuses something, or a pod cannot be started.
    pub fn step(&mut self, lab: &Lab, api: &ControlPlane) -> Result<bool> {
        let pods = api.get(["pods", "--namespace", "default"])?;
        let pods = pods["items"].as_array().context("a list of pods")?;
        let mut settled = true;
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().context("a pod's name")?;
            if pod["metadata"]["deletionTimestamp"].is_string() {
                self.end(api, name, pod)?;
                settled = false;
            } else if !self.running.contains_key(name) {
                self.start(lab, api, name, pod)?;
                settled = false;
            }
        }
        Ok(settled)
    }

    /// The lab's pods that run, in order of name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.running.values().filter(|running| running.until.is_none()).map(|running| &running.pod)
    }

    fn start(&mut self, lab: &Lab, api: &ControlPlane, name: &str, pod: &Value) -> Result<()> {
        let node = match pod["spec"]["nodeName"].as_str() {
            Some(node) => node.to_owned(),
            None => self.bind(api, name)?,
        };
        let place = lab.node(&node).add_pod(name)?;
        let containers = pod["spec"]["containers"].as_array().context("containers")?;
        let ports = containers.iter().flat_map(|container| container["ports"].as_array().into_iter().flatten());
        let ports: Vec<u16> = ports.filter_map(|port| port["containerPort"].as_u64()?.try_into().ok()).collect();
        let server = crate::Host::serve(&place, &ports)?;
        let ips = [place.ip4().to_string(), place.ip6().to_string()];
        let conditions = ["Ready", "ContainersReady"].map(|kind| json!({ "type": kind, "status": "True" }));
        let status = json!({
            "phase": "Running",
            "podIP": ips[0],
            "podIPs": ips.each_ref().map(|ip| json!({ "ip": ip })),
            "conditions": conditions,
        });
        api.set_status("default", "pod", name, &status)?;
        self.running.insert(name.to_owned(), Running { _server: server, pod: place, until: None });
        Ok(())
    }

    /// What the scheduler does.
    fn bind(&mut self, api: &ControlPlane, name: &str) -> Result<String> {
        let node = self.nodes[self.turn % self.nodes.len()].clone();
        self.turn += 1;
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let path = format!("/api/v1/namespaces/default/pods/{name}/binding");
        api.kubectl(["create", "--raw", &path, "--filename", "-"]).input(binding.to_string()).ok()?;
        Ok(node)
    }

    /// A pod that is being deleted goes on serving for its grace period, and is gone then.
    fn end(&mut self, api: &ControlPlane, name: &str, pod: &Value) -> Result<()> {
        let grace = Duration::from_secs(pod["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0));
        if let Some(running) = self.running.get_mut(name) {
            let until = *running.until.get_or_insert_with(|| Instant::now() + grace);
            if Instant::now() < until {
                return Ok(());
            }
        }
        self.running.remove(name);
        let now = ["--namespace", "default", "--grace-period", "0", "--force", "--wait=false", "--ignore-not-found"];
        api.kubectl(["delete", "pod", name]).args(now).ok().map(drop)
    }
}
