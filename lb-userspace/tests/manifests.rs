//! The manifests speak the agent's language: every setting in them is one, and takes the value that it is given.

use std::{collections::BTreeSet, fs, path::Path};

use berrylb::agent::AgentArgs;
use serde_json::Value;

/// The objects of each file in `manifests/`.
fn files() -> Vec<(String, Vec<Value>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = fs::read_to_string(&path).unwrap();
            let objects = text.split("\n---\n").map(|document| serde_yaml::from_str(document).unwrap());
            files.push((path.file_name().unwrap().to_str().unwrap().to_owned(), objects.collect()));
        }
    }
    assert!(files.len() > 5, "{} files", files.len());
    files
}

#[test]
fn the_config_file_in_every_manifest_is_taken() {
    for (file, objects) in files() {
        let maps: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "ConfigMap").collect();
        assert_eq!(maps.len(), 1, "{file}");
        let text = maps[0]["data"]["config.yaml"].as_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        // As the file says it, and with what it says as a comment: settings to be filled in.
        let filled = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.split(':').next().is_some_and(|key| !key.contains(' ')) => setting,
            _ => line,
        });
        let filled: String = filled.map(|line| format!("{line}\n")).collect();
        assert!(filled.contains("\napi-server: https://"), "{file}: {filled}");
        for (text, server) in [(text, Some("https://192.168.1.10:6443".to_owned())), (&filled, None)] {
            fs::write(&path, text).unwrap();
            let args = AgentArgs { config: Some(path.clone()), api_server: server, ..AgentArgs::default() };
            let settings = args.settle().unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(settings.cgroup.as_deref(), Some(Path::new("/host/cgroup")), "{file}");
        }
    }
}

#[test]
fn every_variable_in_the_manifests_is_one_of_the_agents() {
    let command = <AgentArgs as clap::Args>::augment_args(clap::Command::new("agent"));
    let known: BTreeSet<&str> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    let mut used = BTreeSet::new();
    for (file, objects) in files() {
        let set = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap_or_else(|| panic!("{file}"));
        for variable in set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap().to_owned();
            assert!(known.contains(name.as_str()), "{file}: the agent knows no {name}");
            used.insert(name);
        }
    }
    assert!(used.contains("BERRYLB_NODE_KUBECONFIG") && used.contains("BERRYLB_NODE_NAME"), "{used:?}");
}
