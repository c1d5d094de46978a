//! What can be set on the controller manager. Names follow kube-controller-manager's flags.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::LeaderElection;

/// A CA with its key, in PEM.
#[derive(Clone)]
pub struct SigningCa {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key.
    pub key_pem: String,
}

impl std::fmt::Debug for SigningCa {
    /// Not the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningCa").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// What certificatesigningrequest-signing-controller signs with; a signer without a CA signs nothing.
#[derive(Clone, Debug)]
pub struct ClusterSigning {
    /// `--cluster-signing-kubelet-serving-cert-file` and `-key-file`.
    pub kubelet_serving: Option<SigningCa>,
    /// `--cluster-signing-kubelet-client-cert-file` and `-key-file`.
    pub kubelet_client: Option<SigningCa>,
    /// `--cluster-signing-kube-apiserver-client-cert-file` and `-key-file`.
    pub kube_apiserver_client: Option<SigningCa>,
    /// `--cluster-signing-legacy-unknown-cert-file` and `-key-file`.
    pub legacy_unknown: Option<SigningCa>,
    /// `--cluster-signing-duration`: the longest life of a certificate.
    pub duration: Duration,
}

impl ClusterSigning {
    /// One CA for all signers, or none: `--cluster-signing-cert-file` and `--cluster-signing-key-file`.
    pub fn with(ca: Option<SigningCa>) -> Self {
        Self {
            kubelet_serving: ca.clone(),
            kubelet_client: ca.clone(),
            kube_apiserver_client: ca.clone(),
            legacy_unknown: ca,
            // A year.
            duration: Duration::from_secs(365 * 24 * 3600),
        }
    }
}

/// What node-ipam-controller gives nodes their pod ranges from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIpam {
    /// `--cluster-cidr`: one range, or one of each family.
    pub cluster_cidrs: Vec<String>,
    /// `--service-cluster-ip-range`: what of them is not given to nodes.
    pub service_cidrs: Vec<String>,
    /// `--node-cidr-mask-size-ipv4`, or `--node-cidr-mask-size` with one family.
    pub mask_size_ipv4: u32,
    /// `--node-cidr-mask-size-ipv6`, or `--node-cidr-mask-size` with one family.
    pub mask_size_ipv6: u32,
}

impl Default for NodeIpam {
    /// Upstream's mask sizes, without ranges.
    fn default() -> Self {
        Self { cluster_cidrs: Vec::new(), service_cidrs: Vec::new(), mask_size_ipv4: 24, mask_size_ipv6: 64 }
    }
}

/// The private key of ServiceAccount tokens, in PEM: RSA or ECDSA.
#[derive(Clone)]
pub struct ServiceAccountKey {
    /// The key.
    pub pem: String,
}

impl std::fmt::Debug for ServiceAccountKey {
    /// Not the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccountKey").finish_non_exhaustive()
    }
}

/// What horizontal-pod-autoscaler-controller is told.
#[derive(Clone, Debug, PartialEq)]
pub struct PodAutoscaler {
    /// `--horizontal-pod-autoscaler-sync-period`: how often metrics are looked at.
    pub sync_period: Duration,
    /// `--horizontal-pod-autoscaler-downscale-stabilization`: how far back higher recommendations count.
    pub downscale_stabilization: Duration,
    /// `--horizontal-pod-autoscaler-tolerance`: how far a metric may be off its target, as a fraction.
    pub tolerance: f64,
    /// `--horizontal-pod-autoscaler-cpu-initialization-period`: so long after a pod's start its processor time may be that of the start.
    pub cpu_initialization_period: Duration,
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`: a pod that was not ready after so long has never been.
    pub initial_readiness_delay: Duration,
}

impl Default for PodAutoscaler {
    /// Upstream's.
    fn default() -> Self {
        Self {
            sync_period: Duration::from_secs(15),
            downscale_stabilization: Duration::from_secs(5 * 60),
            tolerance: 0.1,
            cpu_initialization_period: Duration::from_secs(5 * 60),
            initial_readiness_delay: Duration::from_secs(30),
        }
    }
}

/// Where local-path-provisioner-controller makes volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalVolumes {
    /// The node whose directory it is.
    pub node_name: String,
    /// The directory: one for each volume is made in it.
    pub directory: PathBuf,
}

/// How fast node-lifecycle-controller marks nodes for eviction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeEviction {
    /// `--node-eviction-rate`: nodes a second of a zone that is healthy as a whole.
    pub rate: f64,
    /// `--secondary-node-eviction-rate`: nodes a second of a large zone that is not.
    pub secondary_rate: f64,
    /// `--large-cluster-size-threshold`: smaller zones stop evicting when they are not healthy.
    pub large_zone: usize,
    /// `--unhealthy-zone-threshold`: the share of nodes that makes a zone unhealthy.
    pub unhealthy_share: f64,
    /// `--node-startup-grace-period`: silence that is allowed to a node that has never spoken.
    pub startup_grace_period: Duration,
}

impl Default for NodeEviction {
    /// Upstream's.
    fn default() -> Self {
        Self {
            rate: 0.1,
            secondary_rate: 0.01,
            large_zone: 50,
            unhealthy_share: 0.55,
            startup_grace_period: Duration::from_secs(60),
        }
    }
}

/// Is told the name of each controller that was started.
pub type Started = Arc<dyn Fn(&'static str) + Send + Sync>;

/// `--feature-gates`: those that a controller here knows both sides of, with v1.35's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    /// MaxUnavailableStatefulSet (KEP-961), beta and off: `maxUnavailable` of a StatefulSet's rolling update counts.
    pub max_unavailable_stateful_set: bool,
}

/// Settings of all controllers.
#[derive(Clone)]
pub struct Config {
    /// `--controllers`: `*` enables all that are on by default, `foo` enables, `-foo` disables.
    pub controllers: Vec<String>,
    /// `--root-ca-file`: PEM bundle published in every namespace as the ConfigMap `kube-root-ca.crt`. Without it the
    /// publisher does not run.
    pub root_ca: Option<String>,
    /// `--service-account-private-key-file`: signs the tokens of Secrets. Without it serviceaccount-token-controller does not run.
    pub service_account_key: Option<ServiceAccountKey>,
    /// `--concurrent-serviceaccount-token-syncs`.
    pub concurrent_serviceaccount_token_syncs: usize,
    /// `--legacy-service-account-token-clean-up-period`: after so long without use, tokens that older releases made are marked, then deleted.
    pub legacy_service_account_token_clean_up_period: Duration,
    /// The CAs of the certificates API.
    pub cluster_signing: ClusterSigning,
    /// `--leader-elect`: take the Lease before working. `None` where only one controller manager can exist.
    pub leader_election: Option<LeaderElection>,
    /// `--feature-gates`.
    pub feature_gates: FeatureGates,
    /// `--concurrent-deployment-syncs`.
    pub concurrent_deployment_syncs: usize,
    /// `--concurrent-replicaset-syncs`.
    pub concurrent_replicaset_syncs: usize,
    /// `--concurrent-rc-syncs`.
    pub concurrent_rc_syncs: usize,
    /// `--concurrent-job-syncs`.
    pub concurrent_job_syncs: usize,
    /// `--concurrent-cron-job-syncs`.
    pub concurrent_cron_job_syncs: usize,
    /// `--concurrent-ttl-after-finished-syncs`.
    pub concurrent_ttl_after_finished_syncs: usize,
    /// `--concurrent-validating-admission-policy-status-syncs`.
    pub concurrent_validating_admission_policy_status_syncs: usize,
    /// `--concurrent-statefulset-syncs`.
    pub concurrent_statefulset_syncs: usize,
    /// `--concurrent-daemonset-syncs`.
    pub concurrent_daemonset_syncs: usize,
    /// `--concurrent-endpoint-syncs`.
    pub concurrent_endpoint_syncs: usize,
    /// `--concurrent-service-endpoint-syncs`.
    pub concurrent_service_endpoint_syncs: usize,
    /// `--max-endpoints-per-slice`.
    pub max_endpoints_per_slice: usize,
    /// `--mirroring-concurrent-service-endpoint-syncs`.
    pub mirroring_concurrent_service_endpoint_syncs: usize,
    /// `--mirroring-max-endpoints-per-subset`: further addresses of Endpoints are not mirrored.
    pub mirroring_max_endpoints_per_subset: usize,
    /// `--concurrent-namespace-syncs`.
    pub concurrent_namespace_syncs: usize,
    /// How long a deleted namespace is left alone, so that every API server of the cluster refuses new content in it
    /// before the old is deleted. A single server needs no delay.
    pub namespace_deletion_grace_period: Duration,
    /// `--concurrent-resource-quota-syncs`.
    pub concurrent_resource_quota_syncs: usize,
    /// `--resource-quota-sync-period`: how often usage is counted anew without a reason.
    pub resource_quota_sync_period: Duration,
    /// `--pvclaimbinder-sync-period`: how often claims that wait are looked at again.
    pub pvclaimbinder_sync_period: Duration,
    /// The directory of local-path-provisioner-controller. `None` where nodes are elsewhere; the controller does not run then.
    pub local_volumes: Option<LocalVolumes>,
    /// What Services of type LoadBalancer get.
    pub service_load_balancers: ServiceLoadBalancers,
    /// `--concurrent-ephemeralvolume-syncs`.
    pub concurrent_ephemeralvolume_syncs: usize,
    /// `--concurrent-horizontal-pod-autoscaler-syncs`.
    pub concurrent_horizontal_pod_autoscaler_syncs: usize,
    /// `--horizontal-pod-autoscaler-...`.
    pub pod_autoscaler: PodAutoscaler,
    /// `--concurrent-resource-claim-syncs`.
    pub concurrent_resource_claim_syncs: usize,
    /// `--concurrent-gc-syncs`.
    pub concurrent_gc_syncs: usize,
    /// `--allocate-node-cidrs` and what belongs to it. `None` where nodes get their ranges elsewhere; node-ipam-controller does not run then.
    pub node_ipam: Option<NodeIpam>,
    /// `--node-monitor-period`: how often node health is judged.
    pub node_monitor_period: Duration,
    /// `--node-monitor-grace-period`: silence after which a node is called Unknown.
    pub node_monitor_grace_period: Duration,
    /// `--disable-force-detach-on-timeout`: a node keeps the volumes that it does not unmount, however long it is not healthy.
    pub disable_force_detach_on_timeout: bool,
    /// Pace and thresholds of evictions from nodes that are not healthy.
    pub node_eviction: NodeEviction,
    /// `--terminated-pod-gc-threshold`: finished pods kept; 0 keeps all.
    pub terminated_pod_gc_threshold: usize,
    /// Hears of each controller's start: what health is asked about.
    pub started: Option<Started>,
}

/// What service-lb-controller gives Services of type LoadBalancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServiceLoadBalancers {
    /// Nothing: that is somebody else's work. The controller does not run.
    #[default]
    Elsewhere,
    /// The addresses of the nodes; each port is one Service's.
    NodePorts,
    /// Addresses of their own within these ranges, which the service proxies announce.
    Pool(Vec<RangeInclusive<IpAddr>>),
}

impl std::fmt::Debug for Config {
    /// What identifies a configuration in a log; the rest is in `/configz`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("controllers", &self.controllers).finish_non_exhaustive()
    }
}

impl Default for Config {
    /// Upstream's defaults, except for the numbers of workers: tasks are cheap to wake but pointless to multiply on
    /// the small machines that are the usual case, so each gets at most upstream's five.
    fn default() -> Self {
        Self {
            controllers: vec!["*".to_owned()],
            root_ca: None,
            service_account_key: None,
            concurrent_serviceaccount_token_syncs: 5,
            // A year.
            legacy_service_account_token_clean_up_period: Duration::from_secs(365 * 24 * 3600),
            cluster_signing: ClusterSigning::with(None),
            leader_election: None,
            feature_gates: FeatureGates::default(),
            concurrent_deployment_syncs: 5,
            concurrent_replicaset_syncs: 5,
            concurrent_rc_syncs: 5,
            concurrent_job_syncs: 5,
            concurrent_cron_job_syncs: 5,
            concurrent_ttl_after_finished_syncs: 5,
            concurrent_validating_admission_policy_status_syncs: 5,
            concurrent_statefulset_syncs: 5,
            concurrent_daemonset_syncs: 2,
            concurrent_endpoint_syncs: 5,
            concurrent_service_endpoint_syncs: 5,
            max_endpoints_per_slice: 100,
            mirroring_concurrent_service_endpoint_syncs: 5,
            mirroring_max_endpoints_per_subset: 1000,
            concurrent_namespace_syncs: 5,
            namespace_deletion_grace_period: Duration::from_secs(5),
            concurrent_resource_quota_syncs: 5,
            resource_quota_sync_period: Duration::from_secs(5 * 60),
            pvclaimbinder_sync_period: Duration::from_secs(15),
            local_volumes: None,
            service_load_balancers: ServiceLoadBalancers::default(),
            concurrent_ephemeralvolume_syncs: 5,
            concurrent_horizontal_pod_autoscaler_syncs: 5,
            pod_autoscaler: PodAutoscaler::default(),
            concurrent_resource_claim_syncs: 5,
            concurrent_gc_syncs: 5,
            node_ipam: None,
            node_monitor_period: Duration::from_secs(5),
            node_monitor_grace_period: Duration::from_secs(50),
            disable_force_detach_on_timeout: false,
            node_eviction: NodeEviction::default(),
            terminated_pod_gc_threshold: 12_500,
            started: None,
        }
    }
}
