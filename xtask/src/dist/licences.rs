//! The licence texts of all third-party code in the binaries, as their licences ask whoever passes a binary on.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use spdx::{Expression, ParseMode};

use super::deps::Crate;

/// How the names of files begin that hold a licence or a notice, in capitals.
const FILES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];

const INTRODUCTION: &str = "\
Third-party software in berrylb's binaries, and its licences. A text stands once, below the names of all that come with it.
berrylb itself is Apache-2.0; the BPF object in its binary is Apache-2.0 OR GPL-2.0-only.
";

/// What is in a static binary without being a crate.
const RUNTIME: [(&str, &[&str]); 2] = [
    (
        "The Rust standard library and the crates that it is built with (hashbrown, libc, memchr, miniz_oxide, \
         rustc-demangle and others), by the Rust Project and their authors; MIT OR Apache-2.0",
        &["MIT", "Apache-2.0"],
    ),
    (
        "The GNU C Library, linked statically; LGPL-2.1-or-later. Its source is Debian's package glibc, or that of the \
         distribution that the binary was built on. berrylb's source is open, so the binary can be linked anew with \
         another version of the library",
        &["LGPL-2.1-or-later"],
    ),
];

/// All texts. The result is the same for the same crates.
///
/// # Errors
/// When a crate has neither a licence's text nor the name of a known licence.
pub(super) fn texts(crates: &[Crate]) -> Result<String> {
    let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in crates.iter().filter(|one| one.foreign && one.linked) {
        let holder = format!("{} {} ({})", one.name, one.version, one.licence.as_deref().unwrap_or("see below"));
        for text in of_crate(one)? {
            holders.entry(text).or_default().push(holder.clone());
        }
    }
    for (what, ids) in RUNTIME {
        for id in ids {
            holders.entry(standard_text(id)?).or_default().push(what.to_owned());
        }
    }
    // In order of the first name, so that a new crate moves little.
    let mut sections: Vec<(Vec<String>, String)> = holders.into_iter().map(|(text, names)| (names, text)).collect();
    sections.iter_mut().for_each(|(names, _)| {
        names.sort();
        names.dedup();
    });
    sections.sort();

    let mut out = INTRODUCTION.to_owned();
    for (names, text) in sections {
        out.push_str(&format!("\n{}\n", "=".repeat(100)));
        names.iter().for_each(|name| out.push_str(&format!("{name}\n")));
        out.push_str(&format!("{}\n\n{text}\n", "-".repeat(100)));
    }
    Ok(out)
}

/// The texts that come with a crate, else the standard ones of the licences that its manifest names.
fn of_crate(one: &Crate) -> Result<Vec<String>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let entries = fs::read_dir(&one.folder).with_context(|| format!("list {}", one.folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", one.folder.display()))?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if FILES.iter().any(|start| name.starts_with(start)) && entry.path().is_file() && !name.ends_with(".RS") {
            paths.push(entry.path());
        }
    }
    paths.extend(one.licence_file.clone());
    paths.sort();
    paths.dedup();
    if !paths.is_empty() {
        let read = |path: &PathBuf| {
            let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            Ok(tidy(&String::from_utf8_lossy(&bytes)))
        };
        return paths.iter().map(read).collect();
    }
    let Some(expression) = &one.licence else {
        bail!("{} {} has neither a licence file nor `license` in its manifest", one.name, one.version)
    };
    let parsed = Expression::parse_mode(expression, ParseMode::LAX)
        .map_err(|error| anyhow::anyhow!("{} {}: {error}", one.name, one.version))?;
    let authors = if one.authors.is_empty() { "its authors".to_owned() } else { one.authors.join(", ") };
    let named = parsed.requirements().filter_map(|part| part.req.license.id()).map(|id| {
        // The crate comes without a text of its own, so nobody filled the standard one in.
        format!("Copyright (c) {authors}, of {}\n\n{}", one.name, tidy(id.text()))
    });
    let texts: Vec<_> = named.collect();
    if texts.is_empty() {
        bail!("{} {}: \"{expression}\" names no licence that SPDX knows", one.name, one.version);
    }
    Ok(texts)
}

fn standard_text(id: &str) -> Result<String> {
    Ok(tidy(spdx::license_id(id).with_context(|| format!("SPDX knows no licence {id}"))?.text()))
}

/// Line ends and white space at them differ between copies of one text.
fn tidy(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::{Arch, deps};

    #[test]
    fn every_linked_crate_is_named_above_a_text() {
        let crates = deps::crates(Arch::Amd64).expect("metadata");
        let texts = texts(&crates).expect("each has a text");
        for one in crates.iter().filter(|one| one.foreign && one.linked) {
            assert!(texts.contains(&format!("\n{} {} (", one.name, one.version)), "{} {}", one.name, one.version);
        }
        for line in ["GNU LESSER GENERAL PUBLIC LICENSE", "Apache License", "Permission is hereby granted"] {
            assert!(texts.contains(line), "{line}");
        }
    }

    #[test]
    fn a_crate_without_any_licence_is_an_error() {
        let empty = tempfile::tempdir().expect("temporary folder");
        let mut one = deps::crates(Arch::Amd64).expect("metadata").swap_remove(0);
        (one.folder, one.licence, one.licence_file) = (empty.path().into(), None, None);
        let error = of_crate(&one).expect_err("none").to_string();
        assert!(error.contains(&one.name), "{error}");
        one.licence = Some("MIT/Apache-2.0".into());
        let texts = of_crate(&one).expect("standard texts");
        assert!(texts.len() == 2 && texts[0] != texts[1], "{} texts", texts.len());
    }
}
