//! `bench scheduler`: our scheduler and upstream's in turns, each against a fresh API server of ours with the same nodes and pods.
//!
//! Nobody runs the pods. The measured pods wait already when the scheduler starts, so that neither the load generator nor the creation of
//! pods is measured; a watch counts the bindings. Invariant: both get the same flags and configuration, with no limit on their requests.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::api_server::{ApiServer, Kind};
use crate::connection::{Call, Connection};
use crate::objects::{NAMESPACE, create_namespace, json_call};
use crate::peers;
use crate::report::{Better, Figure, Figures, Side};
use crate::scheduling::{Group, Scheduling, Workload, numbered};
use crate::target::Target;

/// Connections that create objects.
const CONNECTIONS: usize = 16;
/// No binding for so long: the scheduler is stuck.
const STALL_MAX: Duration = Duration::from_secs(90);

/// What to do, from the command line.
pub(crate) struct Plan {
    /// Our executable.
    pub(crate) executable: PathBuf,
    /// Where data directories are made.
    pub(crate) scratch: PathBuf,
    /// The workloads.
    pub(crate) workloads: Scheduling,
    /// Only those whose name contains this.
    pub(crate) only: Option<String>,
    /// Sizes of the cluster.
    pub(crate) nodes: Vec<usize>,
    /// How often each is run.
    pub(crate) rounds: usize,
    /// Whether to run upstream's scheduler, too.
    pub(crate) upstream: bool,
    /// `--feature-gates` of both.
    pub(crate) feature_gates: Option<String>,
}

/// What one run came to.
struct Outcome {
    pods_per_second: f64,
    cpu_ms_per_pod: f64,
    peak_mib: f64,
}

/// Runs all workloads.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Figures::new(&plan.workloads.goals);
    let wanted = |workload: &&Workload| plan.only.as_ref().is_none_or(|only| workload.name.contains(only));
    for nodes in &plan.nodes {
        for workload in plan.workloads.workloads.iter().filter(wanted) {
            for _ in 0..plan.rounds {
                for side in [Side::Ours, Side::Peer].into_iter().filter(|side| *side == Side::Ours || plan.upstream) {
                    let what = format!("{}, {nodes} nodes", workload.name);
                    let run = one_run(plan, workload, *nodes, side == Side::Ours).await;
                    let outcome = run.with_context(|| format!("{what}, {}", side.name()))?;
                    figures.add(side, &format!("{what} (pods/s)"), outcome.pods_per_second, Better::More);
                    let cpu = outcome.cpu_ms_per_pod;
                    figures.add(side, &format!("{what}: CPU of the scheduler (ms a pod)"), cpu, Better::Less);
                    let memory = outcome.peak_mib;
                    figures.add(side, &format!("{what}: memory of the scheduler, peak (MiB)"), memory, Better::Less);
                }
            }
        }
    }
    let figures = figures.finish();
    ensure!(!figures.is_empty(), "no workload is called {:?}", plan.only.as_deref().unwrap_or_default());
    Ok(figures)
}

async fn one_run(plan: &Plan, workload: &Workload, nodes: usize, ours: bool) -> anyhow::Result<Outcome> {
    let server = ApiServer::start(&Kind::Ours(plan.executable.clone()), &plan.scratch).await?;
    let target = &server.target;
    prepare(target, &plan.workloads, nodes).await?;
    create_pods(target, &plan.workloads, &workload.before, "before", nodes).await?;
    create_pods(target, &plan.workloads, &workload.measured, "measured", nodes).await?;
    let measured = workload.measured.len(nodes);
    let bindings = Bindings::open(target).await?;
    let scheduler = Scheduler::start(plan, &workload.plugin_config, &server.kubeconfig(), ours)?;
    let (first, last) = bindings.count(measured).await.with_context(|| scheduler.log())?;
    let (cpu, peak_mib) = scheduler.usage()?;
    let seconds = last.duration_since(first).as_secs_f64().max(1e-3);
    Ok(Outcome {
        pods_per_second: (measured - 1).max(1) as f64 / seconds,
        cpu_ms_per_pod: cpu.as_secs_f64() * 1000.0 / measured as f64,
        peak_mib,
    })
}

/// Namespace, service account, priority class, nodes.
async fn prepare(target: &Target, workloads: &Scheduling, nodes: usize) -> anyhow::Result<()> {
    let mut connection = Connection::open(target).await?;
    connection.fetch(&create_namespace()).await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    connection.fetch(&json_call(Method::POST, &path, Some(account))).await?;
    let class =
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000});
    connection.fetch(&json_call(Method::POST, "/apis/scheduling.k8s.io/v1/priorityclasses", Some(class))).await?;
    let calls = (0..nodes).map(|index| {
        let mut node = numbered(&workloads.node, index);
        node["apiVersion"] = "v1".into();
        node["kind"] = "Node".into();
        json_call(Method::POST, "/api/v1/nodes", Some(node))
    });
    send_all(target, calls.collect()).await.context("cannot create the nodes")?;
    // Admission taints new nodes until the node lifecycle controller finds them ready; there is none here.
    let untaint = (0..nodes).map(|index| Call {
        body: Some(("application/merge-patch+json", Bytes::from_static(br#"{"spec":{"taints":null}}"#))),
        ..json_call(Method::PATCH, &format!("/api/v1/nodes/node-{index}"), None)
    });
    send_all(target, untaint.collect()).await.context("cannot remove the nodes' taints")
}

async fn create_pods(target: &Target, workloads: &Scheduling, group: &Group, name: &str, nodes: usize) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let pods = (0..group.len(nodes)).map(|index| {
        let pod: Value = workloads.pod(group, name, index, nodes);
        json_call(Method::POST, &path, Some(pod))
    });
    send_all(target, pods.collect()).await.with_context(|| format!("cannot create the pods {name:?}"))
}

/// Sends requests over several connections.
pub(crate) async fn send_all(target: &Target, calls: Vec<Call>) -> anyhow::Result<()> {
    let (calls, next) = (Arc::new(calls), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS.min(calls.len()) {
        let mut connection = Connection::open(target).await?;
        let (calls, next) = (Arc::clone(&calls), Arc::clone(&next));
        tasks.spawn(async move {
            while let Some(call) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
                connection.fetch(call).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// A watch of the measured pods that have a node: each shows up once, when it is bound.
struct Bindings {
    body: hyper::body::Incoming,
    /// Held open.
    _connection: Connection,
}

impl Bindings {
    async fn open(target: &Target) -> anyhow::Result<Self> {
        let mut connection = Connection::open(target).await?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?fieldSelector=spec.nodeName%21%3D");
        let list = format!("{path}&limit=1");
        let list: Value = serde_json::from_slice(&connection.fetch(&json_call(Method::GET, &list, None)).await?)?;
        let version = list["metadata"]["resourceVersion"].as_str().context("a list has a resourceVersion")?;
        let watch = json_call(Method::GET, &format!("{path}&watch=1&resourceVersion={version}"), None);
        let response = connection.start(&watch).await?;
        ensure!(response.status().is_success(), "the watch answered {}", response.status());
        Ok(Self { body: response.into_body(), _connection: connection })
    }

    /// Waits for so many bindings; returns the moments of the first and of the last.
    async fn count(mut self, wanted: usize) -> anyhow::Result<(Instant, Instant)> {
        let (mut line, mut seen, mut first) = (Vec::new(), 0, None);
        loop {
            let Ok(frame) = tokio::time::timeout(STALL_MAX, self.body.frame()).await else {
                bail!("{seen} of {wanted} pods were bound, and no more for {STALL_MAX:?}");
            };
            let frame = frame.context("the watch ended early")??;
            let Some(data) = frame.data_ref() else { continue };
            for part in data.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if line.ends_with(b"\n") {
                    seen += usize::from(is_binding(&line));
                    line.clear();
                    if seen > 0 {
                        first.get_or_insert_with(Instant::now);
                    }
                }
            }
            if let Some(first) = first.filter(|_| seen >= wanted) {
                return Ok((first, Instant::now()));
            }
        }
    }
}

/// Whether an event is about a measured pod that was not selected before.
fn is_binding(event: &[u8]) -> bool {
    let head = &event[..event.len().min(40)];
    let contains = |text: &[u8], part: &[u8]| text.windows(part.len()).any(|window| window == part);
    contains(head, b"\"ADDED\"") && contains(event, b"\"name\":\"measured-")
}

/// A started scheduler. Dropping it kills it.
struct Scheduler {
    child: Child,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

impl Scheduler {
    fn start(plan: &Plan, plugin_config: &[Value], kubeconfig: &Path, ours: bool) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("bench-scheduler-").tempdir_in(&plan.scratch)?;
        // Upstream's own limit of 50 requests a second would be what is measured.
        let config = json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": false},
            "clientConnection": {"kubeconfig": kubeconfig, "qps": 100_000, "burst": 100_000},
            "profiles": [{"schedulerName": "default-scheduler", "pluginConfig": plugin_config}],
        });
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, config.to_string())?;
        let mut command = Command::new(if ours { plan.executable.clone() } else { peers::find("kube-scheduler")? });
        if ours {
            command.arg("scheduler");
        }
        command.arg(format!("--config={}", path.display())).arg("--secure-port=0");
        if let Some(gates) = &plan.feature_gates {
            command.arg(format!("--feature-gates={gates}"));
        }
        let log = directory.path().join("scheduler.log");
        let file = std::fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("cannot start the scheduler")?;
        Ok(Self { child, log, _directory: directory })
    }

    /// The end of its log, for an error.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        format!("the scheduler's log ends with:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// CPU time so far, and the most memory that it had at once.
    fn usage(&self) -> anyhow::Result<(Duration, f64)> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = std::fs::read_to_string(process.join("status")).context("the scheduler has ended")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("/proc/PID/status has VmHWM")?;
        let kib: f64 = peak.trim().trim_end_matches(" kB").parse()?;
        let mut nanoseconds = 0;
        for thread in std::fs::read_dir(process.join("task"))? {
            let schedstat = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanoseconds += schedstat.split_whitespace().next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok((Duration::from_nanos(nanoseconds), kib / 1024.0))
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_of_measured_pods_are_counted() {
        let check = |event: &str, expected| assert_eq!(is_binding(event.as_bytes()), expected, "{event}");
        check(r#"{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"measured-7"}}}"#, true);
        check(r#"{"type":"MODIFIED","object":{"kind":"Pod","metadata":{"name":"measured-7"}}}"#, false);
        check(r#"{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"before-7"}}}"#, false);
    }
}
