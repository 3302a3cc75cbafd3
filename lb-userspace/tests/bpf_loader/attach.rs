//! Attaching: roles, hooks, cgroups, devices that come and go, and the neighbourhood of others.

use std::fs;

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use berrylb::{
    loader::{Datapath, LinkPin, TcHook},
    net::LinkKind,
};
use lb_common::abi::{program, socket_lb};

use crate::support::{OtherNs, attached, index, ip, load, names, on_ground, pins, program_id, role, run, tc};

#[test]
fn socket_programs_follow_the_flag() {
    on_ground(|ground| {
        let mut options = ground.options();
        load(&options).attach_sockets().expect("attach");
        options.socket_lb = socket_lb::TCP;
        let mut datapath = load(&options);
        datapath.attach_sockets().expect("attach");
        let expected = ["connect4", "connect6", "getpeername4", "getpeername6"].map(LinkPin::Socket);
        assert_eq!(pins(&attached(&datapath)), expected);
        drop(datapath);

        options.socket_lb = 0;
        options.cgroup = None;
        let mut datapath = load(&options);
        assert!(datapath.cgroup().is_none());
        datapath.attach_sockets().expect("detach");
        assert!(attached(&datapath).is_empty());
        assert!(names(&datapath.layout().links()).is_empty());
    });
}

#[test]
fn socket_programs_move_to_another_cgroup() {
    on_ground(|ground| {
        let mut options = ground.options();
        load(&options).attach_sockets().expect("attach");
        let inner = ground.cgroup.join("inner");
        fs::create_dir(&inner).expect("make a cgroup");
        options.cgroup = Some(inner.clone());
        let mut datapath = load(&options);
        let adopted = datapath.adopt().expect("adopt");
        assert_eq!((adopted.kept.len(), adopted.removed.len()), (0, program::SOCKET.len()), "{adopted:?}");
        assert!(adopted.removed.iter().all(|reason| reason.contains("not to")), "{adopted:?}");
        datapath.attach_sockets().expect("attach");
        assert_eq!(attached(&datapath).len(), program::SOCKET.len());
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
            let mut options = ground.options();
            options.tc_hook = Some(hook);
            let mut datapath = load(&options);
            let attached = |datapath: &Datapath| pins(&attached(datapath));

            datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
            assert_eq!(attached(&datapath), [tc(program::POD_EGRESS, near), tc(program::POD_INGRESS, near)]);
            datapath.attach_link(&role(near, LinkKind::Uplink)).expect("attach");
            assert_eq!(attached(&datapath), [tc(program::UPLINK_EGRESS, near), tc(program::UPLINK_INGRESS, near)]);
            let mut headerless = role(near, LinkKind::Overlay);
            headerless.l2_len = 0;
            datapath.attach_link(&headerless).expect("attach");
            assert_eq!(attached(&datapath), [tc(program::UPLINK_L3, near), tc(program::UPLINK_L3_OUT, near)]);
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
            let mut options = ground.options();
            options.tc_hook = Some(hook);
            let mut datapath = load(&options);
            datapath.adopt().expect("adopt");
            datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
            let found = attached(&datapath);
            assert_eq!(found.len(), 2, "{hook}: {found:?}");
            assert_eq!(found.iter().filter(|found| found.link.is_some()).count(), links, "{hook}");
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
        let mut datapath = load(&ground.options());
        datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        ip("link del near");
        // A device of the same index, as after its reuse.
        ip(&format!("link add near index {near} type veth peer name far"));
        assert!(attached(&datapath).is_empty(), "what is stale is not attached");
        drop(datapath);

        let mut datapath = load(&ground.options());
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
        assert_eq!(attached(&datapath).len(), 2);
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
        let options = ground.options();
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
fn a_filter_of_another_agent_is_not_overwritten() {
    on_ground(|ground| {
        ip("link add near type veth peer name far");
        let near = index("near");
        let mut first_options = ground.options();
        first_options.tc_hook = Some(TcHook::Clsact);
        let mut second_options = first_options.clone();
        second_options.bpffs = ground.bpffs.with_file_name("second");
        let mut first = load(&first_options);
        first.attach_link(&role(near, LinkKind::Uplink)).expect("attach");
        let error = load(&second_options).attach_link(&role(near, LinkKind::Uplink)).expect_err("taken").to_string();
        assert!(error.contains(&ground.bpffs.display().to_string()), "{error}");
        assert!(error.contains("berrylb cleanup"), "{error}");
        assert_eq!(pins(&attached(&first)), [tc(program::UPLINK_EGRESS, near), tc(program::UPLINK_INGRESS, near)]);
    });
}

#[test]
fn among_tcx_programs_of_others_ours_are_nearest_to_the_stack_on_both_ways() {
    on_ground(|ground| {
        ip("link add near type veth peer name far");
        let near = index("near");
        let mut strangers = ground.options();
        strangers.bpffs = ground.bpffs.with_file_name("strangers");
        let mut other = load(&strangers);
        let mut ours = load(&ground.options());
        other.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        ours.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        let order = |side| {
            let (_, programs) = SchedClassifier::query_tcx("near", side).expect("query");
            programs.iter().map(ProgramInfo::id).collect::<Vec<_>>()
        };
        let id = |datapath: &Datapath, program| program_id(datapath, tc(program, near));
        assert_eq!(order(TcAttachType::Ingress), [id(&other, program::POD_INGRESS), id(&ours, program::POD_INGRESS)]);
        assert_eq!(order(TcAttachType::Egress), [id(&ours, program::POD_EGRESS), id(&other, program::POD_EGRESS)]);
    });
}
