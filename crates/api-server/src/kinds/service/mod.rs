//! Services: cluster IPs, IP families and node ports (<https://kubernetes.io/docs/concepts/services-networking/service/>).

mod addresses;
mod allocator;
mod repair;
mod status;
mod validate;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::{GroupKind, Status, Value, field, validation};
use async_trait::async_trait;

use super::{Rules, warnings};
use crate::registry::{BeginHook, Companions, Finish, OperationContext, Strategy, keep_status, store_status};

pub(crate) use addresses::AddressHook;
pub(crate) use allocator::ServiceAllocator;
use allocator::{cluster_ips, node_ports, ports_by_key};
pub(crate) use repair::run as repair_addresses;

pub(super) fn rules(allocator: Arc<ServiceAllocator>) -> Rules {
    Rules { strategy: Arc::new(ServiceStrategy(allocator)), subresources: vec![("status", Arc::new(status::ServiceStatus))] }
}

fn type_of(service: &Value) -> &str {
    service.str_at(&["spec", "type"]).unwrap_or("ClusterIP")
}

fn is_headless(service: &Value) -> bool {
    service.str_at(&["spec", "clusterIP"]) == Some("None")
        || service.array_at(&["spec", "clusterIPs"]).first().is_some_and(|ip| *ip == "None")
}

fn needs_cluster_ip(service: &Value) -> bool {
    type_of(service) != "ExternalName"
}

fn needs_node_ports(service: &Value) -> bool {
    match type_of(service) {
        "NodePort" => true,
        "LoadBalancer" => service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(false),
        _ => false,
    }
}

fn needs_health_check_port(service: &Value) -> bool {
    type_of(service) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == Some("Local")
}

struct ServiceStrategy(Arc<ServiceAllocator>);

#[async_trait]
impl Strategy for ServiceStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        object.insert("status", apimachinery::value!({"loadBalancer": {}}));
        normalize_cluster_ips(object, None);
    }

    fn validate_first(&self, object: &Value, old: Option<&Value>) -> field::ErrorList {
        validate::addresses(object, old)
    }

    fn validate(&self, _context: &OperationContext, object: &Value) -> field::ErrorList {
        validate::service(object, None)
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_status(object, old);
        keep_allocated(object, old);
        normalize_cluster_ips(object, Some(old));
        drop_type_dependent(object, old);
    }

    fn validate_update(&self, _context: &OperationContext, object: &Value, old: &Value) -> field::ErrorList {
        validate::service(object, Some(old))
    }

    fn warnings_on_create(&self, _context: &OperationContext, object: &Value) -> Vec<String> {
        warnings::service(object)
    }

    fn warnings_on_update(&self, _context: &OperationContext, object: &Value, _old: &Value) -> Vec<String> {
        warnings::service(object)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn name_rule(&self) -> validation::NameFn {
        validation::name_is_dns1035_label
    }

    fn selectable_fields(&self, object: &Value) -> crate::registry::FieldAttrs {
        let text = |member: &str| object.str_at(&["spec", member]).unwrap_or_default().to_owned();
        vec![("spec.clusterIP", text("clusterIP")), ("spec.type", text("type"))]
    }

    fn companions(&self, new: Option<&Value>, old: Option<&Value>) -> Companions {
        addresses::companions(new, old)
    }

    async fn begin_create(&self, context: &OperationContext, object: &mut Value) -> BeginHook {
        self.allocate(object, None, context.dry_run).await
    }

    async fn begin_update(&self, context: &OperationContext, object: &mut Value, old: &Value) -> BeginHook {
        self.allocate(object, Some(old), context.dry_run).await
    }

    async fn after_delete(&self, _context: &OperationContext, object: &Value) {
        let ports: Vec<u16> = node_ports(object).into_iter().collect();
        self.0.release(&cluster_ips(object), &ports).await;
    }
}

/// `clusterIP` and the first of `clusterIPs` are the same; a client may know only the former.
fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let one = service.str_at(&["spec", "clusterIP"]).unwrap_or_default().to_owned();
    let many = service.array_at(&["spec", "clusterIPs"]).to_vec();
    let Some(old) = old else {
        if !one.is_empty() && many.is_empty() {
            service.set_path(&["spec", "clusterIPs"], vec![one]);
        }
        return;
    };
    let old_one = old.str_at(&["spec", "clusterIP"]).unwrap_or_default();
    let old_many = old.array_at(&["spec", "clusterIPs"]);
    if one == old_one {
        return;
    }
    // The client changed only the field that it knows.
    if many == old_many {
        if one.is_empty() {
            service.remove_path(&["spec", "clusterIPs"]);
        } else {
            service.set_path(&["spec", "clusterIPs"], vec![one]);
        }
    }
}

/// What was allocated stays when the client leaves it out.
fn keep_allocated(service: &mut Value, old: &Value) {
    let empty = |service: &Value, member: &str| service.get_path(&["spec", member]).is_none_or(Value::is_empty);
    if needs_cluster_ip(old) && needs_cluster_ip(service) {
        for member in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let same_ip = member.starts_with("clusterIP") || service["spec"]["clusterIP"] == old["spec"]["clusterIP"];
            if let (true, true, Some(value)) = (empty(service, member), same_ip, old.get_path(&["spec", member])) {
                service.set_path(&["spec", member], value.clone());
            }
        }
    }
    if needs_node_ports(old) && needs_node_ports(service) {
        let before = ports_by_key(old);
        let used: HashSet<i64> = ports_by_key(service).into_values().collect();
        for port in service.get_path_mut(&["spec", "ports"]).and_then(Value::as_array_mut).into_iter().flatten() {
            let key = (port["protocol"].as_str().unwrap_or("TCP").to_owned(), port["port"].as_i64().unwrap_or_default());
            if port["nodePort"].is_zero()
                && let Some(kept) = before.get(&key).filter(|kept| !used.contains(kept))
            {
                port.insert("nodePort", *kept);
            }
        }
    }
    let health = old.i64_at(&["spec", "healthCheckNodePort"]).unwrap_or_default();
    if needs_health_check_port(old)
        && needs_health_check_port(service)
        && service["spec"]["healthCheckNodePort"].is_zero()
        && health != 0
    {
        service.set_path(&["spec", "healthCheckNodePort"], health);
    }
}

/// What a change of the type makes meaningless goes, unless the client changed it too (then validation refuses it).
fn drop_type_dependent(service: &mut Value, old: &Value) {
    let mut dropped: Vec<&str> = Vec::new();
    if needs_cluster_ip(old) && !needs_cluster_ip(service) {
        dropped.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if needs_health_check_port(old) && !needs_health_check_port(service) {
        dropped.push("healthCheckNodePort");
    }
    let external = |service: &Value| matches!(type_of(service), "NodePort" | "LoadBalancer");
    if external(old) && !external(service) && service.array_at(&["spec", "externalIPs"]).is_empty() {
        dropped.push("externalTrafficPolicy");
    }
    if type_of(old) == "LoadBalancer" && type_of(service) != "LoadBalancer" {
        dropped.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
        service.set_path(&["status", "loadBalancer"], Value::object());
    }
    for member in dropped {
        if service["spec"][member] == old["spec"][member] {
            service.remove_path(&["spec", member]);
        }
    }
    let same_ports = ports_by_key(service).values().eq(ports_by_key(old).values());
    if needs_node_ports(old) && !needs_node_ports(service) && same_ports {
        for port in service.get_path_mut(&["spec", "ports"]).and_then(Value::as_array_mut).into_iter().flatten() {
            port.remove("nodePort");
        }
    }
}

/// What one write reserved, and what it makes free.
struct Reserved {
    dry_run: bool,
    allocator: Arc<ServiceAllocator>,
    ips: Vec<IpAddr>,
    ports: Vec<u16>,
    free_ips: Vec<IpAddr>,
    free_ports: Vec<u16>,
}

#[async_trait]
impl Finish for Reserved {
    async fn finish(self: Box<Self>, success: bool) {
        match success {
            true => self.allocator.release(&self.free_ips, &self.free_ports).await,
            false => self.allocator.cancel(&self.ips, &self.ports).await,
        }
    }
}

fn refuse(service: &Value, error: &field::Error) -> Status {
    Status::invalid(&GroupKind::new("", "Service"), service.meta().name(), std::slice::from_ref(error))
}

fn random() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

impl ServiceStrategy {
    async fn allocate(&self, service: &mut Value, old: Option<&Value>, dry_run: bool) -> BeginHook {
        let mut reserved = Box::new(Reserved {
            dry_run,
            allocator: self.0.clone(),
            ips: Vec::new(),
            ports: Vec::new(),
            free_ips: Vec::new(),
            free_ports: Vec::new(),
        });
        let mut result = self.allocate_ips(service, old, &mut reserved).await;
        if result.is_ok() {
            result = self.allocate_ports(service, old, &mut reserved).await;
        }
        if let Err(status) = result {
            reserved.finish(false).await;
            return Err(status);
        }
        if let Some(old) = old {
            let (ips, ports) = (cluster_ips(service), node_ports(service));
            reserved.free_ips = cluster_ips(old).into_iter().filter(|ip| !ips.contains(ip)).collect();
            reserved.free_ports = node_ports(old).into_iter().filter(|port| !ports.contains(port)).collect();
        }
        Ok(Some(reserved))
    }

    async fn allocate_ips(&self, service: &mut Value, old: Option<&Value>, reserved: &mut Reserved) -> Result<(), Status> {
        if !needs_cluster_ip(service) {
            return Ok(());
        }
        self.default_families(service).await?;
        if is_headless(service) {
            service.set_path(&["spec", "clusterIP"], "None");
            service.set_path(&["spec", "clusterIPs"], vec!["None"]);
            return Ok(());
        }
        let held = old.map(cluster_ips).unwrap_or_default();
        let families: Vec<String> =
            service.array_at(&["spec", "ipFamilies"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let asked = service.array_at(&["spec", "clusterIPs"]).to_vec();
        let path = field::Path::new("spec").child("clusterIPs");
        let mut ips = Vec::new();
        for (i, family) in families.iter().enumerate() {
            let given = asked.get(i).and_then(Value::as_str).filter(|ip| !ip.is_empty());
            let taken = match given {
                Some(text) => {
                    let Ok(ip) = text.parse::<IpAddr>() else { continue };
                    if held.contains(&ip) {
                        ips.push(ip.to_string());
                        continue;
                    }
                    let taken = self.0.take_ip(ip).await.map_err(store_status)?;
                    taken.map(|()| ip).map_err(|why| format!("failed to allocate IP {ip}: {why}"))
                }
                None => {
                    let taken = self.0.take_any_ip(family, random()).await.map_err(store_status)?;
                    taken.map_err(|why| format!("failed to allocate a serviceIP: {why}"))
                }
            };
            let ip = match taken {
                Ok(ip) => ip,
                Err(why) if given.is_some() => return Err(refuse(service, &field::Error::invalid(&path, asked.clone(), why))),
                Err(why) => return Err(Status::internal_error(why)),
            };
            reserved.ips.push(ip);
            ips.push(ip.to_string());
        }
        if let Some(first) = ips.first() {
            service.set_path(&["spec", "clusterIP"], first.as_str());
            service.set_path(&["spec", "clusterIPs"], ips);
        }
        Ok(())
    }

    /// Upstream's defaulting of `ipFamilyPolicy` and `ipFamilies`, which needs to know the cluster.
    async fn default_families(&self, service: &mut Value) -> Result<(), Status> {
        let cluster = self.0.families().await.map_err(store_status)?;
        let ips = service.array_at(&["spec", "clusterIPs"]).to_vec();
        let mut families: Vec<String> =
            service.array_at(&["spec", "ipFamilies"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let policy = service.str_at(&["spec", "ipFamilyPolicy"]).map(str::to_owned);
        let without_selector = service.get_path(&["spec", "selector"]).is_none_or(Value::is_empty);
        if is_headless(service) && without_selector {
            let policy = policy.unwrap_or_else(|| "RequireDualStack".to_owned());
            if families.is_empty() {
                families.extend(cluster.first().map(|family| (*family).to_owned()));
            }
            if policy != "SingleStack" && families.len() == 1 {
                families.push(other_family(&families[0]).to_owned());
            }
            service.set_path(&["spec", "ipFamilyPolicy"], policy);
            service.set_path(&["spec", "ipFamilies"], families);
            return Ok(());
        }
        let dual = ips.len() == 2 || families.len() == 2;
        let policy = policy.unwrap_or_else(|| if dual { "RequireDualStack" } else { "SingleStack" }.to_owned());
        let spec = field::Path::new("spec");
        if policy == "RequireDualStack" && cluster.len() < 2 {
            let why = "this cluster is not configured for dual-stack services";
            return Err(refuse(service, &field::Error::invalid(&spec.child("ipFamilyPolicy"), policy, why)));
        }
        for ip in ips.iter().skip(families.len()).filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok()) {
            families.push(if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned());
        }
        for (i, family) in families.iter().enumerate() {
            if !cluster.contains(&family.as_str()) {
                let path = spec.child("ipFamilies").index(i);
                let error = field::Error::invalid(&path, family.as_str(), "not configured on this cluster");
                return Err(refuse(service, &error));
            }
        }
        if families.is_empty() {
            families.extend(cluster.first().map(|family| (*family).to_owned()));
        }
        if policy != "SingleStack" && families.len() == 1 && cluster.len() == 2 {
            families.push(other_family(&families[0]).to_owned());
        }
        service.set_path(&["spec", "ipFamilyPolicy"], policy);
        service.set_path(&["spec", "ipFamilies"], families);
        Ok(())
    }

    async fn allocate_ports(&self, service: &mut Value, old: Option<&Value>, reserved: &mut Reserved) -> Result<(), Status> {
        let held = old.map(node_ports).unwrap_or_default();
        let mut mine: HashSet<u16> = HashSet::new();
        if needs_node_ports(service) {
            let mut ports = service.array_at(&["spec", "ports"]).to_vec();
            // Those that are asked for by number first, so that a free choice does not take them away.
            for pass in [true, false] {
                for (i, port) in ports.iter_mut().enumerate() {
                    let asked = port["nodePort"].as_i64().unwrap_or_default();
                    if (asked != 0) != pass {
                        continue;
                    }
                    let path = field::Path::new("spec").child("ports").index(i).child("nodePort");
                    let number = self.take_node_port(asked, &held, &mut mine, reserved, service, &path).await?;
                    port.insert("nodePort", number);
                }
            }
            service.set_path(&["spec", "ports"], ports);
        }
        if needs_health_check_port(service) {
            let asked = service.i64_at(&["spec", "healthCheckNodePort"]).unwrap_or_default();
            let path = field::Path::new("spec").child("healthCheckNodePort");
            let number = self.take_node_port(asked, &held, &mut mine, reserved, service, &path).await?;
            service.set_path(&["spec", "healthCheckNodePort"], number);
        }
        Ok(())
    }

    async fn take_node_port(
        &self,
        asked: i64,
        held: &HashSet<u16>,
        mine: &mut HashSet<u16>,
        reserved: &mut Reserved,
        service: &Value,
        path: &field::Path,
    ) -> Result<u16, Status> {
        if asked == 0 {
            let port = self.0.take_any_port(random()).await.map_err(store_status)?;
            let port = port.map_err(|why| Status::internal_error(format!("failed to allocate a nodePort: {why}")))?;
            reserved.ports.push(port);
            mine.insert(port);
            return Ok(port);
        }
        let port = u16::try_from(asked).unwrap_or_default();
        // One port may serve several protocols of a Service.
        if held.contains(&port) || mine.contains(&port) {
            return Ok(port);
        }
        if reserved.dry_run && !allocator::NODE_PORTS.contains(&port) {
            // Upstream's dry run asks only whether the port is taken.
            return Ok(port);
        }
        let taken = self.0.take_port(port).await.map_err(store_status)?;
        taken.map_err(|why| refuse(service, &field::Error::invalid(path, asked, why.to_string())))?;
        reserved.ports.push(port);
        mine.insert(port);
        Ok(port)
    }
}

fn other_family(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}
