//! Watches the paths of `--from`: an atomic replace, an editor's save and a ConfigMap's symlink swap all end in events
//! of the folder that holds the name, so folders are watched, never files (whose inode goes with a replace).
//!
//! A half-written file is not read: only closing a file after writing, moving a name and removing one count.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Instant,
};

use notify::{
    Event, EventKind, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use tokio::sync::mpsc;

/// What may have changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum FileEvent {
    /// This file, below or at the `--from` of this index.
    File(usize, PathBuf),
    /// Anything below or at it: read it all again.
    Source(usize),
}

/// The watches. Dropping them ends them.
pub(super) struct Watch {
    watcher: notify::RecommendedWatcher,
    /// The folder that is watched for each source; `None`: none could be.
    folders: Vec<Option<PathBuf>>,
    sources: Vec<PathBuf>,
}

impl Watch {
    /// Watches all sources that are there; the others are tried again by [`Self::retry`].
    ///
    /// # Errors
    /// If the kernel gives no inotify instance.
    pub(super) fn new(
        sources: &[PathBuf],
        events: mpsc::UnboundedSender<(Instant, FileEvent)>,
    ) -> notify::Result<Self> {
        let names: Vec<PathBuf> = sources.to_vec();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let seen = Instant::now();
            for event in translate(&names, event) {
                // A closed channel is an agent that is ending.
                let _ending = events.send((seen, event));
            }
        })?;
        let mut watch = Self { watcher, folders: vec![None; sources.len()], sources: sources.to_vec() };
        watch.retry();
        Ok(watch)
    }

    /// Tries to watch what is not watched yet; returns the sources that are newly watched, which are to be read again.
    pub(super) fn retry(&mut self) -> Vec<usize> {
        let mut new = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            if self.folders[index].is_some() {
                continue;
            }
            let folder = if source.is_dir() { source.clone() } else { parent(source) };
            match self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.folders[index] = Some(folder);
                    new.push(index);
                }
                Err(error) => {
                    tracing::debug!("cannot watch {} yet: {error}", folder.display());
                }
            }
        }
        new
    }

    /// The folder of this source is gone; it will be watched again when it is back.
    pub(super) fn lost(&mut self, index: usize) {
        if let Some(folder) = self.folders[index].take()
            && let Err(error) = self.watcher.unwatch(&folder)
        {
            // The kernel has ended the watch with its folder; the library only clears its books.
            tracing::debug!("end the watch of {}: {error}", folder.display());
        }
    }

    /// Whether a source is not watched.
    pub(super) fn is_incomplete(&self) -> bool {
        self.folders.iter().any(Option::is_none)
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

fn translate(sources: &[PathBuf], event: notify::Result<Event>) -> Vec<FileEvent> {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            // An overflow of the queue loses events: everything is read again.
            tracing::warn!("watching files: {error}; reading all of them again");
            return (0..sources.len()).map(FileEvent::Source).collect();
        }
    };
    if event.need_rescan() {
        return (0..sources.len()).map(FileEvent::Source).collect();
    }
    let counts = match event.kind {
        // Links and moved-in names appear whole; a plain file that was created is closed later.
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(CreateKind::Any | CreateKind::Other | CreateKind::File | CreateKind::Folder)
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => true,
        EventKind::Any | EventKind::Access(_) | EventKind::Modify(_) | EventKind::Other => false,
    };
    if !counts {
        return Vec::new();
    }
    let created = matches!(event.kind, EventKind::Create(_));
    let mut found = Vec::new();
    for path in &event.paths {
        for (index, source) in sources.iter().enumerate() {
            let event = if path == source {
                FileEvent::Source(index)
            } else if path.parent() == Some(source) {
                match path.file_name() {
                    Some(name) if is_hidden(name) => FileEvent::Source(index),
                    Some(_) => FileEvent::File(index, path.clone()),
                    None => continue,
                }
            } else if path.parent().map(Path::to_owned) == Some(parent(source))
                && path.file_name().is_some_and(is_hidden)
            {
                // `..data` beside a watched file: a ConfigMap's swap.
                FileEvent::Source(index)
            } else {
                continue;
            };
            if created && is_half_written(path) {
                continue;
            }
            if !found.contains(&event) {
                found.push(event);
            }
        }
    }
    found
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// A plain file that was just created is still to be written and closed; a link is whole.
fn is_half_written(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == 0)
}
