//! Single values: addresses, ports, ranges, names. Knows no object.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::{FieldPath, Invalid};
use crate::{
    model::shared,
    plan::state::{Protocol, ServiceName},
};

/// Marks a Service, or its slices, as another proxy's.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Marks the endpoints of a headless Service.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Labels or annotations.
pub(super) type Words = Option<BTreeMap<String, String>>;

/// The value of a label or annotation.
pub(super) fn word<'a>(words: &'a Words, key: &str) -> Option<&'a str> {
    words.as_ref()?.get(key).map(String::as_str)
}

/// Whether the labels say that a service proxy like ours should look away. As in kube-proxy, the labels' presence
/// decides, not their value.
pub(super) fn not_ours(metadata: &ObjectMeta) -> bool {
    [PROXY_NAME, HEADLESS].iter().any(|key| word(&metadata.labels, key).is_some())
}

/// `metadata.name`.
pub(super) fn name(metadata: &ObjectMeta) -> Result<&str, Invalid> {
    let path = || FieldPath::new(["metadata", "name"]);
    match metadata.name.as_deref() {
        None | Some("") => Err(Invalid::new(path(), "is missing")),
        Some(name) => checked_name(name).map_err(|cause| Invalid::new(path(), cause)),
    }
}

/// `metadata.namespace` and `metadata.name`; an absent namespace is `default`.
pub(super) fn namespaced(metadata: &ObjectMeta) -> Result<(&str, &str), Invalid> {
    let namespace = match metadata.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => {
            checked_name(namespace).map_err(|cause| Invalid::new(FieldPath::new(["metadata", "namespace"]), cause))?
        }
    };
    Ok((namespace, name(metadata)?))
}

/// [`namespaced`] of a Service, or of what bears its name.
pub(super) fn service_name(metadata: &ObjectMeta) -> Result<ServiceName, Invalid> {
    namespaced(metadata).map(|(namespace, name)| ServiceName::new(namespace, name))
}

/// A name that Kubernetes would take: it stands in keys, tables and metrics, so that anything else could be read as
/// something it is not.
pub(super) fn checked_name(name: &str) -> Result<&str, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.len() <= 253 && name.chars().all(good) {
        Ok(name)
    } else {
        Err(format!("{name:?} is not a name: up to 253 of a–z, 0–9, \"-\" and \".\""))
    }
}

/// A port, 1–65535.
pub(super) fn port(value: i32, path: impl FnOnce() -> FieldPath) -> Result<u16, Invalid> {
    match u16::try_from(value) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Invalid::new(path(), format!("{value} is not a port: 1–65535"))),
    }
}

/// A port that is not set where it is left out or 0.
pub(super) fn optional_port(value: Option<i32>, path: impl FnOnce() -> FieldPath) -> Result<Option<u16>, Invalid> {
    value.filter(|v| *v != 0).map(|v| port(v, path)).transpose()
}

/// A protocol; left out, TCP.
pub(super) fn protocol(value: Option<&str>, path: impl FnOnce() -> FieldPath) -> Result<Protocol, Invalid> {
    match value {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Invalid::new(path(), format!("{other:?} is not a protocol: TCP, UDP or SCTP"))),
    }
}

/// One of several words; left out or empty, the first.
pub(super) fn choice<T: Copy, const N: usize>(
    value: Option<&str>,
    choices: [(&str, T); N],
    path: impl FnOnce() -> FieldPath,
) -> Result<T, Invalid> {
    let value = value.filter(|v| !v.is_empty()).unwrap_or(choices[0].0);
    choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        Invalid::new(path(), format!("{value:?} is not known: {}", words.join(" or ")))
    })
}

/// An address. An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`) is the IPv4 address, as it is to kube-proxy.
pub(super) fn address(text: &str, path: impl FnOnce() -> FieldPath) -> Result<IpAddr, Invalid> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => Err(Invalid::new(path(), format!("{text:?} is not an IP address"))),
    }
}

/// An address that a packet can have been sent to.
pub(super) fn virtual_address(text: &str, path: impl Fn() -> FieldPath) -> Result<IpAddr, Invalid> {
    let address = address(text, &path)?;
    let broadcast = matches!(address, IpAddr::V4(a) if a.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(Invalid::new(path(), format!("{address} is an unspecified, multicast or broadcast address")));
    }
    Ok(address)
}

/// An address that means the same thing everywhere (`ValidateNonSpecialIP`): neither loopback nor link-local.
pub(super) fn routable_address(text: &str, path: impl Fn() -> FieldPath) -> Result<IpAddr, Invalid> {
    let address = virtual_address(text, &path)?;
    let link_local = match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    if address.is_loopback() || link_local {
        return Err(Invalid::new(path(), format!("{address} is a loopback or link-local address")));
    }
    Ok(address)
}

/// An address range with its host bits cleared. Kubernetes tolerates white space around it, and so do we.
pub(super) fn range(text: &str, path: impl FnOnce() -> FieldPath) -> Result<IpNet, Invalid> {
    let net: IpNet = text
        .trim()
        .parse()
        .map_err(|_| Invalid::new(path(), format!("{text:?} is not a range such as 192.0.2.0/24")))?;
    let mapped = |a: Ipv6Addr, len: u8| Some((a.to_ipv4_mapped()?, len.checked_sub(96)?));
    let net = match net {
        IpNet::V4(_) => net,
        IpNet::V6(v6) => mapped(v6.addr(), v6.prefix_len())
            .and_then(|(addr, len)| Ipv4Net::new(addr, len).ok())
            .map_or(net, IpNet::V4),
    };
    Ok(net.trunc())
}

/// The shared copy of a name; left out or empty: none.
pub(super) fn shared_some(name: Option<&String>) -> Option<Arc<str>> {
    name.filter(|n| !n.is_empty()).map(|n| shared(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere() -> FieldPath {
        FieldPath::default()
    }

    #[test]
    fn ranges_are_normal() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            (" 10.1.2.3/8\t", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.1/32", "192.0.2.1/32"),
            ("FD00:0::1/64", "fd00::/64"),
            ("::/0", "::/0"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
        ] {
            assert_eq!(range(text, nowhere).map(|r| r.to_string()).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0.0/-1", "10.0.0/8", "a/8", "10.0.0.0 /8"] {
            assert!(range(text, nowhere).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_normal() {
        for (text, any, special, expected) in [
            ("10.0.0.1", true, true, "10.0.0.1"),
            ("FD00:0:0::1", true, true, "fd00::1"),
            ("::ffff:10.0.0.1", true, true, "10.0.0.1"),
            ("127.0.0.1", true, false, "127.0.0.1"),
            ("::1", true, false, "::1"),
            ("169.254.169.254", true, false, "169.254.169.254"),
            ("fe80::1", true, false, "fe80::1"),
            ("0.0.0.0", false, false, ""),
            ("::", false, false, ""),
            ("::ffff:0.0.0.0", false, false, ""),
            ("224.0.0.1", false, false, ""),
            ("ff02::1", false, false, ""),
            ("10.0.0.01", false, false, ""),
            ("10.0.0.1 ", false, false, ""),
            ("[fd00::1]", false, false, ""),
            ("fe80::1%eth0", false, false, ""),
            ("", false, false, ""),
        ] {
            let found = virtual_address(text, nowhere).ok();
            assert_eq!(found.map(|a| a.to_string()), any.then(|| expected.to_owned()), "{text}");
            assert_eq!(routable_address(text, nowhere).is_ok(), special, "{text}");
        }
    }

    #[test]
    fn names_are_names() {
        for good in ["a", "web-1", "10.0.0.1", &"a".repeat(253)] {
            assert!(checked_name(good).is_ok(), "{good}");
        }
        for bad in ["A", "a/b", "a b", "é", "a\n", &"a".repeat(254)] {
            assert!(checked_name(bad).is_err(), "{bad}");
        }
    }
}
