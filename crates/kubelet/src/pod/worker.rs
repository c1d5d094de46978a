//! The state machine of one pod and the task that runs it.
//!
//! ```text
//! Syncing ── pod deleted, removed, failed, or all containers done ──> Terminating ── no container left ──> Terminated
//!    Terminated: volumes and cgroup gone, last status written, then (if deleted) the API object deleted ──> Finished
//!    Finished: waits until the source drops the pod, then removes what is left on disk and in the runtime
//! ```
//! A worker never goes back. It sleeps until something wakes it: the pod's object, the runtime, a probe, an object that a volume shows, or a timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::context::Core;
use crate::error::StartFailure;
use crate::pod::access::PodAccess;
use crate::pod::allocation;
use crate::pod::backoff::Backoff;
use crate::pod::manager::PodEntry;
use crate::pod::status::{self, Inputs, Readiness};
use crate::probe::ProbeKind;
use crate::runtime::kill::{self, KillPod};
use crate::runtime::snapshot::{self, Snapshot};
use crate::{gc, volume};

/// How long a failed step waits.
const RETRY: Duration = Duration::from_secs(1);

/// Where a pod's worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Syncing,
    Terminating,
    Terminated,
    Finished,
}

/// What the worker does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next step at once.
    Again,
    /// Wait for a wake-up, or until then.
    Wait(Option<Timestamp>),
    /// The pod is no more.
    Done,
}

/// One pod's worker: the state that outlives a step.
pub(crate) struct Worker {
    pub(crate) core: Arc<Core>,
    pub(crate) entry: Arc<PodEntry>,
    phase: Phase,
    pub(crate) failures: HashMap<String, StartFailure>,
    pub(crate) restarts: Backoff,
    pub(crate) mount_failures: u32,
    pub(crate) admitted: bool,
}

/// Runs the pod's state machine to its end, or until the kubelet stops.
pub(crate) async fn run(core: Arc<Core>, entry: Arc<PodEntry>) {
    let mut worker = Worker {
        core: Arc::clone(&core),
        entry: Arc::clone(&entry),
        phase: Phase::Syncing,
        failures: HashMap::new(),
        restarts: Backoff::default(),
        mount_failures: 0,
        admitted: false,
    };
    core.objects.register(&core, &entry.pod());
    loop {
        let next = tokio::select! {
            () = core.token.cancelled() => break,
            next = worker.step() => next,
        };
        let until = match next {
            Next::Again => continue,
            Next::Done => {
                core.pods.forget(&entry.uid);
                break;
            }
            Next::Wait(until) => until,
        };
        tokio::select! {
            () = core.token.cancelled() => break,
            () = entry.poked() => {}
            () = sleep_until(until), if until.is_some() => {}
        }
    }
    core.probes.stop(&entry.uid);
}

async fn sleep_until(until: Option<Timestamp>) {
    let wait = until.map_or(Duration::MAX, |t| Duration::try_from(t.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO));
    tokio::time::sleep(wait).await;
}

/// The moment after `wait`.
pub(crate) fn after(wait: Duration) -> Option<Timestamp> {
    Timestamp::now().checked_add(wait).ok()
}

impl Worker {
    async fn step(&mut self) -> Next {
        let pod = allocation::granted(&self.entry);
        match self.phase {
            Phase::Syncing => {
                if self.entry.stop.is_cancelled() || pod.phase_is_terminal() {
                    self.phase = Phase::Terminating;
                    return Next::Again;
                }
                match self.sync(&allocation::grant(&self.core, &self.entry)).await {
                    Ok(Some(next)) => next,
                    Ok(None) => {
                        self.phase = Phase::Terminating;
                        Next::Again
                    }
                    Err(status) => self.runtime_failed(&pod, &status),
                }
            }
            Phase::Terminating => match self.terminate(&pod).await {
                Ok(()) => {
                    self.phase = Phase::Terminated;
                    Next::Again
                }
                Err(status) => self.runtime_failed(&pod, &status),
            },
            Phase::Terminated => self.clean_up(&pod).await,
            Phase::Finished => self.finished(&pod).await,
        }
    }

    fn runtime_failed(&self, pod: &Pod, status: &cri::Status) -> Next {
        tracing::warn!(
            namespace = pod.namespace(),
            name = pod.name(),
            uid = pod.uid(),
            error = status.message(),
            "the runtime refused; trying again"
        );
        Next::Wait(after(RETRY))
    }

    /// Computes the status and hands it to the reporter.
    pub(crate) fn report(&self, pod: &Pod, snapshot: &Snapshot, terminal: bool) -> PodStatus {
        let core = &self.core;
        let old = self.entry.status.lock().clone();
        let failed = self.entry.failure();
        let pending = self.entry.allocation.lock().as_ref().and_then(|a| a.pending.clone());
        let host_ips = core.host_ips();
        let probes = |id: &str| Readiness {
            startup: core.probes.result(id, ProbeKind::Startup),
            readiness: core.probes.result(id, ProbeKind::Readiness),
        };
        let inputs = Inputs {
            old: &old,
            failures: &self.failures,
            probes: &probes,
            terminal,
            failed: failed.as_ref(),
            resize_pending: pending.as_ref(),
            host_ips: &host_ips,
            runtime_name: &core.runtime_name,
            now: Timestamp::now(),
        };
        let status = status::generate(pod, snapshot, &inputs);
        self.entry.status.lock().clone_from(&status);
        core.reporter.set(&self.entry.uid, self.entry.target(), status.clone());
        status
    }

    /// Stops every container, then the sandbox; ends when nothing of the pod runs.
    async fn terminate(&mut self, pod: &Arc<Pod>) -> Result<(), cri::Status> {
        let core = Arc::clone(&self.core);
        core.probes.stop_liveness_and_startup(pod.uid());
        let mut snapshot = snapshot::take(&*core.runtime, pod.uid()).await?;
        self.report(pod, &snapshot, false);
        let mut grace = self.entry.grace.subscribe();
        let mut first = true;
        loop {
            let override_seconds = *grace.borrow_and_update();
            let request =
                KillPod { pod: Arc::clone(pod), snapshot: snapshot.clone(), grace_override: override_seconds, run_hooks: first };
            let killing = kill::kill_pod(&core, request);
            tokio::pin!(killing);
            let done = loop {
                tokio::select! {
                    done = &mut killing => break Some(done),
                    changed = grace.changed() => if changed.is_ok() { break None },
                    () = self.entry.poked() => {
                        let seen = snapshot::take(&*core.runtime, pod.uid()).await?;
                        core.probes.follow(&core, pod, &seen, true);
                        self.report(&allocation::granted(&self.entry), &seen, false);
                    }
                }
            };
            snapshot = snapshot::take(&*core.runtime, pod.uid()).await?;
            match done {
                Some(result) => {
                    result?;
                    break;
                }
                // A shorter grace period was asked for: again, without hooks.
                None => first = false,
            }
        }
        core.probes.stop(pod.uid());
        let snapshot = snapshot::take(&*core.runtime, pod.uid()).await?;
        if snapshot.any_running() {
            return Err(cri::Status::internal("containers still run after the pod was killed"));
        }
        self.report(&allocation::granted(&self.entry), &snapshot, true);
        Ok(())
    }

    /// After the last container: volumes, cgroup; then the API object may go.
    async fn clean_up(&mut self, pod: &Pod) -> Next {
        if let Err(error) = volume::tear_down_all(&self.core, pod.uid()).await {
            tracing::warn!(namespace = pod.namespace(), name = pod.name(), uid = pod.uid(), %error, "volumes were not torn down; trying again");
            return Next::Wait(after(RETRY));
        }
        self.core.objects.release(pod.uid());
        self.core.tokens.forget(pod.uid());
        if let Err(error) = self.core.cgroups.remove_pod(pod) {
            tracing::debug!(uid = pod.uid(), %error, "the pod's cgroup is not gone yet");
        }
        self.core.pods.poke_pending();
        self.phase = Phase::Finished;
        Next::Again
    }

    async fn finished(&mut self, pod: &Pod) -> Next {
        if self.entry.is_removed() {
            gc::remove_pod(&self.core, pod).await;
            self.core.reporter.forget(&self.entry.uid);
            return Next::Done;
        }
        if pod.is_deleted() {
            // Containers ended: nothing holds the object any more.
            self.core.reporter.finish(&self.entry.uid);
        }
        Next::Wait(None)
    }
}
