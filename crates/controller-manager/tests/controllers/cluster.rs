//! An API server with all controllers, and a stand-in for scheduler and kubelet that runs every pod at once.

use std::fmt::Debug;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use api_server::{ApiServer, ApiServerBuilder, BootstrapConfig, ServerConfig, UserInfo, names};
use client::Informers;
use controller_manager::{Clients, Config};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Annotation of pods that end at once, with this code.
pub(crate) const EXIT_CODE: &str = "test/exit-code";
/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) client: kube::Client,
    token: CancellationToken,
    /// Aborted when dropped.
    _tasks: JoinSet<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

pub(crate) fn config() -> Config {
    Config { root_ca: Some("PEM".into()), namespace_deletion_grace_period: Duration::ZERO, ..Config::default() }
}

impl Cluster {
    pub(crate) async fn start(config: Config) -> Self {
        Self::start_with(config, |builder| builder).await
    }

    /// With a server that is told more.
    pub(crate) async fn start_with(config: Config, more: impl FnOnce(ApiServerBuilder) -> ApiServerBuilder) -> Self {
        let builder = ApiServer::builder(ServerConfig::default(), std::sync::Arc::new(storage::Memory::new()));
        let server = more(builder).build();
        let token = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (background, stop) = (server.clone(), token.clone());
        tasks.spawn(async move { background.run_background(stop).await });
        let bootstrap = BootstrapConfig {
            advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise_port: 6443,
            service_cidrs: vec!["10.43.0.0/16".into()],
            service_ip: IpAddr::from([10, 43, 0, 1]),
            publish_endpoints: true,
        };
        server.bootstrap(&bootstrap).await.expect("bootstrap objects are made");
        let client_of = |user: UserInfo| client::from_service(server.client_service(user), "default");
        let admin = client_of(UserInfo::new("admin", &[names::MASTERS]));
        let manager = client_of(UserInfo::new("system:kube-controller-manager", &[]));
        let informers = Informers::new(manager.clone(), token.clone());
        // With RBAC and no more rights than upstream's controllers have.
        let for_accounts = server.clone();
        let clients = Clients::per_controller(manager, move |account| {
            let user = UserInfo::service_account("kube-system", account);
            client::from_service(for_accounts.client_service(user), "default")
        });
        let stop = token.clone();
        tasks.spawn(async move {
            controller_manager::run(config, clients, informers, stop).await.expect("runs until stopped");
        });
        Self { client: admin, token, _tasks: tasks }
    }

    /// Starts to run every pod on node `n1`, which is made.
    pub(crate) async fn run_pods(&mut self) {
        let node = json!({"metadata": {"name": "n1"}});
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &from(node)).await.expect("node is made");
        let client = self.client.clone();
        self._tasks.spawn(async move {
            let mut addresses = 1u32;
            loop {
                let pods: Api<Pod> = Api::all(client.clone());
                for pod in pods.list(&ListParams::default()).await.expect("pods are listed") {
                    run_pod(&client, &pod, &mut addresses).await;
                }
                // The stand-in polls, so that it shares no code with what is tested.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn create<K>(&self, namespace: &str, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + serde::Serialize + Debug,
    {
        let api: Api<K> = self.api(namespace);
        api.create(&PostParams::default(), &from(object)).await.expect("object is created")
    }
}

pub(crate) fn from<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("fits the type")
}

/// The status of a pod whose container ended with this code, long enough ago that nothing waits for it.
fn ended(code: i32) -> Value {
    let at = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1)).to_string();
    let state = json!({"terminated": {"exitCode": code, "startedAt": at, "finishedAt": at}});
    let container = json!({"name": "c", "image": "image:1", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    json!({"status": {"phase": if code == 0 { "Succeeded" } else { "Failed" }, "containerStatuses": [container]}})
}

async fn run_pod(client: &kube::Client, pod: &Pod, addresses: &mut u32) {
    let namespace = pod.namespace().expect("pods have a namespace");
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        let now = DeleteParams::default().grace_period(0);
        // It may be gone by now, as everything here.
        let _gone = api.delete(&name, &now).await;
        return;
    }
    if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()) {
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
        let _bound: kube::Result<Value> = api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
    }
    if matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Running" | "Succeeded" | "Failed")) {
        return;
    }
    if let Some(code) = pod.annotations().get(EXIT_CODE) {
        let code: i32 = code.parse().expect("is an exit code");
        let _ended = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(ended(code))).await;
        return;
    }
    *addresses += 1;
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 42, 0, 0)) + *addresses).to_string();
    let now = jiff::Timestamp::now().to_string();
    let status = json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": now,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
    }});
    let _running = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
}

/// Polls until `check` yields something; panics with `what` at the deadline.
pub(crate) async fn eventually<T, F, Fut>(what: &str, mut check: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Waits until an object fulfils a condition.
pub(crate) async fn until<K>(api: &Api<K>, name: &str, what: &str, check: impl Fn(&K) -> bool) -> K
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut last = None;
    let end = tokio::time::Instant::now() + DEADLINE;
    while tokio::time::Instant::now() < end {
        last = api.get_opt(name).await.expect("is read");
        if let Some(object) = last.take_if(|object| check(object)) {
            return object;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("timed out: {what}; at the end it was {last:#?}");
}

/// Waits until an object is gone.
pub(crate) async fn until_gone<K>(api: &Api<K>, name: &str)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let what = format!("{name} goes");
    eventually(&what, || async { api.get_opt(name).await.expect("is read").is_none().then_some(()) }).await;
}
