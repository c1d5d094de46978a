//! Reserves addresses and node ports for a write of a Service, before anything else is looked at, as upstream's `Allocators` do; what a write
//! that failed had reserved is free again, and so is what one that succeeded no longer needs.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{GroupKind, Reason, Status, Value, go_quote};
use async_trait::async_trait;

use super::allocator::{AllocateError, ServiceAllocator, cluster_ips};
use super::{families, is_exposed, is_headless, needs_cluster_ip, needs_health_check_port, needs_node_ports};
use crate::kinds::at::legacy_ip;
use crate::registry::{BeginHook, Finish, store_status};

/// For a Service that is to be made.
pub(super) async fn for_new(allocator: &Arc<ServiceAllocator>, service: &mut Value, dry_run: bool) -> BeginHook {
    let mut reservation = Reservation::new(allocator, dry_run);
    let result = reservation.create(service).await;
    reservation.begun(result).await
}

/// For a Service that changes.
pub(super) async fn for_update(allocator: &Arc<ServiceAllocator>, service: &mut Value, old: &Value, dry_run: bool) -> BeginHook {
    let mut reservation = Reservation::new(allocator, dry_run);
    let result = reservation.update(service, old).await;
    reservation.begun(result).await
}

/// What one write reserved, and what it makes free.
struct Reservation {
    allocator: Arc<ServiceAllocator>,
    dry_run: bool,
    /// The ports of a dry run, which reserves none.
    shown: Vec<i64>,
    ips: Vec<IpAddr>,
    ports: Vec<u16>,
    free_ips: Vec<IpAddr>,
    free_ports: Vec<u16>,
}

#[async_trait]
impl Finish for Reservation {
    async fn finish(self: Box<Self>, success: bool) {
        match success {
            true => self.allocator.release(&self.free_ips, &self.free_ports).await,
            false => self.allocator.cancel(&self.ips, &self.ports).await,
        }
    }
}

fn refuse(service: &Value, errors: &[Error]) -> Status {
    Status::invalid(&GroupKind::new("", "Service"), service.meta().name(), errors)
}

fn random() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

fn number(port: &Value, member: &str) -> i64 {
    port[member].as_i64().unwrap_or_default()
}

/// The node ports of a Service's ports.
fn port_numbers(service: &Value) -> HashSet<i64> {
    service.array_at(&["spec", "ports"]).iter().map(|port| number(port, "nodePort")).filter(|port| *port != 0).collect()
}

fn health_check_port(service: &Value) -> i64 {
    service.i64_at(&["spec", "healthCheckNodePort"]).unwrap_or_default()
}

impl Reservation {
    fn new(allocator: &Arc<ServiceAllocator>, dry_run: bool) -> Box<Reservation> {
        Box::new(Reservation {
            allocator: allocator.clone(),
            dry_run,
            shown: Vec::new(),
            ips: Vec::new(),
            ports: Vec::new(),
            free_ips: Vec::new(),
            free_ports: Vec::new(),
        })
    }

    async fn begun(self: Box<Self>, result: Result<(), Status>) -> BeginHook {
        match result {
            Ok(()) => Ok(Some(self)),
            Err(status) => {
                self.finish(false).await;
                Err(status)
            }
        }
    }

    async fn create(&mut self, service: &mut Value) -> Result<(), Status> {
        self.init_families(service, None).await?;
        if needs_cluster_ip(service) && !is_headless(service) {
            self.take_ips(service, 0).await?;
        }
        if is_exposed(service) {
            self.take_ports(service).await?;
        }
        if needs_health_check_port(service) {
            self.take_health_check_port(service).await?;
        }
        Ok(())
    }

    async fn update(&mut self, service: &mut Value, old: &Value) -> Result<(), Status> {
        self.init_families(service, Some(old)).await?;
        self.change_ips(service, old).await?;
        let before = port_numbers(old);
        if is_exposed(service) {
            self.change_ports(service, &before).await?;
            let now = port_numbers(service);
            self.free(before.into_iter().filter(|port| !now.contains(port)));
        } else if is_exposed(old) {
            self.free(before);
        }
        match (needs_health_check_port(old), needs_health_check_port(service)) {
            (false, true) => self.take_health_check_port(service).await?,
            (true, false) => self.free([health_check_port(old)]),
            _ => {}
        }
        Ok(())
    }

    fn free(&mut self, ports: impl IntoIterator<Item = i64>) {
        self.free_ports.extend(ports.into_iter().filter_map(|port| u16::try_from(port).ok()));
    }

    async fn init_families(&self, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        let cluster = self.allocator.families().await.map_err(store_status)?;
        families::init(service, old, &cluster).map_err(|errors: ErrorList| refuse(service, &errors))
    }

    /// Addresses change with the type, and when a second family comes or goes.
    async fn change_ips(&mut self, service: &mut Value, old: &Value) -> Result<(), Status> {
        let count = |service: &Value| service.array_at(&["spec", "ipFamilies"]).len();
        match (needs_cluster_ip(old), needs_cluster_ip(service)) {
            (false, true) if is_headless(service) => Ok(()),
            (false, true) => self.take_ips(service, 0).await,
            (false, false) => Ok(()),
            _ if is_headless(old) => Ok(()),
            (true, false) => {
                self.free_ips = cluster_ips(old);
                Ok(())
            }
            (true, true) => {
                match (count(old), count(service)) {
                    (1, 2) => self.take_ips(service, 1).await?,
                    (2, 1) => self.free_ips.extend(cluster_ips(old).get(1)),
                    _ => {}
                }
                Ok(())
            }
        }
    }

    /// Reserves the addresses from a place on: those that are asked for, any others.
    async fn take_ips(&mut self, service: &mut Value, from: usize) -> Result<(), Status> {
        let families: Vec<String> =
            service.array_at(&["spec", "ipFamilies"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let mut ips: Vec<Value> = service.array_at(&["spec", "clusterIPs"]).to_vec();
        // Upstream shows places without an address so.
        ips.resize(ips.len().max(families.len()), "".into());
        for (index, family) in families.iter().enumerate().skip(from) {
            let asked = ips[index].as_str().unwrap_or_default().to_owned();
            if asked.is_empty() {
                let ip = self.allocator.take_any_ip(family, random()).await.map_err(store_status)?;
                let ip = ip.map_err(|why| Status::internal_error(format!("failed to allocate a serviceIP: {why}")))?;
                self.ips.push(ip);
                ips[index] = ip.to_string().into();
            } else if let Err(why) = self.take_ip(&asked).await? {
                let why = format!("failed to allocate IP {asked}: {why}");
                let path = Path::new("spec").child("clusterIPs");
                return Err(refuse(service, &[Error::invalid(&path, ips, why)]));
            }
        }
        if let Some(first) = ips.first().filter(|_| from == 0) {
            service.set_path(&["spec", "clusterIP"], first.clone());
        }
        service.set_path(&["spec", "clusterIPs"], ips);
        Ok(())
    }

    async fn take_ip(&mut self, text: &str) -> Result<Result<(), AllocateError>, Status> {
        let unreadable = || Status::internal_error(format!("failed to parse service IP {}", go_quote(text)));
        let ip = legacy_ip(text).ok_or_else(unreadable)?;
        if self.dry_run {
            // Whether somebody has it is not asked.
            return self.allocator.check_range(ip).await.map_err(store_status);
        }
        let taken = self.allocator.take_ip(ip).await.map_err(store_status)?;
        if taken.is_ok() {
            self.ips.push(ip);
        }
        Ok(taken)
    }

    /// Ports of a new Service: those of the same number (of several protocols) have the same node port.
    async fn take_ports(&mut self, service: &mut Value) -> Result<(), Status> {
        let may_choose = needs_node_ports(service);
        let mut ports = service.array_at(&["spec", "ports"]).to_vec();
        let mut by_number: HashMap<i64, i64> = HashMap::new();
        for index in 0..ports.len() {
            let (port, asked) = (number(&ports[index], "port"), number(&ports[index], "nodePort"));
            if asked == 0 && !may_choose {
                continue;
            }
            match by_number.get(&port) {
                Some(known) if asked == 0 => drop(ports[index].insert("nodePort", *known)),
                Some(known) if asked == *known => {}
                Some(_) => self.take_port_of(service, index, asked).await?,
                None => {
                    let same = ports.iter().filter(|other| number(other, "port") == port);
                    let wanted = same.map(|other| number(other, "nodePort")).find(|wanted| *wanted != 0);
                    let node_port = match wanted {
                        Some(wanted) => self.take_port_of(service, index, wanted).await.map(|()| wanted)?,
                        None => self.take_any_port().await?,
                    };
                    ports[index].insert("nodePort", node_port);
                    by_number.insert(port, node_port);
                }
            }
        }
        service.set_path(&["spec", "ports"], ports);
        Ok(())
    }

    /// Ports of a Service that had these before.
    async fn change_ports(&mut self, service: &mut Value, before: &HashSet<i64>) -> Result<(), Status> {
        let may_choose = needs_node_ports(service);
        let mut ports = service.array_at(&["spec", "ports"]).to_vec();
        let (mut taken, mut seen) = (HashSet::new(), HashSet::new());
        for (index, port) in ports.iter_mut().enumerate() {
            let mut node_port = number(port, "nodePort");
            if node_port == 0 {
                if !may_choose {
                    continue;
                }
                node_port = self.take_any_port().await?;
                port.insert("nodePort", node_port);
            } else if !before.contains(&node_port) && taken.insert(node_port) {
                self.take_port_of(service, index, node_port).await?;
            }
            let protocol = port["protocol"].as_str().unwrap_or_default().to_owned();
            let twice = format!("duplicate nodePort: {{{protocol} {node_port}}}");
            if !seen.insert((protocol, node_port)) {
                return Err(Status::new(Reason::Unknown, twice));
            }
        }
        service.set_path(&["spec", "ports"], ports);
        Ok(())
    }

    async fn take_health_check_port(&mut self, service: &mut Value) -> Result<(), Status> {
        match health_check_port(service) {
            0 => {
                let port = self.take_any_port().await?;
                service.set_path(&["spec", "healthCheckNodePort"], port);
                Ok(())
            }
            asked => self.take_port(asked).await?.map_err(|why| {
                Status::internal_error(format!("failed to allocate requested HealthCheck NodePort {asked}: {why}"))
            }),
        }
    }

    async fn take_port_of(&mut self, service: &Value, index: usize, asked: i64) -> Result<(), Status> {
        let path = || Path::new("spec").child("ports").index(index).child("nodePort");
        self.take_port(asked).await?.map_err(|why| refuse(service, &[Error::invalid(&path(), asked, why.to_string())]))
    }

    async fn take_port(&mut self, asked: i64) -> Result<Result<(), AllocateError>, Status> {
        // Where there is no such port, 0 is as far out of the range.
        let port = u16::try_from(asked).unwrap_or_default();
        if self.dry_run {
            // Upstream's dry run asks only whether the port is taken.
            if self.shown.contains(&asked) || self.allocator.has_port(port).await.map_err(store_status)? {
                return Ok(Err(AllocateError::PortTaken));
            }
            self.shown.push(asked);
            return Ok(Ok(()));
        }
        let taken = self.allocator.take_port(port).await.map_err(store_status)?;
        if taken.is_ok() {
            self.ports.push(port);
        }
        Ok(taken)
    }

    async fn take_any_port(&mut self) -> Result<i64, Status> {
        if self.dry_run {
            // What upstream shows: a number after the greatest so far, beyond all node ports if there is none.
            let last = self.shown.iter().copied().max().map_or(32768, |port| port.max(0));
            self.shown.push(last + 1);
            return Ok(last + 1);
        }
        let port = self.allocator.take_any_port(random()).await.map_err(store_status)?;
        let port = port.map_err(|why| Status::internal_error(format!("failed to allocate a nodePort: {why}")))?;
        self.ports.push(port);
        Ok(i64::from(port))
    }
}
