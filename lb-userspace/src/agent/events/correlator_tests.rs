//! The correlator against a clock that tests turn, and a server that keeps Events for an hour.

use std::collections::BTreeMap;

use super::*;
use crate::k8s::EventType;

/// `--event-ttl` of an API server.
const TTL: Duration = Duration::from_secs(60 * 60);
const MINUTE: Duration = Duration::from_secs(60);

fn name(service: &str) -> ServiceName {
    ServiceName::new("default", service)
}

fn uid() -> Uid {
    Uid::new("uid-1").unwrap()
}

fn found(reason: Reason, detail: &str) -> Finding {
    Finding { reason, detail: detail.to_owned(), note: format!("note on {detail}") }
}

fn conflict(detail: &str) -> Finding {
    found(Reason::AddressConflict, detail)
}

/// What an API server holds: by name, when it expires, and the count.
#[derive(Default)]
struct Server {
    events: BTreeMap<String, (Instant, u32)>,
    /// Every write, in order: a reason, or the count.
    writes: Vec<String>,
    /// Requests of any sort.
    requests: usize,
}

impl Server {
    fn take(&mut self, request: &EventRequest, now: Instant) -> Result<Written, EventFailure> {
        self.requests += 1;
        self.events.retain(|_, (expires, _)| *expires > now);
        match request {
            EventRequest::Create(event) if self.events.contains_key(&event.name) => Ok(Written::Known),
            EventRequest::Create(event) => {
                self.events.insert(event.name.clone(), (now + TTL, 1));
                self.writes.push(event.reason.to_owned());
                Ok(Written::Created)
            }
            EventRequest::Count { name, count, .. } => match self.events.get_mut(name) {
                Some(event) => {
                    *event = (now + TTL, *count);
                    self.writes.push(format!("x{count}"));
                    Ok(Written::Counted)
                }
                None => Ok(Written::Gone),
            },
        }
    }
}

/// Lets agents write until then; time goes on from one wake-up to the next.
fn run(agents: &mut [&mut Correlator], server: &mut Server, now: &mut Instant, until: Instant) {
    loop {
        let next = agents.iter().enumerate().filter_map(|(i, agent)| Some((agent.wake_at(*now)?, i))).min();
        let Some((at, i)) = next.filter(|(at, _)| *at <= until) else { break };
        *now = at.max(*now);
        if let Some(request) = agents[i].next(*now) {
            let answer = server.take(&request, *now);
            agents[i].finish(&answer, *now);
        }
    }
    *now = until;
}

fn failure(status: Option<u16>) -> EventFailure {
    EventFailure {
        is_final: matches!(status, Some(404 | 422)),
        is_expected: status == Some(404),
        is_lasting: status == Some(403),
        retry_after: None,
        status,
        text: String::new(),
    }
}

/// Asks as the loop does, and answers all with the same.
fn fail_once(agent: &mut Correlator, now: &mut Instant, status: Option<u16>, retry_after: Option<Duration>) {
    *now = agent.wake_at(*now).expect("something is due").max(*now);
    agent.next(*now).expect("something is due");
    agent.finish(&Err(EventFailure { retry_after, ..failure(status) }), *now);
}

#[test]
fn a_finding_is_written_once_it_has_stood_for_a_moment() {
    let (mut agent, start) = (Correlator::new("n1"), Instant::now());
    assert_eq!(agent.wake_at(start), None, "nothing to say costs nothing");
    agent.report(&name("web"), Some(&uid()), vec![conflict("a")], start);
    assert_eq!(agent.wake_at(start), Some(start + SETTLE));
    assert_eq!(agent.next(start), None);
    let Some(EventRequest::Create(event)) = agent.next(start + SETTLE) else { panic!("nothing is written") };
    assert_eq!((event.service, event.uid, event.event_type), (name("web"), uid(), EventType::Warning));
    assert_eq!((event.reason, event.action, event.note.as_str()), ("AddressConflict", "Plan", "note on a"));
    assert!(event.name.starts_with("web.") && event.name.len() == "web.".len() + 16, "{}", event.name);
    assert_eq!(agent.wake_at(start + SETTLE * 2), None, "one request at a time");
    agent.report(&name("db"), Some(&uid()), vec![conflict("a")], start);
    assert_eq!(agent.next(start + SETTLE * 2), None);
}

#[test]
fn what_passes_is_never_written() {
    let (mut agent, mut server, mut now) = (Correlator::new("n1"), Server::default(), Instant::now());
    agent.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
    agent.report(&name("web"), Some(&uid()), Vec::new(), now + SETTLE / 2);
    assert!(!agent.knows(&name("web")));
    agent.report(&name("web"), None, vec![conflict("a")], now);
    let end = now + TTL;
    run(&mut [&mut agent], &mut server, &mut now, end);
    assert_eq!(server.requests, 0);
}

#[test]
fn an_event_is_kept_alive_while_its_finding_stands() {
    let (mut agent, mut server, mut now) = (Correlator::new("n1"), Server::default(), Instant::now());
    agent.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
    for _ in 0..100 {
        let end = now + 6 * MINUTE;
        run(&mut [&mut agent], &mut server, &mut now, end);
        assert_eq!(server.events.values().filter(|(expires, _)| *expires > now).count(), 1);
        agent.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
    }
    // Ten hours: a write in 45 to 54 minutes.
    assert_eq!((server.writes[0].as_str(), server.writes[1].as_str()), ("AddressConflict", "x2"));
    assert!((11..=14).contains(&server.writes.len()) && server.requests == server.writes.len(), "{:?}", server.writes);
    agent.report(&name("web"), Some(&uid()), Vec::new(), now);
    let before = server.requests;
    let end = now + 3 * TTL;
    run(&mut [&mut agent], &mut server, &mut now, end);
    assert_eq!(server.requests, before, "what stands no more is left to expire");
    assert!(!agent.knows(&name("web")) && agent.wake_at(now).is_none(), "and forgotten");
}

#[test]
fn an_event_that_expired_is_written_anew() {
    let (mut agent, mut server, mut now) = (Correlator::new("n1"), Server::default(), Instant::now());
    agent.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
    let end = now + MINUTE;
    run(&mut [&mut agent], &mut server, &mut now, end);
    server.events.clear();
    let end = now + TTL;
    run(&mut [&mut agent], &mut server, &mut now, end);
    assert_eq!((server.writes.as_slice(), server.requests), (["AddressConflict"; 2].map(String::from).as_slice(), 3));
}

#[test]
fn what_comes_back_is_counted() {
    let (mut agent, mut server, mut now) = (Correlator::new("n1"), Server::default(), Instant::now());
    for _ in 0..3 {
        agent.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
        let end = now + MINUTE;
        run(&mut [&mut agent], &mut server, &mut now, end);
        agent.report(&name("web"), Some(&uid()), Vec::new(), now);
        let end = now + MINUTE;
        run(&mut [&mut agent], &mut server, &mut now, end);
    }
    assert_eq!(server.writes, ["AddressConflict", "x2", "x3"]);
    assert_eq!(server.events.len(), 1);
}

#[test]
fn many_nodes_write_one_event_and_one_of_them_keeps_it_alive() {
    let mut agents: Vec<Correlator> = (0..20).map(|n| Correlator::new(&format!("n{n}"))).collect();
    let (mut server, mut now) = (Server::default(), Instant::now());
    let report = |agents: &mut Vec<Correlator>, now| {
        agents.iter_mut().for_each(|agent| agent.report(&name("web"), Some(&uid()), vec![conflict("a")], now));
    };
    report(&mut agents, now);
    let end = now + 10 * TTL;
    run(&mut agents.iter_mut().collect::<Vec<_>>(), &mut server, &mut now, end);
    assert_eq!(server.events.len(), 1);
    assert_eq!(server.writes.iter().filter(|write| *write == "AddressConflict").count(), 1);
    assert!((11..=14).contains(&server.writes.len()), "{:?}", server.writes);
    // The others ask once in 20 to 24 minutes.
    assert!(server.requests < server.writes.len() + 19 * 32, "{}", server.requests);

    // The one that kept it alive starts again and remembers nothing; the Event is missing for minutes at the most.
    for agent in &mut agents {
        if agent.counts.created > 0 {
            *agent = Correlator::new("again");
        }
    }
    report(&mut agents, now);
    let mut missing = 0;
    for _ in 0..100 {
        let end = now + MINUTE;
        run(&mut agents.iter_mut().collect::<Vec<_>>(), &mut server, &mut now, end);
        missing += usize::from(!server.events.values().any(|(expires, _)| *expires > now));
    }
    assert!(missing <= 24, "{missing} minutes");
}

#[test]
fn a_service_of_the_same_name_is_another_one() {
    let (mut agent, mut server, mut now) = (Correlator::new("n1"), Server::default(), Instant::now());
    let reports = [Some("uid-1"), Some("uid-2"), None, Some("uid-1")];
    for uid in reports {
        agent.report(&name("web"), uid.and_then(Uid::new).as_ref(), vec![conflict("a")], now);
        let end = now + MINUTE;
        run(&mut [&mut agent], &mut server, &mut now, end);
        assert_eq!(agent.knows(&name("web")), uid.is_some());
    }
    assert_eq!((server.events.len(), agent.counts.created, agent.counts.known), (2, 2, 1));
}

#[test]
fn the_end_of_a_failure_is_told_by_who_told_the_failure() {
    let (mut first, mut second) = (Correlator::new("n1"), Correlator::new("n2"));
    let (mut server, mut now) = (Server::default(), Instant::now());
    let full = || vec![found(Reason::DatapathFull, "--max-backends"), conflict("a")];
    first.report(&name("web"), Some(&uid()), full(), now);
    second.report(&name("web"), Some(&uid()), full(), now + MINUTE);
    let end = now + 2 * MINUTE;
    run(&mut [&mut first, &mut second], &mut server, &mut now, end);
    // Another cause is not the end.
    first.report(&name("web"), Some(&uid()), vec![found(Reason::NotInDatapath, ""), conflict("a")], now);
    let end = now + MINUTE;
    run(&mut [&mut first, &mut second], &mut server, &mut now, end);
    first.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
    second.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
    let end = now + 10 * MINUTE;
    run(&mut [&mut first, &mut second], &mut server, &mut now, end);
    server.writes[..2].sort();
    assert_eq!(server.writes, ["AddressConflict", "DatapathFull", "NotInDatapath", "InDatapath"]);
    // It fails again before that could be said once more.
    first.report(&name("web"), Some(&uid()), full(), now);
    let end = now + MINUTE;
    run(&mut [&mut first], &mut server, &mut now, end);
    first.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
    first.report(&name("web"), Some(&uid()), full(), now + SETTLE / 2);
    let end = now + MINUTE;
    run(&mut [&mut first], &mut server, &mut now, end);
    first.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
    let end = now + MINUTE;
    run(&mut [&mut first], &mut server, &mut now, end);
    assert_eq!(server.writes[4..], ["x2", "x3", "x2"], "failed, failed, good again");
}

#[test]
fn one_service_has_a_limit() {
    let (mut agent, mut server, mut now) = (Correlator::new("n1"), Server::default(), Instant::now());
    // An owner who tries one value after the other.
    for n in 0..60 {
        agent.report(&name("web"), Some(&uid()), vec![conflict(&format!("value {n}"))], now);
        let end = now + 10 * Duration::from_secs(1);
        run(&mut [&mut agent], &mut server, &mut now, end);
    }
    let in_ten_minutes = PER_SERVICE.burst as usize + 1;
    assert_eq!(server.requests, in_ten_minutes);
    agent.report(&name("web"), Some(&uid()), Vec::new(), now);
    agent.report(&name("db"), Some(&uid()), vec![conflict("a")], now);
    let end = now + MINUTE;
    run(&mut [&mut agent], &mut server, &mut now, end);
    assert_eq!(server.requests, in_ten_minutes + 1, "another one is not held up");
}

#[test]
fn all_together_have_a_limit_in_time_and_memory() {
    let (mut agent, mut server, mut now) = (Correlator::new("n1"), Server::default(), Instant::now());
    for n in 0..3000 {
        agent.report(&name(&format!("s{n}")), Some(&uid()), vec![conflict("a")], now);
    }
    assert_eq!((agent.records, agent.counts.dropped), (MOST, 3000 - MOST as u64));
    let end = now + SETTLE + MINUTE;
    run(&mut [&mut agent], &mut server, &mut now, end);
    let most = IN_ALL.burst as usize + (MINUTE.as_secs() / IN_ALL.every.as_secs()) as usize;
    assert_eq!(server.requests, most);
    let end = now + TTL;
    run(&mut [&mut agent], &mut server, &mut now, end);
    assert_eq!(server.writes.iter().filter(|write| *write == "AddressConflict").count(), MOST, "all get their turn");
    for n in 0..3000 {
        agent.report(&name(&format!("s{n}")), None, Vec::new(), now);
    }
    assert_eq!((agent.records, agent.wake_at(now)), (0, None));
}

#[test]
fn failures_are_left_alone_longer_and_longer() {
    let (mut agent, mut now) = (Correlator::new("n1"), Instant::now());
    for n in 0..5 {
        agent.report(&name(&format!("s{n}")), Some(&uid()), vec![conflict("a")], now);
    }
    let start = now;
    let mut waits = Vec::new();
    for _ in 0..30 {
        let before = now;
        fail_once(&mut agent, &mut now, Some(403), None);
        waits.push(now - before);
    }
    // 1 s, doubled up to ten minutes, each half to one and a half of it.
    assert!(waits[1] <= BACKOFF.least * 3 / 2 && waits[29] >= BACKOFF.most / 2, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= BACKOFF.most * 3 / 2), "{waits:?}");
    assert_eq!(agent.counts.failed, 30);
    assert!(now - start > TTL);

    // Once it is allowed, everything is written.
    let mut server = Server::default();
    let end = now + TTL;
    run(&mut [&mut agent], &mut server, &mut now, end);
    assert_eq!((server.events.len(), agent.failures), (5, 0));
}

#[test]
fn the_server_says_how_long_it_wants_to_be_left_alone() {
    let (mut agent, mut now) = (Correlator::new("n1"), Instant::now());
    agent.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
    fail_once(&mut agent, &mut now, Some(429), Some(MINUTE));
    assert!(agent.wake_at(now).unwrap() >= now + MINUTE);
    fail_once(&mut agent, &mut now, None, None);
    let mut server = Server::default();
    let end = now + MINUTE;
    run(&mut [&mut agent], &mut server, &mut now, end);
    assert_eq!(server.writes, ["AddressConflict"]);
}

#[test]
fn what_no_attempt_can_mend_is_not_tried_again_and_holds_up_nothing() {
    let (mut agent, mut now) = (Correlator::new("n1"), Instant::now());
    agent.report(&name("web"), Some(&uid()), vec![conflict("a")], now);
    agent.report(&name("web2"), Some(&uid()), vec![conflict("a")], now + Duration::from_secs(1));
    fail_once(&mut agent, &mut now, Some(404), None);
    let mut server = Server::default();
    let end = now + 2 * TTL;
    run(&mut [&mut agent], &mut server, &mut now, end);
    assert_eq!((server.events.len(), server.writes[0].as_str()), (1, "AddressConflict"));
    assert_eq!(agent.counts.refused, 1);
}

#[test]
fn a_service_that_goes_while_its_event_is_written_leaves_nothing() {
    let (mut agent, start) = (Correlator::new("n1"), Instant::now());
    agent.report(&name("web"), Some(&uid()), vec![conflict("a")], start);
    agent.next(start + SETTLE).unwrap();
    agent.report(&name("web"), None, Vec::new(), start + SETTLE);
    agent.finish(&Ok(Written::Created), start + SETTLE);
    assert_eq!((agent.records, agent.wake_at(start + SETTLE)), (0, None));
}
