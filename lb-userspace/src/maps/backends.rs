//! The backends of one service port that have an id, by endpoint. Knows no map and hands out no id.

use std::sync::Arc;

use lb_common::abi::{Addr, Backend, Port};

/// Address and port of an endpoint.
pub(super) type Endpoint = (Addr, Port);

/// A backend that has an id, as it stands in the map, without what its port has once.
#[derive(Clone, Copy, Debug)]
struct Live {
    addr: Addr,
    id: u32,
    generation: u32,
    /// Position in [`Backends::zones`] from 1; 0: none.
    zone: u32,
    port: Port,
    weight: u16,
    proto: u8,
    state: u8,
    flags: u8,
}

impl Live {
    fn new(id: u32, zone: u32, value: &Backend) -> Self {
        let Backend { addr, generation, port, weight, proto, state, flags, .. } = *value;
        Self { addr, id, generation, zone, port, weight, proto, state, flags }
    }

    fn value(&self, service: u64) -> Backend {
        let Self { addr, generation, port, weight, proto, state, flags, .. } = *self;
        let mut value = Backend::new(addr, port, proto, service);
        (value.generation, value.weight, value.state, value.flags) = (generation, weight, state, flags);
        value
    }

    fn order(&self) -> ([u8; 16], u16) {
        order((self.addr, self.port))
    }
}

/// Sorted by endpoint: most ports have few, and a plan lists them in this order. A hash table for each port would take
/// several times the memory.
#[derive(Debug, Default)]
pub(super) struct Backends {
    live: Vec<Live>,
    /// Each zone once; some may have no backend any more.
    zones: Vec<Arc<str>>,
}

fn order((addr, port): Endpoint) -> ([u8; 16], u16) {
    (addr.octets(), port.get())
}

impl Backends {
    fn search(&self, endpoint: Endpoint) -> Result<usize, usize> {
        let wanted = order(endpoint);
        match self.live.last() {
            // What comes in order is put at the end.
            Some(last) if last.order() < wanted => Err(self.live.len()),
            Some(_) | None => self.live.binary_search_by_key(&wanted, Live::order),
        }
    }

    /// Position of an endpoint, good until the next [`Self::insert`] or [`Self::remove`].
    pub(super) fn find(&self, endpoint: Endpoint) -> Option<usize> {
        self.search(endpoint).ok()
    }

    /// Id of the backend at a position.
    pub(super) fn id(&self, at: usize) -> u32 {
        self.live[at].id
    }

    /// The backend at a position as it stands in the map; `service` is the identity of the port.
    pub(super) fn value(&self, at: usize, service: u64) -> Backend {
        self.live[at].value(service)
    }

    /// Notes that the backend of `value`'s endpoint stands in the map like this by now.
    pub(super) fn update(&mut self, value: &Backend) {
        if let Some(at) = self.find((value.addr, value.port)) {
            let Live { id, zone, .. } = self.live[at];
            self.live[at] = Live::new(id, zone, value);
        }
    }

    pub(super) fn set_zone(&mut self, at: usize, zone: Option<&Arc<str>>) {
        self.live[at].zone = self.zone_number(zone);
    }

    fn zone_number(&mut self, zone: Option<&Arc<str>>) -> u32 {
        let Some(zone) = zone else { return 0 };
        if let Some(at) = self.zones.iter().position(|known| known == zone) {
            return number(at);
        }
        if self.zones.len() > 2 * self.live.len() + 8 {
            self.forget_zones();
        }
        // Most ports have endpoints in one zone.
        self.zones.reserve_exact(if self.zones.is_empty() { 1 } else { 0 });
        self.zones.push(Arc::clone(zone));
        number(self.zones.len() - 1)
    }

    /// Forgets zones that have no backend any more.
    fn forget_zones(&mut self) {
        let old = std::mem::take(&mut self.zones);
        for at in 0..self.live.len() {
            let zone = zone_of(&old, self.live[at].zone).cloned();
            let known = zone.as_ref().and_then(|zone| self.zones.iter().position(|known| known == zone));
            self.live[at].zone = match (zone, known) {
                (None, _) => 0,
                (Some(_), Some(known)) => number(known),
                (Some(zone), None) => {
                    self.zones.push(zone);
                    number(self.zones.len() - 1)
                }
            };
        }
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize) {
        self.live.reserve_exact(more);
    }

    /// Puts a backend in, in place of the one with the same endpoint, whose id and value it gives.
    pub(super) fn insert(&mut self, id: u32, value: &Backend, zone: Option<&Arc<str>>) -> Option<(u32, Backend)> {
        let live = Live::new(id, self.zone_number(zone), value);
        match self.search((value.addr, value.port)) {
            Ok(at) => {
                let old = std::mem::replace(&mut self.live[at], live);
                Some((old.id, old.value(value.service)))
            }
            Err(at) => {
                self.live.insert(at, live);
                None
            }
        }
    }

    pub(super) fn remove(&mut self, endpoint: Endpoint) {
        if let Ok(at) = self.search(endpoint) {
            self.live.remove(at);
        }
    }

    /// Ids, values and zones of all, in order of endpoint; `service` is the identity of the port.
    pub(super) fn iter(&self, service: u64) -> impl Iterator<Item = (u32, Backend, Option<&Arc<str>>)> {
        self.live.iter().map(move |live| (live.id, live.value(service), zone_of(&self.zones, live.zone)))
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at + 1).expect("not more zones than twice the backends of a map")
}

fn zone_of(zones: &[Arc<str>], number: u32) -> Option<&Arc<str>> {
    zones.get((number as usize).checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: u64 = 7;

    fn value(last: u8, port: u16) -> Backend {
        Backend::new(Addr::v4([10, 0, 0, last]), Port::new(port), 6, SERVICE)
    }

    fn ids(backends: &Backends) -> Vec<u32> {
        backends.iter(SERVICE).map(|(id, ..)| id).collect()
    }

    #[test]
    fn each_endpoint_is_there_once_whatever_the_order() {
        let mut backends = Backends::default();
        for (last, port, id) in [(2, 80, 1), (9, 80, 2), (1, 80, 3), (2, 79, 4), (2, 8080, 5)] {
            assert!(backends.insert(id, &value(last, port), None).is_none());
        }
        assert_eq!(ids(&backends), [3, 4, 1, 5, 2]);
        let mut changed = value(2, 80);
        (changed.generation, changed.weight, changed.state, changed.flags) = (9, 3, 1, 1);
        assert_eq!(backends.insert(6, &changed, None), Some((1, value(2, 80))));
        let at = |last, port| (Addr::v4([10, 0, 0, last]), Port::new(port));
        let place = backends.find(at(2, 80)).unwrap();
        assert_eq!((backends.id(place), backends.value(place, SERVICE)), (6, changed));
        assert!(backends.find(at(3, 80)).is_none() && backends.find(at(200, 1)).is_none());
        backends.update(&value(2, 80));
        assert_eq!((backends.id(place), backends.value(place, SERVICE)), (6, value(2, 80)));
        backends.remove(at(1, 80));
        backends.remove(at(1, 80));
        assert_eq!(ids(&backends), [4, 6, 5, 2]);
    }

    #[test]
    fn zones_are_kept_for_as_long_as_somebody_is_there() {
        let mut backends = Backends::default();
        let zone = |n: u32| -> Arc<str> { format!("zone{n}").into() };
        backends.insert(1, &value(1, 80), Some(&zone(1)));
        backends.insert(2, &value(2, 80), None);
        for n in 0..1000 {
            backends.set_zone(1, Some(&zone(n)));
            let zones: Vec<_> = backends.iter(SERVICE).map(|(.., zone)| zone.cloned()).collect();
            assert_eq!(zones, [Some(zone(1)), Some(zone(n))]);
        }
        assert!(backends.zones.len() < 20, "{}", backends.zones.len());
        backends.set_zone(0, None);
        assert!(backends.iter(SERVICE).next().is_some_and(|(.., zone)| zone.is_none()));
    }
}
