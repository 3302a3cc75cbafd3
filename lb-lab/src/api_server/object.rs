//! One object as it is kept: metadata to look at, and everything else as text, so that 50,000 Services with their slices fit
//! into a test's memory and lists are put together without reading them.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::resource::Resource;

/// An object. Equal texts are equal objects: fields are in one order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    api_version: &'static str,
    kind: &'static str,
    pub(super) metadata: Value,
    /// `spec.clusterIP`, for selectors.
    pub(super) cluster_ip: Box<str>,
    /// The other fields, each after a comma: `,"spec":{…}`.
    rest: Box<str>,
}

impl Stored {
    /// From a whole object of a kind that is served.
    pub(super) fn new(object: Value) -> Result<Self> {
        let resource = Resource::of(&object)?;
        let Value::Object(mut fields) = object else { bail!("not an object") };
        let version = fields.remove("apiVersion");
        let version = version.as_ref().and_then(Value::as_str);
        let api_version = resource.api_versions().iter().find(|v| Some(**v) == version).context("a served version")?;
        fields.remove("kind");
        let metadata = fields.remove("metadata").filter(Value::is_object).context("metadata is no map")?;
        let cluster_ip = fields.get("spec").and_then(|spec| spec["clusterIP"].as_str()).unwrap_or_default().into();
        let rest: String = fields.iter().map(|(key, value)| format!(",{}:{value}", json!(key))).collect();
        Ok(Self { api_version, kind: resource.kind(), metadata, cluster_ip, rest: rest.into() })
    }

    /// The same object at another version.
    pub(super) fn at_version(&self, version: u64) -> Self {
        let mut object = self.clone();
        object.set_version(version);
        object
    }

    pub(super) fn set_version(&mut self, version: u64) {
        self.metadata["resourceVersion"] = json!(version.to_string());
    }

    /// As it stands alone.
    pub(super) fn text(&self) -> String {
        let Self { api_version, kind, metadata, rest, .. } = self;
        format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata}{rest}}}"#)
    }

    /// As it stands in a list: items of a typed list carry neither kind nor version; only the list does.
    pub(super) fn item(&self) -> String {
        let Self { metadata, rest, .. } = self;
        format!(r#"{{"metadata":{metadata}{rest}}}"#)
    }

    /// To be looked into.
    pub(super) fn value(&self) -> Value {
        serde_json::from_str(&self.text()).expect("it was made of JSON")
    }
}

/// The objects of a text: JSON or YAML documents, Lists taken apart.
pub(super) fn parse(text: &str) -> Result<Vec<Value>> {
    // JSON is YAML, too, but a large cluster is read much faster as what it is.
    let json: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
    let documents: Vec<Value> = match json {
        Ok(documents) => documents,
        Err(_) => serde_yaml::from_multiple(text).context("objects as YAML or JSON")?,
    };
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(mut fields) if fields.get("kind").and_then(Value::as_str) == Some("List") => {
                match fields.remove("items") {
                    Some(Value::Array(items)) => objects.extend(items),
                    _ => bail!("a List without items"),
                }
            }
            object @ Value::Object(_) => objects.push(object),
            other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                bail!("not an object: {other}")
            }
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_comes_back_as_it_went_in() {
        let object = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "n\"", "resourceVersion": "7"},
            "note": "a \"b\"", "series": {"count": 2}, "x\"y": null,
        });
        let stored = Stored::new(object.clone()).unwrap();
        assert_eq!(stored.value(), object);
        let item: Value = serde_json::from_str(&stored.item()).unwrap();
        assert!(item.get("kind").is_none() && item.get("apiVersion").is_none() && item["note"] == object["note"]);
        assert_eq!(stored.at_version(8).value()["metadata"]["resourceVersion"], json!("8"));
        assert!(Stored::new(json!({"apiVersion": "v1", "kind": "Node"})).is_err());
    }

    #[test]
    fn texts() {
        let names = |text: &str| {
            let objects = parse(text).unwrap();
            objects.iter().map(|o| o["name"].as_str().unwrap_or("?").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("{\"name\": \"a\"} {\"name\": \"b\"}"), ["a", "b"]);
        assert_eq!(names("name: a\n---\n---\nname: b\n"), ["a", "b"]);
        assert_eq!(names("kind: List\nitems: [{name: a}, {name: b}]"), ["a", "b"]);
        assert!(parse("- a").is_err() && parse("kind: List").is_err());
    }
}
