//! `berrylb plan`: from YAML files to the state document, offline.
//!
//! Touches no kernel, no link, no host name and no environment: equal files and flags print equal bytes anywhere.

use std::{
    io::{self, Read, Write},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

use super::output::{self, OutputArgs};
use crate::{
    k8s,
    plan::{NodePortAddresses, PlanConfig, Planner, state::Algorithm},
};

/// Print what the datapath of a node should hold, from Kubernetes objects in files.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  kubectl get service,endpointslice,node -A -o yaml | berrylb plan --from - --node-name raspi002"
)]
pub struct PlanArgs {
    /// File, folder (its own *.yaml, *.yml, *.json) or `-` for standard input; may be repeated, later objects win.
    #[arg(long, required = true, value_name = "PATH")]
    pub from: Vec<PathBuf>,
    /// The node to plan for; without it, nothing is local.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub node_name: String,
    /// Address that node ports listen on, in place of the Node object's; may be repeated.
    #[arg(long, value_name = "IP", value_parser = node_address)]
    pub node_address: Vec<IpAddr>,
    /// On which of these node ports listen: primary (the first of each family), all (of the Node object, or of
    /// --node-address), and ranges, separated by commas. Default: all.
    #[arg(long, value_name = "WHICH")]
    pub nodeport_addresses: Option<NodePortAddresses>,
    /// Cluster IPs answer what comes from outside, too.
    #[arg(long)]
    pub allow_external_cluster_ip: bool,
    /// The node's zone, in place of its Node object's label.
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// Hold node ports to loadBalancerSourceRanges, too.
    #[arg(long)]
    pub source_ranges_nodeport: bool,
    /// How backends are chosen for Services that do not say: random or maglev.
    #[arg(long, default_value = "random", value_name = "ALGORITHM")]
    pub algorithm: Algorithm,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl PlanArgs {
    /// What the flags say to the planner.
    #[must_use]
    pub fn config(&self) -> PlanConfig {
        PlanConfig {
            node_name: self.node_name.clone(),
            node_addresses: (!self.node_address.is_empty()).then(|| self.node_address.clone()),
            node_port_addresses: self.nodeport_addresses.clone(),
            external_cluster_ips: self.allow_external_cluster_ip,
            zone: self.zone.clone(),
            node_port_source_ranges: self.source_ranges_nodeport,
            algorithm: self.algorithm,
        }
    }
}

/// Parses a value of `--node-address`.
///
/// # Errors
/// Says why the text is not an address that a node port could listen on.
pub fn node_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "not an IP address".to_owned())?;
    let address = address.to_canonical();
    if address.is_unspecified() || address.is_multicast() {
        return Err("node ports need an address of their own, not an unspecified or multicast one".to_owned());
    }
    Ok(address)
}

/// Runs the command on the process's standard streams. Exit code 1: a path could not be read or an object was bad; the
/// state of all others is printed nevertheless.
#[must_use]
pub fn run(args: &PlanArgs) -> ExitCode {
    let colour = output::stdout_colour();
    let (mut out, mut err) = (io::BufWriter::new(io::stdout().lock()), io::stderr().lock());
    match run_on(args, colour, &mut io::stdin(), &mut out, &mut err).and_then(|complete| out.flush().map(|()| complete))
    {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever reads us has read enough (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is gone as well, the exit code still tells.
            let _told = writeln!(err, "berrylb plan: cannot write the state: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command on any streams. Returns whether every path could be read and every object was good.
///
/// # Errors
/// If `out` or `err` cannot be written.
pub fn run_on(
    args: &PlanArgs,
    colour: bool,
    stdin: &mut dyn Read,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<bool> {
    let mut stdin = Counted { inner: stdin, bytes: 0 };
    let loaded = k8s::load(&args.from, &mut stdin);
    if stdin.bytes == 0 && args.from.iter().any(|path| path.as_os_str() == "-") {
        writeln!(err, "stdin: it is empty, which means no objects: did the command that was to write them fail?")?;
    }
    let mut planner = Planner::new(args.config());
    for message in loaded.messages() {
        writeln!(err, "{message}")?;
    }
    let complete = loaded.is_complete();
    for located in loaded.objects.into_values() {
        planner.upsert(located.object);
    }
    for diagnostic in planner.diagnostics() {
        writeln!(err, "{diagnostic}")?;
    }
    if let Some(nodes) = planner.nodes_without_ours() {
        writeln!(
            err,
            "none of the {nodes} Node objects is {:?}, so no endpoint counts as local: is --node-name right?",
            args.node_name
        )?;
    }
    output::print_state(&planner.state(), args.output.output, colour, out)?;
    Ok(complete)
}

/// A stream that knows how much came.
struct Counted<'a> {
    inner: &'a mut dyn Read,
    bytes: usize,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        plan: PlanArgs,
    }

    #[track_caller]
    fn check(line: &str, expected: Result<usize, &str>) {
        let parsed = Cli::try_parse_from(["plan"].into_iter().chain(line.split_whitespace()));
        match (parsed, expected) {
            (Ok(cli), Ok(addresses)) => assert_eq!(cli.plan.node_address.len(), addresses, "{line}"),
            (Err(error), Err(part)) => {
                assert_eq!(error.exit_code(), 2, "{line}");
                assert!(error.to_string().contains(part), "{line}: {error}");
            }
            (parsed, expected) => panic!("{line}: {parsed:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn usage() {
        check("--from a", Ok(0));
        check("--from a --from - --node-address 10.0.0.1 --node-address ::1 -o wide", Ok(2));
        check("", Err("--from"));
        check("--from", Err("--from"));
        check("--from a -o xml", Err("xml"));
        check("--from a --node-address 0.0.0.0", Err("unspecified"));
        check("--from a --node-address ::", Err("unspecified"));
        check("--from a --node-address ::ffff:0.0.0.0", Err("unspecified"));
        check("--from a --node-address ff02::1", Err("multicast"));
        check("--from a --nodeport-addresses primary,10.0.0.0/8 --allow-external-cluster-ip", Ok(0));
        check("--from a --nodeport-addresses eth0", Err("primary"));
        check("--from a --algorithm maglev", Ok(0));
        check("--from a --algorithm ring", Err("random or maglev"));
        check("--from a --node-address raspi001", Err("not an IP address"));
    }

    /// `kubectl … | berrylb plan --from -` where kubectl failed: an empty state, and not without a word.
    #[test]
    fn an_empty_standard_input_is_told() {
        let told = |from: &str, mut stdin: &[u8]| {
            let args = Cli::try_parse_from(["plan", "--from", from]).unwrap().plan;
            let mut err = Vec::new();
            assert!(run_on(&args, false, &mut stdin, &mut Vec::new(), &mut err).unwrap(), "the exit code stays 0");
            String::from_utf8(err).unwrap()
        };
        assert!(told("-", b"").starts_with("stdin: it is empty"));
        assert_eq!(told("-", b"---\n"), "");
        assert_eq!(told("/dev/null", b""), "");
    }

    /// What a closed or full standard output gives is an error, not a success without output.
    #[test]
    fn a_failing_output_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for format in ["table", "wide", "json", "yaml"] {
            let args = Cli::try_parse_from(["plan", "--from", "-", "-o", format]).unwrap().plan;
            let result = run_on(&args, false, &mut io::empty(), &mut Full, &mut Vec::new());
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull, "{format}");
        }
    }
}
