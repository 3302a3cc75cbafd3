//! Ground for the loader's tests: a thread with network and mount namespaces of its own, a bpffs that only it sees, and
//! a cgroup. Namespaces and mounts end with their threads, so nothing stays behind after a panic or a kill but an empty
//! cgroup folder, and that only after a kill. Needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
};

use berrylb::{
    loader::{Attachment, Datapath, DatapathOptions, Error, LinkPin, host::Cgroup, object},
    net::{LinkKind, LinkRole, XdpPlan},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// What a test stands on.
pub(crate) struct Ground {
    /// Folder on a bpffs of its own.
    pub(crate) bpffs: PathBuf,
    /// A cgroup v2 folder of its own.
    pub(crate) cgroup: PathBuf,
}

/// Runs a test on ground of its own.
pub(crate) fn on_ground(test: impl FnOnce(&Ground) + Send) {
    let dir = tempfile::Builder::new().prefix("berrylb-loader").tempdir().expect("a folder");
    let cgroup = TestCgroup::make();
    let ground = Ground { bpffs: dir.path().join("node"), cgroup: cgroup.0.clone() };
    let outcome = thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare: these tests need root");
                let nothing = None::<&str>;
                mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("private mounts");
                mount(Some("bpffs"), dir.path(), Some("bpf"), MsFlags::empty(), nothing).expect("a bpffs");
                ip("link set lo up");
                test(&ground);
            })
            .join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Another network namespace, with a thread in it that does what it is told.
pub(crate) struct OtherNs {
    work: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    tid: i32,
}

impl OtherNs {
    /// A new namespace with its loopback up.
    pub(crate) fn new() -> Self {
        let (work, orders) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            ip("link set lo up");
            tell.send(nix::unistd::gettid().as_raw()).expect("the test waits");
            for order in orders {
                order();
            }
        });
        Self { work, tid: told.recv().expect("a namespace") }
    }

    /// For `ip link set … netns`.
    pub(crate) fn id(&self) -> i32 {
        self.tid
    }

    /// Does something there and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let order = move || {
            tell.send(work()).expect("the test waits");
        };
        self.work.send(Box::new(order)).expect("the thread lives");
        told.recv().expect("the work did not panic")
    }
}

struct TestCgroup(PathBuf);

impl TestCgroup {
    fn make() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berrylb-loader-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Cgroup::open(None).expect("cgroup v2").path().to_owned();
        let path = root.join(name);
        fs::create_dir(&path).expect("make a cgroup");
        Self(path)
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let mut inner: Vec<PathBuf> = fs::read_dir(&self.0)
            .map(|entries| entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
            .unwrap_or_default();
        inner.push(self.0.clone());
        for folder in inner {
            if let Err(error) = fs::remove_dir(&folder) {
                eprintln!("cgroup {} stays behind: {error}", folder.display());
            }
        }
    }
}

impl Ground {
    /// Options for a datapath on this ground.
    pub(crate) fn options(&self) -> DatapathOptions {
        let mut options = DatapathOptions::new(&self.bpffs);
        options.cgroup = Some(self.cgroup.clone());
        options
    }
}

/// Loads the embedded object, or panics with the error as an operator reads it.
pub(crate) fn load(options: &DatapathOptions) -> Datapath {
    try_load(options).unwrap_or_else(|error| panic!("{error}"))
}

/// Loads the embedded object.
pub(crate) fn try_load(options: &DatapathOptions) -> Result<Datapath, Error> {
    Datapath::load(object::bytes().expect("`cargo xtask build-ebpf` comes first"), options)
}

/// A role on an Ethernet device.
pub(crate) fn role(ifindex: u32, kind: LinkKind) -> LinkRole {
    let xdp = XdpPlan::Not("a test without XDP".to_owned());
    LinkRole {
        ifindex,
        name: format!("index {ifindex}"),
        kind,
        l2_len: 14,
        reason: "a test".to_owned(),
        xdp,
        answers: kind == LinkKind::Pod,
    }
}

/// A tc program's place.
pub(crate) fn tc(program: &'static str, ifindex: u32) -> LinkPin {
    LinkPin::Tc { program, ifindex }
}

/// Places of attachments.
pub(crate) fn pins(attachments: &[Attachment]) -> Vec<LinkPin> {
    attachments.iter().map(|attachment| attachment.pin).collect()
}

/// What is attached.
pub(crate) fn attached(datapath: &Datapath) -> Vec<Attachment> {
    datapath.attachments().expect("the kernel tells what is attached")
}

/// Id of the link at a place; none for a clsact filter.
pub(crate) fn link_id(datapath: &Datapath, pin: LinkPin) -> Option<u32> {
    attached(datapath).into_iter().find(|found| found.pin == pin).and_then(|found| found.link)
}

/// Id of the program at a place.
pub(crate) fn program_id(datapath: &Datapath, pin: LinkPin) -> u32 {
    attached(datapath).into_iter().find(|found| found.pin == pin).map(|found| found.program).expect("it is attached")
}

/// `ip`, with its arguments in one string, in the network namespace of this thread.
#[track_caller]
pub(crate) fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a tool and returns what it printed.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().expect("the tool runs");
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A veth pair with its far end in `other`, both with addresses, up and without the kernel's own IPv6 chatter.
/// Returns the index of the near end, whose name is `name`.
pub(crate) fn pod(other: &OtherNs, name: &str, net: u8) -> u32 {
    ip(&format!("link add {name} type veth peer name far{net} netns {}", other.id()));
    quiet(name);
    ip(&format!("addr add 10.77.{net}.1/24 dev {name}"));
    ip(&format!("link set {name} up"));
    other.run(move || {
        quiet(&format!("far{net}"));
        ip(&format!("addr add 10.77.{net}.2/24 dev far{net}"));
        ip(&format!("link set far{net} up"));
    });
    index(name)
}

/// Switches IPv6 off on a device.
pub(crate) fn quiet(name: &str) {
    let path = format!("/proc/thread-self/root/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    fs::write(path, "1").expect("switch IPv6 off");
}

/// Index of a device of this thread's network namespace.
pub(crate) fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("the device is there")
}

/// Names below a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort_unstable();
    names
}
