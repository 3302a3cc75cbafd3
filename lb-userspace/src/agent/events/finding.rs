//! What the owner of a Service should know, as an Event says it. From what other parts of the agent have found out; it
//! finds out nothing itself, and remembers nothing.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::{
    k8s::EventType,
    maps::{Cause, Fnv, Identify as _, Problem},
    model::Uid,
    plan::{
        Diagnostic,
        state::{FrontendType, ServiceName},
    },
};

/// Texts that a note joins; of more only the number is told.
const JOINED: usize = 4;

/// `reason` of an Event. Stable names, listed in docs/events.md: people select and alert by them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Reason {
    /// Another Service has the address.
    AddressConflict,
    /// The datapath does not carry the protocol so.
    ProtocolNotSupported,
    /// No cluster IP.
    NoClusterIp,
    /// An address of a family that the Service does not have.
    FamilyMismatch,
    /// An annotation of ours.
    InvalidAnnotation,
    /// Another Service has the `healthCheckNodePort`.
    HealthCheckNodePortConflict,
    /// Something else listens there. kube-proxy's name (`pkg/proxy/healthcheck/service_health.go`).
    HealthCheckNotServed,
    /// `default/kubernetes` without endpoints.
    EndpointsKept,
    /// The object as a whole.
    InvalidService,
    /// A table has no room.
    DatapathFull,
    /// The kernel refuses.
    NotInDatapath,
    /// It was not, and is again.
    InDatapath,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::AddressConflict => "AddressConflict",
            Self::ProtocolNotSupported => "ProtocolNotSupported",
            Self::NoClusterIp => "NoClusterIP",
            Self::FamilyMismatch => "IPFamilyMismatch",
            Self::InvalidAnnotation => "InvalidAnnotation",
            Self::HealthCheckNodePortConflict => "HealthCheckNodePortConflict",
            Self::HealthCheckNotServed => "FailedToStartServiceHealthcheck",
            Self::EndpointsKept => "EndpointsKept",
            Self::InvalidService => "InvalidService",
            Self::DatapathFull => "DatapathFull",
            Self::NotInDatapath => "NotInDatapath",
            Self::InDatapath => "InDatapath",
        }
    }

    /// `action`: what the agent was about to do.
    pub(super) const fn action(self) -> &'static str {
        match self {
            Self::AddressConflict
            | Self::ProtocolNotSupported
            | Self::NoClusterIp
            | Self::FamilyMismatch
            | Self::InvalidAnnotation
            | Self::EndpointsKept
            | Self::InvalidService => "Plan",
            Self::HealthCheckNodePortConflict | Self::HealthCheckNotServed => "Listen",
            Self::DatapathFull | Self::NotInDatapath | Self::InDatapath => "Program",
        }
    }

    pub(super) const fn event_type(self) -> EventType {
        match self {
            Self::InDatapath => EventType::Normal,
            Self::AddressConflict
            | Self::ProtocolNotSupported
            | Self::NoClusterIp
            | Self::FamilyMismatch
            | Self::InvalidAnnotation
            | Self::HealthCheckNodePortConflict
            | Self::HealthCheckNotServed
            | Self::EndpointsKept
            | Self::InvalidService
            | Self::DatapathFull
            | Self::NotInDatapath => EventType::Warning,
        }
    }

    /// Whether [`Self::InDatapath`] says that it is over. Of the others the owner knows, who has ended them.
    pub(super) const fn is_failure(self) -> bool {
        matches!(self, Self::DatapathFull | Self::NotInDatapath)
    }
}

/// One thing to know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Finding {
    pub(super) reason: Reason,
    /// What makes it the same thing: on every node, after a restart, and while numbers in the note change.
    pub(super) detail: String,
    /// For people.
    pub(super) note: String,
}

impl Finding {
    /// `metadata.name` of its Event. All agents that find the same call it the same, so that it is there once.
    pub(super) fn event_name(&self, service: &ServiceName, uid: &Uid) -> String {
        let id = format!("{uid}\0{}\0{}", self.reason.as_str(), self.detail);
        format!("{}.{:016x}", service.name(), Fnv.identify(id.as_bytes()))
    }
}

/// The findings in what the plan says of one Service: one for each reason, however many addresses or ports it has.
pub(super) fn of_diagnostics(diagnostics: &[Diagnostic]) -> Vec<Finding> {
    let told: Vec<(Reason, String, String)> = diagnostics
        .iter()
        .filter_map(|diagnostic| reason_and_detail(diagnostic).map(|(r, d)| (r, d, diagnostic.remark().to_string())))
        .collect();
    let reasons: BTreeSet<Reason> = told.iter().map(|(reason, ..)| *reason).collect();
    let of = |wanted: Reason| {
        let all = told.iter().filter(move |(reason, ..)| *reason == wanted);
        let details: BTreeSet<&str> = all.clone().map(|(_, detail, _)| detail.as_str()).collect();
        Finding {
            reason: wanted,
            detail: details.into_iter().collect::<Vec<_>>().join("\0"),
            note: joined(all.map(|(_, _, note)| note.clone()).collect()),
        }
    };
    reasons.into_iter().map(of).collect()
}

/// `None`: nothing for the Service's owner.
fn reason_and_detail(diagnostic: &Diagnostic) -> Option<(Reason, String)> {
    match diagnostic {
        // The Service is served at that address all the same, and load balancers often write it twice.
        Diagnostic::Taken { loser, owner, .. } if loser == owner => None,
        Diagnostic::Taken { loser: _, wanted, owner, .. } => {
            let (port, protocol) = (wanted.port, wanted.protocol);
            // A node port is taken at the addresses of each node: one finding for all of them.
            let place = match wanted.kind {
                FrontendType::NodePort => format!("{port}/{protocol}"),
                FrontendType::ClusterIp | FrontendType::ExternalIp | FrontendType::LoadBalancer => {
                    format!("{} {port}/{protocol}", wanted.address)
                }
            };
            Some((Reason::AddressConflict, format!("{place} {owner}")))
        }
        Diagnostic::NotCarried { service: _, port_name: _, port, protocol, target: Some(target) } => {
            Some((Reason::ProtocolNotSupported, format!("{protocol} {port} {target}")))
        }
        // What the node's own sockets do is nothing that the Service's owner could change.
        Diagnostic::NotCarried { target: None, .. } => None,
        Diagnostic::NoClusterIp { .. } => Some((Reason::NoClusterIp, String::new())),
        Diagnostic::WrongFamily { service: _, kind: _, address } => Some((Reason::FamilyMismatch, address.to_string())),
        Diagnostic::KeptBackends { .. } => Some((Reason::EndpointsKept, String::new())),
        Diagnostic::BadAnnotation { service: _, annotation, cause } => {
            Some((Reason::InvalidAnnotation, format!("{annotation} {cause}")))
        }
        Diagnostic::HealthPortTaken { loser: _, port, owner } => {
            Some((Reason::HealthCheckNodePortConflict, format!("{port} {owner}")))
        }
        // An API server, where Events go, takes no such Service.
        Diagnostic::NoPorts { .. } => None,
        // It is the node that lacks something, and its agent's log says so.
        Diagnostic::NoNodeAddress { .. } => None,
    }
}

/// A Service that could not be written to the maps. The detail names neither the node nor numbers: where one node's
/// tables are full, those of others often are, and the owner needs to know it once.
pub(super) fn of_problems(node: &str, problems: &[Problem]) -> Option<Finding> {
    let flag = |problem: &Problem| match &problem.cause {
        Cause::Full { flag, .. } => Some(*flag),
        Cause::TooManySlots { .. } => Some("--max-slots"),
        Cause::SmallTable { .. } => Some("--maglev-table-size"),
        Cause::Contradiction | Cause::Store(_) => None,
    };
    let flags: BTreeSet<&str> = problems.iter().filter_map(flag).collect();
    // A Service that lacks room is told of that, whatever else there is: it lasts, and somebody can end it.
    let is_full = !flags.is_empty();
    let reason = if is_full { Reason::DatapathFull } else { Reason::NotInDatapath };
    let told: Vec<String> =
        problems.iter().filter(|problem| flag(problem).is_some() == is_full).map(ToString::to_string).collect();
    (!told.is_empty()).then(|| Finding {
        reason,
        detail: flags.into_iter().collect::<Vec<_>>().join(" "),
        note: format!("On node {node}: {}", joined(told)),
    })
}

/// An object that the agent could not make sense of.
pub(super) fn of_bad_object(cause: &str) -> Finding {
    Finding {
        reason: Reason::InvalidService,
        detail: cause.to_owned(),
        note: format!(
            "{cause}; this version of the Service is left out, and what was known of it before stays in force"
        ),
    }
}

/// A health check that is not served at these addresses, of which there is at least one.
pub(super) fn of_health_check(node: &str, places: &[SocketAddr]) -> Option<Finding> {
    let port = places.first()?.port();
    let addresses: Vec<String> = places.iter().map(|place| place.ip().to_string()).collect();
    Some(Finding {
        reason: Reason::HealthCheckNotServed,
        detail: port.to_string(),
        note: format!(
            "On node {node}: healthCheckNodePort {port} is not served on {}; another program may listen there; it is tried \
             again",
            addresses.join(", ")
        ),
    })
}

/// A failure is over.
pub(super) fn in_datapath(node: &str) -> Finding {
    Finding {
        reason: Reason::InDatapath,
        detail: String::new(),
        note: format!("On node {node} the Service is wholly in the datapath again"),
    }
}

fn joined(texts: Vec<String>) -> String {
    let more = texts.len().saturating_sub(JOINED);
    let text = texts.into_iter().take(JOINED).collect::<Vec<_>>().join("; ");
    if more > 0 { format!("{text}; and {more} more") } else { text }
}

#[cfg(test)]
#[path = "finding_tests.rs"]
mod tests;
