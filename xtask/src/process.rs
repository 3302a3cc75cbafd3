//! Running other programs and finding the workspace. Nothing here decides what to run.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// The workspace's root: the parent of this crate's folder, as cargo tells it at run time.
pub(crate) fn workspace_root() -> PathBuf {
    let manifest_dir =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    match manifest_dir.parent() {
        Some(root) => root.to_path_buf(),
        None => manifest_dir,
    }
}

/// cargo's folder for what it builds, where the BPF object is not (that is always in the workspace's own `target/bpf`).
pub(crate) fn target_dir() -> PathBuf {
    let root = workspace_root();
    env::var_os("CARGO_TARGET_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Where cargo keeps the sources of dependencies.
pub(crate) fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .unwrap_or_else(|| workspace_root().join(".cargo"))
}

/// The cargo that started this xtask, so that a task stays with the tool chain it was started with.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    command
}

/// Runs `command` with its output shown.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the message holds the command line.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", display(command));
    }
    Ok(())
}

/// Runs `command` and returns its standard output.
///
/// # Errors
/// As [`run`]; what it wrote to standard error becomes part of the message.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start `{}`", display(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}", display(command), output.status, stderr.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote text that is not UTF-8", display(command)))
}

/// The first executable file called `name` in the folders of `PATH`.
pub(crate) fn find_in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| is_executable(path))
}

/// [`find_in_path`], and then the administrator's folders, which `PATH` leaves out for other users on Debian.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(name));
    find_in_path(name).or_else(|| system.into_iter().find(|path| is_executable(path)))
}

/// Where setup puts a tool that it builds from source. Outside `target/`, so that neither `cargo clean` nor a second clone
/// costs another build; `tool` holds the version, so a new pin never meets an old tool.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor a home folder is known.
pub(crate) fn tool_root(tool: &str) -> Result<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => env::home_dir()
            .filter(|dir| !dir.as_os_str().is_empty())
            .context("no home folder to keep tools in.\nNext step: set HOME or XDG_CACHE_HOME")?
            .join(".cache"),
    };
    Ok(cache.join("berrylb/tools").join(tool))
}

/// Whether this process may do as it likes: the lab and the BPF programs need it.
///
/// # Errors
/// When /proc does not say.
pub(crate) fn is_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let uids =
        status.lines().find_map(|line| line.strip_prefix("Uid:")).context("/proc/self/status has no Uid line")?;
    // Real, effective, saved, file system.
    Ok(uids.split_whitespace().nth(1) == Some("0"))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The command line as a reader would type it.
pub(crate) fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
