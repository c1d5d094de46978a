//! Rules for `metadata`, at creation and at update.

use super::names::{NameFn, is_label_value, is_qualified_name, name_is_dns_label};
use super::options::validate_field_manager;
use crate::field::{self, ErrorList, Path};
use crate::{GroupVersion, Value, go_quote};

/// The most bytes that all annotations together may have, keys included.
pub const ANNOTATIONS_SIZE_MAX_BYTES: usize = 256 * 1024;

/// The message for a field that may not change.
pub const FIELD_IMMUTABLE: &str = "field is immutable";

/// The longest name of a subresource in managedFields, in bytes.
const SUBRESOURCE_MAX_BYTES: usize = 256;

/// A label's key.
pub fn validate_label_name(key: &str, path: &Path) -> ErrorList {
    is_qualified_name(key).into_iter().map(|message| field::Error::invalid(path, key, message)).collect()
}

/// A set of labels.
pub fn validate_labels<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>, path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    for (key, value) in labels {
        errors.extend(validate_label_name(key, path));
        errors.extend(is_label_value(value).into_iter().map(|message| field::Error::invalid(path, value, message)));
    }
    errors
}

/// A set of annotations.
pub fn validate_annotations<'a>(annotations: impl Iterator<Item = (&'a str, &'a str)>, path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in annotations {
        // The rule is that of label keys, but case does not matter.
        let messages = is_qualified_name(&key.to_lowercase());
        errors.extend(messages.into_iter().map(|message| field::Error::invalid(path, key, message)));
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_SIZE_MAX_BYTES {
        errors.push(field::Error::too_long(path, ANNOTATIONS_SIZE_MAX_BYTES));
    }
    errors
}

/// The owners of an object.
pub fn validate_owner_references(references: &[Value], path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for reference in references {
        let text = |key: &str| reference[key].as_str().unwrap_or_default();
        let version = text("apiVersion").parse::<GroupVersion>().map(|gv| gv.version).unwrap_or_default();
        if version.is_empty() {
            errors.push(field::Error::invalid(&path.child("apiVersion"), text("apiVersion"), "version must not be empty"));
        }
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                errors.push(field::Error::invalid(&path.child(key), text(key), "must not be empty"));
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            errors.push(field::Error::invalid(path, reference.clone(), "/v1, Kind=Event is disallowed from being an owner"));
        }
        if reference["controller"].as_bool() == Some(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    let shown: Vec<String> = references.iter().map(reference_text).collect();
                    let mut error = field::Error::invalid(path, Value::Null, format!("[{}]: {why}", shown.join(",")));
                    // The list is part of the detail: its members have an order that a tree does not keep.
                    error.bad_value = None;
                    errors.push(error);
                }
            }
        }
    }
    errors
}

/// A reference as JSON, in the order of upstream's struct.
fn reference_text(reference: &Value) -> String {
    let members = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let present = members.iter().filter_map(|member| Some(format!("\"{member}\":{}", reference.get(member)?.to_json())));
    format!("{{{}}}", present.collect::<Vec<_>>().join(","))
}

fn validate_finalizers(finalizers: &[&str], path: &Path) -> ErrorList {
    let mut errors: ErrorList = Vec::new();
    for name in finalizers {
        errors.extend(is_qualified_name(name).into_iter().map(|message| field::Error::invalid(path, *name, message)));
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        errors.push(field::Error::invalid(path, finalizers, "finalizer orphan and foregroundDeletion cannot be both set"));
    }
    errors
}

fn validate_managed_fields(entries: &[Value], path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let path = path.index(i);
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            errors.push(field::Error::invalid(&path.child("operation"), text("operation"), "must be `Apply` or `Update`"));
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            errors.push(field::Error::invalid(&path.child("fieldsType"), text("fieldsType"), "must be `FieldsV1`"));
        }
        errors.extend(validate_field_manager(text("manager"), &path.child("manager")));
        if text("subresource").len() > SUBRESOURCE_MAX_BYTES {
            errors.push(field::Error::too_long(&path.child("subresource"), SUBRESOURCE_MAX_BYTES));
        }
    }
    errors
}

/// A number that may not be negative.
pub fn validate_non_negative(value: i64, path: &Path) -> ErrorList {
    if value < 0 { vec![field::Error::invalid(path, value, "must be greater than or equal to 0")] } else { Vec::new() }
}

/// A field that may not change.
pub fn validate_immutable(new: &Value, old: &Value, path: &Path) -> ErrorList {
    if new == old { Vec::new() } else { vec![field::Error::invalid(path, new, FIELD_IMMUTABLE)] }
}

/// The metadata of an object about to be created, its name already generated. `path` is usually `metadata`.
pub fn validate_object_meta(object: &Value, namespaced: bool, name_fn: NameFn, path: &Path) -> ErrorList {
    let meta = object.meta();
    let mut errors = Vec::new();
    if !meta.generate_name().is_empty() {
        let messages = name_fn(meta.generate_name(), true);
        errors.extend(messages.into_iter().map(|m| field::Error::invalid(&path.child("generateName"), meta.generate_name(), m)));
    }
    if meta.name().is_empty() {
        errors.push(field::Error::required(&path.child("name"), "name or generateName is required"));
    } else {
        errors
            .extend(name_fn(meta.name(), false).into_iter().map(|m| field::Error::invalid(&path.child("name"), meta.name(), m)));
    }
    let namespace = meta.namespace();
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(field::Error::required(&path.child("namespace"), "")),
        (true, false) => {
            let messages = name_is_dns_label(namespace, false);
            errors.extend(messages.into_iter().map(|m| field::Error::invalid(&path.child("namespace"), namespace, m)));
        }
        (false, false) => errors.push(field::Error::forbidden(&path.child("namespace"), "not allowed on this type")),
        (false, true) => {}
    }
    errors.extend(validate_non_negative(meta.generation(), &path.child("generation")));
    errors.extend(validate_common(object, path));
    errors.extend(validate_finalizers(&meta.finalizers().collect::<Vec<_>>(), &path.child("finalizers")));
    errors
}

fn validate_common(object: &Value, path: &Path) -> ErrorList {
    let meta = object.meta();
    let mut errors = validate_labels(meta.labels(), &path.child("labels"));
    errors.extend(validate_annotations(meta.annotations(), &path.child("annotations")));
    errors.extend(validate_owner_references(meta.owner_reference_values(), &path.child("ownerReferences")));
    errors.extend(validate_managed_fields(meta.managed_fields(), &path.child("managedFields")));
    errors
}

/// The metadata of an object about to replace an older state of it. `path` is usually `metadata`.
pub fn validate_object_meta_update(new: &Value, old: &Value, path: &Path) -> ErrorList {
    let (new_meta, old_meta) = (new.meta(), old.meta());
    let mut errors = Vec::new();
    if old_meta.deletion_timestamp().is_some() {
        let mut extra: Vec<&str> = new_meta.finalizers().filter(|f| !old_meta.finalizers().any(|o| o == *f)).collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let list: Vec<String> = extra.iter().map(|f| go_quote(f)).collect();
            let list = format!("[]string{{{}}}", list.join(", "));
            let detail = format!("no new finalizers can be added if the object is being deleted, found new finalizers {list}");
            errors.push(field::Error::forbidden(&path.child("finalizers"), detail));
        }
    }
    if new_meta.resource_version().is_empty() {
        errors.push(field::Error::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    if new_meta.generation() < old_meta.generation() {
        errors.push(field::Error::invalid(&path.child("generation"), new_meta.generation(), "must not be decremented"));
    }
    for key in ["name", "namespace", "uid"] {
        let text = |object: &Value| Value::from(object["metadata"][key].as_str().unwrap_or_default());
        errors.extend(validate_immutable(&text(new), &text(old), &path.child(key)));
    }
    for key in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        errors.extend(validate_immutable(&new["metadata"][key], &old["metadata"][key], &path.child(key)));
    }
    errors.extend(validate_common(new, path));
    errors
}

/// A metav1.LabelSelector. `null` is valid.
pub fn validate_label_selector(selector: &Value, path: &Path) -> ErrorList {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let labels = labels.filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)));
    let mut errors = validate_labels(labels, &path.child("matchLabels"));
    for (i, expression) in selector.array_at(&["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = expression.array_at(&["values"]);
        let operator = expression["operator"].as_str().unwrap_or_default();
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                errors
                    .push(field::Error::required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(field::Error::forbidden(&path.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(field::Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
        }
        errors.extend(validate_label_name(expression["key"].as_str().unwrap_or_default(), &path.child("key")));
        for (j, value) in values.iter().filter_map(Value::as_str).enumerate() {
            let messages = is_label_value(value);
            errors.extend(messages.into_iter().map(|m| field::Error::invalid(&path.child("values").index(j), value, m)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::name_is_dns_subdomain;
    use crate::value;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn creation() {
        let path = Path::new("metadata");
        let check = |object: &Value, namespaced| texts(&validate_object_meta(object, namespaced, name_is_dns_subdomain, &path));
        assert!(check(&value!({"metadata": {"name": "a", "namespace": "ns", "labels": {"a": "b"}}}), true).is_empty());
        assert_eq!(check(&value!({}), false), ["metadata.name: Required value: name or generateName is required"]);
        assert_eq!(
            check(&value!({"metadata": {"name": "a", "namespace": "x"}}), false),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        let bad = value!({"metadata": {
            "name": "a", "namespace": "ns", "labels": {"k": "a b"}, "finalizers": ["orphan", "foregroundDeletion"],
            "managedFields": [{"operation": "X"}], "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}],
            "annotations": {"big": ("x".repeat(ANNOTATIONS_SIZE_MAX_BYTES))}
        }});
        let got = check(&bad, true);
        assert_eq!(got.len(), 5, "{got:?}");
        assert!(got[0].starts_with("metadata.labels: Invalid value: \"a b\": a valid label must be"), "{}", got[0]);
        assert_eq!(got[1], "metadata.annotations: Too long: may not be more than 262144 bytes");
        assert_eq!(got[2], "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty");
        assert_eq!(got[3], "metadata.managedFields[0].operation: Invalid value: \"X\": must be `Apply` or `Update`");
        assert_eq!(
            got[4],
            "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set"
        );
    }

    #[test]
    fn update() {
        let old = value!({"metadata": {"name": "a", "uid": "1", "generation": 2, "deletionTimestamp": "2020-01-01T00:00:00Z"}});
        let new = value!({"metadata": {"name": "b", "uid": "1", "generation": 1, "deletionTimestamp": "2020-01-01T00:00:00Z", "finalizers": ["x/y"]}});
        assert_eq!(
            texts(&validate_object_meta_update(&new, &old, &Path::new("metadata"))),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/y\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
            ]
        );
    }

    #[test]
    fn label_selectors() {
        let selector = value!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["x"]}, {"key": "a", "operator": "Eq"}, {"key": "", "operator": "Exists"},
        ]});
        let got = texts(&validate_label_selector(&selector, &Path::new("spec").child("selector")));
        assert_eq!(
            got[0],
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
        );
        assert_eq!(
            got[1],
            "spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        );
        assert_eq!(got[2], "spec.selector.matchExpressions[2].operator: Invalid value: \"Eq\": not a valid selector operator");
        assert_eq!(got[3], "spec.selector.matchExpressions[3].key: Invalid value: \"\": name part must be non-empty");
        assert!(validate_label_selector(&Value::Null, &Path::root()).is_empty());
    }
}
