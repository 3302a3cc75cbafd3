//! tc programs as clsact filters, for kernels without tcx (before Linux 6.6). A filter is not a link: nothing pins it
//! but its device, so ours is known by a fixed handle and priority and by its name, which holds the bpffs folder.
//! It never touches a filter of another name.
#![expect(clippy::wildcard_enum_match_arm, reason = "netlink's messages and attributes are an open set")]

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::Path,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
};

use super::{
    error::{Error, Result},
    rtnl::Rtnl,
    tc::Direction,
};

const HANDLE: u32 = 0xbe;
/// `ETH_P_ALL` in network order, as `tcm_info` carries it.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();
/// `CLS_BPF_NAME_LEN` of the kernel, with the NUL.
const NAME_LEN: usize = 256;
const PREFIX: &str = "berrylb";

/// Our filters on devices of this network namespace.
#[derive(Debug)]
pub(super) struct Clsact {
    rtnl: Rtnl,
    owner: String,
}

/// A filter of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Filter {
    pub(super) program: String,
    pub(super) program_id: u32,
    pub(super) direction: Direction,
}

impl Clsact {
    /// For the agent whose `--bpffs` folder is `root`, in the network namespace of this thread.
    pub(super) fn open(root: &Path) -> Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, owner: root.to_string_lossy().into_owned() })
    }

    /// Attaches `program`, or replaces what an earlier run attached, so that no packet misses it.
    pub(super) fn attach(&self, ifindex: u32, direction: Direction, program: &str, fd: BorrowedFd<'_>) -> Result<()> {
        let what = format!("attach {program} as clsact filter to the {direction} of device {ifindex}");
        let name = self.name(program);
        if name.len() >= NAME_LEN {
            return Err(Error::setup(
                format!("{what}: the filter's name {name} is too long"),
                "give --bpffs a shorter path",
            ));
        }
        self.ensure_qdisc(ifindex)?;
        if let Some(stranger) =
            self.in_our_place(ifindex, direction)?.into_iter().find(|found| self.program_of(found).is_none())
        {
            return Err(Error::setup(
                format!(
                    "{what}: its place (priority {}, handle {HANDLE:#x}) is taken by filter {stranger:?}",
                    priority(direction.parent())
                ),
                "remove that one, with `berrylb cleanup --bpffs …` if it is another agent's, or with tc(8)",
            ));
        }
        let mut filter = header(ifindex, direction.parent(), HANDLE.into());
        #[expect(clippy::cast_sign_loss, reason = "an open descriptor is never negative")]
        let fd = fd.as_raw_fd() as u32;
        filter.attributes = vec![
            TcAttribute::Kind("bpf".to_owned()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(fd)),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        self.rtnl
            .request(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(Error::kernel(what))
            .map(drop)
    }

    /// Removes our filters from a device, and the qdisc if nothing else is in it. Returns the programs that were there.
    pub(super) fn detach(&self, ifindex: u32) -> Result<Vec<String>> {
        let ours = self.ours(ifindex)?;
        for filter in &ours {
            self.remove(ifindex, filter.direction)?;
        }
        if !ours.is_empty() {
            self.remove_qdisc_if_empty(ifindex)?;
        }
        Ok(ours.into_iter().map(|filter| filter.program).collect())
    }

    /// Removes our filter from one direction of a device, if there is one.
    pub(super) fn detach_direction(&self, ifindex: u32, direction: Direction) -> Result<()> {
        if self.ours(ifindex)?.iter().any(|filter| filter.direction == direction) {
            self.remove(ifindex, direction)?;
        }
        Ok(())
    }

    /// Our filters on a device; none if the device is gone or never had a clsact qdisc.
    pub(super) fn ours(&self, ifindex: u32) -> Result<Vec<Filter>> {
        let mut ours = Vec::new();
        for direction in Direction::ALL {
            for (name, program_id) in self.dump(ifindex, direction)? {
                if let Some(program) = self.program_of(&name) {
                    ours.push(Filter { program: program.to_owned(), program_id, direction });
                }
            }
        }
        Ok(ours)
    }

    fn name(&self, program: &str) -> String {
        format!("{PREFIX}:{program}:{}", self.owner)
    }

    fn program_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        let (program, owner) = name.strip_prefix(PREFIX)?.strip_prefix(':')?.split_once(':')?;
        (OsStr::new(owner) == OsStr::new(&self.owner)).then_some(program)
    }

    fn in_our_place(&self, ifindex: u32, direction: Direction) -> Result<Vec<String>> {
        Ok(self.dump(ifindex, direction)?.into_iter().map(|(name, _)| name).collect())
    }

    /// Name and program id of the filters in our place.
    fn dump(&self, ifindex: u32, direction: Direction) -> Result<Vec<(String, u32)>> {
        let what = format!("list the clsact filters on the {direction} of device {ifindex}");
        let query = header(ifindex, direction.parent(), TcHandle::UNSPEC);
        let answers = match self.rtnl.request(RouteNetlinkMessage::GetTrafficFilter(query), NLM_F_DUMP) {
            Ok(answers) => answers,
            // No such device, or no clsact qdisc on it: no filters.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => {
                Vec::new()
            }
            Err(error) => return Err(Error::kernel(what)(error)),
        };
        Ok(answers.iter().filter_map(in_place).collect())
    }

    fn remove(&self, ifindex: u32, direction: Direction) -> Result<()> {
        let mut filter = header(ifindex, direction.parent(), HANDLE.into());
        filter.attributes = vec![TcAttribute::Kind("bpf".to_owned())];
        match self.rtnl.request(RouteNetlinkMessage::DelTrafficFilter(filter), NLM_F_ACK) {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(Error::kernel(format!("remove the clsact filter of device {ifindex}"))(error)),
        }
    }

    fn ensure_qdisc(&self, ifindex: u32) -> Result<()> {
        let mut qdisc = TcMessage::default();
        qdisc.header = qdisc_header(ifindex);
        qdisc.attributes = vec![TcAttribute::Kind("clsact".to_owned())];
        match self.rtnl.request(RouteNetlinkMessage::NewQueueDiscipline(qdisc), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            Err(error) => Err(Error::kernel(format!("add a clsact qdisc to device {ifindex}"))(error)),
        }
    }

    /// Nobody tells who made a qdisc; an empty one does nothing, so it goes with our last filter.
    fn remove_qdisc_if_empty(&self, ifindex: u32) -> Result<()> {
        for direction in Direction::ALL {
            let query = header(ifindex, direction.parent(), TcHandle::UNSPEC);
            match self.rtnl.request(RouteNetlinkMessage::GetTrafficFilter(query), NLM_F_DUMP) {
                Ok(answers) if answers.is_empty() => {}
                Ok(_) => return Ok(()),
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return Err(Error::kernel(format!("list the filters of device {ifindex}"))(error)),
            }
        }
        let mut qdisc = TcMessage::default();
        qdisc.header = qdisc_header(ifindex);
        match self.rtnl.request(RouteNetlinkMessage::DelQueueDiscipline(qdisc), NLM_F_ACK) {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(Error::kernel(format!("remove the clsact qdisc of device {ifindex}"))(error)),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL))
}

fn header(ifindex: u32, parent: TcHandle, handle: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    let info = if handle == TcHandle::UNSPEC { 0 } else { priority(parent) << 16 | u32::from(ALL_PROTOCOLS) };
    message.header = TcHeader { index: signed(ifindex), handle, parent, info, ..TcHeader::default() };
    message
}

/// Filters run in order of priority, the least first; the kernel numbers unnamed ones from 49152 downwards. So others
/// see a packet before we translate it on ingress and after we translated it back on egress: as the pod does.
fn priority(parent: TcHandle) -> u32 {
    if parent == Direction::Ingress.parent() { 49_500 } else { 190 }
}

fn qdisc_header(ifindex: u32) -> TcHeader {
    let handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    TcHeader { index: signed(ifindex), handle, parent: TcHandle::CLSACT, ..TcHeader::default() }
}

#[expect(clippy::cast_possible_wrap, reason = "the kernel's indexes are positive ints")]
const fn signed(ifindex: u32) -> i32 {
    ifindex as i32
}

/// Name and program id of a BPF filter with our priority and handle; others are none of our business.
fn in_place(answer: &RouteNetlinkMessage) -> Option<(String, u32)> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = answer else { return None };
    if message.header.info >> 16 != priority(message.header.parent) || u32::from(message.header.handle) != HANDLE {
        return None;
    }
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let (mut name, mut id) = (String::new(), 0);
    for option in options {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(found)) => name.clone_from(found),
            TcOption::Bpf(TcFilterBpfOption::ProgId(found)) => id = *found,
            _ => {}
        }
    }
    Some((name, id))
}
