//! The index: every object once, and the way from each to the Services it matters to.
//!
//! Synchronous and owned by one task. It never computes anything about traffic; it answers "what belongs to this
//! Service" in time proportional to the answer.

use std::{collections::hash_map::Entry, sync::Arc};

use foldhash::HashMap;

use super::{
    EndpointGroup, Endpoints, Kind, Node, Object, ObjectRef, Service, Shared,
    names::Numbers,
    packed_service::{SharedService, give_back_service, pack_service, unpack_service},
    record::{Piece, Put, Record},
    slice::{self, Packed, SharedSlice, SliceKey},
};
use crate::plan::state::ServiceName;

/// What a change of one object may have an effect on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Nothing: the object is equal to the one that was there, or matters to nobody.
    None,
    /// These Services: a slice that moves from one Service to another names both.
    Services(Vec<ServiceName>),
    /// A node of this name.
    Node(Arc<str>),
}

/// The head of a Service's own piece in its record.
const SERVICE: &[u8] = &[0];

/// All objects. Slices are known by namespace and name, so equal names in two namespaces stay apart.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Each Service and its slices; either may be missing. Slices of no Service are in that without a name, of their namespace.
    records: HashMap<ServiceName, Record>,
    /// Whose records hold the slices whose names do not tell.
    strays: HashMap<SliceKey, ServiceName>,
    endpoints: HashMap<ServiceName, Arc<Endpoints>>,
    nodes: HashMap<Arc<str>, Arc<Node>>,
    /// Of the names that records hold.
    numbers: Numbers,
    /// Where objects are packed on their way into records.
    piece: Piece,
    /// How often an object came, went, or changed.
    version: u64,
}

impl Index {
    /// Puts an object in, in place of the one with the same key.
    pub fn upsert(&mut self, object: Object) -> Change {
        let change = match object {
            Object::Service(service) => {
                self.piece.begin(|head| head.extend(SERVICE));
                pack_service(&service, &mut self.numbers, &mut self.piece.bytes);
                let Some(name) = self.put(service.name) else { return Change::None };
                Change::Services(vec![name])
            }
            Object::EndpointSlice(slice) => {
                let home = slice::home(&slice);
                slice::pack(&slice, home.name(), &mut self.numbers, &mut self.piece);
                let is_stray = slice::is_stray(&self.piece.bytes);
                let key = (slice.namespace, slice.name);
                // Where its name points to is where it will be, so it is nowhere else unless it is a stray now.
                let was = if is_stray || self.strays.contains_key(&key) { self.home_of(&key) } else { None };
                let moved = was.filter(|was| *was != home);
                let mut touched: Vec<ServiceName> = moved.iter().filter_map(|was| self.take_slice(was, &key)).collect();
                let Some(home) = self.put(home) else { return Change::None };
                if is_stray {
                    self.strays.insert(key, home.clone());
                }
                touched.push(home);
                Change::of(touched)
            }
            Object::Endpoints(endpoints) => {
                if self.endpoints.get(&endpoints.name).is_some_and(|old| **old == endpoints) {
                    return Change::None;
                }
                let name = self.kept_name(&endpoints.name);
                self.endpoints.insert(name.clone(), Arc::new(endpoints));
                Change::Services(vec![name])
            }
            Object::Node(node) => {
                let name = node.name.clone();
                if self.nodes.get(&name).is_some_and(|old| **old == node) {
                    return Change::None;
                }
                self.nodes.insert(name.clone(), Arc::new(node));
                Change::Node(name)
            }
        };
        self.version += 1;
        change
    }

    /// Takes an object out. One that is not there is no change.
    pub fn remove(&mut self, key: &ObjectRef) -> Change {
        let name = || ServiceName::new(&key.namespace, &key.name);
        let (known, change) = match key.kind {
            Kind::Service => {
                let gone = self.take(&name(), SERVICE);
                (gone.is_some(), Change::of(gone.into_iter().collect()))
            }
            Kind::EndpointSlice => {
                let slice = (key.namespace.clone(), key.name.clone());
                let home = self.home_of(&slice);
                let gone = home.and_then(|home| self.take_slice(&home, &slice));
                (gone.is_some(), Change::of(gone.into_iter().collect()))
            }
            Kind::Endpoints => {
                let gone = self.endpoints.remove(&name());
                (gone.is_some(), Change::of(gone.iter().map(|e| self.kept_name(&e.name)).collect()))
            }
            Kind::Node => {
                let gone = self.nodes.remove(&key.name);
                (gone.is_some(), gone.map_or(Change::None, |node| Change::Node(node.name.clone())))
            }
        };
        self.version += u64::from(known);
        change
    }

    /// Grows with each object that comes, goes, or changes; equal versions of one index hold equal objects.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// All objects, shared: what changes later does not change these. In no particular order.
    #[must_use]
    pub fn shared(&self) -> Vec<Shared> {
        let names = self.numbers.names();
        let mut all = Vec::with_capacity(2 * self.records.len() + self.endpoints.len() + self.nodes.len());
        for (home, record) in &self.records {
            all.extend(record.pieces().map(|piece| match Kept::of(piece) {
                Kept::Service(packed) => Shared::Service(SharedService::new(home.clone(), packed, names.clone())),
                Kept::Slice(packed) => {
                    Shared::EndpointSlice(SharedSlice::new(home.clone(), packed, piece, names.clone()))
                }
            }));
        }
        all.extend(self.endpoints.values().cloned().map(Shared::Endpoints));
        all.extend(self.nodes.values().cloned().map(Shared::Node));
        all
    }

    /// Keys of all objects, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = ObjectRef> {
        let own = |kind: Kind, n: &ServiceName| ObjectRef::new(kind, n.namespace(), n.name());
        let of_record = move |(home, record): (&ServiceName, &Record)| -> Vec<ObjectRef> {
            let key = |piece| match Kept::of(piece) {
                Kept::Service(_) => own(Kind::Service, home),
                Kept::Slice(packed) => ObjectRef::new(Kind::EndpointSlice, home.namespace(), packed.name(home.name())),
            };
            record.pieces().map(key).collect()
        };
        let endpoints = self.endpoints.keys().map(move |n| own(Kind::Endpoints, n));
        let nodes = self.nodes.keys().map(|n| ObjectRef::new(Kind::Node, "", n.clone()));
        self.records.iter().flat_map(of_record).chain(endpoints).chain(nodes)
    }

    /// A Service by name.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<Service> {
        let (name, record) = self.records.get_key_value(name)?;
        Some(unpack_service(name.clone(), record.get(SERVICE)?, self.numbers.as_names()))
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = Service> {
        let service = |(name, record): (&ServiceName, &Record)| {
            Some(unpack_service(name.clone(), record.get(SERVICE)?, self.numbers.as_names()))
        };
        self.records.iter().filter_map(service)
    }

    /// A Node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(Arc::as_ref)
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(Arc::as_ref)
    }

    /// Whether an Endpoints object stands for this Service: it is the Service's own way to say where it runs (no
    /// selector) and it is not excluded from mirroring.
    fn mirrored_endpoints(&self, service: &Service) -> Option<&Endpoints> {
        if service.has_selector {
            return None;
        }
        self.endpoints.get(&service.name).map(Arc::as_ref).filter(|e| !e.skip_mirror)
    }

    /// The endpoints of a Service, in an order that depends on names only. Slices that the mirroring controller wrote
    /// give way to the Endpoints object that they mirror, which is the newer of the two; all other slices count.
    #[must_use]
    pub fn groups(&self, service: &Service) -> Vec<EndpointGroup> {
        let endpoints = self.mirrored_endpoints(service);
        let mut groups: Vec<EndpointGroup> = Vec::new();
        for piece in self.records.get(&service.name).into_iter().flat_map(Record::pieces) {
            let Kept::Slice(slice) = Kept::of(piece) else { continue };
            let mirror_of_these = slice.is_mirrored() && endpoints.is_some();
            if !(slice.is_ignored() || mirror_of_these) {
                groups.push(slice.group(self.numbers.as_names()));
            }
        }
        groups.extend(endpoints.into_iter().flat_map(|e| e.groups.iter().cloned()));
        groups
    }

    /// The name as records have it, so that there is one copy in memory.
    fn kept_name(&self, name: &ServiceName) -> ServiceName {
        self.records.get_key_value(name).map_or(name, |(kept, _)| kept).clone()
    }

    /// Puts the piece that was packed last into a record; gives the record's name if that changed anything.
    fn put(&mut self, home: ServiceName) -> Option<ServiceName> {
        let mut record = match self.records.entry(home) {
            Entry::Occupied(there) => there,
            Entry::Vacant(free) => free.insert_entry(Record::default()),
        };
        match record.get_mut().put(&self.piece) {
            Put::Added => {}
            Put::Replaced(old) => Kept::of(&old).give_back(&mut self.numbers),
            Put::Equal => {
                Kept::of(&self.piece.bytes).give_back(&mut self.numbers);
                return None;
            }
        }
        Some(record.key().clone())
    }

    /// Takes the piece with this head out of a record; gives the record's name if there was one.
    fn take(&mut self, home: &ServiceName, head: &[u8]) -> Option<ServiceName> {
        let Entry::Occupied(mut record) = self.records.entry(home.clone()) else { return None };
        let piece = record.get_mut().remove(head)?;
        Kept::of(&piece).give_back(&mut self.numbers);
        let name = record.key().clone();
        if record.get().is_empty() {
            record.remove();
        }
        Some(name)
    }

    /// As [`Self::take`], of a slice that is in this record.
    fn take_slice(&mut self, home: &ServiceName, key: &SliceKey) -> Option<ServiceName> {
        self.strays.remove(key);
        self.take(home, &slice::head(home.name(), &key.1))
    }

    /// Whose record a slice is in, if there is one of this name.
    fn home_of(&self, key @ (namespace, name): &SliceKey) -> Option<ServiceName> {
        if let Some(home) = self.strays.get(key) {
            return Some(home.clone());
        }
        let (service, _) = slice::points_to(name)?;
        let home = ServiceName::new(namespace, service);
        self.records.get(&home)?.get(&slice::head(service, name))?;
        Some(home)
    }
}

impl Change {
    /// Slices of no Service matter to nobody.
    fn of(mut services: Vec<ServiceName>) -> Self {
        services.retain(|service| !service.name().is_empty());
        if services.is_empty() { Self::None } else { Self::Services(services) }
    }
}

/// What a piece of a record is.
enum Kept<'a> {
    Service(&'a [u8]),
    Slice(Packed<'a>),
}

impl<'a> Kept<'a> {
    fn of(piece: &'a [u8]) -> Self {
        piece.strip_prefix(SERVICE).map_or_else(|| Self::Slice(Packed::of(piece)), Self::Service)
    }

    /// Its names are no longer needed.
    fn give_back(self, numbers: &mut Numbers) {
        match self {
            Self::Service(packed) => give_back_service(packed, numbers),
            Self::Slice(packed) => packed.give_back(numbers),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::{Endpoint, EndpointSlice, SliceFamily};

    fn slice(name: &str, service: Option<&str>, endpoint: u8) -> Object {
        let endpoint =
            Endpoint { node_name: Some("n1".into()), ..Endpoint::new(Ipv4Addr::from([10, 0, 0, endpoint]).into()) };
        Object::EndpointSlice(EndpointSlice {
            namespace: "a".into(),
            name: name.into(),
            service: service.map(|service| ServiceName::new("a", service)),
            ignored: false,
            mirrored: false,
            family: SliceFamily::V4,
            triggered: None,
            group: EndpointGroup { ports: Vec::new(), endpoints: vec![endpoint] },
        })
    }

    fn service(name: &str) -> Service {
        Service::new(ServiceName::new("a", name), Vec::new())
    }

    /// The last bytes of a Service's endpoints.
    fn endpoints(index: &Index, name: &str) -> Vec<String> {
        let groups = index.groups(&service(name));
        groups.iter().flat_map(|group| &group.endpoints).map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn a_slice_is_in_one_place_whatever_it_is_called() {
        let names = |change| match change {
            Change::Services(names) => names.iter().map(|name| name.name().to_owned()).collect(),
            Change::None | Change::Node(_) => Vec::new(),
        };
        let mut index = Index::default();
        // Its name points to `web` throughout.
        for (to, touched) in [
            (Some("web"), &["web"][..]),
            (Some("db"), &["web", "db"]),
            (Some("api"), &["db", "api"]),
            (None, &["api"]),
            (Some("web"), &["web"]),
            (None, &["web"]),
            (Some("web"), &["web"]),
        ] {
            assert_eq!(names(index.upsert(slice("web-1", to, 1))), touched, "{to:?}");
            assert_eq!(names(index.upsert(slice("web-1", to, 1))), [""; 0], "the same again");
            for other in ["web", "db", "api"] {
                assert_eq!(endpoints(&index, other).len(), usize::from(to == Some(other)), "{other} of {to:?}");
            }
            let key = ObjectRef::new(Kind::EndpointSlice, "a", "web-1");
            assert_eq!(index.keys().collect::<Vec<_>>(), [key]);
        }
        assert!(index.strays.is_empty());
        index.remove(&ObjectRef::new(Kind::EndpointSlice, "a", "web-1"));
        assert!(index.records.is_empty() && index.numbers.is_empty());
    }

    #[test]
    fn a_service_and_its_slices_have_one_copy_of_its_name() {
        let mut index = Index::default();
        let Change::Services(first) = index.upsert(slice("web-1", Some("web"), 1)) else { panic!("a change") };
        let Change::Services(second) = index.upsert(Object::Service(service("web"))) else { panic!("a change") };
        assert_eq!(first[0].name().as_ptr(), second[0].name().as_ptr());
        let kept = index.service(&service("web").name).unwrap().name;
        assert_eq!(first[0].name().as_ptr(), kept.name().as_ptr());
    }
}
