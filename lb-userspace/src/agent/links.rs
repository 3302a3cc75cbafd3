//! Brings topology changes to the loader and the tables: programs on links, entries of `devs`, the local path.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ipnet::IpNet;
use lb_common::abi::{Config, Dev, local_path};

use super::{api::ApiLink, config::Settings, values::LocalPath, xdp::XdpLinks};
use crate::{
    loader::{Datapath, Error as LoadError, LinkPin},
    maps::{MapStore, PodNet, StoreError},
    net::{BridgeNetfilter, ClassifyOptions, LinkKind, LinkRole, Patterns, Topology, XdpMode},
    plan::compare::Difference,
};

/// The links as they were brought to the kernel, and what could not be.
#[derive(Default)]
pub(super) struct Links {
    topology: Topology,
    /// Links whose programs could not be attached, or not yet; tried again.
    failed: BTreeMap<u32, Unserved>,
    /// Programs of another version serve until this one knows everything: nothing is attached before.
    deferred: bool,
    /// The tables of the links are not as they should be; tried again.
    tables_incomplete: bool,
    /// Link kinds that carry programs at all.
    packet_path: bool,
    xdp: XdpLinks,
}

struct Unserved {
    role: LinkRole,
    /// As it was logged; `None`: not tried yet.
    reason: Option<String>,
}

/// How links are told apart, from the settings. `at_bridge`: replies to pods are looked for where they enter the bridge.
pub(super) fn classify_options(settings: &Settings, at_bridge: bool) -> ClassifyOptions {
    ClassifyOptions {
        patterns: Patterns {
            pod_links: settings.pod_links.clone(),
            uplinks: settings.uplinks.clone(),
            overlays: settings.overlays.clone(),
        },
        node_addresses: settings.node_address.clone().unwrap_or_default(),
        cluster_cidrs: settings.cluster_cidr.clone(),
        xdp: settings.xdp,
        at_bridge,
        delivery: settings.pod_delivery.into(),
    }
}

impl Links {
    /// With `deferred` programs are attached from [`Self::attach_deferred`] on.
    pub(super) fn new(packet_path: bool, deferred: bool, xdp: XdpMode) -> Self {
        Self { packet_path, deferred, xdp: XdpLinks::new(xdp), ..Self::default() }
    }

    pub(super) const fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn has_failures(&self) -> bool {
        self.tables_incomplete || !self.deferred && !self.failed.is_empty()
    }

    /// Whether this program could not be attached, and is tried again.
    pub(super) fn is_failing(&self, pin: LinkPin) -> bool {
        pin.ifindex().is_some_and(|ifindex| self.failed.contains_key(&ifindex))
    }

    /// Whether the tables could not be written, and are tried again.
    pub(super) const fn tables_fail(&self) -> bool {
        self.tables_incomplete
    }

    /// Goes from the present topology to `next`.
    pub(super) fn follow(
        &mut self,
        next: Topology,
        resynced: bool,
        datapath: &mut Datapath,
        store: &mut impl MapStore,
    ) {
        let changes = self.topology.changes(&next, resynced);
        for (ifindex, dev) in &changes.set_devs {
            if let Err(error) = store.put_dev(*ifindex, *dev) {
                self.tables_incomplete = true;
                tracing::error!(
                    "device {ifindex} is not in the datapath: {error}; raise --max-devices if the map is full"
                );
            }
        }
        if changes.pod_nets {
            self.settle_pod_nets(&next.pod_nets, store);
        }
        for role in &changes.attach {
            self.attach(role, None, datapath);
        }
        for ifindex in &changes.detach {
            self.failed.remove(ifindex);
            self.xdp.forget(*ifindex);
            detach(*ifindex, datapath);
        }
        for ifindex in &changes.remove_devs {
            if let Err(error) = store.delete_dev(*ifindex) {
                self.tables_incomplete = true;
                tracing::warn!("device {ifindex} is gone but stays in the table: {error}");
            }
        }
        self.topology = next;
    }

    /// Removes what an earlier run left: entries of devices that are none of ours now, and programs on them.
    pub(super) fn prune(
        &mut self,
        adopted: impl IntoIterator<Item = u32>,
        datapath: &mut Datapath,
        store: &mut impl MapStore,
    ) {
        let attached: Vec<u32> =
            self.topology.roles().filter(|role| self.wants(role)).map(|role| role.ifindex).collect();
        for ifindex in adopted {
            if !attached.contains(&ifindex) {
                detach(ifindex, datapath);
            }
        }
        self.settle_tables(store);
    }

    /// Makes `devs` and `pod_nets` hold what the topology says and nothing else, whatever they hold now.
    pub(super) fn settle_tables(&mut self, store: &mut impl MapStore) {
        self.tables_incomplete = false;
        if let Err(error) = settle_devs(&self.topology.devs, store) {
            self.tables_incomplete = true;
            tracing::error!("the table of devices is not as it should be: {error}");
        }
        let nets = std::mem::take(&mut self.topology.pod_nets);
        self.settle_pod_nets(&nets, store);
        self.topology.pod_nets = nets;
    }

    fn settle_pod_nets(&mut self, wanted: &BTreeSet<IpNet>, store: &mut impl MapStore) {
        if let Err(error) = settle_pod_nets(wanted, store) {
            self.tables_incomplete = true;
            tracing::error!(
                "other nodes' pod networks are not all in the datapath: {error}; raise --max-pod-networks if the map is full"
            );
        }
    }

    /// Tries again what failed.
    pub(super) fn retry(&mut self, datapath: &mut Datapath, store: &mut impl MapStore) {
        if self.tables_incomplete {
            self.settle_tables(store);
        }
        self.attach_failed(datapath);
    }

    fn wants(&self, role: &LinkRole) -> bool {
        self.packet_path || !matches!(role.kind, LinkKind::Pod | LinkKind::Bridge)
    }

    /// From now on programs are attached, and those that waited for this are.
    pub(super) fn attach_deferred(&mut self, datapath: &mut Datapath) {
        if std::mem::take(&mut self.deferred) {
            self.attach_failed(datapath);
        }
    }

    /// Tries XDP again where it was refused: another version's program may have been in its place.
    pub(super) fn retry_xdp(&mut self, datapath: &mut Datapath) {
        for role in self.topology.roles() {
            if self.xdp.is_refused(role.ifindex) {
                self.xdp.settle(role, datapath);
            }
        }
    }

    /// The programs that are to be attached, each with its device's name.
    pub(super) fn pins(&self) -> BTreeMap<LinkPin, String> {
        let wanted = self.topology.roles().filter(|role| self.wants(role));
        wanted
            .flat_map(|role| {
                let pins = Datapath::pins_of(role, self.xdp.is_attached(role.ifindex));
                pins.into_iter().map(|pin| (pin, role.name.clone()))
            })
            .collect()
    }

    /// How the tables of the links differ from the topology.
    pub(super) fn verify_tables(&self, store: &impl MapStore) -> Result<Vec<Difference>, StoreError> {
        let mut differences = Vec::new();
        let found: BTreeMap<u32, Dev> = store.devs()?.into_iter().collect();
        let text = |dev: Option<&Dev>| dev.map_or_else(|| "nothing".to_owned(), |dev| format!("{dev:?}"));
        let all: BTreeSet<&u32> = found.keys().chain(self.topology.devs.keys()).collect();
        for ifindex in all {
            let (now, wanted) = (found.get(ifindex), self.topology.devs.get(ifindex));
            if now != wanted {
                differences.push(Difference::of_map(format!("device {ifindex}"), text(now), text(wanted)));
            }
        }
        let found: HashSet<PodNet> = store.pod_nets()?.into_iter().collect();
        let wanted = pod_nets(&self.topology.pod_nets);
        if found != wanted {
            let text = |nets: &HashSet<PodNet>| format!("{} of them", nets.len());
            let common = found.intersection(&wanted).count();
            let found = format!("{}, {common} of them wanted", text(&found));
            differences.push(Difference::of_map("networks of other nodes' pods", found, text(&wanted)));
        }
        Ok(differences)
    }

    /// Attaches what these devices are to carry, and takes off what they are not to.
    pub(super) fn attach_again(&mut self, devices: &BTreeSet<u32>, datapath: &mut Datapath) {
        let wanted: BTreeMap<u32, LinkRole> = self
            .topology
            .roles()
            .filter(|role| self.wants(role) && devices.contains(&role.ifindex))
            .map(|role| (role.ifindex, role.clone()))
            .collect();
        for ifindex in devices.iter().filter(|ifindex| !wanted.contains_key(ifindex)) {
            detach(*ifindex, datapath);
        }
        for (ifindex, role) in wanted {
            let told = self.failed.remove(&ifindex).and_then(|unserved| unserved.reason);
            self.attach(&role, told, datapath);
        }
    }

    /// The links that carry programs, for people.
    pub(super) fn names(&self) -> Vec<ApiLink> {
        let wanted = self.topology.roles().filter(|role| self.wants(role));
        wanted
            .map(|role| ApiLink {
                name: role.name.clone(),
                ifindex: role.ifindex,
                kind: role.kind.as_str().to_owned(),
                reason: role.reason.clone(),
                attached: !self.failed.contains_key(&role.ifindex),
                xdp: self.xdp.of(role),
            })
            .collect()
    }

    fn attach_failed(&mut self, datapath: &mut Datapath) {
        for Unserved { role, reason } in std::mem::take(&mut self.failed).into_values() {
            self.attach(&role, reason, datapath);
        }
    }

    /// `told`: why it failed the last time.
    fn attach(&mut self, role: &LinkRole, told: Option<String>, datapath: &mut Datapath) {
        if !self.wants(role) {
            return;
        }
        if self.deferred {
            self.failed.insert(role.ifindex, Unserved { role: role.clone(), reason: None });
            return;
        }
        match datapath.attach_link(role) {
            Ok(()) => {
                tracing::debug!("attached to {role:?}");
                if told.is_some() {
                    tracing::info!("link {} ({}) is served now", role.name, role.ifindex);
                }
                self.failed.remove(&role.ifindex);
                self.xdp.settle(role, datapath);
            }
            // Gone again before we came: its removal follows.
            Err(error) if LoadError::is_device_gone(&error) => {}
            Err(error) => {
                let reason = format!("link {} ({}) is not served: {error}", role.name, role.ifindex);
                if told.as_ref() != Some(&reason) {
                    tracing::error!("{reason}");
                }
                self.failed.insert(role.ifindex, Unserved { role: role.clone(), reason: Some(reason) });
            }
        }
    }
}

fn settle_devs(wanted: &BTreeMap<u32, Dev>, store: &mut impl MapStore) -> Result<(), StoreError> {
    let found: BTreeMap<u32, Dev> = store.devs()?.into_iter().collect();
    for ifindex in found.keys().filter(|ifindex| !wanted.contains_key(ifindex)) {
        store.delete_dev(*ifindex)?;
    }
    for (ifindex, dev) in wanted.iter().filter(|(ifindex, dev)| found.get(ifindex) != Some(dev)) {
        store.put_dev(*ifindex, *dev)?;
    }
    Ok(())
}

fn pod_nets(nets: &BTreeSet<IpNet>) -> HashSet<PodNet> {
    nets.iter().map(|net| PodNet::new(net.addr().into(), net.prefix_len())).collect()
}

fn settle_pod_nets(wanted: &BTreeSet<IpNet>, store: &mut impl MapStore) -> Result<(), StoreError> {
    let wanted = pod_nets(wanted);
    let found: HashSet<PodNet> = store.pod_nets()?.into_iter().collect();
    for stale in found.difference(&wanted) {
        store.delete_pod_net(*stale)?;
    }
    for new in wanted.difference(&found) {
        store.put_pod_net(*new)?;
    }
    Ok(())
}

fn detach(ifindex: u32, datapath: &mut Datapath) {
    if let Err(error) = datapath.detach_link(ifindex) {
        tracing::warn!("programs stay on device {ifindex}: {error}");
    }
}

/// The way of flows between pods of one bridge, by flag or by what the bridge does with its frames now.
pub(super) fn local_path(wanted: LocalPath) -> u32 {
    match wanted {
        LocalPath::Redirect => local_path::REDIRECT,
        LocalPath::Stack => local_path::STACK,
        LocalPath::Auto => match BridgeNetfilter::read() {
            // Where bridged frames pass netfilter, policy may rely on seeing them.
            Ok(netfilter) if netfilter.ipv4 || netfilter.ipv6 => local_path::STACK,
            Ok(_) => local_path::REDIRECT,
            Err(error) => {
                tracing::warn!("cannot read bridge-nf-call-iptables ({error}); flows on one bridge are redirected");
                local_path::REDIRECT
            }
        },
    }
}

/// The run-time configuration, but for what the node's links say. `earlier`: the one of an earlier run of these tables, whose
/// time of grace goes on across restarts, as its flows do.
pub(super) fn first_config(settings: &Settings, grace_until: u32, earlier: Option<Config>) -> Config {
    let local_path = local_path(settings.local_path);
    let mut config = Config {
        local_path,
        grace_until,
        forwarding: settings.forwarding.into(),
        stack_taken: u32::from(local_path == local_path::STACK),
        ..Config::default()
    };
    if let Some(earlier) = earlier {
        config.grace_until = earlier.grace_until;
        config.stack_taken |= earlier.stack_taken;
    }
    config
}

/// Writes the run-time configuration if it differs.
pub(super) fn configure(store: &mut impl MapStore, config: Config) -> Result<bool, StoreError> {
    if store.config()? == config {
        return Ok(false);
    }
    store.put_config(config)?;
    Ok(true)
}
