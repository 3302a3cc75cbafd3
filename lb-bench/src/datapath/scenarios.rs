//! What is measured: which work, from where, to what, by which modes. Pure.

use super::{
    modes::Mode,
    services::{Backend, Family},
    work::Work,
};

/// Where the client is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Client {
    /// In a pod of the node.
    Pod,
    /// On the node itself.
    Node,
    /// On another machine of the LAN.
    Outside,
}

/// What the client asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Frontend {
    ClusterIp,
    NodePort,
    /// The pod itself in all modes: traffic that is no Service's.
    None,
}

/// One comparison of modes. All of them do the same work in turns.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scenario {
    pub(super) work: Work,
    pub(super) client: Client,
    pub(super) frontend: Frontend,
    pub(super) backend: Backend,
    pub(super) family: Family,
    /// Which take part, with the number of Services; the first is what others are compared with.
    pub(super) modes: Vec<(Mode, u32)>,
}

impl Scenario {
    /// As `--only` and the figures know it, such as `crr/pod/cluster-ip/local/ipv4`.
    pub(super) fn name(&self) -> String {
        let Self { work, client, frontend, backend, family, modes } = self;
        let client = match client {
            Client::Pod => "pod",
            Client::Node => "node",
            Client::Outside => "outside",
        };
        let frontend = match frontend {
            Frontend::ClusterIp => "cluster-ip",
            Frontend::NodePort => "node-port",
            Frontend::None => "no-service",
        };
        let backend = match backend {
            Backend::Local => "local",
            Backend::Remote => "remote",
        };
        let scale = if modes.iter().any(|(_, services)| *services > 1) { "/scale" } else { "" };
        let xdp = if modes.iter().any(|(mode, _)| *mode == Mode::Xdp) { "/xdp" } else { "" };
        format!("{}/{client}/{frontend}/{backend}/{}{scale}{xdp}", work.name(), family.name().to_lowercase())
    }
}

/// How much of everything.
#[derive(Clone, Debug)]
pub(super) struct Extent {
    /// Fewer scenarios.
    pub(super) quick: bool,
    /// Numbers of Services that the scale is measured at, ascending.
    pub(super) services: Vec<u32>,
    /// The most Services that rules are made for.
    pub(super) rules_max: u32,
}

/// All scenarios, in the order in which they are shown.
pub(super) fn all(extent: &Extent) -> Vec<Scenario> {
    use Backend::{Local, Remote};
    let families: &[Family] = if extent.quick { &[Family::V4] } else { &Family::BOTH };
    let mut all = Vec::new();
    for family in families.iter().copied() {
        let mut add = |works: &[Work], client, frontend, backend| {
            for work in works.iter().copied() {
                let modes = modes(work, client, backend).into_iter().map(|mode| (mode, 1)).collect();
                all.push(Scenario { work, client, frontend, backend, family, modes });
            }
        };
        let pods: &[Work] = &[Work::Crr, Work::Rr, Work::UdpNew, Work::Udp, Work::Bulk];
        let some: &[Work] = &[Work::Crr, Work::Rr, Work::UdpNew];
        let paced: &[Work] = &[Work::CrrPaced, Work::RrPaced];
        add(pods, Client::Pod, Frontend::ClusterIp, Local);
        add(pods, Client::Pod, Frontend::ClusterIp, Remote);
        add(some, Client::Node, Frontend::ClusterIp, Local);
        if !extent.quick {
            add(some, Client::Node, Frontend::ClusterIp, Remote);
            add(&[Work::Crr, Work::Rr], Client::Pod, Frontend::NodePort, Local);
        }
        let outside: &[Work] = if extent.quick { some } else { pods };
        add(outside, Client::Outside, Frontend::NodePort, Local);
        add(outside, Client::Outside, Frontend::NodePort, Remote);
        add(paced, Client::Pod, Frontend::ClusterIp, Local);
        add(paced, Client::Outside, Frontend::NodePort, Remote);
        add(&[Work::Socket, Work::Rr, Work::Crr], Client::Pod, Frontend::None, Local);
        add(&[Work::Rr, Work::Crr], Client::Pod, Frontend::None, Remote);
    }
    let family = Family::V4;
    for work in [Work::Crr, Work::Rr] {
        let modes = [Mode::Direct, Mode::Both, Mode::Xdp].map(|mode| (mode, 1)).into();
        let (client, frontend) = (Client::Outside, Frontend::NodePort);
        all.push(Scenario { work, client, frontend, backend: Remote, family, modes });
    }
    if extent.services.iter().any(|services| *services > 1) {
        for work in [Work::Crr, Work::Rr] {
            let (client, frontend) = (Client::Pod, Frontend::ClusterIp);
            all.push(Scenario { work, client, frontend, backend: Local, family, modes: scale(extent) });
        }
    }
    all
}

/// Those that serve such traffic at all.
fn modes(work: Work, client: Client, backend: Backend) -> Vec<Mode> {
    let serves = |mode: &Mode| match mode {
        Mode::Direct | Mode::Both | Mode::Iptables | Mode::Nftables | Mode::KubeProxyIpt | Mode::KubeProxyNft => true,
        Mode::Xdp => false,
        Mode::Dsr => client == Client::Outside && backend == Backend::Remote,
        // Nothing is translated in sockets of machines outside, nor, for pods, in connected UDP sockets.
        Mode::Socket => client != Client::Outside && !(client == Client::Pod && work == Work::UdpNew),
        // The node's own traffic has no packet path.
        Mode::Packet => client == Client::Pod,
        // Pods of other nodes are not delivered to.
        Mode::Delivery => client != Client::Node && backend == Backend::Local,
    };
    Mode::ALL.into_iter().filter(serves).collect()
}

fn scale(extent: &Extent) -> Vec<(Mode, u32)> {
    let mut modes = vec![(Mode::Direct, 1)];
    for mode in [Mode::Socket, Mode::Packet, Mode::Iptables, Mode::Nftables, Mode::KubeProxyIpt, Mode::KubeProxyNft] {
        let most = if mode.is_rules() { extent.rules_max } else { u32::MAX };
        modes.extend(extent.services.iter().filter(|services| **services <= most).map(|services| (mode, *services)));
    }
    modes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(quick: bool) -> Extent {
        Extent { quick, services: vec![1, 1000, 10_000], rules_max: 10_000 }
    }

    #[test]
    fn names_are_unique_and_direct_comes_first() {
        for quick in [true, false] {
            let all = all(&extent(quick));
            let names: std::collections::HashSet<String> = all.iter().map(Scenario::name).collect();
            assert_eq!(names.len(), all.len());
            assert!(all.iter().all(|scenario| scenario.modes[0] == (Mode::Direct, 1)), "{all:?}");
        }
    }

    #[test]
    fn a_path_is_measured_only_where_it_serves() {
        let local = Backend::Local;
        assert!(!modes(Work::Crr, Client::Node, local).contains(&Mode::Packet));
        assert!(!modes(Work::UdpNew, Client::Pod, local).contains(&Mode::Socket));
        assert!(!modes(Work::Crr, Client::Outside, local).contains(&Mode::Socket));
        assert!(modes(Work::Crr, Client::Outside, Backend::Remote).contains(&Mode::Dsr));
        let delivers = |backend| modes(Work::Crr, Client::Outside, backend).contains(&Mode::Delivery);
        assert!(delivers(local) && !delivers(Backend::Remote));
    }
}
