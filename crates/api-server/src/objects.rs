//! Typed reads of the cluster's state for authentication, authorization and admission, and the one write that authentication makes.
//!
//! They see the registry through this narrow seam, so that their rules can be tested on a handful of objects.

use async_trait::async_trait;
use bytes::Bytes;
use typed::FromJson;

/// An object could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store or the cache failed.
    #[error("cannot read {resource} {namespace}/{name}")]
    Backend {
        /// The plural resource.
        resource: String,
        /// The namespace, or empty.
        namespace: String,
        /// The name, or empty for a list.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is stored is not an object of its kind.
    #[error("a stored object of {resource} does not parse")]
    Malformed {
        /// The plural resource.
        resource: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// What is stored is not text.
    #[error("a stored object of {resource} is not UTF-8")]
    NotText {
        /// The plural resource.
        resource: &'static str,
        /// Why.
        #[source]
        source: std::str::Utf8Error,
    },
}

/// An object could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot change {resource} {namespace}/{name}")]
pub struct WriteError {
    /// The plural resource.
    pub resource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Which objects a list is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListScope<'a> {
    /// Only this namespace; empty for all.
    pub namespace: &'a str,
    /// Only pods of this node (`spec.nodeName`); empty for all.
    pub node_name: &'a str,
}

/// Keys and values.
pub(crate) type Labels = Vec<(String, String)>;

/// Reads objects in their storage form, as JSON.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// One object; `None` when it does not exist. Sees every write that was acknowledged before the call.
    async fn get_json(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Bytes>, ReadError>;

    /// The labels of one object; `None` when it does not exist. As fresh as [`Objects::get_json`], without reading the object.
    async fn labels(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Labels>, ReadError>;

    /// All objects in a scope, as a list document (`{"items": [...]}`). May lag behind the newest write by a moment.
    async fn list_json(&self, group: &str, resource: &str, scope: ListScope<'_>) -> Result<Bytes, ReadError>;

    /// Changes an object by a JSON merge patch. The only write through this seam: what is noted about the use of a credential.
    async fn merge_json(&self, group: &str, resource: &str, namespace: &str, name: &str, patch: Bytes) -> Result<(), WriteError>;
}

/// One object as its type.
pub(crate) async fn get<T: FromJson>(objects: &dyn Objects, namespace: &str, name: &str) -> Result<Option<T>, ReadError> {
    match objects.get_json(T::GROUP, T::URL_PATH_SEGMENT, namespace, name).await? {
        Some(json) => read::<T, _>(&json, T::from_json).map(Some),
        None => Ok(None),
    }
}

/// All objects in a scope as their type.
pub(crate) async fn list<T: FromJson>(objects: &dyn Objects, scope: ListScope<'_>) -> Result<Vec<T>, ReadError> {
    let json = objects.list_json(T::GROUP, T::URL_PATH_SEGMENT, scope).await?;
    read::<T, _>(&json, T::items_from_json)
}

/// As [`list`], but nothing at all where no object has `text` in it: it is quicker to look for a text than to read objects.
pub(crate) async fn list_mentioning<T: FromJson>(
    objects: &dyn Objects,
    scope: ListScope<'_>,
    text: &str,
) -> Result<Vec<T>, ReadError> {
    let json = objects.list_json(T::GROUP, T::URL_PATH_SEGMENT, scope).await?;
    let mentions = std::str::from_utf8(&json).is_ok_and(|json| json.contains(text));
    if mentions { read::<T, _>(&json, T::items_from_json) } else { Ok(Vec::new()) }
}

fn read<T: FromJson, R>(json: &[u8], read: fn(&str) -> serde_json::Result<R>) -> Result<R, ReadError> {
    let resource = T::URL_PATH_SEGMENT;
    let text = std::str::from_utf8(json).map_err(|source| ReadError::NotText { resource, source })?;
    read(text).map_err(|source| ReadError::Malformed { resource, source })
}

#[cfg(test)]
pub(crate) mod memory {
    //! A handful of objects for tests.

    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    pub(crate) struct MemoryObjects {
        objects: parking_lot::Mutex<BTreeMap<(String, String, String), serde_json::Value>>,
    }

    /// RFC 7386, but for members that are removed.
    fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
        match patch.as_object() {
            Some(members) => members.iter().for_each(|(name, value)| merge(&mut target[name], value)),
            None => *target = patch.clone(),
        }
    }

    impl MemoryObjects {
        /// Adds (or replaces) an object, `resource` being its plural.
        pub(crate) fn put(&self, resource: &str, object: serde_json::Value) {
            let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
            self.objects.lock().insert((resource.to_owned(), field("namespace"), field("name")), object);
        }

        /// Removes one.
        pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) {
            self.objects.lock().remove(&(resource.to_owned(), namespace.to_owned(), name.to_owned()));
        }
    }

    #[async_trait]
    impl Objects for MemoryObjects {
        async fn get_json(&self, _group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Bytes>, ReadError> {
            let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
            Ok(self.objects.lock().get(&key).map(|object| Bytes::from(object.to_string())))
        }

        async fn labels(&self, _group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Labels>, ReadError> {
            let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
            let objects = self.objects.lock();
            let labels = |object: &serde_json::Value| {
                let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
                labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
            };
            Ok(objects.get(&key).map(labels))
        }

        async fn list_json(&self, _group: &str, resource: &str, scope: ListScope<'_>) -> Result<Bytes, ReadError> {
            let objects = self.objects.lock();
            let matching = objects.iter().filter(|((r, namespace, _), object)| {
                r == resource
                    && (scope.namespace.is_empty() || scope.namespace == namespace)
                    && (scope.node_name.is_empty() || object["spec"]["nodeName"] == scope.node_name)
            });
            let items: Vec<_> = matching.map(|(_, object)| object.clone()).collect();
            Ok(Bytes::from(serde_json::json!({ "items": items }).to_string()))
        }

        async fn merge_json(
            &self,
            _group: &str,
            resource: &str,
            namespace: &str,
            name: &str,
            patch: Bytes,
        ) -> Result<(), WriteError> {
            let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
            let failed = |source| WriteError { resource: key.0.clone(), namespace: key.1.clone(), name: key.2.clone(), source };
            let patch: serde_json::Value = serde_json::from_slice(&patch).map_err(|error| failed(error.into()))?;
            match self.objects.lock().get_mut(&key) {
                Some(object) => merge(object, &patch),
                None => return Err(failed("it does not exist".into())),
            }
            Ok(())
        }
    }
}
