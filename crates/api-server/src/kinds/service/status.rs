//! The status of a Service: what its load balancer reports.

use apimachinery::field::{Error, ErrorList};
use apimachinery::validation;
use apimachinery::{GroupResource, Value};

use super::super::at::{At, legacy_ip};
use super::super::{collect, warnings};
use crate::registry::{OperationContext, StatusStrategy, Strategy};

pub(super) struct ServiceStatus;

impl Strategy for ServiceStatus {
    fn prepare_for_update(&self, context: &OperationContext, object: &mut Value, old: &Value) {
        StatusStrategy.prepare_for_update(context, object, old);
    }

    fn validate_update(&self, _context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| load_balancer(object, old, e))
    }

    fn warnings_on_update(&self, _context: &OperationContext, object: &Value, _old: &Value) -> Vec<String> {
        warnings::of_status(&GroupResource::new("", "services"), object)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        StatusStrategy.reset_fields()
    }
}

/// Upstream's `ValidateLoadBalancerStatus`.
fn load_balancer(object: &Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(object);
    let status = root.get("status");
    let balancer = status.get("loadBalancer");
    let list = balancer.get("ingress");
    if list.len() > 0 && object.str_at(&["spec", "type"]) != Some("LoadBalancer") {
        return list.forbid(e, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    let before = old.array_at(&["status", "loadBalancer", "ingress"]);
    for ingress in list.items() {
        let (ip, mode, host) = (ingress.get("ip"), ingress.get("ipMode"), ingress.get("hostname"));
        let given = !ip.text().is_empty();
        if given && !before.iter().any(|old| old["ip"] == *ip.value) {
            ip.ip(e);
        }
        match (mode.is_set(), given) {
            (false, true) => mode.require(e, "must be specified when `ip` is set"),
            (true, false) => mode.forbid(e, "may not be specified when `ip` is not set"),
            (true, true) => mode.one_of(e, &["Proxy", "VIP"]),
            (false, false) => {}
        }
        host.check_set(e, validation::is_dns1123_subdomain);
        if legacy_ip(host.text()).is_some() {
            e.push(Error::invalid(&host.path(), host.text(), "must be a DNS name, not an IP address"));
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn ingress_points() {
        let check = |kind: &str, ingress: Value, expected: &[&str]| {
            let object = value!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": [ingress]}}});
            let errors = collect(|e| load_balancer(&object, &value!({}), e));
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        };
        let path = "status.loadBalancer.ingress";
        check(
            "ClusterIP",
            value!({"ip": "1.2.3.4"}),
            &[&format!("{path}: Forbidden: may only be used when `spec.type` is 'LoadBalancer'")],
        );
        check("LoadBalancer", value!({"ip": "1.2.3.4", "ipMode": "VIP"}), &[]);
        check(
            "LoadBalancer",
            value!({"ip": "1.2.3.4"}),
            &[&format!("{path}[0].ipMode: Required value: must be specified when `ip` is set")],
        );
        check(
            "LoadBalancer",
            value!({"hostname": "1.2.3.4", "ipMode": "VIP"}),
            &[
                &format!("{path}[0].ipMode: Forbidden: may not be specified when `ip` is not set"),
                &format!("{path}[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"),
            ],
        );
    }
}
