//! The API server's own Service, `default/kubernetes`, keeps the backends that it had last when its slices hold none any
//! more, for as long as the Service itself is there.
//!
//! A server that is shut down takes its own address out of the slice first. Where it is the only one, this leaves nobody
//! who could put an address in again, and every pod, this agent too, without the way to see it come back. A backend
//! that does not answer is no worse than none.

use crate::model::{Endpoint, EndpointGroup, Kind, ObjectRef};

use super::state::ServiceName;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// Whether this is the Service of the API server itself.
#[must_use]
pub fn is_api_server(key: &ObjectRef) -> bool {
    key.kind == Kind::Service && *key.namespace == *NAMESPACE && *key.name == *NAME
}

/// As [`is_api_server`], by the Service's name.
pub(super) fn is_named_so(service: &ServiceName) -> bool {
    *service.namespace == *NAMESPACE && *service.name == *NAME
}

/// What its slices held when they last held an endpoint that takes connections.
#[derive(Clone, Debug, Default)]
pub(super) struct LastEndpoints(Vec<EndpointGroup>);

impl LastEndpoints {
    /// The endpoints to plan with, now that its slices hold `groups`, and whether they are kept ones.
    pub(super) fn or_kept(&mut self, groups: Vec<EndpointGroup>) -> (Vec<EndpointGroup>, bool) {
        let takes = |endpoint: &Endpoint| endpoint.ready || (endpoint.serving && endpoint.terminating);
        if groups.iter().any(|group| group.endpoints.iter().any(takes)) {
            self.0.clone_from(&groups);
            (groups, false)
        } else if self.0.is_empty() {
            (groups, false)
        } else {
            (self.0.clone(), true)
        }
    }

    /// The Service is gone.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}
