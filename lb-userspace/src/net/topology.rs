//! All that follows from the table of links, as one value that can be compared with the one before. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::abi::{Addr, Dev, dev_kind};

use super::{
    addresses::node_addresses,
    classify::{Classified, ClassifyOptions, LinkKind, LinkRole, classify},
    devs::{devs, pod_gateway, pod_sources},
    links::Table,
    pod_nets::pod_nets,
};

/// Roles, `devs` entries and addresses of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Every link with the decision about it, in order of index.
    pub classified: Vec<Classified>,
    /// Entries of `devs` by interface index.
    pub devs: BTreeMap<u32, Dev>,
    /// The node's addresses: those given, else those of the uplinks.
    pub node_addresses: Vec<IpAddr>,
    /// Sources of translated packets to other nodes' pods, IPv4 and IPv6; unspecified: none.
    pub pod_sources: (Addr, Addr),
    /// Networks of other nodes' pods.
    pub pod_nets: BTreeSet<IpNet>,
    /// Global addresses of all its links, whatever they are for, sorted.
    pub local_addresses: Vec<IpAddr>,
    /// Roles by interface index, with the serial of the link, which tells a new device from an old one of that index.
    roles: BTreeMap<u32, (u64, LinkRole)>,
}

/// What has to be done to get from one topology to the next, in this order: `devs` entries before programs that read
/// them, programs before the entries that they read go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopologyChanges {
    /// Entries of `devs` to write.
    pub set_devs: Vec<(u32, Dev)>,
    /// Links to attach programs to. A vanished device (`ENODEV`) is no reason to worry: its removal follows.
    pub attach: Vec<LinkRole>,
    /// Links to take programs off.
    pub detach: Vec<u32>,
    /// Entries of `devs` to remove.
    pub remove_devs: Vec<u32>,
    /// Whether the node's addresses changed, its own or those that translated packets bear.
    pub addresses: bool,
    /// Whether the networks of other nodes' pods changed.
    pub pod_nets: bool,
}

impl TopologyChanges {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Topology {
    /// Derives everything from the table.
    #[must_use]
    pub fn derive(table: &Table, options: &ClassifyOptions) -> Self {
        let classified = classify(table, options);
        let node_addresses = if options.node_addresses.is_empty() {
            node_addresses(table, &classified)
        } else {
            options.node_addresses.clone()
        };
        let gateway = pod_gateway(table, &classified);
        let devs = devs(table, &classified, &node_addresses, &gateway);
        let pod_sources = pod_sources(table, &classified, &node_addresses, &gateway);
        let pod_nets = pod_nets(table, &classified, &gateway.networks, &options.cluster_cidrs);
        let roles = classified
            .iter()
            .filter_map(|link| Some((link.ifindex, (table.link(link.ifindex)?.serial, link.role()?))))
            .collect();
        let global = table.links().flat_map(|link| table.global_addresses(link.ifindex)).map(|address| address.ip);
        let local_addresses = global.collect::<BTreeSet<_>>().into_iter().collect();
        Self { classified, devs, node_addresses, local_addresses, pod_sources, pod_nets, roles }
    }

    /// Addresses that translated packets may bear as source, and all others of the node, each once: packets to any of them
    /// are for the node itself.
    #[must_use]
    pub fn sources(&self) -> Vec<IpAddr> {
        let routed = self.devs.values().filter(|dev| dev.kind != dev_kind::POD);
        let of_devs = routed.flat_map(|dev| [dev.source_v4, dev.source_v6]);
        let all: BTreeSet<IpAddr> = of_devs
            .chain([self.pod_sources.0, self.pod_sources.1])
            .filter(|addr| !addr.is_unspecified())
            .map(IpAddr::from)
            .chain(self.local_addresses.iter().copied())
            .collect();
        all.into_iter().collect()
    }

    /// Links that programs belong on, in order of index.
    pub fn roles(&self) -> impl Iterator<Item = &LinkRole> {
        self.roles.values().map(|(_, role)| role)
    }

    /// What leads from this topology to `next`. After a resync ([`super::NetEvent::resynced`]) every link is attached
    /// again, as one may have been replaced unseen; attaching replaces in place.
    #[must_use]
    pub fn changes(&self, next: &Self, resynced: bool) -> TopologyChanges {
        let same = |index: &u32, role: &(u64, LinkRole)| {
            // A new name or reason alone changes no program.
            !resynced
                && self.roles.get(index).is_some_and(|(serial, old)| {
                    (*serial, old.kind, old.l2_len, old.answers, &old.xdp)
                        == (role.0, role.1.kind, role.1.l2_len, role.1.answers, &role.1.xdp)
                })
        };
        let mut attach: Vec<LinkRole> =
            next.roles.iter().filter(|(index, role)| !same(index, role)).map(|(_, (_, role))| role.clone()).collect();
        // Replies are looked for there before they are not any more on the links of its pods.
        attach.sort_by_key(|role| role.kind != LinkKind::Bridge);
        TopologyChanges {
            set_devs: next
                .devs
                .iter()
                .filter(|(index, dev)| self.devs.get(index) != Some(dev))
                .map(|(index, dev)| (*index, *dev))
                .collect(),
            attach,
            detach: self.roles.keys().filter(|index| !next.roles.contains_key(index)).copied().collect(),
            remove_devs: self.devs.keys().filter(|index| !next.devs.contains_key(index)).copied().collect(),
            addresses: self.node_addresses != next.node_addresses || self.sources() != next.sources(),
            pod_nets: self.pod_nets != next.pod_nets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::test_table::TestTable, *};

    fn derive(t: &TestTable) -> Topology {
        Topology::derive(&t.table, &ClassifyOptions::default())
    }

    fn node() -> TestTable {
        let mut t = TestTable::default();
        t.link(2, "eth0", None).address(2, "192.168.1.2", 24).default_route(2);
        t.link(3, "cni0", Some("bridge")).address(3, "10.244.1.1", 24);
        t
    }

    #[test]
    fn from_nothing_everything_is_set_and_attached() {
        let mut t = node();
        t.pod(5, "veth5", Some(3));
        let changes = Topology::default().changes(&derive(&t), false);
        assert_eq!(changes.set_devs.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [2, 5]);
        let attach: Vec<_> = changes.attach.iter().map(|role| (role.ifindex, role.kind)).collect();
        assert_eq!(attach, [(2, LinkKind::Uplink), (5, LinkKind::Pod)]);
        assert!(changes.addresses && changes.detach.is_empty() && changes.remove_devs.is_empty());
        assert!(derive(&t).changes(&derive(&t), false).is_empty());
        let again = derive(&t).changes(&derive(&t), true);
        assert_eq!(again, TopologyChanges { attach: changes.attach, ..TopologyChanges::default() });
    }

    #[test]
    fn a_pod_that_joins_its_bridge_later_is_attached_once() {
        let mut t = node();
        let before = derive(&t);
        t.pod(5, "veth5", None);
        let alone = derive(&t);
        assert_eq!(before.changes(&alone, false).attach.len(), 1);
        t.pod(5, "veth5", Some(3));
        let changes = alone.changes(&derive(&t), false);
        assert!(changes.attach.is_empty());
        assert_eq!(changes.set_devs.first().map(|(index, dev)| (*index, dev.bridge)), Some((5, 3)));
        t.pod(5, "renamed", Some(3));
        assert!(derive(&t).changes(&derive(&t), false).is_empty());
    }

    #[test]
    fn what_answers_changes_from_the_bridge_to_the_links_and_back_without_a_gap() {
        let mut t = node();
        t.link(9, "veth9", None).pod(1, "veth1", Some(3)).pod(5, "veth5", Some(3)).pod(6, "veth6", None);
        let links = derive(&t);
        let options = ClassifyOptions { at_bridge: true, ..ClassifyOptions::default() };
        let bridge = Topology::derive(&t.table, &options);
        let roles = |roles: Vec<&LinkRole>| {
            roles.into_iter().map(|role| (role.ifindex, role.kind, role.answers)).collect::<Vec<_>>()
        };
        let (pod, at_bridge) = (LinkKind::Pod, (3, LinkKind::Bridge, false));
        // A pod that is routed to has no bridge.
        let uplink = (2, LinkKind::Uplink, false);
        assert_eq!(roles(links.roles().collect()), [(1, pod, true), uplink, (5, pod, true), (6, pod, true)]);
        assert_eq!(
            roles(bridge.roles().collect()),
            [(1, pod, false), uplink, at_bridge, (5, pod, false), (6, pod, true)]
        );
        let there = links.changes(&bridge, false);
        assert_eq!(roles(there.attach.iter().collect()), [at_bridge, (1, pod, false), (5, pod, false)]);
        assert!(there.detach.is_empty());
        let back = bridge.changes(&links, false);
        assert_eq!(roles(back.attach.iter().collect()), [(1, pod, true), (5, pod, true)]);
        assert_eq!(back.detach, [3], "after what was attached");
        assert!(back.set_devs.is_empty() && back.remove_devs.is_empty() && !back.addresses);
        let filtering = Topology::derive(&t.clone().vlan_filtering(3).table, &options);
        assert_eq!(filtering, Topology::derive(&t.clone().vlan_filtering(3).table, &ClassifyOptions::default()));
        // The last pod of a bridge takes its program along.
        t.gone(1).gone(5);
        assert_eq!(bridge.changes(&Topology::derive(&t.table, &options), false).detach, [1, 3, 5]);
    }

    #[test]
    fn a_pod_that_goes_is_detached_and_forgotten() {
        let mut t = node();
        t.pod(5, "veth5", Some(3));
        let before = derive(&t);
        t.gone(5);
        let changes = before.changes(&derive(&t), false);
        assert_eq!((changes.detach.as_slice(), changes.remove_devs.as_slice()), ([5].as_slice(), [5].as_slice()));
        assert!(changes.attach.is_empty() && changes.set_devs.is_empty() && !changes.addresses);
    }

    #[test]
    fn an_index_that_is_used_again_is_attached_again() {
        let mut t = node();
        t.pod(5, "veth5", Some(3));
        let before = derive(&t);
        t.gone(5).pod(5, "veth5", Some(3));
        let changes = before.changes(&derive(&t), false);
        assert_eq!(changes.attach.iter().map(|role| role.ifindex).collect::<Vec<_>>(), [5]);
        assert!(changes.detach.is_empty());
    }

    #[test]
    fn given_addresses_stand_and_others_follow_the_links() {
        let mut t = node();
        let before = derive(&t);
        t.address(2, "192.168.1.3", 24);
        assert!(before.changes(&derive(&t), false).addresses);
        let given = ClassifyOptions { node_addresses: vec!["192.168.1.2".parse().expect("ip")], ..Default::default() };
        assert_eq!(Topology::derive(&t.table, &given).node_addresses, given.node_addresses);
    }
}
