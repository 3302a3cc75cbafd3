//! The index: every object once, and the way from each to the Services it matters to.
//!
//! Synchronous and owned by one task. It never computes anything about traffic; it answers "what belongs to this
//! Service" in time proportional to the answer.

use std::sync::Arc;

use foldhash::HashMap;

use super::{
    EndpointGroup, Endpoints, Kind, Node, Object, ObjectRef, Service, Shared,
    names::Numbers,
    slice::{SharedSlice, Slice, SliceKey},
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

/// All objects. Slices are kept by namespace and name, so equal names in two namespaces stay apart.
#[derive(Clone, Debug, Default)]
pub struct Index {
    services: HashMap<ServiceName, Arc<Service>>,
    slices: HashMap<SliceKey, Arc<Slice>>,
    /// Sorted; nearly always one.
    slices_of: HashMap<ServiceName, Vec<SliceKey>>,
    endpoints: HashMap<ServiceName, Arc<Endpoints>>,
    nodes: HashMap<Arc<str>, Arc<Node>>,
    /// Of the names that endpoints hold.
    numbers: Numbers,
    /// How often an object came, went, or changed.
    version: u64,
}

impl Index {
    /// Puts an object in, in place of the one with the same key.
    pub fn upsert(&mut self, object: Object) -> Change {
        let change = match object {
            Object::Service(service) => {
                let name = service.name.clone();
                if self.services.get(&name).is_some_and(|old| **old == service) {
                    return Change::None;
                }
                self.services.insert(name.clone(), Arc::new(service));
                Change::Services(vec![name])
            }
            Object::EndpointSlice(slice) => {
                let (key, slice) = Slice::pack(slice, &mut self.numbers);
                if self.slices.get(&key).is_some_and(|old| **old == slice) {
                    slice.give_back(&mut self.numbers);
                    return Change::None;
                }
                let mut touched = self.unlink(&key);
                if let Some(service) = &slice.service {
                    let slices = self.slices_of.entry(service.clone()).or_insert_with(|| Vec::with_capacity(1));
                    if let Err(at) = slices.binary_search(&key) {
                        slices.insert(at, key.clone());
                    }
                    if !touched.contains(service) {
                        touched.push(service.clone());
                    }
                }
                if let Some(old) = self.slices.insert(key, Arc::new(slice)) {
                    old.give_back(&mut self.numbers);
                }
                Change::of(touched)
            }
            Object::Endpoints(endpoints) => {
                let name = endpoints.name.clone();
                if self.endpoints.get(&name).is_some_and(|old| **old == endpoints) {
                    return Change::None;
                }
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
                let gone = self.services.remove(&name());
                (gone.is_some(), Change::of(gone.iter().map(|s| s.name.clone()).collect()))
            }
            Kind::EndpointSlice => {
                let slice = (key.namespace.clone(), key.name.clone());
                let touched = self.unlink(&slice);
                let gone = self.slices.remove(&slice);
                if let Some(old) = &gone {
                    old.give_back(&mut self.numbers);
                }
                (gone.is_some(), Change::of(touched))
            }
            Kind::Endpoints => {
                let gone = self.endpoints.remove(&name());
                (gone.is_some(), Change::of(gone.iter().map(|e| e.name.clone()).collect()))
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
        let services = self.services.values().cloned().map(Shared::Service);
        let names = self.numbers.names();
        let slices = self.slices.iter().map(|(key, slice)| SharedSlice::new(key.clone(), slice.clone(), names.clone()));
        let slices = slices.map(Shared::EndpointSlice);
        let endpoints = self.endpoints.values().cloned().map(Shared::Endpoints);
        services.chain(slices).chain(endpoints).chain(self.nodes.values().cloned().map(Shared::Node)).collect()
    }

    /// Keys of all objects, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = ObjectRef> {
        let service = |kind: Kind, n: &ServiceName| ObjectRef::new(kind, n.namespace(), n.name());
        let services = self.services.keys().map(move |n| service(Kind::Service, n));
        let slices = self.slices.keys().map(|(ns, n)| ObjectRef::new(Kind::EndpointSlice, ns.clone(), n.clone()));
        let endpoints = self.endpoints.keys().map(move |n| service(Kind::Endpoints, n));
        let nodes = self.nodes.keys().map(|n| ObjectRef::new(Kind::Node, "", n.clone()));
        services.chain(slices).chain(endpoints).chain(nodes)
    }

    /// A Service by name.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name).map(Arc::as_ref)
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(Arc::as_ref)
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
        for key in self.slices_of.get(&service.name).into_iter().flatten() {
            let slice = &self.slices[key];
            let mirror_of_these = slice.mirrored && endpoints.is_some();
            if !(slice.ignored || mirror_of_these) {
                groups.push(slice.group(&self.numbers));
            }
        }
        groups.extend(endpoints.into_iter().flat_map(|e| e.groups.iter().cloned()));
        groups
    }

    /// Takes a slice out of its Service's set and names that Service.
    fn unlink(&mut self, key: &SliceKey) -> Vec<ServiceName> {
        let Some(service) = self.slices.get(key).and_then(|s| s.service.clone()) else { return Vec::new() };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.retain(|other| other != key);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        vec![service]
    }
}

impl Change {
    fn of(services: Vec<ServiceName>) -> Self {
        if services.is_empty() { Self::None } else { Self::Services(services) }
    }
}
