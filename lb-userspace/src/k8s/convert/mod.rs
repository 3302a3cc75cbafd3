//! From Kubernetes' types to the model's, with validation: what comes out needs no further check.
//!
//! The rules are those of the API server's validation, as far as a value has an effect here. One bad value makes the
//! whole object bad. The API server's defaults are applied for fields that a hand-written file leaves out.

mod annotations;
mod endpoints;
mod fields;
mod node;
mod service;

pub use endpoints::{endpoint_slice, endpoints};
pub use node::node;
pub use service::service;
