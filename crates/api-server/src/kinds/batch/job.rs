//! Which Jobs are valid, and what of them may change.

use apimachinery::field::ErrorList;
use apimachinery::selector::LabelSelector;
use apimachinery::{Value, validation, value};

use super::{policies, status};
use crate::gates::Feature;
use crate::kinds::at::At;
use crate::kinds::go_text;
use crate::kinds::pod_spec;

/// With more parallelism, or more failed indexes, the texts of the status would grow without bound.
const PARALLELISM_MAX: i64 = 100_000;
const FAILED_INDEXES_MAX: i64 = 100_000;
/// Beyond so many completions, a limit per index needs tighter bounds.
const COMPLETIONS_SOFT_MAX: i64 = 100_000;
const PARALLELISM_MAX_IF_HIGH: i64 = 10_000;
const FAILED_INDEXES_MAX_IF_HIGH: i64 = 10_000;
const MANAGED_BY_BYTES_MAX: usize = 63;

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// A Job's pods are its own by its uid. What the user wrote stays, and is refused if it contradicts.
pub(super) fn generate_selector(job: &mut Value) {
    let (name, uid) = (job.meta().name().to_owned(), job.meta().uid().to_owned());
    let labels = NAME_LABELS.map(|key| (key, &name)).into_iter().chain(UID_LABELS.map(|key| (key, &uid)));
    for (key, text) in labels {
        let label = job.path_mut(&["spec", "template", "metadata", "labels", key]);
        if label.is_null() {
            *label = text.as_str().into();
        }
    }
    let selected = job.path_mut(&["spec", "selector", "matchLabels", UID_LABELS[1]]);
    if selected.is_null() {
        *selected = uid.into();
    }
}

/// A whole Job (upstream's `ValidateJob`). `prefixed`: the template must have the labels with a prefix, too.
pub(super) fn create(root: &At, prefixed: bool, e: &mut ErrorList) {
    let job = root.value;
    let job_spec = root.get("spec");
    generated_selector(job, &job_spec, prefixed, e);
    with_selector(&job_spec, e);
    let completions = job_spec.get("completions").int();
    if job_spec.get("completionMode").text() == "Indexed" && completions > 0 {
        // The last pod's hostname.
        let host = format!("{}-{}", job.meta().name(), completions - 1);
        if !validation::is_dns1123_label(&host).is_empty() {
            let meta = root.get("metadata");
            let why = format!("will not able to create pod with invalid DNS label: {host}");
            meta.get("name").invalid_text(e, why);
        }
    }
}

fn generated_selector(job: &Value, job_spec: &At, prefixed: bool, e: &mut ErrorList) {
    if job_spec.get("manualSelector").is_true() || !job_spec.get("selector").is_set() {
        return;
    }
    let (name, uid) = (job.meta().name(), job.meta().uid());
    let template = job_spec.get("template");
    let meta = template.get("metadata");
    let labels = meta.get("labels");
    let kinds = if prefixed { 0..2 } else { 0..1 };
    let mut expected: Vec<(&str, &str)> = Vec::new();
    for kind in kinds {
        for (key, text) in [(UID_LABELS[kind], uid), (NAME_LABELS[kind], name)] {
            expected.push((key, text));
            let label = labels.key(key);
            if !label.is_set() {
                label.require(e, &format!("must be '{text}'"));
            } else if label.text() != text {
                label.with(labels.value).invalid(e, format!("must be '{text}'"));
            }
        }
    }
    let selector = job_spec.get("selector");
    let value_of = |key: &str| expected.iter().find(|(known, _)| *known == key).map(|(_, text)| *text);
    if LabelSelector::from_value(selector.value).is_ok_and(|selector| !selector.matches_with(value_of)) {
        selector.invalid_selector(e, "`selector` not auto-generated");
    }
}

fn with_selector(job_spec: &At, e: &mut ErrorList) {
    spec(job_spec, e);
    let selector = job_spec.get("selector");
    if !selector.is_set() {
        selector.require(e, "");
    }
    selector.label_selector(e);
    let template = job_spec.get("template");
    let meta = template.get("metadata");
    let labels = meta.get("labels");
    // No selector selects nothing.
    let matches = selector.is_set()
        && LabelSelector::from_value(selector.value)
            .map_or(true, |selector| selector.matches_with(|key| labels.value[key].as_str()));
    if !matches {
        labels.invalid(e, "`selector` does not match template `labels`");
    }
}

/// A JobSpec, as CronJobs have one too (upstream's `validateJobSpec`).
pub(super) fn spec(at: &At, e: &mut ErrorList) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    numbers.into_iter().filter_map(|member| at.set(member)).for_each(|number| number.non_negative(e));
    if at.get("maxFailedIndexes").is_set() && !at.get("backoffLimitPerIndex").is_set() {
        at.get("backoffLimitPerIndex").require(e, "when maxFailedIndexes is specified");
    }
    if let Some(manager) = at.set("managedBy") {
        e.extend(validation::is_domain_prefixed_path(&manager.path(), manager.text()));
        if manager.text().len() > MANAGED_BY_BYTES_MAX {
            manager.too_long(e, MANAGED_BY_BYTES_MAX);
        }
    }
    completion_mode(at, e);
    policies::failure(at, e);
    policies::success(at, e);
    policies::replacement(at, e);
    let template = at.get("template");
    pod_spec::template(&template, e);
    let pod = template.get("spec");
    let restart = pod.get("restartPolicy");
    match restart.text() {
        "" | "Always" => restart.require(e, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if at.get("podFailurePolicy").is_set() => {
            restart.invalid(e, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        _ => restart.one_of(e, &["OnFailure", "Never"]),
    }
}

fn completion_mode(at: &At, e: &mut ErrorList) {
    if let Some(mode) = at.set("completionMode") {
        mode.one_of(e, &["NonIndexed", "Indexed"]);
    }
    match at.get("completionMode").text() {
        "Indexed" => indexed(at, e),
        "" | "NonIndexed" => {
            for member in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(limit) = at.set(member) {
                    limit.invalid(e, "requires indexed completion mode");
                }
            }
        }
        _ => {}
    }
}

fn indexed(at: &At, e: &mut ErrorList) {
    let (completions, parallelism, failed) = (at.get("completions"), at.get("parallelism"), at.get("maxFailedIndexes"));
    if !completions.is_set() {
        completions.require(e, "when completion mode is Indexed");
    }
    if parallelism.int() > PARALLELISM_MAX {
        let why = format!("must be less than or equal to {PARALLELISM_MAX} when completion mode is Indexed");
        parallelism.invalid(e, why);
    }
    if completions.is_set() && failed.is_set() && failed.int() > completions.int() {
        failed.invalid(e, "must be less than or equal to completions");
    }
    if failed.int() > FAILED_INDEXES_MAX {
        failed.invalid(e, format!("must be less than or equal to {FAILED_INDEXES_MAX}"));
    }
    if completions.int() <= COMPLETIONS_SOFT_MAX || !at.get("backoffLimitPerIndex").is_set() {
        return;
    }
    if !failed.is_set() {
        failed.require(e, &format!("must be specified when completions is above {COMPLETIONS_SOFT_MAX}"));
    }
    for (number, most) in [(parallelism, PARALLELISM_MAX_IF_HIGH), (failed, FAILED_INDEXES_MAX_IF_HIGH)] {
        if number.int() > most {
            let when = format!("when completions are above {COMPLETIONS_SOFT_MAX} and used with backoff limit per index");
            number.invalid(e, format!("must be less than or equal to {most} {when}"));
        }
    }
}

/// An update (upstream's `ValidateJobUpdate`, after the rules for a new one).
pub(super) fn update(root: &At, old: &Value, e: &mut ErrorList) {
    let before = &old["spec"];
    let labels = &before["template"]["metadata"]["labels"];
    // Jobs of old releases have only the labels without prefix.
    let prefixed = !labels[UID_LABELS[1]].is_null() && !labels[NAME_LABELS[1]].is_null();
    create(root, prefixed, e);
    let job_spec = root.get("spec");
    // Upstream asks for the rules of a new one, and then for those of a change, which ask for most of them again.
    with_selector(&job_spec, e);
    completions(&job_spec, before, e);
    job_spec.get("selector").immutable_as(e, &before["selector"], |value| go_text::tagged(value, "meta.v1.LabelSelector"));
    template_update(&job_spec, old, e);
    job_spec.get("completionMode").immutable(e, &before["completionMode"]);
    let internal = |member: &'static str, type_name: &str, e: &mut ErrorList| {
        job_spec.get(member).immutable_as(e, &before[member], |value| go_text::internal(value, type_name));
    };
    internal("podFailurePolicy", "batch.v1.PodFailurePolicy", e);
    for member in ["backoffLimitPerIndex", "managedBy"] {
        job_spec.get(member).immutable(e, &before[member]);
    }
    internal("successPolicy", "batch.v1.SuccessPolicy", e);
}

/// What may change of the template while the Job is suspended.
fn template_update(job_spec: &At, old: &Value, e: &mut ErrorList) {
    let (before, policy) = (&old["spec"], job_spec.policy());
    let suspended = before["suspend"].as_bool() == Some(true);
    let idle = status::has(&old["status"], "Suspended", "True") && old["status"]["active"].as_i64().unwrap_or(0) == 0;
    let schedulable = match policy.has(Feature::MutableSchedulingDirectivesForSuspendedJobs) {
        true => suspended && idle,
        false => suspended && old["status"]["startTime"].is_empty(),
    };
    let template = job_spec.get("template");
    let mut allowed = before["template"].clone();
    if schedulable {
        allowed = with_scheduling_of(template.value, &allowed);
    }
    if suspended && idle && policy.has(Feature::MutablePodResourcesForSuspendedJobs) {
        let allowed = with_resources_of(&template.value["spec"], &allowed["spec"]);
        let shown = |value: &Value| go_text::internal(value, "core.v1.PodSpec");
        // In upstream's words for this place.
        job_spec.get("template.spec").with(&template.value["spec"]).immutable_as(e, &allowed, shown)
    } else {
        template.immutable_as(e, &allowed, |value: &Value| go_text::internal(value, "core.v1.PodTemplateSpec"));
    }
}

/// The old spec of pods, with the resources of its containers as they are in the new one.
fn with_resources_of(new: &Value, old: &Value) -> Value {
    let mut allowed = old.clone();
    for list in ["containers", "initContainers"] {
        let wanted = new.array_at(&[list]);
        let Some(containers) = allowed.get_mut(list).and_then(Value::as_array_mut) else { continue };
        if containers.len() != wanted.len() {
            continue;
        }
        for (container, wanted) in containers.iter_mut().zip(wanted) {
            if container["name"] != wanted["name"] {
                continue;
            }
            match wanted.get("resources") {
                Some(resources) => drop(container.insert("resources", resources.clone())),
                None => drop(container.remove("resources")),
            }
        }
    }
    allowed
}

/// The number of indexes may change, so long as it is the parallelism.
fn completions(spec: &At, before: &Value, e: &mut ErrorList) {
    let number = spec.get("completions");
    if spec.get("completionMode").text() != "Indexed" {
        number.immutable(e, &before["completions"]);
    } else if number.is_set() && *number.value != before["completions"] && number.int() != spec.get("parallelism").int() {
        number.invalid(e, "can only be modified in tandem with spec.parallelism");
    }
}

/// The old template, with what may change before the Job first starts as it is in the new one: where pods may run, labels and
/// annotations (KEP-2926).
fn with_scheduling_of(new: &Value, old: &Value) -> Value {
    let mut allowed = old.clone();
    let mut take = |path: &[&str]| match new.get_path(path) {
        Some(value) if !value.is_null() => allowed.set_path(path, value.clone()),
        _ => {
            allowed.remove_path(path);
        }
    };
    for path in [
        &["spec", "nodeSelector"][..],
        &["spec", "tolerations"],
        &["spec", "schedulingGates"],
        &["metadata", "labels"],
        &["metadata", "annotations"],
        &["spec", "affinity", "nodeAffinity"],
    ] {
        take(path);
    }
    // An affinity that held nothing else may go, or come.
    if new["spec"]["affinity"].is_null() && allowed["spec"]["affinity"].is_empty() {
        allowed.remove_path(&["spec", "affinity"]);
    }
    if !new["spec"]["affinity"].is_null() && allowed["spec"]["affinity"].is_null() {
        allowed.set_path(&["spec", "affinity"], value!({}));
    }
    if !new["metadata"].is_null() && allowed["metadata"].is_null() {
        allowed.insert("metadata", value!({}));
    }
    allowed
}
