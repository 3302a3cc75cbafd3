//! Keeps the table of links up to date: one dump, then notifications, and another dump whenever some were lost. It asks
//! and listens, and never changes anything.
#![expect(clippy::wildcard_enum_match_arm, reason = "netlink's messages and attributes are an open set")]

use std::{io, time::Duration};

use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    route::RouteMessage,
};
use netlink_sys::{AsyncSocket as _, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;

use super::links::{Effect, Table};

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Room for notifications that wait, in bytes: a node that starts 100 pods at once sends about 600 of 1.5 KB.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Dumps that a change cut short are tried again this often before giving up.
const TRIES: u32 = 5;

/// Following stopped for good; the agent starts a new follower or ends.
#[derive(Debug, thiserror::Error)]
pub enum FollowerError {
    /// The socket could not be made.
    #[error("follow the node's links: open a netlink socket: {0}")]
    Socket(io::Error),
    /// The kernel refused a dump, or none came through whole.
    #[error("follow the node's links: read the {what}: {cause}. Next step: restart the agent; report this if it stays")]
    Dump {
        /// What was to be read.
        what: &'static str,
        /// What the kernel answered.
        cause: String,
    },
}

/// Something in the table changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NetEvent {
    /// Everything was read anew because notifications were lost: a device may have been replaced by another that looks
    /// the same, so programs should be attached to all links again (which replaces them in place).
    pub resynced: bool,
}

/// Follows links, addresses and routes of the network namespace in which it was started.
#[derive(Debug)]
pub struct Follower {
    link: Connection,
    table: Table,
    changed: bool,
    resynced: bool,
    need: Need,
}

/// What has to be read anew, in order of size.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Need {
    Nothing,
    Routes,
    Everything,
}

impl Follower {
    /// Subscribes, then reads everything once. Needs a tokio runtime with I/O whose thread is in the namespace.
    ///
    /// # Errors
    /// See [`FollowerError`].
    pub async fn start() -> Result<Self, FollowerError> {
        let link = Connection::open()?;
        let mut follower =
            Self { link, table: Table::default(), changed: false, resynced: false, need: Need::Everything };
        follower.catch_up().await?;
        (follower.changed, follower.resynced) = (false, false);
        Ok(follower)
    }

    /// The links as last read.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// Waits until something in the table changes; a burst of notifications is one event. May be cancelled and called
    /// again without loss.
    ///
    /// # Errors
    /// See [`FollowerError`].
    pub async fn next(&mut self) -> Result<NetEvent, FollowerError> {
        loop {
            self.catch_up().await?;
            if self.changed {
                let event = NetEvent { resynced: self.resynced };
                (self.changed, self.resynced) = (false, false);
                return Ok(event);
            }
            match self.link.messages.next().await {
                Some((message, _)) => self.take_in(message),
                None => self.reconnect()?,
            }
            while let Ok((message, _)) = self.link.messages.try_recv() {
                self.take_in(message);
            }
        }
    }

    fn take_in(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        let effect = match &message.payload {
            NetlinkPayload::InnerMessage(message) => self.table.apply(message),
            // The socket was full and the kernel dropped something.
            NetlinkPayload::Overrun(_) => {
                tracing::info!("notifications of links were lost; reading everything anew");
                Effect::Resync
            }
            _ => Effect::None,
        };
        self.note(effect);
    }

    fn note(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Changed => self.changed = true,
            Effect::Routes => self.need = self.need.max(Need::Routes),
            Effect::ChangedAndRoutes => {
                self.changed = true;
                self.need = self.need.max(Need::Routes);
            }
            Effect::Resync => self.need = Need::Everything,
        }
    }

    /// The connection ends when a message cannot be read. A new one starts with nothing lost, as everything is dumped.
    fn reconnect(&mut self) -> Result<(), FollowerError> {
        tracing::warn!("the netlink connection ended; opening another");
        self.link = Connection::open()?;
        self.need = Need::Everything;
        Ok(())
    }

    async fn catch_up(&mut self) -> Result<(), FollowerError> {
        if self.need == Need::Everything {
            // What waits is older than the dump that comes now.
            while self.link.messages.try_recv().is_ok() {}
            let mut messages = self.dump("links", links_request()).await?;
            messages.extend(self.dump("addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?);
            let effect = self.table.resync(&messages);
            self.note(effect);
            self.resynced = true;
            self.changed = true;
            self.need = Need::Routes;
        }
        if self.need == Need::Routes {
            let mut messages = self.dump("IPv4 routes", routes_request(AddressFamily::Inet)).await?;
            messages.extend(self.dump("IPv6 routes", routes_request(AddressFamily::Inet6)).await?);
            let effect = self.table.set_routes(&messages);
            self.note(effect);
            self.need = Need::Nothing;
        }
        Ok(())
    }

    /// One whole dump.
    async fn dump(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, FollowerError> {
        let mut cause = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(20 << attempt)).await;
            }
            match self.link.dump(request.clone()).await {
                Ok(messages) => return Ok(messages),
                Err(DumpError::Refused(error)) => return Err(FollowerError::Dump { what, cause: error.to_string() }),
                Err(DumpError::Interrupted) => "the links kept changing meanwhile".clone_into(&mut cause),
                Err(DumpError::ConnectionEnded) => {
                    "an answer could not be read".clone_into(&mut cause);
                    self.link = Connection::open()?;
                }
            }
        }
        Err(FollowerError::Dump { what, cause })
    }
}

fn links_request() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    // Statistics are most of a link's message and nobody reads them.
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message)
}

fn routes_request(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    RouteNetlinkMessage::GetRoute(message)
}

enum DumpError {
    /// The kernel says no.
    Refused(io::Error),
    /// Something changed while it was written, so it may hold some links twice or not at all.
    Interrupted,
    /// No end of the dump came.
    ConnectionEnded,
}

/// A netlink socket with the task that serves it.
#[derive(Debug)]
struct Connection {
    handle: Handle,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    fn open() -> Result<Self, FollowerError> {
        let (mut connection, handle, messages) = new_multicast_connection(&GROUPS).map_err(FollowerError::Socket)?;
        // So that a dump shows whether it came through whole.
        connection.set_forward_done(true);
        let socket = connection.socket_mut();
        if let Err(errno) = setsockopt(socket.socket_ref(), RcvBufForce, &RECEIVE_BUFFER) {
            // The default holds about 140 notifications; a lost one only costs a dump.
            tracing::debug!("netlink receive buffer stays at its default: {errno}");
        }
        Ok(Self { handle, messages, task: tokio::spawn(connection) })
    }

    async fn dump(&mut self, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, DumpError> {
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = self.handle.request(request).map_err(|_closed| DumpError::ConnectionEnded)?;
        let (mut messages, mut interrupted) = (Vec::new(), false);
        while let Some(answer) = answers.next().await {
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => messages.push(message),
                NetlinkPayload::Done(_) if interrupted => return Err(DumpError::Interrupted),
                NetlinkPayload::Done(_) => return Ok(messages),
                NetlinkPayload::Error(error) => return Err(DumpError::Refused(error.to_io())),
                _ => {}
            }
        }
        Err(DumpError::ConnectionEnded)
    }
}
