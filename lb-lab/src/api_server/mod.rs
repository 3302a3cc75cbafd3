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
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::sync::watch as channel;

use self::{fault::Script, resource::Key, store::Store, tls::Tls};
pub use self::{
    fault::{Fault, Rule},
    resource::{Resource, Verb},
};
use crate::netns::NetNs;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// HTTPS with a CA of its own; else plain HTTP.
    pub tls: bool,
    /// The bearer token that clients need, if any.
    pub token: Option<String>,
    /// Whether `sendInitialEvents` is served; without it a client gets 422, as from servers before 1.32.
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
            watch_list: true,
            bookmark_every: Duration::from_secs(1),
            gzip_from: 128 << 10,
            seed: 1,
        }
    }
}

/// How [`ApiServer::end_watches`] ends them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// As if their time were over.
    Close,
    /// The connection closes in the middle of the stream.
    Break,
    /// Half a line, then the same.
    HalfLine,
    /// An `ERROR` line with a Status 410.
    Expired,
    /// Nothing comes any more, and nothing says so.
    Silent,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
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
        Self::listen(config, None, (Ipv4Addr::LOCALHOST, 0).into())
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
                let listener = TcpListener::bind(address).with_context(|| format!("listen at {address}"))?;
                Ok((listener.local_addr().context("the listener's address")?, listener))
            })();
            let (bound, listener) = match bound {
                Ok((address, listener)) => (Ok(address), Some(listener)),
                Err(error) => (Err(error), None),
            };
            // Whoever starts it waits for this.
            let _waiting = tell.send(bound);
            listener.map_or(Ok(()), |listener| serve::run(&theirs, listener))
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
        std::mem::take(&mut self.shared.lock().seen)
    }

    /// Watches of a resource that are open now.
    #[must_use]
    pub fn watches(&self, resource: Resource) -> usize {
        self.shared.watches[resource as usize].load(Ordering::Relaxed)
    }

    /// Adds to the fault script. The first rule that strikes decides.
    pub fn script(&self, rule: Rule) {
        self.shared.lock().script.add(rule);
    }

    /// Empties the fault script, permits everything, listens. Requests that have met their fault already keep it.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.script.clear();
        state.forbidden.clear();
        drop(state);
        self.listen_again();
    }

    /// Refuses a verb on a resource with 403.
    pub fn forbid(&self, verb: Verb, resource: Resource) {
        self.shared.lock().forbidden.insert((verb, resource));
    }

    /// From now on the namespace is being deleted: nothing can be created in it, and all else goes on.
    pub fn end_namespace(&self, namespace: &str) {
        self.shared.lock().ending.insert(namespace.to_owned());
    }

    /// From now on requests need this token; those that run go on, as with a real server.
    pub fn set_token(&self, token: Option<&str>) {
        self.shared.lock().token = token.map(str::to_owned);
    }

    /// From now on connections get a certificate of a new CA; those that are open go on.
    ///
    /// # Errors
    /// The server has no TLS.
    pub fn rotate_ca(&self) -> Result<()> {
        let mut state = self.shared.lock();
        if state.tls.is_none() {
            bail!("a server without TLS has no CA");
        }
        state.rotations += 1;
        state.tls = Some(Tls::new(self.address.ip(), state.rotations)?);
        Ok(())
    }

    /// Forgets all history: watches and pages that want to go on from before get 410. Watches that run are not disturbed.
    pub fn compact(&self) {
        self.shared.lock().store.compact();
    }

    /// Sends every watch that allows it a bookmark.
    pub fn send_bookmarks(&self) {
        self.shared.nudge.send_modify(|nudge| nudge.bookmarks += 1);
    }

    /// Ends all watches that are open now.
    pub fn end_watches(&self, end: End) {
        self.shared.nudge.send_modify(|nudge| *nudge = Nudge { ends: nudge.ends + 1, end, ..*nudge });
    }

    /// Closes every connection, whatever it is doing. New ones are accepted.
    pub fn drop_connections(&self) {
        self.shared.control.send_modify(|control| control.kills += 1);
    }

    /// As a server that is down: connections are closed, new ones refused. Objects can still be changed.
    pub fn refuse(&self) {
        self.shared
            .control
            .send_modify(|control| *control = Control { kills: control.kills + 1, listening: false, ..*control });
        self.wait_listening(false);
    }

    /// Listens again, after [`Self::refuse`].
    pub fn listen_again(&self) {
        self.shared.control.send_modify(|control| control.listening = true);
        self.wait_listening(true);
    }

    /// As a server that restarts: connections are closed and history is forgotten. `reset`: etcd was restored from a
    /// backup too, and versions are counted anew from a low number.
    pub fn restart(&self, reset: bool) {
        self.refuse();
        let mut state = self.shared.lock();
        if reset {
            state.store.renumber()
        } else {
            state.store.compact()
        }
        drop(state);
        self.listen_again();
    }

    fn wait_listening(&self, wanted: bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.shared.listening.load(Ordering::Acquire) != wanted && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
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
