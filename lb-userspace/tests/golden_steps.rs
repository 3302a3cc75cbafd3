//! Objects that change in time: one folder for each rule, steps in it, and after each step one state document.
//!
//! `golden_steps/RULE/step-NN.yaml` holds the objects that are put in a step, in the order in which an API server would
//! tell of them. A document `delete: [Kind namespace/name, …]` deletes; a Node has no namespace. The first step begins with
//! comment lines that say what the rule is and, after `# Source:`, whose rule it is. `expected-NN.json` is the state
//! after step NN, a frontend or backend on each line. `args` are flags as of `berrylb plan`; without, `--node-name n1`.
//!
//! Each folder runs through the planner, and through the maps with a tenth of the writes failing; `dump` has to say what the
//! plan says after each step, and the maps are empty when everything is deleted.
//!
//! `UPDATE=1 cargo test --test golden_steps` writes what is found now; read the difference before you commit it.

#[expect(dead_code, unused_imports, reason = "shared with tests of random clusters")]
mod maps_support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use berrylb::{
    cli::plan::PlanArgs,
    k8s,
    maps::Faults,
    model::{Kind, Object, ObjectRef},
    plan::{
        PlanConfig, Planner,
        state::{ServiceChange, State},
    },
};
use clap::Parser;
use maps_support::{
    Rng,
    agent::{Agent, World},
};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    plan: PlanArgs,
}

/// What happens to one object.
#[derive(Clone, Debug)]
enum Op {
    Put(Box<Object>),
    Delete(ObjectRef),
}

impl Op {
    fn apply(self, planner: &mut Planner) {
        match self {
            Self::Put(object) => planner.upsert(*object),
            Self::Delete(key) => planner.remove(&key),
        }
    }
}

struct Case {
    name: String,
    dir: PathBuf,
    config: PlanConfig,
    steps: Vec<Vec<Op>>,
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_steps");
    let mut dirs: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    dirs.sort();
    dirs.into_iter().map(Case::read).collect()
}

impl Case {
    fn read(dir: PathBuf) -> Self {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let args = fs::read_to_string(dir.join("args")).unwrap_or_else(|_| "--node-name n1".to_owned());
        let words = format!("plan --from . {args}");
        let config = Cli::try_parse_from(words.split_whitespace()).unwrap().plan.config();
        let mut steps = Vec::new();
        while let Ok(text) = fs::read_to_string(dir.join(format!("step-{:02}.yaml", steps.len() + 1))) {
            if steps.is_empty() {
                let source = text.lines().take_while(|l| l.starts_with("# ")).any(|l| l.starts_with("# Source: "));
                assert!(source, "{name}: step 1 does not say whose rule it is");
            }
            steps.push(step(&name, &text));
        }
        assert!(steps.len() > 1, "{name}: a case in time has steps");
        let yaml =
            fs::read_dir(&dir).unwrap().filter(|e| e.as_ref().unwrap().path().extension() == Some("yaml".as_ref()));
        assert_eq!(yaml.count(), steps.len(), "{name}: steps are numbered from 01 without a gap");
        Self { name, dir, config, steps }
    }
}

fn step(name: &str, text: &str) -> Vec<Op> {
    let mut ops = Vec::new();
    for document in text.split("\n---\n") {
        let body = document.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
        if let Some(list) = body.strip_prefix("delete: [") {
            let list = list.strip_suffix(']').unwrap_or_else(|| panic!("{name}: {body}"));
            ops.extend(list.split(", ").map(|text| Op::Delete(object_ref(name, text))));
            continue;
        }
        let parsed = k8s::parse(name, document.as_bytes());
        assert!(parsed.bad.is_empty() && parsed.unknown.is_empty(), "{name}: {:?} {:?}", parsed.bad, parsed.unknown);
        assert_eq!(parsed.objects.len(), 1, "{name}: one object in each document: {document}");
        ops.extend(parsed.objects.into_iter().map(|located| Op::Put(Box::new(located.object))));
    }
    ops
}

fn object_ref(name: &str, text: &str) -> ObjectRef {
    let (kind, path) = text.split_once(' ').unwrap_or_else(|| panic!("{name}: delete {text}"));
    let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Endpoints, Kind::Node];
    let kind = *kinds.iter().find(|k| k.as_str() == kind).unwrap_or_else(|| panic!("{name}: delete {text}"));
    let (namespace, object) = path.split_once('/').unwrap_or(("", path));
    assert_eq!(namespace.is_empty(), kind == Kind::Node, "{name}: delete {text}");
    ObjectRef::new(kind, namespace, object)
}

/// The state document, a frontend or a backend on each line: the same document to a JSON parser, and one that can be read.
fn json(state: &State) -> String {
    let State { node, frontends, health_checks } = state;
    let lines =
        |items: Vec<String>| if items.is_empty() { String::new() } else { format!("\n  {}\n", items.join(",\n  ")) };
    let text = |item: serde_json::Result<String>| {
        item.unwrap()
            .replace("\":[{\"address\"", "\":[\n    {\"address\"")
            .replace("},{\"address\"", "},\n    {\"address\"")
    };
    let frontends = lines(frontends.iter().map(|f| text(serde_json::to_string(f))).collect());
    let checks = lines(health_checks.iter().map(|c| text(serde_json::to_string(c))).collect());
    let node = serde_json::to_string(node).unwrap();
    format!("{{\"node\":{node},\"frontends\":[{frontends}],\n\"healthChecks\":[{checks}]}}\n")
}

/// The states after each step, by a planner that sees the changes one by one.
fn states(case: &Case) -> Vec<State> {
    let mut planner = Planner::new(case.config.clone());
    let mut states = Vec::new();
    for ops in &case.steps {
        ops.iter().cloned().for_each(|op| op.apply(&mut planner));
        states.push(planner.state());
    }
    states
}

#[test]
fn every_step_has_its_state() {
    let update = std::env::var_os("UPDATE").is_some();
    let cases = cases();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let all = cases.len() + fs::read_dir(golden).unwrap().count();
    assert!(all >= 120, "{all} cases: some are not where they should be");
    let mut failures = Vec::new();
    for case in &cases {
        for (state, n) in states(case).iter().zip(1..) {
            let path = case.dir.join(format!("expected-{n:02}.json"));
            let (found, expected) = (json(state), fs::read_to_string(&path).unwrap_or_default());
            let again: serde_json::Value = serde_json::from_str(&found).unwrap();
            assert_eq!(again, serde_json::to_value(state).unwrap(), "the lines are the document");
            if found == expected {
                continue;
            }
            if update {
                fs::write(&path, found).unwrap();
            } else {
                failures.push(format!("{}, step {n}: expected\n{expected}found\n{found}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} states differ:\n{}", failures.len(), failures.join("\n"));
}

/// Where an agent stands after a step does not depend on the way: not on the order of the objects in the step, not on what
/// it saw before, and not on how often it looked meanwhile.
#[test]
fn the_way_does_not_matter() {
    for case in cases() {
        let (name, expected) = (&case.name, states(&case));
        let mut world = World::new();
        let mut haste = Planner::new(case.config.clone());
        let mut told: BTreeMap<_, ServiceChange> = BTreeMap::new();
        for (ops, state) in case.steps.iter().zip(&expected) {
            for op in ops {
                match op.clone() {
                    Op::Put(object) => drop(world.insert(object.key(), *object)),
                    Op::Delete(key) => {
                        assert!(world.remove(&key).is_some(), "{name}: {key} is not there to be deleted")
                    }
                }
                op.clone().apply(&mut haste);
                told.extend(haste.take_changes().into_iter().map(|change| (change.service.clone(), change)));
            }
            let mut fresh = Planner::new(case.config.clone());
            world.values().rev().cloned().for_each(|object| fresh.upsert(object));
            assert_eq!(&fresh.state(), state, "{name}: an agent that starts now");
            let frontends = told.values().flat_map(|change| change.frontends.clone()).collect();
            let sum = State::new(state.node.clone(), frontends, haste.health_checks());
            assert_eq!(&sum, state, "{name}: the changes that were told");
        }
    }
}

/// Runs a case through maps of which a tenth of the writes fail. With `restarts`, another agent takes the maps over after each
/// step has happened, and has not seen it happen.
fn run(case: &Case, seed: u64, restarts: bool) {
    let mut rng = Rng::new(seed);
    let mut world = World::new();
    let mut agent = Agent::new(case.config.clone(), Faults::Percent { percent: 10, seed });
    for ((ops, state), n) in case.steps.iter().zip(states(case)).zip(1..) {
        let context = format!("{} step {n} seed {seed} restarts {restarts}", case.name);
        for op in ops {
            match op.clone() {
                Op::Put(object) => drop(world.insert(object.key(), *object)),
                Op::Delete(key) => drop(world.remove(&key)),
            }
            if !restarts {
                op.clone().apply(&mut agent.planner);
                if rng.one_in(2) {
                    agent.follow(&context);
                    let now = agent.planner.state();
                    agent.check(&now, &context);
                }
            }
        }
        if restarts {
            agent = agent.restart(case.config.clone(), &world, &context);
        } else {
            agent.follow(&context);
        }
        agent.check(&state, &context);
    }
    agent.end(&format!("{} deleted, seed {seed} restarts {restarts}", case.name));
}

#[test]
fn the_maps_follow_with_a_tenth_of_writes_failing() {
    for case in cases() {
        (0..4).for_each(|seed| run(&case, seed, false));
    }
}

#[test]
fn an_agent_that_was_away_finds_out() {
    for case in cases() {
        (0..4).for_each(|seed| run(&case, seed, true));
    }
}
