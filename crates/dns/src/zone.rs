//! The cluster domain's records: kept up to date object by object, looked up by name and type. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::NamespacedName;
use hickory_proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use crate::prepared::{Entry, Prepared};

/// Seconds that clients may keep an answer; CoreDNS' default for cluster names.
pub(crate) const TTL: u32 = 5;
/// The version of the specification, which `dns-version.ZONE` tells.
const SPECIFICATION_VERSION: &str = "1.1.0";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What the zone says to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Records, and others that spare the client a query.
    Records {
        /// The answer section.
        answers: Vec<Record>,
        /// The additional section.
        additionals: Vec<Record>,
    },
    /// A name for another one, which the client wants to know of, too (ExternalName).
    Alias {
        /// The CNAME record.
        record: Box<Record>,
        /// Where it leads.
        target: Name,
    },
    /// The name exists, but not with this type.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// The name is not ours.
    NotOurs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PortRecord {
    name: String,
    /// `_tcp`, `_udp`, `_sctp`.
    protocol: &'static str,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ServiceKind {
    ClusterIp(Vec<IpAddr>),
    Headless,
    External(Name),
}

#[derive(Debug, Clone)]
struct ServiceRecord {
    kind: ServiceKind,
    ports: Vec<PortRecord>,
}

#[derive(Debug, Clone)]
struct EndpointRecord {
    /// Its hostname, or its address with dashes.
    label: String,
    addresses: Vec<IpAddr>,
}

/// The ready endpoints of one slice, with the ports that they all have.
#[derive(Debug, Clone)]
struct SliceRecord {
    endpoints: Vec<EndpointRecord>,
    ports: Vec<PortRecord>,
}

/// The records of a cluster domain and of the addresses in it.
#[derive(Debug)]
pub struct Zone {
    origin: Name,
    /// Lower-case labels of the domain, `["cluster", "local"]`.
    origin_labels: Vec<String>,
    /// Our own addresses, for `ns.dns.ZONE`.
    name_server: Vec<IpAddr>,
    services: HashMap<NamespacedName, ServiceRecord>,
    /// How many Services a namespace has.
    namespaces: HashMap<String, usize>,
    /// By Service, then by slice name.
    slices: HashMap<NamespacedName, BTreeMap<String, SliceRecord>>,
    /// Who has an address: Services by ClusterIP, and Services by the addresses of their endpoints.
    by_cluster_ip: HashMap<IpAddr, NamespacedName>,
    by_endpoint: HashMap<IpAddr, HashSet<NamespacedName>>,
    /// Turns the order of addresses from answer to answer.
    turn: AtomicUsize,
    /// The same again for what is asked most.
    prepared: Prepared,
}

impl Zone {
    /// An empty zone for `cluster_domain` (such as `cluster.local`). `name_server` are the addresses that clients reach us by.
    /// `None` if the domain is no domain name.
    pub fn new(cluster_domain: &str, name_server: Vec<IpAddr>) -> Option<Self> {
        let mut origin = Name::from_str(&cluster_domain.to_lowercase()).ok()?;
        origin.set_fqdn(true);
        let origin_labels = labels(&origin);
        if origin_labels.is_empty() {
            return None;
        }
        Some(Self {
            origin,
            prepared: Prepared::new(&origin_labels),
            origin_labels,
            name_server,
            services: HashMap::new(),
            namespaces: HashMap::new(),
            slices: HashMap::new(),
            by_cluster_ip: HashMap::new(),
            by_endpoint: HashMap::new(),
            turn: AtomicUsize::new(0),
        })
    }

    /// Answers a UDP message into the empty `out` if it asks for what is prepared; see [`Prepared::answer`].
    pub(crate) fn answer(&self, message: &[u8], out: &mut Vec<u8>) -> bool {
        self.prepared.answer(message, || self.turn.fetch_add(1, Ordering::Relaxed), out)
    }

    fn prepare(&mut self, key: &NamespacedName) {
        let entry = self.services.get(key).map(|service| match &service.kind {
            ServiceKind::ClusterIp(ips) => Entry::addresses(ips.iter().copied()),
            ServiceKind::External(_) => Entry::Other,
            ServiceKind::Headless => {
                let mut endpoints = self.endpoints(key).peekable();
                match endpoints.peek() {
                    None => Entry::Missing,
                    Some(_) => Entry::addresses(endpoints.flat_map(|(endpoint, _)| endpoint.addresses.iter().copied())),
                }
            }
        });
        self.prepared.set(key, entry);
    }

    /// Adds or replaces a Service.
    pub fn set_service(&mut self, service: &Service) {
        let key = NamespacedName::of(service);
        self.remove_service(&key);
        let Some(record) = service_record(service) else { return };
        if let ServiceKind::ClusterIp(ips) = &record.kind {
            for ip in ips {
                self.by_cluster_ip.insert(*ip, key.clone());
            }
        }
        *self.namespaces.entry(key.namespace.clone()).or_default() += 1;
        self.services.insert(key.clone(), record);
        self.prepare(&key);
    }

    /// Forgets a Service.
    pub fn remove_service(&mut self, key: &NamespacedName) {
        let Some(record) = self.services.remove(key) else { return };
        self.prepare(key);
        if let ServiceKind::ClusterIp(ips) = record.kind {
            for ip in ips {
                // The address may have gone to another Service already.
                if self.by_cluster_ip.get(&ip) == Some(key) {
                    self.by_cluster_ip.remove(&ip);
                }
            }
        }
        if let Some(count) = self.namespaces.get_mut(&key.namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&key.namespace);
            }
        }
    }

    /// Adds or replaces an EndpointSlice.
    pub fn set_slice(&mut self, slice: &EndpointSlice) {
        let Some(service) = service_of(slice) else { return };
        self.remove_slice(slice);
        let record = slice_record(slice);
        for address in record.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            self.by_endpoint.entry(*address).or_default().insert(service.clone());
        }
        self.slices.entry(service.clone()).or_default().insert(slice.name_any(), record);
        self.prepare(&service);
    }

    /// Forgets an EndpointSlice (as it was when it was added: with the same Service label).
    pub fn remove_slice(&mut self, slice: &EndpointSlice) {
        let Some(service) = service_of(slice) else { return };
        let Some(slices) = self.slices.get_mut(&service) else { return };
        let Some(old) = slices.remove(&slice.name_any()) else { return };
        let still_there: HashSet<IpAddr> =
            slices.values().flat_map(|slice| &slice.endpoints).flat_map(|endpoint| endpoint.addresses.clone()).collect();
        if slices.is_empty() {
            self.slices.remove(&service);
        }
        self.prepare(&service);
        for address in old.endpoints.into_iter().flat_map(|endpoint| endpoint.addresses) {
            if still_there.contains(&address) {
                continue;
            }
            if let Some(owners) = self.by_endpoint.get_mut(&address) {
                owners.remove(&service);
                if owners.is_empty() {
                    self.by_endpoint.remove(&address);
                }
            }
        }
    }

    /// The SOA record that goes with negative answers.
    pub fn soa(&self) -> Record {
        let name = |prefix: &str| Name::from_str(prefix).and_then(|name| name.append_domain(&self.origin));
        let primary = name("ns.dns").unwrap_or_else(|_| self.origin.clone());
        let mailbox = name("hostmaster").unwrap_or_else(|_| self.origin.clone());
        // Refresh, retry and expire are for secondaries, of which there are none; the values are CoreDNS'.
        let soa = SOA::new(primary, mailbox, 1, 7200, 1800, 86_400, TTL);
        Record::from_rdata(self.origin.clone(), TTL, RData::SOA(soa))
    }

    /// Looks a name up. Case does not matter; the records carry the name as it was asked for.
    pub fn lookup(&self, name: &Name, query_type: RecordType) -> Answer {
        let labels = labels(name);
        if let Some(address) = reverse_address(&labels) {
            return self.reverse(name, address, query_type);
        }
        let Some(rest) = labels.len().checked_sub(self.origin_labels.len()) else { return Answer::NotOurs };
        if labels[rest..] != self.origin_labels[..] {
            return Answer::NotOurs;
        }
        let labels: Vec<&str> = labels[..rest].iter().map(String::as_str).collect();
        match labels.as_slice() {
            [] => self.apex(name, query_type),
            ["dns-version"] => match query_type {
                RecordType::TXT => records(vec![record(name, RData::TXT(TXT::new(vec![SPECIFICATION_VERSION.to_owned()])))]),
                _ => Answer::NoData,
            },
            ["dns"] | ["svc"] | ["pod"] => Answer::NoData,
            ["ns", "dns"] => self.addresses(name, self.name_server.iter().copied(), query_type),
            [namespace, "svc"] if self.namespaces.contains_key(*namespace) => Answer::NoData,
            [rest @ .., service, namespace, "svc"] => {
                let key = NamespacedName::new(*namespace, *service);
                match self.services.get(&key) {
                    Some(record) => self.service(name, &key, record, rest, query_type),
                    None => Answer::NxDomain,
                }
            }
            [address, _namespace, "pod"] => match pod_address(address) {
                Some(address) => self.addresses(name, std::iter::once(address), query_type),
                None => Answer::NxDomain,
            },
            [namespace, "pod"] if self.namespaces.contains_key(*namespace) => Answer::NoData,
            _ => Answer::NxDomain,
        }
    }

    fn apex(&self, name: &Name, query_type: RecordType) -> Answer {
        match query_type {
            RecordType::SOA => records(vec![self.soa()]),
            RecordType::NS => match Name::from_str("ns.dns").and_then(|ns| ns.append_domain(&self.origin)) {
                Ok(ns) => Answer::Records {
                    additionals: self.address_records(&ns, self.name_server.iter().copied(), None),
                    answers: vec![record(name, RData::NS(NS(ns)))],
                },
                Err(_) => Answer::NoData,
            },
            _ => Answer::NoData,
        }
    }

    /// A name of a Service: `rest` is what comes before the Service's own name.
    fn service(
        &self,
        name: &Name,
        key: &NamespacedName,
        service: &ServiceRecord,
        rest: &[&str],
        query_type: RecordType,
    ) -> Answer {
        if let ServiceKind::External(target) = &service.kind {
            return match rest {
                [] => {
                    Answer::Alias { record: Box::new(record(name, RData::CNAME(CNAME(target.clone())))), target: target.clone() }
                }
                _ => Answer::NxDomain,
            };
        }
        match rest {
            [] if query_type == RecordType::SRV => self.srv(name, key, service, |_| true),
            [] => match &service.kind {
                ServiceKind::ClusterIp(ips) => self.addresses(name, ips.iter().copied(), query_type),
                _ => {
                    let mut endpoints = self.endpoints(key).peekable();
                    if endpoints.peek().is_none() {
                        return Answer::NxDomain;
                    }
                    let addresses = endpoints.flat_map(|(endpoint, _)| endpoint.addresses.iter().copied());
                    self.addresses(name, addresses, query_type)
                }
            },
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                let wanted =
                    |candidate: &PortRecord| candidate.protocol == *protocol && candidate.name.eq_ignore_ascii_case(&port[1..]);
                if !self.has_port(key, service, wanted) {
                    return Answer::NxDomain;
                }
                match query_type {
                    RecordType::SRV => self.srv(name, key, service, wanted),
                    _ => Answer::NoData,
                }
            }
            // `_tcp.svc.ns.svc` is on the way to names that exist.
            [protocol] if protocol.starts_with('_') => {
                let on_the_way = self.has_port(key, service, |port| port.protocol == *protocol && !port.name.is_empty());
                if on_the_way { Answer::NoData } else { Answer::NxDomain }
            }
            [label] => {
                let mut found = self.endpoints(key).filter(|(endpoint, _)| endpoint.label == **label).peekable();
                if found.peek().is_none() {
                    return Answer::NxDomain;
                }
                let addresses = found.flat_map(|(endpoint, _)| endpoint.addresses.iter().copied());
                self.addresses(name, addresses, query_type)
            }
            _ => Answer::NxDomain,
        }
    }

    fn endpoints(&self, key: &NamespacedName) -> impl Iterator<Item = (&EndpointRecord, &SliceRecord)> {
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        slices.flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (endpoint, slice)))
    }

    fn has_port(&self, key: &NamespacedName, service: &ServiceRecord, wanted: impl Fn(&PortRecord) -> bool) -> bool {
        match service.kind {
            ServiceKind::Headless => self.endpoints(key).any(|(_, slice)| slice.ports.iter().any(&wanted)),
            _ => service.ports.iter().any(wanted),
        }
    }

    /// SRV records for the ports that `wanted` accepts: to the Service, or headless, to each endpoint.
    fn srv(&self, name: &Name, key: &NamespacedName, service: &ServiceRecord, wanted: impl Fn(&PortRecord) -> bool) -> Answer {
        let mut targets: Vec<(Name, u16, Vec<IpAddr>)> = Vec::new();
        match &service.kind {
            ServiceKind::ClusterIp(ips) => {
                let Some(target) = self.service_name(key, None) else { return Answer::NoData };
                for port in service.ports.iter().filter(|port| wanted(port)) {
                    targets.push((target.clone(), port.port, ips.clone()));
                }
            }
            _ => {
                for (endpoint, slice) in self.endpoints(key) {
                    let Some(target) = self.service_name(key, Some(&endpoint.label)) else { continue };
                    for port in slice.ports.iter().filter(|port| wanted(port)) {
                        targets.push((target.clone(), port.port, endpoint.addresses.clone()));
                    }
                }
            }
        }
        if targets.is_empty() {
            return Answer::NoData;
        }
        // Equal weights that sum to about 100, as CoreDNS gives them.
        let weight = (100 / targets.len()).max(1) as u16;
        let mut answers = Vec::with_capacity(targets.len());
        let mut additionals = Vec::new();
        let mut seen = HashSet::new();
        for (target, port, addresses) in targets {
            if seen.insert(target.clone()) {
                additionals.extend(self.address_records(&target, addresses.into_iter(), None));
            }
            answers.push(record(name, RData::SRV(SRV::new(0, weight, port, target))));
        }
        Answer::Records { answers, additionals }
    }

    /// `[LABEL.]SERVICE.NAMESPACE.svc.ZONE`.
    fn service_name(&self, key: &NamespacedName, label: Option<&str>) -> Option<Name> {
        let prefix = label.map(|label| format!("{label}.")).unwrap_or_default();
        let name = Name::from_str(&format!("{prefix}{}.{}.svc", key.name, key.namespace)).ok()?;
        name.append_domain(&self.origin).ok()
    }

    fn reverse(&self, name: &Name, address: IpAddr, query_type: RecordType) -> Answer {
        let mut targets = Vec::new();
        if let Some(key) = self.by_cluster_ip.get(&address) {
            targets.extend(self.service_name(key, None));
        }
        for key in self.by_endpoint.get(&address).into_iter().flatten() {
            let headless = self.services.get(key).is_some_and(|service| service.kind == ServiceKind::Headless);
            let endpoint = self.endpoints(key).find(|(endpoint, _)| endpoint.addresses.contains(&address));
            if let Some((endpoint, _)) = endpoint.filter(|_| headless) {
                targets.extend(self.service_name(key, Some(&endpoint.label)));
            }
        }
        targets.sort();
        if targets.is_empty() {
            return Answer::NotOurs;
        }
        if !matches!(query_type, RecordType::PTR | RecordType::ANY) {
            return Answer::NoData;
        }
        records(targets.into_iter().map(|target| record(name, RData::PTR(PTR(target)))).collect())
    }

    /// A and AAAA records of the type that was asked for.
    fn addresses(&self, name: &Name, addresses: impl Iterator<Item = IpAddr>, query_type: RecordType) -> Answer {
        let family = match query_type {
            RecordType::A => Some(false),
            RecordType::AAAA => Some(true),
            RecordType::ANY => None,
            _ => return Answer::NoData,
        };
        let found = self.address_records(name, addresses, family);
        if found.is_empty() { Answer::NoData } else { records(found) }
    }

    /// Each address once, beginning with another one each time, so that clients that take the first are spread.
    fn address_records(&self, name: &Name, addresses: impl Iterator<Item = IpAddr>, ipv6: Option<bool>) -> Vec<Record> {
        let mut wanted: Vec<IpAddr> = addresses.filter(|ip| ipv6.is_none_or(|ipv6| ip.is_ipv6() == ipv6)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % wanted.len();
            wanted.rotate_left(turn);
        }
        let data = |ip| match ip {
            IpAddr::V4(ip) => RData::A(ip.into()),
            IpAddr::V6(ip) => RData::AAAA(ip.into()),
        };
        wanted.into_iter().map(|ip| record(name, data(ip))).collect()
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn records(answers: Vec<Record>) -> Answer {
    Answer::Records { answers, additionals: Vec::new() }
}

/// Lower-case labels from left to right.
fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

fn service_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    let name = slice.labels().get(SERVICE_NAME_LABEL)?;
    Some(NamespacedName::new(slice.namespace().unwrap_or_default(), name))
}

fn protocol_label(protocol: Option<&str>) -> Option<&'static str> {
    match protocol.unwrap_or("TCP") {
        "TCP" => Some("_tcp"),
        "UDP" => Some("_udp"),
        "SCTP" => Some("_sctp"),
        _ => None,
    }
}

fn port_record(name: Option<&str>, protocol: Option<&str>, port: Option<i32>) -> Option<PortRecord> {
    Some(PortRecord {
        name: name.unwrap_or_default().to_owned(),
        protocol: protocol_label(protocol)?,
        port: u16::try_from(port?).ok()?,
    })
}

fn service_record(service: &Service) -> Option<ServiceRecord> {
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten();
    let ports = ports.filter_map(|port| port_record(port.name.as_deref(), port.protocol.as_deref(), Some(port.port))).collect();
    if spec.type_.as_deref() == Some("ExternalName") {
        let mut target = Name::from_str(spec.external_name.as_deref()?).ok()?;
        target.set_fqdn(true);
        return Some(ServiceRecord { kind: ServiceKind::External(target), ports });
    }
    let texts = match spec.cluster_ips.as_deref() {
        Some(ips) if !ips.is_empty() => ips,
        _ => spec.cluster_ip.as_slice(),
    };
    let kind = match texts.first().map(String::as_str) {
        Some("None") => ServiceKind::Headless,
        _ => {
            let ips: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
            if ips.is_empty() {
                return None;
            }
            ServiceKind::ClusterIp(ips)
        }
    };
    Some(ServiceRecord { kind, ports })
}

fn slice_record(slice: &EndpointSlice) -> SliceRecord {
    let ports = slice.ports.iter().flatten();
    let ports = ports.filter_map(|port| port_record(port.name.as_deref(), port.protocol.as_deref(), port.port)).collect();
    let mut endpoints = Vec::new();
    for endpoint in &slice.endpoints {
        // Of a Service with publishNotReadyAddresses the EndpointSlice controller reports all as ready.
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        let addresses: Vec<IpAddr> = endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let Some(first) = addresses.first().filter(|_| ready) else { continue };
        let dashed = || first.to_string().replace(['.', ':'], "-");
        let label = endpoint.hostname.clone().unwrap_or_else(dashed).to_ascii_lowercase();
        endpoints.push(EndpointRecord { label, addresses });
    }
    SliceRecord { endpoints, ports }
}

/// `10-42-0-5` and `fd00--5`.
fn pod_address(label: &str) -> Option<IpAddr> {
    let v4 = || label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    let v6 = || label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    v4().or_else(v6)
}

/// The address of a name below in-addr.arpa or ip6.arpa.
fn reverse_address(labels: &[String]) -> Option<IpAddr> {
    let [rest @ .., kind, arpa] = labels else { return None };
    if arpa != "arpa" {
        return None;
    }
    match kind.as_str() {
        "in-addr" if rest.len() == 4 => {
            let octets: Vec<u8> = rest.iter().rev().filter_map(|label| label.parse().ok()).collect();
            Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?))
        }
        "ip6" if rest.len() == 32 => {
            let text: String = rest.iter().rev().map(String::as_str).collect();
            let valid = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            valid.then(|| u128::from_str_radix(&text, 16).ok().map(|bits| IpAddr::V6(bits.into())))?
        }
        _ => None,
    }
}

/// Shared between the informers' handlers and the server.
pub(crate) type SharedZone = Arc<parking_lot::RwLock<Zone>>;

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
