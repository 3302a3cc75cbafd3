//! Socket programs on the cgroup, by links that are pinned. The rule of order: whatever translates back is attached
//! first and detached last, so that no application ever sees a backend's address. It knows nothing of packets.

use std::os::fd::AsFd as _;

use aya_obj::generated::bpf_attach_type;
use lb_common::abi::{program, socket_lb};

use super::{
    datapath::Datapath,
    error::{Error, Result},
    layout::LinkPin,
    pins, sys,
    sys::Target,
};

/// The hook of a socket program. Panics on a name that is not in [`program::SOCKET`].
pub(super) fn hook(program: &str) -> bpf_attach_type {
    match program {
        "connect4" => bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
        "connect6" => bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
        "sendmsg4" => bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG,
        "sendmsg6" => bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG,
        "recvmsg4" => bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG,
        "recvmsg6" => bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG,
        "getpeername4" => bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
        "getpeername6" => bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
        other => unreachable!("{other} is no socket program"),
    }
}

/// The programs that `mode` ([`socket_lb`] bits) needs, in the order in which they are attached.
pub(super) fn needed(mode: u8) -> Vec<&'static str> {
    let mut programs: Vec<_> = program::SOCKET
        .into_iter()
        .filter(|name| {
            let datagrams_only = name.starts_with("sendmsg") || name.starts_with("recvmsg");
            mode & socket_lb::UDP != 0 || (mode & socket_lb::TCP != 0 && !datagrams_only)
        })
        .collect();
    programs.sort_by_key(|name| name.starts_with("connect") || name.starts_with("sendmsg"));
    programs
}

impl Datapath {
    /// Attaches the socket programs that the options ask for to the cgroup and detaches the others, also those of an
    /// earlier run. A program that is attached already is replaced in its link, between two calls.
    ///
    /// To be called once the tables hold the first full state.
    ///
    /// # Errors
    /// Names program, cgroup and cause; programs before it in order are attached then.
    pub fn attach_sockets(&mut self) -> Result<()> {
        let needed = needed(self.socket_lb());
        for program in &needed {
            self.attach_socket(program)?;
        }
        for program in program::SOCKET.into_iter().filter(|program| !needed.contains(program)) {
            // In the order of the ABI: connect and sendmsg go first.
            if pins::discard(&self.layout().link(LinkPin::Socket(program)))? {
                tracing::info!(program, "detached: --socket-lb does not ask for it");
            }
        }
        Ok(())
    }

    fn attach_socket(&self, program: &'static str) -> Result<()> {
        let cgroup = self.cgroup().ok_or_else(|| {
            Error::setup(format!("program {program} has no cgroup"), "load the datapath with socket load balancing")
        })?;
        let pin = LinkPin::Socket(program);
        let path = self.layout().link(pin);
        let code = self.program_fd(program)?;
        if let Some(link) = pins::open(&path)? {
            match pins::stale(pin, &link.info, Some(cgroup))? {
                None => {
                    return sys::link_update(link.fd.as_fd(), code.as_fd())
                        .map_err(Error::kernel(format!("replace program {program} in link {}", path.display())));
                }
                Some(reason) => {
                    tracing::info!(program, reason, "replacing a stale link");
                    pins::discard(&path)?;
                }
            }
        }
        let what = format!("attach program {program} to cgroup {}", cgroup.path().display());
        // Links to one cgroup live side by side; aya's AllowMultiple flag is EINVAL for them.
        let link = sys::link_create(code.as_fd(), Target::Cgroup(cgroup.as_fd()), hook(program), 0)
            .map_err(Error::kernel(what))?;
        sys::pin(link.as_fd(), &path).map_err(Error::kernel(format!("pin link {}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_translates_back_comes_first() {
        assert_eq!(
            needed(socket_lb::TCP | socket_lb::UDP),
            ["recvmsg4", "recvmsg6", "getpeername4", "getpeername6", "connect4", "connect6", "sendmsg4", "sendmsg6"]
        );
        assert_eq!(needed(socket_lb::UDP).len(), 8);
        assert_eq!(needed(socket_lb::TCP), ["getpeername4", "getpeername6", "connect4", "connect6"]);
        assert!(needed(0).is_empty());
    }

    #[test]
    fn every_socket_program_has_its_own_hook() {
        let mut hooks: Vec<u32> = program::SOCKET.map(|name| hook(name) as u32).to_vec();
        hooks.sort_unstable();
        hooks.dedup();
        assert_eq!(hooks.len(), program::SOCKET.len());
    }
}
