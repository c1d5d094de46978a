//! The service proxy: Services and EndpointSlices become address translation in nf_tables.
//!
//! Owns: one nftables table per address family, the health check ports of Services, the conntrack entries of UDP flows
//! whose endpoint is gone, and which load balancers' addresses this node announces.
//!
//! How it works: a Service's address, protocol and port are one key of a verdict map, whatever the number of Services. The
//! verdict goes to a chain that is shared by all Services with as many endpoints; it draws a number and looks the endpoint up
//! in one map, under the same key and the number. So a packet costs the same with one Service as with ten thousand, and a
//! change of one Service changes only its own map elements, in one transaction. Session affinity and
//! `externalTrafficPolicy: Local` need chains of a Service's own.
//!
//! Invariants: `plan` is pure, from objects to the desired elements and chains of one Service; the kernel holds the sum of
//! all plans; after any error the whole table is built anew in one transaction, so that packets never see half of it.
//!
//! Deliberately absent: topology hints, iptables and IPVS modes, the pod network.
//!
//! Specification: <https://kubernetes.io/docs/reference/networking/virtual-ips/>, KEP-3866 (nftables mode).

mod announce;
mod conntrack;
mod health;
mod layout;
mod model;
mod plan;
mod proxier;
mod table;

pub use announce::Announce;
pub use health::{HealthState, serve_healthz};
pub use proxier::{Config, Error, run};
