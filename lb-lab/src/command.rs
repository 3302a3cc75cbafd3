//! Commands that enter a place: builder, time limit, output.
//!
//! Nothing here waits without a limit.

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    fmt,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{ChildStdin, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::signal::SigSet,
};

use crate::{
    netns::NetNs,
    patience::limit,
    process::{Guard, Process},
};

/// Time limit of a command unless it says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

const RESOLV_CONF: &CStr = c"/etc/resolv.conf";

/// Where a command enters: shared by all commands of one [`crate::Place`].
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    pub(crate) netns: Arc<NetNs>,
    /// `cgroup.procs` of the place, opened for writing.
    pub(crate) cgroup: Arc<File>,
    /// Folder for log files.
    pub(crate) logs: PathBuf,
    /// Environment variables of all processes here.
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// What processes here see as `/etc/resolv.conf`, instead of the machine's.
    pub(crate) resolv_conf: Option<Arc<CString>>,
}

/// A command that will run inside a place. Made by [`crate::Host::command`].
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    doors: Doors,
    label: String,
    input: Option<Vec<u8>>,
    timeout: Duration,
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, lossy UTF-8.
    pub stdout: String,
    /// Standard error, lossy UTF-8.
    pub stderr: String,
}

impl Command {
    pub(crate) fn new(program: impl AsRef<OsStr>, place: &str, doors: Doors) -> Self {
        let program = program.as_ref();
        let mut inner = std::process::Command::new(program);
        // A group of its own: its children die with it, and a Ctrl-C at the terminal reaches the owner alone.
        inner.process_group(0).stdin(Stdio::null());
        inner.envs(doors.environment.iter().map(|(key, value)| (key, value)));
        let Doors { netns, cgroup, resolv_conf, .. } = doors.clone();
        let enter = move || {
            // Who made the lab may hold signals back until it is ready for them; these processes are ended by signals.
            SigSet::empty().thread_set_mask()?;
            setns(&*netns, CloneFlags::CLONE_NEWNET)?;
            // "0" is the writer itself.
            (&*cgroup).write_all(b"0")?;
            if let Some(file) = &resolv_conf {
                // Mounts made here stay here; those of the machine still arrive.
                unshare(CloneFlags::CLONE_NEWNS)?;
                let propagation = MsFlags::MS_SLAVE | MsFlags::MS_REC;
                mount(None::<&CStr>, c"/", None::<&CStr>, propagation, None::<&CStr>)?;
                mount(Some(file.as_c_str()), RESOLV_CONF, None::<&CStr>, MsFlags::MS_BIND, None::<&CStr>)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls on descriptors and strings that exist already;
        // it allocates nothing and takes no lock.
        unsafe { inner.pre_exec(enter) };
        let label = format!("{} on {place}", program.to_string_lossy());
        Self { inner, doors, label, input: None, timeout: DEFAULT_TIMEOUT }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.inner.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(key, value);
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.inner.current_dir(folder);
        self
    }

    /// Gives standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Sets the time limit of [`Self::output`] and [`Self::ok`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Program and arguments as a person would type them.
    #[must_use]
    pub fn text(&self) -> String {
        let words = std::iter::once(self.inner.get_program()).chain(self.inner.get_args());
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// Runs to the end and gives status and output, whatever the status.
    ///
    /// # Errors
    /// The program cannot be started, or the time limit passes (it is killed then).
    pub fn output(mut self) -> Result<Output> {
        self.inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.input.is_some() {
            self.inner.stdin(Stdio::piped());
        }
        let mut child = self.inner.spawn().with_context(|| format!("start {}", self.label))?;
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut guard = Guard::new(child, &self.label);
        thread::scope(|scope| {
            let feed = scope.spawn(|| match (stdin, &self.input) {
                (Some(mut stdin), Some(input)) => stdin.write_all(input),
                _ => Ok(()),
            });
            let out = scope.spawn(|| slurp(stdout));
            let err = scope.spawn(|| slurp(stderr));
            let status = guard.wait(self.timeout)?;
            if status.is_none() {
                guard.kill()?;
            }
            let join = "reading and writing do not panic";
            let output = (out.join().expect(join)?, err.join().expect(join)?);
            let fed = feed.join().expect(join);
            let Some(status) = status else {
                bail!(
                    "{} did not end within {:?}\nstdout: {}\nstderr: {}",
                    self.label,
                    limit(self.timeout),
                    output.0,
                    output.1
                );
            };
            match fed {
                // A program need not read all of its input.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(error).with_context(|| format!("give input to {}", self.label));
                }
                Ok(()) | Err(_) => {}
            }
            Ok(Output { status, stdout: output.0, stderr: output.1 })
        })
    }

    /// Runs to the end and gives standard output.
    ///
    /// # Errors
    /// As [`Self::output`], and when it ends with another status than 0.
    pub fn ok(self) -> Result<String> {
        let text = self.text();
        let output = self.output()?;
        if !output.status.success() {
            bail!("`{text}` ended with {}: {}{}", output.status, output.stderr.trim_end(), output.stdout.trim_end());
        }
        Ok(output.stdout)
    }

    /// Starts it and leaves it running under a guard. Output goes to `NAME.out` and `NAME.err` in the place's folder;
    /// a second process of that name continues the files.
    ///
    /// # Errors
    /// The program cannot be started, or the log files cannot be written.
    pub fn spawn(mut self, name: &str) -> Result<Process> {
        let log = |suffix: &str| {
            let path = self.doors.logs.join(format!("{name}.{suffix}"));
            let file = File::options().append(true).create(true).open(&path);
            file.with_context(|| format!("open log {}", path.display())).map(|file| (path, file))
        };
        let (out_path, out) = log("out")?;
        let (err_path, err) = log("err")?;
        let seen = out.metadata().with_context(|| format!("look at {}", out_path.display()))?.len();
        self.inner.stdout(out).stderr(err);
        if self.input.is_some() {
            self.inner.stdin(Stdio::piped());
        }
        let mut child = self.inner.spawn().with_context(|| format!("start {}", self.label))?;
        if let (Some(input), Some(stdin)) = (&self.input, &mut child.stdin) {
            stdin.write_all(input).with_context(|| format!("give input to {}", self.label))?;
        }
        Ok(Process::new(Guard::new(child, &self.label), out_path, err_path, seen))
    }

    /// Starts it with its standard input and output as pipes; standard error goes to `NAME.err`.
    pub(crate) fn spawn_piped(mut self, name: &str) -> Result<(Process, ChildStdin, OwnedFd)> {
        let err_path = self.doors.logs.join(format!("{name}.err"));
        let err = File::options().append(true).create(true).open(&err_path);
        let err = err.with_context(|| format!("open log {}", err_path.display()))?;
        self.inner.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(err);
        let mut child = self.inner.spawn().with_context(|| format!("start {}", self.label))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{}: no pipes", self.label);
        };
        let process = Process::new(Guard::new(child, &self.label), "/dev/null".into(), err_path, 0);
        Ok((process, stdin, stdout.into()))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(0), _) => {}
            (Some(code), _) => writeln!(f, "exit status {code}")?,
            (None, signal) => writeln!(f, "killed by signal {}", signal.unwrap_or_default())?,
        }
        write!(f, "{}{}", self.stdout, self.stderr)
    }
}

fn slurp(pipe: Option<impl Read>) -> Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes).context("read a command's output")?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy().into_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
