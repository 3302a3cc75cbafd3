//! Asks every cell of a lab at once and compares with the oracle. Failures come as one table.
//!
//! `BERRYLB_MATRIX_ONLY=TEXT` asks only those cells whose line holds the text.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write,
};

use lb_lab::{
    Host, LabConfig, Network,
    peer::{Answers, Batch, Big, Cause, Exchange, Failure, Question, TcpAsk, UdpAsk},
};
use nix::errno::Errno;

use crate::{
    cell::{Call, Cell, Client, Mode, Target, cells},
    oracle::{Expected, expected},
    world::World,
};

/// Long enough for any answer on a machine that is busy with something else.
const PATIENT_MS: u64 = 6_000;
/// Long enough to tell that no answer comes.
const SILENCE_MS: u64 = 700;
/// The kernel sends a lost SYN again after one second. What takes as long was lost once, or the machine is busy: it is
/// asked again when the others are done.
const LOST_MICROS: u64 = 1_000_000;
/// Threads that ask what is answered, for each client.
const WORKERS: u32 = 12;
/// Threads that wait for nothing to come, for each client.
const LISTENERS: u32 = 100;
/// How often a question is asked that several may answer.
const SEVERAL: u32 = 4;
/// Bytes of [`Call::Bulk`] each way.
const BULK: usize = 256 << 10;

#[test]
fn host_gw() {
    check(LabConfig::default(), Mode::Sockets);
}

#[test]
fn vxlan_strict() {
    let config = LabConfig {
        network: Network::Vxlan,
        rp_filter: 1,
        invalid_drop: true,
        bridge_netfilter: false,
        ..LabConfig::default()
    };
    check(config, Mode::Sockets);
}

#[test]
fn host_gw_strict_without_masquerade_by_packet() {
    let config = LabConfig { masquerade: false, rp_filter: 1, bridge_netfilter: false, ..LabConfig::default() };
    check(config, Mode::Packets);
}

#[test]
fn vxlan_by_packet() {
    let config = LabConfig { network: Network::Vxlan, rp_filter: 0, invalid_drop: true, ..LabConfig::default() };
    check(config, Mode::Packets);
}

#[test]
fn host_gw_strict_with_invalid_drop_by_packet() {
    let config = LabConfig { rp_filter: 1, invalid_drop: true, bridge_netfilter: false, ..LabConfig::default() };
    check(config, Mode::Packets);
}

/// A cell that did not do what it must.
struct Wrong {
    cell: Cell,
    expected: String,
    got: String,
}

/// Who of several is to answer in the course of many cells, and who did.
#[derive(Default)]
struct Spread {
    must: BTreeSet<String>,
    did: BTreeSet<String>,
}

fn check(config: LabConfig, mode: Mode) {
    let world = World::new(config, mode);
    let only = env::var("BERRYLB_MATRIX_ONLY").unwrap_or_default();
    let mut asked = cells();
    asked.retain(|cell| cell.to_string().contains(&only));
    assert!(!asked.is_empty(), "no cell is left to ask");

    let mut answers: Vec<Answers> = ask(&world, &asked);
    let late: Vec<usize> = (0..asked.len()).filter(|index| is_late(&asked[*index], &answers[*index])).collect();
    let again = ask(&world, &late.iter().map(|index| asked[*index]).collect::<Vec<_>>());
    for (index, again) in late.into_iter().zip(again) {
        answers[index] = again;
    }
    let mut wrong: Vec<Wrong> = Vec::new();
    let mut spread: BTreeMap<(Client, Target), Spread> = BTreeMap::new();
    for (cell, answers) in asked.iter().zip(&answers) {
        let expected = expected(world.setup, cell);
        if let Some(got) = judge(&world, cell, &expected, answers) {
            wrong.push(Wrong { cell: *cell, expected: describe(&world, cell, &expected), got });
        } else if let Expected::Answer(backends) = expected
            && backends.len() > 1
        {
            let spread = spread.entry((cell.client, cell.target)).or_default();
            spread.must.extend(backends.iter().map(|(backend, _)| backend.name().to_owned()));
            spread.did.extend(answers.names().into_keys());
        }
    }
    let mut report = table(&wrong, asked.len());
    for ((client, target), Spread { must, did }) in &spread {
        if must != did {
            let _infallible = writeln!(report, "{client:?} → {target:?}: only {did:?} of {must:?} ever answered");
        }
    }
    for (node, agent) in world.lab.nodes().iter().zip(world.agents()) {
        let counters = agent.command(&["counters"]).ok().unwrap();
        if world.lab.config().invalid_drop && node.invalid_drops().unwrap() > 0 {
            let _infallible = writeln!(report, "{} dropped packets as INVALID", node.name());
        }
        if !report.is_empty() {
            let moved = counters.lines().filter(|line| line.split_whitespace().nth(1) != Some("0"));
            let moved = moved.collect::<Vec<_>>().join("\n");
            let _infallible = writeln!(report, "counters of {} that are not 0:\n{moved}", node.name());
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

/// Asks everything, all clients side by side.
fn ask(world: &World, cells: &[Cell]) -> Vec<Answers> {
    let mut running = Vec::new();
    for client in Client::ALL {
        let of_client = (0..cells.len()).filter(|index| cells[*index].client == client);
        let (silent, loud) =
            of_client.partition::<Vec<_>, _>(|index| is_silent(&expected(world.setup, &cells[*index])));
        for (indexes, workers) in [(loud, WORKERS), (silent, LISTENERS)] {
            let questions = indexes.iter().map(|index| question(world, &cells[*index])).collect();
            running.push((indexes, world.place(client).begin(Batch { questions, workers }).unwrap()));
        }
    }
    let mut all: BTreeMap<usize, Answers> = BTreeMap::new();
    for (indexes, batch) in running {
        all.extend(indexes.into_iter().zip(batch.finish().unwrap()));
    }
    all.into_values().collect()
}

/// Whether nothing is to come back.
fn is_silent(expected: &Expected) -> bool {
    match expected {
        Expected::Silence | Expected::OutOfReach(_) => true,
        Expected::Answer(_) | Expected::Refused => false,
    }
}

fn question(world: &World, cell: &Cell) -> Question {
    let to = world.destination(cell);
    let (count, timeout_ms) = match expected(world.setup, cell) {
        Expected::Answer(backends) if backends.len() > 1 => (SEVERAL, PATIENT_MS),
        Expected::Answer(_) | Expected::Refused => (1, PATIENT_MS),
        Expected::Silence | Expected::OutOfReach(_) => (1, SILENCE_MS),
    };
    let udp = |connect| Question::Udp(UdpAsk { count, connect, fresh: true, timeout_ms, ..UdpAsk::to(to) });
    match cell.call {
        Call::Tcp => Question::Tcp(TcpAsk { count, timeout_ms, ..TcpAsk::to(to) }),
        Call::Bulk => Question::Big(Big { timeout_ms, ..Big::new(to, BULK) }),
        Call::Connected => udp(true),
        Call::Unconnected => udp(false),
    }
}

/// Whether something came, but so late that a packet may have been lost.
fn is_late(cell: &Cell, answers: &Answers) -> bool {
    let timeout = |failure: &Failure| failure.cause == Cause::Timeout;
    let came = |exchange: &Exchange| !exchange.result.as_ref().is_err_and(timeout);
    cell.call != Call::Bulk && answers.0.iter().any(|exchange| came(exchange) && exchange.micros >= LOST_MICROS)
}

/// What is wrong with the answers, if anything is.
fn judge(world: &World, cell: &Cell, expected: &Expected, answers: &Answers) -> Option<String> {
    if answers.0.is_empty() {
        return Some("was not asked".into());
    }
    answers.0.iter().find_map(|exchange| judge_one(world, cell, expected, exchange))
}

fn judge_one(world: &World, cell: &Cell, expected: &Expected, exchange: &Exchange) -> Option<String> {
    let got = match &exchange.result {
        Ok(seen) => format!("{} saw {}", seen.name, seen.client.ip()),
        Err(failure) => format!("{failure}"),
    };
    let late = is_late(cell, &Answers(vec![exchange.clone()]));
    match (expected, &exchange.result) {
        (Expected::Answer(backends), Ok(seen)) => {
            let to = world.destination(cell);
            let shown = if cell.call == Call::Unconnected { exchange.from } else { exchange.peer };
            let right = backends.iter().any(|(backend, source)| {
                seen.name == backend.name() && seen.client.ip() == world.source(*source, cell.client, cell.family)
            });
            if !right {
                return Some(got);
            }
            if shown != Some(to) {
                return Some(format!("{got}; the application was shown {shown:?} for {to}"));
            }
            late.then(|| format!("{got} after {} ms: a packet was lost", exchange.micros / 1000))
        }
        (Expected::Refused, Err(Failure { cause: Cause::Errno(errno), .. }))
            if *errno == Errno::ECONNREFUSED as i32 =>
        {
            late.then(|| format!("{got} after {} ms", exchange.micros / 1000))
        }
        (Expected::Silence, Err(Failure { cause: Cause::Timeout, .. })) | (Expected::OutOfReach(_), Err(_)) => None,
        (Expected::Answer(_) | Expected::Refused | Expected::Silence | Expected::OutOfReach(_), _) => Some(got),
    }
}

fn describe(world: &World, cell: &Cell, expected: &Expected) -> String {
    match expected {
        Expected::Answer(backends) => {
            let one = |(backend, source): &(crate::cell::Backend, _)| {
                format!("{} sees {}", backend.name(), world.source(*source, cell.client, cell.family))
            };
            backends.iter().map(one).collect::<Vec<_>>().join(" or ")
        }
        Expected::Refused => "refused".into(),
        Expected::Silence => "no answer".into(),
        Expected::OutOfReach(sentence) => format!("out of reach ({sentence})"),
    }
}

fn table(wrong: &[Wrong], asked: usize) -> String {
    let mut text = String::new();
    if wrong.is_empty() {
        return text;
    }
    let cell = |wrong: &Wrong| wrong.cell.to_string();
    let width = wrong.iter().map(|wrong| cell(wrong).chars().count()).max().unwrap_or(0);
    for row in wrong {
        let _infallible = writeln!(text, "{:width$} │ {} │ {}", cell(row), row.expected, row.got);
    }
    let _infallible = writeln!(text, "{} of {asked} cells are wrong (cell, expected, got)", wrong.len());
    text
}
