//! A folder of Kubernetes objects for `--from`, changed as an operator's tools change it: each file replaced whole.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A folder of objects for `--from`.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A new folder at `path`, which must not exist.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path: path.into() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `NAME.yaml` with these objects, replacing the file whole: a reader sees the old or the new one.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn put(&self, name: &str, objects: &[&dyn fmt::Display]) -> Result<()> {
        let text: String = objects.iter().map(|object| format!("---\n{object}")).collect();
        let (path, temporary) = (self.path.join(format!("{name}.yaml")), self.path.join(format!(".{name}.new")));
        fs::write(&temporary, text).with_context(|| format!("write {}", temporary.display()))?;
        fs::rename(&temporary, &path).with_context(|| format!("replace {}", path.display()))
    }

    /// Removes `NAME.yaml`; not being there is fine.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(format!("{name}.yaml"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("remove {}", path.display())),
        }
    }
}
