//! Namespaces: they are emptied by their controller before they go
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/>).

use std::sync::Arc;

use apimachinery::field::ErrorList;
use apimachinery::{Value, validation};

use super::at::At;
use super::{Rules, collect};
use crate::registry::{OperationContext, StatusStrategy, Strategy, keep_status};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

pub(super) fn rules() -> Rules {
    Rules {
        strategy: Arc::new(NamespaceStrategy),
        subresources: vec![("status", Arc::new(NamespaceStatusStrategy)), ("finalize", Arc::new(FinalizeStrategy))],
    }
}

struct NamespaceStrategy;

/// The label that lets selectors find a namespace by name.
fn label(object: &mut Value) {
    let name = object.meta().name().to_owned();
    object.meta_mut().set_label(NAME_LABEL, &name);
}

impl Strategy for NamespaceStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        label(object);
        object.set_path(&["status"], apimachinery::value!({"phase": "Active"}));
        let finalizers = object.array_at(&["spec", "finalizers"]).to_vec();
        if !finalizers.iter().any(|finalizer| *finalizer == FINALIZER) {
            let mut finalizers = finalizers;
            finalizers.push(FINALIZER.into());
            object.set_path(&["spec", "finalizers"], finalizers);
        }
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        label(object);
        object.insert("spec", old["spec"].clone());
        object.insert("status", old["status"].clone());
    }

    fn name_rule(&self) -> validation::NameFn {
        validation::name_is_dns_label
    }

    fn validate(&self, _context: &OperationContext, object: &Value) -> ErrorList {
        collect(|e| finalizers(object, false, e))
    }

    fn waits_for_finalizers(&self, object: &Value) -> bool {
        object.meta().finalizers().next().is_some() || !object.array_at(&["spec", "finalizers"]).is_empty()
    }

    fn mark_terminating(&self, object: &mut Value) {
        object.set_path(&["status", "phase"], "Terminating");
        // Namespaces have a time of their end, and no grace.
        object.meta_mut().remove("deletionGracePeriodSeconds");
    }
}

/// The one way to change `spec.finalizers`; the last one gone ends the namespace.
struct FinalizeStrategy;

impl Strategy for FinalizeStrategy {
    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_status(object, old);
    }

    fn validate_update(&self, _context: &OperationContext, object: &Value, _old: &Value) -> ErrorList {
        collect(|e| finalizers(object, true, e))
    }

    fn name_rule(&self) -> validation::NameFn {
        validation::name_is_dns_label
    }
}

/// Names of `spec.finalizers`: qualified, and with a domain unless they are the system's own. Only the finalize endpoint says which.
fn finalizers(object: &Value, indexed: bool, e: &mut ErrorList) {
    let root = At::root(object);
    let spec = root.get("spec");
    let list = spec.get("finalizers");
    for finalizer in list.items() {
        let at = if indexed { finalizer } else { list.with(finalizer.value) };
        at.check(e, validation::is_qualified_name);
        if !at.text().contains('/') && !matches!(at.text(), "kubernetes" | "orphan" | "foregroundDeletion") {
            at.invalid(e, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

/// The phase says whether the namespace is going, and nothing else does.
struct NamespaceStatusStrategy;

impl Strategy for NamespaceStatusStrategy {
    fn prepare_for_update(&self, context: &OperationContext, object: &mut Value, old: &Value) {
        StatusStrategy.prepare_for_update(context, object, old);
    }

    fn validate_update(&self, _context: &OperationContext, object: &Value, _old: &Value) -> ErrorList {
        let going = object.meta().deletion_timestamp().is_some();
        let (phase, why) = match going {
            false => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
            true => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
        };
        let root = At::root(object);
        let status = root.get("status");
        let at = status.get("Phase").with(status.get("phase").value);
        collect(|e| {
            if at.text() != phase {
                at.invalid_text(e, why);
            }
        })
    }

    fn name_rule(&self) -> validation::NameFn {
        validation::name_is_dns_label
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        StatusStrategy.reset_fields()
    }
}
