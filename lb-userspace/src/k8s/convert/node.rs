//! `v1 Node`.

use k8s_openapi::api::core::v1::Node as Source;

use super::{
    super::{FieldPath, Invalid},
    fields,
};
use crate::model::{Node, shared};

/// The zone that a node stands in.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Taint of a node that the cluster autoscaler is about to delete; with `metadata.deletionTimestamp`, what makes a node
/// ineligible to kube-proxy (`SyncNode`, `pkg/proxy/healthcheck/proxy_health.go`).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Converts a Node.
///
/// # Errors
/// Names the first field that does not validate.
pub fn node(source: &Source) -> Result<Node, Invalid> {
    let (mut addresses, mut external) = (Vec::new(), Vec::new());
    for (i, entry) in source.status.iter().filter_map(|s| s.addresses.as_ref()).flatten().enumerate() {
        // Host names and DNS names are addresses to Kubernetes, but not to a socket.
        if entry.type_ == "InternalIP" || entry.type_ == "ExternalIP" {
            let path = || FieldPath::new(["status", "addresses"]).index(i).key("address");
            let list = if entry.type_ == "InternalIP" { &mut addresses } else { &mut external };
            list.push(fields::address(&entry.address, path)?);
        }
    }
    addresses.append(&mut external);
    let zone = fields::word(&source.metadata.labels, ZONE).filter(|z| !z.is_empty());
    let mut taints = source.spec.iter().filter_map(|s| s.taints.as_ref()).flatten();
    Ok(Node {
        name: shared(fields::name(&source.metadata)?),
        addresses,
        zone: zone.map(Into::into),
        leaving: source.metadata.deletion_timestamp.is_some() || taints.any(|taint| taint.key == TO_BE_DELETED),
    })
}
