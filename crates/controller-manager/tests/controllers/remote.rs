//! The client over the network: HTTPS with the certificates of a kubeconfig.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use api_server::{
    AccessConfig, ApiServer, BootstrapConfig, Credentials, Listener, Pki, PkiConfig, ServerConfig, ServingCertificate,
    ShutdownConfig,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_makes_a_client() {
    let dir = std::env::temp_dir().join(format!("rusternetes-client-{}", std::process::id()));
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let service_ip = IpAddr::from([10, 43, 0, 1]);
    let pki = PkiConfig {
        dir: dir.clone(),
        node_name: "localhost".into(),
        node_ips: vec![loopback],
        host_names: Vec::new(),
        service_ip,
        cluster_domain: "cluster.local".into(),
    };
    let pki = Pki::load_or_create(pki, jiff::Timestamp::now()).expect("certificates are made");
    let credentials = Credentials::new(AccessConfig {
        anonymous: false,
        ..AccessConfig::cluster(
            pki.ca_cert_pem.clone(),
            pki.front_proxy_ca_cert_pem.clone(),
            pki.service_account_key_pem.clone(),
            "https://kubernetes.default.svc.cluster.local".to_owned(),
        )
    })
    .expect("credentials are usable");
    let store = Arc::new(storage::Memory::new());
    let server = ApiServer::builder(ServerConfig::default(), store).credentials(credentials).build();
    let listener = Listener::bind(SocketAddr::new(loopback, 0)).await.expect("binds");
    let (address, stop) = (listener.address(), CancellationToken::new());
    let certificate = ServingCertificate::new(&pki.api_server).expect("is usable");
    let serving = tokio::spawn(listener.serve(server.clone(), certificate, ShutdownConfig::default(), stop.clone()));
    let bootstrap = BootstrapConfig {
        advertise_address: loopback,
        advertise_port: address.port(),
        service_cidrs: vec!["10.43.0.0/16".into()],
        service_ip,
        publish_endpoints: true,
    };
    server.bootstrap(&bootstrap).await.expect("bootstrap objects are made");
    let kubeconfig = dir.join("admin.kubeconfig");
    pki.write_admin_kubeconfig(&kubeconfig, &format!("https://{address}")).expect("is written");

    let client = client::from_kubeconfig(&kubeconfig).await.expect("makes a client");
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.get("kube-system").await.expect("is there, and we may read it");

    stop.cancel();
    serving.await.expect("does not panic").expect("stops cleanly");
    std::fs::remove_dir_all(&dir).expect("is removed");
}
