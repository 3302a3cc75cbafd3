//! How single values are written into bytes, and read back from the front. What is read was written here: it is whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Seven bits a byte, the lowest first; the highest bit says that there are more.
pub(super) fn put_number(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn number(rest: &mut &[u8]) -> u32 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = take(rest);
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
        shift += 7;
    }
}

/// How many follow.
pub(super) fn put_count(count: usize, out: &mut Vec<u8>) {
    put_number(u32::try_from(count).expect("an object has less than 4 GB"), out);
}

/// How many bytes [`put_count`] takes for it.
pub(super) fn length_of_count(count: usize) -> usize {
    (usize::BITS - count.leading_zeros()).div_ceil(7).max(1) as usize
}

pub(super) fn put_u16(value: u16, out: &mut Vec<u8>) {
    out.extend(value.to_le_bytes());
}

pub(super) fn u16(rest: &mut &[u8]) -> u16 {
    u16::from_le_bytes(take_array(rest))
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_count(text.len(), out);
    out.extend(text.as_bytes());
}

pub(super) fn text<'a>(rest: &mut &'a [u8]) -> &'a str {
    let length = number(rest) as usize;
    std::str::from_utf8(take_slice(rest, length)).expect("it was a text")
}

/// The address alone: whoever reads it knows the family.
pub(super) fn put_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend(v4.octets()),
        IpAddr::V6(v6) => out.extend(v6.octets()),
    }
}

pub(super) fn address(rest: &mut &[u8], is_v6: bool) -> IpAddr {
    if is_v6 { Ipv6Addr::from(take_array::<16>(rest)).into() } else { Ipv4Addr::from(take_array::<4>(rest)).into() }
}

pub(super) fn take(rest: &mut &[u8]) -> u8 {
    let [byte] = take_array(rest);
    byte
}

pub(super) fn take_array<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (taken, behind) = rest.split_first_chunk::<N>().expect("what was packed is whole");
    *rest = behind;
    *taken
}

pub(super) fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, behind) = rest.split_at(length);
    *rest = behind;
    taken
}
