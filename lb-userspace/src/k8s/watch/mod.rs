//! Objects from a Kubernetes API server: one task for each kind lists it, watches it, and tells of each change.
//!
//! ```text
//! access ─► client ─► reflector ─► Update ─► the agent's loop
//!                     decode
//! ```
//! Kubernetes' types end in `decode`: what is told are objects of the model. Nothing is kept here but the version to go
//! on from, so nothing here can say what is gone but a list that was read whole ([`Event::Whole`]).

mod access;
mod backoff;
mod client;
mod decode;
mod fault;
mod lines;
mod patience;
mod reflector;
mod resource;

use std::{collections::BTreeSet, time::Instant};

use tokio::{sync::mpsc, task::JoinSet};

pub use access::{Access, AccessError, Hints};
pub use backoff::{Backoff, fraction};
pub(super) use client::Client;
pub(super) use fault::{Fault, Refusal};
pub use patience::Patience;
pub(super) use resource::encoded;

use self::{reflector::Reflector, resource::Resource};
use crate::model::{Kind, Object, ObjectRef, Uid};

/// The kinds that are watched. Endpoints are not: the mirroring controller writes slices for them.
pub const KINDS: [Kind; 3] = [Kind::Service, Kind::EndpointSlice, Kind::Node];

/// Batches that wait for the loop; beyond these the watches wait, and in the end the server.
const QUEUE: usize = 32;

/// What one read from the server brought, in the server's order.
#[derive(Debug)]
pub struct Update {
    /// All of it is about this kind.
    pub kind: Kind,
    /// When it came in.
    pub seen: Instant,
    /// What happened.
    pub events: Vec<Event>,
}

/// One thing that happened.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The object is now this.
    Put(Box<Object>),
    /// The object is there, but is left out.
    Bad {
        /// Which.
        key: ObjectRef,
        /// What is wrong with it.
        cause: String,
        /// Its `metadata.uid`.
        uid: Option<Uid>,
    },
    /// The object is gone.
    Gone(ObjectRef),
    /// A list was read to its end, and these are all there are. What is not among them is gone.
    Whole(BTreeSet<ObjectRef>),
    /// The server cannot be followed now, and why. What it told before stays in force.
    Failing(String),
    /// It can be followed again.
    Working,
}

/// The running watches; dropping this ends them.
#[derive(Debug)]
pub struct Watches {
    updates: mpsc::Receiver<Update>,
    _tasks: JoinSet<()>,
}

impl Watches {
    /// The next update; waits forever if there is none.
    pub async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Some(update) => update,
            // The tasks end only when nobody listens.
            None => std::future::pending().await,
        }
    }

    /// An update that is there already.
    pub fn try_next(&mut self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}

/// Starts to watch everything that matters to a node. Runs inside a [`tokio::task::LocalSet`].
///
/// # Errors
/// If what the way to the server is to be read from cannot be read. That the server does not answer is no error.
pub async fn start(access: Access, patience: Patience) -> Result<Watches, AccessError> {
    // Once here, so that a wrong path is told at once; each watch has a connection of its own.
    access.config(0).await?;
    let (sender, updates) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    for kind in KINDS {
        let reflector = Reflector::new(Resource::new(kind), access.clone(), patience, sender.clone());
        tasks.spawn_local(reflector.run());
    }
    Ok(Watches { updates, _tasks: tasks })
}
