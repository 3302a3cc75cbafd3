//! Watches: from the store's changes to lines of JSON, with whatever fault they meet on the way.

use std::{
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch as channel},
    time::{Instant, interval_at, sleep},
};

use super::{
    End, Nudge, Shared,
    fault::Fault,
    object::Stored,
    query::{Query, Version},
    resource::{Key, Resource, Target},
    status::Status,
    store::{Change, Expired},
};

/// How lines get to the client: an error breaks the connection.
pub(super) type Lines = mpsc::Sender<io::Result<Bytes>>;

/// The annotation of the bookmark that ends the initial events (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// So long a body may take to get out before its connection is broken.
const FLUSH: Duration = Duration::from_millis(20);

/// Why a watch goes on no longer.
enum Over {
    /// The stream ends as it should.
    Done,
    /// The connection breaks.
    Broken,
    /// Nothing comes any more.
    Silent,
    /// The client is gone.
    Gone,
}

/// What a watch begins with, taken before its answer's head goes out: what a client changes after that, it sees.
struct Start {
    /// Sent first, as `ADDED`.
    objects: Vec<Change>,
    /// Changes are counted from here.
    position: u64,
    expired: Option<Status>,
    /// The version of the initial events' bookmark.
    bookmark: Option<u64>,
}

impl Start {
    fn new(shared: &Shared, target: &Target, query: &Query, lie: bool) -> Self {
        let state = shared.lock();
        let current = state.store.version();
        let initial = match (query.send_initial_events, query.version) {
            (Some(true), _) | (None, Version::Latest | Version::Any) => true,
            (Some(false), _) | (None, Version::At(_)) => false,
        };
        let (position, expired) = match query.version {
            Version::At(version) if !initial => {
                let expired = state.store.check_version(version).err();
                (version, expired.map(|Expired { oldest }| Status::expired(version, oldest)))
            }
            Version::At(_) | Version::Latest | Version::Any => (current, None),
        };
        let all = (initial && !lie).then(|| state.store.of(target.resource)).into_iter().flatten();
        let added = |(key, object): (&Key, &Arc<Stored>)| Change {
            version: current,
            key: key.clone(),
            old: None,
            new: Some(Arc::clone(object)),
        };
        let objects = all.map(added).collect();
        Self { objects, position, expired, bookmark: (query.send_initial_events == Some(true)).then_some(current) }
    }
}

/// A watch that a client has.
pub(super) struct Watch {
    shared: Arc<Shared>,
    target: Target,
    query: Query,
    fault: Option<Fault>,
    lines: Lines,
    changed: channel::Receiver<u64>,
    nudge: channel::Receiver<Nudge>,
    /// Whole events so far.
    sent: usize,
}

impl Watch {
    /// Starts it. Everything that happens from now on is sent to `lines`.
    pub(super) fn spawn(shared: Arc<Shared>, target: Target, query: Query, fault: Option<Fault>, lines: Lines) {
        let (changed, nudge) = (shared.changed.subscribe(), shared.nudge.subscribe());
        let start = Start::new(&shared, &target, &query, fault == Some(Fault::EmptyList));
        shared.watches[target.resource as usize].fetch_add(1, Ordering::Relaxed);
        tokio::spawn(Self { shared, target, query, fault, lines, changed, nudge, sent: 0 }.run(start));
    }

    async fn run(mut self, start: Start) {
        let last = *self.nudge.borrow_and_update();
        let over = match self.begin(start).await {
            Ok(position) => self.follow(position, last).await,
            Err(over) => over,
        };
        self.shared.watches[self.target.resource as usize].fetch_sub(1, Ordering::Relaxed);
        match over {
            Over::Done | Over::Gone => {}
            Over::Broken => {
                sleep(FLUSH).await;
                // The client may be gone already, and then there is nothing to break.
                let _gone = self.lines.send(Err(io::Error::other("broken on purpose"))).await;
            }
            Over::Silent => self.lines.closed().await,
        }
    }

    /// What comes before the first change. Gives the version that changes are counted from.
    async fn begin(&mut self, start: Start) -> Result<u64, Over> {
        let Start { objects, position, expired, bookmark } = start;
        self.check_fault().await?;
        if let Some(status) = expired {
            self.error(&status).await?;
            return Err(Over::Done);
        }
        self.send_changes(objects).await?;
        if let Some(version) = bookmark {
            self.bookmark(version, true).await?;
        }
        Ok(position)
    }

    async fn follow(&mut self, mut position: u64, mut last: Nudge) -> Over {
        // Without timeoutSeconds a server takes half an hour at least.
        let time = self.query.timeout.unwrap_or(Duration::from_secs(1800));
        let mut deadline = pin!(sleep(time));
        let every = self.shared.config.bookmark_every;
        let mut tick = interval_at(Instant::now() + every, every);
        loop {
            self.changed.mark_unchanged();
            let (changes, current) = {
                let state = self.shared.lock();
                (state.store.after(position).to_vec(), state.store.version())
            };
            if let Err(over) = self.send_changes(changes).await {
                return over;
            }
            position = position.max(current);
            let (bookmark, done) = tokio::select! {
                _ = self.changed.changed() => (false, false),
                _ = self.nudge.changed() => {
                    let now = *self.nudge.borrow_and_update();
                    let before = std::mem::replace(&mut last, now);
                    if now.ends != before.ends {
                        return self.end(now.end, position).await;
                    }
                    (now.bookmarks != before.bookmarks, false)
                }
                _ = tick.tick() => (true, false),
                () = &mut deadline => (true, true),
                () = self.lines.closed() => return Over::Gone,
            };
            // A client that knows a later version than there is gets no bookmark either, and does not learn that it is lost.
            if bookmark
                && current == position
                && let Err(over) = self.bookmark(position, false).await
            {
                return over;
            }
            if done {
                return Over::Done;
            }
        }
    }

    async fn send_changes(&mut self, changes: Vec<Change>) -> Result<(), Over> {
        let mut events: Vec<_> = changes.iter().filter_map(|c| self.event(c).map(|e| (&c.key, e))).collect();
        if self.fault == Some(Fault::SwapEvents) {
            for at in (1..events.len()).step_by(2) {
                // The order of one object's events is the one thing that even a broken cache keeps.
                if events[at - 1].0 != events[at].0 {
                    events.swap(at - 1, at);
                }
            }
        }
        let copies = if self.fault == Some(Fault::RepeatEvents) { 2 } else { 1 };
        for (_, event) in events {
            for _ in 0..copies {
                if let Some(Fault::HalfLine { after }) = self.fault
                    && self.sent >= after
                {
                    return Err(self.half(event).await);
                }
                self.send(event.clone()).await?;
                self.sent += 1;
                self.check_fault().await?;
            }
        }
        Ok(())
    }

    /// What the change is to this watch's selector, if anything.
    fn event(&self, change: &Change) -> Option<String> {
        let Change { version, key, old, new } = change;
        if key.resource != self.target.resource
            || self.target.namespace.as_ref().is_some_and(|namespace| *namespace != key.namespace)
        {
            return None;
        }
        let selected = |object: &Option<Arc<Stored>>| {
            object.clone().filter(|o| self.query.selector.matches(&o.metadata, &o.cluster_ip))
        };
        let (kind, object) = match (selected(old), selected(new)) {
            (None, None) => return None,
            (None, Some(new)) => ("ADDED", new.text()),
            (Some(_), Some(new)) => ("MODIFIED", new.text()),
            // The last state that was selected, with the version of the change that took it away.
            (Some(old), None) => ("DELETED", old.at_version(*version).text()),
        };
        Some(format!(r#"{{"type":"{kind}","object":{object}}}"#))
    }

    /// Faults that strike between two events.
    async fn check_fault(&mut self) -> Result<(), Over> {
        match self.fault {
            Some(Fault::Close { after }) if self.sent >= after => Err(Over::Done),
            Some(Fault::Silent { after }) if self.sent >= after => Err(Over::Silent),
            Some(Fault::ErrorEvent { after, code }) if self.sent >= after => {
                self.error(&Status::new(code, "an error on purpose")).await?;
                Err(Over::Done)
            }
            _ => Ok(()),
        }
    }

    /// An end that the test has ordered for all watches.
    async fn end(&mut self, end: End, position: u64) -> Over {
        match end {
            End::Close => Over::Done,
            End::Break => Over::Broken,
            End::HalfLine => {
                self.half(json!({"type": "MODIFIED", "object": {"kind": self.target.resource.kind()}}).to_string())
                    .await
            }
            End::Expired => match self.error(&Status::expired(position, position)).await {
                Ok(()) => Over::Done,
                Err(over) => over,
            },
            End::Silent => Over::Silent,
        }
    }

    async fn error(&mut self, status: &Status) -> Result<(), Over> {
        self.send(json!({"type": "ERROR", "object": status.json()}).to_string()).await
    }

    async fn bookmark(&mut self, version: u64, initial_end: bool) -> Result<(), Over> {
        if !self.query.bookmarks {
            return Ok(());
        }
        let mut object = blank(self.target.resource);
        object["kind"] = json!(self.target.resource.kind());
        object["apiVersion"] = json!(self.target.api_version);
        object["metadata"] = json!({"creationTimestamp": null});
        if initial_end {
            object["metadata"]["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        self.send(json!({"type": "BOOKMARK", "object": object}).to_string()).await
    }

    async fn send(&mut self, line: String) -> Result<(), Over> {
        self.lines.send(Ok((line + "\n").into())).await.map_err(|_| Over::Gone)
    }

    async fn half(&mut self, line: String) -> Over {
        let mut text = line.into_bytes();
        text.truncate(text.len() / 2);
        match self.lines.send(Ok(text.into())).await {
            Ok(()) => Over::Broken,
            Err(_) => Over::Gone,
        }
    }
}

/// What a bookmark holds beside its version: the kind's zero value as Go writes it, null lists and empty texts included.
/// A client that reads it as a whole object fails here.
fn blank(resource: Resource) -> Value {
    match resource {
        Resource::Services => json!({"spec": {}, "status": {"loadBalancer": {}}}),
        Resource::EndpointSlices => json!({"addressType": "", "endpoints": null, "ports": null}),
        Resource::Nodes => json!({
            "spec": {},
            "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": {"machineID": "", "architecture": ""}},
        }),
        Resource::Events => json!({"involvedObject": {}, "source": {}, "eventTime": null}),
    }
}
