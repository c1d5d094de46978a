//! Which address is free: a pure allocator over one range. What is written to disk is `records`' business.
//!
//! Addresses are given round robin so that one that was just freed is not reused at once: peers may still have it in their
//! caches, and conntrack in its entries.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::error::Error;

/// Offsets that are never given to pods: the network address and the gateway (the bridge).
const RESERVED: u64 = 2;

/// The addresses of one range.
#[derive(Debug)]
pub(crate) struct Range {
    cidr: Cidr,
    used: HashSet<u64>,
    next: u64,
}

impl Range {
    pub(crate) fn new(cidr: Cidr) -> Result<Self, Error> {
        // Network, gateway, one pod, broadcast.
        if cidr.countable() < 4 {
            return Err(Error::Config(format!("the pod range {cidr} is too small")));
        }
        Ok(Self { cidr, used: HashSet::new(), next: RESERVED })
    }

    pub(crate) fn cidr(&self) -> Cidr {
        self.cidr
    }

    /// The bridge's own address.
    pub(crate) fn gateway(&self) -> IpAddr {
        self.cidr.nth(1).expect("a range has at least four addresses")
    }

    /// Marks an address that is in use already; returns false if it is not of this range.
    pub(crate) fn take(&mut self, address: IpAddr) -> bool {
        let Some(offset) = self.cidr.offset(address) else { return false };
        self.used.insert(offset);
        self.next = self.next.max(offset + 1);
        true
    }

    pub(crate) fn allocate(&mut self) -> Result<IpAddr, Error> {
        // The last address is IPv4's broadcast.
        let end = self.cidr.countable() - 1;
        let candidates = (self.next..end).chain(RESERVED..self.next.min(end));
        let exhausted = || Error::Exhausted { cidr: self.cidr.to_string() };
        let offset = candidates.into_iter().find(|offset| !self.used.contains(offset)).ok_or_else(exhausted)?;
        self.used.insert(offset);
        self.next = offset + 1;
        Ok(self.cidr.nth(offset).expect("the offset is below the range's size"))
    }

    pub(crate) fn free(&mut self, address: IpAddr) {
        if let Some(offset) = self.cidr.offset(address) {
            self.used.remove(&offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cidr: &str) -> Range {
        Range::new(cidr.parse().unwrap()).unwrap()
    }

    #[test]
    fn every_address_is_given_once_and_freed_ones_come_last() {
        let mut range = range("10.0.0.0/29");
        assert_eq!(range.gateway().to_string(), "10.0.0.1");
        let given: Vec<String> = (0..5).map(|_| range.allocate().unwrap().to_string()).collect();
        assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(matches!(range.allocate(), Err(Error::Exhausted { .. })));
        range.free("10.0.0.4".parse().unwrap());
        range.free("10.0.0.3".parse().unwrap());
        assert_eq!(range.allocate().unwrap().to_string(), "10.0.0.3");
        range.free("10.0.0.3".parse().unwrap());
        assert_eq!(range.allocate().unwrap().to_string(), "10.0.0.4");
    }

    #[test]
    fn known_addresses_are_not_given_again() {
        let mut range = range("fd00:1::/64");
        assert!(range.take("fd00:1::2".parse().unwrap()));
        assert!(!range.take("fd00:2::2".parse().unwrap()));
        assert_eq!(range.allocate().unwrap().to_string(), "fd00:1::3");
    }

    #[test]
    fn a_range_without_room_is_refused() {
        assert!(Range::new("10.0.0.0/31".parse().unwrap()).is_err());
    }
}
