//! Writing events: POST and PATCH, with the checks that a real server makes of them.

use serde_json::{Map, Value, json};

use super::{
    resource::{Key, Target},
    status::Status,
    store::Store,
};

/// POST.
pub(super) fn create(store: &mut Store, target: &Target, body: &[u8]) -> Result<Value, Status> {
    let mut event = parse(body)?;
    let namespace = target.namespace.clone().unwrap_or_default();
    if event["apiVersion"] != target.api_version || event["kind"] != target.resource.kind() {
        return Err(Status::new(400, format!("{} is not a {}", event["kind"], target.api_version)));
    }
    match event["metadata"]["namespace"].as_str() {
        None => event["metadata"]["namespace"] = json!(namespace),
        Some(own) if own == namespace => {}
        Some(own) => {
            return Err(Status::new(400, format!("the namespace of the object ({own}) is not that of the path")));
        }
    }
    if event["metadata"]["name"].as_str().is_none() {
        let prefix = event["metadata"]["generateName"].as_str().map(str::to_owned);
        let prefix = prefix.ok_or_else(|| Status::new(422, "metadata.name: Required value: name or generateName"))?;
        event["metadata"]["name"] = json!(format!("{prefix}{:05}", store.version()));
    }
    check(&event, &namespace)?;
    put(store, event, true)
}

/// PATCH, by JSON merge (RFC 7386). A strategic merge is the same here: events have no list to merge.
pub(super) fn patch(store: &mut Store, target: &Target, content_type: &str, body: &[u8]) -> Result<Value, Status> {
    if !["application/merge-patch+json", "application/strategic-merge-patch+json"].contains(&content_type) {
        return Err(Status::new(415, format!("the server patches events by merge, not by {content_type:?}")));
    }
    let namespace = target.namespace.clone().unwrap_or_default();
    let key = Key { resource: target.resource, namespace, name: target.name.clone().unwrap_or_default() };
    let old = store.get(&key).ok_or_else(|| Status::new(404, format!("events {:?} not found", key.name)))?;
    let mut event = (**old).clone();
    merge(&mut event, &parse(body)?);
    check(&event, &key.namespace)?;
    if Key::of(&event).ok() != Some(key) {
        return Err(Status::new(422, "metadata.name: Invalid value: field is immutable"));
    }
    put(store, event, false)
}

fn put(store: &mut Store, event: Value, new: bool) -> Result<Value, Status> {
    let bad = |error: anyhow::Error| Status::new(400, format!("{error:#}"));
    let key = Key::of(&event).map_err(bad)?;
    if new && store.get(&key).is_some() {
        return Err(Status::new(409, format!("events {:?} already exists", key.name)));
    }
    store.put(event).map_err(bad)?;
    store.get(&key).map(|event| (**event).clone()).ok_or_else(|| Status::new(500, "the event is not there"))
}

fn parse(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body).map_err(|error| Status::new(400, error.to_string()))
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().and_then(|fields| fields.remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// The validation of `events.k8s.io/v1` (pkg/apis/core/validation/events.go), and of `v1` what concerns its object.
fn check(event: &Value, namespace: &str) -> Result<(), Status> {
    let invalid = |field: &str, why: &str| Err(Status::new(422, format!("Event is invalid: {field}: {why}")));
    let core = event["apiVersion"] == "v1";
    let object = if core { "involvedObject" } else { "regarding" };
    // What has no namespace, a Node, has its events in `default`.
    if event[object]["namespace"].as_str().unwrap_or("default") != namespace {
        return invalid(&format!("{object}.namespace"), "Invalid value: does not match event.namespace");
    }
    if core && event["eventTime"].is_null() {
        return Ok(());
    }
    for (field, longest) in [("reportingController", 128), ("reportingInstance", 128), ("action", 128), ("reason", 128)]
    {
        let field = if core && field == "reportingController" { "reportingComponent" } else { field };
        match event[field].as_str() {
            None | Some("") => return invalid(field, "Required value"),
            Some(text) if text.len() > longest => return invalid(field, "Too long"),
            Some(_) => {}
        }
    }
    if !core && event["eventTime"].is_null() {
        return invalid("eventTime", "Required value");
    }
    if !["Normal", "Warning"].map(|t| json!(t)).contains(&event["type"]) {
        return invalid("type", "has to be Normal or Warning");
    }
    let note = event[if core { "message" } else { "note" }].as_str().unwrap_or("");
    if note.len() > 1024 {
        return invalid("note", "can have at most 1024 bytes");
    }
    let series = &event["series"];
    if !series.is_null() && (series["count"].as_u64() < Some(2) || series["lastObservedTime"].is_null()) {
        return invalid("series", "count is at least 2, and lastObservedTime is set");
    }
    Ok(())
}
