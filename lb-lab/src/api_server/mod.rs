//! A Kubernetes API server for tests: real HTTP lists and watches of Services, EndpointSlices and Nodes, events that can
//! be written, and whatever an API server can do wrong, on demand.
//!
//! It behaves as kube-apiserver 1.34 does where clients can tell: one `resourceVersion` counter, watches that begin at a
//! version, bookmarks, expiry, streaming lists (KEP-3157), pages, selectors (an object that leaves one is `DELETED`),
//! list items without `kind`, events in both of their forms, gzip from 128 KiB, bearer tokens, `Status` bodies. It does not default, prune or validate
//! objects (events but for one): tests say exactly what is served. It is never a controller: who wants slices puts them.
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! use lb_lab::api_server::{ApiConfig, ApiServer, Fault, Resource, Rule, Verb};
//! let server = ApiServer::start(ApiConfig::default())?;
//! server.apply("{apiVersion: v1, kind: Node, metadata: {name: raspi001}}")?;
//! server.script(Rule::next(Fault::Hangup).on(Verb::Watch).of(Resource::Services));
//! let url = server.url();       // for --api-server, or server.kubeconfig()
//! server.drop_connections();
//! # Ok(())
//! # }
//! ```

mod body;
mod call;
mod control;
mod discovery;
mod events;
mod fault;
mod list;
mod object;
mod query;
mod resource;
mod selector;
mod serve;
mod status;
mod store;
mod tls;
mod watch;

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::sync::watch as channel;

pub use self::{
    control::{Backup, End},
    fault::{Fault, Rule},
    resource::{Resource, Verb},
};
use self::{fault::Script, resource::Key, serve::Place, store::Store, tls::Tls};
use crate::netns::NetNs;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// HTTPS with a CA of its own; else plain HTTP.
    pub tls: bool,
    /// The bearer token that clients need, if any. A certificate of the server's authority serves as well.
    pub token: Option<String>,
    /// Clients without token need a certificate. Only with `tls`.
    pub client_certificates: bool,
    /// Whether `sendInitialEvents` is served; without it a client gets 422, as from Kubernetes 1.27 to 1.31 and 1.33
    /// with their defaults (older ones refuse the parameters beside it just so).
    pub watch_list: bool,
    /// How often watches that allow them get bookmarks. A real server takes a minute.
    pub bookmark_every: Duration,
    /// Lists of so many bytes or more are compressed for clients that accept it.
    pub gzip_from: usize,
    /// What [`Rule::percent`] goes by.
    pub seed: u64,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            tls: false,
            token: None,
            client_certificates: false,
            watch_list: true,
            bookmark_every: Duration::from_secs(1),
            gzip_from: 128 << 10,
            seed: 1,
        }
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it came.
    pub at: Instant,
    /// What it asked for.
    pub verb: Verb,
    /// Of which resource; None: discovery and the like.
    pub resource: Option<Resource>,
    /// Path.
    pub path: String,
    /// Query, still encoded.
    pub query: String,
    /// `User-Agent`.
    pub user_agent: String,
    /// HTTP code of the answer, once there is one.
    pub code: Option<u16>,
}

/// What all connections are told.
#[derive(Clone, Copy, Debug)]
struct Control {
    kills: u64,
    listening: bool,
    stop: bool,
}

/// What all watches are told.
#[derive(Clone, Copy, Debug)]
struct Nudge {
    ends: u64,
    end: End,
    bookmarks: u64,
}

/// What changes while the server runs.
struct State {
    store: Store,
    script: Script,
    token: Option<String>,
    forbidden: HashSet<(Verb, Resource)>,
    /// Namespaces that are being deleted.
    ending: HashSet<String>,
    seen: Vec<Seen>,
    /// Requests that were seen before those and taken.
    taken: usize,
    tls: Option<Tls>,
    rotations: u64,
}

struct Shared {
    config: ApiConfig,
    state: Mutex<State>,
    changed: channel::Sender<u64>,
    control: channel::Sender<Control>,
    nudge: channel::Sender<Nudge>,
    listening: AtomicBool,
    watches: [AtomicUsize; Resource::ALL.len()],
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked while it held this was a test's, and the state is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// A running server; stopped when dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<Result<()>>>,
}

impl ApiServer {
    /// Starts one on a free port of this namespace's loopback.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn start(config: ApiConfig) -> Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), config)
    }

    /// Starts one at an address of this namespace; port 0 is a free one.
    ///
    /// # Errors
    /// It cannot listen there.
    pub fn start_at(address: SocketAddr, config: ApiConfig) -> Result<Self> {
        Self::listen(config, None, address)
    }

    /// Starts one inside a namespace of a lab. The address has to be there; port 0 is a free one.
    ///
    /// # Errors
    /// It cannot listen there.
    pub fn start_in(netns: &NetNs, address: SocketAddr, config: ApiConfig) -> Result<Self> {
        Self::listen(config, Some(netns), address)
    }

    fn listen(config: ApiConfig, netns: Option<&NetNs>, address: SocketAddr) -> Result<Self> {
        let state = State {
            store: Store::new(),
            script: Script::new(config.seed),
            token: config.token.clone(),
            forbidden: HashSet::new(),
            ending: HashSet::new(),
            seen: Vec::new(),
            taken: 0,
            tls: config.tls.then(|| Tls::new(address.ip(), 0)).transpose()?,
            rotations: 0,
        };
        let shared = Arc::new(Shared {
            config,
            state: Mutex::new(state),
            changed: channel::Sender::new(0),
            control: channel::Sender::new(Control { kills: 0, listening: true, stop: false }),
            nudge: channel::Sender::new(Nudge { ends: 0, end: End::Close, bookmarks: 0 }),
            listening: AtomicBool::new(true),
            watches: Default::default(),
        });
        let namespace = netns.map(|netns| std::fs::File::open(netns.path())).transpose().context("open a namespace")?;
        let (tell, told) = mpsc::channel::<Result<SocketAddr>>();
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("api-server".into()).spawn(move || {
            let bound = (|| -> Result<_> {
                if let Some(namespace) = namespace {
                    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                }
                let place = Place::take(address).with_context(|| format!("take {address}"))?;
                let listener = place.listen().with_context(|| format!("listen at {address}"))?;
                Ok((place, listener))
            })();
            let (address, bound) = match bound {
                Ok(bound) => (Ok(bound.0.address()), Some(bound)),
                Err(error) => (Err(error), None),
            };
            // Whoever starts it waits for this.
            let _waiting = tell.send(address);
            bound.map_or(Ok(()), |(place, listener)| serve::run(&theirs, &place, listener))
        })?;
        let address = told.recv().context("the server's thread ended")??;
        Ok(Self { shared, address, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.shared.config.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The CA that clients have to trust; None without TLS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<String> {
        self.shared.lock().tls.as_ref().map(|tls| tls.ca_pem.clone())
    }

    /// A client's certificate of the present CA with its key behind it, both PEM; None without TLS.
    #[must_use]
    pub fn client_pem(&self) -> Option<String> {
        self.shared.lock().tls.as_ref().map(|tls| tls.client_pem.clone())
    }

    /// A kubeconfig with the present CA and token; `ca` is the path of a file with [`Self::ca_pem`].
    #[must_use]
    pub fn kubeconfig(&self, ca: Option<&std::path::Path>) -> String {
        let (ca, token) = (ca.map(|path| path.to_string_lossy()), self.shared.lock().token.clone());
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": self.url(), "certificate-authority": ca}}],
            "users": [{"name": "agent", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "agent"}}],
        });
        config.to_string()
    }

    /// Creates or replaces objects: YAML or JSON, several documents, Lists. They get ascending versions in this order, and
    /// watches see them at once. Gives the version after them.
    ///
    /// # Errors
    /// One of them is none, or of a kind that is not served; those before it are in.
    pub fn apply(&self, text: &str) -> Result<u64> {
        let objects = object::parse(text)?;
        let mut state = self.shared.lock();
        let put = objects.into_iter().try_for_each(|object| state.store.put(object).map(drop));
        let version = state.store.version();
        drop(state);
        self.shared.tell_changed();
        put.map(|()| version)
    }

    /// As [`Self::apply`], of one object that was read already: for measuring what comes after it.
    ///
    /// # Errors
    /// It is of a kind that is not served.
    pub fn put(&self, object: Value) -> Result<u64> {
        let mut state = self.shared.lock();
        let put = state.store.put(object);
        let version = state.store.version();
        drop(state);
        self.shared.tell_changed();
        put.map(|_| version)
    }

    /// Deletes an object; `namespace` is "" for a Node. Gives whether it was there.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        let key = Key { resource, namespace: namespace.into(), name: name.into() };
        let there = self.shared.lock().store.delete(&key);
        self.shared.tell_changed();
        there
    }

    /// The objects of a resource, by namespace and name.
    #[must_use]
    pub fn objects(&self, resource: Resource) -> Vec<Value> {
        self.shared.lock().store.of(resource).map(|(_, object)| object.value()).collect()
    }

    /// The present `resourceVersion`.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.lock().store.version()
    }

    /// The requests that came since this was last called.
    #[must_use]
    pub fn take_seen(&self) -> Vec<Seen> {
        let mut state = self.shared.lock();
        state.taken += state.seen.len();
        std::mem::take(&mut state.seen)
    }

    /// Watches of a resource that are open now.
    #[must_use]
    pub fn watches(&self, resource: Resource) -> usize {
        self.shared.watches[resource as usize].load(Ordering::Relaxed)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.control.send_modify(|control| control.stop = true);
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => crate::complain(&error),
            Some(Err(_)) => crate::complain(&anyhow::anyhow!("the API server's thread panicked")),
        }
    }
}
