//! The API server's own Service, `default/kubernetes`, keeps the backends that it had last when its slices hold none any
//! more, for as long as the Service itself is there.
//!
//! A server that is shut down takes its own address out of the slice first. Where it is the only one, this leaves nobody
//! who could put an address in again, and every pod, this agent too, without the way to see it come back. A backend
//! that does not answer is no worse than none.

use std::net::IpAddr;

use crate::model::{Endpoint, EndpointGroup, EndpointSlice, Kind, Object, ObjectRef, Shared, SliceFamily};

use super::state::ServiceName;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// Whether this is the Service of the API server itself.
#[must_use]
pub fn is_api_server(key: &ObjectRef) -> bool {
    key.kind == Kind::Service && *key.namespace == *NAMESPACE && *key.name == *NAME
}

/// Its key.
pub(super) fn key() -> ObjectRef {
    ObjectRef::new(Kind::Service, NAMESPACE, NAME)
}

/// Its name.
pub(super) fn name() -> ServiceName {
    ServiceName::new(NAMESPACE, NAME)
}

/// Whether this is the Service or says where it runs.
pub(super) fn is_of(object: &Object) -> bool {
    match object {
        Object::Service(service) => is_named_so(&service.name),
        Object::EndpointSlice(slice) => slice.service.as_ref().is_some_and(is_named_so),
        Object::Endpoints(endpoints) => is_named_so(&endpoints.name),
        Object::Node(_) => false,
    }
}

/// Whether this is a slice of it.
pub(super) fn is_slice_of(shared: &Shared) -> bool {
    match shared {
        Shared::EndpointSlice(slice) => slice.service().is_some_and(is_named_so),
        Shared::Service(_) | Shared::Endpoints(_) | Shared::Node(_) => false,
    }
}

/// As [`is_api_server`], by the Service's name.
pub(super) fn is_named_so(service: &ServiceName) -> bool {
    service.parts() == (NAMESPACE, NAME)
}

/// What its slices held when they last held an endpoint that takes connections.
#[derive(Clone, Debug, Default)]
pub(super) struct LastEndpoints(Vec<EndpointGroup>);

impl LastEndpoints {
    /// The endpoints to plan with, now that its slices hold `groups`, and whether they are kept ones.
    pub(super) fn or_kept(&mut self, groups: Vec<EndpointGroup>) -> (Vec<EndpointGroup>, bool) {
        if groups.iter().any(takes) {
            self.0.clone_from(&groups);
            (groups, false)
        } else if self.0.is_empty() {
            (groups, false)
        } else {
            (self.0.clone(), true)
        }
    }

    /// Takes what was there before all that it knows; gives whether it did.
    pub(super) fn remember(&mut self, groups: Vec<EndpointGroup>) -> bool {
        let news = self.0.is_empty() && groups.iter().any(takes);
        if news {
            self.0 = groups;
        }
        news
    }

    /// If these hold nothing that takes connections, and something is kept: slices that hold it.
    pub(super) fn slices_instead_of(&self, groups: &[EndpointGroup]) -> Option<Vec<EndpointSlice>> {
        if self.0.is_empty() || groups.iter().any(takes) {
            return None;
        }
        let slice = |(number, group): (usize, &EndpointGroup)| EndpointSlice {
            namespace: NAMESPACE.into(),
            // As the API server calls its own, which then takes the place of this one.
            name: if number == 0 { NAME.into() } else { format!("{NAME}-kept-{number}").into() },
            service: Some(name()),
            ignored: false,
            mirrored: false,
            family: match group.endpoints.first().map(|endpoint| endpoint.address) {
                Some(IpAddr::V6(_)) => SliceFamily::V6,
                Some(IpAddr::V4(_)) | None => SliceFamily::V4,
            },
            triggered: None,
            group: group.clone(),
        };
        Some(self.0.iter().enumerate().map(slice).collect())
    }

    /// The Service is gone.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// Whether anything in it takes connections.
fn takes(group: &EndpointGroup) -> bool {
    let takes = |endpoint: &Endpoint| endpoint.ready || (endpoint.serving && endpoint.terminating);
    group.endpoints.iter().any(takes)
}
