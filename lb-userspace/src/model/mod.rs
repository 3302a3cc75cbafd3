//! The model: Kubernetes objects reduced to what load balancing needs, and the index that groups them by Service.
//!
//! Knows no Kubernetes crate, no file and no clock. It decides nothing about traffic: that is `plan`.

mod bytes;
mod index;
mod names;
mod objects;
mod packed;
mod packed_service;
mod record;
mod slice;
mod uid;

pub use index::{Change, Index};
pub use names::shared;
pub use objects::{
    BadAnnotation, Created, Endpoint, EndpointGroup, EndpointPort, EndpointSlice, Endpoints, Kind, Node, Object,
    ObjectRef, Policy, Service, ServicePort, ServiceType, Shared, SliceFamily, Weights,
};
pub use packed_service::SharedService;
pub use slice::SharedSlice;
pub use uid::Uid;
