//! The BPF object that the build embedded, and the version of this build. It never reads an object from the disk: what
//! runs in the kernel is what this binary was tested with.

/// This build, as `--version` prints it: the package's version, and for a release build the commit.
pub const VERSION: &str = env!("BERRYLB_VERSION");

/// This binary holds no BPF object, because the machine that built it had not built one.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "this berrylb ({VERSION}) was built without the BPF object and cannot load a datapath. Next step: run `make build` \
     in the source tree, which builds the object and embeds it, and use the berrylb that it names"
)]
pub struct NotEmbedded;

/// The embedded ELF object, aligned as aya's parser wants it (8 bytes).
///
/// # Errors
/// [`NotEmbedded`] when the build found no object to embed; cargo warned about it then.
pub const fn bytes() -> Result<&'static [u8], NotEmbedded> {
    #[cfg(berrylb_bpf_object)]
    {
        Ok(aya::include_bytes_aligned!(env!("BERRYLB_BPF_OBJECT_PATH")))
    }
    #[cfg(not(berrylb_bpf_object))]
    {
        Err(NotEmbedded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(berrylb_bpf_object)]
    #[test]
    fn the_embedded_object_is_aligned_bpf() {
        let bytes = bytes().expect("the build script found an object");
        assert_eq!(bytes.as_ptr().align_offset(8), 0);
        assert_eq!(bytes.get(..4), Some(b"\x7fELF".as_slice()));
        // e_machine at offset 18, little-endian: EM_BPF is 247.
        assert_eq!(bytes.get(18..20), Some([247, 0].as_slice()));
    }

    #[cfg(not(berrylb_bpf_object))]
    #[test]
    fn without_an_object_the_error_says_what_to_do() {
        let message = bytes().expect_err("nothing was embedded").to_string();
        assert!(message.contains("make build"), "{message}");
    }

    #[test]
    fn the_version_starts_with_the_packages() {
        assert!(VERSION.starts_with(env!("CARGO_PKG_VERSION")), "{VERSION}");
    }
}
