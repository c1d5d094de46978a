//! `bench runtime`: how long a container takes to be created, started, killed and deleted.
//!
//! Against runc and crun: they with a bundle, our runtime by plain calls of its CRI implementation in this process. That is more than they do
//! (records, a shim, log files): it is the least that there is of ours. Against containerd: both over a CRI socket. The program in the container
//! is the same everywhere, and so are its namespaces: its own but for the host's network.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use container_runtime::{Config, ContainerRuntime, LoopbackNetwork, RegistryConfig};
use cri::{Runtime, v1};
use serde::Deserialize;

use crate::cgroups;
use crate::component;
use crate::containerd::{self, Containerd, PAUSE, PAUSE_IMAGE};
use crate::daemons::Daemons;
use crate::oci_bundle::Bundle;
use crate::report::{Better, Figure, Figures, Goals, Side};

/// What to do, from the command line.
pub(crate) struct Plan {
    /// Our executable: shims and container processes are made of it.
    pub(crate) executable: PathBuf,
    /// Where data directories are made.
    pub(crate) scratch: PathBuf,
    /// What is measured.
    pub(crate) workload: RuntimeWorkload,
    /// How often each runs it.
    pub(crate) rounds: usize,
    /// The other runtime.
    pub(crate) peer: Option<Peer>,
}

/// With what ours is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// runc of Debian, directly.
    Runc,
    /// crun of Debian, directly.
    Crun,
    /// containerd and runc of Debian, through CRI.
    Containerd,
}

impl Peer {
    /// For the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Containerd => "containerd with runc",
        }
    }
}

/// `bench/workloads/runtime.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuntimeWorkload {
    #[serde(rename = "title")]
    _title: String,
    containers: usize,
    #[serde(default)]
    goals: Goals,
}

impl RuntimeWorkload {
    /// Reads and checks a file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: Self =
            serde_saphyr::from_str(&text).with_context(|| format!("{} is no workload of a runtime", path.display()))?;
        ensure!(file.containers > 0, "{}: `containers` must be at least 1", path.display());
        Ok(file)
    }
}

/// The times of many containers, step by step.
#[derive(Default)]
pub(crate) struct Times {
    steps: Vec<(&'static str, Vec<Duration>)>,
    whole: Vec<Duration>,
}

impl Times {
    /// Adds what one step of one container took.
    pub(crate) fn add(&mut self, step: &'static str, took: Duration) {
        match self.steps.iter_mut().find(|(name, _)| *name == step) {
            Some((_, times)) => times.push(took),
            None => self.steps.push((step, vec![took])),
        }
    }

    fn medians(mut self) -> Vec<(&'static str, f64)> {
        let mut medians: Vec<_> = self.steps.iter_mut().map(|(name, times)| (*name, median(times))).collect();
        medians.push(("create to delete", median(&mut self.whole)));
        medians
    }
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

/// Runs the benchmark.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    ensure!(nix::unistd::geteuid().is_root(), "this benchmark starts containers and must be run by root");
    let mut figures = Figures::new(&plan.workload.goals);
    let mut add = |side, way: &str, times: Times| {
        for (step, milliseconds) in times.medians() {
            figures.add(side, &format!("{way}: {step} (ms)"), milliseconds, Better::Less);
        }
    };
    let containers = plan.workload.containers;
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}", plan.rounds);
        let directory = tempfile::Builder::new().prefix("bench-runtime-").tempdir_in(&plan.scratch)?;
        if !matches!(plan.peer, Some(Peer::Containerd)) {
            let ours = Embedded::open(directory.path(), &plan.executable).await?;
            let times = through_cri(ours.runtime.as_ref(), directory.path(), containers, "").await;
            ours.close().await;
            add(Side::Ours, "directly", times?);
        }
        if !matches!(plan.peer, Some(Peer::Runc | Peer::Crun)) {
            add(Side::Ours, "through CRI", our_socket(plan, directory.path()).await?);
        }
        match plan.peer {
            None => {}
            Some(Peer::Containerd) => add(Side::Peer, "through CRI", containerd_socket(directory.path(), containers).await?),
            Some(peer) => add(Side::Peer, "directly", Bundle::new(peer.name(), directory.path())?.run(containers)?),
        }
    }
    Ok(figures.finish())
}

/// Our runtime in this process.
pub(crate) struct Embedded {
    pub(crate) runtime: Arc<ContainerRuntime>,
    config: Config,
}

impl Embedded {
    /// Opens it in a directory, with the image that containers are made of.
    pub(crate) async fn open(directory: &Path, executable: &Path) -> anyhow::Result<Self> {
        let config = Config {
            root: directory.join("root"),
            run_dir: directory.join("run"),
            executable: executable.to_path_buf(),
            cgroup_parent: format!("/rusternetes-bench-{}", std::process::id()),
            streaming_address: ([127, 0, 0, 1], 0).into(),
            network: Arc::new(LoopbackNetwork),
            registries: RegistryConfig::default(),
        };
        let runtime = ContainerRuntime::open(config.clone()).await.context("cannot start our container runtime")?;
        let archive = directory.join("pause.tar");
        containerd::pause_archive(&archive)?;
        container_runtime::ImageStore::open(&config.root)?.import(&archive)?;
        Ok(Self { runtime, config })
    }

    /// Ends it, and all that it has started.
    pub(crate) async fn close(self) {
        self.runtime.close().await;
        let config = self.config;
        // Best effort: what is left is seen by whoever removes the directory.
        let _ = container_runtime::kill_all(&config.root, &config.run_dir, &config.cgroup_parent);
    }
}

/// Ours behind a socket, in a process of its own.
async fn our_socket(plan: &Plan, directory: &Path) -> anyhow::Result<Times> {
    let directory = directory.join("served");
    std::fs::create_dir_all(&directory)?;
    let mut daemons = Daemons::new(&directory);
    daemons.start("runtime", component::runtime(&directory, &plan.executable)?)?;
    let socket = component::socket(&directory);
    let started = Instant::now();
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        daemons.check()?;
        ensure!(started.elapsed() < Duration::from_secs(30), "our runtime does not listen on {}", socket.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let connection = cri::Connection::open(&socket).await?;
    let times = through_cri(&connection, &directory, plan.workload.containers, "").await;
    daemons.stop()?;
    times
}

async fn containerd_socket(directory: &Path, containers: usize) -> anyhow::Result<Times> {
    let containerd = Containerd::new(directory)?;
    let mut daemons = Daemons::new(directory);
    containerd.start(&mut daemons)?;
    containerd.wait().await?;
    containerd.import_pause()?;
    let connection = cri::Connection::open(containerd.socket()).await?;
    let name = cgroups::own_name();
    let times = through_cri(&connection, directory, containers, &format!("/{name}")).await;
    daemons.stop()?;
    cgroups::remove(&name);
    times
}

/// A sandbox, and containers in it one after the other. `cgroup` is where they are; empty: where the runtime likes.
async fn through_cri(runtime: &dyn Runtime, directory: &Path, containers: usize, cgroup: &str) -> anyhow::Result<Times> {
    let mut times = Times::default();
    let config = sandbox(directory, cgroup)?;
    let started = Instant::now();
    let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    let id = runtime.run_pod_sandbox(request).await.context("RunPodSandbox")?.pod_sandbox_id;
    times.add("sandbox", started.elapsed());
    for number in 0..containers {
        one_container(runtime, &id, &config, number, &mut times).await?;
    }
    runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.context("StopPodSandbox")?;
    runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id }).await.context("RemovePodSandbox")?;
    Ok(times)
}

async fn one_container(
    runtime: &dyn Runtime,
    sandbox: &str,
    config: &v1::PodSandboxConfig,
    number: usize,
    times: &mut Times,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.to_owned(),
        config: Some(container(number)),
        sandbox_config: Some(config.clone()),
    };
    let id = runtime.create_container(request).await.context("CreateContainer")?.container_id;
    times.add("create", begun.elapsed());
    let started = Instant::now();
    runtime.start_container(v1::StartContainerRequest { container_id: id.clone() }).await.context("StartContainer")?;
    times.add("start", started.elapsed());
    times.add("create and start", begun.elapsed());
    let started = Instant::now();
    let stop = v1::StopContainerRequest { container_id: id.clone(), timeout: 0 };
    runtime.stop_container(stop).await.context("StopContainer")?;
    times.add("kill", started.elapsed());
    let started = Instant::now();
    runtime.remove_container(v1::RemoveContainerRequest { container_id: id }).await.context("RemoveContainer")?;
    times.add("delete", started.elapsed());
    times.whole.push(begun.elapsed());
    Ok(())
}

/// In the host's network, so that no pod network is measured.
fn sandbox(directory: &Path, cgroup: &str) -> anyhow::Result<v1::PodSandboxConfig> {
    let logs = directory.join("logs");
    std::fs::create_dir_all(&logs)?;
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "bench".to_owned(),
            uid: "bench".to_owned(),
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        log_directory: logs.display().to_string(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroup.to_owned(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn container(number: usize) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: format!("container-{number}"), attempt: 0 }),
        image: Some(v1::ImageSpec { image: PAUSE_IMAGE.to_owned(), ..Default::default() }),
        command: vec![PAUSE.to_owned()],
        log_path: format!("{number}.log"),
        linux: Some(v1::LinuxContainerConfig {
            resources: None,
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: v1::NamespaceMode::Node as i32,
        pid: v1::NamespaceMode::Container as i32,
        ..Default::default()
    }
}

impl Times {
    /// Adds what one container took from the first step to the last.
    pub(crate) fn add_whole(&mut self, took: Duration) {
        self.whole.push(took);
    }
}

/// Runs a command that must succeed, without input and output.
pub(crate) fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).status();
    let status = status.with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_workload_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/runtime.yaml");
        assert!(RuntimeWorkload::load(&path).expect("valid").containers > 0);
    }

    #[test]
    fn steps_have_medians() {
        let mut times = Times::default();
        for milliseconds in [3, 1, 2] {
            times.add("create", Duration::from_millis(milliseconds));
            times.add_whole(Duration::from_millis(10 * milliseconds));
        }
        assert_eq!(times.medians(), [("create", 2.0), ("create to delete", 20.0)]);
    }
}
