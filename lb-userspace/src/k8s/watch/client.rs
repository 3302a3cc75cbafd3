//! One connection to the API server: requests out, bodies in, with limits on every wait. Decodes no object.
//!
//! kube's own client is not used, only its way from a configuration to TLS and authorization: it has no keepalive, does
//! not say what `Retry-After` was, and reads a watch into types of Kubernetes as a whole.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT,
    },
    http::request::Builder,
};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Config,
    client::{Body, ConfigExt as _},
};
use tokio::time::timeout;
use tower::{BoxError, Layer as _, ServiceExt as _, util::BoxCloneSyncService};

use super::{
    Patience,
    access::Access,
    fault::{Fault, Refusal},
};
use crate::chain::chain;

/// A server that is silent is asked by TCP whether it is there: after this, then again and again. client-go asks by
/// HTTP/2 after 30 s and waits 15 s (`HTTP2_READ_IDLE_TIMEOUT_SECONDS`).
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMES: u32 = 3;
/// What was sent and is not acknowledged for this long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// As much of an error's body is read.
const ERROR_BODY: usize = 64 << 10;

/// Sends requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::k8s) struct Client {
    service: BoxCloneSyncService<Request<Body>, Response<Incoming>, BoxError>,
    /// Read for each request: rotated tokens count at once, and requests are few.
    token_file: Option<PathBuf>,
    patience: Patience,
}

impl Client {
    /// Prepares TLS and authorization, without a connection yet. May run a kubeconfig's `exec` plugin, and so blocks.
    ///
    /// # Errors
    /// If certificates, keys or tokens are no good.
    fn new(mut config: Config, patience: Patience) -> Result<Self, Fault> {
        let unusable = |error: kube::Error| Fault::Access(chain(&error));
        let token_file = config.auth_info.token_file.take().map(PathBuf::from);
        if token_file.is_some() {
            // As for client-go, a file counts before a token beside it.
            config.auth_info.token = None;
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(patience.connect));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE_AGAIN));
        tcp.set_keepalive_retries(Some(KEEPALIVE_TIMES));
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let tls =
            config.rustls_https_connector_with_connector(tcp).map_err(|error| match (unusable(error), &config) {
                (Fault::Access(cause), Config { root_cert: None, .. }) => {
                    Fault::Access(format!("{cause}; the kubeconfig names no certificate-authority or …-data"))
                }
                (fault, _) => fault,
            })?;
        let http = HttpClient::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build::<_, Body>(tls);
        let headers = config.extra_headers_layer().map_err(unusable)?.layer(http.map_err(BoxError::from));
        let base = config.base_uri_layer();
        let service = match config.auth_layer().map_err(unusable)? {
            Some(auth) => BoxCloneSyncService::new(base.layer(auth.layer(headers))),
            None => BoxCloneSyncService::new(base.layer(headers)),
        };
        Ok(Self { service, token_file, patience })
    }

    /// As [`Self::prepare`], by what the files say now. `failures`: how often in a row the server did not answer.
    ///
    /// # Errors
    /// If they cannot be read or used.
    pub(in crate::k8s) async fn connect(access: &Access, failures: u32) -> Result<Self, Fault> {
        let (config, _) = access.config(failures).await.map_err(|error| Fault::Access(error.to_string()))?;
        Self::prepare(config, Patience::default()).await
    }

    /// As [`Self::new`], and blocks nobody: a kubeconfig's plugin is a program that may take its time.
    ///
    /// # Errors
    /// If certificates, keys or tokens are no good.
    pub(super) async fn prepare(config: Config, patience: Patience) -> Result<Self, Fault> {
        let made = tokio::task::spawn_blocking(move || Self::new(config, patience)).await;
        made.map_err(|error| Fault::Access(format!("preparing the connection failed: {error}")))?
    }

    /// Asks for a path and waits for the head of the answer. `compressed`: the body may be.
    ///
    /// # Errors
    /// If there is none, or its status says that it is none.
    pub(super) async fn get(&self, path: &str, compressed: bool) -> Result<Answer, Fault> {
        let request = Request::get(path).header(ACCEPT_ENCODING, if compressed { "gzip" } else { "identity" });
        self.ask(request, Body::empty(), self.patience.head).await
    }

    /// Sends JSON and waits so long for each part of the answer, which says nothing that matters.
    ///
    /// # Errors
    /// If there is none, or its status is neither 200 nor 201.
    pub(in crate::k8s) async fn write(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<(), Fault> {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, content_type);
        let mut answer = self.ask(request, body.into(), patience).await?;
        // To its end, or the connection could not be used again.
        while answer.chunk(patience).await?.is_some() {}
        Ok(())
    }

    async fn ask(&self, request: Builder, body: Body, patience: Duration) -> Result<Answer, Fault> {
        let mut request = request
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("berrylb/", env!("CARGO_PKG_VERSION")))
            .body(body)
            .map_err(|error| Fault::Access(chain(&error)))?;
        if let Some(path) = &self.token_file {
            request.headers_mut().insert(AUTHORIZATION, bearer(path)?);
        }
        let response = match timeout(patience, self.service.clone().oneshot(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Fault::Transport(chain(&*error))),
            Err(_) => return Err(Fault::Silent(patience)),
        };
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = header(RETRY_AFTER).and_then(|value| value.trim().parse().ok());
        let inflate = match header(CONTENT_ENCODING) {
            None | Some("" | "identity") => None,
            // Since Kubernetes 1.37 a watch is one gzip member after another.
            Some("gzip") => Some(MultiGzDecoder::new(Vec::new())),
            Some(other) => return Err(Fault::Garbled(format!("the answer is encoded as {other:?}"))),
        };
        let status = response.status();
        let mut answer = Answer { body: response.into_body(), inflate };
        if [StatusCode::OK, StatusCode::CREATED].contains(&status) {
            return Ok(answer);
        }
        let mut body = Vec::new();
        while body.len() < ERROR_BODY
            && let Ok(Some(chunk)) = answer.chunk(self.patience.connect).await
        {
            body.extend_from_slice(&chunk);
        }
        Err(Refusal::new(status, retry_after, &body).into())
    }
}

/// The header of a token file. A line feed behind the token, as editors leave it, is none of it.
fn bearer(path: &Path) -> Result<HeaderValue, Fault> {
    let unusable = |cause: String| Fault::Access(format!("token {}: {cause}", path.display()));
    let token = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    let header = HeaderValue::try_from(format!("Bearer {}", token.trim()));
    let mut header = header.map_err(|_| unusable("holds characters that no token has".to_owned()))?;
    header.set_sensitive(true);
    Ok(header)
}

/// A body with status 200, or 201.
pub(super) struct Answer {
    body: Incoming,
    inflate: Option<MultiGzDecoder<Vec<u8>>>,
}

impl Answer {
    /// What comes next; `None` at an orderly end.
    ///
    /// # Errors
    /// If it breaks off, or nothing comes for as long as `patience`.
    pub(super) async fn chunk(&mut self, patience: Duration) -> Result<Option<Bytes>, Fault> {
        loop {
            let frame = match timeout(patience, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(Fault::Transport(chain(&error))),
                Ok(None) => return Ok(None),
                Err(_) => return Err(Fault::Silent(patience)),
            };
            let Ok(data) = frame.into_data() else { continue };
            let Some(inflate) = &mut self.inflate else { return Ok(Some(data)) };
            inflate
                .write_all(&data)
                .and_then(|()| inflate.flush())
                .map_err(|error| Fault::Garbled(format!("the answer is no good gzip: {error}")))?;
            let plain = std::mem::take(inflate.get_mut());
            if !plain.is_empty() {
                return Ok(Some(plain.into()));
            }
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Self::chunk`].
    pub(super) async fn all(mut self, patience: Duration) -> Result<Vec<u8>, Fault> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk(patience).await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}
