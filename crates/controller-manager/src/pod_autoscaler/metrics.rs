//! Asking the three metrics APIs: resource, custom and external metrics. Each may be there or not; what is not there is an error that the
//! autoscaler's conditions tell, in upstream's words.

use std::time::Duration;

use apimachinery::Quantity;
use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::replicas::{PodMetric, PodMetrics};
use crate::api_errors::{is_not_found, message};
use crate::discovery::Kinds;

/// metrics-server's window, where a custom metric names none.
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct PodMetricsItem {
    metadata: Metadata,
    timestamp: Time,
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    #[serde(default)]
    described_object: Metadata,
    timestamp: Time,
    window_seconds: Option<u64>,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Items<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

/// Reads metrics in the name of the autoscaler's controller.
pub(super) struct MetricsClient {
    client: kube::Client,
}

fn milli(text: &str) -> Result<i64, String> {
    Quantity::parse(text).map(Quantity::milli_value).map_err(|error| format!("{text:?} is not a quantity: {error}"))
}

/// Everything but letters, digits and `-._~`, as a query wants it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// Of the container, or of all together; pods of which something is missing are left out.
fn usage(items: Vec<PodMetricsItem>, resource: &str, container: &str) -> Result<PodMetrics, String> {
    let mut metrics = PodMetrics::new();
    for item in items {
        let counted: Vec<&ContainerMetrics> =
            item.containers.iter().filter(|found| container.is_empty() || found.name == container).collect();
        let Some(values) = counted.iter().map(|found| found.usage.get(resource)).collect::<Option<Vec<_>>>() else { continue };
        if values.is_empty() {
            continue;
        }
        let mut value_milli = 0i64;
        for value in values {
            value_milli = value_milli.saturating_add(milli(value)?);
        }
        let window = item.window.parse::<jiff::SignedDuration>().ok().and_then(|window| Duration::try_from(window).ok());
        let metric = PodMetric { timestamp: item.timestamp.0, window: window.unwrap_or(DEFAULT_WINDOW), value_milli };
        metrics.insert(item.metadata.name, metric);
    }
    Ok(metrics)
}

impl MetricsClient {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> kube::Result<T> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// What pods use of a resource, by metrics.k8s.io.
    pub(super) async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: &str,
    ) -> Result<PodMetrics, String> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}", escape(selector));
        let found: Items<PodMetricsItem> = self
            .get(&path)
            .await
            .map_err(|error| format!("unable to fetch metrics from resource metrics API: {}", message(&error)))?;
        if found.items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        usage(found.items, resource, container)
    }

    async fn custom(&self, path: &str, selectors: &[(&str, &str)]) -> Result<Vec<MetricValue>, String> {
        const GROUP: &str = "custom.metrics.k8s.io";
        let failed = |error: kube::Error| format!("unable to fetch metrics from custom metrics API: {}", message(&error));
        let group: k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup = match self.get(&format!("/apis/{GROUP}")).await {
            Ok(group) => group,
            Err(error) if is_not_found(&error) => {
                return Err(format!(
                    "unable to fetch metrics from custom metrics API: no custom metrics API ({GROUP}) registered"
                ));
            }
            Err(error) => return Err(failed(error)),
        };
        let served: Vec<&str> = group.versions.iter().map(|version| version.version.as_str()).collect();
        // The newer one of those that upstream's client knows.
        let version = ["v1beta2", "v1beta1"].into_iter().find(|version| served.contains(version)).unwrap_or("v1beta1");
        let query: Vec<String> =
            selectors.iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| format!("{key}={}", escape(text))).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let path = format!("/apis/{GROUP}/{version}/{path}{mark}{}", query.join("&"));
        let found: Items<MetricValue> = self.get(&path).await.map_err(failed)?;
        match found.items.is_empty() {
            true => Err("no metrics returned from custom metrics API".to_owned()),
            false => Ok(found.items),
        }
    }

    /// A metric of pods, by custom.metrics.k8s.io.
    pub(super) async fn of_pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &str,
        metric_selector: &str,
    ) -> Result<PodMetrics, String> {
        let path = format!("namespaces/{namespace}/pods/%2A/{}", escape(metric));
        let found = self.custom(&path, &[("labelSelector", selector), ("metricLabelSelector", metric_selector)]).await?;
        let of = |item: MetricValue| {
            let window = item.window_seconds.map_or(DEFAULT_WINDOW, Duration::from_secs);
            let metric = PodMetric { timestamp: item.timestamp.0, window, value_milli: milli(&item.value)? };
            Ok((item.described_object.name, metric))
        };
        found.into_iter().map(of).collect()
    }

    /// A metric of an object, in thousandths, by custom.metrics.k8s.io.
    pub(super) async fn of_object(
        &self,
        kinds: &Kinds,
        namespace: &str,
        object: &CrossVersionObjectReference,
        metric: &str,
        metric_selector: &str,
    ) -> Result<i64, String> {
        let api_version = object.api_version.as_deref().unwrap_or_default();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let path = if group.is_empty() && object.kind == "Namespace" {
            // The autoscaler's own, whatever is named.
            format!("namespaces/{namespace}/metrics/{}", escape(metric))
        } else {
            let kind = kinds.of_group(group, &object.kind).await?;
            let name = escape(&object.name);
            format!("namespaces/{namespace}/{}/{name}/{}", kind.group_resource(), escape(metric))
        };
        let found = self.custom(&path, &[("metricLabelSelector", metric_selector)]).await?;
        found.first().map_or(Ok(0), |value| milli(&value.value))
    }

    /// All values of a metric from outside of the cluster together, in thousandths, by external.metrics.k8s.io.
    pub(super) async fn external(&self, namespace: &str, metric: &str, selector: &str) -> Result<i64, String> {
        let mark = if selector.is_empty() { String::new() } else { format!("?labelSelector={}", escape(selector)) };
        let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}{mark}", escape(metric));
        let found: Items<MetricValue> = self
            .get(&path)
            .await
            .map_err(|error| format!("unable to fetch metrics from external metrics API: {}", message(&error)))?;
        if found.items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        found.items.iter().try_fold(0i64, |sum, value| Ok(sum.saturating_add(milli(&value.value)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_of_pods_and_containers() {
        let items = json!([
            {"metadata": {"name": "a"}, "timestamp": "2024-01-01T00:00:00Z", "window": "15.5s", "containers": [
                {"name": "x", "usage": {"cpu": "250m", "memory": "1Ki"}}, {"name": "y", "usage": {"cpu": "1"}}]},
            {"metadata": {"name": "b"}, "timestamp": "2024-01-01T00:00:00Z", "window": "1m0s", "containers": [{"name": "y", "usage": {}}]},
            {"metadata": {"name": "c"}, "timestamp": "2024-01-01T00:00:00Z", "window": "1m0s", "containers": []},
        ]);
        let read = |resource: &str, container: &str| {
            let items: Vec<PodMetricsItem> = serde_json::from_value(items.clone()).expect("are metrics");
            let usage = usage(items, resource, container).expect("are quantities");
            usage.into_iter().map(|(name, metric)| format!("{name}={}", metric.value_milli)).collect::<Vec<_>>().join(",")
        };
        assert_eq!(read("cpu", ""), "a=1250");
        assert_eq!(read("cpu", "x"), "a=250");
        assert_eq!(read("memory", ""), "", "of one container it is missing");
        assert_eq!(read("memory", "x"), "a=1024000");
        assert_eq!(read("cpu", "z"), "");
        let items: Vec<PodMetricsItem> = serde_json::from_value(items).expect("are metrics");
        assert_eq!(usage(items, "cpu", "").expect("are quantities")["a"].window, Duration::from_millis(15_500));
    }

    #[test]
    fn escaping() {
        assert_eq!(escape("app=web,tier in (a,b)"), "app%3Dweb%2Ctier%20in%20%28a%2Cb%29");
    }
}
