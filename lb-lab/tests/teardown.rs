//! Nothing of a lab stays: not after its end, a panic, an interrupt or a kill.

use std::{
    fs,
    io::{BufRead, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lb_lab::{Host, Lab, NETNS_DIR, peer, sweep_dead};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Everything on this machine that carries the lab's name, and where its processes are.
fn traces(lab: &str) -> Vec<String> {
    let mut traces = Vec::new();
    let mut look = |folder: &Path| {
        let Ok(list) = fs::read_dir(folder) else { return };
        let names = list.map(|entry| entry.unwrap().path());
        traces.extend(names.filter(|path| path.to_string_lossy().contains(lab)).map(|path| path.display().to_string()));
    };
    for folder in [NETNS_DIR, "/run/berrylb-lab", "/sys/fs/bpf"] {
        look(Path::new(folder));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let cgroups = mounts.lines().filter(|line| line.contains(" cgroup2 "));
    cgroups.for_each(|line| look(Path::new(line.split(' ').nth(1).unwrap())));
    traces.extend(mounts.lines().filter(|line| line.contains(lab)).map(String::from));
    for process in fs::read_dir("/proc").unwrap() {
        let path: PathBuf = process.unwrap().path();
        // Processes end while they are being looked at.
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default().replace('\0', " ");
        let (cgroup, line) = (read("cgroup"), read("cmdline"));
        // No command line: it has died and waits for its parent to notice.
        if !line.is_empty() && (cgroup.contains(lab) || line.contains(lab)) {
            traces.push(format!("{}: {line}", path.display()));
        }
    }
    traces
}

/// Waits until nothing is left; what a reaper does is not over when its owner is.
fn assert_gone(lab: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = traces(lab);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left of {lab}:\n{}", left.join("\n"));
        thread::sleep(Duration::from_millis(10));
    }
}

/// A lab with something of every kind in it.
fn busy_lab() -> (Lab, lb_lab::Pod, lb_lab::Process, lb_lab::Process) {
    let lab = Lab::story().unwrap();
    let pod = lab.node("raspi002").add_pod("sample").unwrap();
    let in_pod = pod.command("sleep").arg("600").spawn("sleep").unwrap();
    // A shell that leaves a grandchild in a session of its own.
    let on_node = lab.node("raspi001").command("sh").args(["-c", "setsid sleep 600 & sleep 600"]).spawn("sh").unwrap();
    (lab, pod, in_pod, on_node)
}

#[test]
fn a_running_lab_is_seen_by_this_test() {
    let (lab, pod, _in_pod, _on_node) = busy_lab();
    let seen = traces(lab.name()).join("\n");
    let netns = pod.netns().path().display().to_string();
    for wanted in [netns.as_str(), "/run/berrylb-lab/", "/sys/fs/bpf/", "sleep 600", "reap"] {
        assert!(seen.contains(wanted), "no {wanted} in\n{seen}");
    }
    assert!(lab.node("raspi001").bpffs().exists() && lab.node("raspi001").cgroup_root().exists());
}

#[test]
fn nothing_is_left_after_the_end() {
    let (lab, pod, in_pod, on_node) = busy_lab();
    let name = lab.name().to_owned();
    drop((lab, pod, in_pod, on_node));
    assert_eq!(traces(&name), Vec::<String>::new(), "the end waits for all of it");
}

#[test]
fn the_order_of_dropping_does_not_matter() {
    let (lab, pod, in_pod, on_node) = busy_lab();
    let name = lab.name().to_owned();
    drop(lab);
    assert!(pod.command("true").ok().is_ok(), "a pod keeps its lab");
    drop(pod);
    assert_eq!(traces(&name), Vec::<String>::new());
    drop((in_pod, on_node));
}

#[test]
fn nothing_is_left_after_a_panic_in_a_thread() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let worker = thread::spawn(move || {
        let busy = busy_lab();
        sender.send(busy.0.name().to_owned()).unwrap();
        panic!("on purpose, with {} alive", busy.1.name());
    });
    let name = receiver.recv().unwrap();
    worker.join().unwrap_err();
    assert_eq!(traces(&name), Vec::<String>::new());
}

#[test]
fn a_lab_that_cannot_be_made_leaves_nothing() {
    let lab = Lab::story().unwrap();
    let node = lab.node("raspi002");
    let _first = node.add_pod_at("first", 72).unwrap();
    let taken = node.add_pod_at("first", 73).unwrap_err();
    assert!(format!("{taken:#}").contains("raspi002"), "{taken:#}");
    let unwound = catch_unwind(AssertUnwindSafe(|| lab.node("raspi999").name().to_owned()));
    unwound.unwrap_err();
    let name = lab.name().to_owned();
    drop((_first, lab));
    assert_eq!(traces(&name), Vec::<String>::new());
}

/// Starts a process that makes a lab, ends it by `signal`, and looks.
fn owner_ends_by(signal: Signal) {
    let mut owner = Command::new(peer::path().unwrap());
    let mut owner = owner.arg("hold-lab").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut name = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut name).unwrap();
    let name = name.trim();
    assert!(traces(name).join("\n").contains("sleep 600"), "{name} runs");
    kill(Pid::from_raw(owner.id().cast_signed()), signal).unwrap();
    owner.wait().unwrap();
    assert_gone(name);
}

#[test]
fn nothing_is_left_after_an_interrupt() {
    owner_ends_by(Signal::SIGINT);
}

#[test]
fn nothing_is_left_after_a_kill() {
    owner_ends_by(Signal::SIGKILL);
}

#[test]
fn a_lab_whose_reaper_died_too_is_swept() {
    let mut owner = Command::new(peer::path().unwrap());
    let mut owner = owner.arg("hold-lab").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut name = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut name).unwrap();
    let name = name.trim();
    let own = Lab::story().unwrap();
    let reaper = traces(name).into_iter().find(|trace| trace.contains(&format!("reap {name}"))).unwrap();
    let pid: i32 = reaper.trim_start_matches("/proc/").split(':').next().unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_ne!(traces(name), Vec::<String>::new());
    // Another test's sweep may be faster; what counts is that it is gone and that the living stay.
    sweep_dead().unwrap();
    assert_gone(name);
    assert_ne!(traces(own.name()), Vec::<String>::new());
    own.node("raspi001").sh("ip link show cni0").unwrap();
}

#[test]
fn a_process_group_dies_with_its_guard() {
    let lab = Lab::story().unwrap();
    let node = lab.node("raspi001");
    let process = node.command("sh").args(["-c", "sleep 600 & sleep 600 & wait"]).spawn("sh").unwrap();
    wait_processes(node, 3);
    drop(process);
    wait_processes(node, 0);
}

/// Waits until so many processes are in the node's cgroup; a killed one takes a moment to go.
fn wait_processes(node: &lb_lab::Node, wanted: usize) {
    let procs = node.cgroup().join("cgroup.procs");
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let found = fs::read_to_string(&procs).unwrap();
        if found.lines().count() == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "not {wanted} processes but:\n{found}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_command_that_takes_too_long_is_killed_and_says_so() {
    let lab = Lab::story().unwrap();
    let node = lab.node("raspi001");
    let late = node.command("sh").args(["-c", "echo begun; sleep 600"]).timeout(Duration::from_millis(300));
    let error = late.output().unwrap_err().to_string();
    assert!(error.contains("sh on raspi001") && error.contains("begun"), "{error}");
    wait_processes(node, 0);
    let failed = node.sh("echo out; echo why >&2; exit 3").unwrap_err().to_string();
    assert!(failed.contains("exit status: 3") && failed.contains("why"), "{failed}");
}
