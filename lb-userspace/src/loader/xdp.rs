//! The XDP program on uplinks, by pinned links. It is beside the tc programs, which serve whatever it does not: a device
//! that refuses it loses nothing. It is told by `net` where to try, and never looks at what a device is.

use std::{io, os::fd::AsFd as _};

use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type};
use lb_common::abi::program::UPLINK_XDP;

use super::{
    datapath::Datapath,
    error::{Error, Result},
    host::interface_indexes,
    layout::LinkPin,
    pins,
    rtnl::{OnDevice, Rtnl},
    sys,
    sys::{LinkInfo, Target},
};
use crate::net::{LinkRole, XdpPlan};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Driver,
    Stack,
}

impl Mode {
    const fn flags(self) -> u32 {
        match self {
            Self::Driver => XDP_FLAGS_DRV_MODE,
            Self::Stack => XDP_FLAGS_SKB_MODE,
        }
    }

    fn on(self, device: OnDevice) -> Option<u32> {
        match self {
            Self::Driver => device.driver,
            Self::Stack => device.stack,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Driver => "the driver",
            Self::Stack => "the stack (generic XDP)",
        }
    }
}

impl Datapath {
    /// Attaches the XDP program as the role has it, or takes it off. What is attached already in the wanted mode, by this
    /// run or an earlier one, is replaced in place, between two frames; in another mode it is taken off first, and tc
    /// serves meanwhile. The program is loaded when a device first wants it.
    ///
    /// # Errors
    /// Names program, device and cause, and leaves none attached that this run did not attach.
    /// [`Error::is_device_gone`] if the device vanished meanwhile.
    pub fn settle_xdp(&mut self, role: &LinkRole) -> Result<()> {
        let pin = LinkPin::Xdp { ifindex: role.ifindex };
        let mode = match &role.xdp {
            XdpPlan::Driver => Mode::Driver,
            XdpPlan::Stack => Mode::Stack,
            XdpPlan::Not(_) => return pins::discard(&self.layout().link(pin)).map(drop),
        };
        let attached = self.attach_xdp(pin, mode, role);
        if attached.is_err() {
            pins::discard(&self.layout().link(pin))?;
        }
        attached
    }

    fn attach_xdp(&mut self, pin: LinkPin, mode: Mode, role: &LinkRole) -> Result<()> {
        let LinkRole { ifindex, name, .. } = role;
        if mode == Mode::Stack && sys::merges_received(name).map_err(Error::kernel(format!("ask {name} for GRO")))? {
            return Err(Error::setup(
                format!(
                    "device {name} merges received packets (GRO) before generic XDP sees them, and their checksums are \
                     partial then"
                ),
                format!("`ethtool -K {name} gro off` and start the agent again, or use --xdp native, auto or off"),
            ));
        }
        self.load_once(UPLINK_XDP)?;
        let path = self.layout().link(pin);
        let code = self.program_fd(UPLINK_XDP)?;
        if let Some(link) = pins::open(&path)? {
            let reason = match pins::stale(pin, &link.info, None)? {
                None if mode.on(Rtnl::open()?.xdp(*ifindex)?) == Some(link.info.program) => {
                    return sys::link_update(link.fd.as_fd(), code.as_fd())
                        .map_err(Error::kernel(format!("replace program {UPLINK_XDP} on device {name}")));
                }
                None => "it is attached in another mode".to_owned(),
                Some(reason) => reason,
            };
            tracing::info!(program = UPLINK_XDP, device = name, reason, "replacing a link");
            pins::discard(&path)?;
        }
        let what = format!("attach program {UPLINK_XDP} to {} of device {name} (index {ifindex})", mode.name());
        let link = sys::link_create(code.as_fd(), Target::Device(*ifindex), bpf_attach_type::BPF_XDP, mode.flags())
            .map_err(|cause| refused(what, *ifindex, cause))?;
        sys::pin(link.as_fd(), &path).map_err(Error::kernel(format!("pin link {}", path.display())))
    }
}

/// The error number is all that the kernel tells; the driver's own words come only with netlink.
fn refused(what: String, ifindex: u32, cause: io::Error) -> Error {
    let next = match cause.raw_os_error() {
        // For an index that nobody has, unlike the other hooks.
        Some(libc::EINVAL) if interface_indexes().is_ok_and(|indexes| !indexes.contains(&ifindex)) => {
            return Error::kernel(what)(io::Error::from_raw_os_error(libc::ENODEV));
        }
        Some(libc::EOPNOTSUPP) => {
            "the device's driver has no XDP, or none for its present settings (queues, MTU, LRO): the kernel's log may \
             say more; use --xdp auto, generic or off"
        }
        Some(libc::EBUSY | libc::EEXIST) => {
            "another XDP program is on the device (`ip link` shows it): remove it, or use --xdp off"
        }
        _ => return Error::kernel(what)(cause),
    };
    Error::setup(format!("{what}: {cause}"), next)
}

/// Why an XDP link is not on this device of this network namespace, or `None` if it is.
pub(super) fn stale(ifindex: u32, found: u32, info: &LinkInfo) -> Result<Option<String>> {
    if found == 0 {
        return Ok(Some("its device is gone".to_owned()));
    }
    if found != ifindex {
        return Ok(Some(format!("it is attached to device {found}")));
    }
    let OnDevice { driver, stack } = Rtnl::open()?.xdp(ifindex)?;
    let here = [driver, stack].contains(&Some(info.program));
    Ok((!here).then(|| format!("device {ifindex} of this network namespace is another one")))
}
