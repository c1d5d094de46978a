//! The pods that a Job creates. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodTemplateSpec};
use kube::ResourceExt;

use super::indexes::{COMPLETION_INDEX, FAILURE_COUNT, IGNORED_FAILURE_COUNT, counts_of_replacement};
use super::spec::{TRACKING_FINALIZER, is_indexed, limits_per_index, spec};
use crate::ownership::controller_reference;
use crate::pod_template::pod_from_template;

const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";
/// Longest prefix to which the server appends its five random characters (apiserver's MaxGeneratedNameLength).
const PREFIX_LEN_MAX: usize = 58;

/// A pod of the Job: of an index, and then perhaps in the place of one that failed.
pub(super) fn pod_of(job: &Job, index: Option<i32>, replaced: Option<&Pod>) -> Pod {
    let mut template: PodTemplateSpec = spec(job).template.clone();
    let meta = template.metadata.get_or_insert_default();
    let finalizers = meta.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING_FINALIZER) {
        finalizers.push(TRACKING_FINALIZER.into());
    }
    if is_indexed(job) {
        let spec = template.spec.get_or_insert_default();
        spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(add_index_env);
    }
    let mut pod = pod_from_template(Some(&template), &job.name_any(), controller_reference(job));
    let Some(index) = index else { return pod };
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(COMPLETION_INDEX.into(), index.to_string());
    if limits_per_index(job) {
        annotate_failures(job, annotations, replaced);
    }
    pod.metadata.labels.get_or_insert_default().insert(COMPLETION_INDEX.into(), index.to_string());
    pod.metadata.generate_name = Some(prefix(&job.name_any(), index));
    pod.spec.get_or_insert_default().hostname = Some(format!("{}-{index}", job.name_any()));
    pod
}

fn annotate_failures(job: &Job, annotations: &mut BTreeMap<String, String>, replaced: Option<&Pod>) {
    let (counted, ignored) = counts_of_replacement(job, replaced);
    annotations.insert(FAILURE_COUNT.into(), counted.to_string());
    if ignored > 0 {
        annotations.insert(IGNORED_FAILURE_COUNT.into(), ignored.to_string());
    }
}

fn add_index_env(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == INDEX_ENV) {
        return;
    }
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{COMPLETION_INDEX}']"), ..Default::default() };
    let source = EnvVarSource { field_ref: Some(field), ..Default::default() };
    env.push(EnvVar { name: INDEX_ENV.into(), value_from: Some(source), ..Default::default() });
}

/// `JOB-INDEX-`, with the name shortened so that the index stays whole.
fn prefix(name: &str, index: i32) -> String {
    let suffix = format!("-{index}-");
    let mut end = name.len().min(PREFIX_LEN_MAX - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{job, pod};
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_without_index() {
        let pod = pod_of(&job(json!({})), None, None);
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("job-"));
        assert_eq!(pod.finalizers(), [TRACKING_FINALIZER]);
        assert_eq!(pod.owner_references()[0].uid, "job-uid");
        let spec = pod.spec.expect("has a spec");
        assert_eq!((spec.hostname, spec.containers[0].env.clone()), (None, None));
    }

    #[test]
    fn a_pod_of_an_index() {
        let containers = json!([{"name": "a", "env": [{"name": "JOB_COMPLETION_INDEX", "value": "mine"}]}, {"name": "b"}]);
        let template =
            json!({"metadata": {"finalizers": ["x"]}, "spec": {"containers": containers, "initContainers": [{"name": "i"}]}});
        let indexed = job(json!({"completionMode": "Indexed", "template": template}));
        let pod = pod_of(&indexed, Some(3), None);
        assert_eq!(pod.annotations().get(COMPLETION_INDEX).map(String::as_str), Some("3"));
        assert_eq!(pod.annotations().get(FAILURE_COUNT), None);
        assert_eq!(pod.labels().get(COMPLETION_INDEX).map(String::as_str), Some("3"));
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("job-3-"));
        assert_eq!(pod.finalizers(), ["x", TRACKING_FINALIZER]);
        let spec = pod.spec.expect("has a spec");
        assert_eq!(spec.hostname.as_deref(), Some("job-3"));
        let path = |container: &Container| {
            let source = container.env.as_ref().expect("has one")[0].value_from.as_ref();
            source.and_then(|source| source.field_ref.as_ref()).map(|field| field.field_path.clone())
        };
        let label = Some("metadata.labels['batch.kubernetes.io/job-completion-index']".to_owned());
        assert_eq!(path(&spec.containers[0]), None, "the user's own stays");
        assert_eq!(path(&spec.containers[1]), label);
        assert_eq!(path(&spec.init_containers.expect("has one")[0]), label);
    }

    #[test]
    fn the_count_of_failures_is_handed_on() {
        let indexed = job(json!({"completionMode": "Indexed", "backoffLimitPerIndex": 2}));
        let count = |replaced: Option<&Pod>| pod_of(&indexed, Some(0), replaced).annotations().get(FAILURE_COUNT).cloned();
        assert_eq!(count(None).as_deref(), Some("0"));
        let failed = pod("p", "Failed", json!({"metadata": {"annotations": {FAILURE_COUNT: "1"}}}));
        assert_eq!(count(Some(&failed)).as_deref(), Some("2"));
        assert!(!pod_of(&indexed, Some(0), Some(&failed)).annotations().contains_key(IGNORED_FAILURE_COUNT));
    }

    #[test]
    fn long_names_keep_their_index() {
        let long = "x".repeat(63);
        for (name, index, expected) in [
            ("job", 0, "job-0-".to_owned()),
            (long.as_str(), 12, format!("{}-12-", "x".repeat(54))),
            (&long[..56], 1, format!("{}-1-", "x".repeat(55))),
            (&long[..55], 1, format!("{}-1-", "x".repeat(55))),
        ] {
            assert_eq!(prefix(name, index), expected);
        }
    }
}
