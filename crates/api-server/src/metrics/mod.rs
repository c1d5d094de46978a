//! What `/metrics` tells, under upstream's names (<https://kubernetes.io/docs/reference/instrumentation/metrics/>).
//!
//! Labels are bounded: a request for something that the server does not serve is counted without group, version and resource, because
//! anybody can make such names up.

mod allowed;
mod process;
mod slis;

use std::time::Duration;

use ::http::{Method, StatusCode};
use apimachinery::GroupResource;
use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use allowed::AllowedLabels;

use crate::http::{Query, RequestInfo, Verb};

/// Upstream's buckets for request durations, in seconds.
const DURATION_BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
const COMPONENT: &str = "apiserver";

/// The server's metrics. One per server, so that two servers in one process (tests) do not mix.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    long_running: IntGaugeVec,
    in_flight: IntGaugeVec,
    deprecated: IntGaugeVec,
    store: HistogramVec,
    storage_size: IntGaugeVec,
    allowed: AllowedLabels,
    storage_objects: IntGaugeVec,
    health_checks: slis::HealthChecks,
    lifetimes_requested: IntCounterVec,
    lifetimes_honored: IntCounterVec,
    logs_by_trust: IntCounterVec,
    logs_not_verified: IntCounter,
}

/// What a request is counted under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestLabels {
    verb: &'static str,
    dry_run: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

/// Counts something as long as it lives.
pub(crate) struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: Result<C, prometheus::Error>) -> C {
    let metric = metric.expect("the names of metrics and labels are valid constants");
    registry.register(Box::new(metric.clone())).expect("each metric is registered once");
    metric
}

impl Metrics {
    /// All at zero; labels are shown with the values that are allowed.
    pub fn new(allowed: AllowedLabels) -> Self {
        let registry = Registry::new();
        let request = ["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"];
        let counted = ["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"];
        let running = ["verb", "group", "version", "resource", "subresource", "scope", "component"];
        let gauge =
            |name: &str, help: &str, labels: &[&str]| register(&registry, IntGaugeVec::new(Opts::new(name, help), labels));
        let counter =
            |name: &str, help: &str, labels: &[&str]| register(&registry, IntCounterVec::new(Opts::new(name, help), labels));
        let requests =
            Opts::new("apiserver_request_total", "Counter of apiserver requests by what they asked for and HTTP response code.");
        let durations = HistogramOpts::new("apiserver_request_duration_seconds", "Response latency distribution in seconds.");
        // Upstream's name: what reads it need not know which store there is.
        let store =
            HistogramOpts::new("etcd_request_duration_seconds", "Store request latency in seconds, by operation and resource.");
        Self {
            requests: register(&registry, IntCounterVec::new(requests, &counted)),
            durations: register(&registry, HistogramVec::new(durations.buckets(DURATION_BUCKETS.to_vec()), &request)),
            long_running: gauge(
                "apiserver_longrunning_requests",
                "Gauge of all active long-running apiserver requests.",
                &running,
            ),
            in_flight: gauge("apiserver_current_inflight_requests", "Requests at work, by request kind.", &["request_kind"]),
            deprecated: gauge(
                "apiserver_requested_deprecated_apis",
                "Deprecated APIs that have been requested, by the release without them.",
                &["group", "version", "resource", "subresource", "removed_release"],
            ),
            store: register(
                &registry,
                HistogramVec::new(store.buckets(DURATION_BUCKETS.to_vec()), &["operation", "group", "resource"]),
            ),
            storage_size: gauge(
                "apiserver_storage_size_bytes",
                "Size of the storage database file physically allocated in bytes.",
                &["storage_cluster_id"],
            ),
            allowed,
            storage_objects: gauge("apiserver_storage_objects", "Number of stored objects, by resource.", &["resource"]),
            health_checks: slis::HealthChecks::new(),
            lifetimes_requested: counter(
                "apiserver_certificates_registry_csr_requested_duration_total",
                "Total number of issued CSRs with a requested duration, sliced by signer (only kubernetes.io signer names are specifically identified)",
                &["signerName"],
            ),
            lifetimes_honored: counter(
                "apiserver_certificates_registry_csr_honored_duration_total",
                "Total number of issued CSRs with a requested duration that was honored, sliced by signer (only kubernetes.io signer names are specifically identified)",
                &["signerName"],
            ),
            logs_by_trust: counter(
                "kube_apiserver_pod_logs_insecure_backend_total",
                "Total number of requests for pods/logs sliced by usage type: enforce_tls, skip_tls_allowed, skip_tls_denied",
                &["usage"],
            ),
            logs_not_verified: register(
                &registry,
                IntCounter::new(
                    "kube_apiserver_pod_logs_backend_tls_failure_total",
                    "Total number of requests for pods/logs that failed due to kubelet server TLS verification",
                ),
            ),
            registry,
        }
    }

    /// Notes how a check of `/healthz`, `/livez` or `/readyz` ended.
    pub(crate) fn health_checked(&self, name: &str, endpoint: &str, good: bool) {
        self.health_checks.note(name, endpoint, good);
    }

    /// Counts a certificate that was issued for a request with a lifetime, and whether it has that lifetime.
    pub(crate) fn certificate_issued(&self, signer: &str, honored: bool) {
        let signer = if signer.starts_with("kubernetes.io/") { signer } else { "other" };
        self.lifetimes_requested.with_label_values(&[signer]).inc();
        if honored {
            self.lifetimes_honored.with_label_values(&[signer]).inc();
        }
    }

    /// Counts a request for logs, and whether it was for any kubelet's word.
    pub(crate) fn log_asked_for(&self, trusting: bool) {
        self.logs_by_trust.with_label_values(&[if trusting { "skip_tls_allowed" } else { "enforce_tls" }]).inc();
    }

    /// Counts a request for logs whose kubelet was not believed.
    pub(crate) fn log_backend_not_verified(&self) {
        self.logs_not_verified.inc();
    }

    /// Counts from nothing again (`DELETE /metrics`); what is at work now stays counted.
    pub(crate) fn reset(&self) {
        self.requests.reset();
        self.durations.reset();
        self.deprecated.reset();
        self.store.reset();
        self.lifetimes_requested.reset();
        self.lifetimes_honored.reset();
        self.logs_by_trust.reset();
        self.logs_not_verified.reset();
    }

    /// Forgets how checks ended (`DELETE /metrics/slis`).
    pub(crate) fn reset_slis(&self) {
        self.health_checks.reset();
    }

    /// What `/metrics/slis` tells, in the text format.
    pub(crate) fn render_slis(&self) -> Vec<u8> {
        self.health_checks.render()
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, labels: &RequestLabels, code: StatusCode, took: Duration, long_running: bool) {
        let RequestLabels { verb, dry_run, group, version, resource, subresource, scope } = labels;
        let request: [&str; 8] = [verb, dry_run, group, version, resource, subresource, scope, COMPONENT];
        let code = code.as_str();
        let counted: [&str; 9] = [verb, dry_run, group, version, resource, subresource, scope, COMPONENT, code];
        self.requests.with_label_values(&counted).inc();
        // How long a watch ran says nothing about latency, and its first answer is not its end.
        if !long_running {
            self.durations.with_label_values(&request).observe(took.as_secs_f64());
        }
    }

    pub(crate) fn long_running(&self, labels: &RequestLabels) -> GaugeGuard {
        let RequestLabels { verb, group, version, resource, subresource, scope, .. } = labels;
        let running: [&str; 7] = [verb, group, version, resource, subresource, scope, COMPONENT];
        GaugeGuard::new(self.long_running.with_label_values(&running))
    }

    pub(crate) fn in_flight(&self, mutating: bool) -> GaugeGuard {
        GaugeGuard::new(self.in_flight.with_label_values(&[if mutating { "mutating" } else { "readOnly" }]))
    }

    /// Notes that something was asked for that will not be there for ever.
    pub(crate) fn deprecated(&self, info: &RequestInfo, removed_release: &str) {
        let labels = [&info.api_group, &info.api_version, &info.resource, &info.subresource].map(String::as_str);
        let [group, version, resource, subresource] = labels;
        self.deprecated.with_label_values(&[group, version, resource, subresource, removed_release]).set(1);
    }

    /// Notes how long the store took.
    pub(crate) fn stored(&self, operation: &str, resource: &GroupResource, took: Duration) {
        self.store
            .with_label_values(&[operation, resource.group.as_str(), resource.resource.as_str()])
            .observe(took.as_secs_f64());
    }

    /// Where other parts of the server register theirs.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Everything in the text format, with the number of stored objects by resource (`pods`, `deployments.apps`) and the bytes that
    /// the store uses, as they are now.
    pub(crate) fn render(&self, objects: impl IntoIterator<Item = (String, i64)>, store_bytes: Option<u64>) -> Vec<u8> {
        if let Some(bytes) = store_bytes {
            self.storage_size.with_label_values(&["store-0"]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        for (resource, count) in objects {
            self.storage_objects.with_label_values(&[resource.as_str()]).set(count);
        }
        let mut families = self.registry.gather();
        families.extend(process::gather());
        self.allowed.enforce(&mut families);
        let mut text = Vec::with_capacity(64 * 1024);
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::warn!(error = %error, "a metric cannot be encoded");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(AllowedLabels::default())
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl RequestLabels {
    /// `known` says whether the server serves the resource, `apply` whether a patch is a server-side apply.
    pub(crate) fn new(info: &RequestInfo, query: &Query, method: &Method, apply: bool, known: bool) -> Self {
        let known = known && info.is_resource;
        let text = |text: &str| if known { text.to_owned() } else { String::new() };
        // A creation is of one object; so are a list and a watch that a field selector limits to a name.
        let one = !info.name.is_empty() || info.verb == Verb::Create;
        let scope = match (known, one, info.namespace.is_empty()) {
            (false, ..) => "",
            (true, true, _) => "resource",
            (true, false, false) => "namespace",
            (true, false, true) => "cluster",
        };
        Self {
            verb: verb(info, method, apply),
            dry_run: if query.get("dryRun") == Some("All") { "All" } else { "" },
            group: text(&info.api_group),
            version: text(&info.api_version),
            resource: text(&info.resource),
            subresource: text(&info.subresource),
            scope,
        }
    }
}

fn verb(info: &RequestInfo, method: &Method, apply: bool) -> &'static str {
    if info.is_resource && matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log") {
        return "CONNECT";
    }
    match info.verb {
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Patch if apply => "APPLY",
        Verb::DeleteCollection => "DELETECOLLECTION",
        _ => match method.as_str() {
            "GET" | "HEAD" => "GET",
            "POST" => "POST",
            "PUT" => "PUT",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            _ => "other",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(method: &str, url: &str, known: bool) -> RequestLabels {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let (method, query) = (Method::from_bytes(method.as_bytes()).expect("a method"), Query::parse(query));
        RequestLabels::new(&RequestInfo::new(&method, path, &query).expect("a path"), &query, &method, false, known)
    }

    #[test]
    fn verbs_and_scopes() {
        for (method, url, verb, scope) in [
            ("GET", "/api/v1/pods", "LIST", "cluster"),
            ("GET", "/api/v1/namespaces/a/pods?watch=1", "WATCH", "namespace"),
            ("GET", "/api/v1/namespaces/a/pods/x", "GET", "resource"),
            ("POST", "/api/v1/namespaces/a/pods", "POST", "resource"),
            ("POST", "/api/v1/namespaces", "POST", "resource"),
            ("GET", "/api/v1/namespaces/a/pods/x/log", "CONNECT", "resource"),
            ("DELETE", "/api/v1/namespaces/a/pods", "DELETECOLLECTION", "namespace"),
            ("GET", "/healthz", "GET", ""),
        ] {
            let labels = labels(method, url, true);
            assert_eq!((labels.verb, labels.scope), (verb, scope), "{method} {url}");
        }
    }

    #[test]
    fn invented_names_are_not_labels() {
        let labels = labels("GET", "/apis/made.up/v1/things/x", false);
        assert_eq!((labels.group.as_str(), labels.resource.as_str(), labels.scope), ("", "", ""));
    }

    #[test]
    fn exposition() {
        let metrics = Metrics::default();
        metrics.answered(&labels("GET", "/api/v1/pods", true), StatusCode::OK, Duration::from_millis(3), false);
        let _running = metrics.long_running(&labels("GET", "/api/v1/pods?watch=1", true));
        let text = String::from_utf8(metrics.render([("deployments.apps".to_owned(), 2)], Some(7))).expect("text");
        for wanted in [
            r#"apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_request_duration_seconds_bucket{component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1",le="0.005"} 1"#,
            r#"apiserver_longrunning_requests{component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 1"#,
            r#"apiserver_storage_objects{resource="deployments.apps"} 2"#,
            r#"apiserver_storage_size_bytes{storage_cluster_id="store-0"} 7"#,
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
        ] {
            assert!(text.contains(wanted), "{wanted}\nnot in\n{text}");
        }
    }
}
