//! The folders of a node that pods mount by `hostPath`, each a stand-in that belongs to one lab. Undone when dropped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lb_lab::Node;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A node's folders.
pub(crate) struct HostFolders {
    bpffs: PathBuf,
    cgroup: PathBuf,
    run: PathBuf,
    state: PathBuf,
    etc: PathBuf,
}

impl HostFolders {
    /// Makes them. `has_bpffs`: the node has one mounted at `/sys/fs/bpf`, as systemd does; else that is a plain folder.
    /// Mounts below it reach the node and its containers either way, as those of a real node do.
    pub(crate) fn new(node: &Node, dir: &Path, has_bpffs: bool) -> Self {
        let folder = |name: &str| {
            let path = dir.join("host").join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let bpffs = folder("sys-fs-bpf");
        let none = None::<&str>;
        if has_bpffs {
            mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none).unwrap();
        } else {
            mount(Some(&bpffs), &bpffs, none, MsFlags::MS_BIND, none).unwrap();
        }
        mount(none, &bpffs, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none).unwrap();
        let cgroup = node.cgroup_root().to_owned();
        Self {
            bpffs,
            cgroup,
            run: folder("run-berrylb"),
            state: folder("var-lib-berrylb"),
            etc: folder("etc-kubernetes"),
        }
    }

    /// The stand-in for a `hostPath`.
    pub(crate) fn of(&self, host_path: &str) -> PathBuf {
        match host_path {
            "/sys/fs/bpf" => self.bpffs.clone(),
            "/sys/fs/cgroup" => self.cgroup.clone(),
            "/run/berrylb" => self.run.clone(),
            "/var/lib/berrylb" => self.state.clone(),
            "/etc/kubernetes/kubelet.conf" => self.etc.join("kubelet.conf"),
            other => panic!("the manifests mount {other}, and no stand-in is known"),
        }
    }

    /// Names in the node's `/sys/fs/bpf`, but for the `maps.debug` and `progs.debug` that the kernel puts into some.
    pub(crate) fn pins(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.bpffs).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".debug")).collect()
    }

    /// Names in the node's `/var/lib/berrylb`.
    pub(crate) fn kept(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.state).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for HostFolders {
    fn drop(&mut self) {
        // What a container mounted on top comes first.
        while umount2(&self.bpffs, MntFlags::MNT_DETACH).is_ok() {}
    }
}
