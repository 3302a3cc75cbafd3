//! What may happen in a cluster, and what its clients mean by it.

use std::ops::AddAssign;

use lb_common::abi::{Port, Tuple, proto, ticks};

/// What may happen next. Numbers that name nothing are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// A client sends a packet.
    Send { client: u8, port: u8, to: Target, tcp: bool, flags: Flags },
    /// A backend answers what it saw last from somebody.
    Reply { which: u8, flags: Flags },
    /// A service gets this set of pods as its backends.
    Backends { service: u8, backends: u8 },
    /// A service's frontend goes or comes back.
    Frontend { service: u8, there: bool },
    /// New local flows bypass the stack, or do not.
    LocalPath { redirect: bool },
    /// Time passes.
    Wait { ticks: u32 },
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Target {
    Service(u8),
    NodePort(u8),
    Pod(u8),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flags {
    Syn,
    Ack,
    Fin,
    Rst,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) translated: u64,
    pub(crate) replies: u64,
    pub(crate) moved: u64,
    pub(crate) bounced: u64,
    pub(crate) redirected: u64,
    pub(crate) replaced: u64,
    pub(crate) answered: u64,
    pub(crate) masked: u64,
    pub(crate) own: u64,
    pub(crate) remapped: u64,
}

impl AddAssign for Done {
    fn add_assign(&mut self, other: Self) {
        self.translated += other.translated;
        self.replies += other.replies;
        self.moved += other.moved;
        self.bounced += other.bounced;
        self.redirected += other.redirected;
        self.replaced += other.replaced;
        self.answered += other.answered;
        self.masked += other.masked;
        self.own += other.own;
        self.remapped += other.remapped;
    }
}

/// What a client means by its packets on one port to one target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversation {
    pub(crate) client: u8,
    pub(crate) port: Port,
    pub(crate) to: Target,
    pub(crate) proto: u8,
    /// What the backend sees; `None` until a packet got there.
    pub(crate) seen: Option<Tuple>,
    /// Superseded, or replaced by another use of its ports.
    pub(crate) over: bool,
    pub(crate) closing: bool,
    pub(crate) last: u32,
}

impl Conversation {
    /// The service that it is with, if with any.
    pub(crate) const fn service(&self) -> Option<u8> {
        match self.to {
            Target::Service(service) | Target::NodePort(service) => Some(service),
            Target::Pod(_) => None,
        }
    }

    /// Whether anything of it may still be under way.
    pub(crate) fn lives(&self, now: u32) -> bool {
        let silent = now - self.last;
        let limit = match (self.proto, self.closing) {
            (proto::TCP, false) => u32::MAX,
            (proto::TCP, true) => ticks(60),
            // Answered UDP lives longer, unless its backend was away meanwhile.
            _ => ticks(30),
        };
        !self.over && silent <= limit
    }
}
