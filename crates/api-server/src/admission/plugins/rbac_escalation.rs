//! Nobody grants what they do not have: checks on roles and bindings
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>).
//!
//! Upstream does this in the storage of the four kinds ("policybased"), which is why it has no plugin name there; it stands at the
//! end of the list here, so that it sees what will be stored.

use std::sync::Arc;

use apimachinery::{Status, Value, go_quote};
use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};

use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::auth::{Attributes as Question, Authorizers, Rule, names, uncovered};
use crate::loopback::Loopback;
use crate::objects::{self, Objects};
use crate::server::ApiServer;

/// Not a plugin upstream, where the registry of RBAC checks this; hence always on.
pub(super) const NAME: &str = "RBACEscalation";

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) struct RbacEscalation {
    loopback: Loopback,
}

impl RbacEscalation {
    pub(super) fn new(loopback: Loopback) -> Self {
        Self { loopback }
    }
}

#[async_trait]
impl AdmissionPlugin for RbacEscalation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let resource = &attributes.resource;
        if resource.group != GROUP || !attributes.subresource.is_empty() || attributes.user.in_group(names::MASTERS) {
            return Ok(());
        }
        let Some(object) = &attributes.object else { return Ok(()) };
        if attributes.old_object.as_ref().is_some_and(|old| only_collection_fields(object, old)) {
            return Ok(());
        }
        let server: Arc<ApiServer> = self.loopback.server().map_err(Status::internal_error)?;
        let authorizers = &server.access().authorizers;
        match resource.resource.as_str() {
            "roles" | "clusterroles" => check_role(authorizers, attributes, object).await,
            "rolebindings" | "clusterrolebindings" => check_binding(authorizers, &self.loopback, attributes, object).await,
            _ => Ok(()),
        }
    }
}

/// Whether an update changes nothing but what the garbage collector needs.
pub(super) fn only_collection_fields(object: &Value, old: &Value) -> bool {
    let stripped = |object: &Value| {
        let mut object = object.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            object.meta_mut().remove(field);
        }
        object
    };
    stripped(object) == stripped(old)
}

fn rules_of(object: &Value) -> Result<Vec<Rule>, Status> {
    let rules: Option<Vec<PolicyRule>> = match object.get("rules") {
        Some(rules) => rules.to_typed().map_err(Status::internal_error)?,
        None => None,
    };
    Ok(rules.unwrap_or_default().into_iter().map(Rule::from).collect())
}

async fn check_role(authorizers: &Authorizers, attributes: &Attributes, object: &Value) -> Result<(), Status> {
    let resource = attributes.resource.resource.as_str();
    let question =
        Question::resource(&attributes.user, "escalate", GROUP, resource).named(&attributes.namespace, &attributes.name);
    if authorizers.allowed(&question).await.map_err(Status::internal_error)? {
        return Ok(());
    }
    confirm(authorizers, attributes, object, &attributes.namespace, &rules_of(object)?)?;
    let aggregates = |object: &Value| !object.array_at(&["aggregationRule", "clusterRoleSelectors"]).is_empty();
    if aggregates(object) || attributes.old_object.as_ref().is_some_and(aggregates) {
        let all = || vec!["*".to_owned()];
        let everything = [
            Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
            Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
        ];
        if !uncovered(&authorizers.rbac.rules_for(&attributes.user, ""), &everything).is_empty() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(Status::forbidden(&attributes.resource.group_resource(), object.meta().name(), why));
        }
    }
    Ok(())
}

async fn check_binding(
    authorizers: &Authorizers,
    objects: &dyn Objects,
    attributes: &Attributes,
    object: &Value,
) -> Result<(), Status> {
    let role: RoleRef = object["roleRef"].to_typed().map_err(Status::internal_error)?;
    let namespace = attributes.namespace.as_str();
    let (resource, role_namespace) = if role.kind == "Role" { ("roles", namespace) } else { ("clusterroles", "") };
    let question = Question::resource(&attributes.user, "bind", &role.api_group, resource).named(namespace, &role.name);
    if authorizers.allowed(&question).await.map_err(Status::internal_error)? {
        return Ok(());
    }
    let found = |rules: Option<Vec<PolicyRule>>| rules.unwrap_or_default().into_iter().map(Rule::from).collect::<Vec<_>>();
    let rules = if role.kind == "Role" {
        let role: Option<k8s_openapi::api::rbac::v1::Role> =
            objects::get(objects, role_namespace, &role.name).await.map_err(Status::internal_error)?;
        role.map(|r| found(r.rules))
    } else {
        let role: Option<k8s_openapi::api::rbac::v1::ClusterRole> =
            objects::get(objects, "", &role.name).await.map_err(Status::internal_error)?;
        role.map(|r| found(r.rules))
    };
    let Some(rules) = rules else {
        return Err(Status::not_found(&apimachinery::GroupResource::new(GROUP, resource), &role.name));
    };
    confirm(authorizers, attributes, object, namespace, &rules)
}

/// The user holds all of the rules in the namespace.
fn confirm(
    authorizers: &Authorizers,
    attributes: &Attributes,
    object: &Value,
    namespace: &str,
    rules: &[Rule],
) -> Result<(), Status> {
    let user = &attributes.user;
    let mut missing = uncovered(&authorizers.rbac.rules_for(user, namespace), rules);
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_unstable();
    let groups = user.groups.iter().map(|g| go_quote(g)).collect::<Vec<_>>().join(" ");
    let why = format!(
        "user {} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{}",
        go_quote(&user.name),
        missing.join("\n")
    );
    Err(Status::forbidden(&attributes.resource.group_resource(), object.meta().name(), why))
}
