//! A bare API server on a memory store, for trying things out: no controllers, no scheduler, no kubelet.
//!
//! `cargo run -p api-server -p rusternetes --example apiserver -- [--data-dir DIR] [--port PORT]`, then
//! `export KUBECONFIG=DIR/admin.kubeconfig`. Port 0 takes a free one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use api_server::{
    AccessConfig, ApiServer, BootstrapConfig, Credentials, Listener, Pki, PkiConfig, ServerConfig, ServingCertificate,
    ShutdownConfig,
};
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error + Send + Sync>;

fn option(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next().and_then(|_| arguments.next())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let started = std::time::Instant::now();
    let data_dir = PathBuf::from(option("--data-dir").unwrap_or_else(|| "/tmp/rusternetes-apiserver".to_owned()));
    let port: u16 = option("--port").unwrap_or_else(|| "0".to_owned()).parse()?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let service_ip = IpAddr::from([10, 43, 0, 1]);
    let pki_config = PkiConfig {
        dir: data_dir.join("pki"),
        node_name: "localhost".to_owned(),
        node_ips: vec![loopback],
        host_names: Vec::new(),
        service_ip,
        cluster_domain: "cluster.local".to_owned(),
    };
    let pki = tokio::task::spawn_blocking(move || Pki::load_or_create(pki_config, jiff::Timestamp::now())).await??;
    let credentials = Credentials::new(AccessConfig::cluster(
        pki.ca_cert_pem.clone(),
        pki.front_proxy_ca_cert_pem.clone(),
        pki.service_account_key_pem.clone(),
        "https://kubernetes.default.svc.cluster.local".to_owned(),
    ))?;
    let server = ApiServer::builder(ServerConfig::default(), Arc::new(storage::Memory::new())).credentials(credentials).build();
    let listener = Listener::bind(SocketAddr::new(loopback, port)).await?;
    let (address, stop) = (listener.address(), CancellationToken::new());
    let certificate = ServingCertificate::new(&pki.api_server)?;
    let serving = tokio::spawn(listener.serve(server.clone(), certificate, ShutdownConfig::default(), stop.clone()));
    let background = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.run_background(stop).await }
    });
    server
        .bootstrap(&BootstrapConfig {
            advertise_address: loopback,
            advertise_port: address.port(),
            service_cidrs: vec!["10.43.0.0/16".to_owned()],
            service_ip,
            publish_endpoints: true,
        })
        .await?;
    let kubeconfig = data_dir.join("admin.kubeconfig");
    pki.write_admin_kubeconfig(&kubeconfig, &format!("https://{address}"))?;
    println!("ready after {} ms\nexport KUBECONFIG={}", started.elapsed().as_millis(), kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    serving.await??;
    background.await?;
    Ok(())
}
