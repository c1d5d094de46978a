//! Upstream's rules about kubelets, one table for each.

use serde_json::{Value as Json, json};

use super::*;
use crate::auth::user::UserInfo;
use crate::objects::memory::MemoryObjects;

const UNRELATED: &str = "no relationship found between node 'n1' and this object";

/// `(verb, resource or resource/subresource, namespace, name, reason)`; an empty reason is that it is allowed, `-` that there is none.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static str);

fn put_pod(objects: &MemoryObjects, name: &str, node: &str, annotations: Json, spec: Json, status: Json) {
    let mut spec = spec;
    spec["nodeName"] = json!(node);
    if spec["containers"].is_null() {
        spec["containers"] = json!([]);
    }
    let metadata = json!({"namespace": "a", "name": name, "annotations": annotations});
    objects.put("pods", json!({"metadata": metadata, "spec": spec, "status": status}));
}

fn pod(objects: &MemoryObjects, name: &str, node: &str, spec: Json) {
    put_pod(objects, name, node, json!({}), spec, json!({}));
}

fn authorizer(objects: MemoryObjects, gates: FeatureGates) -> NodeAuthorizer {
    let text = |text: &str| vec![text.to_owned()];
    let rule = Rule { verbs: text("list"), api_groups: text(""), resources: text("services"), ..Rule::default() };
    NodeAuthorizer::new(Arc::new(objects), vec![rule], gates)
}

async fn check_with(authorizer: &NodeAuthorizer, group: &str, field_selector: &str, cases: &[Case]) {
    let node = UserInfo::node("n1");
    for (verb, resource, namespace, name, expected) in cases {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let request = Attributes::resource(&node, verb, group, resource).subresource(subresource).named(namespace, name);
        let decision = authorizer.authorize(&Attributes { field_selector, ..request }).await.expect("memory");
        let expected = match *expected {
            "" => yes(),
            "-" => no(""),
            reason => no(reason),
        };
        assert_eq!(decision, expected, "{verb} {resource}/{subresource} {namespace}/{name} {field_selector}");
    }
}

async fn check(objects: MemoryObjects, group: &str, cases: &[Case]) {
    check_with(&authorizer(objects, FeatureGates::DEFAULT), group, "", cases).await;
}

#[tokio::test]
async fn who_is_asked_about() {
    let authorizer = authorizer(MemoryObjects::default(), FeatureGates::DEFAULT);
    check_with(&authorizer, "", "", &[("list", "services", "", "", ""), ("watch", "services", "", "", "-")]).await;
    check_with(&authorizer, "apps", "", &[("list", "deployments", "", "", "-")]).await;
    let (nobody, admin) = (UserInfo::node(""), UserInfo::component("bob"));
    let unknown = authorizer.authorize(&Attributes::resource(&nobody, "list", "", "services")).await.expect("memory");
    assert_eq!(unknown, no("unknown node for user \"system:node:\""));
    let foreign = authorizer.authorize(&Attributes::resource(&admin, "list", "", "services")).await.expect("memory");
    assert_eq!(foreign, no(""));
}

#[tokio::test]
async fn objects_are_read_one_by_one() {
    let objects = MemoryObjects::default();
    pod(&objects, "p", "n1", json!({"imagePullSecrets": [{"name": "s"}]}));
    pod(&objects, "q", "n2", json!({"imagePullSecrets": [{"name": "t"}]}));
    let cases = [
        ("get", "secrets", "a", "s", ""),
        ("list", "secrets", "a", "s", ""),
        ("watch", "secrets", "a", "s", ""),
        ("get", "secrets", "a", "t", UNRELATED),
        ("get", "secrets", "b", "s", UNRELATED),
        ("list", "secrets", "a", "", "No Object name found"),
        ("list", "secrets", "", "s", "can only read namespaced object of this type"),
        ("update", "secrets", "a", "s", "can only read resources of this type"),
        ("get", "secrets/x", "a", "s", "cannot read subresource"),
    ];
    check(objects, "", &cases).await;
}

/// Each way in which a pod names a Secret, called `s`.
#[tokio::test]
async fn secrets_of_pods() {
    let volume = |source: Json| {
        let mut volume = source;
        volume["name"] = json!("v");
        json!({"volumes": [volume]})
    };
    let reference = || json!({"name": "s"});
    let env = json!([{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
    let from = json!([{"secretRef": {"name": "s"}}]);
    for spec in [
        json!({"imagePullSecrets": [{"name": "s"}]}),
        json!({"containers": [{"name": "c", "env": env}]}),
        json!({"containers": [{"name": "c", "envFrom": from}]}),
        json!({"initContainers": [{"name": "c", "env": env}]}),
        json!({"ephemeralContainers": [{"name": "c", "envFrom": from}]}),
        volume(json!({"azureFile": {"secretName": "s", "shareName": "x"}})),
        volume(json!({"cephfs": {"monitors": [], "secretRef": reference()}})),
        volume(json!({"cinder": {"volumeID": "x", "secretRef": reference()}})),
        volume(json!({"csi": {"driver": "x", "nodePublishSecretRef": reference()}})),
        volume(json!({"flexVolume": {"driver": "x", "secretRef": reference()}})),
        volume(json!({"iscsi": {"iqn": "x", "lun": 0, "targetPortal": "x", "secretRef": reference()}})),
        volume(json!({"projected": {"sources": [{"secret": {"name": "s"}}]}})),
        volume(json!({"rbd": {"image": "x", "monitors": [], "secretRef": reference()}})),
        volume(json!({"scaleIO": {"gateway": "x", "system": "x", "secretRef": reference()}})),
        volume(json!({"secret": {"secretName": "s"}})),
        volume(json!({"storageos": {"secretRef": reference()}})),
    ] {
        let objects = MemoryObjects::default();
        pod(&objects, "p", "n1", spec.clone());
        check(objects, "", &[("get", "secrets", "a", "s", ""), ("get", "secrets", "a", "other", UNRELATED)]).await;
        // A kubelet could make a mirror pod that names what it likes.
        let objects = MemoryObjects::default();
        put_pod(&objects, "p", "n1", json!({"kubernetes.io/config.mirror": ""}), spec, json!({}));
        check(objects, "", &[("get", "secrets", "a", "s", UNRELATED), ("get", "pods", "a", "p", "")]).await;
    }
}

/// Each way in which a persistent volume names a Secret, and in which namespace.
#[tokio::test]
async fn secrets_of_volumes() {
    let (here, there) = (json!({"name": "s"}), json!({"name": "s", "namespace": "b"}));
    let csi = |member: &str, reference: &Json| json!({"csi": {"driver": "x", "volumeHandle": "x", member: reference}});
    for (source, namespace) in [
        (json!({"azureFile": {"secretName": "s", "shareName": "x"}}), "a"),
        (json!({"azureFile": {"secretName": "s", "shareName": "x", "secretNamespace": "b"}}), "b"),
        (json!({"cephfs": {"monitors": [], "secretRef": here}}), "a"),
        (json!({"cephfs": {"monitors": [], "secretRef": there}}), "b"),
        (json!({"cinder": {"volumeID": "x", "secretRef": there}}), "b"),
        (json!({"flexVolume": {"driver": "x", "secretRef": here}}), "a"),
        (json!({"flexVolume": {"driver": "x", "secretRef": there}}), "b"),
        (json!({"iscsi": {"iqn": "x", "lun": 0, "targetPortal": "x", "secretRef": here}}), "a"),
        (json!({"rbd": {"image": "x", "monitors": [], "secretRef": there}}), "b"),
        (json!({"scaleIO": {"gateway": "x", "system": "x", "secretRef": here}}), "a"),
        (json!({"storageos": {"secretRef": there}}), "b"),
        (csi("nodePublishSecretRef", &there), "b"),
        (csi("nodeStageSecretRef", &there), "b"),
        (csi("nodeExpandSecretRef", &there), "b"),
        // The driver's controllers need these, nodes do not.
        (csi("controllerPublishSecretRef", &there), ""),
        (csi("controllerExpandSecretRef", &there), ""),
        // No namespace is that of no claim here.
        (csi("nodeStageSecretRef", &here), ""),
    ] {
        let put = |node: &str, claim: Json| {
            let objects = MemoryObjects::default();
            pod(&objects, "p", node, json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}));
            let mut spec = source.clone();
            spec["claimRef"] = claim;
            objects.put("persistentvolumes", json!({"metadata": {"name": "pv"}, "spec": spec}));
            objects
        };
        let bound = || json!({"namespace": "a", "name": "data"});
        let expected = |at: &str| if at == namespace { "" } else { UNRELATED };
        let cases = [("get", "secrets", "a", "s", expected("a")), ("get", "secrets", "b", "s", expected("b"))];
        check(put("n1", bound()), "", &cases).await;
        let refused = [("get", "secrets", "a", "s", UNRELATED), ("get", "secrets", "b", "s", UNRELATED)];
        check(put("n2", bound()), "", &refused).await;
        check(put("n1", Json::Null), "", &refused).await;
        check(put("n1", json!({"namespace": "a", "name": "other"})), "", &refused).await;
    }
}

#[tokio::test]
async fn config_maps() {
    let env = json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]);
    for spec in [
        json!({"containers": [{"name": "c", "env": env}]}),
        json!({"ephemeralContainers": [{"name": "c", "env": env}]}),
        json!({"initContainers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "c"}}]}]}),
        json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
        json!({"volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "c"}}]}}]}),
    ] {
        let objects = MemoryObjects::default();
        pod(&objects, "p", "n1", spec);
        let cases = [
            ("get", "configmaps", "a", "c", ""),
            ("watch", "configmaps", "a", "c", ""),
            ("get", "configmaps", "a", "d", UNRELATED),
            ("delete", "configmaps", "a", "c", "can only read resources of this type"),
        ];
        check(objects, "", &cases).await;
    }
}

#[tokio::test]
async fn claims_and_volumes() {
    let objects = MemoryObjects::default();
    let volumes = json!([{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "e", "ephemeral": {}}]);
    pod(&objects, "p", "n1", json!({"volumes": volumes}));
    for (name, claim) in [("pv", "data"), ("made", "p-e"), ("other", "x")] {
        let spec = json!({"claimRef": {"namespace": "a", "name": claim}});
        objects.put("persistentvolumes", json!({"metadata": {"name": name}, "spec": spec}));
    }
    objects.put("persistentvolumes", json!({"metadata": {"name": "free"}, "spec": {}}));
    let cases = [
        ("get", "persistentvolumeclaims", "a", "data", ""),
        ("get", "persistentvolumeclaims", "a", "p-e", ""),
        ("get", "persistentvolumeclaims", "a", "x", UNRELATED),
        ("get", "persistentvolumeclaims", "b", "data", UNRELATED),
        ("list", "persistentvolumeclaims", "a", "data", "can only get individual resources of this type"),
        ("get", "persistentvolumeclaims/x", "a", "data", "cannot get subresource"),
        ("update", "persistentvolumeclaims/status", "a", "data", ""),
        ("patch", "persistentvolumeclaims/status", "a", "p-e", ""),
        ("patch", "persistentvolumeclaims/status", "a", "x", UNRELATED),
        ("get", "persistentvolumeclaims/status", "a", "data", "can only get/update/patch this type"),
        ("get", "persistentvolumes", "", "pv", ""),
        ("get", "persistentvolumes", "", "made", ""),
        ("get", "persistentvolumes", "", "other", UNRELATED),
        ("get", "persistentvolumes", "", "free", UNRELATED),
        ("get", "persistentvolumes", "", "gone", UNRELATED),
        ("list", "persistentvolumes", "", "", "can only get individual resources of this type"),
        ("get", "persistentvolumes/status", "", "pv", "cannot get subresource"),
    ];
    check(objects, "", &cases).await;
}

#[tokio::test]
async fn resource_claims() {
    let objects = MemoryObjects::default();
    let claims = json!([
        {"name": "one", "resourceClaimName": "named"},
        {"name": "two", "resourceClaimTemplateName": "t"},
        {"name": "three", "resourceClaimTemplateName": "t"},
        {"name": "four", "resourceClaimTemplateName": "t"},
    ]);
    let status = json!({
        "resourceClaimStatuses": [{"name": "two", "resourceClaimName": "made"}, {"name": "three"}],
        "extendedResourceClaimStatus": {"resourceClaimName": "extended", "requestMappings": []},
    });
    put_pod(&objects, "p", "n1", json!({}), json!({"resourceClaims": claims}), status);
    let cases = [
        ("get", "resourceclaims", "a", "named", ""),
        ("get", "resourceclaims", "a", "made", ""),
        ("get", "resourceclaims", "a", "extended", ""),
        ("get", "resourceclaims", "a", "t", UNRELATED),
        ("get", "resourceclaims", "a", "", "No Object name found"),
        ("get", "resourceclaims", "b", "named", UNRELATED),
        ("list", "resourceclaims", "a", "named", "can only get individual resources of this type"),
        ("get", "resourceclaims/status", "a", "named", "cannot get subresource"),
    ];
    check(objects, "resource.k8s.io", &cases).await;
}

#[tokio::test]
async fn resource_slices() {
    let objects = MemoryObjects::default();
    for (name, spec) in [("own", json!({"nodeName": "n1"})), ("other", json!({"nodeName": "n2"})), ("all", json!({}))] {
        objects.put("resourceslices", json!({"metadata": {"name": name}, "spec": spec}));
    }
    let (group, authorizer) = ("resource.k8s.io", authorizer(objects, FeatureGates::DEFAULT));
    let unselected = "can only list/watch/deletecollection resourceslices with nodeName field selector";
    let verbs = "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection";
    let cases = [
        ("create", "resourceslices", "", "", ""),
        ("get", "resourceslices", "", "own", ""),
        ("update", "resourceslices", "", "own", ""),
        ("patch", "resourceslices", "", "own", ""),
        ("delete", "resourceslices", "", "own", ""),
        ("delete", "resourceslices", "", "other", UNRELATED),
        ("get", "resourceslices", "", "all", UNRELATED),
        ("get", "resourceslices", "", "gone", UNRELATED),
        ("list", "resourceslices", "", "", unselected),
        ("watch", "resourceslices", "", "", unselected),
        ("deletecollection", "resourceslices", "", "", unselected),
        ("proxy", "resourceslices", "", "own", verbs),
        ("get", "resourceslices/status", "", "own", "cannot authorize ResourceSlice subresources"),
    ];
    check_with(&authorizer, group, "", &cases).await;
    let collections = ["list", "watch", "deletecollection"];
    let allowed = collections.map(|verb| (verb, "resourceslices", "", "", ""));
    check_with(&authorizer, group, "spec.driver=d,spec.nodeName=n1", &allowed).await;
    let refused = collections.map(|verb| (verb, "resourceslices", "", "", unselected));
    for selector in ["spec.nodeName=n2", "spec.nodeName!=n1", "metadata.name=n1"] {
        check_with(&authorizer, group, selector, &refused).await;
    }
}

#[tokio::test]
async fn volume_attachments() {
    let objects = MemoryObjects::default();
    for (name, node) in [("own", "n1"), ("other", "n2")] {
        let spec = json!({"attacher": "d", "nodeName": node, "source": {}});
        objects.put("volumeattachments", json!({"metadata": {"name": name}, "spec": spec}));
    }
    let cases = [
        ("get", "volumeattachments", "", "own", ""),
        ("get", "volumeattachments", "", "other", UNRELATED),
        ("get", "volumeattachments", "", "gone", UNRELATED),
        ("list", "volumeattachments", "", "own", "can only get individual resources of this type"),
        ("get", "volumeattachments/status", "", "own", "cannot get subresource"),
    ];
    check(objects, "storage.k8s.io", &cases).await;
}

#[tokio::test]
async fn service_accounts() {
    let objects = || {
        let objects = MemoryObjects::default();
        pod(&objects, "p", "n1", json!({"serviceAccountName": "sa"}));
        objects
    };
    let create = "can only create tokens for individual service accounts";
    let cases = [
        ("create", "serviceaccounts/token", "a", "sa", ""),
        ("create", "serviceaccounts/token", "a", "admin", UNRELATED),
        ("create", "serviceaccounts/token", "b", "sa", UNRELATED),
        ("create", "serviceaccounts/token", "a", "", create),
        ("create", "serviceaccounts", "a", "sa", "can only create token subresource of serviceaccount"),
        ("update", "serviceaccounts", "a", "sa", create),
        ("get", "serviceaccounts/token", "a", "sa", create),
        ("get", "serviceaccounts", "a", "sa", ""),
        ("get", "serviceaccounts", "a", "admin", UNRELATED),
        ("get", "serviceaccounts", "", "sa", "can only read namespaced object of this type"),
        ("list", "serviceaccounts", "a", "sa", create),
    ];
    check(objects(), "", &cases).await;
    let gates = FeatureGates::DEFAULT.with(Feature::KubeletServiceAccountTokenForCredentialProviders, false);
    let without = [("get", "serviceaccounts", "a", "sa", "not allowed to get service accounts"), cases[0]];
    check_with(&authorizer(objects(), gates), "", "", &without).await;
}

#[tokio::test]
async fn leases() {
    let verbs = "can only get, create, update, patch, or delete a node lease";
    let other = "can only access node lease with the same name as the requesting node";
    let place = "can only access leases in the \"kube-node-lease\" system namespace";
    let cases = [
        ("get", "leases", "kube-node-lease", "n1", ""),
        ("create", "leases", "kube-node-lease", "", ""),
        ("update", "leases", "kube-node-lease", "n1", ""),
        ("patch", "leases", "kube-node-lease", "n1", ""),
        ("delete", "leases", "kube-node-lease", "n1", ""),
        ("update", "leases", "kube-node-lease", "n2", other),
        ("get", "leases", "kube-system", "n1", place),
        ("create", "leases", "kube-system", "", place),
        ("list", "leases", "kube-node-lease", "n1", verbs),
        ("watch", "leases", "kube-node-lease", "n1", verbs),
    ];
    check(MemoryObjects::default(), "coordination.k8s.io", &cases).await;
}

#[tokio::test]
async fn csi_nodes() {
    let verbs = "can only get, create, update, patch, or delete a CSINode";
    let other = "can only access CSINode with the same name as the requesting node";
    let cases = [
        ("get", "csinodes", "", "n1", ""),
        ("create", "csinodes", "", "", ""),
        ("update", "csinodes", "", "n1", ""),
        ("patch", "csinodes", "", "n1", ""),
        ("delete", "csinodes", "", "n1", ""),
        ("delete", "csinodes", "", "n2", other),
        ("list", "csinodes", "", "n1", verbs),
        ("get", "csinodes/status", "", "n1", "cannot authorize CSINode subresources"),
    ];
    check(MemoryObjects::default(), "storage.k8s.io", &cases).await;
}

#[tokio::test]
async fn nodes() {
    let all = "node 'n1' cannot read all nodes, only its own Node object";
    let other = "node 'n1' cannot read 'n2', only its own Node object";
    let cases = [
        ("get", "nodes", "", "n1", ""),
        ("list", "nodes", "", "n1", ""),
        ("watch", "nodes", "", "n1", ""),
        ("get", "nodes", "", "n2", other),
        ("watch", "nodes", "", "n2", other),
        ("list", "nodes", "", "", all),
        // Whose they are is seen by admission.
        ("create", "nodes", "", "", ""),
        ("update", "nodes", "", "n2", ""),
        ("patch", "nodes", "", "n1", ""),
        ("delete", "nodes", "", "n1", "-"),
        ("update", "nodes/status", "", "n1", ""),
        ("patch", "nodes/status", "", "n1", ""),
        ("get", "nodes/status", "", "n1", "-"),
        ("get", "nodes/proxy", "", "n1", "-"),
    ];
    check(MemoryObjects::default(), "", &cases).await;
}

#[tokio::test]
async fn pods() {
    let objects = MemoryObjects::default();
    pod(&objects, "p", "n1", json!({}));
    pod(&objects, "q", "n2", json!({}));
    let authorizer = authorizer(objects, FeatureGates::DEFAULT);
    let unselected = "can only list/watch pods with spec.nodeName field selector";
    let cases = [
        ("get", "pods", "a", "p", ""),
        ("get", "pods", "a", "q", UNRELATED),
        ("get", "pods", "b", "p", UNRELATED),
        ("list", "pods", "a", "p", ""),
        ("watch", "pods", "a", "q", UNRELATED),
        ("list", "pods", "", "", unselected),
        ("create", "pods", "a", "", ""),
        ("delete", "pods", "a", "q", ""),
        ("update", "pods", "a", "p", "-"),
        ("update", "pods/status", "a", "p", ""),
        ("patch", "pods/status", "a", "p", ""),
        ("get", "pods/status", "a", "p", "-"),
        ("create", "pods/eviction", "a", "p", ""),
        ("create", "pods/exec", "a", "p", "-"),
    ];
    check_with(&authorizer, "", "", &cases).await;
    check_with(&authorizer, "", "spec.nodeName=n1", &[("list", "pods", "", "", ""), ("watch", "pods", "a", "", "")]).await;
    for selector in ["spec.nodeName=n2", "spec.nodeName!=n1", "metadata.name=x\\,spec.nodeName\\=n1"] {
        check_with(&authorizer, "", selector, &[("list", "pods", "", "", unselected)]).await;
    }
}

#[tokio::test]
async fn pod_certificate_requests() {
    let cases = ["get", "list", "create"].map(|verb| (verb, "podcertificaterequests", "a", "x", "-"));
    check(MemoryObjects::default(), "certificates.k8s.io", &cases).await;
}
