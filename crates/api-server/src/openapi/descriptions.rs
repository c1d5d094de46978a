//! The descriptions of types and fields, from the schemas of the k8s-openapi crate.

use std::collections::HashMap;

use apimachinery::schema::TypeInfo;
use schemars::SchemaGenerator;
use serde_json::Value as Json;

/// The descriptions of all types that a group version needs.
pub(super) struct Descriptions {
    /// Schemas by the last three parts of their names: `core.v1.PodSpec`.
    types: HashMap<String, Json>,
}

macro_rules! describe {
    ($($module:ident)::+ : $($kind:ident),+) => {{
        use k8s_openapi::$($module)::+ as types;
        let mut generator = SchemaGenerator::default();
        $( let _ = generator.subschema_for::<types::$kind>(); )+
        generator.take_definitions(true)
    }};
}

impl Descriptions {
    /// Of one group version; empty for one that is not known.
    pub(super) fn of(group: &str, version: &str) -> Descriptions {
        let types = definitions(group, version).into_iter().map(|(name, schema)| (short(&name), schema)).collect();
        Descriptions { types }
    }

    /// Of a type, or of one of its fields.
    pub(super) fn get(&self, info: &TypeInfo, field: Option<&str>) -> Option<String> {
        let schema = self.types.get(info.name)?;
        let described = match field {
            None => schema,
            Some(field) => &schema["properties"][field],
        };
        described["description"].as_str().map(str::to_owned)
    }
}

/// `io.k8s.api.core.v1.PodSpec` is `core.v1.PodSpec` in the facts.
fn short(name: &str) -> String {
    match name.rmatch_indices('.').nth(2) {
        Some((at, _)) => name[at + 1..].to_owned(),
        None => name.to_owned(),
    }
}

#[rustfmt::skip]
fn definitions(group: &str, version: &str) -> serde_json::Map<String, Json> {
    match (group, version) {
        ("", "v1") => describe!(api::core::v1: Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount),
        ("apiregistration.k8s.io", "v1") => describe!(kube_aggregator::pkg::apis::apiregistration::v1: APIService),
        ("apps", "v1") => describe!(api::apps::v1: ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet),
        ("events.k8s.io", "v1") => describe!(api::events::v1: Event),
        ("authentication.k8s.io", "v1") => describe!(api::authentication::v1: SelfSubjectReview, TokenReview),
        ("authorization.k8s.io", "v1") => describe!(api::authorization::v1: LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview),
        ("autoscaling", "v2") => describe!(api::autoscaling::v2: HorizontalPodAutoscaler),
        ("autoscaling", "v1") => describe!(api::autoscaling::v1: HorizontalPodAutoscaler),
        ("batch", "v1") => describe!(api::batch::v1: CronJob, Job),
        ("certificates.k8s.io", "v1") => describe!(api::certificates::v1: CertificateSigningRequest),
        ("certificates.k8s.io", "v1beta1") => describe!(api::certificates::v1beta1: ClusterTrustBundle, PodCertificateRequest),
        ("certificates.k8s.io", "v1alpha1") => describe!(api::certificates::v1alpha1: ClusterTrustBundle),
        ("networking.k8s.io", "v1") => describe!(api::networking::v1: IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR),
        ("networking.k8s.io", "v1beta1") => describe!(api::networking::v1beta1: IPAddress, ServiceCIDR),
        ("policy", "v1") => describe!(api::policy::v1: PodDisruptionBudget),
        ("rbac.authorization.k8s.io", "v1") => describe!(api::rbac::v1: ClusterRole, ClusterRoleBinding, Role, RoleBinding),
        ("storage.k8s.io", "v1") => describe!(api::storage::v1: CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass),
        ("storage.k8s.io", "v1beta1") => describe!(api::storage::v1beta1: VolumeAttributesClass),
        ("admissionregistration.k8s.io", "v1") => describe!(api::admissionregistration::v1: MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration),
        ("admissionregistration.k8s.io", "v1beta1") => describe!(api::admissionregistration::v1beta1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding),
        ("admissionregistration.k8s.io", "v1alpha1") => describe!(api::admissionregistration::v1alpha1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding),
        ("apiextensions.k8s.io", "v1") => describe!(apiextensions_apiserver::pkg::apis::apiextensions::v1: CustomResourceDefinition),
        ("scheduling.k8s.io", "v1") => describe!(api::scheduling::v1: PriorityClass),
        ("scheduling.k8s.io", "v1alpha1") => describe!(api::scheduling::v1alpha1: Workload),
        ("coordination.k8s.io", "v1") => describe!(api::coordination::v1: Lease),
        ("coordination.k8s.io", "v1beta1") => describe!(api::coordination::v1beta1: LeaseCandidate),
        ("coordination.k8s.io", "v1alpha2") => describe!(api::coordination::v1alpha2: LeaseCandidate),
        ("node.k8s.io", "v1") => describe!(api::node::v1: RuntimeClass),
        ("discovery.k8s.io", "v1") => describe!(api::discovery::v1: EndpointSlice),
        ("resource.k8s.io", "v1") => describe!(api::resource::v1: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice),
        ("resource.k8s.io", "v1beta2") => describe!(api::resource::v1beta2: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice),
        ("resource.k8s.io", "v1beta1") => describe!(api::resource::v1beta1: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice),
        ("resource.k8s.io", "v1alpha3") => describe!(api::resource::v1alpha3: DeviceTaintRule),
        ("flowcontrol.apiserver.k8s.io", "v1") => describe!(api::flowcontrol::v1: FlowSchema, PriorityLevelConfiguration),
        ("internal.apiserver.k8s.io", "v1alpha1") => describe!(api::apiserverinternal::v1alpha1: StorageVersion),
        ("storagemigration.k8s.io", "v1beta1") => describe!(api::storagemigration::v1beta1: StorageVersionMigration),
        _ => serde_json::Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::{GroupVersionKind, schema};

    use super::*;

    #[test]
    fn every_built_in_kind_is_described() {
        let mut missing: Vec<String> = Vec::new();
        for resource in schema::resources().iter().filter(|resource| resource.kind_group_version.is_none()) {
            let kind = GroupVersionKind::new(resource.group, resource.version, resource.kind);
            let Some(info) = schema::lookup(&kind) else { continue };
            if Descriptions::of(resource.group, resource.version).get(info, None).is_none() {
                missing.push(kind.to_string());
            }
        }
        assert_eq!(missing, Vec::<String>::new());
        let pod = schema::lookup(&GroupVersionKind::new("", "v1", "Pod")).expect("pods are known");
        assert!(Descriptions::of("", "v1").get(pod, Some("spec")).is_some_and(|text| text.contains("desired behavior")));
    }
}
