//! From `--from` paths to text. The only part of `k8s` that touches a file system, and it only reads.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{Loaded, Parsed, Unreadable, merge, parse};

/// The files that a path stands for: a folder's own `*.yaml`, `*.yml` and `*.json` in order of name, links followed,
/// without subfolders and without names that begin with a dot (a shell's `*` leaves those out, too); any other path
/// itself, whatever its name.
///
/// # Errors
/// If the path, or the folder's listing, cannot be read.
pub fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // A link that leads nowhere stays in: reading it tells what is wrong.
        let folder = fs::metadata(entry.path()).is_ok_and(|m| m.is_dir());
        if is_object_file(&entry.path()) && !folder {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a name in a folder is one of those that count: by its ending, and not hidden.
#[must_use]
pub fn is_object_file(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|e| ["yaml", "yml", "json"].map(OsStr::new).contains(&e))
}

/// Reads all paths; `-` is standard input. What cannot be read is named in the result, and the rest still counts.
pub fn load(paths: &[PathBuf], stdin: &mut dyn Read) -> Loaded {
    let mut unreadable = Vec::new();
    let mut parsed: Vec<Parsed> = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = Vec::new();
            match stdin.read_to_end(&mut text) {
                Ok(_) => parsed.push(parse("stdin", &text)),
                Err(error) => unreadable.push(Unreadable { path: path.clone(), error }),
            }
            continue;
        }
        let files = match files(path) {
            Ok(files) => files,
            Err(error) => {
                unreadable.push(Unreadable { path: path.clone(), error });
                continue;
            }
        };
        for file in files {
            match fs::read(&file) {
                Ok(text) => parsed.push(parse(&file.to_string_lossy(), &text)),
                Err(error) => unreadable.push(Unreadable { path: file, error }),
            }
        }
    }
    Loaded { unreadable, ..merge(parsed) }
}
