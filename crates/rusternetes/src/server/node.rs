//! What this machine is called and where it is reached.

use std::net::{IpAddr, UdpSocket};

use anyhow::Context;

/// The host name in the form that a Node's name must have.
pub(crate) fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host name; give one with --node-name")?;
    let name = name.to_string_lossy().trim().to_ascii_lowercase();
    anyhow::ensure!(!name.is_empty(), "this machine has no host name; give one with --node-name");
    Ok(name)
}

/// The source address of the default route; without one, the first address that is not loopback.
pub(crate) fn primary_address() -> anyhow::Result<IpAddr> {
    routed_address()
        .or_else(first_address)
        .context("this machine has no address but loopback; give one with --node-ip, or add an interface (a dummy one will do)")
}

/// Connecting a datagram socket sends nothing: it only asks the kernel which address it would use. The target is of TEST-NET-1
/// (RFC 5737), which no machine has.
fn routed_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified() && !address.is_loopback())
}

fn first_address() -> Option<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    interfaces
        .filter(|interface| !interface.interface_name.starts_with("rn"))
        .filter_map(|interface| Some(IpAddr::from(interface.address?.as_sockaddr_in()?.ip())))
        .find(|address| !address.is_loopback())
}
