//! What an owner is told, and what makes two findings the same.

use super::*;
use crate::{
    maps::{Part, StoreError},
    plan::{Place, state::Protocol},
};

fn name(service: &str) -> ServiceName {
    ServiceName::new("default", service)
}

fn taken(kind: FrontendType, address: &str, port: u16, owner: &str) -> Diagnostic {
    let wanted = Place { kind, address: address.parse().unwrap(), port, protocol: Protocol::Tcp };
    Diagnostic::Taken { loser: name("web"), wanted, owner: name(owner), as_kind: FrontendType::ExternalIp }
}

fn sctp(port: u16, target: Option<u16>) -> Diagnostic {
    Diagnostic::NotCarried { service: name("web"), port_name: "p".into(), port, protocol: Protocol::Sctp, target }
}

fn names(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.reason.as_str()).collect()
}

#[test]
fn a_reason_is_one_event_however_many_places_there_are() {
    let external = FrontendType::ExternalIp;
    let many: Vec<Diagnostic> = (1..=9).map(|n| taken(external, &format!("192.0.2.{n}"), 80, "db")).collect();
    let findings = of_diagnostics(&many);
    assert_eq!(names(&findings), ["AddressConflict"]);
    let note = &findings[0].note;
    assert!(
        note.starts_with("ExternalIP 192.0.2.1:80/TCP is left out: service default/db, which comes first"),
        "{note}"
    );
    assert!(
        note.contains("192.0.2.4:80") && !note.contains("192.0.2.5:80") && note.ends_with("; and 5 more"),
        "{note}"
    );
    let other = of_diagnostics(&many[1..]);
    assert_ne!(findings[0].detail, other[0].detail, "it is another finding if other places are taken");
}

#[test]
fn each_diagnostic_for_an_owner_has_its_reason() {
    let service = || name("web");
    let all = [
        taken(FrontendType::ExternalIp, "192.0.2.1", 80, "db"),
        sctp(9000, Some(9001)),
        Diagnostic::NoClusterIp { service: service() },
        Diagnostic::WrongFamily {
            service: service(),
            kind: FrontendType::ExternalIp,
            address: "fd00::1".parse().unwrap(),
        },
        Diagnostic::BadAnnotation { service: service(), annotation: "berrylb.io/x".into(), cause: "unknown".into() },
        Diagnostic::HealthPortTaken { loser: service(), port: 30000, owner: name("db") },
        Diagnostic::KeptBackends { service: service() },
    ];
    let reasons = [
        "AddressConflict",
        "ProtocolNotSupported",
        "NoClusterIP",
        "IPFamilyMismatch",
        "InvalidAnnotation",
        "HealthCheckNodePortConflict",
        "EndpointsKept",
    ];
    assert_eq!(names(&of_diagnostics(&all)), reasons);
    let not_the_owners = [
        taken(FrontendType::LoadBalancer, "192.0.2.1", 80, "web"),
        sctp(9000, None),
        Diagnostic::NoPorts { service: service() },
        Diagnostic::NoNodeAddress { service: service(), others: 1, node: "n1".into(), chosen: false },
    ];
    assert!(of_diagnostics(&not_the_owners).is_empty());
    for finding in of_diagnostics(&all) {
        assert!(!finding.note.contains("default/web"), "the Event names its Service: {}", finding.note);
    }
}

#[test]
fn nodes_find_the_same() {
    let on = |address: &str| of_diagnostics(&[taken(FrontendType::NodePort, address, 30080, "db")]).remove(0);
    let uid = Uid::new("u").unwrap();
    let event = |finding: &Finding| finding.event_name(&name("web"), &uid);
    assert_eq!(event(&on("192.168.1.1")), event(&on("192.168.1.2")), "a node port's address is the node's");
    let full = |node: &str, needed| {
        let cause = Cause::Full { map: "backends", capacity: 8, flag: "--max-backends", needed };
        let part = Part::Port { name: "http".into(), protocol: Protocol::Tcp };
        of_problems(node, &[Problem { part, cause }]).unwrap()
    };
    let (one, other) = (full("n1", Some((3, 1))), full("n2", Some((2, 0))));
    assert_eq!(event(&one), event(&other));
    assert_eq!(
        one.note,
        "On node n1: port \"http\" TCP is not updated in the datapath: map backends is full (8 entries; 3 needed at once, 1 \
         free): raise --max-backends"
    );
    // Names are for other versions of the agent, too: they stay as they are.
    assert_eq!(event(&one), "web.14b27514f7533a80");
    assert_ne!(event(&one), one.event_name(&name("web"), &Uid::new("v").unwrap()));
}

#[test]
fn a_lack_of_room_comes_before_what_the_kernel_refuses() {
    let problem = |cause| Problem { part: Part::Leftover, cause };
    let refused = || problem(Cause::Store(StoreError::Full { map: "services" }));
    let small = || problem(Cause::SmallTable { endpoints: 300, size: 251 });
    let both = of_problems("n1", &[refused(), small()]).unwrap();
    assert_eq!((both.reason.as_str(), both.detail.as_str()), ("DatapathFull", "--maglev-table-size"));
    assert!(both.note.contains("300 endpoints") && !both.note.contains("services"), "{}", both.note);
    let one = of_problems("n1", &[refused(), refused()]).unwrap();
    assert_eq!((one.reason.as_str(), one.detail.as_str()), ("NotInDatapath", ""));
    assert_eq!(of_problems("n1", &[]), None);
}

#[test]
fn a_health_check_that_is_not_served_names_the_places() {
    let places = ["192.168.1.1:30000", "[fd00::1]:30000"].map(|place| place.parse().unwrap());
    let finding = of_health_check("n1", &places).unwrap();
    assert_eq!(finding.reason.as_str(), "FailedToStartServiceHealthcheck");
    assert!(finding.note.contains("30000 is not served on 192.168.1.1, fd00::1"), "{}", finding.note);
    assert_eq!(of_health_check("n1", &[]), None);
}
