//! The image in the hands of other people's tools: skopeo, umoci, containerd.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// The archive under test.
pub(crate) fn archive() -> PathBuf {
    let path = env::var_os("BERRYLB_IMAGE").expect("BERRYLB_IMAGE names no image: run `cargo xtask test image`");
    PathBuf::from(path)
}

/// The version of this workspace, which is the image's tag.
const TAG: &str = env!("CARGO_PKG_VERSION");

/// Runs it and gives its standard output.
#[track_caller]
fn ok(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The image's root file system, brought there by `skopeo copy` and `umoci unpack`.
pub(crate) fn unpack() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let layout = format!("{}:{TAG}", folder.path().join("layout").display());
    ok("skopeo", &["copy", "--quiet", &format!("oci-archive:{}:{TAG}", archive().display()), &format!("oci:{layout}")]);
    let bundle = folder.path().join("bundle");
    ok("umoci", &["unpack", "--image", &layout, bundle.to_str().unwrap()]);
    let rootfs = bundle.join("rootfs");
    (folder, rootfs)
}

#[test]
fn the_root_file_system_is_the_binary_and_licences() {
    use std::os::unix::fs::MetadataExt as _;
    let (_folder, rootfs) = unpack();
    let mut names: Vec<String> = walk(&rootfs);
    names.sort();
    let licences = ["LICENSE-APACHE", "LICENSE-GPL-2.0", "THIRD-PARTY-LICENSES.txt"];
    let expected = ["berrylb".to_owned()].into_iter().chain(licences.map(|name| format!("licenses/{name}")));
    assert_eq!(names, expected.collect::<Vec<_>>());
    let binary = fs::metadata(rootfs.join("berrylb")).unwrap();
    assert_eq!((binary.mode() & 0o7777, binary.uid(), binary.gid()), (0o755, 0, 0));
    let help = ok("chroot", &[rootfs.to_str().unwrap(), "/berrylb", "--help"]);
    assert!(help.contains("Usage:"), "{help}");
}

fn walk(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                names.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    names
}

/// Two formats in one archive say the same.
#[test]
fn skopeo_reads_it_as_an_oci_and_as_a_docker_archive() {
    let path = archive();
    let inspect = |transport: &str, reference: &str, extra: &[&str]| {
        let what = format!("{transport}:{}:{reference}", path.display());
        let args: Vec<&str> = ["inspect"].iter().chain(extra).copied().chain([what.as_str()]).collect();
        serde_json::from_str::<Value>(&ok("skopeo", &args)).unwrap()
    };
    let image = inspect("oci-archive", TAG, &[]);
    let labels = &image["Labels"];
    assert_eq!(labels["org.opencontainers.image.title"], "berrylb", "{image}");
    assert_eq!(labels["org.opencontainers.image.version"], TAG);
    assert!(labels["org.opencontainers.image.revision"].as_str().is_some_and(|text| !text.is_empty()));
    let docker = inspect("docker-archive", &format!("berrylb:{TAG}"), &[]);
    let config =
        |transport, reference: &str| inspect(transport, reference, &["--config"])["config"]["Entrypoint"].clone();
    assert_eq!(config("oci-archive", TAG), config("docker-archive", &format!("berrylb:{TAG}")));
    assert_eq!((&docker["Architecture"], &docker["Os"]), (&image["Architecture"], &image["Os"]));
}

/// A containerd of its own, ended when dropped.
struct Containerd {
    child: Child,
    folder: TempDir,
}

impl Containerd {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // Without its CRI plugin, which would want a network, and without what needs more of the machine than files.
        let config = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        fs::write(at("config.toml"), config).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(at("config.toml")).arg("--root").arg(at("root")).arg("--state").arg(at("state"));
        command.arg("--address").arg(at("socket")).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(fs::File::create(at("log")).unwrap());
        let child = command.spawn().unwrap();
        let daemon = Self { child, folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while daemon.ctr(&["version"]).is_err() {
            let log = || fs::read_to_string(daemon.folder.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "containerd does not answer:\n{}", log());
            thread::sleep(Duration::from_millis(50));
        }
        daemon
    }

    fn ctr(&self, args: &[&str]) -> Result<String, String> {
        let socket = self.folder.path().join("socket");
        let output =
            Command::new("ctr").arg("--address").arg(socket).args(["--namespace", "k8s.io"]).args(args).output();
        let output = output.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let ended = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).map(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("containerd: {error}");
        }
    }
}

/// As `k3s ctr images import` and `ctr -n k8s.io images import` do: the kubelet finds the name that the manifests use.
#[test]
fn containerd_imports_it_under_the_name_that_the_manifests_use() {
    let daemon = Containerd::start();
    let name = format!("docker.io/library/berrylb:{TAG}");
    let told = daemon.ctr(&["images", "import", archive().to_str().unwrap()]).unwrap();
    assert!(told.contains(&name), "{told}");
    let listed = daemon.ctr(&["images", "list", "--quiet"]).unwrap();
    assert_eq!(listed.trim(), name);
    let set = crate::daemonset::DaemonSet::read("berrylb.yaml");
    assert_eq!(set.container["image"], format!("berrylb:{TAG}"), "short for {name}");
    let mounted = daemon.folder.path().join("rootfs");
    fs::create_dir(&mounted).unwrap();
    daemon.ctr(&["images", "mount", &name, mounted.to_str().unwrap()]).unwrap();
    let version = ok("chroot", &[mounted.to_str().unwrap(), "/berrylb", "--version"]);
    daemon.ctr(&["images", "unmount", mounted.to_str().unwrap()]).unwrap();
    assert!(version.starts_with(&format!("berrylb {TAG} ")), "{version}");
}
