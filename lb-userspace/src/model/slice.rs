//! EndpointSlices as the index holds them: without their names, which are the key, and packed.

use std::{sync::Arc, time::SystemTime};

use serde::{Serialize, Serializer};

use super::{
    EndpointGroup, EndpointSlice, SliceFamily,
    names::{Names, Numbers},
    packed::Packed,
};
use crate::plan::state::ServiceName;

/// Namespace and name of a slice.
pub(super) type SliceKey = (Arc<str>, Arc<str>);

/// An [`EndpointSlice`] without its name, packed: [`Self::give_back`] is to be called at its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Slice {
    pub(super) service: Option<ServiceName>,
    pub(super) ignored: bool,
    pub(super) mirrored: bool,
    family: SliceFamily,
    triggered: Option<SystemTime>,
    group: Packed,
}

impl Slice {
    pub(super) fn pack(slice: EndpointSlice, numbers: &mut Numbers) -> (SliceKey, Self) {
        let EndpointSlice { namespace, name, service, ignored, mirrored, family, triggered, group } = slice;
        let group = Packed::new(group, numbers);
        ((namespace, name), Self { service, ignored, mirrored, family, triggered, group })
    }

    /// Its endpoints.
    pub(super) fn group(&self, numbers: &Numbers) -> EndpointGroup {
        self.group.unpack(numbers.as_names())
    }

    /// The names of its endpoints are no longer needed.
    pub(super) fn give_back(&self, numbers: &mut Numbers) {
        self.group.give_back(numbers);
    }
}

/// An EndpointSlice that stays as it is, whatever happens to the index that it is from. Written as [`EndpointSlice`] is.
#[derive(Clone, Debug)]
pub struct SharedSlice {
    key: SliceKey,
    slice: Arc<Slice>,
    names: Names,
}

impl SharedSlice {
    pub(super) const fn new(key: SliceKey, slice: Arc<Slice>, names: Names) -> Self {
        Self { key, slice, names }
    }

    /// Namespace and name.
    #[must_use]
    pub fn name(&self) -> (&str, &str) {
        (&self.key.0, &self.key.1)
    }

    /// The Service that it belongs to.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceName> {
        self.slice.service.as_ref()
    }

    /// The slice itself.
    #[must_use]
    pub fn to_slice(&self) -> EndpointSlice {
        let (namespace, name) = self.key.clone();
        let Slice { service, ignored, mirrored, family, triggered, group } = &*self.slice;
        EndpointSlice {
            namespace,
            name,
            service: service.clone(),
            ignored: *ignored,
            mirrored: *mirrored,
            family: *family,
            triggered: *triggered,
            group: group.unpack(&self.names),
        }
    }
}

impl From<EndpointSlice> for SharedSlice {
    fn from(slice: EndpointSlice) -> Self {
        let mut numbers = Numbers::default();
        let (key, slice) = Slice::pack(slice, &mut numbers);
        Self::new(key, Arc::new(slice), numbers.names())
    }
}

impl Serialize for SharedSlice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_slice().serialize(serializer)
    }
}
