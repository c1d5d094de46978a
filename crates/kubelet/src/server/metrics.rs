//! `/metrics`, `/metrics/resource` and `/metrics/probes` in the Prometheus text format, with upstream's names.

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
use crate::probe::Counted;

pub(super) fn exposition(content: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, content);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// A family of samples, labels with their values. `help` begins with the stability of the metric, where upstream says that.
pub(super) fn family(output: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, f64)]) {
    let _infallible = writeln!(output, "# HELP {name} {help}\n# TYPE {name} {kind}");
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
    family(
        &mut output,
        "kubelet_running_pods",
        "gauge",
        "[ALPHA] Number of pods that have a running pod sandbox",
        &count(running),
    );
    family(
        &mut output,
        "kubelet_desired_pods",
        "gauge",
        "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
        &["", "true"].map(|is_static| {
            let desired = pods.iter().filter(|entry| entry.pod().is_static() != is_static.is_empty()).count();
            #[allow(clippy::cast_precision_loss)] // A count of pods.
            (format!("{{static=\"{is_static}\"}}"), desired as f64)
        }),
    );
    let samples: Vec<_> =
        containers.into_iter().map(|(state, n)| (format!("{{container_state=\"{state}\"}}"), f64::from(n))).collect();
    family(&mut output, "kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running", &samples);
    family(
        &mut output,
        "kubelet_node_name",
        "gauge",
        "[ALPHA] The node's name. The count is always 1.",
        &[(format!("{{node=\"{}\"}}", core.config.node_name), 1.0)],
    );
    exposition(output)
}

/// One number of a container's or pod's statistics as the exposition format has it.
type Read = fn(&v1::ContainerStats) -> Option<f64>;

#[allow(clippy::cast_precision_loss)] // Nanoseconds and bytes beyond 2^53 lose what nobody measures.
pub(super) fn cpu_seconds(stats: &v1::ContainerStats) -> Option<f64> {
    Some(stats.cpu.as_ref()?.usage_core_nano_seconds.as_ref()?.value as f64 / 1e9)
}

#[allow(clippy::cast_precision_loss)]
pub(super) fn bytes(value: Option<&v1::UInt64Value>) -> Option<f64> {
    value.map(|v| v.value as f64)
}

pub(super) fn working_set(stats: &v1::ContainerStats) -> Option<f64> {
    bytes(stats.memory.as_ref()?.working_set_bytes.as_ref())
}

fn swap(stats: &v1::ContainerStats) -> Option<f64> {
    bytes(stats.swap.as_ref()?.swap_usage_bytes.as_ref())
}

/// What metrics-server scrapes.
pub(super) async fn resource(core: &Core) -> Response<Body> {
    let stats = core.runtime.list_container_stats(v1::ListContainerStatsRequest { filter: None }).await;
    let failed = stats.is_err();
    let stats = stats.map(|r| r.stats).unwrap_or_default();
    let mut output = String::new();
    for (suffix, kind, help, read) in [
        (
            "cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the {} in core-seconds",
            cpu_seconds as Read,
        ),
        ("memory_working_set_bytes", "gauge", "[STABLE] Current working set of the {} in bytes", working_set),
        (
            "swap_usage_bytes",
            "gauge",
            "[ALPHA] Current amount of the {} swap usage in bytes. Reported only on non-windows systems",
            swap as Read,
        ),
    ] {
        let mut pods: BTreeMap<String, f64> = BTreeMap::new();
        let mut containers = Vec::new();
        for (item, (namespace, pod, container)) in identified(&stats) {
            let Some(value) = read(item) else { continue };
            containers.push((format!("{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\"}}"), value));
            *pods.entry(format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}")).or_default() += value;
        }
        let pods: Vec<_> = pods.into_iter().collect();
        family(&mut output, &format!("container_{suffix}"), kind, &help.replace("{}", "container"), &containers);
        family(&mut output, &format!("pod_{suffix}"), kind, &help.replace("{}", "pod"), &pods);
    }
    let started: Vec<_> = identified(&stats)
        .filter_map(|(_, (namespace, pod, container))| {
            let seconds = container_start(core, &namespace, &pod, &container)?;
            Some((format!("{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\"}}"), seconds))
        })
        .collect();
    let help = "[STABLE] Start time of the container since unix epoch in seconds";
    family(&mut output, "container_start_time_seconds", "gauge", help, &started);
    node_usage(core, &mut output);
    let error = [(String::new(), f64::from(u8::from(failed)))];
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    family(&mut output, "resource_scrape_error", "gauge", help, &error);
    exposition(output)
}

fn identified(stats: &[v1::ContainerStats]) -> impl Iterator<Item = (&v1::ContainerStats, (String, String, String))> {
    stats.iter().filter_map(|item| Some((item, identity(item.attributes.as_ref()?))))
}

#[allow(clippy::cast_precision_loss)]
fn node_usage(core: &Core, output: &mut String) {
    let cpu: Vec<_> = node_cpu_nanoseconds().map(|n| (String::new(), n as f64 / 1e9)).into_iter().collect();
    let help = "[STABLE] Cumulative cpu time consumed by the node in core-seconds";
    family(output, "node_cpu_usage_seconds_total", "counter", help, &cpu);
    let pressure = Pressure::read(&core.config.root_dir);
    let used = core.machine.memory_bytes.saturating_sub(pressure.memory_available_bytes) as f64;
    let help = "[STABLE] Current working set of the node in bytes";
    family(output, "node_memory_working_set_bytes", "gauge", help, &[(String::new(), used)]);
}

/// How often each probe has checked.
pub(super) fn probes(core: &Core) -> Response<Body> {
    let mut samples = Vec::new();
    for (kind, counted) in core.probes.counts() {
        let Counted { namespace, pod, uid, container, .. } = &counted;
        for (result, count) in [("successful", counted.successful), ("failed", counted.failed), ("unknown", counted.unknown)] {
            let labels = format!(
                "{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\",pod_uid=\"{uid}\",probe_type=\"{}\",result=\"{result}\"}}",
                kind.title()
            );
            #[allow(clippy::cast_precision_loss)] // A check a second for a million years.
            if count > 0 {
                samples.push((labels, count as f64));
            }
        }
    }
    samples.sort_by(|a, b| a.0.cmp(&b.0));
    let mut output = String::new();
    let help = "[STABLE] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    family(&mut output, "prober_probe_total", "counter", help, &samples);
    exposition(output)
}
