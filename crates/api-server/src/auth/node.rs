//! The Node authorizer: a kubelet may reach what the pods bound to its node refer to, and nothing else
//! (<https://kubernetes.io/docs/reference/access-authn-authz/node/>).
//!
//! Relations are looked up among the node's pods when asked for, instead of being kept in a graph as upstream does: kubelets ask
//! seldom, and the pods of a node are an index of the watch cache. Not covered: ResourceClaims, ResourceSlices, VolumeAttachments
//! and PodCertificateRequests; a kubelet's requests for those are refused.

use std::sync::Arc;

use apimachinery::go_quote;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, Volume};

use super::attributes::{Attributes, Decision};
use super::rbac::Rule;
use crate::objects::{self, ListScope, Objects, ReadError};

/// Decides for identified kubelets (see [`super::UserInfo::node_name`]); no opinion about anybody else.
pub struct NodeAuthorizer {
    objects: Arc<dyn Objects>,
    rules: Vec<Rule>,
}

#[derive(Clone, Copy)]
enum Kind {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
}

fn no(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion(reason.into())
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}

impl NodeAuthorizer {
    /// `rules` are those of the cluster role `system:node`: what all nodes may do alike.
    pub fn new(objects: Arc<dyn Objects>, rules: Vec<Rule>) -> Self {
        Self { objects, rules }
    }

    /// Decides one request.
    pub async fn authorize(&self, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        let Some(node) = request.user.node_name() else { return Ok(no("")) };
        if node.is_empty() {
            return Ok(no(format!("unknown node for user {}", go_quote(&request.user.name))));
        }
        if request.resource_request {
            match (request.group, request.resource) {
                ("", "secrets") => return self.read_related(node, Kind::Secret, request).await,
                ("", "configmaps") => return self.read_related(node, Kind::ConfigMap, request).await,
                ("", "persistentvolumeclaims") => return self.claim(node, request).await,
                ("", "persistentvolumes") => return self.volume(node, request).await,
                ("", "serviceaccounts") => return self.service_account(node, request).await,
                ("coordination.k8s.io", "leases") => return Ok(lease(node, request)),
                ("storage.k8s.io", "csinodes") => return Ok(csi_node(node, request)),
                ("", "nodes") => return Ok(node_object(node, request)),
                ("", "pods") => return self.pod(node, request).await,
                ("resource.k8s.io", "resourceclaims" | "resourceslices")
                | ("storage.k8s.io", "volumeattachments")
                | ("certificates.k8s.io", "podcertificaterequests") => {
                    return Ok(no("not implemented: the node authorizer does not know this resource's relation to nodes"));
                }
                _ => {}
            }
        }
        Ok(if self.rules.iter().any(|rule| rule.allows(request)) { yes() } else { no("") })
    }

    async fn related(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> Result<Decision, ReadError> {
        if name.is_empty() {
            return Ok(no("No Object name found"));
        }
        let pods: Vec<Pod> = objects::list(self.objects.as_ref(), ListScope { namespace, node_name: node }).await?;
        let refers = pods.iter().filter_map(|pod| Some((pod, pod.spec.as_ref()?))).any(|(pod, spec)| match kind {
            Kind::Secret => refers_to_secret(spec, name),
            Kind::ConfigMap => refers_to_config_map(spec, name),
            Kind::Claim => refers_to_claim(pod, spec, name),
            Kind::ServiceAccount => spec.service_account_name.as_deref() == Some(name),
        });
        Ok(if refers { yes() } else { no(format!("no relationship found between node '{node}' and this object")) })
    }

    async fn read_related(&self, node: &str, kind: Kind, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        if !matches!(request.verb, "get" | "list" | "watch") {
            return Ok(no("can only read resources of this type"));
        }
        if !request.subresource.is_empty() {
            return Ok(no("cannot read subresource"));
        }
        if request.namespace.is_empty() {
            return Ok(no("can only read namespaced object of this type"));
        }
        self.related(node, kind, request.namespace, request.name).await
    }

    async fn claim(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        match (request.subresource, request.verb) {
            ("status", "update" | "patch") | ("", "get") => {
                self.related(node, Kind::Claim, request.namespace, request.name).await
            }
            ("status", _) => Ok(no("can only get/update/patch this type")),
            ("", _) => Ok(no("can only get individual resources of this type")),
            _ => Ok(no("cannot get subresource")),
        }
    }

    /// A volume is related to a node through its claim.
    async fn volume(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        if request.verb != "get" {
            return Ok(no("can only get individual resources of this type"));
        }
        if !request.subresource.is_empty() {
            return Ok(no("cannot get subresource"));
        }
        let volume: Option<PersistentVolume> = objects::get(self.objects.as_ref(), "", request.name).await?;
        let claim = volume.and_then(|v| v.spec?.claim_ref);
        let Some((namespace, name)) = claim.and_then(|c| c.namespace.zip(c.name)) else {
            return Ok(no(format!("no relationship found between node '{node}' and this object")));
        };
        let bound: Option<PersistentVolumeClaim> = objects::get(self.objects.as_ref(), &namespace, &name).await?;
        if bound.is_none() {
            return Ok(no(format!("no relationship found between node '{node}' and this object")));
        }
        self.related(node, Kind::Claim, &namespace, &name).await
    }

    async fn service_account(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        if request.verb == "get" && request.subresource.is_empty() {
            return self.read_related(node, Kind::ServiceAccount, request).await;
        }
        if request.verb != "create" || request.name.is_empty() {
            return Ok(no("can only create tokens for individual service accounts"));
        }
        if request.subresource != "token" {
            return Ok(no("can only create token subresource of serviceaccount"));
        }
        self.related(node, Kind::ServiceAccount, request.namespace, request.name).await
    }

    async fn pod(&self, node: &str, request: &Attributes<'_>) -> Result<Decision, ReadError> {
        let own = async || -> Result<Decision, ReadError> {
            let pod: Option<Pod> = objects::get(self.objects.as_ref(), request.namespace, request.name).await?;
            let bound = pod.and_then(|p| p.spec?.node_name).is_some_and(|n| n == node);
            Ok(if bound { yes() } else { no(format!("no relationship found between node '{node}' and this object")) })
        };
        match (request.subresource, request.verb) {
            ("", "get") => own().await,
            ("", "list" | "watch") if request.selects("spec.nodeName", node) => Ok(yes()),
            ("", "list" | "watch") if !request.name.is_empty() => own().await,
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
        ("", "list" | "watch") if request.name.is_empty() && request.selects("metadata.name", node) => yes(),
        ("", "get" | "list" | "watch") if request.name.is_empty() => {
            no(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => no(format!("node '{node}' cannot read '{}', only its own Node object", request.name)),
        _ => no(""),
    }
}

/// Every container's environment sources, of all three kinds of containers: `(secret, config map)` names.
fn environment(spec: &PodSpec) -> impl Iterator<Item = (Option<&str>, Option<&str>)> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let env =
        containers.clone().flat_map(|c| c.env.iter().flatten()).chain(ephemeral.clone().flat_map(|c| c.env.iter().flatten()));
    let from = containers.flat_map(|c| c.env_from.iter().flatten()).chain(ephemeral.flat_map(|c| c.env_from.iter().flatten()));
    let keys = env.filter_map(|e| e.value_from.as_ref()).map(|source| {
        (source.secret_key_ref.as_ref().map(|r| r.name.as_str()), source.config_map_key_ref.as_ref().map(|r| r.name.as_str()))
    });
    keys.chain(from.map(|source| {
        (source.secret_ref.as_ref().map(|r| r.name.as_str()), source.config_map_ref.as_ref().map(|r| r.name.as_str()))
    }))
}

fn volumes(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    spec.volumes.iter().flatten()
}

fn refers_to_secret(spec: &PodSpec, name: &str) -> bool {
    let in_volume = |v: &Volume| {
        let projected = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        v.secret.as_ref().is_some_and(|s| s.secret_name.as_deref() == Some(name))
            || projected.filter_map(|s| s.secret.as_ref()).any(|s| s.name == name)
            || v.csi.as_ref().and_then(|c| c.node_publish_secret_ref.as_ref()).is_some_and(|r| r.name == name)
            || v.cephfs.as_ref().and_then(|c| c.secret_ref.as_ref()).is_some_and(|r| r.name == name)
            || v.rbd.as_ref().and_then(|c| c.secret_ref.as_ref()).is_some_and(|r| r.name == name)
            || v.iscsi.as_ref().and_then(|c| c.secret_ref.as_ref()).is_some_and(|r| r.name == name)
            || v.flex_volume.as_ref().and_then(|c| c.secret_ref.as_ref()).is_some_and(|r| r.name == name)
            || v.azure_file.as_ref().is_some_and(|a| a.secret_name == name)
    };
    spec.image_pull_secrets.iter().flatten().any(|r| r.name == name)
        || environment(spec).any(|(secret, _)| secret == Some(name))
        || volumes(spec).any(in_volume)
}

fn refers_to_config_map(spec: &PodSpec, name: &str) -> bool {
    let in_volume = |v: &Volume| {
        let projected = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        v.config_map.as_ref().is_some_and(|c| c.name == name)
            || projected.filter_map(|s| s.config_map.as_ref()).any(|c| c.name == name)
    };
    environment(spec).any(|(_, config_map)| config_map == Some(name)) || volumes(spec).any(in_volume)
}

fn refers_to_claim(pod: &Pod, spec: &PodSpec, name: &str) -> bool {
    volumes(spec).any(|v| {
        v.persistent_volume_claim.as_ref().is_some_and(|c| c.claim_name == name)
            // A generic ephemeral volume's claim is named after pod and volume.
            || v.ephemeral.is_some()
                && pod.metadata.name.as_ref().is_some_and(|p| name == format!("{p}-{}", v.name))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::user::UserInfo;
    use crate::objects::memory::MemoryObjects;

    fn authorizer() -> NodeAuthorizer {
        let objects = MemoryObjects::default();
        objects.put(
            "pods",
            json!({
                "metadata": {"namespace": "a", "name": "p"},
                "spec": {
                    "nodeName": "n1",
                    "serviceAccountName": "sa",
                    "imagePullSecrets": [{"name": "pull"}],
                    "containers": [{
                        "name": "c",
                        "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}],
                        "envFrom": [{"configMapRef": {"name": "from"}}]
                    }],
                    "volumes": [
                        {"name": "s", "secret": {"secretName": "vol"}},
                        {"name": "pr", "projected": {"sources": [{"configMap": {"name": "root-ca"}}]}},
                        {"name": "d", "persistentVolumeClaim": {"claimName": "data"}}
                    ]
                }
            }),
        );
        objects.put("pods", json!({"metadata": {"namespace": "a", "name": "q"}, "spec": {"nodeName": "n2", "containers": []}}));
        objects.put("persistentvolumeclaims", json!({"metadata": {"namespace": "a", "name": "data"}}));
        objects.put(
            "persistentvolumes",
            json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "a", "name": "data"}}}),
        );
        let rule = Rule {
            verbs: vec!["list".to_owned()],
            api_groups: vec![String::new()],
            resources: vec!["services".to_owned()],
            ..Rule::default()
        };
        NodeAuthorizer::new(Arc::new(objects), vec![rule])
    }

    #[tokio::test]
    async fn requests() {
        let authorizer = authorizer();
        let node = UserInfo::node("n1");
        // (verb, group, resource, subresource, namespace, name) -> allowed
        for (verb, group, resource, sub, namespace, name, wanted) in [
            ("get", "", "secrets", "", "a", "pull", true),
            ("get", "", "secrets", "", "a", "env", true),
            ("watch", "", "secrets", "", "a", "vol", true),
            ("get", "", "secrets", "", "a", "other", false),
            ("get", "", "secrets", "", "b", "vol", false),
            ("list", "", "secrets", "", "a", "", false),
            ("update", "", "secrets", "", "a", "vol", false),
            ("get", "", "configmaps", "", "a", "from", true),
            ("get", "", "configmaps", "", "a", "root-ca", true),
            ("get", "", "persistentvolumeclaims", "", "a", "data", true),
            ("get", "", "persistentvolumes", "", "", "pv", true),
            ("get", "", "persistentvolumes", "", "", "other", false),
            ("create", "", "serviceaccounts", "token", "a", "sa", true),
            ("create", "", "serviceaccounts", "token", "a", "admin", false),
            ("get", "", "pods", "", "a", "p", true),
            ("get", "", "pods", "", "a", "q", false),
            ("list", "", "pods", "", "", "", false),
            ("update", "", "pods", "status", "a", "p", true),
            ("get", "", "nodes", "", "", "n1", true),
            ("get", "", "nodes", "", "", "n2", false),
            ("delete", "", "nodes", "", "", "n1", false),
            ("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1", true),
            ("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2", false),
            ("update", "coordination.k8s.io", "leases", "", "kube-system", "n1", false),
            ("list", "", "services", "", "", "", true),
            ("list", "apps", "deployments", "", "", "", false),
        ] {
            let request = Attributes::resource(&node, verb, group, resource).subresource(sub).named(namespace, name);
            let decision = authorizer.authorize(&request).await.expect("memory");
            assert_eq!(
                matches!(decision, Decision::Allow(_)),
                wanted,
                "{verb} {resource}/{sub} {namespace}/{name}: {decision:?}"
            );
        }
        let own = Attributes { field_selector: "spec.nodeName=n1", ..Attributes::resource(&node, "watch", "", "pods") };
        assert!(matches!(authorizer.authorize(&own).await.expect("memory"), Decision::Allow(_)));
        let (rest, nobody) = (Attributes::resource(&node, "list", "", "services"), UserInfo::node(""));
        let unknown = authorizer.authorize(&Attributes { user: &nobody, ..rest }).await.expect("memory");
        assert_eq!(unknown, Decision::NoOpinion("unknown node for user \"system:node:\"".to_owned()));
        let admin = UserInfo::component("bob");
        let foreign = Attributes::resource(&admin, "get", "", "secrets").named("a", "vol");
        assert_eq!(authorizer.authorize(&foreign).await.expect("memory"), Decision::NoOpinion(String::new()));
    }
}
