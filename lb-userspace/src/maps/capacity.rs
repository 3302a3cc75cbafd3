//! How many entries each map holds, by default and by flag. Sizes are fixed when a map is made; they never change here.

use lb_common::abi::{Counter, map};

use super::shape::SHAPES;

/// Cgroups and network namespaces that may be left to the packet path: a node runs 110 pods, and at most 250 by the
/// kubelet's documentation. Memory is taken for those that are there.
pub(super) const SKIPS: u32 = 512;

/// Entries of the maps whose size is a flag. `svc_counters` follows `backends`; `skips`, `flow_filter`, `config`, `marks` and
/// `counters` have fixed sizes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capacities {
    /// Frontends: one for each address, port, protocol and scope; NodePorts count once per family.
    pub services: u32,
    /// Backend sets: one for each service port, family and distinct answer.
    pub svc_state: u32,
    /// Slots of all backend sets together; while one set changes it stands there twice.
    pub slots: u32,
    /// Endpoints: one for each service port that an endpoint serves.
    pub backends: u32,
    /// Established flows of the packet path; two entries each.
    pub flows: u32,
    /// Flows that are not established; two entries each.
    pub embryos: u32,
    /// Datagrams that are translated fragment by fragment.
    pub frags: u32,
    /// Translated sockets.
    pub sock_revnat: u32,
    /// Clients with session affinity.
    pub affinity: u32,
    /// Source ranges: one for each range and backend set that is held to it.
    pub source_ranges: u32,
    /// Addresses that mean something to us: those of frontends and of this node.
    pub addrs: u32,
    /// Networks of other nodes' pods.
    pub pod_nets: u32,
    /// Devices with our programs.
    pub devs: u32,
}

impl Capacities {
    /// The defaults: 5.0 MB locked on a machine with four CPUs, most of it for flows (168 bytes an entry) and for what each
    /// CPU counts for each backend.
    pub const DEFAULT: Self = Self {
        services: 4096,
        svc_state: 2048,
        slots: 8192,
        backends: 4096,
        flows: 8192,
        embryos: 4096,
        frags: 768,
        sock_revnat: 4096,
        affinity: 2048,
        source_ranges: 2048,
        addrs: Self::addrs_for(4096),
        pod_nets: 512,
        devs: 512,
    };

    /// Addresses that so many frontends have at most, as each has one of both scopes, and some of the node.
    #[must_use]
    pub const fn addrs_for(services: u32) -> u32 {
        services / 2 + 256
    }

    /// Entries of the map `name`, one of [`map::ALL`]; `None` for a name that is none of ours.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<u32> {
        Some(match name {
            map::SERVICES => self.services,
            map::SVC_STATE => self.svc_state,
            map::SLOTS => self.slots,
            map::BACKENDS | map::SVC_COUNTERS => self.backends,
            map::FLOWS => self.flows,
            map::EMBRYOS => self.embryos,
            map::FRAGS => self.frags,
            map::SOCK_REVNAT => self.sock_revnat,
            map::AFFINITY => self.affinity,
            map::SOURCE_RANGES => self.source_ranges,
            map::ADDRS => self.addrs,
            map::POD_NETS => self.pod_nets,
            map::DEVS => self.devs,
            map::SKIPS => SKIPS,
            map::CONFIG | map::MARKS | map::FLOW_FILTER => 1,
            map::COUNTERS => u32::try_from(Counter::ALL.len()).ok()?,
            _ => return None,
        })
    }

    /// The flag that sets the size of the map `name`; `None` where it has a fixed size.
    #[must_use]
    pub fn flag(name: &str) -> Option<&'static str> {
        Some(match name {
            map::SERVICES => "--max-services",
            map::SVC_STATE => "--max-backend-sets",
            map::SLOTS => "--max-slots",
            map::BACKENDS | map::SVC_COUNTERS => "--max-backends",
            map::FLOWS => "--max-flows",
            map::EMBRYOS => "--max-embryos",
            map::FRAGS => "--max-fragments",
            map::SOCK_REVNAT => "--max-sockets",
            map::AFFINITY => "--max-affinity",
            map::SOURCE_RANGES => "--max-source-ranges",
            map::ADDRS => "--max-addresses",
            map::POD_NETS => "--max-pod-networks",
            map::DEVS => "--max-devices",
            _ => return None,
        })
    }

    /// Bytes of kernel memory that maps of these sizes take at most, by the kernel's own formulas (`map_mem_usage`).
    #[must_use]
    pub fn memory(&self, cpus: u64) -> u64 {
        SHAPES.iter().map(|shape| shape.memory(u64::from(self.of(shape.name).unwrap_or(0)), cpus)).sum()
    }
}

impl Default for Capacities {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_a_size() {
        for name in map::ALL {
            assert!(Capacities::DEFAULT.of(name).is_some_and(|entries| entries > 0), "{name}");
        }
    }

    /// The budget of the design: at most 5 MB of locked map memory, here on the four CPUs of a Raspberry Pi, with every
    /// table as full as it gets.
    #[test]
    fn the_defaults_keep_the_budget() {
        let bytes = Capacities::DEFAULT.memory(4);
        assert!(bytes <= 5_000_000, "{bytes} bytes");
        assert!(bytes >= 4_000_000, "{bytes} bytes: room that flows could use");
    }
}
