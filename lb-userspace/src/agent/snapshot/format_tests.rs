//! What is written reads back, and nothing else is taken for it.

use std::io::Read as _;

use proptest::prelude::*;

use super::*;
use crate::{k8s, model::Index};

const ALL_FIELDS: &str = "
apiVersion: v1
kind: Service
metadata:
  name: web
  uid: 0b7d8d1e-7f0c-4e0a-9b1e-3a5d1f2c4b6a
  creationTimestamp: 2026-01-02T03:04:05Z
  annotations: {berrylb.io/algorithm: maglev, berrylb.io/weights: 'n2=3, 10.244.2.66=0', berrylb.io/what: x}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.7, 'fd00:10:96::7']
  externalIPs: [192.0.2.7]
  selector: {app: web}
  sessionAffinity: ClientIP
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  healthCheckNodePort: 32100
  loadBalancerSourceRanges: [192.0.2.0/24]
  ports: [{name: http, port: 80, nodePort: 30080}, {name: dns, port: 53, protocol: UDP}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.1}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-x
  labels: {kubernetes.io/service-name: web}
  annotations: {endpoints.kubernetes.io/last-change-trigger-time: '2026-01-02T03:04:06Z'}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.5], nodeName: n1, zone: a, hints: {forZones: [{name: a}], forNodes: [{name: n1}]}}
- {addresses: [10.244.2.66], conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: v1
kind: Endpoints
metadata: {name: own}
subsets: [{addresses: [{ip: 192.0.2.9}], ports: [{port: 90}]}]
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}
status: {addresses: [{type: InternalIP, address: 192.168.1.11}]}
";

/// The text of [`ALL_FIELDS`] in version 2. If this test fails, the format needs a new version, or the change is not one
/// that should be made.
const LINES: &str = r#"{"format":"berrylb objects","version":2,"node":"n1","server":"https://pi:6443/","written":1764381148,"objects":4}
{"Service":{"name":"default/web","created":1767323045000000000,"uid":"0b7d8d1e-7f0c-4e0a-9b1e-3a5d1f2c4b6a","ignored":false,"kind":"LoadBalancer","headless":false,"has_selector":true,"cluster_ips":["10.96.0.7","fd00:10:96::7"],"external_ips":["192.0.2.7"],"load_balancer_ips":["198.51.100.1"],"ports":[{"name":"http","port":80,"node_port":30080,"protocol":"TCP"},{"name":"dns","port":53,"node_port":null,"protocol":"UDP"}],"internal_policy":"Local","external_policy":"Local","affinity_seconds":10800,"source_ranges":["192.0.2.0/24"],"health_check_node_port":32100,"algorithm":"maglev","weights":{"addresses":{"10.244.2.66":0},"nodes":{"n2":3}},"bad_annotations":[{"name":"berrylb.io/what","cause":"CAUSE"}]}}
{"EndpointSlice":{"namespace":"default","name":"web-x","service":"default/web","ignored":false,"mirrored":false,"family":"V4","group":{"ports":[{"name":"http","port":8080,"protocol":"TCP"}],"endpoints":[{"address":"10.244.1.5","ready":true,"serving":true,"terminating":false,"node_name":"n1","zone":"a","zone_hints":["a"],"node_hints":["n1"]},{"address":"10.244.2.66","ready":false,"serving":true,"terminating":true}]}}}
{"Endpoints":{"name":"default/own","skip_mirror":false,"groups":[{"ports":[{"name":"","port":90,"protocol":"TCP"}],"endpoints":[{"address":"192.0.2.9","ready":true,"serving":true,"terminating":false}]}]}}
{"Node":{"name":"n1","addresses":["192.168.1.11"],"zone":"a","leaving":false}}
"#;

fn written() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_764_381_148)
}

fn identity() -> Identity {
    Identity { node: "n1".into(), server: "https://pi:6443/".into() }
}

fn index(yaml: &str) -> Index {
    let parsed = k8s::parse("test", yaml.as_bytes());
    assert!(parsed.bad.is_empty(), "{:?}", parsed.bad);
    let mut index = Index::default();
    for located in parsed.objects {
        index.upsert(located.object);
    }
    index
}

fn encoded(yaml: &str) -> Encoded {
    encode(&identity(), written(), index(yaml).shared()).unwrap()
}

fn read(bytes: &[u8]) -> Result<Snapshot, FormatError> {
    decode(bytes, &identity(), |_| true)
}

fn zipped(text: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_lines_of_version_2() {
    let text = text(&encoded(ALL_FIELDS).bytes);
    // The wording of what is wrong with an annotation is not the format's.
    let cause = text.split_once("\"cause\":\"").unwrap().1.split_once('"').unwrap().0.to_owned();
    assert_eq!(text.replace(&cause, "CAUSE"), LINES);
}

#[test]
fn what_is_written_reads_back() {
    let encoded = encoded(ALL_FIELDS);
    let found = read(&encoded.bytes).unwrap();
    assert_eq!((found.written, found.digest, found.objects.len()), (written(), encoded.digest, 4));
    let mut index = index(ALL_FIELDS);
    for object in found.objects {
        let version = index.version();
        index.upsert(object);
        assert_eq!(index.version(), version, "the same as the one that was written");
    }
}

#[test]
fn what_is_not_wanted_is_not_kept_and_changes_no_digest() {
    let encoded = encoded(ALL_FIELDS);
    let found = decode(&encoded.bytes[..], &identity(), |key| &*key.name == "own").unwrap();
    assert_eq!((found.objects.len(), found.digest), (1, encoded.digest));
}

#[test]
fn equal_objects_have_equal_digests_whenever_they_are_written() {
    let one = encode(&identity(), written(), index(ALL_FIELDS).shared()).unwrap();
    let mut reversed = index(ALL_FIELDS).shared();
    reversed.reverse();
    let other = encode(&identity(), UNIX_EPOCH, reversed).unwrap();
    assert_eq!(one.digest, other.digest);
    assert_ne!(one.bytes, other.bytes, "the time of writing differs");
    assert_ne!(encoded(&ALL_FIELDS.replace("10.244.1.5", "10.244.1.6")).digest, one.digest);
}

/// Every way in which a file can be another's: each is told for what it is.
#[test]
fn a_foreign_file_is_refused_by_name() {
    let changed = |from: &str, to: &str| {
        let text = text(&encoded(ALL_FIELDS).bytes);
        assert!(text.contains(from));
        read(&zipped(text.replacen(from, to, 1).as_bytes())).unwrap_err().to_string()
    };
    for (from, to, told) in [
        ("\"version\":2", "\"version\":3", "format is version 3; this berrylb reads version 2"),
        ("\"version\":2", "\"version\":7,\"more\":[]", "version 7"),
        ("\"node\":\"n1\"", "\"node\":\"n2\"", "it is of node \"n2\", and this is \"n1\""),
        ("https://pi:6443/", "https://other/", "those of https://other/, and this agent follows https://pi:6443/"),
        ("berrylb objects", "something else", "no snapshot of berrylb"),
        ("\"written\"", "\"when\"", "damaged or cut off (head: missing field `written`"),
        ("\"objects\":4", "\"objects\":5", "damaged or cut off (a line does not end)"),
        ("\"objects\":4", "\"objects\":3", "damaged or cut off (more than its 3 objects)"),
        ("\"family\":\"V4\"", "\"family\":\"V5\"", "damaged or cut off (object 2: unknown variant `V5`"),
    ] {
        let error = changed(from, to);
        assert!(error.contains(told), "{from} → {to}: {error}");
    }
    for (bytes, told) in
        [(&b""[..], "no snapshot"), (b"apiVersion: v1\n", "no snapshot"), (&zipped(b"{}\n"), "no snapshot")]
    {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

/// A file whose content grows without an end is not read into memory.
#[test]
fn a_line_without_an_end_is_damage() {
    let mut endless = text(&encoded(ALL_FIELDS).bytes).into_bytes();
    endless.resize(endless.len() + usize::try_from(LONGEST).unwrap() + 10, b'x');
    let head = endless.iter().position(|byte| *byte == b'\n').unwrap();
    endless.splice(head + 1..head + 1, vec![b' '; usize::try_from(LONGEST).unwrap() + 1]);
    assert!(matches!(read(&zipped(&endless)), Err(FormatError::Damaged(cause)) if cause == "a line does not end"));
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let bytes = encoded(ALL_FIELDS).bytes;
    for len in 0..bytes.len() {
        assert!(read(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
    for more in [&b"\n"[..], b"\0", &bytes] {
        let longer = [&bytes[..], more].concat();
        assert!(matches!(read(&longer), Err(FormatError::Damaged(_))), "{} bytes more", more.len());
    }
}

/// Whatever happens to the bytes: it is refused, or it says what was written (some bits of gzip say nothing).
#[track_caller]
fn check_damaged(damaged: &[u8], whole: &Snapshot) {
    match read(damaged) {
        Ok(found) => assert_eq!(found, *whole),
        Err(FormatError::Io(error)) => panic!("no file system is involved: {error}"),
        Err(_) => {}
    }
}

#[test]
fn a_flipped_bit_is_never_believed() {
    let bytes = encoded(ALL_FIELDS).bytes;
    let whole = read(&bytes).unwrap();
    let (mut refused, mut all) = (0, 0);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            check_damaged(&damaged, &whole);
            all += 1;
            refused += usize::from(read(&damaged).is_err());
        }
    }
    assert!(refused * 100 > all * 90, "{refused} of {all}");
}

proptest! {
    #[test]
    fn damage_of_any_kind_is_never_believed(
        start in 0_usize..2_000,
        put in proptest::collection::vec(any::<u8>(), 0..64),
        removed in 0_usize..64,
    ) {
        let bytes = encoded(ALL_FIELDS).bytes;
        let whole = read(&bytes).unwrap();
        let start = start % bytes.len();
        let mut damaged = bytes.clone();
        damaged.splice(start..(start + removed).min(bytes.len()), put);
        if damaged != bytes {
            check_damaged(&damaged, &whole);
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
        // The same where gzip has no objection.
        prop_assert!(read(&zipped(&bytes)).is_err());
    }
}
