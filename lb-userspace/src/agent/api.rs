//! What the other commands ask a running agent: the names behind the maps' numbers, and whether the maps are as they
//! should be. Over a Unix socket, as HTTP.
//!
//! The maps stay the truth about what the datapath does; the agent only tells names and health checks.

use std::{io, path::Path, time::Duration};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::snapshot::span;
use crate::{maps::Names, plan::compare::Difference};

/// Names: to be got.
pub(super) const PATH: &str = "/v1/names";
/// Differences: to be got, or to be mended by a POST.
pub(super) const VERIFY: &str = "/v1/verify";

/// A `healthCheckNodePort`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiHealthCheck {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// A link that carries programs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiLink {
    /// Name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// `pod`, `uplink` or `overlay`.
    pub kind: String,
    /// Why it is that.
    pub reason: String,
    /// Whether the tc programs are attached.
    pub attached: bool,
    /// XDP beside them.
    pub xdp: ApiXdp,
}

/// XDP on a link.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiXdp {
    /// `native`, `generic` or `off`.
    pub mode: String,
    /// Why.
    pub reason: String,
}

/// The snapshot of objects on disk (`--state-dir`).
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiSnapshot {
    /// Its file.
    pub path: String,
    /// The datapath holds what it says: the node has booted, and the API server's lists were not read yet.
    pub in_use: bool,
    /// When it was written, in seconds since 1970-01-01 UTC; null: there is none.
    pub written: Option<u64>,
    /// Seconds since; null if the clock is behind that time.
    pub age_seconds: Option<u64>,
    /// Why it is not written, or was not used.
    pub problem: Option<String>,
}

/// What the agent answers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiAnswer {
    /// `--node-name`.
    pub node: String,
    /// The first full state is in the datapath.
    pub ready: bool,
    /// The agent's bpffs folder, so that nobody takes one agent's names for another's maps.
    pub bpffs: String,
    /// Names of backend sets and zones of backends.
    pub names: Names,
    /// Health check ports.
    pub health_checks: Vec<ApiHealthCheck>,
    /// Services that are not, or only partly, in the datapath, and why.
    pub failed: Vec<String>,
    /// What else there is to know of Services: objects that are not understood, addresses that others have. Each begins with
    /// `service NAMESPACE/NAME`.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// Cgroups and network namespaces whose sockets are left to the packet path.
    #[serde(default)]
    pub skipped: Vec<String>,
    /// Links that carry programs.
    #[serde(default)]
    pub links: Vec<ApiLink>,
    /// With `--state-dir`.
    #[serde(default)]
    pub snapshot: Option<ApiSnapshot>,
}

impl ApiSnapshot {
    /// What whoever looks at the datapath should know of it, if anything.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let Self { path, in_use, age_seconds, problem, .. } = self;
        if *in_use {
            let age = age_seconds.map_or_else(|| "of unknown age".to_owned(), |age| format!("{} old", span(age)));
            return Some(format!(
                "this is what the snapshot {path} says, which is {age}: the node has booted, and the API server's lists \
                 were not read yet"
            ));
        }
        problem.clone()
    }
}

/// How the datapath differs from what the agent wants.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiVerdict {
    /// As in [`ApiAnswer`].
    pub bpffs: String,
    /// As in [`ApiAnswer`]; nothing is compared before.
    pub ready: bool,
    /// As in [`ApiAnswer`].
    #[serde(default)]
    pub snapshot: Option<ApiSnapshot>,
    /// What differed and was mended.
    pub repaired: Vec<Difference>,
    /// What differs now.
    pub left: Vec<Difference>,
    /// Why something could not be mended.
    pub problems: Vec<String>,
    /// What Services lack that no repair gives them, such as room in a table, each with what does.
    #[serde(default)]
    pub limits: Vec<String>,
}

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(6);

/// Asks the agent behind the socket. `Ok(None)`: no agent runs there.
///
/// # Errors
/// If one does but does not answer, or answers something else.
pub fn ask(socket: &Path) -> io::Result<Option<ApiAnswer>> {
    request(socket, Method::GET, PATH)
}

/// Asks the agent behind the socket how the datapath differs from what it should be, and to mend it. `Ok(None)`: no
/// agent runs there.
///
/// # Errors
/// If one does but does not answer, or cannot tell.
pub fn verify(socket: &Path, repair: bool) -> io::Result<Option<ApiVerdict>> {
    request(socket, if repair { Method::POST } else { Method::GET }, VERIFY)
}

fn request<T: DeserializeOwned>(socket: &Path, method: Method, path: &str) -> io::Result<Option<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match tokio::time::timeout(PATIENCE, exchange(socket, method, path)).await {
            Ok(answer) => answer,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the agent at {} does not answer", socket.display()),
            )),
        }
    })
}

async fn exchange<T: DeserializeOwned>(socket: &Path, method: Method, path: &str) -> io::Result<Option<T>> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(io::Error::new(error.kind(), format!("{error}; run this as root")));
        }
        Err(error) => return Err(error),
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "berrylb")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(io::Error::other)?;
        if !status.is_success() {
            let reason = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
            return Err(io::Error::other(format!("it answers {status}: {reason}")));
        }
        serde_json::from_slice(&body.to_bytes()).map_err(io::Error::other)
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer.map(Some),
        ended = connection => {
            ended.map_err(io::Error::other)?;
            answer.await.map(Some)
        }
    }
}
