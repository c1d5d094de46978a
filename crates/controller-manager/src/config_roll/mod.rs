//! config-roll-controller, beyond upstream: rolls the pods of a Deployment, StatefulSet or DaemonSet with the annotation
//! `rusternetes.io/roll-on-config-change: "true"` when the data of a ConfigMap or Secret that its template uses changes.
//!
//! It writes annotations of the workload and of its template, and nothing else: the roll is the workload's own, with its strategy. While
//! something that the template needs is missing nothing happens.

mod plan;
mod references;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, Informer, NamespacedName, Outcome, ReconcileError, Store, WorkQueue,
    run_workers,
};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, PodTemplateSpec, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use self::plan::{Configuration, DIGEST, WISH, digest, plan};
use self::references::{Reference, References};
use crate::api_errors::ignore_not_found;
use crate::context::{Context, wait_synced};
use crate::ensure::ensure_role;

/// The controller's name, and its ServiceAccount's.
pub const NAME: &str = "config-roll-controller";
const ROLE: &str = "rusternetes:config-roll-controller";
/// The index of workloads by what they use.
const USED: &str = "usedConfiguration";

/// Gives the controller its rights, which are in no role of upstream's.
pub async fn ensure_rights(client: &kube::Client) -> kube::Result<()> {
    let rules = json!([
        {"apiGroups": ["apps"], "resources": ["daemonsets", "deployments", "statefulsets"], "verbs": ["patch"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
    ]);
    ensure_role(client, ROLE, NAME, rules).await
}

/// A kind whose pods can be rolled by a change of its template.
trait Rolled:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
    fn template(&self) -> Option<&PodTemplateSpec>;
}

impl Rolled for Deployment {
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().map(|spec| &spec.template)
    }
}

impl Rolled for StatefulSet {
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().map(|spec| &spec.template)
    }
}

impl Rolled for DaemonSet {
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().map(|spec| &spec.template)
    }
}

fn wishes(object: &impl Rolled) -> bool {
    let wish = object.meta().annotations.as_ref().and_then(|annotations| annotations.get(WISH));
    wish.is_some_and(|wish| wish == "true") && object.meta().deletion_timestamp.is_none()
}

/// The template's pods of a workload that wishes to be rolled.
fn pods<K: Rolled>(object: &K) -> Option<&PodSpec> {
    object.template()?.spec.as_ref().filter(|_| wishes(object))
}

/// An index value.
fn used(namespace: &str, reference: &Reference) -> String {
    match reference {
        Reference::ConfigMap(name) => format!("ConfigMap/{namespace}/{name}"),
        Reference::Secret(name) => format!("Secret/{namespace}/{name}"),
    }
}

fn uses<K: Rolled>(object: &K) -> Vec<String> {
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    let Some(spec) = pods(object) else { return Vec::new() };
    References::of(spec).all().map(|reference| used(&namespace, reference)).collect()
}

struct Roller<K> {
    context: Context,
    events: EventRecorder,
    workloads: Store<K>,
    config_maps: Store<ConfigMap>,
    secrets: Store<Secret>,
}

/// The configuration of one namespace.
struct Of<'a> {
    namespace: &'a str,
    config_maps: &'a Store<ConfigMap>,
    secrets: &'a Store<Secret>,
}

impl Configuration for Of<'_> {
    fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps.get(self.namespace, name)
    }

    fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.secrets.get(self.namespace, name)
    }
}

pub(crate) async fn run(context: Context) {
    let (config_maps, secrets) = (context.informers.get::<ConfigMap>(), context.informers.get::<Secret>());
    wait_synced!(config_maps, secrets);
    tokio::join!(
        follow::<Deployment>(context.clone(), &config_maps, &secrets),
        follow::<StatefulSet>(context.clone(), &config_maps, &secrets),
        follow::<DaemonSet>(context.clone(), &config_maps, &secrets),
    );
}

async fn follow<K: Rolled>(context: Context, config_maps: &Informer<ConfigMap>, secrets: &Informer<Secret>) {
    let workloads = context.informers.get::<K>();
    workloads.store().add_index(USED, uses::<K>);
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("config_roll");
    let on_workload = queue.clone();
    workloads.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) && wishes(&**change.object()) {
            on_workload.add(NamespacedName::of(&**change.object()));
        }
    });
    wait_synced!(workloads);
    let (on_map, known) = (queue.clone(), workloads.store().clone());
    config_maps.add_handler(move |change| wake(&known, &on_map, &**change.object(), Reference::ConfigMap));
    let (on_secret, known) = (queue.clone(), workloads.store().clone());
    secrets.add_handler(move |change| wake(&known, &on_secret, &**change.object(), Reference::Secret));
    let roller = Roller {
        events: context.events(NAME),
        workloads: workloads.store().clone(),
        config_maps: config_maps.store().clone(),
        secrets: secrets.store().clone(),
        context: context.clone(),
    };
    run_workers(Arc::new(roller), queue, 1, context.token).await;
}

/// Queues the workloads that use an object.
fn wake<K: Rolled, C: ResourceExt>(
    workloads: &Store<K>,
    queue: &WorkQueue<NamespacedName>,
    object: &C,
    reference: impl Fn(String) -> Reference,
) {
    let key = used(&object.namespace().unwrap_or_default(), &reference(object.name_any()));
    for workload in workloads.by_index(USED, &key) {
        queue.add(NamespacedName::of(&*workload));
    }
}

#[async_trait]
impl<K: Rolled> Controller for Roller<K> {
    type Key = NamespacedName;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ReconcileError> {
        let Some(workload) = self.workloads.get_key(key) else { return Ok(Outcome::Done) };
        let Some(spec) = pods(&*workload) else { return Ok(Outcome::Done) };
        let configuration = Of { namespace: &key.namespace, config_maps: &self.config_maps, secrets: &self.secrets };
        let Some(digest) = digest(&References::of(spec), &configuration) else { return Ok(Outcome::Done) };
        let annotations: Option<&BTreeMap<String, String>> = workload.meta().annotations.as_ref();
        let known = annotations.and_then(|annotations| annotations.get(DIGEST)).map(String::as_str);
        let Some(mut patch) = plan(known, &digest) else { return Ok(Outcome::Done) };
        let rolls = patch.get("spec").is_some();
        // From this version of the workload: a template that changed meanwhile may use something else.
        patch["metadata"]["resourceVersion"] = json!(workload.meta().resource_version);
        let api: Api<K> = self.context.api(&key.namespace);
        let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        ignore_not_found(written).map_err(ReconcileError::api("roll pods"))?;
        if rolls {
            let message = "Pods are replaced because a ConfigMap or Secret that they use has changed";
            self.events.record(&*workload, EventKind::Normal, "ConfigurationChanged", message);
        }
        Ok(Outcome::Done)
    }
}
