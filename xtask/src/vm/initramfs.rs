//! Files packed as the kernel unpacks them into its first root: cpio in the format "newc", uncompressed
//! (Documentation/driver-api/early-userspace/buffer-format.rst). It knows regular files and the folders above them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use crate::process;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

/// Files by their path without a leading `/`.
#[derive(Default)]
pub(super) struct Initramfs(BTreeMap<String, (u32, Vec<u8>)>);

impl Initramfs {
    /// Adds a file of this machine under another path.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn add(&mut self, path: &str, permissions: u32, from: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.add_bytes(path, permissions, &bytes);
        Ok(())
    }

    /// Adds a file with this content.
    pub(super) fn add_bytes(&mut self, path: &str, permissions: u32, bytes: &[u8]) {
        self.0.insert(path.to_owned(), (FILE | permissions, bytes.to_vec()));
    }

    /// Adds a program, and the libraries that it loads, those under their own paths. They come from `root`, a whole
    /// system or one unpacked, whose libraries are in folders named `triplet`. A static program has none.
    ///
    /// # Errors
    /// When something cannot be read, or a library is not there.
    pub(super) fn add_program(&mut self, path: &str, from: &Path, root: &Path, triplet: &str) -> Result<()> {
        self.add(path, 0o755, from)?;
        let mut files = vec![from.to_owned()];
        while let Some(file) = files.pop() {
            let needs =
                process::output(Command::new("readelf").args(["--wide", "--dynamic", "--program-headers"]).arg(&file))?;
            for need in needs.lines().filter_map(needed) {
                let folders = [format!("lib/{triplet}"), format!("usr/lib/{triplet}"), String::new()];
                let places = folders.map(|folder| Path::new(&folder).join(need.trim_start_matches('/')));
                let place = places.iter().find(|place| root.join(place).exists());
                let place = place
                    .with_context(|| format!("{} needs {need}, which is not in {}", file.display(), root.display()))?;
                let name = place.to_str().with_context(|| format!("{need} is no name for a file"))?;
                if !self.0.contains_key(name) {
                    self.add(name, 0o755, &root.join(place))?;
                    files.push(root.join(place));
                }
            }
        }
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, to: &Path) -> Result<()> {
        fs::write(to, self.archive()).with_context(|| format!("write {}", to.display()))
    }

    fn archive(&self) -> Vec<u8> {
        let mut folders = BTreeSet::new();
        for path in self.0.keys() {
            folders.extend(path.match_indices('/').map(|(end, _)| path[..end].to_owned()));
        }
        let mut out = Vec::new();
        folders.iter().enumerate().for_each(|(i, path)| entry(&mut out, i, path, FOLDER, &[]));
        for (i, (path, (mode, bytes))) in self.0.iter().enumerate() {
            entry(&mut out, folders.len() + i, path, *mode, bytes);
        }
        entry(&mut out, 0, "TRAILER!!!", 0, &[]);
        out
    }
}

/// What a line of readelf says that a program needs: a library by its name, or the loader by its path.
fn needed(line: &str) -> Option<&str> {
    let marks = ["Shared library: [", "Requesting program interpreter: "];
    let (_, rest) = marks.iter().find_map(|mark| line.split_once(mark))?;
    rest.split([']']).next()
}

/// One entry: numbers of eight hexadecimal digits, the name with its end, the content, both filled up to four bytes.
fn entry(out: &mut Vec<u8>, number: usize, path: &str, mode: u32, bytes: &[u8]) {
    let (owner, group, links, time, device, check) = (0, 0, 1, 0, 0, 0);
    let numbers = [
        number + 1,
        mode as usize,
        owner,
        group,
        links,
        time,
        bytes.len(),
        device,
        device,
        device,
        device,
        path.len() + 1,
        check,
    ];
    out.extend_from_slice(b"070701");
    numbers.iter().for_each(|number| out.extend_from_slice(format!("{number:08x}").as_bytes()));
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    fill_up(out);
    out.extend_from_slice(bytes);
    fill_up(out);
}

fn fill_up(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_their_files_and_everything_is_aligned() {
        let mut files = Initramfs::default();
        files.add_bytes("a/b/file", 0o644, b"abc");
        let archive = files.archive();
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8_lossy(&archive);
        let names: Vec<&str> = text.split("070701").skip(1).map(|entry| &entry[104..]).collect();
        assert!(names[0].starts_with("a\0") && names[1].starts_with("a/b\0"), "{names:?}");
        assert!(names[2].starts_with("a/b/file\0") && names[2].contains("abc"), "{names:?}");
        assert!(names[3].starts_with("TRAILER!!!\0"), "{names:?}");
        assert!(text.contains("000081a4"), "a regular file that all may read");
    }

    #[test]
    fn readelf_names_libraries_and_the_loader() {
        let library = " 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]";
        assert_eq!(needed(library), Some("libc.so.6"));
        let loader = "      [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]";
        assert_eq!(needed(loader), Some("/lib/ld-linux-aarch64.so.1"));
        assert_eq!(needed(" 0x000000000000000c (INIT)               0x2000"), None);
    }
}
