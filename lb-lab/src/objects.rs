//! Kubernetes objects as YAML in the shape that `kubectl get -o yaml` prints.
//!
//! It writes text and knows nothing of how berrylb reads it.

use std::{
    fmt::{self, Write},
    net::{IpAddr, SocketAddr},
};

use crate::{Host, Lab, Pod};

/// A port of a Service and of its slices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Port {
    /// `name`, `""` for none.
    pub name: &'static str,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// The Service's port.
    pub port: u16,
    /// The endpoints' port.
    pub target: u16,
    /// `nodePort`.
    pub node_port: Option<u16>,
}

impl Port {
    /// A TCP port.
    #[must_use]
    pub const fn tcp(name: &'static str, port: u16, target: u16) -> Self {
        Self { name, protocol: "TCP", port, target, node_port: None }
    }

    /// A UDP port.
    #[must_use]
    pub const fn udp(name: &'static str, port: u16, target: u16) -> Self {
        Self { protocol: "UDP", ..Self::tcp(name, port, target) }
    }
}

/// A `v1` Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.type`.
    pub kind: &'static str,
    /// `spec.clusterIPs`; empty for `None`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<Port>,
    /// `spec.selector` as label and value; `None` for a Service without one.
    pub selector: Option<(String, String)>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.sessionAffinity: ClientIP` with this timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: &'static str,
    /// More lines of `spec`, without indentation, such as `externalTrafficPolicy: Local`.
    pub spec: Vec<String>,
}

impl Service {
    /// A Service of type ClusterIP in the namespace `default`.
    #[must_use]
    pub fn new(name: &str, cluster_ips: &[IpAddr], ports: &[Port]) -> Self {
        Self {
            namespace: "default".into(),
            name: name.into(),
            kind: "ClusterIP",
            cluster_ips: cluster_ips.into(),
            ports: ports.into(),
            selector: Some(("app".into(), "sample-app".into())),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            affinity_seconds: None,
            internal_policy: "Cluster",
            spec: Vec::new(),
        }
    }

    /// The environment variables that the kubelet gives to pods of the Service's namespace that start after it.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let (Some(ip), Some(first)) = (self.cluster_ips.first(), self.ports.first()) else { return Vec::new() };
        let upper = |name: &str| name.to_uppercase().replace('-', "_");
        let name = upper(&self.name);
        let url = |port: &Port| format!("{}://{}", port.protocol.to_lowercase(), SocketAddr::new(*ip, port.port));
        let mut variables = vec![
            (format!("{name}_SERVICE_HOST"), ip.to_string()),
            (format!("{name}_SERVICE_PORT"), first.port.to_string()),
            (format!("{name}_PORT"), url(first)),
        ];
        for port in &self.ports {
            if !port.name.is_empty() {
                variables.push((format!("{name}_SERVICE_PORT_{}", upper(port.name)), port.port.to_string()));
            }
            let one = format!("{name}_PORT_{}_{}", port.port, port.protocol);
            variables.push((one.clone(), url(port)));
            variables.push((format!("{one}_PROTO"), port.protocol.to_lowercase()));
            variables.push((format!("{one}_PORT"), port.port.to_string()));
            variables.push((format!("{one}_ADDR"), ip.to_string()));
        }
        variables
    }

    /// The slice of this Service with these endpoints, all of one address family.
    #[must_use]
    pub fn slice(&self, endpoints: &[Endpoint]) -> Slice {
        let family = if endpoints.iter().any(|e| e.address.is_ipv6()) { "IPv6" } else { "IPv4" };
        Slice {
            namespace: self.namespace.clone(),
            service: self.name.clone(),
            name: format!("{}-{}", self.name, family.to_lowercase()),
            family,
            ports: self.ports.clone(),
            endpoints: endpoints.into(),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ips = |ips: &[IpAddr]| ips.iter().fold(String::new(), |text, ip| text + &format!("  - {}\n", quoted(*ip)));
        f.write_str("apiVersion: v1\nkind: Service\n")?;
        metadata(f, &self.name, &self.namespace, &[])?;
        f.write_str("spec:\n")?;
        match self.cluster_ips.first() {
            Some(first) => write!(f, "  clusterIP: {}\n  clusterIPs:\n{}", quoted(*first), ips(&self.cluster_ips))?,
            None if self.kind == "ExternalName" => {}
            None => f.write_str("  clusterIP: None\n  clusterIPs:\n  - None\n")?,
        }
        if !self.external_ips.is_empty() {
            write!(f, "  externalIPs:\n{}", ips(&self.external_ips))?;
        }
        writeln!(f, "  internalTrafficPolicy: {}\n  ipFamilies:", self.internal_policy)?;
        let v6 = self.cluster_ips.iter().map(IpAddr::is_ipv6);
        let families: Vec<bool> = if self.cluster_ips.is_empty() { vec![false] } else { v6.collect() };
        for v6 in &families {
            f.write_str(if *v6 { "  - IPv6\n" } else { "  - IPv4\n" })?;
        }
        f.write_str(match families.len() {
            1 => "  ipFamilyPolicy: SingleStack\n",
            _ => "  ipFamilyPolicy: PreferDualStack\n",
        })?;
        if !self.ports.is_empty() {
            f.write_str("  ports:\n")?;
        }
        for port in &self.ports {
            f.write_str("  - ")?;
            if !port.name.is_empty() {
                write!(f, "name: {}\n    ", port.name)?;
            }
            if let Some(node_port) = port.node_port {
                write!(f, "nodePort: {node_port}\n    ")?;
            }
            writeln!(f, "port: {}\n    protocol: {}\n    targetPort: {}", port.port, port.protocol, port.target)?;
        }
        if let Some((label, value)) = &self.selector {
            writeln!(f, "  selector:\n    {label}: {value}")?;
        }
        match self.affinity_seconds {
            None => f.write_str("  sessionAffinity: None\n")?,
            Some(seconds) => writeln!(
                f,
                "  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: {seconds}"
            )?,
        }
        writeln!(f, "  type: {}", self.kind)?;
        for line in &self.spec {
            writeln!(f, "  {line}")?;
        }
        if self.load_balancer_ips.is_empty() {
            return f.write_str("status:\n  loadBalancer: {}\n");
        }
        f.write_str("status:\n  loadBalancer:\n    ingress:\n")?;
        for ip in &self.load_balancer_ips {
            writeln!(f, "    - ip: {}\n      ipMode: VIP", quoted(*ip))?;
        }
        Ok(())
    }
}

/// An endpoint of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The one address.
    pub address: IpAddr,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<String>,
    /// `zone`.
    pub zone: Option<String>,
    /// Name of the Pod in `targetRef`.
    pub pod: Option<String>,
    /// Zones in `hints.forZones`.
    pub hints: Vec<String>,
}

impl Endpoint {
    /// A ready endpoint on a node.
    #[must_use]
    pub fn new(address: IpAddr, node: &str) -> Self {
        Self {
            address,
            ready: true,
            serving: true,
            terminating: false,
            node: Some(node.into()),
            zone: None,
            pod: None,
            hints: Vec::new(),
        }
    }

    /// A pod's IPv4 address, ready.
    #[must_use]
    pub fn v4(pod: &Pod) -> Self {
        Self { pod: Some(pod.name().into()), ..Self::new(pod.ip4().into(), pod.node_name()) }
    }

    /// A pod's IPv6 address, ready.
    #[must_use]
    pub fn v6(pod: &Pod) -> Self {
        Self { pod: Some(pod.name().into()), ..Self::new(pod.ip6().into(), pod.node_name()) }
    }

    /// The same, deleted but still serving.
    #[must_use]
    pub fn terminating(self) -> Self {
        Self { ready: false, serving: true, terminating: true, ..self }
    }

    /// The same, not ready.
    #[must_use]
    pub fn unready(self) -> Self {
        Self { ready: false, serving: false, ..self }
    }
}

/// A `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug)]
pub struct Slice {
    /// `metadata.namespace`.
    pub namespace: String,
    /// The Service it belongs to.
    pub service: String,
    /// `metadata.name`.
    pub name: String,
    /// `addressType`.
    pub family: &'static str,
    /// Ports by name, with the endpoints' port.
    pub ports: Vec<Port>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "addressType: {}\napiVersion: discovery.k8s.io/v1\n", self.family)?;
        f.write_str(if self.endpoints.is_empty() { "endpoints: []\n" } else { "endpoints:\n" })?;
        for e in &self.endpoints {
            writeln!(f, "- addresses:\n  - {}\n  conditions:", quoted(e.address))?;
            writeln!(f, "    ready: {}\n    serving: {}\n    terminating: {}", e.ready, e.serving, e.terminating)?;
            if !e.hints.is_empty() {
                f.write_str("  hints:\n    forZones:\n")?;
                e.hints.iter().try_for_each(|zone| writeln!(f, "    - name: {zone}"))?;
            }
            if let Some(node) = &e.node {
                writeln!(f, "  nodeName: {node}")?;
            }
            if let Some(pod) = &e.pod {
                writeln!(f, "  targetRef:\n    kind: Pod\n    name: {pod}\n    namespace: {}", self.namespace)?;
            }
            if let Some(zone) = &e.zone {
                writeln!(f, "  zone: {zone}")?;
            }
        }
        f.write_str("kind: EndpointSlice\n")?;
        let labels = [
            ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"),
            ("kubernetes.io/service-name", self.service.as_str()),
        ];
        metadata(f, &self.name, &self.namespace, &labels)?;
        f.write_str(if self.ports.is_empty() { "ports: []\n" } else { "ports:\n" })?;
        for port in &self.ports {
            let name = if port.name.is_empty() { "\"\"" } else { port.name };
            writeln!(f, "- name: {name}\n  port: {}\n  protocol: {}", port.target, port.protocol)?;
        }
        Ok(())
    }
}

/// The Node objects of a lab, as one multi-document text.
#[must_use]
pub fn nodes(lab: &Lab) -> String {
    let mut text = String::new();
    for node in lab.nodes() {
        let name = node.name();
        text.push_str("---\napiVersion: v1\nkind: Node\nmetadata:\n");
        let _infallible = write!(
            text,
            "  creationTimestamp: \"{CREATED}\"\n  labels:\n    kubernetes.io/hostname: {name}\n  name: {name}\n\
             spec:\n  podCIDR: {0}\n  podCIDRs:\n  - {0}\nstatus:\n  addresses:\n",
            node.gateway().v4.trunc()
        );
        for ip in node.ips() {
            text.push_str(&format!("  - address: {}\n    type: InternalIP\n", quoted(ip)));
        }
        text.push_str(&format!("  - address: {name}\n    type: Hostname\n"));
    }
    text
}

/// All objects of the lab are as old as this.
const CREATED: &str = "2026-01-01T00:00:00Z";

fn metadata(f: &mut fmt::Formatter<'_>, name: &str, namespace: &str, labels: &[(&str, &str)]) -> fmt::Result {
    writeln!(f, "metadata:\n  creationTimestamp: \"{CREATED}\"")?;
    if !labels.is_empty() {
        f.write_str("  labels:\n")?;
        labels.iter().try_for_each(|(key, value)| writeln!(f, "    {key}: {value}"))?;
    }
    writeln!(f, "  name: {name}\n  namespace: {namespace}\n  resourceVersion: \"1\"")
}

/// An address as a YAML scalar: a colon at either end would be read as a mapping.
fn quoted(address: IpAddr) -> String {
    let text = address.to_string();
    if text.starts_with(':') || text.ends_with(':') { format!("'{text}'") } else { text }
}
