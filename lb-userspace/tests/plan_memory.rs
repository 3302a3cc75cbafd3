//! What the agent keeps of a Service between changes, in bytes: the objects in the index, and the plan. A node has little memory
//! and a cluster many Services, so a test holds it. The records of what is in the maps are counted elsewhere.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    net::Ipv4Addr,
    sync::atomic::{AtomicIsize, Ordering},
};

use berrylb::{
    k8s,
    model::{Index, Object},
    plan::{PlanConfig, Planner},
};
use serde_json::{Value, json};

/// The system's allocator, counted as glibc takes memory: 8 bytes for itself, in steps of 16, at least 32.
struct Counting;

static TAKEN: AtomicIsize = AtomicIsize::new(0);

fn chunk(layout: Layout) -> isize {
    isize::try_from((layout.size() + 8).next_multiple_of(16).max(32)).expect("no allocation is that large")
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(chunk(layout), Ordering::Relaxed);
        // SAFETY: as this function's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(chunk(layout), Ordering::Relaxed);
        // SAFETY: as this function's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// As full as 10,000 make the tables that they are in.
const SERVICES: u32 = 2_500;
const ENDPOINTS: u32 = 10;

/// Bytes that a Service may take, with its ten endpoints: what it took when this was written, and a tenth more.
const MOST: isize = 300;

/// An object as the API server tells it.
fn decoded(json: &Value) -> Object {
    let mut parsed = k8s::parse("test", json.to_string().as_bytes());
    assert!(parsed.bad.is_empty(), "{:?}", parsed.bad);
    parsed.objects.pop().expect("an object").object
}

fn service(n: u32) -> Object {
    let ip = Ipv4Addr::from(0x0a60_0000 + n);
    decoded(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("service-{n:05}"), "namespace": format!("team-{:02}", n % 20),
            "uid": format!("5f1a4a0e-6f0b-4c7e-9d8c-{n:012x}"), "creationTimestamp": "2026-01-02T03:04:05Z",
        },
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip], "selector": {"app": "it"}, "type": "ClusterIP",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }))
}

fn slice(n: u32) -> Object {
    let endpoint = |i| {
        let address = Ipv4Addr::from(0x6440_0000 + n * ENDPOINTS + i);
        json!({"addresses": [address], "nodeName": format!("node{:02}", (n + i) % 50)})
    };
    decoded(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("service-{n:05}-x7k2p"), "namespace": format!("team-{:02}", n % 20),
            "labels": {"kubernetes.io/service-name": format!("service-{n:05}")},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"},
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    }))
}

/// Bytes for each Service that are taken more than `before`.
fn more_than(before: isize) -> isize {
    (TAKEN.load(Ordering::Relaxed) - before) / isize::try_from(SERVICES).expect("few")
}

#[test]
fn a_service_takes_few_bytes() {
    let start = TAKEN.load(Ordering::Relaxed);
    let mut index = Index::default();
    (0..SERVICES).for_each(|n| drop(index.upsert(service(n))));
    let services = more_than(start);
    (0..SERVICES).for_each(|n| drop(index.upsert(slice(n))));
    let slices = more_than(start) - services;
    drop(index);

    // What decoding keeps of names counts once.
    let mut planner = Planner::new(PlanConfig::default());
    (0..SERVICES).for_each(|n| planner.upsert(service(n)));
    (0..SERVICES).for_each(|n| planner.upsert(slice(n)));
    let mut told = 0;
    planner.take_changes_in_batches(256, |changes| told += changes.len());
    assert_eq!(told, SERVICES as usize);
    let all = more_than(start);
    eprintln!(
        "a Service takes {all} bytes: {services} itself, {slices} its slice, {} the plan",
        all - services - slices
    );
    assert!(all <= MOST, "{all} bytes a Service");
}
