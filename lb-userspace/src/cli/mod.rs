//! The command line: one module for each command, and `output` for how they all print.

mod agent;
mod cleanup;
mod counters;
mod dump;
mod flows;
mod links;
mod live;
pub mod output;
pub mod plan;
mod services;
mod verify;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{agent::AgentArgs, loader::object};

/// Service load balancer for Kubernetes nodes: Services and EndpointSlices become BPF maps, and BPF programs send each
/// connection to a backend.
#[derive(Debug, Parser)]
#[command(name = "berrylb", version = object::VERSION, after_help = "Example:\n  berrylb plan --from services.yaml -o wide")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(Box<AgentArgs>),
    Plan(plan::PlanArgs),
    Dump(dump::DumpArgs),
    Verify(verify::VerifyArgs),
    /// The Services that the datapath serves now.
    #[command(
        subcommand,
        after_help = "Example:\n  berrylb service list\n  berrylb service get default/sample-clusterip"
    )]
    Service(services::ServiceCommand),
    /// The backends that the datapath knows now.
    #[command(subcommand, after_help = "Example:\n  berrylb backend list -o wide")]
    Backend(services::BackendCommand),
    /// The flows of the packet path.
    #[command(subcommand, after_help = "Example:\n  berrylb flow list -o wide")]
    Flow(flows::FlowCommand),
    /// The devices that the datapath serves now.
    #[command(subcommand, after_help = "Example:\n  berrylb link list -o wide")]
    Link(links::LinkCommand),
    Counters(counters::CountersArgs),
    Cleanup(cleanup::CleanupArgs),
    /// Print the completion script of a shell.
    #[command(after_help = "Example:\n  berrylb completion bash > /etc/bash_completion.d/berrylb")]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Parses the process's arguments and runs the command. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[must_use]
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Agent(args) => agent::run(*args),
        Command::Plan(args) => plan::run(&args),
        Command::Dump(args) => finish("dump", dump::run(&args)),
        Command::Verify(args) => finish("verify", verify::run(&args)),
        Command::Service(command) => finish("service", services::run(&command)),
        Command::Backend(command) => finish("backend", services::run_backend(&command)),
        Command::Flow(command) => finish("flow", flows::run(&command)),
        Command::Link(command) => finish("link", links::run(&command)),
        Command::Counters(args) => finish("counters", counters::run(&args)),
        Command::Cleanup(args) => finish("cleanup", cleanup::run(&args)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "berrylb", &mut script);
            finish("completion", io::stdout().write_all(&script).map_err(Into::into))
        }
    }
}

/// The exit code of a command, with its error told.
fn finish(command: &str, result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // Whoever reads us has read enough (`| head`).
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    // If standard error is gone as well, the exit code still tells.
    let _told = writeln!(io::stderr(), "berrylb {command}: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The contract: `--help` on all, with an example.
    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example:"), "{} has no example", command.get_name());
            command.get_subcommands().filter(|c| c.get_name() != "help").for_each(check);
        }
        check(&Cli::command());
    }
}
