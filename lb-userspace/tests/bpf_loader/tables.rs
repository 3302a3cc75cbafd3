//! Loading: what is made, what is reused, what is refused.

use std::fs;

use berrylb::loader::{Datapath, Error, Feature, FolderLock, MapStats, ProgramStats, cookie};
use lb_common::abi::{map, program};
use nix::mount::{MsFlags, mount};

use crate::support::{OtherNs, attached, load, names, on_ground, try_load};

#[test]
fn loading_pins_every_table_and_attaches_nothing() {
    on_ground(|ground| {
        // Raspberry Pi OS has no kernel BTF: nothing may need it.
        fs::read("/sys/kernel/btf/vmlinux").expect("this kernel has BTF, which is hidden now");
        let none = None::<&str>;
        mount(Some("none"), "/sys/kernel/btf", Some("tmpfs"), MsFlags::empty(), none).expect("hide the BTF");
        let mut datapath = load(&ground.options());
        assert!(!datapath.probe().has(Feature::KernelBtf));

        let mut expected: Vec<String> = map::ALL.map(str::to_owned).to_vec();
        expected.push("links".to_owned());
        expected.sort_unstable();
        assert_eq!(names(datapath.layout().version()), expected);
        assert!(names(&datapath.layout().links()).is_empty());
        assert!(attached(&datapath).is_empty());
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
        let is_trie = |name| [map::SOURCE_RANGES, map::POD_NETS].contains(&name);
        let costs = |stats: &MapStats| stats.locked_bytes > 0 || is_trie(stats.name);
        assert!(maps.iter().all(costs), "{maps:?}");
    });
}

#[test]
fn one_agent_for_each_folder() {
    on_ground(|ground| {
        let first = load(&ground.options());
        match try_load(&ground.options()) {
            Err(Error::InUse { folder, pid }) => {
                assert_eq!(folder, ground.bpffs);
                assert_eq!(pid, Some(std::process::id()));
            }
            other => panic!("expected InUse, got {other:?}"),
        }
        assert_eq!(FolderLock::holder(&ground.bpffs), Some(std::process::id()));
        drop(first);
        load(&ground.options());
    });
}

#[test]
fn tables_keep_their_size_and_contents() {
    on_ground(|ground| {
        let mut options = ground.options();
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
fn a_start_that_fails_leaves_the_folder_as_it_was() {
    on_ground(|ground| {
        // More than the kernel makes, of a table that is not the first.
        let mut too_large = ground.options();
        too_large.table_sizes = vec![(map::BACKENDS, 2048), (map::FLOWS, u32::MAX)];
        let error = try_load(&too_large).expect_err("such a table").to_string();
        assert!(error.contains(map::FLOWS), "{error}");
        assert!(names(&ground.bpffs).is_empty(), "{:?}", names(&ground.bpffs));

        // So the next one is the first, with the sizes that it asks for.
        let mut options = ground.options();
        options.table_sizes = vec![(map::BACKENDS, 512)];
        let datapath = load(&options);
        assert!(datapath.kept_sizes().is_empty());
        let (before, flows) = (names(datapath.layout().version()), datapath.layout().map(map::FLOWS));
        drop(datapath);

        // What an earlier run left stays, whatever it lacks.
        fs::remove_file(&flows).expect("unpin");
        too_large.table_sizes.remove(0);
        try_load(&too_large).expect_err("such a table");
        let left = names(flows.parent().expect("a folder"));
        assert_eq!(left, before.into_iter().filter(|name| name != map::FLOWS).collect::<Vec<_>>());
    });
}

#[test]
fn a_pinned_table_of_another_shape_is_refused() {
    on_ground(|ground| {
        let datapath = load(&ground.options());
        let (flows, devs, counters) =
            (datapath.layout().map(map::FLOWS), datapath.layout().map(map::DEVS), datapath.layout().map(map::COUNTERS));
        drop(datapath);
        fs::remove_file(&flows).expect("unpin");
        let stranger = aya::maps::Array::<_, u32>::create(7, 0).expect("a map");
        stranger.pin(&flows).expect("pin");
        match try_load(&ground.options()) {
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
        drop(load(&ground.options()));
        assert!(devs.exists() && flows.exists());

        // Counters of another length are no reason to refuse.
        fs::remove_file(&counters).expect("unpin");
        aya::maps::PerCpuArray::<_, u64>::create(3, 0).expect("a map").pin(&counters).expect("pin");
        let mut options = ground.options();
        options.table_sizes = vec![(map::COUNTERS, 50)];
        let datapath = load(&options);
        assert!(datapath.kept_sizes().is_empty());
        let stats = datapath.map_stats().expect("figures");
        assert!(stats.iter().any(|stats| stats.name == map::COUNTERS && stats.max_entries == 50), "{stats:?}");
    });
}

#[test]
fn logs_flow_only_when_asked_for() {
    on_ground(|ground| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut quiet = load(&ground.options());
        runtime.block_on(async {
            assert!(quiet.forward_logs().expect("no error").is_none());
        });
        let plain = quiet.program_stats().expect("figures");
        drop(quiet);
        let mut loud_options = ground.options();
        loud_options.log_level = Some(tracing::Level::TRACE);
        let mut loud = load(&loud_options);
        runtime.block_on(async {
            assert!(loud.forward_logs().expect("a ring buffer").is_some());
        });
        let with_logs = loud.program_stats().expect("figures");
        let size = |stats: &[ProgramStats]| stats.iter().map(|one| one.jited_bytes).sum::<u32>();
        assert!(size(&with_logs) > size(&plain), "log code is out of the programs when it is off");
    });
}

#[test]
fn the_namespaces_cookie_is_the_same_by_both_ways() {
    on_ground(|ground| {
        let here = cookie::by_socket_option().expect("Linux 5.14");
        assert_eq!(cookie::by_scratch_cgroup(&ground.cgroup).expect("learn it"), here);
        assert_eq!(names(&ground.cgroup).into_iter().find(|name| name.contains("cookie")), None);
        let elsewhere = OtherNs::new().run(|| cookie::by_socket_option().expect("Linux 5.14"));
        assert_ne!(elsewhere, here);
    });
}
