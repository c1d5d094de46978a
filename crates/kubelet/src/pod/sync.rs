//! One pass over a pod that is to run: look at the runtime, report, prepare, decide, act.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::error::StartFailure;
use crate::pod::access::{PodAccess, ephemeral_as_container, is_sidecar};
use crate::pod::actions::{self, Actions, ProbeOutcomes};
use crate::pod::backoff::go_duration;
use crate::pod::worker::{Next, Worker, after};
use crate::probe::ProbeKind;
use crate::runtime::kill::{self, KillPod};
use crate::runtime::snapshot::{self, Snapshot, State};
use crate::runtime::{resize, sandbox, start};
use crate::{admit, image, volume};

/// Volumes that cannot be set up are tried again after this, doubling to [`MOUNT_RETRY_MAX`] (upstream: 500 ms to 2 m 2 s).
const MOUNT_RETRY: Duration = Duration::from_millis(500);
const MOUNT_RETRY_MAX: Duration = Duration::from_secs(122);

impl Worker {
    /// One pass. `Ok(None)`: the pod is through, or has to stop.
    pub(crate) async fn sync(&mut self, pod: &Arc<Pod>) -> Result<Option<Next>, cri::Status> {
        let core = Arc::clone(&self.core);
        if !self.admitted {
            if let Err((reason, message)) = admit::admit(&core, pod).await {
                core.events.pod(pod, "Warning", &reason, &message);
                self.entry.fail(&reason, format!("Pod was rejected: {message}"));
                return Ok(None);
            }
            self.admitted = true;
        }
        let snapshot = snapshot::take(&*core.runtime, pod.uid()).await?;
        core.probes.follow(&core, pod, &snapshot, false);
        let status = self.report(pod, &snapshot, false);
        if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
            return Ok(None);
        }
        let deadline = match self.deadline(pod) {
            Deadline::Passed => {
                self.entry.fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
                core.events.pod(
                    pod,
                    "Normal",
                    "DeadlineExceeded",
                    "Pod was active on the node longer than the specified deadline",
                );
                return Ok(None);
            }
            Deadline::At(time) => Some(time),
            Deadline::None => None,
        };
        if let Err(error) = core.cgroups.ensure_pod(pod) {
            core.events.pod(
                pod,
                "Warning",
                "FailedCreatePodContainer",
                format!("unable to ensure pod container exists: {error}"),
            );
            return Ok(Some(Next::Wait(after(Duration::from_secs(10)))));
        }
        let volumes = match volume::set_up_all(&core, pod).await {
            Ok(volumes) => volumes,
            Err(failure) => return Ok(Some(self.mount_failed(pod, &failure))),
        };
        self.mount_failures = 0;
        let mut wake = earliest(deadline, volumes.refresh_at);
        let probes = |id: &str| ProbeOutcomes {
            liveness: core.probes.result(id, ProbeKind::Liveness),
            startup: core.probes.result(id, ProbeKind::Startup),
        };
        let mut actions = actions::compute(pod, &snapshot, &probes);
        let mut restarts = false;
        if !actions.kill_pod {
            let resizes = resize::plan(pod, &snapshot, &mut actions);
            restarts = resizes.restarts;
            if restarts || resizes.any_in_place() {
                resize::begin(&core, pod);
            }
            if resizes.any_in_place() {
                resize::apply(&core, pod, &resizes).await?;
                resize::finish(&core, pod);
                return Ok(Some(Next::Again));
            }
        }
        let changed = self.act(pod, snapshot, actions, &volumes, &mut wake).await?;
        if restarts {
            resize::finish(&core, pod);
        }
        Ok(Some(if changed { Next::Again } else { Next::Wait(wake) }))
    }

    fn mount_failed(&mut self, pod: &Pod, failure: &volume::SetUpFailure) -> Next {
        self.core.events.pod(
            pod,
            "Warning",
            "FailedMount",
            format!("MountVolume.SetUp failed for volume \"{}\" : {}", failure.volume, failure.message),
        );
        tracing::debug!(
            namespace = pod.namespace(),
            name = pod.name(),
            volume = failure.volume,
            error = failure.message,
            "volume was not set up"
        );
        let wait = (MOUNT_RETRY * 2u32.saturating_pow(self.mount_failures.min(10))).min(MOUNT_RETRY_MAX);
        self.mount_failures += 1;
        Next::Wait(after(wait))
    }

    fn deadline(&self, pod: &Pod) -> Deadline {
        let Some(seconds) = pod.pod_spec().active_deadline_seconds else { return Deadline::None };
        let started = self.entry.status.lock().start_time.clone();
        let Some(at) = started.and_then(|t| t.0.checked_add(Duration::from_secs(seconds.unsigned_abs())).ok()) else {
            return Deadline::None;
        };
        if at <= Timestamp::now() { Deadline::Passed } else { Deadline::At(at) }
    }

    /// Does what was decided; `true` when something changed that has to be looked at again.
    async fn act(
        &mut self,
        pod: &Arc<Pod>,
        snapshot: Snapshot,
        actions: Actions,
        volumes: &volume::Volumes,
        wake: &mut Option<Timestamp>,
    ) -> Result<bool, cri::Status> {
        let core = Arc::clone(&self.core);
        let mut changed = self.stop_unwanted(pod, &snapshot, &actions).await?;
        let nothing_to_start =
            actions.to_start.is_empty() && actions.init_to_start.is_empty() && actions.ephemeral_to_start.is_empty();
        let (sandbox_id, ips) = if actions.create_sandbox {
            let Some(created) = self.create_sandbox(pod, actions.attempt, wake).await else { return Ok(false) };
            changed = true;
            created
        } else {
            match actions.sandbox_id.clone() {
                Some(id) if !nothing_to_start => (id, snapshot.ips().to_vec()),
                _ => return Ok(changed),
            }
        };
        let ips = if pod.host_network() { core.host_ips() } else { ips };
        if actions.create_sandbox {
            // The address is known before the first image is pulled.
            let seen = snapshot::take(&*core.runtime, pod.uid()).await?;
            self.report(pod, &seen, false);
        }
        let auth = image::pull_secrets(&core, pod).await;
        let stop = self.entry.stop.clone();
        let context = start::Context {
            core: &core,
            pod,
            snapshot: &snapshot,
            sandbox_id: &sandbox_id,
            attempt: actions.attempt,
            ips: &ips,
            volumes,
            keyring: &auth,
            stop: &stop,
        };
        changed |= self.start_containers(&context, &actions, wake).await;
        Ok(changed)
    }

    /// Stops the pod or the containers that have to go; `true` when there were any.
    async fn stop_unwanted(&self, pod: &Arc<Pod>, snapshot: &Snapshot, actions: &Actions) -> Result<bool, cri::Status> {
        let core = &self.core;
        if actions.create_sandbox && actions.sandbox_id.is_some() {
            core.events.pod(pod, "Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
        }
        if !actions.kill_pod {
            for unwanted in &actions.to_kill {
                kill::kill_container(core, pod, unwanted).await?;
            }
            return Ok(!actions.to_kill.is_empty());
        }
        let anything =
            snapshot.sandboxes.iter().any(|s| s.ready) || (!snapshot.sandboxes.is_empty() && snapshot.alive().next().is_some());
        if anything {
            let request = KillPod { pod: Arc::clone(pod), snapshot: snapshot.clone(), grace_override: None, run_hooks: true };
            kill::kill_pod(core, request).await?;
        }
        if actions.create_sandbox {
            kill::purge_init_containers(core, pod, snapshot).await;
        }
        Ok(anything)
    }

    /// A new sandbox with its addresses; `None`: it failed, and is tried again at `wake`.
    async fn create_sandbox(&self, pod: &Pod, attempt: u32, wake: &mut Option<Timestamp>) -> Option<(String, Vec<String>)> {
        let (message, retry) = match sandbox::create(&self.core, pod, attempt).await {
            // Without this a network that gives no addresses would be asked for sandbox after sandbox.
            Ok((_, ips)) if ips.is_empty() && !pod.host_network() => {
                ("the network gave it no address".to_owned(), Duration::from_secs(10))
            }
            Ok(created) => return Some(created),
            Err(status) => (sandbox::describe(&status), Duration::from_secs(2)),
        };
        if !self.entry.stop.is_cancelled() {
            let message = format!("Failed to create pod sandbox: {message}");
            self.core.events.pod(pod, "Warning", "FailedCreatePodSandBox", message);
        }
        *wake = earliest(*wake, after(retry));
        None
    }

    async fn start_containers(&mut self, context: &start::Context<'_>, actions: &Actions, wake: &mut Option<Timestamp>) -> bool {
        let pod = context.pod;
        let mut changed = false;
        for index in &actions.ephemeral_to_start {
            let ephemeral = &pod.ephemeral_containers()[*index];
            let container = ephemeral_as_container(ephemeral);
            changed |= self.start(context, &container, ephemeral.target_container_name.as_deref(), wake).await == Started::Yes;
        }
        for index in &actions.init_to_start {
            let container = &pod.init_containers()[*index];
            let started = self.start(context, container, None, wake).await;
            changed |= started == Started::Yes;
            if started == Started::No && !is_sidecar(container) {
                return changed;
            }
        }
        for index in &actions.to_start {
            changed |= self.start(context, &pod.containers()[*index], None, wake).await == Started::Yes;
        }
        changed
    }

    /// Starts one container unless it backs off.
    async fn start(
        &mut self,
        context: &start::Context<'_>,
        container: &Container,
        target: Option<&str>,
        wake: &mut Option<Timestamp>,
    ) -> Started {
        if self.entry.stop.is_cancelled() {
            return Started::No;
        }
        let pod = context.pod;
        let now = Timestamp::now();
        let exited = context.snapshot.containers.iter().find(|c| c.name == container.name && c.state == State::Exited);
        if let Some(record) = exited {
            let finished = record.finished_at.unwrap_or(record.created_at);
            let key = format!("{}/{}", container.name, crate::runtime::labels::hash(container));
            if let Some(until) = self.restarts.until(&key, finished, now) {
                context.core.events.container(
                    pod,
                    &container.name,
                    "Warning",
                    "BackOff",
                    format!("Back-off restarting failed container {} in pod {}", container.name, pod.display()),
                );
                let delay = go_duration(self.restarts.delay(&key));
                let message = format!("back-off {delay} restarting failed container={} pod={}", container.name, pod.display());
                let first = self.failures.insert(container.name.clone(), StartFailure::new("CrashLoopBackOff", message));
                *wake = earliest(*wake, Some(until));
                // The new reason has to be shown.
                return if first.is_none_or(|f| f.reason != "CrashLoopBackOff") { Started::Yes } else { Started::No };
            }
            self.restarts.next(&key, finished, now);
        }
        match start::start_container(context, container, target).await {
            Ok(()) => {
                self.failures.remove(&container.name);
                Started::Yes
            }
            Err(start::Failure::Stopped) => Started::No,
            Err(start::Failure::Failed { failure, retry_at }) => {
                tracing::debug!(
                    namespace = pod.namespace(),
                    name = pod.name(),
                    container = container.name,
                    reason = failure.reason,
                    detail = failure.message,
                    "container was not started"
                );
                *wake = earliest(*wake, retry_at.or_else(|| after(Duration::from_secs(10))));
                let before = self.failures.insert(container.name.clone(), failure.clone());
                if before.as_ref() != Some(&failure) {
                    // Shown at once, without another attempt.
                    if let Ok(seen) = snapshot::take(&*context.core.runtime, pod.uid()).await {
                        self.report(pod, &seen, false);
                    }
                }
                Started::No
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    Yes,
    No,
}

enum Deadline {
    None,
    At(Timestamp),
    Passed,
}

/// The earlier of two moments.
fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
