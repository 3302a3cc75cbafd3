//! Every version that is pinned outside `Cargo.lock`: the BPF tool chain and the system packages that setup brings.
//! It never runs anything; a test holds it against `Cargo.toml`.
//!
//! aya, aya-obj, aya-log, aya-ebpf, aya-log-ebpf, bpf-linker and LLVM move together: the loader reads what the macros and
//! the linker write, and a linker reads the bitcode of its own LLVM or an older one. The next step (aya 0.15, aya-ebpf
//! 0.3, aya-log 0.4) needs Rust 1.98.

/// Exact versions of the aya family, as the `=` requirements of the workspace's `Cargo.toml` state them.
#[cfg(test)]
pub(crate) const AYA_FAMILY: [(&str, &str); 5] =
    [("aya", "0.14.0"), ("aya-ebpf", "0.2.1"), ("aya-log", "0.3.0"), ("aya-log-ebpf", "0.2.0"), ("aya-obj", "0.3.0")];

/// The linker that turns rustc's bitcode into one BPF object with BTF.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// LLVM's major version, for bpf-linker's feature `llvm-22`; rustc's own LLVM may not be newer.
pub(crate) const LLVM_MAJOR: u32 = 22;

/// Where Debian puts that LLVM; bpf-linker's build reads it as `LLVM_PREFIX`.
pub(crate) const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Crates that use unstable features on the BPF target (`asm_experimental_arch`). A stable rustc accepts them when
/// `RUSTC_BOOTSTRAP` names them; everything else, our own crates too, stays on stable Rust.
pub(crate) const BOOTSTRAP_CRATES: &str = "aya_ebpf";

/// The licence and ban checker of the test level `deny`.
pub(crate) const CARGO_DENY: &str = "0.20.2";

/// Kubernetes' published schemas with a program that holds files against them, from PyPI.
pub(crate) const KUBERNETES_VALIDATE: &str = "1.37.0";

/// Minor versions of Kubernetes whose schemas the manifests have to fit: the oldest and the newest that are meant.
pub(crate) const KUBERNETES: [&str; 2] = ["1.29", "1.37"];

/// A Debian package, and what shows that it (or an equal from elsewhere) is there.
pub(crate) struct Package {
    /// Debian's name for it.
    pub(crate) name: &'static str,
    /// A program in `PATH` or an administrator's folder; with a leading `/`, a file or folder.
    pub(crate) proof: &'static str,
}

const fn package(name: &'static str, proof: &'static str) -> Package {
    Package { name, proof }
}

/// rustc with a prebuilt `core` for BPF, from Debian's security suite: for when no fitting compiler is found.
pub(crate) const BPF_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// What building bpf-linker takes.
pub(crate) const LINKER_BUILD: [Package; 2] =
    [package("llvm-22-dev", "/usr/include/llvm-22/llvm"), package("g++", "g++")];

/// Formatting, where rustup has not brought it.
pub(crate) const RUSTFMT: Package = package("rustfmt-web", "cargo-fmt");

/// clippy for the compiler of [`BPF_COMPILER`]: only its own driver can read its `core`.
pub(crate) const BPF_CLIPPY: Package = package("rust-web-clippy", "/usr/bin/clippy-driver");

/// Servers, clients and network tools of the lab and the demo.
pub(crate) const LAB: [Package; 12] = [
    package("bpftool", "bpftool"),
    package("conntrack", "conntrack"),
    package("curl", "curl"),
    package("dnsmasq-base", "dnsmasq"),
    package("ethtool", "ethtool"),
    package("iproute2", "ip"),
    package("iptables", "iptables"),
    package("knot-dnsutils", "kdig"),
    package("nftables", "nft"),
    package("nginx", "nginx"),
    package("redis-server", "redis-server"),
    package("wrk", "wrk"),
];

/// What takes the image apart and runs it; skopeo brings the seccomp profile along.
pub(crate) const IMAGE: [Package; 5] = [
    package("containerd", "containerd"),
    package("golang-github-containers-common", "/usr/share/containers/seccomp.json"),
    package("runc", "runc"),
    package("skopeo", "skopeo"),
    package("umoci", "umoci"),
];

/// What makes the emulator's Debian and packs tests for it; the emulator is in that.
pub(crate) const VM: [Package; 2] =
    [package("debootstrap", "debootstrap"), package("binutils", "x86_64-linux-gnu-strip")];

/// Debian's compiler, for static binaries of this machine's own architecture.
pub(crate) const STATIC: [Package; 1] = [package("rustc-web", "/usr/bin/rustc")];

/// The cross-linker and standard library for arm64 on amd64, from Debian.
pub(crate) const FOR_ARM64: [Package; 3] = [
    package("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc"),
    package("libc6-dev-arm64-cross", "/usr/aarch64-linux-gnu/include/stdio.h"),
    package("libstd-rust-web-dev:arm64", "/usr/lib/rustlib/aarch64-unknown-linux-gnu/lib"),
];

/// The same for amd64 on arm64.
pub(crate) const FOR_AMD64: [Package; 3] = [
    package("gcc-x86-64-linux-gnu", "x86_64-linux-gnu-gcc"),
    package("libc6-dev-amd64-cross", "/usr/x86_64-linux-gnu/include/stdio.h"),
    package("libstd-rust-web-dev:amd64", "/usr/lib/rustlib/x86_64-unknown-linux-gnu/lib"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> String {
        let path = crate::process::workspace_root().join("Cargo.toml");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
    }

    #[test]
    fn aya_family_agrees_with_cargo_toml() {
        let manifest = manifest();
        for (name, version) in AYA_FAMILY {
            let line = format!("{name} = \"={version}\"");
            assert!(manifest.lines().any(|found| found == line), "Cargo.toml has no line `{line}`");
        }
        let pinned = manifest.lines().filter(|line| line.starts_with("aya") && line.contains("\"=")).count();
        assert_eq!(pinned, AYA_FAMILY.len(), "Cargo.toml pins an aya crate that pins.rs does not know");
    }

    #[test]
    fn llvm_prefix_names_the_pinned_major() {
        let llvm = format!("llvm-{LLVM_MAJOR}");
        assert!(LLVM_PREFIX.ends_with(&llvm));
        assert!(
            LINKER_BUILD.iter().any(|package| package.name == format!("{llvm}-dev") && package.proof.contains(&llvm))
        );
    }
}
