//! Two state documents against each other: what the maps hold and what they are to hold, as differences that a person can
//! act on. Pure. What only the agent knows and no map holds (zones) is not compared.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::state::{Backend, BackendState, Frontend, State};

/// One thing that is not as it should be.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Difference {
    /// Its name.
    pub object: String,
    /// How it is.
    pub found: String,
    /// How it should be.
    pub intent: String,
}

impl Difference {
    /// A difference of anything.
    pub fn new(object: impl Into<String>, found: impl Into<String>, intent: impl Into<String>) -> Self {
        Self { object: object.into(), found: found.into(), intent: intent.into() }
    }

    /// A difference between a map's content and the intent.
    pub fn of_map(object: impl Into<String>, found: impl fmt::Display, intent: impl Into<String>) -> Self {
        Self::new(object, format!("map has {found}"), intent)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, found, intent } = self;
        write!(f, "{object}: {found}, intent {intent}")
    }
}

/// All differences, in document order, each with the frontend that it is about; what is in `found` only comes last.
#[must_use]
pub fn compare<'a>(found: &'a State, intent: &'a State) -> Vec<(&'a Frontend, Difference)> {
    let place = |f: &Frontend| (f.address, f.port, f.protocol, f.scope);
    let mut rest: BTreeMap<_, &Frontend> = found.frontends.iter().map(|f| (place(f), f)).collect();
    let mut differences = Vec::new();
    for wanted in &intent.frontends {
        match rest.remove(&place(wanted)) {
            Some(found) => differences.extend(fields(found, wanted).map(|difference| (wanted, difference))),
            None => differences.push((wanted, Difference::of_map(name(wanted), "nothing", summary(wanted)))),
        }
    }
    differences.extend(rest.into_values().map(|f| (f, Difference::of_map(name(f), summary(f), "nothing"))));
    differences
}

/// The sources that may use a frontend, for people.
#[must_use]
pub fn ranges_text(f: &Frontend) -> String {
    match (f.has_source_ranges, f.source_ranges.as_slice()) {
        (false, []) => "-".to_owned(),
        (true, []) => "nobody".to_owned(),
        (_, ranges) => ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

fn name(f: &Frontend) -> String {
    let owner = f.service.as_ref().map_or_else(|| "frontend".to_owned(), |service| format!("service {service}"));
    format!("{owner} {}/{} {}", SocketAddr::new(f.address, f.port), f.protocol, f.scope.as_str())
}

fn summary(f: &Frontend) -> String {
    format!("{} {}", f.action.as_str(), backends_text(&f.backends))
}

/// Field by field, so that each line tells one thing.
fn fields(found: &Frontend, wanted: &Frontend) -> impl Iterator<Item = Difference> {
    // Endpoints that drained before the agent knew them may be there still.
    let drains_enough = wanted.draining.iter().all(|backend| found.draining.iter().any(|b| same(b, backend)));
    let draining = if drains_enough { &wanted.draining } else { &found.draining };
    let text = |f: &Frontend, draining: &[Backend]| {
        [
            owner(f),
            format!("type {}", f.kind),
            format!("action {}", f.action.as_str()),
            format!("algorithm {}", f.algorithm.as_str()),
            f.affinity_seconds.map_or_else(|| "no affinity".to_owned(), |s| format!("affinity {s} s")),
            format!("source ranges {}", ranges_text(f)),
            format!("backends {}", backends_text(&f.backends)),
            format!("draining {}", backends_text(draining)),
        ]
    };
    let object = name(wanted);
    let pairs = text(found, draining).into_iter().zip(text(wanted, &wanted.draining));
    pairs
        .filter(|(found, wanted)| found != wanted)
        .map(move |(found, wanted)| Difference::of_map(object.as_str(), found, wanted))
}

fn owner(f: &Frontend) -> String {
    match (&f.service, f.port_name.as_deref()) {
        (Some(service), Some(port)) => format!("a frontend of {service} port {port:?}"),
        _ => "a frontend of nobody".to_owned(),
    }
}

fn same(a: &Backend, b: &Backend) -> bool {
    backend_text(a) == backend_text(b)
}

fn backends_text(backends: &[Backend]) -> String {
    let text = backends.iter().map(backend_text).collect::<Vec<_>>().join(",");
    if text.is_empty() { "-".to_owned() } else { text }
}

fn backend_text(b: &Backend) -> String {
    let mut text = SocketAddr::new(b.address, b.port).to_string();
    if b.state == BackendState::Terminating {
        text.push_str("(terminating)");
    }
    if b.local {
        text.push_str("(local)");
    }
    if b.weight != 1 {
        text.push_str(&format!("(weight {})", b.weight));
    }
    text
}
