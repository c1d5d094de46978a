//! `rusternetes controller-manager`, or the executable under the name `kube-controller-manager`: the controllers alone, against any API
//! server.
//!
//! Deliberately absent for now: the secure port with `/healthz` and `/metrics`. A flag of upstream's that has no effect here is refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{ArgAction, Args};
use client::{Informers, LeaderElection};
use controller_manager::{Clients, ClusterSigning, Config, NodeIpam, RunError, ServiceAccountKey, SigningCa};

use crate::component;
use crate::exit::{self, Exit};

/// What upstream calls this executable.
pub(crate) const UPSTREAM_NAME: &str = "kube-controller-manager";

/// Upstream's flags.
#[derive(Args)]
pub(crate) struct Options {
    /// Path to the kubeconfig file.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The controllers to run: `*` all, `foo` enables, `-foo` disables.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// A ServiceAccount of its own for each controller, with only the rights that it needs.
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_service_account_credentials: bool,
    /// The CA bundle that is published in every namespace; not published without it.
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// The private key that signs the tokens of ServiceAccounts in Secrets; without it they get none.
    #[arg(long, value_name = "FILE")]
    service_account_private_key_file: Option<PathBuf>,
    /// Secrets that get their token at the same time.
    #[arg(long, value_name = "N")]
    concurrent_serviceaccount_token_syncs: Option<usize>,
    /// After so long without use, tokens in Secrets that older releases made by themselves are marked as invalid, and then deleted.
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    legacy_service_account_token_clean_up_period: Option<Duration>,
    /// How often autoscalers look at their metrics.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    horizontal_pod_autoscaler_sync_period: Option<Duration>,
    /// How far back higher recommendations keep an autoscaler from scaling down.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    horizontal_pod_autoscaler_downscale_stabilization: Option<Duration>,
    /// How far a metric may be off its target before an autoscaler acts, as a fraction.
    #[arg(long, value_name = "FRACTION")]
    horizontal_pod_autoscaler_tolerance: Option<f64>,
    /// So long after a pod's start its processor time may be that of the start.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    horizontal_pod_autoscaler_cpu_initialization_period: Option<Duration>,
    /// A pod that was not ready after so long has never been.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    horizontal_pod_autoscaler_initial_readiness_delay: Option<Duration>,
    /// Autoscalers that are worked on at the same time.
    #[arg(long, value_name = "N")]
    concurrent_horizontal_pod_autoscaler_syncs: Option<usize>,
    /// The CA that certificates are signed with for the signers of Kubernetes' own.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// The longest life of a signed certificate.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    cluster_signing_duration: Option<Duration>,
    /// Gain leadership before working; for replicated controller managers.
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    leader_elect: bool,
    /// The name of the Lease.
    #[arg(long, value_name = "NAME", default_value = "kube-controller-manager")]
    leader_elect_resource_name: String,
    /// The namespace of the Lease.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    leader_elect_resource_namespace: String,
    /// Feature gates, as `NAME=true|false`; only those with an effect here may differ from their default.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    feature_gates: Vec<String>,
    /// Deployments that are worked on at the same time.
    #[arg(long, value_name = "N")]
    concurrent_deployment_syncs: Option<usize>,
    /// ReplicaSets that are worked on at the same time.
    #[arg(long, value_name = "N")]
    concurrent_replicaset_syncs: Option<usize>,
    /// Jobs that are worked on at the same time.
    #[arg(long, value_name = "N")]
    concurrent_job_syncs: Option<usize>,
    /// CronJobs that are worked on at the same time.
    #[arg(long, value_name = "N")]
    concurrent_cron_job_syncs: Option<usize>,
    /// Finished Jobs whose time to live is looked at at the same time.
    #[arg(long, value_name = "N")]
    concurrent_ttl_after_finished_syncs: Option<usize>,
    /// StatefulSets that are worked on at the same time.
    #[arg(long, value_name = "N")]
    concurrent_statefulset_syncs: Option<usize>,
    /// DaemonSets that are worked on at the same time.
    #[arg(long, value_name = "N")]
    concurrent_daemonset_syncs: Option<usize>,
    /// Services whose EndpointSlices are worked on at the same time.
    #[arg(long, value_name = "N")]
    concurrent_service_endpoint_syncs: Option<usize>,
    /// Services whose Endpoints are mirrored at the same time.
    #[arg(long, value_name = "N")]
    mirroring_concurrent_service_endpoint_syncs: Option<usize>,
    /// How many addresses of a subset of Endpoints are mirrored.
    #[arg(long, value_name = "N")]
    mirroring_max_endpoints_per_subset: Option<usize>,
    /// Namespaces that are emptied at the same time.
    #[arg(long, value_name = "N")]
    concurrent_namespace_syncs: Option<usize>,
    /// ResourceQuotas that are worked on at the same time.
    #[arg(long, value_name = "N")]
    concurrent_resource_quota_syncs: Option<usize>,
    /// How often the usage of quotas is counted anew without a reason.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    resource_quota_sync_period: Option<Duration>,
    /// Pods whose ephemeral volumes get their claims at the same time.
    #[arg(long, value_name = "N")]
    concurrent_ephemeralvolume_syncs: Option<usize>,
    /// Give nodes their pod ranges out of those of --cluster-cidr.
    #[arg(long, requires = "cluster_cidr")]
    allocate_node_cidrs: bool,
    /// The ranges of pods: one, or one of each family.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    cluster_cidr: Vec<String>,
    /// The ranges of Services, which nodes do not get.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    service_cluster_ip_range: Vec<String>,
    /// The size of a node's range, in a cluster with one family.
    #[arg(long, value_name = "BITS", conflicts_with_all = ["node_cidr_mask_size_ipv4", "node_cidr_mask_size_ipv6"])]
    node_cidr_mask_size: Option<u32>,
    /// The size of a node's IPv4 range [default: 24].
    #[arg(long, value_name = "BITS")]
    node_cidr_mask_size_ipv4: Option<u32>,
    /// The size of a node's IPv6 range [default: 64].
    #[arg(long, value_name = "BITS")]
    node_cidr_mask_size_ipv6: Option<u32>,
    /// Objects that the garbage collector works on at the same time.
    #[arg(long, value_name = "N")]
    concurrent_gc_syncs: Option<usize>,
    /// How often node health is judged.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    node_monitor_period: Option<Duration>,
    /// Silence after which a node is called Unknown.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    node_monitor_grace_period: Option<Duration>,
    /// How many finished pods are kept; 0 keeps all.
    #[arg(long, value_name = "N")]
    terminated_pod_gc_threshold: Option<usize>,
}

/// Runs until SIGTERM or SIGINT, or until leadership is lost.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    crate::server::init_logging();
    let config = configuration(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(config, &options.kubeconfig, options.use_service_account_credentials))
}

fn configuration(options: &Options) -> anyhow::Result<Config> {
    let root_ca = match &options.root_ca_file {
        Some(path) => Some(read(path)?),
        None => None,
    };
    let signing_ca = match (&options.cluster_signing_cert_file, &options.cluster_signing_key_file) {
        (Some(cert), Some(key)) => Some(SigningCa { cert_pem: read(cert)?, key_pem: read(key)? }),
        _ => None,
    };
    let election = LeaderElection {
        namespace: options.leader_elect_resource_namespace.clone(),
        ..LeaderElection::new(&options.leader_elect_resource_name, component::identity())
    };
    let mut config = Config {
        controllers: options.controllers.clone(),
        root_ca,
        cluster_signing: ClusterSigning::with(signing_ca),
        leader_election: options.leader_elect.then_some(election),
        feature_gates: crate::api_server::controller_feature_gates(&options.feature_gates)
            .map_err(|error| anyhow::anyhow!("--feature-gates: {error}"))?,
        ..Config::default()
    };
    if let Some(path) = &options.service_account_private_key_file {
        config.service_account_key = Some(ServiceAccountKey { pem: read(path)? });
    }
    set(&mut config.concurrent_serviceaccount_token_syncs, options.concurrent_serviceaccount_token_syncs);
    set(&mut config.legacy_service_account_token_clean_up_period, options.legacy_service_account_token_clean_up_period);
    set(&mut config.concurrent_horizontal_pod_autoscaler_syncs, options.concurrent_horizontal_pod_autoscaler_syncs);
    let autoscaler = &mut config.pod_autoscaler;
    set(&mut autoscaler.sync_period, options.horizontal_pod_autoscaler_sync_period);
    set(&mut autoscaler.downscale_stabilization, options.horizontal_pod_autoscaler_downscale_stabilization);
    set(&mut autoscaler.tolerance, options.horizontal_pod_autoscaler_tolerance);
    set(&mut autoscaler.cpu_initialization_period, options.horizontal_pod_autoscaler_cpu_initialization_period);
    set(&mut autoscaler.initial_readiness_delay, options.horizontal_pod_autoscaler_initial_readiness_delay);
    set(&mut config.cluster_signing.duration, options.cluster_signing_duration);
    set(&mut config.concurrent_deployment_syncs, options.concurrent_deployment_syncs);
    set(&mut config.concurrent_replicaset_syncs, options.concurrent_replicaset_syncs);
    set(&mut config.concurrent_job_syncs, options.concurrent_job_syncs);
    set(&mut config.concurrent_cron_job_syncs, options.concurrent_cron_job_syncs);
    set(&mut config.concurrent_ttl_after_finished_syncs, options.concurrent_ttl_after_finished_syncs);
    set(&mut config.concurrent_statefulset_syncs, options.concurrent_statefulset_syncs);
    set(&mut config.concurrent_daemonset_syncs, options.concurrent_daemonset_syncs);
    set(&mut config.concurrent_endpoint_syncs, options.concurrent_service_endpoint_syncs);
    set(&mut config.mirroring_concurrent_service_endpoint_syncs, options.mirroring_concurrent_service_endpoint_syncs);
    set(&mut config.mirroring_max_endpoints_per_subset, options.mirroring_max_endpoints_per_subset);
    set(&mut config.concurrent_namespace_syncs, options.concurrent_namespace_syncs);
    set(&mut config.concurrent_resource_quota_syncs, options.concurrent_resource_quota_syncs);
    set(&mut config.resource_quota_sync_period, options.resource_quota_sync_period);
    set(&mut config.concurrent_ephemeralvolume_syncs, options.concurrent_ephemeralvolume_syncs);
    config.node_ipam = options.allocate_node_cidrs.then(|| node_ipam(options));
    set(&mut config.concurrent_gc_syncs, options.concurrent_gc_syncs);
    set(&mut config.node_monitor_period, options.node_monitor_period);
    set(&mut config.node_monitor_grace_period, options.node_monitor_grace_period);
    set(&mut config.terminated_pod_gc_threshold, options.terminated_pod_gc_threshold);
    Ok(config)
}

fn node_ipam(options: &Options) -> NodeIpam {
    let mut config = NodeIpam {
        cluster_cidrs: options.cluster_cidr.clone(),
        service_cidrs: options.service_cluster_ip_range.clone(),
        ..NodeIpam::default()
    };
    set(&mut config.mask_size_ipv4, options.node_cidr_mask_size.or(options.node_cidr_mask_size_ipv4));
    set(&mut config.mask_size_ipv6, options.node_cidr_mask_size.or(options.node_cidr_mask_size_ipv6));
    config
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn set<T>(setting: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *setting = value;
    }
}

/// Go's notation for durations (`40s`, `1m30s`), as far as these flags need it.
fn seconds(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|error| format!("not a duration such as 40s: {error}"))?;
    Duration::try_from(span).map_err(|_| "may not be negative".to_owned())
}

/// A duration that is not zero.
fn positive(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|duration| if duration.is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(duration) })
}

async fn serve(config: Config, kubeconfig: &Path, with_accounts: bool) -> anyhow::Result<()> {
    let client = client::from_kubeconfig(kubeconfig).await?;
    let clients = if with_accounts {
        Clients::per_controller(client.clone(), client::service_accounts_from_kubeconfig(kubeconfig, "kube-system").await?)
    } else {
        Clients::same(client.clone())
    };
    component::until_signal(|stop| async move {
        let informers = Informers::new(client, stop.clone());
        match controller_manager::run(config, clients, informers, stop).await {
            Err(error @ RunError::UnknownController(_)) => Err(Exit::new(exit::USAGE, error.to_string()).into()),
            result => result.context("the controller manager failed"),
        }
    })
    .await
}
