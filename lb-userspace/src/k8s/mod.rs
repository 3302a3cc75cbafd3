//! Kubernetes objects from text into the model.
//!
//! The one place that knows Kubernetes' types and how they are written. The unit is one object: a bad one is left out
//! whole and named, and never spoils its neighbours. Nothing here decides what an object means for traffic.

pub mod convert;
pub mod watch;

mod decode;
mod documents;
mod event_writer;
mod events;
mod files;
mod outcome;
mod parse;
mod path;
mod tree;

pub use event_writer::{EventFailure, EventRequest, EventType, EventWriter, NewEvent, Written};
pub use files::{files, is_object_file, load};
pub use outcome::{
    BadObject, Duplicate, Loaded, Located, Meant, Parsed, Position, StraySlice, UnknownKind, Unreadable, merge,
};
pub use parse::parse;
pub use path::{FieldPath, Invalid};
