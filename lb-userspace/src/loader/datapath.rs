//! The loaded datapath of one agent: object, globals, tables, lock. Dropping it leaves everything attached and pinned
//! as it is; only [`super::cleanup()`] takes it away.

use std::{
    collections::BTreeSet,
    fmt,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapError},
    programs::{Program, SchedClassifier},
};
use lb_common::abi::{global, map, program, socket_lb};

use super::{
    cookie,
    error::{Error, Result, chain},
    host::{self, Cgroup, interface_indexes},
    layout::{Layout, LinkPin},
    lock::FolderLock,
    logs, pins,
    pins::{Adopted, Attachment},
    probe::{Feature, Probe},
    sockets,
    stats::{MapStats, pinned_maps},
    sys, tables,
    tables::KeptSize,
    tc,
    undo::Undo,
};

/// How tc programs are attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TcHook {
    /// Links (Linux 6.6).
    #[default]
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl fmt::Display for TcHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// What the datapath is to be.
#[derive(Clone, Debug)]
pub struct DatapathOptions {
    /// Folder of this agent on a bpffs, which is mounted if need be.
    pub bpffs: PathBuf,
    /// cgroup v2 folder for the socket programs; `None`: the root of the hierarchy.
    pub cgroup: Option<PathBuf>,
    /// [`socket_lb`] bits; 0 switches the socket path off.
    pub socket_lb: u8,
    /// Bit n: cgroups n levels below `cgroup` may be left to the packet path.
    pub skip_cgroups: u32,
    /// Network namespaces may be left to the packet path.
    pub skip_netns: bool,
    /// Packets may get to pods past the bridge, or past their links.
    pub delivers: bool,
    /// `None`: the best that this kernel has.
    pub tc_hook: Option<TcHook>,
    /// Entries of the tables named in [`lb_common::abi::map`]; others have what the object says.
    pub table_sizes: Vec<(&'static str, u32)>,
    /// Debug log of the programs; `None` removes it from them.
    pub log_level: Option<tracing::Level>,
}

impl DatapathOptions {
    /// Everything on, and sizes as in the object.
    #[must_use]
    pub fn new(bpffs: impl Into<PathBuf>) -> Self {
        Self {
            bpffs: bpffs.into(),
            cgroup: None,
            socket_lb: socket_lb::TCP | socket_lb::UDP,
            skip_cgroups: 0,
            skip_netns: false,
            delivers: true,
            tc_hook: None,
            table_sizes: Vec::new(),
            log_level: None,
        }
    }
}

/// The loaded programs and their tables.
#[derive(Debug)]
pub struct Datapath {
    ebpf: Ebpf,
    layout: Layout,
    lock: FolderLock,
    cgroup: Option<Cgroup>,
    probe: Probe,
    socket_lb: u8,
    tc_hook: TcHook,
    log_level: Option<tracing::Level>,
    kept_sizes: Vec<KeptSize>,
    clsact_devices: BTreeSet<u32>,
    /// The tables as they were pinned when the programs were loaded.
    tables: Vec<MapStats>,
}

impl Datapath {
    /// Prepares the folder, makes or adopts the tables, and loads the programs. Attaches nothing: the tables may still
    /// be empty. `object` is the ELF object, aligned to 8 bytes.
    ///
    /// Must run in the node's network namespace, on the thread that calls it.
    ///
    /// # Errors
    /// Without privileges, with another agent alive on the folder, with pinned tables that do not fit, or if the kernel
    /// refuses a table or program; each with its next step.
    pub fn load(object: &[u8], options: &DatapathOptions) -> Result<Self> {
        host::check_privileges()?;
        // Before anything is made: a folder that is not there is told, and nothing is touched.
        let cgroup = (options.socket_lb != 0).then(|| Cgroup::open(options.cgroup.as_deref())).transpose()?;
        if let Some(point) = host::ensure_bpffs(&options.bpffs)? {
            tracing::info!("mounted a bpffs on {}", point.display());
        }
        let layout = Layout::new(&options.bpffs);
        let lock = FolderLock::take(layout.root())?;

        let probe = Probe::run();
        if !probe.has(Feature::CoarseClock) {
            // Both came with Linux 5.11: memory of maps is charged to the cgroup from there on.
            host::raise_memory_limit()?;
        }
        let host_netns = host_netns(&probe, cgroup.as_ref(), options)?;
        let tc_hook = match options.tc_hook {
            Some(hook) => hook,
            None if probe.has(Feature::Tcx) => TcHook::Tcx,
            None => TcHook::Clsact,
        };

        let undo = Undo::new(&layout)?;
        host::make_dir(&layout.links())?;
        let sizes = tables::settle(object, &layout, &options.table_sizes)?;
        for kept in &sizes.kept {
            tracing::warn!("{kept}");
        }
        let has = |feature| u8::from(probe.has(feature));
        let (set_retval, coarse_clock) = (has(Feature::SetRetval), has(Feature::CoarseClock));
        let skip_cgroups = skip_levels(cgroup.as_ref(), options.skip_cgroups)?;
        let (skip_netns, delivers) = (u8::from(options.skip_netns), u8::from(options.delivers));
        let log_level = logs::level_number(options.log_level);

        let mut loader = EbpfLoader::new();
        loader
            // Raspberry Pi OS has no kernel BTF, so no program may need it.
            .btf(None)
            .override_global(global::HOST_NETNS, &host_netns, true)
            .override_global(global::SOCKET_LB, &options.socket_lb, true)
            .override_global(global::HAS_SET_RETVAL, &set_retval, true)
            .override_global(global::HAS_COARSE_CLOCK, &coarse_clock, true)
            .override_global(global::SKIP_CGROUPS, &skip_cgroups, true)
            .override_global(global::SKIP_NETNS, &skip_netns, true)
            .override_global(global::DELIVERS, &delivers, true)
            .override_global(global::LOG_LEVEL, &log_level, options.log_level.is_some());
        for (name, entries) in &sizes.entries {
            loader.map_max_entries(name, *entries).map_pin_path(name, layout.map(name));
        }
        if options.log_level.is_none() {
            // Nothing writes to it; the least size that the kernel takes is a page.
            loader.map_max_entries(logs::RING, 1);
        }
        let ebpf = loader.load(object).map_err(|error| refused(error, &sizes))?;

        let tables = pinned_maps(&layout)?;
        let mut datapath = Self {
            ebpf,
            layout,
            lock,
            cgroup,
            probe,
            socket_lb: options.socket_lb,
            tc_hook,
            log_level: options.log_level,
            kept_sizes: sizes.kept,
            clsact_devices: BTreeSet::new(),
            tables,
        };
        // Dropped before the lock, which is the datapath's by now.
        let undo = undo;
        for name in program::TC.into_iter().chain(sockets::needed(options.socket_lb)) {
            datapath.load_program(name)?;
        }
        undo.disarm();
        Ok(datapath)
    }

    fn load_program(&mut self, name: &str) -> Result<()> {
        let refused = |cause: String| Error::Program { program: name.to_owned(), cause };
        let loaded = match self.ebpf.program_mut(name) {
            Some(Program::SchedClassifier(program)) => program.load(),
            Some(Program::CgroupSockAddr(program)) => program.load(),
            Some(Program::Xdp(program)) => program.load(),
            Some(_) => return Err(refused("the object holds it as another kind of program".to_owned())),
            None => return Err(refused("the object does not hold it".to_owned())),
        };
        loaded.map_err(|error| refused(chain(&error)))
    }

    /// Loads a program that not every node needs, unless it is loaded.
    pub(super) fn load_once(&mut self, name: &str) -> Result<()> {
        let loaded = self.ebpf.program(name).is_some_and(|program| program.fd().is_ok());
        if loaded { Ok(()) } else { self.load_program(name) }
    }

    /// Takes over what an earlier run left: finds the devices that still carry our programs and removes links whose
    /// device or cgroup is gone or another one by now. Replaces and detaches nothing that works.
    ///
    /// # Errors
    /// When the kernel does not tell, or a stale pin cannot be removed.
    pub fn adopt(&mut self) -> Result<Adopted> {
        let mut adopted = Adopted::default();
        for name in pins::names(&self.layout.links())? {
            let path = self.layout.links().join(&name);
            let Some(pin) = LinkPin::parse(&name) else {
                return Err(Error::setup(
                    format!("{} is none of berrylb's links", path.display()),
                    "remove it, or give the agent a --bpffs folder of its own",
                ));
            };
            let Some(link) = pins::open(&path)? else { continue };
            match pins::stale(pin, &link.info, self.cgroup.as_ref())? {
                None => adopted.kept.push(Attachment { pin, link: Some(link.info.id), program: link.info.program }),
                Some(reason) => {
                    pins::discard(&path)?;
                    adopted.removed.push(format!("link {name}: {reason}"));
                }
            }
        }
        let clsact = self.clsact()?;
        for ifindex in interface_indexes()? {
            let filters = tc::filters(&clsact, ifindex)?;
            if !filters.is_empty() {
                self.clsact_devices.insert(ifindex);
                adopted.kept.extend(filters);
            }
        }
        adopted.kept.sort_unstable();
        Ok(adopted)
    }

    /// Names of the folders of other ABI versions, whose programs may serve still.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn other_versions(&self) -> Result<Vec<String>> {
        super::cleanup::other_versions(&self.layout)
    }

    /// Takes programs, links and tables of other ABI versions in the folder away. To be called when this version
    /// serves: until then the old one does.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn retire_other_versions(&self) -> Result<super::Removed> {
        super::cleanup::retire_other_versions(&self.layout)
    }

    /// Paths of pins.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What this kernel can do.
    #[must_use]
    pub const fn probe(&self) -> &Probe {
        &self.probe
    }

    /// The cgroup of the socket programs; `None` with the socket path off.
    #[must_use]
    pub const fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// [`socket_lb`] bits that the programs were loaded with.
    #[must_use]
    pub const fn socket_lb(&self) -> u8 {
        self.socket_lb
    }

    /// How tc programs are attached.
    #[must_use]
    pub const fn tc_hook(&self) -> TcHook {
        self.tc_hook
    }

    /// Tables that kept the size of an earlier run.
    #[must_use]
    pub fn kept_sizes(&self) -> &[KeptSize] {
        &self.kept_sizes
    }

    /// Whether the tables hold what an earlier run wrote, rather than being new: asked before the first write.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn tables_pinned(layout: &Layout) -> Result<bool> {
        tables::any_pinned(layout.version())
    }

    /// Marks the tables: what they are about to hold is a guess. The mark lasts as long as the tables do, over every end of
    /// the agent, until [`Self::mark_confirmed`].
    ///
    /// # Errors
    /// When the mark cannot be pinned.
    pub fn mark_unconfirmed(&self) -> Result<()> {
        let path = self.layout.unconfirmed();
        if self.is_unconfirmed()? {
            return Ok(());
        }
        let config = self.layout.map(map::CONFIG);
        let what = || format!("pin the mark {}", path.display());
        let Some(table) = sys::get_pinned(&config).map_err(Error::kernel(what()))? else {
            return Err(Error::setup(
                format!("{} is not there to be pinned as {}", config.display(), path.display()),
                "start the agent again",
            ));
        };
        sys::pin(table.as_fd(), &path).map_err(Error::kernel(what()))
    }

    /// Takes the mark away, if there is one: the tables hold what every source says.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn mark_confirmed(&self) -> Result<()> {
        pins::unpin(&self.layout.unconfirmed())
    }

    /// Whether the tables are marked.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn is_unconfirmed(&self) -> Result<bool> {
        let path = self.layout.unconfirmed();
        let what = format!("look for the mark {}", path.display());
        Ok(sys::get_pinned(&path).map_err(Error::kernel(what))?.is_some())
    }

    /// A table for the agent's own use, by its name in [`lb_common::abi::map`]; `None` if it was taken before.
    pub fn take_table(&mut self, name: &str) -> Option<Map> {
        self.ebpf.take_map(name)
    }

    /// A loaded tc program, for test runs.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn classifier(&self, name: &str) -> Result<&SchedClassifier> {
        match self.ebpf.program(name) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            Some(_) | None => {
                Err(Error::Program { program: name.to_owned(), cause: "not a tc program of the object".to_owned() })
            }
        }
    }

    pub(super) const fn lock(&self) -> &FolderLock {
        &self.lock
    }

    pub(super) fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    pub(super) fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub(super) fn tables(&self) -> &[MapStats] {
        &self.tables
    }

    pub(super) const fn log_level(&self) -> Option<tracing::Level> {
        self.log_level
    }

    pub(super) fn program_fd(&self, name: &str) -> Result<OwnedFd> {
        let failed = |cause: String| Error::Program { program: name.to_owned(), cause };
        let fd = match self.ebpf.program(name) {
            Some(program) => program.fd().map_err(|error| failed(chain(&error)))?,
            None => return Err(failed("the object does not hold it".to_owned())),
        };
        fd.as_fd().try_clone_to_owned().map_err(|error| failed(error.to_string()))
    }

    pub(super) fn had_clsact(&self, ifindex: u32) -> bool {
        self.clsact_devices.contains(&ifindex)
    }

    pub(super) fn note_clsact(&mut self, ifindex: u32) {
        self.clsact_devices.insert(ifindex);
    }

    pub(super) fn forget_clsact(&mut self, ifindex: u32) {
        self.clsact_devices.remove(&ifindex);
    }

    pub(super) fn clsact_devices(&self) -> impl Iterator<Item = u32> {
        self.clsact_devices.iter().copied()
    }
}

/// Why the object was refused; of a map, with the size that it was to have.
fn refused(error: EbpfError, sizes: &tables::Sizes) -> Error {
    if let EbpfError::MapError(MapError::CreateError { name, io_error: cause }) = error {
        let entries = sizes.entries.iter().find(|(map, _)| *map == name).map_or(1, |(_, entries)| *entries);
        return Error::Table { map: name, entries, cause };
    }
    Error::Object(chain(&error))
}

fn host_netns(probe: &Probe, cgroup: Option<&Cgroup>, options: &DatapathOptions) -> Result<u64> {
    if probe.has(Feature::NetnsCookie) {
        return cookie::by_socket_option().map_err(Error::kernel("ask for the network namespace's cookie"));
    }
    match cgroup {
        Some(cgroup) => cookie::by_scratch_cgroup(cgroup.path()),
        // Only socket programs look at it, and there are none.
        None => {
            debug_assert_eq!(options.socket_lb, 0);
            Ok(0)
        }
    }
}

/// `depths` below the cgroup, as levels of the hierarchy.
fn skip_levels(cgroup: Option<&Cgroup>, depths: u32) -> Result<u32> {
    let Some(cgroup) = cgroup.filter(|_| depths != 0) else { return Ok(0) };
    let levels = u64::from(depths).checked_shl(cgroup.level()?).and_then(|levels| u32::try_from(levels).ok());
    levels.ok_or_else(|| {
        Error::setup(
            "a pattern of --socket-lb-skip-cgroups is more than 31 levels below the root of the cgroup hierarchy",
            "use patterns of fewer levels: a cgroup is skipped with everything beneath it",
        )
    })
}
