//! `bench growth`: what one pod's change costs our controllers, scheduler and API server, in a small cluster and in a large one.
//!
//! Invariant: the same pods of the same Deployments change; only what stands around them differs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api_server::{ApiServer, Kind};
use crate::connection::{Call, Connection};
use crate::controllers::{self, Cluster, ControllersWorkload, Progress, deployment, get, grouped, nodes_ready, service_account};
use crate::objects::{NAMESPACE, create_namespace, json_call};
use crate::processes;
use crate::report::{Better, Figure, Figures, Goals, Side};
use crate::scheduler::send_all;
use crate::target::Target;

/// After everything is ready: what follows from the start is over by then.
const REST: Duration = Duration::from_secs(20);
/// How long a cluster without a change is watched.
const IDLE: Duration = Duration::from_secs(20);

/// A workload file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrowthWorkload {
    #[serde(rename = "title")]
    _title: String,
    /// Pods of each Deployment.
    replicas: usize,
    /// Deployments of which a pod is replaced in each round.
    changed: usize,
    rounds: usize,
    /// Sizes of the cluster, the small one first.
    pods: Vec<usize>,
    #[serde(default)]
    goals: Goals,
}

impl GrowthWorkload {
    /// Reads and checks a file; `pods`, if there are any, instead of its sizes.
    pub(crate) fn load(path: &Path, pods: Vec<usize>) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut file: Self = serde_saphyr::from_str(&text).with_context(|| format!("{} is no workload", path.display()))?;
        if !pods.is_empty() {
            file.pods = pods;
        }
        let smallest = file.pods.iter().min().copied().unwrap_or(0);
        ensure!(file.pods.len() > 1, "{}: one size grows to nothing", path.display());
        ensure!(file.replicas > 0, "{}: Deployments without pods", path.display());
        ensure!(smallest >= file.changed * file.replicas, "{}: more changes than the small cluster has", path.display());
        Ok(file)
    }
}

/// What to do, from the command line.
pub(crate) struct Plan {
    /// Our executable.
    pub(crate) executable: PathBuf,
    /// Where data directories are made.
    pub(crate) scratch: PathBuf,
    /// What is measured.
    pub(crate) workload: GrowthWorkload,
}

/// Those whose CPU time is looked at, in this order.
const PROCESSES: [&str; 3] = ["controller manager", "scheduler", "API server"];

/// Measures all sizes, and how much more the largest costs than the smallest.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Figures::new(&plan.workload.goals);
    let mut costs = Vec::new();
    for pods in &plan.workload.pods {
        let cost = one_size(plan, *pods).await.with_context(|| format!("{pods} pods"))?;
        for (name, ms) in PROCESSES.iter().zip(cost) {
            figures.add(Side::Ours, &format!("{name}: one pod replaced among {} (ms of CPU)", grouped(*pods)), ms, Better::Less);
        }
        costs.push((*pods, cost));
    }
    let [(small, first), .., (large, last)] = costs.as_slice() else { return Ok(figures.finish()) };
    for (index, name) in PROCESSES.iter().enumerate() {
        let times = last[index] / first[index].max(f64::MIN_POSITIVE);
        let name = format!("{name}: {} pods to {} (times)", grouped(*large), grouped(*small));
        figures.add(Side::Ours, &name, times, Better::Less);
    }
    Ok(figures.finish())
}

/// Milliseconds of CPU for one pod's replacement, of each process.
async fn one_size(plan: &Plan, pods: usize) -> anyhow::Result<[f64; 3]> {
    let GrowthWorkload { replicas, changed, rounds, .. } = plan.workload;
    let still = ControllersWorkload::still(pods / replicas, replicas);
    let (nodes, deployments) = (still.nodes, still.deployments);
    let server = ApiServer::start(&Kind::Ours(plan.executable.clone()), &plan.scratch).await?;
    let directory = tempfile::Builder::new().prefix("bench-growth-").tempdir_in(&plan.scratch)?;
    let all = controllers::Plan {
        executable: plan.executable.clone(),
        scratch: plan.scratch.clone(),
        workload: still,
        rounds: 1,
        upstream: None,
    };
    let mut cluster = Cluster::start(&all, &server, directory.path(), Side::Ours)?;
    let target = &server.target;
    Connection::open(target).await?.fetch(&create_namespace()).await?;
    cluster.until("the nodes are ready", || nodes_ready(target, nodes)).await?;
    cluster.until("there is a service account", || service_account(target)).await?;
    let mut progress = Progress::open(target).await?;
    populate(target, deployments, replicas).await?;
    progress.until_first(deployments, replicas, |_| 1).await.with_context(|| cluster.logs())?;
    tokio::time::sleep(REST).await;
    let pids = cluster.daemons.pids();
    // Hollow nodes, the scheduler, the controllers: in the order of their start.
    let look = || -> anyhow::Result<[f64; 3]> {
        let of = |pids: &[u32]| processes::of_pids(pids).map(|usage| usage.cpu_seconds);
        Ok([of(&pids[2..])?, of(&pids[1..2])?, of(&server.pids())?])
    };
    let (begin, started) = (look()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let (end, idle) = (look()?, started.elapsed().as_secs_f64());
    let at_rest: [f64; 3] = std::array::from_fn(|i| (end[i] - begin[i]) / idle);
    // One for all: handshakes are no part of a pod's change.
    let mut connection = Connection::open(target).await?;
    let (mut used, mut busy, mut left) = ([0.0; 3], 0.0, rounds);
    while left > 0 {
        // Pods that nobody deletes keep their names, so that as many rounds as a Deployment has pods need no list inside of the measurement.
        let names = names(target, changed, replicas).await?;
        let (begin, started) = (look()?, Instant::now());
        for round in 0..left.min(replicas) {
            progress.forget();
            for names in &names {
                connection.fetch(&delete(&names[round])).await.context("cannot delete a pod")?;
            }
            progress.until_first(changed, replicas, |_| 1).await.with_context(|| cluster.logs())?;
        }
        let end = look()?;
        busy += started.elapsed().as_secs_f64();
        used = std::array::from_fn(|i| used[i] + end[i] - begin[i]);
        left = left.saturating_sub(replicas);
    }
    cluster.daemons.stop()?;
    #[allow(clippy::cast_precision_loss, reason = "counts of pods are exact")]
    let changes = (rounds * changed) as f64;
    Ok(std::array::from_fn(|i| (used[i] - at_rest[i] * busy) * 1000.0 / changes))
}

/// Deployments with all that looks at their pods.
async fn populate(target: &Target, deployments: usize, replicas: usize) -> anyhow::Result<()> {
    let path = |group: &str, plural: &str| format!("/{group}/namespaces/{NAMESPACE}/{plural}");
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"}, "spec": {"hard": {"pods": "1000000"}}});
    let mut calls = vec![json_call(Method::POST, &path("api/v1", "resourcequotas"), Some(quota))];
    for index in 0..deployments {
        let app = format!("d-{index}");
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app}, "spec": {
            "clusterIP": "None", "selector": {"app": app}, "ports": [{"port": 80}]}});
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": app}, "spec": {
            "minAvailable": 1, "selector": {"matchLabels": {"app": app}}}});
        calls.push(json_call(Method::POST, &path("api/v1", "services"), Some(service)));
        calls.push(json_call(Method::POST, &path("apis/policy/v1", "poddisruptionbudgets"), Some(budget)));
        calls.push(json_call(Method::POST, &path("apis/apps/v1", "deployments"), Some(deployment(index, replicas))));
    }
    send_all(target, calls).await.context("cannot create the Deployments")
}

/// The names of the pods of each of the first Deployments.
async fn names(target: &Target, deployments: usize, replicas: usize) -> anyhow::Result<Vec<Vec<String>>> {
    let mut all = Vec::new();
    for index in 0..deployments {
        let list: Value = get(target, &format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dd-{index}")).await?;
        let items = list["items"].as_array().context("a list has items")?;
        let names: Vec<String> = items.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned).collect();
        ensure!(names.len() == replicas, "d-{index} has {} pods", names.len());
        all.push(names);
    }
    Ok(all)
}

/// The deletion of a pod.
fn delete(name: &str) -> Call {
    json_call(Method::DELETE, &format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_workload_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/growth.yaml");
        GrowthWorkload::load(&path, Vec::new()).expect("valid");
    }
}
