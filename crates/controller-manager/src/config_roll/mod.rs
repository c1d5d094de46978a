//! config-roll-controller, beyond upstream: rolls the pods of a Deployment, StatefulSet or DaemonSet with the annotation
//! `rusternetes.io/roll-on-config-change: "true"` when the data of a ConfigMap or Secret that its template uses changes.
//!
//! It writes annotations of the workload and of its template, and nothing else: the roll is the workload's own, with its strategy. While
//! something that the template needs is missing nothing happens. ConfigMaps and Secrets are not even read before somebody wishes it.

mod plan;
mod references;

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use client::{
    Change, Controller, EventKind, EventRecorder, NamespacedName, Outcome, ReconcileError, Store, WorkQueue, run_workers,
};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, PodTemplateSpec, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::plan::{Configuration, DIGEST, WISH, digest, forget, plan};
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

/// Whether a workload does not wish to be rolled (any more) and still carries what its pods were made with.
fn is_marked_in_vain(object: &impl Rolled) -> bool {
    !wishes(object) && object.meta().deletion_timestamp.is_none() && noted(object).is_some()
}

/// What the pods were made with, if that was noted.
fn noted(object: &impl Rolled) -> Option<&str> {
    object.meta().annotations.as_ref().and_then(|annotations| annotations.get(DIGEST)).map(String::as_str)
}

/// What is configured in the whole cluster.
struct Caches {
    config_maps: Store<ConfigMap>,
    secrets: Store<Secret>,
}

struct Roller<K> {
    context: Context,
    events: EventRecorder,
    workloads: Store<K>,
    /// Empty until somebody wishes to be rolled.
    caches: OnceLock<Caches>,
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
    // Cancelled at the first wish, and with the controller.
    let wished = context.token.child_token();
    tokio::join!(
        follow::<Deployment>(context.clone(), &wished),
        follow::<StatefulSet>(context.clone(), &wished),
        follow::<DaemonSet>(context.clone(), &wished),
    );
}

async fn follow<K: Rolled>(context: Context, wished: &CancellationToken) {
    let workloads = context.informers.get::<K>();
    workloads.store().add_index(USED, uses::<K>);
    let queue: WorkQueue<NamespacedName> = WorkQueue::new("config_roll");
    let (on_workload, wish) = (queue.clone(), wished.clone());
    workloads.add_handler(move |change| {
        let workload = &**change.object();
        if matches!(change, Change::Deleted(_)) {
            return;
        }
        if wishes(workload) {
            wish.cancel();
        }
        if wishes(workload) || is_marked_in_vain(workload) {
            on_workload.add(NamespacedName::of(workload));
        }
    });
    wait_synced!(workloads);
    let token = context.token.clone();
    let roller = Roller { events: context.events(NAME), workloads: workloads.store().clone(), caches: OnceLock::new(), context };
    let roller = Arc::new(roller);
    tokio::join!(run_workers(roller.clone(), queue.clone(), 1, token), look_at_configuration(&roller, &queue, wished));
}

/// From the first wish on: until then not one ConfigMap or Secret of the cluster is held in memory.
async fn look_at_configuration<K: Rolled>(roller: &Roller<K>, queue: &WorkQueue<NamespacedName>, wished: &CancellationToken) {
    wished.cancelled().await;
    if roller.context.token.is_cancelled() {
        return;
    }
    let informers = &roller.context.informers;
    let (config_maps, secrets) = (informers.get::<ConfigMap>(), informers.get::<Secret>());
    wait_synced!(config_maps, secrets);
    let caches = Caches { config_maps: config_maps.store().clone(), secrets: secrets.store().clone() };
    if roller.caches.set(caches).is_err() {
        return;
    }
    let (on_map, known) = (queue.clone(), roller.workloads.clone());
    config_maps.add_handler(move |change| wake(&known, &on_map, &**change.object(), Reference::ConfigMap));
    let (on_secret, known) = (queue.clone(), roller.workloads.clone());
    secrets.add_handler(move |change| wake(&known, &on_secret, &**change.object(), Reference::Secret));
    roller.workloads.for_each(|workload| {
        if wishes(&**workload) {
            queue.add(NamespacedName::of(&**workload));
        }
    });
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
        let Some(mut patch) = self.patch(&workload, &key.namespace) else { return Ok(Outcome::Done) };
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

impl<K: Rolled> Roller<K> {
    fn patch(&self, workload: &K, namespace: &str) -> Option<Value> {
        if is_marked_in_vain(workload) {
            return Some(forget());
        }
        let spec = pods(workload)?;
        let Caches { config_maps, secrets } = self.caches.get()?;
        plan(noted(workload), &digest(&References::of(spec), &Of { namespace, config_maps, secrets })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::model::{Model, NAMESPACE};
    use client::Informers;
    use parking_lot::Mutex;

    /// Requests of a controller, by their paths.
    fn recorded(inner: kube::Client) -> (kube::Client, Arc<Mutex<Vec<String>>>) {
        let paths: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&paths);
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            seen.lock().push(request.uri().path().to_owned());
            let inner = inner.clone();
            async move { inner.send(request).await }
        });
        (kube::Client::new(service, NAMESPACE), paths)
    }

    async fn until(model: &Model, what: &str, holds: impl Fn(&Deployment) -> bool) {
        let api = model.api::<Deployment>();
        let seen = async {
            while !holds(&api.get("web").await.expect("is there")) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), seen).await.unwrap_or_else(|_| panic!("{what}"));
    }

    #[tokio::test]
    async fn nothing_is_read_before_the_first_wish_and_a_wish_begins_anew() {
        let model = Model::new(0).await;
        let (client, paths) = recorded(model.admin.clone());
        let (mut context, _) = model.context(NAME, Config::default());
        context.informers = Informers::new(client.clone(), context.token.clone());
        context.client = client;
        let (informers, token) = (context.informers.clone(), context.token.clone());
        let running = tokio::spawn(run(context));
        model.create::<ConfigMap>(json!({"metadata": {"name": "settings"}, "data": {"k": "1"}})).await;
        let env = json!([{"configMapRef": {"name": "settings"}}]);
        model
            .create::<Deployment>(json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "image:1", "envFrom": env}]}}}}))
            .await;
        informers.get::<Deployment>().wait_synced().await.expect("is synced");
        informers.get::<StatefulSet>().wait_synced().await.expect("is synced");
        informers.get::<DaemonSet>().wait_synced().await.expect("is synced");
        // A listing that began by mistake would be under way before a later change of a Deployment arrives.
        let deployments = informers.get::<Deployment>();
        let arrives = async |what: &str, holds: &dyn Fn(&Deployment) -> bool| {
            let seen = async {
                while !deployments.store().get(NAMESPACE, "web").is_some_and(|web| holds(&web)) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(60), seen).await.unwrap_or_else(|_| panic!("{what}"));
        };
        arrives("it is there", &|_| true).await;
        let unrelated = Patch::Merge(json!({"metadata": {"labels": {"later": "yes"}}}));
        model.api::<Deployment>().patch("web", &PatchParams::default(), &unrelated).await.expect("is changed");
        arrives("it is changed", &|web| web.labels().contains_key("later")).await;
        let reads = |what: &str| paths.lock().iter().any(|path| path.ends_with(what));
        assert!(reads("/deployments") && !reads("/configmaps") && !reads("/secrets"), "{:?}", paths.lock());
        let wish = |wish: Value| Patch::Merge(json!({"metadata": {"annotations": {WISH: wish}}}));
        let api = model.api::<Deployment>();
        api.patch("web", &PatchParams::default(), &wish(json!("true"))).await.expect("is wished");
        until(&model, "what it was made with is noted", |web| noted(web).is_some()).await;
        assert!(reads("/configmaps") && reads("/secrets"));
        api.patch("web", &PatchParams::default(), &wish(Value::Null)).await.expect("is taken back");
        until(&model, "the note is gone", |web| noted(web).is_none()).await;
        let change = Patch::Merge(json!({"data": {"k": "2"}}));
        model.api::<ConfigMap>().patch("settings", &PatchParams::default(), &change).await.expect("is changed");
        api.patch("web", &PatchParams::default(), &wish(json!("true"))).await.expect("is wished again");
        until(&model, "it is noted again", |web| noted(web).is_some()).await;
        let web = api.get("web").await.expect("is there");
        let template = web.template().and_then(|template| template.metadata.as_ref()).and_then(|meta| meta.annotations.as_ref());
        assert!(template.is_none_or(|annotations| !annotations.contains_key(DIGEST)), "to set the wish rolls nothing");
        token.cancel();
        running.await.expect("ends");
    }
}
