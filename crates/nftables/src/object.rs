//! Tables, chains, sets and elements: what a batch adds and deletes.

use std::time::Duration;

use crate::expr::Verdict;
use crate::key::{Key, KeyField};
use crate::uapi;

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 packets.
    Ipv4,
    /// IPv6 packets.
    Ipv6,
    /// Both.
    Inet,
}

impl Family {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    /// The name that nft uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
        }
    }
}

/// A table: everything else lives in one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    /// Its family; two families may have tables of the same name.
    pub family: Family,
    /// Its name.
    pub name: String,
}

impl Table {
    /// Names a table; nothing is created.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }
}

/// Where in a packet's way a base chain runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Arriving, before routing.
    Prerouting,
    /// Arriving, for this host.
    Input,
    /// Passing through.
    Forward,
    /// Sent by this host.
    Output,
    /// Leaving, after routing.
    Postrouting,
}

impl Hook {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// The type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainType {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of every connection, may translate addresses.
    Nat,
    /// Output only: a changed packet is routed again.
    Route,
}

impl ChainType {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

/// What makes a chain a base chain. Policy is always accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// Its type.
    pub kind: ChainType,
    /// Its hook.
    pub hook: Hook,
    /// Lower runs earlier: raw -300, dstnat -100, filter 0, srcnat 100.
    pub priority: i32,
}

/// Properties of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetFlags {
    /// Elements are ranges: a start, and an end flagged so.
    pub interval: bool,
    /// Elements may carry a timeout.
    pub timeout: bool,
    /// Rules may add and update elements (`dynset`).
    pub dynamic: bool,
}

/// What a map yields for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapData {
    /// A verdict (a "verdict map", vmap).
    Verdict,
    /// A value of these fields.
    Value(Vec<KeyField>),
}

/// A set, or a map when `data` is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name within the table.
    pub name: String,
    /// The fields of its key.
    pub key: Vec<KeyField>,
    /// What it maps to; `None` makes it a set.
    pub data: Option<MapData>,
    /// Its properties.
    pub flags: SetFlags,
    /// Largest number of elements; `None` is no limit.
    pub size: Option<u32>,
}

impl Set {
    /// A set of keys.
    pub fn new(name: impl Into<String>, key: &[KeyField]) -> Self {
        Self { name: name.into(), key: key.to_vec(), data: None, flags: SetFlags::default(), size: None }
    }

    /// A map from keys to verdicts.
    pub fn verdict_map(name: impl Into<String>, key: &[KeyField]) -> Self {
        Self { data: Some(MapData::Verdict), ..Self::new(name, key) }
    }

    /// A map from keys to values.
    pub fn map(name: impl Into<String>, key: &[KeyField], data: &[KeyField]) -> Self {
        Self { data: Some(MapData::Value(data.to_vec())), ..Self::new(name, key) }
    }

    /// Lets rules add elements that expire; at most `size` of them.
    pub fn dynamic(mut self, size: u32) -> Self {
        self.flags.timeout = true;
        self.flags.dynamic = true;
        self.size = Some(size);
        self
    }

    pub(crate) fn flag_bits(&self) -> u32 {
        let bit = |on: bool, bit: u32| if on { bit } else { 0 };
        bit(self.data.is_some(), uapi::NFT_SET_MAP)
            | bit(self.flags.interval, uapi::NFT_SET_INTERVAL)
            | bit(self.flags.timeout, uapi::NFT_SET_TIMEOUT)
            | bit(self.flags.dynamic, uapi::NFT_SET_EVAL)
    }
}

/// The right-hand side of a map's element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElementValue {
    /// Of a verdict map.
    Verdict(Verdict),
    /// Of a map to values.
    Value(Key),
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its key.
    pub key: Key,
    /// Its value, in maps.
    pub value: Option<ElementValue>,
    /// Time until it vanishes, in sets with timeouts.
    pub timeout: Option<Duration>,
    /// In interval sets: the first key that is no longer inside.
    pub interval_end: bool,
}

impl Element {
    /// An element of a set (also what deletes an element of a map).
    pub fn key(key: Key) -> Self {
        Self { key, value: None, timeout: None, interval_end: false }
    }

    /// An element of a verdict map.
    pub fn verdict(key: Key, verdict: Verdict) -> Self {
        Self { value: Some(ElementValue::Verdict(verdict)), ..Self::key(key) }
    }

    /// An element of a map to values.
    pub fn value(key: Key, value: Key) -> Self {
        Self { value: Some(ElementValue::Value(value)), ..Self::key(key) }
    }
}
