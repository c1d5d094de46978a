//! Admission plugins that are off unless somebody asks for them, and what a configuration tells the others.

mod harness;

use std::sync::Arc;

use api_server::{
    AccessConfig, AdmissionConfig, ApiEnablement, ApiServer, AuthorizationMode, Credentials, Feature, FeatureGates, PolicyFile,
    ServerConfig, UserInfo, admission_plugin_names, names,
};
use harness::Api;
use serde_json::{Value, json};

/// A server with these plugins alone.
async fn api(plugins: &[&str], access: Option<AccessConfig>, config: AdmissionConfig) -> Api {
    let off = admission_plugin_names().into_iter().filter(|name| !plugins.contains(name)).map(str::to_owned).collect();
    let store = Arc::new(storage::Memory::new());
    let mut builder = ApiServer::builder(ServerConfig::default(), store.clone()).disable_admission(off).admission_config(config);
    if let Some(access) = access {
        builder = builder.credentials(Credentials::new(access).expect("credentials"));
    }
    Api { server: builder.build(), store, user: UserInfo::new("admin", &[names::MASTERS]) }
}

fn config_map(owners: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "ownerReferences": owners}})
}

#[tokio::test]
async fn namespaces_come_into_being() {
    let api = api(&["NamespaceAutoProvision", "NamespaceLifecycle"], None, AdmissionConfig::default()).await;
    let path = "/api/v1/namespaces/fresh/configmaps";
    api.post(&format!("{path}?dryRun=All"), &config_map(&json!([]))).await.expect(404);
    api.get("/api/v1/namespaces/fresh").await.expect(404);
    api.post(path, &config_map(&json!([]))).await.expect(201);
    api.get("/api/v1/namespaces/fresh").await.expect(200);
}

/// Everybody may do anything with these resources, and nothing else.
fn for_all(dir: &std::path::Path, resource: &str) -> AccessConfig {
    let pki = harness::pki(dir);
    let policy = dir.join("policy.jsonl");
    std::fs::write(&policy, json!({"resource": resource}).to_string()).expect("written");
    AccessConfig {
        authorization: vec![AuthorizationMode::Abac],
        policy_file: PolicyFile::load(&policy).expect("a policy"),
        ..AccessConfig::cluster(
            pki.ca_cert_pem,
            pki.front_proxy_ca_cert_pem,
            pki.service_account_key_pem,
            "https://issuer".to_owned(),
        )
    }
}

#[tokio::test]
async fn nodes_get_tokens_for_what_their_pods_ask() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let admin = api(&["NodeRestriction"], Some(for_all(dir.path(), "serviceaccounts")), AdmissionConfig::default()).await;
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "ns"}})).await.expect(201);
    admin.post("/api/v1/namespaces/ns/serviceaccounts", &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": "n1", "serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
    }});
    let pod = admin.post("/api/v1/namespaces/ns/pods", &pod).await.expect(201);
    let node = |name: &str| admin.as_user(UserInfo::new(format!("system:node:{name}"), &["system:nodes", names::AUTHENTICATED]));
    let request = |account: &str, audiences: Value| {
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]});
        (
            format!("/api/v1/namespaces/ns/serviceaccounts/{account}/token"),
            json!({"spec": {"audiences": audiences, "boundObjectRef": bound}}),
        )
    };
    for (who, account, audiences, code) in [
        // The volume names no audience, and so does the kubelet: the server's own is meant.
        ("n1", "robot", json!([]), 201),
        ("n1", "robot", json!(["other"]), 403),
        // What a node may not ask for is refused before it is missed.
        ("n2", "gone", json!([]), 403),
        ("n1", "gone", json!([]), 404),
    ] {
        let (path, body) = request(account, audiences);
        node(who).post(&path, &body).await.expect(code);
    }
    // A request about another account is refused before the account is looked for, and what a token is not bound to is `null`.
    let path = |account: &str| format!("/api/v1/namespaces/ns/serviceaccounts/{account}/token");
    admin.post(&path("gone"), &json!({"metadata": {"name": "other"}})).await.expect(422);
    let answer = admin.post(&path("robot"), &json!({})).await.expect(201);
    assert_eq!(answer["spec"].get("boundObjectRef"), Some(&Value::Null));
    admin.get("/api/v1/namespaces/ns/bindings/p").await.expect(404);
}

#[tokio::test]
async fn who_blocks_the_deletion_of_an_owner_may_change_its_finalizers() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let access = for_all(dir.path(), "configmaps");
    let admin = api(&["OwnerReferencesPermissionEnforcement"], Some(access), AdmissionConfig::default()).await;
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "ns"}})).await.expect(201);
    let panda = admin.as_user(UserInfo::new("panda", &[names::AUTHENTICATED]));
    let path = "/api/v1/namespaces/ns/configmaps";
    let owner = |api_version: &str, kind: &str, blocks: bool| json!([{"apiVersion": api_version, "kind": kind, "name": "o", "uid": "u", "blockOwnerDeletion": blocks}]);
    for (owners, why) in [
        (owner("v1", "Secret", true), "refers to a resource you can't set finalizers on: No policy matched., <nil>"),
        (owner("v1", "Gone", true), "cannot find RESTMapping for APIVersion v1 Kind Gone"),
        (owner("v1", "Secret", false), ""),
        (owner("v1", "ConfigMap", true), ""),
    ] {
        let answer = panda.post(path, &config_map(&owners)).await;
        if why.is_empty() {
            answer.expect(201);
            admin.delete(&format!("{path}/a")).await.expect(200);
        } else {
            let message = answer.expect(403)["message"].to_string();
            assert!(message.contains(why), "{message}");
        }
    }
    admin.post(path, &config_map(&owner("v1", "Secret", true))).await.expect(201);
    // Who changes it owns it no less: the same holds for updates.
    admin.put(&format!("{path}/a"), &config_map(&json!([]))).await.expect(200);
    let message =
        panda.put(&format!("{path}/a"), &config_map(&owner("v1", "Secret", true))).await.expect(403)["message"].to_string();
    assert!(message.contains("cannot set blockOwnerDeletion if an ownerReference refers"), "{message}");
    panda.put(&format!("{path}/a"), &config_map(&owner("v1", "ConfigMap", true))).await.expect(200);
}

#[tokio::test]
async fn exec_needs_the_permission_to_create_whatever_the_method() {
    for gate in [true, false] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut access = for_all(dir.path(), "configmaps");
        let policy = dir.path().join("readers.jsonl");
        std::fs::write(&policy, r#"{"readonly": true}"#).expect("written");
        access.policy_file = PolicyFile::load(&policy).expect("a policy");
        let store = Arc::new(storage::Memory::new());
        let stop = tokio_util::sync::CancellationToken::new();
        let kubelets = api_server::KubeletAccess::new(api_server::KubeletIdentity::Nobody, None, stop).expect("TLS");
        let gates = FeatureGates::DEFAULT.with(Feature::AuthorizePodWebsocketUpgradeCreatePermission, gate);
        let server = ApiServer::builder(ServerConfig { gates, ..ServerConfig::default() }, store.clone())
            .credentials(Credentials::new(access).expect("credentials"))
            .kubelet_connectors(&kubelets)
            .build();
        let admin = Api { server, store, user: UserInfo::new("admin", &[names::MASTERS]) };
        let reader = admin.as_user(UserInfo::new("reader", &[names::AUTHENTICATED]));
        for subresource in ["exec", "attach", "portforward"] {
            let path = format!("/api/v1/namespaces/ns/pods/p/{subresource}");
            let message = reader.get(&path).await.expect(if gate { 403 } else { 404 })["message"].to_string();
            assert_eq!(message.contains("is forbidden: No policy matched."), gate, "{message}");
            reader.post(&path, &json!({})).await.expect(403);
            admin.get(&path).await.expect(404);
        }
        reader.get("/api/v1/namespaces/ns/pods/p/log").await.expect(404);
    }
}

/// The plugins stand where the endpoints ask them: whoever may write requests and bundles, and nothing of signers.
#[tokio::test]
async fn certificates_are_the_signers() {
    use base64::Engine;
    let dir = tempfile::tempdir().expect("temporary directory");
    let access = for_all(dir.path(), "*");
    let policy = dir.path().join("certificates.jsonl");
    let rules = ["certificatesigningrequests", "clustertrustbundles"].map(|resource| json!({"resource": resource}).to_string());
    std::fs::write(&policy, rules.join("\n")).expect("written");
    let access = AccessConfig { policy_file: PolicyFile::load(&policy).expect("a policy"), ..access };
    let store = Arc::new(storage::Memory::new());
    let gates = FeatureGates::DEFAULT.with(Feature::ClusterTrustBundle, true);
    let apis = ApiEnablement::parse(&["certificates.k8s.io/v1beta1=true".to_owned()]).expect("an API");
    let server = ApiServer::builder(ServerConfig { gates, apis, ..ServerConfig::default() }, store.clone())
        .credentials(Credentials::new(access).expect("credentials"))
        .build();
    let admin = Api { server, store, user: UserInfo::new("admin", &[names::MASTERS]) };
    let panda = admin.as_user(UserInfo::new("panda", &[names::AUTHENTICATED]));
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    let request = params.serialize_request(&key).expect("signed").pem().expect("PEM");
    let encoded = base64::engine::general_purpose::STANDARD.encode(request);
    let spec = json!({"request": encoded, "signerName": "example.com/a", "usages": ["client auth"]});
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let mut stored = panda.post(path, &json!({"metadata": {"name": "r"}, "spec": spec})).await.expect(201);
    stored["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]);
    let refused = |answer: &Value, why: &str| assert!(answer["message"].to_string().contains(why), "{answer}");
    let approval = format!("{path}/r/approval");
    refused(&panda.put(&approval, &stored).await.expect(403), "user not permitted to approve requests with signerName");
    let mut stored = admin.put(&approval, &stored).await.expect(200);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("signed").pem();
    stored["status"]["certificate"] = json!(base64::engine::general_purpose::STANDARD.encode(&certificate));
    let status = format!("{path}/r/status");
    refused(&panda.put(&status, &stored).await.expect(403), "user not permitted to sign requests with signerName");
    admin.put(&status, &stored).await.expect(200);
    let bundles = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
    let bundle =
        json!({"metadata": {"name": "example.com:a:b"}, "spec": {"signerName": "example.com/a", "trustBundle": certificate}});
    refused(&panda.post(bundles, &bundle).await.expect(403), "user not permitted to attest for signerName");
    admin.post(bundles, &bundle).await.expect(201);
}

#[tokio::test]
async fn a_configuration_reaches_its_plugin() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("config.yaml");
    let config = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: ResourceQuota\n  configuration:\n    \
                  apiVersion: apiserver.config.k8s.io/v1\n    kind: ResourceQuotaConfiguration\n    limitedResources:\n    - resource: \
                  services\n      matchContains: [services]\n";
    std::fs::write(&file, config).expect("written");
    let api = api(&["ResourceQuota"], None, AdmissionConfig::load(&file, &[]).expect("reads")).await;
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "ns"}})).await.expect(201);
    let service = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}});
    let message = api.post("/api/v1/namespaces/ns/services", &service).await.expect(403)["message"].to_string();
    assert!(message.contains("insufficient quota to consume: count/services,services"), "{message}");
    api.post("/api/v1/namespaces/ns/configmaps", &config_map(&json!([]))).await.expect(201);
}
