//! Which kubelets the server speaks to: their certificates, and what it says where it does not believe one.

mod harness;

use std::net::SocketAddr;
use std::sync::Arc;

use api_server::{ApiServer, KeyCert, KubeletAccess, KubeletIdentity, ServerConfig, UserInfo, names};
use harness::Api;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const LOG: &str = "/api/v1/namespaces/default/pods/p/log";

/// Answers every request on the port with `answer`.
async fn kubelet(pair: &KeyCert, answer: &'static str) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).expect("PEM");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("there are some")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("is usable");
    let (acceptor, listener) =
        (tokio_rustls::TlsAcceptor::from(Arc::new(config)), tokio::net::TcpListener::bind("127.0.0.1:0").await);
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(count @ 1..) = stream.read(&mut buffer).await else { break };
                request.extend_from_slice(&buffer[..count]);
            }
            _ = stream.write_all(answer.as_bytes()).await;
            _ = stream.shutdown().await;
        }
    });
    address
}

/// A server that believes this bundle, or every kubelet, with a pod on the kubelet's node.
async fn api(kubelet: SocketAddr, ca_pem: Option<&str>) -> Api {
    let stop = CancellationToken::new();
    let access = KubeletAccess::new(KubeletIdentity::Nobody, ca_pem, stop).expect("is usable");
    let store = Arc::new(storage::Memory::new());
    let server = ApiServer::builder(ServerConfig::default(), store.clone()).kubelet_connectors(&access).build();
    let api = Api { server, store, user: UserInfo::new("admin", &[names::MASTERS]) };
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let account = json!({"metadata": {"name": "default"}});
    api.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let mut node = api.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.expect(201);
    node["status"] = json!({
        "addresses": [{"type": "ExternalIP", "address": kubelet.ip().to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}},
    });
    api.put("/api/v1/nodes/n/status", &node).await.expect(200);
    let spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}]});
    api.post("/api/v1/namespaces/default/pods", &json!({"metadata": {"name": "p"}, "spec": spec})).await.expect(201);
    api
}

fn own(names: &[&str]) -> KeyCert {
    KeyCert::self_signed(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("is made")
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfake-log";

#[tokio::test]
async fn without_a_bundle_every_kubelet_is_believed() {
    let address = kubelet(&own(&["somebody"]), FINE).await;
    let api = api(address, None).await;
    assert_eq!(api.get(LOG).await.expect(200), "fake-log");
}

#[tokio::test]
async fn with_a_bundle_only_its_kubelets_are() {
    let (named, unnamed) = (own(&["127.0.0.1"]), own(&["n"]));
    let address = kubelet(&named, FINE).await;
    let believing = api(address, Some(&named.cert_pem)).await;
    assert_eq!(believing.get(LOG).await.expect(200), "fake-log");
    let doubting = api(address, Some(&unnamed.cert_pem)).await;
    let refused = doubting.get(LOG).await.expect(500);
    let why = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    let url = format!("https://{address}/containerLogs/default/p/c");
    assert_eq!(refused["message"], format!("Get \"{url}\": {why}"));
    assert!(refused["reason"].is_null(), "{refused}");
    // The client does not mind.
    assert_eq!(doubting.get(&format!("{LOG}?insecureSkipTLSVerifyBackend=true")).await.expect(200), "fake-log");
    let metrics = doubting.get("/metrics").await.expect(200).to_string();
    for line in [
        r#"kube_apiserver_pod_logs_insecure_backend_total{usage=\"enforce_tls\"} 1"#,
        r#"kube_apiserver_pod_logs_insecure_backend_total{usage=\"skip_tls_allowed\"} 1"#,
        "kube_apiserver_pod_logs_backend_tls_failure_total 1",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    let elsewhere = api(kubelet(&unnamed, FINE).await, Some(&unnamed.cert_pem)).await;
    let refused = elsewhere.get(LOG).await.expect(500);
    let message = refused["message"].as_str().expect("is text");
    let why = "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs";
    assert!(message.ends_with(why), "{message}");
}

#[tokio::test]
async fn refusals_of_kubelets_are_passed_on() {
    let refusing = kubelet(&own(&["n"]), "HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nno\n").await;
    let refused = api(refusing, None).await.get(LOG).await.expect(401);
    assert_eq!(refused["reason"], "Unauthorized");
    let broken = kubelet(&own(&["n"]), "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nno\n").await;
    let refused = api(broken, None).await.get(LOG).await.expect(500);
    assert_eq!(refused["message"], "Internal error occurred: no\n");
    let gone = kubelet(&own(&["n"]), FINE).await;
    let api = api(SocketAddr::new(gone.ip(), 1), None).await;
    let refused = api.get(LOG).await.expect(500);
    let expected = "Get \"https://127.0.0.1:1/containerLogs/default/p/c\": dial tcp 127.0.0.1:1: connect: connection refused";
    assert_eq!(refused["message"], expected);
    let upgrade = [("connection", "upgrade"), ("upgrade", "SPDY/3.1")];
    let path = "/api/v1/namespaces/default/pods/p/portforward";
    let refused = api.send(http::Method::POST, path, &upgrade, None).await.expect(500);
    assert_eq!(refused["message"], "error dialing backend: dial tcp 127.0.0.1:1: connect: connection refused");
}
