//! The server itself: everything that requests share, and the way of a request through it.

use std::sync::Arc;

use ::http::{Request, Response};
use storage::Store;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access::Credentials;
use crate::admission::{AdmissionChain, AdmissionConfig, AdmissionPlugin};
use crate::connect::{Backends, Connector, Connectors, KubeletAccess, Proxy, ProxyKind};
use crate::filters::InFlightMax;
use crate::frontend::Frontend;
use crate::gates::{EmulatedVersion, FeatureGates};
use crate::http::Body;
use crate::loopback::Loopback;
use crate::metrics::{AllowedLabels, Metrics};
use crate::registry::{ApiEnablement, Engine};
use crate::resource_metrics::{self, ResourceMetrics};

/// What the server is told from outside.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The prefix of all keys in the store.
    pub storage_prefix: String,
    /// How often history is compacted; what is older cannot be watched from any more. Upstream's flag is `--etcd-compaction-interval`.
    pub compaction_interval: std::time::Duration,
    /// The shortest time that watches without `timeoutSeconds` run; they end at a random time up to twice that.
    /// Upstream's flag is `--min-request-timeout`.
    pub min_request_timeout: std::time::Duration,
    /// The largest request body in bytes (upstream: 3 MiB).
    pub body_bytes_max: usize,
    /// How long a request may take that is not a stream. Upstream's flag is `--request-timeout`.
    pub request_timeout: std::time::Duration,
    /// How many requests may be at work at the same time.
    pub in_flight_max: InFlightMax,
    /// Events are forgotten after so long. Upstream's flag is `--event-ttl`.
    pub event_ttl: std::time::Duration,
    /// Which APIs are served. Upstream's flag is `--runtime-config`.
    pub apis: ApiEnablement,
    /// Parts of the control plane on this machine that ComponentStatuses tell of, by name and the address of their `/healthz`.
    pub components: Vec<(String, std::net::SocketAddr)>,
    /// Which features are on.
    pub gates: FeatureGates,
    /// Which version of Kubernetes the server says it is like; [`ServerConfig::gates`] and [`ServerConfig::apis`] make it so.
    pub emulated: EmulatedVersion,
    /// The name of this machine, after which the server's Lease is named; empty: it has none. The feature is `APIServerIdentity`.
    pub hostname: String,
    /// Whether containers may be privileged. Upstream's flag is `--allow-privileged`.
    pub allow_privileged: bool,
    /// The cluster's ranges of ClusterIPs, which decide in which families Services have addresses (the first is the default). Empty:
    /// those of the ServiceCIDRs do. Upstream's flag is `--service-cluster-ip-range`.
    pub service_cidrs: Vec<String>,
    /// What every answer says about the use of TLS in future. Upstream's flag is `--strict-transport-security-directives`.
    pub strict_transport_security: Option<::http::HeaderValue>,
    /// Which values the labels of metrics may have. Upstream's flag is `--allow-metric-labels`.
    pub allowed_labels: AllowedLabels,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            storage_prefix: "/registry".to_owned(),
            compaction_interval: std::time::Duration::from_secs(300),
            min_request_timeout: std::time::Duration::from_secs(1800),
            body_bytes_max: 3 * 1024 * 1024,
            request_timeout: std::time::Duration::from_secs(60),
            in_flight_max: InFlightMax::default(),
            event_ttl: std::time::Duration::from_secs(3600),
            apis: ApiEnablement::default(),
            components: Vec::new(),
            gates: FeatureGates::default(),
            emulated: EmulatedVersion::default(),
            hostname: String::new(),
            allow_privileged: false,
            service_cidrs: Vec::new(),
            strict_transport_security: None,
            allowed_labels: AllowedLabels::default(),
        }
    }
}

/// Puts an [`ApiServer`] together.
pub struct ApiServerBuilder {
    config: ServerConfig,
    store: Arc<dyn Store>,
    admission: Option<Vec<Arc<dyn AdmissionPlugin>>>,
    disabled_admission: Vec<String>,
    admission_config: AdmissionConfig,
    credentials: Option<Credentials>,
    connectors: Connectors,
    resource_metrics: Option<Arc<ResourceMetrics>>,
    stopped: CancellationToken,
}

impl ApiServerBuilder {
    /// Sets what answers a subresource that is not a part of its object (`("", "pods", "log")`), or the whole of a resource that is
    /// not stored, with an empty subresource.
    #[must_use]
    pub fn connector(
        mut self,
        group: &str,
        resource: &str,
        subresource: &str,
        connector: Arc<dyn Connector>,
    ) -> ApiServerBuilder {
        self.connectors.add(group, resource, subresource, connector);
        self
    }

    /// Sets how kubelets are reached, for logs, exec, attach, port-forward, `nodes/proxy` and metrics.k8s.io. Without it these answer "not
    /// implemented".
    #[must_use]
    pub fn kubelets(self, access: &KubeletAccess) -> ApiServerBuilder {
        let mut builder = self.kubelet_connectors(access);
        let metrics = Arc::new(ResourceMetrics::new(access.clone()));
        for resource in ["nodes", "pods"] {
            builder.connectors.add(resource_metrics::GROUP, resource, "", metrics.clone());
        }
        builder.resource_metrics = Some(metrics);
        builder
    }

    /// As [`ApiServerBuilder::kubelets`], without metrics.k8s.io: for a server that has no way to kubelets and yet answers what it can.
    #[must_use]
    pub fn kubelet_connectors(mut self, access: &KubeletAccess) -> ApiServerBuilder {
        for (subresource, connector) in access.connectors() {
            self.connectors.add("", "pods", subresource, connector);
        }
        self.connectors.add("", "nodes", "proxy", Arc::new(Proxy::of_nodes(access.clone())));
        self
    }

    /// Replaces the built-in admission plugins by these, in the order that they run in.
    #[must_use]
    pub fn admission(mut self, plugins: Vec<Arc<dyn AdmissionPlugin>>) -> ApiServerBuilder {
        self.admission = Some(plugins);
        self
    }

    /// Leaves out these, and no others, of the built-in admission plugins, by upstream's names (see [`admission_plugin_names`](crate::admission_plugin_names)).
    #[must_use]
    pub fn disable_admission(mut self, plugins: Vec<String>) -> ApiServerBuilder {
        self.disabled_admission = plugins;
        self
    }

    /// Sets what the built-in admission plugins are told. Upstream's flag is `--admission-control-config-file`.
    #[must_use]
    pub fn admission_config(mut self, config: AdmissionConfig) -> ApiServerBuilder {
        self.admission_config = config;
        self
    }

    /// Sets how clients prove who they are. Without it only callers in process, whose identity is given, are let in.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> ApiServerBuilder {
        self.credentials = Some(credentials);
        self
    }

    /// Builds the server. No I/O happens until the first request.
    pub fn build(mut self) -> Arc<ApiServer> {
        let backends = Backends::new(self.stopped.clone());
        for (resource, kind) in [("pods", ProxyKind::Pod), ("services", ProxyKind::Service)] {
            self.connectors.add("", resource, "proxy", Arc::new(Proxy::new(kind, backends.clone())));
        }
        let (disabled, plugin_config, gates) = (self.disabled_admission, self.admission_config, self.config.gates);
        let builtin = |server| {
            let mut plugins = crate::admission::plugins::ordered(&Loopback::new(server), &plugin_config, gates);
            plugins.retain(|plugin| disabled.iter().all(|name| name != plugin.name()));
            plugins
        };
        let metrics = Arc::new(Metrics::new(self.config.allowed_labels.clone()));
        Arc::new_cyclic(|server| ApiServer {
            frontend: Frontend::new(&self.config, metrics.clone(), self.credentials, server.clone()),
            engine: Engine::new(
                self.store.clone(),
                &self.config,
                metrics,
                AdmissionChain::new(self.admission.unwrap_or_else(|| builtin(server.clone()))),
                self.stopped.clone(),
            ),
            config: self.config,
            store: self.store,
            connectors: self.connectors,
            resource_metrics: self.resource_metrics,
            backends,
            _stop_on_drop: self.stopped.drop_guard(),
        })
    }
}

/// The API server without its listener: requests in, responses out.
pub struct ApiServer {
    config: ServerConfig,
    store: Arc<dyn Store>,
    engine: Engine,
    connectors: Connectors,
    resource_metrics: Option<Arc<ResourceMetrics>>,
    backends: Backends,
    frontend: Frontend,
    /// The feed of the caches ends with the server.
    _stop_on_drop: DropGuard,
}

impl ApiServer {
    /// Starts to put a server together.
    pub fn builder(config: ServerConfig, store: Arc<dyn Store>) -> ApiServerBuilder {
        ApiServerBuilder {
            config,
            store,
            admission: None,
            disabled_admission: crate::admission::plugins::OFF_BY_DEFAULT.map(str::to_owned).to_vec(),
            admission_config: AdmissionConfig::default(),
            credentials: None,
            connectors: Connectors::default(),
            resource_metrics: None,
            stopped: CancellationToken::new(),
        }
    }

    /// What the server was told.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// The store. Only the registry and allocators that share its transactions use it.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What the filters share.
    pub(crate) fn frontend(&self) -> &Frontend {
        &self.frontend
    }

    /// The admission chain.
    pub fn admission(&self) -> &AdmissionChain {
        &self.engine.admission
    }

    /// The registry.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What answers subresources that are not parts of their object.
    pub(crate) fn connectors(&self) -> &Connectors {
        &self.connectors
    }

    /// What serves metrics.k8s.io, where kubelets can be reached.
    pub(crate) fn resource_metrics(&self) -> Option<&Arc<ResourceMetrics>> {
        self.resource_metrics.as_ref()
    }

    /// Upgraded connections and those to backends.
    pub(crate) fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Answers one request. A request whose extensions hold a [`UserInfo`](crate::UserInfo) was authenticated by whoever called.
    pub async fn handle(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        crate::filters::run(self, request).await
    }
}
