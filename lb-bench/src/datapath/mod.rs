//! `berrylb-bench datapath`: what connections and packets cost by each way of serving Services.
//!
//! One lab holds two nodes for each mode, all alike but for what serves their Services. Of each scenario every mode has a
//! worker, a process that is client and server at once, pinned to the same processor as all others. They take turns of
//! some milliseconds in random order, so that what else the machine does falls on all alike. An operation is a closed
//! loop within one thread, so its time is the processor time of everything that it took, see [`work`].

mod compare;
mod crew;
mod figures;
mod histogram;
mod html;
mod iptables;
mod kube_proxy;
mod modes;
mod nftables;
mod options;
mod packets;
mod plot;
mod profile;
mod report;
mod scenarios;
mod services;
mod stations;
mod work;
mod worker;

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{
    crew::{Order, Pass, Turns, Worker},
    figures::{ScenarioFigures, figures},
    modes::{Absent, Mode},
    report::Report,
    scenarios::Scenario,
    stations::{Key, Stations},
    work::{BULK, Work},
};
pub(crate) use self::{
    options::Options,
    worker::{WorkerArgs, worker},
};

/// Measures everything, prints it, and writes it down.
///
/// # Errors
/// Not root, a bad option, something of the lab does not do what it is to do.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (mut scenarios, absent) = wanted(options)?;
    if options.list {
        let names: String = scenarios.iter().map(|scenario| scenario.name() + "\n").collect();
        return io::stdout().write_all(names.as_bytes()).context("name the scenarios");
    }
    options.processor()?;
    if options.profile {
        profile::available()?;
    }
    if let Some(path) = &options.compare {
        // A wrong file is told before the half hour, not behind it.
        report::read(path)?;
    }
    let keys: BTreeSet<Key> = scenarios.iter().flat_map(|scenario| scenario.modes.iter().copied()).collect();
    let keys: Vec<Key> = keys.into_iter().collect();
    let mut report = Report::new(options, absent)?;
    if let Some(path) = &options.packets {
        report.packets = Some(packets::read(path)?);
    }
    if options.only.is_empty() {
        report.programs = packets::programs()?;
    }

    let start = Instant::now();
    eprintln!("{} stations …", keys.len());
    let mut stations = Stations::new(&keys, options)?;
    without(&mut scenarios, &stations.absent);
    report.absent.extend(stations.absent.iter().cloned());
    eprintln!("  set up in {:.0} s", start.elapsed().as_secs_f64());
    let mut order = Order::new();
    if options.profile {
        for scenario in &scenarios {
            stations.restart_agents(&mut order).context("start the agents once more")?;
            let profile = || profile::profile(&stations, scenario, options, &mut order);
            within(&stations, scenario, profile).with_context(|| format!("profile {}", scenario.name()))?;
        }
        return Ok(());
    }
    let mut passes: Vec<Vec<Vec<Pass>>> = vec![Vec::new(); scenarios.len()];
    // Each pass goes through all scenarios, so that slow changes of the machine become part of the noise that is told.
    for pass in 0..options.passes() {
        stations.restart_agents(&mut order).context("start the agents once more")?;
        for (scenario, passes) in scenarios.iter().zip(&mut passes) {
            let taken = one_pass(&stations, scenario, options, &mut order);
            passes.push(taken.with_context(|| format!("measure {}", scenario.name()))?);
        }
        eprintln!("  pass {} of {} after {:.0} s", pass + 1, options.passes(), start.elapsed().as_secs_f64());
    }
    drop(stations);
    for (scenario, passes) in scenarios.iter().zip(&passes) {
        let modes = figures(&scenario.modes, scenario.work.pace().is_some(), passes).context("there was no pass")?;
        let bytes = (scenario.work == Work::Bulk).then_some(BULK);
        report.scenarios.push(ScenarioFigures { name: scenario.name(), bytes, modes });
    }
    report.seconds = start.elapsed().as_secs();
    report.finish(options)
}

/// The scenarios that were asked for and can be run here, and the modes that cannot, with the reason.
fn wanted(options: &Options) -> Result<(Vec<Scenario>, Absent)> {
    let mut absent = Vec::new();
    for (mode, program) in [(Mode::Iptables, "iptables-restore"), (Mode::Nftables, "nft")] {
        if std::process::Command::new(program).arg("--version").output().is_err() {
            absent.push((mode, format!("there is no {program} here")));
        }
    }
    let kube_proxy = options.kube_proxy.as_deref().map(kube_proxy::version).transpose();
    if let Some(version) = kube_proxy.map_err(anyhow::Error::msg)? {
        eprintln!("kube-proxy is {version}");
    } else {
        let why = "no program was given (--kube-proxy)";
        absent.extend([Mode::KubeProxyIpt, Mode::KubeProxyNft].map(|mode| (mode, why.to_owned())));
    }
    let mut scenarios = scenarios::all(&options.extent());
    scenarios.retain(|scenario| options.wants(&scenario.name()));
    scenarios.iter_mut().for_each(|scenario| scenario.modes.retain(|(mode, _)| options.has(*mode)));
    without(&mut scenarios, &absent);
    if scenarios.is_empty() {
        bail!("no scenario has `{}` in its name; --list names them", options.only.join("`, `"));
    }
    Ok((scenarios, absent))
}

fn without(scenarios: &mut [Scenario], absent: &[(Mode, String)]) {
    for scenario in scenarios {
        scenario.modes.retain(|(mode, _)| !absent.iter().any(|(other, _)| mode == other));
    }
}

fn one_pass(stations: &Stations, scenario: &Scenario, options: &Options, order: &mut Order) -> Result<Vec<Pass>> {
    let turns = || crew::take_turns(&mut workers(stations, scenario, options)?, turns(options), order);
    within(stations, scenario, turns)
}

fn turns(options: &Options) -> Turns {
    Turns { rounds: options.rounds(), slice: Duration::from_millis(options.slice()) }
}

/// Starts a worker for each mode.
fn workers(stations: &Stations, scenario: &Scenario, options: &Options) -> Result<Vec<Worker>> {
    let start = |key: &Key| {
        let worker = stations.worker(scenario, *key, options.processor()?);
        worker.with_context(|| format!("{} with {} Services", key.0.name(), key.1))
    };
    scenario.modes.iter().map(start).collect()
}

/// Does something while the stations are as a scenario needs them.
fn within<T>(stations: &Stations, scenario: &Scenario, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let is_xdp = scenario.modes.iter().any(|(mode, _)| *mode == Mode::Xdp);
    if is_xdp {
        stations.whole_checksums(&scenario.modes, true)?;
    }
    let done = work();
    if is_xdp {
        stations.whole_checksums(&scenario.modes, false)?;
    }
    done
}
