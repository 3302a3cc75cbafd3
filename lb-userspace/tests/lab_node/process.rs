//! The agent as a process: what it leaves when it ends, what `cleanup` takes away, who may run beside it, what it
//! answers over HTTP, and where its settings come from.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use lb_lab::{
    Command, Host, LabConfig, Node, Process,
    objects::{Port, Service},
};

use crate::{
    rules::{Call, Client, Manner, Mode},
    world::{BERRYLB, Sample, VIPS, World, at, attachments, bpftool, eventually, manifest, sample_service},
};

/// From the contract.
const END_LIMIT: Duration = Duration::from_secs(2);

/// SIGTERM ends the agent in time and leaves everything; `cleanup` takes everything away, an agent running or not, and
/// is happy to find nothing.
#[test]
fn an_end_leaves_the_datapath_and_cleanup_takes_it_away() {
    for running in [false, true] {
        let mut world = World::new(LabConfig::default());
        let sample = Sample::start(&world.lab, &[80]);
        let pod = world.node("raspi002").add_pod("client").unwrap();
        world.start("raspi002", Mode::Both.flags());
        world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
        let before = attachments(world.node("raspi002"));
        assert!(
            before.keys().any(|pin| pin.starts_with("pod_ingress-")) && before.contains_key("connect4"),
            "{before:?}"
        );
        let clients = [Client::Pod(&pod), Client::Node(&world.lab.nodes()[1])].map(|client| client.place().clone());
        assert_eq!(clients[1].name(), "raspi002");

        if !running {
            let start = Instant::now();
            let status = world.agent_mut("raspi002").terminate().unwrap();
            assert!(status.success() && start.elapsed() < END_LIMIT, "{status} after {:?}", start.elapsed());
            assert_eq!(attachments(world.node("raspi002")), before);
        }
        for client in &clients {
            for call in Call::ALL {
                assert_eq!(call.ask(client, at(VIPS[0]), Manner::times(10)).all().len(), 10);
            }
        }

        let removed = world.agent("raspi002").command(&["cleanup"]).output().unwrap();
        assert!(removed.status.success() && removed.stderr.contains("still runs") == running, "{removed}");
        let removed = removed.stdout;
        assert!(removed.contains("removed link") && removed.contains("removed map"), "{removed}");
        let node = world.node("raspi002");
        assert!(!node.bpffs().exists(), "{removed}");
        assert_nothing_attached(node, &before.values().map(|a| a.link).collect());
        if !running {
            // A program goes when its last user in the kernel is done with it, a moment after its link.
            let programs: BTreeSet<u64> = before.values().map(|a| a.program).collect();
            eventually("the programs are gone", || {
                let left: Vec<u64> = ids(node, "prog").intersection(&programs).copied().collect();
                if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
            });
            assert!(world.agent("raspi002").cleanup().unwrap().contains("nothing to remove"));
        }
        for client in &clients {
            for call in Call::ALL {
                let answers = call.ask(client, at(VIPS[0]), Manner::in_vain());
                assert!(answers.one().result.is_err(), "{} {call:?}: {answers:?}", client.name());
                let direct = call.ask(client, (sample.pods[1].ip4(), 80).into(), Manner::times(1));
                assert_eq!(direct.all()[0].name, "sample-2");
            }
        }
    }
}

fn assert_nothing_attached(node: &Node, links: &BTreeSet<u64>) {
    let left: Vec<u64> = ids(node, "link").intersection(links).copied().collect();
    assert_eq!(left, [0; 0], "links are left");
    let tree = node.command("bpftool").args(["-j", "cgroup", "tree"]).arg(node.cgroup_root()).ok().unwrap();
    assert!(!tree.contains("connect"), "programs are left on the cgroup: {tree}");
}

/// Ids of all links or programs of this kernel.
fn ids(node: &Node, what: &str) -> BTreeSet<u64> {
    bpftool(node, &[what, "show"]).as_array().unwrap().iter().filter_map(|item| item["id"].as_u64()).collect()
}

/// An agent with nothing but its own places: no test may end up in the defaults, which are the machine's.
pub(crate) fn agent(node: &Node) -> Command {
    let agent = node.command(BERRYLB).arg("agent").arg("--bpffs").arg(node.bpffs());
    agent.arg("--cgroup").arg(node.cgroup_root()).arg("--api-socket").arg(node.agent_socket())
}

/// Nor does the end wait for what runs beside the agent: here a plugin that is to bring a token and does not.
#[test]
fn an_end_waits_for_nobody() {
    let world = World::of_one_node();
    let node = world.node("raspi002");
    let kubeconfig = world.lab.dir().join("kubeconfig");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n\
                clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: a, user: {exec: {apiVersion: \
                client.authentication.k8s.io/v1, command: sleep, args: ['12'], interactiveMode: Never}}}]\n";
    fs::write(&kubeconfig, text).unwrap();
    let mut waiting =
        agent(node).arg("--kubeconfig").arg(&kubeconfig).args(["--metrics", "off"]).spawn("waiting").unwrap();
    let url = "http://127.0.0.1:10256/livez";
    eventually("/livez answers", || {
        let got = node
            .command("curl")
            .args(["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url])
            .output()
            .unwrap();
        if got.stdout == "200" { Ok(()) } else { Err(got.to_string()) }
    });
    // The plugin runs by now, or will in a moment.
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    let status = waiting.terminate(Duration::from_secs(30)).unwrap();
    assert!(status.success() && start.elapsed() < END_LIMIT, "{status} after {:?}", start.elapsed());
}

/// Two agents on one folder would undo each other's work.
#[test]
fn a_second_agent_is_refused() {
    let mut world = World::of_one_node();
    world.start("raspi002", &[]);
    let holder = world.agent_mut("raspi002").running().unwrap().pid().to_string();
    let node = world.node("raspi002");
    let second = agent(node).arg("--from").arg(world.objects.path()).args(["--healthz", "off", "--metrics", "off"]);
    let refused = second.output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    let folder = node.bpffs().display().to_string();
    assert!(refused.stderr.contains(&holder) && refused.stderr.contains(&folder), "{refused}");
    // The first one has not noticed.
    world.put("sample", &[&manifest(&sample_service(), &[])]);
}

/// kube-proxy holds the default ports: an agent that cannot have them has changed nothing, and can be started again.
#[test]
fn a_taken_place_ends_the_agent_before_it_touches_the_node() {
    let mut world = World::of_one_node();
    let node = world.node("raspi002");
    let notes = world.lab.dir().join("notes");
    fs::write(&notes, "precious").unwrap();
    let kube_proxy = node.serve(&[10256]).unwrap();
    let places = [
        (node.agent_socket(), "0.0.0.0:10256", "0.0.0.0:10256", "--healthz"),
        (notes.clone(), "off", notes.to_str().unwrap(), "--api-socket"),
    ];
    for (socket, healthz, taken, next) in places {
        let agent = node.command(BERRYLB).args(["agent", "--from"]).arg(world.objects.path());
        let agent = agent.arg("--bpffs").arg(node.bpffs()).arg("--cgroup").arg(node.cgroup_root());
        let refused = agent.arg("--api-socket").arg(socket).args(["--healthz", healthz]).output().unwrap();
        assert_eq!(refused.status.code(), Some(1), "{refused}");
        assert!(refused.stderr.contains(taken) && refused.stderr.contains(next), "{refused}");
        assert_eq!(fs::read_dir(node.bpffs()).unwrap().count(), 0, "{refused}");
    }
    assert_eq!(fs::read_to_string(&notes).unwrap(), "precious");
    drop(kube_proxy);
    world.start("raspi002", &[]);
}

/// An agent that cannot read its objects yet is alive and not ready.
#[test]
fn health_and_metrics() {
    let world = World::of_one_node();
    let node = world.node("raspi002");
    let late = world.lab.dir().join("late");
    let flags = ["--from", late.to_str().unwrap(), "--node-name", "raspi002", "--pod-links", "veth*"];
    let mut late_agent = agent(node).args(flags).spawn("late-agent").unwrap();
    let get = |port: u16, path: &str| {
        let curl =
            ["-sS", "-m", "5", "-w", "\n%{http_code} %{content_type}", &format!("http://127.0.0.1:{port}{path}")];
        let output = node.command("curl").args(curl).output().unwrap();
        let (body, last) = output.stdout.rsplit_once('\n').unwrap_or_else(|| panic!("{output}"));
        let (status, kind) = last.split_once(' ').unwrap();
        (status.parse::<u16>().unwrap_or_else(|_| panic!("{output}")), kind.to_owned(), body.to_owned())
    };
    eventually("/livez answers", || match get(10256, "/livez") {
        (200, _, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(get(10256, "/healthz").0, 503);
    assert_eq!(metric(&get(10249, "/metrics").2, "berrylb_ready"), 0.0);

    let made = world.lab.dir().join("made");
    fs::create_dir(&made).unwrap();
    fs::write(made.join("web.yaml"), manifest(&sample_service(), &[])).unwrap();
    fs::rename(&made, &late).unwrap();
    late_agent.wait_line(|line| line == "ready", Duration::from_secs(20)).unwrap();
    assert_eq!((get(10256, "/livez").0, get(10256, "/healthz").0, get(10256, "/other").0), (200, 200, 404));
    let (status, kind, text) = get(10249, "/metrics");
    assert_eq!((status, kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(metric(&text, "berrylb_ready"), 1.0);
    parse_metrics(&text);

    // The folder came whole, so its Service was the first and only change.
    let rules = |name: &str| metric(&text, &format!("kubeproxy_sync_proxy_rules_{name}"));
    assert!(rules("service_changes_total") >= 1.0 && rules("duration_seconds_count") >= 1.0, "{text}");
    assert_eq!((rules("service_changes_pending"), rules("endpoint_changes_pending")), (0.0, 0.0));
    let (queued, synced) = (rules("last_queued_timestamp_seconds"), rules("last_timestamp_seconds"));
    assert!(queued > 1e9 && synced >= queued, "{queued} {synced}");
    assert_eq!(metric(&text, "kubeproxy_network_programming_duration_seconds_count"), 0.0);

    // By now the folder itself is followed, not only the one above it.
    let other = Service::new("other", &[[10, 96, 1, 1].into()], &[Port::tcp("http", 80, 80)]);
    fs::write(late.join("other.yaml"), other.to_string()).unwrap();
    eventually("the other Service is there", || {
        let dump = node.command(BERRYLB).args(["dump", "-o", "json"]).ok().unwrap();
        if dump.contains("10.96.1.1") { Ok(()) } else { Err(dump) }
    });
    end(late_agent);
}

fn end(mut agent: Process) {
    assert!(agent.terminate(END_LIMIT).unwrap().success());
}

pub(crate) fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// What a histogram's series end in.
const HISTOGRAM: [&str; 3] = ["_bucket", "_sum", "_count"];

/// Prometheus' text format: for each name HELP, TYPE, samples; counters end in `_total`.
fn parse_metrics(text: &str) {
    let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
    let mut current: Option<(String, String)> = None;
    let mut seen = BTreeSet::new();
    let mut samples = 0;
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap_or_else(|| panic!("no help in {line}"));
            assert!(word(name) && !help.is_empty() && seen.insert(name.to_owned()), "{line}");
            current = Some((name.to_owned(), String::new()));
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap_or_else(|| panic!("no type in {line}"));
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert_eq!(current, Some((name.to_owned(), String::new())), "TYPE follows its HELP: {line}");
            current = Some((name.to_owned(), kind.to_owned()));
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line}"));
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let is_of = |(current, kind): &(String, String)| match kind.as_str() {
                "histogram" => name.strip_prefix(current.as_str()).is_some_and(|end| HISTOGRAM.contains(&end)),
                kind => current == name && !kind.is_empty(),
            };
            assert!(current.as_ref().is_some_and(is_of), "{line}");
            assert!(labels.ends_with('}') && value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            samples += 1;
        }
    }
    assert!(text.ends_with('\n') && samples > 10, "{text}");
}

/// Flag over environment over file; a setting that is none of ours is wrong usage.
#[test]
fn settings_come_from_flag_environment_and_file() {
    let world = World::of_one_node();
    let node = world.node("raspi002");
    let config = world.lab.dir().join("config.yaml");
    let objects = world.objects.path().display().to_string();
    let file = format!("node-name: by-file\nfrom: [{objects}]\nhealthz: 'off'\nmetrics: 'off'\npod-links: veth*\n");
    for (flag, environment, name) in
        [(None, None, "by-file"), (None, Some("by-env"), "by-env"), (Some("by-flag"), Some("by-env"), "by-flag")]
    {
        fs::write(&config, &file).unwrap();
        let mut command = agent(node).arg("--config").arg(&config);
        if let Some(name) = flag {
            command = command.args(["--node-name", name]);
        }
        if let Some(name) = environment {
            command = command.env("BERRYLB_NODE_NAME", name);
        }
        let mut named = command.spawn(name).unwrap();
        named.wait_line(|line| line == "ready", Duration::from_secs(20)).unwrap();
        let dump = node.command(BERRYLB).args(["dump", "-o", "json"]).ok().unwrap();
        let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
        assert_eq!(dump["node"], name);
        end(named);
    }
    fs::write(&config, format!("{file}no-such-key: 1\n")).unwrap();
    let wrong = agent(node).arg("--config").arg(&config).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong}");
    assert!(wrong.stderr.contains("no-such-key") && wrong.stderr.contains("config.yaml"), "{wrong}");
    fs::write(&config, &file).unwrap();
    // Rightly said, and not to be had: no wrong usage, and nothing is made.
    let nowhere = node.command(BERRYLB).arg("agent").arg("--config").arg(&config).args(["--cgroup", "/nonexistent"]);
    let bpffs = PathBuf::from(format!("{}-other", node.bpffs().display()));
    let missing = nowhere.arg("--bpffs").arg(&bpffs).arg("--api-socket").arg(node.agent_socket()).output().unwrap();
    assert_eq!(missing.status.code(), Some(1), "{missing}");
    assert!(missing.stderr.contains("no cgroup /nonexistent") && !bpffs.exists(), "{missing}");
    let wrong_values = [("--log-level", "warning"), ("--max-flows", "0"), ("--pod-links", ""), ("--uplinks", " ,")];
    for (flag, value) in wrong_values {
        let wrong = agent(node).arg("--config").arg(&config).args([flag, value]).output().unwrap();
        assert_eq!(wrong.status.code(), Some(2), "{wrong}");
        assert!(wrong.stderr.contains(flag), "{wrong}");
    }
}
