//! `cargo xtask setup`: brings what a purpose needs and this machine lacks. It looks for the tools themselves and keeps no
//! record of what it did, so a second run is a few looks at the disk, and tools from elsewhere count as well.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    bpf_toolchain::{self, Compiler, Core},
    dist::Arch,
    pins::{self, Package},
    process,
};

/// What the machine is to be made ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// The BPF object and the agent.
    Build,
    /// Build, and what the demo and the lab start: nginx, redis, network tools.
    Demo,
    /// Demo, and what the test levels call: clippy, rustfmt.
    Test,
    /// cargo-deny for the test level of that name; it is built from source, which takes minutes.
    Deny,
    /// Test, and what the test level `image` builds and runs the container image with.
    Image,
    /// Kubernetes' schemas for the test level `manifests`, in a Python environment of their own.
    Manifests,
    /// Dist, and Debian kernels in an emulator.
    Vm,
    /// Build, and static binaries for arm64 and amd64; adds the one that this machine is not to dpkg's architectures.
    Dist,
}

/// Brings what `purpose` lacks, and says nothing when it lacks nothing.
///
/// # Errors
/// When something is missing and cannot be brought; the message says how to bring it by hand.
pub(crate) fn run(purpose: Purpose) -> Result<()> {
    match purpose {
        Purpose::Build | Purpose::Demo | Purpose::Test => build_and_more(purpose),
        Purpose::Deny => match deny_program() {
            Ok(_) => Ok(()),
            Err(_) => cargo_install("cargo-deny", pins::CARGO_DENY, &[], &deny_root()?),
        },
        Purpose::Image => {
            build_and_more(Purpose::Test)?;
            apt(None, &missing(&pins::STATIC))?;
            apt(None, &missing(&pins::IMAGE))
        }
        Purpose::Manifests => match kubernetes_validate() {
            Ok(_) => Ok(()),
            Err(_) => install_kubernetes_validate(),
        },
        Purpose::Vm => {
            run(Purpose::Dist)?;
            apt(None, &missing(&pins::VM))
        }
        Purpose::Dist => {
            build_and_more(Purpose::Build)?;
            apt(None, &missing(&pins::STATIC))?;
            let (other, packages) = foreign()?;
            apt(Some(other.name()), &missing(packages))
        }
    }
}

/// The architecture that this machine is not, and what builds for it.
fn foreign() -> Result<(Arch, &'static [Package])> {
    Ok(match Arch::of_this_machine()? {
        Arch::Amd64 => (Arch::Arm64, &pins::FOR_ARM64),
        Arch::Arm64 => (Arch::Amd64, &pins::FOR_AMD64),
    })
}

/// Whether [`Purpose::Vm`] would bring any package. It adds an architecture to dpkg's, which is not for a test to do unasked.
///
/// # Errors
/// Names what is missing.
pub(crate) fn vm_packages() -> Result<()> {
    let packages = [&pins::STATIC, foreign()?.1, &pins::VM].into_iter().flat_map(missing).collect::<Vec<_>>();
    if !packages.is_empty() {
        bail!("missing packages: {}.\nNext step: `cargo xtask setup --for vm`", packages.join(" "));
    }
    Ok(())
}

fn build_and_more(purpose: Purpose) -> Result<()> {
    let compiler = Compiler::find();
    let linker = bpf_toolchain::find_linker();
    let mut packages = Vec::new();
    if let Err(error) = &compiler {
        // A compiler that the user named is for the user to mend, not for us to go round.
        if std::env::var_os(bpf_toolchain::RUSTC_VAR).is_some() || process::find_program("apt-get").is_none() {
            bail!("{error:#}");
        }
        packages.extend(pins::BPF_COMPILER);
    }
    if linker.is_err() {
        packages.extend(missing(&pins::LINKER_BUILD));
    }
    if matches!(purpose, Purpose::Demo | Purpose::Test) {
        packages.extend(missing(&pins::LAB));
    }
    if purpose == Purpose::Test {
        packages.extend(missing(&[pins::RUSTFMT]));
        if !matches!(&compiler, Ok(Compiler { core: Core::Source, .. })) {
            packages.extend(missing(&[pins::BPF_CLIPPY]));
        }
    }
    apt(None, &packages)?;
    if linker.is_err() {
        let features = format!("llvm-{}", pins::LLVM_MAJOR);
        let options = ["--no-default-features", "--features", &features];
        cargo_install("bpf-linker", pins::BPF_LINKER, &options, &bpf_toolchain::linker_root()?)?;
    }
    // What was just brought has to be what the build will find.
    Compiler::find()?;
    bpf_toolchain::find_linker()?;
    Ok(())
}

/// The names of those packages that nothing here stands for.
fn missing(packages: &[Package]) -> Vec<&'static str> {
    let absent = |proof: &str| match proof.strip_prefix('/') {
        Some(_) => !Path::new(proof).exists(),
        None => process::find_program(proof).is_none(),
    };
    packages.iter().filter(|package| absent(package.proof)).map(|package| package.name).collect()
}

fn apt(architecture: Option<&str>, packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("sh");
    command.arg(process::workspace_root().join("scripts/apt-install.sh"));
    if let Some(architecture) = architecture {
        command.args(["--arch", architecture]);
    }
    process::run(command.args(packages)).context("setup could not install Debian packages")
}

/// Builds a tool from the crates registry into `root`, with its output kept for the case that it fails.
fn cargo_install(name: &str, version: &str, options: &[&str], root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
    let log_path = root.join("build.log");
    let log = File::create(&log_path).with_context(|| format!("create {}", log_path.display()))?;
    eprintln!("setup: building {name} {version} (log: {})", log_path.display());
    let mut command = process::cargo();
    command.args(["install", name, "--version", version, "--locked", "--force", "--root"]).arg(root).args(options);
    command.env("LLVM_PREFIX", pins::LLVM_PREFIX).stdout(log.try_clone()?).stderr(log);
    process::run(&mut command).with_context(|| {
        let text = fs::read_to_string(&log_path).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        format!(
            "setup could not build {name} {version}:\n{tail}\nNext step: mend what {} says (no network?) and try again",
            log_path.display()
        )
    })
}

fn deny_root() -> Result<std::path::PathBuf> {
    process::tool_root(&format!("cargo-deny-{}", pins::CARGO_DENY))
}

/// The pinned cargo-deny, or any in `PATH`: its verdict depends on `deny.toml`, hardly on its version.
///
/// # Errors
/// When there is none.
pub(crate) fn deny_program() -> Result<std::path::PathBuf> {
    let own = Some(deny_root()?.join("bin/cargo-deny")).filter(|path| path.exists());
    own.or_else(|| process::find_in_path("cargo-deny"))
        .context("cargo-deny is not installed.\nNext step: `cargo xtask setup --for deny` (builds it, some minutes)")
}

fn validate_root() -> Result<std::path::PathBuf> {
    process::tool_root(&format!("kubernetes-validate-{}", pins::KUBERNETES_VALIDATE))
}

/// The pinned kubernetes-validate.
///
/// # Errors
/// When it is not installed.
pub(crate) fn kubernetes_validate() -> Result<std::path::PathBuf> {
    Some(validate_root()?.join("bin/kubernetes-validate"))
        .filter(|path| path.exists())
        .context("Kubernetes' schemas are not installed.\nNext step: `cargo xtask setup --for manifests`")
}

fn install_kubernetes_validate() -> Result<()> {
    let root = validate_root()?;
    eprintln!("setup: kubernetes-validate {} into {}", pins::KUBERNETES_VALIDATE, root.display());
    process::output(Command::new("python3").args(["-m", "venv"]).arg(&root))
        .context("make a Python environment.\nNext step: on Debian, install python3-venv")?;
    let wanted = format!("kubernetes-validate=={}", pins::KUBERNETES_VALIDATE);
    let pip = root.join("bin/pip");
    process::output(Command::new(pip).args(["install", "--quiet", &wanted])).context("install it from PyPI")?;
    kubernetes_validate().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nothing_stands_for_is_missing() {
        let packages = [
            Package { name: "dash", proof: "sh" },
            Package { name: "no-such-program", proof: "berrylb-no-such-program" },
            Package { name: "base-files", proof: "/etc" },
            Package { name: "no-such-file", proof: "/berrylb-no-such-file" },
        ];
        let missing = missing(&packages);
        assert!(missing.contains(&"no-such-program") && missing.contains(&"no-such-file"), "{missing:?}");
        assert!(!missing.contains(&"dash") && !missing.contains(&"base-files"), "{missing:?}");
    }
}
