//! Which changes of a Job's status are valid. Controllers other than Kubernetes' own may write it (KEP-4368), so that what clients rely
//! on is checked here. Most rules look only at what changed: a status that was wrong before does not stop other changes, and after a
//! change of the spec the status may be behind.

use apimachinery::Value;
use apimachinery::field::{Error, ErrorList};

use super::indexes;
use super::policies::invalid_whole;
use crate::gates::{Feature, FeatureGates};
use crate::kinds::at::At;

/// The conditions of a Job, and the numbers in its status.
struct State<'v> {
    status: &'v Value,
    complete: bool,
    failed: bool,
    failure_target: bool,
    success_criteria_met: bool,
}

impl<'v> State<'v> {
    fn of(job: &'v Value) -> Self {
        let status = &job["status"];
        let is_true = |kind: &str| has(status, kind, "True");
        Self {
            status,
            complete: is_true("Complete"),
            failed: is_true("Failed"),
            failure_target: is_true("FailureTarget"),
            success_criteria_met: is_true("SuccessCriteriaMet"),
        }
    }

    fn finished(&self) -> bool {
        self.complete || self.failed
    }

    fn number(&self, member: &str) -> i64 {
        self.status[member].as_i64().unwrap_or(0)
    }

    fn text(&self, member: &str) -> &'v str {
        self.status[member].as_str().unwrap_or_default()
    }
}

/// Whether a status has a condition.
pub(super) fn has(status: &Value, kind: &str, value: &str) -> bool {
    let conditions = status["conditions"].as_array().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == *kind && condition["status"] == *value)
}

/// The two states, and what changed between them.
struct Change<'v> {
    job: &'v Value,
    new: State<'v>,
    old: State<'v>,
}

impl Change<'_> {
    /// Unset, empty and zero are one.
    fn changed(&self, member: &str) -> bool {
        let (new, old) = (&self.new.status[member], &self.old.status[member]);
        let zero = |value: &Value| value.is_empty() || value.as_i64() == Some(0);
        new != old && !(zero(new) && zero(old))
    }

    /// As [`Change::changed`], for members where unset is not zero.
    fn changed_pointer(&self, member: &str) -> bool {
        self.new.status[member] != self.old.status[member]
    }

    fn complete_changed(&self) -> bool {
        self.new.complete != self.old.complete
    }

    fn failed_changed(&self) -> bool {
        self.new.failed != self.old.failed
    }

    fn finished_changed(&self) -> bool {
        self.new.finished() != self.old.finished()
    }
}

pub(super) fn update(job: &Value, old: &Value, gates: FeatureGates, e: &mut ErrorList) {
    let change = Change { job, new: State::of(job), old: State::of(old) };
    let root = At::root(job);
    let status = root.get("status");
    counts(&status, e);
    if !gates.has(Feature::JobManagedBy) {
        // Kubernetes' own controller is trusted.
        let extended = gates.has(Feature::JobPodReplacementPolicy) || change.old.success_criteria_met;
        success_policy_alone(&status, &change, extended, e);
        success(&status, &change, e);
        return criteria_met(&status, &change, e);
    }
    conditions(&status, &change, e);
    times(&status, &change, e);
    finished(&status, &change, e);
    completion_indexes(&status, &change, e);
    let ready = status.get("ready");
    let checked = change.changed_pointer("ready") || change.changed("active");
    if checked && ready.is_set() && ready.int() > change.new.number("active") {
        status.get("ready").invalid(e, "cannot set more ready pods than active");
    }
    success(&status, &change, e);
    transitions(&status, &change, e);
}

fn counts(status: &At, e: &mut ErrorList) {
    for member in ["active", "succeeded", "failed", "ready", "terminating"] {
        status.get(member).non_negative(e);
    }
    let uncounted = status.get("uncountedTerminatedPods");
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        for uid in uncounted.get(list).items() {
            if uid.text().is_empty() {
                uid.invalid(e, "must not be empty");
            } else if seen.contains(&uid.text()) {
                uid.duplicate(e);
            } else {
                seen.push(uid.value.as_str().unwrap_or_default());
            }
        }
    }
}

fn conditions(status: &At, change: &Change, e: &mut ErrorList) {
    let list = status.get("conditions");
    let new = &change.new;
    let met_changed = new.success_criteria_met != change.old.success_criteria_met;
    if (change.complete_changed() || change.failed_changed()) && new.complete && new.failed {
        invalid_whole(&list, e, "cannot set Complete=True and Failed=true conditions");
    }
    let target_changed = new.failure_target != change.old.failure_target;
    if (change.complete_changed() || target_changed) && new.complete && new.failure_target {
        invalid_whole(&list, e, "cannot set Complete=True and FailureTarget=true conditions");
    }
    let failure_news = change.failed_changed() || change.changed_pointer("failedIndexes");
    if failure_news && new.failed && !new.failure_target {
        invalid_whole(&list, e, "cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if (change.complete_changed() || met_changed) && new.complete && !new.success_criteria_met {
        invalid_whole(&list, e, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    }
}

fn times(status: &At, change: &Change, e: &mut ErrorList) {
    let (started, completed) = (status.get("startTime"), status.get("completionTime"));
    let (start_changed, completion_changed) = (change.changed_pointer("startTime"), change.changed_pointer("completionTime"));
    if change.complete_changed() || completion_changed {
        if completed.is_set() && !change.new.complete {
            completed.invalid(e, "cannot set completionTime when there is no Complete=True condition");
        }
        if !completed.is_set() && change.new.complete {
            completed.require(e, "completionTime is required for Complete jobs");
        }
    }
    // Times have one form, in UTC, so that their texts are in their order.
    let backwards = started.is_set() && completed.is_set() && completed.text() < started.text();
    if (start_changed || completion_changed) && backwards {
        completed.invalid(e, "must be equal to or after `startTime`");
    }
}

fn finished(status: &At, change: &Change, e: &mut ErrorList) {
    let new = &change.new;
    if !new.finished() {
        return;
    }
    let active = status.get("active");
    if (change.finished_changed() || change.changed("active")) && active.int() > 0 {
        active.invalid(e, "active>0 is invalid for finished job");
    }
    let spec = &change.job["spec"];
    let nothing_to_do = spec["suspend"].as_bool() == Some(true) && spec["completions"].as_i64() == Some(0);
    let started = status.get("startTime");
    let news = change.finished_changed() || change.changed_pointer("startTime");
    if news && !nothing_to_do && !started.is_set() {
        started.require(e, "startTime is required for finished job");
    }
    let uncounted = status.get("uncountedTerminatedPods");
    let left = uncounted.get("succeeded").len() + uncounted.get("failed").len();
    if (change.finished_changed() || change.changed("uncountedTerminatedPods")) && left > 0 {
        uncounted.invalid(e, "must be empty for finished job");
    }
    let terminating = status.get("terminating");
    if (change.finished_changed() || change.changed_pointer("terminating")) && terminating.int() > 0 {
        terminating.invalid(e, "terminating>0 is invalid for finished job");
    }
}

fn completion_indexes(status: &At, change: &Change, e: &mut ErrorList) {
    let spec = &change.job["spec"];
    let completions = spec["completions"].as_i64();
    let per_index = !spec["backoffLimitPerIndex"].is_null();
    let (completed, failed) = (status.get("completedIndexes"), status.get("failedIndexes"));
    let (completed_changed, failed_changed) = (change.changed("completedIndexes"), change.changed_pointer("failedIndexes"));
    if completed_changed
        && let Some(completions) = completions
        && let Err(why) = indexes::count(completed.text(), completions)
    {
        completed.invalid_text(e, format!("error parsing completedIndexes: {why}"));
    }
    if failed_changed
        && per_index
        && let Some(completions) = completions
        && let Err(why) = indexes::count(failed.text(), completions)
    {
        failed.invalid_text(e, format!("error parsing failedIndexes: {why}"));
    }
    let is_indexed = spec["completionMode"] == *"Indexed";
    if completed_changed && !completed.text().is_empty() && !is_indexed {
        completed.invalid(e, "cannot set non-empty completedIndexes when non-indexed completion mode");
    }
    if failed_changed && failed.is_set() && !per_index {
        failed.invalid(e, "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
    }
    if completed_changed || failed_changed {
        let overlap = completions.and_then(|end| indexes::overlap(completed.text(), failed.text(), end));
        if let Some(index) = overlap {
            failed.invalid(e, format!("failedIndexes and completedIndexes overlap at index: {index}"));
        }
    }
}

/// Whether criteria of success belong to Jobs with a policy of success alone.
fn success_policy_alone(status: &At, change: &Change, extended: bool, e: &mut ErrorList) {
    let (list, spec) = (status.get("conditions"), &change.job["spec"]);
    if extended || !change.new.success_criteria_met {
        return;
    }
    if spec["completionMode"] != *"Indexed" {
        invalid_whole(&list, e, "cannot set SuccessCriteriaMet to NonIndexed Job");
    }
    if spec["successPolicy"].is_null() {
        invalid_whole(&list, e, "cannot set SuccessCriteriaMet=True for Job without SuccessPolicy");
    }
}

fn success(status: &At, change: &Change, e: &mut ErrorList) {
    let list = status.get("conditions");
    let new = &change.new;
    if new.success_criteria_met && new.failed {
        invalid_whole(&list, e, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if new.success_criteria_met && new.failure_target {
        invalid_whole(&list, e, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if !change.job["spec"]["successPolicy"].is_null() && !new.success_criteria_met && new.complete {
        let why = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        invalid_whole(&list, e, why);
    }
}

/// What may not be taken back (upstream's `ValidateJobStatusUpdate`).
fn transitions(status: &At, change: &Change, e: &mut ErrorList) {
    let list = status.get("conditions");
    let (new, old, spec) = (&change.new, &change.old, &change.job["spec"]);
    let pairs = [
        ("Failed", old.failed, new.failed),
        ("Complete", old.complete, new.complete),
        ("FailureTarget", old.failure_target, new.failure_target),
    ];
    for (kind, _, _) in pairs.into_iter().filter(|(_, before, now)| *before && !*now) {
        invalid_whole(&list, e, format!("cannot disable the terminal {kind}=True condition"));
    }
    if new.number("failed") < old.number("failed") {
        status.get("failed").invalid_int(e, "cannot decrease the failed counter");
    }
    // An Indexed Job that is as wide as it is long may shrink.
    let elastic = spec["completionMode"] == *"Indexed" && spec["completions"] == spec["parallelism"];
    if !elastic && new.number("succeeded") < old.number("succeeded") {
        status.get("succeeded").invalid_int(e, "cannot decrease the succeeded counter");
    }
    let (completed, before) = (new.text("completionTime"), old.text("completionTime"));
    if !completed.is_empty() && !before.is_empty() && completed != before {
        e.push(Error::invalid(&status.get("completionTime").path(), completed, "field is immutable"));
    }
    let resuming = has(old.status, "Suspended", "True") && has(new.status, "Suspended", "False");
    let suspended = spec["suspend"].as_bool() == Some(true);
    let had_start = !old.text("startTime").is_empty();
    if !resuming && !suspended && had_start && change.changed_pointer("startTime") {
        status.get("startTime").require(e, "startTime cannot be removed for unsuspended job");
    }
    criteria_met(status, change, e);
}

fn criteria_met(status: &At, change: &Change, e: &mut ErrorList) {
    let list = status.get("conditions");
    let (new, old) = (&change.new, &change.old);
    if old.success_criteria_met && !new.success_criteria_met {
        invalid_whole(&list, e, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if old.complete && !old.success_criteria_met && new.success_criteria_met {
        invalid_whole(&list, e, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    }
}
