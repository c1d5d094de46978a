//! Ranges of addresses as users write them: `192.0.2.16-192.0.2.31`, `192.0.2.16/28`, or one address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Addresses of one family from the first to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressRange(pub(crate) RangeInclusive<IpAddr>);

/// Why a text is no range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressRangeError {
    /// A part of it is no address.
    #[error("{0:?} is no IP address")]
    NoAddress(String),
    /// What follows the slash.
    #[error("{0:?} is no prefix length of that family")]
    Prefix(String),
    /// Both ends are of one family.
    #[error("it begins in one family of addresses and ends in another")]
    Families,
    /// The first comes before the last.
    #[error("it ends before it begins")]
    Reversed,
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, AddressRangeError> {
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| AddressRangeError::NoAddress(text.to_owned()));
        let (first, last) = match (text.split_once('-'), text.split_once('/')) {
            (Some((first, last)), _) => (address(first)?, address(last)?),
            (None, Some((inside, prefix))) => {
                let inside = address(inside)?;
                ends(inside, prefix).ok_or_else(|| AddressRangeError::Prefix(prefix.to_owned()))?
            }
            (None, None) => (address(text)?, address(text)?),
        };
        if first.is_ipv6() != last.is_ipv6() {
            return Err(AddressRangeError::Families);
        }
        if last < first {
            return Err(AddressRangeError::Reversed);
        }
        Ok(Self(first..=last))
    }
}

/// The first and the last address of a network.
fn ends(inside: IpAddr, prefix: &str) -> Option<(IpAddr, IpAddr)> {
    let prefix: u32 = prefix.parse().ok()?;
    Some(match inside {
        IpAddr::V4(inside) => {
            let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
            let bits = inside.to_bits();
            (prefix <= Ipv4Addr::BITS)
                .then(|| (Ipv4Addr::from_bits(bits & !hosts).into(), Ipv4Addr::from_bits(bits | hosts).into()))?
        }
        IpAddr::V6(inside) => {
            let hosts = u128::MAX.checked_shr(prefix).unwrap_or(0);
            let bits = inside.to_bits();
            (prefix <= Ipv6Addr::BITS)
                .then(|| (Ipv6Addr::from_bits(bits & !hosts).into(), Ipv6Addr::from_bits(bits | hosts).into()))?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, first, last) in [
            ("192.0.2.16-192.0.2.31", "192.0.2.16", "192.0.2.31"),
            ("192.0.2.17/28", "192.0.2.16", "192.0.2.31"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.7"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("fd00::5/112", "fd00::", "fd00::ffff"),
            ("fd00::1 - fd00::9", "fd00::1", "fd00::9"),
        ] {
            let range: AddressRange = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(range.0, first.parse().expect("is one")..=last.parse().expect("is one"), "{text}");
        }
        for (text, error) in [
            ("", "\"\" is no IP address"),
            ("192.0.2-192.0.2.9", "\"192.0.2\" is no IP address"),
            ("192.0.2.0/33", "\"33\" is no prefix length of that family"),
            ("fd00::/x", "\"x\" is no prefix length of that family"),
            ("192.0.2.9-fd00::1", "it begins in one family of addresses and ends in another"),
            ("192.0.2.9-192.0.2.1", "it ends before it begins"),
        ] {
            assert_eq!(text.parse::<AddressRange>().map_err(|error| error.to_string()), Err(error.to_owned()), "{text}");
        }
    }
}
