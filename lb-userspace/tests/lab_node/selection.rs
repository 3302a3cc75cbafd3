//! Algorithm and weights by annotation, as connections from a pod and from the node see them.

use std::collections::BTreeMap;

use lb_lab::{Host, LabConfig, Place, peer::TcpAsk};

use crate::world::{Sample, VIPS, World, at, manifest, sample_service};

/// Many enough that a share of three quarters is told from one half in practically every run: six standard deviations.
const ASKED: u32 = 600;

fn annotated(lines: &[&str], sample: &Sample) -> String {
    let annotations: String = lines.iter().map(|line| format!("    berrylb.io/{line}\n")).collect();
    let head = format!("metadata:\n  annotations:\n{annotations}");
    manifest(&sample_service(), &sample.all()).replacen("metadata:\n", &head, 1)
}

fn ask(place: &Place, vip: &str) -> BTreeMap<String, u64> {
    let answers = place.ask(TcpAsk { count: ASKED, ..TcpAsk::to(at(vip)) }).unwrap();
    assert_eq!(answers.all().len(), ASKED as usize);
    answers.names()
}

#[test]
fn weights_and_maglev_choose_among_pods() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pod = world.node("raspi002").add_pod("client").unwrap();
    world.start("raspi002", &["--maglev-table-size", "251"]);
    let places = [pod.place().clone(), world.node("raspi002").place().clone()];

    // sample-1 is on raspi002, the others on raspi003; an address comes before its node.
    let weights =
        format!("weights: \"raspi002=3, raspi003=1, {}=0, {}=0\"", sample.pods[2].ip4(), sample.pods[2].ip6());
    for algorithm in ["random", "maglev"] {
        let lines = [&format!("algorithm: {algorithm}"), &*weights];
        world.put("sample", &[&annotated(&lines, &sample)]);
        for place in &places {
            for vip in VIPS {
                let names = ask(place, vip);
                let share = |name: &str| names.get(name).copied().unwrap_or(0);
                let context = format!("{algorithm} from {} to {vip}: {names:?}", place.name());
                assert_eq!(share("sample-3"), 0, "{context}");
                assert_eq!(share("sample-1") + share("sample-2"), u64::from(ASKED), "{context}");
                assert!((385..515).contains(&share("sample-1")), "{context}");
            }
        }
    }

    // A word that nobody knows changes nothing but the log.
    world.put("sample", &[&annotated(&["weights: \"raspi002=many\""], &sample)]);
    let log = world.agent("raspi002").log().unwrap();
    assert!(log.contains("default/sample-clusterip") && log.contains("berrylb.io/weights"), "{log}");
    assert_eq!(ask(&places[0], VIPS[0]).len(), 3);
}
