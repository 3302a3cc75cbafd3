//! Which traffic takes which policy's endpoints: one row for each pair of policies and each place where endpoints are.
//!
//! The rules are those of kube-proxy's `UsesClusterEndpoints`, `UsesLocalEndpoints` and the chains that it writes for
//! each (`pkg/proxy/nftables/proxier.go`): the internal policy is the cluster IP's, the external one counts for outside
//! traffic to all other addresses, and inside traffic to those takes the short cut to the Cluster endpoints.

use super::*;
use crate::{
    model::EndpointPort,
    plan::topology::tests::{endpoint, list},
};

/// Endpoints as in `topology_tests`; this node is `n1` in zone `a`.
struct Row {
    /// `internalTrafficPolicy` and `externalTrafficPolicy`.
    policies: (Policy, Policy),
    endpoints: &'static str,
    /// What the cluster IP does to inside traffic: backends, or the action where there are none.
    cluster_ip: &'static str,
    /// What the other addresses do to outside traffic.
    outside: &'static str,
    /// What the other addresses do to inside traffic.
    inside: &'static str,
}

fn service((internal_policy, external_policy): (Policy, Policy)) -> Service {
    let ip = |last| IpAddr::from([192, 0, 2, last]);
    Service {
        kind: ServiceType::LoadBalancer,
        external_ips: vec![ip(2)],
        load_balancer_ips: vec![ip(3)],
        ports: vec![ServicePort { name: "".into(), port: 80, node_port: Some(30080), protocol: Protocol::Tcp }],
        internal_policy,
        external_policy,
        ..Service::new(ServiceName::new("default", "web"), vec![ip(1)])
    }
}

fn answer(frontend: &Frontend) -> String {
    match frontend.action {
        Action::Forward => list(&frontend.backends),
        Action::Reject | Action::Drop => frontend.action.as_str().to_owned(),
    }
}

/// `open`: cluster IPs answer the outside as other addresses do the inside, by policy Cluster.
#[track_caller]
fn check(Row { policies, endpoints, cluster_ip, outside, inside }: &Row, open: bool) {
    let service = service(*policies);
    let group = EndpointGroup {
        ports: vec![EndpointPort { name: "".into(), port: 8080, protocol: Protocol::Tcp }],
        endpoints: endpoints.split(',').map(str::trim).filter(|t| !t.is_empty()).map(endpoint).collect(),
    };
    let input = Input {
        service: &service,
        groups: std::slice::from_ref(&group),
        here: Here { name: "n1", zone: Some("a") },
        node_port_source_ranges: false,
        external_cluster_ips: open,
        algorithm: Algorithm::Random,
    };
    let claims = claims(&service, &["192.0.2.4".parse().expect("an address")]);
    let frontends = input.frontends(&claims);
    assert_eq!(frontends.len(), 8, "four addresses, two scopes");
    for f in &frontends {
        let expected = match (f.kind, f.scope) {
            (FrontendType::ClusterIp, Scope::External) if open => inside,
            (FrontendType::ClusterIp, Scope::External) => "drop",
            (FrontendType::ClusterIp, Scope::Internal) => cluster_ip,
            (_, Scope::External) => outside,
            (_, Scope::Internal) => inside,
        };
        assert_eq!(answer(f), expected, "{policies:?} with {endpoints:?}: {} {}", f.kind, f.scope.as_str());
    }
}

#[test]
fn every_pair_of_policies_everywhere() {
    const CC: (Policy, Policy) = (Policy::Cluster, Policy::Cluster);
    const CL: (Policy, Policy) = (Policy::Cluster, Policy::Local);
    const LC: (Policy, Policy) = (Policy::Local, Policy::Cluster);
    const LL: (Policy, Policy) = (Policy::Local, Policy::Local);
    let row =
        |policies, endpoints, cluster_ip, outside, inside| Row { policies, endpoints, cluster_ip, outside, inside };
    let rows = [
        // Nothing anywhere is a refusal, whatever the policy.
        row(CC, "", "reject", "reject", "reject"),
        row(CL, "", "reject", "reject", "reject"),
        row(LC, "", "reject", "reject", "reject"),
        row(LL, "", "reject", "reject", "reject"),
        row(LL, "1@n1 notready, 2@n2 dead", "reject", "reject", "reject"),
        // Some here, some elsewhere.
        row(CC, "1@n1, 2@n2", "1 2", "1 2", "1 2"),
        row(CL, "1@n1, 2@n2", "1 2", "1", "1 2"),
        row(LC, "1@n1, 2@n2", "1", "1 2", "1 2"),
        row(LL, "1@n1, 2@n2", "1", "1", "1 2"),
        // None here: dropped where policy Local asks, as another node could have served it.
        row(CC, "1@n2, 2@n3", "1 2", "1 2", "1 2"),
        row(CL, "1@n2, 2@n3", "1 2", "drop", "1 2"),
        row(LC, "1@n2, 2@n3", "drop", "1 2", "1 2"),
        row(LL, "1@n2, 2@n3", "drop", "drop", "1 2"),
        row(LL, "1@n2 term, 2@n3 term", "drop", "drop", "1t 2t"),
        // The terminating fallback is each policy's own.
        row(CL, "1@n2, 2@n1 notready, 3@n1 term, 4@n2 term", "1", "3t", "1"),
        row(LC, "1@n2, 3@n1 term", "3t", "1", "1"),
        row(LL, "1@n1 term, 2@n2 term", "1t", "1t", "1t 2t"),
        row(CC, "1@n1 term, 2@n2 term", "1t 2t", "1t 2t", "1t 2t"),
        // Hints are for Cluster only, the short cut included.
        row(CC, "1@n1 z:b, 2@n2 z:a", "2", "2", "2"),
        row(CL, "1@n1 z:b, 2@n2 z:a", "2", "1", "2"),
        row(LC, "1@n1 z:b, 2@n2 z:a", "1", "2", "2"),
        row(LL, "1@n1 z:b, 2@n2 z:a", "1", "1", "2"),
        row(LL, "1@n1 n:n2, 2@n2 n:n1", "1", "1", "2"),
    ];
    for row in &rows {
        check(row, false);
        check(row, true);
    }
}
