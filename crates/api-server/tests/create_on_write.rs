//! Who may change objects but not create them does not create one by applying or replacing what is not there.

mod harness;

use api_server::{AccessConfig, ApiServer, Credentials, ServerConfig, UserInfo, names};
use harness::Api;
use serde_json::{Value, json};
use std::sync::Arc;

const APPLY: &str = "application/apply-patch+yaml";

async fn api() -> Api {
    let dir = tempfile::tempdir().expect("temporary directory");
    let pki = api_server::Pki::load_or_create(
        api_server::PkiConfig {
            dir: dir.path().join("pki"),
            node_name: "node".to_owned(),
            node_ips: vec![[127, 0, 0, 1].into()],
            host_names: Vec::new(),
            service_ip: [10, 43, 0, 1].into(),
            cluster_domain: "cluster.local".to_owned(),
        },
        jiff::Timestamp::now(),
    )
    .expect("certificates");
    let access = AccessConfig::cluster(pki.ca_cert_pem, pki.service_account_key_pem, "https://issuer".to_owned());
    let credentials = Credentials::new(access).expect("credentials");
    let store = Arc::new(storage::Memory::new());
    let server = ApiServer::builder(ServerConfig::default(), store.clone()).credentials(credentials).build();
    let config = api_server::BootstrapConfig {
        advertise_address: [127, 0, 0, 1].into(),
        advertise_port: 6443,
        service_cidrs: vec!["10.43.0.0/16".to_owned()],
        service_ip: [10, 43, 0, 1].into(),
        publish_endpoints: false,
        client_ca_pem: String::new(),
        front_proxy: None,
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
