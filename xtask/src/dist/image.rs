//! `cargo xtask image`: container images around the binaries of `dist`, as archives in the same folder.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    Arch, Archs, LICENCES, binary_name, folder,
    oci::{self, Description, File},
};
use crate::process;

/// The name that the manifests use, as containerd writes it in full.
pub(crate) const NAME: &str = "docker.io/library/berrylb";

/// Builds the binaries for `archs` and packs them: an archive for each architecture, and one of both for `all`. `name` is
/// the image's, with its registry. Returns the archives.
///
/// # Errors
/// When a build fails or a file cannot be written.
pub(crate) fn run(archs: Archs, name: &str) -> Result<Vec<PathBuf>> {
    super::run(archs, false)?;
    let images = archs.list().iter().map(|&arch| Ok((arch, files(arch)?))).collect::<Result<Vec<_>>>()?;
    let about = about(name)?;
    let mut archives = Vec::new();
    for image in &images {
        archives.push((
            format!("berrylb-image-{}.tar", image.0.name()),
            oci::archive(&about, std::slice::from_ref(image))?,
        ));
    }
    if images.len() > 1 {
        archives.push(("berrylb-image.tar".to_owned(), oci::archive(&about, &images)?));
    }
    let mut paths = Vec::new();
    for (file, bytes) in archives {
        let path = folder().join(file);
        super::write(&path, &bytes)?;
        eprintln!("{}: {} bytes, {name}:{}", path.display(), bytes.len(), about.tag);
        paths.push(path);
    }
    super::write_checksums(&folder())?;
    Ok(paths)
}

/// Builds and packs for this machine's architecture, under the name of the manifests; returns the archive.
///
/// # Errors
/// As [`run`].
pub(crate) fn for_this_machine() -> Result<PathBuf> {
    let archs = match Arch::of_this_machine()? {
        Arch::Arm64 => Archs::Arm64,
        Arch::Amd64 => Archs::Amd64,
    };
    run(archs, NAME)?.pop().context("no image was made")
}

/// The binary, and the licences under which it is passed on.
fn files(arch: Arch) -> Result<Vec<File>> {
    let read = |path: PathBuf| fs::read(&path).with_context(|| format!("read {}", path.display()));
    let file = |path: &str, mode, bytes| File { path: path.to_owned(), mode, bytes };
    let root = process::workspace_root();
    let mut files = vec![file("berrylb", 0o755, read(folder().join(binary_name(arch)))?)];
    for name in ["LICENSE-APACHE", "LICENSE-GPL-2.0"] {
        files.push(file(&format!("licenses/{name}"), 0o644, read(root.join(name))?));
    }
    files.push(file(&format!("licenses/{LICENCES}"), 0o644, read(folder().join(LICENCES))?));
    Ok(files)
}

fn about(name: &str) -> Result<Description> {
    let source = env!("CARGO_PKG_REPOSITORY");
    let labels = [
        ("title", "berrylb".to_owned()),
        ("description", "A kube-proxy replacement for small Kubernetes nodes".to_owned()),
        ("licenses", "Apache-2.0".to_owned()),
        ("source", source.to_owned()),
        ("documentation", format!("{source}/blob/main/docs/install.md")),
        ("version", super::version().to_owned()),
        ("revision", super::commit()?),
    ];
    let label = |(key, value): (&str, String)| (format!("org.opencontainers.image.{key}"), value);
    Ok(Description {
        name: name.to_owned(),
        tag: super::version().to_owned(),
        entrypoint: vec!["/berrylb".to_owned()],
        command: vec!["agent".to_owned()],
        labels: labels.into_iter().map(label).collect::<BTreeMap<_, _>>(),
    })
}
