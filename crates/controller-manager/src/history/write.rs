//! Writing revisions.

use client::ReconcileError;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::{equal, revision_hash, revision_name};
use crate::api_errors::{ignore_not_found, is_already_exists};

/// Creates a revision under a name from its hash. While the name is taken by one that records something else, the collision count goes
/// up and changes the name; one that records the same is what was wanted.
pub(crate) async fn create(
    api: &Api<ControllerRevision>,
    parent: &str,
    revision: &ControllerRevision,
    collisions: &mut i32,
) -> Result<ControllerRevision, ReconcileError> {
    let mut wanted = revision.clone();
    loop {
        let name = revision_name(parent, &revision_hash(revision, Some(*collisions)));
        wanted.metadata.name = Some(name.clone());
        match api.create(&PostParams::default(), &wanted).await {
            Ok(created) => return Ok(created),
            Err(error) if is_already_exists(&error) => {}
            Err(error) => return Err(ReconcileError::api("create revision")(error)),
        }
        let existing = api.get(&name).await.map_err(ReconcileError::api("get the revision of that name"))?;
        if equal(&existing, &wanted) {
            return Ok(existing);
        }
        *collisions += 1;
    }
}

/// Gives a revision another number.
pub(crate) async fn renumber(
    api: &Api<ControllerRevision>,
    revision: &ControllerRevision,
    number: i64,
) -> Result<ControllerRevision, ReconcileError> {
    let patch = json!({"metadata": {"resourceVersion": revision.resource_version()}, "revision": number});
    api.patch(&revision.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(ReconcileError::api("renumber revision"))
}

/// Deletes a revision if it is still that one.
pub(crate) async fn delete(api: &Api<ControllerRevision>, revision: &ControllerRevision) -> Result<(), ReconcileError> {
    let params =
        DeleteParams { preconditions: Some(Preconditions { uid: revision.uid(), resource_version: None }), ..Default::default() };
    ignore_not_found(api.delete(&revision.name_any(), &params).await).map_err(ReconcileError::api("delete revision"))
}
