//! Deleting: at once, gracefully, or when finalizers are gone (upstream's `Store.Delete` and `rest.BeforeDelete`).

use apimachinery::{GroupResource, Status, StatusDetails, Value, time};
use bytes::Bytes;
use storage::{Compare, Durability, Op, OpResponse, Revision, Txn};

use super::engine::{durability, store_status};
use super::meta;
use super::options::DeleteOptions;
use super::write::{Current, Write, current_of};
use crate::admission::Operation;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Deletions are tried so often against other writers.
const ATTEMPTS: usize = 32;

/// What a deletion answers with.
pub(crate) struct Deleted {
    /// The object's last state, in the storage version.
    pub(crate) object: Value,
    /// It is gone, not only marked.
    pub(crate) gone: bool,
}

/// What to do with the object.
enum Step {
    /// Store the changed object, which then waits for someone.
    Mark(Value),
    /// It waits already; nothing changes.
    Pending,
    /// Remove it; this is its last state.
    Remove(Value),
    /// Store the changed object, whose grace is over, and remove it then.
    MarkAndRemove(Value),
}

impl Write<'_> {
    /// Deletes an object, or marks it for those who must act first.
    pub(crate) async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<Deleted, Status> {
        let mut current = self.current(name).await?.ok_or_else(|| self.not_found(name))?;
        let mut attributes = self.attributes(Operation::Delete, name, options.to_value(), options.dry_run);
        for _ in 0..ATTEMPTS {
            self.check_preconditions(name, &current, options)?;
            attributes.old_object = Some(current.object.clone());
            attributes.object = None;
            self.engine.admission.admit(&mut attributes).await?;
            self.engine.admission.validate(&attributes).await?;
            let result = match self.plan(&current.object, options) {
                Step::Pending => return Ok(Deleted { object: current.object, gone: false }),
                step if options.dry_run => {
                    let gone = !matches!(step, Step::Mark(_));
                    let (Step::Mark(object) | Step::Remove(object) | Step::MarkAndRemove(object)) = step else { continue };
                    return Ok(Deleted { object, gone });
                }
                Step::Mark(object) => self.mark(name, &current, object, durability(self.stored)).await?,
                Step::MarkAndRemove(object) => self.mark_and_remove(name, &current, object).await?,
                Step::Remove(object) => self.remove(name, &current, object).await?,
            };
            match result {
                Ok(deleted) => return Ok(deleted),
                Err(Some(newer)) => current = newer,
                Err(None) => return Err(self.not_found(name)),
            }
        }
        Err(Status::modified_conflict(&self.endpoint.row.group_resource(), name))
    }

    fn check_preconditions(&self, name: &str, current: &Current, options: &DeleteOptions) -> Result<(), Status> {
        let kind = &self.stored.kind;
        let conflict = |why: String| Err(Status::conflict(&GroupResource::new(&kind.group, &kind.kind), name, why));
        let uid = current.object.meta().uid();
        if self.is_namespace() {
            return self.namespace_preconditions(name, current, options);
        }
        if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
            return conflict(format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). \
                 The object might have been deleted and then recreated"
            ));
        }
        let version = current.revision.to_string();
        if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
            return conflict(format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). \
                 The object might have been modified"
            ));
        }
        Ok(())
    }

    fn is_namespace(&self) -> bool {
        self.stored.resource.group.is_empty() && self.stored.resource.resource == "namespaces"
    }

    /// Upstream deletes namespaces in another way, and says so in other words.
    fn namespace_preconditions(&self, name: &str, current: &Current, options: &DeleteOptions) -> Result<(), Status> {
        let version = current.revision.to_string();
        let checks = [
            ("UID", options.uid.as_deref(), current.object.meta().uid()),
            ("ResourceVersion", options.resource_version.as_deref(), version.as_str()),
        ];
        for (what, wanted, found) in checks {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
                return Err(Status::conflict(&self.endpoint.row.group_resource(), name, why));
            }
        }
        Ok(())
    }

    /// Decides, without touching the store.
    fn plan(&self, object: &Value, options: &DeleteOptions) -> Step {
        let going = object.meta().deletion_timestamp().is_some() && !object.array_at(&["spec", "finalizers"]).is_empty();
        if self.is_namespace() && going {
            return Step::Pending;
        }
        let (unchanged, mut object) = (object.clone(), object.clone());
        let strategy = &*self.stored.strategy;
        let requested = options.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
        let graceful = match self.shorten(&mut object, requested) {
            Shortened::Pending => return Step::Pending,
            Shortened::Graceful(seconds) => Some(seconds),
            Shortened::AtOnce => None,
            Shortened::NotDeleting => {
                let seconds = strategy.graceful_deletion(&self.operation(options.dry_run), &object, requested);
                if let Some(seconds) = seconds {
                    mark_graceful(&mut object, seconds);
                }
                seconds
            }
        };
        if strategy.supports_collection() {
            // In a namespace the old way to ask not to orphan is one to wait.
            let waits_unorphaned = self.is_namespace();
            set_collection_finalizers(&mut object, options, strategy.orphans_by_default(), waits_unorphaned);
        }
        let waits = strategy.waits_for_finalizers(&object);
        match graceful {
            Some(seconds) if waits || seconds > 0 => Step::Mark(object),
            None if waits => {
                mark_as_deleting(&mut object);
                strategy.mark_terminating(&mut object);
                Step::Mark(object)
            }
            Some(_) => Step::MarkAndRemove(object),
            None => Step::Remove(unchanged),
        }
    }

    /// An object that is being deleted can only be deleted sooner.
    fn shorten(&self, object: &mut Value, requested: Option<i64>) -> Shortened {
        let Some(since) = object.meta().deletion_timestamp().map(str::to_owned) else { return Shortened::NotDeleting };
        let grace = object.meta().deletion_grace_period_seconds().unwrap_or(0);
        if grace == 0 {
            return Shortened::AtOnce;
        }
        let Some(mut period) = requested.filter(|period| *period < grace) else { return Shortened::Pending };
        let now = jiff::Timestamp::now();
        let until = time::parse_time(&since).unwrap_or(now).as_second() - grace + period;
        let mut until = jiff::Timestamp::from_second(until).unwrap_or(now);
        if until < now {
            until = now;
            // The whole period has passed: the shortest that still lets its owner do the last step.
            period = period.min(1);
        }
        let mut meta = object.meta_mut();
        meta.set_deletion_timestamp(Some(&time::format_time(until)));
        meta.set("deletionGracePeriodSeconds", period);
        Shortened::Graceful(period)
    }

    async fn mark(
        &self,
        name: &str,
        current: &Current,
        object: Value,
        durability: Durability,
    ) -> Result<Result<Deleted, Option<Current>>, Status> {
        if object == current.object {
            return Ok(Ok(Deleted { object, gone: false }));
        }
        let key = Bytes::from(self.stored.key(self.namespace, name));
        let value = self.stored.header.encode(&object);
        let lease = self.engine.lease_for(self.stored).await?;
        let op = Op::Put { key: key.clone(), value, lease };
        self.commit(key, current, op, durability).await.map(|result| {
            result.map(|revision| {
                let mut object = object;
                object.meta_mut().set_resource_version(&revision.to_string());
                Deleted { object, gone: false }
            })
        })
    }

    /// The end of the grace is written before the object goes, so that watches show both, and its last state says when (upstream's
    /// `updateForGracefulDeletionAndFinalizers`). That may get lost with the power, as the removal follows at once.
    async fn mark_and_remove(
        &self,
        name: &str,
        current: &Current,
        object: Value,
    ) -> Result<Result<Deleted, Option<Current>>, Status> {
        let marked = match self.mark(name, current, object, Durability::Relaxed).await? {
            Ok(marked) => marked.object,
            Err(newer) => return Ok(Err(newer)),
        };
        let revision = marked.meta().resource_version().parse().map_err(Status::internal_error)?;
        let last = marked.clone();
        let uid = last.meta().uid().to_owned();
        match self.remove(name, &Current { object: marked, revision }, last.clone()).await? {
            // Whoever has seen the mark may have been faster (a garbage collector of pods): it is gone, as was asked for.
            Err(newer) if newer.as_ref().is_none_or(|newer| newer.object.meta().uid() != uid) => {
                Ok(Ok(Deleted { object: last, gone: true }))
            }
            removed => Ok(removed),
        }
    }

    async fn remove(&self, name: &str, current: &Current, mut object: Value) -> Result<Result<Deleted, Option<Current>>, Status> {
        let key = Bytes::from(self.stored.key(self.namespace, name));
        let result = self.commit(key.clone(), current, Op::Delete { key }, durability(self.stored)).await?;
        match result {
            Err(newer) => Ok(Err(newer)),
            Ok(revision) => {
                object.meta_mut().set_resource_version(&revision.to_string());
                self.stored.strategy.after_delete(&self.operation(false), &object).await;
                Ok(Ok(Deleted { object, gone: true }))
            }
        }
    }

    async fn commit(
        &self,
        key: Bytes,
        current: &Current,
        op: Op,
        durability: Durability,
    ) -> Result<Result<i64, Option<Current>>, Status> {
        let removes = matches!(op, Op::Delete { .. });
        let mut txn = Txn {
            compares: vec![Compare::ModRevision(key.clone(), Revision(current.revision))],
            success: vec![op],
            failure: vec![Op::Get { key }],
            durability,
        };
        if removes {
            self.add_companions(&mut txn, None, Some(&current.object));
        }
        let operation = if removes { "delete" } else { "update" };
        let response = self.engine.timed(operation, self.stored, self.engine.store.txn(txn)).await.map_err(store_status)?;
        match response.succeeded {
            true => Ok(Ok(response.revision.0)),
            false => match current_of(&response.responses as &[OpResponse]) {
                Some(kv) => Ok(Err(Some(self.current_from(&kv)?))),
                None => Ok(Err(None)),
            },
        }
    }

    /// The `Status` that a deletion answers with where it does not answer with the object.
    pub(crate) fn deleted_status(&self, object: &Value) -> Value {
        let row = &self.endpoint.row;
        Status::success(&StatusDetails {
            name: object.meta().name().to_owned(),
            group: row.gvr.group.clone(),
            kind: row.gvr.resource.clone(),
            uid: object.meta().uid().to_owned(),
            ..StatusDetails::default()
        })
    }
}

enum Shortened {
    /// No deletion has begun.
    NotDeleting,
    /// It goes on as it was.
    Pending,
    /// It ends after so many seconds now.
    Graceful(i64),
    /// Its grace is over.
    AtOnce,
}

fn mark_graceful(object: &mut Value, seconds: i64) {
    let now = jiff::Timestamp::now();
    let until = jiff::Timestamp::from_second(now.as_second().saturating_add(seconds)).unwrap_or(now);
    bump_generation(object);
    let mut meta = object.meta_mut();
    meta.set_deletion_timestamp(Some(&time::format_time(until)));
    meta.set("deletionGracePeriodSeconds", seconds);
}

fn bump_generation(object: &mut Value) {
    let generation = object.meta().generation();
    if generation > 0 && object.meta().deletion_timestamp().is_none() {
        object.meta_mut().set_generation(generation + 1);
    }
}

/// Upstream's `markAsDeleting`.
fn mark_as_deleting(object: &mut Value) {
    bump_generation(object);
    let now = meta::now();
    // Both are UTC with whole seconds, so that their texts compare as the times do.
    let later = object.meta().deletion_timestamp().is_none_or(|time| time > now.as_str());
    let mut meta = object.meta_mut();
    if later {
        meta.set_deletion_timestamp(Some(&now));
    }
    meta.set("deletionGracePeriodSeconds", 0);
}

/// Adds or removes the finalizers that the garbage collector acts on.
fn set_collection_finalizers(object: &mut Value, options: &DeleteOptions, orphans_by_default: bool, waits_unorphaned: bool) {
    let has = |object: &Value, name: &str| object.meta().finalizers().any(|finalizer| finalizer == name);
    let policy = options.propagation_policy.as_deref();
    let (orphan, foreground) = match (options.orphan_dependents, policy) {
        (Some(orphan), _) => (orphan, !orphan && waits_unorphaned),
        (None, Some(policy)) => (policy == "Orphan", policy == "Foreground"),
        (None, None) => {
            let orphan = has(object, ORPHAN);
            let foreground = !orphan && has(object, FOREGROUND);
            (orphan || (orphans_by_default && !foreground), foreground)
        }
    };
    let mut finalizers: Vec<String> =
        object.meta().finalizers().filter(|name| !matches!(*name, ORPHAN | FOREGROUND)).map(str::to_owned).collect();
    if orphan {
        finalizers.push(ORPHAN.to_owned());
    }
    if foreground {
        finalizers.push(FOREGROUND.to_owned());
    }
    let same = object.meta().finalizers().count() == finalizers.len()
        && finalizers.iter().all(|name| object.meta().finalizers().any(|have| have == name));
    if !same {
        object.meta_mut().set_finalizers(&finalizers);
    }
}
