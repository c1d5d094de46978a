//! Creating and updating, in upstream's order (`registry/generic/registry/store.go`, `registry/rest/create.go` and `update.go`).

use std::sync::Arc;

use apimachinery::decode::EmptyMember;
use apimachinery::managed_fields::keep_times;
use apimachinery::{GroupKind, GroupVersionResource, Reason, Status, Value, decode, field, schema, validation};
use bytes::Bytes;
use storage::{Compare, KeyValue, Op, OpResponse, Revision, Txn};

use super::catalog::{Endpoint, Stored};
use super::codec::Served;
use super::engine::{Engine, durability, store_status};
use super::meta::{self, generated_name};
use super::options::WriteOptions;
use super::sent::show_as_sent;
use super::strategy::{OperationContext, Strategy, finish_all};
use super::{conversion, managed, size};
use crate::admission::{Attributes, Operation};
use crate::auth::{self, Authorizers};
use crate::http::RequestContext;
use crate::kinds;

/// Names are made up so often before the server gives up (upstream's `maxNameGenerationCreateAttempts`).
const NAME_ATTEMPTS: usize = 8;
/// Updates that do not insist on a resourceVersion are tried so often against other writers.
const UPDATE_ATTEMPTS: usize = 32;

/// One write to one resource.
#[derive(Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) engine: &'a Engine,
    /// Asked where a change turns out to be a creation.
    pub(crate) authorizers: &'a Authorizers,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) stored: &'a Arc<Stored>,
    pub(crate) context: &'a RequestContext,
    /// The namespace of the object; empty for cluster-scoped ones.
    pub(crate) namespace: &'a str,
    pub(crate) subresource: &'a str,
}

/// How an object comes to be.
struct Creation {
    /// The lists and maps that the client said are empty.
    empty: Arc<[EmptyMember]>,
    /// The resourceVersion that the client gave it.
    version: String,
    /// `managedFields` may go if there is no room for them.
    droppable: bool,
    /// The request is one to create; otherwise the permission for that is still to be asked for.
    authorized: bool,
}

/// What a write left behind.
pub(crate) struct Written {
    /// In the storage version, with its resourceVersion (none after a dry run).
    pub(crate) object: Value,
    /// The bytes, if it was stored just now.
    pub(crate) served: Option<Served>,
    /// It was not there before.
    pub(crate) created: bool,
}

/// An object as it is in the store.
pub(crate) struct Current {
    pub(crate) object: Value,
    pub(crate) revision: i64,
}

/// Makes the new object out of the current one, in the storage version.
pub(crate) trait Change: Send + Sync {
    /// `current` is `None` where the object is not there and the change may create it.
    fn apply(&self, current: Option<&Value>) -> Result<Value, Status>;

    /// The uid that the object must have, if the client said.
    fn uid(&self) -> Option<&str> {
        None
    }

    /// Whether the object may be created if it is not there (server-side apply).
    fn may_create(&self) -> bool {
        false
    }

    /// Whether the change keeps `managedFields` itself (server-side apply, scale).
    fn manages_fields(&self) -> bool {
        false
    }

    /// Whether the client applies, and so must not lose track of what it owns.
    fn is_apply(&self) -> bool {
        false
    }

    /// Whether admission looks at the changed object; not where it has looked at what the change is made of (a Binding).
    fn is_admitted(&self) -> bool {
        true
    }

    /// The options' kind for admission.
    fn options_kind(&self) -> &'static str {
        "UpdateOptions"
    }
}

impl Write<'_> {
    pub(crate) fn operation(&self, dry_run: bool) -> OperationContext {
        OperationContext {
            user: self.context.user.clone(),
            group: self.endpoint.row.gvr.group.clone(),
            namespace: self.namespace.to_owned(),
            subresource: self.subresource.to_owned(),
            dry_run,
            gates: self.context.gates,
            allow_privileged: self.engine.allow_privileged,
            namespace_label: String::new(),
            warnings: self.context.warnings.clone(),
            empty: Arc::default(),
        }
    }

    pub(crate) fn attributes(&self, operation: Operation, name: &str, options: Value, dry_run: bool) -> Attributes {
        let row = &self.endpoint.row;
        let kind = match self.endpoint.row.subresource(self.subresource) {
            Some(sub) => sub.kind.clone(),
            None => row.kind.clone(),
        };
        Attributes {
            kind,
            resource: GroupVersionResource::clone(&row.gvr),
            subresource: self.subresource.to_owned(),
            namespace: self.namespace.to_owned(),
            name: name.to_owned(),
            operation,
            object: None,
            old_object: None,
            options,
            dry_run,
            user: self.context.user.clone(),
            warnings: self.context.warnings.clone(),
        }
    }

    pub(crate) fn strategy(&self) -> &dyn Strategy {
        &**self.stored.strategy_for(self.subresource).unwrap_or(&self.stored.strategy)
    }

    fn group_kind(&self) -> GroupKind {
        // Upstream's errors name the kind as it is kept, whatever version or group was spoken.
        self.stored.kind.group_kind()
    }

    /// Stores a new object, given in any served version.
    pub(crate) async fn create(&self, object: Value, options: &WriteOptions) -> Result<Written, Status> {
        let version = object.meta().resource_version().to_owned();
        let object = self.with_managers(conversion::convert(object, &self.stored.kind), options);
        let creation = Creation { droppable: true, authorized: true, version, empty: Arc::default() };
        self.create_managed(object, options, creation).await
    }

    /// Takes out what the client said is empty: from here on, as in the store, that is the same as nothing.
    fn without_empty(&self, object: &mut Value) -> Arc<[EmptyMember]> {
        schema::lookup(&self.stored.kind).map(|info| decode::drop_empty(object, info)).unwrap_or_default().into()
    }

    /// Stores a new object that has its `managedFields`.
    async fn create_managed(&self, mut object: Value, options: &WriteOptions, mut creation: Creation) -> Result<Written, Status> {
        creation.empty = self.without_empty(&mut object);
        let generated = object.meta().name().is_empty() && !object.meta().generate_name().is_empty();
        let mut attributes =
            self.attributes(Operation::Create, object.meta().name(), options.to_value("CreateOptions"), options.dry_run);
        attributes.object = Some(object);
        self.engine.admission.admit(&mut attributes).await?;
        let admitted = attributes.object.take().unwrap_or_default();
        for attempt in 1.. {
            let mut object = admitted.clone();
            if generated && object.meta().name().is_empty() {
                let name = generated_name(object.meta().generate_name());
                object.meta_mut().set_name(&name);
            }
            let name = object.meta().name().to_owned();
            match self.create_named(object, &mut attributes, options, &creation).await {
                Err(status) if generated && status.reason == Reason::AlreadyExists => {
                    if attempt == NAME_ATTEMPTS {
                        return Err(Status::generate_name_conflict(&self.endpoint.row.group_resource(), &name, 1));
                    }
                }
                result => return result,
            }
        }
        unreachable!("the loop returns at its last attempt")
    }

    async fn create_named(
        &self,
        mut object: Value,
        attributes: &mut Attributes,
        options: &WriteOptions,
        creation: &Creation,
    ) -> Result<Written, Status> {
        let operation = OperationContext {
            empty: creation.empty.clone(),
            namespace_label: self.namespace_label(&object, None).await?,
            ..self.operation(options.dry_run)
        };
        meta::check_namespace(&mut object, self.stored.namespaced, self.namespace)?;
        meta::fill_system_fields(&mut object);
        // As upstream, before anything is looked at: what is reserved is part of what is valid.
        let hooks: Vec<_> = self.strategy().begin_create(&operation, &mut object).await?.into_iter().collect();
        let result = self.create_begun(object, attributes, options, creation, &operation).await;
        finish_all(hooks, result.is_ok() && !options.dry_run).await;
        result
    }

    async fn create_begun(
        &self,
        mut object: Value,
        attributes: &mut Attributes,
        options: &WriteOptions,
        creation: &Creation,
        operation: &OperationContext,
    ) -> Result<Written, Status> {
        self.before_create(operation, &mut object)?;
        let name = object.meta().name().to_owned();
        attributes.name.clone_from(&name);
        if !creation.authorized {
            self.authorize_creation(&name).await?;
        }
        attributes.object = Some(object.clone());
        self.engine.admission.validate(attributes).await?;
        let mut result = match creation.version.parse::<u64>() {
            // Only upstream's store looks at it.
            Ok(version) if version != 0 && !options.dry_run => {
                Err(Status::new(Reason::Unknown, "resourceVersion should not be set on objects to be created"))
            }
            _ => self.store_new(&name, object, options, creation.droppable).await,
        };
        if let (Ok(written), true, false) = (&mut result, options.dry_run, creation.version.is_empty()) {
            written.object.meta_mut().set_resource_version(&creation.version);
        }
        result
    }

    fn with_managers(&self, mut object: Value, options: &WriteOptions) -> Value {
        meta::wipe_system_fields(&mut object);
        managed::created(self, object, options)
    }

    /// Who may change objects may not create them by that (upstream's `withAuthorization`).
    async fn authorize_creation(&self, name: &str) -> Result<(), Status> {
        let (user, info) = (&self.context.user, &self.context.info);
        let asked = auth::Attributes { verb: "create", name, field_selector: "", ..auth::Attributes::of_request(user, info) };
        match self.authorizers.authorize(&asked).await.map_err(Status::internal_error)? {
            auth::Decision::Allow(_) => Ok(()),
            auth::Decision::Deny(reason) | auth::Decision::NoOpinion(reason) => Err(asked.forbidden(&reason)),
        }
    }

    /// What the label of the namespace says that the rules of the object ask for.
    async fn namespace_label(&self, object: &Value, old: Option<&Value>) -> Result<String, Status> {
        let Some(label) = self.strategy().namespace_label(object, old) else { return Ok(String::new()) };
        let namespaces = self.engine.catalog.get("", "v1", "namespaces").and_then(|endpoint| endpoint.stored.as_ref());
        let Some(namespaces) = namespaces else { return Ok(String::new()) };
        self.engine.fresh(namespaces).await?;
        let entry = namespaces.cacher.get(namespaces.key("", self.namespace).as_bytes());
        let labels = entry.iter().flat_map(|entry| &entry.labels);
        Ok(labels.filter(|(name, _)| **name == *label).map(|(_, value)| value.to_string()).collect())
    }

    /// What is wrong with an object, with the empty values that the client sent.
    fn invalid(&self, operation: &OperationContext, object: &Value, mut errors: field::ErrorList) -> Status {
        show_as_sent(&mut errors, &operation.empty);
        Status::invalid(&self.group_kind(), object.meta().name(), &errors)
    }

    /// Upstream's `rest.BeforeCreate`.
    fn before_create(&self, operation: &OperationContext, object: &mut Value) -> Result<(), Status> {
        let strategy = self.strategy();
        kinds::drop_disabled(operation, &self.stored.resource, object, None);
        strategy.prepare_for_create(operation, object);
        let path = field::Path::new("metadata");
        let mut errors = strategy.validate(operation, object);
        if kinds::checks_own_metadata(&self.stored.resource, &self.endpoint.row.gvr.group) {
            let metadata = validation::validate_object_meta(object, self.stored.namespaced, strategy.name_rule(), &path);
            errors.splice(0..0, metadata.into_iter().chain(self.finalizer_errors(object, &path)));
        }
        // What a path may not have is no name, nor the start of one, whatever the kind says.
        if errors.is_empty() {
            let any_name = validation::name_is_path_segment;
            errors = validation::validate_object_meta(object, self.stored.namespaced, any_name, &path);
        }
        if !errors.is_empty() {
            return Err(self.invalid(operation, object, errors));
        }
        for warning in strategy.warnings_on_create(operation, object) {
            operation.warnings.add(warning);
        }
        strategy.canonicalize(object);
        Ok(())
    }

    /// Names of finalizers have a domain, unless they are the system's own (upstream's `validateKubeFinalizerName`).
    fn finalizer_errors(&self, object: &Value, path: &field::Path) -> field::ErrorList {
        let group = self.stored.kind.group.as_str();
        let general =
            matches!(group, "admissionregistration.k8s.io" | "apiregistration.k8s.io" | "apiextensions.k8s.io" | "node.k8s.io");
        let is_event = self.stored.kind.kind == "Event" && self.endpoint.row.gvr.group.is_empty();
        if general || is_event {
            return Vec::new();
        }
        let path = path.child("finalizers");
        let names = object.meta().finalizers().enumerate();
        let bare = names.filter(|(_, name)| {
            let known = matches!(*name, "kubernetes" | "orphan" | "foregroundDeletion");
            !name.contains('/') && !known
        });
        let why = "name is neither a standard finalizer name nor is it fully qualified";
        bare.map(|(at, name)| field::Error::invalid(&path.index(at), name, why)).collect()
    }

    async fn store_new(&self, name: &str, mut object: Value, options: &WriteOptions, droppable: bool) -> Result<Written, Status> {
        let key = Bytes::from(self.stored.key(self.namespace, name));
        if options.dry_run {
            return match self.engine.timed("get", self.stored, self.engine.store.get(&key)).await.map_err(store_status)? {
                Some(existing) => Err(self.already_exists(name, Some(&existing))),
                None => Ok(Written { object, served: None, created: true }),
            };
        }
        let value = size::encode(&self.stored.header, &mut object, droppable)?;
        let mut txn = Txn {
            compares: vec![Compare::ModRevision(key.clone(), Revision(0))],
            success: vec![Op::Put { key: key.clone(), value: value.clone(), lease: self.engine.lease_for(self.stored).await? }],
            failure: vec![Op::Get { key }],
            durability: durability(self.stored),
        };
        self.add_companions(&mut txn, Some(&object), None);
        let response = self.engine.timed("create", self.stored, self.engine.store.txn(txn)).await.map_err(store_status)?;
        if !response.succeeded {
            return Err(match current_of(&response.responses) {
                Some(existing) => self.already_exists(name, Some(&existing)),
                None => self.companion_conflict(name),
            });
        }
        Ok(self.written(object, &value, response.revision.0, true))
    }

    fn already_exists(&self, name: &str, existing: Option<&KeyValue>) -> Status {
        let mut status = Status::already_exists(&self.endpoint.row.group_resource(), name);
        let existing = existing.and_then(|kv| Value::from_slice(&kv.value).ok());
        if existing.is_some_and(|object| object.meta().deletion_timestamp().is_some()) {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }

    fn written(&self, mut object: Value, value: &Bytes, revision: i64, created: bool) -> Written {
        object.meta_mut().set_resource_version(&revision.to_string());
        Written { served: self.stored.header.serve(value, revision).ok(), object, created }
    }

    /// The object as it is now.
    pub(crate) async fn current(&self, name: &str) -> Result<Option<Current>, Status> {
        self.engine.fresh(self.stored).await?;
        match self.stored.cacher.get(self.stored.key(self.namespace, name).as_bytes()) {
            None => Ok(None),
            Some(entry) => {
                let object = entry.served.object().map_err(Status::internal_error)?;
                Ok(Some(Current { object, revision: entry.revision }))
            }
        }
    }

    pub(crate) fn current_from(&self, kv: &KeyValue) -> Result<Current, Status> {
        let revision = kv.mod_revision.0;
        let served = self.stored.header.serve(&kv.value, revision).map_err(Status::internal_error)?;
        Ok(Current { object: served.object().map_err(Status::internal_error)?, revision })
    }

    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.endpoint.row.group_resource(), name)
    }

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
                None => {
                    let mut object = change.apply(None)?;
                    if object.meta().name().is_empty() {
                        object.meta_mut().set_name(name);
                    }
                    // A dry run's answer keeps what the client sent.
                    let sent_version = object.meta().resource_version().to_owned();
                    object.meta_mut().set_resource_version("");
                    let managed = change.manages_fields();
                    if !managed {
                        object = self.with_managers(object, options);
                    }
                    match self
                        .create_managed(
                            object,
                            options,
                            Creation { droppable: !managed, authorized: false, version: String::new(), empty: Arc::default() },
                        )
                        .await
                    {
                        Err(status) if status.reason == Reason::AlreadyExists => Err(self.current(name).await?),
                        result => {
                            let mut written = result?;
                            if options.dry_run && !sent_version.is_empty() {
                                written.object.meta_mut().set_resource_version(&sent_version);
                            }
                            Ok(written)
                        }
                    }
                }
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
        let object = change.apply(Some(old))?;
        let mut object = match change.manages_fields() {
            true => object,
            false => managed::updated(self, object, old, options),
        };
        let mut operation = OperationContext { empty: self.without_empty(&mut object), ..self.operation(options.dry_run) };
        let mut attributes = self.attributes(Operation::Update, name, options.to_value(change.options_kind()), options.dry_run);
        attributes.object = Some(object);
        attributes.old_object = Some(old.clone());
        if change.is_admitted() {
            self.engine.admission.admit(&mut attributes).await?;
        }
        let mut object = attributes.object.take().unwrap_or_default();
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

/// The key as a failed transaction found it.
pub(crate) fn current_of(responses: &[OpResponse]) -> Option<KeyValue> {
    responses.iter().find_map(|response| match response {
        OpResponse::Get(kv) => kv.clone(),
        _ => None,
    })
}
