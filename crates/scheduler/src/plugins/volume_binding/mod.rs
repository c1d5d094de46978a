//! VolumeBinding: a pod goes where its volumes can be used, and claims that wait for their first pod get their volume there
//! (<https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode>).
//!
//! Filter decides for each node, Reserve keeps the decision for this pod, PreBind writes it (a claim reference on the volume, or the node
//! on the claim for the provisioner) and waits until the volume controller has bound everything.

mod decision;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use self::decision::{Decision, Delayed, SELECTED_NODE, can_be_used_on};
use super::pod_claims::{claim_refs, get_claim, is_delayed, is_fully_bound, uses_claim, volume_name};
use crate::config::ConfigError;
use crate::framework::{
    ClusterEvent, Code, CycleState, EventSet, Filter, Handle, Hint, Plugin, PreBind, PreFilter, Reserve, Sign, Signer, Status,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

/// The plugin's arguments (VolumeBindingArgs).
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Args {
    /// How long to wait for claims to be bound.
    bind_timeout_seconds: u64,
}

impl Default for Args {
    fn default() -> Self {
        Self { bind_timeout_seconds: 600 }
    }
}

pub(super) struct VolumeBinding {
    handle: Arc<Handle>,
    timeout: Duration,
    /// The volumes that are meant for a claim (its uid), by name, until the API server says so too.
    assumed: Mutex<HashMap<String, String>>,
}

/// What Filter reads, and what it decided for each node.
#[derive(Clone)]
struct Claims {
    bound: Arc<[Arc<PersistentVolumeClaim>]>,
    delayed: Arc<[Arc<PersistentVolumeClaim>]>,
    decisions: Arc<Mutex<HashMap<String, Decision>>>,
}

impl VolumeBinding {
    pub(super) fn with_args(handle: &Arc<Handle>, args: &Args) -> Result<Self, ConfigError> {
        let timeout = Duration::from_secs(args.bind_timeout_seconds);
        Ok(Self { handle: Arc::clone(handle), timeout, assumed: Mutex::default() })
    }

    /// The pod's claims; the error is for the user.
    fn claims(&self, pod: &Pod) -> Result<Option<Claims>, String> {
        let listers = &self.handle.listers;
        let (mut bound, mut delayed, mut immediate, mut any) = (Vec::new(), Vec::new(), false, false);
        for reference in claim_refs(pod) {
            any = true;
            let name = &reference.name;
            let missing = || format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}");
            let claim = get_claim(listers, pod, name).map_err(|error| if reference.ephemeral { missing() } else { error })?;
            if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
                let volume = volume_name(&claim).unwrap_or_default();
                return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            let owned =
                claim.owner_references().iter().any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref());
            if reference.ephemeral && !owned {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                return Err(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
                    pod.name_any()
                ));
            }
            if is_fully_bound(&claim) {
                bound.push(claim);
            } else if volume_name(&claim).is_none() && is_delayed(listers, &claim)? {
                delayed.push(claim);
            } else {
                immediate = true;
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        Ok(any.then(|| Claims { bound: bound.into(), delayed: delayed.into(), decisions: Arc::default() }))
    }

    /// The volumes that no other pod has been promised.
    fn is_free(&self, volume: &str, claim: &PersistentVolumeClaim) -> bool {
        self.assumed.lock().get(volume).is_none_or(|uid| Some(uid) == claim.metadata.uid.as_ref())
    }

    fn decide(&self, claims: &Claims, node: &NodeInfo) -> Result<Decision, Vec<&'static str>> {
        let listers = &self.handle.listers;
        let (mut usable, mut exist) = (true, true);
        for claim in claims.bound.iter() {
            match volume_name(claim).and_then(|name| listers.volumes.get("", name)) {
                None => {
                    exist = false;
                    break;
                }
                Some(volume) if !can_be_used_on(&volume, node.node()) => {
                    usable = false;
                    break;
                }
                Some(_) => {}
            }
        }
        let free = |volume: &str, claim: &PersistentVolumeClaim| self.is_free(volume, claim);
        let delayed = Delayed { listers, node: node.node(), is_free: &free }.decide(&claims.delayed);
        let mut reasons = Vec::new();
        if !usable {
            reasons.push("node(s) didn't match PersistentVolume's node affinity");
        }
        let decision = delayed.unwrap_or_else(|reason| {
            reasons.push(reason);
            Decision::default()
        });
        if !exist {
            reasons.push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
        }
        if reasons.is_empty() { Ok(decision) } else { Err(reasons) }
    }

    /// Writes the decision.
    async fn write(&self, client: &kube::Client, decision: &Decision, node: &str) -> kube::Result<()> {
        let volumes = Api::<PersistentVolume>::all(client.clone());
        for (volume, claim) in &decision.bind {
            let mut wanted = PersistentVolume::clone(volume);
            let spec = wanted.spec.get_or_insert_default();
            if spec.claim_ref.as_ref().is_some_and(|reference| reference.uid == claim.metadata.uid) {
                continue;
            }
            spec.claim_ref = Some(ObjectReference {
                kind: Some("PersistentVolumeClaim".to_owned()),
                api_version: Some("v1".to_owned()),
                namespace: claim.namespace(),
                name: Some(claim.name_any()),
                uid: claim.uid(),
                resource_version: claim.resource_version(),
                ..ObjectReference::default()
            });
            wanted.annotations_mut().insert("pv.kubernetes.io/bound-by-controller".to_owned(), "yes".to_owned());
            // With the version that the decision was made upon: somebody else may have taken it since.
            volumes.replace(&volume.name_any(), &PostParams::default(), &wanted).await?;
        }
        for claim in &decision.provision {
            let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &claim.namespace().unwrap_or_default());
            let metadata = json!({"resourceVersion": claim.resource_version(), "annotations": {SELECTED_NODE: node}});
            claims.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(json!({"metadata": metadata}))).await?;
        }
        Ok(())
    }

    /// Waits until all claims are bound. An error is a reason to try another node.
    async fn wait_bound(&self, decision: &Decision, node: &str) -> Result<(), String> {
        let mut changes = self.handle.storage_changed.subscribe();
        let deadline = Instant::now() + self.timeout;
        let claims = || decision.bind.iter().map(|(_, claim)| (claim, false)).chain(decision.provision.iter().map(|c| (c, true)));
        loop {
            let mut all = true;
            for (claim, provisioned) in claims() {
                let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
                let now = self.handle.listers.claims.get(&namespace, &name);
                let now = now.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
                // The provisioner gives the claim back by taking the node away. The cache may still show the time before it was set.
                let given_back = now.annotations().get(SELECTED_NODE).is_none_or(|selected| selected != node);
                if provisioned && given_back && now.resource_version() != claim.resource_version() {
                    return Err(format!("provisioning failed for PVC {name:?}"));
                }
                all &= is_fully_bound(&now);
            }
            if all {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return Err("context deadline exceeded".to_owned());
            }
        }
    }

    fn release(&self, decision: &Decision) {
        let mut assumed = self.assumed.lock();
        for (volume, claim) in &decision.bind {
            let name = volume.name_any();
            if assumed.get(&name) == claim.metadata.uid.as_ref() {
                assumed.remove(&name);
            }
        }
    }
}

fn decision_for(state: &CycleState, node: &str) -> Option<Decision> {
    state.get::<Claims>()?.decisions.lock().get(node).cloned()
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn events(&self) -> EventSet {
        EventSet::STORAGE.and(EventSet::NODE_ADD).and(EventSet::NODE_UPDATE)
    }

    fn hint(&self, info: &PodInfo, event: &ClusterEvent) -> Hint {
        let pod = &*info.pod;
        match event {
            ClusterEvent::PersistentVolumeClaim(change) => {
                Hint::queue_if(change.present().is_some_and(|claim| uses_claim(pod, claim)))
            }
            ClusterEvent::PersistentVolume(change) => Hint::queue_if(change.present().is_some()),
            ClusterEvent::StorageClass(change) => Hint::queue_if(change.present().is_some()),
            ClusterEvent::CsiNode(change) => Hint::queue_if(change.present().is_some()),
            ClusterEvent::CsiDriver(change) => Hint::queue_if(change.present().is_some()),
            ClusterEvent::CsiStorageCapacity(change) => Hint::queue_if(change.present().is_some()),
            ClusterEvent::Node { old, new } => {
                Hint::queue_if(old.as_ref().map(|old| &old.metadata.labels) != Some(&new.metadata.labels))
            }
            _ => Hint::Skip,
        }
    }

    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }

    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }

    fn as_reserve(&self) -> Option<&dyn Reserve> {
        Some(self)
    }

    fn as_pre_bind(&self) -> Option<&dyn PreBind> {
        Some(self)
    }

    fn as_sign(&self) -> Option<&dyn Sign> {
        Some(self)
    }
}

impl Sign for VolumeBinding {
    fn sign(&self, pod: &PodInfo, signer: &mut Signer) {
        signer.volumes(&pod.pod);
    }
}

impl PreFilter for VolumeBinding {
    fn pre_filter(&self, state: &mut CycleState, pod: &Pod, _snapshot: &Snapshot) -> (Status, Option<Vec<String>>) {
        match self.claims(pod) {
            Err(reason) => (Status::new(Code::UnschedulableAndUnresolvable, [reason]), None),
            Ok(None) => (Status::skip(), None),
            Ok(Some(claims)) => {
                state.put(claims);
                (Status::success(), None)
            }
        }
    }
}

impl Filter for VolumeBinding {
    fn filter(&self, state: &CycleState, _pod: &Pod, node: &NodeInfo) -> Status {
        let Some(claims) = state.get::<Claims>() else { return Status::success() };
        match self.decide(claims, node) {
            Err(reasons) => Status::new(Code::UnschedulableAndUnresolvable, reasons),
            Ok(decision) => {
                if !claims.delayed.is_empty() {
                    claims.decisions.lock().insert(node.name().to_owned(), decision);
                }
                Status::success()
            }
        }
    }
}

impl Reserve for VolumeBinding {
    fn reserve(&self, state: &mut CycleState, _pod: &Pod, node: &str) -> Status {
        let Some(decision) = decision_for(state, node) else { return Status::success() };
        let mut assumed = self.assumed.lock();
        for (volume, claim) in &decision.bind {
            assumed.insert(volume.name_any(), claim.uid().unwrap_or_default());
        }
        Status::success()
    }

    fn unreserve(&self, state: &mut CycleState, _pod: &Pod, node: &str) {
        if let Some(decision) = decision_for(state, node) {
            self.release(&decision);
        }
    }
}

#[async_trait]
impl PreBind for VolumeBinding {
    fn pre_flight(&self, state: &CycleState, _pod: &Pod, node: &str) -> Status {
        let nothing = decision_for(state, node).is_none_or(|decision| decision.bind.is_empty() && decision.provision.is_empty());
        if nothing { Status::skip() } else { Status::success() }
    }

    async fn pre_bind(&self, client: &kube::Client, state: &CycleState, _pod: &Pod, node: &str) -> Status {
        let Some(decision) = decision_for(state, node) else { return Status::success() };
        let taken: HashSet<String> = decision.bind.iter().map(|(volume, _)| volume.name_any()).collect();
        let result = match self.write(client, &decision, node).await {
            Ok(()) => self.wait_bound(&decision, node).await,
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(()) => {
                self.assumed.lock().retain(|volume, _| !taken.contains(volume));
                Status::success()
            }
            Err(reason) => Status::new(Code::Error, [format!("binding volumes: {reason}")]),
        }
    }
}

#[cfg(test)]
mod tests;
