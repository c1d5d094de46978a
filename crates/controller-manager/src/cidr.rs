//! Blocks of addresses in CIDR notation. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    ipv4: bool,
    base: u128,
    bits: u32,
}

impl Prefix {
    pub(crate) fn parse(cidr: &str) -> Option<Self> {
        let (address, bits) = cidr.split_once('/')?;
        let (address, bits): (IpAddr, u32) = (address.parse().ok()?, bits.parse().ok()?);
        let prefix = Self { ipv4: address.is_ipv4(), base: 0, bits };
        (bits <= prefix.width()).then(|| Self { base: number(address) & prefix.mask(bits), ..prefix })
    }

    pub(crate) fn is_ipv4(self) -> bool {
        self.ipv4
    }

    /// The number of leading bits that all addresses share.
    pub(crate) fn bits(self) -> u32 {
        self.bits
    }

    fn width(self) -> u32 {
        if self.ipv4 { 32 } else { 128 }
    }

    fn mask(self, bits: u32) -> u128 {
        match self.width() - bits {
            128 => 0,
            host_bits => u128::MAX << host_bits,
        }
    }

    fn last(self) -> u128 {
        self.base | (!self.mask(self.bits) & if self.ipv4 { u128::from(u32::MAX) } else { u128::MAX })
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        if self.ipv4 != other.ipv4 {
            return false;
        }
        let mask = self.mask(self.bits.min(other.bits));
        self.base & mask == other.base & mask
    }

    /// Whether all of another block is in this one.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.overlaps(other) && self.bits <= other.bits
    }

    /// Whether an address can be allocated here: neither the network's own nor, in IPv4, the broadcast address can.
    pub(crate) fn has_usable(self, ip: IpAddr) -> bool {
        let at = number(ip);
        let edge = at == self.base || (self.ipv4 && at == self.last());
        self.ipv4 == ip.is_ipv4() && !edge && (self.base..=self.last()).contains(&at)
    }

    /// The block of this size with this number; `bits` is not fewer than this block's.
    pub(crate) fn part(self, bits: u32, index: u64) -> Self {
        Self { base: self.base | (u128::from(index) << (self.width() - bits)), bits, ..self }
    }

    /// The numbers of the parts of this size that a block overlaps; the whole if it is larger than this one.
    pub(crate) fn parts_of(self, bits: u32, block: Self) -> Option<std::ops::RangeInclusive<u64>> {
        if !self.overlaps(block) {
            return None;
        }
        let shift = self.width() - bits;
        let index = |address: u128| u64::try_from((address - self.base) >> shift).unwrap_or(u64::MAX);
        Some(index(self.base.max(block.base))..=index(self.last().min(block.last())))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ipv4 {
            // Only 32 bits are ever set.
            true => write!(f, "{}/{}", Ipv4Addr::from(self.base as u32), self.bits),
            false => write!(f, "{}/{}", Ipv6Addr::from(self.base), self.bits),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text).expect("is a prefix")
    }

    #[test]
    fn prefixes_and_addresses() {
        for (a, b, overlaps, covers) in [
            ("10.0.0.0/16", "10.0.1.0/24", true, true),
            ("10.0.1.0/24", "10.0.0.0/16", true, false),
            ("10.0.0.0/24", "10.0.0.0/24", true, true),
            ("10.0.0.0/24", "10.0.1.0/24", false, false),
            ("10.0.0.0/24", "::/0", false, false),
            ("fd00::/120", "10.0.0.0/24", false, false),
            ("::/0", "fd00::/108", true, true),
        ] {
            assert_eq!((prefix(a).overlaps(prefix(b)), prefix(a).covers(prefix(b))), (overlaps, covers), "{a} {b}");
        }
        for (cidr, address, inside) in [
            ("10.0.0.0/24", "10.0.0.0", false),
            ("10.0.0.0/24", "10.0.0.1", true),
            ("10.0.0.0/24", "10.0.0.254", true),
            ("10.0.0.0/24", "10.0.0.255", false),
            ("10.0.0.0/24", "10.0.1.1", false),
            ("fd00::/112", "fd00::", false),
            ("fd00::/112", "fd00::ffff", true),
            ("fd00::/112", "10.0.0.1", false),
        ] {
            assert_eq!(prefix(cidr).has_usable(address.parse().expect("is an address")), inside, "{cidr} {address}");
        }
        assert_eq!([Prefix::parse("10.0.0.0/33"), Prefix::parse("10.0.0.0"), Prefix::parse("x/8")], [None; 3]);
    }

    #[test]
    fn parts() {
        for (whole, bits, index, expected) in [
            ("10.42.0.0/16", 24, 3, "10.42.3.0/24"),
            ("10.42.0.0/16", 16, 0, "10.42.0.0/16"),
            ("fd00::/48", 64, 1, "fd00:0:0:1::/64"),
        ] {
            let part = prefix(whole).part(bits, index);
            assert_eq!(part.to_string(), expected);
            assert_eq!(prefix(whole).parts_of(bits, part), Some(index..=index));
        }
        let whole = prefix("10.42.0.0/16");
        assert_eq!(whole.parts_of(24, prefix("10.0.0.0/8")), Some(0..=255));
        assert_eq!(whole.parts_of(24, prefix("10.42.4.0/22")), Some(4..=7));
        assert_eq!(whole.parts_of(24, prefix("10.42.4.128/25")), Some(4..=4));
        assert_eq!(whole.parts_of(24, prefix("10.43.0.0/16")), None);
    }
}
