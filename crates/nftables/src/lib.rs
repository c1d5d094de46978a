//! nf_tables and conntrack over netlink, without the `nft` and `conntrack` programs.
//!
//! Owns: encoding of tables, chains, rules, sets, maps and their elements into atomic batches ([`Batch`]), sending them
//! ([`Connection`]), reading a table back (for tests and for repair), and deleting conntrack entries ([`conntrack`]).
//!
//! Invariants: a batch is applied whole or not at all; an error names the object that the kernel refused; a table that is
//! not named in a batch is never touched.
//!
//! Deliberately absent: parsing of the nft language, the bridge, arp and netdev families, stateful objects, flowtables.
//! All calls block for as long as the kernel needs (microseconds to a few milliseconds); a socket belongs to the network
//! namespace of the thread that opened it.
//!
//! Reference: <https://wiki.nftables.org>, `linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`.

mod attr;
mod batch;
mod connection;
pub mod conntrack;
mod dump;
mod error;
mod expr;
mod key;
mod object;
mod uapi;

pub use batch::Batch;
pub use connection::Connection;
pub use dump::{DumpedElement, DumpedRule};
pub use error::Error;
pub use expr::{Cmp, CtKey, Expr, FibResult, MetaKey, Nat, Payload, Reg, RejectKind, Rule, Verdict};
pub use key::{Key, KeyField};
pub use object::{BaseChain, ChainType, Element, ElementValue, Family, Hook, MapData, Set, SetFlags, Table};
