//! tc programs on devices: by pinned tcx links from Linux 6.6, by clsact filters below. It is told what each device is
//! and never looks at one.
//!
//! Among programs of others: on ingress ours run last, on egress first, so that others see packets as the pod does,
//! and policy on ingress acts before a redirect takes the packet away.

use std::{fmt, os::fd::AsFd as _};

use aya_obj::generated::{BPF_F_BEFORE, bpf_attach_type};
use lb_common::abi::program;
use netlink_packet_route::tc::TcHandle;

use super::{
    clsact::Clsact,
    datapath::{Datapath, TcHook},
    error::{Error, Result},
    layout::LinkPin,
    pins::{self, Attachment},
    sys,
    sys::Target,
};
use crate::net::{LinkKind, LinkRole};

/// Side of a device, as the host sees it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Direction {
    /// Packets that come in through the device.
    Ingress,
    /// Packets that leave through it.
    Egress,
}

impl Direction {
    pub(super) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The side that a program is made for.
    pub(super) fn of(program: &str) -> Self {
        match program {
            program::POD_EGRESS | program::UPLINK_EGRESS | program::UPLINK_L3_OUT => Self::Egress,
            _ => Self::Ingress,
        }
    }

    pub(super) const fn hook(self) -> bpf_attach_type {
        match self {
            Self::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
            Self::Egress => bpf_attach_type::BPF_TCX_EGRESS,
        }
    }

    /// Parent of clsact filters.
    pub(super) const fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: TcHandle::CLSACT.major, minor }
    }

    const fn order(self) -> u32 {
        match self {
            // Without a neighbour to stand before, the kernel appends.
            Self::Ingress => 0,
            // Before no one in particular means before all.
            Self::Egress => BPF_F_BEFORE,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Programs of a device, in the order in which they are attached: what translates back comes first.
pub(super) fn programs(role: &LinkRole) -> &'static [&'static str] {
    match role.kind {
        LinkKind::Pod if role.answers => &[program::POD_EGRESS, program::POD_INGRESS],
        LinkKind::Pod => &[program::POD_INGRESS],
        LinkKind::Bridge => &[program::POD_EGRESS],
        LinkKind::Uplink | LinkKind::Overlay if role.l2_len == 0 => &[program::UPLINK_L3_OUT, program::UPLINK_L3],
        LinkKind::Uplink | LinkKind::Overlay => &[program::UPLINK_EGRESS, program::UPLINK_INGRESS],
    }
}

impl Datapath {
    /// Attaches to a device the programs of its role and takes away those of another role. What is attached already,
    /// by this run or an earlier one, is replaced in place, between two packets.
    ///
    /// # Errors
    /// Names program, device and cause. [`Error::is_device_gone`] if the device vanished meanwhile.
    pub fn attach_link(&mut self, role: &LinkRole) -> Result<()> {
        let programs = programs(role);
        match self.tc_hook() {
            TcHook::Tcx => {
                for program in programs {
                    self.attach_tcx(program, role)?;
                }
                if self.had_clsact(role.ifindex) {
                    self.clsact()?.detach(role.ifindex)?;
                    self.forget_clsact(role.ifindex);
                }
            }
            TcHook::Clsact => {
                let clsact = self.clsact()?;
                for program in programs {
                    let code = self.program_fd(program)?;
                    clsact.attach(role.ifindex, Direction::of(program), program, code.as_fd())?;
                }
                for direction in Direction::ALL {
                    if !programs.iter().any(|program| Direction::of(program) == direction) {
                        clsact.detach_direction(role.ifindex, direction)?;
                    }
                }
                self.note_clsact(role.ifindex);
            }
        }
        for other in program::TC {
            if self.tc_hook() == TcHook::Clsact || !programs.contains(&other) {
                pins::discard(&self.layout().link(LinkPin::Tc { program: other, ifindex: role.ifindex }))?;
            }
        }
        Ok(())
    }

    /// Takes our programs off a device. That they, or the device, are gone already is no error.
    ///
    /// # Errors
    /// Names the link and what the kernel answered.
    pub fn detach_link(&mut self, ifindex: u32) -> Result<()> {
        pins::discard(&self.layout().link(LinkPin::Xdp { ifindex }))?;
        // What redirects sits on ingress and goes first: whatever translates back stays until nothing is translated any more.
        let (ingress, egress): (Vec<_>, Vec<_>) =
            program::TC.into_iter().partition(|program| Direction::of(program) == Direction::Ingress);
        for program in ingress.into_iter().chain(egress) {
            pins::discard(&self.layout().link(LinkPin::Tc { program, ifindex }))?;
        }
        if self.had_clsact(ifindex) {
            self.clsact()?.detach(ifindex)?;
            self.forget_clsact(ifindex);
        }
        Ok(())
    }

    fn attach_tcx(&self, program: &'static str, role: &LinkRole) -> Result<()> {
        let LinkRole { ifindex, name, .. } = role;
        let direction = Direction::of(program);
        let pin = LinkPin::Tc { program, ifindex: *ifindex };
        let path = self.layout().link(pin);
        let code = self.program_fd(program)?;
        if let Some(link) = pins::open(&path)? {
            match pins::stale(pin, &link.info, None)? {
                None => {
                    return sys::link_update(link.fd.as_fd(), code.as_fd())
                        .map_err(Error::kernel(format!("replace program {program} on device {name}")));
                }
                Some(reason) => {
                    tracing::info!(program, device = name, reason, "replacing a stale link");
                    pins::discard(&path)?;
                }
            }
        }
        let what = format!("attach program {program} to the {direction} of device {name} (index {ifindex})");
        let link = sys::link_create(code.as_fd(), Target::Device(*ifindex), direction.hook(), direction.order())
            .map_err(Error::kernel(what))?;
        sys::pin(link.as_fd(), &path).map_err(Error::kernel(format!("pin link {}", path.display())))
    }

    /// Where our programs run now, by what is pinned and what the devices hold.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn attachments(&self) -> Result<Vec<Attachment>> {
        let mut found = Vec::new();
        for pin in pins::list(self.layout())? {
            let Some(link) = pins::open(&self.layout().link(pin))? else { continue };
            if pins::stale(pin, &link.info, self.cgroup())?.is_none() {
                found.push(Attachment { pin, link: Some(link.info.id), program: link.info.program });
            }
        }
        let clsact = self.clsact()?;
        for ifindex in self.clsact_devices() {
            found.extend(filters(&clsact, ifindex)?);
        }
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn clsact(&self) -> Result<Clsact> {
        Clsact::open(self.layout().root())
    }
}

/// Our filters on a device as attachments.
pub(super) fn filters(clsact: &Clsact, ifindex: u32) -> Result<Vec<Attachment>> {
    let filters = clsact.ours(ifindex)?;
    Ok(filters
        .into_iter()
        .filter_map(|filter| {
            let program = program::TC.into_iter().find(|known| *known == filter.program)?;
            Some(Attachment { pin: LinkPin::Tc { program, ifindex }, link: None, program: filter.program_id })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::XdpPlan;

    #[test]
    fn a_role_chooses_programs_by_kind_and_header() {
        let with = |kind, l2_len, answers| LinkRole {
            ifindex: 2,
            name: "x".into(),
            kind,
            l2_len,
            reason: String::new(),
            xdp: XdpPlan::Driver,
            answers,
        };
        let role = |kind, l2_len| with(kind, l2_len, false);
        assert_eq!(programs(&with(LinkKind::Pod, 14, true)), [program::POD_EGRESS, program::POD_INGRESS]);
        assert_eq!(programs(&role(LinkKind::Pod, 14)), [program::POD_INGRESS]);
        assert_eq!(programs(&role(LinkKind::Bridge, 14)), [program::POD_EGRESS]);
        for kind in [LinkKind::Uplink, LinkKind::Overlay] {
            assert_eq!(programs(&role(kind, 14)), [program::UPLINK_EGRESS, program::UPLINK_INGRESS]);
            assert_eq!(programs(&role(kind, 0)), [program::UPLINK_L3_OUT, program::UPLINK_L3]);
        }
    }
}
