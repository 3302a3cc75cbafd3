//! The agent's small HTTP servers: health, metrics and the API socket, each a function from method and path to answer.

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// An answer to a GET.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
    /// Headers besides the content type.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Answer {
    pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self { status, content_type: "application/json", body, headers: Vec::new() },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write JSON: {error}\n")),
        }
    }

    pub(super) fn text(status: StatusCode, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body, headers: Vec::new() }
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// Connections at a time and seconds that one may take for its request: whoever asks more does not cost the agent.
const CONNECTIONS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that connections come from.
pub(super) trait Accept {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// The next connection.
    async fn next(&self) -> io::Result<Self::Stream>;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves what is only read, by path, until dropped.
pub(super) async fn serve<H, F>(listener: impl Accept, handler: H)
where
    H: Fn(String) -> F + Clone + 'static,
    F: Future<Output = Answer> + 'static,
{
    serve_all(listener, move |method, path| {
        let handler = handler.clone();
        async move {
            if method == Method::GET || method == Method::HEAD {
                handler(path).await
            } else {
                Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".to_owned())
            }
        }
    })
    .await;
}

/// Serves by method and path, until dropped.
pub(super) async fn serve_all<H, F>(listener: impl Accept, handler: H)
where
    H: Fn(Method, String) -> F + Clone + 'static,
    F: Future<Output = Answer> + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Nobody closes the semaphore.
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.next().await {
            Ok(stream) => spawn(stream, handler.clone(), place),
            Err(error) => pause(&error).await,
        }
    }
}

/// Out of descriptors, mostly: taking the next one at once would spin.
async fn pause(error: &io::Error) {
    tracing::warn!("cannot accept a connection: {error}");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

fn spawn<S, H, F>(stream: S, handler: H, place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Fn(Method, String) -> F + Clone + 'static,
    F: Future<Output = Answer> + 'static,
{
    tokio::task::spawn_local(async move {
        let _place = place;
        let service = service_fn(move |request: Request<Incoming>| {
            let handler = handler.clone();
            async move { Ok::<_, Infallible>(respond(request, handler).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(PATIENCE, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("a client's connection ended: {error}"),
            Err(_) => tracing::debug!("a client took too long"),
        }
    });
}

async fn respond<H, F>(request: Request<Incoming>, handler: H) -> Response<Full<Bytes>>
where
    H: Fn(Method, String) -> F,
    F: Future<Output = Answer>,
{
    let answer = handler(request.method().clone(), request.uri().path().to_owned()).await;
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response.headers_mut().extend(answer.headers);
    response
}
