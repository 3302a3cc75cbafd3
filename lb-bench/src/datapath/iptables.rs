//! iptables rules in the structure that kube-proxy's iptables mode gives them, from the same Services: text for
//! `iptables-restore`. Pure.
//!
//! What makes the cost is the structure: a rule for each Service port in `KUBE-SERVICES`, gone through one after another by
//! the first packet of each connection; a chain for each Service port and each endpoint behind it.

use std::{fmt::Write as _, net::IpAddr};

use super::services::{Family, Service, ServicePort, TARGET, Transport};

/// Rules of one family for all Services. `pods` is the network of the cluster's pods.
pub(super) fn rules(services: &[Service], family: Family, pods: &str) -> String {
    let mut nat = Nat::default();
    for service in services {
        service.ports.iter().for_each(|port| nat.add(service, port, family, pods));
    }
    let Nat { chains, services, node_ports, rules } = nat;
    format!(
        "{FILTER}*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n{chains}{NAT}{services}\
         -A KUBE-SERVICES -m comment --comment \"node ports, to be last\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         {node_ports}{rules}COMMIT\n"
    )
}

const FILTER: &str = "*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"firewall of load balancers\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"health checks\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"external frontends\" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"firewall of load balancers\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"forwarding\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"frontends\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"external frontends\" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"firewall of load balancers\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"frontends\" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

const NAT: &str = "-A PREROUTING -m comment --comment \"frontends\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"frontends\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"postrouting\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";

/// The parts of the table `nat` that grow with the Services.
#[derive(Default)]
struct Nat {
    chains: String,
    services: String,
    node_ports: String,
    rules: String,
}

impl Nat {
    fn add(&mut self, service: &Service, port: &ServicePort, family: Family, pods: &str) {
        let Some(ip) = service.ip(family) else { return };
        let bits = prefix(ip);
        let (transport, number) = (port.transport.name(), port.port);
        let about = format!("default/{}:{}", service.name, port.name);
        let own = id(&service.name, port, None);
        let to = format!("-d {ip}/{bits} -p {transport} -m {transport} --dport {number}");
        let Self { chains, services, node_ports, rules } = self;
        let line = |out: &mut String, text: std::fmt::Arguments<'_>| {
            let _infallible = out.write_fmt(format_args!("{text}\n"));
        };
        line(chains, format_args!(":KUBE-SVC-{own} - [0:0]"));
        line(
            services,
            format_args!("-A KUBE-SERVICES {to} -m comment --comment \"{about} cluster IP\" -j KUBE-SVC-{own}"),
        );
        line(
            rules,
            format_args!("-A KUBE-SVC-{own} ! -s {pods} {to} -m comment --comment \"{about}\" -j KUBE-MARK-MASQ"),
        );
        if let Some(node_port) = port.node_port {
            line(chains, format_args!(":KUBE-EXT-{own} - [0:0]"));
            line(
                node_ports,
                format_args!(
                    "-A KUBE-NODEPORTS -p {transport} -m {transport} --dport {node_port} -m comment --comment \"{about}\" -j KUBE-EXT-{own}"
                ),
            );
            line(
                rules,
                format_args!("-A KUBE-EXT-{own} -m comment --comment \"{about} from outside\" -j KUBE-MARK-MASQ"),
            );
            line(rules, format_args!("-A KUBE-EXT-{own} -j KUBE-SVC-{own}"));
        }
        for (i, ips) in port.endpoints.iter().enumerate() {
            let (pod, end) = (family.of(*ips), id(&service.name, port, Some(i)));
            let at = at(pod, TARGET);
            let left = port.endpoints.len() - i;
            // The last of them takes what is left.
            let chance = match left {
                1 => String::new(),
                _ => format!(" -m statistic --mode random --probability {:.11}", 1.0 / left as f64),
            };
            line(chains, format_args!(":KUBE-SEP-{end} - [0:0]"));
            line(
                rules,
                format_args!("-A KUBE-SVC-{own} -m comment --comment \"{about} -> {at}\"{chance} -j KUBE-SEP-{end}"),
            );
            line(
                rules,
                format_args!("-A KUBE-SEP-{end} -s {pod}/{bits} -m comment --comment \"{about}\" -j KUBE-MARK-MASQ"),
            );
            line(
                rules,
                format_args!(
                    "-A KUBE-SEP-{end} -p {transport} -m comment --comment \"{about}\" -m {transport} -j DNAT --to-destination {at}"
                ),
            );
        }
    }
}

/// Sixteen letters, the same for the same port or endpoint.
pub(super) fn id(service: &str, port: &ServicePort, endpoint: Option<usize>) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    (service, port.name, port.transport == Transport::Udp, endpoint).hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}

/// Address and port, as rules write them.
pub(super) fn at(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

const fn prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::services::tests::sample, *};

    #[test]
    fn a_rule_for_each_service_port_and_the_measured_one_in_the_middle() {
        let text = rules(&sample(101), Family::V4, "10.244.0.0/16");
        let listed: Vec<&str> = text.lines().filter(|line| line.starts_with("-A KUBE-SERVICES -d")).collect();
        assert_eq!(listed.len(), 104);
        assert!(listed[50].contains("measured"), "{}", listed[50]);
    }

    #[test]
    fn chances_of_two_endpoints_are_a_half_and_the_rest() {
        let text = rules(&sample(2), Family::V4, "10.244.0.0/16");
        assert_eq!(text.matches("--probability 0.50000000000").count(), 1, "{text}");
        let text = rules(&sample(2), Family::V6, "fd00:10:244::/48");
        assert!(text.contains("--to-destination [fd00:10:244::2]:8080"), "{text}");
        assert!(
            text.lines().all(|line| !line.starts_with(':') || line.split(' ').next().is_some_and(|c| c.len() <= 29))
        );
    }
}
