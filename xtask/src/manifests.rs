//! `cargo xtask manifests`: what `kubectl kustomize` makes of the folders in `manifests/`, as one file each, for those who
//! apply files. Each bears digests of its sources and of itself, so that tidy knows a stale or edited one without kubectl.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::process;

/// Folders below `manifests/`, and the files made of them.
pub(crate) const FILES: [(&str, &str); 6] = [
    ("base", "berrylb.yaml"),
    ("overlays/hardened", "berrylb-hardened.yaml"),
    ("overlays/k3s", "berrylb-k3s.yaml"),
    ("overlays/kubeadm", "berrylb-kubeadm.yaml"),
    ("overlays/kube-proxy-coexist", "berrylb-kube-proxy-coexist.yaml"),
    ("overlays/uninstall", "berrylb-uninstall.yaml"),
];

const FOLDER: &str = "manifests";

/// Writes all files anew.
///
/// # Errors
/// When there is no kubectl, it refuses a folder, or a file cannot be written.
pub(crate) fn run() -> Result<()> {
    let root = process::workspace_root().join(FOLDER);
    let sources = sources(&root)?;
    for (folder, file) in FILES {
        let path = root.join(file);
        fs::write(&path, with_header(folder, &sources, &kustomize(folder)?))
            .with_context(|| format!("write {}", path.display()))?;
        eprintln!("{}", path.display());
    }
    Ok(())
}

/// What kubectl makes of a folder below `manifests/`.
///
/// # Errors
/// When there is no kubectl, or it refuses the folder.
pub(crate) fn kustomize(folder: &str) -> Result<String> {
    let path = process::workspace_root().join(FOLDER).join(folder);
    process::output(Command::new("kubectl").arg("kustomize").arg(path)).context(
        "kubectl makes one file of a kustomization.\nNext step: install kubectl 1.27 or newer (kubernetes.io/docs/tasks/tools)",
    )
}

/// The file's text for what kubectl made.
pub(crate) fn with_header(folder: &str, sources: &str, content: &str) -> String {
    format!(
        "# Made from {FOLDER}/{folder} by `cargo xtask manifests`; not to be edited.\n# sources {sources}\n# content {}\n{content}",
        digest([content.as_bytes()])
    )
}

/// What is wrong with the file of that name and text, if these are the digests of the sources now.
pub(crate) fn stale(file: &str, text: &str, sources: &str) -> Option<&'static str> {
    let (folder, _) = FILES.iter().find(|(_, name)| *name == file)?;
    let content = text.splitn(4, '\n').nth(3).unwrap_or_default();
    if with_header(folder, sources, content) == text {
        return None;
    }
    let old_sources = text.lines().nth(1).and_then(|line| line.strip_prefix("# sources "));
    Some(match old_sources {
        Some(old) if old == sources => "it was edited; edit its sources and run `cargo xtask manifests`",
        Some(_) | None => "its sources have changed since; run `cargo xtask manifests`",
    })
}

/// The digest of all YAML in the folders below `root`, by path and content; not of what is made of it.
fn sources(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    Ok(digest_of_sources(files.iter().map(|(path, text)| (path.as_str(), text.as_str()))))
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else {
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            files.push((path.strip_prefix(root)?.to_string_lossy().into_owned(), text));
        }
    }
    Ok(())
}

/// The digest of those of these files, by paths from `manifests/`, that others are made of: YAML in a folder.
pub(crate) fn digest_of_sources<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut files: Vec<_> = files.filter(|(path, _)| path.contains('/') && path.ends_with(".yaml")).collect();
    files.sort_unstable();
    digest(files.iter().flat_map(|(path, text)| [path.as_bytes(), b"\0", text.as_bytes(), b"\0"]))
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    parts.into_iter().for_each(|part| hash.update(part));
    hash.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_source_and_an_edited_file_are_told_apart() {
        let sources = digest_of_sources([("base/a.yaml", "a: 1"), ("README.md", "x")].into_iter());
        let text = with_header("base", &sources, "a: 1\nb: 2\n");
        assert_eq!(stale("berrylb.yaml", &text, &sources), None);
        let edited = text.replace("b: 2", "b: 3");
        assert!(stale("berrylb.yaml", &edited, &sources).is_some_and(|why| why.contains("edited")));
        let now = digest_of_sources([("base/a.yaml", "a: 2"), ("README.md", "x")].into_iter());
        assert!(stale("berrylb.yaml", &text, &now).is_some_and(|why| why.contains("have changed")));
        assert_eq!(sources, digest_of_sources([("README.md", "y"), ("base/a.yaml", "a: 1")].into_iter()));
        assert_eq!(stale("other.yaml", &edited, &sources), None);
    }
}
