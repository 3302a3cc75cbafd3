//! A second build, by a copy of the sources in another folder and with cargo's home elsewhere, compared byte for byte.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;

use super::{Archs, files};
use crate::process;

/// Builds once more and compares with `first`.
///
/// # Errors
/// When it cannot be built again, or a file differs.
pub(super) fn again(archs: Archs, commit: &str, first: &Path) -> Result<()> {
    let place = tempfile::Builder::new().prefix("berrylb-again-").tempdir().context("make a temporary folder")?;
    // Deeper than the first, so that its paths have another length as well.
    let copy = place.path().join("a/folder/elsewhere");
    copy_sources(&process::workspace_root(), &copy)?;
    let home = place.path().join("cargo");
    link_cargo_home(&process::cargo_home(), &home)?;

    let name = archs.to_possible_value().context("a hidden value")?;
    let mut build = process::cargo();
    build.current_dir(&copy).args(["xtask", "dist", "--arch", name.get_name()]);
    build.env("CARGO_HOME", &home).env("BERRYLB_COMMIT", commit).env_remove("CARGO_TARGET_DIR");
    process::run(&mut build).context("the second build")?;
    compare(first, &copy.join("target/dist"))
}

/// What git knows of and what it would take, as it is in the work tree.
fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(from);
    let names = process::output(&mut git).context("--check copies what git lists, and needs a git work tree")?;
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let (source, target) = (from.join(name), to.join(name));
        if !source.is_file() {
            // Deleted in the work tree, and not yet in the index.
            continue;
        }
        let folder = target.parent().context("a file without a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::copy(&source, &target).with_context(|| format!("copy {} to {}", source.display(), target.display()))?;
    }
    Ok(())
}

/// A home that holds what the first one does by other paths, so that nothing is fetched again.
fn link_cargo_home(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for name in ["registry", "git", "config.toml", "config", "credentials.toml"] {
        let target: PathBuf = from.join(name);
        if target.exists() {
            symlink(&target, to.join(name)).with_context(|| format!("link to {}", target.display()))?;
        }
    }
    Ok(())
}

/// Holds the second folder's files against those of the same names in the first. The first may have more: of another
/// architecture, and what was made from it.
fn compare(first: &Path, second: &Path) -> Result<()> {
    let mut different = Vec::new();
    let mut same = 0;
    for name in files(second)? {
        if name == "SHA256SUMS" {
            // It is over all files of its folder, and the first one may have more.
            continue;
        }
        let read = |folder: &Path| fs::read(folder.join(&name)).with_context(|| format!("read {name}"));
        let (one, other) = (read(first)?, read(second)?);
        if one == other {
            same += 1;
            continue;
        }
        let at = one.iter().zip(&other).position(|(a, b)| a != b).unwrap_or(one.len().min(other.len()));
        let kept = first.join(format!("{name}.second"));
        fs::write(&kept, &other).with_context(|| format!("write {}", kept.display()))?;
        different.push(format!("{name} from byte {at} on ({})", kept.display()));
    }
    if !different.is_empty() {
        bail!("a second build gave other bytes: {}", different.join(", "));
    }
    if same == 0 {
        bail!("the second build made no file");
    }
    eprintln!("a second build in another folder gave the same bytes: {same} files");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_is_a_difference_and_is_told() {
        let (first, second) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let put = |folder: &tempfile::TempDir, name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("write");
        };
        compare(first.path(), second.path()).expect_err("nothing was compared");
        put(&first, "a", "same");
        put(&second, "a", "same");
        put(&first, "image.tar", "only here");
        compare(first.path(), second.path()).expect("equal");
        put(&first, "b", "0123456");
        put(&second, "b", "0123x56");
        let error = compare(first.path(), second.path()).expect_err("they differ").to_string();
        assert!(error.contains("b from byte 4"), "{error}");
        assert_eq!(fs::read(first.path().join("b.second")).expect("kept"), b"0123x56");
    }
}
