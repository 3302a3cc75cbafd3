//! `--nodeport-addresses`: on which of the node's addresses node ports listen.
//!
//! The values are kube-proxy's (`NodePortAddresses`, `pkg/proxy/apis/config/types.go`), but for `localhost`: loopback
//! addresses have a flag of their own.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// A choice among the node's addresses: those that any part of it names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodePortAddresses {
    /// The first address of each family.
    primary: bool,
    /// Host bits cleared.
    ranges: Vec<IpNet>,
}

impl NodePortAddresses {
    /// The chosen addresses. `own` are those that the node is known by, in order of preference; `local` are all others
    /// that its links have, which only ranges can name.
    pub(super) fn choose(&self, own: &[IpAddr], local: &[IpAddr]) -> Vec<IpAddr> {
        let named = |ip: &&IpAddr| self.ranges.iter().any(|range| range.contains(*ip));
        let mut chosen: Vec<IpAddr> = own.iter().chain(local).filter(named).copied().collect();
        if self.primary {
            let first = |v4| own.iter().find(|ip| ip.is_ipv4() == v4);
            chosen.extend(first(true).into_iter().chain(first(false)));
        }
        chosen
    }
}

impl FromStr for NodePortAddresses {
    type Err = String;

    /// `primary`, `all` and ranges, separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut choice = Self::default();
        for part in text.split(',').map(str::trim) {
            match part {
                "primary" => choice.primary = true,
                "all" => {
                    choice.ranges.extend([IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())])
                }
                "localhost" => {
                    return Err("localhost is no value here: --localhost-nodeports decides for loopback".to_owned());
                }
                range => {
                    let range: IpNet = range
                        .parse()
                        .map_err(|_| format!("{range:?} is not primary, all or a range such as 192.0.2.0/24"))?;
                    choice.ranges.push(range.trunc());
                }
            }
        }
        Ok(choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().expect("an address")).collect()
    }

    /// The node is known by two addresses of each family; a dummy device has others.
    #[track_caller]
    fn check(choice: &str, expected: &str) {
        let own = ips("192.168.1.11 10.9.0.2 2001:db8::2 2001:db8::1");
        let mut chosen = choice.parse::<NodePortAddresses>().unwrap().choose(&own, &ips("10.9.0.7 10.9.0.2 fd00::7"));
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen, ips(expected), "{choice}");
    }

    #[test]
    fn parts_add_up() {
        check("primary", "192.168.1.11 2001:db8::2");
        check("10.9.0.0/24", "10.9.0.2 10.9.0.7");
        check("10.9.0.5/24", "10.9.0.2 10.9.0.7");
        check("10.9.0.7/32, 2001:db8::/64", "10.9.0.7 2001:db8::1 2001:db8::2");
        check("primary,fd00::/8", "192.168.1.11 2001:db8::2 fd00::7");
        check("0.0.0.0/0", "10.9.0.2 10.9.0.7 192.168.1.11");
        check("all", "10.9.0.2 10.9.0.7 192.168.1.11 2001:db8::1 2001:db8::2 fd00::7");
        check("203.0.113.0/24", "");
    }

    #[test]
    fn other_words_are_refused() {
        for (text, part) in [
            ("", "\"\" is not primary"),
            ("primary,", "\"\" is not primary"),
            ("secondary", "\"secondary\" is not primary"),
            ("192.168.1.11", "\"192.168.1.11\" is not primary"),
            ("192.168.1.0/33", "is not primary, all or a range"),
            ("localhost", "--localhost-nodeports"),
        ] {
            let error = text.parse::<NodePortAddresses>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
