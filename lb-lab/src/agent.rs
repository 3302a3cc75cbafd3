//! The berrylb agent of one node, as a test or the demo runs it: started, killed, started again, asked, cleaned up.
//!
//! It knows the command line and nothing else of berrylb.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Command, Host, Node, Place, Process};

/// How long an agent may take until it is ready, on a machine that is busy.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long an agent may take to end after `SIGTERM`, plus what a busy machine adds to the two seconds it has.
const END_LIMIT: Duration = Duration::from_secs(5);

/// An agent on a node. Dropping it kills the process and leaves what it pinned; the lab's end takes that away.
#[derive(Debug)]
pub struct Agent {
    place: Place,
    binary: PathBuf,
    args: Args,
    extra: Vec<String>,
    process: Option<Process>,
}

/// Values of its flags.
#[derive(Clone, Debug)]
struct Args {
    from: PathBuf,
    api_server: Option<String>,
    name: String,
    addresses: Vec<IpAddr>,
    bpffs: PathBuf,
    cgroup: PathBuf,
    socket: PathBuf,
    overlays: Vec<&'static str>,
}

impl Agent {
    /// Starts the agent `binary` on `node` with the objects in the folder (or file) `from` and `extra` flags, and waits
    /// until it is ready.
    ///
    /// # Errors
    /// It ends or is not ready in time; the message holds its log.
    pub fn start(node: &Node, binary: &Path, from: &Path, extra: &[&str]) -> Result<Self> {
        Self::start_by(node, binary, from, None, extra)
    }

    /// As [`Self::start`], with more time than usual, for folders of very many objects.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_within(node: &Node, binary: &Path, from: &Path, limit: Duration, extra: &[&str]) -> Result<Self> {
        let mut agent = Self::unstarted(node, binary, from, None, extra);
        agent.start_unready()?;
        agent.wait_ready_within(limit)?;
        Ok(agent)
    }

    /// As [`Self::start`], but with the objects of the API server at `url`. [`Self::plan`] goes on reading `from`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_at_api_server(node: &Node, binary: &Path, from: &Path, url: &str, extra: &[&str]) -> Result<Self> {
        Self::start_by(node, binary, from, Some(url.into()), extra)
    }

    fn start_by(node: &Node, binary: &Path, from: &Path, api_server: Option<String>, extra: &[&str]) -> Result<Self> {
        let mut agent = Self::unstarted(node, binary, from, api_server, extra);
        agent.start_again()?;
        Ok(agent)
    }

    fn unstarted(node: &Node, binary: &Path, from: &Path, api_server: Option<String>, extra: &[&str]) -> Self {
        let args = Args {
            from: from.into(),
            api_server,
            name: node.name().into(),
            addresses: node.ips(),
            bpffs: node.bpffs(),
            cgroup: node.cgroup_root().into(),
            socket: node.agent_socket(),
            overlays: node.overlays(),
        };
        let extra = extra.iter().map(ToString::to_string).collect();
        Self { place: node.place().clone(), binary: binary.into(), args, extra, process: None }
    }

    /// Starts it after it ended, and waits until it is ready.
    ///
    /// # Errors
    /// It runs already, ends, or is not ready in time.
    pub fn start_again(&mut self) -> Result<()> {
        self.start_unready()?;
        self.wait_ready()
    }

    /// Starts it after it ended, and does not wait.
    ///
    /// # Errors
    /// It runs already.
    pub fn start_unready(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process
            && process.status()?.is_none()
        {
            bail!("the agent of {} runs already, as process {}", self.args.name, process.pid());
        }
        self.process = Some(self.agent_command().spawn("agent")?);
        Ok(())
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time; the message holds its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_ready_within(READY_LIMIT)
    }

    fn wait_ready_within(&mut self, limit: Duration) -> Result<()> {
        self.running()?.wait_line(|line| line == "ready", limit).map(drop)
    }

    /// `SIGKILL`.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill9(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// `SIGTERM`, and waits for its end.
    ///
    /// # Errors
    /// It does not run, or does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let status = self.running()?.terminate(END_LIMIT)?;
        self.process = None;
        Ok(status)
    }

    /// Ends it in order and starts it again.
    ///
    /// # Errors
    /// It does not end with status 0, or is not ready in time.
    pub fn restart(&mut self) -> Result<()> {
        self.restart_within(READY_LIMIT)
    }

    /// As [`Self::restart`], with more time than usual, for folders of very many objects.
    ///
    /// # Errors
    /// As [`Self::restart`].
    pub fn restart_within(&mut self, limit: Duration) -> Result<()> {
        let status = self.terminate()?;
        if !status.success() {
            bail!("the agent of {} ended with {status} after SIGTERM", self.args.name);
        }
        self.start_unready()?;
        self.wait_ready_within(limit)
    }

    /// The running process.
    ///
    /// # Errors
    /// It was ended by this value.
    pub fn running(&mut self) -> Result<&mut Process> {
        self.process.as_mut().with_context(|| format!("the agent of {} does not run", self.args.name))
    }

    /// Its log.
    ///
    /// # Errors
    /// There is none yet.
    pub fn log(&self) -> Result<String> {
        let path = self.place.dir().join("agent.err");
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Memory of the running agent in use, in kibibytes (`VmRSS`).
    ///
    /// # Errors
    /// It does not run.
    pub fn rss_kib(&mut self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.running()?.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{path}: `{line}` is not a size"))
    }

    /// `berrylb` with this subcommand on this node. The node's environment says where its agent is.
    #[must_use]
    pub fn command(&self, subcommand: &[&str]) -> Command {
        self.place.command(&self.binary).args(subcommand)
    }

    /// Runs `berrylb cleanup`.
    ///
    /// # Errors
    /// It fails.
    pub fn cleanup(&self) -> Result<String> {
        self.command(&["cleanup"]).ok()
    }

    /// The bytes that `berrylb dump -o json` prints.
    ///
    /// # Errors
    /// It fails.
    pub fn dump_text(&self) -> Result<String> {
        self.command(&["dump"]).args(["-o", "json"]).ok()
    }

    /// What `berrylb dump -o json` prints.
    ///
    /// # Errors
    /// It fails or prints no JSON.
    pub fn dump(&self) -> Result<Value> {
        serde_json::from_str(&self.dump_text()?).context("parse the dump")
    }

    /// The bytes that `berrylb plan -o json` prints for this node and the agent's objects.
    ///
    /// # Errors
    /// It fails.
    pub fn plan_text(&self) -> Result<String> {
        let Args { from, name, addresses, .. } = &self.args;
        let command = self.place.command(&self.binary).arg("plan").arg("--from").arg(from);
        let command = command.args(["--node-name", name]);
        let command = addresses.iter().fold(command, |c, ip| c.args(["--node-address", &ip.to_string()]));
        command.args(["-o", "json"]).ok()
    }

    /// What `berrylb plan -o json` prints for this node and the agent's objects.
    ///
    /// # Errors
    /// It fails or prints no JSON.
    pub fn plan(&self) -> Result<Value> {
        serde_json::from_str(&self.plan_text()?).context("parse the plan")
    }

    /// Where its `/healthz` answers, inside the node.
    #[must_use]
    pub fn healthz(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 10256).into()
    }

    /// The command line of the agent itself.
    #[must_use]
    pub fn agent_command(&self) -> Command {
        let Args { from, api_server, name, addresses, bpffs, cgroup, socket, overlays } = &self.args;
        let command = match api_server {
            Some(url) => self.command(&["agent"]).args(["--api-server", url]),
            None => self.command(&["agent"]).arg("--from").arg(from),
        };
        let command = command.args(["--node-name", name]);
        let command = command.arg("--bpffs").arg(bpffs).arg("--cgroup").arg(cgroup).arg("--api-socket").arg(socket);
        let command = addresses.iter().fold(command, |c, ip| c.args(["--node-address", &ip.to_string()]));
        let command = command.args(["--uplinks", "eth0", "--pod-links", "veth*"]);
        let command = if overlays.is_empty() { command } else { command.args(["--overlays", &overlays.join(",")]) };
        command.args(&self.extra)
    }
}
