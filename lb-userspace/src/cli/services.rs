//! `berrylb service list|get` and `berrylb backend list`: the maps by Service and by backend.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, Write as _},
    net::IpAddr,
};

use anyhow::{Result, bail};
use lb_common::abi::{Backend, BackendCounter, Traffic, backend_flag, backend_state};
use serde::Serialize;

use super::{
    live::{Live, LiveArgs},
    output::{self, Cell, Format, OutputArgs, Table},
};
use crate::{
    maps::MapStore as _,
    plan::state::{Action, Frontend, FrontendType, Protocol, Scope},
};

/// `berrylb service …`
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum ServiceCommand {
    /// List the Services, one line each.
    #[command(after_help = "Example:\n  berrylb service list -o wide")]
    List {
        #[command(flatten)]
        live: LiveArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show one Service with its frontends and backends.
    #[command(after_help = "Example:\n  berrylb service get default/sample-clusterip")]
    Get {
        /// NAMESPACE/NAME; the namespace default may be left out.
        name: String,
        #[command(flatten)]
        live: LiveArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// `berrylb backend …`
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum BackendCommand {
    /// List the backends, one line for each endpoint of each service port.
    #[command(after_help = "Example:\n  berrylb backend list")]
    List {
        #[command(flatten)]
        live: LiveArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceRow {
    /// Null: no agent told its name.
    service: Option<String>,
    addresses: Vec<IpAddr>,
    ports: Vec<String>,
    types: Vec<&'static str>,
    backends: usize,
    draining: usize,
    /// Null, or why the Service is not served as its objects say, and what else its owner should know.
    problem: Option<String>,
}

pub(super) fn run(command: &ServiceCommand) -> Result<()> {
    match command {
        ServiceCommand::List { live, output } => list(&live.open()?, output.output),
        ServiceCommand::Get { name, live, output } => get(&live.open()?, name, output.output),
    }
}

fn list(live: &Live, format: Format) -> Result<()> {
    let state = live.state()?;
    let mut by_name: BTreeMap<Option<String>, Vec<&Frontend>> = BTreeMap::new();
    for frontend in &state.frontends {
        by_name.entry(frontend.service.as_ref().map(ToString::to_string)).or_default().push(frontend);
    }
    // One of which nothing at all is in the datapath is told as well.
    for name in live.problems().filter_map(subject) {
        by_name.entry(Some(name.to_owned())).or_default();
    }
    let rows: Vec<ServiceRow> = by_name
        .into_iter()
        .map(|(service, frontends)| {
            let problem = service.as_deref().and_then(|name| live.problem(name));
            row(service, &frontends, problem)
        })
        .collect();
    if format.is_table() && rows.iter().any(|row| row.service.is_none()) {
        live.tell_of_missing_names()?;
    }
    let wide = format == Format::Wide;
    let mut headers = vec!["SERVICE", "ADDRESSES", "PORTS", "TYPES", "BACKENDS"];
    if wide {
        headers.extend(["DRAINING", "PROBLEM"]);
    }
    let mut table = Table::new(&headers);
    for row in &rows {
        let backends = Cell::new(row.backends.to_string()).right();
        let mut cells = vec![
            Cell::new(row.service.as_deref().unwrap_or("?")),
            Cell::new(join(&row.addresses)),
            Cell::new(row.ports.join(",")),
            Cell::new(row.types.join(",")),
            if row.backends == 0 { backends.warn() } else { backends },
        ];
        if wide {
            cells.push(Cell::new(row.draining.to_string()).right());
            cells.push(Cell::new(row.problem.as_deref().unwrap_or("-")));
        }
        table.row(cells);
    }
    print(format, &rows, &table)
}

fn row(service: Option<String>, frontends: &[&Frontend], problem: Option<String>) -> ServiceRow {
    let addresses: BTreeSet<IpAddr> = frontends.iter().map(|f| f.address).collect();
    let ports: BTreeSet<(u16, Protocol)> = frontends.iter().map(|f| (f.port, f.protocol)).collect();
    let types: BTreeSet<FrontendType> = frontends.iter().map(|f| f.kind).collect();
    let backends: BTreeSet<_> = frontends.iter().flat_map(|f| &f.backends).map(|b| (b.address, b.port)).collect();
    let draining: BTreeSet<_> = frontends.iter().flat_map(|f| &f.draining).map(|b| (b.address, b.port)).collect();
    ServiceRow {
        service,
        addresses: addresses.into_iter().collect(),
        ports: ports.into_iter().map(|(port, protocol)| format!("{port}/{protocol}")).collect(),
        types: types.into_iter().map(FrontendType::as_str).collect(),
        backends: backends.len(),
        draining: draining.len(),
        problem,
    }
}

fn get(live: &Live, name: &str, format: Format) -> Result<()> {
    let full = if name.contains('/') { name.to_owned() } else { format!("default/{name}") };
    if live.agent.is_none() {
        bail!(
            "no agent runs on these maps, so nobody knows the name {full}: start the agent, or look with `berrylb dump` \
             by address"
        );
    }
    let state = live.state()?;
    let (frontends, others): (Vec<Frontend>, Vec<Frontend>) = state
        .frontends
        .into_iter()
        .partition(|f| f.service.as_ref().is_some_and(|service| service.to_string() == full));
    let problem = live.problem(&full);
    if frontends.is_empty() {
        if let Some(problem) = problem {
            bail!("service {full} has no frontend in the datapath: {problem}");
        }
        let namesakes = namesakes(&others, &full);
        if !namesakes.is_empty() {
            bail!("service {full} has no frontend in the datapath, but there is {}", namesakes.join(", "));
        }
        bail!(
            "service {full} has no frontend in the datapath, and the agent knows of no fault with it: is there such a \
             Service, and does it have a cluster IP? `berrylb service list` shows those that are served"
        );
    }
    let table = output::frontend_table(&frontends, format == Format::Wide);
    print(format, &frontends, &table)?;
    if format.is_table() {
        let mut table = Table::new(&["BACKEND", "STATE", "LOCAL", "WEIGHT", "ZONE", "USED BY"]);
        let mut seen: BTreeMap<(IpAddr, u16), Vec<Cell>> = BTreeMap::new();
        for frontend in &frontends {
            for (backend, drains) in
                frontend.backends.iter().map(|b| (b, false)).chain(frontend.draining.iter().map(|b| (b, true)))
            {
                seen.entry((backend.address, backend.port)).or_insert_with(|| {
                    vec![
                        Cell::new(output::socket_text(backend.address, backend.port)),
                        Cell::new(if drains { "draining" } else { backend.state.as_str() }),
                        Cell::new(if backend.local { "yes" } else { "no" }),
                        Cell::new(backend.weight.to_string()).right(),
                        Cell::new(backend.zone.as_deref().unwrap_or("-")),
                        Cell::new(users(&frontends, backend.address, backend.port)),
                    ]
                });
            }
        }
        let mut out = io::stdout().lock();
        writeln!(out)?;
        for (_, cells) in seen {
            table.row(cells);
        }
        table.print(output::stdout_colour(), &mut out)?;
        if let Some(problem) = problem {
            writeln!(out, "\n{problem}")?;
        }
    }
    Ok(())
}

/// The Services of that name in other namespaces, sorted.
fn namesakes(frontends: &[Frontend], full: &str) -> Vec<String> {
    let name = full.rsplit('/').next();
    let services = frontends.iter().filter_map(|f| f.service.as_ref()).filter(|service| Some(service.name()) == name);
    services.map(ToString::to_string).collect::<BTreeSet<_>>().into_iter().collect()
}

impl Live {
    /// What the agent says of Services that are not wholly in the datapath, and what else there is to know of Services, each
    /// as `service NAMESPACE/NAME …`.
    fn problems(&self) -> impl Iterator<Item = &str> {
        let agent = self.agent.as_ref();
        agent.into_iter().flat_map(|agent| agent.failed.iter().chain(&agent.remarks)).map(String::as_str)
    }

    /// All of it that is about one Service.
    fn problem(&self, service: &str) -> Option<String> {
        let of_it: Vec<&str> = self.problems().filter(|reason| subject(reason) == Some(service)).collect();
        (!of_it.is_empty()).then(|| of_it.join("; "))
    }
}

/// The Service that a reason is about.
fn subject(reason: &str) -> Option<&str> {
    reason.strip_prefix("service ")?.split([' ', ':']).next()
}

/// Scopes of the frontends that send to this backend.
fn users(frontends: &[Frontend], address: IpAddr, port: u16) -> String {
    let scopes: BTreeSet<Scope> = frontends
        .iter()
        .filter(|f| f.action == Action::Forward && f.backends.iter().any(|b| (b.address, b.port) == (address, port)))
        .map(|f| f.scope)
        .collect();
    if scopes.is_empty() { "-".to_owned() } else { scopes.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(",") }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendRow {
    id: u32,
    address: IpAddr,
    port: u16,
    protocol: &'static str,
    state: &'static str,
    local: bool,
    weight: u16,
    /// Null: no agent told its name.
    services: Option<Vec<String>>,
    connections: u64,
    /// Packets on the packet path.
    to_backend: TrafficRow,
    /// Their replies.
    from_backend: TrafficRow,
}

#[derive(Serialize)]
struct TrafficRow {
    packets: u64,
    bytes: u64,
}

impl From<Traffic> for TrafficRow {
    fn from(Traffic { packets, bytes }: Traffic) -> Self {
        Self { packets, bytes }
    }
}

pub(super) fn run_backend(command: &BackendCommand) -> Result<()> {
    let BackendCommand::List { live, output } = command;
    let live = live.open()?;
    let counters: HashMap<u32, BackendCounter> = live.store.backend_counters()?.into_iter().collect();
    let counted = |id: u32, backend: &Backend| {
        counters.get(&id).copied().filter(|counter| counter.generation == backend.generation).unwrap_or_default()
    };
    let names = backend_names(&live)?;
    let mut rows: Vec<BackendRow> = live
        .store
        .backends()?
        .into_iter()
        .filter(|(_, backend)| backend.state != backend_state::GONE)
        .map(|(id, backend)| (id, counted(id, &backend), backend))
        .map(|(id, BackendCounter { connections, to, from, .. }, backend)| BackendRow {
            id,
            address: backend.addr.into(),
            port: backend.port.get(),
            protocol: Protocol::from_number(backend.proto).map_or("?", Protocol::as_str),
            state: if backend.state == backend_state::ACTIVE { "active" } else { "terminating" },
            local: backend.flags & backend_flag::LOCAL != 0,
            weight: backend.weight,
            services: names.get(&backend.service).cloned(),
            connections,
            to_backend: to.into(),
            from_backend: from.into(),
        })
        .collect();
    rows.sort_by(|a, b| {
        (a.address, a.port, a.protocol, &a.services).cmp(&(b.address, b.port, b.protocol, &b.services))
    });
    if output.output.is_table() && rows.iter().any(|row| row.services.is_none()) {
        live.tell_of_missing_names()?;
    }
    let mut headers = vec!["ADDRESS", "PORT", "PROTO", "STATE", "LOCAL", "SERVICE", "CONNECTIONS"];
    let wide = output.output == Format::Wide;
    if wide {
        headers.extend(["ID", "WEIGHT", "PACKETS TO", "BYTES TO", "PACKETS FROM", "BYTES FROM"]);
    }
    let mut table = Table::new(&headers);
    for row in &rows {
        let state = Cell::new(row.state);
        let mut cells = vec![
            Cell::new(row.address.to_string()),
            Cell::new(row.port.to_string()).right(),
            Cell::new(row.protocol),
            if row.state == "active" { state.good() } else { state.warn() },
            Cell::new(if row.local { "yes" } else { "no" }),
            Cell::new(row.services.as_ref().map_or_else(|| "?".to_owned(), |names| names.join(","))),
            Cell::new(row.connections.to_string()).right(),
        ];
        if wide {
            cells.push(Cell::new(row.id.to_string()).right());
            cells.push(Cell::new(row.weight.to_string()).right());
            let TrafficRow { packets, bytes } = row.to_backend;
            let TrafficRow { packets: answers, bytes: answered } = row.from_backend;
            cells.extend([packets, bytes, answers, answered].map(|number| Cell::new(number.to_string()).right()));
        }
        table.row(cells);
    }
    print(output.output, &rows, &table)
}

/// `NAMESPACE/NAME:PORT` by identity of the service port: an index's set leads to its backends, and they bear it.
fn backend_names(live: &Live) -> Result<HashMap<u64, Vec<String>>> {
    let mut names: HashMap<u64, Vec<String>> = HashMap::new();
    let Some(agent) = &live.agent else { return Ok(names) };
    for set in &agent.names.sets {
        let Some(state) = live.store.state(set.index) else { continue };
        let len = u32::from(state.word.count()) + u32::from(state.draining);
        if state.identity != set.identity || len == 0 {
            continue;
        }
        let ids = live.store.slots(state.word.offset(), len).unwrap_or_default();
        let Some(backend) = ids.first().map(|id| live.store.backend(*id)).transpose()?.flatten() else { continue };
        let name = if set.port_name.is_empty() {
            format!("{}/{}", set.namespace, set.name)
        } else {
            format!("{}/{}:{}", set.namespace, set.name, set.port_name)
        };
        let known = names.entry(backend.service).or_default();
        if !known.contains(&name) {
            known.push(name);
        }
    }
    Ok(names)
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Prints rows in a machine format, or their table.
pub(super) fn print(format: Format, rows: &impl Serialize, table: &Table) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match format {
        Format::Json => output::print_json(rows, &mut out)?,
        Format::Yaml => output::print_yaml(rows, &mut out)?,
        Format::Table | Format::Wide => table.print(output::stdout_colour(), &mut out)?,
    }
    out.flush()?;
    Ok(())
}
