//! Writes Events, one request at a time: what is asked for, as JSON, and what the answer means. It decides neither what
//! is worth an Event nor when.
//!
//! Events go to `events.k8s.io/v1`, as kube-proxy's do. The server stores them in the form of `v1`, where
//! `kubectl describe service` looks for the Service's uid among `involvedObject`s.

use std::time::Duration;

use hyper::{Method, StatusCode};
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};

use super::watch::{Access, Client, Fault, Refusal, encoded};
use crate::{model::Uid, plan::state::ServiceName};

/// Who writes: `reportingController`.
const CONTROLLER: &str = "berrylb";
/// For a connection and an answer each. Nobody waits for an Event, so a server that is busy is left alone soon.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that a note may have (`NoteLengthLimit` in pkg/apis/core/validation/events.go).
const NOTE: usize = 1024;
/// Bytes that `reportingInstance` may have (`ReportingInstanceLengthLimit`, there).
const INSTANCE: usize = 128;

/// `type` of an Event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventType {
    /// Somebody should do something.
    Warning,
    /// Good to know.
    Normal,
}

/// An Event that may not be there yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewEvent {
    /// The Service that it is about; the Event is in its namespace.
    pub service: ServiceName,
    /// `metadata.uid` of the Service.
    pub uid: Uid,
    /// `metadata.name` of the Event.
    pub name: String,
    /// `type`.
    pub event_type: EventType,
    /// `reason`: for machines, at most 128 bytes.
    pub reason: &'static str,
    /// `action`: what was done or not done about the Service; at most 128 bytes.
    pub action: &'static str,
    /// For people. What is longer than an API server takes is cut off.
    pub note: String,
}

/// What to write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventRequest {
    /// Unless there is an Event of that name.
    Create(Box<NewEvent>),
    /// An Event that this agent has written was seen again.
    Count {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// How often by now, at least 2.
        count: u32,
    },
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    /// The Event is new.
    Created,
    /// There is one of that name.
    Known,
    /// Its count was raised.
    Counted,
    /// There is none of that name any more: Events live for an hour, unless the server's `--event-ttl` says otherwise.
    Gone,
}

/// Why nothing was written.
#[derive(Debug)]
pub struct EventFailure {
    /// No other attempt will do better.
    pub is_final: bool,
    /// The namespace is being deleted or gone, and the Service with it: nothing is wrong.
    pub is_expected: bool,
    /// Somebody has to do something before another attempt does better.
    pub is_lasting: bool,
    /// How long the server wants to be left alone.
    pub retry_after: Option<Duration>,
    /// HTTP status; `None` if there was no answer.
    pub status: Option<u16>,
    /// What to do about it, for the log.
    pub text: String,
}

/// Sends requests by a connection of its own, so that a long list never holds one up, and no Event a watch.
#[derive(Debug)]
pub struct EventWriter {
    access: Access,
    /// This node's name.
    instance: String,
    client: Option<Client>,
    /// Requests in a row that had no answer.
    failures: u32,
}

impl EventWriter {
    /// A writer without a connection yet. `node` is told as who has written an Event.
    #[must_use]
    pub fn new(access: Access, node: &str) -> Self {
        Self { access, instance: shortened(node, INSTANCE), client: None, failures: 0 }
    }

    /// Whether there is a connection, perhaps.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    /// Lets go of the connection.
    pub fn disconnect(&mut self) {
        self.client = None;
    }

    /// Sends a request, and waits for its answer.
    ///
    /// # Errors
    /// If nothing was written.
    pub async fn write(&mut self, request: &EventRequest) -> Result<Written, EventFailure> {
        let sent = self.send(request).await;
        if sent.as_ref().is_err_and(Fault::wants_new_connection) {
            self.disconnect();
            self.failures = self.failures.saturating_add(1);
        } else {
            self.failures = 0;
        }
        outcome(request, sent)
    }

    async fn send(&mut self, request: &EventRequest) -> Result<(), Fault> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let made = tokio::time::timeout(PATIENCE, Client::connect(&self.access, self.failures)).await;
                self.client.insert(made.map_err(|_| Fault::Silent(PATIENCE))??).clone()
            }
        };
        let unwritable =
            |error: serde_json::Error| Fault::Garbled(format!("an Event cannot be written as JSON: {error}"));
        let now = MicroTime(Timestamp::now());
        match request {
            EventRequest::Create(event) => {
                let body = serde_json::to_vec(&self.event(event, now)).map_err(unwritable)?;
                let path = path(event.service.namespace());
                client.write(Method::POST, &path, "application/json", body, PATIENCE).await
            }
            EventRequest::Count { namespace, name, count } => {
                let count = i32::try_from(*count).unwrap_or(i32::MAX);
                let series = EventSeries { count, last_observed_time: now };
                let body = serde_json::to_vec(&serde_json::json!({ "series": series })).map_err(unwritable)?;
                let path = format!("{}/{}", path(namespace), encoded(name));
                client.write(Method::PATCH, &path, "application/merge-patch+json", body, PATIENCE).await
            }
        }
    }

    fn event(&self, event: &NewEvent, now: MicroTime) -> Event {
        let NewEvent { service, uid, name, event_type, reason, action, note } = event;
        let event_type = match event_type {
            EventType::Warning => "Warning",
            EventType::Normal => "Normal",
        };
        let namespace = Some(service.namespace().to_owned());
        Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: namespace.clone(), ..ObjectMeta::default() },
            event_time: Some(now),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                namespace,
                name: Some(service.name().to_owned()),
                uid: Some(uid.to_string()),
                ..ObjectReference::default()
            }),
            type_: Some(event_type.to_owned()),
            reason: Some((*reason).to_owned()),
            action: Some((*action).to_owned()),
            note: Some(shortened(note, NOTE)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

fn path(namespace: &str) -> String {
    format!("/apis/events.k8s.io/v1/namespaces/{}/events", encoded(namespace))
}

/// What an answer means.
fn outcome(request: &EventRequest, sent: Result<(), Fault>) -> Result<Written, EventFailure> {
    let is_new = matches!(request, EventRequest::Create(_));
    let fault = match sent {
        Ok(()) => return Ok(if is_new { Written::Created } else { Written::Counted }),
        Err(fault) => fault,
    };
    let status = match &fault {
        Fault::Status(refusal) => Some(refusal.status),
        Fault::Access(_)
        | Fault::Transport(_)
        | Fault::Silent(_)
        | Fault::Expired
        | Fault::Unconfirmed
        | Fault::Garbled(_) => None,
    };
    match status {
        Some(StatusCode::CONFLICT) if is_new => return Ok(Written::Known),
        Some(StatusCode::NOT_FOUND) if !is_new => return Ok(Written::Gone),
        _ => {}
    }
    let ends = matches!(&fault, Fault::Status(refusal) if refusal.is_of_ending_namespace());
    // A namespace that is not there: what is known of it is older than what the server knows.
    let is_expected = ends || status == Some(StatusCode::NOT_FOUND);
    let refused = [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY];
    Err(EventFailure {
        is_final: is_expected || status.is_some_and(|status| refused.contains(&status)),
        is_expected,
        is_lasting: fault.is_lasting(),
        retry_after: fault.retry_after(),
        status: status.map(|status| status.as_u16()),
        text: text(&fault),
    })
}

fn text(fault: &Fault) -> String {
    if let Fault::Status(Refusal { status: StatusCode::FORBIDDEN, message, .. }) = fault {
        return format!(
            "not allowed (403 {message}): give this agent's ClusterRole create and patch on events of events.k8s.io, as \
             manifests/base/rbac.yaml does, or start it with --events off"
        );
    }
    fault.to_string()
}

/// Not longer than so many bytes, whole characters, and marked where it was cut.
fn shortened(text: &str, most: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}{MARK}", &text[..text.floor_char_boundary(most - MARK.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::watch::Hints;

    fn new_event(note: &str) -> NewEvent {
        NewEvent {
            service: ServiceName::new("shop", "web"),
            uid: Uid::new("u-1").unwrap(),
            name: "web.0123".to_owned(),
            event_type: EventType::Warning,
            reason: "AddressConflict",
            action: "Serve",
            note: note.to_owned(),
        }
    }

    fn writer(node: &str) -> EventWriter {
        let hints = Hints { server: Some("http://127.0.0.1:1"), ..Hints::default() };
        EventWriter::new(Access::new(hints, |_| None).unwrap(), node)
    }

    #[test]
    fn an_event_as_the_api_has_it() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let event = writer("raspi001").event(&new_event("taken"), MicroTime(now));
        let wanted = serde_json::json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "web.0123", "namespace": "shop"},
            "eventTime": "2026-01-02T03:04:05.000000Z", "type": "Warning", "reason": "AddressConflict",
            "action": "Serve", "note": "taken", "reportingController": "berrylb", "reportingInstance": "raspi001",
            "regarding": {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "u-1"},
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), wanted);
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let event = writer(&"n".repeat(200)).event(&new_event(&"ä".repeat(600)), MicroTime(Timestamp::UNIX_EPOCH));
        let (note, instance) = (event.note.unwrap(), event.reporting_instance.unwrap());
        assert!((1020..=NOTE).contains(&note.len()) && note.ends_with("ä…"), "{}", note.len());
        assert_eq!(instance.len(), INSTANCE);
        assert_eq!(shortened("short", 5), "short");
    }

    #[test]
    fn answers_have_a_meaning() {
        let create = EventRequest::Create(Box::new(new_event("taken")));
        let count = EventRequest::Count { namespace: "shop".into(), name: "web.0123".into(), count: 2 };
        let answer = |request, code, body: &str| {
            let status = StatusCode::from_u16(code).unwrap();
            outcome(request, Err(Fault::Status(Refusal::new(status, None, body.as_bytes()))))
        };
        assert_eq!(outcome(&create, Ok(())).unwrap(), Written::Created);
        assert_eq!(outcome(&count, Ok(())).unwrap(), Written::Counted);
        assert_eq!(answer(&create, 409, "").unwrap(), Written::Known);
        assert_eq!(answer(&count, 404, "").unwrap(), Written::Gone);
        let terminating = r#"{"details":{"causes":[{"reason":"NamespaceTerminating"}]}}"#;
        for (request, code, body, is_final, is_expected, is_lasting) in [
            (&create, 403, "", false, false, true),
            (&create, 403, terminating, true, true, true),
            (&create, 404, "", true, true, false),
            (&create, 422, "", true, false, false),
            (&count, 409, "", false, false, false),
            (&count, 429, "", false, false, false),
            (&create, 500, "", false, false, false),
        ] {
            let failure = answer(request, code, body).unwrap_err();
            let found = (failure.is_final, failure.is_expected, failure.is_lasting);
            assert_eq!(found, (is_final, is_expected, is_lasting), "{code} {body}");
        }
        let text = answer(&count, 403, r#"{"message":"events is forbidden"}"#).unwrap_err().text;
        assert!(text.contains("events is forbidden") && text.contains("--events off"), "{text}");
        let silent = outcome(&create, Err(Fault::Silent(PATIENCE))).unwrap_err();
        assert!(!silent.is_final && silent.status.is_none());
    }
}
