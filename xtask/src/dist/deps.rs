//! Which crates a binary is made of, as cargo resolves them. Reads cargo's metadata and Cargo.lock, never the network
//! beyond what cargo itself fetches.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package, PackageId, TargetKind};

use super::Arch;
use crate::process;

/// The binary's package, and that of the BPF object inside.
const ROOTS: [&str; 2] = ["lb-userspace", "lb-ebpf"];

/// A crate and what it came to be in.
#[derive(Clone, Debug)]
pub(super) struct Crate {
    /// As on crates.io.
    pub(super) name: String,
    /// As on crates.io.
    pub(super) version: String,
    /// What its manifest says, an SPDX expression.
    pub(super) licence: Option<String>,
    /// A file with its licence that the manifest names.
    pub(super) licence_file: Option<PathBuf>,
    /// Authors as its manifest has them.
    pub(super) authors: Vec<String>,
    /// Where its source is.
    pub(super) folder: PathBuf,
    /// Whether it comes from crates.io, rather than from this workspace.
    pub(super) foreign: bool,
    /// SHA-256 of its source package, as Cargo.lock pins it.
    pub(super) checksum: Option<String>,
    /// Whether its code is in the binary; otherwise it only ran when the binary was built.
    pub(super) linked: bool,
    /// Names and versions of the crates that it depends on itself.
    pub(super) needs: BTreeSet<(String, String)>,
}

/// All crates of the binary for `arch`, in order of name and version, those of the workspace too.
///
/// # Errors
/// When cargo cannot tell them.
pub(super) fn crates(arch: Arch) -> Result<Vec<Crate>> {
    let metadata = MetadataCommand::new()
        .cargo_path(process::cargo().get_program())
        .manifest_path(process::workspace_root().join("Cargo.toml"))
        .features(CargoOpt::SomeFeatures(Vec::new()))
        .other_options(["--locked", "--filter-platform", arch.target()].map(str::to_owned))
        .exec()
        .context("ask cargo for the dependencies")?;
    let lock = process::workspace_root().join("Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| format!("read {}", lock.display()))?;
    collect(&metadata, &checksums(&lock))
}

fn collect(metadata: &Metadata, checksums: &BTreeMap<(String, String), String>) -> Result<Vec<Crate>> {
    let resolve = metadata.resolve.as_ref().context("cargo's metadata has no resolved dependencies")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let packages: BTreeMap<&PackageId, &Package> = metadata.packages.iter().map(|one| (&one.id, one)).collect();
    let roots: Vec<&PackageId> = packages
        .values()
        .filter(|package| ROOTS.contains(&package.name.as_str()) && package.source.is_none())
        .map(|package| &package.id)
        .collect();

    // What is linked is reached by ordinary dependencies alone and is no plugin of the compiler.
    let edges = |id: &PackageId, kinds: &[DependencyKind]| -> Vec<&PackageId> {
        let node = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        node.filter(|dep| dep.dep_kinds.iter().any(|info| kinds.contains(&info.kind))).map(|dep| &dep.pkg).collect()
    };
    let is_plugin = |id: &PackageId| {
        packages.get(id).is_some_and(|package| package.targets.iter().any(|t| t.kind.contains(&TargetKind::ProcMacro)))
    };
    let reach = |kinds: &[DependencyKind], plugins: bool| {
        let (mut seen, mut next) = (BTreeSet::new(), roots.clone());
        while let Some(id) = next.pop() {
            if (plugins || !is_plugin(id)) && seen.insert(id) {
                next.extend(edges(id, kinds));
            }
        }
        seen
    };
    let linked = reach(&[DependencyKind::Normal], false);
    let used = reach(&[DependencyKind::Normal, DependencyKind::Build], true);

    let key = |package: &Package| (package.name.to_string(), package.version.to_string());
    let mut crates = Vec::new();
    for id in &used {
        let package = packages.get(id).with_context(|| format!("cargo's metadata has no package {id}"))?;
        let needs = edges(id, &[DependencyKind::Normal, DependencyKind::Build]);
        let folder = package.manifest_path.parent().context("a manifest without a folder")?;
        crates.push(Crate {
            name: package.name.to_string(),
            version: package.version.to_string(),
            licence: package.license.clone(),
            licence_file: package.license_file().map(Into::into),
            authors: package.authors.clone(),
            folder: folder.into(),
            foreign: package.source.is_some(),
            checksum: checksums.get(&key(package)).cloned(),
            linked: linked.contains(id),
            needs: needs.iter().filter_map(|id| packages.get(id)).map(|package| key(package)).collect(),
        });
    }
    crates.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(crates)
}

/// Name and version to checksum, of Cargo.lock's text. cargo writes one key a line, `name` before `version` before
/// `checksum`.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for entry in lock.split("[[package]]").skip(1) {
        let value =
            |key: &str| entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'));
        if let (Some(name), Some(version), Some(checksum)) = (value("name"), value("version"), value("checksum")) {
            found.insert((name.to_owned(), version.to_owned()), checksum.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_lock() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+x\"\n\
                    checksum = \"00ff\"\ndependencies = [\n \"b\",\n]\n\n[[package]]\nname = \"b\"\nversion = \"0.1.0\"\n";
        let expected = [(("a".to_owned(), "1.0.0".to_owned()), "00ff".to_owned())];
        assert_eq!(checksums(lock), BTreeMap::from(expected));
    }

    #[test]
    fn the_agent_its_object_and_their_crates_are_found() {
        let crates = crates(Arch::Arm64).expect("metadata");
        let one = |name: &str| {
            crates.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no {name} among {}", crates.len()))
        };
        for name in ["lb-userspace", "lb-ebpf", "lb-common", "aya", "aya-ebpf", "hyper", "ring"] {
            assert!(one(name).linked, "{name}");
        }
        // Plugins of the compiler and what builds C code.
        for name in ["serde_derive", "cc"] {
            assert!(!one(name).linked, "{name}");
        }
        assert!(crates.iter().all(|one| !["proptest", "lb-lab", "windows-sys"].contains(&one.name.as_str())));
        assert!(crates.iter().all(|one| one.foreign == one.checksum.is_some()), "all that is foreign is pinned");
        assert!(one("aya").needs.iter().any(|(name, _)| name == "aya-obj"));
    }
}
