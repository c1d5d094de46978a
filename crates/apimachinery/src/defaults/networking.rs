//! Defaults of the networking group.

use super::{Rule, absent};
use crate::{Value, value};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("networking.v1.NetworkPolicyPort", |port| absent(port, "protocol", "TCP")),
    ("networking.v1.NetworkPolicy", network_policy),
    ("networking.v1.IngressClass", |class| {
        if let Some(parameters) = class.get_path_mut(&["spec", "parameters"]).filter(|p| !p.is_null()) {
            absent(parameters, "scope", "Cluster");
        }
    }),
];

fn network_policy(policy: &mut Value) {
    let spec = policy.path_mut(&["spec"]);
    if spec.array_at(&["policyTypes"]).is_empty() {
        let egress = !spec.array_at(&["egress"]).is_empty();
        spec.insert("policyTypes", if egress { value!(["Ingress", "Egress"]) } else { value!(["Ingress"]) });
    }
}
