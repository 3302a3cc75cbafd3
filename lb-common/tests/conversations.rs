//! Random lives of a small cluster, against the truth of who talks to whom: every packet carries the number of its
//! conversation, so that its receiver knows what the datapath may not change.
//!
//! Clients inside and outside and the node itself open, use, close and reuse connections through services and past them,
//! from the same few ports; backends in pods and on hosts, here and elsewhere, and services come and go;
//! time passes; the way through the stack is switched. At all times:
//! - a packet to a service goes to one of its backends, and a TCP connection stays with its own;
//! - who is not let in is told so at once;
//! - no backend sees two living conversations as one;
//! - a reply reaches the client and port of its conversation, from the address that the client had named; a reply of a
//!   conversation that is over may also arrive as the backend sent it, but never as part of another one.

mod cluster;

use cluster::{Cluster, Flags, Op, Target};
use lb_common::testing::Recycling;
use proptest::prelude::*;

fn op() -> impl Strategy<Value = Op> {
    let flags = prop_oneof![
        3 => Just(Flags::Syn),
        4 => Just(Flags::Ack),
        1 => Just(Flags::Fin),
        1 => Just(Flags::Rst),
    ];
    let target = prop_oneof![
        5 => (0..3_u8).prop_map(Target::Service),
        3 => (0..3_u8).prop_map(Target::NodePort),
        2 => (0..7_u8).prop_map(Target::Pod),
    ];
    prop_oneof![
        8 => (0..4_u8, 0..2_u8, target, any::<bool>(), flags.clone())
            .prop_map(|(client, port, to, tcp, flags)| Op::Send { client, port, to, tcp, flags }),
        2 => (0..2_u8, prop_oneof![Just(3_u8), Just(5), Just(5), Just(6)], any::<bool>(), flags.clone())
            .prop_map(|(port, pod, tcp, flags)| Op::Send { client: 4, port, to: Target::Pod(pod), tcp, flags }),
        6 => (any::<u8>(), flags).prop_map(|(which, flags)| Op::Reply { which, flags }),
        2 => (0..3_u8, 0..128_u8).prop_map(|(service, backends)| Op::Backends { service, backends }),
        1 => (0..3_u8, any::<bool>()).prop_map(|(service, there)| Op::Frontend { service, there }),
        1 => any::<bool>().prop_map(|redirect| Op::LocalPath { redirect }),
        2 => prop_oneof![Just(1_u32), Just(10), Just(40), Just(70), Just(150)].prop_map(|ticks| Op::Wait { ticks }),
    ]
}

/// As many lives as asked for by PROPTEST_CASES, or enough to find what was found here.
fn config() -> ProptestConfig {
    let mut config =
        ProptestConfig { failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = if cfg!(miri) { 4 } else { 700 };
    }
    config
}

fn live(cluster: &mut Cluster, ops: &[Op]) -> Result<(), String> {
    for (i, op) in ops.iter().enumerate() {
        cluster.step(op).map_err(|wrong| format!("step {i}, {op:?}: {wrong}\n{}", cluster.story()))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_reply_reaches_its_client_from_the_address_it_named(
        v4 in any::<bool>(),
        seed in any::<u64>(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let lived = live(&mut Cluster::new(v4, seed), &ops);
        prop_assert!(lived.is_ok(), "{}", lived.expect_err("just seen"));
    }

    /// The same while one look-up in four meets an element that was recycled under it.
    #[test]
    fn recycled_elements_lead_nobody_astray(
        v4 in any::<bool>(),
        seed in any::<u64>(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut cluster = Cluster::new(v4, seed);
        cluster.recycle(Recycling { one_in: 4, twice: false, sealed: false, seed });
        let lived = live(&mut cluster, &ops);
        prop_assert!(lived.is_ok(), "{}", lived.expect_err("just seen"));
    }
}

/// Without the checks of tags and seals, recycled elements would: so the test above can fail.
#[test]
fn unchecked_recycled_elements_lead_astray() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let lives = prop::collection::vec(op(), 100..120);
    let (mut astray, tried) = (0, if cfg!(miri) { 4 } else { 100 });
    for seed in 0..tried {
        let ops = lives.new_tree(&mut runner).expect("a life").current();
        let mut cluster = Cluster::new(true, seed);
        cluster.recycle(Recycling { one_in: 4, twice: false, sealed: true, seed });
        astray += u32::from(live(&mut cluster, &ops).is_err());
    }
    assert!(astray > 0, "nobody went astray in {tried} lives");
}

/// The lives above are not idle ones.
#[test]
fn much_happens_in_such_a_life() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let lives = prop::collection::vec(op(), 100..120);
    let mut done = cluster::Done::default();
    for _ in 0..if cfg!(miri) { 2 } else { 300 } {
        let ops = lives.new_tree(&mut runner).expect("a life").current();
        let mut cluster = Cluster::new(true, 7);
        ops.iter()
            .for_each(|op| cluster.step(op).unwrap_or_else(|wrong| panic!("{op:?}: {wrong}\n{}", cluster.story())));
        done += cluster.done();
    }
    if !cfg!(miri) {
        let cluster::Done {
            translated,
            replies,
            moved,
            bounced,
            redirected,
            replaced,
            answered,
            masked,
            own,
            remapped,
        } = done;
        let text = format!("{done:?}");
        assert!(translated > 2000 && replies > 2000 && moved > 20, "{text}");
        assert!(bounced > 20 && redirected > 100 && replaced > 20 && answered > 100, "{text}");
        assert!(masked > 300 && own > 300 && remapped > 20, "{text}");
    }
}
