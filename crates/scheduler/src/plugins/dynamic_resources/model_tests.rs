//! The plugin against a model of the API server, from seeds: pods come and go, the informer lags, requests and answers are lost, the
//! scheduler dies between any two of its writes and another takes over. Checked by name:
//!
//! - `no device is given twice`: after every single write a device is allocated to one claim at most;
//! - `nobody is forgotten`: when all is quiet, no pod is without devices that could have them.

use std::collections::BTreeMap;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceSlice};
use kube::client::Body;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::*;
use crate::plugins::testing::{node, state};

const PODS: usize = 6;
const NODES: [&str; 2] = ["a", "b"];
/// Devices of each node: fewer than there are pods.
const DEVICES: usize = 2;

/// The claims of the API server; the pod with the same number uses one each.
#[derive(Default)]
struct World {
    claims: BTreeMap<usize, Value>,
    version: u64,
    /// The scheduler that lives; what others send is lost.
    alive: usize,
    /// How many requests in a hundred are lost, and how many answers.
    faults: u32,
    given_twice: Option<String>,
}

impl World {
    fn change(&mut self, number: usize, change: impl FnOnce(&mut Value)) -> Value {
        self.version += 1;
        let claim = self.claims.get_mut(&number).expect("a claim");
        change(claim);
        claim["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let claim = claim.clone();
        let mut seen = BTreeMap::new();
        for (number, claim) in &self.claims {
            for result in claim["status"]["allocation"]["devices"]["results"].as_array().into_iter().flatten() {
                let device = format!("{}/{}", result["pool"], result["device"]);
                if let Some(other) = seen.insert(device.clone(), number) {
                    self.given_twice.get_or_insert(format!("{device} is given to {number} and {other}"));
                }
            }
        }
        claim
    }

    fn answer(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let refused = |code: u16, reason: &str| {
            (code, json!({"kind": "Status", "status": "Failure", "message": reason, "reason": reason, "code": code}))
        };
        let path = path.split('?').next().unwrap_or_default();
        let parts: Vec<&str> =
            path.trim_start_matches("/apis/resource.k8s.io/v1/namespaces/d/resourceclaims/").split('/').collect();
        let number: usize = parts[0].trim_start_matches('c').parse().expect("a claim's name");
        let Some(claim) = self.claims.get(&number).cloned() else { return refused(404, "NotFound") };
        match (method, parts.get(1)) {
            ("GET", _) => (200, claim),
            ("PUT", _) if body["metadata"]["resourceVersion"] != claim["metadata"]["resourceVersion"] => refused(409, "Conflict"),
            ("PUT", None) => {
                (200, self.change(number, |claim| claim["metadata"]["finalizers"] = body["metadata"]["finalizers"].clone()))
            }
            ("PUT", Some(_)) => (200, self.change(number, |claim| claim["status"] = body["status"].clone())),
            ("PATCH", Some(_)) => (200, self.change(number, |claim| claim["status"]["reservedFor"] = json!([]))),
            _ => refused(405, "MethodNotAllowed"),
        }
    }
}

type Shared = Arc<Mutex<(World, StdRng)>>;

fn client_of(world: &Shared, generation: usize) -> kube::Client {
    let world = Arc::clone(world);
    let service = tower::service_fn(move |request: Request<Body>| {
        let world = Arc::clone(&world);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            tokio::task::yield_now().await;
            let (code, answer) = {
                let mut guard = world.lock();
                let (world, random) = &mut *guard;
                if world.alive != generation || random.random_range(0..100) < world.faults {
                    return Err(std::io::Error::other("the request was lost").into());
                }
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let path = parts.uri.path().to_owned();
                let answer = world.answer(parts.method.as_str(), &path, &body);
                if random.random_range(0..100) < world.faults {
                    return Err(std::io::Error::other("the answer was lost").into());
                }
                answer
            };
            tokio::task::yield_now().await;
            let response = Response::builder().status(StatusCode::from_u16(code).expect("a code"));
            Ok::<_, tower::BoxError>(response.body(Full::new(Bytes::from(answer.to_string()))).expect("a response"))
        }
    });
    client::from_service(service, "d")
}

fn user(number: usize) -> Pod {
    let name = format!("p{number}");
    let claims = json!([{"name": "g", "resourceClaimName": format!("c{number}")}]);
    let metadata = json!({"name": name, "namespace": "d", "uid": name});
    serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": [], "resourceClaims": claims}})).expect("a pod")
}

/// A scheduler's plugin, what its informer knows, and what it is doing.
struct Instance {
    plugin: Arc<DynamicResources>,
    client: kube::Client,
    binding: Vec<(usize, CycleState, &'static str, tokio::task::JoinHandle<Status>)>,
    /// Pods that are on a node.
    bound: BTreeSet<usize>,
}

fn handle_of(world: &World) -> Arc<Handle> {
    let typed = |claim: &Value| serde_json::from_value::<ResourceClaim>(claim.clone()).expect("a claim");
    let slices = NODES.map(|name| {
        let devices: Vec<Value> = (0..DEVICES).map(|number| json!({"name": format!("d{number}")})).collect();
        let pool = json!({"name": name, "generation": 1, "resourceSliceCount": 1});
        let spec = json!({"driver": "x.io", "nodeName": name, "pool": pool, "devices": devices});
        serde_json::from_value::<ResourceSlice>(json!({"metadata": {"name": name}, "spec": spec})).expect("a slice")
    });
    let class: DeviceClass = serde_json::from_value(json!({"metadata": {"name": "gpu"}, "spec": {}})).expect("a class");
    let mut handle = Handle::default();
    handle.listers.resource_claims = client::Store::from_objects(world.claims.values().map(typed));
    handle.listers.resource_slices = client::Store::from_objects(slices);
    handle.listers.device_classes = client::Store::from_objects([class]);
    Arc::new(handle)
}

impl Instance {
    fn start(world: &Shared) -> Self {
        let mut guard = world.lock();
        guard.0.alive += 1;
        let handle = handle_of(&guard.0);
        let plugin = Arc::new(DynamicResources::with_args(&handle, &Args::default()).expect("valid arguments"));
        Self { plugin, client: client_of(world, guard.0.alive), binding: Vec::new(), bound: BTreeSet::new() }
    }

    /// The informer catches up. Only between cycles and bindings, which hold on to the plugin.
    fn hear(&mut self, world: &Shared) {
        let handle = handle_of(&world.lock().0);
        if let Some(plugin) = Arc::get_mut(&mut self.plugin) {
            plugin.handle = handle;
        }
    }

    /// One cycle for a pod; true if it got a node.
    fn attempt(&mut self, number: usize) -> bool {
        if self.bound.contains(&number) || self.binding.iter().any(|(busy, ..)| *busy == number) {
            return false;
        }
        let pod = user(number);
        let mut state = state(&pod);
        if !self.plugin.pre_filter(&mut state, &pod, &Snapshot::default()).0.is_success() {
            return false;
        }
        let fits = |name: &str| self.plugin.filter(&state, &pod, &node(json!({"metadata": {"name": name}}))).is_success();
        let Some(name) = NODES.iter().copied().find(|name| fits(name)) else { return false };
        if !self.plugin.reserve(&mut state, &pod, name).is_success() {
            return false;
        }
        let (plugin, client, work) = (Arc::clone(&self.plugin), self.client.clone(), state.clone());
        let task = tokio::spawn(async move { plugin.pre_bind(&client, &work, &user(number), name).await });
        self.binding.push((number, state, name, task));
        true
    }

    /// Sees to the bindings that have come to an end.
    async fn reap(&mut self) {
        let (ended, busy) = std::mem::take(&mut self.binding).into_iter().partition(|(.., task)| task.is_finished());
        self.binding = busy;
        let ended: Vec<_> = ended;
        for (number, mut state, name, task) in ended {
            if task.await.expect("it does not panic").is_success() {
                self.bound.insert(number);
            } else {
                self.plugin.unreserve(&mut state, &user(number), name);
            }
        }
        let releases = std::mem::take(&mut *self.plugin.handle.releases.lock());
        for release in releases {
            // What is lost here is found again by the next attempt.
            drop(release.carry_out(&self.client).await);
        }
    }
}

/// A pod is gone, and the controller of claims has taken back what it had.
fn remove_pod(world: &Shared, instance: &mut Instance, number: usize) {
    if instance.binding.iter().all(|(busy, ..)| *busy != number) {
        world.lock().0.change(number, |claim| claim["status"] = json!({}));
        instance.bound.remove(&number);
    }
}

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let faults = [0, 5, 20][random.random_range(0..3)];
    let world: Shared = Arc::new(Mutex::new((World { faults, ..World::default() }, StdRng::seed_from_u64(!seed))));
    for number in 0..PODS {
        let name = format!("c{number}");
        let exactly = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1});
        let spec = json!({"devices": {"requests": [{"name": "r", "exactly": exactly}]}});
        let claim = json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": spec, "status": {}});
        let mut guard = world.lock();
        guard.0.claims.insert(number, claim);
        guard.0.change(number, |_| {});
    }
    let mut instance = Instance::start(&world);
    for _ in 0..200 {
        let number = random.random_range(0..PODS);
        match random.random_range(0..20) {
            0..=8 => drop(instance.attempt(number)),
            9..=10 => remove_pod(&world, &mut instance, number),
            11..=13 => instance.hear(&world),
            14..=18 => {
                for _ in 0..random.random_range(1..6) {
                    tokio::task::yield_now().await;
                }
                instance.reap().await;
            }
            _ => {
                // Who was bound stays so: the API server knows.
                let bound = std::mem::take(&mut instance.bound);
                instance = Instance::start(&world);
                instance.bound = bound;
            }
        }
        assert_eq!(world.lock().0.given_twice, None, "no device is given twice, seed {seed}");
    }
    world.lock().0.faults = 0;
    for round in 0.. {
        assert!(round < 1000, "it does not come to rest, seed {seed}");
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        instance.reap().await;
        if !instance.binding.is_empty() {
            continue;
        }
        instance.hear(&world);
        let tried: Vec<bool> = (0..PODS).map(|number| instance.attempt(number)).collect();
        if !tried.contains(&true) {
            break;
        }
    }
    let guard = world.lock();
    assert_eq!(guard.0.given_twice, None, "no device is given twice, seed {seed}");
    let taken = guard.0.claims.values().filter(|claim| claim["status"]["allocation"].is_object()).count();
    let waiting = PODS - instance.bound.len();
    assert!(
        waiting == 0 || taken == NODES.len() * DEVICES,
        "nobody is forgotten: {waiting} wait, {taken} devices are taken, seed {seed}"
    );
}

#[tokio::test]
async fn whatever_happens() {
    for seed in 0..200 {
        run(seed).await;
    }
}
