//! The house rules that no compiler or linter knows, checked over every text file of the tree. Each rule is a pure function
//! from a file to findings; this file only reads files and never changes one.

mod generated;
mod manifests;
mod text;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A broken rule, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    file: String,
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, message } = self;
        write!(f, "{file}:{line}: {message}")
    }
}

/// All broken rules under `root`, in order of file and line.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    let mut findings: Vec<_> = files.iter().flat_map(|(path, text)| text::check(path, text)).collect();
    findings.extend(manifests::check(&files));
    findings.extend(generated::check(&files));
    findings.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok(findings)
}

/// Every UTF-8 file under `dir`, with its path from `root`; what was built or belongs to git is left out.
fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, String)>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        let path: PathBuf = entry.path();
        let kind = entry.file_type().with_context(|| format!("stat {}", path.display()))?;
        if kind.is_dir() {
            if !["target", ".git", "corpus"].iter().any(|skipped| entry.file_name() == *skipped) {
                collect(root, &path, files)?;
            }
        } else if kind.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            // Pictures and captures are not text, and no rule is about them.
            if let Ok(text) = String::from_utf8(bytes) {
                files.push((name, text));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_name_file_and_line_in_order_and_built_files_are_left_out() {
        let root = std::env::temp_dir().join(format!("berrylb-xtask-tidy-{}", std::process::id()));
        for dir in ["b/src", "target"] {
            fs::create_dir_all(root.join(dir)).expect("create a folder");
        }
        fs::write(root.join("b/src/lib.rs"), "//! Fine.\n").expect("write");
        fs::write(root.join("b/src/bad.rs"), "fn f() {}\n").expect("write");
        fs::write(root.join("a.md"), "one\ntwo \n").expect("write");
        fs::write(root.join("target/built.rs"), "fn f() {}\n").expect("write");
        fs::write(root.join("picture"), [0xff, 0xfe]).expect("write");
        let findings = check(&root);
        fs::remove_dir_all(&root).expect("remove");

        let places: Vec<_> = findings.expect("readable").into_iter().map(|found| (found.file, found.line)).collect();
        assert_eq!(places, [("a.md".to_owned(), 2), ("b/src/bad.rs".to_owned(), 1)]);
    }
}
