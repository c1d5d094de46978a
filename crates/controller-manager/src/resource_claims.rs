//! resourceclaim-controller: makes the ResourceClaims that pods ask for by a template, reserves allocated claims for pods that were bound
//! without the scheduler, and takes back what pods reserved that will not run any more (KEP-4381).
//!
//! Claims of a template go with their pod by the garbage collector, or here as soon as the pod is done.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use crate::api_errors::{ignore_not_found, is_namespace_terminating, message};
use crate::context::{Context, wait_synced};
use crate::ownership::{controller_of, controller_reference, is_controlled_by};
use crate::pod_state::{is_terminal, node_name};

const NAME: &str = "resourceclaim-controller";
/// Names the claim of the pod that a claim was made for.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// The finalizer of claims that the scheduler has allocated.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Upstream's `ResourceClaimReservedForMaxSize`.
const RESERVED_MAX: usize = 256;
/// With a hyphen and five random characters it is a label's 63.
const BASE_LEN_MAX: usize = 57;
const BY_CLAIM: &str = "resourceClaim";
const BY_POD: &str = "pod";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Pod(NamespacedName),
    Claim(NamespacedName),
}

struct ResourceClaims {
    context: Context,
    events: EventRecorder,
    pods: Store<Pod>,
    claims: Store<ResourceClaim>,
    templates: Store<ResourceClaimTemplate>,
    made: Arc<Mutex<Made>>,
}

/// Claims made that neither cache may know yet: by pod, its UID and the name of its claim. Without it they could be made twice.
type Made = HashMap<(NamespacedName, String, String), String>;

/// The claim behind a claim of a pod.
#[derive(Debug, PartialEq, Eq)]
enum Named<'a> {
    /// The pod names it.
    Given(&'a str),
    /// It was made from a template.
    Made(&'a str),
    /// The template gave none.
    NotNeeded,
    /// It is not made yet.
    Missing,
}

fn named<'a>(pod: &'a Pod, of: &'a PodResourceClaim) -> Named<'a> {
    if let Some(name) = &of.resource_claim_name {
        return Named::Given(name);
    }
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    match statuses.into_iter().flatten().find(|status| status.name == of.name) {
        None => Named::Missing,
        Some(status) => status.resource_claim_name.as_deref().map_or(Named::NotNeeded, Named::Made),
    }
}

fn pod_claims(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default()
}

/// The claims of a pod that are known, for the index and for those to look at.
fn claim_keys(pod: &Pod) -> Vec<NamespacedName> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let of = |claim: &PodResourceClaim| match named(pod, claim) {
        Named::Given(name) | Named::Made(name) => Some(NamespacedName::new(namespace, name)),
        Named::NotNeeded | Named::Missing => None,
    };
    pod_claims(pod).iter().filter_map(of).collect()
}

fn owning_pod(claim: &ResourceClaim) -> Option<&OwnerReference> {
    controller_of(&claim.metadata).filter(|owner| owner.api_version == "v1" && owner.kind == "Pod")
}

fn reserved(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default()
}

fn is_allocated(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
}

/// It will not run any more, or never.
fn is_done(pod: &Pod) -> bool {
    is_terminal(pod) || (pod.metadata.deletion_timestamp.is_some() && node_name(pod).is_empty())
}

/// Whether an allocated claim has to be reserved for a pod, which the scheduler has not done.
fn needs_reservation(pod: &Pod, claim: &ResourceClaim) -> bool {
    let has = reserved(claim).iter().any(|consumer| Some(&consumer.uid) == pod.metadata.uid.as_ref());
    is_allocated(claim) && !has && reserved(claim).len() < RESERVED_MAX
}

/// The `generateName` of a claim, which says of what it is.
fn base_name(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= BASE_LEN_MAX {
        return whole;
    }
    // Names are ASCII.
    let part = |text: &str| text.get(..text.len() * BASE_LEN_MAX / whole.len()).unwrap_or(text).to_owned();
    format!("{}-{}", part(pod), part(claim))
}

fn claim_from(pod: &Pod, name: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), name.to_owned());
    // Upstream's does not block the pod's foreground deletion.
    let owner = OwnerReference { block_owner_deletion: None, ..controller_reference(pod) };
    let metadata = ObjectMeta {
        generate_name: Some(base_name(&pod.name_any(), name)),
        annotations: Some(annotations),
        labels: meta.labels,
        owner_references: Some(vec![owner]),
        ..Default::default()
    };
    ResourceClaim { metadata, spec: template.spec.spec.clone(), status: None }
}

pub(crate) async fn run(context: Context) {
    let pods = context.informers.get::<Pod>();
    let claims = context.informers.get::<ResourceClaim>();
    let templates = context.informers.get::<ResourceClaimTemplate>();
    pods.store().add_index(BY_CLAIM, |pod| claim_keys(pod).iter().map(NamespacedName::to_string).collect());
    claims.store().add_index(BY_POD, |claim| owning_pod(claim).map(|owner| owner.uid.clone()).into_iter().collect());
    let queue: WorkQueue<Key> = WorkQueue::new("resource_claim");
    let on_pod = queue.clone();
    pods.add_handler(move |change| {
        let pod = change.object();
        if pod_claims(pod).is_empty() {
            return;
        }
        let gone = matches!(change, Change::Deleted(_));
        if gone || is_done(pod) {
            claim_keys(pod).into_iter().for_each(|key| on_pod.add(Key::Claim(key)));
        }
        // Of one that is gone what is remembered is forgotten.
        if gone || pod.metadata.deletion_timestamp.is_none() {
            on_pod.add(Key::Pod(NamespacedName::of(&**pod)));
        }
    });
    let made: Arc<Mutex<Made>> = Arc::default();
    let (on_claim, known, forget) = (queue.clone(), pods.store().clone(), made.clone());
    claims.add_handler(move |change| {
        let key = NamespacedName::of(&**change.object());
        if matches!(change, Change::Deleted(_)) {
            forget.lock().retain(|(pod, _, _), name| pod.namespace != key.namespace || *name != key.name);
        }
        for pod in known.by_index(BY_CLAIM, &key.to_string()) {
            on_claim.add(Key::Pod(NamespacedName::of(&*pod)));
        }
        if !matches!(change, Change::Deleted(_)) {
            on_claim.add(Key::Claim(key));
        }
    });
    wait_synced!(pods, claims, templates);
    let controller = ResourceClaims {
        events: context.events("resource_claim"),
        pods: pods.store().clone(),
        claims: claims.store().clone(),
        templates: templates.store().clone(),
        made,
        context: context.clone(),
    };
    let workers = context.config.concurrent_resource_claim_syncs;
    run_workers(Arc::new(controller), queue, workers, context.token).await;
}

impl ResourceClaims {
    async fn sync_pod(&self, key: &NamespacedName) -> Result<(), ReconcileError> {
        let Some(pod) = self.pods.get_key(key) else {
            self.made.lock().retain(|(pod, _, _), _| pod != key);
            return Ok(());
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let mut made = Vec::new();
        for of in pod_claims(&pod) {
            match self.make(&pod, of, key).await {
                Ok(Some(name)) => made.push(json!({"name": of.name, "resourceClaimName": name})),
                Ok(None) => {}
                Err(why) => {
                    let text = format!("PodResourceClaim {}: {why}", of.name);
                    self.events.record(&*pod, EventKind::Warning, "FailedResourceClaimCreation", text.clone());
                    return Err(ReconcileError::Invalid(text));
                }
            }
        }
        if !made.is_empty() {
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"resourceClaimStatuses": made}});
            let api: Api<Pod> = self.context.api(&key.namespace);
            let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            ignore_not_found(result).map_err(ReconcileError::api("tell a pod its claims"))?;
        }
        // The scheduler reserves for pods that it binds.
        if !node_name(&pod).is_empty() && !is_done(&pod) {
            for claim in claim_keys(&pod).iter().filter_map(|key| self.claims.get_key(key)) {
                if needs_reservation(&pod, &claim) {
                    self.reserve(&pod, &claim).await?;
                }
            }
        }
        Ok(())
    }

    /// The name of a claim that the pod does not have in its status yet.
    async fn make(&self, pod: &Pod, of: &PodResourceClaim, key: &NamespacedName) -> Result<Option<String>, String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let Some(template) = &of.resource_claim_template_name else { return Ok(None) };
        let remembered = (key.clone(), uid.to_owned(), of.name.clone());
        match named(pod, of) {
            Named::Given(_) | Named::NotNeeded => return Ok(None),
            Named::Made(name) => {
                if self.made.lock().get(&remembered).is_some_and(|made| made == name) {
                    return Ok(None);
                }
                let found = self.claims.get(&key.namespace, name);
                if found.is_some_and(|claim| is_controlled_by(&claim.metadata, uid)) {
                    return Ok(None);
                }
            }
            Named::Missing => {
                if let Some(made) = self.made.lock().get(&remembered) {
                    return Ok(Some(made.clone()));
                }
            }
        }
        // It may have been made before the status was written.
        let is_it = |claim: &Arc<ResourceClaim>| claim.annotations().get(POD_CLAIM) == Some(&of.name);
        if let Some(found) = self.claims.by_index(BY_POD, uid).into_iter().find(is_it) {
            return Ok(Some(found.name_any()));
        }
        let found = self.templates.get(&key.namespace, template).ok_or_else(|| {
            format!("resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found")
        })?;
        let wanted = claim_from(pod, &of.name, &found);
        match self.context.api::<ResourceClaim>(&key.namespace).create(&PostParams::default(), &wanted).await {
            Ok(made) => {
                self.made.lock().insert(remembered, made.name_any());
                Ok(Some(made.name_any()))
            }
            Err(error) if is_namespace_terminating(&error) => Ok(None),
            Err(error) => Err(format!("create ResourceClaim : {}", message(&error))),
        }
    }

    async fn reserve(&self, pod: &Pod, claim: &ResourceClaim) -> Result<(), ReconcileError> {
        let mut wanted = claim.clone();
        wanted.status.get_or_insert_default().reserved_for.get_or_insert_default().push(ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".to_owned(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
        });
        self.write_status(&wanted).await.map(drop)
    }

    async fn write_status(&self, wanted: &ResourceClaim) -> Result<Option<ResourceClaim>, ReconcileError> {
        let api: Api<ResourceClaim> = self.context.api(&wanted.namespace().unwrap_or_default());
        match api.replace_status(&wanted.name_any(), &PostParams::default(), wanted).await {
            Ok(written) => Ok(Some(written)),
            Err(error) if crate::api_errors::is_not_found(&error) => Ok(None),
            Err(error) => Err(ReconcileError::api("update resource claim status")(error)),
        }
    }

    /// Whether a consumer may still use the claim. What the cache does not know the server is asked for.
    async fn still_uses(&self, namespace: &str, consumer: &ResourceClaimConsumerReference) -> Result<bool, ReconcileError> {
        if consumer.api_group.as_deref().is_some_and(|group| !group.is_empty()) || consumer.resource != "pods" {
            return Err(ReconcileError::Invalid(format!("unsupported ReservedFor entry: {}", consumer.resource)));
        }
        let pod = match self.pods.get(namespace, &consumer.name) {
            Some(pod) => Some(pod),
            None => {
                let api: Api<Pod> = self.context.api(namespace);
                api.get_opt(&consumer.name).await.map_err(ReconcileError::api("get pod"))?.map(Arc::new)
            }
        };
        Ok(pod.is_some_and(|pod| pod.metadata.uid.as_ref() == Some(&consumer.uid) && !is_done(&pod)))
    }

    async fn sync_claim(&self, key: &NamespacedName) -> Result<(), ReconcileError> {
        let Some(claim) = self.claims.get_key(key) else { return Ok(()) };
        let mut users = Vec::new();
        for consumer in reserved(&claim) {
            if self.still_uses(&key.namespace, consumer).await? {
                users.push(consumer.clone());
            }
        }
        let protected = claim.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        let unused = users.is_empty();
        let fewer = users.len() < reserved(&claim).len();
        let mut current = (*claim).clone();
        // Without users an allocation is given up when it was just the last one's, or when the claim is to go.
        let gives_up = protected && unused && (fewer || claim.metadata.deletion_timestamp.is_some());
        if fewer || (gives_up && is_allocated(&claim)) {
            let status = current.status.get_or_insert_default();
            status.reserved_for = Some(users).filter(|users| !users.is_empty());
            if gives_up {
                status.allocation = None;
            }
            match self.write_status(&current).await? {
                Some(written) => current = written,
                None => return Ok(()),
            }
        }
        if gives_up && !is_allocated(&current) {
            let mut finalizers = current.metadata.finalizers.take().unwrap_or_default();
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            current.metadata.finalizers = Some(finalizers);
            let api: Api<ResourceClaim> = self.context.api(&key.namespace);
            let result = api.replace(&key.name, &PostParams::default(), &current).await;
            ignore_not_found(result).map_err(ReconcileError::api("remove the finalizer of a resource claim"))?;
        }
        if unused { self.delete_if_generated(&claim, key).await } else { Ok(()) }
    }

    /// A claim that was made for a pod that is done goes before the pod does.
    async fn delete_if_generated(&self, claim: &ResourceClaim, key: &NamespacedName) -> Result<(), ReconcileError> {
        let Some(owner) = owning_pod(claim) else { return Ok(()) };
        let Some(pod) = self.pods.get(&key.namespace, &owner.name) else { return Ok(()) };
        if pod.metadata.uid.as_ref() == Some(&owner.uid) && !is_done(&pod) || claim.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let preconditions = Preconditions { uid: claim.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api: Api<ResourceClaim> = self.context.api(&key.namespace);
        ignore_not_found(api.delete(&key.name, &params).await).map_err(ReconcileError::api("delete resource claim"))
    }
}

#[async_trait]
impl Controller for ResourceClaims {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        match key {
            Key::Pod(key) => self.sync_pod(key).await?,
            Key::Claim(key) => self.sync_claim(key).await?,
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(status: Value) -> Pod {
        let claims = json!([{"name": "given", "resourceClaimName": "c"}, {"name": "made", "resourceClaimTemplateName": "t"}]);
        let spec = json!({"containers": [], "resourceClaims": claims});
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec, "status": status}))
            .expect("is a pod")
    }

    #[test]
    fn the_claims_behind_those_of_a_pod() {
        let with = |name: Value| json!({"resourceClaimStatuses": [{"name": "made", "resourceClaimName": name}]});
        for (status, expected, keys) in [
            (json!({}), Named::Missing, vec!["ns/c"]),
            (with(json!("p-made-x")), Named::Made("p-made-x"), vec!["ns/c", "ns/p-made-x"]),
            (with(json!(null)), Named::NotNeeded, vec!["ns/c"]),
        ] {
            let pod = pod(status);
            assert_eq!(named(&pod, &pod_claims(&pod)[0]), Named::Given("c"));
            assert_eq!(named(&pod, &pod_claims(&pod)[1]), expected);
            let known: Vec<String> = claim_keys(&pod).iter().map(NamespacedName::to_string).collect();
            assert_eq!(known, keys);
        }
    }

    #[test]
    fn reservations() {
        let claim = |status: Value| -> ResourceClaim {
            serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {}, "status": status})).expect("is a claim")
        };
        let consumer = |uid: String| json!({"resource": "pods", "name": "x", "uid": uid});
        let many: Vec<Value> = (0..RESERVED_MAX).map(|i| consumer(format!("u{i}"))).collect();
        for (status, expected) in [
            (json!({}), false),
            (json!({"allocation": {}}), true),
            (json!({"allocation": {}, "reservedFor": [consumer("other".into())]}), true),
            (json!({"allocation": {}, "reservedFor": [consumer("u".into())]}), false),
            (json!({"allocation": {}, "reservedFor": many}), false),
        ] {
            assert_eq!(needs_reservation(&pod(json!({})), &claim(status)), expected);
        }
    }

    #[test]
    fn claims_from_templates() {
        let spec = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}}, "spec": {"devices": {"requests": [{"name": "r"}]}}});
        let template: ResourceClaimTemplate = serde_json::from_value(json!({"spec": spec})).expect("is a template");
        let claim = claim_from(&pod(json!({})), "made", &template);
        assert_eq!(claim.metadata.generate_name.as_deref(), Some("p-made-"));
        assert_eq!(claim.annotations().get(POD_CLAIM).map(String::as_str), Some("made"));
        assert!(claim.labels().contains_key("a") && claim.annotations().contains_key("x"));
        assert_eq!(owning_pod(&claim).map(|owner| owner.uid.as_str()), Some("u"));
        assert_eq!(claim.spec.devices.and_then(|devices| devices.requests).map(|requests| requests.len()), Some(1));
        let long = base_name(&"p".repeat(60), &"c".repeat(30));
        assert_eq!((long.len(), long.starts_with("ppp"), long.ends_with("ccc")), (37 + 18 + 1, true, true), "{long}");
    }

    #[test]
    fn pods_that_are_done() {
        let of = |phase: &str, deleting: bool, node: &str| {
            let mut pod = pod(json!({"phase": phase}));
            pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
            pod.metadata.deletion_timestamp =
                deleting.then(|| serde_json::from_value(json!("2024-01-01T00:00:00Z")).expect("is a time"));
            is_done(&pod)
        };
        let cases = [
            ("Running", false, "n"),
            ("Running", true, "n"),
            ("Pending", true, ""),
            ("Failed", false, "n"),
            ("Succeeded", true, "n"),
        ];
        assert_eq!(cases.map(|(phase, deleting, node)| of(phase, deleting, node)), [false, false, true, true, true]);
    }
}
