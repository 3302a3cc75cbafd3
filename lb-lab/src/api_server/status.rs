//! `Status` objects: what the API answers when it does not answer what was asked for.

use serde_json::{Value, json};

/// An error as the API tells it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) message: String,
    /// Whole seconds, in the body and as `Retry-After`.
    pub(super) retry_after: Option<u32>,
    /// A token by which a list that has expired can go on, inconsistently.
    pub(super) resume: Option<String>,
    /// `details.causes[].reason`, where clients look at it.
    pub(super) cause: Option<&'static str>,
}

impl Status {
    pub(super) fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, resume: None, cause: None }
    }

    pub(super) fn expired(version: u64, oldest: u64) -> Self {
        Self::new(410, format!("too old resource version: {version} ({oldest})"))
    }

    /// The version is one that this server has not seen yet.
    pub(super) fn too_large(version: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {version}, current: {current}");
        Self { retry_after: Some(1), cause: Some("ResourceVersionTooLarge"), ..Self::new(504, message) }
    }

    /// Nothing is created in a namespace that is being deleted (plugin/pkg/admission/namespace/lifecycle).
    pub(super) fn ending_namespace(namespace: &str) -> Self {
        let message = format!("unable to create new content in namespace {namespace} because it is being terminated");
        Self { cause: Some("NamespaceTerminating"), ..Self::new(403, message) }
    }

    pub(super) fn json(&self) -> Value {
        let Self { code, message, retry_after, resume, cause } = self;
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason(*code), "code": code,
        });
        if let Some(seconds) = retry_after {
            status["details"]["retryAfterSeconds"] = json!(seconds);
        }
        if let Some(cause) = cause {
            status["details"]["causes"] = json!([{"reason": cause, "message": "Too large resource version"}]);
        }
        if let Some(resume) = resume {
            status["metadata"]["continue"] = json!(resume);
        }
        status
    }
}

/// `metav1.StatusReason` of each code that is used here.
fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "AlreadyExists",
        410 => "Expired",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    }
}
