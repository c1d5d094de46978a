//! The fixed part of the table: its sets, maps and base chains, and the chains that Services share.
//!
//! Names and register layout are here and nowhere else.

use std::net::IpAddr;

use nftables::{
    BaseChain, Batch, ChainType, Cmp, CtKey, Element, Expr, Family, FibResult, Hook, Key, KeyField, MetaKey, Nat, Payload, Reg,
    RejectKind, Rule, Set, Verdict,
};

/// Where the value of a map look-up goes: an address and after it a port.
const VALUE: Reg = Reg(8);
const REJECT_CHAIN: &str = "reject";
const NODE_PORT_ADDRESSES: &str = "node-port-addresses";
const CT_STATE_NEW: u32 = 8;
const CT_STATUS_DNAT: u32 = 32;
const TCP: u8 = 6;

/// What rules depend on besides Services.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// Sources inside need no masquerade on their way to a ClusterIP. Empty: none are masqueraded.
    pub(crate) cluster_cidrs: Vec<(IpAddr, u8)>,
    pub(crate) masquerade_all: bool,
    /// The packet mark's bit that asks for masquerade.
    pub(crate) masquerade_bit: u32,
    /// Where node ports are served; empty is every address of the host, 127.0.0.1 too.
    pub(crate) node_port_addresses: Vec<(IpAddr, u8)>,
}

impl Settings {
    pub(crate) fn cluster_cidrs(&self, family: Family) -> impl Iterator<Item = (IpAddr, u8)> {
        self.cluster_cidrs.iter().copied().filter(move |(ip, _)| ip.is_ipv6() == (family == Family::Ipv6))
    }
}

/// A set or map of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum MapName {
    /// (address . protocol . port) to the chain that picks an endpoint.
    ServiceIps,
    /// (protocol . port) to the chain that picks an endpoint.
    NodePorts,
    /// (address . protocol . port . number) to an endpoint.
    Endpoints,
    /// The same, endpoints on this node.
    LocalEndpoints,
    /// (protocol . port . number) to an endpoint.
    NodePortEndpoints,
    /// The same, endpoints on this node.
    LocalNodePortEndpoints,
    /// (address . protocol . port) without endpoints to reject or drop.
    NoEndpoints,
    /// (protocol . port) without endpoints to reject or drop.
    NoEndpointNodePorts,
    /// (address . protocol . port) of load balancers to the chain that checks the source.
    FirewallIps,
    /// Addresses of Services: any other port of them is refused.
    ClusterIps,
    /// (address . address) of the endpoints on this node: one that reaches itself is masqueraded.
    Hairpin,
}

impl MapName {
    const ALL: [Self; 11] = [
        Self::ServiceIps,
        Self::NodePorts,
        Self::Endpoints,
        Self::LocalEndpoints,
        Self::NodePortEndpoints,
        Self::LocalNodePortEndpoints,
        Self::NoEndpoints,
        Self::NoEndpointNodePorts,
        Self::FirewallIps,
        Self::ClusterIps,
        Self::Hairpin,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ServiceIps => "service-ips",
            Self::NodePorts => "node-ports",
            Self::Endpoints => "endpoints",
            Self::LocalEndpoints => "local-endpoints",
            Self::NodePortEndpoints => "node-port-endpoints",
            Self::LocalNodePortEndpoints => "local-node-port-endpoints",
            Self::NoEndpoints => "no-endpoints",
            Self::NoEndpointNodePorts => "no-endpoint-node-ports",
            Self::FirewallIps => "firewall-ips",
            Self::ClusterIps => "cluster-ips",
            Self::Hairpin => "hairpin",
        }
    }

    fn set(self, family: Family) -> Set {
        let address = if family == Family::Ipv6 { KeyField::Ipv6 } else { KeyField::Ipv4 };
        let by_ip = [address, KeyField::Protocol, KeyField::Port];
        let by_port = [KeyField::Protocol, KeyField::Port];
        let numbered = |key: &[KeyField]| [key, &[KeyField::Number]].concat();
        let target = [address, KeyField::Port];
        match self {
            Self::ServiceIps | Self::NoEndpoints | Self::FirewallIps => Set::verdict_map(self.name(), &by_ip),
            Self::NodePorts | Self::NoEndpointNodePorts => Set::verdict_map(self.name(), &by_port),
            Self::Endpoints | Self::LocalEndpoints => Set::map(self.name(), &numbered(&by_ip), &target),
            Self::NodePortEndpoints | Self::LocalNodePortEndpoints => Set::map(self.name(), &numbered(&by_port), &target),
            Self::ClusterIps => Set::new(self.name(), &[address]),
            Self::Hairpin => Set::new(self.name(), &[address, address]),
        }
    }
}

/// Which packets on their way to a Service get this node's address as their source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Masquerade {
    Never,
    /// Those that do not come from a pod.
    FromOutside,
    Always,
}

impl Masquerade {
    /// Rules that mark those packets.
    pub(crate) fn rules(self, settings: &Settings, family: Family) -> Vec<Rule> {
        let rule = match self {
            Self::Never => return Vec::new(),
            Self::Always => Rule::new(),
            Self::FromOutside => {
                let source = Payload::source(family);
                let mut cidrs = settings.cluster_cidrs(family).peekable();
                if cidrs.peek().is_none() {
                    return Vec::new();
                }
                cidrs.fold(Rule::new(), |rule, (ip, len)| rule.field_in_prefix(source, Cmp::Ne, ip, len))
            }
        };
        vec![rule.set_mark_bits(settings.masquerade_bit, true)]
    }
}

/// A chain that draws one of `slots` endpoints; shared by all Services with as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pick {
    pub(crate) slots: u32,
    pub(crate) node_port: bool,
    /// Only endpoints on this node.
    pub(crate) local: bool,
    pub(crate) masquerade: Masquerade,
}

impl Pick {
    pub(crate) fn chain(&self) -> String {
        let port = if self.node_port { "-node-port" } else { "" };
        let local = if self.local { "-local" } else { "" };
        let masquerade = match self.masquerade {
            Masquerade::Never => "",
            Masquerade::FromOutside => "-internal",
            Masquerade::Always => "-external",
        };
        format!("pick-{}{port}{local}{masquerade}", self.slots)
    }

    pub(crate) fn map(&self) -> MapName {
        match (self.node_port, self.local) {
            (false, false) => MapName::Endpoints,
            (false, true) => MapName::LocalEndpoints,
            (true, false) => MapName::NodePortEndpoints,
            (true, true) => MapName::LocalNodePortEndpoints,
        }
    }

    pub(crate) fn rules(&self, settings: &Settings, family: Family) -> Vec<Rule> {
        let mut rules = self.masquerade.rules(settings, family);
        let (rule, next) = if self.node_port { load_port_key() } else { load_ip_key(family) };
        let pick = rule
            .expr(Expr::Random { modulus: self.slots, into: next })
            .expr(Expr::MapLookup { map: self.map().name().into(), key: Reg(0), value: VALUE })
            .expr(dnat(family));
        rules.push(pick);
        rules
    }
}

/// Registers that an address takes.
const fn width(family: Family) -> u8 {
    if matches!(family, Family::Ipv6) { 4 } else { 1 }
}

/// Loads (address . protocol . port) of the destination from register 0 on; the next register is free.
fn load_ip_key(family: Family) -> (Rule, Reg) {
    let width = width(family);
    let rule = Rule::new()
        .load(Payload::destination(family), Reg(0))
        .meta(MetaKey::Layer4Protocol, Reg(width))
        .load(Payload::DestinationPort, Reg(width + 1));
    (rule, Reg(width + 2))
}

/// Loads (protocol . port) of the destination from register 0 on; the next register is free.
fn load_port_key() -> (Rule, Reg) {
    let rule = Rule::new().meta(MetaKey::Layer4Protocol, Reg(0)).load(Payload::DestinationPort, Reg(1));
    (rule, Reg(2))
}

fn dnat(family: Family) -> Expr {
    let port = Reg(VALUE.0 + width(family));
    Expr::Nat { kind: Nat::Destination, family, address: VALUE, port: Some(port) }
}

/// The rule that translates to one endpoint.
pub(crate) fn dnat_to(family: Family, endpoint: std::net::SocketAddr) -> Rule {
    Rule::new()
        .immediate(VALUE, &Key::new().ip(endpoint.ip()))
        .immediate(Reg(VALUE.0 + width(family)), &Key::new().port(endpoint.port()))
        .expr(dnat(family))
}

/// Refuses, so that the client knows at once.
pub(crate) fn reject() -> Verdict {
    Verdict::goto(REJECT_CHAIN)
}

fn by_ip(family: Family, map: MapName) -> Rule {
    load_ip_key(family).0.expr(Expr::VerdictLookup { map: map.name().into(), key: Reg(0) })
}

/// Rules for node ports: one for each range of addresses that serves them.
fn by_node_port(settings: &Settings, family: Family, map: MapName) -> Rule {
    let for_node = if settings.node_port_addresses.is_empty() {
        Rule::new().is_local(FibResult::DestinationType)
    } else {
        Rule::new().load(Payload::destination(family), Reg(0)).expr(Expr::InSet {
            set: NODE_PORT_ADDRESSES.into(),
            key: Reg(0),
            inverted: false,
        })
    };
    for_node
        .meta(MetaKey::Layer4Protocol, Reg(0))
        .load(Payload::DestinationPort, Reg(1))
        .expr(Expr::VerdictLookup { map: map.name().into(), key: Reg(0) })
}

/// Adds everything that does not depend on Services to a new table.
pub(crate) fn add_skeleton(batch: &mut Batch, settings: &Settings, family: Family) {
    for map in MapName::ALL {
        batch.add_set(&map.set(family));
    }
    add_node_port_addresses(batch, settings, family);
    for chain in ["services", "no-endpoint-check", "firewall-check", REJECT_CHAIN] {
        batch.add_chain(chain, None);
    }
    use ChainType::{Filter, Nat};
    for (name, kind, hook, priority) in [
        ("nat-prerouting", Nat, Hook::Prerouting, -100),
        ("nat-output", Nat, Hook::Output, -100),
        ("nat-postrouting", Nat, Hook::Postrouting, 100),
        // Before translation.
        ("firewall-prerouting", Filter, Hook::Prerouting, -110),
        ("firewall-output", Filter, Hook::Output, -110),
        // After it: what still has a Service's address was not translated.
        ("filter-input", Filter, Hook::Input, 0),
        ("filter-forward", Filter, Hook::Forward, 0),
        ("filter-output", Filter, Hook::Output, 0),
    ] {
        batch.add_chain(name, Some(BaseChain { kind, hook, priority }));
    }
    batch.add_rule("services", &by_ip(family, MapName::ServiceIps));
    batch.add_rule("services", &by_node_port(settings, family, MapName::NodePorts));
    batch.add_rule("nat-prerouting", &Rule::new().verdict(Verdict::jump("services")));
    batch.add_rule("nat-output", &Rule::new().verdict(Verdict::jump("services")));
    add_postrouting(batch, settings, family);
    add_filters(batch, settings, family);
}

fn add_node_port_addresses(batch: &mut Batch, settings: &Settings, family: Family) {
    if settings.node_port_addresses.is_empty() {
        return;
    }
    let address = if family == Family::Ipv6 { KeyField::Ipv6 } else { KeyField::Ipv4 };
    let mut set = Set::new(NODE_PORT_ADDRESSES, &[address]);
    set.flags.interval = true;
    batch.add_set(&set);
    let of_family = settings.node_port_addresses.iter().filter(|(ip, _)| ip.is_ipv6() == (family == Family::Ipv6));
    for (ip, len) in of_family {
        let (first, after) = prefix_bounds(*ip, *len);
        let mut elements = vec![Element::key(Key::new().ip(first))];
        if let Some(after) = after {
            elements.push(Element { interval_end: true, ..Element::key(Key::new().ip(after)) });
        }
        batch.add_elements(NODE_PORT_ADDRESSES, &elements);
    }
}

/// The first address of a prefix, and the first after it unless it reaches to the end.
fn prefix_bounds(ip: IpAddr, len: u8) -> (IpAddr, Option<IpAddr>) {
    match ip {
        IpAddr::V4(ip) => {
            let host_bits = 32 - u32::from(len.min(32));
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            let first = u32::from(ip) & mask;
            let after = (first | !mask).checked_add(1);
            (IpAddr::from(first.to_be_bytes()), after.map(|after| IpAddr::from(after.to_be_bytes())))
        }
        IpAddr::V6(ip) => {
            let host_bits = 128 - u32::from(len.min(128));
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            let first = u128::from(ip) & mask;
            let after = (first | !mask).checked_add(1);
            (IpAddr::from(first.to_be_bytes()), after.map(|after| IpAddr::from(after.to_be_bytes())))
        }
    }
}

fn add_postrouting(batch: &mut Batch, settings: &Settings, family: Family) {
    let masquerade = Expr::Masquerade { fully_random: true };
    let marked =
        Rule::new().mark_any(settings.masquerade_bit).set_mark_bits(settings.masquerade_bit, false).expr(masquerade.clone());
    let hairpin = Rule::new()
        .ct_any(CtKey::Status, CT_STATUS_DNAT)
        .load(Payload::source(family), Reg(0))
        .load(Payload::destination(family), Reg(width(family)))
        .expr(Expr::InSet { set: MapName::Hairpin.name().into(), key: Reg(0), inverted: false })
        .expr(masquerade);
    batch.add_rule("nat-postrouting", &marked);
    batch.add_rule("nat-postrouting", &hairpin.comment("an endpoint that reaches itself"));
}

fn add_filters(batch: &mut Batch, settings: &Settings, family: Family) {
    batch.add_rule("no-endpoint-check", &by_ip(family, MapName::NoEndpoints));
    batch.add_rule("no-endpoint-check", &by_node_port(settings, family, MapName::NoEndpointNodePorts));
    batch.add_rule("firewall-check", &by_ip(family, MapName::FirewallIps));
    let new = || Rule::new().ct_any(CtKey::State, CT_STATE_NEW);
    for chain in ["firewall-prerouting", "firewall-output"] {
        batch.add_rule(chain, &new().verdict(Verdict::jump("firewall-check")));
    }
    for chain in ["filter-input", "filter-forward", "filter-output"] {
        batch.add_rule(chain, &new().verdict(Verdict::jump("no-endpoint-check")));
    }
    for chain in ["filter-forward", "filter-output"] {
        let rule = new()
            .load(Payload::destination(family), Reg(0))
            .expr(Expr::InSet { set: MapName::ClusterIps.name().into(), key: Reg(0), inverted: false })
            .verdict(reject());
        batch.add_rule(chain, &rule.comment("a port that the Service does not have"));
    }
    batch.add_rule(REJECT_CHAIN, &Rule::new().protocol_is(TCP).expr(Expr::Reject(RejectKind::TcpReset)));
    batch.add_rule(REJECT_CHAIN, &Rule::new().expr(Expr::Reject(RejectKind::PortUnreachable)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_become_intervals() {
        let check = |ip: &str, len, first: &str, after: Option<&str>| {
            let parse = |text: &str| text.parse::<IpAddr>().unwrap();
            assert_eq!(prefix_bounds(parse(ip), len), (parse(first), after.map(parse)), "{ip}/{len}");
        };
        check("192.0.2.77", 24, "192.0.2.0", Some("192.0.3.0"));
        check("192.0.2.77", 32, "192.0.2.77", Some("192.0.2.78"));
        check("255.255.255.255", 32, "255.255.255.255", None);
        check("1.2.3.4", 0, "0.0.0.0", None);
        check("fd00::1:2", 112, "fd00::1:0", Some("fd00::2:0"));
    }
}
