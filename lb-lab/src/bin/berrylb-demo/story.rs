//! Points 2 to 5 of the story: what works without us, the Service, the mix of its answers, and the machine outside.

use std::collections::BTreeMap;

use anyhow::Result;
use lb_lab::{Host, peer::HttpLoad};

use crate::{
    cluster::{CLUSTER_IP, CLUSTER_IP6, Cluster},
    stage::{Stage, curl},
};

/// The spread is refused if a fair choice would be worse less often than this.
const LEAST_P: f64 = 1e-6;

/// Point 2.
pub(crate) fn direct(stage: &mut Stage, cluster: &Cluster) -> Result<()> {
    stage.scene("2. Without any Service")?;
    let (pods, curl) = (&cluster.pods, curl());
    let same = |stage: &mut Stage, host: &lb_lab::Pod, to: &str, name: &str, promise: &str| {
        let answer = stage.run(host, &format!("{curl} {to}"))?.stdout;
        stage.expect(answer.trim() == name, promise)
    };
    same(stage, &pods[0], "localhost:80", pods[0].name(), "a container reaches its own pod")?;
    same(stage, &pods[1], &pods[2].ip4().to_string(), pods[2].name(), "a pod reaches another pod on its node")?;
    same(stage, &pods[0], &pods[1].ip4().to_string(), pods[1].name(), "a pod reaches a pod on the other node")?;
    all_from_control_plane(stage, cluster)
}

/// The control plane to each pod.
pub(crate) fn all_from_control_plane(stage: &mut Stage, cluster: &Cluster) -> Result<()> {
    let addresses: Vec<String> = cluster.pods.iter().map(|pod| pod.ip4().to_string()).collect();
    let curl = curl();
    let answer = stage.run(cluster.control_plane(), &format!("{curl} {}", addresses.join(" ")))?.stdout;
    let names: Vec<&str> = cluster.pods.iter().map(Host::name).collect();
    stage.expect(answer.lines().eq(names), "the control plane reaches each pod")
}

/// Point 3: what the node says that it holds.
pub(crate) fn service(stage: &mut Stage, cluster: &Cluster) -> Result<()> {
    let node = cluster.control_plane();
    let list = stage.run(node, "berrylb service list")?;
    stage.expect(list.status.success() && list.stdout.contains(CLUSTER_IP), "the node holds the Service")?;
    let backends = stage.run(node, "berrylb backend list")?;
    let all = cluster.pods.iter().all(|pod| backends.stdout.contains(&pod.ip4().to_string()));
    stage.expect(backends.status.success() && all, "its endpoints are the three pods")
}

/// Point 4, with so many requests for the spread.
pub(crate) fn mix(stage: &mut Stage, cluster: &Cluster, spread: u64) -> Result<()> {
    stage.scene("4. The three names in a reasonably random mix")?;
    let curl = curl();
    let six = format!("for i in 1 2 3 4 5 6; do {curl} {CLUSTER_IP}:8080; done");
    let from_node = stage.run(cluster.control_plane(), &six)?.stdout;
    stage.expect(only_pods(cluster, &from_node, 6), "six answers on a node")?;
    let from_pod = stage.run(&cluster.pods[0], &six)?.stdout;
    stage.expect(only_pods(cluster, &from_pod, 6), "six answers in a pod")?;
    let v6 = stage.run(&cluster.pods[1], &format!("{curl} 'http://[{CLUSTER_IP6}]:8080'"))?.stdout;
    stage.expect(only_pods(cluster, &v6, 1), "and over IPv6")?;

    stage.say(&format!("\n{spread} requests, a new connection for each:"))?;
    let to = (CLUSTER_IP.parse::<std::net::Ipv4Addr>()?, 8080).into();
    let node = cluster.control_plane().ask(HttpLoad::count(to, spread))?;
    let pod = cluster.pods[0].ask(HttpLoad::count(to, spread))?;
    for (from, load) in [("raspi001", node), (cluster.pods[0].name(), pod)] {
        for server in &cluster.pods {
            let count = load.names.get(server.name()).copied().unwrap_or_default();
            let bar = "▇".repeat(usize::try_from(count * 75 / spread).unwrap_or_default());
            stage.say(&format!("  {:36}{count:5} {bar}", server.name()))?;
        }
        let p = fairness(&load.names, cluster.pods.len());
        let promise = format!("from {from}: {} failed; chi-squared p = {p:.3}", load.failed);
        let answered = load.failed == 0 && load.answered() == spread;
        stage.expect(answered && p > LEAST_P && load.names.len() == cluster.pods.len(), &promise)?;
    }
    Ok(())
}

/// Point 5.
pub(crate) fn outside(stage: &mut Stage, cluster: &Cluster) -> Result<()> {
    stage.scene("5. A machine outside the cluster, on the same LAN")?;
    let outside = cluster.lab.outside();
    let route = stage.run(outside, &format!("ip route get {CLUSTER_IP}"))?;
    stage.expect(route.stdout.contains("via 192.168.178.12"), "it has a route to the Service, via a node")?;
    let answer = stage.run(outside, &format!("curl -sS -m 3 {CLUSTER_IP}:8080"))?;
    // 28 is curl's number for "timed out".
    stage.expect(answer.status.code() == Some(28) && answer.stdout.is_empty(), "and gets no answer")?;
    let node = cluster.lab.node("raspi002");
    let counters = stage.run(node, "berrylb counters")?;
    stage.expect(counters.status.success(), "the node counts what it drops")
}

/// Whether `text` is that many lines, each the name of a pod.
pub(crate) fn only_pods(cluster: &Cluster, text: &str, lines: usize) -> bool {
    text.lines().count() == lines && text.lines().all(|line| cluster.pods.iter().any(|pod| pod.name() == line))
}

/// How often a fair choice among `kinds` would be at least this uneven: the chi-squared test, whose tail is
/// `exp(-x/2)` for the two degrees of freedom that three pods have.
fn fairness(counts: &BTreeMap<String, u64>, kinds: usize) -> f64 {
    debug_assert_eq!(kinds, 3, "the closed form is that of three");
    let total: u64 = counts.values().sum();
    let expected = total as f64 / kinds as f64;
    let missing = kinds.saturating_sub(counts.len()) as f64 * expected;
    let chi: f64 = counts.values().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
    (-(chi + missing) / 2.0).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[u64]) -> BTreeMap<String, u64> {
        counts.iter().enumerate().map(|(i, count)| (i.to_string(), *count)).collect()
    }

    #[test]
    fn an_even_spread_is_fair_and_a_silent_pod_is_not() {
        assert!((fairness(&counts(&[1000, 1000, 1000]), 3) - 1.0).abs() < 1e-9);
        // A table's value: chi-squared of 5.991 with two degrees of freedom has p = 0.05.
        let p = fairness(&counts(&[1000, 1055, 945]), 3);
        assert!((p - 0.0486).abs() < 0.001, "{p}");
        assert!(fairness(&counts(&[1500, 1500]), 3) < LEAST_P);
        assert!(fairness(&counts(&[1200, 900, 900]), 3) < LEAST_P);
    }
}
