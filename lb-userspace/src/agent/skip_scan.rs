//! Finds the cgroups and network namespaces that the rules mean, now and whenever they come and go (inotify). Runs on a
//! thread of its own; it changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use lb_common::abi::{SkipKey, skip_kind};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::sync::mpsc;

use super::skip_rules::SkipRules;
use crate::{loader::cookie, net::Glob};

/// A name of a namespace is a plain file until it is mounted, which no event tells: it is looked at again after this,
/// doubled each time …
const RECHECK: Duration = Duration::from_millis(5);
/// … for as long as this after the last event.
const RECHECK_FOR: Duration = Duration::from_secs(10);

/// What the rules mean at present.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Found {
    /// Entries of the table, by what people call them.
    pub(super) keys: BTreeMap<SkipKey, String>,
    /// What could not be looked at, and why.
    pub(super) problems: BTreeSet<String>,
    /// A name that is no namespace so far.
    unfinished: bool,
}

/// The rules on this machine.
pub(super) struct Scanner {
    rules: SkipRules,
    cgroup: PathBuf,
    inotify: Inotify,
}

impl Scanner {
    /// `cgroup`: the folder of `--cgroup`.
    ///
    /// # Errors
    /// If the kernel gives no inotify instance.
    pub(super) fn new(rules: SkipRules, cgroup: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { rules, cgroup: cgroup.to_owned(), inotify })
    }

    /// Looks at everything, and has every folder watched that was looked at.
    pub(super) fn scan(&self) -> Found {
        let mut found = Found::default();
        for glob in &self.rules.cgroups {
            self.descend(&self.cgroup, glob.levels(), &mut found);
        }
        for rule in &self.rules.netns {
            self.namespaces(&rule.folder, &rule.name, &mut found);
        }
        found
    }

    /// Follows from `last` on, until the receiver is gone.
    ///
    /// # Errors
    /// If no thread can be made.
    pub(super) fn follow(self, last: Found, changed: mpsc::UnboundedSender<Found>) -> io::Result<()> {
        thread::Builder::new().name("skips".to_owned()).spawn(move || {
            if let Err(error) = self.run(last, &changed) {
                tracing::error!("cgroups and namespaces to skip are not followed any more: {error}; restart the agent");
            }
        })?;
        Ok(())
    }

    fn run(&self, mut last: Found, changed: &mpsc::UnboundedSender<Found>) -> io::Result<()> {
        let (mut wait, mut recheck_until) = (RECHECK, Instant::now() + RECHECK_FOR);
        loop {
            let recheck = last.unfinished && Instant::now() < recheck_until;
            if self.wait(recheck.then_some(wait))? {
                (wait, recheck_until) = (RECHECK, Instant::now() + RECHECK_FOR);
            } else {
                wait *= 2;
            }
            let found = self.scan();
            if found != last {
                last = found.clone();
                if changed.send(found).is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for events, which are all the same to it, and takes them; false: none came in time.
    fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let limit = match limit {
            None => PollTimeout::NONE,
            Some(limit) => PollTimeout::try_from(limit).map_err(io::Error::other)?,
        };
        match poll(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        loop {
            match self.inotify.read_events() {
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(true),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Watches a folder; false if there is none. Its watch ends with it.
    fn watch(&self, folder: &Path) -> io::Result<bool> {
        let changes =
            AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_ONLYDIR;
        match self.inotify.add_watch(folder, changes) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The cgroups below `folder` whose names match level by level.
    fn descend(&self, folder: &Path, levels: &[Glob], found: &mut Found) {
        let Some((level, deeper)) = levels.split_first() else { return };
        // Watched first: what comes while it is read is then seen again.
        for (name, path) in self.entries(folder, found) {
            if !level.matches(&name) || !path.is_dir() {
                continue;
            }
            if !deeper.is_empty() {
                self.descend(&path, deeper, found);
                continue;
            }
            match fs::metadata(&path) {
                // On 64-bit kernels the inode number is the cgroup's id.
                Ok(meta) => {
                    let shown = path.strip_prefix(&self.cgroup).unwrap_or(&path);
                    found
                        .keys
                        .insert(SkipKey::new(skip_kind::CGROUP, meta.ino()), format!("cgroup {}", shown.display()));
                }
                Err(error) => found.problem(&path, &error),
            }
        }
    }

    fn namespaces(&self, folder: &Path, wanted: &Glob, found: &mut Found) {
        for (name, path) in self.entries(folder, found) {
            if !wanted.matches(&name) {
                continue;
            }
            match cookie::of_netns(&path) {
                Ok(Some(cookie)) => {
                    found.keys.insert(SkipKey::new(skip_kind::NETNS, cookie), format!("netns {}", path.display()));
                }
                Ok(None) => found.unfinished = true,
                Err(error) => found.problem(&path, &error),
            }
        }
    }

    /// Watches a folder, or the nearest one above it that is there, and reads it.
    fn entries(&self, folder: &Path, found: &mut Found) -> Vec<(String, PathBuf)> {
        for watched in folder.ancestors() {
            match self.watch(watched) {
                Ok(true) if watched == folder => break,
                // It may have been made before its parent was watched.
                Ok(true) if folder.exists() => return self.entries(folder, found),
                Ok(true) => return Vec::new(),
                Ok(false) => {}
                Err(error) => {
                    found.problem(watched, &error);
                    return Vec::new();
                }
            }
        }
        let listed = fs::read_dir(folder).and_then(|entries| {
            entries.map(|entry| entry.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()))).collect()
        });
        listed.unwrap_or_else(|error| {
            found.problem(folder, &error);
            Vec::new()
        })
    }
}

impl Found {
    /// Notes what could not be looked at, unless it has gone.
    fn problem(&mut self, path: &Path, error: &io::Error) {
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) {
            self.problems.insert(format!("{}: {error}", path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// cgroups are folders, and any folder has an inode number: the walk needs no cgroup.
    #[test]
    fn folders_are_found_level_by_level_as_they_come_and_go() {
        let root = tempfile::tempdir().expect("a folder");
        let make = |path: &str| fs::create_dir_all(root.path().join(path)).expect("made");
        let ino = |path: &str| fs::metadata(root.path().join(path)).expect("there").ino();
        make("kubepods/burstable/pod1/container");
        make("kubepods/pod2");
        make("system/burstable/pod3");
        fs::write(root.path().join("kubepods/burstable/pod4"), "a file").expect("written");
        let rules = SkipRules {
            cgroups: ["kubepods*/*/pod*", "mesh"].map(|glob| glob.parse().expect("a pattern")).to_vec(),
            netns: Vec::new(),
        };
        let scanner = Scanner::new(rules, root.path()).expect("inotify");
        let first = scanner.scan();
        let key = |path: &str| (SkipKey::new(skip_kind::CGROUP, ino(path)), format!("cgroup {path}"));
        assert_eq!(first.keys, BTreeMap::from([key("kubepods/burstable/pod1")]));
        assert!(first.problems.is_empty(), "{first:?}");

        let (sender, mut changes) = mpsc::unbounded_channel();
        scanner.follow(first, sender).expect("a thread");
        let mut wait_for = |wanted: BTreeMap<SkipKey, String>| {
            while changes.blocking_recv().expect("a change").keys != wanted {}
        };
        make("mesh");
        wait_for(BTreeMap::from([key("kubepods/burstable/pod1"), key("mesh")]));
        make("kubepods/besteffort");
        make("kubepods/besteffort/pod5");
        let pod5 = key("kubepods/besteffort/pod5");
        wait_for(BTreeMap::from([key("kubepods/burstable/pod1"), key("mesh"), pod5.clone()]));
        let mesh = key("mesh");
        fs::remove_dir_all(root.path().join("kubepods/burstable")).expect("removed");
        wait_for(BTreeMap::from([mesh, pod5]));
    }

    #[test]
    fn a_folder_of_namespaces_that_is_not_there_yet_is_waited_for() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("run/netns");
        let rules =
            SkipRules { cgroups: Vec::new(), netns: vec![format!("{}/a*", folder.display()).parse().expect("a name")] };
        let scanner = Scanner::new(rules, root.path()).expect("inotify");
        assert_eq!(scanner.scan(), Found::default());
        fs::create_dir_all(&folder).expect("made");
        assert!(scanner.wait(Some(Duration::from_secs(5))).expect("events"));
        fs::write(folder.join("a1"), "").expect("written");
        let found = scanner.scan();
        assert!(found.unfinished && found.keys.is_empty(), "a plain file may become a namespace: {found:?}");
        assert!(found.problems.is_empty(), "{found:?}");
    }
}
