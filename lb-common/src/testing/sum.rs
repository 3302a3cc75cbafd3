//! The Internet checksum from scratch (RFC 1071), byte pair by byte pair: the truth that incremental updates are held
//! to. It shares no code with `datapath::checksum`.

/// One's-complement sum of the bytes as big-endian 16-bit words, an odd last byte padded with zero.
#[must_use]
pub fn internet_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(internet_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(internet_sum(&[0xff]), 0xff00);
        assert_eq!(internet_sum(&[]), 0);
    }
}
