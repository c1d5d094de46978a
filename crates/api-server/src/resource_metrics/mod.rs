//! metrics.k8s.io: what nodes and pods use of processor and memory, from their kubelets
//! (<https://github.com/kubernetes/metrics>). No server of its own is needed.
//!
//! Owns asking every kubelet for `/metrics/resource` and keeping the last two answers. Kubelets are asked every 15 seconds, metrics-server's
//! resolution, as long as somebody wants to know; the first who asks waits for two answers. What no kubelet has told is not there, as with
//! metrics-server: lists leave it out, and by its name it is not found.

mod parse;
mod points;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response, StatusCode};
use apimachinery::selector::{FieldSelector, LabelSelector};
use apimachinery::{GroupResource, Quantity, Status, Value, value};
use async_trait::async_trait;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use self::parse::parse;
use self::points::{PodUsage, Points, Usage};
use crate::connect::{Connector, KubeletAccess};
use crate::endpoints::json_response;
use crate::http::{Body, RequestContext, Verb};
use crate::objects::{self, ListScope};
use crate::server::ApiServer;

/// The group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
/// Its only version.
pub(crate) const VERSION: &str = "v1beta1";
/// metrics-server's `--metric-resolution`.
const RESOLUTION: Duration = Duration::from_secs(15);
/// Kubelets are asked so long after the last request.
const WANTED_FOR: SignedDuration = SignedDuration::from_secs(5 * 60);
/// Older answers say nothing about what is used now.
const ANSWER_AGE_MAX: SignedDuration = SignedDuration::from_secs(60);
/// Between the two answers that the first request waits for.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// metrics-server's `--kubelet-request-timeout`.
const KUBELET_TIMEOUT: Duration = Duration::from_secs(10);
const KUBELETS_AT_ONCE: usize = 32;

/// Asks kubelets, and serves what they say.
pub(crate) struct ResourceMetrics {
    access: KubeletAccess,
    points: Mutex<Points>,
    wanted: Mutex<Option<Timestamp>>,
    /// Held by the one who asks all kubelets.
    asking: tokio::sync::Mutex<()>,
}

impl ResourceMetrics {
    pub(crate) fn new(access: KubeletAccess) -> Self {
        Self { access, points: Mutex::default(), wanted: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// Asks kubelets while somebody wants to know.
    pub(crate) async fn run(&self, server: &ApiServer, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RESOLUTION) => {}
            }
            let wanted = *self.wanted.lock();
            if wanted.is_some_and(|wanted| Timestamp::now().duration_since(wanted) <= WANTED_FOR) {
                let _one = self.asking.lock().await;
                self.ask_all(server).await;
            }
        }
    }

    /// Answers that are fresh enough.
    async fn refresh(&self, server: &ApiServer) {
        let now = Timestamp::now();
        *self.wanted.lock() = Some(now);
        let stale = || {
            let mut points = self.points.lock();
            points.retain(now.checked_sub(ANSWER_AGE_MAX).unwrap_or(now), |_| true);
            points.are_too_few()
        };
        if !stale() {
            return;
        }
        let _one = self.asking.lock().await;
        // Whoever held it may have asked.
        if stale() {
            self.ask_all(server).await;
            tokio::time::sleep(FIRST_WINDOW).await;
            self.ask_all(server).await;
        }
    }

    async fn ask_all(&self, server: &ApiServer) {
        let nodes: Vec<Node> = match objects::list(server.loopback(), ListScope::default()).await {
            Ok(nodes) => nodes,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "nodes cannot be listed for their metrics");
                return;
            }
        };
        let known: HashSet<String> = nodes.iter().filter_map(|node| node.metadata.name.clone()).collect();
        let asked = nodes.into_iter().map(|node| self.ask(node));
        futures::stream::iter(asked).buffer_unordered(KUBELETS_AT_ONCE).collect::<Vec<()>>().await;
        let oldest = Timestamp::now().checked_sub(ANSWER_AGE_MAX).unwrap_or(Timestamp::MIN);
        self.points.lock().retain(oldest, |node| known.contains(node));
    }

    /// Takes what a node's kubelet says.
    async fn ask(&self, node: Node) {
        let answer = tokio::time::timeout(KUBELET_TIMEOUT, self.access.read(&node, "/metrics/resource")).await;
        let name = node.metadata.name.unwrap_or_default();
        match answer.unwrap_or_else(|_| Err(Status::timeout("the kubelet did not answer in time", 1))) {
            Ok(text) => self.points.lock().add(&name, Timestamp::now(), parse(&text)),
            Err(error) => tracing::debug!(node = name, error = error.message, "a kubelet tells no metrics"),
        }
    }

    fn nodes(&self, server: &ApiServer, select: &Select) -> Vec<Value> {
        let used = self.points.lock().nodes();
        let found = used.into_iter().filter_map(|(name, usage)| {
            let node = cached(server, "nodes", "", &name).filter(|node| select.matches(node))?;
            let mut object = metadata(&node, usage);
            object.insert("usage", amounts(usage));
            Some(object)
        });
        found.collect()
    }

    fn pods(&self, server: &ApiServer, namespace: &str, select: &Select) -> Vec<Value> {
        let used = self.points.lock().pods(namespace);
        let found = used.into_iter().filter_map(|((namespace, name), used)| {
            let pod = cached(server, "pods", &namespace, &name).filter(|pod| select.matches(pod))?;
            of_pod(&pod, &used)
        });
        found.collect()
    }
}

/// The object as the cache has it.
fn cached(server: &ApiServer, resource: &str, namespace: &str, name: &str) -> Option<Value> {
    let stored = server.engine().catalog.get("", "v1", resource)?.stored.as_ref()?;
    let entry = stored.cacher.get(stored.key(namespace, name).as_bytes())?;
    entry.served.object().ok()
}

fn metadata(object: &Value, usage: Usage) -> Value {
    let mut metadata = value!({"name": object.meta().name(), "creationTimestamp": seconds(Timestamp::now())});
    if !object.meta().namespace().is_empty() {
        metadata.insert("namespace", object.meta().namespace());
    }
    if let Some(labels) = object.get_path(&["metadata", "labels"]) {
        metadata.insert("labels", labels.clone());
    }
    value!({"metadata": metadata, "timestamp": seconds(usage.timestamp), "window": window(usage.window)})
}

fn of_pod(pod: &Value, used: &PodUsage) -> Option<Value> {
    // Containers are measured at the same time, but for those that began since.
    let whole = used.values().copied().max_by_key(|usage| usage.window)?;
    let mut object = metadata(pod, whole);
    let container = |(name, usage): (&String, &Usage)| value!({"name": name.as_str(), "usage": amounts(*usage)});
    object.insert("containers", used.iter().map(container).collect::<Vec<Value>>());
    Some(object)
}

fn amounts(usage: Usage) -> Value {
    let canonical = |text: String| Quantity::canonicalize(&text).map(|text| text.into_owned()).unwrap_or(text);
    // metrics-server's formats: decimal for the processor, binary for memory.
    let memory = match usage.memory_bytes % 1024 {
        0 => format!("{}Ki", usage.memory_bytes / 1024),
        _ => usage.memory_bytes.to_string(),
    };
    value!({"cpu": canonical(format!("{}n", usage.cpu_nanocores)), "memory": canonical(memory)})
}

fn seconds(time: Timestamp) -> String {
    apimachinery::time::format_time(time)
}

/// Milliseconds are more than anyone needs.
fn window(window: Duration) -> String {
    let milliseconds = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
    apimachinery::time::format_duration(milliseconds.saturating_mul(1_000_000))
}

/// Which objects are asked for.
struct Select {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Select {
    fn parse(context: &RequestContext) -> Result<Self, Status> {
        let text = |name: &str| context.query.get(name).unwrap_or_default().to_owned();
        let refused = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
        Ok(Self {
            labels: LabelSelector::parse(&text("labelSelector")).map_err(|error| refused(&error))?,
            fields: FieldSelector::parse(&text("fieldSelector")).map_err(|error| refused(&error))?,
        })
    }

    fn matches(&self, object: &Value) -> bool {
        let field = |name: &str| match name {
            "metadata.name" => object.meta().name(),
            "metadata.namespace" => object.meta().namespace(),
            _ => "",
        };
        self.labels.matches(object) && self.fields.matches_with(field)
    }
}

fn answer(kind: &str, mut object: Value) -> Response<Body> {
    object.insert("kind", kind);
    object.insert("apiVersion", format!("{GROUP}/{VERSION}"));
    json_response(StatusCode::OK, object.to_vec())
}

#[async_trait]
impl Connector for ResourceMetrics {
    async fn connect(
        &self,
        server: &Arc<ApiServer>,
        context: &RequestContext,
        _request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let info = &context.info;
        let mut select = Select::parse(context)?;
        if !matches!(info.verb, Verb::Get | Verb::List) {
            return Err(Status::method_not_allowed());
        }
        // The caches that labels come from.
        for resource in ["nodes", "pods"] {
            if let Some(stored) = server.engine().catalog.get("", "v1", resource).and_then(|found| found.stored.as_ref()) {
                server.engine().fresh(stored).await?;
            }
        }
        self.refresh(server).await;
        if info.verb == Verb::Get {
            select.fields = FieldSelector::equals("metadata.name", &info.name);
        }
        let (kind, mut items) = match info.resource.as_str() {
            "nodes" => ("NodeMetrics", self.nodes(server, &select)),
            _ => ("PodMetrics", self.pods(server, &info.namespace, &select)),
        };
        if info.verb == Verb::List {
            return Ok(answer(&format!("{kind}List"), value!({"metadata": {}, "items": items})));
        }
        let name = if info.namespace.is_empty() { info.name.clone() } else { format!("{}/{}", info.namespace, info.name) };
        match items.pop() {
            Some(object) => Ok(answer(kind, object)),
            None => Err(Status::not_found(&GroupResource::new(GROUP, kind.to_lowercase()), &name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_usage_is_written() {
        let usage = |cpu_nanocores, memory_bytes| {
            let window = Duration::from_millis(15_060);
            amounts(Usage { timestamp: Timestamp::UNIX_EPOCH, window, cpu_nanocores, memory_bytes })
        };
        assert_eq!(usage(1_234_567, 2048), value!({"cpu": "1234567n", "memory": "2Ki"}));
        assert_eq!(usage(250_000_000, 1000), value!({"cpu": "250m", "memory": "1k"}));
        assert_eq!(usage(0, 0), value!({"cpu": "0", "memory": "0"}));
        for (milliseconds, expected) in [(15_060, "15.06s"), (1_000, "1s"), (60_000, "1m0s"), (75_500, "1m15.5s")] {
            assert_eq!(window(Duration::from_millis(milliseconds)), expected);
        }
    }
}
