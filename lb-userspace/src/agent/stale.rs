//! Connected UDP sockets of the node whose backend is gone: finds them and has the kernel destroy them, so that the
//! application learns of it (ECONNABORTED) and connects again. The rule is kube-proxy's for its conntrack entries
//! (`pkg/proxy/conntrack/cleanup.go`): a UDP flow stays with a serving endpoint, terminating or not, and is cut from any
//! other. It looks when UDP backends went, never at intervals, and touches no socket that the hooks did not translate.

use std::{collections::HashSet, io, net::SocketAddr, time::Duration};

use lb_common::abi::{Port, SockKey, backend_state, proto, sock_kind, socket_lb};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    maps::{MapStore, StoreError},
    net::sock_diag::{self, ConnectedUdp},
};

/// From the end of a backend to the look at sockets: changes in a row share one, and a call that chose the backend just
/// before has ended.
const LOOK_AFTER: Duration = Duration::from_millis(200);
/// When sockets could not be listed.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Peers to look for.
#[derive(Debug)]
pub(super) enum Peers {
    These(HashSet<SocketAddr>),
    /// Backends may have gone while no agent ran.
    All,
}

/// What a look was for, and what it found.
pub(super) type Listed = (Peers, io::Result<Vec<ConnectedUdp>>);

/// What waits to be looked for, and the look under way.
pub(super) struct StaleSockets {
    enabled: bool,
    wanted: Peers,
    at: Option<Instant>,
    busy: bool,
    sender: mpsc::UnboundedSender<Listed>,
    listed: mpsc::UnboundedReceiver<Listed>,
}

impl StaleSockets {
    /// `mode`: [`socket_lb`] bits. Tries whether the kernel destroys sockets, and says so if not.
    pub(super) fn new(mode: u8) -> Self {
        let enabled = mode & socket_lb::UDP != 0 && can_destroy();
        let (sender, listed) = mpsc::unbounded_channel();
        Self { enabled, wanted: Peers::These(HashSet::new()), at: None, busy: false, sender, listed }
    }

    /// UDP backends that went.
    pub(super) fn look_for(&mut self, gone: HashSet<SocketAddr>) {
        if let (Peers::These(wanted), false) = (&mut self.wanted, gone.is_empty()) {
            wanted.extend(gone);
            self.schedule(LOOK_AFTER);
        }
    }

    /// Whatever went while no agent ran.
    pub(super) fn look_for_all(&mut self) {
        self.wanted = Peers::All;
        self.schedule(LOOK_AFTER);
    }

    fn schedule(&mut self, after: Duration) {
        if self.enabled && self.at.is_none() {
            self.at = Some(Instant::now() + after);
        }
    }

    /// When to call [`Self::start`].
    pub(super) fn at(&self) -> Option<Instant> {
        self.at.filter(|_| !self.busy)
    }

    /// Lists sockets beside the loop; [`Self::listed`] gives them.
    pub(super) fn start(&mut self) {
        self.at = None;
        self.busy = true;
        let wanted = std::mem::replace(&mut self.wanted, Peers::These(HashSet::new()));
        let sender = self.sender.clone();
        tokio::task::spawn_blocking(move || {
            let listed = sock_diag::connected_udp(match &wanted {
                Peers::These(peers) => Some(peers),
                Peers::All => None,
            });
            // A loop that has ended looks for nothing any more.
            let _ended = sender.send((wanted, listed));
        });
    }

    /// Waits for the end of a look. Cancel-safe.
    pub(super) async fn listed(&mut self) -> Option<Listed> {
        self.listed.recv().await
    }

    /// Destroys, beside the loop, those of the sockets that stand on a backend that is gone.
    pub(super) fn finish(&mut self, (wanted, listed): Listed, store: &impl MapStore) {
        self.busy = false;
        let sockets = match listed {
            Ok(sockets) => sockets,
            Err(error) => {
                tracing::warn!("connected UDP sockets may stay with a backend that is gone: list them: {error}");
                match wanted {
                    Peers::All => self.wanted = Peers::All,
                    Peers::These(peers) => {
                        if let Peers::These(wanted) = &mut self.wanted {
                            wanted.extend(peers);
                        }
                    }
                }
                self.schedule(RETRY_AFTER);
                return;
            }
        };
        let mut stale = Vec::new();
        for socket in sockets {
            match stands_on_nothing(&socket, store) {
                Ok(true) => stale.push(socket),
                Ok(false) => {}
                Err(error) => tracing::warn!("socket {socket} may stay with a backend that is gone: {error}"),
            }
        }
        if !stale.is_empty() {
            tokio::task::spawn_blocking(move || destroy(&stale));
        }
    }
}

/// Whether the hooks sent this socket to a backend that is gone. A socket that the application connected to the backend
/// itself is unknown to them.
fn stands_on_nothing(socket: &ConnectedUdp, store: &impl MapStore) -> Result<bool, StoreError> {
    let peer = socket.peer();
    let key = SockKey::new(socket.cookie(), peer.ip().into(), Port::new(peer.port()), proto::UDP, sock_kind::REVNAT);
    let Some(entry) = store.sock(&key)?.filter(|entry| entry.is_for(&key)) else { return Ok(false) };
    let backend = store.backend(entry.backend)?;
    Ok(backend
        .is_none_or(|backend| backend.generation != entry.backend_generation || backend.state == backend_state::GONE))
}

fn destroy(sockets: &[ConnectedUdp]) {
    let mut count = 0;
    for socket in sockets {
        match sock_diag::destroy(socket) {
            Ok(true) => {
                tracing::debug!("destroyed socket {socket}: its backend is gone");
                count += 1;
            }
            // Closed or connected anew meanwhile.
            Ok(false) => {}
            Err(error) => tracing::warn!("socket {socket} stays with a backend that is gone: destroy it: {error}"),
        }
    }
    if count > 0 {
        tracing::info!("destroyed {count} connected UDP sockets of this node: their backend is gone");
    }
}

fn can_destroy() -> bool {
    match sock_diag::probe_destroy() {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(
                "this kernel destroys no sockets ({error}; it takes CONFIG_INET_DIAG_DESTROY and the module udp_diag): a \
                 connected UDP socket of this node stays with a backend that is gone until its application connects again"
            );
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use lb_common::abi::{Addr, Backend, SockEntry};

    use super::*;
    use crate::maps::{Capacities, MemStore};

    /// A socket that is connected to a backend of id 3 and generation 5.
    #[test]
    fn only_a_translated_socket_whose_backend_is_gone_is_stale() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let at = server.local_addr().expect("an address");
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        client.connect(at).expect("connected");
        let listed = sock_diag::connected_udp(Some(&HashSet::from([at]))).expect("listed");
        let [socket] = &listed[..] else { panic!("{listed:?}") };

        let (addr, port) = (Addr::from(at.ip()), Port::new(at.port()));
        let key = SockKey::new(socket.cookie(), addr, port, proto::UDP, sock_kind::REVNAT);
        let frontend = Addr::v4([10, 96, 0, 10]);
        let sent_to = |generation| SockEntry::new(&key, frontend, Port::new(53), 1, 2, 3, generation);
        let entry = sent_to(5);
        let mut foreign = entry;
        foreign.check = !entry.check;
        let backend = |generation, state| {
            let mut backend = Backend::new(addr, port, proto::UDP, 1);
            (backend.generation, backend.state) = (generation, state);
            backend
        };
        let (alive, gone) = (backend(5, backend_state::ACTIVE), backend(5, backend_state::GONE));
        let (reused, terminating) = (backend(6, backend_state::ACTIVE), backend(5, backend_state::TERMINATING));
        for (what, entry, backend, stale) in [
            ("alive", Some(entry), Some(alive), false),
            ("terminating", Some(entry), Some(terminating), false),
            ("gone", Some(entry), Some(gone), true),
            ("its id is another's", Some(entry), Some(reused), true),
            ("never written", Some(entry), None, true),
            ("connected by the application itself", None, Some(gone), false),
            ("an element of another key", Some(foreign), Some(gone), false),
        ] {
            let mut store = MemStore::new(Capacities::DEFAULT);
            store.put_backends(&backend.map(|backend| (3, backend)).into_iter().collect::<Vec<_>>()).expect("written");
            store.contents_mut().sock_revnat.extend(entry.map(|entry| (key, entry)));
            assert_eq!(stands_on_nothing(socket, &store).expect("readable"), stale, "{what}");
        }
    }
}
