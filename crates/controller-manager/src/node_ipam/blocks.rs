//! Which parts of a cluster's range nodes have. Pure.

use std::collections::HashSet;

use crate::cidr::Prefix;

/// Upstream's `clusterSubnetMaxDiff`: of an IPv6 range at most 2^16 parts are used.
const IPV6_BITS_MAX: u32 = 16;

/// Why a range cannot be divided, or a block is not of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BlockError {
    #[error("the cluster CIDR {0:?} is invalid")]
    Malformed(String),
    #[error("New CIDR set failed; the node CIDR size is too big")]
    TooMany,
    #[error("the node CIDR size /{size} does not fit into {range}")]
    TooLarge { range: Prefix, size: u32 },
    #[error("CIDR allocation failed; there are no remaining CIDRs left to allocate in the accepted range")]
    Full,
    #[error("cidr {block} is out the range of cluster cidr {range}")]
    OutOfRange { block: String, range: Prefix },
    #[error("an allocated cidr at index:{0} does not exist in cluster cidrs configuration")]
    NoSuchRange(usize),
}

/// One range and its parts.
#[derive(Debug)]
struct Blocks {
    range: Prefix,
    size: u32,
    used: HashSet<u64>,
    next: u64,
}

impl Blocks {
    fn new(range: Prefix, size: u32) -> Result<Self, BlockError> {
        let width = if range.is_ipv4() { 32 } else { 128 };
        match size.checked_sub(range.bits()) {
            Some(bits) if !range.is_ipv4() && bits > IPV6_BITS_MAX => Err(BlockError::TooMany),
            Some(_) if size <= width => Ok(Self { range, size, used: HashSet::new(), next: 0 }),
            _ => Err(BlockError::TooLarge { range, size }),
        }
    }

    fn count(&self) -> u64 {
        1 << (self.size - self.range.bits())
    }

    fn indexes(&self, block: &str) -> Result<std::ops::RangeInclusive<u64>, BlockError> {
        let parts = Prefix::parse(block).and_then(|parsed| self.range.parts_of(self.size, parsed));
        parts.ok_or_else(|| BlockError::OutOfRange { block: block.to_owned(), range: self.range })
    }

    fn allocate(&mut self) -> Result<String, BlockError> {
        let count = self.count();
        let free = (0..count).map(|i| (self.next + i) % count).find(|index| !self.used.contains(index));
        let index = free.ok_or(BlockError::Full)?;
        self.used.insert(index);
        self.next = (index + 1) % count;
        Ok(self.range.part(self.size, index).to_string())
    }
}

/// The ranges of a cluster: of each, every node gets a part.
#[derive(Debug)]
pub(super) struct Ranges(Vec<Blocks>);

impl Ranges {
    pub(super) fn new(cidrs: &[String], services: &[String], sizes: (u32, u32)) -> Result<Self, BlockError> {
        let mut ranges = Vec::new();
        for cidr in cidrs {
            let range = Prefix::parse(cidr).ok_or_else(|| BlockError::Malformed(cidr.clone()))?;
            let mut blocks = Blocks::new(range, if range.is_ipv4() { sizes.0 } else { sizes.1 })?;
            for service in services {
                if let Ok(indexes) = blocks.indexes(service) {
                    blocks.used.extend(indexes);
                }
            }
            ranges.push(blocks);
        }
        Ok(Self(ranges))
    }

    /// A part of each range; none if one of them is full.
    pub(super) fn allocate(&mut self) -> Result<Vec<String>, BlockError> {
        let mut taken = Vec::new();
        for blocks in &mut self.0 {
            match blocks.allocate() {
                Ok(block) => taken.push(block),
                Err(error) => {
                    self.release(&taken);
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    /// Takes what a node has.
    pub(super) fn occupy(&mut self, cidrs: &[String]) -> Result<(), BlockError> {
        for (i, cidr) in cidrs.iter().enumerate() {
            let blocks = self.0.get_mut(i).ok_or(BlockError::NoSuchRange(i))?;
            let indexes = blocks.indexes(cidr)?;
            blocks.used.extend(indexes);
        }
        Ok(())
    }

    /// Gives back what a node had; what is not of the ranges is nobody's here.
    pub(super) fn release(&mut self, cidrs: &[String]) {
        for (blocks, cidr) in self.0.iter_mut().zip(cidrs) {
            for index in blocks.indexes(cidr).into_iter().flatten() {
                blocks.used.remove(&index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn ranges(cidrs: &[&str], services: &[&str], sizes: (u32, u32)) -> Ranges {
        Ranges::new(&texts(cidrs), &texts(services), sizes).expect("are ranges")
    }

    #[test]
    fn every_node_gets_its_own_part_until_all_are_taken() {
        let mut ranges = ranges(&["127.123.234.0/28"], &[], (30, 64));
        for expected in ["127.123.234.0/30", "127.123.234.4/30", "127.123.234.8/30", "127.123.234.12/30"] {
            assert_eq!(ranges.allocate(), Ok(texts(&[expected])));
        }
        assert_eq!(ranges.allocate(), Err(BlockError::Full));
        ranges.release(&texts(&["127.123.234.4/30"]));
        assert_eq!(ranges.allocate(), Ok(texts(&["127.123.234.4/30"])));
    }

    #[test]
    fn services_and_nodes_that_have_parts_keep_them() {
        let mut ranges = ranges(&["10.42.0.0/16"], &["10.42.0.0/23", "10.99.0.0/16"], (24, 64));
        ranges.occupy(&texts(&["10.42.2.0/24"])).expect("is of the range");
        assert_eq!(ranges.allocate(), Ok(texts(&["10.42.3.0/24"])));
        let out = ranges.occupy(&texts(&["10.9.0.0/24"])).expect_err("is out of the range").to_string();
        assert_eq!(out, "cidr 10.9.0.0/24 is out the range of cluster cidr 10.42.0.0/16");
        assert_eq!(ranges.occupy(&texts(&["10.42.4.0/24", "fd00::/64"])), Err(BlockError::NoSuchRange(1)));
    }

    #[test]
    fn dual_stack_takes_both_or_none() {
        let mut ranges = ranges(&["10.42.0.0/24", "fd00::/63"], &[], (24, 64));
        assert_eq!(ranges.allocate(), Ok(texts(&["10.42.0.0/24", "fd00::/64"])));
        ranges.occupy(&texts(&["10.42.0.0/24", "fd00:0:0:1::/64"])).expect("are of the ranges");
        ranges.release(&texts(&["10.42.0.0/24"]));
        assert_eq!(ranges.allocate(), Err(BlockError::Full), "the second range is full");
        ranges.release(&texts(&["192.0.2.0/24", "fd00::/64"]));
        // The only part of the first range was given back when the second failed.
        assert_eq!(ranges.allocate(), Ok(texts(&["10.42.0.0/24", "fd00::/64"])));
    }

    #[test]
    fn ranges_that_cannot_be_divided() {
        for (cidr, sizes, expected) in
            [("x", (24, 64), BlockError::Malformed("x".into())), ("fd00::/40", (24, 64), BlockError::TooMany)]
        {
            assert_eq!(Ranges::new(&texts(&[cidr]), &[], sizes).map(drop), Err(expected));
        }
        for (cidr, sizes) in [("10.0.0.0/25", (24, 64)), ("10.0.0.0/24", (33, 64))] {
            assert!(matches!(Ranges::new(&texts(&[cidr]), &[], sizes), Err(BlockError::TooLarge { .. })), "{cidr}");
        }
    }
}
