//! What the audience sees: headings, commands with their real answers, and whether these are what the story promises.
//!
//! It judges nothing by itself: the scenes say what they expect.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use lb_lab::{Host, Output, patience};

/// How long a server may take to answer, on a machine that is busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// curl as far as the address, for what is to be answered.
pub(crate) fn curl() -> String {
    format!("curl -s -m {}", patience::limit(ANSWER_LIMIT).as_secs())
}

/// The printed page. Colour only on a terminal.
#[derive(Debug)]
pub(crate) struct Stage {
    colour: bool,
    kept: u32,
    broken: Vec<String>,
    path: OsString,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let colour = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self { colour, kept: 0, broken: Vec::new(), path: env::var_os("PATH").unwrap_or_default() }
    }

    /// Lets `berrylb` be found by its name in the commands that are run.
    pub(crate) fn find_programs_in(&mut self, folder: &Path) -> Result<()> {
        let folders = std::iter::once(folder.to_owned()).chain(env::split_paths(&self.path));
        self.path = env::join_paths(folders).with_context(|| format!("put {} into PATH", folder.display()))?;
        Ok(())
    }

    /// A heading.
    pub(crate) fn scene(&mut self, title: &str) -> Result<()> {
        let line = "─".repeat(76usize.saturating_sub(title.chars().count()));
        self.print(&format!("\n{} {line}\n", self.paint("1", &format!("── {title}"))))
    }

    /// A line of plain text.
    pub(crate) fn say(&mut self, text: &str) -> Result<()> {
        self.print(&format!("{text}\n"))
    }

    /// A command that is run elsewhere, as a reader would type it.
    pub(crate) fn typed(&mut self, host: &impl Host, line: &str) -> Result<()> {
        self.print(&format!("{} {}\n", self.paint("36", &format!("{} #", host.name())), self.paint("1", line)))
    }

    /// What a command answered.
    pub(crate) fn answer(&mut self, text: &str) -> Result<()> {
        let text = text.trim_end();
        if text.is_empty() { Ok(()) } else { self.print(&format!("{text}\n")) }
    }

    /// Runs a shell line on a host, printing it and its answer.
    pub(crate) fn run(&mut self, host: &impl Host, line: &str) -> Result<Output> {
        self.typed(host, line)?;
        let output = self.quietly(host, line)?;
        self.answer(&output.to_string())?;
        Ok(output)
    }

    /// Runs a shell line on a host.
    pub(crate) fn quietly(&self, host: &impl Host, line: &str) -> Result<Output> {
        host.command("sh").env("PATH", &self.path).args(["-c", line]).timeout(Duration::from_secs(60)).output()
    }

    /// A promise of the story, kept or not.
    pub(crate) fn expect(&mut self, kept: bool, promise: &str) -> Result<()> {
        if kept {
            self.kept += 1;
            self.print(&format!("{}\n", self.paint("32", &format!("  ✓ {promise}"))))
        } else {
            self.broken.push(promise.into());
            self.print(&format!("{}\n", self.paint("31", &format!("  ✗ {promise}"))))
        }
    }

    /// The last lines. True if every promise was kept.
    pub(crate) fn verdict(&mut self) -> Result<bool> {
        if self.broken.is_empty() {
            self.print(&format!("\nAll {} promises of the story were kept.\n", self.kept))?;
            return Ok(true);
        }
        let broken = self.broken.join("\n  ✗ ");
        self.print(&format!("\n{} promises were kept, {} were not:\n  ✗ {broken}\n", self.kept, self.broken.len()))?;
        Ok(false)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    fn print(&mut self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("print")
    }
}
