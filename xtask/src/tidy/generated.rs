//! The rule about what is made of the manifests: it is what their sources give now.

use super::Finding;
use crate::manifests;

/// The files in `manifests/` among `files` (path and text, for the whole tree) that are missing, stale or edited.
pub(super) fn check(files: &[(String, String)]) -> Vec<Finding> {
    let ours = || files.iter().filter_map(|(path, text)| Some((path.strip_prefix("manifests/")?, text.as_str())));
    if ours().next().is_none() {
        return Vec::new();
    }
    let sources = manifests::digest_of_sources(ours());
    let finding =
        |name: &str, message: &str| Finding { file: format!("manifests/{name}"), line: 1, message: message.to_owned() };
    let judge = |name: &str| match ours().find(|(path, _)| *path == name) {
        Some((_, text)) => manifests::stale(name, text, &sources).map(|why| finding(name, why)),
        None => Some(finding(name, "it is missing; run `cargo xtask manifests`")),
    };
    manifests::FILES.iter().filter_map(|(_, name)| judge(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_without_manifests_is_none_of_its_business_and_a_missing_file_is() {
        assert_eq!(check(&[("a.rs".into(), String::new())]), []);
        let found = check(&[("manifests/base/a.yaml".into(), "a: 1\n".into())]);
        assert_eq!(found.len(), manifests::FILES.len());
        assert!(found[0].message.contains("missing"), "{}", found[0]);
    }
}
