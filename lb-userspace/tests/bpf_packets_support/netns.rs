//! A network namespace of a thread's own, with the devices and routes that the packet cases speak of. It ends with the
//! thread, and everything in it.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv6Addr},
    process::{Command, Stdio},
    thread,
};

use lb_common::testing::{DEV_BRIDGE, DEV_CLIENT, DEV_OVERLAY, DEV_SERVER, DEV_UPLINK, MAC, Net};
use nix::sched::{CloneFlags, unshare};

/// Runs `work` in a new namespace, with the cases' devices up and forwarding on.
pub(crate) fn in_node<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|error| panic!("a new network namespace: {error}. Next step: run the test as root"));
        devices();
        work()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn devices() {
    for file in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        // /proc/sys/net shows the namespace of the thread that opens it.
        fs::write(format!("/proc/sys/{file}"), "1").unwrap_or_else(|error| panic!("sysctl {file}: {error}"));
    }
    let mac = in_hex(MAC);
    ip(&format!(
        "link set lo up
         link add cni0 index {DEV_BRIDGE} type bridge
         link add up0 index {DEV_UPLINK} address {mac} type veth peer name up0p index {DEV_UPLINK_PEER}
         link add client index {DEV_CLIENT} type veth peer name clientp index 11
         link add server index {DEV_SERVER} type veth peer name serverp index 13
         link add far0 index {DEV_OVERLAY} address {mac} mtu 1450 type vxlan id 1 dstport 4789 local 192.168.0.11
         link set client master cni0
         link set server master cni0
         address add 10.244.1.1/24 dev cni0
         address add fd00:10:244:1::1/64 dev cni0 nodad
         address add 192.168.0.11/24 dev up0
         address add fd00:192:168::11/64 dev up0 nodad
         address add 10.244.1.0/32 dev far0
         address add fd00:10:244:1:ffff::/128 dev far0 nodad
         link set cni0 up
         link set far0 up
         link set up0 up
         link set up0p up
         link set client up
         link set clientp up
         link set server up
         link set serverp up
         route add default via 192.168.0.1 dev up0
         route add default via fd00:192:168::1 dev up0
         route add 10.244.3.0/24 dev far0
         route add fd00:10:244:3::/64 dev far0
         route add 10.244.1.77 via 10.244.1.20 dev cni0
         route add fd00:10:244:1::77 via fd00:10:244:1::20 dev cni0
         route add unreachable 198.51.100.66
         route add unreachable 2001:db8:dead::66
        "
    ));
}

/// The other end of the uplink.
pub(crate) const DEV_UPLINK_PEER: u32 = 5;

/// Lets the uplink take frames of this size.
pub(crate) fn uplink_mtu(bytes: u32) {
    ip(&format!("link set up0 mtu {bytes}\nlink set up0p mtu {bytes}\n"));
}

/// Makes all machines on the uplink's network known by this link-layer address.
pub(crate) fn neighbours(mac: [u8; 6]) {
    let mac = in_hex(mac);
    let on_it = [Net::other_node, Net::outside].map(|address| Net::BOTH.map(address)).concat();
    let all = on_it.iter().map(|address| IpAddr::from(Ipv6Addr::from(address.octets())).to_canonical().to_string());
    let routers = ["192.168.0.1", "fd00:192:168::1"].map(str::to_owned);
    for address in all.chain(routers) {
        ip(&format!("neighbour replace {address} lladdr {mac} dev up0 nud permanent\n"));
    }
}

fn in_hex(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Runs lines of `ip -batch`.
fn ip(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("ip: {error}. Next step: install iproute2"));
    let mut stdin = child.stdin.take().expect("a piped standard input");
    stdin.write_all(lines.as_bytes()).expect("ip reads its standard input");
    drop(stdin);
    let status = child.wait().expect("ip ends");
    assert!(status.success(), "ip -batch: {status}");
}
