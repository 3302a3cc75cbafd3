//! What is asked for: paths, selectors and the parameters of lists and watches.

use std::fmt::Write as _;

use crate::model::Kind;

/// Objects that a service proxy like ours should look away from are not even sent. kube-proxy's selectors, in
/// `cmd/kube-proxy/app/server.go` (`ProxyServer.Run`): up to Kubernetes 1.31 it asks for both everywhere, since then
/// (kubernetes#126769) for the one of slices and the other of Services, beside the field `spec.clusterIP!=None`, which
/// older servers refuse. We ask for both, as both hide an object from us wherever it comes from.
const NOT_OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// Objects in a page of a list.
const PAGE: u32 = 500;

/// One kind, as it is asked for.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    /// Path and selector; the character behind them leads to further parameters.
    base: String,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub(super) enum Page {
    First,
    After(String),
    /// Everything at once.
    All,
    /// As little as can be, for the version that the server is at.
    Probe,
}

impl Resource {
    /// All nodes are asked for: what another node hands over is known by that node's addresses.
    pub(super) fn new(kind: Kind) -> Self {
        let base = match kind {
            Kind::Service => format!("/api/v1/services?labelSelector={}", encoded(NOT_OURS)),
            Kind::EndpointSlice => {
                format!("/apis/discovery.k8s.io/v1/endpointslices?labelSelector={}", encoded(NOT_OURS))
            }
            Kind::Endpoints => format!("/api/v1/endpoints?labelSelector={}", encoded(NOT_OURS)),
            Kind::Node => "/api/v1/nodes".to_owned(),
        };
        Self { kind, base }
    }

    /// What is listed, in a person's words.
    pub(super) fn plural(&self) -> &'static str {
        match self.kind {
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices",
            Kind::Endpoints => "endpoints",
            Kind::Node => "nodes",
        }
    }

    /// A list of the newest state: no version is asked for, as an answer from a cache may be older than what we know.
    pub(super) fn list(&self, page: &Page) -> String {
        match page {
            Page::First => self.with(&format!("limit={PAGE}")),
            Page::After(token) => self.with(&format!("limit={PAGE}&continue={}", encoded(token))),
            Page::All => self.base.clone(),
            Page::Probe => self.with("limit=1"),
        }
    }

    /// A list as a stream of objects that goes over into a watch (KEP-3157): nobody holds all of it in memory.
    pub(super) fn stream(&self, seconds: u64) -> String {
        self.with(&format!(
            "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true\
             &timeoutSeconds={seconds}"
        ))
    }

    /// What happened since `version`.
    pub(super) fn watch(&self, version: &str, seconds: u64) -> String {
        self.with(&format!(
            "watch=true&resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds={seconds}",
            encoded(version)
        ))
    }

    fn with(&self, parameters: &str) -> String {
        let lead = if self.base.contains('?') { '&' } else { '?' };
        format!("{}{lead}{parameters}", self.base)
    }
}

/// Percent-encoded, but for RFC 3986's unreserved characters.
pub(in crate::k8s) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let services = Resource::new(Kind::Service);
        let selector = "%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name";
        assert_eq!(services.list(&Page::All), format!("/api/v1/services?labelSelector={selector}"));
        assert!(services.list(&Page::After("a=/".into())).ends_with("&limit=500&continue=a%3D%2F"));
        let watch = Resource::new(Kind::Node).watch("12", 300);
        assert!(watch.starts_with("/api/v1/nodes?watch=true&resourceVersion=12&"), "{watch}");
    }
}
