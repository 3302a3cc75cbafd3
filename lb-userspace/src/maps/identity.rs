//! Numbers that stand for names in the maps. They are part of the ABI: a restarted or upgraded agent finds its service
//! ports by them, so the functions here never change within an ABI version.

use crate::plan::state::{Protocol, ServiceName};

/// Gives 64 bits for some bytes. Tests put a weak one in its place, to see collisions resolved.
pub trait Identify {
    /// The hash of `bytes`; always the same for the same bytes.
    fn identify(&self, bytes: &[u8]) -> u64;
}

/// FNV-1a, 64 bits (draft-eastlake-fnv), with the finalizer of `SplitMix64` behind it so that the low half, which flows
/// keep, is as good as the whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fnv;

impl Identify for Fnv {
    fn identify(&self, bytes: &[u8]) -> u64 {
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        mix(hash)
    }
}

const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Identity of a service port, never 0. Its backends carry it.
#[must_use]
pub fn port_identity(hash: &dyn Identify, service: &ServiceName, port_name: &str, protocol: Protocol) -> u64 {
    let mut bytes = Vec::with_capacity(64);
    // NUL stands in no Kubernetes name, so different parts never join to the same bytes.
    for part in [service.namespace(), service.name(), port_name] {
        bytes.extend_from_slice(part.as_bytes());
        bytes.push(0);
    }
    bytes.push(protocol.number());
    hash.identify(&bytes).max(1)
}

/// The identity to try when another port holds `identity` already. Never 0.
#[must_use]
pub(super) const fn bump(identity: u64) -> u64 {
    let next = mix(identity ^ 0x9e37_79b9_7f4a_7c15);
    if next == 0 { 1 } else { next }
}

/// Identity of one backend set of a service port, never 0; `discriminator` tells its sets apart.
#[must_use]
pub fn set_identity(hash: &dyn Identify, port: u64, discriminator: u32) -> u64 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&port.to_le_bytes());
    bytes[8..].copy_from_slice(&discriminator.to_le_bytes());
    hash.identify(&bytes).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These values stand in pinned maps of running nodes. If this test fails, the code is wrong, not the test.
    #[test]
    fn identities_never_change() {
        let name = ServiceName::new("default", "sample-clusterip");
        let port = port_identity(&Fnv, &name, "http-port", Protocol::Tcp);
        assert_eq!(port, 0x7087_235b_3dd6_e815);
        assert_eq!(set_identity(&Fnv, port, 0), 0x127f_f74b_aa99_16a9);
        assert_eq!(bump(port), 0x9bc5_5af1_bcc6_7476);
    }

    #[test]
    fn parts_do_not_run_together() {
        let one = port_identity(&Fnv, &ServiceName::new("a", "bc"), "d", Protocol::Tcp);
        let other = port_identity(&Fnv, &ServiceName::new("ab", "c"), "d", Protocol::Tcp);
        assert_ne!(one, other);
    }
}
