//! An address range, `10.42.0.0/24`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::Error;

/// A network address with its prefix length. Host bits are always zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// The range of `address/prefix_len`; host bits are cleared. `None` if the prefix is too long.
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Self> {
        let bits = width(address);
        if prefix_len > bits {
            return None;
        }
        let host_bits = u32::from(bits - prefix_len);
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self { network: from_number(number(address) & mask, address.is_ipv6()), prefix_len })
    }

    /// The first address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Bits that all addresses share.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether this is an IPv6 range.
    pub fn is_ipv6(&self) -> bool {
        self.network.is_ipv6()
    }

    /// Whether `address` is inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address, self.prefix_len.min(width(address))).as_ref() == Some(self)
    }

    /// The address at an offset from the first; `None` beyond the last.
    pub fn nth(&self, offset: u64) -> Option<IpAddr> {
        let host_bits = u32::from(width(self.network) - self.prefix_len);
        if host_bits < 64 && offset >> host_bits != 0 {
            return None;
        }
        Some(from_number(number(self.network) + u128::from(offset), self.is_ipv6()))
    }

    /// Inverse of [`Cidr::nth`]: `None` if the address is outside or too far from the first.
    pub fn offset(&self, address: IpAddr) -> Option<u64> {
        if !self.contains(address) {
            return None;
        }
        u64::try_from(number(address) - number(self.network)).ok()
    }

    /// How many addresses can be counted: the whole range, or 2^32 of a larger one.
    pub fn countable(&self) -> u64 {
        let host_bits = u32::from(width(self.network) - self.prefix_len);
        1u64 << host_bits.min(32)
    }
}

/// How many bits an address has.
pub(crate) fn width(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_number(number: u128, ipv6: bool) -> IpAddr {
    if ipv6 { IpAddr::V6(Ipv6Addr::from(number)) } else { IpAddr::V4(Ipv4Addr::from(number as u32)) }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (address, prefix_len) = text.split_once('/')?;
            Self::new(address.parse().ok()?, prefix_len.parse().ok()?)
        };
        parse().ok_or_else(|| Error::Config(format!("{text:?} is not an address range such as 10.42.0.0/24")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_know_their_addresses() {
        let cidr: Cidr = "10.42.3.7/22".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.42.0.0/22");
        assert_eq!(cidr.countable(), 1024);
        assert_eq!(cidr.nth(1).unwrap().to_string(), "10.42.0.1");
        assert_eq!(cidr.nth(1023).unwrap().to_string(), "10.42.3.255");
        assert_eq!(cidr.nth(1024), None);
        assert_eq!(cidr.offset("10.42.1.0".parse().unwrap()), Some(256));
        assert_eq!(cidr.offset("10.42.4.0".parse().unwrap()), None);
        assert!(!cidr.contains("fd00::1".parse().unwrap()));
        let v6: Cidr = "fd42:1::5/64".parse().unwrap();
        assert_eq!(v6.nth(1).unwrap().to_string(), "fd42:1::1");
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().nth(5).unwrap().to_string(), "0.0.0.5");
        for wrong in ["10.42.0.0", "10.42.0.0/33", "x/8", "fd00::/129", ""] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong:?}");
        }
    }
}
