//! The cluster that is measured, twice: as an API server tells it, and as the model that the agent decodes it to.
//!
//! Each Service has a cluster IP, one port, and one slice. What the API server tells is as long as what a real one does:
//! with labels, owners, managed fields and target references that the agent has no use for.

use std::net::Ipv4Addr;

use berrylb::{
    maps::Capacities,
    model::{
        Created, Endpoint, EndpointGroup, EndpointPort, EndpointSlice, Object, Service, ServicePort, SliceFamily,
        shared,
    },
    plan::state::{Protocol, ServiceName},
};
use lb_common::abi::{Port, ServiceKey, proto, scope};
use serde_json::{Value, json};

/// Port of every Service, and the target port.
const PORT: u16 = 80;
const TARGET: u16 = 8080;
/// Nodes that the endpoints are on. None is the node of the lab.
const NODES: u32 = 20;
/// First cluster IP and first pod address: no network of the lab, and room for a million.
const CLUSTER_IPS: u32 = 0x0a60_0000;
const PODS: u32 = 0x6440_0000;

/// So many Services of so many endpoints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Cluster {
    pub(super) services: u32,
    pub(super) endpoints: u32,
}

impl Cluster {
    /// Map sizes with room for all of it while it changes.
    pub(super) fn capacities(self) -> Capacities {
        let Self { services, endpoints } = self;
        let frontends = (services * 2 + 64).max(Capacities::DEFAULT.services);
        Capacities {
            services: frontends,
            svc_state: (services * 2 + 64).max(Capacities::DEFAULT.svc_state),
            slots: (services * endpoints * 2 + 1024).max(Capacities::DEFAULT.slots),
            backends: (services * endpoints * 5 / 4 + 1024).max(Capacities::DEFAULT.backends),
            addrs: Capacities::addrs_for(frontends),
            ..Capacities::DEFAULT
        }
    }

    /// The agent's flags for them.
    pub(super) fn flags(self) -> Vec<String> {
        let Capacities { services, svc_state, slots, backends, .. } = self.capacities();
        let flag = |name: &str, value: u32| format!("--max-{name}={value}");
        vec![
            flag("services", services),
            flag("backend-sets", svc_state),
            flag("slots", slots),
            flag("backends", backends),
        ]
    }

    /// The key of a Service's frontend.
    pub(super) fn key(service: u32) -> ServiceKey {
        ServiceKey {
            addr: cluster_ip(service).into(),
            port: Port::new(PORT),
            proto: proto::TCP,
            scope: scope::INTERNAL,
        }
    }

    /// Services and slices as the model has them, with names shared as decoding shares them.
    pub(super) fn objects(self) -> Vec<Object> {
        (0..self.services).flat_map(|n| [service(n), self.slice(n)]).collect()
    }

    fn slice(self, n: u32) -> Object {
        let service = name_of(n);
        let endpoint = |i| Endpoint {
            address: self.pod(n, i).into(),
            ready: true,
            serving: true,
            terminating: false,
            node_name: Some(shared(&node(n + i))),
            zone: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        };
        Object::EndpointSlice(EndpointSlice {
            name: format!("{}-x7k2p", service.name()).into(),
            namespace: shared(service.namespace()),
            service: Some(service),
            ignored: false,
            mirrored: false,
            family: SliceFamily::V4,
            triggered: None,
            group: EndpointGroup {
                ports: vec![EndpointPort { name: shared("http"), port: TARGET, protocol: Protocol::Tcp }],
                endpoints: (0..self.endpoints).map(endpoint).collect(),
            },
        })
    }

    fn pod(self, n: u32, i: u32) -> Ipv4Addr {
        (PODS + n * self.endpoints + i).into()
    }

    /// A Service as the API server tells it.
    pub(super) fn service_json(n: u32) -> Value {
        let service = name_of(n);
        let (namespace, name) = service.parts();
        let ip = cluster_ip(n);
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "bench"},
                "managedFields": managed("kubectl-client-side-apply", "v1"),
            },
            "spec": {
                "clusterIP": ip, "clusterIPs": [ip], "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack", "selector": {"app.kubernetes.io/name": name},
                "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": TARGET}],
                "sessionAffinity": "None", "type": "ClusterIP",
            },
            "status": {"loadBalancer": {}},
        })
    }

    /// A Service's slice as the API server tells it. `lame`: this endpoint is not ready.
    pub(super) fn slice_json(self, n: u32, lame: Option<u32>) -> Value {
        let service = name_of(n);
        let (namespace, name) = service.parts();
        let endpoint = |i| {
            let ready = lame != Some(i);
            let pod = format!("{name}-6b7f4d9c5b-{i:05}");
            json!({
                "addresses": [self.pod(n, i)], "nodeName": node(n + i),
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace,
                    "uid": format!("7d0f1c7e-5c0c-4d7e-9a57-{:012x}", n * self.endpoints + i)},
            })
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": format!("{name}-x7k2p"), "namespace": namespace, "generateName": format!("{name}-"),
                "labels": {
                    "app.kubernetes.io/name": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    "kubernetes.io/service-name": name,
                },
                "ownerReferences": [{"apiVersion": "v1", "blockOwnerDeletion": true, "controller": true,
                    "kind": "Service", "name": name, "uid": format!("0a7d1c7e-5c0c-4d7e-9a57-{n:012x}")}],
                "managedFields": managed("kube-controller-manager", "discovery.k8s.io/v1"),
            },
            "endpoints": (0..self.endpoints).map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": TARGET, "protocol": "TCP"}],
        })
    }
}

/// The node objects of the cluster, with that of the lab's own node.
pub(super) fn nodes_json(own: &str) -> Vec<Value> {
    let names = (0..NODES).map(node).chain([own.to_owned()]);
    names.map(|name| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})).collect()
}

fn node(n: u32) -> String {
    format!("node{:02}", n % NODES)
}

fn name_of(n: u32) -> ServiceName {
    ServiceName::new(&format!("team-{:02}", n % 20), &format!("service-{n:05}"))
}

fn cluster_ip(n: u32) -> Ipv4Addr {
    (CLUSTER_IPS + n).into()
}

fn service(n: u32) -> Object {
    Object::Service(Service {
        created: Created(Some(n.into())),
        ports: vec![ServicePort { name: shared("http"), port: PORT, node_port: None, protocol: Protocol::Tcp }],
        ..Service::new(name_of(n), vec![cluster_ip(n).into()])
    })
}

/// About what `kubectl get --show-managed-fields` shows.
fn managed(manager: &str, version: &str) -> Value {
    json!([{
        "manager": manager, "operation": "Update", "apiVersion": version, "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:app.kubernetes.io/name": {}, "f:app.kubernetes.io/part-of": {}}},
            "f:spec": {"f:internalTrafficPolicy": {}, "f:ports": {".": {}}, "f:selector": {}, "f:type": {}},
        },
    }])
}
