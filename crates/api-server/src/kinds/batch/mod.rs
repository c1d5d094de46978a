//! Jobs and CronJobs (upstream's `pkg/registry/batch` and `pkg/apis/batch/validation`).

mod cron_job;
#[cfg(test)]
mod cron_job_tests;
mod indexes;
mod job;
mod policies;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use apimachinery::field::ErrorList;
use apimachinery::{Value, validation};

use super::at::{At, Policy};
use super::{Rules, collect, warnings};
use crate::registry::{FieldAttrs, OperationContext, StatusStrategy, Strategy, bump_generation, keep_status, reset_status};

pub(super) fn jobs() -> Rules {
    Rules { strategy: Arc::new(JobStrategy), subresources: vec![("status", Arc::new(JobStatusStrategy))] }
}

pub(super) fn cron_jobs() -> Rules {
    Rules { strategy: Arc::new(CronJobStrategy), subresources: vec![("status", Arc::new(StatusStrategy))] }
}

/// Upstream's `WarningsForJobSpec`.
fn spec_warnings(spec: &At) -> Vec<String> {
    size_warning(spec).into_iter().chain(warnings::pod(&spec.get("template"), true)).collect()
}

fn job_warnings(object: &Value) -> Vec<String> {
    spec_warnings(&At::root(object).get("spec"))
}

fn cron_job_warnings(object: &Value) -> Vec<String> {
    spec_warnings(&At::root(object).get("spec").get("jobTemplate").get("spec"))
}

/// Pods take their names and hostnames from this one.
fn name_warning(object: &Value) -> Option<String> {
    let errors = validation::is_dns1123_label(object.meta().name());
    let used = "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
    (!errors.is_empty()).then(|| format!("metadata.name: {used}: [{}]", errors.join(" ")))
}

/// A Job so large that its status might not hold all indexes.
fn size_warning(spec: &At) -> Option<String> {
    let number = |member: &'static str| spec.get(member).int();
    let large =
        spec.get("completionMode").text() == "Indexed" && number("completions") > 100_000 && number("parallelism") > 10_000;
    let why = "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be \
               able to track completedIndexes when a big number of indexes fail";
    large.then(|| format!("{}: {why}", spec.path()))
}

fn changed_spec(object: &Value, old: &Value) -> bool {
    object.meta().generation() != old.meta().generation()
}

struct JobStrategy;

impl Strategy for JobStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, object: &mut Value) {
        if object.bool_at(&["spec", "manualSelector"]) != Some(true) {
            job::generate_selector(object);
        }
        reset_status(object);
        object.meta_mut().set_generation(1);
    }

    /// A Job without labels has those of its template, which are made here.
    fn has_late_defaults(&self) -> bool {
        true
    }

    fn validate(&self, context: &OperationContext, object: &Value) -> ErrorList {
        collect(|e| job::create(&At::root_under(object, Policy::of(context)), true, e))
    }

    fn warnings_on_create(&self, _context: &OperationContext, object: &Value) -> Vec<String> {
        name_warning(object).into_iter().chain(job_warnings(object)).collect()
    }

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        keep_status(object, old);
        bump_generation(object, old);
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| job::update(&At::root_under(object, Policy::of(context)), old, e))
    }

    fn warnings_on_update(&self, _context: &OperationContext, object: &Value, old: &Value) -> Vec<String> {
        if changed_spec(object, old) { job_warnings(object) } else { Vec::new() }
    }

    /// As before garbage collection, which batch/v1 has to keep.
    fn orphans_by_default(&self) -> bool {
        true
    }

    fn selectable_fields(&self, object: &Value) -> FieldAttrs {
        let succeeded = object.i64_at(&["status", "succeeded"]).unwrap_or(0);
        vec![("status.successful", succeeded.to_string())]
    }
}

struct JobStatusStrategy;

impl Strategy for JobStatusStrategy {
    fn prepare_for_update(&self, context: &OperationContext, object: &mut Value, old: &Value) {
        StatusStrategy.prepare_for_update(context, object, old);
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| status::update(object, old, context.gates, e))
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        StatusStrategy.reset_fields()
    }

    fn selectable_fields(&self, object: &Value) -> FieldAttrs {
        JobStrategy.selectable_fields(object)
    }
}

struct CronJobStrategy;

impl Strategy for CronJobStrategy {
    fn validate(&self, context: &OperationContext, object: &Value) -> ErrorList {
        collect(|e| cron_job::create(&At::root_under(object, Policy::of(context)), e))
    }

    fn warnings_on_create(&self, _context: &OperationContext, object: &Value) -> Vec<String> {
        name_warning(object).into_iter().chain(cron_job_warnings(object)).collect()
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        collect(|e| cron_job::update(&At::root_under(object, Policy::of(context)), old, e))
    }

    fn warnings_on_update(&self, _context: &OperationContext, object: &Value, old: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        if changed_spec(object, old) {
            warnings.extend(cron_job_warnings(object));
        }
        if object.str_at(&["spec", "schedule"]).is_some_and(|schedule| schedule.contains("TZ")) {
            let page = "https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/";
            warnings.push(format!(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see {page} for more details"
            ));
        }
        warnings
    }
}
