//! `berrylb link list`: the devices that carry programs, what they are taken for, and why.

use anyhow::{Result, bail};

use super::{
    live::LiveArgs,
    output::{Cell, Format, OutputArgs, Table},
    services::print,
};

/// `berrylb link …`
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum LinkCommand {
    /// List the devices that carry programs, one line each; wide says why they are what they are.
    #[command(after_help = "Example:\n  berrylb link list -o wide")]
    List {
        #[command(flatten)]
        live: LiveArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(super) fn run(command: &LinkCommand) -> Result<()> {
    let LinkCommand::List { live, output } = command;
    let Some(agent) = live.open()?.agent else {
        bail!(
            "no agent runs on these maps, so nobody knows why the devices are served as they are: start the agent, or \
             see `bpftool link` for what is attached"
        );
    };
    let wide = output.output == Format::Wide;
    let mut headers = vec!["DEVICE", "INDEX", "KIND", "TC", "XDP"];
    headers.push("XDP REASON");
    if wide {
        headers.push("KIND REASON");
    }
    let mut table = Table::new(&headers);
    for link in &agent.links {
        let tc = Cell::new(if link.attached { "yes" } else { "no" });
        let mut cells = vec![
            Cell::new(link.name.as_str()),
            Cell::new(link.ifindex.to_string()).right(),
            Cell::new(link.kind.as_str()),
            if link.attached { tc } else { tc.warn() },
            Cell::new(link.xdp.mode.as_str()),
            Cell::new(link.xdp.reason.as_str()).dim(),
        ];
        if wide {
            cells.push(Cell::new(link.reason.as_str()).dim());
        }
        table.row(cells);
    }
    print(output.output, &agent.links, &table)
}
