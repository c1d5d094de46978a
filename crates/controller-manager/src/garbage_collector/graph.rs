//! Who owns whom. Pure: events come in, work comes out.
//!
//! A node is kept for every object (its identity, owners and dependents, nothing else), and a *virtual* node for an
//! owner that is only known from references to it, until the object itself shows up or is found to be absent.
//! References name their owner by UID and by coordinates (API version, kind, name); coordinates may be wrong, so
//! absence is remembered by both.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub(super) const ORPHAN: &str = "orphan";
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Absent owners remembered (upstream's cache size).
const ABSENT_MAX: usize = 500;

pub(super) type Uid = Arc<str>;

/// Group version and kind, shared by all objects of the kind.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) api_version: String,
    pub(super) kind: String,
}

/// What an object is, or claims of it say it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) kind: Arc<Kind>,
    /// Empty if cluster-scoped.
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) uid: Uid,
}

/// An owner reference, as compactly as the graph needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    kind: Arc<Kind>,
    name: Arc<str>,
    uid: Uid,
    blocks: bool,
}

impl Owner {
    fn names(&self, identity: &Identity) -> bool {
        self.uid == identity.uid && self.kind == identity.kind && self.name == identity.name
    }
}

#[derive(Debug)]
struct Node {
    identity: Identity,
    owners: Vec<Owner>,
    dependents: HashSet<Uid>,
    /// Deleted in the foreground: it waits for its dependents.
    waits_for_dependents: bool,
    /// Deleted with policy Orphan: its dependents are to be freed.
    orphans_dependents: bool,
    being_deleted: bool,
    is_virtual: bool,
}

/// Something to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Work {
    /// Delete the object if none of its owners exists.
    Delete(Uid),
    /// As [`Work::Delete`], after a back-off.
    DeleteLater(Uid),
    /// Free the dependents of this object.
    Orphan(Uid),
    /// The object refers to an owner in another namespace: tell its users.
    InvalidReference(Uid, Uid),
}

/// A copy of what is known of an object.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) identity: Identity,
    pub(super) is_virtual: bool,
    pub(super) being_deleted: bool,
    pub(super) waits_for_dependents: bool,
    pub(super) dependents: Vec<Dependent>,
}

/// A dependent, as seen by its owner.
#[derive(Clone, Debug)]
pub(super) struct Dependent {
    pub(super) identity: Identity,
    /// Its reference has `blockOwnerDeletion`.
    pub(super) blocks: bool,
    pub(super) waits_for_dependents: bool,
}

#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    kinds: HashSet<Arc<Kind>>,
    absent: HashSet<Identity>,
    absent_order: VecDeque<Identity>,
}

impl Graph {
    /// The shared copy of a kind.
    pub(super) fn kind(&mut self, api_version: &str, kind: &str) -> Arc<Kind> {
        let kind = Kind { api_version: api_version.to_owned(), kind: kind.to_owned() };
        if let Some(known) = self.kinds.get(&kind) {
            return Arc::clone(known);
        }
        let kind = Arc::new(kind);
        self.kinds.insert(Arc::clone(&kind));
        kind
    }

    fn owners(&mut self, meta: &ObjectMeta) -> Vec<Owner> {
        let references: &[OwnerReference] = meta.owner_references.as_deref().unwrap_or_default();
        references
            .iter()
            .map(|reference| Owner {
                kind: self.kind(&reference.api_version, &reference.kind),
                name: reference.name.as_str().into(),
                uid: self.uid(&reference.uid),
                blocks: reference.block_owner_deletion == Some(true),
            })
            .collect()
    }

    fn uid(&self, uid: &str) -> Uid {
        self.nodes.get_key_value(uid).map_or_else(|| uid.into(), |(known, _)| Arc::clone(known))
    }

    pub(super) fn snapshot(&self, uid: &str) -> Option<Snapshot> {
        let node = self.nodes.get(uid)?;
        let dependents = node.dependents.iter().filter_map(|dependent| {
            let dependent = self.nodes.get(dependent)?;
            Some(Dependent {
                identity: dependent.identity.clone(),
                blocks: dependent.owners.iter().any(|owner| *owner.uid == *uid && owner.blocks),
                waits_for_dependents: dependent.waits_for_dependents,
            })
        });
        Some(Snapshot {
            identity: node.identity.clone(),
            is_virtual: node.is_virtual,
            being_deleted: node.being_deleted,
            waits_for_dependents: node.waits_for_dependents,
            dependents: dependents.collect(),
        })
    }

    /// UIDs of the objects of a kind that were seen.
    pub(super) fn observed_of_kind(&self, kind: &Kind) -> Vec<Uid> {
        let nodes = self.nodes.iter();
        nodes.filter(|(_, node)| !node.is_virtual && *node.identity.kind == *kind).map(|(uid, _)| Arc::clone(uid)).collect()
    }

    /// Whether an owner is known not to exist. `namespace` is that of the dependent.
    pub(super) fn is_absent(&mut self, reference: &OwnerReference, namespace: &str) -> bool {
        let owner = self.identity_of(reference, "");
        let namespaced = self.identity_of(reference, namespace);
        self.absent.contains(&owner) || self.absent.contains(&namespaced)
    }

    fn identity_of(&mut self, reference: &OwnerReference, namespace: &str) -> Identity {
        Identity {
            kind: self.kind(&reference.api_version, &reference.kind),
            namespace: namespace.into(),
            name: reference.name.as_str().into(),
            uid: self.uid(&reference.uid),
        }
    }

    /// Remembers that an owner does not exist. `namespace` is empty if the owner's kind is cluster-scoped.
    pub(super) fn note_absent(&mut self, reference: &OwnerReference, namespace: &str) {
        let identity = self.identity_of(reference, namespace);
        self.remember_absent(identity);
    }

    fn remember_absent(&mut self, identity: Identity) {
        if self.absent.insert(identity.clone()) {
            self.absent_order.push_back(identity);
        }
        if self.absent_order.len() > ABSENT_MAX
            && let Some(oldest) = self.absent_order.pop_front()
        {
            self.absent.remove(&oldest);
        }
    }

    /// An object was seen, or seen to have changed.
    pub(super) fn observe(&mut self, kind: &Arc<Kind>, meta: &ObjectMeta) -> Vec<Work> {
        let mut work = Vec::new();
        let uid = self.uid(meta.uid.as_deref().unwrap_or(""));
        let identity = Identity {
            kind: Arc::clone(kind),
            namespace: meta.namespace.as_deref().unwrap_or("").into(),
            name: meta.name.as_deref().unwrap_or("").into(),
            uid: Arc::clone(&uid),
        };
        let owners = self.owners(meta);
        if self.nodes.contains_key(&uid) {
            self.confirm(&uid, &identity, &mut work);
            self.change_owners(&uid, owners, &mut work);
        } else {
            let node = Node {
                identity,
                owners: owners.clone(),
                dependents: HashSet::new(),
                waits_for_dependents: false,
                orphans_dependents: false,
                being_deleted: false,
                is_virtual: false,
            };
            self.nodes.insert(Arc::clone(&uid), node);
            self.add_to_owners(&uid, &owners, &mut work);
        }
        self.note_deletion(&uid, meta, &mut work);
        work
    }

    /// A node that was virtual turns out to exist, maybe under other coordinates than its dependents say.
    fn confirm(&mut self, uid: &Uid, observed: &Identity, work: &mut Vec<Work>) {
        let Some(node) = self.nodes.get_mut(uid) else { return };
        if !node.is_virtual {
            return;
        }
        node.is_virtual = false;
        if node.identity == *observed {
            return;
        }
        node.identity = observed.clone();
        let (_, doubtful) = self.partition_dependents(uid, observed);
        for dependent in doubtful {
            self.report_if_foreign(&dependent, observed, work);
            work.push(Work::Delete(dependent));
        }
    }

    fn report_if_foreign(&self, dependent: &Uid, owner: &Identity, work: &mut Vec<Work>) {
        let foreign = self.nodes.get(dependent).is_some_and(|node| node.identity.namespace != owner.namespace);
        if foreign && !owner.namespace.is_empty() {
            work.push(Work::InvalidReference(Arc::clone(dependent), Arc::clone(&owner.uid)));
        }
    }

    /// Dependents whose reference fits this identity, and those whose does not.
    fn partition_dependents(&self, uid: &Uid, identity: &Identity) -> (Vec<Uid>, Vec<Uid>) {
        let Some(node) = self.nodes.get(uid) else {
            return (Vec::new(), Vec::new());
        };
        node.dependents.iter().cloned().partition(|dependent| {
            self.nodes.get(dependent).is_some_and(|dependent| {
                let namespace = &identity.namespace;
                let reachable = namespace.is_empty() || *namespace == dependent.identity.namespace;
                reachable && dependent.owners.iter().any(|owner| owner.names(identity))
            })
        })
    }

    fn change_owners(&mut self, uid: &Uid, owners: Vec<Owner>, work: &mut Vec<Work>) {
        let Some(node) = self.nodes.get_mut(uid) else { return };
        if node.owners == owners {
            return;
        }
        let old = std::mem::replace(&mut node.owners, owners.clone());
        for before in &old {
            let after = owners.iter().find(|after| after.uid == before.uid);
            let unblocked = before.blocks && after.is_none_or(|after| !after.blocks);
            if unblocked && self.nodes.contains_key(&before.uid) {
                work.push(Work::Delete(Arc::clone(&before.uid)));
            }
            if after.is_none() {
                self.remove_from_owner(uid, &before.uid);
            }
        }
        let added: Vec<Owner> = owners.into_iter().filter(|owner| old.iter().all(|before| before.uid != owner.uid)).collect();
        self.add_to_owners(uid, &added, work);
    }

    fn add_to_owners(&mut self, uid: &Uid, owners: &[Owner], work: &mut Vec<Work>) {
        let Some(namespace) = self.nodes.get(uid).map(|node| Arc::clone(&node.identity.namespace)) else {
            return;
        };
        let mut doubtful = false;
        for owner in owners {
            if let Some(node) = self.nodes.get_mut(&owner.uid) {
                node.dependents.insert(Arc::clone(uid));
                let namespaced = !node.identity.namespace.is_empty();
                let foreign = node.identity.namespace != namespace;
                let (seen, fits) = (!node.is_virtual, owner.names(&node.identity));
                if namespaced && foreign && seen {
                    work.push(Work::InvalidReference(Arc::clone(uid), Arc::clone(&owner.uid)));
                }
                doubtful |= !fits || (foreign && (namespaced || !seen));
                continue;
            }
            let node = Node {
                identity: Identity {
                    kind: Arc::clone(&owner.kind),
                    namespace: Arc::clone(&namespace),
                    name: Arc::clone(&owner.name),
                    uid: Arc::clone(&owner.uid),
                },
                owners: Vec::new(),
                dependents: HashSet::from([Arc::clone(uid)]),
                waits_for_dependents: false,
                orphans_dependents: false,
                being_deleted: false,
                is_virtual: true,
            };
            self.nodes.insert(Arc::clone(&owner.uid), node);
            work.push(Work::Delete(Arc::clone(&owner.uid)));
        }
        if doubtful {
            work.push(Work::Delete(Arc::clone(uid)));
        }
    }

    fn remove_from_owner(&mut self, uid: &Uid, owner: &Uid) {
        if let Some(owner) = self.nodes.get_mut(owner) {
            owner.dependents.remove(uid);
        }
    }

    /// Deletion starts: with a finalizer that tells what becomes of the dependents.
    fn note_deletion(&mut self, uid: &Uid, meta: &ObjectMeta, work: &mut Vec<Work>) {
        if meta.deletion_timestamp.is_none() {
            return;
        }
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|present| present == finalizer);
        let Some(node) = self.nodes.get_mut(uid) else { return };
        node.being_deleted = true;
        if has(ORPHAN) {
            if !std::mem::replace(&mut node.orphans_dependents, true) {
                work.push(Work::Orphan(Arc::clone(uid)));
            }
        } else if has(FOREGROUND) && !std::mem::replace(&mut node.waits_for_dependents, true) {
            work.extend(node.dependents.iter().cloned().map(Work::Delete));
            work.push(Work::Delete(Arc::clone(uid)));
        }
    }

    /// An object is gone.
    pub(super) fn forget(&mut self, uid: &str) -> Vec<Work> {
        let mut work = Vec::new();
        let Some(node) = self.nodes.remove(uid) else { return work };
        if !node.dependents.is_empty() {
            self.remember_absent(node.identity.clone());
        }
        for owner in &node.owners {
            self.remove_from_owner(&node.identity.uid, &owner.uid);
            if self.nodes.get(&owner.uid).is_some_and(|owner| owner.waits_for_dependents) {
                work.push(Work::Delete(Arc::clone(&owner.uid)));
            }
        }
        work.extend(node.dependents.into_iter().map(Work::Delete));
        work
    }

    /// The server does not know an object with this identity, although the graph has a node for it.
    pub(super) fn found_absent(&mut self, absent: &Identity) -> Vec<Work> {
        let Some(node) = self.nodes.get(&absent.uid) else { return Vec::new() };
        let (is_virtual, identity) = (node.is_virtual, node.identity.clone());
        let (matching, others) = self.partition_dependents(&absent.uid, absent);
        let keep = if is_virtual { !others.is_empty() } else { identity != *absent };
        if !keep {
            return self.forget(&absent.uid);
        }
        let mut work = Vec::new();
        if !matching.is_empty() {
            self.remember_absent(absent.clone());
            work.extend(matching.into_iter().map(Work::Delete));
        }
        // Other dependents give the owner other coordinates: try those next.
        if is_virtual
            && identity == *absent
            && let Some(alternative) = self.alternative(&others, absent)
            && let Some(node) = self.nodes.get_mut(&absent.uid)
        {
            node.identity = alternative;
            work.push(Work::DeleteLater(Arc::clone(&absent.uid)));
        }
        work
    }

    /// The next coordinates in a fixed order after `tried`, going round.
    fn alternative(&self, dependents: &[Uid], tried: &Identity) -> Option<Identity> {
        let sort_key = |identity: &Identity| {
            let Kind { api_version, kind } = &*identity.kind;
            (api_version.clone(), kind.clone(), Arc::clone(&identity.name), Arc::clone(&identity.namespace))
        };
        let mut candidates: Vec<Identity> = dependents
            .iter()
            .filter_map(|dependent| self.nodes.get(dependent))
            .flat_map(|dependent| {
                let namespace = &dependent.identity.namespace;
                let owners = dependent.owners.iter().filter(|owner| owner.uid == tried.uid);
                owners.map(|owner| Identity {
                    kind: Arc::clone(&owner.kind),
                    namespace: Arc::clone(namespace),
                    name: Arc::clone(&owner.name),
                    uid: Arc::clone(&owner.uid),
                })
            })
            .filter(|candidate| candidate != tried)
            .collect();
        candidates.sort_by_key(sort_key);
        let after = candidates.iter().find(|candidate| sort_key(candidate) > sort_key(tried));
        after.or_else(|| candidates.first()).cloned()
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
