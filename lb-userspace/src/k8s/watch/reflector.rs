//! One kind, followed: listed as a stream or by pages, then watched from there, and again from where a watch ended.
//!
//! A list deletes only if it was read whole: HTTP 200, every page or the bookmark behind the last object, every item's
//! name readable. Anything less adds and changes, and is asked for again. An empty list counts if the next one is empty
//! as well: a cluster without Services does not exist, an API server with an empty cache does.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    Event, Patience, Update,
    access::Access,
    backoff,
    client::{Answer, Client},
    decode::{self, Line, Unfit},
    fault::{Fault, Refusal},
    lines::Lines,
    resource::{Page, Resource},
};
use crate::{model::ObjectRef, plan::is_api_server};

/// How long a watch is asked for at least; up to twice that, as client-go does (`minWatchTimeout`), so that not all
/// watches of all nodes end at once.
const WATCH: Duration = Duration::from_secs(300);
/// The server's clock for it began earlier than ours, and both are read at their convenience.
const EARLY: Duration = Duration::from_secs(5);

/// Why a round ended early.
enum Interrupt {
    Fault(Fault),
    /// The loop does not listen any more.
    Ending,
}

impl From<Fault> for Interrupt {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Follows one kind.
pub(super) struct Reflector {
    resource: Resource,
    access: Access,
    sender: mpsc::Sender<Update>,
    patience: Patience,
    client: Option<Client>,
    /// To go on from; `None`: list.
    version: Option<String>,
    /// The server may know lists as streams.
    streams: bool,
    /// Failures in a row.
    failures: u32,
    /// When the first of them was.
    failing_since: Option<Instant>,
    /// The version was given up since something worked, for a list that was begun at once.
    expired: bool,
    /// A list or a watch has worked before.
    has_worked: bool,
    /// When the server that allowed us to read before began to say that it does not.
    forbidden_since: Option<Instant>,
    /// The server that was asked last, and who names it.
    asked: Option<String>,
    /// The failures that were told. With several servers there is one of each.
    told: BTreeSet<String>,
    /// When a list is to say whether the API server's own Service is gone, as an event has said.
    confirm_at: Option<Instant>,
    /// The last list was empty.
    was_empty: bool,
    /// Something failed, so this may be another server than before, or another history.
    doubts: bool,
}

impl Reflector {
    pub(super) fn new(resource: Resource, access: Access, patience: Patience, sender: mpsc::Sender<Update>) -> Self {
        Self {
            resource,
            access,
            sender,
            patience,
            client: None,
            version: None,
            streams: true,
            failures: 0,
            failing_since: None,
            expired: false,
            has_worked: false,
            forbidden_since: None,
            asked: None,
            told: BTreeSet::new(),
            confirm_at: None,
            was_empty: false,
            doubts: false,
        }
    }

    /// Runs until nobody listens.
    pub(super) async fn run(mut self) {
        loop {
            let ended = match self.round().await {
                Ok(()) => continue,
                Err(Interrupt::Fault(fault)) => self.recover(fault).await,
                Err(ending @ Interrupt::Ending) => Err(ending),
            };
            if ended.is_err() {
                return;
            }
        }
    }

    /// One list or one watch.
    async fn round(&mut self) -> Result<(), Interrupt> {
        let client = self.client().await?;
        match self.version.clone() {
            Some(version) if self.doubts && self.has_gone_back(&client, &version).await? => {
                tracing::debug!("{}: the server was restored from a backup; listing again", self.resource.plural());
                self.version = None;
                Ok(())
            }
            Some(version) => {
                let time = backoff::spread(WATCH);
                let answer = client.get(&self.resource.watch(&version, time.as_secs()), false).await?;
                self.works().await?;
                self.follow(answer, time, None).await
            }
            None if self.streams => {
                let time = backoff::spread(WATCH);
                let listed = match client.get(&self.resource.stream(time.as_secs()), false).await {
                    Ok(answer) => self.follow(answer, time, Some(BTreeSet::new())).await,
                    Err(fault) => Err(fault.into()),
                };
                match listed {
                    Err(Interrupt::Fault(fault)) if self.version.is_none() && fault.refuses_streams() => {
                        tracing::debug!(
                            "{}: no list as a stream ({fault}); by pages from now on",
                            self.resource.plural()
                        );
                        self.streams = false;
                        Ok(())
                    }
                    listed => listed,
                }
            }
            None => self.list(&client).await,
        }
    }

    /// Whether the server is at a version before the one to go on from: it would take the watch, and say nothing until it
    /// has come so far.
    async fn has_gone_back(&mut self, client: &Client, version: &str) -> Result<bool, Fault> {
        let body = client.get(&self.resource.list(&Page::Probe), true).await?.all(self.patience.list).await?;
        let now = decode::page(self.resource.kind, &body)?.version;
        self.doubts = false;
        Ok(is_before(&now, version))
    }

    async fn client(&mut self) -> Result<Client, Fault> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let (config, name) = match self.access.config(self.failures).await {
            Ok(way) => way,
            Err(error) => {
                self.asked = None;
                return Err(Fault::Access(error.to_string()));
            }
        };
        self.asked = Some(name);
        let client = Client::prepare(config, self.patience).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// A list by pages.
    async fn list(&mut self, client: &Client) -> Result<(), Interrupt> {
        let kind = self.resource.kind;
        let (mut keys, mut unclear) = (BTreeSet::new(), 0);
        let mut page = Page::First;
        loop {
            let body = match client.get(&self.resource.list(&page), true).await {
                // The server does not keep a list for as long as it took to read: all at once, then.
                Err(Fault::Expired) if matches!(page, Page::After(_)) => {
                    (page, unclear) = (Page::All, 0);
                    keys.clear();
                    continue;
                }
                answer => answer?.all(self.patience.list).await?,
            };
            let seen = Instant::now();
            let read = decode::page(kind, &body)?;
            drop(body);
            unclear += read.unclear;
            let mut events = Vec::with_capacity(read.items.len());
            for (key, object) in read.items {
                keys.insert(key.clone());
                events.push(event(key, object));
            }
            self.send(seen, events).await?;
            if let Some(token) = read.next {
                page = Page::After(token);
                continue;
            }
            if unclear > 0 {
                let text = format!("{unclear} items of the list have no name; it deletes nothing and is read again");
                return Err(Fault::Garbled(text).into());
            }
            let whole = self.whole(keys)?;
            self.version = Some(read.version);
            self.send(seen, vec![whole]).await?;
            return self.works().await;
        }
    }

    /// Reads a watch to its end, which is asked for after `time`. `list`: it begins with all objects, of which these were
    /// read.
    async fn follow(
        &mut self,
        mut answer: Answer,
        time: Duration,
        mut list: Option<BTreeSet<ObjectRef>>,
    ) -> Result<(), Interrupt> {
        let begun = Instant::now();
        let mut lines = Lines::default();
        loop {
            if self.is_to_confirm() {
                // Whatever becomes of it, there is no way on but a list.
                (self.version, self.confirm_at) = (None, None);
                return Ok(());
            }
            let chunk = match answer.chunk(self.chunk_patience(list.is_some())).await {
                // It was the look at the clock that was due.
                Err(Fault::Silent(_)) if self.is_to_confirm() => continue,
                Err(fault @ Fault::Silent(_)) => {
                    // Not even a bookmark: perhaps the server waits for a version that its history never comes to.
                    self.version = None;
                    return Err(fault.into());
                }
                chunk => chunk?,
            };
            let Some(chunk) = chunk else {
                if list.is_some() {
                    return Err(Fault::Transport("the list ended before it was whole".to_owned()).into());
                }
                // A server that ends its watches before their time shuts down, and another one may come up in its place.
                self.doubts |= begun.elapsed() + EARLY < time;
                if begun.elapsed() >= self.patience.useful {
                    self.succeeded();
                    return Ok(());
                }
                // Once may be chance.
                if self.failures == 0 {
                    self.failures = 1;
                    return Ok(());
                }
                return Err(Fault::Transport("the server ends its watches at once".to_owned()).into());
            };
            let seen = Instant::now();
            lines.push(&chunk)?;
            let mut events = Vec::new();
            // What came before a bad line is good.
            let digested = self.digest(&mut lines, &mut list, &mut events);
            // Bookmarks alone are a sign of life once they have come for a while.
            let works = list.is_none() && (!events.is_empty() || begun.elapsed() >= self.patience.useful);
            self.send(seen, events).await?;
            digested?;
            if works {
                self.works().await?;
                self.succeeded();
            }
        }
    }

    fn chunk_patience(&self, listing: bool) -> Duration {
        let patience = if listing { self.patience.stream } else { self.patience.watch };
        match self.confirm_at {
            Some(at) => patience.min(at.saturating_duration_since(Instant::now())),
            None => patience,
        }
    }

    fn is_to_confirm(&self) -> bool {
        self.confirm_at.is_some_and(|at| at <= Instant::now())
    }

    /// Turns whole lines into events.
    fn digest(
        &mut self,
        lines: &mut Lines,
        list: &mut Option<BTreeSet<ObjectRef>>,
        events: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        while let Some(line) = lines.take() {
            let version = match decode::line(self.resource.kind, line) {
                Ok(Line::Put { key, object, version }) => {
                    if is_api_server(&key) {
                        self.confirm_at = None;
                    }
                    if let Some(keys) = list {
                        keys.insert(key.clone());
                    }
                    events.push(event(key, object));
                    version
                }
                Ok(Line::Gone { key, version }) => {
                    if let Some(keys) = list {
                        keys.remove(&key);
                    }
                    if is_api_server(&key) {
                        self.confirm_at = Some(Instant::now() + self.patience.confirm);
                    } else {
                        events.push(Event::Gone(key));
                    }
                    version
                }
                Ok(Line::Bookmark { version, list_ends }) => {
                    if list_ends && let Some(keys) = list.take() {
                        events.push(self.whole(keys)?);
                    }
                    version
                }
                Ok(Line::Error(status)) => {
                    return Err(Refusal::of_watch(status).into());
                }
                Err(fault) => {
                    // Whatever it told is missing now: only a list can make up for it.
                    self.version = None;
                    return Err(fault);
                }
            };
            // A list is gone on from only once it is whole.
            if list.is_none() {
                if self.version.as_ref().is_some_and(|old| is_before(&version, old)) {
                    return Err(Fault::Expired);
                }
                self.version = Some(version);
            }
        }
        Ok(())
    }

    /// After a failure: what is told, what is forgotten, how long to wait.
    async fn recover(&mut self, fault: Fault) -> Result<(), Interrupt> {
        let plural = self.resource.plural();
        if matches!(fault, Fault::Unconfirmed) {
            tracing::debug!("{plural}: {fault}");
            self.version = None;
            tokio::time::sleep(self.patience.empty).await;
            return Ok(());
        }
        self.failures += 1;
        self.doubts = true;
        if fault.wants_new_connection() {
            self.client = None;
        }
        if matches!(fault, Fault::Expired) {
            self.version = None;
            // After an outage as well: a server that says so is back.
            if !std::mem::replace(&mut self.expired, true) {
                tracing::debug!("{plural}: {fault}; listing again");
                return Ok(());
            }
        }
        let failing_since = *self.failing_since.get_or_insert_with(Instant::now);
        let wait = self.patience.retry.delay(self.failures).max(fault.retry_after().unwrap_or_default());
        tracing::debug!("{plural}: {fault}; again in {} ms", wait.as_millis());
        if (self.failures > 1 || fault.is_lasting()) && !self.knows_no_rights_yet(&fault) {
            let server = self.asked.clone().unwrap_or_else(|| self.access.to_string());
            let reason = format!("cannot follow {plural} at {server}: {fault}");
            if self.told.insert(reason.clone()) {
                self.send(Instant::now(), vec![Event::Failing(reason)]).await?;
            }
        }
        tokio::time::sleep(wait).await;
        if failing_since.elapsed() >= self.patience.outage && !fault.is_about_us() && self.version.take().is_some() {
            tracing::debug!("{plural}: failing for {} s; listing again", failing_since.elapsed().as_secs());
        }
        Ok(())
    }

    /// Whether this may be a server that has just started: it answers before it has read who may do what (the caches of
    /// kube-apiserver's RBAC authorizer), and forbids for a moment what it allowed before.
    fn knows_no_rights_yet(&mut self, fault: &Fault) -> bool {
        if !fault.is_forbidden() {
            self.forbidden_since = None;
            return false;
        }
        let since = *self.forbidden_since.get_or_insert_with(Instant::now);
        self.has_worked && since.elapsed() < self.patience.rights
    }

    /// A list or a watch did its work.
    fn succeeded(&mut self) {
        (self.failures, self.failing_since) = (0, None);
        (self.expired, self.has_worked, self.forbidden_since) = (false, true, None);
    }

    /// The server answers.
    async fn works(&mut self) -> Result<(), Interrupt> {
        if self.told.is_empty() {
            return Ok(());
        }
        self.told.clear();
        self.send(Instant::now(), vec![Event::Working]).await
    }

    /// A list came to its end.
    fn whole(&mut self, keys: BTreeSet<ObjectRef>) -> Result<Event, Fault> {
        let was_empty = std::mem::replace(&mut self.was_empty, keys.is_empty());
        if keys.is_empty() && !was_empty {
            return Err(Fault::Unconfirmed);
        }
        self.succeeded();
        self.confirm_at = None;
        self.doubts = false;
        Ok(Event::Whole(keys))
    }

    async fn send(&self, seen: Instant, events: Vec<Event>) -> Result<(), Interrupt> {
        if events.is_empty() {
            return Ok(());
        }
        let update = Update { kind: self.resource.kind, seen, events };
        self.sender.send(update).await.map_err(|_| Interrupt::Ending)
    }
}

/// Whether a server is at a version before one that it has told: it has been restored from a backup. Versions can be
/// compared where they are numbers (KEP-5504).
fn is_before(version: &str, told: &str) -> bool {
    matches!((version.parse::<u64>(), told.parse::<u64>()), (Ok(now), Ok(before)) if now < before)
}

fn event(key: ObjectRef, object: decode::Decoded) -> Event {
    match object {
        Ok(object) => Event::Put(object),
        Err(Unfit { cause, uid }) => Event::Bad { key, cause, uid },
    }
}

#[cfg(test)]
#[path = "reflector_tests.rs"]
mod tests;
