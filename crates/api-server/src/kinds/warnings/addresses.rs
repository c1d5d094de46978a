//! Warnings about addresses and networks in forms that are going out of use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use apimachinery::go_quote;

use crate::kinds::at::{At, legacy_ip};

/// Of a network with more bits than its prefix has, or in a form that is going out of use.
pub(super) fn cidr(at: &At, found: &mut Vec<String>) {
    let (path, text) = (at.path(), at.text());
    let Some((head, bits)) = text.split_once('/') else { return };
    let (Some(address), Ok(length)) = (legacy_ip(head), bits.parse::<u32>()) else { return };
    let size = if head.contains(':') { 128 } else { 32 };
    // An address that is mapped into IPv6 is shown as the IPv4 address that it is.
    let shown = address.to_canonical();
    let network = network(address, length).to_canonical();
    let prefix = format!("{network}/{}", if network.is_ipv4() && size == 128 { length.saturating_sub(96) } else { length });
    let before = found.len();
    if shown != network {
        let alone = format!("{shown}/{size}");
        found.push(format!(
            "{path}: CIDR value {} is ambiguous in this context (should be {} or {}?)",
            go_quote(text),
            go_quote(&prefix),
            go_quote(&alone)
        ));
    }
    if head.parse::<IpAddr>().is_err() || bits != length.to_string() || shown != address {
        found.push(format!(
            "{path}: non-standard CIDR value {} will be considered invalid in a future Kubernetes release: use {}",
            go_quote(text),
            go_quote(&prefix)
        ));
    }
    if found.len() == before && address.is_ipv6() && format!("{address}/{length}") != text {
        let canonical = go_quote(&format!("{address}/{length}"));
        found.push(format!("{path}: IPv6 CIDR value {} should be in RFC 5952 canonical format ({canonical})", go_quote(text)));
    }
}

/// An address without the bits after the prefix.
fn network(address: IpAddr, length: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0)).into(),
        IpAddr::V6(v6) => {
            Ipv6Addr::from(u128::from(v6) & u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0)).into()
        }
    }
}

/// Of an address in a form that is going out of use.
pub(in crate::kinds) fn ip(at: &At, found: &mut Vec<String>) {
    let (text, Some(address)) = (at.text(), legacy_ip(at.text())) else { return };
    let strict = text.parse::<IpAddr>();
    let mapped = matches!(strict, Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some());
    let (given, canonical) = (go_quote(text), go_quote(&address.to_canonical().to_string()));
    if strict.is_err() || mapped {
        let path = at.path();
        found.push(format!(
            "{path}: non-standard IP address {given} will be considered invalid in a future Kubernetes release: use {canonical}"
        ));
    } else if address.is_ipv6() && canonical != given {
        found.push(format!("{}: IPv6 address {given} should be in RFC 5952 canonical format ({canonical})", at.path()));
    }
}
