//! The PersistentVolumeClaims of a StatefulSet's pods: how they are made, and who owns them under
//! `persistentVolumeClaimRetentionPolicy` (KEP-1847). Pure.
//!
//! Invariant: references of other owners are never touched, and a claim that another object controls gets none of ours.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::identity::{claim_name, in_range, ordinal, spec};
use crate::ownership::controller_reference;

/// Finds a claim in the set's namespace by name.
pub(super) type Claims<'a> = dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + 'a;

/// What is to be done about the claims of one pod.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ClaimWork {
    /// Those that are missing.
    pub(super) create: Vec<PersistentVolumeClaim>,
    /// Names of those that are being deleted: the pod must wait.
    pub(super) deleting: Vec<String>,
    /// Those whose owners are to be changed.
    pub(super) update: Vec<PersistentVolumeClaim>,
    /// Names of those that another object controls.
    pub(super) conflicting: Vec<String>,
}

impl ClaimWork {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What claims of scaled-down pods and of deleted sets come to.
#[derive(Clone, Copy)]
struct Policy {
    delete_when_scaled: bool,
    delete_when_deleted: bool,
}

fn policy(set: &StatefulSet) -> Policy {
    let policy = spec(set).persistent_volume_claim_retention_policy.as_ref();
    let deletes = |field: Option<&String>| field.is_some_and(|value| value == "Delete");
    Policy {
        delete_when_scaled: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
        delete_when_deleted: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
    }
}

/// Whether the reference names this object, whatever its UID.
fn names<K: Resource<DynamicType = ()>>(reference: &OwnerReference, object: &K) -> bool {
    reference.api_version == K::api_version(&())
        && reference.kind == K::kind(&())
        && Some(&reference.name) == object.meta().name.as_ref()
}

fn is_uid_of<K: Resource<DynamicType = ()>>(reference: &OwnerReference, object: &K) -> bool {
    Some(&reference.uid) == object.meta().uid.as_ref()
}

fn is_owned_by<K: Resource<DynamicType = ()>>(claim: &PersistentVolumeClaim, object: &K) -> bool {
    claim.owner_references().iter().any(|reference| is_uid_of(reference, object))
}

/// Whether the claim refers to an earlier object of that name.
fn has_stale_owner<K: Resource<DynamicType = ()>>(claim: &PersistentVolumeClaim, object: &K) -> bool {
    let named = claim.owner_references().iter().find(|reference| names(reference, object));
    named.is_some_and(|reference| !is_uid_of(reference, object))
}

/// Whether something else than the set or the pod controls the claim; under a policy that only retains that is no concern.
fn has_other_controller(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> bool {
    let policy = policy(set);
    if !policy.delete_when_scaled && !policy.delete_when_deleted {
        return false;
    }
    claim.owner_references().iter().any(|reference| {
        if names(reference, set) {
            !is_uid_of(reference, set)
        } else if names(reference, pod) {
            !is_uid_of(reference, pod)
        } else {
            reference.controller == Some(true)
        }
    })
}

/// Who should own a claim: the set, the pod.
fn owners(set: &StatefulSet, pod: &Pod) -> (bool, bool) {
    let policy = policy(set);
    let condemned = !ordinal(pod).is_some_and(|ordinal| in_range(set, ordinal));
    let by_pod = policy.delete_when_scaled && condemned;
    (policy.delete_when_deleted && !by_pod, by_pod)
}

/// Whether the claim's owners are what the policy wants, or must be left alone.
fn is_up_to_date(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> bool {
    if has_stale_owner(claim, set) || has_stale_owner(claim, pod) {
        return true;
    }
    if has_other_controller(claim, set, pod) {
        return !is_owned_by(claim, set) && !is_owned_by(claim, pod);
    }
    let ours = |reference: &&OwnerReference| is_uid_of(reference, set) || is_uid_of(reference, pod);
    if claim.owner_references().iter().filter(ours).any(|reference| reference.controller != Some(true)) {
        return false;
    }
    owners(set, pod) == (is_owned_by(claim, set), is_owned_by(claim, pod))
}

/// The claim with the owners that the policy wants.
fn with_owners(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> PersistentVolumeClaim {
    let mut updated = claim.clone();
    let references = updated.metadata.owner_references.get_or_insert_default();
    references.retain(|reference| !names(reference, set) && !names(reference, pod));
    if !has_other_controller(claim, set, pod) {
        let (by_set, by_pod) = owners(set, pod);
        if by_set && !references.iter().any(|reference| is_uid_of(reference, set)) {
            references.push(controller_reference(set));
        }
        if by_pod && !references.iter().any(|reference| is_uid_of(reference, pod)) {
            references.push(controller_reference(pod));
        }
    }
    updated
}

/// The claims as the set's templates want them for a pod of this ordinal.
fn wanted(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = PersistentVolumeClaim> {
    spec(set).volume_claim_templates.iter().flatten().map(move |template| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.namespace();
        let labels = spec(set).selector.match_labels.iter().flatten();
        let labels: Vec<_> = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
        if !labels.is_empty() {
            claim.metadata.labels.get_or_insert_default().extend(labels);
        }
        claim
    })
}

/// Makes missing claims, and gives those that are there the owners that the policy wants. A claim is made with its owners at once, which
/// saves a write.
pub(super) fn ensure(set: &StatefulSet, pod: &Pod, claims: &Claims<'_>) -> ClaimWork {
    let Some(ordinal) = ordinal(pod) else { return ClaimWork::default() };
    let mut work = retain(set, pod, claims);
    for claim in wanted(set, ordinal) {
        match claims(&claim.name_any()) {
            None => {
                let owned = with_owners(&claim, set, pod);
                work.create.push(if owners(set, pod).0 { owned } else { claim });
            }
            Some(present) if present.metadata.deletion_timestamp.is_some() => work.deleting.push(present.name_any()),
            Some(_) => {}
        }
    }
    work
}

/// Only gives the claims that are there the owners that the policy wants.
pub(super) fn retain(set: &StatefulSet, pod: &Pod, claims: &Claims<'_>) -> ClaimWork {
    let mut work = ClaimWork::default();
    let Some(ordinal) = ordinal(pod) else { return work };
    for template in spec(set).volume_claim_templates.iter().flatten() {
        let Some(claim) = claims(&claim_name(set, template, ordinal)) else { continue };
        if has_other_controller(&claim, set, pod) {
            work.conflicting.push(claim.name_any());
        }
        if !is_up_to_date(&claim, set, pod) {
            work.update.push(with_owners(&claim, set, pod));
        }
    }
    work
}

/// Whether all claims that are there have the owners that the policy wants.
pub(super) fn match_policy(set: &StatefulSet, pod: &Pod, claims: &Claims<'_>) -> bool {
    let Some(ordinal) = ordinal(pod) else { return true };
    let mut present =
        spec(set).volume_claim_templates.iter().flatten().filter_map(|template| claims(&claim_name(set, template, ordinal)));
    present.all(|claim| is_up_to_date(&claim, set, pod))
}

/// Whether a claim belongs to an earlier pod of this name and will go with it: the new pod must wait for that.
pub(super) fn are_stale(set: &StatefulSet, pod: &Pod, claims: &Claims<'_>) -> bool {
    let Some(ordinal) = ordinal(pod) else { return false };
    policy(set).delete_when_scaled
        && spec(set)
            .volume_claim_templates
            .iter()
            .flatten()
            .filter_map(|template| claims(&claim_name(set, template, ordinal)))
            .any(|claim| has_stale_owner(&claim, pod))
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
