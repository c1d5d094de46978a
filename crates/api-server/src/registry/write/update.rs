//! Updating, in the order of upstream's `registry/rest/update.go` and the store's `Update`.

use apimachinery::managed_fields::keep_times;
use apimachinery::{GroupKind, Reason, Status, Value, field, validation};
use bytes::Bytes;
use storage::{Compare, Op, Revision, Txn};

use super::{Change, Current, Write, Written, current_of};
use crate::admission::{Attributes, Operation};
use crate::kinds;
use crate::registry::engine::{durability, store_status};
use crate::registry::options::WriteOptions;
use crate::registry::strategy::{OperationContext, finish_all};
use crate::registry::{managed, meta, owners, size};

/// Updates that do not insist on a resourceVersion are tried so often against other writers.
const UPDATE_ATTEMPTS: usize = 32;

impl Write<'_> {
    /// Changes an object: reads it, applies the change, and stores it unless someone else was faster; then it tries again.
    pub(crate) async fn update(&self, name: &str, change: &dyn Change, options: &WriteOptions) -> Result<Written, Status> {
        let mut current = self.current(name).await?;
        for _ in 0..UPDATE_ATTEMPTS {
            let may_create = change.may_create() || (self.strategy().allow_create_on_update() && self.subresource.is_empty());
            if current.is_none() && !may_create {
                // Parts of what a PUT may create are compared before they are missed.
                let wanted = change.uid().filter(|_| self.strategy().allow_create_on_update());
                return Err(wanted.map_or_else(|| self.not_found(name), |uid| self.other_uid(name, uid, "", options.dry_run)));
            }
            let uid = current.as_ref().map_or("", |now| now.object.meta().uid());
            if let Some(wanted) = change.uid().filter(|wanted| *wanted != uid) {
                return Err(self.other_uid(name, wanted, uid, options.dry_run));
            }
            let result = match &current {
                None => match self.create_by(name, change, options).await {
                    Err(status) if status.reason == Reason::AlreadyExists => Err(self.current(name).await?),
                    result => Ok(result?),
                },
                Some(now) => self.update_once(name, now, change, options).await?,
            };
            match result {
                Ok(written) => return Ok(written),
                Err(newer) => current = newer,
            }
        }
        Err(Status::modified_conflict(&self.endpoint.row.group_resource(), name))
    }

    /// The object is another one than the client means, or there is none. The words are those of upstream's store.
    fn other_uid(&self, name: &str, wanted: &str, found: &str, dry_run: bool) -> Status {
        let key = self.stored.key(self.namespace, name);
        // A dry run does not get as far as to where keys have the prefix.
        let key = if dry_run { key.strip_prefix("/registry").unwrap_or(&key) } else { &key };
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        );
        Status::conflict(&self.endpoint.row.group_resource(), name, why)
    }

    /// One attempt; `Ok(Err(_))` is the newer state that was in the way.
    async fn update_once(
        &self,
        name: &str,
        current: &Current,
        change: &dyn Change,
        options: &WriteOptions,
    ) -> Result<Result<Written, Option<Current>>, Status> {
        let old = &current.object;
        let mut object = change.apply(Some(old))?;
        if change.is_sent_whole() {
            owners::dedup(&mut object, owners::Stage::Sent, &self.context.warnings);
        }
        if !change.manages_fields() {
            object = managed::updated(self, object, old, options);
        }
        let mut operation = OperationContext { empty: self.without_empty(&mut object), ..self.operation(options.dry_run) };
        let mut attributes = self.attributes(Operation::Update, name, options.to_value(change.options_kind()), options.dry_run);
        attributes.object = Some(object);
        attributes.old_object = Some(old.clone());
        if change.is_admitted() {
            self.engine.admission.admit(&mut attributes).await?;
        }
        let mut object = attributes.object.take().unwrap_or_default();
        owners::dedup(&mut object, owners::Stage::Admitted, &self.context.warnings);
        self.check_revision(name, &mut object, current)?;
        meta::check_namespace(&mut object, self.stored.namespaced, self.namespace)?;
        operation.namespace_label = self.namespace_label(&object, Some(old)).await?;
        let hooks: Vec<_> = self.strategy().begin_update(&operation, &mut object, old).await?.into_iter().collect();
        let result = self.update_begun(name, object, current, attributes, &operation, change).await;
        finish_all(hooks, matches!(result, Ok(Ok(_))) && !options.dry_run).await;
        result
    }

    async fn update_begun(
        &self,
        name: &str,
        mut object: Value,
        current: &Current,
        mut attributes: Attributes,
        operation: &OperationContext,
        change: &dyn Change,
    ) -> Result<Result<Written, Option<Current>>, Status> {
        let old = &current.object;
        self.before_update(operation, &mut object, old)?;
        keep_times(old, &mut object);
        if change.is_admitted() {
            attributes.object = Some(object.clone());
            self.engine.admission.validate(&attributes).await?;
        }
        self.with_late_defaults(operation, &mut object, false);
        if object == *old || operation.dry_run {
            return Ok(Ok(Written { object, served: None, created: false }));
        }
        self.store_changed(name, object, current, !change.is_apply()).await
    }

    fn check_revision(&self, name: &str, object: &mut Value, current: &Current) -> Result<(), Status> {
        let revision = current.revision.to_string();
        match object.meta().resource_version() {
            "" | "0" if self.strategy().allow_unconditional_update() => object.meta_mut().set_resource_version(&revision),
            "" | "0" => {
                let path = field::Path::new("metadata").child("resourceVersion");
                let error = field::Error::invalid(&path, 0, "must be specified for an update");
                let resource = self.endpoint.row.group_resource();
                return Err(Status::invalid(&GroupKind::new(resource.group, resource.resource), name, &[error]));
            }
            given if given == revision => {}
            given if given.parse::<u64>().is_err() => {
                let why = format!("strconv.ParseUint: parsing {}: invalid syntax", apimachinery::go_quote(given));
                return Err(Status::new(Reason::Unknown, why));
            }
            _ => return Err(Status::modified_conflict(&self.endpoint.row.group_resource(), name)),
        }
        Ok(())
    }

    /// Upstream's `rest.BeforeUpdate`.
    fn before_update(&self, operation: &OperationContext, object: &mut Value, old: &Value) -> Result<(), Status> {
        object.meta_mut().set_generation(old.meta().generation());
        let strategy = self.strategy();
        kinds::drop_disabled(operation, &self.stored.resource, object, Some(old));
        strategy.prepare_for_update(operation, object, old);
        meta::keep_system_fields(object, old);
        let path = field::Path::new("metadata");
        let any_name = validation::name_is_path_segment;
        let mut errors = validation::validate_object_meta(object, self.stored.namespaced, any_name, &path);
        errors.extend(validation::validate_object_meta_update(object, old, &path));
        // Most kinds check it once more, and causes are listed as often.
        let more = kinds::meta_checks(&self.stored.resource, &self.endpoint.row.gvr.group, self.subresource);
        for _ in 0..more.change {
            errors.extend(validation::validate_object_meta_update(object, old, &path));
            errors.extend(self.finalizer_errors(object, &path));
        }
        for _ in 0..more.whole {
            errors.extend(validation::validate_object_meta(object, self.stored.namespaced, strategy.name_rule(), &path));
            errors.extend(self.finalizer_errors(object, &path));
        }
        errors.extend(strategy.validate_update(operation, object, old));
        if !errors.is_empty() {
            return Err(self.invalid(operation, object, errors));
        }
        for warning in strategy.warnings_on_update(operation, object, old) {
            operation.warnings.add(warning);
        }
        strategy.canonicalize(object);
        Ok(())
    }

    async fn store_changed(
        &self,
        name: &str,
        mut object: Value,
        current: &Current,
        droppable: bool,
    ) -> Result<Result<Written, Option<Current>>, Status> {
        let key = Bytes::from(self.stored.key(self.namespace, name));
        let deletes = self.deletes_now(&object, &current.object);
        let value = size::encode(&self.stored.header, &mut object, droppable)?;
        let op = match deletes {
            true => Op::Delete { key: key.clone() },
            false => Op::Put { key: key.clone(), value: value.clone(), lease: self.engine.lease_for(self.stored).await? },
        };
        let mut txn = Txn {
            compares: vec![Compare::ModRevision(key.clone(), Revision(current.revision))],
            success: vec![op],
            failure: vec![Op::Get { key }],
            durability: durability(self.stored),
        };
        self.add_companions(&mut txn, (!deletes).then_some(&object), Some(&current.object));
        let operation = if deletes { "delete" } else { "update" };
        let response = self.engine.timed(operation, self.stored, self.engine.store.txn(txn)).await.map_err(store_status)?;
        if !response.succeeded {
            return match current_of(&response.responses) {
                Some(kv) if kv.mod_revision.0 == current.revision => Err(self.companion_conflict(name)),
                Some(kv) => Ok(Err(Some(self.current_from(&kv)?))),
                None => Ok(Err(None)),
            };
        }
        if deletes {
            // The resource's own, also where a subresource took the last finalizer away.
            self.stored.strategy.after_delete(&self.operation(false), &object).await;
        }
        Ok(Ok(self.written(object, &value, response.revision.0, false)))
    }

    /// Whether an update takes away the last thing that a deletion waited for (upstream's `ShouldDeleteDuringUpdate`).
    fn deletes_now(&self, object: &Value, old: &Value) -> bool {
        !self.stored.strategy.waits_for_finalizers(object)
            && old.meta().deletion_timestamp().is_some()
            && old.meta().deletion_grace_period_seconds().unwrap_or(0) == 0
    }
}
