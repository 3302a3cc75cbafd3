//! What clients ask before they ask for objects: version, groups, resources. Fixed documents.

use serde_json::{Value, json};

use super::resource::Resource;

/// The document at a path, if there is one. `ok` stands for the plain text of the health checks.
pub(super) fn document(path: &str) -> Option<Value> {
    match path {
        "/healthz" | "/livez" | "/readyz" => Some(json!("ok")),
        "/version" => Some(json!({
            "major": "1", "minor": "34", "gitVersion": "v1.34.0", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "2025-08-27T00:00:00Z", "goVersion": "go1.24.6", "compiler": "gc", "platform": "linux/arm64",
        })),
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        "/apis" => {
            let groups = ["discovery.k8s.io", "events.k8s.io"].map(group);
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        "/apis/discovery.k8s.io" => Some(group("discovery.k8s.io")),
        "/apis/events.k8s.io" => Some(group("events.k8s.io")),
        "/api/v1" => Some(resources("v1")),
        "/apis/discovery.k8s.io/v1" => Some(resources("discovery.k8s.io/v1")),
        "/apis/events.k8s.io/v1" => Some(resources("events.k8s.io/v1")),
        _ => None,
    }
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version})
}

fn resources(api_version: &str) -> Value {
    let served = Resource::ALL.into_iter().filter(|r| r.api_versions().contains(&api_version));
    let resources: Vec<Value> = served
        .map(|resource| {
            let verbs: &[&str] = match resource {
                Resource::Events => &["create", "get", "list", "patch", "watch"],
                Resource::Services | Resource::EndpointSlices | Resource::Nodes => &["get", "list", "watch"],
            };
            let short: &[&str] = match resource {
                Resource::Services => &["svc"],
                Resource::Nodes => &["no"],
                Resource::Events => &["ev"],
                Resource::EndpointSlices => &[],
            };
            json!({
                "name": resource.plural(), "singularName": resource.kind().to_lowercase(),
                "namespaced": resource.is_namespaced(), "kind": resource.kind(), "verbs": verbs, "shortNames": short,
            })
        })
        .collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources})
}
