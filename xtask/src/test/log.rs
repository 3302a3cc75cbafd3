//! One level's output: commands write into a file, and the file is read back for counting and for showing.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::process;

/// How much of a failed level's output is shown; the file has it all.
const TAIL_LINES: usize = 400;

/// The file that a level writes to.
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        let context = || format!("create {}", path.display());
        // Appending, since each command gets a handle of its own and none may overwrite another's lines.
        fs::write(&path, "").with_context(context)?;
        let file = File::options().read(true).append(true).open(&path).with_context(context)?;
        Ok(Self { path, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line of our own.
    pub(super) fn note(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{line}").with_context(|| format!("write {}", self.path.display()))
    }

    /// Runs `command` with its output in the log: whether it exited with 0, and what it wrote.
    ///
    /// # Errors
    /// When it cannot be started, or the log cannot be read or written.
    pub(super) fn run(&mut self, command: &mut Command) -> Result<(bool, String)> {
        self.note(&format!("$ {}", process::display(command)))?;
        let start = self.file.seek(SeekFrom::End(0))?;
        command.stdin(Stdio::null()).stdout(self.file.try_clone()?).stderr(self.file.try_clone()?);
        let status = command.status().with_context(|| format!("start `{}`", process::display(command)))?;
        self.file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).with_context(|| format!("read {}", self.path.display()))?;
        Ok((status.success(), String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The last lines of the log.
    pub(super) fn tail(&self) -> Result<String> {
        let bytes = fs::read(&self.path).with_context(|| format!("read {}", self.path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let skip = text.lines().count().saturating_sub(TAIL_LINES);
        Ok(text.lines().skip(skip).flat_map(|line| [line, "\n"]).collect())
    }
}
