//! The state document: what `berrylb plan` wants and `berrylb dump` finds, in one shape.
//!
//! The field names and their order in JSON are part of the project's outside; scripts rely on them.

use std::{cmp::Ordering, fmt, net::IpAddr, str::FromStr, sync::Arc};

use arcstr::ArcStr;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Namespace and name of a Service; as cheap to keep and to clone as a pointer, as it is the key of most tables.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceName(
    /// Both, with [`Self::BETWEEN`].
    ArcStr,
);

impl ServiceName {
    /// Less than anything in a name: so the order is that of namespaces, then names.
    const BETWEEN: char = '\0';

    /// A name from its parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(arcstr::format!("{namespace}{}{name}", Self::BETWEEN))
    }

    /// `metadata.namespace`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts().1
    }

    /// Namespace and name.
    #[must_use]
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once(Self::BETWEEN).unwrap_or_default()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, name) = self.parts();
        write!(f, "{namespace}/{name}")
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        // Kubernetes' names hold no slash.
        let (namespace, name) = text.split_once('/').ok_or_else(|| de::Error::custom("no namespace/name"))?;
        Ok(Self::new(namespace, name))
    }
}

/// Transport protocol of a frontend. The order is that of the text: SCTP, TCP, UDP.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// SCTP; listed, not carried.
    Sctp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IANA protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Sctp => lb_common::abi::proto::SCTP,
            Self::Tcp => lb_common::abi::proto::TCP,
            Self::Udp => lb_common::abi::proto::UDP,
        }
    }

    /// The protocol of an IANA number, if it is one of ours.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            lb_common::abi::proto::SCTP => Some(Self::Sctp),
            lb_common::abi::proto::TCP => Some(Self::Tcp),
            lb_common::abi::proto::UDP => Some(Self::Udp),
            _ => None,
        }
    }

    /// As Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sctp => "SCTP",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a frontend's traffic comes from.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Entered the node from outside.
    External,
    /// From this node's pods or the node itself.
    Internal,
}

/// How a frontend's address came about. The order is the precedence within one Service.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum FrontendType {
    /// `spec.clusterIPs`.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    #[serde(rename = "ExternalIP")]
    ExternalIp,
    /// `spec.ports[].nodePort` on an address of this node.
    NodePort,
}

/// What happens to a new connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// To one of the backends.
    Forward,
    /// Refused at once: no ready and no serving-terminating endpoint on any node.
    Reject,
    /// Dropped: endpoints exist, but policy Local leaves none on this node; or closed to this scope.
    Drop,
}

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// At random, by weight.
    #[default]
    Random,
    /// By a consistent hash of the flow.
    Maglev,
}

/// Condition of a listed backend.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Ready.
    Active,
    /// Serving and terminating.
    Terminating,
}

/// One endpoint as a frontend sees it. Field order is JSON order.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct Backend {
    /// Pod (or other) address.
    pub address: IpAddr,
    /// Target port.
    pub port: u16,
    /// Condition.
    pub state: BackendState,
    /// Whether the endpoint's node is this node.
    pub local: bool,
    /// Share of new connections; 0: none.
    pub weight: u16,
    /// The endpoint's zone.
    pub zone: Option<Arc<str>>,
}

/// One address, port, protocol and scope. Field order is JSON order.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// Virtual or node address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Where the traffic comes from.
    pub scope: Scope,
    /// The owner; `None` (null) only in a dump whose names nobody could tell.
    pub service: Option<ServiceName>,
    /// `spec.ports[].name`, `""` for an unnamed port; `None` as above.
    pub port_name: Option<Arc<str>>,
    /// How the address came about.
    #[serde(rename = "type")]
    pub kind: FrontendType,
    /// What happens to a new connection.
    pub action: Action,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// ClientIP affinity timeout.
    pub affinity_seconds: Option<u32>,
    /// Sources that may use it, of the frontend's own family, host bits cleared; see [`Self::has_source_ranges`].
    pub source_ranges: Vec<IpNet>,
    /// Whether sources are restricted at all: ranges of the other family only leave `source_ranges` empty and mean nobody.
    #[serde(skip)]
    pub has_source_ranges: bool,
    /// What new connections may take, in order of address and port; empty unless `action` is forward.
    pub backends: Vec<Backend>,
    /// Endpoints that take no new connections but still exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<Backend>,
}

impl Frontend {
    /// The order of the document: addresses as numbers, IPv4 first, then port, protocol and scope as text.
    #[must_use]
    pub fn document_order(&self, other: &Self) -> Ordering {
        (self.address, self.port, self.protocol, self.scope).cmp(&(
            other.address,
            other.port,
            other.protocol,
            other.scope,
        ))
    }
}

/// A `healthCheckNodePort`. Field order is JSON order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// The owner.
    pub service: ServiceName,
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// The whole document. Build it with [`State::new`], which sorts.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// `--node-name`, or `""`.
    pub node: String,
    /// All frontends in document order.
    pub frontends: Vec<Frontend>,
    /// Health check ports in order of service.
    pub health_checks: Vec<HealthCheck>,
}

impl State {
    /// Sorts into document order, so that equal states print equal bytes.
    #[must_use]
    pub fn new(node: String, mut frontends: Vec<Frontend>, mut health_checks: Vec<HealthCheck>) -> Self {
        let by_address = |a: &Backend, b: &Backend| (a.address, a.port).cmp(&(b.address, b.port));
        for f in &mut frontends {
            f.backends.sort_by(by_address);
            f.draining.sort_by(by_address);
            f.source_ranges.sort_by_key(|r| (r.addr(), r.prefix_len()));
        }
        frontends.sort_by(Frontend::document_order);
        health_checks.sort_by(|a, b| (&a.service, a.port).cmp(&(&b.service, b.port)));
        Self { node, frontends, health_checks }
    }
}

/// What the plan hands to the maps: the whole desired state of one Service. No frontends: the Service is gone or has none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceChange {
    /// Which Service.
    pub service: ServiceName,
    /// All its frontends, NodePorts once for each node address.
    pub frontends: Vec<Frontend>,
}

impl FrontendType {
    /// As the document writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "ExternalIP",
            Self::NodePort => "NodePort",
        }
    }
}

impl fmt::Display for FrontendType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Scope {
    /// As the document writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Internal => "internal",
        }
    }
}

impl BackendState {
    /// As the document writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Terminating => "terminating",
        }
    }
}

impl Action {
    /// As the document writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
        }
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            "maglev" => Ok(Self::Maglev),
            _ => Err(format!("{text:?} is not an algorithm: random or maglev")),
        }
    }
}

impl Algorithm {
    /// As the document writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Maglev => "maglev",
        }
    }
}
