//! How the agent reads its sources: whole ones at the start and after losses, single files after events.

use std::{collections::BTreeSet, io};

use super::{
    files::{self, FileKey},
    state::Agent,
    watch::{FileEvent, Watch},
};
use crate::k8s;

impl Agent {
    /// Reads every source.
    pub(super) fn read_all(&mut self) {
        for source in 0..self.settings.from.len() {
            self.read_source(source);
        }
    }

    pub(super) fn read(&mut self, event: FileEvent, watch: &mut Watch) {
        match event {
            FileEvent::Source(source) => {
                watch.renew(source);
                self.read_source(source);
            }
            FileEvent::File(source, path) => {
                let wanted = self.settings.from[source] == path || k8s::is_object_file(&path);
                if wanted {
                    self.read_file(FileKey { source, path });
                }
            }
        }
    }

    /// Reads a whole source again: what is gone from it is gone, unless the source itself cannot be read.
    pub(super) fn read_source(&mut self, source: usize) {
        let path = self.settings.from[source].clone();
        let found = match files::read(&path) {
            Ok(found) => found,
            Err(error) => {
                let stays = if self.files.of_source(source).is_empty() {
                    "check --from; it is read as soon as it is there"
                } else {
                    "what it held stays in force"
                };
                let reason = format!("cannot read {}: {error}; {stays}", path.display());
                if self.unreadable.insert(source, reason.clone()).as_ref() != Some(&reason) {
                    tracing::error!("{reason}");
                }
                return;
            }
        };
        if self.unreadable.remove(&source).is_some() {
            tracing::info!("{} can be read again", path.display());
        }
        let mut gone: BTreeSet<FileKey> = self.files.of_source(source).into_iter().collect();
        for (path, bytes) in found {
            let key = FileKey { source, path };
            gone.remove(&key);
            self.take_file(key, bytes);
        }
        for key in gone {
            self.unreadable_files.remove(&key);
            let outcome = self.files.remove(&key);
            self.plan(outcome);
        }
    }

    pub(super) fn read_file(&mut self, key: FileKey) {
        let bytes = std::fs::read(&key.path);
        self.take_file(key, bytes);
    }

    fn take_file(&mut self, key: FileKey, bytes: io::Result<Vec<u8>>) {
        let outcome = match bytes {
            Ok(bytes) => {
                self.unreadable_files.remove(&key);
                self.files.update(&key, bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.unreadable_files.remove(&key);
                self.files.remove(&key)
            }
            Err(error) => {
                let reason = format!("cannot read {}: {error}; its objects stay as they were", key.path.display());
                if self.unreadable_files.insert(key, reason.clone()).as_ref() != Some(&reason) {
                    tracing::error!("{reason}");
                }
                return;
            }
        };
        self.plan(outcome);
    }
}
