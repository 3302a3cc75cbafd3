//! Who owns an address, port and protocol when several want it.
//!
//! What a Service wants follows from its object, so it is not kept: only who owns what is, and who else wants it. The table answers
//! in constant time and tells which Services a change has to plan anew. It knows nothing about endpoints.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
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

/// A wish of a Service. Of several for one target, the first one of its list counts: lists are in order of kind, and then of ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Claim {
    pub(super) target: Target,
    pub(super) kind: FrontendType,
    /// Index into the Service's ports.
    pub(super) port_index: u32,
}

/// The claims of a Service that count, in order of target, to be looked for with [`claim_of`].
pub(super) fn counting(claims: &[Claim]) -> Vec<Claim> {
    let mut counting = claims.to_vec();
    counting.sort_by_key(|claim| claim.target);
    counting.dedup_by_key(|claim| claim.target);
    counting
}

/// That of a target among those.
pub(super) fn claim_of<'a>(counting: &'a [Claim], target: &Target) -> Option<&'a Claim> {
    counting.binary_search_by(|claim| claim.target.cmp(target)).ok().map(|at| &counting[at])
}

/// All owners, and who else wants what they own.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    owners: Owners,
    /// All who want a target, where they are several, in order of precedence: the older Service, then the lesser name.
    contested: HashMap<Target, BTreeSet<(Created, ServiceName)>, RandomState>,
}

impl Claims {
    /// Replaces all claims of a Service: `old` were made with the last call for it, and `created` is its age now. Returns the other
    /// Services that have to be planned anew: the contenders for each target that changed its owner or what it has it
    /// as, as they gain it, lose it, or lose it to another. `created_of` tells the age of those that own something.
    pub(super) fn replace(
        &mut self,
        service: &ServiceName,
        created: Created,
        [old, new]: [&[Claim]; 2],
        created_of: impl Fn(&ServiceName) -> Created,
    ) -> BTreeSet<ServiceName> {
        let [old, new] = [old, new].map(counting);
        let mut touched = BTreeSet::new();
        let come = new.iter().filter(|claim| claim_of(&old, &claim.target).is_none());
        for Claim { target, .. } in old.iter().chain(come) {
            let [had, has] = [&old, &new].map(|claims| claim_of(claims, target).map(|claim| claim.kind));
            let was = self.owners.get(target).cloned();
            match has {
                Some(_) => self.add(target, service, created, &created_of),
                None => self.remove(target, service),
            }
            let is = self.owners.get(target);
            let moved = is != was.as_ref() || (is == Some(service) && had != has);
            if let Some(all) = self.contested.get(target).filter(|_| moved) {
                touched.extend(all.iter().map(|(_, name)| name).filter(|name| *name != service).cloned());
            } else if moved {
                touched.extend(is.filter(|name| *name != service).cloned());
            }
        }
        touched
    }

    /// The owner of a target.
    pub(super) fn owner(&self, target: &Target) -> Option<&ServiceName> {
        self.owners.get(target)
    }

    fn add(
        &mut self,
        target: &Target,
        service: &ServiceName,
        created: Created,
        created_of: impl Fn(&ServiceName) -> Created,
    ) {
        let first = match (self.contested.get_mut(target), self.owners.get(target)) {
            (Some(all), _) => {
                all.retain(|(_, name)| name != service);
                all.insert((created, service.clone()));
                all.first()
            }
            (None, Some(owner)) if owner != service => {
                let both = [(created_of(owner), owner.clone()), (created, service.clone())];
                self.contested.entry(*target).insert_entry(both.into()).into_mut().first()
            }
            (None, Some(_)) => return,
            (None, None) => None,
        };
        let owner = first.map_or(service, |(_, name)| name).clone();
        self.owners.set(target, owner);
    }

    fn remove(&mut self, target: &Target, service: &ServiceName) {
        let Some(all) = self.contested.get_mut(target) else {
            return self.owners.remove(target);
        };
        all.retain(|(_, name)| name != service);
        if let Some((_, first)) = all.first() {
            self.owners.set(target, first.clone());
        }
        if all.len() == 1 {
            self.contested.remove(target);
        }
    }
}

/// Who owns what. There is one entry for nearly every Service, most of them of IPv4, so those are small.
#[derive(Clone, Debug, Default)]
struct Owners {
    v4: HashMap<(u32, u16, Protocol), ServiceName, RandomState>,
    v6: HashMap<(u128, u16, Protocol), ServiceName, RandomState>,
}

impl Owners {
    fn get(&self, Target { address, port, protocol }: &Target) -> Option<&ServiceName> {
        match *address {
            IpAddr::V4(address) => self.v4.get(&(address.into(), *port, *protocol)),
            IpAddr::V6(address) => self.v6.get(&(address.into(), *port, *protocol)),
        }
    }

    fn set(&mut self, Target { address, port, protocol }: &Target, owner: ServiceName) {
        match *address {
            IpAddr::V4(address) => drop(self.v4.insert((address.into(), *port, *protocol), owner)),
            IpAddr::V6(address) => drop(self.v6.insert((address.into(), *port, *protocol), owner)),
        }
    }

    fn remove(&mut self, Target { address, port, protocol }: &Target) {
        match *address {
            IpAddr::V4(address) => drop(self.v4.remove(&(address.into(), *port, *protocol))),
            IpAddr::V6(address) => drop(self.v6.remove(&(address.into(), *port, *protocol))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Claims as the planner makes them, with what it knows of the Services.
    #[derive(Default)]
    struct World {
        claims: Claims,
        services: BTreeMap<ServiceName, (Created, Vec<Claim>)>,
    }

    impl World {
        /// A Service is this old and wants these ports of one address; gives whom that touches.
        fn set(&mut self, service: &str, created: i64, wanted: &[(FrontendType, u16)]) -> Vec<String> {
            let claims = wanted.iter().map(|(kind, port)| Claim { target: target(*port), kind: *kind, port_index: 0 });
            let (created, claims) = (Created(Some(created)), claims.collect::<Vec<_>>());
            let old = self.services.insert(name(service), (created, claims.clone())).unwrap_or_default().1;
            let created_of = |name: &ServiceName| self.services[name].0;
            let touched = self.claims.replace(&name(service), created, [&old, &claims], created_of);
            touched.iter().map(|name| name.name().to_owned()).collect()
        }

        fn owner(&self, port: u16) -> Option<String> {
            self.claims.owner(&target(port)).map(|name| name.name().to_owned())
        }
    }

    fn target(port: u16) -> Target {
        Target { address: "192.0.2.1".parse().unwrap(), port, protocol: Protocol::Tcp }
    }

    fn name(service: &str) -> ServiceName {
        ServiceName::new("default", service)
    }

    #[test]
    fn only_contenders_are_touched() {
        let nobody: [&str; 0] = [];
        let external = |port| [(FrontendType::ExternalIp, port)];
        let mut world = World::default();
        assert_eq!(world.set("a", 2, &external(80)), nobody);
        assert_eq!(world.set("c", 1, &external(81)), nobody);
        assert_eq!(world.set("b", 1, &external(80)), ["a"]);
        assert_eq!(world.owner(80).as_deref(), Some("b"));
        assert_eq!(world.set("b", 1, &external(80)), nobody, "the same claims again change nothing");
        assert_eq!(world.set("c", 3, &external(80)), nobody, "one more loser changes nothing for others");
        assert_eq!(world.set("b", 1, &[(FrontendType::LoadBalancer, 80)]), ["a", "c"], "it has it as another kind");
        assert_eq!(world.set("c", 1, &external(81)), nobody);
        assert_eq!(world.set("b", 1, &[]), ["a"]);
        assert_eq!(world.owner(80).as_deref(), Some("a"));
        assert_eq!(world.set("a", 2, &[]), nobody);
        assert_eq!(world.owner(80), None);
        assert_eq!((world.claims.owners.v4.len(), world.claims.contested.len()), (1, 0));
    }

    #[test]
    fn who_gets_older_comes_first() {
        let external = [(FrontendType::ExternalIp, 80)];
        let mut world = World::default();
        world.set("a", 2, &external);
        assert_eq!(world.set("b", 3, &external), Vec::<String>::new());
        assert_eq!(world.set("b", 1, &external), ["a"]);
        assert_eq!(world.owner(80).as_deref(), Some("b"));
        assert_eq!(world.set("b", 2, &external), ["a"], "of equal age, the lesser name");
        assert_eq!(world.owner(80).as_deref(), Some("a"));
    }

    #[test]
    fn of_two_claims_of_one_service_the_first_counts() {
        let claims = [FrontendType::ClusterIp, FrontendType::ExternalIp].map(|kind| Claim {
            target: target(80),
            kind,
            port_index: 0,
        });
        assert_eq!(counting(&claims), claims[..1]);
    }
}
