//! Values of settings: how each is written on the command line, in the environment and in the config file.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use lb_common::abi::{delivery, forwarding, socket_lb};
use serde::Deserialize;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    maps::{MAGLEV_SIZES, MaglevSize},
    net::{Glob, spans_ipv4},
    plan::NodePortAddresses,
};

macro_rules! from_text {
    ($($type:ty),+ $(,)?) => {
        $(
            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
                }
            }
        )+
    };
}
from_text!(SocketLb, Listen, LogLevel, DatapathLog, NodeAddress);

/// A list of names with wildcards.
#[derive(Clone, Debug)]
pub struct Globs(pub Vec<Glob>);

impl FromStr for Globs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let globs: Vec<Glob> =
            names.map(|name| name.parse::<Glob>().map_err(|error| error.to_string())).collect::<Result<_, _>>()?;
        if globs.is_empty() {
            return Err(
                "it names no link: leave it out to have links detected, or give a name that no link has, such as \
                        none, to have none of this kind"
                    .to_owned(),
            );
        }
        Ok(Self(globs))
    }
}

impl<'de> Deserialize<'de> for Globs {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        list_text(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A list of networks that pods are in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cidrs(pub Vec<IpNet>);

impl FromStr for Cidrs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let networks = text.split(',').map(str::trim).filter(|net| !net.is_empty());
        networks
            .map(|net| {
                let found: IpNet = net.parse().map_err(|_| format!("{net:?} is no network such as 10.244.0.0/16"))?;
                if spans_ipv4(&found) {
                    return Err(format!("{net} spans all of IPv4, too, in its mapped form: give a narrower network"));
                }
                Ok(found)
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for Cidrs {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        list_text(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which addresses node ports listen on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortAddresses(pub NodePortAddresses);

impl FromStr for PortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl<'de> Deserialize<'de> for PortAddresses {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        list_text(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A text with commas, or a list that becomes one.
pub(super) fn list_text<'de, D: serde::Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        List(Vec<String>),
    }
    Ok(match Form::deserialize(d)? {
        Form::Text(text) => text,
        Form::List(list) => list.join(","),
    })
}

/// An address that this node is known by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeAddress(pub IpAddr);

/// The addresses that `--node-address` gives; an empty list gives none.
pub(super) fn node_addresses(given: Option<Vec<NodeAddress>>) -> Option<Vec<IpAddr>> {
    let given = given.filter(|given| !given.is_empty())?;
    Some(given.into_iter().map(|address| address.0).collect())
}

impl FromStr for NodeAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        crate::cli::plan::node_address(text).map(Self)
    }
}

/// `tcp,udp`, `tcp` or `off`, as [`socket_lb`] bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SocketLb(pub u8);

impl FromStr for SocketLb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp,udp" => Ok(Self(socket_lb::TCP | socket_lb::UDP)),
            "tcp" => Ok(Self(socket_lb::TCP)),
            "off" => Ok(Self(0)),
            _ => Err(format!("{text:?} is not one of tcp,udp or tcp or off")),
        }
    }
}

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listen {
    /// Not at all.
    Off,
    /// There.
    At(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| format!("{text:?} is neither ADDRESS:PORT nor off"))
    }
}

/// Slots of a Maglev table: one of [`MAGLEV_SIZES`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TableSize(pub MaglevSize);

impl TryFrom<u16> for TableSize {
    type Error = String;

    fn try_from(size: u16) -> Result<Self, String> {
        let known = MaglevSize::new(size).filter(|size| MAGLEV_SIZES.contains(&size.get()));
        known.map(Self).ok_or_else(|| {
            let sizes: Vec<String> = MAGLEV_SIZES.iter().map(ToString::to_string).collect();
            format!("{size} is not one of {}", sizes.join(", "))
        })
    }
}

impl FromStr for TableSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<u16>().map_err(|_| format!("{text:?} is not a number of slots"))?.try_into()
    }
}

impl<'de> Deserialize<'de> for TableSize {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        u16::deserialize(d)?.try_into().map_err(serde::de::Error::custom)
    }
}

/// What the agent logs: a level, or a filter of the tracing crate (`warn,berrylb::net=debug`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogLevel(pub String);

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let refused = || format!("{text:?} is not one of error, warn, info, debug, trace, off, nor a filter of these");
        // tracing takes any other word for a target, and a filter that names only that target silences all the rest.
        let is_word = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if parts.iter().any(|part| part.is_empty() || is_word(part) && part.parse::<LevelFilter>().is_err()) {
            return Err(refused());
        }
        let filter = parts.join(",");
        EnvFilter::try_new(&filter).map_err(|_| refused())?;
        Ok(Self(filter))
    }
}

/// A level of the datapath's debug log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DatapathLog(pub tracing::Level);

impl FromStr for DatapathLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is not one of error, warn, info, debug, trace"))
    }
}

macro_rules! choices {
    ($($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $vdoc:literal])+ $variant:ident),+ $(,)? })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum, Deserialize)]
            #[serde(rename_all = "lowercase")]
            pub enum $name {
                $($(#[doc = $vdoc])+ $variant),+
            }
        )+
    };
}

choices! {
    /// A switch.
    OnOff {
        /// On.
        On,
        /// Off.
        Off,
    }
    /// Way of flows between pods of one bridge.
    LocalPath {
        /// The stack where bridged frames pass netfilter, else redirect.
        Auto,
        /// Past the stack in both directions.
        Redirect,
        /// Through the stack in both directions.
        Stack,
    }
    /// How packets of a Service get to a pod of this node.
    PodDelivery {
        /// As routes lead there: by the bridge.
        Bridge,
        /// By its link, past the bridge.
        Link,
        /// Into its network namespace, past its link.
        Direct,
    }
    /// How packets from outside get to other nodes' backends.
    Forwarding {
        /// With an address of this node as source; replies come back through it.
        Snat,
        /// Unchanged, to be translated there; replies go straight out.
        Dsr,
    }
    /// Hook of tc programs.
    Tc {
        /// The best that the kernel has.
        Auto,
        /// Links (Linux 6.6).
        Tcx,
        /// Filters of a clsact qdisc.
        Clsact,
    }
    /// Form of log lines.
    LogFormat {
        /// For people.
        Text,
        /// One object a line.
        Json,
    }
}

impl fmt::Display for LocalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Redirect => "redirect",
            Self::Stack => "stack",
        })
    }
}

impl From<PodDelivery> for u8 {
    fn from(how: PodDelivery) -> Self {
        match how {
            PodDelivery::Bridge => delivery::BRIDGE,
            PodDelivery::Link => delivery::LINK,
            PodDelivery::Direct => delivery::DIRECT,
        }
    }
}

impl From<Forwarding> for u32 {
    fn from(how: Forwarding) -> Self {
        match how {
            Forwarding::Snat => forwarding::SNAT,
            Forwarding::Dsr => forwarding::DSR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_level_that_would_silence_the_log_is_refused() {
        for good in ["error", "warn", "INFO", "debug", "trace", "off", "warn,berrylb::net=debug"] {
            assert_eq!(good.parse(), Ok(LogLevel(good.to_owned())));
        }
        assert_eq!("berrylb=trace, info".parse(), Ok(LogLevel("berrylb=trace,info".to_owned())));
        for bad in ["", "warning", "berrylb", "info,", "berrylb=loud", "a=b=c", "-1"] {
            assert!(bad.parse::<LogLevel>().is_err_and(|error| error.contains("error, warn, info")), "{bad:?}");
        }
    }

    /// What a flag refuses, the config file does not take either, and both mean the same by the same words.
    #[test]
    fn addresses_of_the_node_are_checked_in_the_file_as_well() {
        let read = |text: &str| serde_yaml::from_str::<Vec<NodeAddress>>(text).map_err(|error| error.to_string());
        assert_eq!(read("['::ffff:192.0.2.1']"), Ok(vec![NodeAddress([192, 0, 2, 1].into())]));
        for text in ["[0.0.0.0]", "['::']", "[ff02::1]", "[raspi002]"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
