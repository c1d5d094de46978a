//! The API server alone, as small as it gets: for profiles and benchmarks of a change without building all other components
//! (`cargo build --release -p api-server --example serve`, then `bench api --executable`). It takes those flags of
//! `rusternetes api-server` that the benchmark gives, and ignores others.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use api_server::{
    AccessConfig, ApiServer, AuthorizationMode, BootstrapConfig, Credentials, KeyCert, Listener, PolicyFile, ServerConfig,
    ServingCertificate, ShutdownConfig, TokenConfig, TokenFile, TokenLifetime,
};
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Flags(HashMap<String, String>);

impl Flags {
    fn text(&self, name: &str) -> Result<&str> {
        self.0.get(name).map(String::as_str).ok_or_else(|| format!("--{name}= is missing").into())
    }

    fn file(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.text(name)?)?)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // Installed once, before any TLS: it cannot have been installed by anybody else.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let flag = |argument: String| {
        let (name, value) = argument.strip_prefix("--")?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    let flags = Flags(std::env::args().skip(1).filter_map(flag).collect());
    let port: u16 = flags.text("secure-port")?.parse()?;
    let address = "127.0.0.1".parse()?;
    let listener = Listener::bind((address, port).into()).await?;
    let database = Path::new(flags.text("data-dir")?).join("db");
    std::fs::create_dir_all(&database)?;
    let store = Arc::new(storage::sqlite::open(&database.join("state.db"), storage::sqlite::Options::default())?);
    let credentials = Credentials::new(AccessConfig {
        client_ca_pem: String::new(),
        tokens: TokenConfig {
            signing_key_pem: flags.file("service-account-signing-key-file")?,
            verifying_keys_pem: Vec::new(),
            issuers: vec![flags.text("service-account-issuer")?.to_owned()],
            api_audiences: Vec::new(),
            jwks_uri: None,
            lifetime: TokenLifetime::default(),
        },
        token_file: TokenFile::load(Path::new(flags.text("token-auth-file")?))?,
        bootstrap_tokens: false,
        anonymous: true,
        front_proxy: None,
        authorization: vec![AuthorizationMode::Rbac],
        policy_file: PolicyFile::default(),
        certificate_uids: true,
    })?;
    let server = ApiServer::builder(ServerConfig::default(), store).credentials(credentials).build();
    let pair = KeyCert { cert_pem: flags.file("tls-cert-file")?, key_pem: flags.file("tls-private-key-file")? };
    let stop = CancellationToken::new();
    let serving = listener.serve(server.clone(), ServingCertificate::new(&pair)?, ShutdownConfig::default(), stop.clone());
    let serving = tokio::spawn(serving);
    let background = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.run_background(stop).await }
    });
    let bootstrap = BootstrapConfig {
        advertise_address: address,
        advertise_port: port,
        service_cidrs: vec!["10.96.0.0/16".to_owned()],
        service_ip: "10.96.0.1".parse()?,
        publish_endpoints: false,
    };
    server.bootstrap(&bootstrap).await?;
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?.recv().await;
    stop.cancel();
    serving.await??;
    Ok(background.await?)
}
