//! `discovery.k8s.io/v1 EndpointSlice` and `v1 Endpoints`.

use std::time::SystemTime;

use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointPort as SubsetPort, EndpointSubset, Endpoints as EndpointsSource},
        discovery::v1::{Endpoint as SliceEndpoint, EndpointPort as SlicePort, EndpointSlice as SliceSource},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};

use super::{
    super::{FieldPath, Invalid},
    fields,
};
use crate::{
    model::{Endpoint, EndpointGroup, EndpointPort, EndpointSlice, Endpoints, SliceFamily, shared},
    plan::state::ServiceName,
};

/// The Service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Who writes a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The controller that copies Endpoints into slices.
const MIRRORING_CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// When the EndpointSlice controller saw the change of a pod or Service that it wrote the slice for, as RFC 3339
/// (`EndpointsLastChangeTriggerTime` in `k8s.io/api/core/v1`).
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Keeps an Endpoints object from being mirrored if "true".
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// An Endpoints object that is a lock, not a set of endpoints.
const LEADER_ELECTION: &str = "control-plane.alpha.kubernetes.io/leader";

/// Converts an EndpointSlice.
///
/// # Errors
/// Names the first field that does not validate.
pub fn endpoint_slice(source: &SliceSource) -> Result<EndpointSlice, Invalid> {
    let metadata = &source.metadata;
    let (namespace, name) = fields::namespaced(metadata)?;
    let family = match source.address_type.as_str() {
        "IPv4" => SliceFamily::V4,
        "IPv6" => SliceFamily::V6,
        "FQDN" => SliceFamily::Fqdn,
        other => {
            let cause = format!("{other:?} is not an address type: IPv4, IPv6 or FQDN");
            return Err(Invalid::new(FieldPath::new(["addressType"]), cause));
        }
    };
    let service = fields::word(&metadata.labels, SERVICE_NAME).filter(|s| !s.is_empty());
    let mut group = EndpointGroup::default();
    for (i, port) in source.ports.iter().flatten().enumerate() {
        group.ports.extend(slice_port(port, &FieldPath::new(["ports"]).index(i))?);
    }
    if family != SliceFamily::Fqdn {
        for (i, endpoint) in source.endpoints.iter().enumerate() {
            let path = FieldPath::new(["endpoints"]).index(i);
            group.endpoints.push(slice_endpoint(endpoint, family, &path)?);
        }
    }
    Ok(EndpointSlice {
        service: service.map(|service| ServiceName::new(namespace, service)),
        namespace: shared(namespace),
        name: name.into(),
        ignored: fields::not_ours(metadata),
        mirrored: fields::word(&metadata.labels, MANAGED_BY) == Some(MIRRORING_CONTROLLER),
        family,
        triggered: triggered(metadata),
        group,
    })
}

/// A time that cannot be read is none: it is for measuring only, and no reason to leave a slice out.
fn triggered(metadata: &ObjectMeta) -> Option<SystemTime> {
    fields::word(&metadata.annotations, TRIGGERED)?.parse::<Timestamp>().ok().map(SystemTime::from)
}

/// A port; none where the number is left out, which means all ports and is nothing that a Service port could be sent
/// to (kube-proxy leaves it out, too).
fn slice_port(source: &SlicePort, path: &FieldPath) -> Result<Option<EndpointPort>, Invalid> {
    let protocol = fields::protocol(source.protocol.as_deref(), || path.key("protocol"))?;
    let Some(number) = source.port else { return Ok(None) };
    let port = fields::port(number, || path.key("port"))?;
    Ok(Some(EndpointPort { name: shared(source.name.as_deref().unwrap_or_default()), port, protocol }))
}

fn slice_endpoint(source: &SliceEndpoint, family: SliceFamily, path: &FieldPath) -> Result<Endpoint, Invalid> {
    let SliceEndpoint { addresses, conditions, hints, node_name, zone, .. } = source;
    let mut first = None;
    for (i, text) in addresses.iter().enumerate() {
        let at = || path.key("addresses").index(i);
        let address = fields::routable_address(text, at)?;
        if address.is_ipv4() != (family == SliceFamily::V4) {
            return Err(Invalid::new(at(), format!("{text} is not of the slice's addressType")));
        }
        first.get_or_insert(address);
    }
    let Some(address) = first else {
        return Err(Invalid::new(path.key("addresses"), "has no address; at least one is needed"));
    };
    let ready = conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    Ok(Endpoint {
        address,
        ready,
        serving: conditions.as_ref().and_then(|c| c.serving).unwrap_or(ready),
        terminating: conditions.as_ref().and_then(|c| c.terminating).unwrap_or(false),
        node_name: fields::shared_some(node_name.as_ref()),
        zone: fields::shared_some(zone.as_ref()),
        zone_hints: {
            let zones = hints.iter().filter_map(|h| h.for_zones.as_ref()).flatten();
            zones.map(|z| shared(&z.name)).collect()
        },
        node_hints: {
            let nodes = hints.iter().filter_map(|h| h.for_nodes.as_ref()).flatten();
            nodes.map(|n| shared(&n.name)).collect()
        },
    })
}

/// Converts an Endpoints object as the mirroring controller would slice it: addresses that are not ready neither serve
/// nor terminate, and zones and hints are not known.
///
/// # Errors
/// Names the first field that does not validate.
pub fn endpoints(source: &EndpointsSource) -> Result<Endpoints, Invalid> {
    let metadata = &source.metadata;
    let mut groups = Vec::new();
    for (i, subset) in source.subsets.iter().flatten().enumerate() {
        groups.push(subset_group(subset, &FieldPath::new(["subsets"]).index(i))?);
    }
    Ok(Endpoints {
        name: fields::service_name(metadata)?,
        // The controller copies all labels, so those that hide a slice from us hide its source as well.
        skip_mirror: fields::word(&metadata.labels, SKIP_MIRROR) == Some("true")
            || fields::word(&metadata.annotations, LEADER_ELECTION).is_some()
            || fields::not_ours(metadata),
        groups,
    })
}

fn subset_group(
    EndpointSubset { addresses, not_ready_addresses, ports }: &EndpointSubset,
    path: &FieldPath,
) -> Result<EndpointGroup, Invalid> {
    let mut group = EndpointGroup::default();
    for (i, SubsetPort { name, port, protocol, app_protocol: _ }) in ports.iter().flatten().enumerate() {
        let at = path.key("ports").index(i);
        group.ports.push(EndpointPort {
            name: shared(name.as_deref().unwrap_or_default()),
            port: fields::port(*port, || at.key("port"))?,
            protocol: fields::protocol(protocol.as_deref(), || at.key("protocol"))?,
        });
    }
    for (key, list, ready) in [("addresses", addresses, true), ("notReadyAddresses", not_ready_addresses, false)] {
        for (i, EndpointAddress { ip, node_name, .. }) in list.iter().flatten().enumerate() {
            let address = fields::routable_address(ip, || path.key(key).index(i).key("ip"))?;
            let node_name = fields::shared_some(node_name.as_ref());
            group.endpoints.push(Endpoint { ready, serving: ready, node_name, ..Endpoint::new(address) });
        }
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_cause_of_a_slice_has_a_time_or_none() {
        let converted = |time: &str| {
            let slice = serde_json::json!({
                "metadata": {"name": "web-x", "namespace": "a", "annotations": {TRIGGERED: time}},
                "addressType": "IPv4", "endpoints": [],
            });
            endpoint_slice(&serde_json::from_value(slice).unwrap()).unwrap().triggered
        };
        assert_eq!(converted("1970-01-01T00:01:00.5Z"), Some(UNIX_EPOCH + Duration::from_millis(60_500)));
        assert_eq!(converted("1970-01-01T01:00:01+01:00"), Some(UNIX_EPOCH + Duration::from_secs(1)));
        assert_eq!(converted("yesterday"), None);
    }
}
