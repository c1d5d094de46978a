//! The embedded pod network: one bridge on the host, one veth pair and address for each pod sandbox.
//!
//! Owns: the bridge with its addresses and sysctls, the addresses given to sandboxes (on disk, [`PodNetwork`]), the pod
//! namespaces' links and routes, and ONE nftables table with masquerade, host ports and guards; the addresses of Services that this
//! machine announces ([`Announcer`]). Nothing else of the host's network is touched.
//!
//! Invariants:
//! - An address is written down before it is used and freed only after its link is gone, so that a crash at any moment leaves
//!   at worst an address too many in use, which [`PodNetwork::reconcile`] frees.
//! - Pods have /32 (and /128) addresses and reach everything, also each other, through the host's IP layer. Replies therefore
//!   always pass connection tracking, and Services work between pods of one node without the br_netfilter module.
//! - Every operation may be repeated.
//!
//! Deliberately absent: traffic between nodes (routes, VXLAN), network policy, CNI plugins. A firewall of the host's own that
//! drops forwarded packets keeps doing so: no table but ours is changed.

mod announce;
mod cidr;
mod error;
mod firewall;
mod ipam;
mod namespace;
mod neighbours;
mod netlink;
mod pod_network;
mod records;
mod reset;

pub use announce::{Announced, Announcer};
pub use cidr::Cidr;
pub use error::Error;
pub use firewall::{PortMapping, Protocol};
pub use pod_network::{Config, PodIps, PodNetwork};
pub use reset::remove;
