//! The listener from outside: real TLS on port 0, every way to identify oneself, and the orderly end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api_server::{
    AccessConfig, ApiServer, Credentials, Listener, Pki, PkiConfig, ServeError, ServerConfig, ServingCertificate, ShutdownConfig,
    TokenFile,
};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_util::sync::CancellationToken;

struct Running {
    pki: Pki,
    address: SocketAddr,
    stop: CancellationToken,
    done: tokio::task::JoinHandle<Result<(), ServeError>>,
    _dir: tempfile::TempDir,
}

async fn start() -> Running {
    let dir = tempfile::tempdir().expect("temporary directory");
    let pki = Pki::load_or_create(
        PkiConfig {
            dir: dir.path().join("pki"),
            node_name: "node-a".to_owned(),
            node_ips: vec![IpAddr::from([127, 0, 0, 1])],
            host_names: Vec::new(),
            service_ip: IpAddr::from([10, 43, 0, 1]),
            cluster_domain: "cluster.local".to_owned(),
        },
        jiff::Timestamp::now(),
    )
    .expect("certificates");
    let tokens = dir.path().join("tokens.csv");
    std::fs::write(&tokens, "secret,root,1,system:masters\nweak,bob,2\n").expect("token file");
    let credentials = Credentials::new(AccessConfig {
        token_file: TokenFile::load(&tokens).expect("token file"),
        ..AccessConfig::cluster(
            pki.ca_cert_pem.clone(),
            pki.front_proxy_ca_cert_pem.clone(),
            pki.service_account_key_pem.clone(),
            "https://kubernetes.default.svc.cluster.local".to_owned(),
        )
    })
    .expect("credentials");
    let server = ApiServer::builder(ServerConfig::default(), Arc::new(storage::Memory::new())).credentials(credentials).build();
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
    let (address, stop) = (listener.address(), CancellationToken::new());
    let certificate = ServingCertificate::new(&pki.api_server).expect("certificate");
    let done = tokio::spawn(listener.serve(server, certificate, ShutdownConfig::default(), stop.clone()));
    Running { pki, address, stop, done, _dir: dir }
}

#[derive(Clone, Copy, PartialEq)]
enum Http {
    One,
    Two,
}

struct Answer {
    code: u16,
    headers: http::HeaderMap,
    body: String,
}

/// One request over a connection of its own; `identity` is a client certificate with its key.
async fn get(
    running: &Running,
    http: Http,
    path: &str,
    token: Option<&str>,
    identity: Option<&api_server::KeyCert>,
) -> Result<Answer, Box<dyn std::error::Error>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(running.pki.ca_cert_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(pair.cert_pem.as_bytes())?],
            PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())?,
        )?,
    };
    config.alpn_protocols = vec![if http == Http::Two { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let tcp = tokio::net::TcpStream::connect(running.address).await?;
    let name = ServerName::try_from("kubernetes.default.svc")?;
    let tls = TokioIo::new(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?);
    let uri = if http == Http::Two { format!("https://kubernetes.default.svc{path}") } else { path.to_owned() };
    let mut request = Request::get(uri).header("host", "kubernetes.default.svc");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Empty::<bytes::Bytes>::new())?;
    let response = if http == Http::Two {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), tls).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(tls).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    let (code, headers) = (response.status().as_u16(), response.headers().clone());
    let body = String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?;
    Ok(Answer { code, headers, body })
}

#[tokio::test]
async fn identities() {
    let running = start().await;
    let elsewhere = start().await;
    let (admin, foreign) = (running.pki.admin.clone(), elsewhere.pki.admin.clone());
    let bob = running.pki.issue_client("bob", Some("dev"), jiff::Timestamp::now()).expect("certificate");
    // A path of its own: `/nowhere` is 404 for those who may ask, 403 for those who may not, 401 for those who lie.
    for (token, identity, code, text) in [
        (None, Some(&admin), 404, "404 page not found"),
        (Some("secret"), None, 404, "404 page not found"),
        (None, None, 403, r#"forbidden: User \"system:anonymous\" cannot get path \"/nowhere\""#),
        (Some("weak"), None, 403, r#"forbidden: User \"bob\" cannot get path \"/nowhere\""#),
        (None, Some(&bob), 403, r#"forbidden: User \"bob\" cannot get path \"/nowhere\""#),
        (Some("guess"), None, 401, "Unauthorized"),
        (None, Some(&foreign), 401, "Unauthorized"),
        (Some("secret"), Some(&foreign), 404, "404 page not found"),
    ] {
        for http in [Http::One, Http::Two] {
            let answer = get(&running, http, "/nowhere", token, identity).await.expect("an answer");
            assert_eq!(answer.code, code, "{token:?}: {}", answer.body);
            assert!(answer.body.contains(text), "{text} in {}", answer.body);
            assert_eq!(answer.body.contains(r#""kind":"Status""#), code != 404, "{}", answer.body);
            assert!(answer.headers.contains_key("audit-id"));
            assert_eq!(answer.headers["cache-control"], "no-cache, private");
        }
    }
    let pods = get(&running, Http::Two, "/api/v1/namespaces/default/pods", Some("weak"), None).await.expect("an answer");
    let text = r#"pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""#;
    assert!(pods.body.contains(text), "{}", pods.body);
}

#[tokio::test]
async fn own_paths() {
    let running = start().await;
    let ping = get(&running, Http::Two, "/livez/ping", Some("secret"), None).await.expect("an answer");
    assert_eq!((ping.code, ping.body.as_str()), (200, "ok"));
    let keys = get(&running, Http::Two, "/openid/v1/jwks", Some("secret"), None).await.expect("an answer");
    assert!(keys.body.contains(r#""alg":"RS256""#), "{}", keys.body);
    let metrics = get(&running, Http::One, "/metrics", Some("secret"), None).await.expect("an answer");
    assert!(metrics.body.contains("apiserver_request_total{code=\"200\""), "{}", metrics.body);
}

#[tokio::test]
async fn stops_in_order() {
    let running = start().await;
    running.stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), running.done).await.expect("in time").expect("no panic").expect("no error");
    tokio::net::TcpStream::connect(running.address).await.expect_err("nobody listens");
}

#[tokio::test]
async fn a_taken_port_is_said_to_be_taken() {
    let running = start().await;
    let error = Listener::bind(running.address).await.expect_err("taken");
    assert!(matches!(error, ServeError::PortInUse { .. }));
    assert!(error.to_string().contains("--secure-port"), "{error}");
}
