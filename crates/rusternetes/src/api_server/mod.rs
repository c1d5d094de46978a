//! `rusternetes api-server`, also `kube-apiserver`: the API server alone, started with upstream's flags. What is here is order; what
//! the flags are is in `flags`, what they mean in `settings`.
//!
//! What upstream requires and is not given is made under `--data-dir`, as for `rusternetes server`: the store, the serving
//! certificate, the key of ServiceAccount tokens.

mod feature_gates;
mod flags;
mod plugins;
mod settings;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use api_server::{
    AccessConfig, ApiServer, BootstrapConfig, Credentials, Feature, FrontProxy, KubeletAccess, KubeletIdentity, Listener, Pki,
    PkiConfig, ShutdownConfig,
};
use clap::{ArgMatches, Command};
use storage::Store;
use tokio_util::sync::CancellationToken;

pub(crate) use feature_gates::{
    of_controllers as controller_feature_gates, of_scheduler as scheduler_feature_gates, zpages as component_zpages,
};

use crate::certificate_files::FollowedFiles;
use crate::memory;
use crate::server::{CLUSTER_DOMAIN, explain_bind, open_store, primary_address, stop_after_second_signal, wait_for_signal};
use settings::Settings;

/// The name under which the executable is upstream's kube-apiserver.
pub(crate) const UPSTREAM_NAME: &str = "kube-apiserver";
/// How long stopping may take before the process ends all the same.
const SHUTDOWN_MAX: Duration = Duration::from_secs(20);

/// Flags of `rusternetes api-server`.
pub(crate) struct Options(flags::Values);

impl clap::Args for Options {
    fn augment_args(command: Command) -> Command {
        crate::flags::augment(command, flags::FLAGS)
    }

    fn augment_args_for_update(command: Command) -> Command {
        crate::flags::augment(command, flags::FLAGS)
    }
}

impl clap::FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        flags::Values::from_matches(matches, flags::FLAGS).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let started = Instant::now();
    let settings = Settings::new(&options.0)?;
    init_logging(settings.verbosity);
    for warning in &settings.warnings {
        eprintln!("warning: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let result = runtime.block_on(serve(settings, &options.0, started));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Upstream's levels: 2 is what is usual there, from 4 on things are told that only developers want to know.
fn init_logging(verbosity: i64) {
    let level = match verbosity {
        ..=1 => "warn",
        2..=3 => "info",
        4..=7 => "debug",
        8.. => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).init();
}

async fn serve(mut settings: Settings, values: &flags::Values, started: Instant) -> anyhow::Result<()> {
    let listener = Listener::bind(settings.address).await.map_err(explain_bind)?.with_tls(settings.tls.clone());
    let port = listener.address().port();
    let advertise = match settings.advertise {
        Some(address) => address,
        None if settings.address.ip().is_unspecified() => primary_address()?,
        None => settings.address.ip(),
    };
    complete(&mut settings, advertise).await?;
    let store = open_store(&settings.data_dir).await?;
    let stop = CancellationToken::new();
    let pair = settings.serving.take().context("there is no serving certificate")?;
    let certificate = settings.serving_files.show(&pair)?;
    let mut followed = FollowedFiles::default();
    settings.serving_files.clone().follow(&certificate, &mut followed);
    let bootstrap = BootstrapConfig {
        advertise_address: advertise,
        advertise_port: port,
        service_cidrs: settings.server.service_cidrs.clone(),
        service_ip: settings.service_ip,
        publish_endpoints: settings.publish_endpoints,
    };
    let shutdown = ShutdownConfig { delay: settings.shutdown_delay, ..ShutdownConfig::default() };
    let server = build(settings, store.clone(), &stop)?;
    follow_authorities(values, &server, &mut followed);
    let serving = tokio::spawn(listener.serve(server.clone(), certificate, shutdown, stop.clone()));
    let background = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { tokio::join!(server.run_background(stop.clone()), memory::give_back(stop.clone()), followed.run(stop.clone())) }
    });
    server.bootstrap(&bootstrap).await.context("cannot create the cluster's first objects")?;
    println!("Kubernetes API on port {port}, ready after {} ms", started.elapsed().as_millis());
    wait_for_signal().await?;
    stop_after_second_signal();
    let ended = tokio::time::timeout(shutdown.delay + SHUTDOWN_MAX, async {
        stop.cancel();
        let served = serving.await.context("the API server panicked")?;
        background.await.context("the API server's background work panicked")?;
        store.close().await.context("cannot close the store")?;
        served.context("the API server failed")
    });
    match ended.await {
        Ok(result) => result,
        Err(_) => anyhow::bail!("stopping took longer than {SHUTDOWN_MAX:?}; nothing acknowledged is lost"),
    }
}

/// Whose client certificates and which front proxies are believed follows the files, and extension servers are told.
fn follow_authorities(values: &flags::Values, server: &Arc<ApiServer>, followed: &mut FollowedFiles) {
    let access = server.access();
    let all = [
        ("client-ca-file", access.client_authorities()),
        ("requestheader-client-ca-file", access.front_proxy().map(FrontProxy::authorities)),
    ];
    for (flag, authorities) in all {
        let server = Arc::downgrade(server);
        let told = move || {
            if let Some(server) = server.upgrade() {
                server.authorities_changed();
            }
        };
        if let Some(authorities) = authorities {
            followed.add_authorities(values, flag, authorities, told);
        }
    }
}

/// Makes what was not given.
async fn complete(settings: &mut Settings, advertise: IpAddr) -> anyhow::Result<()> {
    if settings.tokens.issuers.is_empty() {
        settings.tokens.issuers.push(format!("https://kubernetes.default.svc.{CLUSTER_DOMAIN}"));
    }
    if settings.serving.is_some() && !settings.tokens.signing_key_pem.is_empty() {
        return Ok(());
    }
    let pki = load_pki(&settings.data_dir, advertise, settings.service_ip).await?;
    settings.serving.get_or_insert(pki.api_server);
    if settings.tokens.signing_key_pem.is_empty() {
        settings.tokens.signing_key_pem = pki.service_account_key_pem;
    }
    Ok(())
}

async fn load_pki(data_dir: &Path, advertise: IpAddr, service_ip: IpAddr) -> anyhow::Result<Pki> {
    let config = PkiConfig {
        dir: data_dir.join("pki"),
        node_name: "localhost".to_owned(),
        node_ips: vec![advertise],
        host_names: Vec::new(),
        service_ip,
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
    };
    std::fs::create_dir_all(data_dir).with_context(|| format!("cannot create {}", data_dir.display()))?;
    let loaded = tokio::task::spawn_blocking(move || Pki::load_or_create(config, jiff::Timestamp::now())).await;
    loaded.context("making the certificates panicked")?.context("cannot make or read the certificates")
}

fn build(settings: Settings, store: Arc<dyn Store>, stop: &CancellationToken) -> anyhow::Result<Arc<ApiServer>> {
    let credentials = Credentials::new(AccessConfig {
        client_ca_pem: settings.client_ca_pem,
        tokens: settings.tokens,
        token_file: settings.token_file,
        bootstrap_tokens: settings.bootstrap_tokens,
        anonymous: settings.anonymous,
        front_proxy: settings.front_proxy,
        authorization: settings.authorization,
        policy_file: settings.policy_file,
        certificate_uids: settings.server.gates.has(Feature::AllowParsingUserUidFromCertAuth),
    })
    .context("cannot use the credentials")?;
    let mut builder = ApiServer::builder(settings.server, store)
        .credentials(credentials)
        .disable_admission(settings.disabled_admission)
        .admission_config(settings.admission_config);
    // Where kubelets know nobody they tell nobody what their containers use.
    let is_somebody = !matches!(settings.kubelet_identity, KubeletIdentity::Nobody);
    let access = KubeletAccess::new(settings.kubelet_identity, settings.kubelet_ca_pem.as_deref(), stop.clone());
    let access = access.context("--kubelet-certificate-authority")?;
    builder = if is_somebody { builder.kubelets(&access) } else { builder.kubelet_connectors(&access) };
    Ok(builder.build())
}
