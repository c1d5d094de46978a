//! Accessors for `metadata` (metav1.ObjectMeta) on the dynamic tree. A missing or wrongly typed member reads as empty.

use crate::{GroupVersionKind, Key, NamespacedName, Value};

/// Reads an object's `metadata`.
#[derive(Clone, Copy)]
pub struct Meta<'a>(Option<&'a Value>);

/// Edits an object's `metadata`; an empty value removes the member, as Go's `omitempty` does.
pub struct MetaMut<'a>(&'a mut Value);

/// A reference to the object that owns another one (metav1.OwnerReference).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerReference {
    /// The owner's apiVersion.
    pub api_version: String,
    /// The owner's kind.
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's UID.
    pub uid: String,
    /// Whether the owner is the managing controller.
    pub controller: Option<bool>,
    /// Whether a foreground deletion of the owner waits for this object.
    pub block_owner_deletion: Option<bool>,
}

impl From<&Value> for OwnerReference {
    fn from(v: &Value) -> Self {
        let text = |key: &str| v[key].as_str().unwrap_or_default().to_owned();
        OwnerReference {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            controller: v["controller"].as_bool(),
            block_owner_deletion: v["blockOwnerDeletion"].as_bool(),
        }
    }
}

impl From<&OwnerReference> for Value {
    fn from(r: &OwnerReference) -> Value {
        let mut v = crate::value!({"apiVersion": &r.api_version, "kind": &r.kind, "name": &r.name, "uid": &r.uid});
        if let Some(controller) = r.controller {
            v.insert("controller", controller);
        }
        if let Some(block) = r.block_owner_deletion {
            v.insert("blockOwnerDeletion", block);
        }
        v
    }
}

impl Value {
    /// The object's `metadata`, for reading.
    pub fn meta(&self) -> Meta<'_> {
        Meta(self.get("metadata"))
    }

    /// The object's `metadata`, for editing; created when it is not there.
    pub fn meta_mut(&mut self) -> MetaMut<'_> {
        MetaMut(self.object_mut().entry("metadata"))
    }

    /// The object's `apiVersion`; empty when it has none.
    pub fn api_version(&self) -> &str {
        self["apiVersion"].as_str().unwrap_or_default()
    }

    /// The object's `kind`; empty when it has none.
    pub fn kind(&self) -> &str {
        self["kind"].as_str().unwrap_or_default()
    }

    /// The object's kind with group and version; `None` when `apiVersion` is malformed or either is empty.
    pub fn gvk(&self) -> Option<GroupVersionKind> {
        let gvk = GroupVersionKind::from_api_version(self.api_version(), self.kind()).ok()?;
        (!gvk.version.is_empty() && !gvk.kind.is_empty()).then_some(gvk)
    }

    /// Sets `apiVersion` and `kind`.
    pub fn set_gvk(&mut self, gvk: &GroupVersionKind) {
        self.insert("apiVersion", gvk.api_version());
        self.insert("kind", gvk.kind.as_str());
    }
}

impl<'a> Meta<'a> {
    /// Any member of the metadata.
    pub fn get(self, key: &str) -> Option<&'a Value> {
        self.0?.get(key)
    }

    fn text(self, key: &str) -> &'a str {
        self.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn items(self, key: &str) -> &'a [Value] {
        self.get(key).and_then(Value::as_array).unwrap_or_default()
    }

    fn pairs(self, key: &str) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        self.get(key).and_then(Value::as_object).into_iter().flat_map(PairSource::pairs)
    }

    /// `name`.
    pub fn name(self) -> &'a str {
        self.text("name")
    }

    /// `generateName`.
    pub fn generate_name(self) -> &'a str {
        self.text("generateName")
    }

    /// `namespace`.
    pub fn namespace(self) -> &'a str {
        self.text("namespace")
    }

    /// Namespace and name.
    pub fn namespaced_name(self) -> NamespacedName {
        NamespacedName::new(self.namespace(), self.name())
    }

    /// `uid`.
    pub fn uid(self) -> &'a str {
        self.text("uid")
    }

    /// `resourceVersion`.
    pub fn resource_version(self) -> &'a str {
        self.text("resourceVersion")
    }

    /// `generation`; 0 when there is none.
    pub fn generation(self) -> i64 {
        self.get("generation").and_then(Value::as_i64).unwrap_or_default()
    }

    /// `creationTimestamp` as text (RFC 3339).
    pub fn creation_timestamp(self) -> Option<&'a str> {
        self.get("creationTimestamp").and_then(Value::as_str)
    }

    /// `deletionTimestamp` as text (RFC 3339).
    pub fn deletion_timestamp(self) -> Option<&'a str> {
        self.get("deletionTimestamp").and_then(Value::as_str)
    }

    /// `deletionGracePeriodSeconds`.
    pub fn deletion_grace_period_seconds(self) -> Option<i64> {
        self.get("deletionGracePeriodSeconds").and_then(Value::as_i64)
    }

    /// `labels`, in key order.
    pub fn labels(self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        self.pairs("labels")
    }

    /// One label.
    pub fn label(self, key: &str) -> Option<&'a str> {
        self.get("labels")?.get(key)?.as_str()
    }

    /// `annotations`, in key order.
    pub fn annotations(self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        self.pairs("annotations")
    }

    /// One annotation.
    pub fn annotation(self, key: &str) -> Option<&'a str> {
        self.get("annotations")?.get(key)?.as_str()
    }

    /// `finalizers`.
    pub fn finalizers(self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        self.items("finalizers").iter().filter_map(Value::as_str)
    }

    /// `ownerReferences`, as they stand.
    pub fn owner_reference_values(self) -> &'a [Value] {
        self.items("ownerReferences")
    }

    /// `ownerReferences`.
    pub fn owner_references(self) -> impl Iterator<Item = OwnerReference> + use<'a> {
        self.items("ownerReferences").iter().map(OwnerReference::from)
    }

    /// The owner with `controller: true`.
    pub fn controller(self) -> Option<OwnerReference> {
        self.owner_references().find(|r| r.controller == Some(true))
    }

    /// `managedFields`.
    pub fn managed_fields(self) -> &'a [Value] {
        self.items("managedFields")
    }
}

/// Lets a `Map` of strings be iterated as pairs of `&str`.
trait PairSource {
    fn pairs(&self) -> PairIter<'_>;
}

type PairIter<'a> =
    std::iter::FilterMap<<&'a crate::Map as IntoIterator>::IntoIter, fn((&'a Key, &'a Value)) -> Option<(&'a str, &'a str)>>;

impl PairSource for crate::Map {
    fn pairs(&self) -> PairIter<'_> {
        self.into_iter().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
    }
}

impl MetaMut<'_> {
    /// For reading what is there now.
    pub fn read(&self) -> Meta<'_> {
        Meta(Some(self.0))
    }

    /// Sets any member; an empty value removes it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        if value.is_empty() {
            self.0.remove(key);
        } else {
            self.0.insert(Key::constant(key), value);
        }
    }

    /// Removes any member and returns it.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    /// Sets `name`.
    pub fn set_name(&mut self, name: &str) {
        self.set("name", name);
    }

    /// Sets `namespace`.
    pub fn set_namespace(&mut self, namespace: &str) {
        self.set("namespace", namespace);
    }

    /// Sets `uid`.
    pub fn set_uid(&mut self, uid: &str) {
        self.set("uid", uid);
    }

    /// Sets `resourceVersion`.
    pub fn set_resource_version(&mut self, resource_version: &str) {
        self.set("resourceVersion", resource_version);
    }

    /// Sets `generation`; 0 removes it.
    pub fn set_generation(&mut self, generation: i64) {
        self.set("generation", (generation != 0).then_some(generation));
    }

    /// Sets `creationTimestamp` (RFC 3339).
    pub fn set_creation_timestamp(&mut self, time: &str) {
        self.set("creationTimestamp", time);
    }

    /// Sets `deletionTimestamp` (RFC 3339) or removes it.
    pub fn set_deletion_timestamp(&mut self, time: Option<&str>) {
        self.set("deletionTimestamp", time);
    }

    /// Sets `deletionGracePeriodSeconds` or removes it.
    pub fn set_deletion_grace_period_seconds(&mut self, seconds: Option<i64>) {
        self.set("deletionGracePeriodSeconds", seconds);
    }

    /// Sets one label.
    pub fn set_label(&mut self, key: &str, value: &str) {
        self.0.object_mut().entry("labels").insert(key, value);
    }

    /// Removes one label.
    pub fn remove_label(&mut self, key: &str) {
        self.0.remove_path(&["labels", key]);
        self.drop_if_empty("labels");
    }

    /// Sets one annotation.
    pub fn set_annotation(&mut self, key: &str, value: &str) {
        self.0.object_mut().entry("annotations").insert(key, value);
    }

    /// Removes one annotation.
    pub fn remove_annotation(&mut self, key: &str) {
        self.0.remove_path(&["annotations", key]);
        self.drop_if_empty("annotations");
    }

    /// Sets `finalizers`.
    pub fn set_finalizers<S: AsRef<str>>(&mut self, finalizers: &[S]) {
        let list: Value = finalizers.iter().map(AsRef::as_ref).collect();
        self.set("finalizers", list);
    }

    /// Sets `ownerReferences`.
    pub fn set_owner_references(&mut self, references: &[OwnerReference]) {
        let list: Value = references.iter().map(Value::from).collect();
        self.set("ownerReferences", list);
    }

    /// Sets `managedFields`.
    pub fn set_managed_fields(&mut self, entries: Vec<Value>) {
        self.set("managedFields", entries);
    }

    fn drop_if_empty(&mut self, key: &str) {
        if self.0.get(key).is_some_and(Value::is_empty) {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn reads_and_edits() {
        let mut pod = value!({"apiVersion": "v1", "kind": "Pod"});
        assert_eq!(pod.meta().name(), "");
        assert_eq!(pod.gvk(), Some(GroupVersionKind::new("", "v1", "Pod")));
        let owner = OwnerReference {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            controller: Some(true),
            ..Default::default()
        };
        {
            let mut meta = pod.meta_mut();
            meta.set_name("a");
            meta.set_namespace("ns");
            meta.set_generation(3);
            meta.set_label("app", "x");
            meta.set_annotation("k", "v");
            meta.remove_annotation("k");
            meta.set_finalizers(&["f/1"]);
            meta.set_owner_references(std::slice::from_ref(&owner));
            meta.set_uid("");
        }
        let meta = pod.meta();
        assert_eq!(meta.namespaced_name().to_string(), "ns/a");
        assert_eq!(meta.labels().collect::<Vec<_>>(), [("app", "x")]);
        assert_eq!(meta.finalizers().collect::<Vec<_>>(), ["f/1"]);
        assert_eq!(meta.controller(), Some(owner));
        assert!(meta.get("annotations").is_none() && meta.get("uid").is_none());
        assert_eq!(meta.generation(), 3);
    }

    #[test]
    fn wrong_types_read_as_empty() {
        let odd = value!({"metadata": {"name": 1, "labels": "x", "finalizers": {"a": 1}, "generation": "7"}});
        assert_eq!(odd.meta().name(), "");
        assert_eq!(odd.meta().labels().count() + odd.meta().finalizers().count(), 0);
        assert_eq!(odd.meta().generation(), 0);
    }
}
