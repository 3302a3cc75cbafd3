//! YAML in, state document out: one folder for each case, one `check()` for all.
//!
//! `golden/NAME/` holds `input.yaml` (or any files that `args` names), `expected.json`, what stderr says with the exit
//! code where it is not 0 (`stderr.txt`, absent: nothing, 0), and `args` beyond `--from ./input.yaml`. In `args`, words
//! that begin with `./` are paths in the folder; `-` reads `input.yaml` as standard input.
//!
//! Where there is a `table.txt` or `wide.txt`, it is what `-o table` or `-o wide` prints.
//!
//! `UPDATE=1 cargo test --test golden` writes what is found now; read the difference before you commit it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use berrylb::{
    cli::{
        output::{Format, OutputArgs},
        plan::{PlanArgs, run_on},
    },
    k8s,
    model::{Object, ObjectRef},
    plan::{
        Planner,
        state::{Frontend, ServiceName, State},
    },
};
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    plan: PlanArgs,
}

struct Case {
    name: String,
    dir: PathBuf,
    args: PlanArgs,
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut dirs: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    dirs.sort();
    dirs.into_iter().map(|dir| Case { name: file_name(&dir), args: args(&dir), dir }).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn args(dir: &Path) -> PlanArgs {
    let extra = fs::read_to_string(dir.join("args")).unwrap_or_default();
    let default = if extra.contains("--from") { "" } else { "--from ./input.yaml " };
    let words = format!("plan {default}{extra}");
    let words = words.split_whitespace().map(|w| match w.strip_prefix("./") {
        Some(file) => dir.join(file).into_os_string(),
        None => w.into(),
    });
    Cli::try_parse_from(words).unwrap().plan
}

fn objects(case: &Case) -> BTreeMap<ObjectRef, Object> {
    let stdin = fs::read(case.dir.join("input.yaml")).unwrap_or_default();
    let loaded = k8s::load(&case.args.from, &mut stdin.as_slice());
    loaded.objects.into_iter().map(|(key, located)| (key, located.object)).collect()
}

fn json(state: &State) -> String {
    serde_json::to_string_pretty(state).unwrap() + "\n"
}

/// Whether it was complete, standard output, standard error.
fn print(case: &Case, format: Format) -> (bool, String, String) {
    let stdin = fs::read(case.dir.join("input.yaml")).unwrap_or_default();
    let args = PlanArgs { output: OutputArgs { output: format }, ..case.args.clone() };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let complete = run_on(&args, false, &mut stdin.as_slice(), &mut out, &mut err).unwrap();
    (complete, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Runs one case and compares, or writes, its files. Returns what differs.
fn check(case: &Case, update: bool) -> Result<(), String> {
    let (complete, json, stderr) = print(case, Format::Json);
    let here = format!("{}/", case.dir.display());
    let mut stderr = stderr.replace(&here, "");
    if !complete {
        stderr.push_str("exit 1\n");
    }
    let mut files = vec![("expected.json", json), ("stderr.txt", stderr)];
    for (file, format) in [("table.txt", Format::Table), ("wide.txt", Format::Wide)] {
        if case.dir.join(file).exists() {
            files.push((file, print(case, format).1));
        }
    }
    for (file, found) in files {
        let path = case.dir.join(file);
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if found == expected {
            continue;
        }
        if !update {
            let line = expected.lines().zip(found.lines()).position(|(a, b)| a != b);
            let line = line.unwrap_or_else(|| expected.lines().count().min(found.lines().count()));
            let [want, have] = [&expected, &found].map(|t| t.lines().nth(line).unwrap_or("(end)"));
            let Case { name, .. } = case;
            return Err(format!("{name}/{file}:{}: expected {want}, found {have}\n{found}", line + 1));
        }
        if found.is_empty() {
            fs::remove_file(&path).unwrap();
        } else {
            fs::write(&path, found).unwrap();
        }
    }
    Ok(())
}

#[test]
fn every_case() {
    let update = std::env::var_os("UPDATE").is_some();
    let cases = cases();
    assert!(cases.len() >= 50, "the cases are not where they should be");
    let failures: Vec<_> = cases.iter().filter_map(|case| check(case, update).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Whatever the order in which objects come, and however often somebody asks in between, the end is the same, and the
/// changes told on the way add up to it.
#[test]
fn order_and_haste_do_not_matter() {
    for case in cases() {
        let objects: Vec<Object> = objects(&case).into_values().collect();
        let expected = fs::read_to_string(case.dir.join("expected.json")).unwrap();
        let mut orders = vec![objects.clone(), objects.iter().rev().cloned().collect::<Vec<_>>()];
        orders.push(objects.iter().skip(1).step_by(2).chain(objects.iter().step_by(2)).cloned().collect());
        for order in orders {
            let mut planner = Planner::new(case.args.config());
            let mut told: BTreeMap<ServiceName, Vec<Frontend>> = BTreeMap::new();
            for object in order {
                planner.upsert(object);
                for change in planner.take_changes() {
                    told.insert(change.service, change.frontends);
                }
            }
            assert_eq!(json(&planner.state()), expected, "{}", case.name);
            let told = told.into_values().flatten().collect();
            assert_eq!(json(&State::new(case.args.node_name.clone(), told, planner.health_checks())), expected);
            planner.retain(|_| false);
            let gone = planner.take_changes();
            assert!(gone.iter().all(|c| c.frontends.is_empty()), "{}: something stayed", case.name);
            let empty = planner.state();
            assert!(empty.frontends.is_empty() && empty.health_checks.is_empty(), "{}", case.name);
        }
    }
}

/// `-o yaml` is the same document as `-o json`, whatever strings it holds.
#[test]
fn yaml_output_says_the_same() {
    for case in cases() {
        let yaml: serde_json::Value = serde_yaml::from_str(&print(&case, Format::Yaml).1).unwrap();
        let json: serde_json::Value = serde_json::from_str(&print(&case, Format::Json).1).unwrap();
        assert_eq!(yaml, json, "{}", case.name);
    }
}

/// YAML and JSON say the same: every good document of every case, written as JSON, gives the same objects.
#[test]
fn json_is_as_good_as_yaml() {
    let mut compared = 0;
    for case in cases() {
        let Ok(text) = fs::read_to_string(case.dir.join("input.yaml")) else { continue };
        let yaml = k8s::parse("input", text.as_bytes());
        if !yaml.bad.is_empty() || text.contains("<<") {
            continue;
        }
        let documents = serde_yaml::from_multiple_with_options(&text, serde_yaml::options! { strict_booleans: true });
        let documents: Vec<serde_json::Value> = documents.unwrap();
        for tabs in [false, true] {
            let mut out = String::new();
            for document in &documents {
                let pretty = serde_json::to_string_pretty(document).unwrap();
                out.push_str("---\n");
                for line in pretty.lines() {
                    let indent = line.len() - line.trim_start().len();
                    out.push_str(&if tabs { "\t".repeat(indent / 2) } else { " ".repeat(indent) });
                    out.push_str(line.trim_start());
                    out.push('\n');
                }
            }
            let objects = |parsed: k8s::Parsed| parsed.objects.into_iter().map(|l| l.object).collect::<Vec<_>>();
            let from_json = k8s::parse("input", out.as_bytes());
            assert_eq!(from_json.bad, [], "{}", case.name);
            assert_eq!(from_json.unknown, yaml.unknown, "{}", case.name);
            assert_eq!(objects(from_json), objects(yaml.clone()), "{}", case.name);
            compared += 1;
        }
    }
    assert!(compared > 40, "only {compared} cases could be compared");
}
