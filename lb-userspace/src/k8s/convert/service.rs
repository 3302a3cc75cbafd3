//! `v1 Service`.

use k8s_openapi::{
    api::core::v1::{LoadBalancerIngress, Service as Source, ServicePort as SourcePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    super::{FieldPath, Invalid},
    annotations::Annotations,
    fields,
};
use crate::model::{Created, Policy, Service, ServicePort, ServiceType, Uid, shared};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` if left out: three hours.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;
/// The largest timeout that Kubernetes allows: a day.
const MAX_AFFINITY_SECONDS: i32 = 86_400;

/// Converts a Service.
///
/// # Errors
/// Names the first field that does not validate.
pub fn service(source: &Source) -> Result<Service, Invalid> {
    let metadata = &source.metadata;
    let default = ServiceSpec::default();
    let spec = source.spec.as_ref().unwrap_or(&default);
    let at = |key: &'static str| move || FieldPath::new(["spec", key]);
    let policies = [("Cluster", Policy::Cluster), ("Local", Policy::Local)];
    let (headless, cluster_ips) = cluster_ips(spec)?;
    let families = spec.ip_families.iter().flatten().enumerate();
    for (i, family) in families {
        fields::choice(Some(family), [("IPv4", ()), ("IPv6", ())], || at("ipFamilies")().index(i))?;
    }
    let annotations = Annotations::of(metadata);
    Ok(Service {
        name: fields::service_name(metadata)?,
        created: Created(metadata.creation_timestamp.as_ref().map(|t| nanoseconds(t.0.as_nanosecond()))),
        uid: metadata.uid.as_deref().and_then(Uid::new),
        ignored: fields::not_ours(metadata),
        kind: fields::choice(
            spec.type_.as_deref(),
            [
                ("ClusterIP", ServiceType::ClusterIp),
                ("NodePort", ServiceType::NodePort),
                ("LoadBalancer", ServiceType::LoadBalancer),
                ("ExternalName", ServiceType::ExternalName),
            ],
            at("type"),
        )?,
        headless,
        has_selector: spec.selector.as_ref().is_some_and(|s| !s.is_empty()),
        cluster_ips,
        external_ips: list(spec.external_ips.as_ref(), |i, ip| {
            fields::routable_address(ip, || at("externalIPs")().index(i))
        })?,
        load_balancer_ips: load_balancer_ips(source)?,
        ports: list(spec.ports.as_ref(), |i, p| port(p, &at("ports")().index(i)))?,
        internal_policy: fields::choice(
            spec.internal_traffic_policy.as_deref(),
            policies,
            at("internalTrafficPolicy"),
        )?,
        external_policy: fields::choice(
            spec.external_traffic_policy.as_deref(),
            policies,
            at("externalTrafficPolicy"),
        )?,
        affinity_seconds: affinity(spec)?,
        source_ranges: {
            let mut ranges = list(spec.load_balancer_source_ranges.as_ref(), |i, range| {
                fields::range(range, || at("loadBalancerSourceRanges")().index(i))
            })?;
            ranges.sort_unstable_by_key(|r| (r.addr(), r.prefix_len()));
            ranges.dedup();
            ranges
        },
        health_check_node_port: fields::optional_port(spec.health_check_node_port, at("healthCheckNodePort"))?,
        algorithm: annotations.algorithm,
        weights: annotations.weights,
        bad_annotations: annotations.bad,
    })
}

/// What is beyond the range is at its end.
fn nanoseconds(time: i128) -> i64 {
    i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}

fn list<S, T>(items: Option<&Vec<S>>, convert: impl Fn(usize, &S) -> Result<T, Invalid>) -> Result<Vec<T>, Invalid> {
    items.into_iter().flatten().enumerate().map(|(i, item)| convert(i, item)).collect()
}

/// Whether the Service is headless, and `clusterIPs`, for which a lone `clusterIP` stands in.
fn cluster_ips(spec: &ServiceSpec) -> Result<(bool, Vec<std::net::IpAddr>), Invalid> {
    let single = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    let several: Vec<&str> = spec.cluster_ips.iter().flatten().map(String::as_str).collect();
    let path = |i: usize| FieldPath::new(["spec", "clusterIPs"]).index(i);
    if let (Some(single), Some(first)) = (single, several.first())
        && single != *first
    {
        return Err(Invalid::new(path(0), format!("{first:?} is not spec.clusterIP, which is {single:?}")));
    }
    let texts: Vec<&str> = if several.is_empty() { single.into_iter().collect() } else { several };
    if texts.first() == Some(&"None") {
        return Ok((true, Vec::new()));
    }
    let mut ips: Vec<std::net::IpAddr> = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let place = || {
            if spec.cluster_ips.iter().flatten().next().is_some() {
                path(i)
            } else {
                FieldPath::new(["spec", "clusterIP"])
            }
        };
        // An API server allots them from its ranges; in a file anything may stand, and a node's own loopback be cut off.
        let ip = fields::routable_address(text, place)?;
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err(Invalid::new(
                place(),
                format!("{ip} is the second address of its family; one of each is allowed"),
            ));
        }
        ips.push(ip);
    }
    Ok((false, ips))
}

fn port(source: &SourcePort, path: &FieldPath) -> Result<ServicePort, Invalid> {
    if let Some(IntOrString::Int(target)) = source.target_port {
        // Not used, as slices name the port that pods listen on, but a sign of a damaged object all the same.
        fields::optional_port(Some(target), || path.key("targetPort"))?;
    }
    Ok(ServicePort {
        name: shared(source.name.as_deref().unwrap_or_default()),
        port: fields::port(source.port, || path.key("port"))?,
        node_port: fields::optional_port(source.node_port, || path.key("nodePort"))?,
        protocol: fields::protocol(source.protocol.as_deref(), || path.key("protocol"))?,
    })
}

/// The addresses at which packets arrive with the load balancer's address still in them: not those of mode `Proxy`,
/// which the load balancer terminates itself (KEP 1860), and no host names.
fn load_balancer_ips(source: &Source) -> Result<Vec<std::net::IpAddr>, Invalid> {
    let ingress = source.status.iter().filter_map(|s| s.load_balancer.as_ref()).filter_map(|l| l.ingress.as_ref());
    let mut ips = Vec::new();
    for (i, LoadBalancerIngress { ip, ip_mode, .. }) in ingress.flatten().enumerate() {
        let at = |key: &str| FieldPath::new(["status", "loadBalancer", "ingress"]).index(i).key(key);
        let ours = fields::choice(ip_mode.as_deref(), [("VIP", true), ("Proxy", false)], || at("ipMode"))?;
        if let Some(ip) = ip.as_deref().filter(|ip| !ip.is_empty()) {
            let ip = fields::virtual_address(ip, || at("ip"))?;
            if ours {
                ips.push(ip);
            }
        }
    }
    Ok(ips)
}

fn affinity(spec: &ServiceSpec) -> Result<Option<u32>, Invalid> {
    let at = FieldPath::new(["spec"]);
    let by_client = [("None", false), ("ClientIP", true)];
    if !fields::choice(spec.session_affinity.as_deref(), by_client, || at.key("sessionAffinity"))? {
        return Ok(None);
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = client_ip.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    match u32::try_from(seconds) {
        Ok(timeout) if (1..=MAX_AFFINITY_SECONDS).contains(&seconds) => Ok(Some(timeout)),
        _ => Err(Invalid::new(
            at.key("sessionAffinityConfig").key("clientIP").key("timeoutSeconds"),
            format!("{seconds} is not a timeout: 1–{MAX_AFFINITY_SECONDS}"),
        )),
    }
}
