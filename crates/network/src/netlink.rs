//! Links, addresses and routes: one blocking request at a time on a socket of the current network namespace.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo};
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::cidr::{Cidr, width};
use crate::error::Error;

/// Both ends of a veth pair.
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) bridge_index: u32,
    pub(crate) pod_name: &'a str,
    pub(crate) pod_namespace: &'a File,
    pub(crate) pod_mac: [u8; 6],
    pub(crate) mtu: u32,
}

/// An rtnetlink socket.
pub(crate) struct Netlink {
    socket: Socket,
    seq: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| Error::Netlink { operation: "open a netlink socket".into(), source })?;
        Ok(Self { socket, seq: 0 })
    }

    /// The index of a link; `None` if there is none of this name.
    pub(crate) fn link_index(&mut self, name: &str) -> Result<Option<u32>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let operation = || format!("look up the link {name}");
        match self.exchange(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(link.header.index)),
            Ok(_) => Ok(None),
            Err(error) if is(&error, libc_errno::ENODEV) => Ok(None),
            Err(source) => Err(Error::Netlink { operation: operation(), source }),
        }
    }

    /// Creates a bridge with a fixed MAC address, unless it exists.
    pub(crate) fn ensure_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> Result<u32, Error> {
        if self.link_index(name)?.is_none() {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::IfName(name.to_owned()));
            message.attributes.push(LinkAttribute::Address(mac.to_vec()));
            message.attributes.push(LinkAttribute::Mtu(mtu));
            message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            self.request(RouteNetlinkMessage::NewLink(message), flags, || format!("create the bridge {name}"))?;
        }
        self.set_up(name)?;
        self.link_index(name)?.ok_or_else(|| Error::Netlink {
            operation: format!("find the bridge {name}"),
            source: io::Error::from_raw_os_error(libc_errno::ENODEV),
        })
    }

    /// Creates a veth pair, one end a port of the bridge, the other directly in the pod's namespace, and turns the host end up.
    pub(crate) fn add_veth(&mut self, veth: &Veth<'_>) -> Result<(), Error> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(veth.pod_name.to_owned()));
        peer.attributes.push(LinkAttribute::Address(veth.pod_mac.to_vec()));
        peer.attributes.push(LinkAttribute::Mtu(veth.mtu));
        peer.attributes.push(LinkAttribute::NetNsFd(veth.pod_namespace.as_raw_fd()));
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(veth.host_name.to_owned()));
        message.attributes.push(LinkAttribute::Mtu(veth.mtu));
        message.attributes.push(LinkAttribute::Controller(veth.bridge_index));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let name = veth.host_name;
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(RouteNetlinkMessage::NewLink(message), flags, || format!("create the veth pair {name}"))?;
        // A pod that reaches itself through a Service comes back by the port that it left by, when br_netfilter is loaded.
        let mut port = up(name);
        port.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]));
        self.request(RouteNetlinkMessage::NewLink(port), 0, || format!("turn up the bridge port {name}"))
    }

    pub(crate) fn set_up(&mut self, name: &str) -> Result<(), Error> {
        self.request(RouteNetlinkMessage::NewLink(up(name)), 0, || format!("turn up the link {name}"))
    }

    /// Deletes a link; no error if it is gone already.
    pub(crate) fn delete_link(&mut self, name: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let operation = || format!("delete the link {name}");
        match self.request(RouteNetlinkMessage::DelLink(message), 0, operation) {
            Err(Error::Netlink { source, .. }) if is(&source, libc_errno::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Gives a link an address; no error if it has it.
    pub(crate) fn ensure_address(&mut self, index: u32, address: IpAddr, prefix_len: u8) -> Result<(), Error> {
        self.put_address(address, on_link(index, address, prefix_len))
    }

    /// Gives a link the address of a Service, which this machine does not speak from by itself.
    pub(crate) fn add_service_address(&mut self, index: u32, address: IpAddr) -> Result<(), Error> {
        let mut message = on_link(index, address, width(address));
        let mut lifetimes = CacheInfo::default();
        (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        self.put_address(address, message)
    }

    fn put_address(&mut self, address: IpAddr, message: AddressMessage) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewAddress(message), flags, || format!("add the address {address}"))
    }

    /// Takes an address from a link; no error if it does not have it.
    pub(crate) fn delete_address(&mut self, index: u32, address: IpAddr, prefix_len: u8) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelAddress(on_link(index, address, prefix_len));
        match self.request(message, 0, || format!("delete the address {address}")) {
            Err(Error::Netlink { source, .. }) if is(&source, libc_errno::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    /// Sets a route to `destination`, directly or through `gateway`, replacing one to the same destination.
    pub(crate) fn ensure_route(&mut self, destination: Cidr, gateway: Option<IpAddr>, index: u32) -> Result<(), Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination.network());
        message.header.destination_prefix_length = destination.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        if destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination.network())));
        }
        if let Some(gateway) = gateway {
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        }
        message.attributes.push(RouteAttribute::Oif(index));
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewRoute(message), flags, || format!("set the route to {destination}"))
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16, operation: impl FnOnce() -> String) -> Result<(), Error> {
        match self.exchange(message, flags | NLM_F_ACK) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Netlink { operation: operation(), source }),
        }
    }

    /// Sends a message and reads up to its answer: an acknowledgement (`None`) or one object.
    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
        self.seq += 1;
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.seq;
        request.finalize();
        let mut datagram = vec![0; request.buffer_len()];
        request.serialize(&mut datagram);
        self.socket.send(&datagram, 0)?;
        loop {
            // The kernel answers before `send` returns; an answer that is not there will not come.
            let (answer, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
                .map_err(|error| io::Error::other(error.to_string()))?;
            if answer.header.sequence_number != self.seq {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
                NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
                _ => Ok(None),
            };
        }
    }
}

/// The error numbers that mean "there is none".
mod libc_errno {
    pub(super) const ENODEV: i32 = nix::errno::Errno::ENODEV as i32;
    pub(super) const EADDRNOTAVAIL: i32 = nix::errno::Errno::EADDRNOTAVAIL as i32;
}

fn on_link(index: u32, address: IpAddr, prefix_len: u8) -> AddressMessage {
    const IFA_F_NODAD: u8 = 0x02;
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    if address.is_ipv6() {
        // Addresses are unique by allocation; waiting a second for duplicate detection would delay every pod.
        message.header.flags = AddressHeaderFlags::from_bits_retain(IFA_F_NODAD);
    }
    message.attributes.push(AddressAttribute::Address(address));
    message.attributes.push(AddressAttribute::Local(address));
    message
}

fn is(error: &io::Error, errno: i32) -> bool {
    error.raw_os_error() == Some(errno)
}

fn up(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}
