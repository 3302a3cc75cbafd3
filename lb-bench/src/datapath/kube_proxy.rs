//! kube-proxy itself, from a program that somebody has brought, with an API server of the lab that holds the same Services.

use std::{
    net::Ipv4Addr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lb_lab::{
    Host as _, Node, Process,
    api_server::{ApiConfig, ApiServer},
    config::{POD_NETWORK, POD_NETWORK6},
};

use super::modes::Mode;

const METRICS: &str = "127.0.0.1:10249";
/// Its time of the last sync, of either family.
const SYNCED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";

/// A running kube-proxy with all rules in place. Dropping it kills it and leaves its rules, which go with the node.
pub(super) struct KubeProxy {
    _process: Process,
    _server: ApiServer,
}

impl KubeProxy {
    /// Starts `program` on a node in a mode of its, with these objects, and waits until its rules hold all of them.
    ///
    /// # Errors
    /// It ends, or is not done within `patience`; the message holds the end of its log.
    pub(super) fn start(
        node: &Node,
        program: &Path,
        mode: Mode,
        objects: &[String],
        patience: Duration,
    ) -> Result<Self> {
        let server = ApiServer::start_in(node.netns(), (Ipv4Addr::LOCALHOST, 0).into(), ApiConfig::default())?;
        objects.iter().try_for_each(|text| server.apply(text).map(drop))?;
        let command = node.command(program).args(["--master", &server.url(), "--hostname-override", node.name()]);
        // The lab's server speaks JSON only.
        let command = command.args(["--kube-api-content-type", "application/json"]);
        let command = command.args(["--proxy-mode", if mode == Mode::KubeProxyNft { "nftables" } else { "iptables" }]);
        let command = command.args(["--cluster-cidr", &format!("{POD_NETWORK},{POD_NETWORK6}")]);
        // Settings of the whole machine are no matter of a namespace.
        let conntrack = ["--conntrack-max-per-core", "--conntrack-min"].map(|flag| format!("{flag}=0"));
        let timeouts = ["--conntrack-tcp-timeout-established", "--conntrack-tcp-timeout-close-wait"];
        let command = command.args(conntrack).args(timeouts.map(|flag| format!("{flag}=0s")));
        let command = command.args(["--metrics-bind-address", METRICS, "--healthz-bind-address", "127.0.0.1:10256"]);
        let mut process = command.spawn("kube-proxy")?;
        let start = Instant::now();
        while !is_synced(node)? {
            let ended = process.status()?;
            if ended.is_some() || start.elapsed() > patience {
                let log = process.err()?;
                let why = ended
                    .map_or_else(|| format!("is not done after {patience:?}"), |status| format!("ended: {status}"));
                bail!("kube-proxy {why}: {}", log.lines().rev().take(8).collect::<Vec<_>>().join(" | "));
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(Self { _process: process, _server: server })
    }
}

/// Whether both families were written since it knew all objects: it writes nothing before.
fn is_synced(node: &Node) -> Result<bool> {
    let shown = node.command("curl").args(["-s", "-m", "5", &format!("http://{METRICS}/metrics")]).output()?;
    let written = |family: &str| {
        shown.stdout.lines().any(|line| {
            let is_it = line.starts_with(SYNCED) && line.contains(family);
            is_it && line.rsplit_once(' ').is_some_and(|(_, at)| at.parse::<f64>().is_ok_and(|at| at > 0.0))
        })
    };
    Ok(written("IPv4") && written("IPv6"))
}

/// What it calls itself, such as `Kubernetes v1.36.2`; the error is for the operator.
pub(super) fn version(program: &Path) -> Result<String, String> {
    let shown = std::process::Command::new(program).arg("--version").output();
    let shown = shown.map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
    if shown.status.success() && text.starts_with("Kubernetes") {
        Ok(text)
    } else {
        Err(format!("{} is no kube-proxy: it answers --version with {text:?}", program.display()))
    }
}
