//! What becomes of an object whose owners changed: asks the server, decides, acts.

use std::collections::HashMap;
use std::sync::Arc;

use client::{EventKind, EventRecorder, MetadataObject, ReconcileError};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ApiResource, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde_json::json;

use super::graph::{Dependent, FOREGROUND, Graph, Identity, Kind, ORPHAN, Snapshot, Work};
use crate::api_errors::{ignore_not_found, is_conflict, is_not_found};
use crate::discovery::Resource;

/// What is to be done with an object, given what its owner references point to.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It has an owner, and no reference that leads nowhere.
    Keep,
    /// It has an owner; references to these UIDs lead nowhere or to owners that wait for it.
    Unreference(Vec<String>),
    /// It has dependents of its own, and an owner waits for it: delete it in the foreground. If `unblock`, a
    /// dependent waits for dependents itself, maybe in a circle: stop blocking its owners first.
    DeleteForeground { unblock: bool },
    /// No owner is left.
    Delete(PropagationPolicy),
}

/// Owner references, by what they lead to.
#[derive(Debug, Default)]
pub(super) struct Owners {
    pub(super) solid: Vec<OwnerReference>,
    pub(super) dangling: Vec<OwnerReference>,
    pub(super) waiting: Vec<OwnerReference>,
}

pub(super) fn verdict(owners: &Owners, dependents: &[Dependent], meta: &ObjectMeta) -> Verdict {
    if !owners.solid.is_empty() {
        let leave = owners.dangling.iter().chain(&owners.waiting);
        let leave: Vec<_> = leave.map(|reference| reference.uid.clone()).collect();
        return if leave.is_empty() { Verdict::Keep } else { Verdict::Unreference(leave) };
    }
    if !owners.waiting.is_empty() && !dependents.is_empty() {
        return Verdict::DeleteForeground { unblock: dependents.iter().any(|dependent| dependent.waits_for_dependents) };
    }
    // Finalizers that a user set before tell the policy.
    let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|present| present == finalizer);
    Verdict::Delete(if has(ORPHAN) {
        PropagationPolicy::Orphan
    } else if has(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    })
}

/// What became of a piece of work.
#[derive(Debug, PartialEq)]
pub(super) enum Done {
    Finished,
    /// Look again later.
    Again,
}

pub(super) struct Collector {
    client: kube::Client,
    events: EventRecorder,
    graph: Arc<Mutex<Graph>>,
    enqueue: Arc<dyn Fn(Vec<Work>) + Send + Sync>,
    resources: RwLock<HashMap<Kind, (ApiResource, bool)>>,
}

impl Collector {
    pub(super) fn new(
        client: kube::Client,
        events: EventRecorder,
        graph: Arc<Mutex<Graph>>,
        enqueue: Arc<dyn Fn(Vec<Work>) + Send + Sync>,
    ) -> Self {
        Self { client, events, graph, enqueue, resources: RwLock::new(HashMap::new()) }
    }

    pub(super) fn set_resources(&self, resources: &[Resource]) {
        let map = resources.iter().map(|resource| {
            let kind = Kind { api_version: resource.api.api_version.clone(), kind: resource.api.kind.clone() };
            (kind, (resource.api.clone(), resource.namespaced))
        });
        *self.resources.write() = map.collect();
    }

    fn resource(&self, api_version: &str, kind: &str) -> Result<(ApiResource, bool), ReconcileError> {
        let kind = Kind { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let found = self.resources.read().get(&kind).cloned();
        found.ok_or_else(|| ReconcileError::Invalid(format!("no resource is known for {api_version}, kind {}", kind.kind)))
    }

    fn api(&self, identity: &Identity) -> Result<Api<MetadataObject>, ReconcileError> {
        let (resource, namespaced) = self.resource(&identity.kind.api_version, &identity.kind.kind)?;
        Ok(if namespaced && !identity.namespace.is_empty() {
            Api::namespaced_with(self.client.clone(), &identity.namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        })
    }

    pub(super) async fn attempt_to_delete(&self, uid: &str) -> Result<Done, ReconcileError> {
        let Some(node) = self.snapshot(uid) else { return Ok(Done::Finished) };
        if node.being_deleted && !node.waits_for_dependents {
            return Ok(Done::Finished);
        }
        let api = self.api(&node.identity)?;
        let latest = api.get_opt(&node.identity.name).await.map_err(ReconcileError::api("get object"))?;
        let Some(latest) = latest.filter(|latest| latest.uid().as_deref() == Some(uid)) else {
            let work = self.graph.lock().found_absent(&node.identity);
            (self.enqueue)(work);
            return Ok(Done::Finished);
        };
        if node.waits_for_dependents {
            self.finish_foreground(&api, &node, &latest).await?;
        } else if !latest.owner_references().is_empty() {
            let Some(owners) = self.classify(&node, latest.owner_references()).await? else {
                return Ok(Done::Finished);
            };
            let verdict = verdict(&owners, &node.dependents, &latest.metadata);
            self.perform(&api, &node, &latest, verdict).await?;
        }
        // A node that is only known from references must in the end be seen or be found absent.
        Ok(if node.is_virtual { Done::Again } else { Done::Finished })
    }

    fn snapshot(&self, uid: &str) -> Option<Snapshot> {
        self.graph.lock().snapshot(uid)
    }

    /// The object waits for its dependents: lets it go if none blocks any more, else sees to those that do.
    async fn finish_foreground(
        &self,
        api: &Api<MetadataObject>,
        node: &Snapshot,
        latest: &MetadataObject,
    ) -> Result<(), ReconcileError> {
        let blocking: Vec<&Dependent> = node.dependents.iter().filter(|dependent| dependent.blocks).collect();
        if blocking.is_empty() {
            return remove_finalizer(api, latest, FOREGROUND).await;
        }
        let unfinished = blocking.iter().filter(|dependent| !dependent.waits_for_dependents);
        let work = unfinished.map(|dependent| Work::Delete(Arc::clone(&dependent.identity.uid)));
        (self.enqueue)(work.collect());
        Ok(())
    }

    /// `None` if a cluster-scoped object names a namespaced owner: such a reference is invalid, nothing is done.
    async fn classify(&self, node: &Snapshot, references: &[OwnerReference]) -> Result<Option<Owners>, ReconcileError> {
        let mut owners = Owners::default();
        for reference in references {
            let namespace = &node.identity.namespace;
            if self.graph.lock().is_absent(reference, namespace) {
                owners.dangling.push(reference.clone());
                continue;
            }
            let (resource, namespaced) = self.resource(&reference.api_version, &reference.kind)?;
            if namespaced && namespace.is_empty() {
                return Ok(None);
            }
            let api: Api<MetadataObject> = if namespaced {
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            } else {
                Api::all_with(self.client.clone(), &resource)
            };
            let owner = api.get_opt(&reference.name).await.map_err(ReconcileError::api("get owner"))?;
            match owner.filter(|owner| owner.metadata.uid.as_ref() == Some(&reference.uid)) {
                None => {
                    let namespace = if namespaced { namespace } else { "" };
                    self.graph.lock().note_absent(reference, namespace);
                    owners.dangling.push(reference.clone());
                }
                Some(owner) if waits_for_dependents(&owner.metadata) => owners.waiting.push(reference.clone()),
                Some(_) => owners.solid.push(reference.clone()),
            }
        }
        Ok(Some(owners))
    }

    async fn perform(
        &self,
        api: &Api<MetadataObject>,
        node: &Snapshot,
        latest: &MetadataObject,
        verdict: Verdict,
    ) -> Result<(), ReconcileError> {
        match verdict {
            Verdict::Keep => Ok(()),
            Verdict::Unreference(uids) => remove_owners(api, latest, |reference| uids.contains(&reference.uid)).await,
            Verdict::DeleteForeground { unblock } => {
                if unblock {
                    unblock_owners(api, latest).await?;
                }
                // The patch above changed the version: the UID alone is the precondition then.
                let version = latest.resource_version().filter(|_| !unblock);
                delete(api, node, version, PropagationPolicy::Foreground).await
            }
            Verdict::Delete(policy) => delete(api, node, latest.resource_version(), policy).await,
        }
    }

    /// The object is deleted with policy Orphan: frees its dependents, then lets it go.
    pub(super) async fn attempt_to_orphan(&self, uid: &str) -> Result<Done, ReconcileError> {
        let Some(node) = self.snapshot(uid) else { return Ok(Done::Finished) };
        let mut errors = Vec::new();
        for dependent in &node.dependents {
            if let Err(error) = self.free(&dependent.identity, uid).await {
                errors.push(error);
            }
        }
        ReconcileError::collect(errors)?;
        let api = self.api(&node.identity)?;
        let owner = api.get_opt(&node.identity.name).await.map_err(ReconcileError::api("get object"))?;
        if let Some(owner) = owner.filter(|owner| owner.uid().as_deref() == Some(uid)) {
            remove_finalizer(&api, &owner, ORPHAN).await?;
        }
        Ok(Done::Finished)
    }

    async fn free(&self, dependent: &Identity, owner: &str) -> Result<(), ReconcileError> {
        let api = self.api(dependent)?;
        let found = api.get_opt(&dependent.name).await.map_err(ReconcileError::api("get dependent"))?;
        let Some(found) = found.filter(|found| found.uid().as_deref() == Some(&dependent.uid)) else {
            return Ok(());
        };
        remove_owners(&api, &found, |reference| reference.uid == owner).await
    }

    pub(super) fn report_invalid(&self, dependent: &str, owner: &str) {
        let (Some(dependent), Some(owner)) = (self.snapshot(dependent), self.snapshot(owner)) else {
            return;
        };
        let involved = ObjectReference {
            api_version: Some(dependent.identity.kind.api_version.clone()),
            kind: Some(dependent.identity.kind.kind.clone()),
            namespace: Some(dependent.identity.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
            name: Some(dependent.identity.name.to_string()),
            uid: Some(dependent.identity.uid.to_string()),
            ..Default::default()
        };
        let Kind { api_version, kind } = &*owner.identity.kind;
        let (name, uid) = (&owner.identity.name, &owner.identity.uid);
        let namespace = &dependent.identity.namespace;
        let message = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace {namespace:?}"
        );
        self.events.record_reference(involved, EventKind::Warning, "OwnerRefInvalidNamespace", message);
    }
}

fn waits_for_dependents(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND)
}

async fn delete(
    api: &Api<MetadataObject>,
    node: &Snapshot,
    resource_version: Option<String>,
    policy: PropagationPolicy,
) -> Result<(), ReconcileError> {
    let params = DeleteParams {
        propagation_policy: Some(policy),
        preconditions: Some(Preconditions { uid: Some(node.identity.uid.to_string()), resource_version }),
        ..Default::default()
    };
    let result = api.delete(&node.identity.name, &params).await;
    ignore_not_found(result).map_err(ReconcileError::api("delete dependent"))
}

/// Merge patches replace whole lists, hence the version as precondition.
async fn patch(api: &Api<MetadataObject>, object: &MetadataObject, fields: serde_json::Value) -> Result<(), ReconcileError> {
    let mut metadata = json!({"uid": object.uid(), "resourceVersion": object.resource_version()});
    if let (Some(metadata), Some(fields)) = (metadata.as_object_mut(), fields.as_object()) {
        metadata.extend(fields.clone());
    }
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let result = api.patch(&object.name_any(), &PatchParams::default(), &patch).await;
    ignore_not_found(result).map_err(ReconcileError::api("patch object"))
}

async fn remove_owners(
    api: &Api<MetadataObject>,
    object: &MetadataObject,
    remove: impl Fn(&OwnerReference) -> bool,
) -> Result<(), ReconcileError> {
    let references = object.owner_references();
    let left: Vec<_> = references.iter().filter(|reference| !remove(reference)).collect();
    if left.len() == references.len() {
        return Ok(());
    }
    let left = if left.is_empty() { serde_json::Value::Null } else { json!(left) };
    patch(api, object, json!({"ownerReferences": left})).await
}

async fn unblock_owners(api: &Api<MetadataObject>, object: &MetadataObject) -> Result<(), ReconcileError> {
    let mut references = object.owner_references().to_vec();
    for reference in &mut references {
        if reference.block_owner_deletion == Some(true) {
            reference.block_owner_deletion = Some(false);
        }
    }
    patch(api, object, json!({"ownerReferences": references})).await
}

/// Tries again on conflicts: finalizers of others come and go.
async fn remove_finalizer(api: &Api<MetadataObject>, object: &MetadataObject, finalizer: &str) -> Result<(), ReconcileError> {
    const ATTEMPTS: usize = 5;
    let mut object = object.clone();
    for attempt in 1.. {
        let finalizers = object.finalizers();
        if !finalizers.iter().any(|present| present == finalizer) {
            return Ok(());
        }
        let left: Vec<_> = finalizers.iter().filter(|present| *present != finalizer).collect();
        match patch(api, &object, json!({"finalizers": left})).await {
            Err(ReconcileError::Api { source, .. }) if is_conflict(&source) && attempt < ATTEMPTS => {}
            result => return result,
        }
        match api.get(&object.name_any()).await {
            Ok(latest) if latest.uid() == object.uid() => object = latest,
            Ok(_) => return Ok(()),
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => return Err(ReconcileError::api("get object")(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(uids: &[&str]) -> Vec<OwnerReference> {
        let reference = |uid: &&str| OwnerReference { uid: (*uid).into(), ..Default::default() };
        uids.iter().map(reference).collect()
    }

    fn dependent(waits_for_dependents: bool) -> Dependent {
        let kind = Kind { api_version: "v1".into(), kind: "Pod".into() };
        Dependent {
            identity: Identity { kind: Arc::new(kind), namespace: "a".into(), name: "p".into(), uid: "p".into() },
            blocks: true,
            waits_for_dependents,
        }
    }

    #[test]
    fn verdicts() {
        use PropagationPolicy::{Background, Foreground, Orphan};
        for (solid, dangling, waiting, dependents, finalizer, expected) in [
            (&["s"][..], &[][..], &[][..], vec![], "", Verdict::Keep),
            (&["s"], &["d"], &["w"], vec![], "", Verdict::Unreference(vec!["d".into(), "w".into()])),
            (&[], &["d"], &[], vec![], "", Verdict::Delete(Background)),
            (&[], &["d"], &[], vec![dependent(false)], "", Verdict::Delete(Background)),
            (&[], &[], &["w"], vec![], "", Verdict::Delete(Background)),
            (&[], &[], &["w"], vec![dependent(false)], "", Verdict::DeleteForeground { unblock: false }),
            (&[], &["d"], &["w"], vec![dependent(true)], "", Verdict::DeleteForeground { unblock: true }),
            (&[], &["d"], &[], vec![], ORPHAN, Verdict::Delete(Orphan)),
            (&[], &["d"], &[], vec![], FOREGROUND, Verdict::Delete(Foreground)),
        ] {
            let owners = Owners { solid: references(solid), dangling: references(dangling), waiting: references(waiting) };
            let meta = ObjectMeta { finalizers: Some(vec![finalizer.to_owned()]), ..Default::default() };
            assert_eq!(verdict(&owners, &dependents, &meta), expected, "{owners:?}");
        }
    }
}
