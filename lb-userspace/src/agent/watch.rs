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
        let unwatched: Vec<usize> = (0..self.sources.len()).filter(|index| self.folders[*index].is_none()).collect();
        unwatched.into_iter().filter(|index| self.watch(*index)).collect()
    }

    /// Something happened to a source as a whole, so the folder to watch may be another one now: its own in place of the
    /// one above it, or the other way round, or a new one of the same name. It is to be read again.
    pub(super) fn renew(&mut self, index: usize) {
        if let Some(folder) = self.folders[index].take() {
            self.leave(&folder);
        }
        self.watch(index);
    }

    /// Watches the folder that holds a source's names; gives whether it does.
    fn watch(&mut self, index: usize) -> bool {
        loop {
            let folder = folder_of(&self.sources[index]);
            if let Err(error) = self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                tracing::debug!("cannot watch {} yet: {error}", folder.display());
                return false;
            }
            // It may have come, or gone, before the watch began.
            if folder_of(&self.sources[index]) == folder {
                self.folders[index] = Some(folder);
                return true;
            }
            self.leave(&folder);
        }
    }

    /// Ends the watch of a folder, unless another source is in it.
    fn leave(&mut self, folder: &Path) {
        if self.folders.iter().flatten().any(|other| other == folder) {
            return;
        }
        if let Err(error) = self.watcher.unwatch(folder) {
            // The kernel has ended the watch with its folder; the library only clears its books.
            tracing::debug!("end the watch of {}: {error}", folder.display());
        }
    }

    /// Whether a source is not watched.
    pub(super) fn is_incomplete(&self) -> bool {
        self.folders.iter().any(Option::is_none)
    }
}

/// Where the names of a source are: in itself, or in the folder above it.
fn folder_of(source: &Path) -> PathBuf {
    if source.is_dir() { source.to_owned() } else { parent(source) }
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

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    type Events = mpsc::UnboundedReceiver<(Instant, FileEvent)>;

    #[track_caller]
    fn wait_for(events: &mut Events, wanted: &FileEvent) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while events.try_recv().map_or(true, |(_, event)| event != *wanted) {
            assert!(Instant::now() < deadline, "no {wanted:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_folder_that_comes_later_is_watched_and_its_neighbours_go_on() {
        let root = tempfile::tempdir().unwrap();
        let (late, beside) = (root.path().join("late"), root.path().join("beside.yaml"));
        let (sender, mut events) = mpsc::unbounded_channel();
        let mut watch = Watch::new(&[late.clone(), beside.clone()], sender).unwrap();
        for round in 0..2 {
            fs::create_dir(&late).unwrap();
            wait_for(&mut events, &FileEvent::Source(0));
            watch.renew(0);
            let file = late.join(format!("{round}.yaml"));
            fs::write(&file, "a").unwrap();
            wait_for(&mut events, &FileEvent::File(0, file));
            fs::write(&beside, "b").unwrap();
            wait_for(&mut events, &FileEvent::Source(1));
            fs::remove_dir_all(&late).unwrap();
            wait_for(&mut events, &FileEvent::Source(0));
            watch.renew(0);
            assert!(!watch.is_incomplete());
        }
    }

    /// The event of the old one is looked at when the new one is there already.
    #[test]
    fn a_new_folder_of_the_same_name_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let (folder, old) = (root.path().join("etc"), root.path().join("old"));
        fs::create_dir(&folder).unwrap();
        let (sender, mut events) = mpsc::unbounded_channel();
        let mut watch = Watch::new(std::slice::from_ref(&folder), sender).unwrap();
        fs::rename(&folder, &old).unwrap();
        fs::create_dir(&folder).unwrap();
        wait_for(&mut events, &FileEvent::Source(0));
        watch.renew(0);
        let file = folder.join("a.yaml");
        fs::write(&file, "a").unwrap();
        wait_for(&mut events, &FileEvent::File(0, file));
    }
}
