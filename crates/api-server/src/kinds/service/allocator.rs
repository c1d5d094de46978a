//! Which cluster IPs and node ports are taken.
//!
//! The truth is the stored Services: the state is read from them at the first use, so that a crash between a reservation and a write
//! leaks nothing. Ranges are those of the ServiceCIDR objects. IPAddress objects are written in the transactions of their Services; those
//! that somebody else made keep their address from Services too.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use apimachinery::Value;
use parking_lot::Mutex;
use storage::{KeyRange, RangeRequest, Store, StoreError};
use tokio::sync::OnceCell;

use crate::kinds::at::legacy_ip;

/// Upstream's default of `--service-node-port-range`.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// Upstream's default of `--service-cluster-ip-range`, while there is no ServiceCIDR.
const DEFAULT_CIDR: &str = "10.0.0.0/24";
/// The ServiceCIDR that is made at the start.
pub(super) const DEFAULT_SERVICE_CIDR: &str = "kubernetes";

/// Addresses and ports of all Services.
pub(crate) struct ServiceAllocator {
    store: Arc<dyn Store>,
    prefix: String,
    /// The cluster's own ranges, that of the default family first; empty if nobody said.
    own: Vec<Range>,
    /// There are ServiceCIDRs and IPAddresses (`MultiCIDRServiceAllocator`). Otherwise the own ranges are all.
    objects: bool,
    state: OnceCell<Mutex<Taken>>,
}

/// Why something could not be reserved; the texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AllocateError {
    #[error("provided IP is already allocated")]
    IpTaken,
    #[error("provided port is already allocated")]
    PortTaken,
    #[error("range is full")]
    Full,
    #[error("the provided network does not match the current range")]
    IpOutOfRange,
    /// What a dry run says instead.
    #[error("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}")]
    IpNotInRange { ip: IpAddr, range: Range },
    #[error("provided port is not in the valid range. The range of valid ports is {}-{}", NODE_PORTS.start(), NODE_PORTS.end())]
    PortOutOfRange,
}

#[derive(Default)]
struct Taken {
    ranges: Vec<Range>,
    ips: HashMap<IpAddr, Holders>,
    ports: HashSet<u16>,
}

/// Why an address is not free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Holders {
    /// A Service has it, or is about to.
    service: bool,
    /// There is an IPAddress that was not made with a Service.
    object: bool,
}

impl Taken {
    fn take(&mut self, ip: IpAddr) -> bool {
        let free = !self.ips.contains_key(&ip);
        self.ips.entry(ip).or_default().service |= free;
        free
    }

    fn change(&mut self, ip: IpAddr, change: impl FnOnce(&mut Holders)) {
        let mut holders = self.ips.get(&ip).copied().unwrap_or_default();
        change(&mut holders);
        match holders == Holders::default() {
            true => drop(self.ips.remove(&ip)),
            false => drop(self.ips.insert(ip, holders)),
        }
    }
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    ipv4: bool,
    base: u128,
    bits: u8,
}

impl Range {
    pub(super) fn parse(cidr: &str) -> Option<Range> {
        let (address, bits) = cidr.split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        let width = if address.is_ipv4() { 32 } else { 128 };
        let host_bits = u32::checked_sub(width, u32::from(bits))?;
        let mask = if host_bits >= 128 { 0 } else { u128::MAX << host_bits };
        Some(Range { ipv4: address.is_ipv4(), base: number(address) & mask, bits })
    }

    fn family(self) -> &'static str {
        if self.ipv4 { "IPv4" } else { "IPv6" }
    }

    fn host_bits(self) -> u32 {
        (if self.ipv4 { 32 } else { 128 }) - u32::from(self.bits)
    }

    /// The number of usable addresses; of IPv6 at most 2^64, as upstream.
    fn size(self) -> u128 {
        let all = 1u128 << self.host_bits().min(64);
        // Neither the network's own address nor, in IPv4, the broadcast address.
        all.saturating_sub(if self.ipv4 { 2 } else { 1 })
    }

    fn address(self, offset: u128) -> IpAddr {
        let number = self.base + 1 + offset;
        match self.ipv4 {
            true => IpAddr::V4(Ipv4Addr::from(number as u32)),
            false => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }

    pub(super) fn contains(self, ip: IpAddr) -> bool {
        let at = number(ip);
        ip.is_ipv4() == self.ipv4 && at > self.base && at - self.base - 1 < self.size()
    }
}

/// The ranges of ServiceCIDRs that addresses may be taken from: those that are neither being deleted nor said to be not ready. The
/// cluster's own comes first: it decides which family is the default.
fn usable_ranges(mut cidrs: Vec<Value>) -> Vec<Range> {
    cidrs.retain(|cidr| {
        let mut conditions = cidr.array_at(&["status", "conditions"]).iter();
        let ready = conditions.find(|condition| condition["type"] == "Ready");
        // Without a condition it is ready: the controller may not run.
        cidr.meta().deletion_timestamp().is_none() && ready.is_none_or(|ready| ready["status"] == "True")
    });
    cidrs.sort_by_key(|cidr| cidr.meta().name() != DEFAULT_SERVICE_CIDR);
    cidrs
        .iter()
        .flat_map(|cidr| cidr.array_at(&["spec", "cidrs"]).iter().filter_map(Value::as_str))
        .filter_map(Range::parse)
        .collect()
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ipv4 {
            true => write!(f, "{}/{}", Ipv4Addr::from(self.base as u32), self.bits),
            false => write!(f, "{}/{}", Ipv6Addr::from(self.base), self.bits),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The cluster IPs of a Service, without `None`.
pub(super) fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    service.array_at(&["spec", "clusterIPs"]).iter().filter_map(|ip| legacy_ip(ip.as_str()?)).collect()
}

/// The node ports of a Service.
pub(super) fn node_ports(service: &Value) -> HashSet<u16> {
    let of_ports = service.array_at(&["spec", "ports"]).iter().filter_map(|port| port["nodePort"].as_i64());
    let ports = of_ports.chain(service.i64_at(&["spec", "healthCheckNodePort"]));
    ports.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0).collect()
}

impl ServiceAllocator {
    /// `cidrs` are the cluster's own ranges (`--service-cluster-ip-range`), which decide in which families Services have addresses.
    /// Without `objects` ServiceCIDRs and IPAddresses mean nothing.
    pub(crate) fn new(store: Arc<dyn Store>, prefix: &str, cidrs: &[String], objects: bool) -> ServiceAllocator {
        let own = cidrs.iter().filter_map(|cidr| Range::parse(cidr)).collect();
        ServiceAllocator { store, prefix: prefix.to_owned(), own, objects, state: OnceCell::new() }
    }

    /// Whether each address of a Service is an IPAddress too.
    pub(super) fn has_objects(&self) -> bool {
        self.objects
    }

    async fn list(&self, path: &str) -> Result<Vec<Value>, StoreError> {
        // `0` follows `/`.
        let (start, end) = (format!("{}/{path}/", self.prefix), format!("{}/{path}0", self.prefix));
        let range = KeyRange { start: start.into(), end: end.into() };
        let found = self.store.range(RangeRequest { range, limit: 0, revision: None, keys_only: false }).await?;
        Ok(found.kvs.iter().filter_map(|kv| Value::from_slice(&kv.value).ok()).collect())
    }

    async fn load(&self) -> Result<Mutex<Taken>, StoreError> {
        let mut taken = Taken { ranges: self.ranges().await?, ..Taken::default() };
        for service in self.list("services/specs").await? {
            cluster_ips(&service).into_iter().for_each(|ip| taken.change(ip, |holders| holders.service = true));
            taken.ports.extend(node_ports(&service));
        }
        let addresses = if self.objects { self.list("ipaddresses").await? } else { Vec::new() };
        for address in addresses {
            if let Ok(ip) = address.meta().name().parse() {
                taken.change(ip, |holders| holders.object = true);
            }
        }
        Ok(Mutex::new(taken))
    }

    async fn ranges(&self) -> Result<Vec<Range>, StoreError> {
        if !self.objects {
            return Ok(self.own.clone());
        }
        Ok(usable_ranges(self.list("servicecidrs").await?))
    }

    async fn state(&self) -> Result<&Mutex<Taken>, StoreError> {
        self.state.get_or_try_init(|| self.load()).await
    }

    /// Reads the ranges anew; ServiceCIDRs come and go.
    async fn refreshed(&self) -> Result<&Mutex<Taken>, StoreError> {
        let mut ranges = self.ranges().await?;
        if ranges.is_empty() {
            ranges.extend(Range::parse(DEFAULT_CIDR));
        }
        let state = self.state().await?;
        state.lock().ranges = ranges;
        Ok(state)
    }

    /// The families in which Services get addresses, the default one first.
    pub(super) async fn families(&self) -> Result<Vec<&'static str>, StoreError> {
        if !self.own.is_empty() {
            return Ok(self.own.iter().map(|range| range.family()).collect());
        }
        let taken = self.refreshed().await?.lock();
        let mut families: Vec<&'static str> = Vec::new();
        for family in taken.ranges.iter().map(|range| range.family()) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        Ok(families)
    }

    /// Whether an address is one for Services, whoever has it.
    pub(super) async fn check_range(&self, ip: IpAddr) -> Result<Result<(), AllocateError>, StoreError> {
        let taken = self.refreshed().await?.lock();
        let in_range = taken.ranges.iter().any(|range| range.contains(ip));
        Ok(match taken.ranges.first().filter(|_| !in_range) {
            Some(range) => Err(AllocateError::IpNotInRange { ip, range: *range }),
            None => Ok(()),
        })
    }

    /// Reserves one address.
    pub(super) async fn take_ip(&self, ip: IpAddr) -> Result<Result<(), AllocateError>, StoreError> {
        let mut taken = self.refreshed().await?.lock();
        if !taken.ranges.iter().any(|range| range.contains(ip)) {
            return Ok(Err(AllocateError::IpOutOfRange));
        }
        Ok(if taken.take(ip) { Ok(()) } else { Err(AllocateError::IpTaken) })
    }

    /// Reserves any address of a family. The lower end of a range is used last: people choose from there
    /// (<https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>).
    pub(super) async fn take_any_ip(&self, family: &str, random: u128) -> Result<Result<IpAddr, AllocateError>, StoreError> {
        let mut taken = self.refreshed().await?.lock();
        for range in taken.ranges.clone().into_iter().filter(|range| range.ipv4 == (family == "IPv4")) {
            let size = range.size();
            let reserved = if size < 16 { 0 } else { (size / 16).clamp(16, 256).min(size) };
            let upper = (reserved..size).cycle().skip(usize::try_from(random % (size - reserved).max(1)).unwrap_or(0));
            // A full turn of the upper part, then the lower one; no more than are taken can be in the way.
            let tries = usize::try_from(size - reserved).unwrap_or(usize::MAX).min(taken.ips.len() + 1);
            let lower = (0..reserved).take(taken.ips.len() + 1);
            if let Some(ip) =
                upper.take(tries).chain(lower).map(|offset| range.address(offset)).find(|ip| !taken.ips.contains_key(ip))
            {
                taken.take(ip);
                return Ok(Ok(ip));
            }
        }
        Ok(Err(AllocateError::Full))
    }

    /// Whether a node port is taken.
    pub(super) async fn has_port(&self, port: u16) -> Result<bool, StoreError> {
        Ok(self.state().await?.lock().ports.contains(&port))
    }

    /// Reserves one node port.
    pub(super) async fn take_port(&self, port: u16) -> Result<Result<(), AllocateError>, StoreError> {
        if !NODE_PORTS.contains(&port) {
            return Ok(Err(AllocateError::PortOutOfRange));
        }
        let taken = self.state().await?.lock().ports.insert(port);
        Ok(if taken { Ok(()) } else { Err(AllocateError::PortTaken) })
    }

    /// Reserves any node port. The lower end (86 ports of the default range) is used last, for those who choose.
    pub(super) async fn take_any_port(&self, random: u128) -> Result<Result<u16, AllocateError>, StoreError> {
        let mut taken = self.state().await?.lock();
        let (first, last) = (*NODE_PORTS.start(), *NODE_PORTS.end());
        let dynamic = first + ((last - first + 1) / 32).clamp(16, 128);
        let count = last - dynamic + 1;
        let start = (random % u128::from(count)) as u16;
        let upper = (0..count).map(|i| dynamic + (start + i) % count);
        let Some(port) = upper.chain(first..dynamic).find(|port| !taken.ports.contains(port)) else {
            return Ok(Err(AllocateError::Full));
        };
        taken.ports.insert(port);
        Ok(Ok(port))
    }

    /// Gives back what a stored Service no longer has; its IPAddresses went in the same transaction.
    pub(super) async fn release(&self, ips: &[IpAddr], ports: &[u16]) {
        self.give_back(ips, ports, |holders| *holders = Holders::default()).await;
    }

    /// Gives back what was reserved for a Service that was not stored.
    pub(super) async fn cancel(&self, ips: &[IpAddr], ports: &[u16]) {
        self.give_back(ips, ports, |holders| holders.service = false).await;
    }

    async fn give_back(&self, ips: &[IpAddr], ports: &[u16], change: fn(&mut Holders)) {
        match self.state().await {
            Ok(state) => {
                let mut taken = state.lock();
                ips.iter().for_each(|ip| taken.change(*ip, change));
                taken.ports.retain(|port| !ports.contains(port));
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "service addresses were not released"),
        }
    }

    /// An IPAddress is about to be made, or was deleted, by somebody else than a Service.
    pub(crate) async fn set_object(&self, ip: IpAddr, present: bool) -> Result<(), StoreError> {
        if !self.objects {
            return Ok(());
        }
        self.state().await?.lock().change(ip, |holders| holders.object = present);
        Ok(())
    }

    /// Finds out in the store whether there is an IPAddress.
    pub(super) async fn look_at_object(&self, ip: IpAddr) -> Result<(), StoreError> {
        let key = format!("{}/ipaddresses/{ip}", self.prefix);
        let present = self.store.get(key.as_bytes()).await?.is_some();
        self.set_object(ip, present).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> ServiceAllocator {
        ServiceAllocator::new(Arc::new(storage::Memory::new()), "/registry", &[], true)
    }

    #[test]
    fn ranges() {
        let range = Range::parse("10.43.0.0/16").expect("a range");
        assert_eq!((range.size(), range.address(0).to_string()), (65534, "10.43.0.1".to_owned()));
        assert_eq!(range.to_string(), "10.43.0.0/16");
        for (ip, inside) in
            [("10.43.0.0", false), ("10.43.0.1", true), ("10.43.255.254", true), ("10.43.255.255", false), ("10.44.0.1", false)]
        {
            assert_eq!(range.contains(ip.parse().expect("an address")), inside, "{ip}");
        }
        assert_eq!((Range::parse("10.0.0.0/33"), Range::parse("x")), (None, None));
    }

    #[test]
    fn which_ranges_are_used() {
        let cidr = |name: &str, cidrs: &[&str], more: serde_json::Value| {
            let mut object = serde_json::json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}, "status": more});
            if more["deleting"] == true {
                object["metadata"]["deletionTimestamp"] = serde_json::json!("2024-01-01T00:00:00Z");
            }
            Value::from_slice(object.to_string().as_bytes()).expect("JSON")
        };
        let ready = |status: &str| serde_json::json!({"conditions": [{"type": "Ready", "status": status}]});
        let ranges = usable_ranges(vec![
            cidr("a", &["10.1.0.0/24"], ready("True")),
            cidr("b", &["10.2.0.0/24"], ready("False")),
            cidr("c", &["10.3.0.0/24"], serde_json::json!({"deleting": true})),
            cidr("kubernetes", &["fd00::/112", "10.4.0.0/24"], serde_json::json!({})),
        ]);
        let expected: Vec<Range> = ["fd00::/112", "10.4.0.0/24", "10.1.0.0/24"].into_iter().filter_map(Range::parse).collect();
        assert_eq!(ranges, expected);
    }

    #[tokio::test]
    async fn an_address_is_free_when_neither_a_service_nor_an_object_has_it() {
        let allocator = allocator();
        let ip: IpAddr = "10.0.0.9".parse().expect("an address");
        allocator.set_object(ip, true).await.expect("a store");
        assert!(matches!(allocator.take_ip(ip).await, Ok(Err(AllocateError::IpTaken))));
        allocator.set_object(ip, false).await.expect("a store");
        assert!(matches!(allocator.take_ip(ip).await, Ok(Ok(()))));
        // Deleting the object of a Service does not free the Service's address.
        allocator.set_object(ip, false).await.expect("a store");
        assert!(matches!(allocator.take_ip(ip).await, Ok(Err(AllocateError::IpTaken))));
        // A reservation that came to nothing leaves the object that somebody made meanwhile.
        allocator.set_object(ip, true).await.expect("a store");
        allocator.cancel(&[ip], &[]).await;
        assert!(matches!(allocator.take_ip(ip).await, Ok(Err(AllocateError::IpTaken))));
        allocator.release(&[ip], &[]).await;
        assert!(matches!(allocator.take_ip(ip).await, Ok(Ok(()))));
        let outside: IpAddr = "192.0.2.1".parse().expect("an address");
        assert!(matches!(allocator.take_ip(outside).await, Ok(Err(AllocateError::IpOutOfRange))));
    }

    #[tokio::test]
    async fn every_address_once_then_full() {
        let allocator = allocator();
        let mut seen = HashSet::new();
        for i in 0..254 {
            let ip = allocator.take_any_ip("IPv4", i * 7919).await.expect("a store").expect("room");
            assert!(seen.insert(ip), "{ip} twice");
        }
        assert!(matches!(allocator.take_any_ip("IPv4", 0).await, Ok(Err(AllocateError::Full))));
        let one: IpAddr = "10.0.0.7".parse().expect("an address");
        assert!(matches!(allocator.take_ip(one).await, Ok(Err(AllocateError::IpTaken))));
        allocator.release(&[one], &[]).await;
        assert!(matches!(allocator.take_any_ip("IPv4", 3).await, Ok(Ok(ip)) if ip == one));
    }

    #[tokio::test]
    async fn ports() {
        let allocator = allocator();
        assert!(matches!(allocator.take_port(80).await, Ok(Err(AllocateError::PortOutOfRange))));
        assert!(matches!(allocator.take_port(30080).await, Ok(Ok(()))));
        assert!(matches!(allocator.take_port(30080).await, Ok(Err(AllocateError::PortTaken))));
        let any = allocator.take_any_port(0).await.expect("a store").expect("room");
        assert_eq!(any, 30086);
    }
}
