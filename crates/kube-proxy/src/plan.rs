//! From one Service to what the table must hold for it, in one address family. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nftables::{Cmp, Expr, Family, FibResult, Key, Payload, Reg, Rule, Verdict};

use crate::layout::{MapName, Masquerade, Pick, Settings, dnat_to, reject};
use crate::model::{PortInfo, ServiceInfo, Usable};

/// The right side of an element; sets have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    None,
    Verdict(Verdict),
    Endpoint(Key),
}

/// Names an element of the table.
pub(crate) type ElementId = (MapName, Key);

/// What one Service needs in the table of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) elements: BTreeMap<ElementId, Value>,
    /// Shared chains that it refers to.
    pub(crate) picks: BTreeSet<Pick>,
    /// Chains of its own, by name.
    pub(crate) chains: BTreeMap<String, Vec<Rule>>,
    /// Dynamic sets of client addresses, for session affinity.
    pub(crate) affinity_sets: BTreeSet<String>,
    /// UDP addresses whose flows must end at one of these endpoints.
    pub(crate) udp: Vec<UdpFrontend>,
}

/// A UDP port of a Service: its address (`None` for the node's) and where flows to it may end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UdpFrontend {
    pub(crate) ip: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) endpoints: Vec<SocketAddr>,
}

const UDP: u8 = 17;

/// Makes the plan of a Service.
pub(crate) fn plan(service: &ServiceInfo, family: Family, settings: &Settings) -> Plan {
    let mut plan = Plan::default();
    let ipv6 = family == Family::Ipv6;
    let cluster_ips: Vec<IpAddr> = of_family(&service.cluster_ips, ipv6);
    for ip in &cluster_ips {
        plan.elements.insert((MapName::ClusterIps, Key::new().ip(*ip)), Value::None);
    }
    // Node ports are served in the families of the Service alone.
    if cluster_ips.is_empty() {
        return plan;
    }
    for port in &service.ports {
        let mut planner = PortPlanner {
            service,
            port,
            usable: port.usable(ipv6),
            family,
            settings,
            id: format!("{}/{}/{}", service.name, protocol_name(port.protocol), port.port),
            plan: &mut plan,
        };
        planner.all(&cluster_ips);
    }
    plan
}

fn of_family(ips: &[IpAddr], ipv6: bool) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = ips.iter().copied().filter(|ip| ip.is_ipv6() == ipv6).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

fn protocol_name(number: u8) -> &'static str {
    match number {
        6 => "tcp",
        17 => "udp",
        _ => "sctp",
    }
}

/// Where packets for a port arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frontend {
    Ip(IpAddr),
    NodePort(u16),
}

impl Frontend {
    fn key(self, port: &PortInfo) -> Key {
        match self {
            Self::Ip(ip) => Key::new().ip(ip).protocol(port.protocol).port(port.port),
            Self::NodePort(number) => Key::new().protocol(port.protocol).port(number),
        }
    }

    fn is_node_port(self) -> bool {
        matches!(self, Self::NodePort(_))
    }
}

struct PortPlanner<'a> {
    service: &'a ServiceInfo,
    port: &'a PortInfo,
    usable: Usable,
    family: Family,
    settings: &'a Settings,
    /// Unique in the table, for the names of the port's own chains.
    id: String,
    plan: &'a mut Plan,
}

impl PortPlanner<'_> {
    fn all(&mut self, cluster_ips: &[IpAddr]) {
        for ip in &self.usable.on_node {
            self.plan.elements.insert((MapName::Hairpin, Key::new().ip(*ip).ip(*ip)), Value::None);
        }
        for ip in cluster_ips {
            self.internal(Frontend::Ip(*ip));
        }
        let ipv6 = self.family == Family::Ipv6;
        let load_balancer_ips = of_family(&self.service.load_balancer_ips, ipv6);
        let mut external = of_family(&self.service.external_ips, ipv6);
        external.extend(&load_balancer_ips);
        external.sort_unstable();
        external.dedup();
        for ip in external.into_iter().filter(|ip| !cluster_ips.contains(ip)) {
            self.external(Frontend::Ip(ip));
        }
        if let Some(node_port) = self.port.node_port {
            self.external(Frontend::NodePort(node_port));
        }
        if !self.service.source_ranges.is_empty() {
            self.firewall(&load_balancer_ips);
        }
    }

    /// A ClusterIP.
    fn internal(&mut self, frontend: Frontend) {
        self.udp(frontend);
        let local = self.service.internal_local;
        let masquerade = if self.settings.masquerade_all { Masquerade::Always } else { Masquerade::FromOutside };
        match self.balance(frontend, local, masquerade) {
            Some(verdict) => self.lead(frontend, verdict),
            None => self.refuse(frontend, local),
        }
    }

    /// An address that clients outside of the cluster use, too.
    fn external(&mut self, frontend: Frontend) {
        self.udp(frontend);
        if !self.service.external_local {
            match self.balance(frontend, false, Masquerade::Always) {
                Some(verdict) => self.lead(frontend, verdict),
                None => self.refuse(frontend, false),
            }
            return;
        }
        // `externalTrafficPolicy: Local` binds only those outside; the cluster itself reaches all endpoints.
        let for_pods = self.balance(frontend, false, Masquerade::Never);
        let for_node = self.balance(frontend, false, Masquerade::Always);
        let for_others = self.balance(frontend, true, Masquerade::Never);
        if for_others.is_none() {
            self.refuse(frontend, true);
        }
        let mut rules = Vec::new();
        if let Some(verdict) = for_pods {
            for (ip, len) in self.settings.cluster_cidrs(self.family) {
                let rule = Rule::new().field_in_prefix(Payload::source(self.family), Cmp::Eq, ip, len);
                rules.push(rule.verdict(verdict.clone()));
            }
        }
        if let Some(verdict) = for_node {
            rules.push(Rule::new().is_local(FibResult::SourceType).verdict(verdict));
        }
        rules.extend(for_others.map(|verdict| Rule::new().verdict(verdict)));
        if rules.is_empty() {
            return;
        }
        let chain = format!("external/{}{}", self.id, if frontend.is_node_port() { "/node-port" } else { "" });
        self.plan.chains.insert(chain.clone(), rules);
        self.lead(frontend, Verdict::goto(chain));
    }

    /// Enters the frontend in the map that decides where its packets go.
    fn lead(&mut self, frontend: Frontend, verdict: Verdict) {
        let map = if frontend.is_node_port() { MapName::NodePorts } else { MapName::ServiceIps };
        self.plan.elements.insert((map, frontend.key(self.port)), Value::Verdict(verdict));
    }

    /// Enters a frontend without endpoints. Endpoints that are merely elsewhere mean: drop, another node may answer.
    fn refuse(&mut self, frontend: Frontend, local: bool) {
        let map = if frontend.is_node_port() { MapName::NoEndpointNodePorts } else { MapName::NoEndpoints };
        let elsewhere = local && !self.usable.cluster.is_empty();
        let verdict = if elsewhere { Verdict::Drop } else { reject() };
        self.plan.elements.insert((map, frontend.key(self.port)), Value::Verdict(verdict));
    }

    /// The verdict that spreads packets over the endpoints; `None` if there are none.
    fn balance(&mut self, frontend: Frontend, local: bool, masquerade: Masquerade) -> Option<Verdict> {
        let endpoints = if local { self.usable.local.clone() } else { self.usable.cluster.clone() };
        if endpoints.is_empty() {
            return None;
        }
        if let Some(timeout) = self.service.affinity {
            return Some(self.balance_with_affinity(&endpoints, local, masquerade, timeout));
        }
        let pick = Pick { slots: endpoints.len() as u32, node_port: frontend.is_node_port(), local, masquerade };
        for (slot, endpoint) in endpoints.iter().enumerate() {
            let key = frontend.key(self.port).number(slot as u32);
            let target = Key::new().ip(endpoint.ip()).port(endpoint.port());
            self.plan.elements.insert((pick.map(), key), Value::Endpoint(target));
        }
        self.plan.picks.insert(pick);
        Some(Verdict::goto(pick.chain()))
    }

    /// Chains of the port's own: a client in an endpoint's set goes there again, any other draws.
    fn balance_with_affinity(
        &mut self,
        endpoints: &[SocketAddr],
        local: bool,
        masquerade: Masquerade,
        timeout: Duration,
    ) -> Verdict {
        let source = Payload::source(self.family);
        let mut rules = Vec::new();
        for endpoint in endpoints {
            let (chain, set) = self.affinity_endpoint(*endpoint, timeout);
            let known = Expr::InSet { set, key: Reg(0), inverted: false };
            rules.push(Rule::new().load(source, Reg(0)).expr(known).verdict(Verdict::goto(chain)));
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let (chain, _) = self.affinity_endpoint(*endpoint, timeout);
            let modulus = (endpoints.len() - index) as u32;
            // One in N, then one in N - 1 of the rest, and so on: all are drawn equally often.
            let draw = Rule::new().expr(Expr::Random { modulus, into: Reg(0) }).expr(Expr::Cmp(Reg(0), Cmp::Eq, vec![0; 4]));
            let rule = if modulus > 1 { draw } else { Rule::new() };
            rules.push(rule.verdict(Verdict::goto(chain)));
        }
        let balance = format!("affinity/{}{}", self.id, if local { "/local" } else { "" });
        self.plan.chains.insert(balance.clone(), rules);
        let mut marking = masquerade.rules(self.settings, self.family);
        if marking.is_empty() {
            return Verdict::goto(balance);
        }
        let kind = if masquerade == Masquerade::Always { "external" } else { "internal" };
        let entry = format!("{balance}/{kind}");
        marking.push(Rule::new().verdict(Verdict::goto(balance)));
        self.plan.chains.insert(entry.clone(), marking);
        Verdict::goto(entry)
    }

    /// The chain that leads to an endpoint and notes the client, and the set that it notes it in.
    fn affinity_endpoint(&mut self, endpoint: SocketAddr, timeout: Duration) -> (String, String) {
        let set = format!("affinity/{}/{endpoint}", self.id);
        let chain = format!("endpoint/{}/{endpoint}", self.id);
        let note = Rule::new().load(Payload::source(self.family), Reg(0)).expr(Expr::Update {
            set: set.clone(),
            key: Reg(0),
            value: None,
            timeout,
        });
        self.plan.affinity_sets.insert(set.clone());
        self.plan.chains.insert(chain.clone(), vec![note, dnat_to(self.family, endpoint)]);
        (chain, set)
    }

    /// `loadBalancerSourceRanges`: others are dropped before translation.
    fn firewall(&mut self, ips: &[IpAddr]) {
        if ips.is_empty() {
            return;
        }
        let ipv6 = self.family == Family::Ipv6;
        let source = Payload::source(self.family);
        let ranges = self.service.source_ranges.iter().filter(|(ip, _)| ip.is_ipv6() == ipv6);
        let allow = |(ip, len): &(IpAddr, u8)| Rule::new().field_in_prefix(source, Cmp::Eq, *ip, *len).verdict(Verdict::Return);
        let mut rules: Vec<Rule> = ranges.map(allow).collect();
        rules.push(Rule::new().verdict(Verdict::Drop));
        let chain = format!("firewall/{}", self.id);
        self.plan.chains.insert(chain.clone(), rules);
        for ip in ips {
            let key = Frontend::Ip(*ip).key(self.port);
            self.plan.elements.insert((MapName::FirewallIps, key), Value::Verdict(Verdict::goto(chain.clone())));
        }
    }

    fn udp(&mut self, frontend: Frontend) {
        let ipv6 = self.family == Family::Ipv6;
        // As upstream: neither policies nor readiness cut existing flows, only an endpoint that no longer serves does.
        let serving = self.port.endpoints.iter().filter(|endpoint| endpoint.serving);
        let endpoints: Vec<SocketAddr> =
            serving.map(|endpoint| endpoint.address).filter(|address| address.is_ipv6() == ipv6).collect();
        if self.port.protocol != UDP || endpoints.is_empty() {
            return;
        }
        let (ip, port) = match frontend {
            Frontend::Ip(ip) => (Some(ip), self.port.port),
            Frontend::NodePort(port) => (None, port),
        };
        self.plan.udp.push(UdpFrontend { ip, port, endpoints });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EndpointInfo;
    use client::NamespacedName;

    /// Endpoints as "ADDRESS:PORT", with " local" for this node.
    fn service(endpoints: &[&str]) -> ServiceInfo {
        let endpoint = |text: &&str| {
            let (address, local) = text.split_once(' ').map_or((*text, false), |(address, _)| (address, true));
            let address = address.parse().unwrap();
            EndpointInfo { address, ready: true, serving: true, terminating: false, local }
        };
        ServiceInfo {
            name: NamespacedName::new("ns", "web"),
            cluster_ips: vec!["10.43.0.10".parse().unwrap()],
            external_ips: vec![],
            load_balancer_ips: vec![],
            source_ranges: vec![],
            affinity: None,
            internal_local: false,
            external_local: false,
            health_check_node_port: None,
            ports: vec![PortInfo { protocol: 6, port: 80, node_port: None, endpoints: endpoints.iter().map(endpoint).collect() }],
        }
    }

    fn settings() -> Settings {
        Settings { cluster_cidrs: vec![("10.42.0.0".parse().unwrap(), 16)], masquerade_bit: 0x4000, ..Settings::default() }
    }

    /// The decision maps of a plan as text: where each frontend leads.
    fn decisions(service: &ServiceInfo) -> Vec<String> {
        let plan = plan(service, Family::Ipv4, &settings());
        let decide = |((map, key), value): (&ElementId, &Value)| match value {
            Value::Verdict(verdict) => {
                let chain = match verdict {
                    Verdict::Goto(chain) => chain.clone(),
                    other => format!("{other:?}").to_lowercase(),
                };
                Some(format!("{} {} {chain}", map.name(), readable(key)))
            }
            _ => None,
        };
        plan.elements.iter().filter_map(decide).collect()
    }

    fn readable(key: &Key) -> String {
        let bytes = key.as_bytes();
        let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
        if bytes.len() >= 12 {
            format!("{}.{}.{}.{}:{}", bytes[0], bytes[1], bytes[2], bytes[3], port(&bytes[8..]))
        } else {
            format!("*:{}", port(&bytes[4..]))
        }
    }

    #[test]
    fn where_each_frontend_leads() {
        let check = |change: fn(&mut ServiceInfo), endpoints: &[&str], expected: &[&str]| {
            let mut service = service(endpoints);
            change(&mut service);
            assert_eq!(decisions(&service), expected);
        };
        let two = ["10.42.0.5:8080 local", "10.42.1.5:8080"];
        let remote = ["10.42.1.5:8080"];
        check(|_| {}, &two, &["service-ips 10.43.0.10:80 pick-2-internal"]);
        check(|_| {}, &[], &["no-endpoints 10.43.0.10:80 reject"]);
        check(|service| service.internal_local = true, &two, &["service-ips 10.43.0.10:80 pick-1-local-internal"]);
        check(|service| service.internal_local = true, &remote, &["no-endpoints 10.43.0.10:80 drop"]);
        let node_port: fn(&mut ServiceInfo) = |service| service.ports[0].node_port = Some(30080);
        check(node_port, &two, &["service-ips 10.43.0.10:80 pick-2-internal", "node-ports *:30080 pick-2-node-port-external"]);
        check(node_port, &[], &["no-endpoints 10.43.0.10:80 reject", "no-endpoint-node-ports *:30080 reject"]);
        let external: fn(&mut ServiceInfo) = |service| {
            service.external_ips = vec!["192.0.2.7".parse().unwrap(), "192.0.2.7".parse().unwrap()];
            service.load_balancer_ips = vec!["192.0.2.9".parse().unwrap(), "fd00::9".parse().unwrap()];
        };
        check(
            external,
            &two,
            &[
                "service-ips 10.43.0.10:80 pick-2-internal",
                "service-ips 192.0.2.7:80 pick-2-external",
                "service-ips 192.0.2.9:80 pick-2-external",
            ],
        );
    }

    #[test]
    fn local_policy_binds_only_those_outside() {
        let mut service = service(&["10.42.1.5:8080"]);
        service.external_local = true;
        service.ports[0].node_port = Some(30080);
        assert_eq!(
            decisions(&service),
            [
                "service-ips 10.43.0.10:80 pick-1-internal",
                "node-ports *:30080 external/ns/web/tcp/80/node-port",
                "no-endpoint-node-ports *:30080 drop",
            ]
        );
        let plan = plan(&service, Family::Ipv4, &settings());
        // Pods and the node itself; nothing for the outside.
        assert_eq!(plan.chains["external/ns/web/tcp/80/node-port"].len(), 2);
        assert!(plan.picks.iter().all(|pick| !pick.local));
    }

    #[test]
    fn endpoints_take_one_slot_each_and_local_ones_may_hairpin() {
        let plan = plan(&service(&["10.42.0.5:8080 local", "10.42.1.5:8080"]), Family::Ipv4, &settings());
        let count = |map| plan.elements.keys().filter(|(name, _)| *name == map).count();
        assert_eq!(count(MapName::Endpoints), 2);
        assert_eq!(count(MapName::Hairpin), 1);
        assert_eq!(count(MapName::ClusterIps), 1);
        assert!(plan.chains.is_empty(), "an ordinary Service has no chain of its own");
    }

    #[test]
    fn a_family_that_the_service_does_not_have_gets_nothing() {
        let mut service = service(&["10.42.0.5:8080"]);
        service.ports[0].node_port = Some(30080);
        assert_eq!(plan(&service, Family::Ipv6, &settings()), Plan::default());
    }

    #[test]
    fn affinity_keeps_a_set_of_clients_for_each_endpoint() {
        let mut service = service(&["10.42.0.5:8080", "10.42.1.5:8080"]);
        service.affinity = Some(Duration::from_secs(60));
        assert_eq!(decisions(&service), ["service-ips 10.43.0.10:80 affinity/ns/web/tcp/80/internal"]);
        let plan = plan(&service, Family::Ipv4, &settings());
        assert_eq!(plan.affinity_sets.len(), 2);
        assert_eq!(plan.chains["affinity/ns/web/tcp/80"].len(), 4, "two known clients, two draws");
        assert!(plan.picks.is_empty());
    }

    #[test]
    fn source_ranges_guard_the_load_balancer_alone() {
        let mut service = service(&["10.42.0.5:8080"]);
        service.load_balancer_ips = vec!["192.0.2.9".parse().unwrap()];
        service.source_ranges = vec![("198.51.100.0".parse().unwrap(), 24), ("fd00::".parse().unwrap(), 8)];
        assert!(decisions(&service).contains(&"firewall-ips 192.0.2.9:80 firewall/ns/web/tcp/80".to_owned()));
        let plan = plan(&service, Family::Ipv4, &settings());
        assert_eq!(plan.chains["firewall/ns/web/tcp/80"].len(), 2, "one range of this family, and the drop");
    }
}
