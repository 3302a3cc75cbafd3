//! Finds the two tools that the BPF object needs: a rustc with `core` for the BPF target, and bpf-linker.
//! It looks and never installs: what is missing is said together with the command that brings it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{pins, process};

/// The target of the object: little-endian BPF, for arm64 and x86-64 alike.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// The environment variable that names the rustc to use instead of looking for one.
pub(crate) const RUSTC_VAR: &str = "BERRYLB_BPF_RUSTC";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Where a compiler takes the BPF target's `core` from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// Delivered with the compiler, as Debian's libstd-rust-web-dev-bpf does.
    Prebuilt,
    /// Built along from the rust-src component; needs a nightly cargo.
    Source,
}

/// A rustc that can compile for [`TARGET`].
#[derive(Debug)]
pub(crate) struct Compiler {
    /// Absolute path of rustc.
    pub(crate) rustc: PathBuf,
    /// Where its `core` comes from.
    pub(crate) core: Core,
}

impl Compiler {
    /// The compiler that [`RUSTC_VAR`] names, else Debian's with the prebuilt core, else rustup's nightly with rust-src.
    ///
    /// # Errors
    /// When none of them is there or its LLVM is newer than bpf-linker's.
    pub(crate) fn find() -> Result<Self> {
        if let Some(rustc) = env::var_os(RUSTC_VAR).map(PathBuf::from) {
            let Some(found) = Self::probe(rustc.clone())? else {
                bail!(
                    "{RUSTC_VAR}={}: it has neither a prebuilt core for {TARGET} nor the rust-src component.\n\
                     Next step: point {RUSTC_VAR} at another rustc, or unset it and run `cargo xtask setup --for build`.",
                    rustc.display()
                );
            };
            return Ok(found);
        }
        let debian = Path::new(DEBIAN_RUSTC);
        if debian.exists()
            && let Some(found) = Self::probe(debian.to_path_buf())?
        {
            return Ok(found);
        }
        if let Some(rustup) = process::find_in_path("rustup")
            && let Ok(rustc) = process::output(Command::new(rustup).args(["which", "--toolchain", "nightly", "rustc"]))
            && let Some(found) = Self::probe(rustc.trim().into())?
        {
            return Ok(found);
        }
        bail!(
            "no rustc that can build for {TARGET}.\n\
             Next step: `cargo xtask setup --for build` on Debian 12 (brings rustc-web and \
             libstd-rust-web-dev-bpf), or with rustup: `rustup toolchain install nightly --component rust-src`."
        )
    }

    fn probe(rustc: PathBuf) -> Result<Option<Self>> {
        let sysroot = process::output(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let rustlib = Path::new(sysroot.trim()).join("lib/rustlib");
        let core = if rustlib.join(TARGET).join("lib").is_dir() {
            Core::Prebuilt
        } else if rustlib.join("src/rust/library/core").is_dir() {
            Core::Source
        } else {
            return Ok(None);
        };
        let version = process::output(Command::new(&rustc).arg("-vV"))?;
        check_llvm(&version).with_context(|| format!("{} cannot build the BPF object", rustc.display()))?;
        Ok(Some(Self { rustc, core }))
    }

    /// `cargo build` of the object; the caller adds what else it wants.
    ///
    /// # Errors
    /// When a path is not UTF-8, since cargo's encoded flags are text.
    pub(crate) fn cargo_build(&self, linker: &Path) -> Result<Command> {
        let mut command = self.cargo();
        self.set_up(command.arg("build"), linker)?;
        Ok(command)
    }

    /// `cargo clippy` for the object, with the driver that came with this compiler: no other reads its `core`.
    ///
    /// # Errors
    /// As [`Self::cargo_build`], and when the compiler came without clippy.
    pub(crate) fn cargo_clippy(&self, linker: &Path) -> Result<Command> {
        let program = self.rustc.with_file_name("cargo-clippy");
        if !program.exists() {
            bail!(
                "{} is not there, so clippy cannot read the BPF programs.\n\
                 Next step: `cargo xtask setup --for test` on Debian 12, or `rustup component add clippy --toolchain nightly`",
                program.display()
            );
        }
        let mut command = Command::new(program);
        command.current_dir(process::workspace_root()).env("CARGO", self.cargo().get_program());
        self.set_up(command.arg("clippy"), linker)?;
        Ok(command)
    }

    fn cargo(&self) -> Command {
        match self.core {
            Core::Prebuilt => process::cargo(),
            Core::Source => {
                let mut cargo = Command::new(self.rustc.with_file_name("cargo"));
                cargo.current_dir(process::workspace_root());
                cargo
            }
        }
    }

    /// What and how to build, the same for each subcommand: package, target, folder, flags, compiler, linker.
    fn set_up(&self, command: &mut Command, linker: &Path) -> Result<()> {
        command.args(["--package", "lb-ebpf", "--release", "--target", TARGET, "--target-dir"]);
        command.arg(process::workspace_root().join("target/bpf"));
        match self.core {
            Core::Prebuilt => command.env("RUSTC_BOOTSTRAP", pins::BOOTSTRAP_CRATES),
            Core::Source => command.arg("-Zbuild-std=core").env_remove("RUSTC_BOOTSTRAP"),
        };
        command.env("RUSTC", &self.rustc).env("CARGO_ENCODED_RUSTFLAGS", flags()?);
        // rustc starts the target's linker by name: the one whose version was checked has to come first.
        let linker_dir = linker.parent().map(Path::to_path_buf);
        let path = env::var_os("PATH").unwrap_or_default();
        command.env("PATH", env::join_paths(linker_dir.into_iter().chain(env::split_paths(&path)))?);
        Ok(())
    }
}

/// rustc's flags, the same for every compiler, in cargo's encoding (separated by 0x1f).
fn flags() -> Result<String> {
    let root = process::workspace_root();
    let cargo_home = process::cargo_home();
    let text =
        |path: &Path| path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()));
    Ok([
        // BTF is made from the debug information of all crates, not only our own.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // By default every cleared array becomes a call of a byte-wise memset: four times the instructions to verify
        // on the pod links, and slower packets.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // Only kprobe arguments depend on it, which we do not use; fixed, so that every builder makes the same object.
        "--cfg=bpf_target_arch=\"aarch64\"".to_owned(),
        // The builder's folders are nobody's business and would make two builds differ.
        format!("--remap-path-prefix={}=/berrylb", text(&root)?),
        format!("--remap-path-prefix={}=/cargo", text(&cargo_home)?),
    ]
    .join("\u{1f}"))
}

/// Refuses a rustc whose bitcode the pinned bpf-linker cannot read. `version` is the output of `rustc -vV`.
fn check_llvm(version: &str) -> Result<()> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let llvm = llvm.context("`rustc -vV` names no LLVM version")?;
    let major: u32 = llvm
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .with_context(|| format!("`rustc -vV` names LLVM version \"{llvm}\", which has no major number"))?;
    if major > pins::LLVM_MAJOR {
        bail!(
            "its LLVM is {llvm}, and bpf-linker {} is pinned to LLVM {}, which cannot read newer bitcode.\n\
             Next step: set {RUSTC_VAR} to a rustc with LLVM {} or older.",
            pins::BPF_LINKER,
            pins::LLVM_MAJOR,
            pins::LLVM_MAJOR
        );
    }
    Ok(())
}

/// Where setup installs bpf-linker.
///
/// # Errors
/// As [`process::tool_root`].
pub(crate) fn linker_root() -> Result<PathBuf> {
    process::tool_root(&format!("bpf-linker-{}-llvm-{}", pins::BPF_LINKER, pins::LLVM_MAJOR))
}

/// The pinned bpf-linker: setup's own, else one in `PATH`.
///
/// # Errors
/// When there is none, or only ones of other versions, which are named.
pub(crate) fn find_linker() -> Result<PathBuf> {
    let own = Some(linker_root()?.join("bin/bpf-linker")).filter(|path| path.exists());
    let mut unfit = Vec::new();
    for candidate in own.into_iter().chain(process::find_in_path("bpf-linker")) {
        match linker_version(&candidate) {
            Ok(version) if version == pins::BPF_LINKER => return Ok(candidate),
            Ok(version) => unfit.push(format!("{} is version {version}", candidate.display())),
            Err(error) => unfit.push(format!("{} does not run: {error:#}", candidate.display())),
        }
    }
    let found = if unfit.is_empty() { "none was found".to_owned() } else { unfit.join("; ") };
    bail!(
        "bpf-linker {version} is missing: {found}.\n\
         Next step: `cargo xtask setup --for build` on Debian 12; elsewhere, with LLVM {major}'s development \
         files: `cargo install bpf-linker --version {version} --locked --no-default-features --features llvm-{major}`.",
        version = pins::BPF_LINKER,
        major = pins::LLVM_MAJOR,
    )
}

fn linker_version(path: &Path) -> Result<String> {
    let text = process::output(Command::new(path).arg("--version"))?;
    let version = text.split_whitespace().nth(1);
    Ok(version.with_context(|| format!("`--version` answered \"{}\"", text.trim()))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_llvm_is_refused_and_named() {
        let newer = format!("rustc 1.99.0\nLLVM version: {}.1.0\n", pins::LLVM_MAJOR + 1);
        let message = format!("{:#}", check_llvm(&newer).expect_err("newer LLVM"));
        assert!(message.contains(&format!("{}.1.0", pins::LLVM_MAJOR + 1)), "{message}");
        assert!(message.contains(RUSTC_VAR), "{message}");
    }

    #[test]
    fn the_pinned_llvm_and_older_ones_pass() {
        for major in [pins::LLVM_MAJOR, pins::LLVM_MAJOR - 1] {
            check_llvm(&format!("LLVM version: {major}.1.2")).expect("readable bitcode");
        }
        check_llvm("rustc 1.95.0").expect_err("no LLVM line");
    }

    #[test]
    fn flags_hide_the_builders_folders_and_ask_for_btf() {
        let flags = flags().expect("UTF-8 paths");
        let flags: Vec<_> = flags.split('\u{1f}').collect();
        assert!(flags.contains(&"-Clink-arg=--btf"));
        assert!(flags.iter().any(|flag| flag.starts_with("--remap-path-prefix=") && flag.ends_with("=/berrylb")));
    }
}
