//! From the model to the desired state. Pure: no clock, no I/O, no kernel.
//!
//! [`Planner`] is the way in. `claims` decides which Service an address belongs to, `topology` which endpoints a
//! traffic policy may use, `frontends` puts both into the shape of the state document; `notices` keeps what is
//! said beside it. `api_server` is the one exception for one Service.

pub mod compare;
pub mod state;

mod api_server;
mod claims;
mod diagnostic;
mod frontends;
mod node_port_addresses;
mod notices;
mod planner;
mod topology;

pub use api_server::is_api_server;
pub use diagnostic::{Diagnostic, Place, Remark};
pub use node_port_addresses::NodePortAddresses;
pub use notices::News;
pub use planner::{PlanConfig, Planner};
