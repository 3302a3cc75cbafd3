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
    let old = store.get(&key).cloned();
    let old = old.ok_or_else(|| Status::new(404, format!("events {:?} not found", key.name)))?;
    let old = old.value();
    let mut event = old.clone();
    merge(&mut event, &parse(body)?);
    check(&event, &key.namespace)?;
    check_change(&old, &event)?;
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
    store.get(&key).map(|event| event.value()).ok_or_else(|| Status::new(500, "the event is not there"))
}

/// Fields that `events.k8s.io/v1` and `v1` name differently (pkg/apis/events/v1/conversion.go).
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// The event in the form of `v1`, however it was written.
pub(super) fn in_core(mut event: Value) -> Value {
    if event["apiVersion"] == "v1" {
        return event;
    }
    event["apiVersion"] = json!("v1");
    if let Some(fields) = event.as_object_mut() {
        for (from, to) in RENAMED {
            let value = fields.remove(from);
            fields.extend(value.map(|value| (to.to_owned(), value)));
        }
    }
    event
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

/// What `events.k8s.io/v1` lets nobody change: all but the series (`ValidateEventUpdate`).
const FIXED: [&str; 9] = [
    "regarding",
    "reason",
    "note",
    "type",
    "eventTime",
    "action",
    "related",
    "reportingController",
    "reportingInstance",
];

fn invalid(field: &str, why: &str) -> Result<(), Status> {
    Err(Status::new(422, format!("Event is invalid: {field}: {why}")))
}

/// The validation of new and of changed events (pkg/apis/core/validation/events.go). `v1` is lenient where there is no
/// `eventTime`, for old clients.
fn check(event: &Value, namespace: &str) -> Result<(), Status> {
    let core = event["apiVersion"] == "v1";
    let [object, controller, note] = if core {
        ["involvedObject", "reportingComponent", "message"]
    } else {
        ["regarding", "reportingController", "note"]
    };
    let about = event[object]["namespace"].as_str().unwrap_or("");
    let is_new = !event["eventTime"].is_null();
    // What has no namespace, a Node, has its events in `default`.
    let right = match (about, is_new) {
        ("", true) => ["default", "kube-system"].contains(&namespace),
        ("", false) => namespace == "default",
        (_, true) => true,
        (about, false) => about == namespace,
    };
    if !right {
        return invalid(&format!("{object}.namespace"), "does not match event.namespace");
    }
    if is_new {
        for field in [controller, "reportingInstance", "action", "reason"] {
            match event[field].as_str() {
                None | Some("") => return invalid(field, "Required value"),
                Some(text) if text.len() > 128 => return invalid(field, "can have at most 128 characters"),
                Some(_) => {}
            }
        }
        // A qualified name: a name, perhaps after a prefix and a slash.
        let name = event[controller].as_str().unwrap_or("");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.split('/').count() > 2 || !name.split('/').all(|part| !part.is_empty() && part.chars().all(plain)) {
            return invalid(controller, "is no qualified name");
        }
        if event[note].as_str().is_some_and(|note| note.len() > 1024) {
            return invalid(note, "can have at most 1024 characters");
        }
    }
    if core {
        return Ok(());
    }
    if !is_new {
        return invalid("eventTime", "Required value");
    }
    if !["Normal", "Warning"].map(|t| json!(t)).contains(&event["type"]) {
        return invalid("type", "is neither Normal nor Warning");
    }
    for field in ["deprecatedSource", "deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount"] {
        // Go's clients write a structure of which nothing is set all the same.
        if !event[field].is_null() && event[field] != json!({}) {
            return invalid(field, "needs to be unset");
        }
    }
    let series = &event["series"];
    if !series.is_null() && (series["count"].as_u64() < Some(2) || series["lastObservedTime"].is_null()) {
        return invalid("series", "count is at least 2, and lastObservedTime is set");
    }
    Ok(())
}

fn check_change(old: &Value, new: &Value) -> Result<(), Status> {
    let strict = new["apiVersion"] != "v1";
    match FIXED.iter().find(|field| strict && old[**field] != new[**field]) {
        Some(field) => invalid(field, "field is immutable"),
        None => Ok(()),
    }
}
