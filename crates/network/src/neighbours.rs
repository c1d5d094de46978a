//! What neighbours are told of an address that came here: an ARP announcement in both of its forms (RFC 5227 section 3), an unsolicited
//! neighbour advertisement (RFC 4861 section 4.4). Nothing is received: the kernel answers questions by itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, SockaddrLike, sendto, setsockopt, socket, sockopt,
};

use crate::announce::Link;

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ARP_HARDWARE_ETHERNET: u16 = 1;
/// Question and answer: some systems heed only one of the two when nobody has asked.
const ARP_OPERATIONS: [u16; 2] = [1, 2];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// What neighbours know gives way to this.
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_TARGET_LINK_ADDRESS: u8 = 2;
/// Proves that a message comes from the link itself.
const HOPS: i32 = 255;

/// Tells the neighbours on a link that an address is here.
pub(crate) fn tell(link: &Link, address: IpAddr) -> io::Result<()> {
    let Some(mac) = link.hardware.addr() else { return Ok(()) };
    match address {
        IpAddr::V4(address) => {
            // Without a protocol the socket receives nothing.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            ARP_OPERATIONS.iter().try_for_each(|operation| send(&socket, &arp(*operation, mac, address), &link.hardware))
        }
        IpAddr::V6(address) => {
            let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
            setsockopt(&socket, sockopt::Ipv6MulticastHops, &HOPS)?;
            let to = SockaddrIn6::from(SocketAddrV6::new(ALL_NODES, 0, 0, link.index));
            send(&socket, &advertisement(mac, address), &to)
        }
    }
}

fn send(socket: &OwnedFd, message: &[u8], to: &dyn SockaddrLike) -> io::Result<()> {
    sendto(socket.as_raw_fd(), message, to, MsgFlags::empty())?;
    Ok(())
}

/// An Ethernet frame to everybody: the address is at this MAC, asked or answered by itself.
fn arp(operation: u16, mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([BROADCAST, mac].concat());
    for field in [ETHERTYPE_ARP, ARP_HARDWARE_ETHERNET, ETHERTYPE_IPV4] {
        frame.extend(field.to_be_bytes());
    }
    // The lengths of both kinds of addresses.
    frame.extend([6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(if operation == 1 { [0; 6] } else { BROADCAST });
    frame.extend(address.octets());
    frame
}

/// An ICMPv6 message, whose checksum the kernel fills in.
fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    // The option's length in units of eight bytes.
    message.extend([OPTION_TARGET_LINK_ADDRESS, 1]);
    message.extend(mac);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn an_arp_announcement() {
        let frame = arp(1, MAC, Ipv4Addr::new(192, 0, 2, 10));
        let expected = b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x09\x08\x06\0\x01\x08\0\x06\x04\0\x01\x02\0\0\0\0\x09\xc0\0\x02\x0a\0\0\0\0\0\0\xc0\0\x02\x0a";
        assert_eq!(frame, expected);
        assert_eq!(arp(2, MAC, Ipv4Addr::new(192, 0, 2, 10))[20..22], [0, 2]);
    }

    #[test]
    fn a_neighbour_advertisement() {
        let message = advertisement(MAC, "fd00::a".parse().expect("is an address"));
        let expected = b"\x88\0\0\0\x20\0\0\0\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0a\x02\x01\x02\0\0\0\0\x09";
        assert_eq!(message, expected);
    }
}
