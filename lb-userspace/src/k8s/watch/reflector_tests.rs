//! One kind against a server that says what the test wants: each connection takes one request and gets the next reply.

use std::{io::Write as _, time::Duration};

use flate2::{Compression, write::GzEncoder};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

use super::*;
use crate::{
    k8s::watch::{Access, Backoff, Hints},
    model::Kind,
};

/// What a connection gets for its request.
#[derive(Default)]
struct Reply {
    parts: Vec<Vec<u8>>,
    /// Nothing more comes, but the connection stays.
    hold: bool,
}

impl Reply {
    fn new(status: &str, headers: &str, body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        Self { parts: vec![head.into_bytes(), body.to_vec()], hold: false }
    }

    fn ok(body: &str) -> Self {
        Self::new("200 OK", "", body.as_bytes())
    }

    /// A watch of these lines that the server ends in good order.
    fn watch(lines: &[String]) -> Self {
        let mut reply = Self::broken_watch(lines);
        reply.parts.push(b"0\r\n\r\n".to_vec());
        reply
    }

    /// A watch that breaks off behind these lines.
    fn broken_watch(lines: &[String]) -> Self {
        let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let chunk = |line: &String| format!("{:x}\r\n{line}\n\r\n", line.len() + 1).into_bytes();
        Self { parts: [head].into_iter().chain(lines.iter().map(chunk)).collect(), hold: false }
    }

    fn open_watch(lines: &[String]) -> Self {
        Self { hold: true, ..Self::broken_watch(lines) }
    }
}

/// A Service as the server writes it.
fn service(name: &str, version: u32) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"default","resourceVersion":"{version}"}},"spec":{{"clusterIP":"10.96.0.7","ports":[{{"port":80}}]}}}}"#
    )
}

fn list(version: u32, next: &str, items: &[String]) -> String {
    format!(r#"{{"metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{}]}}"#, items.join(","))
}

fn line(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

fn list_end(version: u32) -> String {
    let metadata = format!(r#"{{"resourceVersion":"{version}","annotations":{{"k8s.io/initial-events-end":"true"}}}}"#);
    line("BOOKMARK", &format!(r#"{{"kind":"Service","metadata":{metadata}}}"#))
}

fn status(code: u16, message: &str) -> String {
    format!(r#"{{"kind":"Status","code":{code},"message":"{message}"}}"#)
}

/// A server without lists as streams.
fn no_streams() -> Reply {
    let body = status(422, "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled");
    Reply::new("422 Unprocessable Entity", "", body.as_bytes())
}

fn told(event: Event) -> String {
    match event {
        Event::Put(object) => format!("+{}", object.key().name),
        Event::Bad { key, cause, uid: _ } => format!("!{} {cause}", key.name),
        Event::Gone(key) => format!("-{}", key.name),
        Event::Whole(keys) => format!("={}", keys.iter().map(|key| &*key.name).collect::<Vec<_>>().join(",")),
        Event::Failing(reason) => format!("failing {reason}"),
        Event::Working => "working".to_owned(),
    }
}

/// Serves the replies, one for each connection, and says what was asked for.
fn serve(listener: TcpListener, replies: Vec<Reply>) -> mpsc::UnboundedReceiver<String> {
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        let mut held = Vec::new();
        for reply in replies {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            sender.send(String::from_utf8(head).unwrap()).unwrap();
            for part in &reply.parts {
                stream.write_all(part).await.unwrap();
                // A part is a packet of its own, so that it may come in by itself.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if reply.hold {
                held.push(stream);
            }
        }
        std::future::pending::<()>().await;
    });
    requests
}

/// Runs against these replies until as many events have come as are expected, and compares. A `failing` compares up to
/// its end here. Returns what was asked for.
async fn check(replies: Vec<Reply>, expected: &[&str]) -> Vec<String> {
    check_with(patience(), replies, expected).await
}

fn patience() -> Patience {
    let ms = Duration::from_millis;
    Patience {
        connect: ms(500),
        head: ms(500),
        list: ms(500),
        stream: ms(300),
        watch: ms(800),
        useful: ms(1),
        confirm: ms(200),
        empty: ms(1),
        rights: ms(150),
        retry: Backoff { least: ms(20), most: ms(100) },
        outage: Duration::from_secs(60),
    }
}

/// As [`check`], with other waits.
async fn check_with(patience: Patience, replies: Vec<Reply>, expected: &[&str]) -> Vec<String> {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = format!("http://{}", listener.local_addr().unwrap());
            let mut asked = serve(listener, replies);
            let (sender, mut updates) = mpsc::channel(4);
            let access = Access::new(Hints { server: Some(&server), ..Hints::default() }, |_| None).unwrap();
            let reflector = Reflector::new(Resource::new(Kind::Service), access, patience, sender);
            tokio::task::spawn_local(reflector.run());
            let mut found: Vec<String> = Vec::new();
            while found.len() < expected.len() {
                let update = tokio::time::timeout(Duration::from_secs(20), updates.recv()).await;
                let update = update.unwrap_or_else(|_| panic!("nothing comes after {found:?}")).unwrap();
                found.extend(update.events.into_iter().map(told));
            }
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    found == expected || (expected.contains(' ') && found.starts_with(expected)),
                    "{found}: {expected}"
                );
            }
            assert_eq!(found.len(), expected.len(), "{found:?}");
            let mut heads = Vec::new();
            while let Ok(head) = asked.try_recv() {
                heads.push(head);
            }
            heads
        })
        .await
}

#[tokio::test]
async fn a_list_as_a_stream_goes_over_into_a_watch_and_on_from_its_last_version() {
    let first = [
        line("ADDED", &service("a", 3)),
        line("ADDED", &service("b", 1)),
        list_end(7),
        line("MODIFIED", &service("a", 8)),
        line("DELETED", &service("b", 9)),
    ];
    // It ended before its time, so the server is asked where it is.
    let probe = Reply::ok(&list(9, "", &[]));
    let asked = check(
        vec![Reply::watch(&first), probe, Reply::open_watch(&[line("ADDED", &service("c", 12))])],
        &["+a", "+b", "=a,b", "+a", "-b", "+c"],
    )
    .await;
    assert!(asked[0].contains("sendInitialEvents=true") && !asked[0].contains("resourceVersion="), "{}", asked[0]);
    assert!(asked[1].contains("&limit=1 "), "{}", asked[1]);
    assert!(asked[2].contains("&resourceVersion=9&"), "{}", asked[2]);
}

#[tokio::test]
async fn pages_where_streams_are_not_known() {
    let pages = vec![
        no_streams(),
        Reply::ok(&list(5, "next", &[service("a", 1)])),
        Reply::ok(&list(5, "", &[service("b", 2)])),
        Reply::open_watch(&[line("ADDED", &service("c", 6))]),
    ];
    let asked = check(pages, &["+a", "+b", "=a,b", "+c"]).await;
    assert!(asked[2].contains("continue=next"), "{}", asked[2]);
    assert!(asked[3].contains("resourceVersion=5"), "{}", asked[3]);
}

#[tokio::test]
async fn a_server_that_ignores_the_parameters_of_streams_is_listed_by_pages() {
    let empty = || Reply::ok(&list(5, "", &[]));
    let replies = vec![Reply::open_watch(&[]), empty(), empty(), Reply::open_watch(&[])];
    check(replies, &["="]).await;
}

#[tokio::test]
async fn an_unfinished_list_deletes_nothing() {
    let broken = vec![
        Reply::broken_watch(&[line("ADDED", &service("a", 1))]),
        Reply::watch(&[line("ADDED", &service("a", 1))]),
        no_streams(),
        Reply::ok(&list(5, "next", &[service("a", 1)])),
        Reply::new("500 Internal Server Error", "", b""),
        Reply::ok(&list(5, "", &[service("b", 2)])[..40]),
        Reply::ok(&list(5, "", &[service("", 2)])),
        Reply::ok(&list(6, "", &[service("b", 2)])),
    ];
    let failing = "failing cannot follow services at";
    check(broken, &["+a", "+a", failing, "+a", failing, failing, failing, "+b", "=b", "working"]).await;
}

#[tokio::test]
async fn an_expired_version_or_page_lists_again() {
    let replies = vec![
        no_streams(),
        Reply::ok(&list(5, "next", &[service("gone", 1)])),
        Reply::new("410 Gone", "", status(410, "continue token is too old").as_bytes()),
        Reply::ok(&list(6, "", &[service("a", 1)])),
        Reply::new("410 Gone", "", b""),
        Reply::ok(&list(7, "", &[])),
        Reply::ok(&list(7, "", &[])),
        Reply::watch(&[line("ADDED", &service("b", 8)), line("ERROR", &status(410, "too old resource version"))]),
        Reply::ok(&list(9, "", &[service("c", 9)])),
    ];
    let asked = check(replies, &["+gone", "+a", "=a", "=", "+b", "+c", "=c"]).await;
    assert!(!asked[3].contains("limit="), "{}", asked[3]);
}

/// As kube-apiserver 1.36 does when it is started again.
#[tokio::test]
async fn a_server_that_comes_back_without_history_is_listed_at_once_and_its_first_answers_are_no_alarm() {
    let forbidden = || Reply::new("403 Forbidden", "", status(403, "services is forbidden").as_bytes());
    let probe = || Reply::ok(&list(9, "", &[]));
    let too_old = || Reply::watch(&[line("ERROR", &status(410, "too old resource version"))]);
    let replies = vec![
        Reply::broken_watch(&[line("ADDED", &service("a", 3)), list_end(5)]),
        forbidden(),
        forbidden(),
        probe(),
        too_old(),
        Reply::watch(&[line("ADDED", &service("a", 3)), line("ADDED", &service("b", 9)), list_end(9)]),
        forbidden(),
        forbidden(),
        forbidden(),
        forbidden(),
    ];
    let retry = Backoff { least: Duration::from_millis(60), most: Duration::from_millis(60) };
    let began = Instant::now();
    check_with(Patience { retry, ..patience() }, replies, &["+a", "=a", "+a", "+b", "=a,b", "failing cannot follow"])
        .await;
    assert!(began.elapsed() > patience().rights, "a right that is gone for good is told");
}

#[tokio::test]
async fn a_version_that_expires_again_and_again_is_no_reason_to_hurry() {
    let too_old = || Reply::watch(&[line("ERROR", &status(410, "too old resource version"))]);
    let replies = vec![too_old(), too_old(), Reply::watch(&[list_end(9)]), Reply::watch(&[list_end(9)])];
    let retry = Backoff { least: Duration::from_millis(200), most: Duration::from_millis(200) };
    let began = Instant::now();
    check_with(Patience { retry, ..patience() }, replies, &["failing cannot follow", "="]).await;
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_bad_object_is_named_and_counts_as_there() {
    let bad = service("bad", 4).replace("\"port\":80", "\"port\":\"http\"");
    let replies = vec![
        no_streams(),
        Reply::ok(&list(5, "", &[service("a", 1), bad.clone()])),
        Reply::open_watch(&[line("MODIFIED", &bad)]),
    ];
    check(replies, &["+a", "!bad spec.ports[0].port: ", "=a,bad", "!bad spec.ports[0].port: "]).await;
}

#[tokio::test]
async fn refusals_are_told_once_with_what_to_do_and_a_wait_is_kept() {
    let forbidden = || Reply::new("403 Forbidden", "", status(403, "services is forbidden").as_bytes());
    let busy = Reply::new("429 Too Many Requests", "Retry-After: 1\r\n", b"");
    let began = Instant::now();
    let replies = vec![
        forbidden(),
        forbidden(),
        Reply::new("401 Unauthorized", "", b""),
        busy,
        Reply::watch(&[list_end(3)]),
        Reply::open_watch(&[list_end(3)]),
    ];
    let told = ["failing cannot follow", "failing cannot follow", "failing cannot follow", "=", "working"];
    let asked = check(replies, &told).await;
    assert_eq!(asked.len(), 6);
    assert!(began.elapsed() > Duration::from_secs(1));
}

#[tokio::test]
async fn an_empty_list_counts_when_the_next_one_is_empty_too() {
    let full = || Reply::watch(&[line("ADDED", &service("a", 1)), list_end(2), line("ERROR", &status(410, ""))]);
    let empty = || Reply::watch(&[list_end(3)]);
    let replies = vec![full(), empty(), full(), empty(), empty()];
    check(replies, &["+a", "=a", "+a", "=a", "="]).await;
}

#[tokio::test]
async fn a_line_that_is_no_event_costs_a_list_and_no_object() {
    let replies = vec![
        no_streams(),
        Reply::ok(&list(5, "", &[service("a", 1)])),
        Reply::watch(&[line("ADDED", &service("b", 6)), "<html>".to_owned()]),
        Reply::ok(&list(7, "", &[service("a", 1), service("b", 6)])),
    ];
    check(replies, &["+a", "=a", "+b", "+a", "+b", "=a,b"]).await;
}

#[tokio::test]
async fn a_silent_watch_is_begun_again_by_a_list() {
    let replies = vec![
        no_streams(),
        Reply::ok(&list(5, "", &[])),
        Reply::ok(&list(5, "", &[])),
        Reply::open_watch(&[]),
        Reply::ok(&list(4, "", &[service("a", 3)])),
    ];
    check(replies, &["=", "+a", "=a"]).await;
}

#[tokio::test]
async fn a_server_that_went_back_in_time_is_listed_again() {
    let replies = vec![
        Reply::open_watch(&[line("ADDED", &service("b", 3)), list_end(50), line("ADDED", &service("a", 7))]),
        Reply::open_watch(&[line("ADDED", &service("a", 7)), list_end(8)]),
    ];
    check(replies, &["+b", "=b", "+a", "+a", "=a"]).await;
}

#[tokio::test]
async fn after_a_broken_connection_the_server_is_asked_where_it_is() {
    let replies = vec![
        Reply::broken_watch(&[line("ADDED", &service("a", 3)), list_end(50)]),
        Reply::ok(&list(51, "", &[])),
        Reply::broken_watch(&[line("ADDED", &service("b", 52))]),
        Reply::ok(&list(9, "", &[])),
        Reply::open_watch(&[line("ADDED", &service("a", 7)), list_end(8)]),
    ];
    let asked = check(replies, &["+a", "=a", "+b", "+a", "=a"]).await;
    assert!(asked[1].contains("&limit=1 "), "{}", asked[1]);
    assert!(asked[2].contains("resourceVersion=50"), "{}", asked[2]);
}

#[tokio::test]
async fn a_server_that_shut_down_in_order_and_came_back_from_a_backup_is_listed_again() {
    let replies = vec![
        Reply::watch(&[line("ADDED", &service("a", 3)), line("ADDED", &service("b", 50)), list_end(50)]),
        Reply::ok(&list(9, "", &[])),
        Reply::open_watch(&[line("ADDED", &service("a", 3)), list_end(9)]),
    ];
    check(replies, &["+a", "+b", "=a,b", "+a", "=a"]).await;
}

#[tokio::test]
async fn a_server_that_has_failed_for_long_is_listed_again() {
    let error = || Reply::new("500 Internal Server Error", "", status(500, "etcd is away").as_bytes());
    let in_watch = Reply::watch(&[line("ERROR", &status(500, "cannot decode"))]);
    for failure in [error(), in_watch, Reply::broken_watch(&[])] {
        let replies = vec![
            no_streams(),
            Reply::ok(&list(5, "", &[service("a", 1)])),
            failure,
            Reply::ok(&list(7, "", &[service("b", 6)])),
        ];
        check_with(Patience { outage: Duration::ZERO, ..patience() }, replies, &["+a", "=a", "+b", "=b"]).await;
    }
}

#[tokio::test]
async fn a_server_that_has_too_much_to_do_is_not_asked_for_a_list() {
    let replies = vec![
        no_streams(),
        Reply::ok(&list(5, "", &[service("a", 1)])),
        Reply::new("429 Too Many Requests", "", status(429, "too many requests").as_bytes()),
        Reply::ok(&list(5, "", &[service("a", 1)])),
        Reply::open_watch(&[line("ADDED", &service("b", 6))]),
    ];
    let asked = check_with(Patience { outage: Duration::ZERO, ..patience() }, replies, &["+a", "=a", "+b"]).await;
    assert!(asked[3].contains("&limit=1 ") && asked[4].contains("resourceVersion=5"), "{asked:?}");
}

#[tokio::test]
async fn compressed_answers_are_read_also_of_several_members() {
    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let encoded = "Content-Encoding: gzip\r\n";
    let body = gzip(&list(5, "", &[service("a", 1)]));
    let lines = [service("b", 6), service("c", 7)].map(|object| gzip(&(line("ADDED", &object) + "\n"))).concat();
    let replies = vec![no_streams(), Reply::new("200 OK", encoded, &body), Reply::new("200 OK", encoded, &lines)];
    let asked = check(replies, &["+a", "=a", "+b", "+c"]).await;
    assert!(asked[1].to_lowercase().contains("accept-encoding: gzip"), "{}", asked[1]);
}

#[tokio::test]
async fn the_api_servers_own_service_is_gone_only_by_a_list() {
    let own = |version| service("kubernetes", version);
    let replies = vec![
        Reply::open_watch(&[
            line("ADDED", &own(1)),
            list_end(2),
            line("DELETED", &own(3)),
            line("ADDED", &own(4)),
            line("DELETED", &own(5)),
        ]),
        Reply::watch(&[list_end(6)]),
        Reply::open_watch(&[list_end(6)]),
    ];
    check(replies, &["+kubernetes", "=kubernetes", "+kubernetes", "="]).await;
}
