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
    // Of several of one uid the last counts, as in upstream's index.
    let blocked = |owner: &Value| old.iter().rev().find(|old| old.get("uid") == owner.get("uid")).is_some_and(blocks);
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
    use std::sync::Arc;

    use apimachinery::value;
    use serde_json::{Value as Json, json};

    use super::super::testing;
    use super::*;
    use crate::auth::UserInfo;

    #[test]
    fn blocking() {
        let owner = |uid: &str, blocks: bool| value!({"uid": uid, "blockOwnerDeletion": blocks});
        let owners = [owner("a", true), owner("b", true), owner("c", true), owner("d", false), owner("e", true)];
        let old = [owner("a", true), owner("b", false), owner("e", true), owner("e", false)];
        let uids: Vec<_> = newly_blocking(&owners, &old).into_iter().filter_map(|owner| owner.str_at(&["uid"])).collect();
        assert_eq!(uids, ["b", "c", "e"]);
    }

    /// What is said to a user who may do this, of a ConfigMap `a` in `ns` that gets these owners instead of those (if it is there yet).
    async fn refusal(rule: &Json, subresource: &str, old: Option<&Json>, new: &Json) -> String {
        let server = testing::server(&[("panda", rule.clone())]);
        let plugin = OwnerReferences::new(Loopback::new(Arc::downgrade(&server)));
        let object = |owners: &Json| json!({"metadata": {"name": "a", "ownerReferences": owners}});
        let mut attributes = testing::create("", "configmaps", "ConfigMap", &object(new));
        if let Some(old) = old {
            attributes.operation = Operation::Update;
            attributes.old_object = Some(Value::from_slice(object(old).to_string().as_bytes()).expect("JSON"));
        }
        subresource.clone_into(&mut attributes.subresource);
        attributes.user = Arc::new(UserInfo::component("panda"));
        plugin.validate(&attributes).await.err().map(|status| status.message).unwrap_or_default()
    }

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Json {
        json!({"verbs": verbs, "apiGroups": groups, "resources": resources})
    }

    const UNDELETABLE: &str = "cannot set an ownerRef on a resource you can't delete: , <nil>";
    const UNFINALIZABLE: &str =
        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>";

    fn owner(api_version: &str, kind: &str, blocks: bool) -> Json {
        json!({"apiVersion": api_version, "kind": kind, "name": "o", "uid": kind, "blockOwnerDeletion": blocks})
    }

    #[tokio::test]
    async fn whose_an_object_is_says_who_may_delete_it() {
        let (none, free) = (json!([]), json!([owner("v1", "Secret", false)]));
        let (nothing, deletes) = (rule(&[], &[], &[]), rule(&["delete"], &[""], &["configmaps"]));
        let named = |name: &str| {
            let mut rule = deletes.clone();
            rule["resourceNames"] = json!([name]);
            rule
        };
        for (rule, subresource, old, new, expected) in [
            (&nothing, "", None, &free, ""),
            (&nothing, "", Some(&none), &free, UNDELETABLE),
            (&nothing, "", Some(&free), &none, UNDELETABLE),
            (&nothing, "", Some(&free), &free, ""),
            (&deletes, "", Some(&none), &free, ""),
            (&named("a"), "", Some(&none), &free, ""),
            (&named("b"), "", Some(&none), &free, UNDELETABLE),
            (&deletes, "status", Some(&none), &free, UNDELETABLE),
            (&rule(&["update"], &[""], &["configmaps"]), "", Some(&none), &free, UNDELETABLE),
        ] {
            let message = refusal(rule, subresource, old, new).await;
            let wanted = if expected.is_empty() { String::new() } else { format!("configmaps \"a\" is forbidden: {expected}") };
            assert_eq!(message, wanted, "{rule} {subresource} {old:?} {new}");
        }
    }

    #[tokio::test]
    async fn who_blocks_an_owner_may_change_its_finalizers() {
        let blocks = |api_version: &str, kind: &str| json!([owner(api_version, kind, true)]);
        let finalizes = |group: &str, resource: &str| rule(&["update"], &[group], &[resource]);
        let unknown = "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion v1 Kind Gone: no matches for \
                       kind \"Gone\" in version \"v1\"";
        for (rule, owners, expected) in [
            (rule(&[], &[], &[]), blocks("v1", "Secret"), UNFINALIZABLE),
            (finalizes("", "secrets"), blocks("v1", "Secret"), UNFINALIZABLE),
            (rule(&["get"], &[""], &["secrets/finalizers"]), blocks("v1", "Secret"), UNFINALIZABLE),
            (finalizes("", "secrets/finalizers"), blocks("v1", "Secret"), ""),
            (finalizes("", "secrets/finalizers"), blocks("apps/v1", "Deployment"), UNFINALIZABLE),
            (finalizes("apps", "deployments/finalizers"), blocks("apps/v1", "Deployment"), ""),
            (finalizes("", "nodes/finalizers"), blocks("v1", "Node"), ""),
            (finalizes("", "secrets/finalizers"), blocks("v1", "Gone"), unknown),
            // Who may change all finalizers need not say of what.
            (finalizes("*", "*/finalizers"), blocks("v1", "Gone"), ""),
            (finalizes("", "secrets/finalizers"), json!([owner("v1", "Secret", true), owner("v1", "Node", true)]), UNFINALIZABLE),
        ] {
            let message = refusal(&rule, "", None, &owners).await;
            let wanted = if expected.is_empty() { String::new() } else { format!("configmaps \"a\" is forbidden: {expected}") };
            assert_eq!(message, wanted, "{rule} {owners}");
        }
        let deletes = rule(&["delete"], &[""], &["configmaps"]);
        let (free, blocking) = (json!([owner("v1", "Secret", false)]), blocks("v1", "Secret"));
        let more = json!([owner("v1", "Secret", true), owner("v1", "Node", false)]);
        for (old, new, allowed) in [(&free, &blocking, false), (&blocking, &free, true), (&blocking, &more, true)] {
            assert_eq!(refusal(&deletes, "", Some(old), new).await.is_empty(), allowed, "{old} {new}");
        }
    }

    #[tokio::test]
    async fn a_pods_status_has_no_owners() {
        let server = testing::server(&[]);
        let plugin = OwnerReferences::new(Loopback::new(Arc::downgrade(&server)));
        let pod = json!({"metadata": {"name": "a", "ownerReferences": [owner("v1", "Secret", true)]}});
        let mut attributes = testing::create("", "pods", "Pod", &pod);
        assert!(plugin.validate(&attributes).await.is_err());
        attributes.subresource = "status".to_owned();
        assert!(plugin.validate(&attributes).await.is_ok());
    }
}
