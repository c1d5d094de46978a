//! The history of StatefulSets and DaemonSets: ControllerRevisions, each the pod template of one time.
//!
//! Owns, after upstream's pkg/controller/history: names and hashes of revisions, their order, their equality, which of them may go,
//! and ([`write`]) their creation with collisions, renumbering and deletion. Adoption and release are [`crate::ownership`]'s.
//!
//! Invariant: two revisions are equal if and only if their data is; names and hashes only make collisions rare.

pub(crate) mod write;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use apimachinery::patch::strategic_merge_patch;
use apimachinery::{GroupVersionKind, schema};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::hash::Fnv32;
use crate::ownership::controller_reference;

/// Holds the hash of a ControllerRevision.
pub(crate) const HASH: &str = "controller.kubernetes.io/hash";
/// On pods: the revision that they were made from. On a DaemonSet's revisions too.
pub(crate) const REVISION_HASH: &str = "controller-revision-hash";
/// So that name, dash and hash fit into a DNS subdomain.
const PREFIX_LEN_MAX: usize = 223;

/// Why the template of a revision cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevisionError {
    /// There is no data.
    #[error("the revision has no data")]
    NoData,
    /// The data is no patch for the object.
    #[error("the revision's data cannot be applied")]
    Patch(#[source] apimachinery::patch::StrategicError),
    /// What comes out is no such object.
    #[error("the revision's data does not fit the object")]
    Type(#[source] apimachinery::TypedError),
}

/// A revision's data: the strategic merge patch that puts the template back.
pub(crate) fn template_patch(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("Kubernetes types serialize to JSON");
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// Whether a revision recorded this template.
pub(crate) fn records(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    revision.data.as_ref().is_some_and(|data| data.0 == template_patch(template))
}

/// The object with the state that the revision recorded.
pub(crate) fn apply<K>(object: &K, revision: &ControllerRevision) -> Result<K, RevisionError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    let data = &revision.data.as_ref().ok_or(RevisionError::NoData)?.0;
    let document = apimachinery::Value::from_typed(object).map_err(RevisionError::Type)?;
    let patch = apimachinery::Value::from_typed(data).map_err(RevisionError::Type)?;
    let kind = GroupVersionKind::new(K::group(&()), K::version(&()), K::kind(&()));
    let schema = schema::lookup(&kind).map(|info| info as &dyn apimachinery::patch::PatchSchema);
    let patched = strategic_merge_patch(&document, &patch, schema).map_err(RevisionError::Patch)?;
    patched.to_typed().map_err(RevisionError::Type)
}

/// The object with the defaults that this version of Kubernetes gives to what is unset.
pub(crate) fn with_defaults<K>(object: &K) -> Result<K, RevisionError>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    let mut value = apimachinery::Value::from_typed(object).map_err(RevisionError::Type)?;
    if let Some(info) = schema::lookup(&GroupVersionKind::new(K::group(&()), K::version(&()), K::kind(&()))) {
        apimachinery::defaults::apply(&mut value, info);
    }
    value.to_typed().map_err(RevisionError::Type)
}

/// `prefix-hash`, cut so that it is a valid name.
pub(crate) fn revision_name(prefix: &str, hash: &str) -> String {
    let mut end = prefix.len().min(PREFIX_LEN_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &prefix[..end])
}

/// Hash of a revision's data and, if there is one, a collision count.
pub(crate) fn revision_hash(revision: &ControllerRevision, collisions: Option<i32>) -> String {
    let mut hash = Fnv32::fnv1();
    if let Some(data) = &revision.data {
        hash.write(go_json(&data.0).as_bytes());
    }
    if let Some(count) = collisions {
        hash.write(count.to_string().as_bytes());
    }
    hash.encoded()
}

/// JSON as Go's encoder writes it: keys in order, and with escapes for what HTML might take for its own.
fn go_json(value: &Value) -> String {
    let mut text = String::new();
    // None of these occurs outside of strings.
    for character in value.to_string().chars() {
        match character {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            other => text.push(other),
        }
    }
    text
}

/// A revision of `parent`, which controls it.
pub(crate) fn new_revision<K: Resource<DynamicType = ()>>(
    parent: &K,
    template: &PodTemplateSpec,
    number: i64,
    collisions: Option<i32>,
) -> ControllerRevision {
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let mut revision = ControllerRevision {
        metadata: ObjectMeta {
            namespace: parent.namespace(),
            labels: Some(labels),
            annotations: parent.meta().annotations.clone(),
            owner_references: Some(vec![controller_reference(parent)]),
            ..Default::default()
        },
        data: Some(RawExtension(template_patch(template))),
        revision: number,
    };
    let hash = revision_hash(&revision, collisions);
    revision.metadata.name = Some(revision_name(&parent.name_any(), &hash));
    revision.metadata.labels.get_or_insert_default().insert(HASH.to_owned(), hash);
    revision
}

/// Oldest first: by number, then by age, then by name.
pub(crate) fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| {
        let created = |revision: &ControllerRevision| revision.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (a.revision, created(a), &a.metadata.name).cmp(&(b.revision, created(b), &b.metadata.name))
    });
}

/// Whether both record the same.
pub(crate) fn equal(a: &ControllerRevision, b: &ControllerRevision) -> bool {
    a.data == b.data
}

/// Those that record the same as `wanted`, in their order.
pub(crate) fn find_equal<'a>(
    revisions: &'a [Arc<ControllerRevision>],
    wanted: &ControllerRevision,
) -> Vec<&'a Arc<ControllerRevision>> {
    revisions.iter().filter(|revision| equal(revision, wanted)).collect()
}

/// One more than the last of the sorted revisions; 1 if there are none.
pub(crate) fn next_number(sorted: &[Arc<ControllerRevision>]) -> i64 {
    sorted.last().map_or(1, |last| last.revision + 1)
}

/// The oldest of the sorted revisions beyond the limit; those that are live (by name) neither go nor count.
pub(crate) fn surplus(sorted: &[Arc<ControllerRevision>], live: &HashSet<&str>, limit: i32) -> Vec<Arc<ControllerRevision>> {
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let dead = sorted.iter().filter(|revision| !live.contains(revision.metadata.name.as_deref().unwrap_or_default()));
    let dead: Vec<_> = dead.cloned().collect();
    let surplus = dead.len().saturating_sub(limit);
    dead.into_iter().take(surplus).collect()
}

/// A label of a revision or pod; empty if unset.
pub(crate) fn label<'a>(labels: Option<&'a BTreeMap<String, String>>, key: &str) -> &'a str {
    labels.and_then(|labels| labels.get(key)).map_or("", String::as_str)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
