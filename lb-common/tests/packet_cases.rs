//! Every packet case on the host. The same table runs through the loaded programs in `lb-userspace`.

use lb_common::{
    abi::Counter,
    datapath::{Scratch, Verdict, xdp},
    testing::{DEV_UPLINK, Hook, L4Sum, MAC, MemTables, cases, sock_cases},
};

/// Fewer would mean that the table lost a part.
const AT_LEAST: usize = 2500;

#[test]
fn every_packet_case_holds_on_the_host() {
    let cases = cases::all();
    assert!(cases.len() >= AT_LEAST, "{} packet cases", cases.len());
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.run().err()).collect();
    assert!(wrong.is_empty(), "{} of {} cases fail:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// What an earlier packet left in the working memory means nothing to the next one.
#[test]
fn every_packet_case_holds_after_every_other_kind_of_packet() {
    let cases = cases::all();
    let mut scratch = Scratch::default();
    // Each case after the one before it, after the one behind it, and after some from elsewhere.
    let strides = [1, cases.len() - 1, 7, 31, 101, 211, 389];
    let mut wrong = Vec::new();
    for stride in strides {
        let mut at = 0;
        for _ in 0..cases.len() {
            at = (at + stride) % cases.len();
            wrong.extend(cases[at].run_after(&mut scratch).err());
        }
    }
    assert!(wrong.is_empty(), "{} runs fail:\n{}", wrong.len(), wrong.join("\n"));
}

/// XDP does with a packet from outside what tc would do, or leaves it and everything else alone.
#[test]
fn xdp_does_what_tc_does_or_nothing() {
    const NOW: u32 = 1_000_000;
    let ends = [[0x02, 0, 0, 0, 0, 0xfe], MAC].concat().try_into().expect("two addresses");
    let mut sent = 0;
    for case in
        cases::all().into_iter().filter(|case| case.hook == Hook::Uplink && case.packet.l4_sum != L4Sum::Partial)
    {
        let contents = case.world.contents(NOW);
        let (by_tc, by_xdp) = (MemTables::with(&contents), MemTables::with(&contents));
        let mut wanted = case.packet.packet();
        let verdict = case.hook.run(&mut wanted, &by_tc);
        let mut packet = case.packet.packet();
        packet.ends = Some(ends);
        let before = (packet.bytes.clone(), by_xdp.flow_entries(), by_xdp.counters());
        match xdp::ingress(&mut packet, &by_xdp, case.hook.link(), &mut Scratch::default()) {
            xdp::Verdict::Pass => {
                assert_eq!((packet.bytes, by_xdp.flow_entries(), by_xdp.counters()), before, "{}", case.name);
            }
            xdp::Verdict::Transmit => {
                assert_eq!(verdict, Verdict::Redirect(DEV_UPLINK), "{}", case.name);
                assert_eq!(
                    (&packet.bytes[..12], &packet.bytes[12..]),
                    (&ends[..], &wanted.bytes[12..]),
                    "{}",
                    case.name
                );
                assert_eq!(by_xdp.flow_entries(), by_tc.flow_entries(), "{}", case.name);
                let mut counters = by_tc.counters();
                counters[Counter::XdpForwarded as usize] += 1;
                assert_eq!(by_xdp.counters(), counters, "{}", case.name);
                sent += 1;
            }
            xdp::Verdict::Drop(reason) => panic!("{}: dropped for {}", case.name, reason.name()),
        }
    }
    assert!(sent >= 100, "XDP sent {sent} packets on");
}

#[test]
fn names_tell_the_cases_apart() {
    let mut names: Vec<String> = cases::all().into_iter().map(|case| case.name).collect();
    names.extend(sock_cases::all().into_iter().map(|case| case.name));
    names.sort();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    assert!(twice.is_empty(), "used twice: {twice:#?}");
}

#[test]
fn every_socket_case_holds() {
    let cases = sock_cases::all();
    assert!(cases.len() >= 40, "{} socket cases", cases.len());
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.run().err()).collect();
    assert!(wrong.is_empty(), "{} of {} cases fail:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
