//! One object in the cache, and one change of it.

use std::sync::{Arc, OnceLock};

use apimachinery::{Value, Wanted};
use bytes::Bytes;

use crate::registry::codec::{CodecError, Header, Served};

/// How index keys are taken from objects of a resource.
pub(crate) trait Indexer: Send + Sync + 'static {
    /// What of an object is needed to take its labels and fields, `None` for all of it: that would cost ten times as much.
    fn wanted(&self) -> Option<&[Wanted]>;

    /// The values of the resource's selectable fields, in their order, from an object that has at least what is wanted.
    fn fields(&self, object: &Value) -> Box<[Box<str>]>;
}

/// An object: its bytes as served, and what selectors ask about.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The whole key in the store.
    pub(crate) key: Bytes,
    /// The revision of the object's last change.
    pub(crate) revision: i64,
    /// The bytes.
    pub(crate) served: Served,
    /// `metadata.labels`.
    pub(crate) labels: Box<[(Box<str>, Box<str>)]>,
    /// The selectable fields' values.
    pub(crate) fields: Box<[Box<str>]>,
    /// Where namespace and name are in the key.
    path_start: u16,
    namespace_len: u16,
}

impl Entry {
    /// Reads a stored value. `path_start` is the length of the resource's prefix with its slash.
    pub(crate) fn new(
        header: &Header,
        indexer: &dyn Indexer,
        key: Bytes,
        path_start: usize,
        stored: &Bytes,
        revision: i64,
    ) -> Result<Entry, CodecError> {
        let served = header.serve(stored, revision)?;
        let object = match indexer.wanted() {
            Some(wanted) => served.project(wanted)?,
            None => served.object()?,
        };
        let labels = object.meta().labels().map(|(key, value)| (key.into(), value.into())).collect();
        let namespace_len = key[path_start..].iter().position(|byte| *byte == b'/').unwrap_or(0);
        Ok(Entry {
            revision,
            labels,
            fields: indexer.fields(&object),
            served,
            // Keys are at most a few hundred bytes: group, namespace and name have their limits.
            path_start: path_start as u16,
            namespace_len: namespace_len as u16,
            key,
        })
    }

    fn path(&self) -> &str {
        std::str::from_utf8(&self.key[usize::from(self.path_start)..]).unwrap_or_default()
    }

    /// The namespace; empty for cluster-scoped objects.
    pub(crate) fn namespace(&self) -> &str {
        &self.path()[..usize::from(self.namespace_len)]
    }

    /// The name.
    pub(crate) fn name(&self) -> &str {
        match usize::from(self.namespace_len) {
            0 => self.path(),
            len => &self.path()[len + 1..],
        }
    }

    /// About how much memory the entry takes.
    pub(crate) fn bytes(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len() + 32).sum();
        let fields: usize = self.fields.iter().map(|value| value.len() + 16).sum();
        std::mem::size_of::<Entry>() + self.key.len() + self.served.json().len() + labels + fields
    }
}

/// One change.
#[derive(Debug)]
pub(crate) struct CacheEvent {
    /// The revision that made it.
    pub(crate) revision: i64,
    /// The object before; `None` for a creation.
    pub(crate) previous: Option<Arc<Entry>>,
    /// The object after; `None` for a deletion.
    pub(crate) current: Option<Arc<Entry>>,
    /// When it came in, for the ring's age.
    pub(crate) received: std::time::Instant,
}

impl CacheEvent {
    /// The object after, or else before.
    pub(crate) fn entry(&self) -> Option<&Arc<Entry>> {
        self.current.as_ref().or(self.previous.as_ref())
    }
}

/// A change on its way to the watchers. Most of them want the same bytes: these are made by the first and shared by all, and are gone
/// with the last, so that the ring does not hold them.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The change.
    pub(crate) event: Arc<CacheEvent>,
    json: OnceLock<Bytes>,
    protobuf: OnceLock<Bytes>,
}

impl Delivery {
    pub(super) fn new(event: Arc<CacheEvent>) -> Delivery {
        Delivery { event, json: OnceLock::new(), protobuf: OnceLock::new() }
    }

    /// The frame in JSON for watchers that want the object as it is and see the change as what it is.
    pub(crate) fn json(&self, make: impl FnOnce() -> Bytes) -> &Bytes {
        self.json.get_or_init(make)
    }

    /// The same in protobuf.
    pub(crate) fn protobuf(&self, make: impl FnOnce() -> Bytes) -> &Bytes {
        self.protobuf.get_or_init(make)
    }
}
