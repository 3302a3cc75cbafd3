//! What an apply did, and what it could not do: always with the object, the cause and the next step.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::abi::{self, Addr, ServiceKey};
use thiserror::Error;

use super::store::StoreError;
use crate::plan::state::{Protocol, ServiceName};

/// What changed in the maps.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ApplyOutcome {
    /// Backends that got an id.
    pub backends_added: usize,
    /// Backends that lost theirs.
    pub backends_removed: usize,
    /// Backends whose state, weight or place changed.
    pub backends_changed: usize,
    /// Backend sets that are new or were committed anew.
    pub sets_committed: usize,
    /// Backend sets that are gone.
    pub sets_removed: usize,
    /// Frontends written.
    pub frontends_written: usize,
    /// Frontends deleted.
    pub frontends_deleted: usize,
}

impl ApplyOutcome {
    /// Whether anything changed.
    #[must_use]
    pub fn changed(&self) -> bool {
        *self != Self::default()
    }

    /// Adds what another apply did.
    pub fn add(&mut self, other: &Self) {
        let Self {
            backends_added,
            backends_removed,
            backends_changed,
            sets_committed,
            sets_removed,
            frontends_written,
            frontends_deleted,
        } = other;
        self.backends_added += backends_added;
        self.backends_removed += backends_removed;
        self.backends_changed += backends_changed;
        self.sets_committed += sets_committed;
        self.sets_removed += sets_removed;
        self.frontends_written += frontends_written;
        self.frontends_deleted += frontends_deleted;
    }
}

/// A Service that is not, or only partly, in the datapath as wanted. Applying it again completes it.
#[derive(Debug, Error)]
pub struct ApplyError {
    /// Which Service.
    pub service: ServiceName,
    /// What is missing, at least one.
    pub problems: Vec<Problem>,
    /// What was done all the same.
    pub outcome: ApplyOutcome,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "service {} {problem}", self.service)?;
        }
        Ok(())
    }
}

/// One thing that could not be done.
#[derive(Debug)]
pub struct Problem {
    /// What it is about.
    pub part: Part,
    /// Why.
    pub cause: Cause,
}

/// The part of a Service that has a problem.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Part {
    /// A port: its frontends go on with what they had; new ones are missing.
    Port {
        /// `spec.ports[].name`.
        name: Arc<str>,
        /// Protocol.
        protocol: Protocol,
    },
    /// A port that chooses at random, as there is no room for its Maglev tables. All else of it is as wanted.
    Algorithm {
        /// `spec.ports[].name`.
        name: Arc<str>,
        /// Protocol.
        protocol: Protocol,
    },
    /// A frontend that is not written. A node port's key has the unspecified address.
    Frontend(ServiceKey),
    /// A frontend that should be gone and still answers.
    StaleFrontend(ServiceKey),
    /// An address: its frontends are not written, or it is not let go of.
    Address(Addr),
    /// Something that no frontend leads to any more, and that holds room until it is deleted.
    Leftover,
}

/// Why something could not be done.
#[derive(Debug)]
pub enum Cause {
    /// A map has no room.
    Full {
        /// Its name.
        map: &'static str,
        /// Its size in entries.
        capacity: u32,
        /// The flag that sets its size.
        flag: &'static str,
        /// What was needed at once, and what of it there is: `slots` can be free but not contiguous.
        needed: Option<(u32, u32)>,
    },
    /// A backend set needs more slots than its commit word can count.
    TooManySlots {
        /// Endpoints of the set.
        endpoints: usize,
    },
    /// A Maglev table has fewer slots than the set has endpoints.
    SmallTable {
        /// Endpoints of the set that have a weight.
        endpoints: usize,
        /// Slots of a table.
        size: u16,
    },
    /// Two frontends of the Service have the same key and differ.
    Contradiction,
    /// The kernel refused.
    Store(StoreError),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Port { name, protocol } => write!(f, "port {name:?} {protocol} is not updated in the datapath"),
            Part::Algorithm { name, protocol } => {
                write!(f, "port {name:?} {protocol} chooses endpoints at random, not by Maglev")
            }
            Part::Frontend(key) => write!(f, "frontend {} is not in the datapath as wanted", Shown(key)),
            Part::StaleFrontend(key) => write!(f, "frontend {} is still in the datapath", Shown(key)),
            Part::Address(addr) => write!(f, "address {} is not in the datapath as wanted", IpAddr::from(*addr)),
            Part::Leftover => write!(f, "has leftovers in the maps"),
        }?;
        write!(f, ": {}", self.cause)
    }
}

/// A frontend's key as people read it.
struct Shown<'a>(&'a ServiceKey);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceKey { addr, port, proto, scope } = *self.0;
        write!(f, "{} ", SocketAddr::new(addr.into(), port.get()))?;
        match Protocol::from_number(proto) {
            Some(protocol) => write!(f, "{protocol}"),
            None => write!(f, "protocol {proto}"),
        }?;
        f.write_str(if scope == abi::scope::INTERNAL { " (internal)" } else { " (external)" })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { map, capacity, flag, needed } => {
                write!(f, "map {map} is full ({capacity} entries")?;
                if let Some((needed, available)) = needed {
                    write!(f, "; {needed} needed at once, {available} free")?;
                }
                write!(f, "): raise {flag}")
            }
            Self::TooManySlots { endpoints } => {
                write!(f, "{endpoints} endpoints need more than 65535 slots: split the Service")
            }
            Self::SmallTable { endpoints, size } => write!(
                f,
                "{endpoints} endpoints are more than the {size} slots of a Maglev table: raise --maglev-table-size, best to \
                 a hundred times as many"
            ),
            Self::Contradiction => f.write_str(
                "it is listed twice with different contents; the first one counts. Please report this with the output of \
                 `berrylb plan`",
            ),
            Self::Store(error) => write!(f, "{error}; it is tried again with the next change"),
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::Port;

    use super::*;

    #[test]
    fn messages_name_object_cause_and_next_step() {
        let error = ApplyError {
            service: ServiceName::new("default", "web"),
            problems: vec![
                Problem {
                    part: Part::Port { name: "http".into(), protocol: Protocol::Tcp },
                    cause: Cause::Full {
                        map: "backends",
                        capacity: 8192,
                        flag: "--max-backends",
                        needed: Some((3, 1)),
                    },
                },
                Problem {
                    part: Part::Frontend(ServiceKey {
                        addr: Addr::v4([10, 96, 0, 1]),
                        port: Port::new(80),
                        proto: abi::proto::TCP,
                        scope: abi::scope::INTERNAL,
                    }),
                    cause: Cause::Store(StoreError::Full { map: "services" }),
                },
            ],
            outcome: ApplyOutcome::default(),
        };
        assert_eq!(
            error.to_string(),
            "service default/web port \"http\" TCP is not updated in the datapath: map backends is full (8192 entries; 3 \
             needed at once, 1 free): raise --max-backends; service default/web frontend 10.96.0.1:80 TCP (internal) is \
             not in the datapath as wanted: map services is full; it is tried again with the next change"
        );
    }
}
