//! `perf`, which looks ten thousand times a second at what one processor does.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{
    parts::{Frame, part},
    table::Moments,
};

/// Times a second: an interrupt with a walk through the stack takes some microseconds, of which an operation must not consist.
const FREQUENCY: &str = "10000";

/// A recording that goes on.
pub(super) struct Recording {
    perf: Child,
    file: PathBuf,
}

/// # Errors
/// There is no `perf`, or it does not do its work here.
pub(super) fn available() -> Result<()> {
    match Command::new("perf").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!("`perf --version` fails: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => Err(error).context("--profile needs the program `perf` (Debian: linux-perf)"),
    }
}

impl Recording {
    /// Begins to record what `processor` does, to a new file. There are virtual machines without the processor's counters, so
    /// the clock says when.
    ///
    /// # Errors
    /// `perf` does not start.
    pub(super) fn start(processor: usize, file: &Path) -> Result<Self> {
        let mut command = Command::new("perf");
        command.args(["record", "--quiet", "--event", "cpu-clock", "--freq", FREQUENCY, "-g"]);
        command.args(["--mmap-pages", "16M", "--cpu", &processor.to_string(), "--output"]).arg(file);
        // It records until its child ends, which waits for the end of its input: that comes however this process ends.
        command.args(["--", "sh", "-c", "echo begun; exec cat"]);
        let perf = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut recording = Self { perf: perf.context("start perf")?, file: file.to_owned() };
        let output = recording.perf.stdout.take().context("perf has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("wait for perf")?;
        if line.trim() != "begun" {
            bail!("perf record: {}", recording.end()?);
        }
        Ok(recording)
    }

    /// Ends it, and gives what each of these processes was seen at.
    ///
    /// # Errors
    /// `perf` fails, or says that it has lost something.
    pub(super) fn finish(mut self, processes: &[i32]) -> Result<Vec<Moments>> {
        let said = self.end()?;
        if !said.is_empty() {
            bail!("perf record: {said}");
        }
        let mut script = Command::new("perf")
            .args(["script", "--no-inline", "--fields", "pid,ip,sym", "--input"])
            .arg(&self.file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start perf script")?;
        let output = script.stdout.take().context("perf script has no output")?;
        let mut seen = read(BufReader::new(output).lines())?;
        let status = script.wait().context("wait for perf script")?;
        if !status.success() {
            bail!("perf script ended with {status}");
        }
        Ok(processes.iter().map(|process| seen.remove(process).unwrap_or_default()).collect())
    }

    /// Ends it, and gives what it complained of.
    fn end(&mut self) -> Result<String> {
        drop(self.perf.stdin.take());
        let mut said = String::new();
        if let Some(mut errors) = self.perf.stderr.take() {
            std::io::Read::read_to_string(&mut errors, &mut said).context("read what perf says")?;
        }
        let status = self.perf.wait().context("wait for perf")?;
        if !status.success() {
            bail!("perf record ended with {status}: {}", said.trim());
        }
        Ok(said.trim().to_owned())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Otherwise it would go on until its input ends, and become a zombie.
        drop(self.perf.stdin.take());
        let _ended = self.perf.wait();
    }
}

/// Moments by process: of each a line with its number, then one for each function, the innermost first, then an empty one.
///
/// # Errors
/// The text cannot be read, or is something else.
fn read(lines: impl Iterator<Item = std::io::Result<String>>) -> Result<BTreeMap<i32, Moments>> {
    let mut seen: BTreeMap<i32, Moments> = BTreeMap::new();
    let mut process = None;
    let mut stack: Vec<(u64, String)> = Vec::new();
    for line in lines.chain([Ok(String::new())]) {
        let line = line.context("read what perf script says")?;
        let line = line.trim();
        if line.is_empty() {
            if let Some(process) = process.take() {
                let frames: Vec<Frame<'_>> =
                    stack.iter().map(|(address, function)| Frame { address: *address, function }).collect();
                *seen.entry(process).or_default().entry(part(&frames)).or_default() += 1;
            }
            stack.clear();
        } else if process.is_none() {
            process = Some(line.parse().with_context(|| format!("perf script begins a moment with {line:?}"))?);
        } else {
            let (address, function) = line.split_once(' ').unwrap_or((line, ""));
            let address =
                u64::from_str_radix(address, 16).with_context(|| format!("perf script names {line:?} a function"))?;
            stack.push((address, function.to_owned()));
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<BTreeMap<i32, Moments>> {
        read(text.lines().map(|line| Ok(line.to_owned())))
    }

    #[test]
    fn each_process_has_its_moments() {
        let text = "19652 \n\tffffffff8206ae29 fib_table_lookup\n\tffffffff81ff80e9 ip_rcv\n\n   7 \n\t  10a7c0 __libc_connect\n\n\
                    19652 \n\tffffffff81ff80e9 [unknown]\n\tffffffff81ff80e9 ip_rcv_core\n\t\n19652 \n\tffffffff81ff80e9 ip_rcv_core";
        let seen = of(text).unwrap();
        assert_eq!(seen[&7], [("programs outside the kernel".to_owned(), 1)].into());
        assert_eq!(seen[&19652], [("IP".to_owned(), 2), ("routes".to_owned(), 1)].into());
    }

    #[test]
    fn something_else_is_refused() {
        assert!(of("what is this\n").unwrap_err().to_string().contains("what is this"));
        assert!(of("7\n\tnothing here\n").unwrap_err().to_string().contains("nothing here"));
        assert!(of("").unwrap().is_empty());
    }
}
