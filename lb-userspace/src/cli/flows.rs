//! `berrylb flow list`: the translated connections of the packet path. The socket path leaves none.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::{
    abi::{Flow, TICK_SHIFT, Tuple, flow_state, role},
    datapath::{self, FlowTable},
};
use serde::Serialize;

use super::{
    live::LiveArgs,
    output::{self, Cell, Format, OutputArgs, Table},
    services::print,
};
use crate::{clock::now_ticks, maps::MapStore as _, plan::state::Protocol};

/// `berrylb flow …`
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum FlowCommand {
    /// List the flows that are not over, one line each; wide shows both directions' entries.
    #[command(after_help = "Example:\n  berrylb flow list")]
    List {
        /// Those that are over as well, as TCP a while after it closed, and UDP after some silence: their entries stay until
        /// their place is needed.
        #[arg(long)]
        over: bool,
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
    /// Nothing more is to come of it.
    over: bool,
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
    let FlowCommand::List { over: list_over, live, output } = command;
    let live = live.open()?;
    let all = matches!(output.output, Format::Wide | Format::Json | Format::Yaml);
    let mut rows = Vec::new();
    for table in [FlowTable::Flows, FlowTable::Embryos] {
        let flows = live.store.flows(table)?;
        let now = now_ticks()?;
        for (key, flow) in flows {
            let over = datapath::is_over(&flow, table, now);
            // Read while it was being replaced: belongs to nobody.
            if flow.is_for(&key) && (all || flow.role & role::FORWARD != 0) && (*list_over || !over) {
                rows.push(row(&key, &flow, over, now));
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
        let state = if row.over { Cell::new(format!("{} (over)", row.state)).dim() } else { Cell::new(row.state) };
        table.row(if all {
            vec![
                Cell::new(row.protocol),
                Cell::new(row.direction),
                end(&row.source),
                end(&row.destination),
                end(&row.new_source),
                end(&row.new_destination),
                state,
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
                state,
                idle,
            ]
        });
    }
    print(output.output, &rows, &table)
}

fn row(key: &Tuple, flow: &Flow, over: bool, now: u32) -> FlowRow {
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
        over,
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
        idle_seconds: (u64::from(now.saturating_sub(flow.seen)) << TICK_SHIFT) / 1_000_000_000,
    }
}
