//! `bench controllers`: our controller manager and upstream's in turns, each with a fresh API server, a scheduler and hollow nodes of ours.
//!
//! Invariant: only the controller manager differs. Upstream's sends 20 requests a second unless told otherwise, which is what its users
//! wait for; [`Limits::None`] takes the limit away, so that the controllers themselves can be compared.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api_server::{ApiServer, Kind};
use crate::connection::{Call, Connection};
use crate::daemons::Daemons;
use crate::objects::{NAMESPACE, create_namespace, json_call};
use crate::peers;
use crate::processes;
use crate::report::{Better, Figure, Figures, Goals, Side};
use crate::scheduler::send_all;
use crate::target::Target;

/// No progress for so long: something is stuck.
const STALL_MAX: Duration = Duration::from_secs(120);
/// Resources whose writes are not the controllers' doing.
const OF_OTHERS: [&str; 4] = ["leases", "nodes", "events", "bindings"];

/// A workload file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ControllersWorkload {
    /// Shown above the results.
    #[serde(rename = "title")]
    _title: String,
    /// Hollow nodes; each takes 110 pods.
    pub(crate) nodes: usize,
    /// Deployments.
    pub(crate) deployments: usize,
    /// Pods of each.
    pub(crate) replicas: usize,
    /// So many of them get a new template.
    rolled: usize,
    /// What is wanted.
    #[serde(default)]
    goals: Goals,
}

impl ControllersWorkload {
    /// Deployments that are made and stay as they are.
    pub(crate) fn still(deployments: usize, replicas: usize) -> Self {
        // As many nodes as they need, and some room.
        let nodes = (deployments * replicas).div_ceil(80).max(3);
        Self { _title: String::new(), nodes, deployments, replicas, rolled: 0, goals: Goals::default() }
    }

    /// Reads and checks a file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: Self = serde_saphyr::from_str(&text).with_context(|| format!("{} is no workload", path.display()))?;
        ensure!(file.rolled <= file.deployments, "{}: `rolled` is more than there are", path.display());
        // A rolling update has a quarter more pods for a while.
        let most = file.deployments * file.replicas + file.rolled * file.replicas.div_ceil(4);
        ensure!(most <= file.nodes * 110, "{}: {} nodes do not hold {most} pods", path.display(), file.nodes);
        Ok(file)
    }
}

/// How many requests a second upstream's may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limits {
    /// As many as it can.
    None,
    /// As it is started without flags.
    Defaults,
}

/// What to do, from the command line.
pub(crate) struct Plan {
    /// Our executable.
    pub(crate) executable: PathBuf,
    /// Where data directories are made.
    pub(crate) scratch: PathBuf,
    /// What is measured.
    pub(crate) workload: ControllersWorkload,
    /// How often.
    pub(crate) rounds: usize,
    /// Whether to run upstream's controller manager, too.
    pub(crate) upstream: Option<Limits>,
}

/// Runs all rounds.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Figures::new(&plan.workload.goals);
    for _ in 0..plan.rounds {
        for side in [Side::Ours, Side::Peer].into_iter().filter(|side| *side == Side::Ours || plan.upstream.is_some()) {
            one_run(plan, side, &mut figures).await.with_context(|| side.name())?;
        }
    }
    Ok(figures.finish())
}

async fn one_run(plan: &Plan, side: Side, figures: &mut Figures) -> anyhow::Result<()> {
    let workload = &plan.workload;
    let server = ApiServer::start(&Kind::Ours(plan.executable.clone()), &plan.scratch).await?;
    let directory = tempfile::Builder::new().prefix("bench-controllers-").tempdir_in(&plan.scratch)?;
    let mut cluster = Cluster::start(plan, &server, directory.path(), side)?;
    let target = &server.target;
    Connection::open(target).await?.fetch(&create_namespace()).await?;
    cluster.until("the nodes are ready", || nodes_ready(target, workload.nodes)).await?;
    cluster.until("there is a service account", || service_account(target)).await?;
    let pods = workload.deployments * workload.replicas;
    let mut progress = Progress::open(target).await?;

    let writes = writes(target).await?;
    let begin = cluster.controllers()?;
    let started = Instant::now();
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
    let calls = (0..workload.deployments).map(|index| json_call(Method::POST, &path, Some(deployment(index, workload.replicas))));
    send_all(target, calls.collect()).await.context("cannot create the Deployments")?;
    progress.until(workload, |_| 1).await.with_context(|| cluster.logs())?;
    let name = format!("{} pods of {} Deployments ready", grouped(pods), grouped(workload.deployments));
    cluster.report(side, &name, started, begin, figures)?;
    figures.add(side, &format!("{name}: writes"), self::writes(target).await? - writes, Better::Less);

    let rolled = workload.rolled * workload.replicas;
    let writes = self::writes(target).await?;
    let begin = cluster.controllers()?;
    let started = Instant::now();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"example.com/round": "2"}}}}}).to_string();
    let calls = (0..workload.rolled).map(|index| Call {
        body: Some(("application/merge-patch+json", Bytes::from(patch.clone()))),
        ..json_call(Method::PATCH, &format!("{path}/d-{index}"), None)
    });
    send_all(target, calls.collect()).await.context("cannot change the Deployments")?;
    progress.until(workload, |index| if index < workload.rolled { 2 } else { 1 }).await.with_context(|| cluster.logs())?;
    let name = format!("rolling update of {} pods", grouped(rolled));
    cluster.report(side, &name, started, begin, figures)?;
    figures.add(side, &format!("{name}: writes"), self::writes(target).await? - writes, Better::Less);
    let peak = cluster.controllers()?.peak_kib as f64 / 1024.0;
    figures.add(side, "memory of the controller manager, peak (MiB)", peak, Better::Less);
    cluster.daemons.stop()
}

pub(crate) fn deployment(index: usize, replicas: usize) -> Value {
    let name = format!("d-{index}");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10.1"}],
                },
            },
        },
    })
}

/// What runs beside the API server. The controller manager comes last.
pub(crate) struct Cluster {
    pub(crate) daemons: Daemons,
}

impl Cluster {
    pub(crate) fn start(plan: &Plan, server: &ApiServer, directory: &Path, side: Side) -> anyhow::Result<Self> {
        let kubeconfig = format!("--kubeconfig={}", server.kubeconfig().display());
        let ours = |arguments: &[&str]| {
            let mut command = Command::new(&plan.executable);
            command.args(arguments).arg(&kubeconfig);
            command
        };
        let mut daemons = Daemons::new(directory);
        daemons.start("hollow", ours(&["hollow", "--count", &plan.workload.nodes.to_string()]))?;
        daemons.start("scheduler", ours(&["scheduler", "--leader-elect=false", "--secure-port=0"]))?;
        let controllers = match side {
            Side::Ours => ours(&["controller-manager", "--leader-elect=false", "--secure-port=0"]),
            Side::Peer => {
                let mut command = Command::new(peers::find("kube-controller-manager")?);
                command.args(["--leader-elect=false", "--secure-port=0"]).arg(&kubeconfig);
                if plan.upstream == Some(Limits::None) {
                    command.args(["--kube-api-qps=100000", "--kube-api-burst=100000"]);
                }
                command
            }
        };
        daemons.start("controllers", controllers)?;
        Ok(Self { daemons })
    }

    /// What the controller manager has used so far.
    fn controllers(&self) -> anyhow::Result<processes::Usage> {
        let pid = self.daemons.pids().last().copied().context("the controller manager was started last")?;
        processes::of_pids(&[pid])
    }

    fn report(
        &self,
        side: Side,
        name: &str,
        started: Instant,
        begin: processes::Usage,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        figures.add(side, &format!("{name} (s)"), started.elapsed().as_secs_f64(), Better::Less);
        let cpu = self.controllers()?.cpu_seconds - begin.cpu_seconds;
        figures.add(side, &format!("{name}: CPU of the controller manager (s)"), cpu, Better::Less);
        Ok(())
    }

    /// Asks until it is so.
    pub(crate) async fn until<F: Future<Output = anyhow::Result<bool>>>(
        &mut self,
        what: &str,
        ask: impl Fn() -> F,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        while !ask().await? {
            self.daemons.check()?;
            ensure!(started.elapsed() < STALL_MAX, "waited {STALL_MAX:?} until {what}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    pub(crate) fn logs(&self) -> String {
        let tails = ["controllers", "scheduler", "hollow"].map(|name| format!("{name}:\n{}", self.daemons.tail(name)));
        tails.join("\n")
    }
}

pub(crate) async fn get(target: &Target, path: &str) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&Connection::open(target).await?.fetch(&json_call(Method::GET, path, None)).await?)?)
}

pub(crate) async fn nodes_ready(target: &Target, wanted: usize) -> anyhow::Result<bool> {
    let list = get(target, "/api/v1/nodes").await?;
    let nodes = list["items"].as_array().context("a list has items")?;
    Ok(nodes.iter().filter(|node| node["spec"]["taints"].as_array().is_none_or(Vec::is_empty)).count() == wanted)
}

pub(crate) async fn service_account(target: &Target) -> anyhow::Result<bool> {
    let list = get(target, &format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts")).await?;
    Ok(list["items"].as_array().is_some_and(|items| !items.is_empty()))
}

/// Writes that the API server has answered, without those of the scheduler and of nodes about themselves.
async fn writes(target: &Target) -> anyhow::Result<f64> {
    let bytes = Connection::open(target).await?.fetch(&json_call(Method::GET, "/metrics", None)).await?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().filter(|line| is_write(line)).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

fn is_write(line: &str) -> bool {
    let label =
        |name: &str| line.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
    line.starts_with("apiserver_request_total{")
        && matches!(label("verb"), "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE")
        && !OF_OTHERS.contains(&label("resource"))
        && label("subresource") != "binding"
}

/// Follows the Deployments.
pub(crate) struct Progress {
    body: hyper::body::Incoming,
    /// Held open.
    _connection: Connection,
    line: Vec<u8>,
    /// What each is done for, by name.
    done: HashMap<String, i64>,
    /// Those that were seen not to be done since [`Progress::forget`], if it was called.
    undone: Option<HashSet<String>>,
}

/// What counts of a Deployment.
#[derive(Deserialize)]
struct Deployment {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    generation: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: i64,
    replicas: usize,
    updated_replicas: usize,
    ready_replicas: usize,
    terminating_replicas: usize,
}

#[derive(Deserialize)]
struct Event {
    object: Deployment,
}

/// The generation for which a Deployment has all its pods, of its newest template, ready, and no others; 0 for none.
fn done_for(one: &Deployment, replicas: usize) -> i64 {
    let Status { observed_generation, replicas: all, updated_replicas, ready_replicas, terminating_replicas } = one.status;
    let pods = [all, updated_replicas, ready_replicas].iter().all(|count| *count == replicas) && terminating_replicas == 0;
    if pods && observed_generation >= one.metadata.generation { observed_generation } else { 0 }
}

impl Progress {
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        let mut connection = Connection::open(target).await?;
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments?watch=1&resourceVersion=0");
        let response = connection.start(&json_call(Method::GET, &path, None)).await?;
        ensure!(response.status().is_success(), "the watch answered {}", response.status());
        Ok(Self { body: response.into_body(), _connection: connection, line: Vec::new(), done: HashMap::new(), undone: None })
    }

    /// What was done so far does not count any more: each has to be seen undone first. An event of before may still be on its way.
    pub(crate) fn forget(&mut self) {
        self.done.clear();
        self.undone = Some(HashSet::new());
    }

    fn note(&mut self, name: String, generation: i64) {
        if let Some(undone) = &mut self.undone {
            if generation == 0 {
                undone.insert(name.clone());
            } else if !undone.contains(&name) {
                return;
            }
        }
        self.done.insert(name, generation);
    }

    /// Waits until every Deployment is done for at least the generation that is wanted of its number.
    async fn until(&mut self, workload: &ControllersWorkload, generation: impl Fn(usize) -> i64) -> anyhow::Result<()> {
        self.until_first(workload.deployments, workload.replicas, generation).await
    }

    /// The same for the first so many.
    pub(crate) async fn until_first(
        &mut self,
        deployments: usize,
        replicas: usize,
        generation: impl Fn(usize) -> i64,
    ) -> anyhow::Result<()> {
        let wanted: HashMap<String, i64> = (0..deployments).map(|index| (format!("d-{index}"), generation(index))).collect();
        loop {
            let done =
                wanted.iter().filter(|(name, generation)| self.done.get(*name).is_some_and(|done| done >= generation)).count();
            if done == wanted.len() {
                return Ok(());
            }
            let Ok(frame) = tokio::time::timeout(STALL_MAX, self.body.frame()).await else {
                bail!("{done} of {} Deployments are done, and nothing changed for {STALL_MAX:?}", wanted.len());
            };
            let frame = frame.context("the watch ended early")??;
            let Some(data) = frame.data_ref() else { continue };
            for part in data.split_inclusive(|byte| *byte == b'\n') {
                self.line.extend_from_slice(part);
                if self.line.ends_with(b"\n") {
                    let event: Event = serde_json::from_slice(&self.line)?;
                    self.line.clear();
                    let generation = done_for(&event.object, replicas);
                    self.note(event.object.metadata.name, generation);
                }
            }
        }
    }
}

/// A number with commas between its thousands.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let commas = |(index, digit): (usize, char)| {
        let comma = index > 0 && (digits.len() - index).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(commas).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_workload_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/controllers.yaml");
        ControllersWorkload::load(&path).expect("valid");
    }

    #[test]
    fn writes_of_controllers_are_counted() {
        let line = |verb: &str, resource: &str, subresource: &str| {
            format!(r#"apiserver_request_total{{code="200",resource="{resource}",subresource="{subresource}",verb="{verb}"}} 7"#)
        };
        assert!(is_write(&line("PUT", "deployments", "status")));
        assert!(is_write(&line("POST", "pods", "")));
        for (verb, resource, subresource) in [
            ("GET", "pods", ""),
            ("WATCH", "pods", ""),
            ("PUT", "leases", ""),
            ("POST", "events", ""),
            ("POST", "pods", "binding"),
        ] {
            assert!(!is_write(&line(verb, resource, subresource)), "{verb} {resource} {subresource}");
        }
        assert!(!is_write(r#"apiserver_request_terminations_total{verb="PUT",resource="pods"} 7"#));
    }

    #[test]
    fn a_deployment_is_done_when_nothing_old_is_left() {
        let done = |status: Value| {
            let one = json!({"metadata": {"name": "d", "generation": 2}, "status": status});
            done_for(&serde_json::from_value(one).expect("a Deployment"), 3) == 2
        };
        let all = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3});
        assert!(done(all.clone()));
        for (field, value) in
            [("observedGeneration", 1), ("replicas", 4), ("updatedReplicas", 2), ("readyReplicas", 2), ("terminatingReplicas", 1)]
        {
            let mut other = all.clone();
            other[field] = value.into();
            assert!(!done(other), "{field}");
        }
        assert!(!done(json!({})));
    }

    #[test]
    fn thousands_have_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
