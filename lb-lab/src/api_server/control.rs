//! What a test does to a running server: faults, rights, certificates, ends of watches and connections, restarts.

use std::{
    sync::atomic::Ordering,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{
    ApiServer, Control, Nudge, Rule,
    resource::{Resource, Verb},
    store::Store,
    tls::Tls,
};

/// All that etcd held at a time: objects, versions, history.
#[derive(Clone)]
pub struct Backup(Store);

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

impl ApiServer {
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

    /// Counts on without a change: some other object has changed, of a kind that nobody here asks for.
    pub fn count_on(&self) {
        self.shared.lock().store.count_on();
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

    /// What etcd holds now, for [`Self::restore`].
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup(self.shared.lock().store.clone())
    }

    /// As after `etcdctl snapshot restore`: objects and versions are those of the backup, what came later never was, and
    /// its versions are given anew. The server goes down for it and stays so until [`Self::listen_again`].
    pub fn restore(&self, backup: &Backup) {
        self.refuse();
        let mut state = self.shared.lock();
        state.store = backup.0.clone();
        // The server's caches begin anew with what etcd holds.
        state.store.compact();
    }

    /// How long [`Self::refuse`] and [`Self::listen_again`] may take on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn wait_listening(&self, wanted: bool) {
        let end = Instant::now() + Self::PATIENCE;
        while self.shared.listening.load(Ordering::Acquire) != wanted {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "the API server at {} has ended", self.address);
            assert!(Instant::now() < end, "the API server at {} does nothing for {:?}", self.address, Self::PATIENCE);
            thread::sleep(Duration::from_millis(1));
        }
    }
}
