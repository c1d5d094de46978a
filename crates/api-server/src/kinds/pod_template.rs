//! PodTemplates: nothing but the template (upstream's `pkg/registry/core/podtemplate`).

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::field::ErrorList;

use super::at::{At, Policy};
use super::{Rules, collect, pod_spec, warnings};
use crate::registry::{OperationContext, Strategy, bump_generation};

pub(super) fn rules() -> Rules {
    Rules { strategy: Arc::new(PodTemplateStrategy), subresources: Vec::new() }
}

struct PodTemplateStrategy;

impl Strategy for PodTemplateStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        object.meta_mut().set_generation(1);
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        bump_generation(object, old);
    }

    fn validate(&self, context: &OperationContext, object: &Value) -> ErrorList {
        collect(|e| pod_spec::template(&At::root_under(object, Policy::of(context)).get("template"), e))
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, _old: &Value) -> ErrorList {
        self.validate(context, object)
    }

    fn warnings_on_create(&self, _context: &OperationContext, object: &Value) -> Vec<String> {
        warnings::pod(&At::root(object).get("template"), true)
    }

    fn warnings_on_update(&self, context: &OperationContext, object: &Value, old: &Value) -> Vec<String> {
        match object.meta().generation() == old.meta().generation() {
            true => Vec::new(),
            false => self.warnings_on_create(context, object),
        }
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[]
    }
}
