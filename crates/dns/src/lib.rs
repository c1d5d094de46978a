//! Cluster DNS: authoritative for the cluster domain, a forwarder for everything else.
//!
//! Owns: the records that follow from Services and EndpointSlices ([`Zone`], pure), the UDP and TCP server, forwarding to the
//! host's own resolvers, and the `kube-dns` Service that leads pods here ([`ensure_service`]).
//!
//! Invariants: answers come from memory and follow the API within one watch event; a name of the cluster domain is never
//! asked of anybody else; a query that was forwarded to us by ourselves is not forwarded again.
//!
//! Deliberately absent: pods' resolv.conf (the kubelet's), zone transfers, DNSSEC, CoreDNS plugins.
//!
//! Specification: Kubernetes DNS-Based Service Discovery 1.1.0
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>; where it is silent, CoreDNS' `kubernetes` plugin.

mod forward;
mod handler;
mod prepared;
mod server;
mod service;
mod udp;
mod zone;

pub use server::{Config, DnsServer, Error, run};
pub use service::{ServiceConfig, ensure_service};
pub use zone::{Answer, Zone};
