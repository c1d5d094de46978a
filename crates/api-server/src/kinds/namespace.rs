//! Namespaces: they are emptied by their controller before they go
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/>).

use std::sync::Arc;

use apimachinery::{Value, validation};

use super::Rules;
use crate::registry::{OperationContext, StatusStrategy, Strategy};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

pub(super) fn rules() -> Rules {
    Rules {
        strategy: Arc::new(NamespaceStrategy),
        subresources: vec![("status", Arc::new(StatusStrategy)), ("finalize", Arc::new(FinalizeStrategy))],
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

    fn waits_for_finalizers(&self, object: &Value) -> bool {
        object.meta().finalizers().next().is_some() || !object.array_at(&["spec", "finalizers"]).is_empty()
    }

    fn mark_terminating(&self, object: &mut Value) {
        object.set_path(&["status", "phase"], "Terminating");
    }
}

/// Only `spec.finalizers` changes; the last one gone ends the namespace.
struct FinalizeStrategy;

impl Strategy for FinalizeStrategy {
    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        let finalizers = object.remove_path(&["spec", "finalizers"]);
        let version = object.meta().resource_version().to_owned();
        *object = old.clone();
        object.meta_mut().set_resource_version(&version);
        match finalizers {
            Some(finalizers) => object.set_path(&["spec", "finalizers"], finalizers),
            None => {
                object.remove_path(&["spec", "finalizers"]);
            }
        }
    }

    fn name_rule(&self) -> validation::NameFn {
        validation::name_is_dns_label
    }
}
