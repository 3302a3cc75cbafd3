//! One socket call and what must come of it. The kernel has no test run for these hooks: they run on the host, and the
//! lab makes real calls.

use super::{MemTables, World, world::AffinitySpec};
use crate::{
    abi::{Addr, Counter, Port, SkipKey, SockEntry, SockKey, Traffic, proto, sock_kind},
    datapath::sock::{self, Call, Outcome, Policy},
};

/// Cookie of the socket under test.
pub(super) const COOKIE: u64 = 0x1234_5678_9abc;
/// Cookie of a pod's network namespace.
pub(super) const POD_NETNS: u64 = 4711;

/// Tick of the calls, which is that of new [`MemTables`].
const NOW: u32 = 1_000_000;

/// One entry of `sock_revnat`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SockSpec {
    /// Its key.
    pub key: SockKey,
    /// The other side's address.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    /// Service index.
    pub service: u32,
    /// Low half of the service's identity.
    pub identity: u32,
    /// Backend id.
    pub backend: u32,
    /// The backend's generation.
    pub generation: u32,
}

impl SockSpec {
    /// Key and value.
    #[must_use]
    pub fn entry(&self) -> (SockKey, SockEntry) {
        let Self { key, addr, port, service, identity, backend, generation } = *self;
        (key, SockEntry::new(&key, addr, port, service, identity, backend, generation))
    }
}

/// What the application does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// connect(2).
    Connect,
    /// sendmsg(2) on an unconnected socket.
    SendMsg,
    /// recvmsg(2) or getpeername(2), where the kernel names this peer.
    Reverse,
}

/// One socket call.
#[derive(Clone, Debug)]
pub struct SockCase {
    /// What it shows.
    pub name: String,
    /// The tables before.
    pub world: World,
    /// The call.
    pub request: Request,
    /// Who calls, and where to; for [`Request::Reverse`] the peer that the kernel names.
    pub call: Call,
    /// What the hooks may do.
    pub policy: Policy,
    /// Cgroups and network namespaces that are opted out.
    pub skips: Vec<SkipKey>,
    /// Ids of the caller's cgroup and those above it, the root's first.
    pub cgroups: Vec<u64>,
    /// What must become of it; for [`Request::Reverse`], [`Outcome::To`] is the name that is shown.
    pub outcome: Outcome,
    /// Entries of `sock_revnat` after it; `None`: as before.
    pub socks: Option<Vec<SockSpec>>,
    /// Entries of `affinity` after it; `None`: as before.
    pub affinity: Option<Vec<AffinitySpec>>,
    /// Counters that go up, by one each.
    pub counters: Vec<Counter>,
    /// The backend whose connections go up by one.
    pub connection: Option<u32>,
}

impl SockCase {
    /// A call of a pod's socket that passes.
    #[must_use]
    pub fn new(name: String, world: World, request: Request, dst: Addr, port: u16, proto: u8) -> Self {
        let call = Call {
            cookie: COOKIE,
            netns: POD_NETNS,
            host: false,
            dst,
            dport: Port::new(port),
            proto,
            connected: false,
        };
        Self {
            name,
            world,
            request,
            call,
            policy: Policy { socket_lb: 3, has_set_retval: true, skip_cgroups: 0, skip_netns: false },
            skips: Vec::new(),
            cgroups: vec![1],
            outcome: Outcome::Pass,
            socks: None,
            affinity: None,
            counters: Vec::new(),
            connection: None,
        }
    }

    /// Changed by hand.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Translated to this backend of `web`, remembered and counted.
    #[must_use]
    pub fn translated(self, backend: u32) -> Self {
        self.with(|case| {
            let found = *case.world.backend(backend);
            let Call { cookie, dst, dport, proto, .. } = case.call;
            let service = &case.world.services[0];
            let revnat = SockSpec {
                key: SockKey::new(cookie, found.addr, found.port, proto, sock_kind::REVNAT),
                addr: dst,
                port: dport,
                service: service.index,
                identity: service.identity as u32,
                backend,
                generation: found.generation,
            };
            let sticky = SockSpec {
                key: SockKey::new(cookie, dst, dport, proto, sock_kind::STICKY),
                addr: found.addr,
                port: found.port,
                ..revnat
            };
            case.outcome = Outcome::To(found.addr, found.port);
            let (counter, socks) = if proto == proto::TCP {
                (Counter::SocketTcp, vec![revnat])
            } else {
                (Counter::SocketUdp, vec![revnat, sticky])
            };
            case.counters = vec![counter];
            case.socks = Some(socks);
            case.connection = Some(backend);
        })
    }

    /// Refused, and counted under this.
    #[must_use]
    pub fn refused(self, counter: Counter) -> Self {
        self.with(|case| {
            case.outcome = Outcome::Refuse;
            case.counters = vec![counter];
        })
    }

    /// Runs it over tables in memory.
    ///
    /// # Errors
    /// What differs from what must be.
    pub fn run(&self) -> Result<(), String> {
        self.run_on(&MemTables::with(&self.world.contents(NOW)))
    }

    /// As [`Self::run`], over tables that the caller has filled.
    ///
    /// # Errors
    /// What differs from what must be.
    pub fn run_on(&self, tables: &MemTables) -> Result<(), String> {
        tables.opt_out(&self.skips, &self.cgroups);
        let outcome = match self.request {
            Request::Connect => sock::connect(tables, &self.call, self.policy),
            Request::SendMsg => sock::sendmsg(tables, &self.call, self.policy),
            Request::Reverse => {
                let Call { cookie, dst, dport, proto, .. } = self.call;
                sock::reverse(tables, cookie, dst, dport, proto).map_or(Outcome::Pass, |(a, p)| Outcome::To(a, p))
            }
        };
        let mut wrong = Vec::new();
        if outcome != self.outcome {
            wrong.push(format!("outcome {outcome:?}, not {:?}", self.outcome));
        }
        let mut counters = vec![0; Counter::ALL.len()];
        self.counters.iter().for_each(|counter| counters[*counter as usize] += 1);
        for (counter, (found, wanted)) in Counter::ALL.iter().zip(tables.counters().iter().zip(&counters)) {
            if found != wanted {
                wrong.push(format!("counter {} went up by {found}, not {wanted}", counter.name()));
            }
        }
        // No packets: the socket path sees none.
        let counted: Vec<_> =
            tables.backend_counters().into_iter().map(|(id, c)| (id, c.connections, c.to, c.from)).collect();
        let wanted: Vec<_> =
            self.connection.map(|id| (id, 1, Traffic::default(), Traffic::default())).into_iter().collect();
        if counted != wanted {
            wrong.push(format!("counted by backend {counted:?}, not {wanted:?}"));
        }
        let after = World {
            socks: self.socks.clone().unwrap_or_else(|| self.world.socks.clone()),
            affinity: self.affinity.clone().unwrap_or_else(|| self.world.affinity.clone()),
            ..self.world.clone()
        };
        let wanted = MemTables::with(&after.contents(NOW));
        if tables.affinity_entries() != wanted.affinity_entries() {
            wrong.push(format!("affinity {:?}, not {:?}", tables.affinity_entries(), wanted.affinity_entries()));
        }
        if tables.sock_entries() != wanted.sock_entries() {
            wrong.push(format!("entries {:?}, not {:?}", tables.sock_entries(), wanted.sock_entries()));
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("socket case `{}`:\n  {}", self.name, wrong.join("\n  "))) }
    }
}
