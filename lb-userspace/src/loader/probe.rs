//! What this kernel can do, found by trying and never by its version: distributions carry features back, and leave
//! features out. Each answer comes with its reason. Nothing that it makes outlives the probe.

use std::{fmt, fs, io, os::fd::AsFd as _};

use aya_obj::generated::{bpf_attach_type, bpf_func_id, bpf_insn, bpf_map_type, bpf_prog_type};

use super::{cookie, insn, sys};

/// Something that newer kernels have and the datapath can do without.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Feature {
    /// tc programs as links.
    Tcx,
    /// Socket programs choose the error that the application sees.
    SetRetval,
    /// A cheaper clock.
    CoarseClock,
    /// A socket tells its network namespace's cookie.
    NetnsCookie,
    /// Ring buffer maps.
    RingBuffer,
    /// Many map elements in one call.
    BatchOps,
    /// Waiting for an RCU grace period from user space.
    Membarrier,
    /// Type information of the kernel; berrylb never reads it.
    KernelBtf,
}

impl Feature {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::Tcx,
        Self::SetRetval,
        Self::CoarseClock,
        Self::NetnsCookie,
        Self::RingBuffer,
        Self::BatchOps,
        Self::Membarrier,
        Self::KernelBtf,
    ];

    /// Short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::SetRetval => "bpf_set_retval",
            Self::CoarseClock => "bpf_ktime_get_coarse_ns",
            Self::NetnsCookie => "SO_NETNS_COOKIE",
            Self::RingBuffer => "ring buffer",
            Self::BatchOps => "batch map operations",
            Self::Membarrier => "membarrier",
            Self::KernelBtf => "kernel BTF",
        }
    }

    /// The release of Linux that brought it.
    #[must_use]
    pub const fn since(self) -> &'static str {
        match self {
            Self::Tcx => "6.6",
            Self::SetRetval => "5.18",
            Self::CoarseClock => "5.11",
            Self::NetnsCookie => "5.14",
            Self::RingBuffer => "5.8",
            Self::BatchOps => "5.6",
            Self::Membarrier => "4.3",
            Self::KernelBtf => "5.4",
        }
    }

    /// What is done without it.
    #[must_use]
    pub const fn without(self) -> &'static str {
        match self {
            Self::Tcx => "programs are attached as clsact filters",
            Self::SetRetval => "a refused connect shows as EPERM instead of ECONNREFUSED",
            Self::CoarseClock => {
                "the exact clock is used, which costs a few nanoseconds more; locked memory is limited by RLIMIT_MEMLOCK"
            }
            Self::NetnsCookie => "the cookie is learned through a scratch cgroup",
            Self::RingBuffer => "the datapath's debug log does not load",
            Self::BatchOps => "tables are filled element by element",
            Self::Membarrier => "identifiers are reused only after a fixed delay",
            Self::KernelBtf => "nothing is missed: no program needs it",
        }
    }
}

/// Answer for one feature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What was tried.
    pub feature: Feature,
    /// Whether it works here.
    pub available: bool,
    /// How that was found out, or what the kernel answered.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { feature, available, reason } = self;
        if *available {
            write!(f, "{}: yes ({reason})", feature.name())
        } else {
            write!(f, "{}: no ({reason}; Linux {}): {}", feature.name(), feature.since(), feature.without())
        }
    }
}

/// All answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// `uname -r`.
    pub release: String,
    findings: Vec<Finding>,
}

impl Probe {
    /// Tries everything. Takes about a millisecond; needs the privileges of [`super::host::check_privileges`].
    #[must_use]
    pub fn run() -> Self {
        let release = nix::sys::utsname::uname()
            .map_or_else(|errno| format!("unknown ({errno})"), |name| name.release().to_string_lossy().into_owned());
        let findings = Feature::ALL
            .into_iter()
            .map(|feature| {
                let (available, reason) = match attempt(feature) {
                    Ok(reason) => (true, reason),
                    Err(error) => (false, error.to_string()),
                };
                Finding { feature, available, reason }
            })
            .collect();
        Self { release, findings }
    }

    /// Whether a feature works here.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.findings.iter().any(|finding| finding.feature == feature && finding.available)
    }

    /// Every answer, in the order of [`Feature::ALL`].
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

fn attempt(feature: Feature) -> io::Result<String> {
    match feature {
        Feature::Tcx => {
            // Every network namespace has its loopback at index 1; asking changes nothing.
            const LOOPBACK: u32 = 1;
            sys::query(sys::Target::Device(LOOPBACK), bpf_attach_type::BPF_TCX_INGRESS)?;
            Ok("the loopback device answers a query".to_owned())
        }
        Feature::SetRetval => {
            let code = [
                insn::mov(1, -libc::ECONNREFUSED),
                insn::call(bpf_func_id::BPF_FUNC_set_retval as i32),
                insn::mov(0, 0),
                insn::exit(),
            ];
            let connect4 = bpf_attach_type::BPF_CGROUP_INET4_CONNECT;
            load(bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, Some(connect4), &code)
        }
        Feature::CoarseClock => {
            let code = [insn::call(bpf_func_id::BPF_FUNC_ktime_get_coarse_ns as i32), insn::mov(0, 0), insn::exit()];
            load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, None, &code)
        }
        Feature::NetnsCookie => cookie::by_socket_option().map(|_| "a socket told its cookie".to_owned()),
        Feature::RingBuffer => {
            sys::map_create(bpf_map_type::BPF_MAP_TYPE_RINGBUF, 0, 0, page_size()?)?;
            Ok("a map was made".to_owned())
        }
        Feature::BatchOps => {
            let map = sys::map_create(bpf_map_type::BPF_MAP_TYPE_HASH, 4, 4, 1)?;
            sys::update_batch_of_one(map.as_fd())?;
            Ok("a batch was written".to_owned())
        }
        Feature::Membarrier => membarrier(),
        Feature::KernelBtf => {
            let size = fs::metadata("/sys/kernel/btf/vmlinux")?.len();
            Ok(format!("/sys/kernel/btf/vmlinux has {size} bytes; not used"))
        }
    }
}

fn load(program_type: bpf_prog_type, attach_type: Option<bpf_attach_type>, code: &[bpf_insn]) -> io::Result<String> {
    // Kernels that do not know a helper answer EINVAL; the log would only repeat the helper's number.
    sys::program_load(program_type, attach_type, code)?;
    Ok("a program with it was accepted".to_owned())
}

fn page_size() -> io::Result<u32> {
    // SAFETY: asks for a constant of this machine.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u32::try_from(size).map_err(io::Error::other)
}

/// `MEMBARRIER_CMD_GLOBAL` waits until every running thread has passed a scheduling point. It is not offered on
/// kernels booted with `nohz_full`, and returns at once while one CPU is online, which is right there.
fn membarrier() -> io::Result<String> {
    // SAFETY: the query command takes no pointers and changes nothing.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) };
    if commands < 0 {
        return Err(io::Error::last_os_error());
    }
    if commands & libc::c_long::from(libc::MEMBARRIER_CMD_GLOBAL) == 0 {
        return Err(io::Error::other("the kernel offers no global barrier, as with nohz_full"));
    }
    Ok("the kernel offers a global barrier".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_feature_says_why_since_when_and_what_instead() {
        let finding = Finding { feature: Feature::Tcx, available: false, reason: "Invalid argument".to_owned() };
        assert_eq!(
            finding.to_string(),
            "tcx: no (Invalid argument; Linux 6.6): programs are attached as clsact filters"
        );
    }

    #[test]
    fn every_feature_is_answered_once() {
        let probe = Probe { release: String::new(), findings: Probe::run().findings };
        let asked: Vec<_> = probe.findings().iter().map(|finding| finding.feature).collect();
        assert_eq!(asked, Feature::ALL);
        assert!(probe.findings().iter().all(|finding| !finding.reason.is_empty()));
    }
}
