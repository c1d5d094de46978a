//! `/metrics` and `/metrics/resource` in the Prometheus text format, with upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;

use cri::v1;
use http::{Response, StatusCode, header};

use super::pods::{container_start, identity};
use super::stats::node_cpu_nanoseconds;
use super::{Body, text};
use crate::context::Core;
use crate::node::machine::Pressure;
use crate::pod::access::PodAccess;

fn exposition(content: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, content);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

fn family(output: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, f64)]) {
    let _infallible = writeln!(output, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _infallible = writeln!(output, "{name}{labels} {value}");
    }
}

/// The kubelet's own metrics.
pub(super) fn kubelet(core: &Core) -> Response<Body> {
    let mut output = String::new();
    let pods = core.pods.all();
    let running = pods.iter().filter(|e| e.status.lock().phase.as_deref() == Some("Running")).count();
    let mut containers: BTreeMap<&str, u32> = BTreeMap::new();
    for entry in &pods {
        for status in entry.status.lock().container_statuses.iter().flatten() {
            let state = status.state.clone().unwrap_or_default();
            let name = if state.running.is_some() {
                "running"
            } else if state.terminated.is_some() {
                "exited"
            } else {
                "created"
            };
            *containers.entry(name).or_default() += 1;
        }
    }
    #[allow(clippy::cast_precision_loss)] // Counts of pods.
    let count = |n: usize| vec![(String::new(), n as f64)];
    family(&mut output, "kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox", &count(running));
    family(
        &mut output,
        "kubelet_desired_pods",
        "gauge",
        "The number of pods the kubelet is being instructed to run.",
        &count(pods.iter().filter(|e| !e.pod().is_static()).count()),
    );
    let samples: Vec<_> =
        containers.into_iter().map(|(state, n)| (format!("{{container_state=\"{state}\"}}"), f64::from(n))).collect();
    family(&mut output, "kubelet_running_containers", "gauge", "Number of containers currently running", &samples);
    family(
        &mut output,
        "kubelet_node_name",
        "gauge",
        "The node's name. The count is always 1.",
        &[(format!("{{node=\"{}\"}}", core.config.node_name), 1.0)],
    );
    exposition(output)
}

/// What metrics-server scrapes.
pub(super) async fn resource(core: &Core) -> Response<Body> {
    let stats = core.runtime.list_container_stats(v1::ListContainerStatsRequest { filter: None }).await;
    let failed = stats.is_err();
    let (mut cpu, mut memory, mut started) = (Vec::new(), Vec::new(), Vec::new());
    let mut pods: BTreeMap<(String, String), (f64, f64)> = BTreeMap::new();
    for item in stats.map(|r| r.stats).unwrap_or_default() {
        let Some(attributes) = &item.attributes else { continue };
        let (namespace, pod, container) = identity(attributes);
        let labels = format!("{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\"}}");
        let total = pods.entry((namespace.clone(), pod.clone())).or_default();
        #[allow(clippy::cast_precision_loss)] // Nanoseconds and bytes as the exposition format has them.
        if let Some(usage) = item.cpu.as_ref().and_then(|c| c.usage_core_nano_seconds.as_ref()) {
            let seconds = usage.value as f64 / 1e9;
            total.0 += seconds;
            cpu.push((labels.clone(), seconds));
        }
        #[allow(clippy::cast_precision_loss)]
        if let Some(usage) = item.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref()) {
            total.1 += usage.value as f64;
            memory.push((labels.clone(), usage.value as f64));
        }
        started.extend(container_start(core, &namespace, &pod, &container).map(|seconds| (labels, seconds)));
    }
    let pod_labels = |(namespace, pod): &(String, String)| format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}");
    let pressure = Pressure::read(&core.config.root_dir);
    let mut output = String::new();
    family(
        &mut output,
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        &cpu,
    );
    family(&mut output, "container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes", &memory);
    family(
        &mut output,
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        &started,
    );
    #[allow(clippy::cast_precision_loss)]
    {
        let node_cpu: Vec<_> = node_cpu_nanoseconds().map(|n| (String::new(), n as f64 / 1e9)).into_iter().collect();
        family(
            &mut output,
            "node_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the node in core-seconds",
            &node_cpu,
        );
        let used = core.machine.memory_bytes.saturating_sub(pressure.memory_available_bytes) as f64;
        family(
            &mut output,
            "node_memory_working_set_bytes",
            "gauge",
            "Current working set of the node in bytes",
            &[(String::new(), used)],
        );
    }
    let cpu: Vec<_> = pods.iter().map(|(pod, (seconds, _))| (pod_labels(pod), *seconds)).collect();
    let memory: Vec<_> = pods.iter().map(|(pod, (_, bytes))| (pod_labels(pod), *bytes)).collect();
    family(
        &mut output,
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        &cpu,
    );
    family(&mut output, "pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", &memory);
    family(
        &mut output,
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        &[(String::new(), f64::from(u8::from(failed)))],
    );
    exposition(output)
}
