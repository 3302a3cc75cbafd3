//! The agent's small HTTP servers: health, metrics and the API socket, each a function from path to answer.

use std::{convert::Infallible, future::Future, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};

/// An answer to a GET.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self { status, content_type: "application/json", body },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write JSON: {error}\n")),
        }
    }

    pub(super) fn text(status: StatusCode, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }
}

/// Connections at a time and seconds that one may take for its request: whoever asks more does not cost the agent.
const CONNECTIONS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves TCP until dropped.
pub(super) async fn serve_tcp<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(String) -> F + Clone + 'static,
    F: Future<Output = Answer> + 'static,
{
    let places = std::rc::Rc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned_rc().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => spawn(stream, handler.clone(), place),
            Err(error) => pause(&error).await,
        }
    }
}

/// Serves a Unix socket until dropped.
pub(super) async fn serve_unix<H, F>(listener: UnixListener, handler: H)
where
    H: Fn(String) -> F + Clone + 'static,
    F: Future<Output = Answer> + 'static,
{
    let places = std::rc::Rc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned_rc().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => spawn(stream, handler.clone(), place),
            Err(error) => pause(&error).await,
        }
    }
}

/// A place among the connections, free again when dropped.
struct Place(std::rc::Rc<Semaphore>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

trait AcquireRc {
    async fn acquire_owned_rc(self) -> Result<Place, tokio::sync::AcquireError>;
}

impl AcquireRc for std::rc::Rc<Semaphore> {
    async fn acquire_owned_rc(self) -> Result<Place, tokio::sync::AcquireError> {
        self.acquire().await?.forget();
        Ok(Place(self))
    }
}

/// Out of descriptors, mostly: taking the next one at once would spin.
async fn pause(error: &std::io::Error) {
    tracing::warn!("cannot accept a connection: {error}");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

fn spawn<S, H, F>(stream: S, handler: H, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Fn(String) -> F + Clone + 'static,
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
    H: Fn(String) -> F,
    F: Future<Output = Answer>,
{
    let answer = if request.method() == Method::GET || request.method() == Method::HEAD {
        handler(request.uri().path().to_owned()).await
    } else {
        Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".to_owned())
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(answer.content_type));
    response
}
