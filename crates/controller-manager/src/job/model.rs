//! A model of the world around the controller, driven by seeds: an API server that refuses and loses writes, watches that lag, a kubelet,
//! a user, and a controller that is killed between any two writes. Every write is checked against the named invariants.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, EventKind, NamespacedName, Store, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::response::Status;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::assess::Seen;
use super::indexes::completion_index;
use super::intervals::Indexes;
use super::memory::Memory;
use super::spec::{TRACKING_FINALIZER, finished_condition, is_finished, is_indexed, is_tracked, uid};
use super::sync::{Writes, sync};
use super::testing::{job, now};
use super::wakeups::Wakeups;
use crate::pod_state::{is_active, is_terminal, phase};

/// xorshift64*: the same seed is the same history.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).expect("has 31 bits") % end
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What the server holds, and what truly happened.
struct Server {
    random: Random,
    job: Job,
    pods: BTreeMap<String, Pod>,
    /// What the watches are still to show, in order.
    job_log: VecDeque<Job>,
    pod_log: VecDeque<(String, Option<Pod>)>,
    version: u64,
    now: Timestamp,
    faults: bool,
    /// All further writes of this sync fail: its controller is dead.
    dead: bool,
    parallelism: usize,
    created: usize,
    succeeded: HashSet<String>,
    failed: HashSet<String>,
    /// Indexes of which a pod succeeded.
    done: HashSet<i32>,
    /// Pods that the controller let go without naming them first: those that a suspended Job or a smaller one has no place for.
    dismissed: HashSet<String>,
    events: Vec<String>,
}

fn error(code: u16, reason: &str) -> kube::Error {
    let status = Status { code, reason: reason.into(), message: reason.into(), ..Default::default() };
    kube::Error::Api(Box::new(status))
}

enum Fate {
    Done,
    /// Done, but the answer is lost.
    Lost,
}

impl Server {
    fn fate(&mut self, may_lose: bool) -> kube::Result<Fate> {
        if self.dead {
            return Err(error(500, "Dead"));
        }
        if !self.faults {
            return Ok(Fate::Done);
        }
        match self.random.below(12) {
            0 => Err(error(500, "Refused")),
            1 => {
                self.dead = true;
                Err(error(500, "Dead"))
            }
            2 => {
                self.dead = true;
                Ok(Fate::Lost)
            }
            3 if may_lose => Ok(Fate::Lost),
            _ => Ok(Fate::Done),
        }
    }

    fn answer<T>(fate: &Fate, value: T) -> kube::Result<T> {
        match fate {
            Fate::Done => Ok(value),
            Fate::Lost => Err(error(504, "Lost")),
        }
    }

    fn put_pod(&mut self, mut pod: Pod) {
        self.version += 1;
        pod.metadata.resource_version = Some(self.version.to_string());
        let name = pod.metadata.name.clone().expect("has a name");
        let id = uid(&pod).to_owned();
        let finished = match phase(&pod) {
            "Succeeded" => {
                self.done.extend(completion_index(&pod));
                Some(&mut self.succeeded)
            }
            "Failed" => Some(&mut self.failed),
            _ => pod.metadata.deletion_timestamp.is_some().then_some(&mut self.failed),
        };
        if let Some(uids) = finished {
            uids.insert(id);
        }
        let free = pod.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
        if free && pod.metadata.deletion_timestamp.is_some() && is_terminal(&pod) {
            self.pods.remove(&name);
            self.pod_log.push_back((name, None));
        } else {
            self.pods.insert(name.clone(), pod.clone());
            self.pod_log.push_back((name, Some(pod)));
        }
    }

    fn put_job(&mut self, mut job: Job) -> Job {
        self.version += 1;
        job.metadata.resource_version = Some(self.version.to_string());
        self.job = job.clone();
        self.job_log.push_back(job.clone());
        job
    }

    fn mark_deleted(&mut self, name: &str) {
        if let Some(mut pod) = self.pods.get(name).cloned().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            pod.metadata.deletion_timestamp = Some(Time(self.now));
            self.put_pod(pod);
        }
    }

    /// The invariants of a status.
    fn check(&self, old: &JobStatus, new: &JobStatus, indexed: bool) {
        let counts = |status: &JobStatus| (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0));
        let ((succeeded, failed), before) = (counts(new), counts(old));
        assert!(succeeded >= before.0 && failed >= before.1, "finished counts never go back: {old:?} -> {new:?}");
        let uncounted = new.uncounted_terminated_pods.clone().unwrap_or_default();
        let named = |list: &Option<Vec<String>>| list.iter().flatten().count();
        let all: HashSet<&String> = uncounted.succeeded.iter().chain(&uncounted.failed).flatten().collect();
        let (named_succeeded, named_failed) = (named(&uncounted.succeeded), named(&uncounted.failed));
        assert_eq!(all.len(), named_succeeded + named_failed, "no pod is named twice: {new:?}");
        let up_to = |counted: i32, named: usize| usize::try_from(counted).expect("is a count") + named;
        // A pod that was still running by the cache's word when the Job failed counts as failed, even if it just succeeded.
        let finished = self.succeeded.union(&self.failed).count();
        assert!(up_to(failed, named_failed) <= finished, "no failed pod is counted twice: {new:?}");
        if indexed {
            let completed = Indexes::parse(new.completed_indexes.as_deref().unwrap_or(""), 1000);
            let done = Indexes::of(self.done.iter().copied());
            assert_eq!(completed.overlap(&done), completed.count(), "an index is complete when a pod of it succeeded");
            assert_eq!(completed.count(), succeeded, "succeeded counts completed indexes");
            let earlier = Indexes::parse(old.completed_indexes.as_deref().unwrap_or(""), 1000);
            assert_eq!(earlier.overlap(&completed), earlier.count(), "completed indexes stay complete");
        } else {
            assert!(up_to(succeeded, named_succeeded) <= self.succeeded.len(), "no succeeded pod is counted twice: {new:?}");
            let total = up_to(succeeded, named_succeeded) + up_to(failed, named_failed);
            assert!(total <= finished, "no pod is counted as both: {new:?}");
        }
        let has = |status: &JobStatus, type_: &str| {
            status.conditions.iter().flatten().any(|condition| condition.type_ == type_ && condition.status == "True")
        };
        for (interim, end) in [("SuccessCriteriaMet", "Complete"), ("FailureTarget", "Failed")] {
            assert!(!has(new, end) || has(old, interim), "{end} comes after {interim}: {new:?}");
            assert!(!has(old, interim) || has(new, interim), "{interim} stays");
        }
        assert!(!(has(new, "Complete") && has(new, "Failed")), "one end");
        if has(new, "Complete") || has(new, "Failed") {
            assert!(all.is_empty(), "an ended Job has nothing to count");
            let left = self.pods.values().filter(|pod| is_tracked(pod)).count();
            assert_eq!(left, 0, "an ended Job keeps no pod");
        }
    }
}

struct Api(Mutex<Server>);

#[async_trait]
impl Writes for Api {
    async fn create_pod(&self, _job: &Job, pod: &Pod) -> kube::Result<Pod> {
        let mut server = self.0.lock();
        let fate = server.fate(false)?;
        server.created += 1;
        let name = format!("p{}", server.created);
        let mut pod = pod.clone();
        pod.metadata.uid = Some(format!("uid-{name}"));
        pod.metadata.namespace = Some("ns".into());
        pod.metadata.name = Some(name);
        pod.metadata.creation_timestamp = Some(Time(server.now));
        pod.status = serde_json::from_value(json!({"phase": "Pending"})).expect("is a status");
        server.put_pod(pod.clone());
        let active = server.pods.values().filter(|pod| is_active(pod)).count();
        assert!(active <= server.parallelism, "never more than parallelism active, but {active}");
        Server::answer(&fate, pod)
    }

    async fn delete_pod(&self, _job: &Job, pod: &Pod) -> kube::Result<()> {
        let mut server = self.0.lock();
        let fate = server.fate(true)?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        if !server.pods.contains_key(&name) {
            return Err(error(404, "NotFound"));
        }
        server.mark_deleted(&name);
        Server::answer(&fate, ())
    }

    async fn remove_finalizer(&self, pod: &Pod) -> kube::Result<()> {
        let mut server = self.0.lock();
        let fate = server.fate(true)?;
        let Some(mut stored) = server.pods.get(pod.metadata.name.as_deref().unwrap_or("")).cloned() else {
            return Err(error(404, "NotFound"));
        };
        let uncounted =
            server.job.status.as_ref().and_then(|status| status.uncounted_terminated_pods.clone()).unwrap_or_default();
        let id = uid(&stored).to_owned();
        let named = uncounted.succeeded.iter().chain(&uncounted.failed).flatten().any(|known| *known == id);
        if is_tracked(&stored) && !named {
            server.dismissed.insert(id);
        }
        stored.metadata.finalizers.iter_mut().for_each(|list| list.retain(|finalizer| finalizer != TRACKING_FINALIZER));
        server.put_pod(stored);
        Server::answer(&fate, ())
    }

    async fn update_status(&self, job: &Job) -> kube::Result<Job> {
        let mut server = self.0.lock();
        let fate = server.fate(true)?;
        if job.metadata.resource_version != server.job.metadata.resource_version {
            return Err(error(409, "Conflict"));
        }
        let (old, new) = (server.job.status.clone().unwrap_or_default(), job.status.clone().unwrap_or_default());
        server.check(&old, &new, is_indexed(job));
        let stored = Job { status: job.status.clone(), ..server.job.clone() };
        let stored = server.put_job(stored);
        Server::answer(&fate, stored)
    }

    fn record(&self, _job: &Job, _kind: EventKind, reason: &str, _message: &str) {
        self.0.lock().events.push(reason.to_owned());
    }
}

/// The controller's side: what its cache shows, and what it remembers.
struct Controller {
    job: Job,
    pods: HashMap<String, Arc<Pod>>,
    memory: Arc<Memory>,
}

struct World {
    api: Api,
    controller: Controller,
    random: Random,
    suspends: bool,
}

impl World {
    fn new(seed: u64, spec: Value, suspends: bool) -> Self {
        let job = job(spec);
        let server = Server {
            random: Random(seed.wrapping_mul(7919) | 1),
            pods: BTreeMap::new(),
            job_log: VecDeque::new(),
            pod_log: VecDeque::new(),
            version: 1,
            now: now(),
            faults: true,
            dead: false,
            parallelism: usize::try_from(super::spec::parallelism(&job)).expect("is a count"),
            created: 0,
            succeeded: HashSet::new(),
            failed: HashSet::new(),
            done: HashSet::new(),
            dismissed: HashSet::new(),
            events: Vec::new(),
            job: job.clone(),
        };
        let controller = Controller { job, pods: HashMap::new(), memory: Arc::default() };
        Self { api: Api(Mutex::new(server)), controller, random: Random(seed | 1), suspends }
    }

    fn wakeups(&self) -> Wakeups {
        Wakeups {
            jobs: Store::from_objects([self.controller.job.clone()]),
            queue: WorkQueue::new("model"),
            orphans: WorkQueue::new("model"),
            memory: Arc::clone(&self.controller.memory),
        }
    }

    /// Shows the controller what the watches have, the two of them apart.
    fn deliver(&mut self, jobs: usize, pods: usize) {
        for _ in 0..jobs {
            let Some(job) = self.api.0.lock().job_log.pop_front() else { break };
            let (old, new) = (Arc::new(self.controller.job.clone()), Arc::new(job.clone()));
            self.controller.job = job;
            self.wakeups().job(&Change::Updated { old: &old, new: &new }, now());
        }
        for _ in 0..pods {
            let Some((name, pod)) = self.api.0.lock().pod_log.pop_front() else { break };
            let wakeups = self.wakeups();
            match (self.controller.pods.get(&name).cloned(), pod) {
                (known, Some(pod)) => {
                    let pod = Arc::new(pod);
                    self.controller.pods.insert(name, Arc::clone(&pod));
                    match &known {
                        Some(old) => wakeups.pod(&Change::Updated { old, new: &pod }),
                        None => wakeups.pod(&Change::Added(&pod)),
                    }
                }
                (Some(known), None) => {
                    self.controller.pods.remove(&name);
                    wakeups.pod(&Change::Deleted(&known));
                }
                (None, None) => {}
            }
        }
    }

    /// A new controller, whose cache is filled from the server.
    fn restart(&mut self) {
        let mut server = self.api.0.lock();
        server.dead = false;
        server.job_log.clear();
        server.pod_log.clear();
        let pods = server.pods.iter().map(|(name, pod)| (name.clone(), Arc::new(pod.clone())));
        self.controller = Controller { job: server.job.clone(), pods: pods.collect(), memory: Arc::default() };
    }

    async fn sync(&mut self) {
        let key = NamespacedName::new("ns", "job");
        let Controller { job, pods, memory } = &self.controller;
        if is_finished(job) || memory.is_finished("job-uid") || memory.is_behind(&key, job) {
            return;
        }
        let cache_is_current = memory.expectations.satisfied(&key);
        let removals_expected = memory.removals_expected(&key);
        let mut pods: Vec<_> = pods.values().cloned().collect();
        pods.sort_by_key(|pod| pod.metadata.name.clone());
        let now = self.api.0.lock().now;
        let seen = Seen { job: job.clone(), pods, removals_expected, cache_is_current, backoff: memory.backoff(&key), now };
        // A sync that fails is tried again; what matters is what it left behind.
        let _outcome = sync(&self.api, &Arc::clone(memory), &key, seen).await;
        if self.api.0.lock().dead {
            self.restart();
        }
    }

    /// The kubelet brings one pod a step on.
    fn kubelet(&mut self, failures: usize) {
        let mut server = self.api.0.lock();
        let live: Vec<String> = server.pods.keys().cloned().collect();
        if live.is_empty() {
            return;
        }
        let Some(mut pod) = server.pods.get(&live[self.random.below(live.len())]).cloned() else { return };
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let next = match phase(&pod) {
            "Pending" if !deleted => "Running",
            "Pending" => "Failed",
            "Running" if self.random.below(10) < failures || deleted => "Failed",
            "Running" => "Succeeded",
            _ => return,
        };
        pod.status.get_or_insert_default().phase = Some(next.into());
        server.put_pod(pod);
    }

    fn user(&mut self) {
        let mut server = self.api.0.lock();
        let names: Vec<String> = server.pods.keys().cloned().collect();
        if self.suspends && self.random.one_in(3) {
            let mut job = server.job.clone();
            let spec = job.spec.get_or_insert_default();
            spec.suspend = Some(spec.suspend != Some(true));
            if !is_finished(&job) {
                server.put_job(job);
            }
        } else if !names.is_empty() && self.random.one_in(3) {
            let name = &names[self.random.below(names.len())];
            server.mark_deleted(name);
        }
    }

    async fn step(&mut self, failures: usize) {
        let later = SignedDuration::from_secs(i64::try_from(self.random.below(40)).expect("is small"));
        self.api.0.lock().now += later;
        match self.random.below(10) {
            0..4 => self.sync().await,
            4..6 => {
                let (jobs, pods) = (self.random.below(3), self.random.below(4));
                self.deliver(jobs, pods);
            }
            6..9 => self.kubelet(failures),
            _ if self.random.one_in(4) => self.restart(),
            _ => self.user(),
        }
    }

    /// Without faults, everything comes to an end.
    async fn settle(&mut self, failures: usize) {
        {
            let mut server = self.api.0.lock();
            server.faults = false;
            if server.job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true)) {
                let mut job = server.job.clone();
                job.spec.get_or_insert_default().suspend = Some(false);
                server.put_job(job);
            }
        }
        for _ in 0..2000 {
            self.deliver(usize::MAX, usize::MAX);
            if is_finished(&self.controller.job) {
                return;
            }
            self.api.0.lock().now += SignedDuration::from_secs(700);
            self.sync().await;
            self.kubelet(failures);
        }
        panic!("the Job never ends: {:#?}", self.controller.job.status);
    }

    fn check_end(&self) {
        let server = self.api.0.lock();
        let status = server.job.status.clone().unwrap_or_default();
        let complete = finished_condition(&server.job).is_some_and(|end| end.type_ == "Complete");
        let (succeeded, failed) = (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0));
        let created = i32::try_from(server.created).expect("is a count");
        let dismissed = i32::try_from(server.dismissed.len()).expect("is a count");
        if !is_indexed(&server.job) {
            assert!(
                succeeded + failed >= created - dismissed,
                "no pod is forgotten: {created} made, {dismissed} let go, {status:?}"
            );
        }
        if complete {
            assert_eq!(Some(succeeded), server.job.spec.as_ref().and_then(|spec| spec.completions), "as many as wanted");
            assert!(status.completion_time.is_some());
        }
        assert_eq!((status.active, status.terminating), (None, Some(0)), "nothing is left");
        let last = server.events.iter().filter(|reason| {
            ["Completed", "BackoffLimitExceeded", "FailedIndexes", "MaxFailedIndexesExceeded"].contains(&reason.as_str())
        });
        assert!(last.count() <= 1, "the end is told once: {:?}", server.events);
    }
}

async fn explore(name: &str, spec: Value, failures: usize, suspends: bool) {
    for seed in 1..=150 {
        let mut world = World::new(seed, spec.clone(), suspends);
        let run = async {
            for _ in 0..150 {
                world.step(failures).await;
            }
            world.settle(failures).await;
            world.check_end();
        };
        // The seed is what makes a failure a test.
        let history = std::panic::AssertUnwindSafe(run);
        if let Err(panic) = futures::FutureExt::catch_unwind(history).await {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let why = panic.downcast_ref::<String>().cloned().or(text).unwrap_or_default();
            panic!("{name} breaks with seed {seed}: {why}");
        }
    }
}

#[tokio::test]
async fn a_job_keeps_its_counts() {
    explore("plain", json!({"parallelism": 3, "completions": 5, "backoffLimit": 1000}), 3, false).await;
}

#[tokio::test]
async fn a_job_that_fails_keeps_its_counts() {
    explore("failing", json!({"parallelism": 3, "completions": 5, "backoffLimit": 2}), 6, false).await;
}

#[tokio::test]
async fn a_job_that_is_suspended_and_resumed_keeps_its_counts() {
    explore("suspended", json!({"parallelism": 3, "completions": 6, "backoffLimit": 1000}), 2, true).await;
}

#[tokio::test]
async fn a_job_that_waits_for_the_end_of_its_pods_keeps_its_counts() {
    let spec = json!({"parallelism": 3, "completions": 5, "backoffLimit": 1000, "podReplacementPolicy": "Failed"});
    explore("replacement", spec, 3, false).await;
}

#[tokio::test]
async fn an_indexed_job_keeps_its_counts() {
    let spec = json!({"parallelism": 3, "completions": 6, "completionMode": "Indexed", "backoffLimit": 1000});
    explore("indexed", spec, 3, true).await;
}

#[tokio::test]
async fn an_indexed_job_with_limits_per_index_keeps_its_counts() {
    let spec =
        json!({"parallelism": 3, "completions": 6, "completionMode": "Indexed", "backoffLimit": 1000, "backoffLimitPerIndex": 1});
    explore("per index", spec, 5, false).await;
}
