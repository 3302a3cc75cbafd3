//! XDP on the uplinks: tries it where the plan says so, says what came of it once, and remembers it for whoever asks. A
//! refusal is not tried again before the link changes: drivers do not change their minds, and tc serves.

use std::collections::BTreeMap;

use super::api::ApiXdp;
use crate::{
    loader::{Datapath, Error as LoadError},
    net::{LinkKind, LinkRole, XdpMode, XdpPlan},
};

/// What came of it on one link.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Driver,
    Stack,
    Not(String),
    Refused(String),
}

/// What came of it everywhere.
#[derive(Debug, Default)]
pub(super) struct XdpLinks {
    mode: XdpMode,
    links: BTreeMap<u32, Outcome>,
}

impl XdpLinks {
    pub(super) fn new(mode: XdpMode) -> Self {
        Self { mode, links: BTreeMap::new() }
    }

    pub(super) fn forget(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
    }

    pub(super) fn is_attached(&self, ifindex: u32) -> bool {
        matches!(self.links.get(&ifindex), Some(Outcome::Driver | Outcome::Stack))
    }

    pub(super) fn is_refused(&self, ifindex: u32) -> bool {
        matches!(self.links.get(&ifindex), Some(Outcome::Refused(_)))
    }

    /// Brings the link to what its role wants.
    pub(super) fn settle(&mut self, role: &LinkRole, datapath: &mut Datapath) {
        let outcome = match (datapath.settle_xdp(role), &role.xdp) {
            (Ok(()), XdpPlan::Driver) => Outcome::Driver,
            (Ok(()), XdpPlan::Stack) => Outcome::Stack,
            (Ok(()), XdpPlan::Not(reason)) => Outcome::Not(reason.clone()),
            // Its removal follows.
            (Err(error), _) if LoadError::is_device_gone(&error) => return,
            (Err(error), _) => Outcome::Refused(error.to_string()),
        };
        if self.links.get(&role.ifindex) != Some(&outcome) {
            self.tell(role, &outcome);
            self.links.insert(role.ifindex, outcome);
        }
    }

    fn tell(&self, role: &LinkRole, outcome: &Outcome) {
        let name = &role.name;
        let asked = matches!(self.mode, XdpMode::Native | XdpMode::Generic);
        match outcome {
            Outcome::Driver => tracing::info!("{name}: XDP in the driver, beside tc"),
            Outcome::Stack => tracing::info!("{name}: XDP in the stack, beside tc"),
            Outcome::Not(reason) if role.kind != LinkKind::Uplink || self.mode == XdpMode::Off => {
                tracing::debug!("{name}: no XDP: {reason}");
            }
            Outcome::Not(reason) if asked => tracing::warn!("{name}: no XDP, tc serves it: {reason}"),
            Outcome::Refused(reason) if asked => tracing::error!("{name}: no XDP, tc serves it: {reason}"),
            Outcome::Not(reason) | Outcome::Refused(reason) => {
                tracing::info!("{name}: no XDP, tc serves it: {reason}");
            }
        }
    }

    /// For people.
    pub(super) fn of(&self, role: &LinkRole) -> ApiXdp {
        let (mode, reason) = match self.links.get(&role.ifindex) {
            Some(Outcome::Driver) => ("native", "the driver took it"),
            Some(Outcome::Stack) => ("generic", "--xdp generic"),
            Some(Outcome::Not(reason) | Outcome::Refused(reason)) => ("off", reason.as_str()),
            None => ("off", "not tried yet"),
        };
        ApiXdp { mode: mode.to_owned(), reason: reason.to_owned() }
    }
}
