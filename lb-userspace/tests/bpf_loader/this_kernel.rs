//! What an agent with plain options finds, loads and attaches on the kernel that runs this; `cargo xtask vm` shows it for
//! others.

use berrylb::{loader::TcHook, net::LinkKind};
use lb_common::abi::program;

use crate::support::{attached, index, ip, load, on_ground, pins, role, tc};

#[test]
fn this_kernel_takes_what_an_agent_with_plain_options_loads() {
    on_ground(|ground| {
        ip("link add pod0 type veth peer name eth0");
        ip("link add up0 type veth peer name router");
        let (near, up) = (index("pod0"), index("up0"));
        let mut datapath = load(&ground.options());
        let probe = datapath.probe();
        eprintln!("kernel {}: programs are attached by {}", probe.release, datapath.tc_hook());
        probe.findings().iter().for_each(|finding| eprintln!("kernel has {finding}"));

        datapath.attach_sockets().expect("attach");
        datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        datapath.attach_link(&role(up, LinkKind::Uplink)).expect("attach");
        let found = attached(&datapath);
        let wanted = [
            tc(program::POD_INGRESS, near),
            tc(program::POD_EGRESS, near),
            tc(program::UPLINK_INGRESS, up),
            tc(program::UPLINK_EGRESS, up),
        ];
        let places = pins(&found);
        assert!(wanted.iter().all(|place| places.contains(place)), "{found:?}");
        assert_eq!(places.len(), wanted.len() + program::SOCKET.len(), "{found:?}");
        let links = wanted.len() * usize::from(datapath.tc_hook() == TcHook::Tcx) + program::SOCKET.len();
        assert_eq!(found.iter().filter(|found| found.link.is_some()).count(), links, "{found:?}");

        let stats = datapath.program_stats().expect("figures");
        assert_eq!(stats.len(), program::TC.len() + program::SOCKET.len());
        let (code, programs): (u32, u32) =
            stats.iter().fold((0, 0), |(code, locked), it| (code + it.jited_bytes, locked + it.locked_bytes));
        let maps: u64 = datapath.map_stats().expect("figures").iter().map(|map| map.locked_bytes).sum();
        eprintln!(
            "loaded {} programs, {code} bytes of machine code, {programs} bytes locked; maps {maps}",
            stats.len()
        );
        // Raspberry Pi OS and Debian compile; a kernel that interprets would be none of ours.
        assert!(stats.iter().all(|program| program.jited_bytes != 0), "{stats:?}");
    });
}
