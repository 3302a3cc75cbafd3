//! What goes wrong between us and the API server, in words that say what to do next.

use std::{fmt, time::Duration};

use hyper::StatusCode;
use serde::Deserialize;

/// The longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// A failed request, list or watch.
#[derive(Debug)]
pub(in crate::k8s) enum Fault {
    /// Files that say how to reach the server cannot be used.
    Access(String),
    /// No answer, or it broke off.
    Transport(String),
    /// Nothing came for so long.
    Silent(Duration),
    /// An answer with another status than 200.
    Status(Refusal),
    /// The version to go on from is no longer kept: list again.
    Expired,
    /// An empty list, for the first time: ask again.
    Unconfirmed,
    /// An answer that is not what was asked for.
    Garbled(String),
}

/// What a server said in place of what was asked for.
#[derive(Debug)]
pub(in crate::k8s) struct Refusal {
    pub(in crate::k8s) status: StatusCode,
    pub(in crate::k8s) message: String,
    pub(super) retry_after: Option<Duration>,
    another_history: bool,
    namespace_ends: bool,
}

/// `v1 Status`, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    pub(super) code: Option<u16>,
    pub(super) message: Option<String>,
    details: Option<StatusDetails>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StatusDetails {
    retry_after_seconds: Option<u64>,
    causes: Vec<StatusCause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusCause {
    reason: String,
}

/// The version that was asked for is one that the server has not come to: its storage is another one than before.
const VERSION_TOO_LARGE: &str = "ResourceVersionTooLarge";
/// Nothing new is made in a namespace that is being deleted.
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

impl Status {
    fn has_cause(&self, reason: &str) -> bool {
        self.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == reason)
    }
}

impl Refusal {
    /// From an answer: its status, its `Retry-After` in seconds, its body.
    pub(in crate::k8s) fn new(status: StatusCode, retry_after: Option<u64>, body: &[u8]) -> Self {
        let said: Status = serde_json::from_slice(body).unwrap_or_default();
        let another_history = said.has_cause(VERSION_TOO_LARGE);
        let namespace_ends = said.has_cause(NAMESPACE_TERMINATING);
        let message = said.message.filter(|text| !text.is_empty()).unwrap_or_else(|| {
            // A proxy's page, perhaps: its first line is enough to know it by.
            let text = String::from_utf8_lossy(body);
            text.lines().next().unwrap_or_default().chars().take(200).collect()
        });
        let seconds = retry_after.or(said.details.and_then(|details| details.retry_after_seconds));
        let retry_after = seconds.filter(|s| *s > 0).map(|s| Duration::from_secs(s).min(LONGEST_WAIT));
        Self { status, message, retry_after, another_history, namespace_ends }
    }

    /// Whether it is because the namespace is being deleted.
    pub(in crate::k8s) fn is_of_ending_namespace(&self) -> bool {
        self.namespace_ends
    }

    /// From a `Status` in a watch, which came with HTTP 200.
    pub(super) fn of_watch(status: Status) -> Self {
        let another_history = status.has_cause(VERSION_TOO_LARGE);
        let code = status.code.and_then(|code| StatusCode::from_u16(code).ok());
        let seconds = status.details.and_then(|details| details.retry_after_seconds);
        Self {
            status: code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            message: status.message.unwrap_or_default(),
            another_history,
            namespace_ends: false,
            retry_after: seconds.map(|s| Duration::from_secs(s).min(LONGEST_WAIT)),
        }
    }
}

impl From<Refusal> for Fault {
    /// What asks for a new list, whatever its status, is [`Fault::Expired`].
    fn from(refusal: Refusal) -> Self {
        if refusal.status == StatusCode::GONE || refusal.another_history {
            Self::Expired
        } else {
            Self::Status(refusal)
        }
    }
}

impl Fault {
    /// The wait that the server asks for.
    pub(in crate::k8s) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(refusal) => refusal.retry_after,
            Self::Access(_)
            | Self::Transport(_)
            | Self::Silent(_)
            | Self::Expired
            | Self::Unconfirmed
            | Self::Garbled(_) => None,
        }
    }

    /// Whether a new connection, made from the files as they are by then, may help: another token, certificate, server.
    pub(in crate::k8s) fn wants_new_connection(&self) -> bool {
        match self {
            Self::Access(_) | Self::Transport(_) | Self::Silent(_) | Self::Garbled(_) => true,
            Self::Status(refusal) => refusal.status == StatusCode::UNAUTHORIZED,
            Self::Expired | Self::Unconfirmed => false,
        }
    }

    /// Whether it is told when it happens for the first time; the others often are over before anybody has read of them.
    pub(in crate::k8s) fn is_lasting(&self) -> bool {
        match self {
            Self::Access(_) => true,
            Self::Status(refusal) => [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&refusal.status),
            Self::Transport(_) | Self::Silent(_) | Self::Expired | Self::Unconfirmed | Self::Garbled(_) => false,
        }
    }

    /// Whether the server knows us and says that we may not.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Status(refusal) if refusal.status == StatusCode::FORBIDDEN)
    }

    /// Whether it is us, or how much we ask, that the server does not like, and not its own state.
    pub(super) fn is_about_us(&self) -> bool {
        match self {
            Self::Status(refusal) => [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS]
                .contains(&refusal.status),
            Self::Access(_) => true,
            Self::Transport(_) | Self::Silent(_) | Self::Expired | Self::Unconfirmed | Self::Garbled(_) => false,
        }
    }

    /// Whether the server does not know lists as streams: Kubernetes before 1.27, and later ones with the gate `WatchList`
    /// off, as it is by default before 1.32 and in 1.33. They refuse the parameters with 422 (`ValidateListOptions` of
    /// k8s.io/apimachinery); what is no kube-apiserver may ignore them and say nothing.
    pub(super) fn refuses_streams(&self) -> bool {
        match self {
            Self::Status(refusal) => {
                [StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY].contains(&refusal.status)
            }
            Self::Silent(_) => true,
            Self::Access(_) | Self::Transport(_) | Self::Expired | Self::Unconfirmed | Self::Garbled(_) => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Access(cause) | Self::Garbled(cause) => f.write_str(cause),
            Self::Transport(cause) => write!(f, "no connection: {cause}"),
            Self::Silent(time) => write!(f, "nothing came for {} s", time.as_secs()),
            Self::Expired => f.write_str("the version to go on from is no longer kept"),
            Self::Unconfirmed => f.write_str("the list is empty; it is asked for again before it counts"),
            Self::Status(Refusal { status, message, .. }) => match *status {
                StatusCode::UNAUTHORIZED => write!(
                    f,
                    "the server does not know us (401 {message}): token or client certificate have expired or are of \
                     another cluster; they are read again"
                ),
                StatusCode::FORBIDDEN => write!(
                    f,
                    "not allowed (403 {message}): bind this agent's account to a ClusterRole with get, list and watch on \
                     services and nodes of \"\" and endpointslices of discovery.k8s.io, as manifests/base/rbac.yaml does"
                ),
                other => write!(f, "the server answers {} {message}", other.as_u16()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_another_history_is_one_that_expired() {
        let body = r#"{"code":504,"details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}"#;
        let status = StatusCode::GATEWAY_TIMEOUT;
        assert!(matches!(Refusal::new(status, None, body.as_bytes()).into(), Fault::Expired));
        assert!(matches!(Refusal::of_watch(serde_json::from_str(body).unwrap()).into(), Fault::Expired));
        assert!(matches!(Refusal::new(status, None, b"").into(), Fault::Status(_)));
    }

    fn refusal(code: u16, header: Option<u64>, body: &str) -> Fault {
        Fault::Status(Refusal::new(StatusCode::from_u16(code).unwrap(), header, body.as_bytes()))
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let body = r#"{"kind":"Status","message":"services is forbidden: User \"x\" cannot list","code":403}"#;
        let text = refusal(403, None, body).to_string();
        assert!(text.contains("services is forbidden") && text.contains("rbac.yaml"), "{text}");
        assert!(refusal(401, None, "").to_string().contains("read again"));
        let page = refusal(502, None, "<html>Bad gateway\n<p>").to_string();
        assert!(page.ends_with("502 <html>Bad gateway"), "{page}");
    }

    #[test]
    fn the_wait_comes_from_header_or_body_and_has_a_bound() {
        let body = r#"{"details":{"retryAfterSeconds":7}}"#;
        assert_eq!(refusal(429, None, body).retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(refusal(429, Some(3), body).retry_after(), Some(Duration::from_secs(3)));
        assert_eq!(refusal(503, Some(86_400), "").retry_after(), Some(LONGEST_WAIT));
        assert_eq!(refusal(503, None, "").retry_after(), None);
    }
}
