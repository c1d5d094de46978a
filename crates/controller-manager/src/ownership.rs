//! Which objects a controller owns: controller references, adoption and release.
//!
//! Invariant: at most one owner reference of an object has `controller: true`; the API server enforces it, so that two
//! controllers that adopt at once cannot both win.

use std::fmt::Debug;
use std::sync::Arc;

use client::{ReconcileError, Store};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::api_errors::{is_invalid, is_not_found};

/// The reference of the controller that manages an object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|reference| reference.controller == Some(true))
}

/// Whether an object is controlled by the object with this UID.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|reference| reference.uid == uid)
}

/// The controller of an object, if it is one of these; the object is named by its reference and must have its UID.
pub(crate) fn resolve_controller<K>(controllers: &Store<K>, meta: &ObjectMeta) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()>,
{
    let reference = controller_of(meta).filter(|reference| reference.kind == K::kind(&()))?;
    let controller = controllers.get(meta.namespace.as_deref().unwrap_or(""), &reference.name)?;
    (controller.meta().uid.as_ref() == Some(&reference.uid)).then_some(controller)
}

/// A controller reference to `owner`, which blocks the owner's foreground deletion.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What a controller does about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours.
    Keep,
    /// Nobody's, and it matches our selector: make it ours.
    Adopt,
    /// Ours, but it matches no more: let go.
    Release,
    /// Not ours.
    Ignore,
}

/// Upstream's `BaseControllerRefManager.ClaimObject`, as a decision.
pub(crate) fn claim(object: &ObjectMeta, controller: &ObjectMeta, matches: bool) -> Claim {
    let deleting = controller.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != controller.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if deleting || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Claims `objects` for `controller`, performs adoptions and releases, and returns what is owned afterwards.
///
/// Before the first adoption the controller is read from the server: its copy in the cache may be of an object
/// that is already gone or being deleted. Objects that vanish meanwhile are left out. Failures are collected; the
/// objects concerned are left out, and the error tells that the result is incomplete.
pub(crate) async fn claim_all<C, K>(
    client: &kube::Client,
    controller: &C,
    matches: impl Fn(&ObjectMeta) -> bool,
    objects: Vec<Arc<K>>,
) -> Result<Vec<Arc<K>>, ReconcileError>
where
    C: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    claim_all_with_finalizer(client, controller, matches, objects, None).await
}

/// As [`claim_all`], for a controller that keeps its objects by a finalizer: adoption adds it, release removes it.
pub(crate) async fn claim_all_with_finalizer<C, K>(
    client: &kube::Client,
    controller: &C,
    matches: impl Fn(&ObjectMeta) -> bool,
    objects: Vec<Arc<K>>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<K>>, ReconcileError>
where
    C: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let namespace = controller.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let mut may_adopt = None;
    let mut owned = Vec::with_capacity(objects.len());
    let mut errors = Vec::new();
    for object in objects {
        match claim(object.meta(), controller.meta(), matches(object.meta())) {
            Claim::Keep => owned.push(object),
            Claim::Ignore => {}
            Claim::Release => {
                if let Err(error) = release(&api, controller, &*object, finalizer).await {
                    errors.push(error);
                }
            }
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(is_alive(client, controller).await?);
                }
                if may_adopt != Some(true) {
                    continue;
                }
                match adopt(&api, controller, &*object, finalizer).await {
                    Ok(Some(adopted)) => owned.push(Arc::new(adopted)),
                    Ok(None) => {}
                    Err(error) => errors.push(error),
                }
            }
        }
    }
    ReconcileError::collect(errors).map(|()| owned)
}

async fn is_alive<C>(client: &kube::Client, controller: &C) -> Result<bool, ReconcileError>
where
    C: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let namespace = controller.namespace().unwrap_or_default();
    let api: Api<C> = Api::namespaced(client.clone(), &namespace);
    let fresh = api.get_opt(&controller.name_any()).await.map_err(ReconcileError::api("get the controller before adopting"))?;
    Ok(fresh.is_some_and(|fresh| fresh.uid() == controller.uid() && fresh.meta().deletion_timestamp.is_none()))
}

async fn adopt<C, K>(api: &Api<K>, controller: &C, object: &K, finalizer: Option<&str>) -> Result<Option<K>, ReconcileError>
where
    C: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    // The UID makes the patch fail if the name was taken over by another object.
    let mut patch = json!({"metadata": {
        "uid": object.uid(),
        "ownerReferences": [controller_reference(controller)],
    }});
    if let Some(finalizer) = finalizer {
        patch["metadata"]["finalizers"] = json!([finalizer]);
    }
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(adopted) => Ok(Some(adopted)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(ReconcileError::api("adopt an object")(error)),
    }
}

async fn release<C, K>(api: &Api<K>, controller: &C, object: &K, finalizer: Option<&str>) -> Result<(), ReconcileError>
where
    C: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut patch = json!({"metadata": {
        "uid": object.uid(),
        "ownerReferences": [{"$patch": "delete", "uid": controller.uid()}],
    }});
    if let Some(finalizer) = finalizer {
        patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        // Gone, or it has no owner reference or another UID any more (Invalid): released by somebody else.
        Err(error) if is_not_found(&error) || is_invalid(&error) => Ok(()),
        Err(error) => Err(ReconcileError::api("release an object")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn meta(uid: &str, owner: Option<&str>, deleting: bool) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            deletion_timestamp: deleting.then_some(Time(Timestamp::UNIX_EPOCH)),
            owner_references: owner
                .map(|uid| vec![OwnerReference { uid: uid.into(), controller: Some(true), ..Default::default() }]),
            ..Default::default()
        }
    }

    #[test]
    fn claims() {
        // (owner of the object, object deleting, controller deleting, labels match, expected)
        for (owner, object_deleting, controller_deleting, matches, expected) in [
            (Some("other"), false, false, true, Claim::Ignore),
            (Some("me"), false, false, true, Claim::Keep),
            (Some("me"), false, true, true, Claim::Keep),
            (Some("me"), false, false, false, Claim::Release),
            (Some("me"), false, true, false, Claim::Ignore),
            (None, false, false, true, Claim::Adopt),
            (None, false, false, false, Claim::Ignore),
            (None, true, false, true, Claim::Ignore),
            (None, false, true, true, Claim::Ignore),
        ] {
            let decision = claim(&meta("object", owner, object_deleting), &meta("me", None, controller_deleting), matches);
            assert_eq!(decision, expected, "{owner:?} {object_deleting} {controller_deleting} {matches}");
        }
    }
}
