//! An API server in this process and components that reach it by counted requests, which can be cut off.

use std::fmt::Debug;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use api_server::{ApiServer, BootstrapConfig, InProcessService, ServerConfig, UserInfo, names};
use client::{Informers, LeaderElection};
use controller_manager::Clients;
use kube::api::{ListParams, PostParams};
use kube::client::Body;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request that was sent: by whom, its method, its path and query.
pub(crate) type Sent = (String, String, String);

/// Requests of a component; cut off, they fail.
#[derive(Clone)]
struct Counted {
    inner: InProcessService,
    who: String,
    sent: Arc<std::sync::Mutex<Vec<Sent>>>,
    cut: Arc<AtomicBool>,
}

impl Service<http::Request<Body>> for Counted {
    type Response = http::Response<api_server::Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if self.cut.load(Ordering::Relaxed) {
            return Box::pin(async { Err("the process is gone".into()) });
        }
        let sent = (self.who.clone(), request.method().to_string(), request.uri().to_string());
        self.sent.lock().expect("nobody panics with it").push(sent);
        let mut inner = self.inner.clone();
        Box::pin(async move { inner.call(request).await.map_err(Into::into) })
    }
}

/// A component in tasks of its own. Dropped, it is gone as a killed process is: in the middle of anything, without a word.
pub(crate) struct Process {
    cut: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.cut.store(true, Ordering::Relaxed);
    }
}

pub(crate) struct Plane {
    server: Arc<ApiServer>,
    pub(crate) admin: kube::Client,
    sent: Arc<std::sync::Mutex<Vec<Sent>>>,
    _background: JoinSet<()>,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        let server = ApiServer::builder(ServerConfig::default(), Arc::new(storage::Memory::new())).build();
        let mut background = JoinSet::new();
        let serving = server.clone();
        background.spawn(async move { serving.run_background(CancellationToken::new()).await });
        let bootstrap = BootstrapConfig {
            advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise_port: 6443,
            service_cidrs: vec!["10.43.0.0/16".into()],
            service_ip: IpAddr::from([10, 43, 0, 1]),
            publish_endpoints: true,
        };
        server.bootstrap(&bootstrap).await.expect("bootstrap objects are made");
        let admin = UserInfo::new("admin", &[names::MASTERS]);
        let admin = client::from_service(server.client_service(admin), "default");
        Self { server, admin, sent: Arc::default(), _background: background }
    }

    fn client(&self, user: UserInfo, cut: &Arc<AtomicBool>) -> kube::Client {
        let who = user.name.clone();
        let service = Counted { inner: self.server.client_service(user), who, sent: self.sent.clone(), cut: cut.clone() };
        client::from_service(service, "default")
    }

    /// All controllers, each with its own account.
    pub(crate) fn controller_manager(&self, election: Option<LeaderElection>) -> Process {
        let cut: Arc<AtomicBool> = Arc::default();
        let manager = self.client(UserInfo::new("system:kube-controller-manager", &[]), &cut);
        let (server, sent, for_accounts) = (self.server.clone(), self.sent.clone(), cut.clone());
        let clients = Clients::per_controller(manager.clone(), move |account| {
            let user = UserInfo::service_account("kube-system", account);
            let who = user.name.clone();
            let service = Counted { inner: server.client_service(user), who, sent: sent.clone(), cut: for_accounts.clone() };
            client::from_service(service, "default")
        });
        let config = controller_manager::Config {
            root_ca: Some("PEM".into()),
            leader_election: election,
            ..controller_manager::Config::default()
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let token = CancellationToken::new();
            let informers = Informers::new(manager, token.clone());
            controller_manager::run(config, clients, informers, token).await.expect("runs until it is killed");
        });
        Process { cut, _tasks: tasks }
    }

    pub(crate) fn scheduler(&self, election: Option<LeaderElection>) -> Process {
        let cut: Arc<AtomicBool> = Arc::default();
        let client = self.client(UserInfo::new("system:kube-scheduler", &[]), &cut);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (config, token) = (scheduler::Config::default(), CancellationToken::new());
            let Some(election) = election else { return scheduler::run(config, client, token).await.expect("runs until killed") };
            let for_scheduler = client.clone();
            let led = client::run_as_leader(client, election, token, |leading| async move {
                scheduler::run(config, for_scheduler, leading).await.expect("runs until it is killed");
            });
            led.await.expect("leads until it is killed");
        });
        Process { cut, _tasks: tasks }
    }

    /// Nodes whose pods run at once.
    pub(crate) fn hollow_nodes(&self, count: usize) -> Process {
        let cut: Arc<AtomicBool> = Arc::default();
        let client = self.client(UserInfo::new("hollow", &[names::MASTERS]), &cut);
        let text = |pair: (&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
        let config = kubelet::HollowConfig {
            count,
            prefix: "node-".to_owned(),
            first: 0,
            capacity: [("cpu", "4"), ("memory", "32Gi"), ("pods", "110")].map(text).to_vec(),
            labels: vec![text(("topology.kubernetes.io/zone", "zone-{i%3}"))],
            taints: Vec::new(),
            lease_duration: Duration::from_secs(40),
            // A status that does not change is written every five minutes; that is the kubelet's, and not what is looked at here.
            report_period: Duration::from_secs(24 * 3600),
            version: "v1.35.0".to_owned(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            kubelet::run_hollow(config, client, CancellationToken::new(), || {}).await.expect("runs until it is killed");
        });
        Process { cut, _tasks: tasks }
    }

    /// What was sent since the last time.
    pub(crate) fn take_sent(&self) -> Vec<Sent> {
        std::mem::take(&mut *self.sent.lock().expect("nobody panics with it"))
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        let api: Api<K> = Api::namespaced(self.admin.clone(), "default");
        let object = serde_json::from_str(&object.to_string()).expect("fits the type");
        api.create(&PostParams::default(), &object).await.expect("is created")
    }

    pub(crate) async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        Api::<K>::all(self.admin.clone()).list(&ListParams::default()).await.expect("is listed").items
    }

    /// Waits, in virtual time, until something holds; panics with what it was at the end.
    pub(crate) async fn eventually<T: Debug, F: Future<Output = Result<(), T>>>(&self, what: &str, check: impl Fn() -> F) {
        let end = tokio::time::Instant::now() + Duration::from_secs(600);
        loop {
            let Err(found) = check().await else { return };
            assert!(tokio::time::Instant::now() < end, "timed out: {what}: {found:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
