//! What the datapath is made of, that it goes on without its agent, and that it goes away: point 8 of the story.

use std::{fs, net::Ipv4Addr, path::Path, thread, time::Duration};

use anyhow::{Context, Result};
use lb_lab::{
    Host, NETNS_DIR,
    objects::{Endpoint, Port, Service},
    patience,
    peer::{Hold, HttpLoad, Open},
};

use crate::{
    cluster::{CLUSTER_IP, Cluster},
    stage::Stage,
    story,
};

/// A Service whose connection is held open.
const ECHO_IP: &str = "10.100.0.37";
/// Lines of a long answer that are shown.
const SHOWN: usize = 5;

/// The maps as the kernel's own tool shows them.
pub(crate) fn maps(stage: &mut Stage, cluster: &Cluster) -> Result<()> {
    stage.scene("What the kernel holds")?;
    let node = cluster.lab.node("raspi002");
    let folder = node.bpffs();
    stage.run(node, &format!("ls {}", folder.display()))?;
    let dump = stage.run(node, &format!("bpftool map dump pinned {}/v*/services | head -n 24", folder.display()))?;
    stage.expect(dump.stdout.contains("\"addr\""), "bpftool names the fields")?;
    stage.run(node, &format!("bpftool cgroup tree {} | head -n 14", node.cgroup_root().display()))?;
    Ok(())
}

/// The agents are killed and started again while requests run.
pub(crate) fn kill(stage: &mut Stage, cluster: &mut Cluster) -> Result<()> {
    stage.scene("The agents are killed under load")?;
    let to = (CLUSTER_IP.parse::<Ipv4Addr>()?, 8080).into();
    // Not longer in an emulator: what runs on would take its time from the agents that start.
    let long = Duration::from_secs(60);
    let port = Port::tcp("echo", 7, 7);
    let service = Service::new("echo", &[ECHO_IP.parse()?], &[port]);
    let echo = cluster.pods[1].serve(&[7])?;
    cluster.apply(stage, "echo", &[&service, &service.slice(&[Endpoint::v4(&cluster.pods[1])])])?;
    let from_node = cluster.control_plane().begin(HttpLoad::new(to, long))?;
    let from_pod = cluster.pods[0].begin(HttpLoad::new(to, long))?;
    let virtual_address = (ECHO_IP.parse::<Ipv4Addr>()?, 7).into();
    let timeout_ms = patience::limit_ms(1000);
    let hold = Hold { open: Open::tcp(virtual_address), interval_ms: 2, duration_ms: 60_000, timeout_ms };
    let held = cluster.pods[0].begin(hold)?;
    thread::sleep(Duration::from_millis(700));
    for agent in &mut cluster.agents {
        let pid = agent.running()?.pid();
        stage.say(&format!("kill -9 {pid}"))?;
        agent.kill9()?;
    }
    stage.say("All three agents are dead for a second; the load goes on.")?;
    thread::sleep(Duration::from_secs(1));
    for agent in &mut cluster.agents {
        agent.start_again()?;
    }
    stage.say("All three have adopted what they found.")?;
    thread::sleep(Duration::from_millis(700));
    let (from_node, from_pod, held) = (from_node.stop()?, from_pod.stop()?, held.stop()?);
    drop(echo);
    for (from, load) in [("a node", from_node), ("a pod", from_pod)] {
        let failures: String = load.failures.iter().map(|(at, f)| format!("\n    after {at} ms: {f}")).collect();
        let text = format!("from {from}: {} requests answered, {} failed{failures}", load.answered(), load.failed);
        stage.expect(load.failed == 0 && load.answered() > 100, &text)?;
    }
    let text = format!(
        "a connection to a Service, held open: {} pings, longest gap {} ms",
        held.pings,
        held.longest_gap_micros / 1000
    );
    stage.expect(held.failures.is_empty() && held.pings > 100, &text)
}

/// Point 8.
pub(crate) fn clean_up(stage: &mut Stage, cluster: &mut Cluster) -> Result<()> {
    stage.scene("8. Deleting the objects takes it all away")?;
    let files = fs::read_dir(cluster.folder.path()).context("list the objects")?;
    let mut names = Vec::new();
    for file in files {
        let name = file.context("list the objects")?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".yaml").filter(|name| *name != "nodes").map(String::from));
    }
    names.sort();
    for name in names {
        cluster.delete(stage, &name)?;
    }
    let node = cluster.control_plane();
    let agent = cluster.agents.first().context("no agent runs")?;
    let dump = agent.dump()?;
    stage.typed(node, "berrylb dump -o json")?;
    stage.answer(&agent.dump_text()?)?;
    stage.expect(dump["frontends"].as_array().is_some_and(Vec::is_empty), "the datapath is empty")?;
    let gone = stage.run(node, &format!("curl -sS -m 3 {CLUSTER_IP}:8080"))?;
    stage.expect(!gone.status.success() && gone.stdout.is_empty(), "the Service is gone")?;
    story::all_from_control_plane(stage, cluster)?;

    for (index, agent) in cluster.agents.iter_mut().enumerate() {
        let status = agent.terminate()?;
        let node = cluster.lab.nodes().get(index).context("an agent without node")?;
        stage.typed(node, "berrylb cleanup")?;
        let removed = agent.cleanup()?;
        let lines: Vec<&str> = removed.lines().collect();
        stage.answer(&lines.iter().take(SHOWN).copied().collect::<Vec<_>>().join("\n"))?;
        stage.answer(&format!("… and {} more", lines.len().saturating_sub(SHOWN)))?;
        let (bpffs, cgroup) = (node.bpffs(), node.cgroup_root());
        let look =
            format!("ls -A {} 2>/dev/null; bpftool cgroup tree {} | grep '^[0-9]'", bpffs.display(), cgroup.display());
        let left = stage.quietly(node, &look)?.stdout;
        let clean = status.success() && left.trim().is_empty();
        stage.expect(clean, &format!("no program, map or pin is left on {}{}", node.name(), left.trim_end()))?;
    }
    story::all_from_control_plane(stage, cluster)
}

/// After the lab's end.
pub(crate) fn nothing_left(stage: &mut Stage, lab: &str) -> Result<()> {
    let mut left = Vec::new();
    for folder in [NETNS_DIR, "/sys/fs/bpf", "/run/berrylb-lab"] {
        for entry in fs::read_dir(Path::new(folder)).with_context(|| format!("list {folder}"))? {
            let path = entry.with_context(|| format!("list {folder}"))?.path();
            left.extend(path.to_string_lossy().contains(lab).then(|| path.display().to_string()));
        }
    }
    stage.expect(left.is_empty(), &format!("nothing of lab {lab} is left on this machine{}", left.join("\n    ")))
}
