//! Rules about one file's text.

use super::Finding;

/// A file should fit in a reader's head. Above this it is two files.
const MAX_LINES: usize = 450;

/// Where a path through a crate may be named, as prefixes of files; everywhere else it is a leak between layers.
struct Layer {
    path: &'static str,
    within: &'static str,
    allowed: &'static [&'static str],
    why: &'static str,
}

const LAYERS: [Layer; 3] = [
    Layer {
        path: "kube::",
        within: "lb-",
        allowed: &["lb-userspace/src/k8s/"],
        why: "the Kubernetes client stays inside lb-userspace/src/k8s",
    },
    Layer {
        path: "k8s_openapi::",
        within: "lb-",
        allowed: &["lb-userspace/src/k8s/"],
        why: "Kubernetes' own types stay inside lb-userspace/src/k8s",
    },
    Layer {
        path: "aya::",
        within: "lb-userspace/src/",
        allowed: &["lb-userspace/src/maps/bpf", "lb-userspace/src/loader/"],
        why: "aya stays inside lb-userspace/src/maps/bpf*.rs and lb-userspace/src/loader",
    },
];

/// The rules' own words, cut in two so that this file keeps the rules.
const UNFINISHED: [&str; 5] =
    [concat!("to", "do!"), concat!("un", "implemented!"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("TB", "D")];

/// Folders of one person's machine, which mean nothing to a reader.
const PRIVATE_FOLDERS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

/// The rules that `text`, the content of the file `path`, breaks.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |line: usize, message: String| findings.push(Finding { file: path.to_owned(), line, message });

    // A test's input may be wrong on purpose, and a licence's text is not ours to trim.
    let foreign = path.starts_with("LICENSE") || (path.contains("tests/") && !path.ends_with(".rs"));
    if !foreign && !text.is_empty() && !text.ends_with('\n') {
        found(text.lines().count(), "the last line does not end with a line feed".to_owned());
    }
    for (line, number) in text.lines().zip(1..) {
        if !foreign && line.ends_with([' ', '\t', '\r']) {
            found(number, "white space at the end of the line".to_owned());
        }
        if let Some(folder) = PRIVATE_FOLDERS.iter().find(|folder| names_folder(line, folder)) {
            found(number, format!("{folder} is a folder of one machine"));
        }
    }
    if path.ends_with(".rs") {
        check_rust(path, text, &mut found);
    }
    findings
}

fn check_rust(path: &str, text: &str, found: &mut impl FnMut(usize, String)) {
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found(lines, format!("{lines} lines: a file has at most {MAX_LINES}"));
    }
    if !text.starts_with("//!") {
        found(1, "the file does not start with a `//!` that says what it is for".to_owned());
    }
    for (line, number) in text.lines().zip(1..) {
        if let Some(word) = UNFINISHED.iter().find(|word| line.contains(*word)) {
            found(number, format!("`{word}`: finish it, or make it an issue"));
        }
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        if code.contains(concat!("[all", "ow("))
            || (code.contains("cfg_attr(") && code.contains(concat!(" all", "ow(")))
        {
            found(
                number,
                "a lint is silenced by `#[expect(…, reason = \"…\")]`, which says why and when it ends".to_owned(),
            );
        }
        if code.contains(concat!("#[ign", "ore]")) {
            found(number, "an ignored test gives its reason: `#[ignore = \"…\"]`".to_owned());
        }
        if path.starts_with("lb-common/") && has_word(code, "unsafe") {
            found(number, "lb-common is safe code only".to_owned());
        }
        for layer in &LAYERS {
            let applies =
                path.starts_with(layer.within) && !layer.allowed.iter().any(|prefix| path.starts_with(prefix));
            if applies && names_path(code, layer.path) {
                found(number, format!("`{}`: {}", layer.path, layer.why));
            }
        }
    }
}

/// Whether `code` holds `path` (as `aya::`) as a path's first segment and not as the end of another name.
fn names_path(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| !code[..at].ends_with(is_name_or_quote))
}

fn is_name_or_quote(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '"' | '`' | ':')
}

/// Whether `line` names something in `folder` from the file system's root, and not a relative path or an address.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-$}*~>".contains(c)))
}

fn has_word(code: &str, word: &str) -> bool {
    let boundary = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word)
        .any(|(at, _)| boundary(code[..at].chars().next_back()) && boundary(code[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a file whose second line is `line`, and expects findings there that hold `expected`, or none for "".
    #[track_caller]
    fn line(path: &str, line: &str, expected: &str) {
        let findings = check(path, &format!("//! Doc.\n{line}\n"));
        if expected.is_empty() {
            assert_eq!(findings, [], "{path}: {line}");
        } else {
            let [finding] = findings.as_slice() else { panic!("{path}: {line}: {findings:?}") };
            assert!(finding.line == 2 && finding.message.contains(expected), "{finding}");
        }
    }

    #[test]
    fn whole_files() {
        assert_eq!(check("a.rs", "//! Doc.\n"), []);
        assert_eq!(check("a.rs", "fn main() {}\n").len(), 1);
        assert_eq!(
            check("a.rs", "//! Doc."),
            check("a.md", "//! Doc.")
                .into_iter()
                .map(|found| Finding { file: "a.rs".into(), ..found })
                .collect::<Vec<_>>()
        );
        assert_eq!(check("a.md", "no line feed").len(), 1);
        let long = "//! Doc.\n".repeat(MAX_LINES);
        assert_eq!(check("a.rs", &long), []);
        assert_eq!(check("a.rs", &(long.clone() + "\n")).len(), 1);
        assert_eq!(check("a.yaml", &(long + "\n")), []);
    }

    #[test]
    fn unfinished_code() {
        line("a.rs", concat!("fn f() { to", "do!() }"), "finish it");
        line("a.rs", concat!("// FIX", "ME: later"), "finish it");
        line("a.md", concat!("FIX", "ME"), "");
    }

    #[test]
    fn silenced_lints() {
        line("a.rs", concat!("#[all", "ow(dead_code)]"), "expect");
        line("a.rs", concat!("#![all", "ow(dead_code)]"), "expect");
        line("a.rs", concat!("#[cfg_attr(test, all", "ow(dead_code))]"), "expect");
        line("a.rs", "#[expect(dead_code, reason = \"x\")]", "");
        line("a.rs", "let policy = allow(peer);", "");
        line("a.rs", concat!("#[ign", "ore]"), "reason");
    }

    #[test]
    fn layers() {
        line("lb-userspace/src/model/a.rs", "use kube::Client;", "k8s");
        line("lb-lab/src/a.rs", "fn f(x: k8s_openapi::api::core::v1::Service) {}", "k8s");
        line("lb-userspace/src/k8s/a.rs", "use kube::Client;", "");
        line("lb-userspace/src/model/a.rs", "use minikube::Client;", "");
        line("lb-userspace/src/net/a.rs", "use aya::Ebpf;", "aya stays");
        line("lb-userspace/src/maps/bpf_store.rs", "use aya::maps::Array;", "");
        line("lb-userspace/src/loader/a.rs", "use aya::Ebpf;", "");
        line("lb-userspace/tests/bpf_a.rs", "use aya::Ebpf;", "");
        line("lb-userspace/src/net/a.rs", "// unlike aya::Ebpf", "");
    }

    #[test]
    fn safe_core() {
        line("lb-common/src/a.rs", "unsafe { f() }", "safe code only");
        line("lb-common/src/a.rs", "#![forbid(unsafe_code)]", "");
        line("lb-ebpf/src/a.rs", "unsafe { f() }", "");
    }

    #[test]
    fn private_folders_and_white_space() {
        line("a.md", concat!("see /ho", "me/me/notes"), "one machine");
        line("a.md", concat!("lib/wo", "rk/queue and https://example.org/ho", "me/"), "");
        line("a.yaml", "key: value ", "white space");
        line("a/tests/golden/input.yaml", "key: value ", "");
    }
}
