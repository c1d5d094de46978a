//! The pod network as its users see it: open, set up, tear down, reconcile.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cidr::Cidr;
use crate::error::Error;
use crate::firewall::{Firewall, PortMapping, Settings};
use crate::ipam::Range;
use crate::namespace::run_in;
use crate::netlink::{Netlink, Veth};
use crate::records::{Record, Records, file_error};

/// The pod's end of the veth pair.
const POD_INTERFACE: &str = "eth0";
/// The kernel's limit for link names, without the NUL.
const LINK_NAME_BYTES_MAX: usize = 15;

/// Configuration of a pod network. Two instances on one machine need different values in every field but the last.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the bridge, at most 15 bytes.
    pub bridge: String,
    /// Addresses for the pods of this node: one range, or one IPv4 and one IPv6 range. The first address of each is the
    /// bridge's.
    pub pod_cidrs: Vec<Cidr>,
    /// Ranges that pods reach under their own addresses (the cluster's pod range); all else sees the node's address.
    pub non_masquerade_cidrs: Vec<Cidr>,
    /// Ranges of Service addresses. They are routed to the bridge, so that a node without a default route reaches Services,
    /// and so that addresses without a Service do not leave the node.
    pub service_cidrs: Vec<Cidr>,
    /// Where the addresses that sandboxes have are written down.
    pub state_dir: PathBuf,
    /// Name of our nftables table (in the ip and ip6 families).
    pub nft_table: String,
    /// Bytes in a packet; `None` takes the MTU of the default route's link, or 1500.
    pub mtu: Option<u32>,
}

/// What a sandbox got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIps {
    /// Its addresses in the order of [`Config::pod_cidrs`].
    pub addresses: Vec<IpAddr>,
}

impl PodIps {
    /// The address that is the pod's `status.podIP`.
    pub fn primary(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }
}

/// The pod network of a node. Cheap to clone; all clones are the same network.
#[derive(Clone)]
pub struct PodNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    bridge_index: u32,
    mtu: u32,
    files: Records,
    state: Mutex<State>,
    /// Both sockets belong to the namespace that the network was opened in. Lock order: state, then these.
    netlink: Mutex<Netlink>,
    firewall: Mutex<Firewall>,
}

struct State {
    ranges: Vec<Range>,
    records: HashMap<String, Record>,
}

impl PodNetwork {
    /// Makes the bridge, its sysctls, routes and nftables table, and reads what sandboxes have. Safe to call again, also
    /// after a crash or reboot. Blocks for a few milliseconds. Needs root.
    pub fn open(config: Config) -> Result<Self, Error> {
        check(&config)?;
        let mtu = config.mtu.unwrap_or_else(default_mtu);
        let mut ranges = config.pod_cidrs.iter().map(|cidr| Range::new(*cidr)).collect::<Result<Vec<_>, _>>()?;
        let (files, records) = Records::open(&config.state_dir)?;
        for address in records.values().flat_map(|record| &record.addresses) {
            if !ranges.iter_mut().any(|range| range.take(*address)) {
                tracing::warn!(%address, "a sandbox has an address outside of the pod ranges");
            }
        }
        let mut netlink = Netlink::open()?;
        let bridge_index = netlink.ensure_bridge(&config.bridge, mac(ranges[0].gateway()), mtu)?;
        host_sysctls(&config)?;
        for range in &ranges {
            netlink.ensure_address(bridge_index, range.gateway(), range.cidr().prefix_len())?;
        }
        for cidr in &config.service_cidrs {
            netlink.ensure_route(*cidr, None, bridge_index)?;
        }
        let mut firewall = Firewall::open(Settings {
            table: config.nft_table,
            bridge: config.bridge,
            pod_cidrs: config.pod_cidrs,
            non_masquerade: config.non_masquerade_cidrs,
        })?;
        firewall.rebuild(records.values())?;
        let inner = Inner {
            bridge_index,
            mtu,
            files,
            state: Mutex::new(State { ranges, records }),
            netlink: Mutex::new(netlink),
            firewall: Mutex::new(firewall),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Gives a sandbox loopback, `eth0`, addresses, routes and host ports. Called again for the same sandbox it builds the
    /// link anew with the same addresses. On error nothing is left behind.
    ///
    /// Cancellation: the work is done on another thread and runs to its end; tear the sandbox down if the answer was lost.
    pub async fn setup(&self, netns: &Path, sandbox_id: &str, ports: &[PortMapping]) -> Result<PodIps, Error> {
        let (inner, netns) = (Arc::clone(&self.inner), netns.to_owned());
        let (sandbox_id, ports) = (sandbox_id.to_owned(), ports.to_vec());
        blocking(move || inner.setup(&netns, &sandbox_id, &ports)).await
    }

    /// Takes a sandbox's host ports, link and addresses away. No error if it has none.
    pub async fn teardown(&self, sandbox_id: &str) -> Result<(), Error> {
        let (inner, sandbox_id) = (Arc::clone(&self.inner), sandbox_id.to_owned());
        blocking(move || inner.teardown(&sandbox_id)).await
    }

    /// Tears down every sandbox that is not in `live`, and returns their ids. For the start, before new sandboxes are made.
    pub async fn reconcile(&self, live: &HashSet<String>) -> Result<Vec<String>, Error> {
        let dead: Vec<String> = {
            let state = lock(&self.inner.state);
            state.records.keys().filter(|id| !live.contains(*id)).cloned().collect()
        };
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            for sandbox_id in &dead {
                inner.teardown(sandbox_id)?;
            }
            Ok(dead)
        })
        .await
    }

    /// The addresses that a sandbox has.
    pub fn addresses(&self, sandbox_id: &str) -> Option<PodIps> {
        let state = lock(&self.inner.state);
        state.records.get(sandbox_id).map(|record| PodIps { addresses: record.addresses.clone() })
    }

    /// The bridge's addresses, where pods reach this node.
    pub fn gateways(&self) -> Vec<IpAddr> {
        lock(&self.inner.state).ranges.iter().map(Range::gateway).collect()
    }

    /// Removes the nftables tables. Links and addresses stay for the sandboxes that live on.
    pub fn remove_rules(&self) -> Result<(), Error> {
        lock(&self.inner.firewall).remove()
    }
}

impl Inner {
    fn setup(&self, netns: &Path, sandbox_id: &str, ports: &[PortMapping]) -> Result<PodIps, Error> {
        let record = self.reserve(sandbox_id, ports)?;
        let attached = self.attach(netns, &record).and_then(|()| self.open_ports(&record));
        match attached {
            Ok(()) => Ok(PodIps { addresses: record.addresses }),
            Err(error) => {
                if let Err(undo) = self.teardown(sandbox_id) {
                    tracing::warn!(sandbox = sandbox_id, error = %undo, "cannot undo a failed sandbox network");
                }
                Err(error)
            }
        }
    }

    /// Adds the sandbox to the rules, and puts rules right that somebody else removed or changed.
    fn open_ports(&self, record: &Record) -> Result<(), Error> {
        let state = lock(&self.state);
        let mut firewall = lock(&self.firewall);
        if firewall.is_present()? && firewall.add(record).is_ok() {
            return Ok(());
        }
        tracing::warn!("the pod network's rules are not as they were left, writing them anew");
        firewall.rebuild(state.records.values())
    }

    /// Allocates addresses and writes them down.
    fn reserve(&self, sandbox_id: &str, ports: &[PortMapping]) -> Result<Record, Error> {
        let mut state = lock(&self.state);
        for port in ports {
            let others = state.records.values().filter(|record| record.sandbox_id != sandbox_id);
            if let Some(other) = others.into_iter().find(|record| record.ports.iter().any(|taken| taken.clashes(port))) {
                let port = format!("{}/{:?}", port.host_port, port.protocol);
                return Err(Error::PortTaken { port, sandbox: other.sandbox_id.clone() });
            }
        }
        let addresses = match state.records.get(sandbox_id).cloned() {
            Some(known) => {
                // If they are gone already, `open_ports` finds out.
                if let Err(error) = lock(&self.firewall).delete(&known) {
                    tracing::debug!(%error, sandbox = sandbox_id, "cannot close a sandbox's old host ports");
                }
                known.addresses
            }
            None => state.allocate()?,
        };
        let record = Record { sandbox_id: sandbox_id.to_owned(), addresses, ports: ports.to_vec() };
        if let Err(error) = self.files.write(&record) {
            if !state.records.contains_key(sandbox_id) {
                state.free(&record.addresses);
            }
            return Err(error);
        }
        state.records.insert(sandbox_id.to_owned(), record.clone());
        Ok(record)
    }

    fn attach(&self, netns: &Path, record: &Record) -> Result<(), Error> {
        let namespace = File::open(netns).map_err(|source| Error::Namespace { path: netns.to_owned(), source })?;
        let veth = Veth {
            host_name: &host_link_name(&record.sandbox_id),
            bridge_index: self.bridge_index,
            pod_name: POD_INTERFACE,
            pod_namespace: &namespace,
            pod_mac: mac(record.addresses[0]),
            mtu: self.mtu,
        };
        {
            let mut netlink = lock(&self.netlink);
            if netlink.link_index(veth.host_name)?.is_some() {
                netlink.delete_link(veth.host_name)?;
            }
            netlink.add_veth(&veth)?;
        }
        let gateways: Vec<IpAddr> = lock(&self.state).ranges.iter().map(Range::gateway).collect();
        run_in(netns, || configure_pod(&record.addresses, &gateways))
    }

    fn teardown(&self, sandbox_id: &str) -> Result<(), Error> {
        let record = lock(&self.state).records.get(sandbox_id).cloned();
        lock(&self.netlink).delete_link(&host_link_name(sandbox_id))?;
        let Some(record) = record else { return Ok(()) };
        self.files.remove(sandbox_id)?;
        let mut state = lock(&self.state);
        state.records.remove(sandbox_id);
        state.free(&record.addresses);
        if record.ports.is_empty() {
            return Ok(());
        }
        let mut firewall = lock(&self.firewall);
        // What was added in part (a failed set-up) or by hand is put right by building the table anew.
        firewall.delete(&record).or_else(|_| firewall.rebuild(state.records.values()))
    }
}

impl State {
    /// One address of every range, or none.
    fn allocate(&mut self) -> Result<Vec<IpAddr>, Error> {
        let mut addresses = Vec::with_capacity(self.ranges.len());
        for index in 0..self.ranges.len() {
            match self.ranges[index].allocate() {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    self.free(&addresses);
                    return Err(error);
                }
            }
        }
        Ok(addresses)
    }

    fn free(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.ranges.iter_mut().for_each(|range| range.free(*address));
        }
    }
}

/// Runs in the pod's namespace: loopback, addresses, routes.
fn configure_pod(addresses: &[IpAddr], gateways: &[IpAddr]) -> Result<(), Error> {
    let mut netlink = Netlink::open()?;
    netlink.set_up("lo")?;
    netlink.set_up(POD_INTERFACE)?;
    let index = netlink.link_index(POD_INTERFACE)?.ok_or_else(|| Error::Netlink {
        operation: format!("find {POD_INTERFACE} in the pod"),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    for address in addresses {
        let gateway = gateways.iter().copied().find(|gateway| gateway.is_ipv6() == address.is_ipv6());
        let host_bits = if address.is_ipv6() { 128 } else { 32 };
        netlink.ensure_address(index, *address, host_bits)?;
        let Some(gateway) = gateway else { continue };
        let any: IpAddr = if address.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
        let to_gateway = Cidr::new(gateway, host_bits).expect("a full prefix fits");
        let everywhere = Cidr::new(any, 0).expect("prefix 0 fits");
        netlink.ensure_route(to_gateway, None, index)?;
        netlink.ensure_route(everywhere, Some(gateway), index)?;
    }
    // The host forwards from pod to pod and may say that there is a shorter way; there is none that Services survive.
    for conf in ["all", POD_INTERFACE] {
        let path = format!("net/ipv4/conf/{conf}/accept_redirects");
        if let Err(error) = sysctl(&path, "0") {
            tracing::debug!(%error, "cannot refuse redirects in a pod");
        }
    }
    Ok(())
}

fn host_sysctls(config: &Config) -> Result<(), Error> {
    let bridge = &config.bridge;
    if config.pod_cidrs.iter().any(|cidr| !cidr.is_ipv6()) {
        sysctl("net/ipv4/ip_forward", "1")?;
        // 127.0.0.1:NODEPORT on the host: the answer comes in by the bridge. The guard chain keeps pods out.
        sysctl(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1")?;
    }
    if config.pod_cidrs.iter().any(Cidr::is_ipv6) {
        sysctl("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Writes a sysctl of the current network namespace, unless it has the value.
fn sysctl(name: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(name);
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(file_error("write", &path))
}

/// The MTU of the link of the IPv4 default route.
fn default_mtu() -> u32 {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let link = routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (link, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| link.to_owned())
    });
    link.and_then(|link| fs::read_to_string(format!("/sys/class/net/{link}/mtu")).ok())
        .and_then(|mtu| mtu.trim().parse().ok())
        .unwrap_or(1500)
}

fn check(config: &Config) -> Result<(), Error> {
    let wrong = |text: String| Err(Error::Config(text));
    if config.bridge.is_empty() || config.bridge.len() > LINK_NAME_BYTES_MAX || config.bridge.contains('/') {
        return wrong(format!("{:?} cannot name a bridge", config.bridge));
    }
    let families: HashSet<bool> = config.pod_cidrs.iter().map(Cidr::is_ipv6).collect();
    if config.pod_cidrs.is_empty() || families.len() != config.pod_cidrs.len() {
        return wrong("one pod range is needed, or one IPv4 and one IPv6 range".to_owned());
    }
    Ok(())
}

/// The host's end of a sandbox's veth pair. Ids are as long as their makers like, link names are not: a hash.
fn host_link_name(sandbox_id: &str) -> String {
    // FNV-1a, which unlike the standard library's hasher gives the same name in the next version of this program.
    let hash =
        sandbox_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("veth{:011x}", hash >> 20)
}

/// A locally administered MAC address made of an IP address, so that an address never changes its MAC.
fn mac(address: IpAddr) -> [u8; 6] {
    let tail = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
    };
    [0x0a, 0x58, tail[0], tail[1], tail[2], tail[3]]
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::TaskDied))
}

/// A panic while a lock was held leaves nothing half done in memory: every change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_and_differ() {
        let long = "a".repeat(64);
        assert!(host_link_name(&long).len() <= LINK_NAME_BYTES_MAX);
        assert_ne!(host_link_name("one"), host_link_name("two"));
        assert_eq!(host_link_name("one"), host_link_name("one"));
    }
}
