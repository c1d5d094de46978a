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
use tokio::time::Instant;
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

/// When a container that has run for `age` is checked first with consequences, from now on. As upstream's workers, whose ticks begin with
/// the container and spare the first: an application gets one period to start, or its initial delay to the next tick.
fn first_tick(delay: Duration, period: Duration, age: Duration) -> Duration {
    let ticks = delay.as_nanos().div_ceil(period.as_nanos().max(1)).max(1);
    let first = period.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX));
    if age < first { first - age } else { period }
}

impl Runner {
    async fn run(self) {
        let age = self.started_at.and_then(|s| Duration::try_from(Timestamp::now().duration_since(s)).ok()).unwrap_or_default();
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let mut first = Instant::now() + first_tick(delay, period, age);
        let mut tally = Tally::new(&self.probe);
        // A failed liveness check could only do harm while the application starts.
        if self.kind != ProbeKind::Liveness {
            tokio::time::sleep(delay.saturating_sub(age)).await;
            if self.wait_for_success(first).await {
                first = Instant::now() + period;
                if tally.add(true) && self.decide(true) {
                    return;
                }
            }
        }
        let mut timer = tokio::time::interval_at(first, period);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let outcome = self.check().await;
            self.report(&outcome);
            let Some(healthy) = outcome.healthy() else { continue };
            if tally.add(healthy) && self.decide(healthy) {
                return;
            }
        }
    }

    /// Checks ever less often until one succeeds or `end` has come; no failure counts or is told of. Upstream asks for readiness when the
    /// status changes, which is about when an application listens; ours may be there before it, and would wait a whole period then.
    async fn wait_for_success(&self, end: Instant) -> bool {
        let mut pause = if self.probe.exec.is_some() { Duration::from_millis(250) } else { Duration::from_millis(20) };
        loop {
            let outcome = self.check().await;
            if outcome.healthy() == Some(true) {
                self.report(&outcome);
                return true;
            }
            if Instant::now() + pause >= end {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Makes a result known; whether the probe is done with this container: a startup probe that has passed, or a failed startup or liveness
    /// probe, which waits for the container's end.
    fn decide(&self, healthy: bool) -> bool {
        if self.core.probes.set(&self.key(), healthy) {
            self.core.pods.poke(self.pod.uid());
        }
        self.kind == ProbeKind::Startup || !healthy && self.kind == ProbeKind::Liveness
    }

    fn key(&self) -> Key {
        (self.id.clone(), self.kind)
    }

    /// One check, counted for the metrics.
    async fn check(&self) -> Outcome {
        // The address may come after the container in the status that we have.
        let ip = self.core.pods.get(self.pod.uid()).and_then(|e| e.status.lock().pod_ip.clone()).unwrap_or_default();
        let timeout = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let outcome = check::run(&self.core, &self.container, &self.id, &self.probe, &ip, timeout).await;
        self.core.probes.count(&self.key(), outcome.healthy());
        outcome
    }

    /// Tells of what is not simply well.
    fn report(&self, outcome: &Outcome) {
        let title = self.kind.title();
        let (reason, text) = match outcome {
            Outcome::Success => return,
            Outcome::Warning(message) => ("ProbeWarning", format!("{title} probe warning: {message}")),
            Outcome::Failure(message) => ("Unhealthy", format!("{title} probe failed: {message}")),
            Outcome::Error(message) => ("Unhealthy", format!("{title} probe errored and resulted in unknown state: {message}")),
        };
        self.core.events.container(&self.pod, &self.container.name, "Warning", reason, text);
    }
}

/// Equal results in a row against the thresholds of a probe.
struct Tally {
    successes: u32,
    failures: u32,
    last: Option<bool>,
    count: u32,
}

impl Tally {
    fn new(probe: &Probe) -> Self {
        let (successes, failures) = (threshold(probe.success_threshold, 1), threshold(probe.failure_threshold, 3));
        Self { successes, failures, last: None, count: 0 }
    }

    /// Whether enough equal results have come for this one to be the probe's.
    fn add(&mut self, healthy: bool) -> bool {
        self.count = if self.last == Some(healthy) { self.count.saturating_add(1) } else { 1 };
        self.last = Some(healthy);
        self.count >= if healthy { self.successes } else { self.failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_has_a_period_to_start() {
        let cases = [
            // Delay, period and age in seconds; the first check that counts, from now.
            (0, 10, 0, 10),
            (0, 1, 0, 1),
            (5, 10, 0, 10),
            (10, 10, 0, 10),
            (15, 10, 0, 20),
            (15, 5, 0, 15),
            (15, 5, 4, 11),
            // Taken over from an earlier run of the node's agent.
            (0, 10, 3600, 10),
        ];
        for (delay, period, age, wanted) in cases {
            let found = first_tick(Duration::from_secs(delay), Duration::from_secs(period), Duration::from_secs(age));
            assert_eq!(found, Duration::from_secs(wanted), "{delay} {period} {age}");
        }
    }

    #[test]
    fn results_count_in_a_row() {
        let mut tally = Tally { successes: 2, failures: 3, last: None, count: 0 };
        let results = [false, false, true, true, true, false, false, false, true].map(|healthy| tally.add(healthy));
        assert_eq!(results, [false, false, false, true, true, false, false, true, false]);
    }
}
