//! Writes pod statuses to the API: the newest status of each pod, coalesced, as a strategic merge patch of what changed, guarded by the
//! pod's uid. When a pod is through, deletes its object after its last status was written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::pod::conditions;

/// Statuses that are written at the same time.
const CONCURRENCY: usize = 16;
/// How long a failed write waits.
const RETRY: Duration = Duration::from_secs(1);

struct Entry {
    /// The API object that carries the status: the pod, or a static pod's mirror. Its status is the base of the next patch.
    target: Option<Arc<Pod>>,
    desired: PodStatus,
    dirty: bool,
    delete: bool,
}

/// The statuses on their way to the API.
#[derive(Default)]
pub(crate) struct StatusReporter {
    entries: Mutex<HashMap<String, Entry>>,
    wake: Notify,
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl StatusReporter {
    /// Sets the status to write for the pod `uid`; `target` is the API object as last seen.
    pub(crate) fn set(&self, uid: &str, target: Option<Arc<Pod>>, desired: PodStatus) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(uid.to_owned()).or_insert_with(|| Entry {
            target: None,
            desired: PodStatus::default(),
            dirty: false,
            delete: false,
        });
        // Resource versions of one resource compare as numbers (KEP-5504): a cache that lags must not undo what we wrote.
        if let Some(target) = target
            && entry.target.as_ref().is_none_or(|known| known.uid() != target.uid() || revision(known) <= revision(&target))
        {
            entry.target = Some(target);
        }
        entry.desired = desired;
        entry.dirty = true;
        self.wake.notify_one();
    }

    /// Deletes the API object once the last status is written.
    pub(crate) fn finish(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get_mut(uid) {
            entry.delete = true;
            entry.dirty = true;
            self.wake.notify_one();
        }
    }

    /// Forgets a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }

    /// Writes until the kubelet stops.
    pub(crate) async fn run(core: Arc<Core>) {
        loop {
            let due: Vec<String> = {
                let mut entries = core.reporter.entries.lock();
                entries
                    .iter_mut()
                    .filter(|(_, e)| e.dirty && e.target.is_some())
                    .map(|(uid, e)| (uid.clone(), e.dirty = false).0)
                    .collect()
            };
            let failed = futures::stream::iter(due)
                .map(|uid| {
                    let core = Arc::clone(&core);
                    async move { write(&core, &uid).await }
                })
                .buffer_unordered(CONCURRENCY)
                .any(|written| std::future::ready(!written));
            let retry = failed.await;
            tokio::select! {
                () = core.token.cancelled() => return,
                () = core.reporter.wake.notified() => {}
                () = tokio::time::sleep(RETRY), if retry => {}
            }
        }
    }
}

/// Writes one pod's status; `false`: it has to be tried again.
async fn write(core: &Core, uid: &str) -> bool {
    let Some((target, desired, delete)) =
        core.reporter.entries.lock().get(uid).and_then(|e| Some((e.target.clone()?, e.desired.clone(), e.delete)))
    else {
        return true;
    };
    let api: Api<Pod> = Api::namespaced(core.client.clone(), target.namespace());
    if let Some(patch) = status_patch(&target, &desired) {
        match api.patch_status(target.name(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(updated) => {
                if let Some(entry) = core.reporter.entries.lock().get_mut(uid) {
                    entry.target = Some(Arc::new(updated));
                }
            }
            Err(kube::Error::Api(status)) if is_about_another(&status) => {
                // Gone, or another pod of that name: nothing to report to.
                tracing::debug!(namespace = target.namespace(), name = target.name(), uid, "pod is gone, status dropped");
                return true;
            }
            Err(error) => return retry(core, uid, &target, &error),
        }
    }
    if delete {
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: target.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(target.name(), &parameters).await {
            Ok(_) => tracing::debug!(namespace = target.namespace(), name = target.name(), uid, "pod object deleted"),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => return retry(core, uid, &target, &error),
        }
    }
    true
}

/// Whether a refusal says that the pod is gone, or that another one has its name: its uid is not the one that the patch says.
fn is_about_another(status: &kube::core::Status) -> bool {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    match status.code {
        404 => true,
        409 => status.message.contains("recondition"),
        422 => causes.iter().any(|cause| cause.field == "metadata.uid"),
        _ => false,
    }
}

fn retry(core: &Core, uid: &str, target: &Pod, error: &kube::Error) -> bool {
    tracing::warn!(
        namespace = target.namespace(),
        name = target.name(),
        uid,
        error = error as &dyn std::error::Error,
        "pod status was not written"
    );
    if let Some(entry) = core.reporter.entries.lock().get_mut(uid) {
        entry.dirty = true;
    }
    false
}

/// The patch that turns the object's status into `desired`; `None`: there is no difference.
pub(crate) fn status_patch(target: &Pod, desired: &PodStatus) -> Option<Value> {
    let (old, new) = (super::fields(target.pod_status())?, super::fields(desired)?);
    let mut patch = Map::new();
    for key in old.keys().chain(new.keys()) {
        // `resize` and others that only the API server writes are not ours to clear.
        if patch.contains_key(key)
            || matches!(key.as_str(), "conditions" | "resize" | "extendedResourceClaimStatus")
            || old.get(key) == new.get(key)
        {
            continue;
        }
        patch.insert(key.clone(), field(key, old.get(key), new.get(key)));
    }
    let changed = changed_conditions(old.get("conditions"), new.get("conditions"));
    if !changed.is_empty() {
        patch.insert("conditions".to_owned(), Value::Array(changed));
    }
    if patch.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": target.uid()}, "status": patch}))
}

fn field(key: &str, old: Option<&Value>, new: Option<&Value>) -> Value {
    let replaces = matches!(key, "podIPs" | "hostIPs") && old.and_then(Value::as_array).is_some_and(|o| !o.is_empty());
    match new {
        // These lists merge by `ip`: say that the old entries go.
        Some(Value::Array(items)) if replaces => {
            Value::Array(std::iter::once(json!({"$patch": "replace"})).chain(items.iter().cloned()).collect())
        }
        Some(value) => value.clone(),
        None => Value::Null,
    }
}

fn changed_conditions(old: Option<&Value>, new: Option<&Value>) -> Vec<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, new) = (list(old), list(new));
    // These two are there only while they hold.
    let ended = [conditions::RESIZE_PENDING, conditions::RESIZE_IN_PROGRESS].into_iter().filter(|kind| {
        let has = |list: &[Value]| list.iter().any(|c| c["type"] == **kind);
        has(&old) && !has(&new)
    });
    let ended: Vec<Value> = ended.map(|kind| json!({"$patch": "delete", "type": kind})).collect();
    new.into_iter()
        .filter(|condition| {
            condition["type"].as_str().is_some_and(|kind| conditions::OWNED.contains(&kind) || kind == "DisruptionTarget")
        })
        .filter_map(|mut condition| {
            let known = old.iter().find(|o| o["type"] == condition["type"]);
            if known == Some(&condition) {
                return None;
            }
            // A merge keeps what is not named: what vanished is named as null.
            if let (Some(Value::Object(known)), Value::Object(fields)) = (known, &mut condition) {
                for key in known.keys() {
                    if !fields.contains_key(key) {
                        fields.insert(key.clone(), Value::Null);
                    }
                }
            }
            Some(condition)
        })
        .chain(ended)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "status": status})).unwrap()
    }

    #[test]
    fn refusals_that_end_the_matter() {
        let check = |status: Value, expected: bool| {
            assert_eq!(is_about_another(&serde_json::from_value(status.clone()).unwrap()), expected, "{status}");
        };
        let invalid = |field: &str| json!({"code": 422, "reason": "Invalid", "details": {"causes": [{"field": field, "reason": "FieldValueInvalid"}]}});
        check(json!({"code": 404, "reason": "NotFound"}), true);
        check(invalid("metadata.uid"), true);
        check(invalid("status.podIPs[0].ip"), false);
        check(json!({"code": 409, "message": "Precondition failed: UID in precondition: a, UID in object meta: b"}), true);
        check(json!({"code": 409, "message": "the object has been modified"}), false);
        check(json!({"code": 500}), false);
    }

    #[test]
    fn patches_only_what_changed() {
        let target = pod(json!({"phase": "Pending", "reason": "Old", "podIPs": [{"ip": "1.1.1.1"}], "conditions": [
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"}, {"type": "Initialized", "status": "True"}, {"type": "PodResizePending", "status": "True"}, {"type": "example.com/x", "status": "True"}]}));
        let desired: PodStatus = serde_json::from_value(json!({"phase": "Running", "podIPs": [{"ip": "2.2.2.2"}], "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}, {"type": "example.com/x", "status": "False"}]}))
        .unwrap();
        let patch = status_patch(&target, &desired).unwrap();
        let expected = json!({"metadata": {"uid": "u"}, "status": {"phase": "Running", "reason": null, "podIPs": [{"$patch": "replace"}, {"ip": "2.2.2.2"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}, {"$patch": "delete", "type": "PodResizePending"}]}});
        assert_eq!(patch, expected);
        assert_eq!(status_patch(&target, target.pod_status()), None);
    }
}
