//! Pods from templates, and the identity of templates.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use crate::hash::Fnv32;

/// Longest name of a pod (a DNS subdomain).
pub(crate) const NAME_LEN_MAX: usize = 253;

/// A pod to be created from a template; the server completes `generate_name`.
pub(crate) fn pod_from_template(template: Option<&PodTemplateSpec>, owner_name: &str, owner: OwnerReference) -> Pod {
    let meta = template.and_then(|template| template.metadata.as_ref());
    let separator = if owner_name.len() < NAME_LEN_MAX { "-" } else { "" };
    Pod {
        metadata: ObjectMeta {
            labels: meta.and_then(|meta| meta.labels.clone()),
            annotations: meta.and_then(|meta| meta.annotations.clone()),
            finalizers: meta.and_then(|meta| meta.finalizers.clone()),
            generate_name: Some(format!("{owner_name}{separator}")),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: template.and_then(|template| template.spec.clone()),
        status: None,
    }
}

/// Hash of a template and a collision count, written in letters and digits that form no words.
///
/// As upstream's it only has to be stable and to differ between templates: which ReplicaSet belongs to a
/// template is always decided by comparing templates, never hashes.
pub(crate) fn template_hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    let mut hash = Fnv32::fnv1a();
    hash.write(canonical(template).to_string().as_bytes());
    if let Some(count) = collision_count {
        hash.write(&count.to_le_bytes());
        hash.write(&[0; 4]);
    }
    hash.encoded()
}

/// Whether two templates are equal but for the label `ignored`; unset and empty lists and maps of metadata are equal.
pub(crate) fn same_template(a: Option<&PodTemplateSpec>, b: Option<&PodTemplateSpec>, ignored: &str) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let (a, b) = (without_label(a, ignored), without_label(b, ignored));
            a == b || canonical(&a) == canonical(&b)
        }
        _ => false,
    }
}

fn without_label(template: &PodTemplateSpec, ignored: &str) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(ignored);
    }
    template
}

/// The template without nulls and empty arrays, and without empty metadata.
fn canonical(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).expect("Kubernetes types serialize to JSON");
    drop_unset(&mut value);
    if let Some(object) = value.as_object_mut() {
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.retain(|_, field| !field.as_object().is_some_and(serde_json::Map::is_empty));
        }
        if object.get("metadata").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
            object.remove("metadata");
        }
    }
    value
}

fn drop_unset(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(drop_unset);
            fields.retain(|_, field| !field.is_null() && !field.as_array().is_some_and(Vec::is_empty));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_unset),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(value: Value) -> PodTemplateSpec {
        serde_json::from_value(value).expect("is a template")
    }

    #[test]
    fn templates_are_compared_by_meaning() {
        let base = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        for (other, expected) in [
            (base.clone(), true),
            (
                json!({"metadata": {"labels": {"a": "b", "pod-template-hash": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
                true,
            ),
            (
                json!({"metadata": {"labels": {"a": "b"}, "annotations": {}}, "spec": {"containers": [{"name": "c", "image": "i", "env": []}]}}),
                true,
            ),
            (json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "j"}]}}), false),
            (json!({"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}), false),
        ] {
            let (a, b) = (template(base.clone()), template(other.clone()));
            assert_eq!(same_template(Some(&a), Some(&b), "pod-template-hash"), expected, "{other}");
        }
    }

    #[test]
    fn hashes_are_stable_safe_and_moved_by_collisions() {
        let t = template(json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}));
        let hash = template_hash(&t, None);
        assert_eq!(hash, template_hash(&t, None));
        assert_ne!(hash, template_hash(&t, Some(1)));
        assert_ne!(template_hash(&t, Some(1)), template_hash(&t, Some(2)));
        assert!(hash.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte)), "{hash}");
    }
}
