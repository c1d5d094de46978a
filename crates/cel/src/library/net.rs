//! IP addresses and networks (upstream's `library/ip.go` and `cidr.go`).

use std::net::IpAddr;

use apimachinery::go_quote;

use crate::eval::{EvalError, Evaluated};
use crate::value::{Extension, Val};

pub(super) const TABLE: &str = "
ip string_to_ip (string) -> IP
family ip_family IP.() -> int
ip.isCanonical ip_is_canonical (string) -> bool
isUnspecified ip_is_unspecified IP.() -> bool
isLoopback ip_is_loopback IP.() -> bool
isLinkLocalMulticast ip_is_link_local_multicast IP.() -> bool
isLinkLocalUnicast ip_is_link_local_unicast IP.() -> bool
isGlobalUnicast ip_is_global_unicast IP.() -> bool
isIP is_ip (string) -> bool
string ip_to_string (IP) -> string
cidr string_to_cidr (string) -> CIDR
containsIP cidr_contains_ip_string CIDR.(string) -> bool
containsIP cidr_contains_ip_ip CIDR.(IP) -> bool
containsCIDR cidr_contains_cidr_string CIDR.(string) -> bool
containsCIDR cidr_contains_cidr CIDR.(CIDR) -> bool
ip cidr_ip CIDR.() -> IP
prefixLength cidr_prefix_length CIDR.() -> int
masked cidr_masked CIDR.() -> CIDR
isCIDR is_cidr (string) -> bool
string cidr_to_string (CIDR) -> string
";

fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    let quoted = go_quote(text);
    if text.contains('%') && text.contains(':') {
        return Err(EvalError::failed(format!("IP address {quoted} with zone value is not allowed")));
    }
    let parsed: Result<IpAddr, _> = text.parse();
    let address = parsed.map_err(|_| {
        let why = "unable to parse IP";
        EvalError::failed(format!("IP Address {quoted} parse error during conversion from string: ParseAddr({quoted}): {why}"))
    })?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(EvalError::failed(format!("IPv4-mapped IPv6 address {quoted} is not allowed")))
        }
        address => Ok(address),
    }
}

fn bits(ip: &IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), EvalError> {
    let why = "network address parse error during conversion from string";
    let quoted = go_quote(text);
    let wrong = |what: &str| EvalError::failed(format!("{why}: {why}: netip.ParsePrefix({quoted}): {what}"));
    let (address, length) = text.rsplit_once('/').ok_or_else(|| wrong("no '/'"))?;
    let ip: IpAddr = address.parse().map_err(|_| wrong(&format!("ParseAddr({}): unable to parse IP", go_quote(address))))?;
    let plain =
        !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) && (length.len() == 1 || !length.starts_with('0'));
    let number = length.parse::<u8>().ok().filter(|n| plain && *n <= bits(&ip));
    let number = number.ok_or_else(|| wrong("prefix length out of range"))?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(EvalError::failed(format!("{why}: IPv4-mapped IPv6 address {quoted} is not allowed")))
        }
        ip => Ok((ip, number)),
    }
}

/// The address as a number, left-aligned.
fn number(ip: &IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(*v4)) << 96,
        IpAddr::V6(v6) => u128::from(*v6),
    }
}

fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - u32::from(length)) }
}

fn masked(ip: &IpAddr, length: u8) -> IpAddr {
    let masked = number(ip) & mask(length);
    match ip {
        IpAddr::V4(_) => IpAddr::V4(((masked >> 96) as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(masked.into()),
    }
}

fn contains(net: (&IpAddr, u8), ip: &IpAddr) -> bool {
    net.0.is_ipv4() == ip.is_ipv4() && number(net.0) & mask(net.1) == number(ip) & mask(net.1)
}

pub(super) fn invoke(function: &str, args: &[Val]) -> Evaluated {
    match (function, args) {
        ("ip", [Val::String(text)]) => parse_ip(text).map(|ip| Extension::Ip(ip).into()),
        ("isIP", [Val::String(text)]) => Ok(Val::Bool(parse_ip(text).is_ok())),
        ("ip.isCanonical", [Val::String(text)]) => parse_ip(text).map(|ip| Val::Bool(ip.to_string() == **text)),
        ("cidr", [Val::String(text)]) => parse_cidr(text).map(|(ip, length)| Extension::Cidr(ip, length).into()),
        ("isCIDR", [Val::String(text)]) => Ok(Val::Bool(parse_cidr(text).is_ok())),
        (_, [Val::Extension(Extension::Ip(ip))]) => of_ip(function, ip),
        (_, [Val::Extension(Extension::Cidr(ip, length)), rest @ ..]) => of_cidr(function, (ip, *length), rest),
        _ => Err(EvalError::no_overload()),
    }
}

fn of_ip(function: &str, ip: &IpAddr) -> Evaluated {
    let (v4, v6) = match ip {
        IpAddr::V4(v4) => (Some(v4), None),
        IpAddr::V6(v6) => (None, Some(v6)),
    };
    let link_local_multicast =
        v4.is_some_and(|ip| ip.octets()[..3] == [224, 0, 0]) || v6.is_some_and(|ip| ip.segments()[0] & 0xff0f == 0xff02);
    let link_local_unicast = v4.is_some_and(|ip| ip.is_link_local()) || v6.is_some_and(|ip| ip.segments()[0] & 0xffc0 == 0xfe80);
    Ok(Val::Bool(match function {
        "family" => return Ok(Val::Int(if ip.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => ip.is_unspecified(),
        "isLoopback" => ip.is_loopback(),
        "isLinkLocalMulticast" => link_local_multicast,
        "isLinkLocalUnicast" => link_local_unicast,
        "isGlobalUnicast" => {
            let broadcast = v4.is_some_and(|ip| ip.is_broadcast());
            !broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local_unicast
        }
        _ => return Err(EvalError::no_overload()),
    }))
}

fn of_cidr(function: &str, net: (&IpAddr, u8), rest: &[Val]) -> Evaluated {
    let within = |(ip, length): (IpAddr, u8)| net.1 <= length && contains(net, &ip);
    match (function, rest) {
        ("ip", []) => Ok(Extension::Ip(*net.0).into()),
        ("prefixLength", []) => Ok(Val::Int(i64::from(net.1))),
        ("masked", []) => Ok(Extension::Cidr(masked(net.0, net.1), net.1).into()),
        ("containsIP", [Val::String(text)]) => parse_ip(text).map(|ip| Val::Bool(contains(net, &ip))),
        ("containsIP", [Val::Extension(Extension::Ip(ip))]) => Ok(Val::Bool(contains(net, ip))),
        ("containsCIDR", [Val::String(text)]) => parse_cidr(text).map(|other| Val::Bool(within(other))),
        ("containsCIDR", [Val::Extension(Extension::Cidr(ip, length))]) => Ok(Val::Bool(within((*ip, *length)))),
        _ => Err(EvalError::no_overload()),
    }
}
