//! Creating, in the order of upstream's `registry/rest/create.go` and the store's `Create`.

use std::sync::Arc;

use apimachinery::decode::EmptyMember;
use apimachinery::{Reason, Status, Value, field, validation};
use bytes::Bytes;
use storage::{Compare, KeyValue, Op, Revision, Txn};

use super::{Change, Write, Written, current_of};
use crate::admission::{Attributes, Operation};
use crate::auth;
use crate::kinds;
use crate::registry::engine::{durability, store_status};
use crate::registry::meta::{self, generated_name};
use crate::registry::options::WriteOptions;
use crate::registry::strategy::{OperationContext, finish_all};
use crate::registry::{conversion, owners, size};

/// Names are made up so often before the server gives up (upstream's `maxNameGenerationCreateAttempts`).
const NAME_ATTEMPTS: usize = 8;

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

impl Write<'_> {
    /// Stores a new object, given in any served version.
    pub(crate) async fn create(&self, object: Value, options: &WriteOptions) -> Result<Written, Status> {
        let version = object.meta().resource_version().to_owned();
        let mut object = conversion::convert(object, &self.stored.kind);
        owners::dedup(&mut object, owners::Stage::Sent, &self.context.warnings);
        let object = self.with_managers(object, options);
        let creation = Creation { droppable: true, authorized: true, version, empty: Arc::default() };
        self.create_managed(object, options, creation).await
    }

    /// Stores the object that a change makes of none.
    pub(super) async fn create_by(&self, name: &str, change: &dyn Change, options: &WriteOptions) -> Result<Written, Status> {
        let mut object = change.apply(None)?;
        if object.meta().name().is_empty() {
            object.meta_mut().set_name(name);
        }
        let sent_version = object.meta().resource_version().to_owned();
        object.meta_mut().set_resource_version("");
        let managed = change.manages_fields();
        if change.is_sent_whole() {
            owners::dedup(&mut object, owners::Stage::Sent, &self.context.warnings);
        }
        if !managed {
            object = self.with_managers(object, options);
        }
        let creation = Creation { droppable: !managed, authorized: false, version: String::new(), empty: Arc::default() };
        let mut written = self.create_managed(object, options, creation).await?;
        // A dry run's answer keeps what the client sent.
        if options.dry_run && !sent_version.is_empty() {
            written.object.meta_mut().set_resource_version(&sent_version);
        }
        Ok(written)
    }

    /// Stores a new object that has its `managedFields`.
    async fn create_managed(&self, mut object: Value, options: &WriteOptions, mut creation: Creation) -> Result<Written, Status> {
        creation.empty = self.without_empty(&mut object);
        let generated = object.meta().name().is_empty() && !object.meta().generate_name().is_empty();
        let mut attributes =
            self.attributes(Operation::Create, object.meta().name(), options.to_value("CreateOptions"), options.dry_run);
        attributes.object = Some(object);
        self.engine.admission.admit(&mut attributes).await?;
        let mut admitted = attributes.object.take().unwrap_or_default();
        owners::dedup(&mut admitted, owners::Stage::Admitted, &self.context.warnings);
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
        self.with_late_defaults(operation, &mut object, true);
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

    /// Who may change objects may not create them by that (upstream's `withAuthorization`).
    async fn authorize_creation(&self, name: &str) -> Result<(), Status> {
        let (user, info) = (&self.context.user, &self.context.info);
        let asked = auth::Attributes { verb: "create", name, field_selector: "", ..auth::Attributes::of_request(user, info) };
        match self.authorizers.authorize(&asked).await.map_err(Status::internal_error)? {
            auth::Decision::Allow(_) => Ok(()),
            auth::Decision::Deny(reason) | auth::Decision::NoOpinion(reason) => Err(asked.forbidden(&reason)),
        }
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
}
