//! Who owns an address, port and protocol when several want it.
//!
//! The index answers in constant time and tells which Services a change has to plan anew. It knows nothing about
//! endpoints.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
};

use foldhash::fast::RandomState;

use super::state::{FrontendType, Protocol, ServiceName};
use crate::model::Created;

/// What can be owned. Both scopes go to one owner.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
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
    pub(super) port_index: u32,
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
    by_target: HashMap<Target, Claimants, RandomState>,
    by_service: HashMap<ServiceName, Box<[Claim]>, RandomState>,
}

/// Who wants a target: nearly always one Service.
#[derive(Clone, Debug)]
enum Claimants {
    One(Claimant),
    /// More than one, or what is left of them.
    Several(BTreeSet<Claimant>),
}

impl Claimants {
    fn add(&mut self, claimant: &Claimant) {
        match self {
            Self::One(one) if one == claimant => {}
            Self::One(one) => *self = Self::Several(BTreeSet::from([one.clone(), claimant.clone()])),
            Self::Several(all) => drop(all.insert(claimant.clone())),
        }
    }

    /// Gives whether nobody is left.
    fn remove(&mut self, claimant: &Claimant) -> bool {
        match self {
            Self::One(one) => one == claimant,
            Self::Several(all) => {
                all.remove(claimant);
                all.is_empty()
            }
        }
    }

    fn owner(&self) -> Option<&Claimant> {
        match self {
            Self::One(one) => Some(one),
            Self::Several(all) => all.first(),
        }
    }

    fn services(&self) -> impl Iterator<Item = &ServiceName> {
        let (one, several) = match self {
            Self::One(one) => (Some(one), None),
            Self::Several(all) => (None, Some(all)),
        };
        one.into_iter().chain(several.into_iter().flatten()).map(|claimant| &claimant.service)
    }
}

impl Claims {
    /// Replaces all claims of a Service. Returns the other Services that have to be planned anew: the contenders for
    /// each target that changed its owner, as they gain it, lose it, or lose it to somebody else than before.
    pub(super) fn replace(&mut self, service: &ServiceName, claims: Vec<Claim>) -> BTreeSet<ServiceName> {
        let old = self.by_service.get(service).map_or(&[] as &[Claim], |old| old);
        if old == claims {
            return BTreeSet::new();
        }
        let old = self.by_service.remove(service).unwrap_or_default();
        let mut owners: BTreeMap<Target, Option<Claimant>> = BTreeMap::new();
        for Claim { target, .. } in old.iter().chain(&claims) {
            owners.entry(*target).or_insert_with(|| self.owner(target).cloned());
        }
        for Claim { target, claimant } in &old {
            if self.by_target.get_mut(target).is_some_and(|claimants| claimants.remove(claimant)) {
                self.by_target.remove(target);
            }
        }
        for Claim { target, claimant } in &claims {
            match self.by_target.entry(*target) {
                Entry::Occupied(mut there) => there.get_mut().add(claimant),
                Entry::Vacant(free) => drop(free.insert(Claimants::One(claimant.clone()))),
            }
        }
        if !claims.is_empty() {
            self.by_service.insert(service.clone(), claims.into());
        }
        let moved = owners.iter().filter(|(target, before)| self.owner(target) != before.as_ref());
        let contenders = moved.filter_map(|(target, _)| self.by_target.get(target)).flat_map(Claimants::services);
        contenders.filter(|name| *name != service).cloned().collect()
    }

    /// The claims of a Service, in the order it made them.
    pub(super) fn of(&self, service: &ServiceName) -> &[Claim] {
        self.by_service.get(service).map_or(&[], |claims| claims)
    }

    /// The owner of a target.
    pub(super) fn owner(&self, target: &Target) -> Option<&Claimant> {
        self.by_target.get(target).and_then(Claimants::owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(service: &str, created: i64, kind: FrontendType, port: u16) -> Claim {
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
