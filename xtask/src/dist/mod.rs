//! `cargo xtask dist`: what is shipped, in `target/dist`. Static binaries, their bills of materials, the licence texts, and
//! checksums over all of it. Equal sources and tools give equal bytes, and `--check` tries that.

mod arch;
mod check;
mod deps;
pub(crate) mod image;
mod licences;
mod oci;
mod sbom;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use sha2::{Digest as _, Sha256};

pub(crate) use self::arch::{Arch, test_cargo};
use crate::{build_ebpf, process};

/// A static binary should not be larger, in bytes.
const SIZE_GOAL: usize = 12 << 20;

/// Names the file with the licence texts.
const LICENCES: &str = "THIRD-PARTY-LICENSES.txt";

/// For which architectures.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Archs {
    /// 64-bit ARM.
    Arm64,
    /// 64-bit x86.
    Amd64,
    /// Both.
    All,
}

impl Archs {
    fn list(self) -> &'static [Arch] {
        match self {
            Self::Arm64 => &[Arch::Arm64],
            Self::Amd64 => &[Arch::Amd64],
            Self::All => &[Arch::Amd64, Arch::Arm64],
        }
    }
}

/// Builds for `archs` and returns the folder. With `check` it builds a second time, from a copy of the sources elsewhere,
/// and compares.
///
/// # Errors
/// When a tool is missing, a build fails, or the second one differs.
pub(crate) fn run(archs: Archs, check: bool) -> Result<PathBuf> {
    let commit = commit()?;
    build_ebpf::build()?;
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for &arch in archs.list() {
        let size = make(arch, &commit, &folder)?;
        eprintln!("{}: {size} bytes", folder.join(binary_name(arch)).display());
        if size > SIZE_GOAL {
            eprintln!("warning: larger than the goal of {SIZE_GOAL} bytes");
        }
    }
    write_checksums(&folder)?;
    if check {
        check::again(archs, &commit, &folder)?;
    }
    Ok(folder)
}

/// Builds the static binary of one architecture, as it is shipped, and returns its path.
///
/// # Errors
/// As [`run`].
pub(crate) fn binary(arch: Arch) -> Result<PathBuf> {
    build_ebpf::build()?;
    arch::build(arch, &commit()?)
}

/// Where it all goes.
pub(crate) fn folder() -> PathBuf {
    process::target_dir().join("dist")
}

/// Name of the binary for `arch` in [`folder`].
pub(crate) fn binary_name(arch: Arch) -> String {
    format!("berrylb-linux-{}", arch.name())
}

/// The workspace's version.
pub(crate) fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The binary, its bill of materials and the licence texts; returns the binary's size in bytes.
fn make(arch: Arch, commit: &str, folder: &Path) -> Result<usize> {
    let built = arch::build(arch, commit)?;
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let name = binary_name(arch);
    let to = folder.join(&name);
    // Copied with its mode; a running binary of that name is not written into.
    let part = folder.join(format!("{name}.part"));
    fs::copy(&built, &part).with_context(|| format!("write {}", part.display()))?;
    fs::rename(&part, &to).with_context(|| format!("rename {} to {}", part.display(), to.display()))?;

    let crates = deps::crates(arch)?;
    let bill = sbom::cyclonedx(arch, &name, &sha256(&bytes), version(), &crates);
    write(&folder.join(format!("{name}.cdx.json")), format!("{bill:#}\n").as_bytes())?;
    write(&folder.join(LICENCES), licences::texts(&crates)?.as_bytes())?;
    Ok(bytes.len())
}

/// `SHA256SUMS` over the folder's files, as `sha256sum --check` reads it.
fn write_checksums(folder: &Path) -> Result<()> {
    let mut sums = String::new();
    for name in files(folder)? {
        if name == "SHA256SUMS" || name.ends_with(".part") {
            continue;
        }
        let bytes = fs::read(folder.join(&name)).with_context(|| format!("read {name}"))?;
        writeln!(sums, "{}  {name}", sha256(&bytes)).context("write into a string")?;
    }
    write(&folder.join("SHA256SUMS"), sums.as_bytes())
}

/// Names of the files in `folder`, in order.
fn files(folder: &Path) -> Result<Vec<String>> {
    let context = || format!("list {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        if entry.path().is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// Hexadecimal SHA-256.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// What the binary says it was built from: `BERRYLB_COMMIT`, else what git says.
fn commit() -> Result<String> {
    if let Some(given) = std::env::var("BERRYLB_COMMIT").ok().filter(|text| !text.is_empty()) {
        return Ok(given);
    }
    let root = process::workspace_root();
    let mut git = std::process::Command::new("git");
    git.args(["describe", "--always", "--dirty", "--match", "v[0-9]*"]).current_dir(root);
    let text = process::output(&mut git).context(
        "this is no git work tree.\nNext step: say what is being built, as in BERRYLB_COMMIT=v0.1.0 cargo xtask dist",
    )?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_cover_what_is_shipped_in_order() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (name, text) in [("b", "abc"), ("a", ""), ("c.part", "x"), ("SHA256SUMS", "old")] {
            write(&folder.path().join(name), text.as_bytes()).expect("write");
        }
        write_checksums(folder.path()).expect("write");
        let sums = fs::read_to_string(folder.path().join("SHA256SUMS")).expect("read");
        // The two are known from FIPS 180-4.
        assert_eq!(
            sums,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n\
             ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b\n"
        );
    }
}
