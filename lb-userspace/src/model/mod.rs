//! The model: Kubernetes objects reduced to what load balancing needs, and the index that groups them by Service.
//!
//! Knows no Kubernetes crate, no file and no clock. It decides nothing about traffic: that is `plan`.

mod index;
mod objects;
mod uid;

pub use index::{Change, Index};
pub use objects::{
    BadAnnotation, Created, Endpoint, EndpointGroup, EndpointPort, EndpointSlice, Endpoints, Kind, Node, Object,
    ObjectRef, Policy, Service, ServicePort, ServiceType, SliceFamily, Weights,
};
pub use uid::Uid;
