//! `berrylb-bench datapath`, cut down to seconds: every mode that this machine can have serves real connections, the files
//! that are asked for are written, and nothing stays behind. What it measures is not looked at, only that it did.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Another package's program, which lies beside this one's.
fn berrylb() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_berrylb-bench")).with_file_name("berrylb");
    assert!(path.exists(), "{} is not built: run `cargo build -p lb-userspace`", path.display());
    path
}

fn datapath(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berrylb-bench"));
    command.arg("datapath").arg("--berrylb").arg(berrylb()).args(args);
    command
}

fn run(args: &[&str]) -> Output {
    let output = datapath(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Labs that this process made.
fn labs_of(pid: u32) -> Vec<String> {
    let folders = ["/run/berrylb-lab", "/run/netns", "/sys/fs/bpf"];
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&format!("bl{pid}-"))).collect()
}

#[test]
fn every_mode_serves_connections_and_the_figures_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, html, plots) = (path("figures.json"), path("page.html"), path("plots"));
    let cut = ["--quick", "--passes", "2", "--rounds", "3", "--slice", "1", "--services", "1,20", "--only", "crr/"];
    let files = ["--json", &json, "--html", &html, "--plots", &plots];
    let shown = text(&run(&[&cut[..], &files[..]].concat()).stdout);

    let figures: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let scenarios = figures["scenarios"].as_array().unwrap();
    let names: BTreeSet<&str> = scenarios.iter().map(|scenario| scenario["name"].as_str().unwrap()).collect();
    let listed = text(&run(&[&cut[..], &["--list"]].concat()).stdout);
    assert_eq!(names, listed.lines().collect());
    let mut modes = BTreeSet::new();
    for scenario in scenarios {
        for figures in scenario["modes"].as_array().unwrap() {
            modes.insert(figures["mode"].as_str().unwrap());
            let numbers = ["/nanos/median", "/ratio/median", "/times/p99", "/busy", "/operations"];
            for number in numbers.map(|at| figures.pointer(at).unwrap()) {
                assert!(number.as_f64().unwrap() > 0.0, "{figures}");
            }
        }
    }
    // A mode that this machine cannot have is not passed over in silence.
    for absent in figures["absent"].as_array().unwrap() {
        let mode = absent[0].as_str().unwrap();
        assert!(shown.contains(&format!("NOT MEASURED: {mode}")), "{shown}");
        modes.insert(mode);
    }
    let ours = ["socket", "packet", "delivery", "both", "xdp", "dsr"];
    let theirs = ["direct", "iptables", "nftables", "kp-ipt", "kp-nft"];
    assert_eq!(modes, ours.into_iter().chain(theirs).collect());

    let page = fs::read_to_string(&html).unwrap();
    for name in names {
        assert!(page.contains(name) && shown.contains(name), "no {name}");
    }
    assert!(page.contains("<svg") && !page.contains("<script") && !page.contains("href="));
    let drawn: BTreeSet<_> = fs::read_dir(&plots).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(drawn, ["others-ipv4.svg", "ratios-ipv4.svg", "scale-crr.svg"].map(Into::into).into());
}

#[test]
fn what_is_asked_for_wrongly_is_told_before_anything_is_measured() {
    for (args, why) in [
        (&["--only", "no-such"][..], "no scenario has `no-such` in its name"),
        (&["--processor", "999"], "--processor 999: this machine has"),
        (&["--compare", "/no/such/file"], "read /no/such/file"),
        (&["--services", "0"], "0 is not in 1..=50000"),
        (&["--profile"], "--only <TEXT,…>"),
        (&["--modes", "fastest"], "invalid value 'fastest'"),
        (&["--packets", "/dev/null"], "/dev/null holds no figures of bpf_perf"),
    ] {
        let output = datapath(args).output().unwrap();
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{args:?}: {said}");
    }
}

#[test]
fn a_profile_says_what_programs_and_helpers_take() {
    let args =
        ["--profile", "--only", "rr/pod/cluster-ip/local/ipv4", "--modes", "packet", "--quick", "--services", "1"];
    let args = [&args[..], &["--passes", "1", "--rounds", "10", "--slice", "5"]].concat();
    if Command::new("perf").arg("--version").output().is_ok() {
        let shown = text(&run(&args).stdout);
        let row = |part: &str| {
            let line = shown.lines().find(|line| line.trim_start().starts_with(part));
            let line = line.unwrap_or_else(|| panic!("no {part}: {shown}"));
            line.trim_start()[part.len()..].split_whitespace().map(|n| n.parse::<f64>().unwrap()).collect::<Vec<_>>()
        };
        let all = row("all ");
        assert!(all[0] > 1000.0 && all[1] > 1000.0, "{shown}");
        for part in ["program pod_ingress ", "helpers: map look-up ", "helpers: packet "] {
            let [direct, packet, more, _] = row(part)[..] else { panic!("{shown}") };
            assert!(direct == 0.0 && packet > 0.0 && more == packet && packet < all[1], "{shown}");
        }
        let [direct, packet, ..] = row("sockets, system calls ")[..] else { panic!("{shown}") };
        assert!(direct > 0.0 && packet > 0.0, "{shown}");
    }
    // Where there is none, that is told before anything is set up.
    let nowhere = tempfile::tempdir().unwrap();
    let output = datapath(&args).env("PATH", nowhere.path()).output().unwrap();
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains("--profile needs the program `perf`"), "{said}");
    assert!(!said.contains("stations"), "{said}");
}

/// A signal in the middle, as by control-C, which a shell may have its background jobs ignore: agents, workers, namespaces and
/// pinned programs go.
#[test]
fn nothing_is_left_when_it_is_interrupted() {
    let args = ["--quick", "--rounds", "100000", "--services", "1", "--only", "rr/node/cluster-ip/local/ipv4"];
    let mut child = datapath(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("set up in")), "it ended before it measured");
    thread::sleep(Duration::from_millis(300));
    let pid = child.id();
    assert!(!labs_of(pid).is_empty());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !labs_of(pid).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", labs_of(pid));
        thread::sleep(Duration::from_millis(20));
    }
}
