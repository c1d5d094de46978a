//! Probes: one task for each probe of each running container. A result that changes wakes the pod's worker.

pub(crate) mod check;
mod grpc;
mod tls;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::context::Core;
use crate::pod::access::{ContainerKind, PodAccess, is_sidecar};
use crate::runtime::snapshot::{ContainerRecord, Snapshot, State};
use check::Outcome;

/// The three kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub(crate) fn title(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

type Key = (String, ProbeKind);

struct Task {
    uid: String,
    stop: CancellationToken,
    result: Option<bool>,
    counted: Counted,
}

/// The checks of one probe so far, as `prober_probe_total` shows them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) container: String,
    pub(crate) successful: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
}

/// All probes of the node, by container id.
#[derive(Default)]
pub(crate) struct Probes {
    tasks: Mutex<HashMap<Key, Task>>,
}

impl Probes {
    /// The result of a probe; `None`: there is no such probe, or it has not decided yet.
    pub(crate) fn result(&self, container_id: &str, kind: ProbeKind) -> Option<bool> {
        self.tasks.lock().get(&(container_id.to_owned(), kind))?.result
    }

    /// How often each running probe has checked, with what result.
    pub(crate) fn counts(&self) -> Vec<(ProbeKind, Counted)> {
        self.tasks.lock().iter().map(|((_, kind), task)| (*kind, task.counted.clone())).collect()
    }

    /// Starts and stops probes so that they fit what runs. While the pod stops only readiness goes on.
    pub(crate) fn follow(&self, core: &Arc<Core>, pod: &Arc<Pod>, snapshot: &Snapshot, stopping: bool) {
        let running: HashSet<&str> =
            snapshot.containers.iter().filter(|c| c.state == State::Running).map(|c| c.id.as_str()).collect();
        self.tasks.lock().retain(|(id, _), task| {
            let keep = task.uid != pod.uid() || running.contains(id.as_str());
            if !keep {
                task.stop.cancel();
            }
            keep
        });
        for record in snapshot.containers.iter().filter(|c| c.state == State::Running) {
            let Some((kind, container)) = pod.find_container(&record.name) else { continue };
            // Only containers that are meant to stay have probes.
            if kind == ContainerKind::Ephemeral || (kind == ContainerKind::Init && !is_sidecar(&container)) {
                continue;
            }
            let started = container.startup_probe.is_none() || self.result(&record.id, ProbeKind::Startup) == Some(true);
            let wanted = [
                (ProbeKind::Startup, container.startup_probe.as_ref().filter(|_| !stopping)),
                (ProbeKind::Liveness, container.liveness_probe.as_ref().filter(|_| started && !stopping)),
                (ProbeKind::Readiness, container.readiness_probe.as_ref().filter(|_| started)),
            ];
            for (kind, probe) in wanted {
                if let Some(probe) = probe {
                    self.start(core, pod, &container, record, kind, probe);
                }
            }
        }
    }

    fn start(
        &self,
        core: &Arc<Core>,
        pod: &Arc<Pod>,
        container: &Container,
        record: &ContainerRecord,
        kind: ProbeKind,
        probe: &Probe,
    ) {
        let key = (record.id.clone(), kind);
        let mut tasks = self.tasks.lock();
        if tasks.contains_key(&key) {
            return;
        }
        let stop = core.token.child_token();
        // A liveness probe holds until it fails; the others have to earn it.
        let result = (kind == ProbeKind::Liveness).then_some(true);
        let counted = Counted {
            namespace: pod.namespace().to_owned(),
            pod: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            container: container.name.clone(),
            ..Counted::default()
        };
        tasks.insert(key.clone(), Task { uid: pod.uid().to_owned(), stop: stop.clone(), result, counted });
        drop(tasks);
        let runner = Runner {
            core: Arc::clone(core),
            pod: Arc::clone(pod),
            container: container.clone(),
            id: record.id.clone(),
            started_at: record.started_at,
            kind,
            probe: probe.clone(),
        };
        core.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = runner.run() => {}
            }
        });
    }

    /// Ends all probes of a pod.
    pub(crate) fn stop(&self, uid: &str) {
        self.drop_where(|task, _| task.uid == uid);
    }

    /// Ends the probes that could kill containers of a pod that is stopping anyway.
    pub(crate) fn stop_liveness_and_startup(&self, uid: &str) {
        self.drop_where(|task, kind| task.uid == uid && kind == ProbeKind::Liveness);
    }

    fn drop_where(&self, unwanted: impl Fn(&Task, ProbeKind) -> bool) {
        self.tasks.lock().retain(|(_, kind), task| {
            let gone = unwanted(task, *kind);
            if gone {
                task.stop.cancel();
            }
            !gone
        });
    }

    fn count(&self, key: &Key, outcome: Option<bool>) {
        let mut tasks = self.tasks.lock();
        let Some(task) = tasks.get_mut(key) else { return };
        *match outcome {
            Some(true) => &mut task.counted.successful,
            Some(false) => &mut task.counted.failed,
            None => &mut task.counted.unknown,
        } += 1;
    }

    fn set(&self, key: &Key, result: bool) -> bool {
        let mut tasks = self.tasks.lock();
        let Some(task) = tasks.get_mut(key) else { return false };
        let changed = task.result != Some(result);
        task.result = Some(result);
        changed
    }
}

/// One probe of one container.
struct Runner {
    core: Arc<Core>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    started_at: Option<Timestamp>,
    kind: ProbeKind,
    probe: Probe,
}

fn seconds(value: Option<i32>, default: u32) -> Duration {
    Duration::from_secs(u64::from(value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default)))
}

fn threshold(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
}

impl Runner {
    async fn run(self) {
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let running =
            self.started_at.and_then(|s| Duration::try_from(Timestamp::now().duration_since(s)).ok()).unwrap_or_default();
        tokio::time::sleep(delay.saturating_sub(running)).await;
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let (successes, failures) = (threshold(self.probe.success_threshold, 1), threshold(self.probe.failure_threshold, 3));
        let mut timer = tokio::time::interval(period);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let key = (self.id.clone(), self.kind);
        let mut last = None;
        let mut count = 0u32;
        loop {
            timer.tick().await;
            let outcome = self.once().await;
            self.core.probes.count(&key, outcome);
            let Some(healthy) = outcome else { continue };
            count = if last == Some(healthy) { count + 1 } else { 1 };
            last = Some(healthy);
            let decided = count >= if healthy { successes } else { failures };
            if !decided {
                continue;
            }
            if self.core.probes.set(&key, healthy) {
                self.core.pods.poke(self.pod.uid());
            }
            // A passed startup probe is done; a failed startup or liveness probe waits for the container's end.
            if (self.kind == ProbeKind::Startup) || (!healthy && self.kind == ProbeKind::Liveness) {
                return;
            }
        }
    }

    /// One check; `None`: the probe itself broke, which counts as nothing.
    async fn once(&self) -> Option<bool> {
        // The address may come after the container in the status that we have.
        let ip = self.core.pods.get(self.pod.uid()).and_then(|e| e.status.lock().pod_ip.clone()).unwrap_or_default();
        let timeout = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let outcome = check::run(&self.core, &self.container, &self.id, &self.probe, &ip, timeout).await;
        let event = |event_type: &str, reason: &str, text: String| {
            self.core.events.container(&self.pod, &self.container.name, event_type, reason, text)
        };
        let title = self.kind.title();
        match outcome {
            Outcome::Success => Some(true),
            Outcome::Warning(message) => {
                event("Warning", "ProbeWarning", format!("{title} probe warning: {message}"));
                Some(true)
            }
            Outcome::Failure(message) => {
                event("Warning", "Unhealthy", format!("{title} probe failed: {message}"));
                Some(false)
            }
            Outcome::Error(message) => {
                event("Warning", "Unhealthy", format!("{title} probe errored and resulted in unknown state: {message}"));
                None
            }
        }
    }
}
