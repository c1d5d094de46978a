//! The read side of an informer: objects by key, in key order, with optional indexes.
//!
//! Invariants: an object in the store is never mutated, only replaced; every index holds exactly the keys that its
//! function yields for the objects now in the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kube::ResourceExt;
use parking_lot::RwLock;

use crate::NamespacedName;

/// Yields the values under which an object is found in an index.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

struct Index<K> {
    values_of: IndexFn<K>,
    keys: HashMap<String, BTreeSet<NamespacedName>>,
}

struct Inner<K> {
    objects: BTreeMap<NamespacedName, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

/// A cheap, cloneable reader of an informer's cache. Reads never block on I/O; clones of `Arc<K>` may be kept.
pub struct Store<K> {
    inner: Arc<RwLock<Inner<K>>>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: ResourceExt> Default for Store<K> {
    /// An empty store that no informer fills.
    fn default() -> Self {
        Self::new()
    }
}

impl<K: ResourceExt> Store<K> {
    /// A store of these objects that no informer fills, for pure code under test.
    pub fn from_objects(objects: impl IntoIterator<Item = K>) -> Self {
        let store = Self::new();
        for object in objects {
            store.insert(NamespacedName::of(&object), Arc::new(object));
        }
        store
    }

    pub(crate) fn new() -> Self {
        Self { inner: Arc::new(RwLock::new(Inner { objects: BTreeMap::new(), indexes: HashMap::new() })) }
    }

    /// The object with this namespace (empty for cluster scope) and name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&NamespacedName::new(namespace, name))
    }

    /// The object with this key.
    pub fn get_key(&self, key: &NamespacedName) -> Option<Arc<K>> {
        self.inner.read().objects.get(key).cloned()
    }

    /// All objects, in key order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.read().objects.values().cloned().collect()
    }

    /// All objects of one namespace, in name order.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let inner = self.inner.read();
        inner
            .objects
            .range(NamespacedName::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<NamespacedName> {
        self.inner.read().objects.keys().cloned().collect()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Whether the cache holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` on every object without cloning. The store is locked for reading meanwhile: be quick.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<K>)) {
        for object in self.inner.read().objects.values() {
            visit(object);
        }
    }

    /// Objects whose index function yields `value`. Empty when there is no such index: add it with
    /// [`Store::add_index`] first.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let inner = self.inner.read();
        let Some(keys) = inner.indexes.get(index).and_then(|i| i.keys.get(value)) else {
            return Vec::new();
        };
        keys.iter().filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// Number of objects under one index value.
    pub fn count_index(&self, index: &str, value: &str) -> usize {
        let inner = self.inner.read();
        inner.indexes.get(index).and_then(|i| i.keys.get(value)).map_or(0, BTreeSet::len)
    }

    /// Adds an index, filling it from the objects present. Adding a name a second time is a no-op, so that
    /// several users of the shared informer can each ask for the index that they need; the same name must always
    /// mean the same function.
    pub fn add_index(&self, name: &'static str, values_of: IndexFn<K>) {
        let mut inner = self.inner.write();
        if inner.indexes.contains_key(name) {
            return;
        }
        let mut keys: HashMap<String, BTreeSet<NamespacedName>> = HashMap::new();
        for (key, object) in &inner.objects {
            for value in values_of(object) {
                keys.entry(value).or_default().insert(key.clone());
            }
        }
        inner.indexes.insert(name, Index { values_of, keys });
    }

    /// Adds the index of controllers: the UID of the controlling owner reference. Query it with
    /// [`Store::by_controller`] and [`Store::orphans`].
    pub fn add_controller_index(&self) {
        self.add_index(CONTROLLER_INDEX, |object| {
            let controller = object.owner_references().iter().find(|reference| reference.controller == Some(true));
            vec![match controller {
                Some(reference) => reference.uid.clone(),
                None => orphan_value(object.meta().namespace.as_deref().unwrap_or("")),
            }]
        });
    }

    /// Objects controlled by this UID. Needs [`Store::add_controller_index`].
    pub fn by_controller(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(CONTROLLER_INDEX, uid)
    }

    /// Objects of a namespace that no controller owns. Needs [`Store::add_controller_index`].
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        self.by_index(CONTROLLER_INDEX, &orphan_value(namespace))
    }

    /// Puts an object in; returns the one that it replaces.
    pub(crate) fn insert(&self, key: NamespacedName, object: Arc<K>) -> Option<Arc<K>> {
        let mut inner = self.inner.write();
        let old = inner.objects.insert(key.clone(), Arc::clone(&object));
        for index in inner.indexes.values_mut() {
            let new_values = (index.values_of)(&object);
            if let Some(old) = &old {
                let old_values = (index.values_of)(old);
                if old_values == new_values {
                    continue;
                }
                index.forget(&key, &old_values);
            }
            for value in new_values {
                index.keys.entry(value).or_default().insert(key.clone());
            }
        }
        old
    }

    /// Takes an object out.
    pub(crate) fn remove(&self, key: &NamespacedName) -> Option<Arc<K>> {
        let mut inner = self.inner.write();
        let old = inner.objects.remove(key)?;
        for index in inner.indexes.values_mut() {
            let values = (index.values_of)(&old);
            index.forget(key, &values);
        }
        Some(old)
    }
}

const CONTROLLER_INDEX: &str = "controllerUid";

/// No UID holds a slash.
fn orphan_value(namespace: &str) -> String {
    format!("orphans/{namespace}")
}

impl<K> Index<K> {
    fn forget(&mut self, key: &NamespacedName, values: &[String]) {
        for value in values {
            if let Some(keys) = self.keys.get_mut(value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn config_map(namespace: &str, name: &str, label: &str) -> Arc<ConfigMap> {
        Arc::new(ConfigMap {
            metadata: ObjectMeta {
                namespace: Some(namespace.into()),
                name: Some(name.into()),
                labels: Some([("app".to_owned(), label.to_owned())].into()),
                ..Default::default()
            },
            ..Default::default()
        })
    }

    fn put(store: &Store<ConfigMap>, object: Arc<ConfigMap>) {
        store.insert(NamespacedName::of(&*object), object);
    }

    #[test]
    fn namespace_ranges_do_not_bleed_into_longer_names() {
        let store = Store::new();
        for (ns, name) in [("a", "x"), ("a", "y"), ("ab", "x"), ("b", "x")] {
            put(&store, config_map(ns, name, "l"));
        }
        let names: Vec<_> = store.list_namespace("a").iter().map(|o| o.name_any()).collect();
        assert_eq!(names, ["x", "y"]);
        assert_eq!(store.list_namespace("ab").len(), 1);
        assert!(store.list_namespace("").is_empty());
    }

    #[test]
    fn an_index_follows_updates_and_deletes() {
        let store = Store::new();
        put(&store, config_map("a", "x", "one"));
        store.add_index("app", |o: &ConfigMap| o.labels().values().cloned().collect());
        put(&store, config_map("a", "y", "one"));
        assert_eq!(store.count_index("app", "one"), 2);
        put(&store, config_map("a", "x", "two"));
        assert_eq!(store.count_index("app", "one"), 1);
        assert_eq!(store.by_index("app", "two")[0].name_any(), "x");
        store.remove(&NamespacedName::new("a", "x"));
        assert!(store.by_index("app", "two").is_empty());
        assert_eq!(store.len(), 1);
    }
}
