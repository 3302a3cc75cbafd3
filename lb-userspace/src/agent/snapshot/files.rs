//! The folder of `--state-dir`: a snapshot is there whole or not at all, whenever the power goes.
//!
//! Written to a second file, synced, then renamed over the first (rename(2) is atomic), then the folder is synced. Nobody
//! but the agent's user can read it. Nothing here decides when.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::format::{self, FormatError, Identity, Snapshot};
use crate::model::{ObjectRef, Shared};

const NAME: &str = "objects.json.gz";
/// What is being written. Never read: one that a killed agent left is written over.
const NEW: &str = ".objects.json.gz.new";

/// Where a snapshot is kept, and whose it is.
#[derive(Clone, Debug)]
pub(in crate::agent) struct StateDir {
    dir: PathBuf,
    identity: Identity,
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
#[error("snapshot {} is not used: {cause}; next step: {}", path.display(), cause.next_step())]
pub(in crate::agent) struct Refused {
    path: PathBuf,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("it cannot be opened: {0}")]
    Open(io::Error),
    #[error("{0}")]
    NotOurs(String),
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl Cause {
    fn next_step(&self) -> &'static str {
        match self {
            Self::Open(_) | Self::Format(FormatError::Io(_)) => {
                "look at the disk and at the file's permissions, or remove it"
            }
            Self::NotOurs(_) => "see who wrote it, and remove it: with it, one could direct the traffic of Services",
            Self::Format(FormatError::Node { .. } | FormatError::Server { .. }) => {
                "give each node and cluster a --state-dir of its own; this one is replaced once every list of the API \
                 server was read"
            }
            Self::Format(FormatError::Version { .. } | FormatError::Damaged(_)) => {
                "none; it is replaced once every list of the API server was read"
            }
            Self::Format(FormatError::Other) => "give --state-dir a folder of berrylb's own, or remove the file",
        }
    }
}

/// A step of writing that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}: {error}", path.display())]
pub(in crate::agent) struct WriteError {
    step: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// What writing came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::agent) struct Written {
    /// Of what is on the disk now.
    pub(in crate::agent) digest: u64,
    /// Bytes, compressed; `None`: the disk held these objects already, and nothing was written.
    pub(in crate::agent) bytes: Option<usize>,
}

#[cfg(test)]
impl WriteError {
    /// One with this cause.
    pub(in crate::agent) fn example(errno: i32) -> Self {
        Self { step: "write", path: "/state/x".into(), error: io::Error::from_raw_os_error(errno) }
    }
}

impl StateDir {
    pub(in crate::agent) fn new(dir: &Path, identity: Identity) -> Self {
        Self { dir: dir.to_owned(), identity }
    }

    /// The snapshot's path.
    pub(in crate::agent) fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// Reads the snapshot with the objects that `keep` wants; `None`: there is none.
    ///
    /// # Errors
    /// If there is one that cannot or must not be used.
    pub(in crate::agent) fn read(&self, keep: impl Fn(&ObjectRef) -> bool) -> Result<Option<Snapshot>, Refused> {
        let path = self.path();
        let refused = |cause: Cause| Refused { path: path.clone(), cause };
        // Nor does a pipe in its place stop the agent.
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(Cause::Open(error))),
        };
        let meta = file.metadata().map_err(|error| refused(Cause::Open(error)))?;
        not_ours(&meta).map_or(Ok(()), |cause| Err(refused(Cause::NotOurs(cause))))?;
        let snapshot = format::decode(io::BufReader::new(file), &self.identity, keep);
        snapshot.map(Some).map_err(|cause| refused(cause.into()))
    }

    /// Writes these objects, unless `known` is their digest and the file is there. What was there before stays until the
    /// new file is whole and on the disk, and if that fails.
    ///
    /// # Errors
    /// Names the step that failed.
    pub(in crate::agent) fn write(
        &self,
        written: SystemTime,
        objects: Vec<Shared>,
        known: Option<u64>,
    ) -> Result<Written, WriteError> {
        let (path, new) = (self.path(), self.dir.join(NEW));
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |error| WriteError { step, path, error }
        };
        let encoded = format::encode(&self.identity, written, objects).map_err(failed("encode", &path))?;
        if known == Some(encoded.digest) && path.exists() {
            return Ok(Written { digest: encoded.digest, bytes: None });
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(failed("create folder", &self.dir))?;
        let put = write_whole(&new, &encoded.bytes)
            .map_err(failed("write", &new))
            .and_then(|()| fs::rename(&new, &path).map_err(failed("rename to", &path)));
        if let Err(error) = put {
            // It may be what fills the disk. If it cannot go, the next one takes its place.
            if let Err(left) = fs::remove_file(&new)
                && left.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!("{} is left: {left}", new.display());
            }
            return Err(error);
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed("sync folder", &self.dir))?;
        Ok(Written { digest: encoded.digest, bytes: Some(encoded.bytes.len()) })
    }
}

/// Removes a snapshot and, if nothing else is in it, its folder; gives what was removed.
///
/// # Errors
/// Names what cannot be removed.
pub fn remove_snapshot(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    let at =
        |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("remove {}: {error}", path.display()));
    for path in [dir.join(NEW), dir.join(NAME)] {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(&path, error)),
        }
    }
    if removed.is_empty() {
        return Ok(removed);
    }
    match fs::remove_dir(dir) {
        Ok(()) => removed.push(dir.to_owned()),
        // Not ours alone, a mount point (in a container's read-only root as well), or gone.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
                    | io::ErrorKind::ReadOnlyFilesystem
            ) => {}
        Err(error) => return Err(at(dir, error)),
    }
    Ok(removed)
}

/// Why a file's objects are not to be believed.
fn not_ours(meta: &fs::Metadata) -> Option<String> {
    let us = nix::unistd::geteuid().as_raw();
    if !meta.is_file() {
        return Some("it is no plain file".to_owned());
    }
    if meta.uid() != us && meta.uid() != 0 {
        return Some(format!("it belongs to user {}", meta.uid()));
    }
    (meta.mode() & 0o022 != 0).then(|| format!("others may write it (mode {:o})", meta.mode() & 0o777))
}

/// Its bytes are on the disk when this returns.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)?;
    // One that was left may have another mode.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
