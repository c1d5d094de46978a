//! A cluster for model tests of controllers: the real API server in process, caches that lag behind it, requests that fail, processes that
//! end between two writes, and a kubelet that does one thing at a time. Everything follows from a seed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use api_server::{ApiServer, BootstrapConfig, InProcessService, ServerConfig, UserInfo, names};
use client::{Change, EventRecorder, Informers, NamespacedName, Outcome, ReconcileError, Store};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::{Api, Resource, ResourceExt};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::Config;
use crate::context::Context;

pub(crate) const NAMESPACE: &str = "default";

/// What happens to the writes of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// The process ends after so many writes.
    EndAfter(usize),
    /// It ends in the middle of the next after so many: the write arrives, the answer does not.
    EndIn(usize),
    /// Somebody else changes every object just before it is written.
    Meddle,
}

#[derive(Default)]
struct FaultState {
    fault: Fault,
    writes: usize,
    ended: bool,
}

/// The faults of a controller's client.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<FaultState>>);

impl Faults {
    /// Sets the fault of the next step and counts its writes anew.
    pub(crate) fn set(&self, fault: Fault) {
        *self.0.lock() = FaultState { fault, ..Default::default() };
    }

    /// Whether the process ended in this step.
    pub(crate) fn ended(&self) -> bool {
        self.0.lock().ended
    }

    /// Writes that arrived in this step.
    pub(crate) fn writes(&self) -> usize {
        self.0.lock().writes
    }

    fn judge(&self, is_write: bool) -> Verdict {
        let mut state = self.0.lock();
        if state.ended {
            return Verdict::Refuse;
        }
        if !is_write {
            return Verdict::Pass;
        }
        let verdict = match state.fault {
            Fault::EndAfter(count) if state.writes >= count => Verdict::Refuse,
            Fault::EndIn(count) if state.writes >= count => Verdict::Lose,
            Fault::Meddle => Verdict::Meddle,
            _ => Verdict::Pass,
        };
        state.ended = matches!(verdict, Verdict::Refuse | Verdict::Lose);
        state.writes += usize::from(!matches!(verdict, Verdict::Refuse));
        verdict
    }
}

enum Verdict {
    Pass,
    Refuse,
    Lose,
    Meddle,
}

/// The API server with faults.
#[derive(Clone)]
struct Faulty {
    inner: InProcessService,
    admin: InProcessService,
    faults: Faults,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<http::Request<Body>> for Faulty {
    type Response = http::Response<api_server::Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let verdict = self.faults.judge(request.method() != http::Method::GET);
        let (mut inner, mut admin) = (self.inner.clone(), self.admin.clone());
        Box::pin(async move {
            match verdict {
                Verdict::Refuse => return Err(ended("before the write")),
                Verdict::Meddle if request.method() != http::Method::POST => {
                    // May fail: what is to be written may be gone.
                    let _meddled = admin.call(touch(request.uri().path())).await;
                }
                _ => {}
            }
            let response = inner.call(request).await?;
            if matches!(verdict, Verdict::Lose) { Err(ended("before the answer")) } else { Ok(response) }
        })
    }
}

fn ended(when: &str) -> BoxError {
    format!("the process ended {when}").into()
}

fn touch(path: &str) -> http::Request<Body> {
    let path = path.trim_end_matches("/status");
    let patch = json!({"metadata": {"annotations": {"touched": rand::rng().random::<u32>().to_string()}}});
    http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .body(Body::from(patch.to_string().into_bytes()))
        .expect("is a request")
}

pub(crate) struct Model {
    server: Arc<ApiServer>,
    pub(crate) admin: kube::Client,
    pub(crate) faults: Faults,
    pub(crate) rng: StdRng,
}

impl Model {
    pub(crate) async fn new(seed: u64) -> Self {
        let server = ApiServer::builder(ServerConfig::default(), Arc::new(storage::Memory::new())).build();
        let bootstrap = BootstrapConfig {
            advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise_port: 6443,
            service_cidrs: vec!["10.43.0.0/16".into()],
            service_ip: IpAddr::from([10, 43, 0, 1]),
            publish_endpoints: true,
        };
        server.bootstrap(&bootstrap).await.expect("bootstrap objects are made");
        let admin = client::from_service(server.client_service(UserInfo::new("admin", &[names::MASTERS])), NAMESPACE);
        let model = Self { server, admin, faults: Faults::default(), rng: StdRng::seed_from_u64(seed) };
        model.create::<ServiceAccount>(json!({"metadata": {"name": "default"}})).await;
        model
    }

    /// What a controller with this ServiceAccount is given, with faults in its client.
    pub(crate) fn context(&self, account: &str, config: Config) -> (Context, EventRecorder) {
        let service = |user| self.server.client_service(user);
        let faulty = Faulty {
            inner: service(UserInfo::service_account("kube-system", account)),
            admin: service(UserInfo::new("admin", &[names::MASTERS])),
            faults: self.faults.clone(),
        };
        let client = client::from_service(faulty, NAMESPACE);
        let token = CancellationToken::new();
        // Nobody writes them: they are no part of the model.
        let (events, _writer) = EventRecorder::new(self.admin.clone(), "model", None, token.clone());
        let informers = Informers::new(client.clone(), token.clone());
        (Context::new(client, informers, config, events.clone(), token), events)
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), NAMESPACE)
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + serde::Serialize + Debug,
    {
        let object = serde_json::from_value(object).expect("fits the type");
        self.api::<K>().create(&PostParams::default(), &object).await.expect("is created")
    }

    pub(crate) async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::all(self.admin.clone());
        api.list(&ListParams::default()).await.expect("is listed").items
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    pub(crate) fn pick(&mut self, count: usize) -> usize {
        self.rng.random_range(0..count)
    }

    /// A fault now and then.
    pub(crate) fn some_fault(&mut self) -> Fault {
        match self.pick(10) {
            0 | 1 => Fault::EndAfter(self.pick(4)),
            2 => Fault::EndIn(self.pick(4)),
            3 => Fault::Meddle,
            _ => Fault::None,
        }
    }

    /// The kubelet (and the scheduler) do the next thing about a pod; false if there is nothing to do.
    pub(crate) async fn run_pod(&self, pod: &Pod, node: &str) -> bool {
        let (api, name) = (self.api::<Pod>(), pod.name_any());
        if pod.metadata.deletion_timestamp.is_some() {
            api.delete(&name, &DeleteParams::default().grace_period(0)).await.expect("is removed");
            return true;
        }
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()) {
            let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
            let _bound: Value =
                api.create_subresource("binding", &name, &PostParams::default(), &binding).await.expect("is bound");
            return true;
        }
        if pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Pending") {
            return false;
        }
        let since = jiff::Timestamp::now().to_string();
        let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
        self.set_status(&name, json!({"phase": "Running", "conditions": conditions})).await;
        true
    }

    pub(crate) async fn set_status(&self, pod: &str, status: Value) {
        let patch = Patch::Strategic(json!({"status": status}));
        self.api::<Pod>().patch_status(pod, &PatchParams::default(), &patch).await.expect("status is written");
    }
}

/// Conflicts, taken names and what is gone are what stale caches bring; to ask for what one may not, or for nonsense, is a bug.
pub(crate) fn check_error(reconciled: &Result<Outcome, ReconcileError>) {
    let Err(ReconcileError::Api { operation, source: kube::Error::Api(status) }) = reconciled else { return };
    let bug = match status.reason.as_str() {
        "Forbidden" | "BadRequest" => true,
        // The UID of one that took the name.
        "Invalid" => *operation != "adopt an object",
        _ => false,
    };
    assert!(!bug, "{operation}: {status:?}");
}

enum Event<K> {
    Put(Arc<K>),
    Gone(NamespacedName),
}

/// An informer's cache that lags behind.
pub(crate) struct Cache<K> {
    truth: BTreeMap<NamespacedName, Arc<K>>,
    seen: BTreeMap<NamespacedName, Arc<K>>,
    pending: VecDeque<Event<K>>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { truth: BTreeMap::new(), seen: BTreeMap::new(), pending: VecDeque::new() }
    }
}

impl<K: ResourceExt + Clone> Cache<K> {
    /// Notes what changed since the last time. Called after every step, so that no change is missed.
    pub(crate) fn observe(&mut self, all: Vec<K>) {
        let now: BTreeMap<_, _> = all.into_iter().map(|object| (NamespacedName::of(&object), Arc::new(object))).collect();
        for (key, old) in &self.truth {
            if now.get(key).is_none_or(|new| new.uid() != old.uid()) {
                self.pending.push_back(Event::Gone(key.clone()));
            }
        }
        for (key, new) in &now {
            if self.truth.get(key).is_none_or(|old| old.resource_version() != new.resource_version()) {
                self.pending.push_back(Event::Put(Arc::clone(new)));
            }
        }
        self.truth = now;
    }

    /// How many changes are yet to arrive.
    pub(crate) fn lag(&self) -> usize {
        self.pending.len()
    }

    /// The next changes arrive.
    pub(crate) fn advance(&mut self, count: usize, handler: impl Fn(&Change<'_, K>)) {
        for _ in 0..count {
            match self.pending.pop_front() {
                None => return,
                Some(Event::Gone(key)) => {
                    if let Some(last) = self.seen.remove(&key) {
                        handler(&Change::Deleted(&last));
                    }
                }
                Some(Event::Put(object)) => match self.seen.insert(NamespacedName::of(&*object), Arc::clone(&object)) {
                    None => handler(&Change::Added(&object)),
                    Some(old) => handler(&Change::Updated { old: &old, new: &object }),
                },
            }
        }
    }

    /// A new process lists.
    pub(crate) fn restart(&mut self) {
        self.pending.clear();
        self.seen = self.truth.clone();
    }

    pub(crate) fn store(&self) -> Store<K> {
        let store = Store::from_objects(self.seen.values().map(|object| K::clone(object)));
        store.add_controller_index();
        store
    }

    pub(crate) fn truth(&self) -> impl Iterator<Item = &Arc<K>> {
        self.truth.values()
    }
}
