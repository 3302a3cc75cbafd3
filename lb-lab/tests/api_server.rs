//! The test API server on the wire: a client that reads bytes, so that nothing here depends on what a library forgives.

mod api_client;

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use api_client::{Client, labels, service};
use lb_lab::{
    NetNs,
    api_server::{ApiConfig, ApiServer, End, Fault, Resource, Rule, Verb},
};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

const SERVICES: &str = "/api/v1/services";
const STREAM: &str =
    "/api/v1/services?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

fn server() -> ApiServer {
    // No bookmark comes unless a test asks for it.
    ApiServer::start(ApiConfig { bookmark_every: Duration::from_secs(600), ..ApiConfig::default() }).unwrap()
}

/// Type, name and version of a watch's event.
fn event(line: &Value) -> (String, String, u64) {
    let metadata = &line["object"]["metadata"];
    let version = metadata["resourceVersion"].as_str().unwrap_or("0").parse().unwrap();
    (line["type"].as_str().unwrap().into(), metadata["name"].as_str().unwrap_or("").into(), version)
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[test]
fn a_list_is_what_a_real_server_sends() {
    let server = server();
    server.apply(&service("b", "")).unwrap();
    let version = server.apply(&service("a", "x: y")).unwrap();
    let (head, list) = Client::get(&server, SERVICES);
    assert_eq!((head.code, head.get("content-type")), (200, Some("application/json")));
    assert_eq!(head.get("content-length"), Some(&*list.to_string().len().to_string()), "it is sent with its length");
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ServiceList"), &json!("v1")));
    assert_eq!(list["metadata"], json!({"resourceVersion": version.to_string()}));
    assert_eq!(names(&list), ["a", "b"]);
    let item = &list["items"][0];
    assert!(item.get("kind").is_none() && item.get("apiVersion").is_none());
    assert_eq!(item["metadata"]["resourceVersion"], json!(version.to_string()));
    let (_, one) = Client::get(&server, "/api/v1/namespaces/default/services/a");
    assert_eq!((&one["kind"], &one["metadata"]), (&json!("Service"), &item["metadata"]));
    let (head, status) = Client::get(&server, "/api/v1/namespaces/default/services/c");
    assert_eq!((head.code, &status["reason"], &status["kind"]), (404, &json!("NotFound"), &json!("Status")));
    assert_eq!(Client::get(&server, "/api/v1/pods").0.code, 404);
    let seen: Vec<_> = server.take_seen().into_iter().map(|seen| (seen.verb, seen.resource, seen.code)).collect();
    assert_eq!(seen[0], (Verb::List, Some(Resource::Services), Some(200)));
    assert_eq!(seen.len(), 4);
}

#[test]
fn pages_are_of_one_version_until_it_expires() {
    let server = server();
    let all: String = (0..5).map(|n| format!("{}\n---\n", service(&format!("s{n}"), ""))).collect();
    let version = server.apply(&all).unwrap();
    let (_, first) = Client::get(&server, "/api/v1/services?limit=2");
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["s0", "s1"], &json!(3)));
    server.delete(Resource::Services, "default", "s2");
    server.apply(&service("s9", "")).unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = Client::get(&server, &format!("/api/v1/services?limit=2&continue={token}"));
    assert_eq!(names(&second), ["s2", "s3"]);
    assert_eq!(second["metadata"]["resourceVersion"], json!(version.to_string()));
    let (_, exact) =
        Client::get(&server, &format!("/api/v1/services?resourceVersion={version}&resourceVersionMatch=Exact"));
    assert_eq!(names(&exact), ["s0", "s1", "s2", "s3", "s4"]);
    let (_, newer) = Client::get(&server, &format!("/api/v1/services?resourceVersion={version}"));
    assert_eq!(names(&newer), ["s0", "s1", "s3", "s4", "s9"]);
    let (_, cached) = Client::get(&server, "/api/v1/services?limit=2&resourceVersion=0");
    assert_eq!(names(&cached).len(), 5, "a list from the cache has no pages");

    server.compact();
    let (head, status) = Client::get(&server, &format!("/api/v1/services?limit=2&continue={token}"));
    assert_eq!((head.code, &status["reason"]), (410, &json!("Expired")));
    let resume = status["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = Client::get(&server, &format!("/api/v1/services?continue={resume}"));
    assert_eq!(names(&rest), ["s3", "s4", "s9"], "as things are now");
    let future = version + 1000;
    let (head, status) = Client::get(&server, &format!("/api/v1/services?resourceVersion={future}"));
    assert_eq!((head.code, head.get("retry-after")), (504, Some("1")));
    assert_eq!(status["details"]["causes"][0]["reason"], json!("ResourceVersionTooLarge"));
}

#[test]
fn a_watch_is_lines_in_chunks() {
    let server = server();
    let version = server.apply(&service("web", "")).unwrap();
    let mut watch = Client::open(&server, &format!("{SERVICES}?watch=1&resourceVersion={version}"));
    assert_eq!((watch.head.code, watch.head.get("transfer-encoding")), (200, Some("chunked")));
    assert_eq!(watch.head.get("content-length"), None);
    server.apply(&service("web", "a: b")).unwrap();
    server.apply(&service("db", "")).unwrap();
    server.delete(Resource::Services, "default", "web");
    let lines = [watch.line(), watch.line(), watch.line()].map(|line| line.unwrap());
    let events = lines.each_ref().map(event);
    let at = |n: u64| version + n;
    let wanted = [("MODIFIED", "web", at(1)), ("ADDED", "db", at(2)), ("DELETED", "web", at(3))];
    assert_eq!(events, wanted.map(|(kind, name, version)| (kind.into(), name.into(), version)));
    assert_eq!(lines[0]["object"]["kind"], json!("Service"), "unlike a list's item");
    assert_eq!(server.watches(Resource::Services), 1);
    assert_eq!(watch.chunks(), 3, "each line goes out at once");
}

#[test]
fn an_object_that_leaves_the_selector_is_deleted() {
    let server = server();
    let selector = labels("!service.kubernetes.io/headless,app in (web,api),tier!=test");
    let mut watch = Client::open(&server, &format!("{SERVICES}?watch=1&labelSelector={selector}"));
    server.apply(&service("web", "app: db")).unwrap();
    server.apply(&service("web", "app: web")).unwrap();
    server.apply(&service("web", "{app: web, tier: prod}")).unwrap();
    let left = server.apply(&service("web", "{app: web, service.kubernetes.io/headless: ''}")).unwrap();
    server.delete(Resource::Services, "default", "web");
    server.apply(&service("other", "app: api")).unwrap();
    let lines: Vec<Value> = (0..4).map(|_| watch.line().unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED", "ADDED"]);
    assert_eq!(event(&lines[2]).2, left);
    assert_eq!(lines[2]["object"]["metadata"]["labels"]["tier"], json!("prod"), "as it was while it was selected");
    let mut one = Client::open(&server, "/api/v1/services?watch=1&fieldSelector=metadata.name%3Dother");
    assert_eq!(event(&one.line().unwrap()).1, "other");
}

#[test]
fn a_streaming_list_ends_with_its_bookmark() {
    let server = server();
    server.apply(&format!("{}\n---\n{}", service("a", ""), service("b", ""))).unwrap();
    let mut watch = Client::open(&server, STREAM);
    assert_eq!([event(&watch.line().unwrap()).1, event(&watch.line().unwrap()).1], ["a", "b"]);
    let end = watch.line().unwrap();
    assert_eq!(event(&end), ("BOOKMARK".into(), String::new(), server.version()));
    assert_eq!(end["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    server.send_bookmarks();
    let bookmark = watch.line().unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["metadata"]["annotations"]), (&json!("BOOKMARK"), &Value::Null));
    server.apply(&service("c", "")).unwrap();
    assert_eq!(event(&watch.line().unwrap()).0, "ADDED");
    let slices = STREAM.replace("/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices");
    let zero = Client::open(&server, &slices).line().unwrap();
    assert_eq!(zero["object"]["endpoints"], Value::Null, "a bookmark is no object to read as a whole");
    let future = format!("{STREAM}&resourceVersion={}", server.version() + 1);
    assert_eq!(Client::open(&server, &future).head.code, 504);

    let old = ApiServer::start(ApiConfig { watch_list: false, ..ApiConfig::default() }).unwrap();
    let (head, status) = Client::get(&old, STREAM);
    assert_eq!((head.code, &status["reason"]), (422, &json!("Invalid")));
}

#[test]
fn a_watch_that_begins_too_early_is_told_so_in_the_stream() {
    let server = server();
    let then = server.version();
    server.apply(&service("a", "")).unwrap();
    let mut running = Client::open(&server, &format!("{SERVICES}?watch=1&resourceVersion={then}"));
    assert_eq!(event(&running.line().unwrap()).1, "a");
    server.compact();
    let mut late = Client::open(&server, &format!("{SERVICES}?watch=1&resourceVersion={then}"));
    assert_eq!(late.head.code, 200);
    let line = late.line().unwrap();
    assert_eq!((&line["type"], &line["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(late.line(), None);
    assert!(late.ended_well());
    server.apply(&service("b", "")).unwrap();
    assert_eq!(event(&running.line().unwrap()).1, "b", "a watch that runs is not disturbed");

    server.restart(true);
    assert_eq!(running.line(), None);
    assert!(!running.ended_well(), "the connection broke");
    assert_eq!(server.version(), 102, "counted anew");
    let mut lost = Client::open(&server, &format!("{SERVICES}?watch=1&allowWatchBookmarks=1&resourceVersion=1000"));
    server.send_bookmarks();
    assert!(lost.nothing_for(Duration::from_millis(100)), "not even a bookmark");
    let mut blind = Client::open(&server, &format!("{SERVICES}?watch=1&resourceVersion=104"));
    server.apply(&service("c", "")).unwrap();
    server.apply(&service("d", "")).unwrap();
    server.apply(&service("e", "")).unwrap();
    assert_eq!(event(&blind.line().unwrap()).1, "e", "what is not newer than the client knows is not sent");
}

#[test]
fn watches_end_by_their_time_with_a_bookmark() {
    let server = server();
    let mut watch = Client::open(&server, &format!("{SERVICES}?watch=1&timeoutSeconds=1&allowWatchBookmarks=1"));
    assert_eq!(event(&watch.line().unwrap()).0, "BOOKMARK");
    assert_eq!(watch.line(), None);
    assert!(watch.ended_well());
}

#[test]
fn large_lists_are_compressed_for_who_accepts_it() {
    let server = ApiServer::start(ApiConfig { gzip_from: 1, ..ApiConfig::default() }).unwrap();
    server.apply(&service("a", "")).unwrap();
    let (head, plain) = Client::get(&server, SERVICES);
    assert_eq!(head.get("content-encoding"), None);
    let (head, packed) = Client::fetch(&server, "GET", SERVICES, &["Accept-Encoding: br, gzip;q=1"], "");
    assert_eq!((head.get("content-encoding"), packed), (Some("gzip"), plain));
}

#[test]
fn who_may_ask() {
    let server = ApiServer::start(ApiConfig { token: Some("secret".into()), ..ApiConfig::default() }).unwrap();
    let code = |header: &str| Client::fetch(&server, "GET", SERVICES, &[header], "").0.code;
    assert_eq!(code("X-None: 1"), 401);
    assert_eq!(code("Authorization: Bearer wrong"), 401);
    assert_eq!(code("Authorization: Bearer secret"), 200);
    server.set_token(Some("fresh"));
    assert_eq!([code("Authorization: Bearer secret"), code("Authorization: Bearer fresh")], [401, 200]);
    assert_eq!(Client::get(&server, "/version").1["gitVersion"], json!("v1.34.0"), "for everybody");
    server.set_token(None);
    server.forbid(Verb::List, Resource::Services);
    let (head, status) = Client::get(&server, SERVICES);
    assert_eq!((head.code, &status["reason"]), (403, &json!("Forbidden")));
    assert_eq!(Client::open(&server, &format!("{SERVICES}?watch=1")).head.code, 200, "another verb");
    server.heal();
    assert_eq!(Client::get(&server, SERVICES).0.code, 200);
    for (path, kind) in
        [("/api", "APIVersions"), ("/apis", "APIGroupList"), ("/apis/discovery.k8s.io/v1", "APIResourceList")]
    {
        assert_eq!(Client::get(&server, path).1["kind"], json!(kind));
    }
}

/// A GET over TLS by somebody who trusts this CA: the first line of the answer.
fn get_over_tls(server: &ApiServer, ca: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = server.address().ip().to_string().try_into().unwrap();
    let connection = ClientConnection::new(config.into(), name).unwrap();
    let mut stream = StreamOwned::new(connection, std::net::TcpStream::connect(server.address())?);
    stream.write_all(b"GET /api/v1/nodes HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.lines().next().unwrap_or("").to_owned())
}

#[test]
fn https_with_a_ca_that_can_be_rotated() {
    let server = ApiServer::start(ApiConfig { tls: true, ..ApiConfig::default() }).unwrap();
    assert!(server.url().starts_with("https://127.0.0.1:"));
    let first = server.ca_pem().unwrap();
    assert_eq!(get_over_tls(&server, &first).unwrap(), "HTTP/1.1 200 OK");
    server.rotate_ca().unwrap();
    assert!(get_over_tls(&server, &first).is_err(), "the old CA did not sign this");
    assert_eq!(get_over_tls(&server, &server.ca_pem().unwrap()).unwrap(), "HTTP/1.1 200 OK");
}

#[test]
fn inside_a_namespace() {
    let netns = NetNs::create(&format!("berrylb-test-api-{}", std::process::id()), &[]).unwrap();
    let server = ApiServer::start_in(&netns, "127.0.0.1:6443".parse().unwrap(), ApiConfig::default()).unwrap();
    assert!(std::net::TcpStream::connect_timeout(&server.address(), Duration::from_millis(200)).is_err(), "not here");
    let (head, list) = netns.enter(|| Ok(Client::get(&server, SERVICES))).unwrap();
    assert_eq!((head.code, names(&list).len()), (200, 0));
}

/// As `kubectl describe` looks for them.
#[test]
fn faults_of_requests() {
    let server = server();
    server.apply(&service("a", "")).unwrap();
    server.script(Rule::next(Fault::Status { code: 429, retry_after: Some(7) }));
    let (head, status) = Client::get(&server, SERVICES);
    assert_eq!((head.code, head.get("retry-after"), &status["reason"]), (429, Some("7"), &json!("TooManyRequests")));
    server.script(Rule::next(Fault::EmptyList).of(Resource::Services).times(2));
    assert_eq!(names(&Client::get(&server, SERVICES).1), [""; 0]);
    assert_eq!(event(&Client::open(&server, STREAM).line().unwrap()).0, "BOOKMARK");
    assert_eq!(names(&Client::get(&server, SERVICES).1), ["a"]);
    for fault in [Fault::Hangup, Fault::HalfClose] {
        server.script(Rule::next(fault));
        assert_eq!(Client::raw(&server, SERVICES), b"");
    }
    server.script(Rule::next(Fault::TruncatedList));
    let cut = Client::raw(&server, SERVICES);
    let body = cut.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let promised: usize = Client::head(&cut[..body]).get("content-length").unwrap().parse().unwrap();
    assert_eq!(cut.len() - body, promised / 2);
    server.script(Rule::next(Fault::Delay(Duration::from_millis(80))));
    let start = std::time::Instant::now();
    assert_eq!(Client::get(&server, SERVICES).0.code, 200);
    assert!(start.elapsed() >= Duration::from_millis(80));
    server.script(Rule::next(Fault::Stall));
    assert!(Client::is_silent(&server, SERVICES, Duration::from_millis(150)));
    server.refuse();
    assert!(std::net::TcpStream::connect(server.address()).is_err());
    server.listen_again();
    assert_eq!(Client::get(&server, SERVICES).0.code, 200);
}

#[test]
fn faults_of_watches() {
    let server = server();
    let watch = |fault: Option<Fault>| {
        fault.into_iter().for_each(|fault| server.script(Rule::next(fault).on(Verb::Watch)));
        Client::open(&server, &format!("{SERVICES}?watch=1&resourceVersion={}", server.version()))
    };
    let two = |n: u32| format!("{}\n---\n{}", service("a", &format!("n: '{n}'")), service("b", &format!("n: '{n}'")));
    let mut swapped = watch(Some(Fault::SwapEvents));
    let mut repeated = watch(Some(Fault::RepeatEvents));
    let mut closed = watch(Some(Fault::Close { after: 1 }));
    let mut half = watch(Some(Fault::HalfLine { after: 1 }));
    let mut error = watch(Some(Fault::ErrorEvent { after: 1, code: 500 }));
    let mut silent = watch(Some(Fault::Silent { after: 1 }));
    let plain: Vec<Client> = (0..4).map(|_| watch(None)).collect();
    server.apply(&two(1)).unwrap();
    let next = |client: &mut Client| event(&client.line().unwrap()).1;
    assert_eq!([next(&mut swapped), next(&mut swapped)], ["b", "a"]);
    assert_eq!([next(&mut repeated), next(&mut repeated), next(&mut repeated)], ["a", "a", "b"]);
    for (client, well) in [(&mut closed, true), (&mut half, false)] {
        assert_eq!(next(client), "a");
        assert_eq!((client.line(), client.ended_well()), (None, well));
    }
    assert!(!half.rest().is_empty(), "half a line is left");
    assert_eq!(next(&mut error), "a");
    assert_eq!(error.line().unwrap()["object"]["code"], json!(500));
    assert_eq!(next(&mut silent), "a");
    server.send_bookmarks();
    assert!(silent.nothing_for(Duration::from_millis(100)));

    for (mut client, end) in plain.into_iter().zip([End::Close, End::Expired, End::HalfLine, End::Break]) {
        assert_eq!([next(&mut client), next(&mut client)], ["a", "b"]);
        if end == End::Close {
            // The others end with it; each gets a watch of its own below.
            server.end_watches(end);
            assert_eq!((client.line(), client.ended_well()), (None, true));
            continue;
        }
        let mut client = watch(None);
        server.apply(&service("c", &format!("end: {end:?}"))).unwrap();
        assert_eq!(next(&mut client), "c");
        server.end_watches(end);
        let last = client.line();
        assert_eq!(last.is_some_and(|line| line["object"]["code"] == json!(410)), end == End::Expired);
        assert_eq!((client.line(), client.ended_well()), (None, end == End::Expired));
    }
}

/// The system gives a port that nobody holds to any socket, also to a client's: the server could not come back.
#[test]
fn the_address_stays_the_servers_while_it_refuses() {
    let server = server();
    server.refuse();
    let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let error = stranger.bind(&server.address().into()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(std::net::TcpStream::connect(server.address()).is_err(), "nobody listens");
    server.listen_again();
    assert_eq!(Client::get(&server, SERVICES).0.code, 200);
}

#[test]
fn a_restored_backup_gives_versions_once_more() {
    let server = server();
    let version = server.apply(&service("kept", "")).unwrap();
    let backup = server.backup();
    server.apply(&service("lost", "")).unwrap();
    server.delete(Resource::Services, "default", "kept");
    server.restore(&backup);
    server.listen_again();
    let (_, list) = Client::get(&server, SERVICES);
    assert_eq!((names(&list), server.version()), (vec!["kept"], version));
    assert_eq!(server.apply(&service("new", "")).unwrap(), version + 1);
}
