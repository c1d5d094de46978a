//! The pod network's nftables tables (one per address family): masquerade, host ports, guards.
//!
//! Everything is rebuilt in one transaction at start and on any doubt; a sandbox that comes or goes changes only elements.

use std::net::IpAddr;

use nftables::conntrack::{self, Flow};
use nftables::{
    BaseChain, Batch, ChainType, Cmp, Connection, CtKey, Element, Expr, Family, FibResult, Hook, Key, KeyField, MetaKey, Nat,
    Payload, Reg, Rule, Set, Table, Verdict,
};
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::error::Error;
use crate::records::Record;

/// A layer 4 protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// IANA's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// The host's address; `None`, or an unspecified address, is all of its addresses.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl PortMapping {
    fn specific_ip(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    /// Whether both want the same port of the same address.
    pub(crate) fn clashes(&self, other: &Self) -> bool {
        let same_ip = match (self.specific_ip(), other.specific_ip()) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        self.host_port == other.host_port && self.protocol == other.protocol && same_ip
    }
}

/// What the rules depend on.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) table: String,
    pub(crate) bridge: String,
    pub(crate) pod_cidrs: Vec<Cidr>,
    pub(crate) non_masquerade: Vec<Cidr>,
}

const HOST_PORTS: &str = "host-ports";
const HOST_PORTS_BY_IP: &str = "host-ports-by-ip";
const HAIRPIN: &str = "hairpin";
/// Before kube-proxy and everybody else who uses dstnat (-100): a host port wins over a node port.
const DSTNAT_PRIORITY: i32 = -105;
const SRCNAT_PRIORITY: i32 = 100;
const RAW_PRIORITY: i32 = -300;
const CT_STATUS_DNAT: u32 = 32;

/// The rules in the kernel.
pub(crate) struct Firewall {
    connection: Connection,
    settings: Settings,
}

impl Firewall {
    /// Opens a connection in the current namespace; installs nothing yet.
    pub(crate) fn open(settings: Settings) -> Result<Self, Error> {
        Ok(Self { connection: Connection::open()?, settings })
    }

    /// Replaces our tables with what these records need.
    pub(crate) fn rebuild<'a>(&mut self, records: impl Iterator<Item = &'a Record> + Clone) -> Result<(), Error> {
        for cidr in self.settings.pod_cidrs.clone() {
            let table = self.table(cidr.is_ipv6());
            let mut batch = Batch::new(&table);
            batch.add_table();
            batch.delete_table();
            batch.add_table();
            self.skeleton(&mut batch, cidr, table.family);
            for record in records.clone() {
                add_elements(&mut batch, record, cidr.is_ipv6());
            }
            self.connection.commit(&batch)?;
        }
        Ok(())
    }

    /// Deletes our tables.
    pub(crate) fn remove(&mut self) -> Result<(), Error> {
        for cidr in self.settings.pod_cidrs.clone() {
            let mut batch = Batch::new(&self.table(cidr.is_ipv6()));
            batch.add_table();
            batch.delete_table();
            self.connection.commit(&batch)?;
        }
        Ok(())
    }

    /// Whether the kernel has our tables.
    pub(crate) fn is_present(&mut self) -> Result<bool, Error> {
        for cidr in self.settings.pod_cidrs.clone() {
            let table = self.table(cidr.is_ipv6());
            if !self.connection.tables(table.family)?.contains(&table.name) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Opens a sandbox's host ports.
    pub(crate) fn add(&mut self, record: &Record) -> Result<(), Error> {
        self.change(record, add_elements)?;
        let ports: Vec<u16> = udp_ports(record).collect();
        // Flows from before the mapping lead to the host itself and would go on doing so.
        self.end_udp_flows(record, |flow| {
            ports.contains(&flow.original.destination_port) && !record.addresses.contains(&flow.reply.source)
        });
        Ok(())
    }

    /// Closes a sandbox's host ports.
    pub(crate) fn delete(&mut self, record: &Record) -> Result<(), Error> {
        let result = self.change(record, delete_elements);
        self.end_udp_flows(record, |flow| record.addresses.contains(&flow.reply.source));
        result
    }

    /// Ends the UDP flows that `wanted` says, if the sandbox has UDP ports at all: a flow that goes on is never translated anew.
    fn end_udp_flows(&mut self, record: &Record, wanted: impl Fn(&Flow) -> bool) {
        if udp_ports(record).next().is_none() {
            return;
        }
        for cidr in self.settings.pod_cidrs.clone() {
            let family = self.table(cidr.is_ipv6()).family;
            let udp = |flow: &Flow| flow.original.protocol == Protocol::Udp.number() && wanted(flow);
            let ended = conntrack::list(&mut self.connection, family, udp)
                .and_then(|flows| flows.iter().try_for_each(|flow| conntrack::delete(&mut self.connection, flow)));
            if let Err(error) = ended {
                // The flows end by themselves when their clients pause for half a minute.
                tracing::warn!(%error, sandbox = record.sandbox_id, "cannot end UDP flows");
            }
        }
    }

    fn change(&mut self, record: &Record, change: fn(&mut Batch, &Record, bool)) -> Result<(), Error> {
        if record.ports.is_empty() {
            return Ok(());
        }
        for cidr in self.settings.pod_cidrs.clone() {
            let mut batch = Batch::new(&self.table(cidr.is_ipv6()));
            change(&mut batch, record, cidr.is_ipv6());
            self.connection.commit(&batch)?;
        }
        Ok(())
    }

    fn table(&self, ipv6: bool) -> Table {
        Table::new(if ipv6 { Family::Ipv6 } else { Family::Ipv4 }, &self.settings.table)
    }

    fn skeleton(&self, batch: &mut Batch, pods: Cidr, family: Family) {
        let address = address_field(family);
        let target = [address, KeyField::Port];
        batch.add_set(&Set::map(HOST_PORTS, &[KeyField::Protocol, KeyField::Port], &target));
        batch.add_set(&Set::map(HOST_PORTS_BY_IP, &[address, KeyField::Protocol, KeyField::Port], &target));
        batch.add_set(&Set::new(HAIRPIN, &[address, address]));
        let nat = |hook, priority| Some(BaseChain { kind: ChainType::Nat, hook, priority });
        batch.add_chain("dnat", None);
        batch.add_chain("prerouting", nat(Hook::Prerouting, DSTNAT_PRIORITY));
        batch.add_chain("output", nat(Hook::Output, DSTNAT_PRIORITY));
        batch.add_chain("postrouting", nat(Hook::Postrouting, SRCNAT_PRIORITY));
        for chain in ["prerouting", "output"] {
            let local = Rule::new().is_local(FibResult::DestinationType);
            batch.add_rule(chain, &local.verdict(Verdict::jump("dnat")));
        }
        for rule in dnat_rules(family) {
            batch.add_rule("dnat", &rule);
        }
        for rule in self.postrouting_rules(pods, family) {
            batch.add_rule("postrouting", &rule);
        }
        let guard = BaseChain { kind: ChainType::Filter, hook: Hook::Prerouting, priority: RAW_PRIORITY };
        batch.add_chain("guard", Some(guard));
        let bridge = &self.settings.bridge;
        if family == Family::Ipv4 {
            // The bridge has route_localnet, so that 127.0.0.1:NODEPORT works; pods must not reach the host's loopback by it.
            let loopback = IpAddr::from([127, 0, 0, 0]);
            let rule = Rule::new()
                .interface_is(MetaKey::InputInterface, Cmp::Eq, bridge)
                .field_in_prefix(Payload::Ipv4Destination, Cmp::Eq, loopback, 8)
                .verdict(Verdict::Drop);
            batch.add_rule("guard", &rule.comment("pods do not reach the host's loopback"));
            self.no_redirects(batch);
        }
    }

    /// Pods reach each other through the bridge's own address on purpose, the kernel need not tell them a shorter way.
    fn no_redirects(&self, batch: &mut Batch) {
        const ICMP: u8 = 1;
        const ICMP_REDIRECT: u8 = 5;
        let base = BaseChain { kind: ChainType::Filter, hook: Hook::Output, priority: 0 };
        batch.add_chain("redirects", Some(base));
        let rule = Rule::new()
            .interface_is(MetaKey::OutputInterface, Cmp::Eq, &self.settings.bridge)
            .protocol_is(ICMP)
            .field_is(Payload::IcmpType, Cmp::Eq, &Key::new().protocol(ICMP_REDIRECT))
            .verdict(Verdict::Drop);
        batch.add_rule("redirects", &rule);
    }

    fn postrouting_rules(&self, pods: Cidr, family: Family) -> Vec<Rule> {
        let bridge = &self.settings.bridge;
        let source = Payload::source(family);
        let destination = Payload::destination(family);
        let width = if family == Family::Ipv6 { 4 } else { 1 };
        let masquerade = Expr::Masquerade { fully_random: true };
        let mut rules = vec![
            Rule::new()
                .ct_any(CtKey::Status, CT_STATUS_DNAT)
                .load(source, Reg(0))
                .load(destination, Reg(width))
                .expr(Expr::InSet { set: HAIRPIN.into(), key: Reg(0), inverted: false })
                .expr(masquerade.clone())
                .comment("a pod that reaches itself by a host port"),
        ];
        if family == Family::Ipv4 {
            let rule = Rule::new()
                .interface_is(MetaKey::OutputInterface, Cmp::Eq, bridge)
                .field_in_prefix(source, Cmp::Eq, IpAddr::from([127, 0, 0, 0]), 8)
                .expr(masquerade.clone());
            rules.push(rule.comment("from the host's loopback to a pod"));
        }
        let leaving = Rule::new().field_in_prefix(source, Cmp::Eq, pods.network(), pods.prefix_len()).interface_is(
            MetaKey::OutputInterface,
            Cmp::Ne,
            bridge,
        );
        let inside = self.settings.non_masquerade.iter().chain([&pods]).filter(|cidr| cidr.is_ipv6() == pods.is_ipv6());
        let rule =
            inside.fold(leaving, |rule, cidr| rule.field_in_prefix(destination, Cmp::Ne, cidr.network(), cidr.prefix_len()));
        rules.push(rule.expr(masquerade).comment("pods that leave the cluster"));
        rules
    }
}

fn udp_ports(record: &Record) -> impl Iterator<Item = u16> {
    record.ports.iter().filter(|port| port.protocol == Protocol::Udp).map(|port| port.host_port)
}

fn address_field(family: Family) -> KeyField {
    if family == Family::Ipv6 { KeyField::Ipv6 } else { KeyField::Ipv4 }
}

fn dnat_rules(family: Family) -> [Rule; 2] {
    // Sixteen-byte addresses take four registers.
    let width = if family == Family::Ipv6 { 4 } else { 1 };
    let to_pod = Expr::Nat { kind: Nat::Destination, family, address: Reg(8), port: Some(Reg(8 + width)) };
    let by_ip = Rule::new()
        .load(Payload::destination(family), Reg(0))
        .meta(MetaKey::Layer4Protocol, Reg(width))
        .load(Payload::DestinationPort, Reg(width + 1))
        .expr(Expr::MapLookup { map: HOST_PORTS_BY_IP.into(), key: Reg(0), value: Reg(8) })
        .expr(to_pod.clone());
    let by_port = Rule::new()
        .meta(MetaKey::Layer4Protocol, Reg(0))
        .load(Payload::DestinationPort, Reg(1))
        .expr(Expr::MapLookup { map: HOST_PORTS.into(), key: Reg(0), value: Reg(8) })
        .expr(to_pod);
    [by_ip, by_port]
}

fn address_of(record: &Record, ipv6: bool) -> Option<IpAddr> {
    record.addresses.iter().copied().find(|address| address.is_ipv6() == ipv6)
}

/// (set, key, value) of each element that a record needs in one family's table.
fn elements(record: &Record, ipv6: bool) -> Vec<(&'static str, Key, Option<Key>)> {
    let Some(pod) = address_of(record, ipv6) else { return Vec::new() };
    let mut elements = Vec::new();
    for port in &record.ports {
        let target = Some(Key::new().ip(pod).port(port.container_port));
        match port.specific_ip() {
            Some(ip) if ip.is_ipv6() != ipv6 => continue,
            Some(ip) => {
                let key = Key::new().ip(ip).protocol(port.protocol.number()).port(port.host_port);
                elements.push((HOST_PORTS_BY_IP, key, target));
            }
            None => {
                let key = Key::new().protocol(port.protocol.number()).port(port.host_port);
                elements.push((HOST_PORTS, key, target));
            }
        }
    }
    if !elements.is_empty() {
        elements.push((HAIRPIN, Key::new().ip(pod).ip(pod), None));
    }
    elements
}

fn add_elements(batch: &mut Batch, record: &Record, ipv6: bool) {
    for (set, key, value) in elements(record, ipv6) {
        let element = match value {
            Some(value) => Element::value(key, value),
            None => Element::key(key),
        };
        batch.add_elements(set, &[element]);
    }
}

fn delete_elements(batch: &mut Batch, record: &Record, ipv6: bool) {
    for (set, key, _) in elements(record, ipv6) {
        batch.delete_elements(set, &[Element::key(key)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_clash_when_they_meet_on_an_address() {
        let port = |ip: Option<&str>, host_port, protocol| PortMapping {
            host_ip: ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port: 1,
            protocol,
        };
        let check = |one: &PortMapping, two: &PortMapping, expected| {
            assert_eq!(one.clashes(two), expected, "{one:?} {two:?}");
            assert_eq!(two.clashes(one), expected, "{two:?} {one:?}");
        };
        let any = port(None, 80, Protocol::Tcp);
        check(&any, &port(Some("0.0.0.0"), 80, Protocol::Tcp), true);
        check(&any, &port(Some("192.0.2.1"), 80, Protocol::Tcp), true);
        check(&any, &port(None, 81, Protocol::Tcp), false);
        check(&any, &port(None, 80, Protocol::Udp), false);
        check(&port(Some("192.0.2.1"), 80, Protocol::Tcp), &port(Some("192.0.2.2"), 80, Protocol::Tcp), false);
    }
}
