//! What the filters, the listener and the server's own paths share: access, metrics, limits, health; and the tasks that keep it going.

use std::sync::{Arc, OnceLock, Weak};

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use ::http::{HeaderMap, Method, Response};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Credentials, RbacFeed};
use crate::auth::UserInfo;
use crate::bootstrap::{self, BootstrapConfig, ClusterAuthentication};
use crate::endpoints::{GIT_VERSION, check_accept};
use crate::filters::InFlightLimits;
use crate::gates::Feature;
use crate::health::{self, Lifecycle, Step};
use crate::http::{Body, RequestContext, RequestInfo};
use crate::identity::Identity;
use crate::loopback::{Loopback, LoopbackError};
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::registry::compaction;
use crate::server::{ApiServer, ServerConfig};
use crate::serving::InProcessService;

/// The state of everything in front of the endpoints.
pub(crate) struct Frontend {
    access: Access,
    metrics: Arc<Metrics>,
    in_flight: InFlightLimits,
    lifecycle: Lifecycle,
    openapi: OnceLock<OpenApi>,
    draining: CancellationToken,
    loopback: Loopback,
    /// Cancelled once the bootstrap objects are there.
    bootstrapped: CancellationToken,
    authorities_changed: Notify,
}

impl Frontend {
    pub(crate) fn new(
        config: &ServerConfig,
        metrics: Arc<Metrics>,
        credentials: Option<Credentials>,
        server: Weak<ApiServer>,
    ) -> Self {
        let loopback = Loopback::new(server);
        Self {
            access: Access::new(credentials, loopback.clone(), config.gates),
            metrics,
            in_flight: InFlightLimits::new(config.in_flight_max),
            lifecycle: Lifecycle::default(),
            openapi: OnceLock::new(),
            draining: CancellationToken::new(),
            loopback,
            bootstrapped: CancellationToken::new(),
            authorities_changed: Notify::new(),
        }
    }
}

impl ApiServer {
    /// Who may do what.
    pub fn access(&self) -> &Access {
        &self.frontend().access
    }

    /// The server's metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.frontend().metrics
    }

    /// Cancelled when shutdown begins: `/readyz` fails and long-running requests end.
    pub fn draining(&self) -> &CancellationToken {
        &self.frontend().draining
    }

    /// The server as its own client.
    pub fn loopback(&self) -> &Loopback {
        &self.frontend().loopback
    }

    pub(crate) fn in_flight(&self) -> &InFlightLimits {
        &self.frontend().in_flight
    }

    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.frontend().lifecycle
    }

    pub(crate) fn openapi(&self) -> &OpenApi {
        self.frontend()
            .openapi
            .get_or_init(|| OpenApi::new(&self.engine().catalog, GIT_VERSION, self.config().gates.has(Feature::OpenApiEnums)))
    }

    /// A client in this process with this identity: give it to `kube::Client::new`. All filters apply but authentication.
    pub fn client_service(self: &Arc<Self>, user: UserInfo) -> InProcessService {
        InProcessService::new(self.clone(), user)
    }

    /// Makes the server ready: RBAC's rules are loaded and the bootstrap objects are there.
    pub async fn bootstrap(&self, config: &BootstrapConfig) -> Result<(), LoopbackError> {
        let loopback = &self.frontend().loopback;
        bootstrap::run(loopback, config, self.access(), self.config().gates, self.lifecycle()).await?;
        RbacFeed::new(self.access().rbac.clone(), loopback.clone()).fill().await?;
        self.lifecycle().set_rbac_ready();
        self.frontend().bootstrapped.cancel();
        // As upstream's hooks, which do not wait for what they start.
        self.lifecycle().done(Step::IdentityLease);
        self.lifecycle().done(Step::IdentityCollector);
        Ok(())
    }

    /// To be called when client authorities ([`Access::client_authorities`], or a front proxy's) were replaced: extension servers are told.
    pub fn authorities_changed(&self) {
        self.frontend().authorities_changed.notify_one();
    }

    /// Keeps the server going until stopped: follows changes of roles and bindings, compacts history, repairs
    /// the addresses of Services, asks kubelets for metrics, drops what caches no longer need, says that the server is there and whom
    /// extension servers should trust. The caller owns the task.
    pub async fn run_background(&self, stop: CancellationToken) {
        let rbac = RbacFeed::new(self.access().rbac.clone(), self.frontend().loopback.clone());
        let compaction = compaction::run(self.store(), &self.engine().feed, self.config().compaction_interval, &stop);
        let addresses = async {
            if self.config().gates.has(Feature::MultiCidrServiceAllocator) {
                crate::kinds::repair_addresses(self.loopback(), &stop).await;
            }
        };
        let metrics = async {
            if let Some(metrics) = self.resource_metrics() {
                metrics.run(self, &stop).await;
            }
        };
        let own = self.say_who_it_is(&stop);
        tokio::join!(rbac.run(&stop), compaction, addresses, metrics, self.engine().feed.tidy(&stop), own);
    }

    /// Keeps the objects that the server writes about itself, from when those that a cluster starts with are there.
    async fn say_who_it_is(&self, stop: &CancellationToken) {
        let Frontend { loopback, bootstrapped, authorities_changed, .. } = self.frontend();
        if stop.run_until_cancelled(bootstrapped.cancelled()).await.is_none() {
            return;
        }
        let (gates, hostname) = (self.config().gates, &self.config().hostname);
        let identity = async {
            if gates.has(Feature::ApiServerIdentity) && !hostname.is_empty() {
                Identity::new(loopback.clone(), hostname).run(stop).await;
            }
        };
        let authentication = ClusterAuthentication::new(loopback, self.access(), gates);
        tokio::join!(identity, stop.run_until_cancelled(authentication.keep(authorities_changed)));
    }

    /// Whether a request is for a resource that this server knows (metrics' labels are bounded by it).
    pub(crate) fn serves(&self, info: &RequestInfo) -> bool {
        info.is_resource && self.engine().catalog.get(&info.api_group, &info.api_version, &info.resource).is_some()
    }

    /// How many objects are stored, by resource; only of resources that somebody has read since the start.
    fn object_counts(&self) -> std::collections::BTreeMap<String, i64> {
        let stored = self.engine().catalog.endpoints().iter().filter_map(|endpoint| endpoint.stored.as_ref());
        let counted = stored.filter_map(|stored| Some((stored.resource.to_string(), stored.cacher.count()?)));
        counted.map(|(resource, count)| (resource, i64::try_from(count).unwrap_or(i64::MAX))).collect()
    }
}

/// Answers the server's own paths (health, metrics, OpenID discovery), or `None` for all others.
///
/// Other methods and other `Accept` headers for OpenID discovery are refused with the rest of the registered paths.
pub(crate) async fn respond(
    server: &Arc<ApiServer>,
    context: &RequestContext,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Response<Body>> {
    let asks_for = |media_type: &str| *method == Method::GET && check_accept(headers, [media_type].into_iter()).is_ok();
    if context.info.is_resource {
        return None;
    }
    let tokens = server.access().tokens();
    let path = context.info.path.as_str();
    match path {
        "/metrics" | "/metrics/slis" if *method == Method::DELETE => {
            match path {
                "/metrics" => server.metrics().reset(),
                _ => server.metrics().reset_slis(),
            }
            Some(document(PLAIN, "no-cache, private", "metrics reset\n"))
        }
        "/metrics" => {
            let store_bytes = server.store().size_bytes().await.ok();
            let text = server.metrics().render(server.object_counts(), store_bytes);
            Some(document(METRICS, "no-cache, private", text))
        }
        "/metrics/slis" => Some(document(METRICS, "no-cache, private", server.metrics().render_slis())),
        "/openid/v1/jwks" | "/openid/v1/jwks/" if asks_for("application/jwk-set+json") => {
            let keys = tokens?.json_web_key_set().to_string();
            Some(document("application/jwk-set+json", "public, max-age=3600", keys))
        }
        "/.well-known/openid-configuration" | "/.well-known/openid-configuration/" if asks_for("application/json") => {
            let tokens = tokens?;
            let configuration = tokens.openid_configuration(&tokens.api_audiences()[0]);
            Some(document("application/json", "public, max-age=3600", configuration.to_string()))
        }
        _ => health::respond(server, context).await,
    }
}

/// The media type of metrics, as Prometheus' library for Go says it.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
const PLAIN: &str = "text/plain; charset=utf-8";

fn document(content_type: &'static str, caching: &'static str, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    response
}
