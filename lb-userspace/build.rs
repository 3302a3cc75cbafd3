//! Tells the agent's source where the BPF object is, if it is, and what version this build is. It starts no cargo:
//! `cargo xtask build-ebpf` builds the object, and a build without it is a build that says so.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Names an object to embed instead of `target/bpf/berrylb.o`; then a missing one is an error.
const OBJECT_VAR: &str = "BERRYLB_BPF_OBJECT";

/// Says what commit this is, for a tree without git's folder: an archive of the sources, or a copy of them.
const COMMIT_VAR: &str = "BERRYLB_COMMIT";

fn main() {
    // With this, cargo reruns the script for what is listed and not for any change in the package.
    println!("cargo::rerun-if-changed=build.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's root").to_path_buf();
    object(&root);
    version(&root);
}

fn object(root: &Path) {
    println!("cargo::rustc-check-cfg=cfg(berrylb_bpf_object)");
    println!("cargo::rerun-if-env-changed={OBJECT_VAR}");
    let given = env::var_os(OBJECT_VAR).filter(|path| !path.is_empty()).map(|path| root.join(path));
    let object = given.clone().unwrap_or_else(|| root.join("target/bpf/berrylb.o"));
    if object.is_file() {
        println!("cargo::rerun-if-changed={}", object.display());
        println!("cargo::rustc-env=BERRYLB_BPF_OBJECT_PATH={}", object.display());
        println!("cargo::rustc-cfg=berrylb_bpf_object");
        return;
    }
    if given.is_some() {
        println!("cargo::error={OBJECT_VAR} names {}, which is no file", object.display());
        return;
    }
    watch_for(&object);
    println!(
        "cargo::warning=built without the BPF object, as {} is not there: the agent will not start. \
         `make build` brings the tools, builds the object and embeds it",
        object.display()
    );
}

/// A missing file in `rerun-if-changed` would rebuild the agent each time, so the folder that it will appear in is
/// watched instead, and made if need be.
fn watch_for(object: &Path) {
    let dir = object.parent().unwrap_or(object);
    let watched = if fs::create_dir_all(dir).is_ok() { dir } else { object };
    println!("cargo::rerun-if-changed={}", watched.display());
}

/// Release builds carry the commit. Debug builds don't, or each commit would rebuild the agent and all its tests.
fn version(root: &Path) {
    let package = env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION");
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    println!("cargo::rerun-if-env-changed={COMMIT_VAR}");
    let given = env::var(COMMIT_VAR).ok().filter(|text| !text.is_empty());
    let build = match given.or_else(|| commit(root)) {
        _ if !release => "debug build".to_owned(),
        Some(commit) => commit,
        None => "commit unknown".to_owned(),
    };
    println!("cargo::rustc-env=BERRYLB_VERSION={package} ({build})");
}

/// The commit and whether the tree differs from it; none outside a git work tree, as in a source tarball.
fn commit(root: &Path) -> Option<String> {
    let describe = git(root, &["describe", "--always", "--dirty", "--match", "v[0-9]*"])?;
    // A commit or checkout moves HEAD's log. What makes the tree dirty is source, which is watched as a whole.
    for name in ["HEAD", "logs/HEAD"] {
        let path: PathBuf = root.join(git(root, &["rev-parse", "--git-path", name])?);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    for dir in ["lb-userspace/src", "lb-common/src"] {
        println!("cargo::rerun-if-changed={}", root.join(dir).display());
    }
    Some(describe)
}

fn git(root: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).current_dir(root).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
