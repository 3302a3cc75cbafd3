//! Label and field selectors, as the API's query strings write them. Pure.

use serde_json::Value;

/// A condition on one label.
#[derive(Clone, Debug, PartialEq)]
enum Condition {
    In(Vec<String>),
    /// True where the label is absent, too.
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// What selects objects; the default selects all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Selector {
    labels: Vec<(String, Condition)>,
    /// Field, whether it has to be equal, value.
    fields: Vec<(Field, bool, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    Name,
    Namespace,
    /// `spec.clusterIP` of a Service, by which kube-proxy leaves headless ones out from Kubernetes 1.36 on.
    ClusterIp,
    /// A field of what an event is about.
    Involved(&'static str),
}

/// Those of `involvedObject` that clients select events by, as `kubectl describe` does.
const INVOLVED: [&str; 4] = ["kind", "name", "namespace", "uid"];

impl Selector {
    /// From `labelSelector` and `fieldSelector`; the error is for the client.
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, String> {
        let labels = split(labels).into_iter().map(label).collect::<Result<_, _>>()?;
        let fields = split(fields).into_iter().map(field).collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    pub(super) fn selects_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether it looks into Services.
    pub(super) fn needs_service(&self) -> bool {
        self.fields.iter().any(|(field, ..)| *field == Field::ClusterIp)
    }

    /// Whether it looks at what events are about.
    pub(super) fn needs_involved(&self) -> bool {
        self.fields.iter().any(|(field, ..)| matches!(field, Field::Involved(_)))
    }

    /// By what an event, in the form of `v1`, is about.
    pub(super) fn matches_involved(&self, event: &Value) -> bool {
        self.fields.iter().all(|(field, equal, wanted)| match field {
            Field::Involved(part) => (event["involvedObject"][part].as_str().unwrap_or("") == wanted) == *equal,
            Field::Name | Field::Namespace | Field::ClusterIp => true,
        })
    }

    /// By an object's metadata, and its `spec.clusterIP` if it is a Service.
    pub(super) fn matches(&self, metadata: &Value, cluster_ip: &str) -> bool {
        let labels = self.labels.iter().all(|(key, condition)| {
            let value = metadata["labels"].get(key).and_then(Value::as_str);
            match condition {
                Condition::In(all) => value.is_some_and(|v| all.iter().any(|a| a == v)),
                Condition::NotIn(all) => !value.is_some_and(|v| all.iter().any(|a| a == v)),
                Condition::Exists => value.is_some(),
                Condition::Absent => value.is_none(),
            }
        });
        labels
            && self.fields.iter().all(|(field, equal, wanted)| {
                let found = match field {
                    Field::Name => metadata["name"].as_str().unwrap_or(""),
                    Field::Namespace => metadata["namespace"].as_str().unwrap_or(""),
                    Field::ClusterIp => cluster_ip,
                    Field::Involved(_) => return true,
                };
                (found == wanted) == *equal
            })
    }
}

/// At commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let outside = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    };
    text.split(outside).map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn label(text: &str) -> Result<(String, Condition), String> {
    let one = |key: &str, value: &str| (key.trim().to_owned(), vec![value.trim().to_owned()]);
    let (key, condition) = if let Some((key, value)) = text.split_once("!=") {
        let (key, values) = one(key, value);
        (key, Condition::NotIn(values))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        let (key, values) = one(key, value);
        (key, Condition::In(values))
    } else if let Some((head, list)) = text.split_once('(') {
        let list = list.strip_suffix(')').ok_or_else(|| format!("unable to parse requirement: {text}"))?;
        let values = list.split(',').map(|v| v.trim().to_owned()).collect();
        match head.split_whitespace().collect::<Vec<_>>()[..] {
            [key, "in"] => (key.to_owned(), Condition::In(values)),
            [key, "notin"] => (key.to_owned(), Condition::NotIn(values)),
            _ => return Err(format!("unable to parse requirement: {text}")),
        }
    } else if let Some(key) = text.strip_prefix('!') {
        (key.trim().to_owned(), Condition::Absent)
    } else {
        (text.to_owned(), Condition::Exists)
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || !key.chars().all(plain) {
        return Err(format!("unable to parse requirement: {text}"));
    }
    Ok((key, condition))
}

fn field(text: &str) -> Result<(Field, bool, String), String> {
    let (key, equal, value) = if let Some((key, value)) = text.split_once("!=") {
        (key, false, value)
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, true, value)
    } else {
        return Err(format!("invalid field selector: {text}"));
    };
    match key {
        "metadata.name" => Ok((Field::Name, equal, value.to_owned())),
        "metadata.namespace" => Ok((Field::Namespace, equal, value.to_owned())),
        "spec.clusterIP" => Ok((Field::ClusterIp, equal, value.to_owned())),
        _ => {
            let part = key.strip_prefix("involvedObject.").and_then(|part| INVOLVED.into_iter().find(|p| *p == part));
            let part = part.ok_or_else(|| format!("field label not supported: {key}"))?;
            Ok((Field::Involved(part), equal, value.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels() {
        let metadata = json!({"labels": {"a": "1", "k8s.io/b": ""}});
        for (selector, wanted) in [
            ("", true),
            ("a=1", true),
            ("a==1", true),
            ("a=2", false),
            ("c=1", false),
            ("a!=1", false),
            ("c!=1", true),
            ("a", true),
            ("k8s.io/b", true),
            ("k8s.io/b=", true),
            ("!a", false),
            ("!c,!d", true),
            ("a in (0, 1),!c", true),
            ("a in (2)", false),
            ("a notin (1,2)", false),
            ("c notin (1,2)", true),
        ] {
            assert_eq!(Selector::parse(selector, "").unwrap().matches(&metadata, ""), wanted, "{selector}");
        }
        for wrong in ["a in (1", "a of (1)", "=1", "a b"] {
            assert!(Selector::parse(wrong, "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn fields() {
        let metadata = json!({"name": "n", "namespace": "s"});
        let matches = |text| Selector::parse("", text).map(|s| s.matches(&metadata, "None"));
        assert_eq!(matches("metadata.name=n"), Ok(true));
        assert_eq!(matches("metadata.name=n,metadata.namespace!=s"), Ok(false));
        assert_eq!(matches("spec.clusterIP!=None"), Ok(false));
        assert_eq!(matches("spec.clusterIP=None,metadata.name=n"), Ok(true));
        assert!(matches("spec.type=NodePort").is_err() && matches("involvedObject.x=y").is_err());
        let event = json!({"involvedObject": {"name": "web", "uid": "u"}});
        let about = |text| Selector::parse("", text).unwrap().matches_involved(&event);
        assert!(about("involvedObject.uid=u,involvedObject.name=web,metadata.name=x"));
        assert!(!about("involvedObject.uid=v") && !about("involvedObject.kind=Service"));
    }
}
