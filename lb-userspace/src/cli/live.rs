//! What the live commands share: the pinned maps, and the names that a running agent tells.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Error, Result, anyhow};

use crate::{
    agent::{ApiAnswer, ApiSnapshot, DEFAULT_API_SOCKET, DEFAULT_BPFFS, ask},
    loader::Layout,
    maps::{BpfStore, OpenError},
    plan::state::{HealthCheck, ServiceName, State},
};

/// Which agent's datapath.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LiveArgs {
    /// The agent's folder of maps and links.
    #[arg(long, env = "BERRYLB_BPFFS", default_value = DEFAULT_BPFFS, value_name = "DIR")]
    pub(super) bpffs: PathBuf,
    /// The agent's socket, for names.
    #[arg(long, env = "BERRYLB_API_SOCKET", default_value = DEFAULT_API_SOCKET, value_name = "PATH")]
    pub(super) api_socket: PathBuf,
}

/// The maps and the names.
pub(super) struct Live {
    pub(super) store: BpfStore,
    /// `None`: no agent runs on these maps.
    pub(super) agent: Option<ApiAnswer>,
    /// Where it was asked for.
    socket: PathBuf,
}

impl LiveArgs {
    pub(super) fn open(&self) -> Result<Live> {
        let layout = Layout::new(&self.bpffs);
        let store = BpfStore::open_read_only(layout.version())
            .map_err(|error| self.explain(error))
            .context("read the datapath")?;
        let agent = ask(&self.api_socket)
            .with_context(|| format!("ask the agent at {} for names", self.api_socket.display()))?
            // Another agent's names are not these maps'.
            .filter(|agent| self.is_served_by(agent));
        if let Some(remark) = agent.as_ref().and_then(|agent| agent.snapshot.as_ref()).and_then(ApiSnapshot::remark) {
            writeln!(io::stderr(), "berrylb: {remark}")?;
        }
        Ok(Live { store, agent, socket: self.api_socket.clone() })
    }

    fn is_served_by(&self, agent: &ApiAnswer) -> bool {
        std::path::absolute(&self.bpffs).is_ok_and(|path| path == std::path::Path::new(&agent.bpffs))
    }

    /// That nothing is pinned means something else where an agent runs.
    fn explain(&self, error: OpenError) -> Error {
        let OpenError::Missing { path } = &error else { return error.into() };
        // One that does not answer explains nothing.
        let Ok(Some(agent)) = ask(&self.api_socket) else { return error.into() };
        let (path, socket) = (path.display(), self.api_socket.display());
        if self.is_served_by(&agent) {
            anyhow!(
                "no map is pinned at {path}, though the agent at {socket} serves this folder: `berrylb verify` says what became \
                 of it"
            )
        } else {
            let bpffs = &agent.bpffs;
            anyhow!("no map is pinned at {path}; the agent at {socket} serves {bpffs}: give --bpffs {bpffs}")
        }
    }
}

impl Live {
    /// Says on standard error why a table that is to be printed shows `?`.
    pub(super) fn tell_of_missing_names(&self) -> io::Result<()> {
        let why = if self.agent.is_some() {
            "an earlier run has left it, and the running agent has not been given its object again: the agent's log names \
             objects that are bad"
                .to_owned()
        } else {
            format!(
                "only a running agent knows names, and none that serves these maps answers at {}",
                self.socket.display()
            )
        };
        writeln!(io::stderr(), "berrylb: `?` in place of a name: {why}")
    }

    /// The state document of the maps.
    pub(super) fn state(&self) -> Result<State> {
        let (node, health_checks) = match &self.agent {
            Some(agent) => (agent.node.as_str(), agent.health_checks.as_slice()),
            None => ("", [].as_slice()),
        };
        let health_checks = health_checks
            .iter()
            .map(|check| HealthCheck {
                service: ServiceName::new(&check.namespace, &check.name),
                port: check.port,
                local_endpoints: check.local_endpoints,
            })
            .collect();
        Ok(crate::maps::dump(&self.store, self.agent.as_ref().map(|agent| &agent.names), node, health_checks)?)
    }
}
