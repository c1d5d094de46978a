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
use super::{Rules, collect, warnings};
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
        warnings.extend(self.template_warnings(object));
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
                selector.immutable(e, &old["spec"]["selector"]);
            }
            spec(self.0, object, Some(old), Policy::of(context), e);
            match self.0 {
                App::Deployment | App::ReplicaSet => selector.immutable(e, &old["spec"]["selector"]),
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
        if changed { self.template_warnings(object) } else { Vec::new() }
    }

    /// For old clients of the core group's kind.
    fn orphans_by_default(&self) -> bool {
        self.0 == App::ReplicationController
    }

    fn name_rule(&self) -> validation::NameFn {
        match self.0 {
            App::StatefulSet => validation::name_is_dns_label,
            _ => validation::name_is_dns_subdomain,
        }
    }
}

impl AppStrategy {
    fn template_warnings(&self, object: &Value) -> Vec<String> {
        let root = At::root(object);
        let spec = root.get("spec");
        let mut found = warnings::pod(&spec.get("template"), true);
        if self.0 == App::StatefulSet {
            for claim in spec.get("volumeClaimTemplates").items() {
                warnings::claim_spec(&claim.path(), &claim.get("spec"), &mut found);
            }
            if spec.get("revisionHistoryLimit").int() < 0 {
                let text =
                    "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";
                found.push(text.to_owned());
            }
        }
        found
    }
}

fn template_generation(object: &Value) -> i64 {
    let text = object.str_at(&["metadata", "annotations", TEMPLATE_GENERATION]);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}
