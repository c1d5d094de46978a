//! NodeRestriction: a kubelet writes its own Node, its own Lease and CSINode, and the status of its own pods; the Node authorizer
//! cannot see the content that these rules are about
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>).

mod audiences;
mod migrated;
mod references;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use apimachinery::{GroupResource, Status, Value, go_quote};
use async_trait::async_trait;

use super::{forbidden, unreadable};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::gates::{Feature, FeatureGates};
use crate::loopback::Loopback;
use crate::objects::Objects;
use crate::pki;

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// Labels under kubernetes.io and k8s.io that kubelets set (upstream's `kubeletLabels`).
const KUBELET_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const KUBELET_LABEL_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

const KUBELET_SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

pub(super) struct NodeRestriction {
    objects: Arc<dyn Objects>,
    loopback: Loopback,
    /// A node's tokens are for the audiences of its pods.
    restricts_audiences: bool,
}

impl NodeRestriction {
    pub(super) fn new(objects: Arc<dyn Objects>, loopback: Loopback, gates: FeatureGates) -> Self {
        Self { objects, loopback, restricts_audiences: gates.has(Feature::ServiceAccountNodeAudienceRestriction) }
    }

    /// An object that upstream has from its informers, which name resources in the singular.
    async fn listed(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        match self.objects.get_json(group, resource, namespace, name).await.map_err(unreadable)? {
            Some(json) => Value::from_slice(&json).map_err(Status::internal_error),
            None => Err(Status::not_found(&GroupResource::new(group, resource.trim_end_matches('s')), name)),
        }
    }

    async fn node_of_pod(&self, attributes: &Attributes) -> Result<String, Status> {
        let pod = self.listed("", "pods", &attributes.namespace, &attributes.name).await?;
        Ok(pod.str_at(&["spec", "nodeName"]).unwrap_or_default().to_owned())
    }

    async fn pod(&self, node: &str, attributes: &Attributes) -> Result<(), Status> {
        match (attributes.subresource.as_str(), attributes.operation) {
            ("", Operation::Create) => {
                mirror_pod(node, attributes)?;
                self.mirror_owner(node, attributes).await?;
                mirror_references(node, attributes)
            }
            ("", Operation::Delete) => {
                if self.node_of_pod(attributes).await? != node {
                    let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
                    return Err(forbidden(attributes, why));
                }
                Ok(())
            }
            ("", operation) => {
                let why = format!(
                    "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                    operation.as_str()
                );
                Err(forbidden(attributes, why))
            }
            ("status", Operation::Update) => pod_status(node, attributes),
            ("eviction", Operation::Create) => {
                if self.node_of_pod(attributes).await? != node {
                    let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
                    return Err(forbidden(attributes, why));
                }
                Ok(())
            }
            ("status" | "eviction", operation) => {
                Err(forbidden(attributes, format!("unexpected operation {:?}", operation.as_str())))
            }
            (other, _) => {
                let why = format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed");
                Err(forbidden(attributes, why))
            }
        }
    }

    async fn token(&self, node: &str, attributes: &Attributes) -> Result<(), Status> {
        if attributes.operation != Operation::Create || attributes.subresource != "token" {
            return Ok(());
        }
        let reference =
            attributes.object.as_ref().and_then(|o| o.get_path(&["spec", "boundObjectRef"])).cloned().unwrap_or_default();
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
            return Err(forbidden(attributes, "node requested token not bound to a pod"));
        }
        if text("uid").is_empty() {
            return Err(forbidden(attributes, "node requested token with a pod binding without a uid"));
        }
        let pod = self.listed("", "pods", &attributes.namespace, text("name")).await?;
        if pod.meta().uid() != text("uid") {
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                text("uid")
            );
            return Err(forbidden(attributes, why));
        }
        if pod.str_at(&["spec", "nodeName"]) != Some(node) {
            return Err(forbidden(attributes, "node requested token bound to a pod scheduled on a different node"));
        }
        if self.restricts_audiences { self.check_audience(attributes, &pod).await } else { Ok(()) }
    }

    /// The owner of a mirror pod is this Node, not one of before with its name.
    async fn mirror_owner(&self, node: &str, attributes: &Attributes) -> Result<(), Status> {
        let Some(owner) = attributes.object.as_ref().and_then(|pod| pod.meta().owner_references().next()) else { return Ok(()) };
        let object = self.listed("", "nodes", "", node).await?;
        let (wanted, given) = (object.meta().uid(), &owner.uid);
        match *given == *wanted {
            true => Ok(()),
            false => Err(forbidden(attributes, format!("node {node} UID mismatch: expected {given} got {wanted}"))),
        }
    }
}

fn mirror_references(node: &str, attributes: &Attributes) -> Result<(), Status> {
    let Some(pod) = &attributes.object else { return Ok(()) };
    match references::referenced(&pod["spec"]) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(forbidden(attributes, format!("node {node:?} can not create pods that reference {what}"))),
        Err(why) => Err(forbidden(attributes, format!("error checking mirror pod for API references: {why}"))),
    }
}

/// A node publishes its own devices.
fn own_slice(node: &str, attributes: &Attributes) -> Result<(), Status> {
    let (object, verb) = match attributes.operation {
        Operation::Create => (&attributes.object, "create"),
        Operation::Delete => (&attributes.old_object, "delete"),
        Operation::Update | Operation::Connect => return Ok(()),
    };
    match object.as_ref().and_then(|slice| slice.str_at(&["spec", "nodeName"])) == Some(node) {
        true => Ok(()),
        false => {
            let why = format!("can only {verb} ResourceSlice with the same NodeName as the requesting node");
            Err(forbidden(attributes, why))
        }
    }
}

/// A node asks for certificates in its own name.
fn own_certificate(node: &str, attributes: &Attributes) -> Result<(), Status> {
    let request = attributes.object.as_ref().filter(|_| attributes.operation == Operation::Create);
    let Some(request) =
        request.filter(|request| request.str_at(&["spec", "signerName"]).is_some_and(|signer| KUBELET_SIGNERS.contains(&signer)))
    else {
        return Ok(());
    };
    let wanted = format!("system:node:{node}");
    match pki::requested_name(request.str_at(&["spec", "request"]).unwrap_or_default()) {
        Err(why) => Err(forbidden(attributes, format!("unable to parse csr: {why}"))),
        Ok(name) if name != wanted => Err(forbidden(attributes, format!("can only create a node CSR with CN={wanted}"))),
        Ok(_) => Ok(()),
    }
}

#[async_trait]
impl AdmissionPlugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let user = attributes.user.clone();
        let Some(node) = user.node_name() else { return Ok(()) };
        if node.is_empty() {
            return Err(forbidden(attributes, format!("could not determine node from user {}", go_quote(&user.name))));
        }
        match (attributes.resource.group.as_str(), attributes.resource.resource.as_str()) {
            ("", "pods") => self.pod(node, attributes).await,
            ("", "nodes") => own_node(node, attributes),
            ("", "persistentvolumeclaims") if attributes.subresource == "status" => claim_status(node, attributes),
            ("", "persistentvolumeclaims") => Err(forbidden(attributes, "may only update PVC status")),
            ("", "serviceaccounts") => self.token(node, attributes).await,
            ("coordination.k8s.io", "leases") => own_lease(node, attributes),
            ("storage.k8s.io", "csinodes") => named_as_node(node, attributes, "CSINode"),
            ("resource.k8s.io", "resourceslices") => own_slice(node, attributes),
            ("certificates.k8s.io", "certificatesigningrequests") => own_certificate(node, attributes),
            ("certificates.k8s.io", "podcertificaterequests") => {
                Err(forbidden(attributes, "PodCertificateRequest feature gate is disabled"))
            }
            _ => Ok(()),
        }
    }
}

fn mirror_pod(node: &str, attributes: &Attributes) -> Result<(), Status> {
    let Some(pod) = &attributes.object else { return Ok(()) };
    let refuse = |why: String| Err(forbidden(attributes, why));
    if pod.meta().annotation(MIRROR_ANNOTATION).is_none() {
        let why = format!("pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods");
        return refuse(why);
    }
    if pod.str_at(&["spec", "nodeName"]) != Some(node) {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners: Vec<_> = pod.meta().owner_references().collect();
    let owner = match owners.as_slice() {
        [owner] => owner,
        [] => return refuse(format!("node {node:?} can only create pods with an owner reference set to itself")),
        _ => return refuse(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    if owner.api_version != "v1" || owner.kind != "Node" || owner.name != node {
        return refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner.controller != Some(true) {
        return refuse(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner.block_owner_deletion == Some(true) {
        return refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    Ok(())
}

fn pod_status(node: &str, attributes: &Attributes) -> Result<(), Status> {
    let (Some(pod), Some(old)) = (&attributes.object, &attributes.old_object) else { return Ok(()) };
    if old.str_at(&["spec", "nodeName"]) != Some(node) {
        let why = format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself");
        return Err(forbidden(attributes, why));
    }
    if !old.meta().labels().eq(pod.meta().labels()) {
        return Err(forbidden(attributes, format!("node {node:?} cannot update labels through pod status")));
    }
    let claims = ["status", "resourceClaimStatuses"];
    if old.array_at(&claims) != pod.array_at(&claims) {
        return Err(forbidden(attributes, format!("node {node:?} cannot update resource claim statues")));
    }
    let extended = ["status", "extendedResourceClaimStatus"];
    if old.get_path(&extended) != pod.get_path(&extended) {
        return Err(forbidden(attributes, format!("node {node:?} cannot update extended resource claim status")));
    }
    Ok(())
}

fn own_node(node: &str, attributes: &Attributes) -> Result<(), Status> {
    let refuse = |why: String| Err(forbidden(attributes, why));
    let from_object = attributes.object.as_ref().map(|o| o.meta().name()).unwrap_or_default();
    let requested = if attributes.name.is_empty() { from_object } else { attributes.name.as_str() };
    if requested != node {
        return refuse(format!("node {node:?} is not allowed to modify node {requested:?}"));
    }
    let Some(object) = &attributes.object else { return Ok(()) };
    match (attributes.operation, &attributes.old_object) {
        (Operation::Create, _) => {
            if object.get_path(&["spec", "configSource"]).is_some() {
                return refuse(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
            }
            let labels = forbidden_labels(object, None);
            if !labels.is_empty() {
                return refuse(format!("node {node:?} is not allowed to set the following labels: {}", labels.join(", ")));
            }
        }
        (Operation::Update, Some(old)) => {
            let config = object.get_path(&["spec", "configSource"]);
            if config.is_some() && config != old.get_path(&["spec", "configSource"]) {
                return refuse(format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"));
            }
            if object.array_at(&["spec", "taints"]) != old.array_at(&["spec", "taints"]) {
                return refuse(format!("node {node:?} is not allowed to modify taints"));
            }
            if object.meta().owner_reference_values() != old.meta().owner_reference_values() {
                return refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let labels = forbidden_labels(object, Some(old));
            if !labels.is_empty() {
                return refuse(format!("is not allowed to modify labels: {}", labels.join(", ")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// The labels that differ and are not a kubelet's to set.
fn forbidden_labels(object: &Value, old: Option<&Value>) -> Vec<String> {
    let labels = |object: &Value| -> BTreeSet<(String, String)> {
        object.meta().labels().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    let (new, old) = (labels(object), old.map(labels).unwrap_or_default());
    let modified: BTreeSet<&str> = new.symmetric_difference(&old).map(|(key, _)| key.as_str()).collect();
    let under = |namespace: &str, domain: &str| {
        namespace == domain || namespace.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    };
    let is_forbidden = |label: &&str| {
        let namespace = label.split_once('/').map(|(namespace, _)| namespace).unwrap_or_default();
        if under(namespace, "node-restriction.kubernetes.io") {
            return true;
        }
        let kubelets = KUBELET_LABELS.contains(label) || KUBELET_LABEL_NAMESPACES.iter().any(|n| under(namespace, n));
        (under(namespace, "kubernetes.io") || under(namespace, "k8s.io")) && !kubelets
    };
    modified.into_iter().filter(is_forbidden).map(str::to_owned).collect()
}

fn claim_status(node: &str, attributes: &Attributes) -> Result<(), Status> {
    let (Operation::Update, Some(claim), Some(old)) = (attributes.operation, &attributes.object, &attributes.old_object) else {
        return Err(forbidden(attributes, format!("unexpected operation {:?}", attributes.operation.as_str())));
    };
    let stripped = |claim: &Value| {
        let mut claim = claim.clone();
        for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            claim.remove_path(&["status", field]);
        }
        if claim["status"].is_empty() {
            claim.remove("status");
        }
        claim.meta_mut().remove("resourceVersion");
        claim.meta_mut().remove("managedFields");
        claim
    };
    if stripped(claim) != stripped(old) {
        let why = format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions");
        return Err(forbidden(attributes, why));
    }
    Ok(())
}

fn own_lease(node: &str, attributes: &Attributes) -> Result<(), Status> {
    if attributes.namespace != "kube-node-lease" {
        let why = format!("can only access leases in the {:?} system namespace", "kube-node-lease");
        return Err(forbidden(attributes, why));
    }
    named_as_node(node, attributes, "node lease")
}

fn named_as_node(node: &str, attributes: &Attributes, what: &str) -> Result<(), Status> {
    let from_object = attributes.object.as_ref().map(|o| o.meta().name()).unwrap_or_default();
    let name = if attributes.operation == Operation::Create { from_object } else { attributes.name.as_str() };
    if name != node {
        return Err(forbidden(attributes, format!("can only access {what} with the same name as the requesting node")));
    }
    Ok(())
}
