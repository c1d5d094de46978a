//! `bench cluster`: what a user of one small machine feels. Start, first pod, memory, CPU and disk when idle, memory a pod, binary size.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::objects::json_call;
use crate::processes::{self, Usage};
use crate::server::Installation;
use crate::target::Target;

/// How long pods may take before the run fails.
const PODS_MAX: Duration = Duration::from_secs(180);
/// The image that needs no pull.
const IMAGE: &str = concat!("localhost/rusternetes:", env!("CARGO_PKG_VERSION"));

/// What to do, from the command line.
pub(crate) struct Plan {
    /// Our executable.
    pub(crate) executable: PathBuf,
    /// Where data directories are made.
    pub(crate) scratch: PathBuf,
    /// How often starts and first pods are repeated.
    pub(crate) rounds: usize,
    /// How long the cluster settles, and then how long it is watched, when idle.
    pub(crate) idle: Duration,
    /// Pods for the figure of memory a pod.
    pub(crate) pods: usize,
}

/// Figures by name; each with one value per round.
pub(crate) type Figures = BTreeMap<String, Vec<f64>>;

/// Runs the whole benchmark.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Figures> {
    let mut figures = Figures::new();
    let mut add = |name: &str, value: f64| {
        eprintln!("  {name:50} {value:>10.2}");
        figures.entry(name.to_owned()).or_default().push(value);
    };
    let size = std::fs::metadata(&plan.executable).with_context(|| format!("no {}", plan.executable.display()))?.len();
    add("binary (MiB)", size as f64 / 1024.0 / 1024.0);
    for _ in 1..plan.rounds {
        let (_installation, running) = starts(plan, &mut add).await?;
        running.stop()?;
    }
    let (installation, running) = starts(plan, &mut add).await?;
    let executables = [installation.executable().to_path_buf()];
    tokio::time::sleep(plan.idle).await;
    let before = processes::of_executables(&executables)?;
    tokio::time::sleep(plan.idle).await;
    let after = processes::of_executables(&executables)?;
    add("idle: memory, PSS of all our processes (MiB)", mib(&after));
    add("idle: CPU (% of a core)", (after.cpu_seconds - before.cpu_seconds) / plan.idle.as_secs_f64() * 100.0);
    add("idle: written (KB/s)", (after.written_bytes - before.written_bytes) as f64 / plan.idle.as_secs_f64() / 1000.0);
    let target = installation.target()?;
    let started = Instant::now();
    deployment(&target, "many", plan.pods, PODS_MAX).await?;
    add("pods started a second", plan.pods as f64 / started.elapsed().as_secs_f64());
    tokio::time::sleep(plan.idle / 4).await;
    let full = processes::of_executables(&executables)?;
    add("memory a pod, PSS of our processes (MiB)", (mib(&full) - mib(&after)) / plan.pods as f64);
    add("memory with the pods, PSS (MiB)", mib(&full));
    running.stop()?;
    Ok(figures)
}

fn mib(usage: &Usage) -> f64 {
    usage.pss_kib as f64 / 1024.0
}

/// One round on an empty data directory: first start, first pod, restart.
async fn starts(plan: &Plan, add: &mut impl FnMut(&str, f64)) -> anyhow::Result<(Installation, crate::server::Running)> {
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let installation = Installation::new(&plan.executable, &plan.scratch)?;
    let running = installation.start()?;
    add("first start to node Ready (ms)", milliseconds(running.ready_after));
    let target = installation.target()?;
    add("first deployment to pod Running (ms)", milliseconds(deployment(&target, "first", 1, PODS_MAX).await?));
    add("second deployment to pod Running (ms)", milliseconds(deployment(&target, "second", 1, PODS_MAX).await?));
    running.stop()?;
    let running = installation.start()?;
    add("restart to node Ready (ms)", milliseconds(running.ready_after));
    Ok((installation, running))
}

/// Creates a deployment of the built-in image and waits until all its pods run; returns how long that took.
async fn deployment(target: &Target, name: &str, replicas: usize, deadline: Duration) -> anyhow::Result<Duration> {
    let mut connection = Connection::open(target).await?;
    let labels = json!({"app": name});
    let body = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 1,
                     "containers": [{"name": "hello", "image": IMAGE, "command": ["rusternetes", "hello", "--port", "8080"]}]},
        }},
    });
    let started = Instant::now();
    connection.fetch(&json_call(Method::POST, "/apis/apps/v1/namespaces/default/deployments", Some(body))).await?;
    let list = json_call(Method::GET, &format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{name}"), None);
    loop {
        let pods: Value = serde_json::from_slice(&connection.fetch(&list).await?)?;
        let running =
            pods["items"].as_array().map_or(0, |items| items.iter().filter(|pod| pod["status"]["phase"] == "Running").count());
        if running == replicas {
            return Ok(started.elapsed());
        }
        ensure!(started.elapsed() < deadline, "only {running} of {replicas} pods run after {deadline:?}");
        tokio::time::sleep(Duration::from_millis(if replicas > 1 { 50 } else { 2 })).await;
    }
}

/// Where data directories of benchmarks are made unless told otherwise: on a disk, for `/tmp` may be memory.
pub(crate) fn default_scratch() -> &'static Path {
    Path::new("/var/tmp/rusternetes-bench")
}
