//! What the kubelet is told at start. The binary fills it from flags; nothing in here is read from the environment.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;

/// The kubelet's settings. [`Config::new`] gives upstream's defaults
/// (<https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/>).
#[derive(Clone)]
pub struct Config {
    /// The name of the Node object and the value of `spec.nodeName` that this kubelet acts on.
    pub node_name: String,
    /// `kubernetes.io/hostname` and the `Hostname` address; the node's name unless set.
    pub hostname: String,
    /// The node's addresses, the primary first; must not be empty.
    pub node_ips: Vec<IpAddr>,
    /// The kubelet's own directory: pods, volumes, plugins. Must support mounts and symbolic links.
    pub root_dir: PathBuf,
    /// Where the runtime is told to write container logs (upstream: `/var/log/pods`).
    pub pod_logs_dir: PathBuf,
    /// A directory of static pod manifests; `None`: no static pods.
    pub static_pod_dir: Option<PathBuf>,
    /// The cgroup below which `kubepods` is made, for example `/` or `/rusternetes`.
    pub cgroup_root: String,
    /// Whether the kubelet makes QoS and pod cgroups at all (`--cgroups-per-qos`).
    pub cgroups_per_qos: bool,
    /// The port of the HTTPS server; another free one is taken, and published, when it is in use. 0: any.
    pub port: u16,
    /// The address that the HTTPS server listens on.
    pub bind_address: IpAddr,
    /// The certificate and key of the HTTPS server and the authority of client certificates; `None`: no server is started. A new value is
    /// shown to every connection from then on.
    pub tls: Option<tokio::sync::watch::Receiver<ServerTls>>,
    /// The cluster's DNS servers, for pods with `dnsPolicy: ClusterFirst`.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain, without a final dot.
    pub cluster_domain: String,
    /// The host's resolver configuration that pods inherit (`--resolv-conf`).
    pub resolv_conf: PathBuf,
    /// Labels given to the Node at registration, besides the well-known ones.
    pub node_labels: Vec<(String, String)>,
    /// Taints given to the Node at registration.
    pub register_taints: Vec<Taint>,
    /// The most pods that this node runs.
    pub pods_max: u32,
    /// How often the node's status is computed; it is reported only on a change or every [`Config::status_report_interval`].
    pub status_update_interval: Duration,
    /// The longest time between two reports of an unchanged node status.
    pub status_report_interval: Duration,
    /// The lifetime of the node's Lease; it is renewed every quarter of it (KEP-589).
    pub lease_duration: Duration,
    /// The longest the runtime's events are trusted without a full relist.
    pub relist_interval: Duration,
    /// The size at which a container's log is rotated, in bytes.
    pub container_log_bytes_max: u64,
    /// How many log files a container keeps.
    pub container_log_files_max: u32,
    /// Image garbage collection starts above this percentage of disk use.
    pub image_gc_high_percent: u8,
    /// Image garbage collection frees down to this percentage of disk use.
    pub image_gc_low_percent: u8,
    /// Unused images younger than this are kept.
    pub image_gc_age_min: Duration,
    /// The memory, in bytes, below which the node is under MemoryPressure (hard eviction `memory.available`).
    pub eviction_memory_available_bytes: u64,
    /// The free share of the node's file system, in percent, below which it is under DiskPressure (`nodefs.available`).
    pub eviction_nodefs_available_percent: u8,
    /// The free share of inodes, in percent, below which it is under DiskPressure (`nodefs.inodesFree`).
    pub eviction_nodefs_inodes_free_percent: u8,
    /// The version that is published in `nodeInfo.kubeletVersion`.
    pub kubelet_version: String,
    /// Sysctls that pods may set besides the safe ones; a final `*` is a prefix match.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// The provider's id of the node (`spec.providerID`).
    pub provider_id: Option<String>,
}

/// What the kubelet's HTTPS server shows and trusts, PEM encoded.
#[derive(Clone)]
pub struct ServerTls {
    /// The serving certificate chain.
    pub certificate_pem: Arc<[u8]>,
    /// The private key of the serving certificate.
    pub key_pem: Arc<[u8]>,
    /// The authority that signs client certificates (the API server's kubelet client).
    pub client_ca_pem: Arc<[u8]>,
}

impl Config {
    /// Upstream's defaults for a node.
    pub fn new(node_name: impl Into<String>, node_ips: Vec<IpAddr>, root_dir: impl Into<PathBuf>) -> Self {
        let node_name = node_name.into();
        let root_dir = root_dir.into();
        Self {
            hostname: node_name.clone(),
            node_name,
            node_ips,
            pod_logs_dir: root_dir.join("pod-logs"),
            root_dir,
            static_pod_dir: None,
            cgroup_root: "/".to_owned(),
            cgroups_per_qos: true,
            port: 10250,
            bind_address: IpAddr::from([0, 0, 0, 0]),
            tls: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            node_labels: Vec::new(),
            register_taints: Vec::new(),
            pods_max: 110,
            status_update_interval: Duration::from_secs(10),
            status_report_interval: Duration::from_secs(300),
            lease_duration: Duration::from_secs(40),
            relist_interval: Duration::from_secs(300),
            container_log_bytes_max: 10 << 20,
            container_log_files_max: 5,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            image_gc_age_min: Duration::from_secs(120),
            eviction_memory_available_bytes: 100 << 20,
            // Upstream's 10% is much of a large disk on a machine that is not only a node; k3s takes 5% too.
            eviction_nodefs_available_percent: 5,
            eviction_nodefs_inodes_free_percent: 5,
            kubelet_version: concat!("v1.35.4+rusternetes-", env!("CARGO_PKG_VERSION")).to_owned(),
            allowed_unsafe_sysctls: Vec::new(),
            provider_id: None,
        }
    }

    /// The directory of one pod: volumes, plugins' data, the hosts file, termination messages.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// The directory of one pod's container logs, named as upstream names it.
    pub(crate) fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}
