//! Makes the table of field descriptions (`kubectl explain`, OpenAPI) from the schemas of the k8s-openapi crate: compressed text in the
//! executable instead of a function for each of a thousand types.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use schemars::SchemaGenerator;
use serde_json::Value as Json;

/// By the name of a type as in the schema facts (`core.v1.PodSpec`): its own description and those of its fields.
type Table = BTreeMap<String, (String, BTreeMap<String, String>)>;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut generator = SchemaGenerator::default();
    generate(&mut generator);
    let definitions = generator.take_definitions(true);
    let table: Table = definitions.iter().map(|(name, schema)| (short(name).to_owned(), described(name, schema))).collect();
    let text = serde_json::to_vec(&table).expect("maps of text are JSON");
    let file = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("descriptions.json.gz");
    let file = std::fs::File::create(&file).expect("OUT_DIR can be written");
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::best());
    encoder.write_all(&text).expect("OUT_DIR can be written");
    encoder.finish().expect("OUT_DIR can be written");
}

/// `io.k8s.api.core.v1.PodSpec` is `core.v1.PodSpec` in the facts, `io.k8s.apimachinery.pkg.api.resource.Quantity` is
/// `resource.Quantity`: the package from the group on, which comes before a version.
fn short(name: &str) -> &str {
    let parts: Vec<&str> = name.split('.').collect();
    let versioned = parts.iter().rev().nth(1).is_some_and(|part| part.starts_with('v') && part != &"version");
    name.rmatch_indices('.').nth(if versioned { 2 } else { 1 }).map_or(name, |(at, _)| &name[at + 1..])
}

fn described(name: &str, schema: &Json) -> (String, BTreeMap<String, String>) {
    let text = |schema: &Json| schema["description"].as_str().map(str::to_owned);
    let properties = schema["properties"].as_object().into_iter().flatten();
    let fields = properties.filter_map(|(name, field)| Some((name.clone(), text(field)?)));
    let mut fields: BTreeMap<String, String> = fields.collect();
    let mut own = text(schema).unwrap_or_default();
    // The crate says of watch events what Kubernetes says of their object.
    if name.ends_with(".WatchEvent")
        && let Some((about, object)) = own.clone().split_once("\n\n")
    {
        fields.insert("object".to_owned(), object.trim_end().to_owned());
        own = about.to_owned();
    }
    (own, fields)
}

/// Every kind that is served; a test of `openapi::descriptions` finds one that is missing.
#[rustfmt::skip]
fn generate(generator: &mut SchemaGenerator) {
    macro_rules! add {
        ($($module:ident)::+ : $($kind:ident),+) => {{
            use k8s_openapi::$($module)::+ as types;
            $( let _ = generator.subschema_for::<types::$kind>(); )+
        }};
    }
    add!(api::core::v1: Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount);
    add!(kube_aggregator::pkg::apis::apiregistration::v1: APIService);
    add!(api::apps::v1: ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet);
    add!(api::events::v1: Event);
    add!(api::authentication::v1: SelfSubjectReview, TokenReview);
    add!(api::authorization::v1: LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview);
    add!(api::autoscaling::v2: HorizontalPodAutoscaler);
    add!(api::autoscaling::v1: HorizontalPodAutoscaler);
    add!(api::batch::v1: CronJob, Job);
    add!(api::certificates::v1: CertificateSigningRequest);
    add!(api::certificates::v1beta1: ClusterTrustBundle, PodCertificateRequest);
    add!(api::certificates::v1alpha1: ClusterTrustBundle);
    add!(api::networking::v1: IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR);
    add!(api::networking::v1beta1: IPAddress, ServiceCIDR);
    add!(api::policy::v1: PodDisruptionBudget);
    add!(api::rbac::v1: ClusterRole, ClusterRoleBinding, Role, RoleBinding);
    add!(api::storage::v1: CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass);
    add!(api::storage::v1beta1: VolumeAttributesClass);
    add!(api::admissionregistration::v1: MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration);
    add!(api::admissionregistration::v1beta1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding);
    add!(api::admissionregistration::v1alpha1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding);
    add!(apiextensions_apiserver::pkg::apis::apiextensions::v1: CustomResourceDefinition);
    add!(api::scheduling::v1: PriorityClass);
    add!(api::scheduling::v1alpha1: Workload);
    add!(api::coordination::v1: Lease);
    add!(api::coordination::v1beta1: LeaseCandidate);
    add!(api::coordination::v1alpha2: LeaseCandidate);
    add!(api::node::v1: RuntimeClass);
    add!(api::discovery::v1: EndpointSlice);
    add!(api::resource::v1: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice);
    add!(api::resource::v1beta2: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice);
    add!(api::resource::v1beta1: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice);
    add!(api::resource::v1alpha3: DeviceTaintRule);
    add!(api::flowcontrol::v1: FlowSchema, PriorityLevelConfiguration);
    add!(api::apiserverinternal::v1alpha1: StorageVersion);
    add!(api::storagemigration::v1beta1: StorageVersionMigration);
    add!(api::authentication::v1: TokenRequest);
    add!(api::autoscaling::v1: Scale);
    add!(api::policy::v1: Eviction);
    add!(apimachinery::pkg::apis::meta::v1: APIGroup, APIGroupList, APIResourceList, APIVersions, DeleteOptions, Patch, Status);
    add!(apimachinery::pkg::version: Info);
    type WatchEvent = k8s_openapi::apimachinery::pkg::apis::meta::v1::WatchEvent<k8s_openapi::api::core::v1::Pod>;
    let _ = generator.subschema_for::<WatchEvent>();
}
