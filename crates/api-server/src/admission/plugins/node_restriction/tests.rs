//! What nodes may write, rule by rule.

use rcgen::DnType;
use serde_json::{Value as Json, json};

use super::*;
use crate::admission::plugins::testing::{create, csr};
use crate::auth::UserInfo;
use crate::objects::memory::MemoryObjects;

/// The object as node `n1` creates it.
fn by_node(group: &str, resource: &str, kind: &str, object: &Json) -> Attributes {
    let mut attributes = create(group, resource, kind, object);
    attributes.user = Arc::new(UserInfo::node("n1"));
    attributes
}

fn value(json: &Json) -> Value {
    Value::from_slice(json.to_string().as_bytes()).expect("JSON")
}

/// The same as an update of an older state.
fn updating(mut attributes: Attributes, old: &Json) -> Attributes {
    (attributes.operation, attributes.old_object) = (Operation::Update, Some(value(old)));
    attributes
}

/// The same as a deletion of the object.
fn deleting(mut attributes: Attributes) -> Attributes {
    attributes.old_object = attributes.object.take();
    attributes.operation = Operation::Delete;
    attributes
}

fn of(mut attributes: Attributes, subresource: &str) -> Attributes {
    subresource.clone_into(&mut attributes.subresource);
    attributes
}

fn plugin() -> NodeRestriction {
    let objects = MemoryObjects::default();
    let volumes = json!([{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": ""}}]}}]);
    let spec = json!({"nodeName": "n1", "containers": [], "volumes": volumes});
    objects.put("pods", json!({"metadata": {"namespace": "ns", "name": "own", "uid": "u1"}, "spec": spec}));
    let spec = json!({"nodeName": "n2", "containers": []});
    objects.put("pods", json!({"metadata": {"namespace": "ns", "name": "other", "uid": "u2"}, "spec": spec}));
    objects.put("nodes", json!({"metadata": {"name": "n1", "uid": "nu1"}}));
    NodeRestriction::new(Arc::new(objects), Loopback::new(std::sync::Weak::new()), FeatureGates::DEFAULT)
}

/// The refusal has this text; none is expected where it is empty.
async fn check(mut attributes: Attributes, expected: &str) {
    let message = plugin().admit(&mut attributes).await.err().map(|status| status.message).unwrap_or_default();
    let what = attributes.object.as_ref().or(attributes.old_object.as_ref()).map(ToString::to_string);
    assert!(message.contains(expected) && message.is_empty() == expected.is_empty(), "{expected:?} {message:?} {what:?}");
}

#[tokio::test]
async fn whom_it_is_about() {
    let mut attributes = by_node("", "nodes", "Node", &json!({"metadata": {"name": "n2"}}));
    check(attributes.clone(), "is not allowed to modify node \"n2\"").await;
    attributes.user = Arc::new(UserInfo::node(""));
    check(attributes.clone(), "could not determine node from user \"system:node:\"").await;
    attributes.user = Arc::new(UserInfo::component("system:node:n1"));
    check(attributes, "").await;
    check(by_node("", "configmaps", "ConfigMap", &json!({})), "").await;
}

#[tokio::test]
async fn own_nodes() {
    let node = |name: &str, spec: Json| by_node("", "nodes", "Node", &json!({"metadata": {"name": name}, "spec": spec}));
    check(node("n1", json!({})), "").await;
    check(node("n2", json!({})), "node \"n1\" is not allowed to modify node \"n2\"").await;
    check(of(node("n2", json!({})), "status"), "is not allowed to modify node \"n2\"").await;
    check(deleting(node("n2", json!({}))), "is not allowed to modify node \"n2\"").await;
    check(deleting(node("n1", json!({}))), "").await;
    let sourced = json!({"configSource": {"configMap": {"name": "a"}}});
    check(node("n1", sourced.clone()), "is not allowed to create pods with a non-nil configSource").await;
    let taints = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
    let owners = json!({"metadata": {"name": "n1", "ownerReferences": [{"name": "a", "uid": "b"}]}});
    let plain = json!({"metadata": {"name": "n1"}, "spec": {}});
    for (attributes, expected) in [
        (updating(node("n1", json!({})), &plain), ""),
        (updating(node("n1", sourced.clone()), &plain), "update configSource to a new non-nil configSource"),
        (updating(node("n1", sourced.clone()), &json!({"metadata": {"name": "n1"}, "spec": sourced})), ""),
        (updating(node("n1", json!({})), &json!({"metadata": {"name": "n1"}, "spec": taints})), "not allowed to modify taints"),
        (of(updating(node("n1", taints.clone()), &plain), "status"), "is not allowed to modify taints"),
        (updating(by_node("", "nodes", "Node", &owners), &plain), "is not allowed to modify ownerReferences"),
        (updating(node("n1", json!({})), &owners), "is not allowed to modify ownerReferences"),
    ] {
        check(attributes, expected).await;
    }
}

#[tokio::test]
async fn labels_of_nodes() {
    let labelled = |label: &str| json!({"metadata": {"name": "n1", "labels": {label: "x"}}});
    let plain = json!({"metadata": {"name": "n1"}});
    let kubelets = ["kubelet.kubernetes.io/x", "a.kubelet.kubernetes.io/x", "node.kubernetes.io/x", "a.node.kubernetes.io/x"];
    let others = ["mine", "example.com/x", "akubernetes.io/x", "ak8s.io/x"];
    for label in KUBELET_LABELS.into_iter().chain(kubelets).chain(others) {
        check(by_node("", "nodes", "Node", &labelled(label)), "").await;
        check(updating(by_node("", "nodes", "Node", &labelled(label)), &plain), "").await;
    }
    for label in [
        "kubernetes.io/made-up",
        "a.kubernetes.io/x",
        "k8s.io/x",
        "a.k8s.io/x",
        "kubernetes.io/instance-type",
        "failure-domain.kubernetes.io/zone",
        "node-role.kubernetes.io/control-plane",
        "node-restriction.kubernetes.io/x",
        "a.node-restriction.kubernetes.io/x",
    ] {
        let expected = format!("node \"n1\" is not allowed to set the following labels: {label}");
        check(by_node("", "nodes", "Node", &labelled(label)), &expected).await;
        let expected = format!("is not allowed to modify labels: {label}");
        check(updating(by_node("", "nodes", "Node", &labelled(label)), &plain), &expected).await;
        check(updating(by_node("", "nodes", "Node", &plain), &labelled(label)), &expected).await;
        check(updating(by_node("", "nodes", "Node", &labelled(label)), &labelled(label)), "").await;
    }
}

#[tokio::test]
async fn mirror_pods() {
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "nu1", "controller": true});
    let with = |owner: &Json, member: &str, value: Json| {
        let mut owner = owner.clone();
        owner[member] = value;
        owner
    };
    let pod = |annotations: Json, owners: Json, spec: Json| {
        let meta = json!({"name": "p", "annotations": annotations, "ownerReferences": owners});
        by_node("", "pods", "Pod", &json!({"metadata": meta, "spec": spec}))
    };
    let mirror = || json!({MIRROR_ANNOTATION: ""});
    let spec = |member: &str, value: Json| json!({"nodeName": "n1", member: value});
    let plain = || spec("containers", json!([]));
    let wrong = "can only create pods with an owner reference set to itself";
    for (attributes, expected) in [
        (pod(mirror(), json!([owner]), plain()), ""),
        (pod(json!({}), json!([owner]), plain()), "node \"n1\" can only create mirror pods"),
        (pod(mirror(), json!([owner]), json!({"nodeName": "n2"})), "can only create pods with spec.nodeName set to itself"),
        (pod(mirror(), json!([]), plain()), wrong),
        (pod(mirror(), json!([owner, owner]), plain()), "with a single owner reference set to itself"),
        (pod(mirror(), json!([with(&owner, "apiVersion", json!("v2"))]), plain()), wrong),
        (pod(mirror(), json!([with(&owner, "kind", json!("Pod"))]), plain()), wrong),
        (pod(mirror(), json!([with(&owner, "name", json!("n2"))]), plain()), wrong),
        (pod(mirror(), json!([with(&owner, "controller", json!(false))]), plain()), "with a controller owner reference"),
        (pod(mirror(), json!([with(&owner, "blockOwnerDeletion", json!(true))]), plain()), "must not set blockOwnerDeletion"),
        (pod(mirror(), json!([with(&owner, "uid", json!("nu0"))]), plain()), "node n1 UID mismatch: expected nu0 got nu1"),
        (
            pod(mirror(), json!([owner]), spec("serviceAccountName", json!("a"))),
            "can not create pods that reference serviceaccounts",
        ),
        (
            pod(mirror(), json!([owner]), spec("volumes", json!([{"name": "v", "secret": {"secretName": "a"}}]))),
            "node \"n1\" can not create pods that reference secrets",
        ),
        (
            pod(mirror(), json!([owner]), spec("volumes", json!([{"name": "v", "new": {}}]))),
            "error checking mirror pod for API references: unknown volume type for volume  \"v\"",
        ),
    ] {
        check(attributes, expected).await;
    }
    let mut unknown = pod(mirror(), json!([with(&owner, "name", json!("n3"))]), json!({"nodeName": "n3"}));
    unknown.user = Arc::new(UserInfo::node("n3"));
    check(unknown, "node \"n3\" not found").await;
}

#[tokio::test]
async fn pods_of_the_node() {
    let named = |name: &str| by_node("", "pods", "Pod", &json!({"metadata": {"name": name}}));
    let plain = json!({"metadata": {"name": "own"}});
    for (attributes, expected) in [
        (deleting(named("own")), ""),
        (deleting(named("other")), "node \"n1\" can only delete pods with spec.nodeName set to itself"),
        (deleting(named("gone")), "pod \"gone\" not found"),
        (deleting(named("")), "pod \"\" not found"),
        (updating(named("own"), &plain), "unexpected operation \"UPDATE\", node \"n1\" can only create and delete mirror pods"),
        (of(named("own"), "eviction"), ""),
        (of(named("other"), "eviction"), "node n1 can only evict pods with spec.nodeName set to itself"),
        (of(named("gone"), "eviction"), "pod \"gone\" not found"),
        (of(updating(named("own"), &plain), "eviction"), "unexpected operation \"UPDATE\""),
        (of(named("own"), "status"), "unexpected operation \"CREATE\""),
        (of(named("own"), "binding"), "unexpected pod subresource \"binding\", only 'status' and 'eviction' are allowed"),
    ] {
        check(attributes, expected).await;
    }
    let state = |node: &str, labels: Json, status: Json| json!({"metadata": {"name": "p", "labels": labels}, "spec": {"nodeName": node}, "status": status});
    let old = state("n1", json!({"a": "b"}), json!({"resourceClaimStatuses": [{"name": "a"}], "phase": "Pending"}));
    let claims = json!([{"name": "a"}]);
    for (new, expected) in [
        (state("n1", json!({"a": "b"}), json!({"resourceClaimStatuses": claims, "phase": "Running"})), ""),
        (state("n1", json!({}), json!({"resourceClaimStatuses": claims})), "cannot update labels through pod status"),
        (state("n1", json!({"a": "b"}), json!({})), "cannot update resource claim statues"),
        (
            state(
                "n1",
                json!({"a": "b"}),
                json!({"resourceClaimStatuses": claims, "extendedResourceClaimStatus": {"resourceClaimName": "b"}}),
            ),
            "cannot update extended resource claim status",
        ),
    ] {
        check(of(updating(by_node("", "pods", "Pod", &new), &old), "status"), expected).await;
    }
    let (none, empty) = (json!({}), state("n1", json!({}), json!({"resourceClaimStatuses": []})));
    check(of(updating(by_node("", "pods", "Pod", &empty), &state("n1", json!({}), none)), "status"), "").await;
    let other = state("n2", json!({}), json!({}));
    let why = "can only update pod status for pods with spec.nodeName set to itself";
    check(of(updating(by_node("", "pods", "Pod", &other), &other), "status"), why).await;
}

#[tokio::test]
async fn claims() {
    let claim = |labels: Json, status: Json| json!({"metadata": {"name": "c", "resourceVersion": "1", "labels": labels}, "status": status});
    let by_node = |object: &Json| by_node("", "persistentvolumeclaims", "PersistentVolumeClaim", object);
    let old = claim(json!({}), json!({"phase": "Bound"}));
    let kubelets = json!({
        "phase": "Bound", "capacity": {"storage": "1Gi"}, "conditions": [{"type": "a"}],
        "allocatedResources": {"storage": "1Gi"}, "allocatedResourceStatuses": {"storage": "a"},
    });
    let others = "is not allowed to update fields other than status.quantity and status.conditions";
    for (attributes, expected) in [
        (by_node(&old), "may only update PVC status"),
        (updating(by_node(&old), &old), "may only update PVC status"),
        (of(by_node(&old), "status"), "unexpected operation \"CREATE\""),
        (of(updating(by_node(&claim(json!({}), kubelets.clone())), &old), "status"), ""),
        (of(updating(by_node(&claim(json!({}), json!({"phase": "Lost"}))), &old), "status"), others),
        (of(updating(by_node(&claim(json!({"a": "b"}), kubelets)), &old), "status"), others),
        (
            of(
                updating(by_node(&claim(json!({}), json!({"capacity": {"storage": "1"}}))), &claim(json!({}), json!(null))),
                "status",
            ),
            "",
        ),
    ] {
        check(attributes, expected).await;
    }
}

#[tokio::test]
async fn tokens() {
    let request = |reference: Json, audiences: Json| {
        let object = json!({"spec": {"boundObjectRef": reference, "audiences": audiences}});
        of(by_node("", "serviceaccounts", "TokenRequest", &object), "token")
    };
    let bound = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    for (reference, expected) in [
        (bound("own", "u1"), ""),
        (bound("own", "u9"), "the UID in the bound object reference (u9) does not match the UID in record"),
        (bound("own", ""), "node requested token with a pod binding without a uid"),
        (bound("", "u1"), "node requested token not bound to a pod"),
        (bound("other", "u2"), "node requested token bound to a pod scheduled on a different node"),
        (bound("gone", "u1"), "pod \"gone\" not found"),
        (json!({"apiVersion": "v1", "kind": "Secret", "name": "own", "uid": "u1"}), "not bound to a pod"),
        (json!({"apiVersion": "v2", "kind": "Pod", "name": "own", "uid": "u1"}), "not bound to a pod"),
        (json!(null), "not bound to a pod"),
    ] {
        check(request(reference, json!([])), expected).await;
    }
    check(request(bound("own", "u1"), json!(["a", "b"])), "node may only request 0 or 1 audiences").await;
    check(by_node("", "serviceaccounts", "ServiceAccount", &json!({})), "").await;
}

#[tokio::test]
async fn leases_and_csi_nodes() {
    let lease = |namespace: &str, name: &str| {
        let mut lease = by_node("coordination.k8s.io", "leases", "Lease", &json!({"metadata": {"name": name}}));
        namespace.clone_into(&mut lease.namespace);
        lease
    };
    let csi_node = |name: &str| by_node("storage.k8s.io", "csinodes", "CSINode", &json!({"metadata": {"name": name}}));
    let named = |mut attributes: Attributes, name: &str| {
        name.clone_into(&mut attributes.name);
        updating(attributes, &json!({}))
    };
    let (foreign, other) = ("can only access node lease with the same name", "can only access CSINode with the same name");
    for (attributes, expected) in [
        (lease("kube-node-lease", "n1"), ""),
        (lease("kube-node-lease", "n2"), foreign),
        (lease("ns", "n1"), "can only access leases in the \"kube-node-lease\" system namespace"),
        (named(lease("kube-node-lease", "n1"), "n2"), foreign),
        (deleting(lease("kube-node-lease", "n2")), foreign),
        (csi_node("n1"), ""),
        (csi_node("n2"), other),
        (named(csi_node("n1"), "n2"), other),
        (deleting(csi_node("n2")), other),
    ] {
        check(attributes, expected).await;
    }
}

#[tokio::test]
async fn slices() {
    let slice = |spec: Json| {
        let object = json!({"metadata": {"name": "s"}, "spec": spec});
        by_node("resource.k8s.io", "resourceslices", "ResourceSlice", &object)
    };
    for (attributes, expected) in [
        (slice(json!({"nodeName": "n1"})), ""),
        (slice(json!({"nodeName": "n2"})), "can only create ResourceSlice with the same NodeName as the requesting node"),
        (slice(json!({"allNodes": true})), "can only create ResourceSlice"),
        (deleting(slice(json!({"nodeName": "n1"}))), ""),
        (
            deleting(slice(json!({"nodeName": "n2"}))),
            "can only delete ResourceSlice with the same NodeName as the requesting node",
        ),
        (deleting(slice(json!({"allNodes": true}))), "can only delete ResourceSlice"),
        // The authorizer's.
        (updating(slice(json!({"nodeName": "n2"})), &json!({})), ""),
    ] {
        check(attributes, expected).await;
    }
}

#[tokio::test]
async fn certificates() {
    let request = |signer: &str, request: &str| {
        let object = json!({"metadata": {"name": "csr"}, "spec": {"signerName": signer, "request": request}});
        by_node("certificates.k8s.io", "certificatesigningrequests", "CertificateSigningRequest", &object)
    };
    let (own, other) = (csr(&[(DnType::CommonName, "system:node:n1")]), csr(&[(DnType::CommonName, "system:node:n2")]));
    for signer in KUBELET_SIGNERS {
        for (attributes, expected) in [
            (request(signer, &own), ""),
            (request(signer, &other), "can only create a node CSR with CN=system:node:n1"),
            (request(signer, &csr(&[])), "can only create a node CSR with CN=system:node:n1"),
            (request(signer, "AAAA"), "unable to parse csr: PEM block type must be CERTIFICATE REQUEST"),
            (updating(request(signer, &other), &json!({})), ""),
        ] {
            check(attributes, expected).await;
        }
    }
    check(request("example.com/a", &other), "").await;
    let why = "PodCertificateRequest feature gate is disabled";
    check(by_node("certificates.k8s.io", "podcertificaterequests", "PodCertificateRequest", &json!({})), why).await;
}
