//! The Services of a station: the one that is measured, in the middle of others that nobody asks. Written as objects for
//! the agent here, as rules in [`super::iptables`] and [`super::nftables`]. Pure.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_lab::objects::{self, Endpoint};

/// What the measured Service's endpoints listen on, TCP and UDP.
pub(super) const TARGET: u16 = 8080;
/// Addresses of the measured Service.
const MEASURED: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 111, 197, 69)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0xff, 1))];
/// First addresses of the others, and of their endpoints, which nobody has. There is room for 60,000.
const OTHERS: u32 = 0x0a60_0100;
const OTHER_PODS: u32 = 0x6440_0000;
/// Endpoints of each of the others.
const OTHER_ENDPOINTS: u32 = 2;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Of two addresses that one.
    pub(super) fn of<T: Copy>(self, pair: [T; 2]) -> T {
        pair[self as usize]
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// As rules and the start of chains' names have it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Where the endpoint is that a port of the measured Service leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Backend {
    /// On the client's node, or the node that an outside client asks.
    Local,
    /// On another node.
    Remote,
}

/// A port of a Service with its endpoints.
#[derive(Clone, Debug)]
pub(super) struct ServicePort {
    pub(super) name: &'static str,
    pub(super) transport: Transport,
    pub(super) port: u16,
    pub(super) node_port: Option<u16>,
    /// Addresses of the endpoints, IPv4 and IPv6.
    pub(super) endpoints: Vec<[IpAddr; 2]>,
    /// Node of the endpoints.
    node: String,
}

/// A Service.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) name: String,
    /// Cluster IPs, IPv4 and IPv6.
    ips: [IpAddr; 2],
    /// Which of them it has.
    families: &'static [Family],
    pub(super) ports: Vec<ServicePort>,
}

/// An endpoint of the measured Service: addresses, and name of its node.
pub(super) type Place = ([IpAddr; 2], String);

/// Where the measured Service is: cluster IP and port, or its NodePort.
pub(super) const fn port(transport: Transport, backend: Backend) -> (u16, u16) {
    match (transport, backend) {
        (Transport::Tcp, Backend::Local) => (80, 30_080),
        (Transport::Tcp, Backend::Remote) => (81, 30_081),
        (Transport::Udp, Backend::Local) => (53, 30_053),
        (Transport::Udp, Backend::Remote) => (54, 30_054),
    }
}

/// The measured Service's cluster IP.
pub(super) fn cluster_ip(family: Family) -> IpAddr {
    family.of(MEASURED)
}

/// So many Services, of which the one in the middle is measured: a list that is gone through has half of its entries
/// before it, as a Service of a real cluster has on average.
pub(super) fn all(count: u32, local: &Place, remote: &Place) -> Vec<Service> {
    let mut all: Vec<Service> = (0..count.saturating_sub(1)).map(other).collect();
    all.insert(all.len() / 2, measured(local, remote));
    all
}

fn measured(local: &Place, remote: &Place) -> Service {
    let both = |transport| [Backend::Local, Backend::Remote].map(|backend| (transport, backend));
    let ports = [both(Transport::Tcp), both(Transport::Udp)].concat().into_iter().map(|(transport, backend)| {
        let (port, node_port) = port(transport, backend);
        let (name, (ips, node)) = match (transport, backend) {
            (Transport::Tcp, Backend::Local) => ("local", local),
            (Transport::Tcp, Backend::Remote) => ("remote", remote),
            (Transport::Udp, Backend::Local) => ("local-udp", local),
            (Transport::Udp, Backend::Remote) => ("remote-udp", remote),
        };
        ServicePort { name, transport, port, node_port: Some(node_port), endpoints: vec![*ips], node: node.clone() }
    });
    Service { name: "measured".into(), ips: MEASURED, families: &Family::BOTH, ports: ports.collect() }
}

/// IPv4 only, as that is what is measured with others beside.
fn other(n: u32) -> Service {
    let both = |address: u32| {
        let v4 = Ipv4Addr::from(address);
        [IpAddr::V4(v4), IpAddr::V6(v4.to_ipv6_mapped())]
    };
    let pod = |i: u32| both(OTHER_PODS + n * OTHER_ENDPOINTS + i);
    Service {
        name: format!("service-{n:05}"),
        ips: both(OTHERS + n),
        families: &[Family::V4],
        ports: vec![ServicePort {
            name: "http",
            transport: Transport::Tcp,
            port: 80,
            node_port: None,
            endpoints: (0..OTHER_ENDPOINTS).map(pod).collect(),
            node: "elsewhere".into(),
        }],
    }
}

impl Service {
    /// Its cluster IP, if it has one of this family.
    pub(super) fn ip(&self, family: Family) -> Option<IpAddr> {
        self.families.contains(&family).then(|| family.of(self.ips))
    }

    /// The Service and a slice for each family and port, as Kubernetes makes them for ports that have other endpoints.
    pub(super) fn yaml(&self) -> String {
        let port = |port: &ServicePort| objects::Port {
            name: port.name,
            protocol: match port.transport {
                Transport::Tcp => "TCP",
                Transport::Udp => "UDP",
            },
            port: port.port,
            target: TARGET,
            node_port: port.node_port,
        };
        let ports: Vec<_> = self.ports.iter().map(port).collect();
        let mut service = objects::Service::new(&self.name, &self.ips[..self.families.len()], &ports);
        if self.ports.iter().any(|port| port.node_port.is_some()) {
            service.kind = "NodePort";
        }
        let mut text = service.to_string();
        for (own, port) in self.ports.iter().zip(&ports) {
            for family in self.families {
                let ends = own.endpoints.iter().map(|ips| Endpoint::new(family.of(*ips), &own.node));
                let mut slice = service.slice(&ends.collect::<Vec<_>>());
                slice.name = format!("{}-{}-{}", self.name, own.name, family.name().to_lowercase());
                slice.ports = vec![*port];
                let _infallible = write!(text, "---\n{slice}");
            }
        }
        text
    }
}

/// The agent's flags for so many Services, with room.
pub(super) fn flags(count: u32) -> Vec<String> {
    let sets = count + 64;
    [("services", 2 * sets), ("backend-sets", sets), ("slots", 4 * sets), ("backends", 2 * sets)]
        .into_iter()
        .filter(|_| count > 500)
        .map(|(what, entries)| format!("--max-{what}={entries}"))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// So many Services, with endpoints at 10.244.0.2 and 10.244.1.2.
    pub(crate) fn sample(count: u32) -> Vec<Service> {
        let place = |text: [&str; 2], node: &str| (text.map(|ip| ip.parse().unwrap()), node.to_owned());
        all(
            count,
            &place(["10.244.0.2", "fd00:10:244::2"], "here"),
            &place(["10.244.1.2", "fd00:10:244:1::2"], "there"),
        )
    }

    #[test]
    fn the_measured_service_is_in_the_middle_and_no_address_is_twice() {
        let services = sample(50_000);
        assert_eq!(services.len(), 50_000);
        assert_eq!(services[24_999].name, "measured");
        let ips: std::collections::HashSet<IpAddr> = services.iter().filter_map(|s| s.ip(Family::V4)).collect();
        assert_eq!(ips.len(), services.len());
        assert_eq!(services.iter().filter(|service| service.ip(Family::V6).is_some()).count(), 1);
        assert_eq!(sample(1).len(), 1);
    }

    #[test]
    fn yaml_has_a_slice_for_each_port_and_family() {
        let text = sample(1)[0].yaml();
        assert_eq!(text.matches("kind: EndpointSlice").count(), 8, "{text}");
        assert_eq!(text.matches("nodePort: 30080").count(), 1, "{text}");
    }
}
