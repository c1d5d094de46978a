//! What the flags mean: upstream's values turned into the configuration of our controllers. Reads the files that they name.

use std::time::Duration;

use anyhow::{Context, bail};
use client::Connection;
use controller_manager::{ClusterSigning, Config, NodeEviction, NodeIpam, ServiceAccountKey, SigningCa};

use crate::component;
use crate::exit::{self, Exit};
use crate::flags::Values;
use crate::flags::common::{Serving, check_versions, connection, file, leader_election};

/// Everything that the command line says, checked.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) connection: Connection,
    pub(super) serving: Serving,
    /// `--use-service-account-credentials`.
    pub(super) with_accounts: bool,
}

impl Settings {
    /// Reads the flags; errors name the flag.
    pub(super) fn new(values: &Values) -> anyhow::Result<Self> {
        check_versions(values)?;
        if let Some(other) = values.text("cloud-provider").filter(|name| *name != "external") {
            bail!("--cloud-provider={other}: unknown cloud provider; choose external or none");
        }
        let connection = connection(values)?;
        if connection.kubeconfig.is_none() && connection.master.is_none() {
            return Err(Exit::new(exit::USAGE, "neither --kubeconfig nor --master is given").into());
        }
        let config = configuration(values)?;
        Ok(Self {
            config,
            connection,
            serving: Serving::new(values)?,
            with_accounts: values.is_set("use-service-account-credentials"),
        })
    }
}

fn configuration(values: &Values) -> anyhow::Result<Config> {
    let gates = crate::api_server::controller_feature_gates(&values.list("feature-gates"))
        .map_err(|error| anyhow::anyhow!("--feature-gates: {error}"))?;
    let mut config = Config {
        controllers: controllers(values),
        root_ca: file(values, "root-ca-file")?,
        service_account_key: file(values, "service-account-private-key-file")?.map(|pem| ServiceAccountKey { pem }),
        cluster_signing: cluster_signing(values)?,
        leader_election: leader_election(values, component::identity())?,
        feature_gates: gates,
        node_ipam: node_ipam(values)?,
        ..Config::default()
    };
    set_workers(values, &mut config)?;
    periods(values, &mut config)?;
    config.node_eviction = NodeEviction {
        rate: values.float("node-eviction-rate"),
        secondary_rate: values.float("secondary-node-eviction-rate"),
        large_zone: count(values, "large-cluster-size-threshold")?,
        unhealthy_share: values.float("unhealthy-zone-threshold"),
        startup_grace_period: values.duration("node-startup-grace-period"),
    };
    config.max_endpoints_per_slice = count(values, "max-endpoints-per-slice")?;
    if !(1..=1000).contains(&config.max_endpoints_per_slice) {
        bail!("--max-endpoints-per-slice: must not be less than 1 or more than 1000");
    }
    config.mirroring_max_endpoints_per_subset = count(values, "mirroring-max-endpoints-per-subset")?;
    config.terminated_pod_gc_threshold = usize::try_from(values.integer("terminated-pod-gc-threshold")).unwrap_or(0);
    config.disable_force_detach_on_timeout = values.is_set("disable-force-detach-on-timeout");
    config.pod_autoscaler.tolerance = values.float("horizontal-pod-autoscaler-tolerance");
    Ok(config)
}

/// `--controllers`, without the garbage collector if it is switched off.
fn controllers(values: &Values) -> Vec<String> {
    let mut controllers = values.list("controllers");
    if !values.is_set("enable-garbage-collector") {
        controllers.insert(0, "-garbage-collector-controller".to_owned());
    }
    controllers
}

fn count(values: &Values, name: &str) -> anyhow::Result<usize> {
    usize::try_from(values.integer(name)).with_context(|| format!("--{name}: may not be negative"))
}

/// Numbers of workers, by their flags.
pub(super) fn workers(config: &mut Config) -> [(&'static str, &mut usize); 18] {
    [
        ("concurrent-serviceaccount-token-syncs", &mut config.concurrent_serviceaccount_token_syncs),
        ("concurrent-horizontal-pod-autoscaler-syncs", &mut config.concurrent_horizontal_pod_autoscaler_syncs),
        ("concurrent-deployment-syncs", &mut config.concurrent_deployment_syncs),
        ("concurrent-replicaset-syncs", &mut config.concurrent_replicaset_syncs),
        ("concurrent-rc-syncs", &mut config.concurrent_rc_syncs),
        ("concurrent-job-syncs", &mut config.concurrent_job_syncs),
        ("concurrent-cron-job-syncs", &mut config.concurrent_cron_job_syncs),
        ("concurrent-ttl-after-finished-syncs", &mut config.concurrent_ttl_after_finished_syncs),
        ("concurrent-validating-admission-policy-status-syncs", &mut config.concurrent_validating_admission_policy_status_syncs),
        ("concurrent-statefulset-syncs", &mut config.concurrent_statefulset_syncs),
        ("concurrent-daemonset-syncs", &mut config.concurrent_daemonset_syncs),
        ("concurrent-endpoint-syncs", &mut config.concurrent_endpoint_syncs),
        ("concurrent-service-endpoint-syncs", &mut config.concurrent_service_endpoint_syncs),
        ("mirroring-concurrent-service-endpoint-syncs", &mut config.mirroring_concurrent_service_endpoint_syncs),
        ("concurrent-namespace-syncs", &mut config.concurrent_namespace_syncs),
        ("concurrent-resource-quota-syncs", &mut config.concurrent_resource_quota_syncs),
        ("concurrent-ephemeralvolume-syncs", &mut config.concurrent_ephemeralvolume_syncs),
        ("concurrent-gc-syncs", &mut config.concurrent_gc_syncs),
    ]
}

/// Numbers of workers, where they are given: ours are fewer by default.
fn set_workers(values: &Values, config: &mut Config) -> anyhow::Result<()> {
    for (name, setting) in workers(config).into_iter().filter(|(name, _)| values.given(name)) {
        *setting = count(values, name)?;
        if *setting == 0 {
            bail!("--{name}: must be greater than 0");
        }
    }
    Ok(())
}

fn periods(values: &Values, config: &mut Config) -> anyhow::Result<()> {
    // What is done again after no time is done without end.
    for (setting, name) in [
        (&mut config.resource_quota_sync_period, "resource-quota-sync-period"),
        (&mut config.pvclaimbinder_sync_period, "pvclaimbinder-sync-period"),
        (&mut config.node_monitor_period, "node-monitor-period"),
        (&mut config.pod_autoscaler.sync_period, "horizontal-pod-autoscaler-sync-period"),
    ] {
        *setting = values.duration(name);
        if setting.is_zero() {
            bail!("--{name}: must be greater than 0");
        }
    }
    let set = |setting: &mut Duration, name: &str| *setting = values.duration(name);
    set(&mut config.legacy_service_account_token_clean_up_period, "legacy-service-account-token-clean-up-period");
    set(&mut config.node_monitor_grace_period, "node-monitor-grace-period");
    let autoscaler = &mut config.pod_autoscaler;
    set(&mut autoscaler.downscale_stabilization, "horizontal-pod-autoscaler-downscale-stabilization");
    set(&mut autoscaler.cpu_initialization_period, "horizontal-pod-autoscaler-cpu-initialization-period");
    set(&mut autoscaler.initial_readiness_delay, "horizontal-pod-autoscaler-initial-readiness-delay");
    Ok(())
}

/// One CA for all signers, or one for each; upstream does not take both.
fn cluster_signing(values: &Values) -> anyhow::Result<ClusterSigning> {
    let pair = |prefix: &str| -> anyhow::Result<Option<SigningCa>> {
        let (cert, key) = (format!("cluster-signing-{prefix}cert-file"), format!("cluster-signing-{prefix}key-file"));
        match (file(values, &cert)?, file(values, &key)?) {
            (Some(cert_pem), Some(key_pem)) => Ok(Some(SigningCa { cert_pem, key_pem })),
            (None, None) => Ok(None),
            _ => bail!("--{cert} and --{key} go together"),
        }
    };
    let all = pair("")?;
    let signing = ClusterSigning {
        kubelet_serving: pair("kubelet-serving-")?,
        kubelet_client: pair("kubelet-client-")?,
        kube_apiserver_client: pair("kube-apiserver-client-")?,
        legacy_unknown: pair("legacy-unknown-")?,
        duration: values.duration("cluster-signing-duration"),
    };
    let specific = [&signing.kubelet_serving, &signing.kubelet_client, &signing.kube_apiserver_client, &signing.legacy_unknown];
    match all {
        None => Ok(signing),
        Some(_) if specific.iter().any(|ca| ca.is_some()) => {
            bail!("--cluster-signing-cert-file cannot be specified with other --cluster-signing-*-file flags")
        }
        all => Ok(ClusterSigning { duration: signing.duration, ..ClusterSigning::with(all) }),
    }
}

/// `--allocate-node-cidrs` and what belongs to it.
fn node_ipam(values: &Values) -> anyhow::Result<Option<NodeIpam>> {
    if !values.is_set("allocate-node-cidrs") {
        return Ok(None);
    }
    let cluster_cidrs = values.list("cluster-cidr");
    if cluster_cidrs.is_empty() {
        bail!("--allocate-node-cidrs needs --cluster-cidr");
    }
    let size = |name: &str| -> anyhow::Result<Option<u32>> {
        let given = values.given(name).then(|| u32::try_from(values.integer(name)));
        given.transpose().with_context(|| format!("--{name}: may not be negative"))
    };
    let both = size("node-cidr-mask-size")?;
    let (v4, v6) = (size("node-cidr-mask-size-ipv4")?, size("node-cidr-mask-size-ipv6")?);
    if both.is_some() && cluster_cidrs.len() > 1 {
        bail!("usage of --node-cidr-mask-size is not allowed with dual-stack clusters");
    }
    if both.is_some() && (v4.is_some() || v6.is_some()) {
        bail!("--node-cidr-mask-size cannot be given with --node-cidr-mask-size-ipv4 or --node-cidr-mask-size-ipv6");
    }
    let defaults = NodeIpam::default();
    Ok(Some(NodeIpam {
        cluster_cidrs,
        service_cidrs: values.list("service-cluster-ip-range"),
        mask_size_ipv4: both.or(v4).unwrap_or(defaults.mask_size_ipv4),
        mask_size_ipv6: both.or(v6).unwrap_or(defaults.mask_size_ipv6),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::table::FLAGS;
    use super::*;
    use crate::flags::testing;

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let arguments: Vec<&str> = ["--kubeconfig=/nowhere"].iter().chain(arguments).copied().collect();
        Settings::new(&testing::read(FLAGS, &arguments)?).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_table_is_upstreams() {
        // Upstream's v1.35.4 lists 146 with --help and --version.
        assert_eq!(testing::count(FLAGS), 144);
    }

    #[test]
    fn flags_become_settings() {
        let none = settings(&[]).unwrap().config;
        assert_eq!(none.concurrent_gc_syncs, Config::default().concurrent_gc_syncs, "ours unless it is given");
        assert_eq!(none.node_eviction, NodeEviction::default(), "the defaults of the flags are the defaults");
        assert_eq!(none.node_monitor_grace_period, Config::default().node_monitor_grace_period);
        assert_eq!(none.pod_autoscaler, Config::default().pod_autoscaler);
        assert_eq!(none.pvclaimbinder_sync_period, Config::default().pvclaimbinder_sync_period);
        let some = settings(&[
            "--concurrent-gc-syncs=20",
            "--controllers=*,-deployment-controller",
            "--enable-garbage-collector=false",
            "--leader-elect-lease-duration=1m",
            "--allocate-node-cidrs",
            "--cluster-cidr=10.0.0.0/16",
            "--node-cidr-mask-size=25",
            "--kube-api-qps=50",
            "--pvclaimbinder-sync-period=1m",
        ])
        .unwrap();
        assert_eq!(some.config.concurrent_gc_syncs, 20);
        assert_eq!(some.config.pvclaimbinder_sync_period, Duration::from_secs(60));
        assert_eq!(some.config.controllers, ["-garbage-collector-controller", "*", "-deployment-controller"]);
        assert_eq!(some.config.leader_election.unwrap().lease_duration, Duration::from_secs(60));
        assert_eq!(some.config.node_ipam.unwrap().mask_size_ipv4, 25);
        assert_eq!(some.connection.rate, Some((50.0, 30)));
        assert!(settings(&["--leader-elect=false"]).unwrap().config.leader_election.is_none());
    }

    #[test]
    fn mistakes_are_named() {
        for (arguments, expected) in [
            (&["--leader-elect-lease-duration=5s"][..], "--leader-elect-lease-duration"),
            (&["--allocate-node-cidrs"], "--cluster-cidr"),
            (&["--cloud-provider=aws"], "--cloud-provider=aws"),
            (&["--concurrent-job-syncs=0"], "--concurrent-job-syncs"),
            (&["--pvclaimbinder-sync-period=0"], "--pvclaimbinder-sync-period: must be greater than 0"),
            (&["--resource-quota-sync-period=0s"], "--resource-quota-sync-period: must be greater than 0"),
            (&["--node-monitor-period=0s"], "--node-monitor-period: must be greater than 0"),
            (&["--horizontal-pod-autoscaler-sync-period=0s"], "--horizontal-pod-autoscaler-sync-period: must be greater than 0"),
            (&["--cluster-signing-cert-file=/nowhere"], "--cluster-signing-cert-file: cannot read /nowhere"),
            (&["--feature-gates=NoSuch=true"], "NoSuch"),
            (&["--enable-leader-migration"], "--enable-leader-migration=true: not implemented"),
            (&["--emulated-version=1.34"], "--emulated-version=1.34"),
            (&["--tls-cert-file=/nowhere"], "--tls-cert-file"),
            (&["--bind-address=nowhere"], "--bind-address=nowhere"),
        ] {
            let error = settings(arguments).err().unwrap_or_default();
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
