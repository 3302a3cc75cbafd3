//! Timer interrupts at a high rate on every CPU, by perf's clock event: they hold programs up in the midst of a packet,
//! where nothing else can. They end with the value.

use std::{
    io, mem,
    os::fd::{FromRawFd as _, OwnedFd},
    thread,
};

use aya_obj::generated::{
    PERF_FLAG_FD_CLOEXEC, perf_event_attr, perf_event_sample_format::PERF_SAMPLE_CALLCHAIN,
    perf_sw_ids::PERF_COUNT_SW_CPU_CLOCK, perf_type_id::PERF_TYPE_SOFTWARE,
};

/// Interrupts on every CPU.
pub(crate) struct Interrupts {
    _events: Vec<OwnedFd>,
}

impl Interrupts {
    /// This many a second; the kernel may throttle them.
    ///
    /// # Errors
    /// The kernel's, where it has no such events or does not let us.
    pub(crate) fn start(per_second: u64) -> io::Result<Self> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let events = (0..cpus).map(|cpu| open(cpu, per_second)).collect::<io::Result<_>>()?;
        Ok(Self { _events: events })
    }
}

fn open(cpu: usize, per_second: u64) -> io::Result<OwnedFd> {
    // SAFETY: a structure of plain integers, for which all bits zero is what the kernel calls unset.
    let mut attr: perf_event_attr = unsafe { mem::zeroed() };
    attr.type_ = PERF_TYPE_SOFTWARE as u32;
    attr.config = PERF_COUNT_SW_CPU_CLOCK as u64;
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.__bindgen_anon_1.sample_freq = per_second;
    attr.set_freq(1);
    // Walking the stack makes each interrupt last some microseconds. Nobody reads the samples.
    attr.sample_type = PERF_SAMPLE_CALLCHAIN as u64;
    let everything = -1;
    // SAFETY: the attributes outlive the call; the other arguments are plain integers.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            everything,
            cpu as libc::c_int,
            -1,
            libc::c_ulong::from(PERF_FLAG_FD_CLOEXEC),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
