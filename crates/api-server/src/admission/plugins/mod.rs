//! The built-in admission plugins: one module each, and one line in [`ordered`], in upstream's order (`AllOrderedPlugins`).
//!
//! Absent of those that upstream enables: NodeDeclaredFeatureValidator, webhooks and policies.
//! Absent of those that it has off: ImagePolicyWebhook, EventRateLimit; AlwaysAdmit has nothing to do.

mod always_deny;
mod always_pull_images;
mod anti_affinity;
mod certificates;
mod claim_resize;
mod default_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod extended_resource_toleration;
mod limit_ranger;
mod namespace_auto_provision;
mod namespace_exists;
mod namespace_lifecycle;
mod node_restriction;
mod owner_references;
mod pod_node_selector;
mod pod_security;
mod pod_toleration_restriction;
mod pod_topology_labels;
mod priority;
mod rbac_escalation;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_nodes;

use std::sync::Arc;

use apimachinery::{GroupResource, Status, Value};

use super::config::AdmissionConfig;
use super::{AdmissionPlugin, Attributes};
use crate::gates::{Feature, FeatureGates};
use crate::loopback::Loopback;
use crate::objects::{Objects, ReadError};

pub(super) use pod_node_selector::NodeSelectors;
pub(super) use pod_security::PodSecurityConfig;
pub(super) use pod_toleration_restriction::TolerationConfig;
pub(super) use resource_quota::QuotaConfig;

/// All plugins, in the order that they run in.
pub(crate) fn ordered(loopback: &Loopback, config: &AdmissionConfig, gates: FeatureGates) -> Vec<Arc<dyn AdmissionPlugin>> {
    let objects: Arc<dyn Objects> = Arc::new(loopback.clone());
    vec![
        Arc::new(namespace_auto_provision::NamespaceAutoProvision::new(loopback.clone())),
        Arc::new(namespace_lifecycle::NamespaceLifecycle::new(objects.clone())),
        Arc::new(namespace_exists::NamespaceExists::new(objects.clone())),
        Arc::new(anti_affinity::LimitPodHardAntiAffinityTopology),
        Arc::new(limit_ranger::LimitRanger::new(objects.clone())),
        Arc::new(service_account::ServiceAccountPlugin::new(objects.clone())),
        Arc::new(node_restriction::NodeRestriction::new(objects.clone(), loopback.clone(), gates)),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(always_pull_images::AlwaysPullImages),
        Arc::new(pod_security::PodSecurity::new(objects.clone(), config.pod_security.clone())),
        Arc::new(pod_node_selector::PodNodeSelector::new(objects.clone(), config.node_selectors.clone())),
        Arc::new(priority::Priority::new(objects.clone())),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(pod_toleration_restriction::PodTolerationRestriction::new(objects.clone(), config.tolerations.clone())),
        Arc::new(extended_resource_toleration::ExtendedResourceToleration),
        Arc::new(default_class::DefaultClass::storage(objects.clone())),
        Arc::new(storage_protection::StorageObjectInUseProtection),
        Arc::new(owner_references::OwnerReferences::new(loopback.clone())),
        Arc::new(claim_resize::PersistentVolumeClaimResize::new(objects.clone())),
        Arc::new(runtime_class::RuntimeClassPlugin::new(objects.clone())),
        Arc::new(certificates::SignerPermission::approval(loopback.clone())),
        Arc::new(certificates::SignerPermission::signing(loopback.clone())),
        Arc::new(certificates::Attest::new(loopback.clone(), gates.has(Feature::ClusterTrustBundle))),
        Arc::new(certificates::SubjectRestriction),
        Arc::new(default_class::DefaultClass::ingress(objects.clone())),
        Arc::new(deny_service_external_ips::DenyServiceExternalIps),
        Arc::new(pod_topology_labels::PodTopologyLabels::new(objects, gates.has(Feature::PodTopologyLabelsAdmission))),
        // Mutating policies and webhooks go here, then validating policies and webhooks.
        Arc::new(rbac_escalation::RbacEscalation::new(loopback.clone())),
        // Charges what all others let pass.
        Arc::new(resource_quota::ResourceQuota::new(Arc::new(loopback.clone()), config.quota.clone())),
        Arc::new(always_deny::AlwaysDeny),
    ]
}

/// Those that run only where they are asked for (`--enable-admission-plugins`). NodeRestriction is not among them, though upstream's default has it
/// off: whoever builds a cluster turns it on.
pub(crate) const OFF_BY_DEFAULT: [&str; 10] = [
    "NamespaceAutoProvision",
    "NamespaceExists",
    "LimitPodHardAntiAffinityTopology",
    "AlwaysPullImages",
    "PodNodeSelector",
    "PodTolerationRestriction",
    "ExtendedResourceToleration",
    "OwnerReferencesPermissionEnforcement",
    "DenyServiceExternalIPs",
    "AlwaysDeny",
];

/// The names of the built-in admission plugins, which are upstream's, in the order that they run in. What is always done and has no
/// name upstream (the checks of RBAC's escalation) is not among them.
pub fn names() -> Vec<&'static str> {
    let plugins = ordered(&Loopback::new(std::sync::Weak::new()), &AdmissionConfig::default(), FeatureGates::DEFAULT);
    plugins.iter().map(|plugin| plugin.name()).filter(|name| *name != rbac_escalation::NAME).collect()
}

/// The namespace of a request, as it is written in it.
async fn namespace(objects: &dyn Objects, name: &str) -> Result<Value, Status> {
    match objects.get_json("", "namespaces", "", name).await.map_err(unreadable)? {
        Some(json) => Value::from_slice(&json).map_err(Status::internal_error),
        None => Err(Status::not_found(&GroupResource::new("", "namespaces"), name)),
    }
}

/// Upstream's answer of a plugin that refuses (`admission.NewForbidden`).
fn forbidden(attributes: &Attributes, why: impl std::fmt::Display) -> Status {
    let meta = attributes.object.as_ref().map(Value::meta);
    let from_object = meta.map(|m| if m.name().is_empty() { m.generate_name() } else { m.name() }).filter(|n| !n.is_empty());
    let name = match attributes.name.as_str() {
        "" => from_object.unwrap_or("Unknown"),
        name => name,
    };
    Status::forbidden(&attributes.resource.group_resource(), name, why)
}

fn unreadable(error: ReadError) -> Status {
    let source = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
    Status::internal_error(format_args!("{error}{source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_is_there() {
        let names = names();
        assert!(OFF_BY_DEFAULT.iter().all(|name| names.contains(name)), "{names:?}");
    }
}

#[cfg(test)]
mod testing {
    //! What the plugins' tests share.

    use apimachinery::{GroupVersionKind, GroupVersionResource};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use k8s_openapi::api::rbac::v1::{RoleRef, Subject};
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::admission::Operation;
    use crate::auth::UserInfo;
    use crate::http::Warnings;
    use crate::server::{ApiServer, ServerConfig};

    /// The creation of an object in namespace `ns`, by bob.
    pub(super) fn create(group: &str, resource: &str, kind: &str, object: &serde_json::Value) -> Attributes {
        let object = Value::from_slice(object.to_string().as_bytes()).expect("JSON");
        Attributes {
            kind: GroupVersionKind::new(group, "v1", kind),
            resource: GroupVersionResource::new(group, "v1", resource),
            subresource: String::new(),
            namespace: "ns".to_owned(),
            name: object.meta().name().to_owned(),
            operation: Operation::Create,
            object: Some(object),
            old_object: None,
            options: Value::object(),
            dry_run: false,
            user: Arc::new(UserInfo::component("bob")),
            warnings: Warnings::default(),
        }
    }

    /// A server on which each of these users may do what its rule says.
    pub(super) fn server(rules: &[(&str, serde_json::Value)]) -> Arc<ApiServer> {
        let server = ApiServer::builder(ServerConfig::default(), Arc::new(storage::Memory::new())).build();
        for (index, (user, rule)) in rules.iter().enumerate() {
            let (rbac, name) = (&server.access().rbac, index.to_string());
            rbac.set_role("", &name, Some(vec![serde_json::from_value(rule.clone()).expect("a rule")]));
            let api_group = "rbac.authorization.k8s.io".to_owned();
            let role = RoleRef { api_group: api_group.clone(), kind: "ClusterRole".to_owned(), name: name.clone() };
            let subject =
                Subject { api_group: Some(api_group), kind: "User".to_owned(), name: (*user).to_owned(), namespace: None };
            rbac.set_binding("", &name, &role, Some(vec![subject]));
        }
        server
    }

    /// A certificate request for this subject, as it stands in an object.
    pub(super) fn csr(subject: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        // rcgen's own.
        params.distinguished_name = rcgen::DistinguishedName::new();
        subject.iter().for_each(|(part, value)| params.distinguished_name.push(part.clone(), *value));
        let key = KeyPair::generate().expect("makes a key");
        BASE64.encode(params.serialize_request(&key).expect("signs").pem().expect("is PEM"))
    }

    /// The object as it is now, as JSON.
    pub(super) fn object(attributes: &Attributes) -> serde_json::Value {
        let object = attributes.object.as_ref().expect("an object");
        serde_json::from_str(&object.to_json()).expect("JSON")
    }
}
