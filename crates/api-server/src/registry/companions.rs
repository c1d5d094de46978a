//! Objects of other kinds that are written in the same transaction as the object that they belong to: the IPAddresses of a Service.
//!
//! Invariant: no crash and no race leaves one without the other. Admission does not see companions: they are the server's own doing.

use apimachinery::{GroupResource, Status, Value};
use bytes::Bytes;
use storage::{Compare, LeaseId, Op, Revision, Txn};

use super::options::WriteOptions;
use super::write::Write;
use super::{managed, meta};

/// A companion: a cluster-scoped object in the only version of its kind.
#[derive(Clone, Debug)]
pub struct Companion {
    /// Group and plural name.
    pub resource: GroupResource,
    /// The object, without what the system fills in.
    pub object: Value,
}

/// What a write does to companions.
#[derive(Clone, Debug, Default)]
pub struct Companions {
    /// Made with it. The write fails if one is there already.
    pub added: Vec<Companion>,
    /// Removed with it, if they are there.
    pub removed: Vec<(GroupResource, String)>,
}

/// The manager in `managedFields` of what the server does by itself.
const MANAGER: &str = "kube-apiserver";

impl Write<'_> {
    /// Adds what happens to companions when the object goes from `old` to `new`.
    pub(super) fn add_companions(&self, txn: &mut Txn, new: Option<&Value>, old: Option<&Value>) {
        let Companions { added, removed } = self.stored.strategy.companions(new, old);
        for companion in added {
            let Some(endpoint) = self.engine.catalog.get(&companion.resource.group, "v1", &companion.resource.resource) else {
                continue;
            };
            let Some(stored) = &endpoint.stored else { continue };
            let write = Write { endpoint, stored, namespace: "", subresource: "", ..*self };
            let options = WriteOptions { field_manager: MANAGER.to_owned(), ..WriteOptions::internal() };
            let mut object = managed::created(&write, companion.object, &options);
            meta::fill_system_fields(&mut object);
            let key = Bytes::from(stored.key("", object.meta().name()));
            txn.compares.push(Compare::ModRevision(key.clone(), Revision(0)));
            txn.success.push(Op::Put { key, value: stored.header.encode(&object), lease: LeaseId::default() });
        }
        for (resource, name) in removed {
            let endpoint = self.engine.catalog.get(&resource.group, "v1", &resource.resource);
            if let Some(stored) = endpoint.and_then(|endpoint| endpoint.stored.as_ref()) {
                txn.success.push(Op::Delete { key: Bytes::from(stored.key("", &name)) });
            }
        }
    }

    /// A transaction failed although the object is as it was expected: somebody made a companion in the meantime.
    pub(super) fn companion_conflict(&self, name: &str) -> Status {
        Status::conflict(&self.endpoint.row.group_resource(), name, "what belongs to the object was taken by another meanwhile")
    }
}
