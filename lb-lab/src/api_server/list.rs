//! Lists and their pages. Pure: from the store and the options to a document or a Status.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    events,
    object::Stored,
    query::{Continue, Match, Query, Version},
    resource::{Key, Resource, Target},
    status::Status,
    store::{Expired, Store},
};

/// The list that was asked for, as text.
pub(super) fn list(store: &Store, target: &Target, query: &Query) -> Result<String, Status> {
    let current = store.version();
    let version = match (&query.resume, query.version) {
        (Some(Continue { version, .. }), _) => version.unwrap_or(current),
        (None, Version::Latest | Version::Any) => current,
        (None, Version::At(version)) if version > current => return Err(Status::too_large(version, current)),
        (None, Version::At(version)) => match (query.version_match, query.limit) {
            // A limit without a match asks for exactly this version, as it always has.
            (Some(Match::Exact), _) | (None, Some(_)) => version,
            (Some(Match::NotOlderThan), _) | (None, None) => current,
        },
    };
    if let Err(Expired { oldest }) = store.check_version(version) {
        let resume = query.resume.clone().map(|resume| Continue { version: None, ..resume }.encode());
        return Err(Status { resume, ..Status::expired(version, oldest) });
    }
    let selected = |key: &Key, object: &Stored| {
        target.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && query.selector.matches(&object.metadata, &object.cluster_ip)
    };
    let objects = store.at(target.resource, version);
    let start = query.resume.as_ref().map(|resume| &resume.start);
    let left: Vec<_> = objects
        .iter()
        .filter(|(key, object)| start.is_none_or(|start| **key >= start) && selected(key, object))
        .collect();
    // A list from the cache is never cut in pages.
    let limit = query.limit.filter(|_| query.version != Version::Any).unwrap_or(usize::MAX);
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some((next, _)) = left.get(limit) {
        metadata["continue"] = json!(Continue { version: Some(version), start: (**next).clone() }.encode());
        // Counting what a selector leaves would mean reading it.
        if query.selector.selects_all() {
            metadata["remainingItemCount"] = json!(left.len() - limit);
        }
    }
    let left = left.into_iter().take(limit).map(|(_, object)| *object);
    let items = if target.resource == Resource::Events && target.api_version == "v1" {
        events_in_core(left, query)?
    } else {
        left.map(|object| object.item()).collect()
    };
    Ok(document(target, &metadata, &items))
}

/// Events in the form of `v1`, those about what the selector asks for.
fn events_in_core<'a>(events: impl Iterator<Item = &'a Arc<Stored>>, query: &Query) -> Result<Vec<String>, Status> {
    let mut items = Vec::new();
    for event in events {
        let event = events::in_core(event.value());
        if query.selector.matches_involved(&event) {
            let item = Stored::new(event).map_err(|error| Status::new(500, format!("{error:#}")))?.item();
            items.push(item);
        }
    }
    Ok(items)
}

/// A list that says that there is nothing.
pub(super) fn empty(store: &Store, target: &Target) -> String {
    document(target, &json!({"resourceVersion": store.version().to_string()}), &[])
}

fn document(target: &Target, metadata: &Value, items: &[String]) -> String {
    let (kind, version, items) = (target.resource.kind(), target.api_version, items.join(","));
    format!(r#"{{"kind":"{kind}List","apiVersion":"{version}","metadata":{metadata},"items":[{items}]}}"#)
}
