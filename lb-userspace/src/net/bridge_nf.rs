//! Whether bridged packets pass iptables (`br_netfilter`), in this network namespace. Reads two sysctls, changes none.

use std::{fs, io, path::Path};

/// `net.bridge.bridge-nf-call-*`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BridgeNetfilter {
    /// IPv4 packets pass iptables.
    pub ipv4: bool,
    /// IPv6 packets pass ip6tables.
    pub ipv6: bool,
}

impl BridgeNetfilter {
    /// Reads both for the network namespace of this thread. Both are off while the module is not loaded.
    ///
    /// # Errors
    /// When a value exists and cannot be read or is no number.
    pub fn read() -> io::Result<Self> {
        Self::read_below(Path::new("/proc/sys/net/bridge"))
    }

    fn read_below(folder: &Path) -> io::Result<Self> {
        let flag = |name: &str| -> io::Result<bool> {
            let path = folder.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => match text.trim().parse::<i64>() {
                    Ok(value) => Ok(value != 0),
                    Err(error) => Err(io::Error::other(format!("{}: {text:?}: {error}", path.display()))),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            }
        };
        Ok(Self { ipv4: flag("bridge-nf-call-iptables")?, ipv6: flag("bridge-nf-call-ip6tables")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_means_off_and_nonsense_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(BridgeNetfilter::read_below(dir.path()).expect("absent"), BridgeNetfilter::default());
        fs::write(dir.path().join("bridge-nf-call-iptables"), "1\n").expect("write");
        fs::write(dir.path().join("bridge-nf-call-ip6tables"), "0\n").expect("write");
        let read = BridgeNetfilter::read_below(dir.path()).expect("readable");
        assert_eq!(read, BridgeNetfilter { ipv4: true, ipv6: false });
        fs::write(dir.path().join("bridge-nf-call-ip6tables"), "x").expect("write");
        let error = BridgeNetfilter::read_below(dir.path()).expect_err("no number").to_string();
        assert!(error.contains("bridge-nf-call-ip6tables"), "{error}");
    }
}
