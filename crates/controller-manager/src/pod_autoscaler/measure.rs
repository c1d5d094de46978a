//! From one metric of an autoscaler's spec to what it asks for: reads the metric, and lets the calculator decide.

use apimachinery::Quantity;
use apimachinery::quantity::Format;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, MetricIdentifier, MetricSpec, MetricStatus,
    MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource, PodsMetricStatus,
    ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kube::core::Selector;

use super::metrics::MetricsClient;
use super::replicas::{Pods, Tolerances, by_mean, by_utilization, by_value, by_value_per_pod};
use super::status::{Failure, Proposal};
use crate::discovery::Kinds;
use crate::label_match::selector_text;

/// What a metric is measured on.
pub(super) struct View<'a> {
    pub(super) client: &'a MetricsClient,
    pub(super) kinds: &'a Kinds,
    pub(super) namespace: &'a str,
    /// The target's selector, as text.
    pub(super) selector: &'a str,
    pub(super) pods: Pods<'a>,
    /// Replicas that the target is asked to have.
    pub(super) spec_replicas: i32,
    /// Replicas that it has.
    pub(super) status_replicas: i32,
    pub(super) tolerances: Tolerances,
}

type Measured = Result<(i32, String, MetricStatus), String>;

fn milli(quantity: &ApiQuantity) -> Result<i64, String> {
    Quantity::parse(&quantity.0).map(Quantity::milli_value).map_err(|error| error.to_string())
}

fn quantity(value_milli: i64, format: Format) -> Option<ApiQuantity> {
    Some(ApiQuantity(Quantity::from_milli(value_milli, format).to_string()))
}

fn value(value_milli: i64) -> MetricValueStatus {
    MetricValueStatus { value: quantity(value_milli, Format::DecimalSi), ..Default::default() }
}

fn average(value_milli: i64) -> MetricValueStatus {
    MetricValueStatus { average_value: quantity(value_milli, Format::DecimalSi), ..Default::default() }
}

/// A metric's selector as a query has it; empty for all.
fn selector_of(metric: &MetricIdentifier) -> Result<String, String> {
    let Some(selector) = &metric.selector else { return Ok(String::new()) };
    Selector::try_from(selector.clone()).map(|selector| selector.to_string()).map_err(|error| error.to_string())
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, selector_text(metric.selector.as_ref()))
}

impl View<'_> {
    pub(super) async fn measure(&self, spec: &MetricSpec) -> Result<Proposal, Failure> {
        let (reason, what, measured) = match spec.type_.as_str() {
            "Object" => ("FailedGetObjectMetric", "object metric value".to_owned(), self.object(spec.object.as_ref()).await),
            "Pods" => ("FailedGetPodsMetric", "pods metric value".to_owned(), self.of_pods(spec.pods.as_ref()).await),
            "Resource" => {
                let source = spec.resource.as_ref().map(|source| (&source.target, source.name.as_str(), ""));
                let name = source.map_or("", |source| source.1);
                ("FailedGetResourceMetric", format!("{name} resource metric value"), self.resource(source).await)
            }
            "ContainerResource" => {
                let source = spec.container_resource.as_ref();
                let source = source.map(|source| (&source.target, source.name.as_str(), source.container.as_str()));
                let container = source.map_or("", |source| source.2);
                ("FailedGetContainerResourceMetric", format!("{container} container metric value"), self.resource(source).await)
            }
            "External" => {
                let name = spec.external.as_ref().map_or("", |source| source.metric.name.as_str());
                let what = format!("{name} external metric value");
                ("FailedGetExternalMetric", what, self.external(spec.external.as_ref()).await)
            }
            other => {
                let why = format!("unknown metric source type {other:?}");
                return Err(Failure { reason: "InvalidMetricSourceType", error: why.clone(), why });
            }
        };
        match measured {
            Ok((replicas, metric, status)) => {
                Ok(Proposal { replicas, metric, status: MetricStatus { type_: spec.type_.clone(), ..status } })
            }
            Err(why) => Err(Failure { reason, error: format!("failed to get {what}: {why}"), why }),
        }
    }

    /// A resource of pods, or of one container of each.
    async fn resource(&self, source: Option<(&MetricTarget, &str, &str)>) -> Measured {
        const INVALID: &str =
            "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
        let (target, name, container) = source.ok_or(INVALID)?;
        let fetch = async || {
            let metrics = self.client.resource(self.namespace, self.selector, name, container).await;
            metrics.map_err(|why| format!("unable to get metrics for resource {name}: {why}"))
        };
        let format = if name == "memory" { Format::BinarySi } else { Format::DecimalSi };
        let (replicas, metric, current) = if let Some(target) = &target.average_value {
            let failed = |why| format!("failed to get {name} usage: {why}");
            let metrics = fetch().await.map_err(failed)?;
            let by_mean = by_mean(&self.pods, metrics, name, self.spec_replicas, milli(target)?, self.tolerances);
            let (replicas, mean) = by_mean.map_err(failed)?;
            let current = MetricValueStatus { average_value: quantity(mean, format), ..Default::default() };
            (replicas, format!("{name} resource"), current)
        } else {
            let percent = target.average_utilization.ok_or(INVALID)?;
            let failed = |why| format!("failed to get {name} utilization: {why}");
            let metrics = fetch().await.map_err(failed)?;
            let measured = by_utilization(&self.pods, metrics, (name, container), self.spec_replicas, percent, self.tolerances);
            let (replicas, percent, mean) = measured.map_err(failed)?;
            let of = if container.is_empty() { "resource" } else { "container resource" };
            let current = MetricValueStatus {
                average_utilization: Some(percent),
                average_value: quantity(mean, format),
                ..Default::default()
            };
            (replicas, format!("{name} {of} utilization (percentage of request)"), current)
        };
        let status = if container.is_empty() {
            let resource = ResourceMetricStatus { name: name.to_owned(), current };
            MetricStatus { resource: Some(resource), ..Default::default() }
        } else {
            let of = ContainerResourceMetricStatus { name: name.to_owned(), container: container.to_owned(), current };
            MetricStatus { container_resource: Some(of), ..Default::default() }
        };
        Ok((replicas, metric, status))
    }

    async fn of_pods(&self, source: Option<&PodsMetricSource>) -> Measured {
        let source = source.ok_or("invalid pods metric source: it is missing")?;
        let name = &source.metric.name;
        let target = source.target.average_value.as_ref().ok_or("invalid pods metric source: no average value target was set")?;
        let selector = selector_of(&source.metric)?;
        let metrics = self.client.of_pods(self.namespace, self.selector, name, &selector).await;
        let metrics = metrics.map_err(|why| format!("unable to get metric {name}: {why}"))?;
        let (replicas, usage) = by_mean(&self.pods, metrics, "", self.spec_replicas, milli(target)?, self.tolerances)?;
        let pods = PodsMetricStatus { metric: source.metric.clone(), current: average(usage) };
        Ok((replicas, format!("pods metric {name}"), MetricStatus { pods: Some(pods), ..Default::default() }))
    }

    async fn object(&self, source: Option<&ObjectMetricSource>) -> Measured {
        const INVALID: &str = "invalid object metric source: neither a value target nor an average value target was set";
        let source = source.ok_or(INVALID)?;
        let (object, name) = (&source.described_object, &source.metric.name);
        let selector = selector_of(&source.metric)?;
        let fetch = async || {
            let usage = self.client.of_object(self.kinds, self.namespace, object, name, &selector).await;
            usage.map_err(|why| {
                format!("unable to get metric {name}: {} on {} {}/{why}", object.kind, self.namespace, object.name)
            })
        };
        let (replicas, metric, current) = match (source.target.type_.as_str(), &source.target.value, &source.target.average_value)
        {
            ("Value", Some(target), _) => {
                let usage = fetch().await?;
                let replicas = by_value(&self.pods, self.spec_replicas, usage, milli(target)?, self.tolerances)?;
                (replicas, format!("{} metric {name}", object.kind), value(usage))
            }
            ("AverageValue", _, Some(target)) => {
                let usage = fetch().await.map_err(|why| format!("failed to get {name} object metric: {why}"))?;
                let (replicas, each) = by_value_per_pod(self.status_replicas, usage, milli(target)?, self.tolerances);
                (replicas, external_name(&source.metric), average(each))
            }
            _ => return Err(INVALID.to_owned()),
        };
        let object = ObjectMetricStatus { described_object: object.clone(), metric: source.metric.clone(), current };
        Ok((replicas, metric, MetricStatus { object: Some(object), ..Default::default() }))
    }

    async fn external(&self, source: Option<&ExternalMetricSource>) -> Measured {
        const INVALID: &str = "invalid external metric source: neither a value target nor an average value target was set";
        let source = source.ok_or(INVALID)?;
        let name = &source.metric.name;
        let selector = selector_of(&source.metric)?;
        let fetch = async || {
            let usage = self.client.external(self.namespace, name, &selector).await;
            let of = selector_text(source.metric.selector.as_ref());
            usage.map_err(|why| format!("unable to get external metric {}/{name}/{of}: {why}", self.namespace))
        };
        let (replicas, current) = if let Some(target) = &source.target.average_value {
            let usage = fetch().await.map_err(|why| format!("failed to get {name} external metric: {why}"))?;
            let (replicas, each) = by_value_per_pod(self.status_replicas, usage, milli(target)?, self.tolerances);
            (replicas, average(each))
        } else {
            let target = source.target.value.as_ref().ok_or(INVALID)?;
            let failed = |why| format!("failed to get external metric {name}: {why}");
            let usage = fetch().await.map_err(failed)?;
            let replicas = by_value(&self.pods, self.spec_replicas, usage, milli(target)?, self.tolerances);
            (replicas.map_err(failed)?, value(usage))
        };
        let status = ExternalMetricStatus { metric: source.metric.clone(), current };
        Ok((replicas, external_name(&source.metric), MetricStatus { external: Some(status), ..Default::default() }))
    }
}
