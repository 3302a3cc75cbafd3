//! What an operator should know about a plan that is otherwise complete: values with object names, which the CLI
//! prints and the agent turns into Events. None of them makes a command fail.

use std::{fmt, net::IpAddr};

use super::state::{FrontendType, Protocol, ServiceName};

/// An address, port and protocol, and how it came about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Kind of address.
    pub kind: FrontendType,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, address, port, protocol } = self;
        match address {
            IpAddr::V4(a) => write!(f, "{kind} {a}:{port}/{protocol}"),
            IpAddr::V6(a) => write!(f, "{kind} [{a}]:{port}/{protocol}"),
        }
    }
}

/// One remark. The order is by Service, so that equal plans remark in equal order.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Diagnostic {
    /// An address that two Services, or one Service twice, lay claim to.
    Taken {
        /// Who does not get it.
        loser: ServiceName,
        /// What it wanted.
        wanted: Place,
        /// Who has it; may be the same Service.
        owner: ServiceName,
        /// As what the owner has it.
        as_kind: FrontendType,
    },
    /// Listed, but not carried for everybody.
    NotCarried {
        /// The Service.
        service: ServiceName,
        /// `spec.ports[].name`.
        port_name: String,
        /// Port of the address.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// The other port that endpoints listen on, for which nothing is carried at all. `None`: all but what the node
        /// itself sends is carried.
        target: Option<u16>,
    },
    /// Neither headless nor ExternalName, but without cluster IP: nothing is served, as with kube-proxy.
    NoClusterIp {
        /// The Service.
        service: ServiceName,
    },
    /// A cluster IP, but no port: nothing is served. An API server takes no such Service.
    NoPorts {
        /// The Service.
        service: ServiceName,
    },
    /// An address of a family that the Service has no cluster IP of, so that it has no endpoints either.
    WrongFamily {
        /// The Service.
        service: ServiceName,
        /// Kind of address.
        kind: FrontendType,
        /// The address.
        address: IpAddr,
    },
    /// No endpoint is left, but those that it had last are kept: see `api_server`.
    KeptBackends {
        /// The Service.
        service: ServiceName,
    },
    /// An annotation of ours that is not understood; the Service is served as without it.
    BadAnnotation {
        /// The Service.
        service: ServiceName,
        /// The annotation's whole name.
        annotation: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A `healthCheckNodePort` that another Service has as well. The API server gives each out once.
    HealthPortTaken {
        /// Who does not get it.
        loser: ServiceName,
        /// The port.
        port: u16,
        /// Who has it.
        owner: ServiceName,
    },
    /// Node ports, but no address of this node to listen on.
    NoNodeAddress {
        /// The first of the Services.
        service: ServiceName,
        /// How many others.
        others: usize,
        /// This node's name.
        node: String,
        /// There are addresses, but `--nodeport-addresses` names none of them.
        chosen: bool,
    },
}

impl Diagnostic {
    /// The Service it is about.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        match self {
            Self::Taken { loser: service, .. }
            | Self::HealthPortTaken { loser: service, .. }
            | Self::NotCarried { service, .. }
            | Self::NoClusterIp { service }
            | Self::NoPorts { service }
            | Self::KeptBackends { service }
            | Self::BadAnnotation { service, .. }
            | Self::WrongFamily { service, .. }
            | Self::NoNodeAddress { service, .. } => service,
        }
    }

    /// The text without the Service's name.
    #[must_use]
    pub const fn remark(&self) -> Remark<'_> {
        Remark(self)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Their remark goes on with the name.
            Self::NotCarried { service, .. } | Self::NoNodeAddress { service, others: 1.., .. } => {
                write!(f, "service {service} ")
            }
            Self::Taken { .. }
            | Self::NoClusterIp { .. }
            | Self::NoPorts { .. }
            | Self::WrongFamily { .. }
            | Self::KeptBackends { .. }
            | Self::BadAnnotation { .. }
            | Self::HealthPortTaken { .. }
            | Self::NoNodeAddress { .. } => write!(f, "service {}: ", self.service()),
        }?;
        self.remark().fmt(f)
    }
}

/// A diagnostic without the Service's name, for where that stands already.
#[derive(Clone, Copy, Debug)]
pub struct Remark<'a>(&'a Diagnostic);

impl fmt::Display for Remark<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Diagnostic::Taken { loser, wanted, owner, as_kind } if loser == owner => {
                write!(f, "{wanted} is left out: the Service has it already, as {as_kind}")
            }
            Diagnostic::Taken { loser: _, wanted, owner, as_kind } => write!(
                f,
                "{wanted} is left out: service {owner}, which comes first by age and name, has it as {as_kind}; give one \
                 of the two another address or port"
            ),
            Diagnostic::NotCarried { service: _, port_name, port, protocol, target: Some(target) } => write!(
                f,
                "port \"{port_name}\" ({port}/{protocol}): dropped where endpoints listen on port {target}: {protocol} \
                 packets keep their port, as their checksum covers it; give both the same number"
            ),
            Diagnostic::NotCarried { service: _, port_name, port, protocol, target: None } => write!(
                f,
                "port \"{port_name}\" ({port}/{protocol}): carried for pods and from outside, but not for the node's own \
                 {protocol} sockets"
            ),
            Diagnostic::NoClusterIp { .. } => f.write_str("no cluster IP, so nothing of it is served; set spec.clusterIP"),
            Diagnostic::NoPorts { .. } => f.write_str("no port, so nothing of it is served; set spec.ports"),
            Diagnostic::KeptBackends { .. } => f.write_str(
                "no endpoint is left, so those that it had last are kept until the Service is gone; check the API server",
            ),
            Diagnostic::WrongFamily { service: _, kind, address } => write!(
                f,
                "{kind} {address} is left out: the Service has no cluster IP of that family; see spec.ipFamilyPolicy"
            ),
            Diagnostic::BadAnnotation { service: _, annotation, cause } => {
                write!(f, "annotation {annotation}: {cause}; the Service is served as without it")
            }
            Diagnostic::HealthPortTaken { loser: _, port, owner } => write!(
                f,
                "healthCheckNodePort {port} answers for service {owner}, which comes first by name; give one of the two \
                 another"
            ),
            Diagnostic::NoNodeAddress { service: _, others, node, chosen } => {
                if *others > 0 {
                    write!(f, "and {others} more: ")?;
                }
                if *chosen {
                    return f.write_str("node ports are left out: --nodeport-addresses names no address of this node");
                }
                let hint = if node.is_empty() {
                    "give --node-address, or --node-name and that Node object".to_owned()
                } else {
                    format!("give --node-address, or a Node object named {node} with an InternalIP")
                };
                write!(f, "node ports are left out: no address of this node is known; {hint}")
            }
        }
    }
}
