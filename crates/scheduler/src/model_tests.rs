//! The scheduler against a model of the API server, from seeds: pods and nodes come and go, events arrive late, requests and answers are
//! lost, the scheduler dies between any two of its writes and another takes over. Checked by name:
//!
//! - `no node is overcommitted`: what is bound to a node never exceeds what it has, after every single write;
//! - `nobody is forgotten`: when all is quiet, no pod is pending that has room somewhere;
//! - `the cache is right`: when all is quiet, the scheduler counts exactly what is bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, EventRecorder};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::client::Body;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::framework::{Handle, Listers};
use crate::queue::Backoff;
use crate::run::{Cycles, Scheduler};

/// What each node has.
const NODE_CPU: u64 = 8;
const NODE_PODS: usize = 5;

/// The API server's state, and what it has told nobody yet.
#[derive(Default)]
struct World {
    nodes: BTreeMap<String, Value>,
    pods: BTreeMap<String, Value>,
    /// Every scheduler knows them from its start.
    workloads: Vec<Value>,
    version: u64,
    /// Changes that the scheduler's watches have not delivered: pods (true) or nodes, by name.
    news: Vec<(bool, String, Option<Value>)>,
    /// The scheduler that lives; what others send is lost.
    alive: usize,
    /// How many requests in a hundred are lost, and how many answers.
    faults: u32,
    overcommitted: Option<String>,
}

impl World {
    fn change_pod(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        self.version += 1;
        if let Some(pod) = self.pods.get_mut(name) {
            change(pod);
            pod["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.news.push((true, name.to_owned(), Some(pod.clone())));
        }
        self.check();
    }

    fn add_pod(&mut self, name: &str, cpu: u64, priority: i32) {
        let spec = json!({"schedulerName": "default-scheduler", "priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu.to_string()}}}]});
        self.add_pod_with(name, spec);
    }

    fn add_pod_with(&mut self, name: &str, spec: Value) {
        let meta = json!({"name": name, "namespace": "d", "uid": format!("{name}-{}", self.version), "generation": 1});
        self.pods.insert(name.to_owned(), json!({"metadata": meta, "spec": spec, "status": {}}));
        self.change_pod(name, |_| {});
    }

    fn delete_pod(&mut self, name: &str) {
        if self.pods.remove(name).is_some() {
            self.news.push((true, name.to_owned(), None));
        }
    }

    fn add_node(&mut self, name: &str) {
        let allocatable = json!({"cpu": NODE_CPU.to_string(), "memory": "64Gi", "pods": NODE_PODS.to_string()});
        let node = json!({"metadata": {"name": name, "uid": name}, "status": {"allocatable": allocatable}});
        self.nodes.insert(name.to_owned(), node.clone());
        self.news.push((false, name.to_owned(), Some(node)));
    }

    fn bound_to(&self, node: &str) -> Vec<&Value> {
        self.pods.values().filter(|pod| pod["spec"]["nodeName"] == node).collect()
    }

    fn check(&mut self) {
        for node in self.nodes.keys() {
            let pods = self.bound_to(node);
            let cpu: u64 = pods.iter().map(|pod| cpu_of(pod)).sum();
            if cpu > NODE_CPU || pods.len() > NODE_PODS {
                self.overcommitted.get_or_insert(format!("{node} has {} pods that ask for {cpu}", pods.len()));
            }
        }
    }

    /// One request: the code and the answer.
    fn answer(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let refused = |code: u16, reason: &str| {
            (code, json!({"kind": "Status", "status": "Failure", "message": reason, "reason": reason, "code": code}))
        };
        let parts: Vec<&str> = path.trim_start_matches("/api/v1/namespaces/d/").split(['/', '?']).collect();
        let Some(name) = parts.get(1).filter(|_| parts[0] == "pods").copied() else { return (201, body.clone()) };
        let Some(pod) = self.pods.get(name).cloned() else { return refused(404, "NotFound") };
        let uid = body.pointer("/metadata/uid").or(body.pointer("/preconditions/uid"));
        if uid.is_some_and(|uid| *uid != pod["metadata"]["uid"]) {
            return refused(409, "Conflict");
        }
        match (method, parts.get(2).copied()) {
            ("POST", Some("binding")) => {
                if pod["spec"]["nodeName"].is_string() {
                    return refused(409, "Conflict");
                }
                self.change_pod(name, |pod| pod["spec"]["nodeName"] = body["target"]["name"].clone());
                (201, json!({"kind": "Status", "status": "Success"}))
            }
            ("PATCH", Some("status")) => {
                if let Some(node) = body.pointer("/status/nominatedNodeName").cloned() {
                    self.change_pod(name, |pod| pod["status"]["nominatedNodeName"] = node);
                }
                (200, self.pods[name].clone())
            }
            ("DELETE", None) => {
                self.delete_pod(name);
                (200, pod)
            }
            _ => (200, pod),
        }
    }
}

fn cpu_of(pod: &Value) -> u64 {
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].as_str().and_then(|cpu| cpu.parse().ok()).unwrap_or_default()
}

type Shared = Arc<Mutex<(World, StdRng)>>;

/// A client of the model; it reaches the server only while its scheduler lives.
fn client_of(world: &Shared, generation: usize) -> kube::Client {
    let world = Arc::clone(world);
    let service = tower::service_fn(move |request: Request<Body>| {
        let world = Arc::clone(&world);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            // Others may run before the request arrives, and before the answer does.
            tokio::task::yield_now().await;
            let answer = {
                let mut guard = world.lock();
                let (world, random) = &mut *guard;
                let lost = |random: &mut StdRng, faults: u32| random.random_range(0..100) < faults;
                if world.alive != generation || lost(random, world.faults) {
                    return Err(std::io::Error::other("the request was lost").into());
                }
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let answer = world.answer(parts.method.as_str(), parts.uri.path(), &body);
                if lost(random, world.faults) {
                    return Err(std::io::Error::other("the answer was lost").into());
                }
                answer
            };
            tokio::task::yield_now().await;
            let (code, answer) = answer;
            let response = Response::builder().status(StatusCode::from_u16(code).expect("a code"));
            Ok::<_, tower::BoxError>(response.body(Full::new(Bytes::from(answer.to_string()))).expect("a response"))
        }
    });
    client::from_service(service, "d")
}

/// A scheduler with its caches.
struct Instance {
    scheduler: Arc<Scheduler>,
    cycles: Cycles,
    pods: BTreeMap<String, Arc<Pod>>,
    nodes: BTreeMap<String, Arc<Node>>,
}

impl Instance {
    /// A fresh one, which has listed everything: whoever lived before is dead.
    fn start(world: &Shared) -> Self {
        let generation = {
            let mut guard = world.lock();
            guard.0.alive += 1;
            guard.0.alive
        };
        let client = client_of(world, generation);
        let (recorder, _writer) = EventRecorder::new(client.clone(), "default-scheduler", None, CancellationToken::new());
        let workloads = world.lock().0.workloads.clone().into_iter();
        let workloads = workloads.map(|workload| serde_json::from_value(workload).expect("a workload"));
        let listers = Listers { workloads: client::Store::from_objects(workloads), ..Listers::default() };
        let handle = Arc::new(Handle { listers, random: Mutex::new(StdRng::seed_from_u64(7)), ..Handle::default() });
        // Backing off only takes time.
        let backoff = Backoff { first: Duration::ZERO, max: Duration::ZERO, ..Backoff::default() };
        let mut config = Config::default();
        config.backoff = backoff;
        config.feature_gates.gang_scheduling = true;
        let scheduler = Scheduler::new(&config, client, recorder, handle).expect("defaults are valid");
        let mut instance =
            Self { scheduler: Arc::new(scheduler), cycles: Cycles::default(), pods: BTreeMap::new(), nodes: BTreeMap::new() };
        let (nodes, pods) = {
            let mut guard = world.lock();
            guard.0.news.clear();
            (guard.0.nodes.clone(), guard.0.pods.clone())
        };
        nodes.into_iter().for_each(|(name, node)| instance.hear(false, name, Some(node)));
        pods.into_iter().for_each(|(name, pod)| instance.hear(true, name, Some(pod)));
        instance
    }

    /// What the informers would do.
    fn hear(&mut self, is_pod: bool, name: String, object: Option<Value>) {
        if is_pod {
            let new: Option<Arc<Pod>> = object.map(|pod| Arc::new(serde_json::from_value(pod).expect("a pod")));
            let old = match &new {
                Some(new) => self.pods.insert(name, Arc::clone(new)),
                None => self.pods.remove(&name),
            };
            match (&old, &new) {
                // Deleted and made again between two events: informers tell of both.
                (Some(old), Some(new)) if old.uid() != new.uid() => {
                    self.scheduler.on_pod(&Change::Deleted(old));
                    self.scheduler.on_pod(&Change::Added(new));
                }
                (Some(old), Some(new)) => self.scheduler.on_pod(&Change::Updated { old, new }),
                (None, Some(new)) => self.scheduler.on_pod(&Change::Added(new)),
                (Some(old), None) => self.scheduler.on_pod(&Change::Deleted(old)),
                (None, None) => {}
            }
        } else {
            let new: Option<Arc<Node>> = object.map(|node| Arc::new(serde_json::from_value(node).expect("a node")));
            let old = match &new {
                Some(new) => self.nodes.insert(name, Arc::clone(new)),
                None => self.nodes.remove(&name),
            };
            match (&old, &new) {
                (Some(old), Some(new)) => self.scheduler.on_node(&Change::Updated { old, new }),
                (None, Some(new)) => self.scheduler.on_node(&Change::Added(new)),
                (Some(old), None) => self.scheduler.on_node(&Change::Deleted(old)),
                (None, None) => {}
            }
        }
    }

    fn hear_some(&mut self, world: &Shared, count: usize) {
        let some: Vec<_> = {
            let mut guard = world.lock();
            let count = count.min(guard.0.news.len());
            guard.0.news.drain(..count).collect()
        };
        some.into_iter().for_each(|(is_pod, name, object)| self.hear(is_pod, name, object));
    }
}

/// Lets the tasks that bind and evict get on.
async fn let_run(turns: usize) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// Nothing fails any more, all news arrive, whoever binds or evicts comes to an end.
async fn settle(world: &Shared, instance: &mut Instance) {
    world.lock().0.faults = 0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        instance.hear_some(world, usize::MAX);
        // What ended before this step may have brought a pod back.
        let ended = instance.scheduler.tasks.is_empty();
        let stepped = instance.scheduler.step(&mut instance.cycles);
        let_run(20).await;
        if ended && !stepped && world.lock().0.news.is_empty() {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "it does not come to rest");
    }
}

fn check_quiet(world: &Shared, instance: &Instance, seed: u64) {
    let guard = world.lock();
    let world = &guard.0;
    for (name, pod) in world.pods.iter().filter(|(_, pod)| !pod["spec"]["nodeName"].is_string()) {
        let room = world.nodes.keys().find(|node| {
            let pods = world.bound_to(node);
            pods.len() < NODE_PODS && pods.iter().map(|pod| cpu_of(pod)).sum::<u64>() + cpu_of(pod) <= NODE_CPU
        });
        let counts = instance.scheduler.state.lock().queue.counts();
        assert_eq!(room, None, "nobody is forgotten: {name}, seed {seed}, the queue has {counts:?}");
    }
    let mut state = instance.scheduler.state.lock();
    let mut snapshot = crate::snapshot::Snapshot::default();
    state.cache.refresh_whole(&mut snapshot);
    let counted: BTreeMap<String, i64> =
        snapshot.nodes().iter().map(|node| (node.name().to_owned(), node.requested.milli_cpu)).collect();
    let bound =
        |node: &String| i64::try_from(world.bound_to(node).iter().map(|pod| cpu_of(pod)).sum::<u64>() * 1000).expect("small");
    let truth: BTreeMap<String, i64> = world.nodes.keys().map(|node| (node.clone(), bound(node))).collect();
    assert_eq!(counted, truth, "the cache is right, seed {seed}");
}

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let faults = [0, 5, 20][random.random_range(0..3)];
    let world: Shared = Arc::new(Mutex::new((World { faults, ..World::default() }, StdRng::seed_from_u64(!seed))));
    for number in 0..3 {
        world.lock().0.add_node(&format!("n{number}"));
    }
    let mut instance = Instance::start(&world);
    for _ in 0..250 {
        let name = format!("p{}", random.random_range(0..20));
        match random.random_range(0..19) {
            0..=5 => {
                let (cpu, priority) = (random.random_range(1..4), if random.random_bool(0.2) { 10 } else { 0 });
                let mut guard = world.lock();
                if !guard.0.pods.contains_key(&name) {
                    guard.0.add_pod(&name, cpu, priority);
                }
            }
            6..=7 => world.lock().0.delete_pod(&name),
            8..=11 => instance.hear_some(&world, random.random_range(1..6)),
            12..=15 => {
                instance.scheduler.step(&mut instance.cycles);
            }
            16..=17 => let_run(random.random_range(1..8)).await,
            // The lease of the one that dies must run out before another lives: its requests have arrived by then, or never will.
            _ => instance = Instance::start(&world),
        }
        assert_eq!(world.lock().0.overcommitted, None, "no node is overcommitted, seed {seed}");
    }
    settle(&world, &mut instance).await;
    assert_eq!(world.lock().0.overcommitted, None, "no node is overcommitted, seed {seed}");
    check_quiet(&world, &instance, seed);
}

#[tokio::test]
async fn whatever_happens() {
    for seed in 0..80 {
        run(seed).await;
    }
}

#[path = "gang_tests.rs"]
mod gangs;
