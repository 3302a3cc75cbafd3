//! Which endpoints of one service port a traffic policy may use on this node.
//!
//! The rules are those of kube-proxy's `CategorizeEndpoints` and `topologyModeFromHints` (`pkg/proxy/topology.go`) and
//! of KEPs 1669 (terminating fallback), 2086 (internal policy), 2433 (zone hints), 3015 (same node). This module sees
//! endpoints of one port and one family, never a Service, and sorts nothing.

use std::{net::IpAddr, sync::Arc};

use super::state::{Backend, BackendState};
use crate::model::{Endpoint, Policy};

/// Where this node stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Here<'a> {
    /// Node name; `""`: unknown, so nothing is local.
    pub(super) name: &'a str,
    /// Zone, if known.
    pub(super) zone: Option<&'a str>,
}

/// An endpoint together with the target port by which this service port reaches it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    /// The endpoint.
    pub(super) endpoint: &'a Endpoint,
    /// Its port.
    pub(super) port: u16,
    /// Its share of new connections.
    pub(super) weight: u16,
}

impl Candidate<'_> {
    /// Serving and terminating without being ready: fallback material.
    fn is_leaving(&self) -> bool {
        let Endpoint { ready, serving, terminating, .. } = *self.endpoint;
        !ready && serving && terminating
    }

    fn is_local(&self, here: Here<'_>) -> bool {
        !here.name.is_empty() && self.endpoint.node_name.as_deref() == Some(here.name)
    }

    fn backend(&self, here: Here<'_>, state: BackendState) -> Backend {
        Backend {
            address: self.endpoint.address,
            port: self.port,
            state,
            local: self.is_local(here),
            weight: self.weight,
            zone: self.endpoint.zone.clone(),
        }
    }

    /// Address and port: what makes two endpoints the same backend.
    pub(super) fn socket(&self) -> (IpAddr, u16) {
        (self.endpoint.address, self.port)
    }

    /// Order of preference between two copies of one backend that stand in several slices at once, as happens while a
    /// controller moves it. kube-proxy prefers the local copy and else takes either; taking the one in the better
    /// condition makes the answer independent of the order of input.
    pub(super) fn rank(&self, here: Here<'_>) -> impl Ord {
        let Endpoint { ready, serving, terminating, node_name, zone, zone_hints, node_hints, .. } = self.endpoint;
        (
            self.is_local(here),
            *ready,
            self.is_leaving(),
            (*serving, !*terminating),
            (node_name.clone(), zone.clone(), zone_hints.clone(), node_hints.clone()),
        )
    }
}

/// What a policy leaves for new connections.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Selection {
    /// For new connections: all active, or all terminating where nothing else is left.
    pub(super) backends: Vec<Backend>,
    /// Serving and terminating ones beside active ones.
    pub(super) draining: Vec<Backend>,
}

/// Both policies' answers for one service port and family.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Categories {
    /// Policy Cluster, hints applied.
    cluster: Selection,
    /// Policy Local; hints never count here.
    local: Selection,
    /// Whether any node has a ready or a serving-terminating endpoint.
    pub(super) any: bool,
}

impl Categories {
    /// Sorts the candidates, each of which stands for a different backend.
    pub(super) fn of(candidates: &[Candidate<'_>], here: Here<'_>) -> Self {
        let hints = Hints::of(candidates, here);
        let local: Vec<_> = candidates.iter().copied().filter(|c| c.is_local(here)).collect();
        Self {
            cluster: select(candidates, here, |c| hints.allow(c, here)),
            local: select(&local, here, |_| true),
            any: candidates.iter().any(|c| c.endpoint.ready || c.is_leaving()),
        }
    }

    /// This node's ready endpoints that take new connections.
    pub(super) fn local_ready(&self) -> impl Iterator<Item = &Backend> {
        self.local.backends.iter().filter(|b| b.state == BackendState::Active && b.weight > 0)
    }

    /// The answer for one policy.
    pub(super) fn by(&self, policy: Policy) -> &Selection {
        match policy {
            Policy::Cluster => &self.cluster,
            Policy::Local => &self.local,
        }
    }
}

/// Ready endpoints that `preferred` allows; if there is no ready endpoint, the serving-terminating ones, without
/// preference: hints are not given for those.
fn select(candidates: &[Candidate<'_>], here: Here<'_>, preferred: impl Fn(&Candidate<'_>) -> bool) -> Selection {
    let active: Vec<_> = candidates.iter().filter(|c| c.endpoint.ready && preferred(c)).collect();
    if active.is_empty() {
        let leaving = candidates.iter().filter(|c| c.is_leaving());
        let backends = leaving.map(|c| c.backend(here, BackendState::Terminating)).collect();
        return Selection { backends, draining: Vec::new() };
    }
    // A ready endpoint that terminates (publishNotReadyAddresses) is active like any other, unless hints send this
    // node elsewhere: then its existing connections go on, too.
    let draining = candidates
        .iter()
        .filter(|c| c.endpoint.serving && c.endpoint.terminating && !(c.endpoint.ready && preferred(c)))
        .map(|c| c.backend(here, BackendState::Terminating))
        .collect();
    Selection { backends: active.iter().map(|c| c.backend(here, BackendState::Active)).collect(), draining }
}

/// Which hints decide.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hints {
    /// None: all ready endpoints.
    Ignored,
    /// Those hinted for this node.
    Node,
    /// Those hinted for this zone.
    Zone,
}

impl Hints {
    /// Hints of a kind count when every ready endpoint has them and at least one names this place; node hints come
    /// before zone hints. Whatever is missing, the next coarser kind decides, and at last all endpoints are used.
    fn of(candidates: &[Candidate<'_>], here: Here<'_>) -> Self {
        let decide = |hints: fn(&Endpoint) -> &[Arc<str>], place: Option<&str>| {
            let mut ready = candidates.iter().filter(|c| c.endpoint.ready).map(|c| hints(c.endpoint)).peekable();
            let Some(place) = place.filter(|p| !p.is_empty()) else { return false };
            let mut named = false;
            ready.peek().is_some()
                && ready.all(|h| {
                    named |= names(h, place);
                    !h.is_empty()
                })
                && named
        };
        if decide(|e| &e.node_hints, Some(here.name)) {
            Self::Node
        } else if decide(|e| &e.zone_hints, here.zone) {
            Self::Zone
        } else {
            Self::Ignored
        }
    }

    fn allow(self, candidate: &Candidate<'_>, here: Here<'_>) -> bool {
        match self {
            Self::Ignored => true,
            Self::Node => names(&candidate.endpoint.node_hints, here.name),
            Self::Zone => here.zone.is_some_and(|zone| names(&candidate.endpoint.zone_hints, zone)),
        }
    }
}

fn names(hints: &[Arc<str>], place: &str) -> bool {
    hints.iter().any(|h| &**h == place)
}

#[cfg(test)]
#[path = "topology_tests.rs"]
pub(super) mod tests;
