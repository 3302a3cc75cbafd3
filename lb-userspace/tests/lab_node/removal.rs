//! `berrylb cleanup` while the agent runs: the agent notices, says so, and puts nothing in the datapath's place.

use std::fs;

use lb_lab::Host as _;

use crate::world::{World, eventually, manifest, sample_service};

/// It is neither healthy nor alive, a link that comes gets no program, and a new start serves again.
#[test]
fn an_agent_says_that_its_datapath_was_taken_away() {
    // Filters are not pinned: what is attached after the cleanup would stay.
    for tc in ["clsact", "auto"] {
        let mut world = World::of_one_node();
        world.start("raspi002", &["--tc", tc]);
        world.put("sample", &[&manifest(&sample_service(), &[])]);
        let get = |world: &World, path: &str| {
            let url = format!("http://127.0.0.1:10256/{path}");
            let curl = ["-sS", "-m", "5", "-w", "\n%{http_code}", &url];
            world.node("raspi002").command("curl").args(curl).ok().unwrap()
        };
        assert!(get(&world, "healthz").ends_with("\n200"));
        let bpffs = world.node("raspi002").bpffs();
        world.agent("raspi002").cleanup().unwrap();

        let pod = world.node("raspi002").add_pod("late").unwrap();
        eventually("the agent's log says it", || {
            let log = world.agent("raspi002").log().unwrap();
            if log.contains("was taken away") { Ok(()) } else { Err(log) }
        });
        for path in ["healthz", "livez"] {
            let answer = get(&world, path);
            assert!(answer.ends_with("\n503") && answer.contains(r#""takenAway":true"#), "{path}: {answer}");
        }
        let verify = world.agent("raspi002").command(&["verify", "--repair"]).output().unwrap();
        assert!(!verify.status.success() && verify.stderr.contains("start the agent again"), "{verify}");
        let show = "for i in $(ip -o link | sed 's/^[0-9]*: //; s/[@:].*//'); do tc filter show dev $i ingress; done";
        let filters = world.node("raspi002").sh(show).unwrap();
        assert!(!filters.contains("berrylb") && !bpffs.exists(), "{filters}");
        let log = world.agent("raspi002").log().unwrap();
        assert_eq!(log.matches("was taken away").count(), 1, "{log}");
        assert!(!log.contains("attached meanwhile"), "{log}");

        assert!(world.agent_mut("raspi002").terminate().unwrap().success());
        assert!(!fs::exists(&bpffs).unwrap(), "the end makes nothing again");
        world.agent_mut("raspi002").start_again().unwrap();
        assert!(get(&world, "healthz").ends_with("\n200"));
        world.settle();
        drop(pod);
    }
}
