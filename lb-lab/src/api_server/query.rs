//! The query string of lists and watches, and the API server's rules on which options go together
//! (`ValidateListOptions` of k8s.io/apimachinery). Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    resource::{Key, Resource},
    selector::Selector,
    status::Status,
};

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Match {
    Exact,
    NotOlderThan,
}

/// Which version a list or a watch is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Version {
    /// Left out: the present.
    Latest,
    /// `0`: whatever the server has at hand.
    Any,
    At(u64),
}

/// Where the next page begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Continue {
    /// None: as things are now, after an expired page.
    pub(super) version: Option<u64>,
    pub(super) start: Key,
}

#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) watch: bool,
    pub(super) selector: Selector,
    pub(super) version: Version,
    pub(super) version_match: Option<Match>,
    /// None: no limit.
    pub(super) limit: Option<usize>,
    pub(super) resume: Option<Continue>,
    pub(super) bookmarks: bool,
    pub(super) send_initial_events: Option<bool>,
    pub(super) timeout: Option<Duration>,
}

impl Query {
    /// The options of a request for a resource. `watch_list`: whether streaming lists are served.
    pub(super) fn parse(text: &str, resource: Resource, watch_list: bool) -> Result<Self, Status> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        let value = |key: &str| pairs.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
        let flag = |key: &str| match value(key) {
            "" => None,
            text => Some(!matches!(text, "0" | "false")),
        };
        let number = |key: &str| match value(key) {
            "" => Ok(None),
            text => {
                text.parse::<u64>().map(Some).map_err(|_| Status::new(400, format!("{key}: invalid value {text:?}")))
            }
        };
        let bad = |message: String| Status::new(400, message);
        let version = match value("resourceVersion") {
            "" => Version::Latest,
            "0" => Version::Any,
            text => Version::At(text.parse().map_err(|_| bad(format!("invalid resource version {text:?}")))?),
        };
        let version_match = match value("resourceVersionMatch") {
            "" => None,
            "Exact" => Some(Match::Exact),
            "NotOlderThan" => Some(Match::NotOlderThan),
            other => return Err(invalid(format!("resourceVersionMatch: Unsupported value: {other:?}"))),
        };
        let resume = match value("continue") {
            "" => None,
            token => {
                Some(Continue::decode(token, resource).ok_or_else(|| bad("continue key is not valid".to_owned()))?)
            }
        };
        let query = Self {
            watch: flag("watch").unwrap_or(false),
            selector: Selector::parse(value("labelSelector"), value("fieldSelector")).map_err(bad)?,
            version,
            version_match,
            limit: number("limit")?.filter(|limit| *limit > 0).map(|limit| limit as usize),
            resume,
            bookmarks: flag("allowWatchBookmarks").unwrap_or(false),
            send_initial_events: flag("sendInitialEvents"),
            timeout: number("timeoutSeconds")?.map(Duration::from_secs),
        };
        if query.selector.needs_service() && resource != Resource::Services {
            return Err(Status::new(400, "field label not supported: spec.clusterIP"));
        }
        if query.selector.needs_involved() && (query.watch || resource != Resource::Events) {
            return Err(bad("involvedObject selects only in lists of events here".to_owned()));
        }
        if query.watch {
            query.check_watch(watch_list)?
        } else {
            query.check_list()?
        }
        Ok(query)
    }

    fn check_watch(&self, watch_list: bool) -> Result<(), Status> {
        if self.send_initial_events.is_some() {
            if self.version_match != Some(Match::NotOlderThan) {
                let message =
                    "resourceVersionMatch: Forbidden: sendInitialEvents requires resourceVersionMatch NotOlderThan";
                return Err(invalid(message));
            }
            if !watch_list {
                return Err(invalid(
                    "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature \
                     gate is enabled",
                ));
            }
        } else if self.version_match.is_some() {
            return Err(invalid("resourceVersionMatch: Forbidden for watch unless sendInitialEvents is provided"));
        }
        if self.resume.is_some() {
            return Err(invalid("continue: Forbidden for watch"));
        }
        Ok(())
    }

    fn check_list(&self) -> Result<(), Status> {
        if self.send_initial_events.is_some() {
            return Err(invalid("sendInitialEvents: Forbidden for list"));
        }
        match (self.version_match, self.version) {
            (None, _) => {}
            (Some(_), Version::Latest) => {
                return Err(invalid("resourceVersionMatch: Forbidden unless resourceVersion is provided"));
            }
            (Some(Match::Exact), Version::Any) => {
                return Err(invalid("resourceVersionMatch: Forbidden: Exact with resourceVersion 0"));
            }
            (Some(_), _) if self.resume.is_some() => {
                return Err(invalid("resourceVersionMatch: Forbidden when continue is provided"));
            }
            (Some(_), _) => {}
        }
        if self.resume.is_some() && matches!(self.version, Version::At(_)) {
            return Err(Status::new(400, "specifying resource version is not allowed when using continue"));
        }
        Ok(())
    }
}

fn invalid(message: impl Into<String>) -> Status {
    Status::new(422, format!("ListOptions.meta.k8s.io \"\" is invalid: {}", message.into()))
}

impl Continue {
    /// Opaque to clients: they have no business in it, so it does not look like anything.
    pub(super) fn encode(&self) -> String {
        let Self { version, start } = self;
        let text = json!([version, start.namespace, start.name]).to_string();
        text.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    fn decode(token: &str, resource: Resource) -> Option<Self> {
        let pair = |at: usize| u8::from_str_radix(token.get(at..at + 2)?, 16).ok();
        let bytes: Vec<u8> = (0..token.len()).step_by(2).map(pair).collect::<Option<_>>()?;
        let parts: Value = serde_json::from_slice(&bytes).ok()?;
        let text = |at: usize| parts[at].as_str().map(str::to_owned);
        let start = Key { resource, namespace: text(1)?, name: text(2)? };
        Some(Self { version: parts[0].as_u64(), start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_do_not_go_together() {
        let parse = |text: &str| Query::parse(text, Resource::Nodes, true).map_err(|status| status.code);
        for (text, code) in [
            ("resourceVersion=x", 400),
            ("limit=x", 400),
            ("continue=zz", 400),
            ("labelSelector=a+of+(b)", 400),
            ("resourceVersionMatch=Exact", 422),
            ("resourceVersion=0&resourceVersionMatch=Exact", 422),
            ("resourceVersion=7&resourceVersionMatch=Newest", 422),
            ("sendInitialEvents=true", 422),
            ("watch=1&sendInitialEvents=true", 422),
            ("watch=1&resourceVersion=7&resourceVersionMatch=NotOlderThan", 422),
        ] {
            assert_eq!(parse(text).err(), Some(code), "{text}");
        }
        let stream = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=290";
        let query = parse(stream).unwrap();
        assert_eq!((query.send_initial_events, query.timeout), (Some(true), Some(Duration::from_secs(290))));
        assert_eq!(Query::parse(stream, Resource::Nodes, false).err().map(|s| s.code), Some(422), "not enabled");
        let start = Key { resource: Resource::Nodes, namespace: String::new(), name: "n".into() };
        for version in [None, Some(7)] {
            let resume = Continue { version, start: start.clone() };
            let text = format!("limit=2&continue={}", resume.encode());
            assert_eq!(parse(&text).unwrap().resume, Some(resume));
        }
    }
}
