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

    /// Adds a program of this machine, and the libraries that it loads, those under their own paths.
    ///
    /// # Errors
    /// When something cannot be read, or ldd does not know the program.
    pub(super) fn add_program(&mut self, path: &str, from: &Path) -> Result<()> {
        self.add(path, 0o755, from)?;
        let libraries = process::output(Command::new("ldd").arg(from))?;
        for library in libraries.lines().filter_map(library) {
            self.add(library.trim_start_matches('/'), 0o755, Path::new(library))?;
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

/// "libc.so.6 => /lib/… (0x…)" and "/lib64/ld-linux… (0x…)", but not the kernel's own "linux-vdso.so.1 (0x…)".
fn library(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
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
    fn ldd_names_libraries_in_two_ways() {
        assert_eq!(library("\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)"), Some("/lib/x/libc.so.6"));
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffc)"), None);
    }
}
