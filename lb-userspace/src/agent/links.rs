//! Brings topology changes to the loader and the tables: programs on links, entries of `devs`, the local path.

use std::collections::BTreeMap;

use lb_common::abi::{Config, local_path};

use super::{config::Settings, values::LocalPath};
use crate::{
    loader::{Datapath, Error as LoadError},
    maps::MapStore,
    net::{BridgeNetfilter, ClassifyOptions, LinkKind, LinkRole, Patterns, Topology},
};

/// The links as they were brought to the kernel, and what could not be.
#[derive(Default)]
pub(super) struct Links {
    topology: Topology,
    /// Links whose programs could not be attached; tried again.
    failed: BTreeMap<u32, LinkRole>,
    /// Link kinds that carry programs at all.
    packet_path: bool,
}

/// How links are told apart, from the settings.
pub(super) fn classify_options(settings: &Settings) -> ClassifyOptions {
    ClassifyOptions {
        patterns: Patterns {
            pod_links: settings.pod_links.clone(),
            uplinks: settings.uplinks.clone(),
            overlays: settings.overlays.clone(),
        },
        node_addresses: settings.node_address.clone().unwrap_or_default(),
    }
}

impl Links {
    pub(super) fn new(packet_path: bool) -> Self {
        Self { packet_path, ..Self::default() }
    }

    pub(super) const fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Goes from the present topology to `next`. Returns whether the node's addresses changed.
    pub(super) fn follow(
        &mut self,
        next: Topology,
        resynced: bool,
        datapath: &mut Datapath,
        store: &mut impl MapStore,
    ) -> bool {
        let changes = self.topology.changes(&next, resynced);
        for (ifindex, dev) in &changes.set_devs {
            if let Err(error) = store.put_dev(*ifindex, *dev) {
                tracing::error!(
                    "device {ifindex} is not in the datapath: {error}; raise --max-devices if the map is full"
                );
            }
        }
        for role in &changes.attach {
            self.attach(role, datapath);
        }
        for ifindex in &changes.detach {
            self.failed.remove(ifindex);
            detach(*ifindex, datapath);
        }
        for ifindex in &changes.remove_devs {
            if let Err(error) = store.delete_dev(*ifindex) {
                tracing::warn!("device {ifindex} is gone but stays in the table: {error}");
            }
        }
        self.topology = next;
        changes.addresses
    }

    /// Removes what an earlier run left: entries of devices that are none of ours now, and programs on them.
    pub(super) fn prune(
        &self,
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
        match store.devs() {
            Ok(devs) => {
                for (ifindex, _) in devs {
                    if !self.topology.devs.contains_key(&ifindex)
                        && let Err(error) = store.delete_dev(ifindex)
                    {
                        tracing::warn!("device {ifindex} of an earlier run stays in the table: {error}");
                    }
                }
            }
            Err(error) => tracing::warn!("devices of an earlier run may stay in the table: {error}"),
        }
    }

    /// Tries again what failed.
    pub(super) fn retry(&mut self, datapath: &mut Datapath) {
        for role in std::mem::take(&mut self.failed).into_values() {
            self.attach(&role, datapath);
        }
    }

    fn wants(&self, role: &LinkRole) -> bool {
        self.packet_path || role.kind != LinkKind::Pod
    }

    fn attach(&mut self, role: &LinkRole, datapath: &mut Datapath) {
        if !self.wants(role) {
            return;
        }
        match datapath.attach_link(role) {
            Ok(()) => tracing::debug!("attached to {role:?}"),
            // Gone again before we came: its removal follows.
            Err(error) if LoadError::is_device_gone(&error) => {}
            Err(error) => {
                tracing::error!("link {} ({}) is not served: {error}", role.name, role.ifindex);
                self.failed.insert(role.ifindex, role.clone());
            }
        }
    }
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

/// Writes the run-time configuration if it differs.
pub(super) fn configure(store: &mut impl MapStore, config: Config) -> Result<bool, crate::maps::StoreError> {
    if store.config()? == config {
        return Ok(false);
    }
    store.put_config(config)?;
    Ok(true)
}
