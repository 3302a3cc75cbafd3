//! Container images as files: layers, manifests and archives by the OCI image specification 1.0, written without a
//! container engine. Equal input gives equal bytes; no time is in it.

use std::{collections::BTreeMap, io::Write as _};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};

use super::{Arch, sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The time of everything: Docker shows an image without one as broken.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// A file of an image, at an absolute path without the first slash.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: String,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) bytes: Vec<u8>,
}

/// What an image says of itself.
#[derive(Clone, Debug)]
pub(super) struct Description {
    /// Its name without a tag, with the registry: `docker.io/library/berrylb`.
    pub(super) name: String,
    pub(super) tag: String,
    pub(super) entrypoint: Vec<String>,
    pub(super) command: Vec<String>,
    /// Labels, and annotations of the manifests.
    pub(super) labels: BTreeMap<String, String>,
}

/// Content-addressed files of an archive.
#[derive(Debug, Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Adds one and returns its descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()});
        self.0.insert(digest, bytes);
        descriptor
    }
}

/// An archive of one image for each of these architectures, under one name. It is an OCI layout (`ctr image import`,
/// `k3s ctr images import`, `skopeo copy oci-archive:`) and holds Docker's list as well (`docker load`). Docker's list knows
/// no architectures: with several of them, each has its name at the end of the tag there.
///
/// # Errors
/// When an archive in memory cannot be written.
pub(super) fn archive(about: &Description, images: &[(Arch, Vec<File>)]) -> Result<Vec<u8>> {
    let mut blobs = Blobs::default();
    let (mut manifests, mut docker) = (Vec::new(), Vec::new());
    for (arch, files) in images {
        let tar = tar(files)?;
        let diff = sha256(&tar);
        let layer = blobs.add(LAYER, gzip(&tar)?);
        let config = blobs.add(CONFIG, config(about, *arch, &diff).to_string().into_bytes());
        let tag = if images.len() > 1 { format!("{}-{}", about.tag, arch.name()) } else { about.tag.clone() };
        docker.push(json!({
            "Config": blob_path(&config), "Layers": [blob_path(&layer)],
            "RepoTags": [format!("{}:{tag}", familiar(&about.name))],
        }));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer], "annotations": about.labels,
        });
        let mut manifest = blobs.add(MANIFEST, manifest.to_string().into_bytes());
        manifest["platform"] = platform(*arch);
        manifests.push(manifest);
    }
    let mut top = match manifests.as_slice() {
        [one] => one.clone(),
        _ => {
            let index = json!({
                "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": about.labels,
            });
            blobs.add(INDEX, index.to_string().into_bytes())
        }
    };
    top["annotations"] = json!({
        "org.opencontainers.image.ref.name": about.tag,
        "io.containerd.image.name": format!("{}:{}", about.name, about.tag),
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]});

    let plain = |path: &str, bytes: Vec<u8>| File { path: path.to_owned(), mode: 0o644, bytes };
    let mut files = vec![
        plain("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes()),
        plain("index.json", index.to_string().into_bytes()),
        plain("manifest.json", Value::from(docker).to_string().into_bytes()),
    ];
    files.extend(blobs.0.into_iter().map(|(digest, bytes)| plain(&format!("blobs/sha256/{digest}"), bytes)));
    tar(&files)
}

fn config(about: &Description, arch: Arch, diff: &str) -> Value {
    let mut config = json!({
        "created": EPOCH,
        "config": {
            "Entrypoint": about.entrypoint, "Cmd": about.command, "WorkingDir": "/", "Labels": about.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
        "history": [{"created": EPOCH, "created_by": "cargo xtask image"}],
    });
    if let (Some(config), Value::Object(platform)) = (config.as_object_mut(), platform(arch)) {
        config.extend(platform);
    }
    config
}

fn platform(arch: Arch) -> Value {
    match arch {
        Arch::Arm64 => json!({"architecture": "arm64", "os": "linux", "variant": "v8"}),
        Arch::Amd64 => json!({"architecture": "amd64", "os": "linux"}),
    }
}

fn blob_path(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap_or_default().replace(':', "/"))
}

/// As Docker writes names: of its own registry only what comes behind it.
fn familiar(name: &str) -> &str {
    name.strip_prefix("docker.io/library/").or_else(|| name.strip_prefix("docker.io/")).unwrap_or(name)
}

/// A tar archive that root owns, with each file's folders before it.
fn tar(files: &[File]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut folders: Vec<&str> = Vec::new();
    for file in files {
        for (at, _) in file.path.match_indices('/') {
            let folder = &file.path[..=at];
            if !folders.contains(&folder) {
                folders.push(folder);
                append(&mut builder, folder, 0o755, tar::EntryType::Directory, &[])?;
            }
        }
        append(&mut builder, &file.path, file.mode, tar::EntryType::Regular, &file.bytes)?;
    }
    builder.into_inner().context("end an archive")
}

fn append(
    builder: &mut tar::Builder<Vec<u8>>,
    path: &str,
    mode: u32,
    kind: tar::EntryType,
    bytes: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    builder.append_data(&mut header, path, bytes).with_context(|| format!("write {path} into an archive"))
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).context("compress a layer")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn about() -> Description {
        Description {
            name: "docker.io/library/berrylb".into(),
            tag: "1.2.3".into(),
            entrypoint: vec!["/berrylb".into()],
            command: vec!["agent".into()],
            labels: BTreeMap::from([("org.opencontainers.image.title".into(), "berrylb".into())]),
        }
    }

    fn files(content: &str) -> Vec<File> {
        let file = |path: &str, mode| File { path: path.into(), mode, bytes: content.into() };
        vec![file("berrylb", 0o755), file("licenses/a", 0o644)]
    }

    /// Path, mode and content of each entry.
    fn entries(tar: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.expect("entry");
            let header = entry.header();
            assert_eq!((header.uid().ok(), header.gid().ok(), header.mtime().ok()), (Some(0), Some(0), Some(0)));
            let mode = header.mode().expect("mode");
            let path = entry.path().expect("path").to_str().expect("UTF-8").to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("content");
            (path, (mode, bytes))
        };
        archive.entries().expect("archive").map(read).collect()
    }

    fn blob<'a>(files: &'a BTreeMap<String, (u32, Vec<u8>)>, descriptor: &Value) -> &'a [u8] {
        let (_, bytes) = &files[&blob_path(descriptor)];
        assert_eq!(descriptor["digest"], format!("sha256:{}", sha256(bytes)));
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("JSON")
    }

    #[test]
    fn every_descriptor_leads_to_what_it_says_for_each_architecture() {
        let images = [(Arch::Amd64, files("x86")), (Arch::Arm64, files("arm"))];
        let bytes = archive(&about(), &images).expect("archive");
        assert_eq!(bytes, archive(&about(), &images).expect("archive"), "equal input, equal bytes");
        let files = entries(&bytes);
        assert_eq!(parsed(&files["oci-layout"].1)["imageLayoutVersion"], "1.0.0");
        let top = &parsed(&files["index.json"].1)["manifests"][0];
        assert_eq!(top["annotations"]["io.containerd.image.name"], "docker.io/library/berrylb:1.2.3");
        let index = parsed(blob(&files, top));
        let docker = parsed(&files["manifest.json"].1);
        for (n, (arch, content)) in [("amd64", "x86"), ("arm64", "arm")].into_iter().enumerate() {
            let descriptor = &index["manifests"][n];
            assert_eq!(descriptor["platform"]["architecture"], arch);
            let manifest = parsed(blob(&files, descriptor));
            let config = parsed(blob(&files, &manifest["config"]));
            assert_eq!((&config["architecture"], &config["os"]), (&json!(arch), &json!("linux")));
            assert_eq!(config["config"]["Entrypoint"], json!(["/berrylb"]));
            let mut layer = Vec::new();
            flate2::read::GzDecoder::new(blob(&files, &manifest["layers"][0])).read_to_end(&mut layer).expect("gzip");
            assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(&layer))]));
            let layer = entries(&layer);
            assert_eq!(layer["berrylb"], (0o755, content.as_bytes().to_vec()));
            assert_eq!(layer["licenses/"].0, 0o755);
            assert_eq!(docker[n]["RepoTags"], json!([format!("berrylb:1.2.3-{arch}")]));
            assert!(files.contains_key(docker[n]["Layers"][0].as_str().expect("path")));
            assert!(files.contains_key(docker[n]["Config"].as_str().expect("path")));
        }
    }

    #[test]
    fn an_image_of_one_architecture_bears_the_tag_itself() {
        let files = entries(&archive(&about(), &[(Arch::Arm64, files("arm"))]).expect("archive"));
        let top = &parsed(&files["index.json"].1)["manifests"][0];
        assert_eq!((&top["mediaType"], &top["platform"]["variant"]), (&json!(MANIFEST), &json!("v8")));
        assert_eq!(parsed(&files["manifest.json"].1)[0]["RepoTags"], json!(["berrylb:1.2.3"]));
        assert_eq!(familiar("registry.example.org/berrylb"), "registry.example.org/berrylb");
    }
}
