//! What the server serves: the resources, their paths, and which call a request is. It never looks at objects' content.

use anyhow::{Context as _, Result, bail};
use hyper::Method;
use serde_json::Value;

/// A kind of objects, as paths name it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Resource {
    /// `v1` services.
    Services,
    /// `discovery.k8s.io/v1` endpointslices.
    EndpointSlices,
    /// `v1` nodes, which have no namespace.
    Nodes,
    /// `v1` and `events.k8s.io/v1` events: one store behind two paths. `v1` shows all of them in its own form; for
    /// watches and `events.k8s.io/v1` each is as it was written.
    Events,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Services, Self::EndpointSlices, Self::Nodes, Self::Events];

    /// The plural in paths.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::Events => "events",
        }
    }

    /// `kind` of an object.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Services => "Service",
            Self::EndpointSlices => "EndpointSlice",
            Self::Nodes => "Node",
            Self::Events => "Event",
        }
    }

    /// `apiVersion`s of objects.
    #[must_use]
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Services | Self::Nodes => &["v1"],
            Self::EndpointSlices => &["discovery.k8s.io/v1"],
            Self::Events => &["v1", "events.k8s.io/v1"],
        }
    }

    /// Whether its objects live in namespaces.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        self != Self::Nodes
    }

    /// The resource of an object by its `apiVersion` and `kind`.
    pub(super) fn of(object: &Value) -> Result<Self> {
        let text = |key: &str| object[key].as_str().with_context(|| format!("an object without {key}: {object}"));
        let (version, kind) = (text("apiVersion")?, text("kind")?);
        let found = Self::ALL.into_iter().find(|r| r.kind() == kind && r.api_versions().contains(&version));
        found.with_context(|| format!("the server serves no {version} {kind}"))
    }
}

/// What an object is stored under. Ordered as a list is: by namespace, then name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Key {
    pub(super) resource: Resource,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    /// The key of an object; a namespaced one without namespace is in `default`.
    pub(super) fn of(object: &Value) -> Result<Self> {
        let resource = Resource::of(object)?;
        let name = object["metadata"]["name"].as_str().context("an object without metadata.name")?;
        let namespace = object["metadata"]["namespace"].as_str();
        let namespace = match (resource.is_namespaced(), namespace) {
            (true, namespace) => namespace.unwrap_or("default"),
            (false, None) => "",
            (false, Some(_)) => bail!("{} {name} has a namespace", resource.kind()),
        };
        Ok(Self { resource, namespace: namespace.into(), name: name.into() })
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verb {
    /// One object.
    Get,
    /// A list, or a page of one.
    List,
    /// A stream of changes, with or without the objects before it.
    Watch,
    /// POST.
    Create,
    /// PATCH.
    Patch,
    /// Whatever else: discovery, health.
    Other,
}

impl Verb {
    /// As Kubernetes' authorization names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get | Self::Other => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Patch => "patch",
        }
    }
}

/// Where a path of the API leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    pub(super) resource: Resource,
    /// As in the path.
    pub(super) api_version: &'static str,
    /// None: all of them.
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
}

impl Target {
    /// None: not a path of a resource that is served.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let mut words: Vec<&str> = path.split('/').skip(1).collect();
        let api_version = match *words.first()? {
            "api" if words.len() > 2 => words.drain(..2).next_back()?.to_owned(),
            "apis" if words.len() > 3 => words.drain(..3).skip(1).collect::<Vec<_>>().join("/"),
            _ => return None,
        };
        // /api/v1/namespaces/NAME is the Namespace itself, which is not served.
        let namespace = (words[0] == "namespaces" && words.len() > 2).then(|| words.drain(..2).next_back()).flatten();
        let (plural, name) = match words[..] {
            [plural] => (plural, None),
            [plural, name] => (plural, Some(name)),
            _ => return None,
        };
        let resource = Resource::ALL.into_iter().find(|r| r.plural() == plural)?;
        let api_version = *resource.api_versions().iter().find(|v| **v == api_version)?;
        let placed = resource.is_namespaced() || namespace.is_none();
        // A namespaced object without its namespace in the path is nowhere.
        let found = name.is_none() || resource.is_namespaced() == namespace.is_some();
        let owned = |text: Option<&str>| text.map(str::to_owned);
        (placed && found).then(|| Self { resource, api_version, namespace: owned(namespace), name: owned(name) })
    }

    /// None: a method that is not served here.
    pub(super) fn verb(&self, method: &Method, watch: bool) -> Option<Verb> {
        match (method, &self.name) {
            (&Method::GET, None) if watch => Some(Verb::Watch),
            (&Method::GET, None) => Some(Verb::List),
            // As kubectl watches one object.
            (&Method::GET, Some(_)) => Some(Verb::Get),
            (&Method::POST, None) if self.namespace.is_some() => Some(Verb::Create),
            (&Method::PATCH, Some(_)) => Some(Verb::Patch),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let target =
            |path| Target::parse(path).map(|t| (t.resource, t.api_version, t.namespace.unwrap_or_default(), t.name));
        let none = String::new;
        assert_eq!(target("/api/v1/services"), Some((Resource::Services, "v1", none(), None)));
        assert_eq!(target("/api/v1/nodes/a"), Some((Resource::Nodes, "v1", none(), Some("a".into()))));
        let slices = "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices";
        assert_eq!(target(slices), Some((Resource::EndpointSlices, "discovery.k8s.io/v1", "n".into(), None)));
        let event = "/apis/events.k8s.io/v1/namespaces/n/events/e";
        assert_eq!(target(event), Some((Resource::Events, "events.k8s.io/v1", "n".into(), Some("e".into()))));
        for wrong in [
            "/version",
            "/api/v1",
            "/api/v1/pods",
            "/api/v1/endpointslices",
            "/apis/discovery.k8s.io/v1/services",
            "/api/v1/services/web",
            "/api/v1/namespaces/n/nodes",
            "/api/v1/namespaces/services",
            "/api/v1/namespaces/n/services/web/status",
        ] {
            assert_eq!(target(wrong), None, "{wrong}");
        }
    }
}
