//! `/metrics/cadvisor`: what containers and pods use and what they were given, under cAdvisor's names and labels
//! (<https://github.com/google/cadvisor/blob/master/docs/storage/prometheus.md>). The numbers are those that the runtime measures; what it does
//! not measure (disk throughput, throttled periods, sockets) is left out.

use cri::v1;
use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;

use super::metrics::{bytes, cpu_seconds, exposition, family, working_set};
use super::pods::{container_start, identity};
use super::{Body, text};
use crate::context::Core;
use crate::pod::access::PodAccess;
use crate::pod::resources;
use crate::runtime::labels;

/// The labels of one row but for `cpu` and the like.
struct Labels {
    container: String,
    cgroup: String,
    image: String,
    id: String,
    namespace: String,
    pod: String,
}

impl Labels {
    /// In the order of the alphabet, as cAdvisor writes them. `more` are names and values of others.
    fn text(&self, more: &[(&str, &str)]) -> String {
        let mut all = vec![
            ("container", self.container.as_str()),
            ("id", &self.cgroup),
            ("image", &self.image),
            ("name", &self.id),
            ("namespace", &self.namespace),
            ("pod", &self.pod),
        ];
        all.extend(more);
        all.sort_unstable();
        let pairs: Vec<String> = all.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        format!("{{{}}}", pairs.join(","))
    }
}

/// A container with what it was given.
struct Row<'a> {
    labels: Labels,
    stats: &'a v1::ContainerStats,
    resources: v1::LinuxContainerResources,
    started: Option<f64>,
}

/// A pod: the sum of its cgroup, and its network.
struct PodRow<'a> {
    labels: Labels,
    stats: &'a v1::LinuxPodSandboxStats,
    host_network: bool,
}

/// The response; without statistics of containers there is none.
pub(super) async fn answer(core: &Core) -> Response<Body> {
    let stats = match core.runtime.list_container_stats(v1::ListContainerStatsRequest { filter: None }).await {
        Ok(response) => response.stats,
        Err(status) => return text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", status.message())),
    };
    let sandboxes = sandboxes(core).await;
    let rows: Vec<Row<'_>> = stats.iter().filter_map(|stats| row(core, stats)).collect();
    let pods: Vec<PodRow<'_>> = sandboxes.iter().filter_map(|stats| pod_row(core, stats)).collect();
    let mut output = render(&rows, &pods);
    #[allow(clippy::cast_precision_loss)]
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", core.machine.cpus as f64),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", core.machine.memory_bytes as f64),
    ] {
        family(&mut output, name, "gauge", help, &[(String::new(), value)]);
    }
    exposition(output)
}

/// Statistics of pods; none from a runtime that does not measure them.
pub(super) async fn sandboxes(core: &Core) -> Vec<v1::PodSandboxStats> {
    let listed = core.runtime.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest { filter: None }).await;
    listed.map(|response| response.stats).unwrap_or_default()
}

fn row<'a>(core: &Core, stats: &'a v1::ContainerStats) -> Option<Row<'a>> {
    let attributes = stats.attributes.as_ref()?;
    let (namespace, name, container) = identity(attributes);
    let pod: std::sync::Arc<Pod> = core.pods.by_name(&namespace, &name)?.pod();
    let (_, spec) = pod.find_container(&container)?;
    let labels = Labels {
        cgroup: format!("{}/{}", core.cgroups.parent(&pod), attributes.id),
        image: spec.image.clone().unwrap_or_default(),
        id: attributes.id.clone(),
        container: container.clone(),
        namespace: namespace.clone(),
        pod: name.clone(),
    };
    let resources = resources::container_resources(&pod, &spec, core.machine.memory_bytes, core.cgroups.is_v2());
    Some(Row { labels, stats, resources, started: container_start(core, &namespace, &name, &container) })
}

fn pod_row<'a>(core: &Core, stats: &'a v1::PodSandboxStats) -> Option<PodRow<'a>> {
    let attributes = stats.attributes.as_ref()?;
    let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
    let (namespace, name) = (label(labels::POD_NAMESPACE), label(labels::POD_NAME));
    let pod = core.pods.by_name(&namespace, &name)?.pod();
    let cgroup = core.cgroups.parent(&pod);
    let empty = String::new;
    let labels = Labels { container: empty(), cgroup, image: empty(), id: empty(), namespace, pod: name };
    Some(PodRow { labels, stats: stats.linux.as_ref()?, host_network: pod.host_network() })
}

/// Families of samples that containers and pods have in common: name, kind, help, and how each is read.
type Common = (
    &'static str,
    &'static str,
    &'static str,
    fn(&v1::ContainerStats) -> Option<f64>,
    fn(&v1::LinuxPodSandboxStats) -> Option<f64>,
);

const COMMON: [Common; 5] = [
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", cpu_seconds, |pod| {
        pod.cpu.as_ref()?.usage_core_nano_seconds.as_ref().map(|usage| usage.value as f64 / 1e9)
    }),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", working_set, |pod| {
        bytes(pod.memory.as_ref()?.working_set_bytes.as_ref())
    }),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |stats| bytes(stats.memory.as_ref()?.usage_bytes.as_ref()),
        |pod| bytes(pod.memory.as_ref()?.usage_bytes.as_ref()),
    ),
    (
        "container_memory_rss",
        "gauge",
        "Size of RSS in bytes.",
        |stats| bytes(stats.memory.as_ref()?.rss_bytes.as_ref()),
        |pod| bytes(pod.memory.as_ref()?.rss_bytes.as_ref()),
    ),
    (
        "container_last_seen",
        "gauge",
        "Last time a container was seen by the exporter",
        |stats| Some((stats.cpu.as_ref()?.timestamp / 1_000_000_000) as f64),
        |pod| Some((pod.cpu.as_ref()?.timestamp / 1_000_000_000) as f64),
    ),
];

fn render(rows: &[Row<'_>], pods: &[PodRow<'_>]) -> String {
    let mut output = String::new();
    for (name, kind, help, of_container, of_pod) in COMMON {
        let more: &[(&str, &str)] = if name == "container_cpu_usage_seconds_total" { &[("cpu", "total")] } else { &[] };
        let of_containers = rows.iter().filter_map(|row| Some((row.labels.text(more), of_container(row.stats)?)));
        let samples: Vec<_> =
            of_containers.chain(pods.iter().filter_map(|pod| Some((pod.labels.text(more), of_pod(pod.stats)?)))).collect();
        family(&mut output, name, kind, help, &samples);
    }
    of_containers(&mut output, rows);
    specifications(&mut output, rows);
    network(&mut output, pods);
    output
}

/// What only containers have.
fn of_containers(output: &mut String, rows: &[Row<'_>]) {
    let mut write = |name: &str, kind: &str, help: &str, read: &dyn Fn(&Row<'_>) -> Option<f64>| {
        let samples: Vec<_> = rows.iter().filter_map(|row| Some((row.labels.text(&[]), read(row)?))).collect();
        family(output, name, kind, help, &samples);
    };
    write("container_memory_swap", "gauge", "Container swap usage in bytes.", &|row| {
        bytes(row.stats.swap.as_ref()?.swap_usage_bytes.as_ref())
    });
    write(
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
        &|row| bytes(row.stats.writable_layer.as_ref()?.used_bytes.as_ref()),
    );
    write("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", &|row| {
        row.started
    });
    let failures = rows.iter().flat_map(|row| {
        let memory = row.stats.memory.as_ref();
        let read = [
            ("pgfault", memory.and_then(|memory| bytes(memory.page_faults.as_ref()))),
            ("pgmajfault", memory.and_then(|memory| bytes(memory.major_page_faults.as_ref()))),
        ];
        let sample = |(kind, value): (&str, Option<f64>)| {
            Some((row.labels.text(&[("failure_type", kind), ("scope", "container")]), value?))
        };
        read.into_iter().filter_map(sample).collect::<Vec<_>>()
    });
    let help = "Cumulative count of memory allocation failures.";
    family(output, "container_memory_failures_total", "counter", help, &failures.collect::<Vec<_>>());
}

/// What containers were given.
#[allow(clippy::cast_precision_loss)] // Shares, microseconds and bytes.
fn specifications(output: &mut String, rows: &[Row<'_>]) {
    let mut write = |name: &str, help: &str, read: &dyn Fn(&v1::LinuxContainerResources) -> Option<i64>| {
        let samples: Vec<_> = rows.iter().filter_map(|row| Some((row.labels.text(&[]), read(&row.resources)? as f64))).collect();
        family(output, name, "gauge", help, &samples);
    };
    let period = "CPU period of the container.";
    write("container_spec_cpu_period", period, &|resources| Some(resources.cpu_period).filter(|period| *period > 0));
    // As cAdvisor: nothing where there is no quota, but 0 where there is no limit of memory.
    write("container_spec_cpu_quota", "CPU quota of the container.", &|resources| {
        Some(resources.cpu_quota).filter(|quota| *quota > 0)
    });
    write("container_spec_cpu_shares", "CPU share of the container.", &|resources| Some(resources.cpu_shares));
    let memory = "Memory limit for the container.";
    write("container_spec_memory_limit_bytes", memory, &|resources| Some(resources.memory_limit_in_bytes));
    let swap = "Memory swap limit for the container.";
    write("container_spec_memory_swap_limit_bytes", swap, &|resources| Some(resources.memory_swap_limit_in_bytes));
}

/// Interfaces of pods that have some of their own.
fn network(output: &mut String, pods: &[PodRow<'_>]) {
    type Read = fn(&v1::NetworkInterfaceUsage) -> Option<&v1::UInt64Value>;
    let families: [(&str, &str, Read); 4] = [
        ("receive_bytes", "bytes received", |usage| usage.rx_bytes.as_ref()),
        ("receive_errors", "errors encountered while receiving", |usage| usage.rx_errors.as_ref()),
        ("transmit_bytes", "bytes transmitted", |usage| usage.tx_bytes.as_ref()),
        ("transmit_errors", "errors encountered while transmitting", |usage| usage.tx_errors.as_ref()),
    ];
    for (name, what, read) in families {
        let samples: Vec<_> = pods
            .iter()
            .filter(|pod| !pod.host_network)
            .flat_map(|pod| pod.stats.network.iter().flat_map(|network| &network.interfaces).map(move |usage| (pod, usage)))
            .filter_map(|(pod, usage)| Some((pod.labels.text(&[("interface", &usage.name)]), bytes(read(usage))?)))
            .collect();
        family(output, &format!("container_network_{name}_total"), "counter", &format!("Cumulative count of {what}"), &samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(container: &str) -> Labels {
        let text = str::to_owned;
        Labels {
            container: text(container),
            cgroup: text("/kubepods/podu/i"),
            image: text(if container.is_empty() { "" } else { "image" }),
            id: text(if container.is_empty() { "" } else { "i" }),
            namespace: text("n"),
            pod: text("p"),
        }
    }

    fn value(value: u64) -> Option<v1::UInt64Value> {
        Some(v1::UInt64Value { value })
    }

    #[test]
    fn rows_have_cadvisors_names_and_labels() {
        let cpu = |nanoseconds| {
            Some(v1::CpuUsage { usage_core_nano_seconds: value(nanoseconds), timestamp: 7_000_000_000, ..Default::default() })
        };
        let stats = v1::ContainerStats {
            cpu: cpu(1_500_000_000),
            memory: Some(v1::MemoryUsage { working_set_bytes: value(5), page_faults: value(3), ..Default::default() }),
            ..Default::default()
        };
        let resources = v1::LinuxContainerResources { cpu_shares: 102, memory_limit_in_bytes: 9, ..Default::default() };
        let row = Row { labels: labels("c"), stats: &stats, resources, started: Some(5.0) };
        let interface =
            v1::NetworkInterfaceUsage { name: "eth0".to_owned(), rx_bytes: value(10), tx_bytes: value(20), ..Default::default() };
        let of_pod = v1::LinuxPodSandboxStats {
            cpu: cpu(2_000_000_000),
            network: Some(v1::NetworkUsage { interfaces: vec![interface], ..Default::default() }),
            ..Default::default()
        };
        let pod = |host_network| PodRow { labels: labels(""), stats: &of_pod, host_network };
        let output = render(&[row], &[pod(false)]);
        let common = r#"id="/kubepods/podu/i",image="image",name="i",namespace="n",pod="p""#;
        let pods = r#"id="/kubepods/podu/i",image="""#;
        for line in [
            format!("container_cpu_usage_seconds_total{{container=\"c\",cpu=\"total\",{common}}} 1.5"),
            format!(
                "container_cpu_usage_seconds_total{{container=\"\",cpu=\"total\",{pods},name=\"\",namespace=\"n\",pod=\"p\"}} 2"
            ),
            format!("container_memory_working_set_bytes{{container=\"c\",{common}}} 5"),
            format!("container_start_time_seconds{{container=\"c\",{common}}} 5"),
            format!("container_spec_cpu_shares{{container=\"c\",{common}}} 102"),
            format!("container_spec_memory_limit_bytes{{container=\"c\",{common}}} 9"),
            format!(
                "container_network_receive_bytes_total{{container=\"\",{pods},interface=\"eth0\",name=\"\",namespace=\"n\",pod=\"p\"}} 10"
            ),
            "# TYPE container_network_transmit_bytes_total counter".to_owned(),
            "# HELP container_memory_working_set_bytes Current working set in bytes.".to_owned(),
        ] {
            assert!(output.lines().any(|found| found == line), "{line}\nis not in\n{output}");
        }
        assert!(output.contains("container_memory_failures_total{container=\"c\",failure_type=\"pgfault\","), "{output}");
        // What was not measured is not there, and neither is a quota that there is not.
        for absent in ["container_memory_rss{", "container_spec_cpu_quota{", "pgmajfault", "receive_errors_total{"] {
            assert!(!output.contains(absent), "{absent}\nis in\n{output}");
        }
        assert!(!render(&[], &[pod(true)]).contains("eth0"), "the host's network is not the pod's");
    }
}
