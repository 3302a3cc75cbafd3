//! JSON of the API server into the model: pages of lists, lines of watches, single objects.
//!
//! Kubernetes' own types live for one object at a time. An object that does not fit is bad by itself; only what cannot be
//! told from another object spoils the answer that it came in.

use k8s_openapi::api::{
    core::v1::{Endpoints, Node, Service},
    discovery::v1::EndpointSlice,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    super::{Invalid, convert, decode, events},
    fault::{Fault, Status},
};
use crate::model::{Kind, Object, ObjectRef, Uid, shared};

/// On the bookmark behind the last object of a list that comes as a stream (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// An object, or why it is left out.
pub(super) type Decoded = Result<Box<Object>, Unfit>;

/// Why an object is left out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Unfit {
    /// What is wrong with it.
    pub(super) cause: String,
    /// Its `metadata.uid`.
    pub(super) uid: Option<Uid>,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct ListPage {
    pub(super) items: Vec<(ObjectRef, Decoded)>,
    /// Items whose name cannot be read: it is not known what the list says of what we have.
    pub(super) unclear: usize,
    /// To watch from, on the last page.
    pub(super) version: String,
    /// For the next page.
    pub(super) next: Option<String>,
}

/// A line of a watch.
#[derive(Debug)]
pub(super) enum Line {
    /// The object is now this.
    Put { key: ObjectRef, object: Decoded, version: String },
    /// The object is gone, or not selected any more.
    Gone { key: ObjectRef, version: String },
    /// Everything up to this version was told.
    Bookmark { version: String, list_ends: bool },
    /// The watch ends by this.
    Error(Status),
}

#[derive(Deserialize)]
struct RawList<'a> {
    metadata: ListMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    r#type: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What tells an object from others.
#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    resource_version: String,
}

impl Head {
    /// `None`: no name, or no namespace where it has one.
    fn key(&self, kind: Kind) -> Option<ObjectRef> {
        let HeadMeta { name, namespace, .. } = &self.metadata;
        let whole = !name.is_empty() && namespace.is_empty() != kind.is_namespaced();
        whole.then(|| ObjectRef::new(kind, shared(namespace), name.as_str()))
    }
}

/// Reads a page.
///
/// # Errors
/// If it is no list.
pub(super) fn page(kind: Kind, body: &[u8]) -> Result<ListPage, Fault> {
    let list: RawList<'_> =
        serde_json::from_slice(body).map_err(|error| Fault::Garbled(format!("the answer is no list: {error}")))?;
    let mut page = ListPage {
        items: Vec::new(),
        unclear: 0,
        version: list.metadata.resource_version,
        next: list.metadata.next.filter(|token| !token.is_empty()),
    };
    // An empty list of Go's is null.
    for item in list.items.unwrap_or_default() {
        let head = serde_json::from_str::<Head>(item.get()).ok();
        match head.and_then(|head| head.key(kind)) {
            Some(key) => page.items.push((key, object(kind, item.get()))),
            None => page.unclear += 1,
        }
    }
    if page.version.is_empty() {
        return Err(Fault::Garbled("the answer is no list: it has no resourceVersion".to_owned()));
    }
    Ok(page)
}

/// Reads a line.
///
/// # Errors
/// If it is no event, or its object cannot be told from others.
pub(super) fn line(kind: Kind, line: &[u8]) -> Result<Line, Fault> {
    let garbled = |error: serde_json::Error| Fault::Garbled(format!("a line of the watch is no event: {error}"));
    let event: RawEvent<'_> = serde_json::from_slice(line).map_err(garbled)?;
    let text = event.object.get();
    if event.r#type == "ERROR" {
        return Ok(Line::Error(serde_json::from_str(text).unwrap_or_default()));
    }
    let head: Head = serde_json::from_str(text).map_err(garbled)?;
    let version = head.metadata.resource_version.clone();
    if version.is_empty() {
        return Err(Fault::Garbled("an event of the watch has no resourceVersion".to_owned()));
    }
    if event.r#type == "BOOKMARK" {
        return Ok(Line::Bookmark { version, list_ends: ends_list(text) });
    }
    let Some(key) = head.key(kind) else {
        return Err(Fault::Garbled(format!("an event of the watch names no {kind}")));
    };
    match event.r#type.as_str() {
        "ADDED" | "MODIFIED" => Ok(Line::Put { key, object: object(kind, text), version }),
        "DELETED" => Ok(Line::Gone { key, version }),
        other => Err(Fault::Garbled(format!("an event of the watch is of unknown type {other:?}"))),
    }
}

fn ends_list(bookmark: &str) -> bool {
    #[derive(Deserialize)]
    struct Bookmark {
        metadata: Annotated,
    }
    #[derive(Deserialize)]
    struct Annotated {
        annotations: Option<std::collections::BTreeMap<String, String>>,
    }
    let read = serde_json::from_str::<Bookmark>(bookmark).ok();
    let annotations = read.and_then(|bookmark| bookmark.metadata.annotations).unwrap_or_default();
    annotations.get(INITIAL_EVENTS_END).is_some_and(|value| value == "true")
}

fn object(kind: Kind, text: &str) -> Decoded {
    let object = match kind {
        Kind::Service => typed::<Service, _>(text, convert::service).map(Object::Service),
        Kind::EndpointSlice => typed::<EndpointSlice, _>(text, convert::endpoint_slice).map(Object::EndpointSlice),
        Kind::Endpoints => typed::<Endpoints, _>(text, convert::endpoints).map(Object::Endpoints),
        Kind::Node => typed::<Node, _>(text, convert::node).map(Object::Node),
    };
    object.map(Box::new).map_err(|cause| Unfit { cause, uid: uid(text) })
}

/// The uid of what is bad otherwise. Good objects know their own.
fn uid(text: &str) -> Option<Uid> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        uid: Option<String>,
    }
    Uid::new(serde_json::from_str::<Object>(text).ok()?.metadata.uid.as_deref()?)
}

fn typed<S: for<'a> Deserialize<'a>, T>(
    text: &str,
    convert: impl FnOnce(&S) -> Result<T, Invalid>,
) -> Result<T, String> {
    match serde_json::from_str::<S>(text) {
        Ok(source) => convert(&source).map_err(|invalid| invalid.to_string()),
        Err(error) => Err(field_of::<S>(text).unwrap_or_else(|| error.to_string())),
    }
}

/// Which field does not fit: JSON is YAML, and that reader knows its fields. Too slow for what is good.
fn field_of<S: for<'a> Deserialize<'a>>(text: &str) -> Option<String> {
    let tree = events::parse(text).ok()?;
    decode::decode::<S>(&tree).err().map(|invalid| invalid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = r#"{"metadata":{"name":"web","namespace":"a","resourceVersion":"5"},
        "spec":{"clusterIP":"10.96.0.7","ports":[{"port":80}]}}"#;

    fn service(change: (&str, &str)) -> String {
        SERVICE.replace('\n', "").replace(change.0, change.1)
    }

    #[test]
    fn a_page_holds_good_and_bad_items_and_counts_the_nameless() {
        let bad = service(("\"port\":80", "\"port\":\"80\"")).replace("\"resource", "\"uid\":\"u-1\",\"resource");
        let out_of_range = service(("\"port\":80", "\"port\":80000")).replace("web", "far");
        let nameless = service(("\"name\":\"web\",", ""));
        let body = format!(
            r#"{{"kind":"ServiceList","apiVersion":"v1","metadata":{{"resourceVersion":"9","continue":"t"}},
                "items":[{SERVICE},{bad},{nameless},{out_of_range}]}}"#
        );
        let page = page(Kind::Service, body.as_bytes()).unwrap();
        assert_eq!((page.unclear, page.version.as_str(), page.next.as_deref()), (1, "9", Some("t")));
        let told: Vec<_> = page.items.iter().map(|(key, object)| (key.to_string(), object.clone().err())).collect();
        assert_eq!(told[0], ("Service a/web".to_owned(), None));
        let Unfit { cause, uid } = told[1].1.clone().unwrap();
        assert!(cause.starts_with("spec.ports[0].port: ") && cause.contains("string"), "{cause}");
        assert_eq!(uid, Uid::new("u-1"));
        assert_eq!(told[2].0, "Service a/far");
        assert!(told[2].1.as_ref().unwrap().cause.contains("80000 is not a port"), "{told:?}");
    }

    #[test]
    fn an_empty_list_is_a_list() {
        for items in ["", ",\"items\":null", ",\"items\":[]"] {
            let body = format!("{{\"metadata\":{{\"resourceVersion\":\"9\",\"continue\":\"\"}}{items}}}");
            let page = page(Kind::Node, body.as_bytes()).unwrap();
            assert!(page.items.is_empty() && page.next.is_none());
        }
        for body in ["", "{}", "[]", "<html>", r#"{"metadata":{},"items":[]}"#, r#"{"metadata":{"resourceVersion":"9"#]
        {
            assert!(page(Kind::Node, body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn lines_of_a_watch() {
        let read = |kind, text: &str| line(Kind::Service, format!(r#"{{"type":"{kind}","object":{text}}}"#).as_bytes());
        let service = service(("", ""));
        assert!(matches!(read("ADDED", &service), Ok(Line::Put { object: Ok(_), version, .. }) if version == "5"));
        assert!(matches!(read("DELETED", &service), Ok(Line::Gone { key, .. }) if key.to_string() == "Service a/web"));
        let bookmark = r#"{"kind":"Service","metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}"#;
        assert!(matches!(read("BOOKMARK", bookmark), Ok(Line::Bookmark { list_ends: true, .. })));
        let bookmark = r#"{"kind":"Service","metadata":{"resourceVersion":"7"}}"#;
        assert!(matches!(read("BOOKMARK", bookmark), Ok(Line::Bookmark { list_ends: false, .. })));
        let gone = r#"{"kind":"Status","code":410,"message":"too old"}"#;
        assert!(matches!(read("ERROR", gone), Ok(Line::Error(status)) if status.code == Some(410)));
        for (kind, text) in [("ADDED", "{}"), ("MOVED", service.as_str()), ("ADDED", &service.replace("\"5\"", "\"\""))]
        {
            assert!(read(kind, text).is_err(), "{kind} {text}");
        }
        assert!(line(Kind::Service, b"{\"type\":\"ADDED\"").is_err());
    }
}
