//! The objects, as plain values. Whoever makes one has validated it: addresses are addresses, ports are 1–65535.
//!
//! Nothing here parses, and nothing here looks at another object. The agent's snapshot on disk holds these values as serde writes
//! them: whoever changes a field, its name or its meaning gives the snapshot's format a new version (`agent/snapshot/format.rs`).

use std::{cmp::Ordering, collections::BTreeMap, fmt, net::IpAddr, sync::Arc, time::SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Uid, slice::SharedSlice};
use crate::plan::state::{Algorithm, Protocol, ServiceName};

/// The kinds that have an effect.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `v1 Endpoints`.
    Endpoints,
    /// `v1 Node`.
    Node,
}

impl Kind {
    /// The kind of an object, if it is one of ours.
    #[must_use]
    pub fn from_names(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            ("v1", "Service") => Some(Self::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => Some(Self::EndpointSlice),
            ("v1", "Endpoints") => Some(Self::Endpoints),
            ("v1", "Node") => Some(Self::Node),
            _ => None,
        }
    }

    /// As Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Node => "Node",
        }
    }

    /// Whether its objects live in a namespace.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        match self {
            Self::Service | Self::EndpointSlice | Self::Endpoints => true,
            Self::Node => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What makes an object the same object.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; `""` for a Node.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// A reference from its parts.
    pub fn new(kind: Kind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.is_namespaced() {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        } else {
            write!(f, "{} {}", self.kind, self.name)
        }
    }
}

/// One object of any kind.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// An Endpoints object.
    Endpoints(Endpoints),
    /// A Node.
    Node(Node),
}

impl Object {
    /// What makes it the same object as another one.
    #[must_use]
    pub fn key(&self) -> ObjectRef {
        match self {
            Self::Service(o) => ObjectRef::new(Kind::Service, o.name.namespace(), o.name.name()),
            Self::EndpointSlice(o) => ObjectRef::new(Kind::EndpointSlice, o.namespace.clone(), o.name.clone()),
            Self::Endpoints(o) => ObjectRef::new(Kind::Endpoints, o.name.namespace(), o.name.name()),
            Self::Node(o) => ObjectRef::new(Kind::Node, "", o.name.clone()),
        }
    }
}

/// An object as the index holds it, to be looked at beside the agent's loop while that goes on. Written as [`Object`] is.
#[derive(Clone, Debug, Serialize)]
pub enum Shared {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(SharedSlice),
    /// An Endpoints object.
    Endpoints(Arc<Endpoints>),
    /// A Node.
    Node(Arc<Node>),
}

impl Shared {
    /// An order of all objects: kind, namespace, name.
    #[must_use]
    pub fn order(&self) -> (Kind, &str, &str) {
        match self {
            Self::Service(o) => (Kind::Service, o.name.namespace(), o.name.name()),
            Self::EndpointSlice(o) => {
                let (namespace, name) = o.name();
                (Kind::EndpointSlice, namespace, name)
            }
            Self::Endpoints(o) => (Kind::Endpoints, o.name.namespace(), o.name.name()),
            Self::Node(o) => (Kind::Node, "", &o.name),
        }
    }
}

/// `metadata.creationTimestamp`, for the question who was first. An object that does not tell its age is younger than
/// any that does: it takes no address away from an object that is known to have been there.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Created(
    /// Nanoseconds since 1970-01-01 UTC, as far as 64 bits go: until 2262.
    pub Option<i64>,
);

impl Ord for Created {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (Some(a), Some(b)) => a.cmp(&b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
    }
}

impl PartialOrd for Created {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum ServiceType {
    /// The default.
    #[default]
    ClusterIp,
    /// With node ports.
    NodePort,
    /// With node ports and load balancer addresses.
    LoadBalancer,
    /// A DNS alias: no frontends.
    ExternalName,
}

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Policy {
    /// Endpoints on any node.
    #[default]
    Cluster,
    /// Endpoints on this node only.
    Local,
}

/// A Service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// `metadata.creationTimestamp`.
    pub created: Created,
    /// `metadata.uid`; a file may leave it out.
    pub uid: Option<Uid>,
    /// Another proxy's (label `service.kubernetes.io/service-proxy-name`), or marked headless by its label: not ours.
    pub ignored: bool,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    /// Whether `spec.selector` selects anything; without, `Endpoints` of the same name count.
    pub has_selector: bool,
    /// `spec.clusterIPs`, at most one of each family. Empty: headless, ExternalName or not yet allocated.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` without those of `ipMode: Proxy`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: Policy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: Policy,
    /// Timeout in seconds if `spec.sessionAffinity` is ClientIP.
    pub affinity_seconds: Option<u32>,
    /// `spec.loadBalancerSourceRanges`, host bits cleared, both families, no duplicates.
    pub source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<u16>,
    /// How new connections choose among the backends, if an annotation says so.
    pub algorithm: Option<Algorithm>,
    /// Weights of its endpoints, by annotation.
    pub weights: Weights,
    /// Annotations of ours that say nothing we understand: without effect.
    pub bad_annotations: Vec<BadAnnotation>,
}

impl Service {
    /// A Service that says nothing but its name and cluster IPs, with what Kubernetes makes of the rest; it selects pods.
    #[must_use]
    pub fn new(name: ServiceName, cluster_ips: Vec<IpAddr>) -> Self {
        Self {
            name,
            created: Created(None),
            uid: None,
            ignored: false,
            kind: ServiceType::ClusterIp,
            headless: false,
            has_selector: true,
            cluster_ips,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: Vec::new(),
            internal_policy: Policy::Cluster,
            external_policy: Policy::Cluster,
            affinity_seconds: None,
            source_ranges: Vec::new(),
            health_check_node_port: None,
            algorithm: None,
            weights: Weights::default(),
            bad_annotations: Vec::new(),
        }
    }
}

/// Shares of new connections: 0 for none. An endpoint that is not named has 1.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Weights {
    /// By endpoint address; comes before the node's.
    pub addresses: BTreeMap<IpAddr, u16>,
    /// By the name of the node that an endpoint runs on.
    pub nodes: BTreeMap<Arc<str>, u16>,
}

impl Weights {
    /// The weight of an endpoint.
    #[must_use]
    pub fn of(&self, endpoint: &Endpoint) -> u16 {
        let of_node = || endpoint.node_name.as_ref().and_then(|node| self.nodes.get(node));
        self.addresses.get(&endpoint.address).or_else(of_node).copied().unwrap_or(1)
    }
}

/// An annotation without effect, and why.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BadAnnotation {
    /// Its whole name.
    pub name: String,
    /// What is wrong with it.
    pub cause: String,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServicePort {
    /// `""` for the unnamed port of a one-port Service. Slices are matched by it.
    pub name: Arc<str>,
    /// Port of the virtual addresses.
    pub port: u16,
    /// Port on the node's addresses.
    pub node_port: Option<u16>,
    /// Protocol.
    pub protocol: Protocol,
}

/// `addressType` of a slice.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum SliceFamily {
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
    /// Names: nothing that a packet could be sent to, so the slice has no effect.
    Fqdn,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EndpointSlice {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The Service it belongs to (label `kubernetes.io/service-name`); without, it has no effect.
    pub service: Option<ServiceName>,
    /// Another proxy's or a headless Service's, by label: no effect.
    pub ignored: bool,
    /// Written by the mirroring controller from the Endpoints object of its Service.
    pub mirrored: bool,
    /// Kind of its addresses.
    pub family: SliceFamily,
    /// When the control plane saw what the last change was for; for measuring only.
    #[serde(skip)]
    pub triggered: Option<SystemTime>,
    /// Its ports and endpoints; no endpoints where `family` is [`SliceFamily::Fqdn`].
    pub group: EndpointGroup,
}

/// An Endpoints object, as the mirroring controller would slice it: one group for each subset.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Endpoints {
    /// Namespace and name, which are those of its Service.
    pub name: ServiceName,
    /// Not mirrored: label `endpointslice.kubernetes.io/skip-mirror`, or a leader election record.
    pub skip_mirror: bool,
    /// Subsets.
    pub groups: Vec<EndpointGroup>,
}

/// Endpoints that share their ports.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct EndpointGroup {
    /// Ports, each served by every endpoint.
    pub ports: Vec<EndpointPort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port of a group.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EndpointPort {
    /// Matches [`ServicePort::name`].
    pub name: Arc<str>,
    /// Target port; ports left out ("all ports") never get here.
    pub port: u16,
    /// Matches [`ServicePort::protocol`].
    pub protocol: Protocol,
}

/// One endpoint, its conditions with defaults applied.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Endpoint {
    /// The first of its addresses: like kube-proxy, we look at no other.
    pub address: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Could answer; differs from `ready` while it terminates.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// Node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Arc<str>>,
    /// Zone that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// `hints.forZones`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_hints: Vec<Arc<str>>,
}

impl Endpoint {
    /// A ready endpoint of which nothing else is known.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            ready: true,
            serving: true,
            terminating: false,
            node_name: None,
            zone: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    }
}

/// A Node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// InternalIP addresses, then ExternalIP addresses, as the object orders them. The first of each family is primary
    /// (`GetNodeHostIPs`, `pkg/util/node/node.go`).
    pub addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`, if not empty.
    pub zone: Option<Arc<str>>,
    /// It is being deleted, or the cluster autoscaler is about to delete it: it should get no new traffic from outside.
    pub leaving: bool,
}
