//! Pods: their node ends them, so that a deletion gives it time.

use std::sync::Arc;

use apimachinery::field::ErrorList;
use apimachinery::{GroupResource, Value};

use super::at::{At, Policy};
use super::status_meta::{StatusMeta, keep_for_status};
use super::{Rules, collect, pod_spec, warnings};
use crate::gates::Feature;
use crate::registry::{FieldAttrs, OperationContext, Strategy, bump_generation, keep_status, now};

pub(super) fn rules() -> Rules {
    Rules {
        strategy: Arc::new(PodStrategy),
        subresources: vec![
            ("status", Arc::new(PodStatusStrategy)),
            (
                "ephemeralcontainers",
                Arc::new(PartStrategy { part: Part::Ephemeral, check: pod_spec::ephemeral_containers_update }),
            ),
            // Only the endpoint writes through this one: it changes the node's name, annotations and a condition, and nothing else.
            ("binding", Arc::new(BindingStrategy)),
            ("resize", Arc::new(PartStrategy { part: Part::Resources, check: pod_spec::resize })),
        ],
    }
}

struct PodStrategy;

impl Strategy for PodStrategy {
    fn prepare_for_create(&self, context: &OperationContext, object: &mut Value) {
        object.meta_mut().set_generation(1);
        pod_spec::merge_label_keys(context.gates, object);
        let class = pod_spec::qos_class(&object["spec"]);
        object.insert("status", apimachinery::value!({"phase": "Pending", "qosClass": class}));
        if !object.array_at(&["spec", "schedulingGates"]).is_empty() {
            let condition = apimachinery::value!({
                "type": "PodScheduled", "status": "False", "lastProbeTime": null, "lastTransitionTime": now(),
                "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates"
            });
            object.set_path(&["status", "conditions"], apimachinery::value!([condition]));
        }
    }

    fn validate(&self, context: &OperationContext, object: &Value) -> ErrorList {
        collect(|e| pod_spec::create(object, Policy::of(context), e))
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| pod_spec::update(object, old, Policy::of(context), e))
    }

    fn warnings_on_create(&self, _context: &OperationContext, object: &Value) -> Vec<String> {
        let mut found = Vec::new();
        let why = apimachinery::validation::is_dns1123_label(object.meta().name());
        if !why.is_empty() {
            let why = why.join(" ");
            found.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{why}]"
            ));
        }
        found.extend(warnings::pod(&At::root(object), false));
        found
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_status(object, old);
        bump_generation(object, old);
    }

    /// A node gets the pod's own time unless the client says otherwise; pods that no node runs go at once.
    fn graceful_deletion(&self, _context: &OperationContext, object: &Value, requested: Option<i64>) -> Option<i64> {
        let own = object.i64_at(&["spec", "terminationGracePeriodSeconds"]).unwrap_or(30);
        let mut seconds = requested.unwrap_or(own);
        if object.str_at(&["spec", "nodeName"]).unwrap_or_default().is_empty() {
            seconds = 0;
        }
        if matches!(object.str_at(&["status", "phase"]), Some("Failed" | "Succeeded")) {
            seconds = 0;
        }
        Some(if seconds < 0 { 1 } else { seconds })
    }

    fn selectable_fields(&self, object: &Value) -> FieldAttrs {
        let first = object.array_at(&["status", "podIPs"]).first();
        let ip = first.and_then(|ip| ip["ip"].as_str()).or(object.str_at(&["status", "podIP"]));
        vec![("status.podIP", ip.unwrap_or_default().to_owned())]
    }

    fn selectable_from(&self) -> Option<&'static [&'static str]> {
        Some(&["status.podIPs"])
    }
}

/// A subresource that changes only a part of the spec.
struct PartStrategy {
    part: Part,
    check: fn(&Value, &Value, Policy, &mut ErrorList),
}

/// What a subresource changes.
#[derive(Clone, Copy)]
enum Part {
    Ephemeral,
    /// What each container may use.
    Resources,
}

/// Takes over the resources of each container, unless the containers are others, which validation refuses.
fn resized(object: &mut Value, sent: &Value, list: &'static str) {
    let wanted = sent.array_at(&["spec", list]);
    let Some(containers) = object.get_path_mut(&["spec", list]).and_then(Value::as_array_mut) else { return };
    if containers.iter().zip(wanted).any(|(now, wanted)| now["name"] != wanted["name"]) {
        *containers = wanted.to_vec();
        return;
    }
    for (now, wanted) in containers.iter_mut().zip(wanted) {
        for member in ["resources", "resizePolicy"] {
            match wanted.get(member) {
                Some(value) => drop(now.insert(member, value.clone())),
                None => drop(now.remove(member)),
            }
        }
    }
}

impl Strategy for PartStrategy {
    fn validate_update(&self, context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| (self.check)(object, old, Policy::of(context), e))
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        let sent = object.clone();
        // All but these parts stays; of the metadata, what a status update may change may change.
        keep_for_status(object, old, StatusMeta::Nothing);
        for part in ["spec", "status"] {
            match old.get(part) {
                Some(kept) => drop(object.insert(part, kept.clone())),
                None => drop(object.remove(part)),
            }
        }
        match self.part {
            Part::Ephemeral => match sent.get_path(&["spec", "ephemeralContainers"]) {
                Some(list) => object.set_path(&["spec", "ephemeralContainers"], list.clone()),
                None => drop(object.remove_path(&["spec", "ephemeralContainers"])),
            },
            Part::Resources => {
                let lists = ["containers", "initContainers"];
                let same = |list: &str| sent.array_at(&["spec", list]).len() == old.array_at(&["spec", list]).len();
                if !lists.into_iter().all(same) {
                    // For validation to refuse.
                    *object = sent;
                    return bump_generation(object, old);
                }
                lists.into_iter().for_each(|list| resized(object, &sent, list));
            }
        }
        bump_generation(object, old);
    }
}

struct BindingStrategy;

impl Strategy for BindingStrategy {
    /// The generation counts what users want; where the pod runs is not among it.
    fn prepare_for_update(&self, _context: &OperationContext, _object: &mut Value, _old: &Value) {}
}

/// `ResourceHealthStatus`.
fn drop_health(object: &mut Value, old: &Value) {
    const LISTS: [&str; 3] = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    const MEMBER: &str = "allocatedResourcesStatus";
    let in_use = |list: &str| old.array_at(&["status", list]).iter().any(|status| !status[MEMBER].is_null());
    if LISTS.into_iter().any(in_use) {
        return;
    }
    for list in LISTS {
        for status in object.get_path_mut(&["status", list]).and_then(Value::as_array_mut).into_iter().flatten() {
            status.remove(MEMBER);
        }
    }
}

/// What the node reports; conditions and phases are its own, the class of service and deletion are not.
struct PodStatusStrategy;

impl Strategy for PodStatusStrategy {
    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_for_status(object, old, StatusMeta::AllButOwners);
        if object["status"]["qosClass"].is_empty() && !old["status"]["qosClass"].is_empty() {
            object.set_path(&["status", "qosClass"], old["status"]["qosClass"].clone());
        }
        // `InPlacePodLevelResourcesVerticalScaling` and `DRAExtendedResource`.
        let has = |member: &str| !old["status"][member].is_null();
        if !has("resources") && !has("allocatedResources") {
            object.remove_path(&["status", "resources"]);
            object.remove_path(&["status", "allocatedResources"]);
        }
        if !has("extendedResourceClaimStatus") {
            object.remove_path(&["status", "extendedResourceClaimStatus"]);
        }
        drop_health(object, old);
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        let ends_nomination = context.gates.has(Feature::ClearingNominatedNodeNameAfterBinding);
        collect(|e| pod_spec::status_update(object, old, ends_nomination, e))
    }

    fn warnings_on_update(&self, _context: &OperationContext, object: &Value, _old: &Value) -> Vec<String> {
        warnings::of_status(&GroupResource::new("", "pods"), object)
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        StatusMeta::AllButOwners.reset_fields()
    }
}
