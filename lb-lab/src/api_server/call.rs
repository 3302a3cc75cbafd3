//! One request: what it asks for, which fault it meets, who may ask, and the answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::BodyExt as _;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    Seen, Shared,
    body::{Body, gzip},
    discovery, events,
    fault::Fault,
    list,
    query::{Query, Version},
    resource::{Resource, Target, Verb},
    serve::Peer,
    status::Status,
    watch::Watch,
};

/// Ends the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("hung up on purpose")]
pub(super) struct Hangup;

/// Lines that wait for a client that does not read.
const QUEUE: usize = 64;

/// Answers a request, and writes down what it was.
pub(super) async fn answer(
    shared: Arc<Shared>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Hangup> {
    let uri = request.uri().clone();
    let target = Target::parse(uri.path());
    let query = uri.query().unwrap_or("").to_owned();
    let watch = form_urlencoded::parse(query.as_bytes()).any(|(k, v)| k == "watch" && v != "0" && v != "false");
    let verb = target.as_ref().and_then(|target| target.verb(request.method(), watch)).unwrap_or(Verb::Other);
    let resource = target.as_ref().map(|target| target.resource);
    let agent = request.headers().get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let at = {
        let mut state = shared.lock();
        let (at, path) = (Instant::now(), uri.path().to_owned());
        state.seen.push(Seen { at, verb, resource, path, query: query.clone(), user_agent: agent, code: None });
        state.taken + state.seen.len() - 1
    };
    let fault = shared.lock().script.strike(verb, resource);
    let answer = match fault {
        Some(Fault::Hangup) => return Err(Hangup),
        Some(Fault::Stall) => std::future::pending().await,
        Some(Fault::HalfClose) => {
            peer.half_close();
            std::future::pending().await
        }
        Some(Fault::Status { code, retry_after }) => {
            status(&Status { retry_after, ..Status::new(code, "a fault on purpose") })
        }
        fault => {
            if let Some(Fault::Delay(delay)) = fault {
                tokio::time::sleep(delay).await;
            }
            let call = Call { shared: Arc::clone(&shared), certified: peer.certified, target, verb, query, fault };
            call.answer(request).await.unwrap_or_else(|error| status(&error))
        }
    };
    let mut state = shared.lock();
    // It may have been taken meanwhile.
    let place = at.checked_sub(state.taken);
    if let Some(seen) = place.and_then(|place| state.seen.get_mut(place)) {
        seen.code = Some(answer.status().as_u16());
    }
    drop(state);
    Ok(answer)
}

struct Call {
    shared: Arc<Shared>,
    certified: bool,
    target: Option<Target>,
    verb: Verb,
    query: String,
    fault: Option<Fault>,
}

impl Call {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let path = request.uri().path();
        let document = discovery::document(path);
        if let Some(Value::String(text)) = document {
            return Ok(plain(StatusCode::OK, "text/plain; charset=utf-8", text.into()));
        }
        if path != "/version" {
            self.authenticate(&request)?;
        }
        if let Some(document) = document {
            return Ok(json(StatusCode::OK, &document));
        }
        let Some(target) = self.target.clone() else {
            return Err(Status::new(404, "the server could not find the requested resource"));
        };
        self.authorize(&target)?;
        let known = &self.shared.config;
        match self.verb {
            Verb::Other => Err(Status::new(405, "the server does not allow this method on the requested resource")),
            Verb::Get => self.get(&target),
            Verb::List => {
                let query = Query::parse(&self.query, target.resource, known.watch_list)?;
                let compressed = accepts_gzip(&request);
                self.list(&target, &query, compressed)
            }
            Verb::Watch => {
                let query = Query::parse(&self.query, target.resource, known.watch_list)?;
                self.watch(target, query)
            }
            Verb::Create | Verb::Patch => self.write(&target, request).await,
        }
    }

    fn authenticate(&self, request: &Request<Incoming>) -> Result<(), Status> {
        let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let given = given.and_then(|text| text.strip_prefix("Bearer "));
        let state = self.shared.lock();
        let known = match &state.token {
            Some(token) => given == Some(token),
            None => !self.shared.config.client_certificates,
        };
        if known || self.certified { Ok(()) } else { Err(Status::new(401, "Unauthorized")) }
    }

    fn authorize(&self, target: &Target) -> Result<(), Status> {
        let (verb, resource) = (self.verb, target.resource);
        if !self.shared.lock().forbidden.contains(&(verb, resource)) {
            return Ok(());
        }
        let (verb, plural) = (verb.name(), resource.plural());
        let group = target.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let scope =
            target.namespace.as_ref().map_or("at the cluster scope".into(), |n| format!("in the namespace {n:?}"));
        let message = format!(
            "{plural} is forbidden: User \"agent\" cannot {verb} resource {plural:?} in API group {group:?} {scope}"
        );
        Err(Status::new(403, message))
    }

    fn get(&self, target: &Target) -> Result<Response<Body>, Status> {
        let name = target.name.clone().unwrap_or_default();
        let namespace = target.namespace.clone().unwrap_or_default();
        let key = super::resource::Key { resource: target.resource, namespace, name };
        match self.shared.lock().store.get(&key) {
            Some(object) if target.resource == Resource::Events && target.api_version == "v1" => {
                Ok(json(StatusCode::OK, &events::in_core(object.value())))
            }
            Some(object) => Ok(plain(StatusCode::OK, "application/json", object.text().into_bytes())),
            None => Err(Status::new(404, format!("{} {:?} not found", target.resource.plural(), key.name))),
        }
    }

    fn list(&self, target: &Target, query: &Query, compressed: bool) -> Result<Response<Body>, Status> {
        let text = {
            let state = self.shared.lock();
            match self.fault {
                Some(Fault::EmptyList) => list::empty(&state.store, target),
                _ => list::list(&state.store, target, query)?,
            }
        };
        if self.fault == Some(Fault::TruncatedList) {
            return Ok(truncated(text));
        }
        if compressed && text.len() >= self.shared.config.gzip_from {
            let bytes = gzip(text.as_bytes()).map_err(|error| Status::new(500, error.to_string()))?;
            let mut response = plain(StatusCode::OK, "application/json", bytes);
            response.headers_mut().insert(CONTENT_ENCODING, hyper::header::HeaderValue::from_static("gzip"));
            return Ok(response);
        }
        Ok(plain(StatusCode::OK, "application/json", text.into_bytes()))
    }

    fn watch(self, target: Target, query: Query) -> Result<Response<Body>, Status> {
        if let (Some(true), Version::At(version)) = (query.send_initial_events, query.version) {
            let current = self.shared.lock().store.version();
            if version > current {
                return Err(Status::too_large(version, current));
            }
        }
        let (lines, body) = mpsc::channel(QUEUE);
        let Self { shared, fault, .. } = self;
        Watch::spawn(shared, target, query, fault, lines);
        let mut response = Response::new(Body::Stream(body));
        response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
        Ok(response)
    }

    async fn write(&self, target: &Target, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        if target.resource != Resource::Events {
            return Err(Status::new(405, "only events can be written through the API; tests use ApiServer::apply"));
        }
        let content_type = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        let body = request.into_body().collect().await.map_err(|error| Status::new(400, error.to_string()))?;
        let body = body.to_bytes();
        let (code, event) = {
            let mut state = self.shared.lock();
            let namespace = target.namespace.as_deref().unwrap_or_default();
            if self.verb == Verb::Create && state.ending.contains(namespace) {
                return Err(Status::ending_namespace(namespace));
            }
            if self.verb == Verb::Create {
                (StatusCode::CREATED, events::create(&mut state.store, target, &body)?)
            } else {
                (StatusCode::OK, events::patch(&mut state.store, target, &content_type, &body)?)
            }
        };
        self.shared.tell_changed();
        Ok(json(code, &event))
    }
}

fn accepts_gzip(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    accepted.split(',').any(|part| part.split(';').next().map(str::trim) == Some("gzip"))
}

fn plain(code: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Some(bytes.into())));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

fn json(code: StatusCode, document: &Value) -> Response<Body> {
    plain(code, "application/json", document.to_string().into_bytes())
}

fn status(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.json());
    if let Some(seconds) = status.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Promises the whole text, sends half of it, and breaks the connection.
fn truncated(text: String) -> Response<Body> {
    let (lines, body) = mpsc::channel(2);
    let length = text.len();
    tokio::spawn(async move {
        let half = Bytes::from(text).slice(..length / 2);
        if lines.send(Ok(half)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            // The client may have gone by itself.
            let _gone = lines.send(Err(std::io::Error::other("truncated on purpose"))).await;
        }
    });
    let mut response = Response::new(Body::Stream(body));
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}
