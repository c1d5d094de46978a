//! The loop: hears of changes, plans, writes to the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Informers, NamespacedName, ResyncError};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use nftables::{Connection, Family};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::announce::{self, Announce};
use crate::conntrack;
use crate::health::{HealthPorts, HealthState, serve_healthz};
use crate::layout::Settings;
use crate::model::ServiceInfo;
use crate::plan::{Plan, plan};
use crate::table::ProxyTable;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
pub(crate) const BY_SERVICE: &str = "serviceName";
/// How often to look whether somebody flushed the host's ruleset (`nft flush ruleset`, a restarted firewall).
const PRESENCE_CHECK: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Configuration of the proxy. Two proxies on one machine need different tables and health ports.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node, as EndpointSlices give it.
    pub node_name: String,
    /// Name of the nftables table (in the ip and ip6 families). Upstream's is `kube-proxy`.
    pub table: String,
    /// Pod ranges, address and prefix length (`--cluster-cidr`). Other sources are masqueraded on the way to a ClusterIP.
    pub cluster_cidrs: Vec<(IpAddr, u8)>,
    /// Masquerade everything that goes to a ClusterIP (`--masquerade-all`).
    pub masquerade_all: bool,
    /// The packet mark's bit that asks for masquerade, 0 to 31 (upstream: 14).
    pub masquerade_bit: u8,
    /// Ranges of this host's addresses that serve node ports (`--nodeport-addresses`). Empty: all, 127.0.0.1 too.
    pub node_port_addresses: Vec<(IpAddr, u8)>,
    /// Where `/healthz` is served (`--healthz-bind-address`, upstream: port 10256); `None` for nowhere.
    pub healthz_bind_address: Option<SocketAddr>,
    /// Addresses of load balancers that this node announces; `None` where that is nobody's business.
    pub announce: Option<Announce>,
}

/// Why the proxy ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// nf_tables cannot be reached: no root, or a kernel without it.
    #[error("cannot open nf_tables")]
    Open(#[source] nftables::Error),
    /// The informers were stopped before the first list.
    #[error("the service proxy's informers were stopped")]
    Informers(#[from] ResyncError),
    /// The addresses of load balancers cannot be announced.
    #[error("cannot announce addresses of load balancers")]
    Announce(#[from] network::Error),
    /// A task of the proxy died; its panic was logged.
    #[error("the service proxy's worker died")]
    WorkerDied,
}

/// Runs the proxy until the token ends. The rules stay, so that connections go on while the proxy restarts; the next start
/// replaces them in one transaction.
///
/// Must be called on a thread of the host's network namespace.
pub async fn run(config: Config, informers: Informers, token: CancellationToken) -> Result<(), Error> {
    // Ending this token ends the proxy's parts, not its owner.
    let token = token.child_token();
    let connection = Connection::open().map_err(Error::Open)?;
    let health = HealthState::default();
    let healthz = match config.healthz_bind_address {
        Some(address) => {
            let bound = TcpListener::bind(address).await;
            // Services come before the health port: a taken one must not stop the proxy (upstream retries and goes on too).
            bound.inspect_err(|error| tracing::warn!(%address, %error, "the proxy's /healthz is not served")).ok()
        }
        None => None,
    };
    let serving = async {
        match healthz {
            Some(listener) => serve_healthz(listener, health.clone(), token.clone()).await,
            None => token.cancelled().await,
        }
    };
    let (announce, node_name) = (config.announce.clone(), config.node_name.clone());
    let proxier = Proxier::new(config, &informers, connection, health.clone(), token.clone());
    let announcing = async {
        match announce {
            Some(announce) => announce::run(announce, node_name, &informers, token.clone()).await,
            None => Ok(()),
        }
    };
    let (result, announced, ()) = tokio::join!(
        async {
            let result = proxier.run().await;
            // The health port must not outlive the proxy.
            token.cancel();
            result
        },
        async {
            // Services inside of the cluster do not depend on it.
            announcing.await.inspect_err(|error| {
                tracing::error!(error = error as &dyn std::error::Error, "addresses of load balancers are not announced");
            })
        },
        serving
    );
    result.and(announced)
}

/// Services that changed since they were last looked at.
#[derive(Default)]
struct Dirty {
    names: Mutex<BTreeSet<NamespacedName>>,
    notify: Notify,
    health: HealthState,
}

impl Dirty {
    fn mark(&self, name: NamespacedName) {
        self.names.lock().insert(name);
        self.health.queued();
        self.notify.notify_one();
    }
}

struct Proxier {
    node_name: String,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    dirty: Arc<Dirty>,
    kernel: Arc<Mutex<Kernel>>,
    health: HealthState,
    health_ports: HealthPorts,
    token: CancellationToken,
}

/// What blocks; used on blocking threads alone.
struct Kernel {
    connection: Connection,
    settings: Arc<Settings>,
    /// IPv4, and IPv6 from the first Service that needs it.
    tables: Vec<ProxyTable>,
    name: String,
}

impl Proxier {
    fn new(config: Config, informers: &Informers, connection: Connection, health: HealthState, token: CancellationToken) -> Self {
        let services = informers.get::<Service>();
        let slices = informers.get::<EndpointSlice>();
        slices.store().add_index(BY_SERVICE, |slice| service_of(slice).map(|name| name.to_string()).into_iter().collect());
        let dirty = Arc::new(Dirty { health: health.clone(), ..Dirty::default() });
        let sink = Arc::clone(&dirty);
        services.add_handler(move |change| sink.mark(NamespacedName::of(&**change.object())));
        let sink = Arc::clone(&dirty);
        slices.add_handler(move |change| {
            if let client::Change::Updated { old, .. } = change {
                service_of(old).into_iter().for_each(|name| sink.mark(name));
            }
            service_of(change.object()).into_iter().for_each(|name| sink.mark(name));
        });
        let settings = Arc::new(Settings {
            cluster_cidrs: config.cluster_cidrs,
            masquerade_all: config.masquerade_all,
            masquerade_bit: 1 << (config.masquerade_bit & 31),
            node_port_addresses: config.node_port_addresses,
        });
        let table = ProxyTable::new(Family::Ipv4, &config.table, Arc::clone(&settings));
        let kernel = Kernel { connection, settings, tables: vec![table], name: config.table };
        Self {
            node_name: config.node_name,
            services,
            slices,
            dirty,
            kernel: Arc::new(Mutex::new(kernel)),
            health_ports: HealthPorts::new(health.clone(), token.child_token()),
            health,
            token,
        }
    }

    async fn run(mut self) -> Result<(), Error> {
        let synced = async {
            self.services.wait_synced().await?;
            self.slices.wait_synced().await
        };
        tokio::select! {
            () = self.token.cancelled() => return Ok(()),
            synced = synced => synced?,
        }
        let mut retry = RETRY_FIRST;
        let mut check = tokio::time::interval(PRESENCE_CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            match self.sync().await? {
                Ok(()) => {
                    retry = RETRY_FIRST;
                    tokio::select! {
                        () = self.token.cancelled() => break,
                        () = self.dirty.notify.notified() => {}
                        _ = check.tick() => self.check_presence().await?,
                    }
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot write service rules, retrying");
                    tokio::select! {
                        () = self.token.cancelled() => break,
                        () = tokio::time::sleep(retry) => {}
                    }
                    retry = (retry * 2).min(RETRY_LAST);
                }
            }
        }
        self.health_ports.stopped().await;
        Ok(())
    }

    /// Brings the kernel in line with all changes heard so far.
    async fn sync(&mut self) -> Result<Result<(), nftables::Error>, Error> {
        let names = std::mem::take(&mut *self.dirty.names.lock());
        let mut changed = Vec::with_capacity(names.len());
        for name in names {
            let info = self.info(&name);
            let port = info.as_ref().and_then(|info| Some((info.health_check_node_port?, info.local_endpoints())));
            self.health_ports.set(&name, port).await;
            changed.push((name, info));
        }
        let result = self.on_kernel(move |kernel| kernel.apply(&changed)).await?;
        if result.is_ok() && self.dirty.names.lock().is_empty() {
            self.health.updated();
        }
        Ok(result)
    }

    fn info(&self, name: &NamespacedName) -> Option<ServiceInfo> {
        let service = self.services.store().get_key(name)?;
        let slices = self.slices.store().by_index(BY_SERVICE, &name.to_string());
        ServiceInfo::digest(&service, &slices, &self.node_name)
    }

    async fn check_presence(&self) -> Result<(), Error> {
        let checked = self.on_kernel(Kernel::check_presence).await?;
        if let Err(error) = checked {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot look whether the service rules are there");
        }
        Ok(())
    }

    async fn on_kernel<T: Send + 'static>(&self, work: impl FnOnce(&mut Kernel) -> T + Send + 'static) -> Result<T, Error> {
        let kernel = Arc::clone(&self.kernel);
        tokio::task::spawn_blocking(move || work(&mut kernel.lock())).await.map_err(|_| Error::WorkerDied)
    }
}

impl Kernel {
    fn apply(&mut self, changed: &[(NamespacedName, Option<ServiceInfo>)]) -> Result<(), nftables::Error> {
        let plans = |family, settings: &Settings| -> Vec<(NamespacedName, Option<Plan>)> {
            let plan_of = |info: &ServiceInfo| plan(info, family, settings);
            changed.iter().map(|(name, info)| (name.clone(), info.as_ref().map(plan_of))).collect()
        };
        let ipv6_wanted = || changed.iter().filter_map(|(_, info)| info.as_ref()).any(has_ipv6);
        if self.tables.len() == 1 && ipv6_wanted() {
            self.tables.push(ProxyTable::new(Family::Ipv6, &self.name, Arc::clone(&self.settings)));
        }
        let mut result = Ok(());
        for table in &mut self.tables {
            let plans = plans(table.family(), &self.settings);
            // Both tables must learn of the change, also when one fails: there is no second telling.
            match table.apply(&mut self.connection, plans) {
                Ok(udp) => match conntrack::clean(&mut self.connection, table.family(), &udp) {
                    Ok(0) => {}
                    Ok(count) => tracing::debug!(count, "ended UDP flows to endpoints that are gone"),
                    Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot end UDP flows"),
                },
                Err(error) => result = Err(error),
            }
        }
        result
    }

    fn check_presence(&mut self) -> Result<(), nftables::Error> {
        for table in &mut self.tables {
            if !table.is_present(&mut self.connection)? {
                tracing::warn!("the service rules were removed by somebody else, writing them anew");
                table.mark_stale();
            }
        }
        Ok(())
    }
}

fn has_ipv6(info: &ServiceInfo) -> bool {
    info.cluster_ips.iter().any(IpAddr::is_ipv6)
}

pub(crate) fn service_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    let name = slice.labels().get(SERVICE_NAME_LABEL)?;
    Some(NamespacedName::new(slice.namespace().unwrap_or_default(), name))
}

#[cfg(test)]
#[path = "tests/proxier.rs"]
mod tests;
