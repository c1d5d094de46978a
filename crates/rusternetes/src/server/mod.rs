//! `rusternetes server`: all components in one process. What is here is order: what is opened when, who gets which identity, what
//! is told to the user, and how it ends.

mod address_range;
mod components;
mod instance;
mod left_out;
mod node;
mod pod_network;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use api_server::{
    AccessConfig, ApiServer, BootstrapConfig, CertificateRotation, Credentials, KubeletAccess, Listener, Pki, PkiConfig,
    ServeError, ServerConfig, ServingCertificate, ShutdownConfig,
};
use storage::{Store, sqlite};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::address_range::AddressRange;
use crate::exit::{self, Exit};
use crate::memory;
pub(crate) use instance::Instance;
pub(crate) use node::{host_name, primary_address};

/// Where a server keeps everything unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/rusternetes";
/// The DNS domain of the cluster.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
/// How long stopping may take before the process ends all the same.
const SHUTDOWN_MAX: Duration = Duration::from_secs(20);

/// Flags of `rusternetes server`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where everything is kept: store, certificates, images, volumes.
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// The port of the Kubernetes API (HTTPS).
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// The address that the Kubernetes API listens on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The name of this machine's Node; its host name unless given.
    #[arg(long)]
    node_name: Option<String>,
    /// The address of this machine in the cluster; that of the default route unless given.
    #[arg(long)]
    node_ip: Option<IpAddr>,
    /// Registries (HOST[:PORT]) to be spoken to by plain HTTP, besides those on loopback addresses; may be repeated.
    #[arg(long, value_name = "REGISTRY")]
    registry_plain_http: Vec<String>,
    /// A file in the format of Docker's config.json with credentials for registries.
    #[arg(long, value_name = "FILE")]
    registry_credentials: Option<PathBuf>,
    /// A PEM file with certification authorities to trust for registries; may be repeated.
    #[arg(long, value_name = "FILE")]
    registry_ca: Vec<PathBuf>,
    /// A KubeletConfiguration file (kubelet.config.k8s.io/v1beta1) for the kubelet on this machine.
    #[arg(long, value_name = "FILE")]
    kubelet_config: Option<PathBuf>,
    /// The most pods that this machine runs; 110 unless given here or in the kubelet's configuration.
    #[arg(long)]
    max_pods: Option<u32>,
    /// A directory of manifests of static pods.
    #[arg(long, value_name = "DIRECTORY")]
    pod_manifest_path: Option<PathBuf>,
    /// No StorageClass `local-path`, and no volumes in the data directory.
    #[arg(long)]
    disable_local_storage: bool,
    /// Services of type LoadBalancer wait for somebody else; otherwise they are reached on this machine's address.
    #[arg(long)]
    disable_service_lb: bool,
    /// Services of type LoadBalancer have addresses of their own out of these, which this machine announces to its network (ARP, NDP):
    /// `192.0.2.16-192.0.2.31`, `192.0.2.16/28`, or one address. Nobody else may use them.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', conflicts_with = "disable_service_lb")]
    service_lb_pool: Vec<AddressRange>,
    /// Components that somebody else runs: what they need to take part is written to DATA-DIR/COMPONENT.kubeconfig.
    #[arg(long, value_name = "COMPONENT", value_enum, value_delimiter = ',')]
    without: Vec<left_out::Component>,
    /// Where the service proxy serves /healthz; `none` for nowhere.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:10256")]
    proxy_healthz_bind_address: String,
}

/// Where the embedded runtime keeps images and containers.
pub(crate) fn runtime_root(data_dir: &Path) -> PathBuf {
    data_dir.join("runtime")
}

/// Runs until SIGTERM or SIGINT; containers go on after it.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let started = Instant::now();
    init_logging();
    let instance = Instance::open(&options.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let result = runtime.block_on(serve(options, instance, started));
    // Blocking work that does not end must not hold up the exit: what matters was flushed by `serve`.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Warnings and errors go to standard error; `RUST_LOG` asks for more.
pub(crate) fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).init();
}

/// What every part of the start-up needs to know.
struct Site {
    instance: Instance,
    options: Options,
    node_name: String,
    node_ip: IpAddr,
    service_ip: IpAddr,
    dns_ip: IpAddr,
    service_cidr: String,
}

impl Site {
    fn new(options: Options, instance: Instance) -> anyhow::Result<Self> {
        let node_name = match &options.node_name {
            Some(name) => name.clone(),
            None => host_name()?,
        };
        let node_ip = match options.node_ip {
            Some(address) => address,
            None => node::primary_address()?,
        };
        let (service_network, prefix) = instance.service_network();
        let nth = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(service_network.to_bits() + n));
        let (service_ip, dns_ip) = (nth(1), nth(10));
        Ok(Self {
            instance,
            options,
            node_name,
            node_ip,
            service_ip,
            dns_ip,
            service_cidr: format!("{service_network}/{prefix}"),
        })
    }

    fn kubeconfig(&self) -> PathBuf {
        self.instance.data_dir().join("admin.kubeconfig")
    }
}

async fn serve(options: Options, instance: Instance, started: Instant) -> anyhow::Result<()> {
    // The port first: nothing is touched when it is taken.
    let address = SocketAddr::new(options.bind_address, options.secure_port);
    let listener = Listener::bind(address).await.map_err(explain_bind)?;
    let port = listener.address().port();
    let site = Arc::new(Site::new(options, instance)?);
    let (store, pki) = tokio::try_join!(open_store(site.instance.data_dir()), load_pki(&site))?;
    let stop = CancellationToken::new();
    let server = build_server(store.clone(), &pki, &stop)?;
    let certificate = ServingCertificate::new(&pki.api_server).context("cannot use the serving certificate")?;
    let serving = tokio::spawn(listener.serve(server.clone(), certificate.clone(), ShutdownConfig::default(), stop.clone()));
    let host = if site.options.bind_address.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { site.options.bind_address };
    let url = format!("https://{}", SocketAddr::new(host, port));
    let kubelet_tls = tokio::sync::watch::Sender::new(components::kubelet_tls(&pki.kubelet_serving, &pki));
    let shown = kubelet_tls.subscribe();
    let rotation = CertificateRotation {
        pki: pki.as_ref().clone(),
        serving: certificate,
        admin_kubeconfig: Some((site.kubeconfig(), url.clone())),
        kubelet_serving: Some(Box::new({
            let pki = Arc::clone(&pki);
            move |renewed| drop(kubelet_tls.send_replace(components::kubelet_tls(renewed, &pki)))
        })),
    };
    let background = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { tokio::join!(server.run_background(stop.clone()), rotation.run(stop.clone()), memory::give_back(stop)) }
    });
    server.bootstrap(&bootstrap_config(&site, port)).await.context("cannot create the cluster's first objects")?;
    pki.write_admin_kubeconfig(&site.kubeconfig(), &url).context("cannot write the admin kubeconfig")?;
    left_out::write_kubeconfigs(&site, &pki, &url)?;
    println!("data directory {}", site.instance.data_dir().display());
    println!("Kubernetes API on {url}");
    println!("export KUBECONFIG={}", site.kubeconfig().display());

    // Components end before the API server that they talk to.
    let components_stop = CancellationToken::new();
    let mut components = components::start(&site, &server, &pki, shown, components_stop.clone(), started).await?;
    let failure = wait_for_end(&mut components).await;
    stop_after_second_signal();
    let ended = tokio::time::timeout(SHUTDOWN_MAX, async {
        components_stop.cancel();
        components.stopped().await;
        stop.cancel();
        let served = serving.await.context("the API server panicked")?;
        let ((), (), ()) = background.await.context("the API server's background work panicked")?;
        store.close().await.context("cannot close the store")?;
        served.context("the API server failed")
    });
    match (failure, ended.await) {
        (Some(failure), _) => Err(failure),
        (None, Ok(result)) => result,
        (None, Err(_)) => anyhow::bail!("stopping took longer than {SHUTDOWN_MAX:?}; nothing acknowledged is lost"),
    }
}

/// Waits for a signal, or for the first component that fails, whose error is returned.
async fn wait_for_end(components: &mut components::Components) -> Option<anyhow::Error> {
    tokio::select! {
        waited = wait_for_signal() => waited.err(),
        failure = components.first_failure() => Some(failure),
    }
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn wait_for_signal() -> anyhow::Result<()> {
    let wait = "cannot wait for signals";
    let mut terminate = signal(SignalKind::terminate()).context(wait)?;
    let mut interrupt = signal(SignalKind::interrupt()).context(wait)?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// A second signal means now.
pub(crate) fn stop_after_second_signal() {
    let wait = async {
        if wait_for_signal().await.is_err() {
            return;
        }
        eprintln!("stopped at once by a second signal");
        std::process::exit(1);
    };
    // Ends with the process: there is nothing to wait for.
    drop(tokio::spawn(wait));
}

pub(crate) fn explain_bind(error: ServeError) -> anyhow::Error {
    match error {
        ServeError::PortInUse { .. } | ServeError::Bind { .. } => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            Exit::new(exit::ADDRESS_IN_USE, format!("{error}{source}")).into()
        }
        other => other.into(),
    }
}

/// Opens the embedded store of a data directory, which is made if need be.
pub(crate) async fn open_store(data_dir: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let directory = data_dir.join("db");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let opened = tokio::task::spawn_blocking(move || sqlite::open(&directory.join("state.db"), sqlite::Options::default())).await;
    let store = opened.context("opening the store panicked")?;
    match store {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(Exit::new(exit::DATA_DIRECTORY, error.to_string()).into()),
    }
}

async fn load_pki(site: &Site) -> anyhow::Result<Arc<Pki>> {
    let config = PkiConfig {
        dir: site.instance.data_dir().join("pki"),
        node_name: site.node_name.clone(),
        node_ips: vec![site.node_ip, IpAddr::from([127, 0, 0, 1])],
        host_names: vec![site.node_name.clone()],
        service_ip: site.service_ip,
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
    };
    let loaded = tokio::task::spawn_blocking(move || Pki::load_or_create(config, jiff::Timestamp::now())).await;
    Ok(Arc::new(loaded.context("making the certificates panicked")?.context("cannot make or read the certificates")?))
}

fn build_server(store: Arc<dyn Store>, pki: &Pki, stop: &CancellationToken) -> anyhow::Result<Arc<ApiServer>> {
    let credentials = Credentials::new(AccessConfig::cluster(
        pki.ca_cert_pem.clone(),
        pki.front_proxy_ca_cert_pem.clone(),
        pki.service_account_key_pem.clone(),
        format!("https://kubernetes.default.svc.{CLUSTER_DOMAIN}"),
    ))
    .context("cannot use the credentials in the data directory")?;
    let kubelets = KubeletAccess::new(pki.kubelet_identity(), Some(&pki.ca_cert_pem), stop.clone())
        .context("cannot use the authority in the data directory for kubelets")?;
    // As installers of upstream's components have it: the service proxy, network plugins and storage drivers need it.
    let config = ServerConfig { allow_privileged: true, hostname: host_name()?, ..ServerConfig::default() };
    Ok(ApiServer::builder(config, store).credentials(credentials).kubelets(&kubelets).build())
}

fn bootstrap_config(site: &Site, port: u16) -> BootstrapConfig {
    BootstrapConfig {
        advertise_address: site.node_ip,
        advertise_port: port,
        service_cidrs: vec![site.service_cidr.clone()],
        service_ip: site.service_ip,
        publish_endpoints: true,
    }
}
