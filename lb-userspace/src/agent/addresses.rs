//! Brings this node's and other nodes' addresses from links and Node objects to the planner and the tables.
//!
//! Runs before every change; where no address changed, it looks at no Service and at no other node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::state::Agent;

/// Loopback addresses of every node; the first stands for 127.0.0.0/8.
const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

impl Agent {
    pub(super) fn settle_addresses(&mut self) {
        if self.settings.node_address.is_none() {
            let known = self.own_node.known;
            if known {
                self.planner.set_node_addresses(None);
            }
            // They say which devices lead out of the node; only what the Node object says, not what followed from the links,
            // nor what --nodeport-addresses chooses among all that the links have: a pod bridge leads nowhere.
            let given = if known { self.planner.own_addresses() } else { Vec::new() };
            if self.classify.node_addresses != given {
                self.classify.node_addresses = given;
                self.follow_table(false);
            }
            let from_links = (!known).then(|| self.links.topology().node_addresses.clone());
            self.planner.set_node_addresses(from_links);
        }
        self.planner.set_local_addresses(self.links.topology().local_addresses.clone());
        let own_changed = self.tables.set_own_addresses(self.planner.own_addresses());
        // Until all Node objects are read, those of an earlier run stay: packets are being handed over to this node.
        let all_read = self.unreadable.is_empty() && self.unreadable_files.is_empty();
        if all_read && self.planner.peers_changed() {
            let written = self.tables.set_peer_addresses(&self.planner.peer_addresses());
            if written.is_ok() {
                self.planner.peers_told();
            }
            self.note("the other nodes' addresses are not all in the datapath", written);
        }
        let localhost: &[IpAddr] = if self.settings.localhost_nodeports { &LOCALHOST } else { &[] };
        let sources = self.links.topology().sources();
        let written = self.tables.set_link_addresses(&self.planner.node_addresses(), localhost, &sources);
        if matches!(written, Ok(changed) if changed || own_changed) {
            self.apply_restricted();
        }
        self.note("the node's addresses are not all in the datapath", written.map(drop));
    }

    /// Applies the Services with source ranges again: whether the node itself is among the sources may have changed.
    fn apply_restricted(&mut self) {
        let mut changes = self.planner.all();
        changes.retain(|change| change.frontends.iter().any(|frontend| frontend.has_source_ranges));
        self.apply(&changes);
    }
}
