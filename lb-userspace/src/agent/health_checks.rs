//! `healthCheckNodePort`: where a load balancer asks whether this node has endpoints of a Service with external policy
//! Local. Listens on the addresses that node ports listen on, as kube-proxy does (`pkg/proxy/healthcheck`).
//!
//! Only opens and closes listeners. What they answer is asked of the loop, so a count is never older than the plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
};

use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};
use nix::sys::socket::{setsockopt, sockopt::IpFreebind};
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

use super::{
    http::{self, Answer},
    serve::{Asker, ask, stuck},
    status::Question,
};
use crate::plan::state::{HealthCheck, ServiceName};

/// Carries the number of local endpoints to load balancers that weight nodes by it.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
/// Connections that wait to be taken, for each listener.
const BACKLOG: u32 = 128;

/// The answer, in the words of kube-proxy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HealthAnswer {
    service: HealthService,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct HealthService {
    namespace: String,
    name: String,
}

impl HealthAnswer {
    /// `ready`: the datapath serves what is planned.
    pub(super) fn new(check: &HealthCheck, ready: bool) -> Self {
        let (namespace, name) = check.service.parts();
        Self {
            service: HealthService { namespace: namespace.to_owned(), name: name.to_owned() },
            local_endpoints: check.local_endpoints,
            service_proxy_healthy: ready,
        }
    }

    /// 200: send traffic of the Service to this node. 503: do not.
    fn to_http(&self) -> Answer {
        let good = self.local_endpoints > 0 && self.service_proxy_healthy;
        Answer::json(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, self)
            .with(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
            .with(WEIGHT, HeaderValue::from(self.local_endpoints))
    }
}

/// The listeners. A task that is left out here ends with the agent.
pub(super) struct HealthChecks {
    asker: Asker,
    listening: BTreeMap<SocketAddr, JoinHandle<()>>,
    failed: BTreeMap<SocketAddr, Failure>,
    /// The Service of each listener, open or not.
    wanted: BTreeMap<SocketAddr, ServiceName>,
    /// Services for which something in `failed` came or went.
    changed: BTreeSet<ServiceName>,
}

/// A listener that could not be opened.
struct Failure {
    service: ServiceName,
    /// As it was logged.
    reason: String,
}

impl HealthChecks {
    pub(super) fn new(asker: Asker) -> Self {
        Self {
            asker,
            listening: BTreeMap::new(),
            failed: BTreeMap::new(),
            wanted: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Opens and closes listeners so that there is one for each check on each address. What failed before is left to
    /// [`Self::retry`].
    pub(super) fn follow(&mut self, checks: &[HealthCheck], addresses: &[IpAddr]) {
        let mut wanted = BTreeMap::new();
        for check in checks {
            for address in addresses {
                // The first one has the port; the planner says so of the others.
                wanted.entry(SocketAddr::new(*address, check.port)).or_insert_with(|| check.service.clone());
            }
        }
        if wanted == self.wanted {
            return;
        }
        self.listening.retain(|addr, task| {
            let keep = wanted.contains_key(addr);
            if !keep {
                tracing::info!("health checks are no longer served on {addr}");
                task.abort();
            }
            keep
        });
        self.failed.retain(|addr, failure| {
            let keep = wanted.contains_key(addr);
            if !keep {
                self.changed.insert(failure.service.clone());
            }
            keep
        });
        self.wanted = wanted;
        let new: Vec<SocketAddr> = self.wanted.keys().filter(|addr| !self.is_known(addr)).copied().collect();
        for addr in new {
            self.open(addr);
        }
    }

    /// Tries again what failed.
    pub(super) fn retry(&mut self) {
        for addr in self.failed.keys().copied().collect::<Vec<_>>() {
            self.open(addr);
        }
    }

    /// Why some are not served, one line each.
    pub(super) fn failures(&self) -> impl Iterator<Item = &String> {
        self.failed.values().map(|failure| &failure.reason)
    }

    /// Where the health check of a Service is not served.
    pub(super) fn failures_of(&self, service: &ServiceName) -> impl Iterator<Item = SocketAddr> {
        self.failed.iter().filter(move |(_, failure)| failure.service == *service).map(|(addr, _)| *addr)
    }

    /// The Services for which [`Self::failures_of`] may say something else than at the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.changed)
    }

    fn is_known(&self, addr: &SocketAddr) -> bool {
        self.listening.contains_key(addr) || self.failed.contains_key(addr)
    }

    fn open(&mut self, addr: SocketAddr) {
        let Some(service) = self.wanted.get(&addr) else { return };
        match listen(addr) {
            Ok(listener) => {
                tracing::info!("health checks of service {service} are served on {addr}");
                self.changed.extend(self.failed.remove(&addr).map(|failure| failure.service));
                let served = serve(listener, addr.port(), self.asker.clone());
                self.listening.insert(addr, tokio::task::spawn_local(served));
            }
            Err(error) => {
                let next = if error.kind() == io::ErrorKind::AddrInUse {
                    format!(
                        "end what listens there (ss -ltnp 'sport = :{}' shows it; kube-proxy, perhaps)",
                        addr.port()
                    )
                } else {
                    "check the node's addresses".to_owned()
                };
                let reason = format!(
                    "service {service} healthCheckNodePort {}: not served on {addr}: {error}; {next}; it is tried again",
                    addr.port()
                );
                if self.failed.get(&addr).is_none_or(|failure| failure.reason != reason) {
                    tracing::error!("{reason}");
                    self.changed.insert(service.clone());
                }
                let old = self.failed.insert(addr, Failure { service: service.clone(), reason });
                // The port may have gone to another Service.
                self.changed.extend(old.map(|failure| failure.service).filter(|old| old != service));
            }
        }
    }
}

/// Listens at an address that need not be the node's own yet, or ever: an `ExternalIP` that a router translates, or an
/// IPv6 address that is still checked for duplicates.
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    setsockopt(&socket, IpFreebind, &true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Answers every path, as kube-proxy does: load balancers differ in what they ask for.
async fn serve(listener: TcpListener, port: u16, asker: Asker) {
    http::serve(listener, move |_path| {
        let asker = asker.clone();
        async move {
            match ask(&asker, |sender| Question::HealthCheck(port, sender)).await {
                Some(Some(answer)) => answer.to_http(),
                Some(None) => {
                    let text = format!("no Service has the healthCheckNodePort {port} now\n");
                    Answer::text(StatusCode::SERVICE_UNAVAILABLE, text)
                }
                None => stuck(),
            }
        }
    })
    .await;
}

#[cfg(test)]
#[path = "health_checks_tests.rs"]
mod tests;
