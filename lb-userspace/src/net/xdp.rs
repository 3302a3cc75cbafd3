//! Which devices XDP is for, by what they are and what the operator asks for. Pure: whether the driver takes it is found
//! out by the loader, by trying.

use serde::Deserialize;

use super::{
    classify::LinkKind,
    links::{Layer, Link},
};

/// The largest MTU whose frames drivers hold in one piece: a page of 4096 bytes, without 256 of headroom, 320 for
/// `skb_shared_info` and 14 of Ethernet header, is 3506. The program takes no frame of several pieces.
const MTU_MOST: u32 = 3500;

/// `--xdp`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver of hardware, where it takes the program.
    #[default]
    Auto,
    /// In the driver, of virtual devices as well.
    Native,
    /// In the stack, before anything else looks at the packet.
    Generic,
    /// Never.
    Off,
}

/// What is to be done about XDP on a link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum XdpPlan {
    /// Attach to the driver.
    Driver,
    /// Attach to the stack.
    Stack,
    /// Nothing, for this reason.
    Not(String),
}

impl XdpPlan {
    /// For a link of this kind.
    #[must_use]
    pub fn new(link: &Link, kind: Option<LinkKind>, mode: XdpMode) -> Self {
        match why_not(link, kind, mode) {
            Some(reason) => Self::Not(reason),
            None if mode == XdpMode::Generic => Self::Stack,
            None => Self::Driver,
        }
    }
}

fn why_not(link: &Link, kind: Option<LinkKind>, mode: XdpMode) -> Option<String> {
    if kind != Some(LinkKind::Uplink) {
        return Some("no uplink".to_owned());
    }
    if mode == XdpMode::Off {
        return Some("--xdp off".to_owned());
    }
    if link.layer != Layer::Ethernet {
        return Some("it has no Ethernet header".to_owned());
    }
    match link.kind.as_deref() {
        Some("bridge") => return Some("a bridge has no driver; its ports are not ours to take frames from".to_owned()),
        Some(virtual_kind) if mode == XdpMode::Auto => {
            return Some(format!(
                "a virtual device ({virtual_kind}): the checksums of its frames may be partial, which XDP cannot tell"
            ));
        }
        Some(_) | None => {}
    }
    (mode != XdpMode::Generic && link.mtu > MTU_MOST)
        .then(|| format!("MTU {} is more than {MTU_MOST}: frames may come in several pieces", link.mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: Option<&str>) -> Link {
        Link {
            ifindex: 2,
            name: "eth0".into(),
            kind: kind.map(str::to_owned),
            master: None,
            peer: None,
            peer_netns: None,
            filters_vlans: false,
            mtu: 1500,
            mac: vec![2; 6],
            up: true,
            running: true,
            layer: Layer::Ethernet,
            serial: 1,
        }
    }

    #[track_caller]
    fn not(link: &Link, mode: XdpMode, word: &str) {
        match XdpPlan::new(link, Some(LinkKind::Uplink), mode) {
            XdpPlan::Not(reason) => assert!(reason.contains(word), "{reason}"),
            plan @ (XdpPlan::Driver | XdpPlan::Stack) => panic!("{plan:?} for {link:?} by {mode:?}"),
        }
    }

    #[test]
    fn hardware_is_tried_and_virtual_devices_only_on_demand() {
        use XdpMode::{Auto, Generic, Native, Off};
        let uplink = Some(LinkKind::Uplink);
        for (kind, mode, plan) in [
            (None, Auto, XdpPlan::Driver),
            (None, Native, XdpPlan::Driver),
            (None, Generic, XdpPlan::Stack),
            (Some("veth"), Native, XdpPlan::Driver),
            (Some("veth"), Generic, XdpPlan::Stack),
            (Some("bond"), Native, XdpPlan::Driver),
        ] {
            assert_eq!(XdpPlan::new(&link(kind), uplink, mode), plan, "{kind:?} by {mode:?}");
        }
        not(&link(Some("veth")), Auto, "(veth)");
        not(&link(None), Off, "--xdp off");
        for mode in [Auto, Native, Generic] {
            not(&link(Some("bridge")), mode, "bridge");
            not(&Link { layer: Layer::None, ..link(None) }, mode, "no Ethernet header");
        }
    }

    #[test]
    fn only_uplinks_have_it() {
        for kind in [None, Some(LinkKind::Pod), Some(LinkKind::Overlay)] {
            let plan = XdpPlan::new(&link(None), kind, XdpMode::Generic);
            assert_eq!(plan, XdpPlan::Not("no uplink".to_owned()), "{kind:?}");
        }
    }

    #[test]
    fn frames_in_several_pieces_are_left_to_tc() {
        let at = |mtu| Link { mtu, ..link(None) };
        let plan = |mtu, mode| XdpPlan::new(&at(mtu), Some(LinkKind::Uplink), mode);
        assert_eq!(plan(3500, XdpMode::Auto), XdpPlan::Driver);
        not(&at(3501), XdpMode::Auto, "3501");
        not(&at(9000), XdpMode::Native, "9000");
        assert_eq!(plan(9000, XdpMode::Generic), XdpPlan::Stack, "the stack makes one piece of them");
    }
}
