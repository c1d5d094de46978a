//! The Node authorizer: a kubelet may reach what the pods bound to its node refer to, and nothing else
//! (<https://kubernetes.io/docs/reference/access-authn-authz/node/>).
//!
//! Relations are looked up among the node's pods when asked for, instead of being kept in a graph as upstream does: kubelets ask
//! seldom, and the pods of a node are an index of the watch cache. What upstream's graph knows by its edges is in `references`.
//! PodCertificateRequests are no kubelet's business, as upstream has it while its gate for them is off.

mod references;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use apimachinery::go_quote;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use serde::Deserialize;

use self::references::Kind;
use super::attributes::{Attributes, Decision};
use super::rbac::Rule;
use crate::gates::{Feature, FeatureGates};
use crate::objects::{self, ListScope, Objects, ReadError};

/// Decides for identified kubelets (see [`super::UserInfo::node_name`]); no opinion about anybody else.
pub struct NodeAuthorizer {
    objects: Arc<dyn Objects>,
    rules: Vec<Rule>,
    /// Kubelets show ServiceAccounts' tokens to credential providers, and read the accounts for that.
    reads_service_accounts: bool,
}

/// What is read of an object that belongs to a node.
#[derive(Deserialize)]
struct OfNode {
    #[serde(default)]
    spec: OfNodeSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct OfNodeSpec {
    #[serde(default)]
    node_name: String,
}

fn no(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion(reason.into())
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}

/// The answer about an object that must belong to the node.
fn if_related(node: &str, related: bool) -> Decision {
    if related { yes() } else { no(format!("no relationship found between node '{node}' and this object")) }
}

impl NodeAuthorizer {
    /// `rules` are those of the cluster role `system:node`: what all nodes may do alike.
    pub fn new(objects: Arc<dyn Objects>, rules: Vec<Rule>, gates: FeatureGates) -> Self {
        Self { objects, rules, reads_service_accounts: gates.has(Feature::KubeletServiceAccountTokenForCredentialProviders) }
    }

    /// Decides one request.
    pub async fn authorize(&self, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        let Some(node) = request.user.node_name() else { return Ok(no("")) };
        if node.is_empty() {
            return Ok(no(format!("unknown node for user {}", go_quote(&request.user.name))));
        }
        // Boxed: what few requests need should not make those of all others larger.
        Box::pin(self.decide(node, request)).await
    }

    async fn decide(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        if request.resource_request {
            match (request.group, request.resource) {
                ("", "secrets") => return self.read_related(node, request).await,
                ("", "configmaps") => return self.read_related(node, request).await,
                ("", "persistentvolumeclaims") => return self.claim(node, request).await,
                ("", "persistentvolumes") | ("resource.k8s.io", "resourceclaims") | ("storage.k8s.io", "volumeattachments") => {
                    return self.get_related(node, request).await;
                }
                ("", "serviceaccounts") => return self.service_account(node, request).await,
                ("coordination.k8s.io", "leases") => return Ok(lease(node, request)),
                ("storage.k8s.io", "csinodes") => return Ok(csi_node(node, request)),
                ("resource.k8s.io", "resourceslices") => return self.resource_slice(node, request).await,
                ("", "nodes") => return Ok(node_object(node, request)),
                ("", "pods") => return self.pod(node, request).await,
                ("certificates.k8s.io", "podcertificaterequests") => return Ok(no("")),
                _ => {}
            }
        }
        Ok(if self.rules.iter().any(|rule| rule.allows(request)) { yes() } else { no("") })
    }

    /// Whether a pod of the node refers to an object.
    async fn is_referred_to(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> Result<bool, ReadError> {
        let pods: Vec<Pod> = objects::list(self.objects.as_ref(), ListScope { namespace, node_name: node }).await?;
        Ok(pods.iter().any(|pod| references::refers(pod, kind, name)))
    }

    /// Whether a pod of the node refers to a volume's claim.
    async fn is_volume_of(&self, node: &str, volume: &PersistentVolume) -> Result<bool, ReadError> {
        match references::claim_of(volume) {
            Some((namespace, name)) => self.is_referred_to(node, Kind::Claim, namespace, name).await,
            None => Ok(false),
        }
    }

    /// Whether a volume of one of the node's pods needs a Secret.
    async fn is_secret_of_volume(&self, node: &str, namespace: &str, name: &str) -> Result<bool, ReadError> {
        // Few volumes name a Secret: the others are not worth reading.
        let volumes = objects::list_mentioning::<PersistentVolume>(self.objects.as_ref(), ListScope::default(), name).await?;
        for volume in &volumes {
            let needs = references::secrets_of_volume(volume).any(|secret| secret == (namespace, name));
            if needs && self.is_volume_of(node, volume).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether `spec.nodeName` of an object is the node.
    async fn is_of_node(&self, node: &str, request: &Attributes<'_>) -> Result<bool, ReadError> {
        let json = self.objects.get_json(request.group, request.resource, request.namespace, request.name).await?;
        let of_node = |json: &[u8]| serde_json::from_slice::<OfNode>(json).is_ok_and(|object| object.spec.node_name == node);
        Ok(json.is_some_and(|json| of_node(&json)))
    }

    async fn related(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        let (namespace, name) = (request.namespace, request.name);
        if name.is_empty() {
            return Ok(no("No Object name found"));
        }
        let related = match (request.group, request.resource) {
            ("", "secrets") => {
                self.is_referred_to(node, Kind::Secret, namespace, name).await?
                    || self.is_secret_of_volume(node, namespace, name).await?
            }
            ("", "configmaps") => self.is_referred_to(node, Kind::ConfigMap, namespace, name).await?,
            ("", "persistentvolumeclaims") => self.is_referred_to(node, Kind::Claim, namespace, name).await?,
            ("", "serviceaccounts") => self.is_referred_to(node, Kind::ServiceAccount, namespace, name).await?,
            ("resource.k8s.io", "resourceclaims") => self.is_referred_to(node, Kind::ResourceClaim, namespace, name).await?,
            ("", "persistentvolumes") => match objects::get::<PersistentVolume>(self.objects.as_ref(), "", name).await? {
                Some(volume) => self.is_volume_of(node, &volume).await?,
                None => false,
            },
            // Pods, volume attachments and resource slices.
            _ => self.is_of_node(node, request).await?,
        };
        Ok(if_related(node, related))
    }

    async fn read_related(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        if !matches!(request.verb, "get" | "list" | "watch") {
            return Ok(no("can only read resources of this type"));
        }
        if !request.subresource.is_empty() {
            return Ok(no("cannot read subresource"));
        }
        if request.namespace.is_empty() {
            return Ok(no("can only read namespaced object of this type"));
        }
        self.related(node, request).await
    }

    async fn get_related(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        if request.verb != "get" {
            return Ok(no("can only get individual resources of this type"));
        }
        if !request.subresource.is_empty() {
            return Ok(no("cannot get subresource"));
        }
        self.related(node, request).await
    }

    async fn claim(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        match (request.subresource, request.verb) {
            ("status", "update" | "patch") => self.related(node, request).await,
            ("status", _) => Ok(no("can only get/update/patch this type")),
            _ => self.get_related(node, request).await,
        }
    }

    async fn service_account(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        if request.verb == "get" && request.subresource.is_empty() {
            if !self.reads_service_accounts {
                return Ok(no("not allowed to get service accounts"));
            }
            return self.read_related(node, request).await;
        }
        if request.verb != "create" || request.name.is_empty() {
            return Ok(no("can only create tokens for individual service accounts"));
        }
        if request.subresource != "token" {
            return Ok(no("can only create token subresource of serviceaccount"));
        }
        self.related(node, request).await
    }

    async fn resource_slice(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        if !request.subresource.is_empty() {
            return Ok(no("cannot authorize ResourceSlice subresources"));
        }
        match request.verb {
            // The NodeRestriction admission plugin sees the new object.
            "create" => Ok(yes()),
            "get" | "update" | "patch" | "delete" => self.related(node, request).await,
            "watch" | "list" | "deletecollection" if request.selects("spec.nodeName", node) => Ok(yes()),
            "watch" | "list" | "deletecollection" => {
                Ok(no("can only list/watch/deletecollection resourceslices with nodeName field selector"))
            }
            _ => Ok(no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            )),
        }
    }

    async fn pod(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        match (request.subresource, request.verb) {
            ("", "get") => self.get_related(node, request).await,
            ("", "list" | "watch") if request.selects("spec.nodeName", node) => Ok(yes()),
            ("", "list" | "watch") if !request.name.is_empty() => self.related(node, request).await,
            ("", "list" | "watch") => Ok(no("can only list/watch pods with spec.nodeName field selector")),
            // The NodeRestriction admission plugin limits these to the node's own pods.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(yes()),
            _ => Ok(no("")),
        }
    }
}

fn lease(node: &str, request: &Attributes<'_>) -> Decision {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if request.namespace != "kube-node-lease" {
        return no(r#"can only access leases in the "kube-node-lease" system namespace"#);
    }
    if request.verb != "create" && request.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn csi_node(node: &str, request: &Attributes<'_>) -> Decision {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !request.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if request.verb != "create" && request.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

fn node_object(node: &str, request: &Attributes<'_>) -> Decision {
    match (request.subresource, request.verb) {
        // The NodeRestriction admission plugin limits these to the node's own object.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") if request.name == node => yes(),
        ("", "get" | "list" | "watch") if request.name.is_empty() => {
            no(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => no(format!("node '{node}' cannot read '{}', only its own Node object", request.name)),
        _ => no(""),
    }
}
