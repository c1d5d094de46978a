//! Addresses that this machine has beside its own, so that its network finds Services there. The kernel answers for them (ARP, neighbour
//! discovery); neighbours that had another machine in mind are told (RFC 5227 section 3, RFC 4861 section 7.2.6).
//!
//! An address is on the link in whose network it is, with its full length as prefix. It stays when the process ends, as the service
//! proxy's rules do: connections go on while the process restarts. What was added is written down before it is, so that only that is
//! ever taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, SockaddrStorage};

use crate::cidr::{Cidr, width};
use crate::error::Error;
use crate::neighbours;
use crate::netlink::Netlink;

/// The additional addresses of this machine. All methods block, for a few milliseconds.
#[derive(Debug)]
pub struct Announcer {
    file: PathBuf,
    /// What was added, and perhaps is not there any more.
    ours: BTreeSet<IpAddr>,
}

/// What [`Announcer::set`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Addresses that are new here: neighbours should be told.
    pub added: Vec<IpAddr>,
    /// Addresses that no link's network contains.
    pub homeless: Vec<IpAddr>,
}

/// A link by which others may reach this machine.
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) hardware: LinkAddr,
    addresses: Vec<(IpAddr, u8)>,
}

impl Link {
    fn has(&self, address: &IpAddr) -> bool {
        self.addresses.iter().any(|(has, _)| has == address)
    }
}

impl Announcer {
    /// Reads what was added before; `file` need not exist, its directory must.
    pub fn open(file: PathBuf) -> Result<Self, Error> {
        let failed = |source| Error::File { operation: "read", path: file.clone(), source };
        let ours = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { file, ours })
    }

    /// Whether there is nothing to take away.
    pub fn is_empty(&self) -> bool {
        self.ours.is_empty()
    }

    /// Adds these addresses, and takes away all others that were added. What a link has by itself stays as it is.
    pub fn set(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<Announced, Error> {
        let links = links()?;
        let mut announced = Announced::default();
        let mut homes = BTreeMap::new();
        for address in wanted {
            match home(&links, *address) {
                Some(link) => drop(homes.insert(*address, link.index)),
                None => announced.homeless.push(*address),
            }
        }
        let there = |address: &IpAddr, link: &Link| homes.get(address) == Some(&link.index);
        let missing = homes.keys().filter(|address| !links.iter().any(|link| there(address, link) && link.has(address)));
        announced.added = missing.copied().collect();
        self.remember(self.ours.iter().chain(&announced.added).copied().collect())?;
        let mut netlink = Netlink::open()?;
        for link in &links {
            for (address, prefix_len) in link.addresses.iter().filter(|(address, _)| !there(address, link)) {
                if self.ours.contains(address) && *prefix_len == width(*address) {
                    netlink.delete_address(link.index, *address, *prefix_len)?;
                }
            }
        }
        for address in &announced.added {
            netlink.add_service_address(homes[address], *address)?;
        }
        self.remember(self.ours.iter().filter(|address| homes.contains_key(address)).copied().collect())?;
        Ok(announced)
    }

    /// Tells the neighbours on the links of these addresses where they are. One that is not here is passed over.
    pub fn tell(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        if addresses.is_empty() {
            return Ok(());
        }
        let links = links()?;
        for address in addresses {
            if let Some(link) = links.iter().find(|link| link.has(address)) {
                let operation = || format!("announce the address {address}");
                neighbours::tell(link, *address).map_err(|source| Error::Netlink { operation: operation(), source })?;
            }
        }
        Ok(())
    }

    fn remember(&mut self, ours: BTreeSet<IpAddr>) -> Result<(), Error> {
        if ours == self.ours {
            return Ok(());
        }
        let text = serde_json::to_vec(&ours).expect("addresses are texts");
        let failed = |source| Error::File { operation: "write", path: self.file.clone(), source };
        let next = self.file.with_extension("next");
        std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, &self.file)).map_err(failed)?;
        self.ours = ours;
        Ok(())
    }
}

/// The links that are up and have neighbours.
fn links() -> Result<Vec<Link>, Error> {
    let failed =
        |errno: nix::errno::Errno| Error::Netlink { operation: "list the addresses of links".into(), source: errno.into() };
    let all: Vec<_> = getifaddrs().map_err(failed)?.collect();
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_BROADCAST;
    let unwanted = InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_NOARP;
    let mut links = BTreeMap::new();
    for entry in all.iter().filter(|entry| entry.flags.contains(wanted) && !entry.flags.intersects(unwanted)) {
        let hardware = entry.address.as_ref().and_then(SockaddrStorage::as_link_addr);
        if let Some(hardware) = hardware.filter(|hardware| hardware.halen() == 6)
            && let Ok(index) = u32::try_from(hardware.ifindex())
        {
            let link = Link { index, hardware: *hardware, addresses: Vec::new() };
            links.insert(entry.interface_name.as_str(), link);
        }
    }
    for entry in &all {
        if let Some(link) = links.get_mut(entry.interface_name.as_str())
            && let (Some(address), Some(mask)) = (ip(entry.address.as_ref()), ip(entry.netmask.as_ref()))
        {
            link.addresses.push((address, prefix_len(mask)));
        }
    }
    Ok(links.into_values().collect())
}

fn ip(address: Option<&SockaddrStorage>) -> Option<IpAddr> {
    let address = address?;
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn prefix_len(mask: IpAddr) -> u8 {
    let ones = match mask {
        IpAddr::V4(mask) => Ipv4Addr::to_bits(mask).count_ones(),
        IpAddr::V6(mask) => Ipv6Addr::to_bits(mask).count_ones(),
    };
    u8::try_from(ones).unwrap_or(u8::MAX)
}

/// The link whose network contains an address; of several the one with the smallest network.
fn home(links: &[Link], address: IpAddr) -> Option<&Link> {
    let networks = links.iter().flat_map(|link| link.addresses.iter().map(move |(of, prefix_len)| (link, *of, *prefix_len)));
    let around = networks.filter(|(_, of, prefix_len)| {
        *prefix_len < width(*of) && Cidr::new(*of, *prefix_len).is_some_and(|network| network.contains(address))
    });
    around.max_by_key(|(_, _, prefix_len)| *prefix_len).map(|(link, ..)| link)
}
