//! The loader against the kernel: what it makes, keeps, replaces and takes away. Needs root and the BPF object.

mod loader_support;

use std::{
    fs,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aya::{
    programs::{
        ProgramFd, ProgramInfo, SchedClassifier, TcAttachType, loaded_programs,
        tc::{NlOptions, TcAttachOptions},
    },
    sys::{Stats, enable_stats},
};
use berrylb::{
    loader::{Attachment, Datapath, DatapathOptions, Error, Feature, FolderLock, LinkPin, MapStats, TcHook, cleanup, object},
    net::{LinkKind, LinkRole},
};
use lb_common::abi::{map, program, socket_lb};
use loader_support::{Ground, OtherNs, index, ip, names, on_ground, pod, run};

fn options(ground: &Ground) -> DatapathOptions {
    let mut options = DatapathOptions::new(&ground.bpffs);
    options.cgroup = Some(ground.cgroup.clone());
    options
}

fn load(options: &DatapathOptions) -> Datapath {
    try_load(options).unwrap_or_else(|error| panic!("{error}"))
}

fn try_load(options: &DatapathOptions) -> Result<Datapath, Error> {
    Datapath::load(object::bytes().expect("`cargo xtask build-ebpf` comes first"), options)
}

fn role(ifindex: u32, kind: LinkKind) -> LinkRole {
    LinkRole { ifindex, name: format!("index {ifindex}"), kind, l2_len: 14, reason: "a test".to_owned() }
}

fn tc(program: &'static str, ifindex: u32) -> LinkPin {
    LinkPin::Tc { program, ifindex }
}

fn pins(attachments: &[Attachment]) -> Vec<LinkPin> {
    attachments.iter().map(|attachment| attachment.pin).collect()
}

fn link_id(datapath: &Datapath, pin: LinkPin) -> Option<u32> {
    let found = datapath.attachments().expect("attachments");
    found.into_iter().find(|attachment| attachment.pin == pin).and_then(|attachment| attachment.link)
}

fn program_id(datapath: &Datapath, pin: LinkPin) -> u32 {
    let found = datapath.attachments().expect("attachments");
    found.into_iter().find(|attachment| attachment.pin == pin).map(|attachment| attachment.program).expect("attached")
}

#[test]
fn loading_pins_every_table_and_attaches_nothing() {
    on_ground(|ground| {
        // Raspberry Pi OS has no kernel BTF: nothing may need it.
        fs::read("/sys/kernel/btf/vmlinux").expect("this kernel has BTF, which is hidden now");
        let none = None::<&str>;
        nix::mount::mount(Some("none"), "/sys/kernel/btf", Some("tmpfs"), nix::mount::MsFlags::empty(), none)
            .expect("hide the BTF");
        let mut datapath = load(&options(ground));
        assert!(!datapath.probe().has(Feature::KernelBtf));

        let mut expected: Vec<String> = map::ALL.map(str::to_owned).to_vec();
        expected.push("links".to_owned());
        expected.sort_unstable();
        assert_eq!(names(datapath.layout().version()), expected);
        assert!(names(&datapath.layout().links()).is_empty());
        assert!(datapath.attachments().expect("attachments").is_empty());
        for name in map::ALL {
            assert!(datapath.take_table(name).is_some(), "{name}");
        }

        let programs = datapath.program_stats().expect("figures");
        let loaded: Vec<&str> = programs.iter().map(|stats| stats.name.as_str()).collect();
        assert_eq!(loaded.len(), program::TC.len() + program::SOCKET.len(), "{loaded:?}");
        for stats in &programs {
            assert!(stats.verified_instructions.is_some_and(|count| count > 0), "{stats:?}");
            assert!(stats.jited_bytes > 0 && stats.locked_bytes > 0, "{stats:?}");
        }
        let maps = datapath.map_stats().expect("figures");
        assert_eq!(maps.iter().map(|stats| stats.name).collect::<Vec<_>>(), map::ALL);
        // A trie holds memory only for what is in it.
        let costs = |stats: &MapStats| stats.locked_bytes > 0 || stats.name == map::SOURCE_RANGES;
        assert!(maps.iter().all(costs), "{maps:?}");
    });
}

#[test]
fn one_agent_for_each_folder() {
    on_ground(|ground| {
        let first = load(&options(ground));
        match try_load(&options(ground)) {
            Err(Error::InUse { folder, pid }) => {
                assert_eq!(folder, ground.bpffs);
                assert_eq!(pid, Some(std::process::id()));
            }
            other => panic!("expected InUse, got {other:?}"),
        }
        assert_eq!(FolderLock::holder(&ground.bpffs), Some(std::process::id()));
        drop(first);
        load(&options(ground));
    });
}

/// Counts runs of programs that may be replaced meanwhile: holds each open, so that its count stays.
struct Runs(Vec<(u32, ProgramFd)>);

impl Runs {
    fn note(&mut self, id: u32) {
        let info = Self::find(id);
        self.0.push((id, info.fd().expect("a descriptor")));
    }

    fn find(id: u32) -> ProgramInfo {
        loaded_programs().flatten().find(|info| info.id() == id).expect("the program is loaded")
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|(id, _)| Self::find(*id).run_count()).sum()
    }
}

/// Packets that came in through a device.
fn received(name: &str) -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/dev").expect("device counters");
    let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}:"))).expect("the device");
    line.split_whitespace().nth(1).and_then(|packets| packets.parse().ok()).expect("a number")
}

fn restart_in_place(hook: TcHook) {
    on_ground(move |ground| {
        let _stats = enable_stats(Stats::RunTime).expect("count program runs");
        let other = OtherNs::new();
        let near = pod(&other, "near", 1);
        let pin = tc(program::POD_INGRESS, near);
        let mut options = options(ground);
        options.tc_hook = Some(hook);

        let mut runs = Runs(Vec::new());
        let mut datapath = load(&options);
        let before = received("near");
        datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        assert_eq!(received("near"), before, "the link is quiet until now");
        runs.note(program_id(&datapath, pin));
        let link = link_id(&datapath, pin);
        assert_eq!(link.is_some(), hook == TcHook::Tcx);

        // One packet to and one fro at a time, so that no queue drops any.
        let echo = UdpSocket::bind("10.77.1.1:7000").expect("bind");
        echo.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sent = other.start(move || {
            let socket = UdpSocket::bind("10.77.1.2:0").expect("bind");
            socket.connect("10.77.1.1:7000").expect("connect");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
            let (mut count, mut buffer) = (0_u64, [0; 8]);
            while !stopped.load(Ordering::Relaxed) {
                socket.send(&count.to_be_bytes()).expect("send");
                socket.recv(&mut buffer).expect("an echo");
                count += 1;
            }
            count
        });
        let echoing = std::thread::spawn(move || {
            let mut buffer = [0; 8];
            while let Ok((length, from)) = echo.recv_from(&mut buffer) {
                echo.send_to(&buffer[..length], from).expect("send");
            }
        });

        for _ in 0..5 {
            // What a crash comes to: the process lets go of everything.
            drop(datapath);
            datapath = load(&options);
            let adopted = datapath.adopt().expect("adopt");
            assert_eq!(adopted.removed, Vec::<String>::new());
            assert_eq!(pins(&adopted.kept), [tc(program::POD_EGRESS, near), pin]);
            let old = program_id(&datapath, pin);
            datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach again");
            assert_eq!(link_id(&datapath, pin), link, "the link stays the same");
            let new = program_id(&datapath, pin);
            assert_ne!(new, old, "its program is replaced");
            runs.note(new);
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sent.recv().expect("a count");
        echoing.join().expect("the echo ends when nothing comes any more");
        assert!(sent > 100, "traffic flowed: {sent}");
        let packets = received("near") - before;
        assert!(packets >= sent);
        assert_eq!(runs.total(), packets, "every packet met a program");
    });
}

#[test]
fn a_restart_replaces_tcx_programs_under_traffic() {
    restart_in_place(TcHook::Tcx);
}

#[test]
fn a_restart_replaces_clsact_programs_under_traffic() {
    restart_in_place(TcHook::Clsact);
}

/// Connects UDP sockets in a child process inside a cgroup; returns when all are done.
fn connects_in(cgroup: &std::path::Path, count: u32) -> std::process::Child {
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec perl -e 'use Socket; my $to = sockaddr_in(9, inet_aton(\"127.0.0.1\")); \
         for (1..{count}) {{ socket(my $s, PF_INET, SOCK_DGRAM, 0) or die; connect($s, $to) or die \"connect: $!\"; }}'",
        cgroup.display()
    );
    std::process::Command::new("sh").args(["-c", &script]).spawn().expect("a child")
}

#[test]
fn a_restart_replaces_socket_programs_under_load() {
    on_ground(|ground| {
        const CONNECTS: u32 = 50_000;
        let _stats = enable_stats(Stats::RunTime).expect("count program runs");
        let pin = LinkPin::Socket("connect4");
        let mut runs = Runs(Vec::new());
        let mut datapath = load(&options(ground));
        datapath.attach_sockets().expect("attach");
        assert_eq!(datapath.attachments().expect("attachments").len(), program::SOCKET.len());
        runs.note(program_id(&datapath, pin));
        let link = link_id(&datapath, pin);

        let mut child = connects_in(&ground.cgroup, CONNECTS);
        let mut replaced_under_load = 0;
        while child.try_wait().expect("the child").is_none() {
            drop(datapath);
            datapath = load(&options(ground));
            assert_eq!(datapath.adopt().expect("adopt").kept.len(), program::SOCKET.len());
            datapath.attach_sockets().expect("attach again");
            assert_eq!(link_id(&datapath, pin), link, "the link stays the same");
            runs.note(program_id(&datapath, pin));
            replaced_under_load += u32::from(child.try_wait().expect("the child").is_none());
        }
        assert!(child.wait().expect("the child").success());
        assert!(replaced_under_load > 0);
        assert_eq!(runs.total(), u64::from(CONNECTS), "every connect met a program");
    });
}

#[test]
fn socket_programs_follow_the_flag() {
    on_ground(|ground| {
        let mut options = options(ground);
        load(&options).attach_sockets().expect("attach");
        options.socket_lb = socket_lb::TCP;
        let mut datapath = load(&options);
        datapath.attach_sockets().expect("attach");
        let expected = ["connect4", "connect6", "getpeername4", "getpeername6"].map(LinkPin::Socket);
        assert_eq!(pins(&datapath.attachments().expect("attachments")), expected);
        drop(datapath);

        options.socket_lb = 0;
        options.cgroup = None;
        let mut datapath = load(&options);
        assert!(datapath.cgroup().is_none());
        datapath.attach_sockets().expect("detach");
        assert!(datapath.attachments().expect("attachments").is_empty());
        assert!(names(&datapath.layout().links()).is_empty());
    });
}

#[test]
fn socket_programs_move_to_another_cgroup() {
    on_ground(|ground| {
        let mut options = options(ground);
        load(&options).attach_sockets().expect("attach");
        let inner = ground.cgroup.join("inner");
        fs::create_dir(&inner).expect("make a cgroup");
        options.cgroup = Some(inner.clone());
        let mut datapath = load(&options);
        let adopted = datapath.adopt().expect("adopt");
        assert_eq!((adopted.kept.len(), adopted.removed.len()), (0, program::SOCKET.len()), "{adopted:?}");
        assert!(adopted.removed.iter().all(|reason| reason.contains("not to")), "{adopted:?}");
        datapath.attach_sockets().expect("attach");
        assert_eq!(datapath.attachments().expect("attachments").len(), program::SOCKET.len());
        drop(datapath);

        // A cgroup that is gone takes its attachments along.
        fs::remove_dir(&inner).expect("remove the cgroup");
        options.cgroup = Some(ground.cgroup.clone());
        let mut datapath = load(&options);
        let adopted = datapath.adopt().expect("adopt");
        assert_eq!((adopted.kept.len(), adopted.removed.len()), (0, program::SOCKET.len()), "{adopted:?}");
        datapath.attach_sockets().expect("attach");
    });
}

#[test]
fn a_role_that_changes_leaves_no_program_of_the_old_one() {
    for hook in [TcHook::Tcx, TcHook::Clsact] {
        on_ground(|ground| {
            ip("link add near type veth peer name far");
            let near = index("near");
            let mut options = options(ground);
            options.tc_hook = Some(hook);
            let mut datapath = load(&options);
            let attached = |datapath: &Datapath| pins(&datapath.attachments().expect("attachments"));

            datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
            assert_eq!(attached(&datapath), [tc(program::POD_EGRESS, near), tc(program::POD_INGRESS, near)]);
            datapath.attach_link(&role(near, LinkKind::Uplink)).expect("attach");
            assert_eq!(attached(&datapath), [tc(program::UPLINK_INGRESS, near)]);
            let mut headerless = role(near, LinkKind::Overlay);
            headerless.l2_len = 0;
            datapath.attach_link(&headerless).expect("attach");
            assert_eq!(attached(&datapath), [tc(program::UPLINK_L3, near)]);
            datapath.detach_link(near).expect("detach");
            assert!(attached(&datapath).is_empty());
            datapath.detach_link(near).expect("detach what is not there");
        });
    }
}

#[test]
fn changing_the_hook_leaves_no_program_on_the_old_one() {
    on_ground(|ground| {
        ip("link add near type veth peer name far");
        let near = index("near");
        for (hook, links) in [(TcHook::Tcx, 2), (TcHook::Clsact, 0), (TcHook::Tcx, 2)] {
            let mut options = options(ground);
            options.tc_hook = Some(hook);
            let mut datapath = load(&options);
            datapath.adopt().expect("adopt");
            datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
            let attached = datapath.attachments().expect("attachments");
            assert_eq!(attached.len(), 2, "{hook}: {attached:?}");
            assert_eq!(attached.iter().filter(|found| found.link.is_some()).count(), links, "{hook}");
            assert_eq!(names(&datapath.layout().links()).len(), links, "{hook}");
            let filters = run("tc", "filter show dev near ingress") + &run("tc", "filter show dev near egress");
            assert_eq!(filters.matches("berrylb:").count(), 2 - links, "{hook}: {filters}");
        }
    });
}

#[test]
fn pins_of_devices_that_are_gone_or_others_by_now_are_removed() {
    on_ground(|ground| {
        ip("link add near type veth peer name far");
        let near = index("near");
        let mut datapath = load(&options(ground));
        datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        ip("link del near");
        // A device of the same index, as after its reuse.
        ip(&format!("link add near index {near} type veth peer name far"));
        assert!(datapath.attachments().expect("attachments").is_empty(), "what is stale is not attached");
        drop(datapath);

        let mut datapath = load(&options(ground));
        let adopted = datapath.adopt().expect("adopt");
        assert!(adopted.kept.is_empty(), "{adopted:?}");
        assert_eq!(adopted.removed.len(), 2);
        assert!(adopted.removed.iter().all(|reason| reason.contains("its device is gone")), "{adopted:?}");
        assert!(names(&datapath.layout().links()).is_empty());

        // Without adopting, attaching finds out by itself.
        datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        ip("link del near");
        ip(&format!("link add near index {near} type veth peer name far"));
        datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach to the new one");
        assert_eq!(datapath.attachments().expect("attachments").len(), 2);
        ip("link del near");
        datapath.detach_link(near).expect("a device that vanished is no error");
        assert!(names(&datapath.layout().links()).is_empty());
        let error = datapath.attach_link(&role(near, LinkKind::Pod)).expect_err("no such device");
        assert!(error.is_device_gone(), "{error}");
    });
}

#[test]
fn the_same_index_in_another_namespace_is_another_device() {
    on_ground(|ground| {
        let options = options(ground);
        ip("link add near index 4711 type veth peer name far");
        load(&options).attach_link(&role(4711, LinkKind::Pod)).expect("attach");
        let elsewhere = OtherNs::new();
        let adopted = elsewhere.run(move || {
            ip("link add near index 4711 type veth peer name far");
            load(&options).adopt().map_err(|error| error.to_string())
        });
        let adopted = adopted.expect("adopt");
        assert_eq!((adopted.kept.len(), adopted.removed.len()), (0, 2), "{adopted:?}");
        assert!(adopted.removed.iter().all(|reason| reason.contains("another one")), "{adopted:?}");
    });
}

#[test]
fn two_datapaths_live_side_by_side_and_end_one_by_one() {
    on_ground(|ground| {
        ip("link add near type veth peer name far");
        let near = index("near");
        let mut first = load(&options(ground));
        let mut second_options = options(ground);
        second_options.bpffs = ground.bpffs.with_file_name("second");
        let mut second = load(&second_options);
        for datapath in [&mut first, &mut second] {
            datapath.attach_sockets().expect("attach");
            datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
            assert_eq!(datapath.attachments().expect("attachments").len(), program::SOCKET.len() + 2);
        }
        let removed = cleanup(&ground.bpffs).expect("clean up under a running agent");
        assert_eq!(removed.links.len(), program::SOCKET.len() + 2);
        assert!(first.attachments().expect("attachments").is_empty());
        assert_eq!(second.attachments().expect("attachments").len(), program::SOCKET.len() + 2);
        assert_eq!(
            SchedClassifier::query_tcx("near", TcAttachType::Ingress)
                .expect("query")
                .1
                .len(),
            1,
            "of two programs one is left"
        );
    });
}

#[test]
fn cleanup_leaves_nothing_and_may_be_repeated() {
    for hook in [TcHook::Tcx, TcHook::Clsact] {
        on_ground(|ground| {
            ip("link add near type veth peer name far");
            let near = index("near");
            let mut options = options(ground);
            options.tc_hook = Some(hook);
            let mut datapath = load(&options);
            datapath.attach_sockets().expect("attach");
            datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
            let ids: Vec<u32> =
                datapath.program_stats().expect("figures").iter().map(|program| program.id).collect();
            let maps: Vec<u32> = datapath.map_stats().expect("figures").iter().map(|map| map.id).collect();
            drop(datapath);

            let removed = cleanup(&ground.bpffs).expect("clean up");
            assert_eq!(removed.links.len() + removed.filters.len(), program::SOCKET.len() + 2, "{removed}");
            assert_eq!(removed.maps.len(), map::ALL.len(), "{removed}");
            assert!(removed.left.is_empty() && !ground.bpffs.exists(), "{removed}");
            let shown = run("tc", "qdisc show dev near");
            assert!(!shown.contains("clsact"), "{shown}");
            assert!(cleanup(&ground.bpffs).expect("clean up again").is_empty());
            // Programs and maps are freed after an RCU grace period.
            let gone = || {
                !loaded_programs().flatten().any(|info| ids.contains(&info.id()))
                    && !aya::maps::loaded_maps().flatten().any(|info| maps.contains(&info.id()))
            };
            let tries = (0..100).find(|_| {
                std::thread::sleep(Duration::from_millis(20));
                gone()
            });
            assert!(tries.is_some(), "programs and maps are gone from the kernel");
        });
    }
}

#[test]
fn cleanup_leaves_strangers_alone() {
    on_ground(|ground| {
        ip("link add near type veth peer name far");
        let near = index("near");
        let mut options = options(ground);
        options.tc_hook = Some(TcHook::Clsact);
        let mut datapath = load(&options);
        datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        let mut stranger = aya::EbpfLoader::new().btf(None).load(object::bytes().expect("an object")).expect("load");
        let filter: &mut SchedClassifier =
            stranger.program_mut(program::UPLINK_INGRESS).expect("there").try_into().expect("a tc program");
        filter.load().expect("load");
        let place = NlOptions { priority: 7, ..NlOptions::default() };
        filter
            .attach_with_options("near", TcAttachType::Ingress, TcAttachOptions::Netlink(place))
            .expect("attach a stranger");
        let folder = ground.bpffs.join("other");
        fs::create_dir(&folder).expect("make a folder");

        let removed = cleanup(&ground.bpffs).expect("clean up");
        assert_eq!(removed.left, [folder.display().to_string()]);
        assert!(folder.exists());
        let shown = run("tc", "filter show dev near ingress");
        assert!(shown.contains("pref 7") && !shown.contains("berrylb:"), "{shown}");
    });
}

#[test]
fn a_filter_of_another_agent_is_not_overwritten() {
    on_ground(|ground| {
        ip("link add near type veth peer name far");
        let near = index("near");
        let mut first_options = options(ground);
        first_options.tc_hook = Some(TcHook::Clsact);
        let mut second_options = first_options.clone();
        second_options.bpffs = ground.bpffs.with_file_name("second");
        let mut first = load(&first_options);
        first.attach_link(&role(near, LinkKind::Uplink)).expect("attach");
        let error = load(&second_options).attach_link(&role(near, LinkKind::Uplink)).expect_err("taken").to_string();
        assert!(error.contains(&ground.bpffs.display().to_string()), "{error}");
        assert!(error.contains("berrylb cleanup"), "{error}");
        assert_eq!(first.attachments().expect("attachments").len(), 1);
    });
}

#[test]
fn among_tcx_programs_of_others_ours_are_nearest_to_the_stack_on_both_ways() {
    on_ground(|ground| {
        ip("link add near type veth peer name far");
        let near = index("near");
        let mut strangers = options(ground);
        strangers.bpffs = ground.bpffs.with_file_name("strangers");
        let mut other = load(&strangers);
        let mut ours = load(&options(ground));
        other.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        ours.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        let order = |side| {
            let (_, programs) = SchedClassifier::query_tcx("near", side).expect("query");
            programs.iter().map(ProgramInfo::id).collect::<Vec<_>>()
        };
        let id = |datapath: &Datapath, program| program_id(datapath, tc(program, near));
        assert_eq!(
            order(TcAttachType::Ingress),
            [id(&other, program::POD_INGRESS), id(&ours, program::POD_INGRESS)]
        );
        assert_eq!(
            order(TcAttachType::Egress),
            [id(&ours, program::POD_EGRESS), id(&other, program::POD_EGRESS)]
        );
    });
}

#[test]
fn tables_keep_their_size_and_contents() {
    on_ground(|ground| {
        let mut options = options(ground);
        options.table_sizes = vec![(map::FLOWS, 2048)];
        let datapath = load(&options);
        let flows = |datapath: &Datapath| {
            let stats = datapath.map_stats().expect("figures");
            stats.into_iter().find(|stats| stats.name == map::FLOWS).map(|stats| (stats.id, stats.max_entries))
        };
        let (id, entries) = flows(&datapath).expect("flows");
        assert_eq!(entries, 2048);
        assert!(datapath.kept_sizes().is_empty());
        drop(datapath);

        options.table_sizes = vec![(map::FLOWS, 4096)];
        let datapath = load(&options);
        assert_eq!(flows(&datapath), Some((id, 2048)), "the same table");
        let kept = datapath.kept_sizes();
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].map, kept[0].pinned, kept[0].wanted), (map::FLOWS, 2048, 4096));
        drop(datapath);

        options.table_sizes = vec![("no_such_map", 1)];
        let error = try_load(&options).expect_err("no such map").to_string();
        assert!(error.contains("no_such_map"), "{error}");
    });
}

#[test]
fn a_pinned_table_of_another_shape_is_refused() {
    on_ground(|ground| {
        let datapath = load(&options(ground));
        let (flows, devs, counters) =
            (datapath.layout().map(map::FLOWS), datapath.layout().map(map::DEVS), datapath.layout().map(map::COUNTERS));
        drop(datapath);
        fs::remove_file(&flows).expect("unpin");
        let stranger = aya::maps::Array::<_, u32>::create(7, 0).expect("a map");
        stranger.pin(&flows).expect("pin");
        match try_load(&options(ground)) {
            Err(error @ Error::MapMismatch { .. }) => {
                let text = error.to_string();
                assert!(text.contains(&flows.display().to_string()) && text.contains("key 4 bytes"), "{text}");
                assert!(text.contains("berrylb cleanup --bpffs"), "{text}");
            }
            other => panic!("expected MapMismatch, got {other:?}"),
        }
        fs::remove_file(&flows).expect("unpin");

        // One table that is missing is made anew beside the others.
        fs::remove_file(&devs).expect("unpin");
        drop(load(&options(ground)));
        assert!(devs.exists() && flows.exists());

        // Counters of another length are no reason to refuse.
        fs::remove_file(&counters).expect("unpin");
        aya::maps::PerCpuArray::<_, u64>::create(3, 0).expect("a map").pin(&counters).expect("pin");
        let stats = load(&options(ground)).map_stats().expect("figures");
        assert!(stats.iter().any(|stats| stats.name == map::COUNTERS && stats.max_entries > 3), "{stats:?}");
    });
}

#[test]
fn folders_of_other_versions_are_retired_and_others_left() {
    on_ground(|ground| {
        let mut old = load(&options(ground));
        old.attach_sockets().expect("attach");
        let folder = old.layout().version().to_owned();
        drop(old);
        let retired = ground.bpffs.join("v0");
        fs::rename(&folder, &retired).expect("make it look old");
        let mut datapath = load(&options(ground));
        datapath.attach_sockets().expect("attach");
        let removed = datapath.retire_other_versions().expect("retire");
        assert_eq!(removed.links.len(), program::SOCKET.len(), "{removed}");
        assert_eq!(removed.maps.len(), map::ALL.len(), "{removed}");
        assert!(!retired.exists() && folder.exists());
        assert_eq!(datapath.attachments().expect("attachments").len(), program::SOCKET.len());
        assert!(datapath.retire_other_versions().expect("again").is_empty());
    });
}

#[test]
fn logs_flow_only_when_asked_for() {
    on_ground(|ground| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut quiet = load(&options(ground));
        runtime.block_on(async {
            assert!(quiet.forward_logs().expect("no error").is_none());
        });
        let plain = quiet.program_stats().expect("figures");
        drop(quiet);
        let mut loud_options = options(ground);
        loud_options.log_level = Some(tracing::Level::TRACE);
        let mut loud = load(&loud_options);
        runtime.block_on(async {
            assert!(loud.forward_logs().expect("a ring buffer").is_some());
        });
        let with_logs = loud.program_stats().expect("figures");
        let size = |stats: &[berrylb::loader::ProgramStats]| stats.iter().map(|one| one.jited_bytes).sum::<u32>();
        assert!(size(&with_logs) > size(&plain), "log code is out of the programs when it is off");
    });
}
