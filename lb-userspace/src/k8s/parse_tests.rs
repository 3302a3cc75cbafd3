//! How bad objects are named, and what an agent keeps of them. What good ones become is shown by the golden cases.

use super::{Guess, parse};
use crate::k8s::{Meant, Parsed};

fn keys(parsed: &Parsed) -> Vec<String> {
    parsed.objects.iter().map(|o| o.object.key().to_string()).collect()
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn last_good_versions_are_kept_by_name() {
    let before = parse("f", [service("a", "{}"), service("b", "{}"), service("c", "{}")].join("---\n").as_bytes());
    let mut now = parse("f", [service("a", "{ports: [{port: 0}]}"), service("b", "{}")].join("---\n").as_bytes());
    assert_eq!(keys(&now), ["Service default/b"]);
    now.keep_last_good(&before);
    assert_eq!(keys(&now), ["Service default/a", "Service default/b"], "c is gone, not bad");
    assert_eq!(now.objects[0], before.objects[0]);
}

#[test]
fn last_good_versions_are_kept_through_broken_text() {
    let two = [service("a", "{}"), service("b", "{}")].join("---\n");
    let before = parse("f", two.as_bytes());
    let broken = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec: [\n";
    let mut now = parse("f", broken.as_bytes());
    now.keep_last_good(&before);
    assert_eq!(keys(&now), ["Service default/a"], "the name can be read, so b is gone");

    for unclear in ["apiVersion: v1\nkind: List\nitems: [", "metadata: [", "\u{1}"] {
        let mut now = parse("f", unclear.as_bytes());
        assert_eq!(now.bad.len(), 1, "{unclear:?}");
        assert_eq!(now.bad[0].meant, Meant::Unclear, "{unclear:?}");
        now.keep_last_good(&before);
        assert_eq!(keys(&now), ["Service default/a", "Service default/b"], "{unclear:?}");
    }

    let mut now = parse("f", [service("b", "{type: NodePort}").as_str(), "["].join("---\n").as_bytes());
    now.keep_last_good(&before);
    assert_eq!(keys(&now), ["Service default/a", "Service default/b"], "what is good now is not kept twice");
    assert_ne!(now.objects[1].object, before.objects[1].object, "and the new version counts");

    let mut now = parse("f", b"apiVersion: v1\nkind: ConfigMap\ndata: [");
    assert_eq!(now.bad[0].meant, Meant::Nothing);
    now.keep_last_good(&before);
    assert!(now.objects.is_empty(), "a broken ConfigMap keeps nothing");
}

#[test]
fn names_are_read_off_broken_text() {
    #[track_caller]
    fn check(text: &str, expected: [Option<&str>; 4]) {
        let Guess { api_version, kind, namespace, name } = Guess::from_text(text);
        let found = [&api_version, &kind, &namespace, &name].map(Option::as_deref);
        assert_eq!(found, expected, "{text:?}");
    }
    let full = [Some("v1"), Some("Service"), Some("apps"), Some("web")];
    check("apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: apps\n", full);
    check(
        "kind: \"Service\" # x\r\nmetadata:\r\n    labels:\r\n        name: no\r\n    namespace: 'apps'\r\n    name: web\r\napiVersion: v1\r\n",
        full,
    );
    check("metadata:\n  name: web\nspec:\n  name: no\n", [None, None, None, Some("web")]);
    check("metadata:\n# note\n\n  annotations:\n    name: no\n", [None; 4]);
    check("  kind: Service\n- kind: Service\nmetadata: {name: web}\n", [None; 4]);
    check("kind: Service Account\nmetadata:\n  name: *x\n  name:\n", [None; 4]);
}

/// No input makes it panic, and what it makes of it does not depend on chance.
#[test]
fn any_bytes_are_survived() {
    use proptest::prelude::*;
    let piece = prop_oneof![
        Just("---\n".to_owned()),
        Just("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n".to_owned()),
        Just("apiVersion: v1\nkind: List\nitems:\n".to_owned()),
        Just("- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n".to_owned()),
        Just("spec: {ports: [{port: ".to_owned()),
        "[ -~\n\t]{0,12}",
        "\\PC{0,6}",
        "[\\[\\]{}:,&*!|>'\"%@`?#-]{1,6}",
    ];
    let text = proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
    proptest!(ProptestConfig::with_cases(400), |(text in text, bytes in proptest::collection::vec(any::<u8>(), 0..40))| {
        for input in [text.as_bytes(), &bytes, &[text.as_bytes(), &bytes].concat()] {
            let once = parse("f", input);
            prop_assert_eq!(&once, &parse("f", input));
            let lines = input.split(|b| *b == b'\n').count();
            for bad in &once.bad {
                prop_assert!((1..=lines).contains(&(bad.at.line as usize)), "{}", bad);
                prop_assert!(!bad.to_string().contains('\n'), "{}", bad);
            }
        }
    });
}
