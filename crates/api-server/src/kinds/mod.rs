//! The rules of kinds: one module for each kind that has rules which its schema cannot say, and one line here.

mod access;
mod admission_registration;
mod api_service;
mod apps;
mod at;
mod autoscaling;
mod batch;
mod certificates;
mod conditions;
mod config;
mod devices;
mod disabled;
mod events;
mod flowcontrol;
mod go_diff;
mod go_text;
mod json_path;
mod meta_checks;
mod namespace;
mod networking;
mod node;
mod normalize;
mod pod;
mod pod_spec;
mod pod_template;
mod quota;
mod resources;
mod runtime_class;
mod service;
mod status_meta;
mod storage;
mod storage_api;
mod table;
mod trust_bundles;
mod volume_sources;
mod warnings;
mod webhook_client;
mod workload;

use std::sync::Arc;

use apimachinery::field::ErrorList;
use apimachinery::{GroupResource, Value, validation};

use crate::gates::{Feature, FeatureGates};
use crate::registry::{BeginHook, DefaultStrategy, Resource, Strategy, bump_generation_exactly};

use apps::App;
pub(crate) use disabled::drop_disabled;
pub(crate) use go_diff::diff as difference;
pub(crate) use go_text::{Shown, internal as internal_text, is_field, tagged as tagged_text};
pub(crate) use meta_checks::{checks_own_metadata, meta_checks};
pub(crate) use normalize::drops;
pub(crate) use pod_spec::{qos_class, toleration_errors};
pub(crate) use resources::is_extended as is_extended_resource;
pub(crate) use service::{ServiceAllocator, repair_addresses};
use status_meta::{StatusMeta, keep_for_status};

/// The strategies of a resource and its parts.
pub(crate) struct Rules {
    /// Of the object itself.
    pub(crate) strategy: Arc<dyn Strategy>,
    /// Of subresources that are parts of the object, by name.
    pub(crate) subresources: Vec<(&'static str, Arc<dyn Strategy>)>,
}

/// The rules of a resource; those of a kind without rules where it has no module.
pub(crate) fn rules(resource: &GroupResource, row: &Resource, services: &Arc<ServiceAllocator>, gates: FeatureGates) -> Rules {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "namespaces") => namespace::rules(),
        ("", "pods") => pod::rules(),
        ("", "configmaps") => config::rules(&["data", "binaryData"]),
        ("", "secrets") => config::rules(&["data"]),
        ("apiregistration.k8s.io", "apiservices") => api_service::rules(),
        ("", "events") | ("events.k8s.io", "events") => events::rules(),
        ("", "podtemplates") => pod_template::rules(),
        ("", "replicationcontrollers") => apps::rules(App::ReplicationController),
        ("apps", "deployments") => apps::rules(App::Deployment),
        ("apps", "replicasets") => apps::rules(App::ReplicaSet),
        ("apps", "daemonsets") => apps::rules(App::DaemonSet),
        ("apps", "statefulsets") => apps::rules(App::StatefulSet),
        ("batch", "jobs") => batch::jobs(),
        ("batch", "cronjobs") => batch::cron_jobs(),
        ("", "services") => service::rules(services.clone(), gates),
        ("certificates.k8s.io", "certificatesigningrequests") => certificates::rules(),
        _ => default_rules(resource, row, services),
    }
}

/// All that a walk complains about.
fn collect(walk: impl FnOnce(&mut ErrorList)) -> ErrorList {
    let mut errors = ErrorList::new();
    walk(&mut errors);
    errors
}

fn default_rules(resource: &GroupResource, row: &Resource, services: &Arc<ServiceAllocator>) -> Rules {
    let has_status = row.subresource("status").is_some();
    let checks = table::checks(resource);
    let strategy = Arc::new(PlainStrategy {
        rules: DefaultStrategy { has_status, has_generation: has_generation(resource) },
        name: name_rule(resource),
        create_on_update: creates_on_update(resource),
        unconditional: !needs_resource_version(resource),
        checks,
        addresses: is_ip_address(resource).then(|| service::AddressHook::new(services.clone())),
        resource: resource.clone(),
    });
    let mut subresources: Vec<(&'static str, Arc<dyn Strategy>)> = Vec::new();
    if has_status {
        subresources
            .push(("status", Arc::new(CheckedStatus { checks, meta: StatusMeta::of(resource), resource: resource.clone() })));
    }
    Rules { strategy, subresources }
}

/// Kinds whose `metadata.generation` counts changes of what is asked for (upstream's strategies that set it).
fn has_generation(resource: &GroupResource) -> bool {
    let plural = resource.resource.as_str();
    match resource.group.as_str() {
        "" => matches!(plural, "podtemplates" | "replicationcontrollers"),
        "apps" => plural != "controllerrevisions",
        "networking.k8s.io" => matches!(plural, "ingresses" | "ingressclasses" | "networkpolicies"),
        "resource.k8s.io" => matches!(plural, "deviceclasses" | "devicetaintrules" | "resourceslices"),
        "admissionregistration.k8s.io"
        | "apiextensions.k8s.io"
        | "batch"
        | "discovery.k8s.io"
        | "flowcontrol.apiserver.k8s.io"
        | "policy" => true,
        _ => false,
    }
}

/// What upstream compares with `reflect.DeepEqual`, to which something empty is not nothing, before it counts the generation up.
fn compared_exactly(resource: &GroupResource) -> Option<&'static str> {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("networking.k8s.io", "networkpolicies") => Some("spec"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => Some("webhooks"),
        _ => None,
    }
}

/// Kinds whose generation is 1 and stays so.
fn is_first_generation(resource: &GroupResource) -> bool {
    resource.group == "scheduling.k8s.io" && resource.resource == "priorityclasses"
}

/// Upstream's `AllowCreateOnUpdate`.
fn creates_on_update(resource: &GroupResource) -> bool {
    match resource.group.as_str() {
        "" => matches!(resource.resource.as_str(), "limitranges" | "events" | "services" | "endpoints"),
        "coordination.k8s.io" | "node.k8s.io" | "rbac.authorization.k8s.io" => true,
        _ => false,
    }
}

/// Kinds without upstream's `AllowUnconditionalUpdate`.
fn needs_resource_version(resource: &GroupResource) -> bool {
    match resource.group.as_str() {
        "admissionregistration.k8s.io" | "coordination.k8s.io" | "node.k8s.io" | "internal.apiserver.k8s.io" => true,
        "storage.k8s.io" => !matches!(resource.resource.as_str(), "storageclasses" | "volumeattributesclasses"),
        "policy" | "storagemigration.k8s.io" => true,
        "certificates.k8s.io" => resource.resource != "certificatesigningrequests",
        _ => false,
    }
}

fn name_rule(resource: &GroupResource) -> validation::NameFn {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("rbac.authorization.k8s.io", _) => validation::name_is_path_segment,
        ("", "services") => validation::name_is_dns1035_label,
        ("resource.k8s.io", "deviceclasses") => name_with_any_start,
        // The check of the kind knows the signer, which the name depends on.
        ("certificates.k8s.io", "clustertrustbundles") => |_, _| Vec::new(),
        _ if is_ip_address(resource) => validation::name_is_ip,
        _ => validation::name_is_dns_subdomain,
    }
}

/// A subdomain, generated from whatever start: upstream looks at the outcome alone (`ValidateObjectMetaWithOpts`).
fn name_with_any_start(name: &str, is_start: bool) -> Vec<String> {
    if is_start { Vec::new() } else { validation::name_is_dns_subdomain(name, false) }
}

fn is_ip_address(resource: &GroupResource) -> bool {
    resource.group == "networking.k8s.io" && resource.resource == "ipaddresses"
}

/// A kind whose rules are facts.
struct PlainStrategy {
    rules: DefaultStrategy,
    name: validation::NameFn,
    create_on_update: bool,
    unconditional: bool,
    checks: Option<&'static table::Checks>,
    /// Of IPAddresses: they keep Services from their addresses.
    addresses: Option<service::AddressHook>,
    resource: GroupResource,
}

#[async_trait::async_trait]
impl Strategy for PlainStrategy {
    fn prepare_for_create(&self, context: &crate::OperationContext, object: &mut Value) {
        let rules = DefaultStrategy {
            has_status: self.rules.has_status && !normalize::keeps_status_on_create(&self.resource),
            ..self.rules
        };
        rules.prepare_for_create(context, object);
        if is_first_generation(&self.resource) {
            object.meta_mut().set_generation(1);
        }
        normalize::on_create(&self.resource, object);
    }

    fn prepare_for_update(&self, context: &crate::OperationContext, object: &mut Value, old: &Value) {
        normalize::on_update(&self.resource, object, old);
        let generation = object.meta().generation();
        let rules = DefaultStrategy {
            has_status: self.rules.has_status && !normalize::keeps_status_on_update(&self.resource),
            ..self.rules
        };
        rules.prepare_for_update(context, object, old);
        if let Some(part) = compared_exactly(&self.resource) {
            bump_generation_exactly(context, object, old, part);
        }
        if object.meta().generation() < generation {
            object.meta_mut().set_generation(generation);
        }
    }

    fn namespace_label(&self, object: &Value, old: Option<&Value>) -> Option<&'static str> {
        let asked = old.is_none() && devices::admin::requested(&self.resource, object).is_some();
        asked.then_some(devices::admin::LABEL)
    }

    fn validate(&self, context: &crate::OperationContext, object: &Value) -> ErrorList {
        collect(|e| {
            devices::admin::check(devices::admin::requested(&self.resource, object), context, e);
            devices::empty_template_metadata(&self.resource, context, e);
            self.checks.iter().for_each(|checks| (checks.create)(object, e));
            networking::relax_service_names(&self.resource, context.gates.has(Feature::RelaxedServiceNameValidation), None, e);
        })
    }

    fn validate_update(&self, context: &crate::OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| {
            devices::empty_template_metadata(&self.resource, context, e);
            self.checks.iter().for_each(|checks| (checks.update)(object, old, e));
            networking::relax_service_names(
                &self.resource,
                context.gates.has(Feature::RelaxedServiceNameValidation),
                Some(old),
                e,
            );
        })
    }

    fn warnings_on_create(&self, _context: &crate::OperationContext, object: &Value) -> Vec<String> {
        warnings::of(&self.resource, object, None)
    }

    fn warnings_on_update(&self, _context: &crate::OperationContext, object: &Value, old: &Value) -> Vec<String> {
        warnings::of(&self.resource, object, Some(old))
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional
    }

    fn name_rule(&self) -> validation::NameFn {
        self.name
    }

    async fn begin_create(&self, _context: &crate::OperationContext, object: &mut Value) -> BeginHook {
        match &self.addresses {
            Some(hook) => hook.begin_create(object).await,
            None => Ok(None),
        }
    }

    async fn after_delete(&self, _context: &crate::OperationContext, object: &Value) {
        if let Some(hook) = &self.addresses {
            hook.after_delete(object).await;
        }
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        if resets_nothing(&self.resource) { &[] } else { self.rules.reset_fields() }
    }
}

/// A status with rules of its kind.
struct CheckedStatus {
    checks: Option<&'static table::Checks>,
    meta: StatusMeta,
    resource: GroupResource,
}

impl Strategy for CheckedStatus {
    fn prepare_for_update(&self, _context: &crate::OperationContext, object: &mut Value, old: &Value) {
        keep_for_status(object, old, self.meta);
        normalize::on_status(&self.resource, object, old);
    }

    fn namespace_label(&self, object: &Value, old: Option<&Value>) -> Option<&'static str> {
        let asked = old.and_then(|old| devices::admin::granted(&self.resource, object, old)).is_some();
        asked.then_some(devices::admin::LABEL)
    }

    fn validate_update(&self, context: &crate::OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| {
            devices::admin::check(devices::admin::granted(&self.resource, object, old), context, e);
            self.checks.iter().for_each(|checks| (checks.status)(object, old, e));
        })
    }

    fn warnings_on_update(&self, _context: &crate::OperationContext, object: &Value, _old: &Value) -> Vec<String> {
        warnings::of_status(&self.resource, object)
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        if resets_nothing(&self.resource) { &[] } else { self.meta.reset_fields() }
    }
}

/// Upstream names a group that there is not in the reset fields of ServiceCIDRs, so that they have none.
fn resets_nothing(resource: &GroupResource) -> bool {
    resource.group == "networking.k8s.io" && resource.resource == "servicecidrs"
}
