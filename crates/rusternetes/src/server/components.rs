//! The components of one process: who they are to the API server, and that they are waited for.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use api_server::{ApiServer, KeyCert, Pki, UserInfo};
use client::Informers;
use container_runtime::{ContainerRuntime, RegistryConfig};
use controller_manager::ServiceLoadBalancers;
use k8s_openapi::api::core::v1::Node;
use kubelet::{Kubelet, ServerTls};
use network::{Cidr, PodNetwork};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::left_out::Component;
use super::pod_network::Network;
use super::{CLUSTER_DOMAIN, Site, runtime_root};

/// All running components.
pub(super) struct Components {
    tasks: JoinSet<anyhow::Result<()>>,
    runtime: Arc<ContainerRuntime>,
}

impl Components {
    /// Waits until a component ends with an error. Cancellation-safe.
    pub(super) async fn first_failure(&mut self) -> anyhow::Error {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return anyhow::Error::new(error).context("a component panicked"),
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until all have ended; their token must be cancelled.
    pub(super) async fn stopped(mut self) {
        while let Some(result) = self.tasks.join_next().await {
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "a component failed while stopping"),
                Err(error) => tracing::warn!(%error, "a component panicked while stopping"),
            }
        }
        self.runtime.close().await;
    }
}

/// Starts everything that talks to the API server.
pub(super) async fn start(
    site: &Arc<Site>,
    server: &Arc<ApiServer>,
    pki: &Arc<Pki>,
    kubelet_tls: tokio::sync::watch::Receiver<ServerTls>,
    stop: CancellationToken,
    started: Instant,
) -> anyhow::Result<Components> {
    let client_for = |user: UserInfo| client::from_service(server.client_service(user), "default");
    let mut tasks = JoinSet::new();

    if site.runs(Component::ControllerManager) {
        start_controllers(site, server, pki, &mut tasks, &stop);
    }

    // A class whose volumes nobody makes would only hold claims up.
    if !site.options.disable_local_storage && site.runs(Component::ControllerManager) {
        let client = client_for(UserInfo::new("system:local-storage-publisher", &["system:masters"]));
        tasks.spawn(publish_local_storage(client, stop.clone()));
    }

    if site.runs(Component::ControllerManager) {
        let client = client_for(UserInfo::new("system:config-roll-publisher", &["system:masters"]));
        let stop = stop.clone();
        tasks.spawn(async move {
            let rights = || controller_manager::ensure_config_roll_rights(&client);
            put_in_place("the rights of config-roll-controller", &stop, rights).await;
            Ok(())
        });
    }

    if site.runs(Component::Scheduler) {
        let client = client_for(UserInfo::new("system:kube-scheduler", &[]));
        let (config, token) = (scheduler::Config::default(), stop.clone());
        tasks.spawn(async move { scheduler::run(config, client, token).await.context("the scheduler failed") });
    }

    let network = open_network(site).await?;
    let gateways = network.gateways();
    let runtime = open_runtime(site, network).await?;

    let client = client_for(UserInfo::node(&site.node_name));
    tasks.spawn(report_ready(client.clone(), site.node_name.clone(), started));
    let (for_kubelet, token) = (runtime.clone(), stop.clone());
    if site.runs(Component::Kubelet) {
        let config = kubelet_config(site, kubelet_tls)?;
        tasks.spawn(async move {
            Kubelet::run(config, client, for_kubelet.clone(), for_kubelet, token).await.context("the kubelet failed")
        });
    } else {
        let socket = site.runtime_socket();
        tasks.spawn(async move {
            let served = cri::serve(&socket, for_kubelet.clone(), for_kubelet, async move { token.cancelled().await }).await;
            served.context("the container runtime's socket failed")
        });
    }
    start_network_services(site, &gateways, &mut tasks, &client_for, &stop).await?;
    Ok(Components { tasks, runtime })
}

/// The controllers, each with an identity of its own.
fn start_controllers(
    site: &Arc<Site>,
    server: &Arc<ApiServer>,
    pki: &Pki,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) {
    let user = UserInfo::new("system:kube-controller-manager", &[]);
    let manager = client::from_service(server.client_service(user), "default");
    let config = controller_manager::Config {
        controllers: vec!["*".to_owned(), controller_manager::CONFIG_ROLL.to_owned()],
        service_load_balancers: match (site.options.disable_service_lb, service_lb_pool(site)) {
            (true, _) => ServiceLoadBalancers::Elsewhere,
            (false, pool) if pool.is_empty() => ServiceLoadBalancers::NodePorts,
            (false, pool) => ServiceLoadBalancers::Pool(pool),
        },
        root_ca: Some(pki.ca_cert_pem.clone()),
        service_account_key: Some(controller_manager::ServiceAccountKey { pem: pki.service_account_key_pem.clone() }),
        cluster_signing: controller_manager::ClusterSigning::with(Some(controller_manager::SigningCa {
            cert_pem: pki.ca_cert_pem.clone(),
            key_pem: pki.ca_key_pem.clone(),
        })),
        // Upstream's five seconds are for other API servers of the cluster to hear of it. Here is one; a second is ample for requests
        // that were admitted just before.
        namespace_deletion_grace_period: std::time::Duration::from_secs(1),
        local_volumes: (!site.options.disable_local_storage).then(|| controller_manager::LocalVolumes {
            node_name: site.node_name.clone(),
            directory: site.instance.data_dir().join("local-volumes"),
        }),
        ..controller_manager::Config::default()
    };
    let informers = Informers::new(manager.clone(), stop.clone());
    let (for_accounts, token) = (server.clone(), stop.clone());
    let clients = controller_manager::Clients::per_controller(manager, move |account| {
        let service = for_accounts.client_service(UserInfo::service_account("kube-system", account));
        client::from_service(service, "default")
    });
    tasks.spawn(async move {
        controller_manager::run(config, clients, informers, token).await.context("the controller manager failed")
    });
}

fn service_lb_pool(site: &Site) -> Vec<RangeInclusive<IpAddr>> {
    site.options.service_lb_pool.iter().map(|range| range.0.clone()).collect()
}

/// The service proxy and DNS. They read the same objects: one set of informers.
async fn start_network_services(
    site: &Arc<Site>,
    gateways: &[IpAddr],
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client_for: &impl Fn(UserInfo) -> kube::Client,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let client = client_for(UserInfo::new("system:kube-proxy", &[]));
    let informers = Informers::new(client, stop.clone());
    let (pod_network, prefix) = site.instance.pod_network();
    let config = kube_proxy::Config {
        node_name: site.node_name.clone(),
        table: format!("{}-proxy", site.instance.table()),
        cluster_cidrs: vec![(IpAddr::from(pod_network), prefix)],
        masquerade_all: false,
        // Upstream's default.
        masquerade_bit: 14,
        node_port_addresses: Vec::new(),
        healthz_bind_address: match site.options.proxy_healthz_bind_address.as_str() {
            "none" => None,
            address => Some(address.parse().context("--proxy-healthz-bind-address is neither ADDRESS:PORT nor `none`")?),
        },
        announce: Some(kube_proxy::Announce { pool: service_lb_pool(site), state: site.instance.announced_addresses() }),
    };
    let (for_proxy, token) = (informers.clone(), stop.clone());
    tasks.spawn(async move { kube_proxy::run(config, for_proxy, token).await.context("the service proxy failed") });

    let config = dns::Config {
        addresses: gateways.iter().map(|gateway| SocketAddr::new(*gateway, 53)).collect(),
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        service_ips: vec![site.dns_ip],
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
    };
    let server = dns::DnsServer::bind(config).await.context("cannot start cluster DNS")?;
    let service =
        dns::ServiceConfig { cluster_ips: vec![site.dns_ip], endpoints: server.addresses(), node_name: site.node_name.clone() };
    let client = client_for(UserInfo::new("system:kube-dns-publisher", &["system:masters"]));
    tasks.spawn(publish_dns(client, service, stop.clone()));
    let token = stop.clone();
    tasks.spawn(async move { server.run(informers, token).await.context("cluster DNS failed") });
    Ok(())
}

/// Puts the kube-dns Service in place; the namespace it belongs to is made while the server starts.
async fn publish_dns(client: kube::Client, service: dns::ServiceConfig, stop: CancellationToken) -> anyhow::Result<()> {
    put_in_place("the Service kube-dns", &stop, || async {
        if !dns::ensure_service(&client, &service).await? {
            tracing::info!("the Service kube-dns belongs to another DNS server and is left alone");
        }
        Ok(())
    })
    .await;
    Ok(())
}

/// Puts the StorageClass of local volumes in place.
async fn publish_local_storage(client: kube::Client, stop: CancellationToken) -> anyhow::Result<()> {
    put_in_place("the StorageClass local-path", &stop, || controller_manager::ensure_local_storage(&client)).await;
    Ok(())
}

/// Tries until it succeeds, or until everything stops.
async fn put_in_place<F: Future<Output = kube::Result<()>>>(what: &str, stop: &CancellationToken, attempt: impl Fn() -> F) {
    let mut pause = Duration::from_millis(20);
    while let Err(error) = attempt().await {
        if pause > Duration::from_secs(1) {
            tracing::warn!(what, %error, "an object of the cluster cannot be put in place yet");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

async fn open_network(site: &Arc<Site>) -> anyhow::Result<PodNetwork> {
    let (pod_network, prefix) = site.instance.pod_network();
    let (service_network, service_prefix) = site.instance.service_network();
    let cidr = |address: std::net::Ipv4Addr, prefix| Cidr::new(IpAddr::from(address), prefix).context("not a network");
    let config = network::Config {
        bridge: site.instance.bridge(),
        // One node: the first /24 of the cluster's pod network.
        pod_cidrs: vec![cidr(pod_network, 24)?],
        non_masquerade_cidrs: vec![cidr(pod_network, prefix)?],
        service_cidrs: vec![cidr(service_network, service_prefix)?],
        state_dir: site.instance.data_dir().join("network"),
        nft_table: format!("{}-pods", site.instance.table()),
        mtu: None,
    };
    let opened =
        tokio::task::spawn_blocking(move || PodNetwork::open(config)).await.context("opening the pod network panicked")?;
    opened.context("cannot set up the pod network")
}

async fn open_runtime(site: &Arc<Site>, network: PodNetwork) -> anyhow::Result<Arc<ContainerRuntime>> {
    let config = container_runtime::Config {
        root: runtime_root(site.instance.data_dir()),
        run_dir: site.instance.run_dir(),
        executable: PathBuf::from("/proc/self/exe"),
        cgroup_parent: site.instance.cgroup(),
        streaming_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        network: Arc::new(Network(network)),
        registries: RegistryConfig {
            plain_http: site.options.registry_plain_http.clone(),
            credentials_file: site.options.registry_credentials.clone(),
            certificate_files: site.options.registry_ca.clone(),
        },
    };
    ContainerRuntime::open(config).await.context("cannot start the container runtime")
}

/// What the kubelet's server shows.
pub(super) fn kubelet_tls(serving: &KeyCert, pki: &Pki) -> ServerTls {
    ServerTls {
        certificate_pem: serving.cert_pem.as_bytes().into(),
        key_pem: serving.key_pem.as_bytes().into(),
        client_ca_pem: pki.ca_cert_pem.as_bytes().into(),
    }
}

fn kubelet_config(site: &Site, tls: tokio::sync::watch::Receiver<ServerTls>) -> anyhow::Result<kubelet::Config> {
    let data_dir = site.instance.data_dir();
    let mut config = kubelet::Config {
        pod_logs_dir: data_dir.join("logs"),
        cgroup_root: site.instance.cgroup(),
        tls: Some(tls),
        cluster_dns: vec![site.dns_ip],
        // Small machines with large, shared disks are the usual case: pressure is what is really short, not the last tenth.
        eviction_nodefs_available_percent: 5,
        image_gc_high_percent: 95,
        image_gc_low_percent: 90,
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        ..kubelet::Config::new(site.node_name.clone(), vec![site.node_ip], data_dir.join("kubelet"))
    };
    // A flag wins over the file, as upstream has it.
    if let Some(path) = &site.options.kubelet_config {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        config.apply_file(&text).with_context(|| format!("cannot use {}", path.display()))?;
    }
    if let Some(pods) = site.options.max_pods {
        config.pods_max = pods;
    }
    if let Some(path) = &site.options.pod_manifest_path {
        config.static_pod_dir = Some(path.clone());
    }
    Ok(config)
}

/// Prints the line that users and scripts wait for.
async fn report_ready(client: kube::Client, node: String, started: Instant) -> anyhow::Result<()> {
    let nodes = kube::Api::<Node>::all(client);
    let is_ready = |node: Option<&Node>| {
        let conditions = node.and_then(|node| node.status.as_ref()).and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    kube::runtime::wait::await_condition(nodes, &node, is_ready).await.context("cannot watch the node")?;
    println!("node {node} is Ready after {} ms", started.elapsed().as_millis());
    Ok(())
}
