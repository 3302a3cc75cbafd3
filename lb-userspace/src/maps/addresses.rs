//! What destination addresses are to the datapath (`addrs`): of this node, of a frontend, or both. An address is in the
//! map before the first frontend at it and until after the last, as the datapath looks no further at any other.
//!
//! Three sides decide the bits of an address and none knows of the others: the agent's view of the links
//! ([`addr_flag::LINKS`]), the other nodes ([`addr_flag::PEER`]), and the frontends that are in the map.

use std::net::IpAddr;

use foldhash::{HashMap, HashSet};
use lb_common::abi::{Addr, AddrInfo, ServiceKey, ServiceRef, addr_flag, frontend};

use super::{
    error::Part,
    jobs::Job,
    store::{MapStore, StoreError, write_each},
    table::Tables,
};
use crate::plan::state::ServiceName;

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Its bits in the map; 0: it is not there.
    written: u32,
    /// Frontends at it.
    frontends: u32,
    /// Those of clusterIPs.
    cluster_ips: u32,
}

/// The addresses as they are in the map, and as they should be.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Those in the map, and those with frontends.
    known: HashMap<Addr, Known>,
    /// How many are in the map.
    entries: usize,
    links: HashMap<Addr, u32>,
    /// Those of other nodes.
    peers: HashSet<Addr>,
    /// Addresses that may differ, with the Service on whose account they do: it has a problem for as long.
    stale: HashMap<Addr, Option<ServiceName>>,
    /// The links' addresses changed, and not all of that is in the map.
    links_changed: bool,
}

/// The address of a frontend that has one of its own, and the bits that it asks for.
fn bits_of(key: &ServiceKey, reference: ServiceRef) -> Option<(Addr, u32)> {
    match reference.bits() & frontend::TYPE_MASK {
        frontend::NODE_PORT => None,
        frontend::CLUSTER_IP => Some((key.addr, addr_flag::FRONTEND | addr_flag::CLUSTER_IP)),
        _ => Some((key.addr, addr_flag::FRONTEND)),
    }
}

impl Addresses {
    /// Entries in the map.
    pub(super) const fn len(&self) -> usize {
        self.entries
    }

    /// Notes the bits of an address in the map; 0: it is not there.
    fn set_written(&mut self, addr: Addr, bits: u32) {
        let known = self.known.entry(addr).or_default();
        self.entries += usize::from(bits != 0);
        self.entries -= usize::from(known.written != 0);
        known.written = bits;
        self.forget_unused(addr);
    }

    fn forget_unused(&mut self, addr: Addr) {
        if self.known.get(&addr).is_some_and(|known| known.written == 0 && known.frontends == 0) {
            self.known.remove(&addr);
        }
    }

    fn written(&self, addr: &Addr) -> u32 {
        self.known.get(addr).map_or(0, |known| known.written)
    }

    /// The node's own addresses but the implied ones, in no order.
    pub(super) fn own(&self) -> impl Iterator<Item = Addr> {
        self.links.iter().filter(|(_, flags)| **flags & addr_flag::IMPLIED == 0).map(|(addr, _)| *addr)
    }

    /// A frontend is in the map.
    pub(super) fn add(&mut self, key: &ServiceKey, reference: ServiceRef) {
        if let Some((addr, bits)) = bits_of(key, reference) {
            let known = self.known.entry(addr).or_default();
            known.frontends += 1;
            known.cluster_ips += u32::from(bits & addr_flag::CLUSTER_IP != 0);
        }
    }

    /// A frontend is no longer in the map.
    pub(super) fn remove(&mut self, key: &ServiceKey, reference: ServiceRef, service: Option<&ServiceName>) {
        if let Some((addr, bits)) = bits_of(key, reference)
            && let Some(known) = self.known.get_mut(&addr)
        {
            known.frontends -= 1;
            known.cluster_ips -= u32::from(bits & addr_flag::CLUSTER_IP != 0);
            self.forget_unused(addr);
            self.stale.insert(addr, service.cloned());
        }
    }

    fn wanted(&self, addr: &Addr) -> u32 {
        let Known { frontends, cluster_ips, .. } = self.known.get(addr).copied().unwrap_or_default();
        let bit = |count: u32, bit: u32| if count > 0 { bit } else { 0 };
        let links = self.links.get(addr).copied().unwrap_or(0);
        // What the node has itself is nobody else's.
        let peer = links == 0 && self.peers.contains(addr);
        links
            | bit(peer.into(), addr_flag::PEER)
            | bit(frontends, addr_flag::FRONTEND)
            | bit(cluster_ips, addr_flag::CLUSTER_IP)
    }

    /// Addresses whose bits in the map are not the wanted ones: the bits that were found, and those.
    pub(super) fn differing(&self, found: &HashMap<Addr, u32>) -> Vec<(Addr, u32, u32)> {
        let known = self.known.keys().chain(self.links.keys()).chain(&self.peers);
        let all: HashSet<&Addr> = found.keys().chain(known).collect();
        let both = all.into_iter().map(|addr| (*addr, found.get(addr).copied().unwrap_or(0), self.wanted(addr)));
        both.filter(|(_, found, wanted)| found != wanted).collect()
    }

    /// Adds the bits that frontends need which are to be written, each with its job and Service. Gives the addresses
    /// that could not be written, once for each job.
    pub(super) fn announce<'a>(
        &mut self,
        store: &mut impl MapStore,
        wanted: impl Iterator<Item = (usize, &'a ServiceName, &'a ServiceKey, ServiceRef)>,
    ) -> Vec<(usize, Addr, StoreError)> {
        let mut needed: Vec<(usize, Addr)> = Vec::new();
        let mut together: HashMap<Addr, u32> = HashMap::default();
        for (job, service, key, reference) in wanted {
            let Some((addr, bits)) = bits_of(key, reference) else { continue };
            let written = self.written(&addr);
            if written & bits == bits {
                continue;
            }
            *together.entry(addr).or_insert(written) |= bits;
            needed.push((job, addr));
            // Until the frontend itself is in the map, nothing keeps these bits there.
            self.stale.insert(addr, Some(service.clone()));
        }
        needed.sort_unstable_by_key(|(job, addr)| (*job, addr.octets()));
        needed.dedup();
        let items: Vec<(Addr, AddrInfo)> =
            needed.iter().map(|(_, addr)| (*addr, AddrInfo { flags: together[addr] })).collect();
        let mut failed: HashMap<usize, StoreError> =
            write_each(&items, |items| store.put_addrs(items)).into_iter().collect();
        let mut refused = Vec::new();
        for (at, ((job, _), (addr, info))) in needed.into_iter().zip(items).enumerate() {
            match failed.remove(&at) {
                Some(error) => refused.push((job, addr, error)),
                None => self.set_written(addr, info.flags),
            }
        }
        refused
    }

    /// Brings the addresses that may differ to what is wanted; gives those that still differ.
    fn settle(&mut self, store: &mut impl MapStore) -> Vec<(Addr, StoreError)> {
        let mut puts: Vec<(Addr, AddrInfo)> = Vec::new();
        let mut deletes: Vec<Addr> = Vec::new();
        for addr in self.stale.keys() {
            match (self.wanted(addr), self.written(addr)) {
                (wanted, written) if wanted == written => {}
                (0, _) => deletes.push(*addr),
                (flags, _) => puts.push((*addr, AddrInfo { flags })),
            }
        }
        // First those that go: they make room.
        let mut failed: HashMap<Addr, StoreError> = write_each(&deletes, |addrs| store.delete_addrs(addrs))
            .into_iter()
            .map(|(at, e)| (deletes[at], e))
            .collect();
        failed.extend(write_each(&puts, |items| store.put_addrs(items)).into_iter().map(|(at, e)| (puts[at].0, e)));
        for addr in deletes.iter().filter(|addr| !failed.contains_key(addr)) {
            self.set_written(*addr, 0);
        }
        for (addr, info) in puts.iter().filter(|(addr, _)| !failed.contains_key(addr)) {
            self.set_written(*addr, info.flags);
        }
        self.stale.retain(|addr, _| failed.contains_key(addr));
        failed.into_iter().collect()
    }
}

impl<S: MapStore> Tables<S> {
    /// Makes these the addresses of the node: `named` are those that node ports listen on, `implied` those as well though
    /// nobody named them (loopback addresses: the state document does not list them, and they give the node itself no
    /// right of entry by source ranges), `sources` those that translated packets bear. Gives whether they changed: Services with source ranges are then to be applied again, as
    /// the node's own right of entry follows from them.
    ///
    /// # Errors
    /// At a write that fails; the others are done, and calling again goes on.
    pub fn set_link_addresses(
        &mut self,
        named: &[IpAddr],
        implied: &[IpAddr],
        sources: &[IpAddr],
    ) -> Result<bool, StoreError> {
        let mut wanted: HashMap<Addr, u32> = HashMap::default();
        let named = named.iter().map(|ip| (ip, 0));
        // An address that is both is a named one.
        for (ip, implied) in implied.iter().map(|ip| (ip, addr_flag::IMPLIED)).chain(named) {
            let loopback = if ip.is_loopback() { addr_flag::LOOPBACK } else { 0 };
            wanted.insert((*ip).into(), addr_flag::NODE | loopback | implied);
        }
        for ip in sources {
            *wanted.entry((*ip).into()).or_default() |= addr_flag::SOURCE;
        }
        let addresses = &mut self.addresses;
        if addresses.links != wanted {
            for addr in addresses.links.keys().chain(wanted.keys()) {
                if addresses.links.get(addr) != wanted.get(addr) {
                    addresses.stale.insert(*addr, None);
                }
            }
            addresses.links = wanted;
            addresses.links_changed = true;
        }
        if !addresses.links_changed {
            return Ok(false);
        }
        self.settle_unowned_addresses()?;
        self.addresses.links_changed = false;
        Ok(true)
    }

    /// Makes these the addresses of other nodes, whose agents may hand packets over to this one.
    ///
    /// # Errors
    /// As [`Self::set_link_addresses`].
    pub fn set_peer_addresses(&mut self, peers: &[IpAddr]) -> Result<(), StoreError> {
        let peers: HashSet<Addr> = peers.iter().map(|ip| (*ip).into()).collect();
        let addresses = &mut self.addresses;
        if addresses.peers != peers {
            let changed = addresses.peers.symmetric_difference(&peers);
            addresses.stale.extend(changed.map(|addr| (*addr, None)));
            addresses.peers = peers;
        }
        if addresses.stale.is_empty() { Ok(()) } else { self.settle_unowned_addresses() }
    }

    /// Lets go of addresses that have no frontend any more. What fails is a problem of the Service whose frontend it was.
    pub(super) fn settle_addresses(&mut self, jobs: &mut [Job]) {
        for (addr, error) in self.addresses.settle(&mut self.store) {
            let cause = self.cause(error);
            let owner = self.addresses.stale.get(&addr).and_then(Option::as_ref);
            if let Some(job) = jobs.iter_mut().find(|job| Some(&job.service) == owner) {
                job.problem(Part::Address(addr), cause);
            }
        }
    }

    /// Settles all addresses; an error is the first that concerns no Service.
    pub(super) fn settle_unowned_addresses(&mut self) -> Result<(), StoreError> {
        let failed = self.addresses.settle(&mut self.store);
        let unowned = |addr: &Addr| self.addresses.stale.get(addr).is_some_and(Option::is_none);
        failed.into_iter().find(|(addr, _)| unowned(addr)).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Reads the addresses back, and repairs what does not fit the frontends. The links' part stays until
    /// [`Tables::set_link_addresses`].
    pub(super) fn adopt_addresses(&mut self) -> Result<(), StoreError> {
        let found = self.store.addrs()?;
        let addresses = &mut self.addresses;
        found.iter().for_each(|(addr, info)| addresses.set_written(*addr, info.flags));
        addresses.peers =
            found.iter().filter(|(_, info)| info.flags & addr_flag::PEER != 0).map(|(addr, _)| *addr).collect();
        let links = found.into_iter().map(|(addr, info)| (addr, info.flags & addr_flag::LINKS));
        addresses.links = links.filter(|(_, flags)| *flags != 0).collect();
        let all: Vec<Addr> = addresses.known.keys().copied().collect();
        addresses.stale = all.into_iter().map(|addr| (addr, None)).collect();
        self.settle_unowned_addresses()
    }
}
