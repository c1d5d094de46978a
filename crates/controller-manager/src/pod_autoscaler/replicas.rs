//! How many replicas a metric asks for. Pure; upstream's replica calculator.
//!
//! Pods without a metric, and pods that are not ready, hold scaling back: going down, they count as using all that they may; going up, as
//! using nothing. If that turns the direction around, nothing is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pod_state::{condition, is_ready, phase};

/// What one pod uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PodMetric {
    pub(super) timestamp: Timestamp,
    pub(super) window: Duration,
    /// In thousandths.
    pub(super) value_milli: i64,
}

/// What pods use, by name.
pub(super) type PodMetrics = BTreeMap<String, PodMetric>;

/// How far usage may be off its target before anything is done, as fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerances {
    pub(super) down: f64,
    pub(super) up: f64,
}

impl Tolerances {
    fn is_within(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// The pods under an autoscaler, and by which rules they count.
pub(super) struct Pods<'a> {
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
    /// `--horizontal-pod-autoscaler-cpu-initialization-period`.
    pub(super) cpu_initialization: Duration,
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`.
    pub(super) initial_readiness_delay: Duration,
}

#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn after(time: Timestamp, delay: Duration) -> Timestamp {
    let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
    time.checked_add(delay).unwrap_or(Timestamp::MAX)
}

/// Go's conversion of a float to int32 is not defined beyond its range; here the range ends.
fn ceil(value: f64) -> i32 {
    value.ceil().clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32
}

impl Pods<'_> {
    fn group(&self, metrics: &PodMetrics, resource: &str) -> Groups {
        let mut groups = Groups::default();
        for pod in self.pods {
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() || phase(pod) == "Failed" {
                groups.ignored.insert(name);
            } else if phase(pod) == "Pending" {
                groups.unready.insert(name);
            } else if let Some(metric) = metrics.get(&name) {
                if resource == "cpu" && self.is_starting(pod, metric) {
                    groups.unready.insert(name);
                } else {
                    groups.ready += 1;
                }
            } else {
                groups.missing.insert(name);
            }
        }
        groups
    }

    /// Whether what a pod uses is still that of its start.
    fn is_starting(&self, pod: &Pod, metric: &PodMetric) -> bool {
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let (Some(started), Some(ready)) = (started, condition(pod, "Ready")) else { return true };
        let changed = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
        if after(started.0, self.cpu_initialization) > self.now {
            // The metric has to be of a time in which the pod was ready.
            ready.status == "False" || metric.timestamp < after(changed, metric.window)
        } else {
            // Never ready since its start.
            ready.status == "False" && after(started.0, self.initial_readiness_delay) > changed
        }
    }

    fn ready_count(&self) -> Result<usize, String> {
        self.check_any()?;
        Ok(self.pods.iter().filter(|pod| phase(pod) == "Running" && is_ready(pod)).count())
    }

    fn check_any(&self) -> Result<(), String> {
        match self.pods.is_empty() {
            true => Err("no pods returned by selector while calculating replica count".to_owned()),
            false => Ok(()),
        }
    }

    /// Leaves the metrics of those that count, and says who counts.
    fn usable(&self, metrics: &mut PodMetrics, resource: &str) -> Result<Groups, String> {
        self.check_any()?;
        let groups = self.group(metrics, resource);
        metrics.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
        match metrics.is_empty() {
            true => Err("did not receive metrics for targeted pods (pods might be unready)".to_owned()),
            false => Ok(groups),
        }
    }
}

/// The replicas that bring the ratio of usage to target to 1.
fn adjust(
    current: i32,
    metrics: &mut PodMetrics,
    groups: &Groups,
    tolerances: Tolerances,
    ratio: impl Fn(&PodMetrics) -> Result<f64, String>,
    all_it_may_use: impl Fn(&str) -> i64,
) -> Result<i32, String> {
    let before = ratio(metrics)?;
    let up_with_unready = !groups.unready.is_empty() && before > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        let within = tolerances.is_within(before);
        return Ok(if within { current } else { ceil(before * groups.ready as f64) });
    }
    let mut assume = |name: &str, value_milli: i64| {
        let metric = PodMetric { timestamp: Timestamp::UNIX_EPOCH, window: Duration::ZERO, value_milli };
        metrics.insert(name.to_owned(), metric);
    };
    for name in &groups.missing {
        if before < 1.0 {
            assume(name, all_it_may_use(name));
        } else if before > 1.0 {
            assume(name, 0);
        }
    }
    if up_with_unready {
        groups.unready.iter().for_each(|name| assume(name, 0));
    }
    let ratio = ratio(metrics)?;
    if tolerances.is_within(ratio) || (before < 1.0 && ratio > 1.0) || (before > 1.0 && ratio < 1.0) {
        return Ok(current);
    }
    let wanted = ceil(ratio * metrics.len() as f64);
    let wrong_way = (ratio < 1.0 && wanted > current) || (ratio > 1.0 && wanted < current);
    Ok(if wrong_way { current } else { wanted })
}

/// The utilization of what pods ask for, in percent, and the mean of what they use.
fn utilization(metrics: &PodMetrics, requests: &BTreeMap<String, i64>) -> Result<(i32, i64), String> {
    let known = metrics.iter().filter_map(|(name, metric)| Some((metric.value_milli, *requests.get(name)?)));
    let (mut used, mut asked, mut count) = (0i64, 0i64, 0i64);
    for (value, request) in known {
        (used, asked, count) = (used.saturating_add(value), asked.saturating_add(request), count + 1);
    }
    if asked == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i128::from(used) * 100 / i128::from(asked);
    Ok((i32::try_from(percent).unwrap_or(i32::MAX), used / count))
}

/// Replicas, utilization in percent and mean usage in thousandths, for a target utilization of what pods (or one of their containers) ask
/// for.
pub(super) fn by_utilization(
    pods: &Pods<'_>,
    mut metrics: PodMetrics,
    (resource, container): (&str, &str),
    current: i32,
    target_percent: i32,
    tolerances: Tolerances,
) -> Result<(i32, i32, i64), String> {
    let groups = pods.usable(&mut metrics, resource)?;
    let requests = requests(pods.pods, resource, container)?;
    let (percent, mean) = utilization(&metrics, &requests)?;
    let ratio =
        |metrics: &PodMetrics| utilization(metrics, &requests).map(|(percent, _)| f64::from(percent) / f64::from(target_percent));
    // Not less than all that was asked for.
    let fallback = i64::from(target_percent.max(100));
    let all = |name: &str| requests.get(name).copied().unwrap_or(0).saturating_mul(fallback) / 100;
    adjust(current, &mut metrics, &groups, tolerances, ratio, all).map(|replicas| (replicas, percent, mean))
}

/// Replicas and mean usage in thousandths, for a target mean.
pub(super) fn by_mean(
    pods: &Pods<'_>,
    mut metrics: PodMetrics,
    resource: &str,
    current: i32,
    target_milli: i64,
    tolerances: Tolerances,
) -> Result<(i32, i64), String> {
    let groups = pods.usable(&mut metrics, resource)?;
    let mean = |metrics: &PodMetrics| {
        let sum = metrics.values().fold(0i64, |sum, metric| sum.saturating_add(metric.value_milli));
        sum / i64::try_from(metrics.len()).unwrap_or(i64::MAX)
    };
    let usage = mean(&metrics);
    let ratio = |metrics: &PodMetrics| Ok(mean(metrics) as f64 / target_milli as f64);
    adjust(current, &mut metrics, &groups, tolerances, ratio, |_| target_milli).map(|replicas| (replicas, usage))
}

/// Replicas for a target of one value that more replicas bring down (of an object, or of something outside of the cluster).
pub(super) fn by_value(
    pods: &Pods<'_>,
    current: i32,
    usage_milli: i64,
    target_milli: i64,
    tolerances: Tolerances,
) -> Result<i32, String> {
    let ratio = usage_milli as f64 / target_milli as f64;
    if current == 0 {
        return Ok(ceil(ratio));
    }
    if tolerances.is_within(ratio) {
        return Ok(current);
    }
    let ready = pods.ready_count().map_err(|why| format!("unable to calculate ready pods: {why}"))?;
    Ok(ceil(ratio * ready as f64))
}

/// Replicas, and usage by each replica that there is now in thousandths, for a target value by replica.
pub(super) fn by_value_per_pod(status_replicas: i32, usage_milli: i64, target_milli: i64, tolerances: Tolerances) -> (i32, i64) {
    let (usage, target) = (usage_milli as f64, target_milli as f64);
    let ratio = usage / (target * f64::from(status_replicas));
    let replicas = if tolerances.is_within(ratio) { status_replicas } else { ceil(usage / target) };
    // Of no replicas there is no usage by replica.
    let each = if status_replicas == 0 { usage_milli } else { (usage / f64::from(status_replicas)).ceil() as i64 };
    (replicas, each)
}

/// What every pod asks for, in thousandths.
fn requests(pods: &[Arc<Pod>], resource: &str, container: &str) -> Result<BTreeMap<String, i64>, String> {
    pods.iter().map(|pod| Ok((pod.name_any(), request(pod, resource, container)?))).collect()
}

fn milli(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Result<i64, String> {
    Quantity::parse(&quantity.0).map(Quantity::milli_value).map_err(|error| error.to_string())
}

fn request(pod: &Pod, resource: &str, wanted: &str) -> Result<i64, String> {
    let name = pod.name_any();
    let spec = pod.spec.as_ref();
    // Requests of the pod as a whole (KEP-2837) count where no container is named.
    let whole = spec.and_then(|spec| spec.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
    if let Some(whole) = whole.filter(|whole| wanted.is_empty() && !whole.is_empty())
        && let Some(quantity) = whole.get(resource)
    {
        return milli(quantity);
    }
    let containers = spec.iter().flat_map(|spec| &spec.containers);
    let initial = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = initial.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let (mut sum, mut found) = (0i64, false);
    for container in containers.chain(sidecars).filter(|container| wanted.is_empty() || container.name == wanted) {
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let quantity = asked
            .and_then(|asked| asked.get(resource))
            .ok_or_else(|| format!("missing request for {resource} in container {} of Pod {name}", container.name))?;
        sum = sum.saturating_add(milli(quantity)?);
        found = true;
    }
    match found || wanted.is_empty() {
        true => Ok(sum),
        false => Err(format!("container {wanted} not found in Pod {name}")),
    }
}

#[cfg(test)]
mod tests;
