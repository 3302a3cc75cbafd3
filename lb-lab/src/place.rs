//! A place where processes run: a network namespace, a cgroup and a folder for logs. Nodes, pods and the outside
//! machine each have one, and [`Host`] is what they share.

use std::{
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};

use crate::{
    cgroup,
    command::{Command, Doors},
    netns::NetNs,
    peer::{self, Ask, Peer, Pending, Serve},
};

/// Namespace, cgroup and folder of a node, a pod or the outside machine.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    cgroup: PathBuf,
    ipv6: bool,
    doors: Doors,
}

impl Place {
    /// Makes cgroup and folder for an existing namespace.
    pub(crate) fn new(name: &str, netns: Arc<NetNs>, cgroup: PathBuf, folder: PathBuf, ipv6: bool) -> Result<Self> {
        cgroup::create(&cgroup)?;
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let procs = cgroup.join("cgroup.procs");
        let file = File::options().write(true).open(&procs).with_context(|| format!("open {}", procs.display()))?;
        Ok(Self {
            name: name.into(),
            cgroup,
            ipv6,
            doors: Doors { netns, cgroup: Arc::new(file), logs: folder, environment: Vec::new(), resolv_conf: None },
        })
    }

    /// Gives processes that start here from now on an environment variable.
    pub(crate) fn set_env(&mut self, key: &'static str, value: impl Into<OsString>) {
        self.doors.environment.push((key, value.into()));
    }

    /// Gives processes that start here from now on this `/etc/resolv.conf`.
    pub(crate) fn set_resolv_conf(&mut self, text: &str) -> Result<()> {
        let path = self.doors.logs.join("resolv.conf");
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        self.doors.resolv_conf = Some(Arc::new(CString::new(path.into_os_string().into_vec())?));
        Ok(())
    }

    pub(crate) fn has_ipv6(&self) -> bool {
        self.ipv6
    }

    pub(crate) fn netns_arc(&self) -> &Arc<NetNs> {
        &self.doors.netns
    }
}

impl Host for Place {
    fn place(&self) -> &Place {
        self
    }
}

/// What nodes, pods and the outside machine have in common.
pub trait Host {
    /// The place itself.
    fn place(&self) -> &Place;

    /// Its name: that of the node or the pod, or `outside`.
    fn name(&self) -> &str {
        &self.place().name
    }

    /// Its network namespace.
    fn netns(&self) -> &NetNs {
        &self.place().doors.netns
    }

    /// The cgroup its processes run in. What an agent takes as `--cgroup` is [`crate::Node::cgroup_root`].
    fn cgroup(&self) -> &Path {
        &self.place().cgroup
    }

    /// A folder of its own, for logs, sockets and configuration; gone with the lab.
    fn dir(&self) -> &Path {
        &self.place().doors.logs
    }

    /// A command that will run in this namespace and cgroup.
    fn command(&self, program: impl AsRef<OsStr>) -> Command
    where
        Self: Sized,
    {
        Command::new(program, self.name(), self.place().doors.clone())
    }

    /// Runs a shell line and gives its standard output.
    ///
    /// # Errors
    /// It cannot be started, ends with another status than 0, or takes longer than
    /// [`crate::command::DEFAULT_TIMEOUT`].
    fn sh(&self, line: &str) -> Result<String>
    where
        Self: Sized,
    {
        self.command("sh").args(["-c", line]).ok()
    }

    /// Starts a peer process here.
    ///
    /// # Errors
    /// It is not built or cannot be started.
    fn peer(&self) -> Result<Peer>
    where
        Self: Sized,
    {
        Peer::start(self.command(peer::path()?).arg("session"))
    }

    /// Asks one thing with a peer of its own.
    ///
    /// # Errors
    /// As [`Peer::ask`].
    fn ask<A: Ask>(&self, ask: A) -> Result<A::Answer>
    where
        Self: Sized,
    {
        self.peer()?.ask(ask)
    }

    /// Begins one thing with a peer of its own.
    ///
    /// # Errors
    /// As [`Peer::begin`].
    fn begin<A: Ask>(&self, ask: A) -> Result<Pending<A>>
    where
        Self: Sized,
    {
        self.peer()?.begin(ask)
    }

    /// Serves TCP and UDP on these ports of all addresses, under this name, until the peer is dropped. For UDP on a
    /// machine with several addresses use [`Host::serve_at`]: the kernel picks the source of its answers.
    ///
    /// # Errors
    /// A port is taken.
    fn serve(&self, ports: &[u16]) -> Result<Peer>
    where
        Self: Sized,
    {
        let any: IpAddr = if self.place().ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let all: Vec<_> = ports.iter().map(|port| SocketAddr::new(any, *port)).collect();
        self.serve_at(self.name(), &all)
    }

    /// Serves TCP and UDP on these addresses under that name, until the peer is dropped.
    ///
    /// # Errors
    /// An address is not here or taken.
    fn serve_at(&self, name: &str, addresses: &[SocketAddr]) -> Result<Peer>
    where
        Self: Sized,
    {
        let mut peer = self.peer()?;
        peer.ask(Serve { name: name.into(), tcp: addresses.into(), udp: addresses.into() })?;
        Ok(peer)
    }
}
