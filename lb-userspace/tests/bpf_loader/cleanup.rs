//! Taking away: all that is ours, and nothing else.

use std::{fs, thread, time::Duration};

use aya::programs::{
    SchedClassifier, TcAttachType, loaded_programs,
    tc::{NlOptions, TcAttachOptions},
};
use berrylb::{
    loader::{TcHook, cleanup, object},
    net::LinkKind,
};
use lb_common::abi::{map, program};

use crate::support::{attached, index, ip, load, names, on_ground, role, run};

#[test]
fn two_datapaths_live_side_by_side_and_end_one_by_one() {
    on_ground(|ground| {
        ip("link add near type veth peer name far");
        let near = index("near");
        let mut first = load(&ground.options());
        let mut second_options = ground.options();
        second_options.bpffs = ground.bpffs.with_file_name("second");
        let mut second = load(&second_options);
        for datapath in [&mut first, &mut second] {
            datapath.attach_sockets().expect("attach");
            datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
            assert_eq!(attached(datapath).len(), program::SOCKET.len() + 2);
        }
        let removed = cleanup(&ground.bpffs).expect("clean up under a running agent");
        assert_eq!(removed.links.len(), program::SOCKET.len() + 2);
        assert!(attached(&first).is_empty());
        assert_eq!(attached(&second).len(), program::SOCKET.len() + 2);
        assert_eq!(
            SchedClassifier::query_tcx("near", TcAttachType::Ingress).expect("query").1.len(),
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
            let mut options = ground.options();
            options.tc_hook = Some(hook);
            let mut datapath = load(&options);
            datapath.attach_sockets().expect("attach");
            datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
            let ids: Vec<u32> = datapath.program_stats().expect("figures").iter().map(|program| program.id).collect();
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
                thread::sleep(Duration::from_millis(20));
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
        let mut options = ground.options();
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

/// Where `--bpffs` is a bpffs of its own, the kernel has put files into it.
#[test]
fn a_bpffs_of_its_own_is_left_as_the_kernel_made_it() {
    on_ground(|ground| {
        let root = ground.bpffs.parent().expect("the mount point");
        let before = names(root);
        let mut options = ground.options();
        options.bpffs = root.to_owned();
        drop(load(&options));
        assert_ne!(names(root), before);
        let removed = cleanup(root).expect("clean up");
        assert!(removed.left.is_empty() && removed.maps.len() == map::ALL.len(), "{removed}");
        assert_eq!(names(root), before);
        assert!(cleanup(root).expect("clean up again").is_empty());
    });
}

#[test]
fn folders_of_other_versions_are_retired_and_others_left() {
    on_ground(|ground| {
        let mut old = load(&ground.options());
        old.attach_sockets().expect("attach");
        let folder = old.layout().version().to_owned();
        drop(old);
        let retired = ground.bpffs.join("v0");
        fs::rename(&folder, &retired).expect("make it look old");
        let mut datapath = load(&ground.options());
        datapath.attach_sockets().expect("attach");
        let removed = datapath.retire_other_versions().expect("retire");
        assert_eq!(removed.links.len(), program::SOCKET.len(), "{removed}");
        assert_eq!(removed.maps.len(), map::ALL.len(), "{removed}");
        assert!(!retired.exists() && folder.exists());
        assert_eq!(attached(&datapath).len(), program::SOCKET.len());
        assert!(datapath.retire_other_versions().expect("again").is_empty());
    });
}
