//! OwnerReferencesPermissionEnforcement: who makes an object somebody's may delete it, and who has it block its owner's deletion may change that
//! owner's finalizers.

use apimachinery::{GroupVersion, Status, Value};
use async_trait::async_trait;

use super::forbidden;
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::auth::{Attributes as Question, Authorizers, Decision};
use crate::loopback::Loopback;
use crate::server::ApiServer;

pub(super) struct OwnerReferences {
    loopback: Loopback,
}

impl OwnerReferences {
    pub(super) fn new(loopback: Loopback) -> Self {
        Self { loopback }
    }
}

#[async_trait]
impl AdmissionPlugin for OwnerReferences {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let resource = &attributes.resource;
        // Old kubelets garble these, and a pod's status cannot change its owners.
        let pod_status = resource.group.is_empty() && resource.resource == "pods" && attributes.subresource == "status";
        let Some(object) = attributes.object.as_ref().filter(|_| !pod_status) else { return Ok(()) };
        let owners = object.meta().owner_reference_values();
        let old = attributes.old_object.as_ref().map(|old| old.meta().owner_reference_values()).unwrap_or_default();
        if owners == old {
            return Ok(());
        }
        let server = self.loopback.server().map_err(Status::internal_error)?;
        let authorizers = &server.access().authorizers;
        if attributes.operation != Operation::Create {
            let mut question = Question::resource(&attributes.user, "delete", &resource.group, &resource.resource)
                .named(&attributes.namespace, &attributes.name)
                .subresource(&attributes.subresource);
            question.version = &resource.version;
            if let Some(why) = refusal(authorizers, &question).await {
                return Err(forbidden(attributes, format!("cannot set an ownerRef on a resource you can't delete: {why}")));
            }
        }
        let blocking = newly_blocking(owners, old);
        let mut anything = Question::resource(&attributes.user, "update", "*", "*").named("", "*").subresource("finalizers");
        anything.version = "*";
        if blocking.is_empty() || refusal(authorizers, &anything).await.is_none() {
            return Ok(());
        }
        for owner in blocking {
            check_owner(&server, authorizers, attributes, owner).await?;
        }
        Ok(())
    }
}

/// `None` if it is allowed; otherwise the reason and the error, as Go prints them.
async fn refusal(authorizers: &Authorizers, question: &Question<'_>) -> Option<String> {
    match authorizers.authorize(question).await {
        Ok(Decision::Allow(_)) => None,
        Ok(Decision::Deny(reason) | Decision::NoOpinion(reason)) => Some(format!("{reason}, <nil>")),
        Err(error) => Some(format!(", {error}")),
    }
}

/// References that block the deletion of their owner and did not before.
fn newly_blocking<'a>(owners: &'a [Value], old: &[Value]) -> Vec<&'a Value> {
    let blocks = |owner: &Value| owner.bool_at(&["blockOwnerDeletion"]) == Some(true);
    let blocked = |owner: &Value| old.iter().any(|old| old.get("uid") == owner.get("uid") && blocks(old));
    owners.iter().filter(|owner| blocks(owner) && !blocked(owner)).collect()
}

/// The user may change the finalizers of this owner: of every resource that has objects of its kind.
async fn check_owner(
    server: &ApiServer,
    authorizers: &Authorizers,
    attributes: &Attributes,
    owner: &Value,
) -> Result<(), Status> {
    let text = |field: &str| owner.str_at(&[field]).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let unknown = |why: String| {
        let what = format!("cannot find RESTMapping for APIVersion {api_version} Kind {kind}: {why}");
        forbidden(attributes, format!("cannot set blockOwnerDeletion in this case because {what}"))
    };
    let version: GroupVersion = api_version.parse().map_err(|error| unknown(format!("{error}")))?;
    let rows = server.engine().catalog.endpoints().iter().map(|endpoint| &endpoint.row);
    let of_kind = |kind_of: &apimachinery::GroupVersionKind| {
        kind_of.kind == kind && kind_of.group == version.group && kind_of.version == version.version
    };
    let rows: Vec<_> = rows.filter(|row| of_kind(&row.kind)).collect();
    if rows.is_empty() {
        return Err(unknown(format!("no matches for kind {kind:?} in version {api_version:?}")));
    }
    for row in rows {
        let namespace = if row.namespaced { attributes.namespace.as_str() } else { "" };
        let mut question = Question::resource(&attributes.user, "update", &row.gvr.group, &row.gvr.resource)
            .named(namespace, text("name"))
            .subresource("finalizers");
        question.version = &row.gvr.version;
        if let Some(why) = refusal(authorizers, &question).await {
            let what = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
            return Err(forbidden(attributes, format!("{what}: {why}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn blocking() {
        let owner = |uid: &str, blocks: bool| value!({"uid": uid, "blockOwnerDeletion": blocks});
        let owners = [owner("a", true), owner("b", true), owner("c", true), owner("d", false)];
        let old = [owner("a", true), owner("b", false)];
        let uids: Vec<_> = newly_blocking(&owners, &old).into_iter().filter_map(|owner| owner.str_at(&["uid"])).collect();
        assert_eq!(uids, ["b", "c"]);
    }
}
