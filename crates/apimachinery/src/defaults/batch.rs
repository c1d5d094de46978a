//! Defaults of the batch group.

use super::{Rule, absent, is_absent, zero};
use crate::Value;

pub(super) const RULES: &[(&str, Rule)] = &[
    ("batch.v1.Job", job),
    ("batch.v1.CronJob", cron_job),
    ("batch.v1.PodFailurePolicyOnPodConditionsPattern", |pattern| zero(pattern, "status", "True")),
];

fn job(job: &mut Value) {
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    if !labels.is_null() {
        zero(job.path_mut(&["metadata"]), "labels", labels);
    }
    let spec = job.path_mut(&["spec"]);
    if is_absent(spec, "completions") && is_absent(spec, "parallelism") {
        spec.insert("completions", 1);
    }
    absent(spec, "parallelism", 1);
    let backoff_limit = if is_absent(spec, "backoffLimitPerIndex") { 6 } else { i32::MAX };
    absent(spec, "backoffLimit", backoff_limit);
    absent(spec, "completionMode", "NonIndexed");
    absent(spec, "suspend", false);
    let replacement = if is_absent(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    absent(spec, "podReplacementPolicy", replacement);
    absent(spec, "manualSelector", false);
}

fn cron_job(cron_job: &mut Value) {
    let spec = cron_job.path_mut(&["spec"]);
    zero(spec, "concurrencyPolicy", "Allow");
    absent(spec, "suspend", false);
    absent(spec, "successfulJobsHistoryLimit", 3);
    absent(spec, "failedJobsHistoryLimit", 1);
}
