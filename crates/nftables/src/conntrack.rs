//! Connection tracking entries: listing those of a protocol and deleting one.
//!
//! A UDP "connection" lives on as long as packets keep coming, so a client would go on talking to an endpoint that is gone;
//! whoever changes translations deletes the entries that no longer hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attr::{Attrs, Writer};
use crate::connection::Connection;
use crate::error::Error;
use crate::object::Family;
use crate::uapi::*;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Layer 4 protocol number.
    pub protocol: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// As the client sent it.
    pub original: Tuple,
    /// As answers come: its source is the endpoint that translation chose.
    pub reply: Tuple,
    /// The kernel's id, so that a successor with the same tuple is not deleted in its place.
    id: u32,
}

fn message(kind: u16) -> u16 {
    (NFNL_SUBSYS_CTNETLINK << 8) | kind
}

/// Lists the connections of a family that `keep` accepts.
pub fn list(connection: &mut Connection, family: Family, keep: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>, Error> {
    connection.dump(
        message(IPCTNL_MSG_CT_GET),
        family.number(),
        "list connections",
        |_| {},
        |attrs| parse_flow(attrs).filter(|flow| keep(flow)),
    )
}

/// Deletes a connection's entry; no error if it is gone already.
pub fn delete(connection: &mut Connection, flow: &Flow) -> Result<(), Error> {
    let family = if flow.original.source.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
    let result = connection.request(message(IPCTNL_MSG_CT_DELETE), family.number(), "delete a connection", |writer| {
        encode_tuple(writer, CTA_TUPLE_ORIG, &flow.original);
        writer.be32(CTA_ID, flow.id);
    });
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn encode_tuple(writer: &mut Writer, kind: u16, tuple: &Tuple) {
    let nest = writer.begin_nest(kind);
    let ip = writer.begin_nest(CTA_TUPLE_IP);
    for (address, v4, v6) in [(tuple.source, CTA_IP_V4_SRC, CTA_IP_V6_SRC), (tuple.destination, CTA_IP_V4_DST, CTA_IP_V6_DST)] {
        match address {
            IpAddr::V4(address) => writer.bytes(v4, &address.octets()),
            IpAddr::V6(address) => writer.bytes(v6, &address.octets()),
        }
    }
    writer.end_nest(ip);
    let proto = writer.begin_nest(CTA_TUPLE_PROTO);
    writer.bytes(CTA_PROTO_NUM, &[tuple.protocol]);
    writer.bytes(CTA_PROTO_SRC_PORT, &tuple.source_port.to_be_bytes());
    writer.bytes(CTA_PROTO_DST_PORT, &tuple.destination_port.to_be_bytes());
    writer.end_nest(proto);
    writer.end_nest(nest);
}

fn parse_flow(attrs: Attrs<'_>) -> Option<Flow> {
    Some(Flow {
        original: parse_tuple(attrs.nested(CTA_TUPLE_ORIG)?)?,
        reply: parse_tuple(attrs.nested(CTA_TUPLE_REPLY)?)?,
        id: attrs.be32(CTA_ID)?,
    })
}

/// `None` for protocols without ports, which no caller asks about.
fn parse_tuple(attrs: Attrs<'_>) -> Option<Tuple> {
    let ip = attrs.nested(CTA_TUPLE_IP)?;
    let proto = attrs.nested(CTA_TUPLE_PROTO)?;
    let address = |v4, v6| match (ip.get(v4), ip.get(v6)) {
        (Some(bytes), _) => <[u8; 4]>::try_from(bytes).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        (_, Some(bytes)) => <[u8; 16]>::try_from(bytes).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
        _ => None,
    };
    let port = |kind| proto.get(kind)?.try_into().ok().map(u16::from_be_bytes);
    Some(Tuple {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        protocol: *proto.get(CTA_PROTO_NUM)?.first()?,
        source_port: port(CTA_PROTO_SRC_PORT)?,
        destination_port: port(CTA_PROTO_DST_PORT)?,
    })
}
