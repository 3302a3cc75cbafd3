//! Events at the test API server: what a real one takes, and how `kubectl describe` finds them.

#[expect(dead_code, reason = "shared with tests of lists and watches")]
mod api_client;

use std::time::Duration;

use api_client::Client;
use lb_lab::api_server::{ApiConfig, ApiServer, Resource};
use serde_json::{Value, json};

fn server() -> ApiServer {
    // No bookmark comes unless a test asks for it.
    ApiServer::start(ApiConfig { bookmark_every: Duration::from_secs(600), ..ApiConfig::default() }).unwrap()
}

#[test]
fn events_are_found_by_what_they_are_about_in_either_form() {
    let server = server();
    let about = json!({"kind": "Service", "namespace": "default", "name": "web", "uid": "u-1"});
    let new = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "new", "namespace": "default"},
        "eventTime": "2026-01-02T03:04:05.000000Z", "type": "Warning", "reason": "Overlap", "action": "Program",
        "reportingController": "berrylb", "reportingInstance": "raspi001", "note": "taken", "regarding": about,
    });
    let old = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "old", "namespace": "default"},
        "message": "from before", "involvedObject": about,
    });
    let of_another = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "other", "namespace": "default"},
        "involvedObject": {"kind": "Service", "namespace": "default", "name": "web", "uid": "u-2"},
    });
    server.apply(&[new, old, of_another].map(|event| event.to_string()).join(" ")).unwrap();
    let path = "/api/v1/namespaces/default/events";
    let selector = "involvedObject.uid%3Du-1%2CinvolvedObject.name%3Dweb";
    let (head, list) = Client::get(&server, &format!("{path}?fieldSelector={selector}"));
    let shown: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|e| [&e["message"], &e["involvedObject"]]).collect();
    assert_eq!((head.code, shown), (200, vec![[&json!("taken"), &about], [&json!("from before"), &about]]));
    assert_eq!(Client::get(&server, &format!("{path}/new")).1["reportingComponent"], json!("berrylb"));
    assert_eq!(Client::get(&server, &format!("{path}?watch=1&fieldSelector={selector}")).0.code, 400);
}

#[test]
fn events_are_taken_as_a_real_server_takes_them() {
    let server = server();
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"generateName": "web."},
        "eventTime": "2026-01-02T03:04:05.000000Z", "type": "Warning", "reason": "Overlap", "action": "Program",
        "reportingController": "berrylb", "reportingInstance": "raspi001", "note": "taken",
        "regarding": {"kind": "Service", "namespace": "default", "name": "web"},
    });
    let post =
        |event: &Value| Client::fetch(&server, "POST", path, &["Content-Type: application/json"], &event.to_string());
    let (head, made) = post(&event);
    assert_eq!(head.code, 201, "{made}");
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web.") && name.len() > 4);
    for (field, value) in
        [("reason", json!("")), ("type", json!("Error")), ("eventTime", Value::Null), ("note", json!("x".repeat(1025)))]
    {
        let mut bad = event.clone();
        bad[field] = value;
        assert_eq!(post(&bad).0.code, 422, "{field}");
    }
    let mut of_nothing_here = event.clone();
    of_nothing_here["regarding"]["namespace"] = Value::Null;
    assert_eq!(post(&of_nothing_here).0.code, 201, "events of what has no namespace are in default");
    let other = path.replace("default", "other");
    let (head, _) = Client::fetch(&server, "POST", &other, &[], &of_nothing_here.to_string());
    assert_eq!(head.code, 422, "and nowhere else");
    let patch = |kind: &str, name: &str, patch: &Value| {
        let kind = format!("Content-Type: {kind}");
        Client::fetch(&server, "PATCH", &format!("{path}/{name}"), &[&kind], &patch.to_string())
    };
    let merge = "application/merge-patch+json";
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-02T03:05:05.000000Z"}});
    let (head, patched) = patch(merge, name, &series);
    assert_eq!((head.code, &patched["series"]["count"], &patched["note"]), (200, &json!(2), &json!("taken")));
    assert_eq!(patch(merge, name, &json!({"series": {"count": 1}})).0.code, 422);
    assert_eq!(patch(merge, name, &json!({"note": "another"})).0.code, 422, "only the series may change");
    assert_eq!(patch("application/json-patch+json", name, &series).0.code, 415);
    assert_eq!(patch(merge, "none", &series).0.code, 404);
    assert_eq!(server.objects(Resource::Events).len(), 2);
    assert_eq!(post(&made).0.code, 409, "a name is given once");
    server.end_namespace("default");
    let (head, refused) = post(&event);
    assert_eq!((head.code, &refused["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    assert_eq!(patch(merge, name, &series).0.code, 200, "what is there can be changed until it is gone");
    assert_eq!(Client::fetch(&server, "POST", "/api/v1/namespaces/default/services", &[], "{}").0.code, 405);
}
