//! The XDP program on devices: modes, refusals, restarts, and that it goes with everything else.

use berrylb::{
    loader::{Datapath, LinkPin, cleanup},
    net::{LinkKind, LinkRole, XdpPlan},
};
use lb_common::abi::program;

use crate::support::{OtherNs, attached, index, ip, link_id, load, names, on_ground, pins, program_id, role, run, tc};

fn uplink(ifindex: u32, xdp: XdpPlan) -> LinkRole {
    LinkRole { name: "near".to_owned(), xdp, ..role(ifindex, LinkKind::Uplink) }
}

fn not() -> XdpPlan {
    XdpPlan::Not("a test".to_owned())
}

/// A veth that takes both modes.
fn device() -> u32 {
    ip("link add near type veth peer name far");
    run("ethtool", "-K near gro off");
    index("near")
}

/// `xdp` or `xdpgeneric`, as `ip` shows it; empty without a program.
fn shown() -> &'static str {
    let text = run("ip", "link show near");
    // The kernel's word for the driver's mode is the plain one.
    ["xdpgeneric", "xdp"].into_iter().find(|word| text.split_whitespace().any(|found| found == *word)).unwrap_or("")
}

fn pin_of(ifindex: u32) -> LinkPin {
    LinkPin::Xdp { ifindex }
}

#[test]
fn it_follows_the_plan_and_leaves_tc_alone() {
    on_ground(|ground| {
        let near = device();
        let mut datapath = load(&ground.options());
        datapath.attach_link(&uplink(near, not())).expect("attach");
        let tc = [tc(program::UPLINK_EGRESS, near), tc(program::UPLINK_INGRESS, near)];
        let with = || [tc[0], tc[1], pin_of(near)];
        let attached = |datapath: &Datapath| pins(&attached(datapath));
        let stats = |datapath: &Datapath| datapath.program_stats().expect("figures");
        let loaded = |datapath: &Datapath| stats(datapath).iter().any(|program| program.name == program::UPLINK_XDP);
        datapath.settle_xdp(&uplink(near, not())).expect("nothing to do");
        assert!(!loaded(&datapath), "what nobody wants is not loaded");
        for (plan, word) in [
            (XdpPlan::Driver, "xdp"),
            (XdpPlan::Stack, "xdpgeneric"),
            (XdpPlan::Driver, "xdp"),
            (not(), ""),
            (XdpPlan::Stack, "xdpgeneric"),
        ] {
            datapath.settle_xdp(&uplink(near, plan.clone())).expect("settle");
            assert_eq!(shown(), word, "{plan:?}");
            if word.is_empty() {
                assert_eq!(attached(&datapath), tc);
            } else {
                assert_eq!(attached(&datapath), with());
            }
        }
        assert!(loaded(&datapath));
        datapath.detach_link(near).expect("detach");
        assert_eq!(shown(), "");
        assert!(attached(&datapath).is_empty());
        assert!(names(&datapath.layout().links()).is_empty());
    });
}

#[test]
fn a_restart_adopts_it_and_replaces_it_in_its_link() {
    for (plan, word) in [(XdpPlan::Driver, "xdp"), (XdpPlan::Stack, "xdpgeneric")] {
        on_ground(|ground| {
            let near = device();
            let pin = pin_of(near);
            let role = uplink(near, plan);
            let mut datapath = load(&ground.options());
            datapath.settle_xdp(&role).expect("attach");
            let (link, old) = (link_id(&datapath, pin), program_id(&datapath, pin));
            assert!(link.is_some());
            drop(datapath);
            assert_eq!(shown(), word, "it outlives its agent");

            let mut datapath = load(&ground.options());
            let adopted = datapath.adopt().expect("adopt");
            assert_eq!((pins(&adopted.kept), adopted.removed), (vec![pin], Vec::new()));
            assert_eq!(program_id(&datapath, pin), old, "adopting replaces nothing");
            datapath.settle_xdp(&role).expect("attach again");
            assert_eq!(link_id(&datapath, pin), link, "the link stays the same");
            assert_ne!(program_id(&datapath, pin), old, "its program is replaced");
            assert_eq!(shown(), word);
            drop(datapath);

            let removed = cleanup(&ground.bpffs).expect("clean up");
            assert!(removed.links.iter().any(|link| link.ends_with(&pin.file_name())), "{removed}");
            assert_eq!(shown(), "");
        });
    }
}

#[test]
fn a_device_that_is_another_one_by_now_is_attached_anew() {
    on_ground(|ground| {
        let near = device();
        let role = uplink(near, XdpPlan::Driver);
        load(&ground.options()).settle_xdp(&role).expect("attach");

        // The same index in another namespace, where nothing is attached.
        let options = ground.options();
        let elsewhere = OtherNs::new();
        let kept = elsewhere.run(move || {
            ip(&format!("link add near index {near} type veth peer name far"));
            let datapath = load(&options);
            attached(&datapath).len()
        });
        assert_eq!(kept, 0);
        assert_eq!(shown(), "xdp", "looking from elsewhere takes nothing away");

        ip("link del near");
        ip(&format!("link add near index {near} type veth peer name far"));
        let mut datapath = load(&ground.options());
        let adopted = datapath.adopt().expect("adopt");
        assert!(adopted.kept.is_empty(), "{adopted:?}");
        assert!(adopted.removed.iter().all(|reason| reason.contains("its device is gone")), "{adopted:?}");
        assert_eq!(adopted.removed.len(), 1);
        datapath.settle_xdp(&role).expect("attach to the new one");
        assert_eq!(shown(), "xdp");
        ip("link del near");
        assert!(datapath.settle_xdp(&role).expect_err("no such device").is_device_gone());
    });
}

#[test]
fn a_refusal_names_device_and_cause_and_leaves_tc() {
    on_ground(|ground| {
        ip("link add near type bridge");
        let near = index("near");
        let mut datapath = load(&ground.options());
        datapath.attach_link(&uplink(near, not())).expect("attach");
        let error =
            datapath.settle_xdp(&uplink(near, XdpPlan::Driver)).expect_err("a bridge has no driver").to_string();
        for word in ["device near", "driver has no XDP", "not supported"] {
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(attached(&datapath).len(), 2, "tc stays");
        assert!(!names(&datapath.layout().links()).contains(&pin_of(near).file_name()));
    });
}

#[test]
fn generic_is_refused_where_packets_are_merged_before_it() {
    on_ground(|ground| {
        let near = device();
        let mut datapath = load(&ground.options());
        datapath.settle_xdp(&uplink(near, XdpPlan::Driver)).expect("attach");
        run("ethtool", "-K near gro on");
        let error = datapath.settle_xdp(&uplink(near, XdpPlan::Stack)).expect_err("GRO is on").to_string();
        assert!(error.contains("device near merges") && error.contains("ethtool -K near gro off"), "{error}");
        assert_eq!(shown(), "", "and what another mode left is gone");
        run("ethtool", "-K near gro off");
        datapath.settle_xdp(&uplink(near, XdpPlan::Stack)).expect("attach");
        assert_eq!(shown(), "xdpgeneric");
    });
}

#[test]
fn the_program_of_another_is_not_replaced() {
    on_ground(|ground| {
        let near = device();
        let mut strangers = ground.options();
        strangers.bpffs = ground.bpffs.with_file_name("strangers");
        let mut other = load(&strangers);
        other.settle_xdp(&uplink(near, XdpPlan::Driver)).expect("attach");
        let theirs = program_id(&other, pin_of(near));
        let mut ours = load(&ground.options());
        let error = ours.settle_xdp(&uplink(near, XdpPlan::Driver)).expect_err("taken").to_string();
        assert!(error.contains("device near") && error.contains("another XDP program"), "{error}");
        assert!(attached(&ours).is_empty());
        assert_eq!(program_id(&other, pin_of(near)), theirs);
    });
}
