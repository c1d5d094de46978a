//! Defaults of the rbac.authorization.k8s.io group.

use super::{Rule, zero};
use crate::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const RULES: &[(&str, Rule)] =
    &[("rbac.v1.ClusterRoleBinding", binding), ("rbac.v1.RoleBinding", binding), ("rbac.v1.Subject", subject)];

fn binding(binding: &mut Value) {
    zero(binding.path_mut(&["roleRef"]), "apiGroup", GROUP);
}

fn subject(subject: &mut Value) {
    if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
        zero(subject, "apiGroup", GROUP);
    }
}
