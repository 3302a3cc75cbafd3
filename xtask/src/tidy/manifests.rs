//! Rules about the manifests: workspace lints are on for its members, no dependency is unused, and the core stays free of aya.

use super::Finding;

/// The rules that the manifests among `files` (path and text, for the whole tree) break.
pub(super) fn check(files: &[(String, String)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in files {
        let Some(member) = path.strip_suffix("/Cargo.toml") else { continue };
        let mut found = |line: usize, message: String| findings.push(Finding { file: path.clone(), line, message });

        // A workspace of its own, as cargo-fuzz wants it, cannot inherit from ours.
        let ours = !text.contains("\n[workspace]\n");
        if ours && !text.contains("[lints]\nworkspace = true") {
            found(1, "the workspace's lints are not on: `[lints]` with `workspace = true`".to_owned());
        }
        for dependency in dependencies(text) {
            if member == "lb-common" && dependency.name.starts_with("aya") {
                found(dependency.line, "lb-common does not depend on aya: it also runs on the host".to_owned());
            }
            if dependency.name == member {
                // A package that depends on itself does so to turn a feature on in its own tests.
                continue;
            }
            let name = dependency.name.replace('-', "_");
            let sources = files.iter().filter(|(path, _)| {
                path.strip_prefix(member).is_some_and(|rest| rest.starts_with('/')) && path.ends_with(".rs")
            });
            if !sources.into_iter().any(|(_, source)| names_crate(source, &name)) {
                found(dependency.line, format!("no source file of {member} names {name}: an unused dependency"));
            }
        }
    }
    findings
}

struct Dependency<'a> {
    name: &'a str,
    line: usize,
}

/// The entries of all dependency tables, of any kind and target. The name is the one that the code uses.
fn dependencies(manifest: &str) -> impl Iterator<Item = Dependency<'_>> {
    let mut inside = false;
    manifest.lines().zip(1..).filter_map(move |(line, number)| {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
            return None;
        }
        let name = line.split(['.', '=', ' ']).next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        inside.then_some(Dependency { name, line: number })
    })
}

/// Whether code in `source`, not a comment, names the crate: `name::…`, `use name;`, `use name as …` or `name!`-less derive
/// paths such as `#[serde(…)]` are all the word itself.
fn names_crate(source: &str, name: &str) -> bool {
    source.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
        line.match_indices(name).any(|(at, _)| {
            let name_char = |c: char| c.is_alphanumeric() || c == '_';
            !line[..at].ends_with(name_char) && !line[at + name.len()..].starts_with(name_char)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(member: &str, manifest: &str, source: &str) -> Vec<(usize, String)> {
        let files = [
            (format!("{member}/Cargo.toml"), manifest.to_owned()),
            (format!("{member}/src/lib.rs"), source.to_owned()),
        ];
        check(&files).into_iter().map(|found| (found.line, found.message)).collect()
    }

    const LINTS: &str = "\n[lints]\nworkspace = true\n";

    #[test]
    fn a_used_dependency_passes_and_an_unused_one_is_named() {
        let manifest =
            format!("[package]\nname = \"a\"\n\n[dependencies]\nserde-x.workspace = true\nlibc = \"0.2\"{LINTS}");
        assert_eq!(messages("a", &manifest, "use serde_x::Value;\nlibc::getpid();\n"), []);
        let unused = messages("a", &manifest, "// libc::getpid\nuse serde_x as _;\nuse libc_extra::x;\n");
        let [(6, message)] = unused.as_slice() else { panic!("{unused:?}") };
        assert!(message.contains("libc"), "{message}");
    }

    #[test]
    fn a_package_that_turns_its_own_feature_on_is_no_user_of_itself() {
        assert_eq!(messages("m", &format!("[dev-dependencies]\nm = {{ path = \".\" }}{LINTS}"), ""), []);
    }

    #[test]
    fn development_and_target_dependencies_count_too() {
        let manifest = format!("[dev-dependencies]\na = \"1\"\n[target.'cfg(unix)'.dependencies]\nb = \"1\"{LINTS}");
        assert_eq!(messages("m", &manifest, "").len(), 2);
    }

    #[test]
    fn lints_are_on_and_the_core_has_no_aya() {
        assert_eq!(messages("m", "[package]\n", "").len(), 1);
        let found = messages("lb-common", &format!("[dependencies]\naya-x = \"1\"{LINTS}"), "use aya_x::y;");
        assert!(found.len() == 1 && found[0].1.contains("aya"), "{found:?}");
    }
}
