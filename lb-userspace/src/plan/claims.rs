//! Who owns an address, port and protocol when several want it.
//!
//! The index answers in logarithmic time and tells which Services a change has to plan anew. It knows nothing about
//! endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::state::{FrontendType, Protocol, ServiceName};
use crate::model::Created;

/// What can be owned. Both scopes go to one owner.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Target {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

/// A wish of one Service. The order is the precedence: the older Service, then the lesser name, then the kind of
/// address, then the order of ports.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Claimant {
    pub(super) created: Created,
    pub(super) service: ServiceName,
    pub(super) kind: FrontendType,
    /// Index into the Service's ports.
    pub(super) port_index: usize,
}

/// A claimant and what it wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Claim {
    pub(super) target: Target,
    pub(super) claimant: Claimant,
}

/// All claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    by_target: BTreeMap<Target, BTreeSet<Claimant>>,
    by_service: BTreeMap<ServiceName, Vec<Claim>>,
}

impl Claims {
    /// Replaces all claims of a Service. Returns the other Services that have to be planned anew: the contenders for
    /// each target that changed its owner, as they gain it, lose it, or lose it to somebody else than before.
    pub(super) fn replace(&mut self, service: &ServiceName, claims: Vec<Claim>) -> BTreeSet<ServiceName> {
        let old = self.by_service.remove(service).unwrap_or_default();
        let mut owners: BTreeMap<Target, Option<Claimant>> = BTreeMap::new();
        if old != claims {
            for Claim { target, .. } in old.iter().chain(&claims) {
                owners.entry(*target).or_insert_with(|| self.owner(target).cloned());
            }
            for Claim { target, claimant } in &old {
                if let Some(claimants) = self.by_target.get_mut(target) {
                    claimants.remove(claimant);
                    if claimants.is_empty() {
                        self.by_target.remove(target);
                    }
                }
            }
            for Claim { target, claimant } in &claims {
                self.by_target.entry(*target).or_default().insert(claimant.clone());
            }
        }
        if !claims.is_empty() {
            self.by_service.insert(service.clone(), claims);
        }
        let moved = owners.iter().filter(|(target, before)| self.owner(target) != before.as_ref());
        let contenders = moved.flat_map(|(target, _)| self.by_target.get(target)).flatten();
        contenders.map(|c| c.service.clone()).filter(|name| name != service).collect()
    }

    /// The claims of a Service, in the order it made them.
    pub(super) fn of(&self, service: &ServiceName) -> &[Claim] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    /// The owner of a target.
    pub(super) fn owner(&self, target: &Target) -> Option<&Claimant> {
        self.by_target.get(target).and_then(BTreeSet::first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(service: &str, created: i128, kind: FrontendType, port: u16) -> Claim {
        Claim {
            target: Target { address: "192.0.2.1".parse().unwrap(), port, protocol: Protocol::Tcp },
            claimant: Claimant {
                created: Created(Some(created)),
                service: ServiceName::new("default", service),
                kind,
                port_index: 0,
            },
        }
    }

    fn name(service: &str) -> ServiceName {
        ServiceName::new("default", service)
    }

    #[test]
    fn only_contenders_are_touched() {
        let mut claims = Claims::default();
        let a = claim("a", 2, FrontendType::ExternalIp, 80);
        let b = claim("b", 1, FrontendType::ExternalIp, 80);
        let c = claim("c", 1, FrontendType::ExternalIp, 81);
        assert!(claims.replace(&name("a"), vec![a.clone()]).is_empty());
        assert!(claims.replace(&name("c"), vec![c]).is_empty());
        assert_eq!(claims.replace(&name("b"), vec![b.clone()]), BTreeSet::from([name("a")]));
        assert_eq!(claims.owner(&a.target).unwrap().service, name("b"));
        assert!(claims.replace(&name("b"), vec![b]).is_empty(), "the same claims again change nothing");
        let last = claim("c", 3, FrontendType::ExternalIp, 80);
        assert!(claims.replace(&name("c"), vec![last]).is_empty(), "one more loser changes nothing for others");
        assert!(claims.replace(&name("c"), vec![claim("c", 1, FrontendType::ExternalIp, 81)]).is_empty());
        assert_eq!(claims.replace(&name("b"), vec![]), BTreeSet::from([name("a")]));
        assert_eq!(claims.owner(&a.target).unwrap().service, name("a"));
        assert!(claims.replace(&name("a"), vec![]).is_empty());
        assert!(claims.owner(&a.target).is_none());
        assert_eq!(claims.by_target.len(), 1);
        assert_eq!(claims.by_service.len(), 1);
    }
}
