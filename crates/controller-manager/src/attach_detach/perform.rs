//! What a plan says, done. What fails is tried again with the node's next look.

use client::{EventKind, ReconcileError};
use k8s_openapi::api::core::v1::{AttachedVolume, Node, Pod};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::plan::{Detach, Plan, is_in_use, reported};
use super::volumes::Needed;
use super::{Asked, AttachDetach, FORCED};
use crate::api_errors::{ignore_not_found, is_already_exists};
use crate::node_lifecycle::pods_on_node;
use crate::pod_claims::claim_keys;

impl AttachDetach {
    pub(super) async fn perform(&self, node: &str, cached: Option<&Node>, plan: Plan) -> Result<(), ReconcileError> {
        // First what is to go, so that a pod that moved finds its volume free.
        let mut errors = Vec::new();
        for detach in &plan.detach {
            if let Err(error) = self.detach(node, detach).await {
                errors.push(error);
            }
        }
        if let (Some(report), Some(cached)) = (plan.report, cached) {
            match self.report(cached, report).await {
                Ok(()) => self.tell_attached(node, &plan.attached),
                Err(error) => errors.push(error),
            }
        }
        for needed in &plan.attach {
            if let Err(error) = self.attach(node, needed).await {
                errors.push(error);
            }
        }
        for (needed, nodes) in &plan.blocked {
            self.tell_blocked(node, needed, nodes);
        }
        for (needed, why) in &plan.failed {
            if self.memory.lock().is_news(node, &needed.volume.unique_name, why) {
                let text = format!("AttachVolume.Attach failed for volume {:?} : {why}", needed.volume.persistent_volume);
                self.tell(&needed.pods, EventKind::Warning, "FailedAttachVolume", &text);
            }
        }
        ReconcileError::collect(errors)
    }

    fn attachments_api(&self) -> Api<VolumeAttachment> {
        Api::all(self.context.client.clone())
    }

    fn nodes_api(&self) -> Api<Node> {
        Api::all(self.context.client.clone())
    }

    async fn attach(&self, node: &str, needed: &Needed) -> Result<(), ReconcileError> {
        let volume = &needed.volume;
        let name = volume.attachment_name(node);
        let attachment = VolumeAttachment {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: volume.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(volume.persistent_volume.clone()),
                    ..VolumeAttachmentSource::default()
                },
            },
            status: None,
        };
        // Noted before it is asked for: its arrival in the cache takes the note away.
        let asked = Asked {
            unique_name: volume.unique_name.clone(),
            volume: volume.persistent_volume.clone(),
            node: node.to_owned(),
            at: Instant::now(),
        };
        self.memory.lock().asked.insert(name.clone(), asked);
        self.memory.lock().forget_told(node, &volume.unique_name);
        let created = self.attachments_api().create(&PostParams::default(), &attachment).await;
        if self.attachments.get("", &name).is_some() {
            self.memory.lock().asked.remove(&name);
        }
        match created {
            Ok(_) => Ok(()),
            // The cache is behind, and will say so.
            Err(error) if is_already_exists(&error) => Ok(()),
            Err(source) => {
                self.memory.lock().asked.remove(&name);
                Err(ReconcileError::Api { operation: "create volume attachment", source })
            }
        }
    }

    /// Off the node's list, then asked whether it is used after all, then deleted.
    async fn detach(&self, node: &str, detach: &Detach) -> Result<(), ReconcileError> {
        let found = self.nodes_api().get_opt(node).await.map_err(ReconcileError::api("get node"))?;
        if let Some(found) = found {
            let kept: Vec<AttachedVolume> =
                reported(&found).iter().filter(|entry| entry.name != detach.volume.unique_name).cloned().collect();
            let told = if kept.len() == reported(&found).len() { found } else { self.write_report(&found, kept).await? };
            if detach.force.is_none() && is_in_use(&told, &detach.volume.unique_name) {
                let text = format!("volume {} is still in use by node {node}", detach.volume.unique_name);
                return Err(ReconcileError::Invalid(text));
            }
        }
        if let (Some(force), Some(counter)) = (detach.force, FORCED.as_ref()) {
            counter.with_label_values(&[force.label()]).inc();
            let (volume, reason) = (&detach.volume.unique_name, force.label());
            tracing::warn!(node, volume, reason, "detaching a volume without the node's consent");
        }
        let preconditions = Preconditions { uid: detach.uid.clone(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        // Noted before: from now on nobody may be told that it is there, whatever the cache says.
        let uid = detach.uid.clone().unwrap_or_default();
        self.memory.lock().going.insert(uid.clone());
        let deleted = ignore_not_found(self.attachments_api().delete(&detach.name, &parameters).await);
        if deleted.is_err() || self.attachments.get("", &detach.name).is_none() {
            self.memory.lock().going.remove(&uid);
        }
        deleted.map_err(ReconcileError::api("delete volume attachment"))
    }

    async fn report(&self, node: &Node, report: Vec<AttachedVolume>) -> Result<(), ReconcileError> {
        self.write_report(node, report).await.map(|_| ())
    }

    /// This controller alone writes the list; the node must be the same, not the same version.
    async fn write_report(&self, node: &Node, report: Vec<AttachedVolume>) -> Result<Node, ReconcileError> {
        let list = if report.is_empty() { serde_json::Value::Null } else { json!(report) };
        let patch = Patch::Merge(json!({"metadata": {"uid": node.uid()}, "status": {"volumesAttached": list}}));
        let written = self.nodes_api().patch_status(&node.name_any(), &PatchParams::default(), &patch).await;
        written.map_err(ReconcileError::api("update status of node"))
    }

    fn tell(&self, pods: &[std::sync::Arc<Pod>], kind: EventKind, reason: &str, text: &str) {
        for pod in pods {
            self.events.record(&**pod, kind, reason, text);
        }
    }

    fn tell_attached(&self, node: &str, attached: &[Needed]) {
        for needed in attached {
            self.memory.lock().forget_told(node, &needed.volume.unique_name);
            let text = format!("AttachVolume.Attach succeeded for volume {:?} ", needed.volume.persistent_volume);
            self.tell(&needed.pods, EventKind::Normal, "SuccessfulAttachVolume", &text);
        }
    }

    /// Upstream's texts: a user is told the pods in the way, but not their names where they are of other namespaces.
    fn tell_blocked(&self, node: &str, needed: &Needed, nodes: &[String]) {
        if !self.memory.lock().is_news(node, &needed.volume.unique_name, "blocked") {
            return;
        }
        let claims: Vec<String> = needed.pods.iter().flat_map(|pod| claim_keys(pod)).collect();
        let others: Vec<_> = nodes.iter().flat_map(|node| pods_on_node(&self.pods, node)).collect();
        let others: Vec<_> = others.iter().filter(|pod| claim_keys(pod).iter().any(|key| claims.contains(key))).collect();
        for pod in &needed.pods {
            let why = blocked_text(pod, &others);
            let text = format!("Multi-Attach error for volume {:?} {why}", needed.volume.persistent_volume);
            self.events.record(&**pod, EventKind::Warning, "FailedAttachVolume", text);
        }
    }
}

fn blocked_text(pod: &Pod, others: &[&std::sync::Arc<Pod>]) -> String {
    if others.is_empty() {
        return "Volume is already exclusively attached to one node and can't be attached to another".to_owned();
    }
    let (near, far): (Vec<&std::sync::Arc<Pod>>, Vec<&std::sync::Arc<Pod>>) =
        others.iter().copied().partition(|other| other.namespace() == pod.namespace());
    let names: Vec<String> = near.iter().map(|pod| pod.name_any()).collect();
    match (names.is_empty(), far.len()) {
        (true, count) => format!("Volume is already used by {count} pod(s) in different namespaces"),
        (false, 0) => format!("Volume is already used by pod(s) {}", names.join(", ")),
        (false, count) => {
            format!("Volume is already used by pod(s) {} and {count} pod(s) in different namespaces", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn who_is_in_the_way() {
        let pod = |namespace: &str, name: &str| -> Arc<Pod> {
            let value = json!({"metadata": {"namespace": namespace, "name": name}});
            Arc::new(serde_json::from_value(value).expect("is a pod"))
        };
        let (mine, a, b, far) = (pod("n", "mine"), pod("n", "a"), pod("n", "b"), pod("m", "far"));
        let none = "Volume is already exclusively attached to one node and can't be attached to another";
        for (others, expected) in [
            (vec![], none),
            (vec![&a, &b], "Volume is already used by pod(s) a, b"),
            (vec![&a, &far], "Volume is already used by pod(s) a and 1 pod(s) in different namespaces"),
            (vec![&far], "Volume is already used by 1 pod(s) in different namespaces"),
        ] {
            assert_eq!(blocked_text(&mine, &others), expected);
        }
    }
}
