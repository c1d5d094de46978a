//! Deployments, ReplicaSets, DaemonSets, StatefulSets and ReplicationControllers: a pod template, and a selector that it fits
//! (upstream's `pkg/apis/apps/validation` and the strategies in `pkg/registry/apps`).

mod stateful_set;
mod status;
#[cfg(test)]
mod tests;
mod validate;

use std::sync::Arc;

use apimachinery::field::ErrorList;
use apimachinery::{Value, validation};

use super::at::{At, Policy};
use super::{Rules, collect, go_text, warnings};
use crate::registry::{OperationContext, Strategy, bump_generation, keep_status};
use validate::spec;

/// The kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum App {
    Deployment,
    ReplicaSet,
    DaemonSet,
    StatefulSet,
    ReplicationController,
}

impl App {
    fn kind(self) -> &'static str {
        match self {
            App::Deployment => "Deployment",
            App::ReplicaSet => "ReplicaSet",
            App::DaemonSet => "DaemonSet",
            App::StatefulSet => "StatefulSet",
            App::ReplicationController => "ReplicationController",
        }
    }
}

/// Where DaemonSets keep upstream's deprecated `templateGeneration`; an annotation in apps/v1.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) fn rules(app: App) -> Rules {
    Rules { strategy: Arc::new(AppStrategy(app)), subresources: vec![("status", Arc::new(status::AppsStatus(app)))] }
}

struct AppStrategy(App);

impl Strategy for AppStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        crate::registry::reset_status(object);
        object.meta_mut().set_generation(1);
        if self.0 == App::DaemonSet {
            let generation = template_generation(object).max(1);
            object.set_path(&["metadata", "annotations", TEMPLATE_GENERATION], generation.to_string());
        }
    }

    fn validate(&self, context: &OperationContext, object: &Value) -> ErrorList {
        collect(|e| spec(self.0, object, None, Policy::of(context), e))
    }

    fn warnings_on_create(&self, _context: &OperationContext, object: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        let why = validation::is_dns1123_label(object.meta().name());
        if !why.is_empty() && !matches!(self.0, App::DaemonSet | App::StatefulSet) {
            warnings.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
                why.join(" ")
            ));
        }
        warnings.extend(template_warnings(object));
        self.set_warnings(object, "", &mut warnings);
        warnings
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_status(object, old);
        bump_generation(object, old);
        match self.0 {
            App::DaemonSet => {
                let same = object["spec"]["template"] == old["spec"]["template"];
                let generation = template_generation(old) + i64::from(!same);
                object.set_path(&["metadata", "annotations", TEMPLATE_GENERATION], generation.to_string());
            }
            // Annotations are copied to ReplicaSets.
            App::Deployment if object["metadata"]["annotations"] != old["metadata"]["annotations"] => {
                object.meta_mut().set_generation(old.meta().generation() + 1);
            }
            _ => {}
        }
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| {
            let root = At::root(object);
            let selector = root.get("spec");
            let selector = selector.get("selector");
            if self.0 == App::DaemonSet {
                immutable_selector(&selector, &old["spec"]["selector"], e);
            }
            spec(self.0, object, Some(old), Policy::of(context), e);
            match self.0 {
                App::Deployment | App::ReplicaSet => immutable_selector(&selector, &old["spec"]["selector"], e),
                App::StatefulSet => stateful_set::update(object, old, e),
                App::DaemonSet | App::ReplicationController => {}
            }
        })
    }

    fn warnings_on_update(&self, _context: &OperationContext, object: &Value, old: &Value) -> Vec<String> {
        let changed = match self.0 {
            App::DaemonSet => object["spec"]["template"] != old["spec"]["template"],
            _ => object.meta().generation() != old.meta().generation(),
        };
        // Upstream looks at the old template of a ReplicationController, and names the claims of a StatefulSet another way.
        let warned_of = if self.0 == App::ReplicationController { old } else { object };
        let mut warnings = if changed { template_warnings(warned_of) } else { Vec::new() };
        self.set_warnings(object, "Spec", &mut warnings);
        warnings
    }

    /// For old clients of the core group's kind.
    fn orphans_by_default(&self) -> bool {
        self.0 == App::ReplicationController
    }

    fn name_rule(&self) -> validation::NameFn {
        match self.0 {
            App::StatefulSet => validation::name_is_dns_label,
            App::ReplicationController => super::name_with_any_start,
            _ => validation::name_is_dns_subdomain,
        }
    }
}

impl AppStrategy {
    /// Those of a StatefulSet beyond its template's; `below` is what upstream calls the claims' specs.
    fn set_warnings(&self, object: &Value, below: &'static str, found: &mut Vec<String>) {
        if self.0 != App::StatefulSet {
            return;
        }
        let root = At::root(object);
        let spec = root.get("spec");
        for claim in spec.get("volumeClaimTemplates").items() {
            let path = if below.is_empty() { claim.path() } else { claim.path().child(below) };
            warnings::claim_spec(&path, &claim.get("spec"), found);
        }
        if spec.get("revisionHistoryLimit").int() < 0 {
            let text =
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";
            found.push(text.to_owned());
        }
    }
}

fn immutable_selector(selector: &At, old: &Value, e: &mut ErrorList) {
    selector.immutable_as(e, old, |value| go_text::tagged(value, "meta.v1.LabelSelector"));
}

fn template_warnings(object: &Value) -> Vec<String> {
    let root = At::root(object);
    warnings::pod(&root.get("spec").get("template"), true)
}

fn template_generation(object: &Value) -> i64 {
    let text = object.str_at(&["metadata", "annotations", TEMPLATE_GENERATION]);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}
