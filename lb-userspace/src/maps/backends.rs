//! The backends of one service port that have an id, by endpoint, in as few bytes as can be: there are more of them than of
//! anything else. Knows no map and hands out no id.

use std::sync::Arc;

use lb_common::abi::{Addr, Backend, Port};

use super::generations::Generations;

/// Address and port of an endpoint.
pub(super) type Endpoint = (Addr, Port);

/// What a backend's value has that stands elsewhere in the books.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whose<'a> {
    /// Identity of the port.
    pub(super) service: u64,
    pub(super) generations: &'a Generations,
}

/// The bytes of an address of one family.
trait Octets: Copy + Ord {
    fn of(addr: Addr) -> Self;
    fn addr(self) -> Addr;
}

impl Octets for [u8; 4] {
    fn of(addr: Addr) -> Self {
        addr.v4_octets()
    }

    fn addr(self) -> Addr {
        Addr::v4(self)
    }
}

impl Octets for [u8; 16] {
    fn of(addr: Addr) -> Self {
        addr.octets()
    }

    fn addr(self) -> Addr {
        Addr::v6(self)
    }
}

/// A backend that has an id, as it stands in the map, but for what [`Whose`] has.
#[derive(Clone, Copy, Debug)]
struct Live<A> {
    addr: A,
    id: u32,
    /// Position in [`Backends::zones`] from 1; 0: none.
    zone: u32,
    port: u16,
    weight: u16,
    proto: u8,
    state: u8,
    flags: u8,
}

impl<A: Octets> Live<A> {
    fn new(id: u32, zone: u32, value: &Backend) -> Self {
        let Backend { addr, port, weight, proto, state, flags, .. } = *value;
        Self { addr: A::of(addr), id, zone, port: port.get(), weight, proto, state, flags }
    }

    fn value(&self, Whose { service, generations }: Whose<'_>) -> Backend {
        let Self { addr, id, port, weight, proto, state, flags, .. } = *self;
        let mut value = Backend::new(addr.addr(), Port::new(port), proto, service);
        (value.generation, value.weight, value.state, value.flags) = (generations.of(id), weight, state, flags);
        value
    }

    const fn endpoint(&self) -> (A, u16) {
        (self.addr, self.port)
    }
}

/// Sorted by endpoint, IPv4 before IPv6: most ports have few, and a plan lists them in this order. A hash table for each
/// port would take several times the memory.
#[derive(Debug, Default)]
pub(super) struct Backends {
    v4: Vec<Live<[u8; 4]>>,
    v6: Vec<Live<[u8; 16]>>,
    /// Each zone once; some may have no backend any more.
    zones: Vec<Arc<str>>,
}

fn search<A: Octets>(list: &[Live<A>], (addr, port): Endpoint) -> Result<usize, usize> {
    let wanted = (A::of(addr), port.get());
    match list.last() {
        // What comes in order is put at the end.
        Some(last) if last.endpoint() < wanted => Err(list.len()),
        Some(_) | None => list.binary_search_by_key(&wanted, Live::endpoint),
    }
}

/// Puts a backend in; gives id and value of the one whose place it takes.
fn put<A: Octets>(
    list: &mut Vec<Live<A>>,
    (id, zone, value): (u32, u32, &Backend),
    whose: Whose<'_>,
) -> Option<(u32, Backend)> {
    let live = Live::new(id, zone, value);
    match search(list, (value.addr, value.port)) {
        Ok(at) => {
            let old = std::mem::replace(&mut list[at], live);
            Some((old.id, old.value(whose)))
        }
        Err(at) => {
            list.insert(at, live);
            None
        }
    }
}

fn take<A: Octets>(list: &mut Vec<Live<A>>, endpoint: Endpoint) {
    if let Ok(at) = search(list, endpoint) {
        list.remove(at);
    }
}

impl Backends {
    /// Position of an endpoint, good until the next [`Self::insert`] or [`Self::remove`].
    pub(super) fn find(&self, endpoint: Endpoint) -> Option<usize> {
        if endpoint.0.is_v4() {
            search(&self.v4, endpoint).ok()
        } else {
            search(&self.v6, endpoint).ok().map(|at| self.v4.len() + at)
        }
    }

    /// Id of the backend at a position.
    pub(super) fn id(&self, at: usize) -> u32 {
        self.v4.get(at).map_or_else(|| self.v6[at - self.v4.len()].id, |live| live.id)
    }

    /// The backend at a position as it stands in the map.
    pub(super) fn value(&self, at: usize, whose: Whose<'_>) -> Backend {
        self.v4.get(at).map_or_else(|| self.v6[at - self.v4.len()].value(whose), |live| live.value(whose))
    }

    fn zone_at(&mut self, at: usize) -> &mut u32 {
        let v4 = self.v4.len();
        if at < v4 { &mut self.v4[at].zone } else { &mut self.v6[at - v4].zone }
    }

    /// Notes that the backend of `value`'s endpoint stands in the map like this by now.
    pub(super) fn update(&mut self, value: &Backend) {
        let Some(at) = self.find((value.addr, value.port)) else { return };
        if let Some(live) = self.v4.get_mut(at) {
            *live = Live::new(live.id, live.zone, value);
        } else {
            let live = &mut self.v6[at - self.v4.len()];
            *live = Live::new(live.id, live.zone, value);
        }
    }

    pub(super) fn set_zone(&mut self, at: usize, zone: Option<&Arc<str>>) {
        let number = self.zone_number(zone);
        *self.zone_at(at) = number;
    }

    fn zone_number(&mut self, zone: Option<&Arc<str>>) -> u32 {
        let Some(zone) = zone else { return 0 };
        if let Some(at) = self.zones.iter().position(|known| known == zone) {
            return number(at);
        }
        if self.zones.len() > 2 * self.len() + 8 {
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
        for at in 0..self.len() {
            let zone = zone_of(&old, *self.zone_at(at)).cloned();
            let known = zone.as_ref().and_then(|zone| self.zones.iter().position(|known| known == zone));
            *self.zone_at(at) = match (zone, known) {
                (None, _) => 0,
                (Some(_), Some(known)) => number(known),
                (Some(zone), None) => {
                    self.zones.push(zone);
                    number(self.zones.len() - 1)
                }
            };
        }
    }

    /// Makes room for so many more IPv4 and IPv6 ones.
    pub(super) fn reserve(&mut self, v4: usize, v6: usize) {
        self.v4.reserve_exact(v4);
        self.v6.reserve_exact(v6);
    }

    /// Puts a backend in, in place of the one with the same endpoint, whose id and value it gives.
    pub(super) fn insert(
        &mut self,
        id: u32,
        value: &Backend,
        zone: Option<&Arc<str>>,
        generations: &Generations,
    ) -> Option<(u32, Backend)> {
        let zone = self.zone_number(zone);
        let whose = Whose { service: value.service, generations };
        if value.addr.is_v4() {
            put(&mut self.v4, (id, zone, value), whose)
        } else {
            put(&mut self.v6, (id, zone, value), whose)
        }
    }

    pub(super) fn remove(&mut self, endpoint: Endpoint) {
        if endpoint.0.is_v4() { take(&mut self.v4, endpoint) } else { take(&mut self.v6, endpoint) }
    }

    /// Ids, values and zones of all, in order of endpoint.
    pub(super) fn iter<'a>(&'a self, whose: Whose<'a>) -> impl Iterator<Item = (u32, Backend, Option<&'a Arc<str>>)> {
        let v4 = self.v4.iter().map(move |live| (live.id, live.value(whose), live.zone));
        let v6 = self.v6.iter().map(move |live| (live.id, live.value(whose), live.zone));
        v4.chain(v6).map(|(id, value, zone)| (id, value, zone_of(&self.zones, zone)))
    }

    pub(super) const fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len() == 0
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

    /// Generations of ids 1 to 19, each ten times the id.
    fn generations() -> Generations {
        let mut generations = Generations::default();
        (1..20).for_each(|id| generations.set(id, 10 * id));
        generations
    }

    fn value(addr: Addr, port: u16, id: u32) -> Backend {
        let mut value = Backend::new(addr, Port::new(port), 6, SERVICE);
        value.generation = 10 * id;
        value
    }

    fn v4(last: u8) -> Addr {
        Addr::v4([10, 0, 0, last])
    }

    fn v6(first: u8) -> Addr {
        Addr::v6([first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    }

    fn ids(backends: &Backends) -> Vec<u32> {
        backends.iter(Whose { service: SERVICE, generations: &generations() }).map(|(id, ..)| id).collect()
    }

    #[test]
    fn each_endpoint_is_there_once_whatever_the_order() {
        let generations = generations();
        let whose = Whose { service: SERVICE, generations: &generations };
        let mut backends = Backends::default();
        let all = [
            (v4(2), 80, 1),
            (v6(0xfd), 80, 9),
            (v4(9), 80, 2),
            (v4(1), 80, 3),
            // Before any IPv4 address, by its octets.
            (v6(0), 80, 8),
            (v4(2), 79, 4),
            (v4(2), 8080, 5),
        ];
        for (addr, port, id) in all {
            assert!(backends.insert(id, &value(addr, port, id), None, &generations).is_none());
        }
        assert_eq!(ids(&backends), [3, 4, 1, 5, 2, 8, 9]);
        for (addr, port, id) in all {
            let at = backends.find((addr, Port::new(port))).unwrap();
            assert_eq!((backends.id(at), backends.value(at, whose)), (id, value(addr, port, id)));
        }
        for (addr, old, new) in [(v4(2), 1, 6), (v6(0xfd), 9, 7)] {
            let mut changed = value(addr, 80, new);
            (changed.weight, changed.state, changed.flags, changed.proto) = (3, 1, 1, 17);
            assert_eq!(backends.insert(new, &changed, None, &generations), Some((old, value(addr, 80, old))));
            let place = backends.find((addr, Port::new(80))).unwrap();
            assert_eq!((backends.id(place), backends.value(place, whose)), (new, changed));
            backends.update(&value(addr, 80, new));
            assert_eq!((backends.id(place), backends.value(place, whose)), (new, value(addr, 80, new)));
        }
        assert!(backends.find((v4(3), Port::new(80))).is_none() && backends.find((v6(200), Port::new(1))).is_none());
        for _twice in 0..2 {
            backends.remove((v4(1), Port::new(80)));
            backends.remove((v6(0), Port::new(80)));
        }
        assert_eq!(ids(&backends), [4, 6, 5, 2, 7]);
        assert_eq!((backends.len(), backends.is_empty()), (5, false));
    }

    #[test]
    fn zones_are_kept_for_as_long_as_somebody_is_there() {
        let generations = generations();
        let whose = Whose { service: SERVICE, generations: &generations };
        let mut backends = Backends::default();
        let zone = |n: u32| -> Arc<str> { format!("zone{n}").into() };
        backends.insert(1, &value(v4(1), 80, 1), Some(&zone(1)), &generations);
        backends.insert(2, &value(v6(2), 80, 2), None, &generations);
        for n in 0..1000 {
            backends.set_zone(1, Some(&zone(n)));
            let zones: Vec<_> = backends.iter(whose).map(|(.., zone)| zone.cloned()).collect();
            assert_eq!(zones, [Some(zone(1)), Some(zone(n))]);
        }
        assert!(backends.zones.len() < 20, "{}", backends.zones.len());
        backends.set_zone(0, None);
        assert!(backends.iter(whose).next().is_some_and(|(.., zone)| zone.is_none()));
    }

    #[test]
    fn an_ipv4_backend_takes_few_bytes() {
        assert_eq!((size_of::<Live<[u8; 4]>>(), size_of::<Live<[u8; 16]>>()), (20, 32));
    }
}
