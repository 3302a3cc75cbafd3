//! A container as containerd's CRI plugin makes one of a pod's container: the runtime specification, and runc to run it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use lb_lab::{Host as _, Node, Process};
use serde_json::{Value, json};

use crate::{daemonset::DaemonSet, host::HostFolders};

const READY_LIMIT: Duration = Duration::from_secs(30);
const END_LIMIT: Duration = Duration::from_secs(5);

/// Names of Linux' capabilities in the order of their numbers (linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Where Debian's containers-common has its seccomp profile, which differs from containerd's in what [`seccomp`] mends.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";

/// What a pod gets from the cluster.
pub(crate) struct Cluster<'a> {
    /// Folder of the ServiceAccount: `token` and `ca.crt`.
    pub(crate) account: &'a Path,
    /// What the environment says of the API server's Service.
    pub(crate) api_service: std::net::SocketAddr,
}

/// A running container; killed and removed when dropped.
pub(crate) struct Container {
    pub(crate) process: Process,
    name: String,
    state: PathBuf,
    node: lb_lab::Place,
}

impl Container {
    /// Starts the DaemonSet's container on `node` with the root file system in `rootfs`. `edit` may change the specification.
    pub(crate) fn start(
        node: &Node,
        set: &DaemonSet,
        host: &HostFolders,
        cluster: &Cluster<'_>,
        (name, rootfs): (&str, &Path),
        edit: impl FnOnce(&mut Value),
    ) -> Self {
        let dir = node.dir().join(format!("container-{name}"));
        fs::create_dir_all(&dir).unwrap();
        let mut config = specification(node, set, host, cluster, rootfs, &dir);
        edit(&mut config);
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let state = node.dir().join("runc");
        let id = format!("{}-{name}", node.netns().path().file_name().unwrap().to_str().unwrap());
        let runc = node.command("runc").arg("--root").arg(&state).args(["run", "--bundle"]).arg(&dir).arg(&id);
        let process = runc.spawn(name).unwrap();
        Self { process, name: id, state, node: node.place().clone() }
    }

    /// Waits for a line of its output.
    pub(crate) fn wait_for(&mut self, wanted: &str) -> Result<(), String> {
        let line = self.process.wait_line(|line| line == wanted, READY_LIMIT);
        line.map(drop).map_err(|error| format!("{error:#}"))
    }

    /// As `kubectl exec`: runs a program in it.
    pub(crate) fn exec(&self, command: &[&str]) -> String {
        let runc = self.node.command("runc").arg("--root").arg(&self.state).args(["exec", &self.name]);
        runc.args(command).ok().unwrap()
    }

    /// As the kubelet ends a pod: SIGTERM, and the end within the grace that the manifest gives. Returns the exit code.
    pub(crate) fn terminate(mut self) -> i32 {
        let runc = self.node.command("runc").arg("--root").arg(&self.state);
        runc.args(["kill", &self.name, "TERM"]).ok().unwrap();
        self.process.wait(END_LIMIT).unwrap().code().unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let runc = self.node.command("runc").arg("--root").arg(&self.state);
        // Also when it has ended and there is nothing to delete.
        if let Err(error) = runc.args(["delete", "--force", &self.name]).ok() {
            eprintln!("{error:#}");
        }
    }
}

fn specification(
    node: &Node,
    set: &DaemonSet,
    host: &HostFolders,
    cluster: &Cluster<'_>,
    rootfs: &Path,
    dir: &Path,
) -> Value {
    let security = &set.container["securityContext"];
    let privileged = set.is_privileged();
    let capabilities: Vec<String> =
        capabilities(security, privileged).iter().map(|name| format!("CAP_{name}")).collect();
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": security["runAsUser"].as_u64().unwrap_or(0), "gid": security["runAsGroup"].as_u64().unwrap_or(0)},
            "args": set.command(),
            "env": set.environment(node.name(), cluster.api_service),
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
            "oomScoreAdj": 0,
        },
        "root": {"path": rootfs, "readonly": security["readOnlyRootFilesystem"] == true},
        "mounts": mounts(set, host, cluster, dir, privileged),
        "linux": {
            "rootfsPropagation": root_propagation(set),
            // hostNetwork: network and host name are those that runc is started in.
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "mount"}],
            "cgroupsPath": format!("/berrylb-{}", node.netns().path().file_name().unwrap().to_str().unwrap()),
        },
    });
    if privileged {
        config["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
    } else {
        config["linux"]["maskedPaths"] =
            json!(["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"]);
        config["linux"]["readonlyPaths"] =
            json!(["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        config["linux"]["seccomp"] = seccomp(&capabilities, true);
    }
    config
}

/// What a container that is not privileged has unless it drops it, by containerd's `oci` package.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Names of the capabilities that the manifest asks for. What this machine itself lacks is said and left out.
fn capabilities(security: &Value, privileged: bool) -> Vec<&'static str> {
    let list = |key: &str| -> Vec<String> {
        let names = security["capabilities"][key].as_array().cloned().unwrap_or_default();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let (add, drop) = (list("add"), list("drop"));
    assert!(add.iter().all(|name| CAPABILITIES.contains(&name.as_str())), "{add:?}");
    let dropped = |name: &str| drop.iter().any(|one| one == "ALL" || one == name);
    let wanted =
        |name: &&str| privileged || add.iter().any(|one| one == name) || (DEFAULT.contains(name) && !dropped(name));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    let bounding = u64::from_str_radix(bounding.trim(), 16).unwrap();
    let (here, lacking): (Vec<_>, Vec<_>) =
        (0..).zip(CAPABILITIES).filter(|(_, name)| wanted(name)).partition(|(bit, _)| bounding >> bit & 1 == 1);
    for (_, name) in &lacking {
        eprintln!("this machine's root has no CAP_{name}, so the container has not, either");
        assert!(privileged, "{name} is one that the manifest names");
    }
    here.into_iter().map(|(_, name)| name).collect()
}

/// The mounts of every container, then those of the manifest in its order.
fn mounts(set: &DaemonSet, host: &HostFolders, cluster: &Cluster<'_>, dir: &Path, privileged: bool) -> Vec<Value> {
    let sys = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", sys]}),
        // The kubelet's: the ServiceAccount's token.
        bind(cluster.account, "/var/run/secrets/kubernetes.io/serviceaccount", true, "rprivate"),
    ];
    for mount in set.container["volumeMounts"].as_array().unwrap() {
        let name = mount["name"].as_str().unwrap();
        let volume = set.volume(name);
        let propagation = match mount["mountPropagation"].as_str() {
            None | Some("None") => "rprivate",
            Some("HostToContainer") => "rslave",
            Some("Bidirectional") => {
                assert!(privileged, "Kubernetes refuses Bidirectional to containers that are not privileged");
                "rshared"
            }
            Some(other) => panic!("mountPropagation {other}"),
        };
        let source = match (volume["hostPath"]["path"].as_str(), volume["configMap"]["name"].as_str()) {
            (Some(path), None) => host.of(path),
            (None, Some(map)) => {
                let folder = dir.join(name);
                fs::create_dir_all(&folder).unwrap();
                for (file, text) in &set.config_maps[map] {
                    fs::write(folder.join(file), text).unwrap();
                }
                folder
            }
            other => panic!("volume {name}: {other:?}"),
        };
        mounts.push(bind(&source, mount["mountPath"].as_str().unwrap(), mount["readOnly"] == true, propagation));
    }
    mounts
}

/// How the container's root follows the node's mounts, by containerd's `WithMounts` (`internal/cri/opts`): as its freest
/// volume does. Otherwise runc cuts all mounts off the node's, and what a volume gives back would arrive nowhere.
fn root_propagation(set: &DaemonSet) -> &'static str {
    let volumes = set.container["volumeMounts"].as_array().unwrap();
    let has = |propagation: &str| volumes.iter().any(|mount| mount["mountPropagation"] == propagation);
    if has("Bidirectional") {
        "rshared"
    } else if has("HostToContainer") {
        "rslave"
    } else {
        "rprivate"
    }
}

fn bind(source: &Path, to: &str, read_only: bool, propagation: &str) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({"destination": to, "type": "bind", "source": source, "options": ["rbind", propagation, access]})
}

/// containers-common's profile for a holder of these capabilities. With `containerd`, and as containerd does from 1.7 on
/// (containerd#7301), bpf(2) is allowed to holders of CAP_BPF and perf_event_open(2) to those of CAP_PERFMON.
pub(crate) fn seccomp(capabilities: &[String], containerd: bool) -> Value {
    let text = fs::read_to_string(SECCOMP).unwrap_or_else(|error| panic!("{SECCOMP}: {error}"));
    let profile: Value = serde_json::from_str(&text).unwrap();
    let has = |name: &Value| capabilities.iter().any(|one| name == one);
    let applies = |rule: &&Value| {
        let names = |key: &str, what: &str| rule[key][what].as_array().cloned().unwrap_or_default();
        let arch = |key: &str| names(key, "arches").iter().any(|name| name == "amd64" || name == "arm64");
        names("includes", "caps").iter().all(has)
            && !names("excludes", "caps").iter().any(has)
            && (names("includes", "arches").is_empty() || arch("includes"))
            && !arch("excludes")
    };
    let rule = |rule: &Value| {
        let mut rule = rule.clone();
        let fields = rule.as_object_mut().unwrap();
        fields.retain(|key, value| ["names", "action", "args", "errnoRet"].contains(&key.as_str()) && !value.is_null());
        rule
    };
    let mut rules: Vec<Value> = profile["syscalls"].as_array().unwrap().iter().filter(applies).map(rule).collect();
    for (capability, call) in [("CAP_BPF", "bpf"), ("CAP_PERFMON", "perf_event_open")] {
        if containerd && capabilities.iter().any(|one| one == capability) {
            for rule in &mut rules {
                rule["names"].as_array_mut().unwrap().retain(|name| name != call);
            }
            rules.push(json!({"names": [call], "action": "SCMP_ACT_ALLOW"}));
        }
    }
    json!({"defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"], "syscalls": rules})
}
