//! ConfigMaps and Secrets that pods of this node refer to: one watch for each object while a pod uses it, as upstream's watching manager.
//! A change wakes the pods that refer to it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::Informer;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use kube::api::Api;
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::context::Core;
use crate::pod::access::{PodAccess, ephemeral_as_container};

/// How long a reader waits for the first answer.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// Which kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

/// An object as last seen.
#[derive(Debug, Clone)]
pub(crate) enum Object {
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

impl Object {
    /// The entries that are text.
    pub(crate) fn texts(&self) -> Vec<(String, String)> {
        match self {
            Object::ConfigMap(map) => map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            Object::Secret(secret) => {
                secret.data.iter().flatten().map(|(k, v)| (k.clone(), String::from_utf8_lossy(&v.0).into_owned())).collect()
            }
        }
    }

    /// One entry as text.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        match self {
            Object::ConfigMap(map) => map.data.as_ref()?.get(key).cloned(),
            Object::Secret(secret) => secret.data.as_ref()?.get(key).map(|v| String::from_utf8_lossy(&v.0).into_owned()),
        }
    }

    /// All entries as files.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        match self {
            Object::ConfigMap(map) => {
                let texts = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
                texts.chain(map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()))).collect()
            }
            Object::Secret(secret) => secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect(),
        }
    }
}

type Key = (Kind, String, String);

#[derive(Clone)]
enum Watch {
    ConfigMap(Informer<ConfigMap>),
    Secret(Informer<Secret>),
}

struct Entry {
    watch: Watch,
    users: HashSet<String>,
    stop: CancellationToken,
}

/// The objects in use.
#[derive(Default)]
pub(crate) struct ObjectCache {
    entries: Mutex<HashMap<Key, Entry>>,
}

impl ObjectCache {
    /// Starts watching what `pod` refers to.
    pub(crate) fn register(&self, core: &Arc<Core>, pod: &Pod) {
        for (kind, name) in references(pod) {
            self.watch(core, pod, kind, &name);
        }
    }

    /// Stops watching what only the pod `uid` used.
    pub(crate) fn release(&self, uid: &str) {
        self.entries.lock().retain(|_, entry| {
            entry.users.remove(uid);
            if entry.users.is_empty() {
                entry.stop.cancel();
            }
            !entry.users.is_empty()
        });
    }

    fn watch(&self, core: &Arc<Core>, pod: &Pod, kind: Kind, name: &str) {
        let key = (kind, pod.namespace().to_owned(), name.to_owned());
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&key) {
            entry.users.insert(pod.uid().to_owned());
            return;
        }
        let stop = core.token.child_token();
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let watch = match kind {
            Kind::ConfigMap => {
                let (informer, task) =
                    Informer::<ConfigMap>::start_in(core.client.clone(), pod.namespace(), config, stop.clone());
                core.tasks.spawn(task);
                informer.add_handler(poker(core, key.clone()));
                Watch::ConfigMap(informer)
            }
            Kind::Secret => {
                let (informer, task) = Informer::<Secret>::start_in(core.client.clone(), pod.namespace(), config, stop.clone());
                core.tasks.spawn(task);
                informer.add_handler(poker(core, key.clone()));
                Watch::Secret(informer)
            }
        };
        entries.insert(key, Entry { watch, users: HashSet::from([pod.uid().to_owned()]), stop });
    }

    /// The object, `None` when there is none; the error says that the API could not be asked.
    pub(crate) async fn get(&self, core: &Core, pod: &Pod, kind: Kind, name: &str) -> Result<Option<Object>, String> {
        let namespace = pod.namespace();
        let watch = self.entries.lock().get(&(kind, namespace.to_owned(), name.to_owned())).map(|e| e.watch.clone());
        let cached = match watch {
            Some(watch) => watch.get(namespace, name).await?,
            None => None,
        };
        if cached.is_some() {
            return Ok(cached);
        }
        // A watch may be a moment behind: "not found" is only said on the server's word.
        let failed = |error: kube::Error| {
            format!(
                "failed to fetch {} \"{namespace}/{name}\": {error}",
                if kind == Kind::ConfigMap { "configmap" } else { "secret" }
            )
        };
        match kind {
            Kind::ConfigMap => Api::<ConfigMap>::namespaced(core.client.clone(), namespace)
                .get_opt(name)
                .await
                .map(|o| o.map(|o| Object::ConfigMap(Arc::new(o))))
                .map_err(failed),
            Kind::Secret => Api::<Secret>::namespaced(core.client.clone(), namespace)
                .get_opt(name)
                .await
                .map(|o| o.map(|o| Object::Secret(Arc::new(o))))
                .map_err(failed),
        }
    }

    fn users(&self, key: &Key) -> Vec<String> {
        self.entries.lock().get(key).map(|e| e.users.iter().cloned().collect()).unwrap_or_default()
    }
}

impl Watch {
    async fn get(&self, namespace: &str, name: &str) -> Result<Option<Object>, String> {
        let late = |kind: &str| format!("failed to sync {kind} cache: timed out waiting for the condition");
        match self {
            Watch::ConfigMap(informer) => {
                let synced = tokio::time::timeout(SYNC_TIMEOUT, informer.wait_synced()).await;
                synced.map_err(|_| late("configmap"))?.map_err(|_| late("configmap"))?;
                Ok(informer.store().get(namespace, name).map(Object::ConfigMap))
            }
            Watch::Secret(informer) => {
                let synced = tokio::time::timeout(SYNC_TIMEOUT, informer.wait_synced()).await;
                synced.map_err(|_| late("secret"))?.map_err(|_| late("secret"))?;
                Ok(informer.store().get(namespace, name).map(Object::Secret))
            }
        }
    }
}

fn poker<K>(core: &Arc<Core>, key: Key) -> impl Fn(&client::Change<'_, K>) + Send + Sync + 'static {
    // Weak: the watch must not keep the kubelet alive.
    let core = Arc::downgrade(core);
    move |_| {
        if let Some(core) = core.upgrade() {
            core.objects.users(&key).iter().for_each(|uid| core.pods.poke(uid));
        }
    }
}

/// Every ConfigMap and Secret that the pod names.
fn references(pod: &Pod) -> HashSet<(Kind, String)> {
    let mut found = HashSet::new();
    let mut add = |kind, name: &str| {
        if !name.is_empty() {
            found.insert((kind, name.to_owned()));
        }
    };
    let ephemeral: Vec<Container> = pod.ephemeral_containers().iter().map(ephemeral_as_container).collect();
    for container in pod.containers().iter().chain(pod.init_containers()).chain(&ephemeral) {
        for source in container.env_from.iter().flatten() {
            source.config_map_ref.iter().for_each(|r| add(Kind::ConfigMap, &r.name));
            source.secret_ref.iter().for_each(|r| add(Kind::Secret, &r.name));
        }
        for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            source.config_map_key_ref.iter().for_each(|r| add(Kind::ConfigMap, &r.name));
            source.secret_key_ref.iter().for_each(|r| add(Kind::Secret, &r.name));
        }
    }
    for volume in pod.pod_spec().volumes.iter().flatten() {
        volume.config_map.iter().for_each(|r| add(Kind::ConfigMap, &r.name));
        volume.secret.iter().for_each(|r| add(Kind::Secret, r.secret_name.as_deref().unwrap_or("")));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            source.config_map.iter().for_each(|r| add(Kind::ConfigMap, &r.name));
            source.secret.iter().for_each(|r| add(Kind::Secret, &r.name));
        }
    }
    pod.pod_spec().image_pull_secrets.iter().flatten().for_each(|r| add(Kind::Secret, &r.name));
    found
}
