//! The fault script: which requests meet which fault. It decides; `call` and `watch` act.

use std::time::Duration;

use super::resource::{Resource, Verb};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The connection is closed without an answer.
    Hangup,
    /// The request is taken and nothing is ever sent.
    Stall,
    /// The request is taken, and the server closes its side without an answer, but not the client's.
    HalfClose,
    /// The answer comes so much later.
    Delay(Duration),
    /// A Status with this code; 429 and 503 often come with a `Retry-After` in seconds.
    Status {
        /// The HTTP code. 410 has the reason `Expired`.
        code: u16,
        /// The header.
        retry_after: Option<u32>,
    },
    /// List, and watch with initial events: says that there are no objects. The lie of a broken cache.
    EmptyList,
    /// List: half of the body, then the connection is closed.
    TruncatedList,
    /// Watch: the connection is closed in the middle of the line of an event, after so many whole events.
    HalfLine {
        /// Events sent before.
        after: usize,
    },
    /// Watch: the stream ends as if its time were over, after so many events.
    Close {
        /// Events sent before.
        after: usize,
    },
    /// Watch: an `ERROR` line ends the stream after so many events. 410 is what a real server sends when a watch
    /// begins too early, with HTTP 200.
    ErrorEvent {
        /// Events sent before.
        after: usize,
        /// Code of the Status in the line.
        code: u16,
    },
    /// Watch: after so many events nothing comes any more, no bookmark and no end: the network swallows it.
    Silent {
        /// Events sent before.
        after: usize,
    },
    /// Watch: neighbouring events of different objects that are sent at once ([`super::ApiServer::apply`]) change places.
    SwapEvents,
    /// Watch: every event comes twice.
    RepeatEvents,
}

impl Fault {
    fn can_meet(self, verb: Verb) -> bool {
        match self {
            Self::Hangup | Self::Stall | Self::HalfClose | Self::Delay(_) | Self::Status { .. } => true,
            Self::EmptyList => matches!(verb, Verb::List | Verb::Watch),
            Self::TruncatedList => verb == Verb::List,
            Self::HalfLine { .. }
            | Self::Close { .. }
            | Self::ErrorEvent { .. }
            | Self::Silent { .. }
            | Self::SwapEvents
            | Self::RepeatEvents => verb == Verb::Watch,
        }
    }
}

/// How often a rule strikes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Times {
    Left(usize),
    Always,
    Percent(u64),
}

/// A fault, and which requests meet it: those of a verb and resource, or all that the fault makes sense for.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    fault: Fault,
    verb: Option<Verb>,
    resource: Option<Resource>,
    times: Times,
}

impl Rule {
    /// The next request that the fault makes sense for.
    #[must_use]
    pub fn next(fault: Fault) -> Self {
        Self { fault, verb: None, resource: None, times: Times::Left(1) }
    }

    /// Only requests of this verb.
    #[must_use]
    pub fn on(self, verb: Verb) -> Self {
        Self { verb: Some(verb), ..self }
    }

    /// Only requests for this resource.
    #[must_use]
    pub fn of(self, resource: Resource) -> Self {
        Self { resource: Some(resource), ..self }
    }

    /// The next so many requests.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times: Times::Left(times), ..self }
    }

    /// All, until [`super::ApiServer::heal`].
    #[must_use]
    pub fn always(self) -> Self {
        Self { times: Times::Always, ..self }
    }

    /// So many of a hundred, until [`super::ApiServer::heal`]; chosen by [`super::ApiConfig::seed`].
    #[must_use]
    pub fn percent(self, percent: u64) -> Self {
        Self { times: Times::Percent(percent), ..self }
    }
}

/// The rules in force. The first that strikes decides.
pub(super) struct Script {
    rules: Vec<Rule>,
    random: u64,
}

impl Script {
    pub(super) fn new(seed: u64) -> Self {
        Self { rules: Vec::new(), random: seed }
    }

    pub(super) fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What this request meets.
    pub(super) fn strike(&mut self, verb: Verb, resource: Option<Resource>) -> Option<Fault> {
        let mut random = self.random;
        let at = self.rules.iter_mut().position(|rule| {
            let meets = rule.fault.can_meet(verb)
                && rule.verb.is_none_or(|v| v == verb)
                && rule.resource.is_none_or(|r| Some(r) == resource);
            meets
                && match &mut rule.times {
                    Times::Left(0) => false,
                    Times::Left(left) => {
                        *left -= 1;
                        true
                    }
                    Times::Always => true,
                    Times::Percent(percent) => {
                        // Knuth's MMIX constants; the low bits of such a generator are poor.
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        (random >> 33) % 100 < *percent
                    }
                }
        });
        self.random = random;
        let fault = at.map(|at| self.rules[at].fault);
        self.rules.retain(|rule| rule.times != Times::Left(0));
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_strike_what_they_are_for_and_as_often_as_they_say() {
        let mut script = Script::new(1);
        script.add(Rule::next(Fault::EmptyList).of(Resource::Nodes));
        script.add(Rule::next(Fault::Hangup).on(Verb::Watch).times(2));
        let strike = |script: &mut Script, verb, resource| script.strike(verb, Some(resource));
        assert_eq!(strike(&mut script, Verb::List, Resource::Services), None);
        assert_eq!(strike(&mut script, Verb::Get, Resource::Nodes), None, "no list");
        assert_eq!(strike(&mut script, Verb::List, Resource::Nodes), Some(Fault::EmptyList));
        assert_eq!(strike(&mut script, Verb::List, Resource::Nodes), None);
        for _ in 0..2 {
            assert_eq!(strike(&mut script, Verb::Watch, Resource::Nodes), Some(Fault::Hangup));
        }
        assert_eq!(strike(&mut script, Verb::Watch, Resource::Nodes), None);
        script.add(Rule::next(Fault::Stall).percent(30));
        let struck = (0..1000).filter(|_| script.strike(Verb::Other, None).is_some()).count();
        assert!((200..400).contains(&struck), "{struck}");
        script.clear();
        assert_eq!(script.strike(Verb::Other, None), None);
    }
}
