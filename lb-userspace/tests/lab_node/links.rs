//! Pods come and go while the agent runs: a new link is served within the time that a pod's first packet takes to be
//! written, and nothing stays of one that goes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_lab::{Host, LabConfig, Network, Node};

use crate::{
    rules::{Call, Manner, Mode},
    world::{Sample, VIPS, World, at, devices, eventually, link_pins, manifest, sample_service},
};

/// Pods that are made one after another; the middle time counts, as any one may meet a busy machine.
const PODS: usize = 9;
const ATTACH_LIMIT: Duration = Duration::from_millis(100);

#[test]
fn a_new_link_is_served_within_100_ms() {
    for network in [Network::HostGw, Network::Vxlan] {
        let mut world = World::new(LabConfig { network, ..LabConfig::default() });
        let sample = Sample::start(&world.lab, &[80]);
        world.start("raspi002", Mode::Packet.flags());
        world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
        let node = world.node("raspi002");
        let (pins, devs) = (link_pins(node).len(), devices(node).len());

        let mut times = Vec::new();
        let mut pods = Vec::new();
        for number in 0..PODS {
            let (pod, took) = timed(node, pins + 2 * number, || node.add_pod(&format!("pod-{number}")).unwrap());
            times.push(took);
            for vip in VIPS {
                for call in Call::ALL {
                    let answers = call.ask(pod.place(), at(vip), Manner::times(2));
                    assert_eq!(answers.all().len(), 2, "{call:?} to {vip}");
                }
            }
            pods.push(pod);
        }
        times.sort_unstable();
        assert!(times[PODS / 2] <= ATTACH_LIMIT, "from link to programs: {times:?}");
        assert_eq!((link_pins(node).len(), devices(node).len()), (pins + 2 * PODS, devs + PODS));

        drop(pods);
        eventually("links that went are forgotten", || {
            let now = (link_pins(node).len(), devices(node).len());
            if now == (pins, devs) {
                Ok(())
            } else {
                Err(format!("{now:?} pins and devices instead of {pins}, {devs}"))
            }
        });
        world.settle();
    }
}

/// Makes a pod, and measures the time from when its link is there until programs are pinned for both directions.
fn timed<T: Send>(node: &Node, pins: usize, make: impl FnOnce() -> T) -> (T, Duration) {
    let before = node.netns().enter(|| Ok(interfaces())).unwrap();
    let give_up = AtomicBool::new(false);
    thread::scope(|scope| {
        let appeared = scope.spawn(|| {
            node.netns()
                .enter(|| {
                    while interfaces() <= before && !give_up.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_micros(200));
                    }
                    Ok(Instant::now())
                })
                .unwrap()
        });
        let served = scope.spawn(|| {
            while link_pins(node).len() < pins + 2 && !give_up.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_micros(200));
            }
            Instant::now()
        });
        let made = make();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !(appeared.is_finished() && served.is_finished()) {
            if Instant::now() > deadline {
                give_up.store(true, Ordering::Relaxed);
                panic!("the pod's link was not served in 10 s: {:?}", link_pins(node));
            }
            thread::sleep(Duration::from_millis(1));
        }
        (made, served.join().unwrap().saturating_duration_since(appeared.join().unwrap()))
    })
}

/// How many interfaces this thread's namespace has.
fn interfaces() -> usize {
    nix::net::if_::if_nameindex().unwrap().iter().count()
}
