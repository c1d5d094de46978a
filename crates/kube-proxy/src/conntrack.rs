//! Ends UDP flows whose endpoint no longer serves: without that a client would go on talking to nobody, because its packets
//! keep the old translation alive.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use nftables::{Connection, Family, conntrack};

use crate::plan::UdpFrontend;

const UDP: u8 = 17;

/// Deletes the flows to these frontends that end elsewhere than at their endpoints; returns how many. The price is a dump of
/// the connection table, so it is called only for frontends whose endpoints changed.
pub(crate) fn clean(connection: &mut Connection, family: Family, frontends: &[UdpFrontend]) -> Result<usize, nftables::Error> {
    if frontends.is_empty() {
        return Ok(0);
    }
    let by_key: HashMap<(Option<IpAddr>, u16), HashSet<SocketAddr>> =
        frontends.iter().map(|frontend| ((frontend.ip, frontend.port), frontend.endpoints.iter().copied().collect())).collect();
    let flows = conntrack::list(connection, family, |flow| {
        let end = SocketAddr::new(flow.reply.source, flow.reply.source_port);
        let port = flow.original.destination_port;
        let endpoints = by_key.get(&(Some(flow.original.destination), port)).or_else(|| by_key.get(&(None, port)));
        flow.original.protocol == UDP && endpoints.is_some_and(|endpoints| !endpoints.contains(&end))
    })?;
    for flow in &flows {
        conntrack::delete(connection, flow)?;
    }
    Ok(flows.len())
}
