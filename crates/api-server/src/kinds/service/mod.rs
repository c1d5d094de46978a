//! Services: cluster IPs, IP families and node ports (<https://kubernetes.io/docs/concepts/services-networking/service/>).

mod addresses;
mod allocator;
mod families;
mod kept;
mod repair;
mod reserve;
mod status;
mod validate;

use std::sync::Arc;

use apimachinery::{Value, field, validation};
use async_trait::async_trait;

use super::{Rules, warnings};
use crate::gates::{Feature, FeatureGates};
use crate::registry::{BeginHook, Companions, OperationContext, Strategy, keep_status};

pub(crate) use addresses::AddressHook;
pub(crate) use allocator::ServiceAllocator;
use allocator::{cluster_ips, node_ports};
pub(crate) use repair::run as repair_addresses;

pub(super) fn rules(allocator: Arc<ServiceAllocator>, gates: FeatureGates) -> Rules {
    let strategy = Arc::new(ServiceStrategy { allocator, gates });
    Rules { strategy, subresources: vec![("status", Arc::new(status::ServiceStatus))] }
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

/// Whether ports on the nodes may lead to it.
fn is_exposed(service: &Value) -> bool {
    matches!(type_of(service), "NodePort" | "LoadBalancer")
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

struct ServiceStrategy {
    allocator: Arc<ServiceAllocator>,
    gates: FeatureGates,
}

#[async_trait]
impl Strategy for ServiceStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        object.insert("status", apimachinery::value!({"loadBalancer": {}}));
    }

    fn validate(&self, _context: &OperationContext, object: &Value) -> field::ErrorList {
        validate::service(object, None, self.gates)
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_status(object, old);
        kept::drop_type_dependent(object, old);
    }

    fn validate_update(&self, _context: &OperationContext, object: &Value, old: &Value) -> field::ErrorList {
        validate::service(object, Some(old), self.gates)
    }

    fn warnings_on_create(&self, _context: &OperationContext, object: &Value) -> Vec<String> {
        warnings::service(object)
    }

    fn warnings_on_update(&self, _context: &OperationContext, object: &Value, _old: &Value) -> Vec<String> {
        warnings::service(object)
    }

    fn canonicalize(&self, object: &mut Value) {
        // Upstream once defaulted it where it means nothing, and hides it when it reads such a Service.
        if type_of(object) == "ExternalName" {
            object.remove_path(&["spec", "internalTrafficPolicy"]);
        }
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn name_rule(&self) -> validation::NameFn {
        // KEP-5311.
        match self.gates.has(Feature::RelaxedServiceNameValidation) {
            true => validation::name_is_dns_label,
            false => validation::name_is_dns1035_label,
        }
    }

    fn selectable_fields(&self, object: &Value) -> crate::registry::FieldAttrs {
        let text = |member: &str| object.str_at(&["spec", member]).unwrap_or_default().to_owned();
        vec![("spec.clusterIP", text("clusterIP")), ("spec.type", text("type"))]
    }

    fn companions(&self, new: Option<&Value>, old: Option<&Value>) -> Companions {
        if self.allocator.has_objects() { addresses::companions(new, old) } else { Companions::default() }
    }

    async fn begin_create(&self, context: &OperationContext, object: &mut Value) -> BeginHook {
        kept::normalize_cluster_ips(object, None);
        reserve::for_new(&self.allocator, object, context.dry_run).await
    }

    async fn begin_update(&self, context: &OperationContext, object: &mut Value, old: &Value) -> BeginHook {
        kept::keep_allocated(object, old);
        kept::normalize_cluster_ips(object, Some(old));
        reserve::for_update(&self.allocator, object, old, context.dry_run).await
    }

    async fn after_delete(&self, _context: &OperationContext, object: &Value) {
        let ports: Vec<u16> = node_ports(object).into_iter().collect();
        self.allocator.release(&cluster_ips(object), &ports).await;
    }
}
