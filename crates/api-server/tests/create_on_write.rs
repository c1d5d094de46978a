//! Whoever may change objects may not do by that what needs a permission of its own: create what is not there by applying or replacing it,
//! approve and sign certificates.

mod harness;

use api_server::{AccessConfig, ApiServer, Credentials, ServerConfig, UserInfo, names};
use harness::Api;
use serde_json::{Value, json};
use std::sync::Arc;

const APPLY: &str = "application/apply-patch+yaml";

async fn api() -> Api {
    let dir = tempfile::tempdir().expect("temporary directory");
    let pki = harness::pki(dir.path());
    let access = AccessConfig::cluster(
        pki.ca_cert_pem,
        pki.front_proxy_ca_cert_pem,
        pki.service_account_key_pem,
        "https://issuer".to_owned(),
    );
    let credentials = Credentials::new(access).expect("credentials");
    let store = Arc::new(storage::Memory::new());
    let server = ApiServer::builder(ServerConfig::default(), store.clone()).credentials(credentials).build();
    let config = api_server::BootstrapConfig {
        advertise_address: [127, 0, 0, 1].into(),
        advertise_port: 6443,
        service_cidrs: vec!["10.43.0.0/16".to_owned()],
        service_ip: [10, 43, 0, 1].into(),
        publish_endpoints: false,
    };
    server.bootstrap(&config).await.expect("bootstrap objects");
    Api { server, store, user: UserInfo::new("admin", &[names::MASTERS]) }
}

/// Lets `panda` do this, and waits until the server knows.
async fn allow(api: &Api, verb: &str) {
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": verb}, "rules": [
        {"apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases", "services/status"], "verbs": [verb]}]});
    api.post(&format!("{path}/roles"), &role).await.expect(201);
    let binding = json!({"metadata": {"name": verb}, "subjects": [{"kind": "User", "name": "panda", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": verb, "apiGroup": "rbac.authorization.k8s.io"}});
    api.post(&format!("{path}/rolebindings"), &binding).await.expect(201);
    let review = json!({"spec": {"user": "panda", "resourceAttributes":
        {"namespace": "default", "verb": verb, "group": "", "resource": "configmaps"}}});
    let known = async {
        loop {
            let answer = api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.expect(201);
            if answer["status"]["allowed"] == true {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), known).await.expect("the rule is known");
}

#[tokio::test]
async fn creating_needs_its_own_permission() {
    let api = api().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let background = tokio::spawn({
        let (server, stop) = (api.server.clone(), stop.clone());
        async move { server.run_background(stop).await }
    });
    allow(&api, "patch").await;
    allow(&api, "update").await;
    let panda = api.as_user(UserInfo::new("panda", &["system:authenticated"]));
    let map: Value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v"}});
    let path = "/api/v1/namespaces/default/configmaps/m?fieldManager=f";
    let lease_path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let lease: Value = json!({"metadata": {"name": "l"}, "spec": {}});
    let refused = panda.patch(path, APPLY, &map).await.expect(403);
    let expected = "configmaps \"m\" is forbidden: User \"panda\" cannot create resource \"configmaps\" in API group \"\" \
                    in the namespace \"default\"";
    assert_eq!(refused["message"], expected);
    panda.put(lease_path, &lease).await.expect(403);
    panda.put(&format!("{lease_path}?dryRun=All"), &lease).await.expect(403);
    // As upstream: whether the object is one at all is found out first.
    let unfit: Value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"": "v"}});
    panda.patch(path, APPLY, &unfit).await.expect(422);
    // A part of what is not there is not found, whoever asks.
    panda.put("/api/v1/namespaces/default/services/s/status", &json!({"metadata": {"name": "s"}})).await.expect(404);
    allow(&api, "create").await;
    panda.patch(path, APPLY, &map).await.expect(201);
    panda.put(lease_path, &lease).await.expect(201);
    stop.cancel();
    background.await.expect("no panic");
}

#[tokio::test]
async fn certificates_are_approved_and_signed_by_whom_the_signer_is_left_to() {
    const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let api = api().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let background = tokio::spawn({
        let (server, stop) = (api.server.clone(), stop.clone());
        async move { server.run_background(stop).await }
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let parts = ["certificatesigningrequests/approval", "certificatesigningrequests/status"];
    for (user, signers) in
        [("exact", &["example.com/a"][..]), ("domain", &["example.com/*"]), ("other", &["example.org/*"]), ("nobody", &[])]
    {
        let mut rules = vec![json!({"apiGroups": ["certificates.k8s.io"], "resources": parts, "verbs": ["update", "patch"]})];
        if !signers.is_empty() {
            let verbs = ["approve", "sign"];
            let of =
                json!({"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": signers, "verbs": verbs});
            rules.push(of);
        }
        api.post(&format!("{rbac}/clusterroles"), &json!({"metadata": {"name": user}, "rules": rules})).await.expect(201);
        let binding = json!({"metadata": {"name": user}, "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"kind": "ClusterRole", "name": user, "apiGroup": "rbac.authorization.k8s.io"}});
        api.post(&format!("{rbac}/clusterrolebindings"), &binding).await.expect(201);
        let review = json!({"spec": {"user": user, "resourceAttributes":
            {"verb": "patch", "group": "certificates.k8s.io", "resource": parts[0]}}});
        let known = async {
            while api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.expect(201)["status"]["allowed"]
                != true
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), known).await.expect("the rule is known");
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    let pem = rcgen::CertificateParams::default().serialize_request(&key).expect("is signed").pem().expect("PEM");
    let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let change = |kinds: &[&str]| {
        let condition = |kind: &&str| json!({"type": kind, "status": "True", "reason": "r"});
        json!({"status": {"conditions": kinds.iter().map(condition).collect::<Vec<_>>()}})
    };
    for (user, allowed) in [("nobody", false), ("other", false), ("exact", true), ("domain", true)] {
        let spec = json!({"signerName": "example.com/a", "request": request, "usages": ["client auth"]});
        api.post(CSRS, &json!({"metadata": {"name": user}, "spec": spec})).await.expect(201);
        let who = api.as_user(UserInfo::new(user, &["system:authenticated"]));
        // A status must not leave out what has been decided.
        let (decided, failed) = (&["Approved"][..], if allowed { &["Approved", "Failed"][..] } else { &["Failed"] });
        for (part, kinds, verb) in [("approval", decided, "approve"), ("status", failed, "sign")] {
            let path = format!("{CSRS}/{user}/{part}");
            let answer = who.patch(&path, "application/merge-patch+json", &change(kinds)).await;
            if allowed {
                answer.expect(200);
                continue;
            }
            let refused = answer.expect(403);
            let expected = format!("user not permitted to {verb} requests with signerName \"example.com/a\"");
            assert!(refused["message"].as_str().is_some_and(|message| message.ends_with(&expected)), "{user} {part}: {refused}");
        }
        // What neither signs nor refuses is nobody's business.
        let labels = json!({"metadata": {"annotations": {"a": "b"}}});
        who.patch(&format!("{CSRS}/{user}/status"), "application/merge-patch+json", &labels).await.expect(200);
    }
    stop.cancel();
    background.await.expect("no panic");
}
