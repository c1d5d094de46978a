//! What a server writes about itself: the Lease by which others know that it is there, and whom extension servers should trust.

mod harness;

use std::sync::Arc;
use std::time::Duration;

use api_server::{AccessConfig, ApiServer, BootstrapConfig, Credentials, Feature, FeatureGates, ServerConfig, UserInfo, names};
use harness::Api;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// As upstream's v1.35.4 names the Lease of a server on the machine `host`.
const LEASE: &str = "apiserver-dd6egxogzxmivwqge6rcnj6rwi";
const TRUST: &str = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";

/// A server that is not bootstrapped yet.
fn server(dir: &std::path::Path, gates: FeatureGates) -> Api {
    let pki = harness::pki(dir);
    let access = AccessConfig::cluster(
        pki.ca_cert_pem,
        pki.front_proxy_ca_cert_pem,
        pki.service_account_key_pem,
        "https://issuer".to_owned(),
    );
    let config = ServerConfig { hostname: "host".to_owned(), gates, ..ServerConfig::default() };
    let store = Arc::new(storage::Memory::new());
    let credentials = Credentials::new(access).expect("credentials");
    let server = ApiServer::builder(config, store.clone()).credentials(credentials).build();
    Api { server, store, user: UserInfo::new("admin", &[names::MASTERS]) }
}

async fn bootstrap(api: &Api) {
    let config = BootstrapConfig {
        advertise_address: [127, 0, 0, 1].into(),
        advertise_port: 6443,
        service_cidrs: vec!["10.43.0.0/16".to_owned()],
        service_ip: [10, 43, 0, 1].into(),
        publish_endpoints: false,
    };
    api.server.bootstrap(&config).await.expect("bootstrap objects");
}

fn run(api: &Api) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let (server, stop) = (api.server.clone(), CancellationToken::new());
    let until = stop.clone();
    (stop, tokio::spawn(async move { server.run_background(until).await }))
}

/// Waits until an object is there and is as it should be.
async fn eventually(api: &Api, path: &str, is: impl Fn(&Value) -> bool) -> Value {
    let seen = async {
        loop {
            let answer = api.get(path).await;
            if answer.code == 200 && is(&answer.body) {
                return answer.body;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.unwrap_or_else(|_| panic!("{path} is not as it should be"))
}

fn lease(name: &str, labels: &Value, spec: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "spec": spec})
}

#[tokio::test]
async fn a_server_says_that_it_is_there() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let api = server(dir.path(), FeatureGates::default());
    bootstrap(&api).await;
    let servers = json!({"apiserver.kubernetes.io/identity": "kube-apiserver"});
    let old = json!({"holderIdentity": "x", "leaseDurationSeconds": 3600, "renewTime": "2020-01-01T00:00:00.000000Z"});
    let fresh = json!({"holderIdentity": "x", "leaseDurationSeconds": 3600, "renewTime": "2999-01-01T00:00:00.000000Z"});
    for (name, labels, spec) in [
        (LEASE, &servers, &old),
        ("gone", &servers, &old),
        ("incomplete", &servers, &json!({})),
        ("other", &servers, &fresh),
        ("component", &json!({}), &old),
    ] {
        api.post(LEASES, &lease(name, labels, spec)).await.expect(201);
    }
    let (stop, background) = run(&api);
    let path = format!("{LEASES}/{LEASE}");
    let own = eventually(&api, &path, |lease| lease["spec"]["holderIdentity"] != "x").await;
    assert_eq!(own["spec"]["leaseDurationSeconds"], 3600);
    let holder = own["spec"]["holderIdentity"].as_str().expect("is said");
    assert!(holder.starts_with(&format!("{LEASE}_")), "{holder}");
    assert_eq!(own["metadata"]["labels"]["kubernetes.io/hostname"], "host");
    assert_eq!(own["metadata"]["labels"]["apiserver.kubernetes.io/identity"], "kube-apiserver");
    let all = eventually(&api, LEASES, |list| list["items"].as_array().is_some_and(|items| items.len() == 3)).await;
    let items = all["items"].as_array().expect("a list");
    let names: Vec<&str> = items.iter().filter_map(|lease| lease["metadata"]["name"].as_str()).collect();
    assert_eq!(names, [LEASE, "component", "other"]);
    stop.cancel();
    tokio::time::timeout(DEADLINE, background).await.expect("ends").expect("does not panic");
    api.get(&path).await.expect(404);
}

#[tokio::test]
async fn a_server_without_the_feature_says_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let api = server(dir.path(), FeatureGates::default().with(Feature::ApiServerIdentity, false));
    bootstrap(&api).await;
    let (stop, background) = run(&api);
    // The config map is kept by the same task, which would have written the Lease before.
    api.delete(TRUST).await.expect(200);
    eventually(&api, TRUST, |_| true).await;
    assert_eq!(api.get(LEASES).await.expect(200)["items"], json!([]));
    stop.cancel();
    tokio::time::timeout(DEADLINE, background).await.expect("ends").expect("does not panic");
}

#[tokio::test]
async fn extension_servers_are_told_whom_to_trust() {
    let (dir, elsewhere) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let api = server(dir.path(), FeatureGates::default());
    bootstrap(&api).await;
    let (stop, background) = run(&api);
    let other = harness::pki(elsewhere.path());
    let count = |map: &Value, key: &str| map["data"][key].as_str().unwrap_or_default().matches("BEGIN CERTIFICATE").count();
    let first = eventually(&api, TRUST, |map| count(map, "client-ca-file") == 1).await;
    assert_eq!(first["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    // Somebody takes it away, or a part of it.
    api.delete(TRUST).await.expect(200);
    let mut again = eventually(&api, TRUST, |map| map["metadata"]["uid"] != first["metadata"]["uid"]).await;
    assert_eq!(again["data"], first["data"]);
    again["data"].as_object_mut().expect("a map").remove("client-ca-file");
    api.put(TRUST, &again).await.expect(200);
    eventually(&api, TRUST, |map| map["data"] == first["data"]).await;
    // The authorities change: those of before may still be another server's.
    let clients = api.server.access().client_authorities().expect("are configured");
    clients.replace(&other.ca_cert_pem).expect("a CA");
    let proxies = api.server.access().front_proxy().expect("is configured").authorities();
    proxies.replace(&other.front_proxy_ca_cert_pem).expect("a CA");
    api.server.authorities_changed();
    let both = |map: &Value| count(map, "client-ca-file") == 2 && count(map, "requestheader-client-ca-file") == 2;
    let map = eventually(&api, TRUST, both).await;
    let clients = map["data"]["client-ca-file"].as_str().expect("is text");
    assert!(clients.starts_with(first["data"]["client-ca-file"].as_str().expect("is text")));
    stop.cancel();
    tokio::time::timeout(DEADLINE, background).await.expect("ends").expect("does not panic");
}
