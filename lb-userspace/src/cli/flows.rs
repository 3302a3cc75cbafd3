//! `berrylb flow list`: the translated connections of the packet path. The socket path leaves none.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use lb_common::{
    abi::{Flow, TICK_SHIFT, Tuple, flow_state, role},
    datapath::FlowTable,
};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::{
    live::LiveArgs,
    output::{self, Cell, Format, OutputArgs, Table},
    services::print,
};
use crate::{maps::MapStore as _, plan::state::Protocol};

/// `berrylb flow …`
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum FlowCommand {
    /// List the flows, one line each; wide shows both directions' entries.
    #[command(after_help = "Example:\n  berrylb flow list")]
    List {
        #[command(flatten)]
        live: LiveArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct End {
    address: IpAddr,
    port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FlowRow {
    protocol: &'static str,
    direction: &'static str,
    state: &'static str,
    source: End,
    destination: End,
    new_source: End,
    new_destination: End,
    way: String,
    from: &'static str,
    mtu: Option<u16>,
    idle_seconds: u64,
}

pub(super) fn run(command: &FlowCommand) -> Result<()> {
    let FlowCommand::List { live, output } = command;
    let live = live.open()?;
    let uptime = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the monotonic clock")?;
    let now = (u64::try_from(uptime.tv_sec())? * 1_000_000_000) >> TICK_SHIFT;
    let all = matches!(output.output, Format::Wide | Format::Json | Format::Yaml);
    let mut rows = Vec::new();
    for table in [FlowTable::Flows, FlowTable::Embryos] {
        for (key, flow) in live.store.flows(table)? {
            // Read while it was being replaced: belongs to nobody.
            if flow.is_for(&key) && (all || flow.role & role::FORWARD != 0) {
                rows.push(row(&key, &flow, now));
            }
        }
    }
    rows.sort_by(|a, b| {
        let order =
            |r: &FlowRow| (r.source.address, r.source.port, r.destination.address, r.destination.port, r.protocol);
        order(a).cmp(&order(b))
    });
    let mut headers = vec!["PROTO", "CLIENT", "SERVICE", "BACKEND", "STATE", "IDLE"];
    if all {
        headers = vec![
            "PROTO",
            "DIRECTION",
            "SOURCE",
            "DESTINATION",
            "NEW SOURCE",
            "NEW DESTINATION",
            "STATE",
            "WAY",
            "FROM",
            "MTU",
            "IDLE",
        ];
    }
    let mut table = Table::new(&headers);
    for row in &rows {
        let end = |end: &End| Cell::new(output::socket_text(end.address, end.port));
        let idle = Cell::new(format!("{}s", row.idle_seconds)).right();
        table.row(if all {
            vec![
                Cell::new(row.protocol),
                Cell::new(row.direction),
                end(&row.source),
                end(&row.destination),
                end(&row.new_source),
                end(&row.new_destination),
                Cell::new(row.state),
                Cell::new(row.way.as_str()),
                Cell::new(row.from),
                Cell::new(row.mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string())).right(),
                idle,
            ]
        } else {
            vec![
                Cell::new(row.protocol),
                end(&row.source),
                end(&row.destination),
                end(&row.new_destination),
                Cell::new(row.state),
                idle,
            ]
        });
    }
    print(output.output, &rows, &table)
}

fn row(key: &Tuple, flow: &Flow, now: u64) -> FlowRow {
    let end = |addr: lb_common::abi::Addr, port: lb_common::abi::Port| End { address: addr.into(), port: port.get() };
    FlowRow {
        protocol: Protocol::from_number(key.proto).map_or("?", Protocol::as_str),
        direction: if flow.role & role::FORWARD != 0 { "forward" } else { "reply" },
        state: match flow.state {
            flow_state::NEW => "new",
            flow_state::REPLIED => "replied",
            flow_state::ESTABLISHED => "established",
            flow_state::CLOSING => "closing",
            _ => "?",
        },
        source: end(key.src, key.sport),
        destination: end(key.dst, key.dport),
        new_source: end(flow.to.src, flow.to.sport),
        new_destination: end(flow.to.dst, flow.to.dport),
        way: if flow.role & role::HAIRPIN != 0 {
            "hairpin".to_owned()
        } else if flow.role & (role::DSR | role::FORWARD) == role::DSR | role::FORWARD {
            format!("dsr:{}", flow.oif)
        } else if flow.role & role::ROUTED != 0 {
            // Out by the one device, and the other direction by the other.
            format!("routed:{}/{}", flow.oif, flow.mate_oif)
        } else if flow.oif != 0 {
            format!("redirect:{}", flow.oif)
        } else {
            "stack".to_owned()
        },
        from: if flow.role & role::HOST != 0 {
            "node"
        } else if flow.role & role::OUTSIDE != 0 {
            "outside"
        } else {
            "pod"
        },
        mtu: (flow.mtu != 0).then_some(flow.mtu),
        idle_seconds: (now.saturating_sub(u64::from(flow.seen)) << TICK_SHIFT) / 1_000_000_000,
    }
}
