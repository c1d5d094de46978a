//! `bench proxy`: our service proxy and upstream's in turns, in a network namespace that ends with this process.
//!
//! What is timed is what a client sees: a connection to a Service's cluster IP reaches the endpoint. The endpoints are two local addresses.
//! Invariant: the whole process is in the namespace before it has threads ([`enter_namespace`]), the API server and the proxies with it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::api_server::{ApiServer, Kind};
use crate::cgroups::Accounting;
use crate::connection::{Call, Connection};
use crate::daemons::Daemons;
use crate::objects::{NAMESPACE, create_namespace, json_call};
use crate::report::{Better, Figure, Figures, Goals, Side};
use crate::runtime::succeed;
use crate::scheduler::send_all;
use crate::upstream_cluster::proxy_configuration;
use crate::{cgroups, component, peers, processes};

/// The endpoints' addresses.
const ENDPOINTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 200, 0, 1), Ipv4Addr::new(10, 200, 0, 2)];
/// The endpoints' port.
const PORT: u16 = 8080;
/// The node's name.
const NODE: &str = "bench-node";
/// A connection that is not taken by then meets no rule yet.
const CONNECT_MAX: Duration = Duration::from_millis(20);
/// How long rules may take before the run fails.
const RULES_MAX: Duration = Duration::from_secs(180);

/// What to do, from the command line.
pub(crate) struct Plan {
    /// Our executable: the API server.
    pub(crate) executable: PathBuf,
    /// Where data directories are made.
    pub(crate) scratch: PathBuf,
    /// What is measured.
    pub(crate) workload: ProxyWorkload,
    /// How often.
    pub(crate) rounds: usize,
    /// Whether to run upstream's proxy, too.
    pub(crate) upstream: bool,
}

/// `bench/workloads/proxy.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProxyWorkload {
    #[serde(rename = "title")]
    _title: String,
    services: Vec<usize>,
    probes: usize,
    changes: usize,
    pause_ms: u64,
    #[serde(default)]
    goals: Goals,
}

impl ProxyWorkload {
    /// Reads and checks a file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: Self =
            serde_saphyr::from_str(&text).with_context(|| format!("{} is no workload of a proxy", path.display()))?;
        ensure!(file.services.iter().all(|services| (1..=60_000).contains(services)), "{}: 1 to 60,000 services", path.display());
        ensure!(file.probes > 0 && file.changes > 0, "{}: `probes` and `changes` must be at least 1", path.display());
        Ok(file)
    }
}

/// Moves this process, which must have one thread, into a network namespace of its own, with the endpoints' addresses.
pub(crate) fn enter_namespace() -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "this benchmark makes a network namespace and must be run by root");
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    let ip = |arguments: &str| succeed(Command::new("ip").args(arguments.split(' ')));
    ip("link set lo up")?;
    ip("link add bench0 type veth peer name bench1")?;
    for address in ENDPOINTS {
        ip(&format!("address add {address}/24 dev bench0"))?;
    }
    ip("link set bench0 up")?;
    ip("link set bench1 up")?;
    // Cluster IPs need a route, or connections fail before the rules see them.
    ip("route add default dev bench0")
}

/// Runs the benchmark.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let _listeners = listen().await?;
    let mut figures = Figures::new(&plan.workload.goals);
    for services in &plan.workload.services {
        let server = ApiServer::start(&Kind::Ours(plan.executable.clone()), &plan.scratch).await?;
        let addresses = create(&server, *services).await.context("cannot create the Services")?;
        for round in 1..=plan.rounds {
            eprintln!("round {round} of {}, {services} Services", plan.rounds);
            for side in [Side::Ours, Side::Peer].into_iter().filter(|side| *side == Side::Ours || plan.upstream) {
                one(plan, &server, &addresses, side, &mut figures).await.with_context(|| side.name())?;
                // The namespace is ours alone: the next one starts cold.
                succeed(Command::new("nft").args(["flush", "ruleset"]))?;
            }
        }
    }
    Ok(figures.finish())
}

async fn one(plan: &Plan, server: &ApiServer, addresses: &[IpAddr], side: Side, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("bench-proxy-").tempdir_in(&plan.scratch)?;
    let accounting = Accounting::new(&cgroups::own_name())?;
    let mut daemons = Daemons::new(directory.path());
    let command = match side {
        Side::Ours => component::proxy(&server.kubeconfig(), NODE)?,
        Side::Peer => {
            let file = directory.path().join("kube-proxy.yaml");
            std::fs::write(&file, proxy_configuration(&server.kubeconfig(), NODE)?.to_string())?;
            let mut command = Command::new(peers::find("kube-proxy")?);
            command.arg(format!("--config={}", file.display()));
            command
        }
    };
    let what = match addresses.len() {
        1 => "1 Service".to_owned(),
        10_000 => "10,000 Services".to_owned(),
        many => format!("{many} Services"),
    };
    let started = Instant::now();
    daemons.start("proxy", accounting.wrap(&command))?;
    let pid = daemons.pids()[0];
    let peak = tokio::spawn(watch_memory(pid));
    in_place(addresses, plan.workload.probes, started, &mut daemons).await?;
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    figures.add(side, &format!("{what}: start to rules in place (ms)"), milliseconds(started.elapsed()), Better::Less);
    // Not the process' own times: what its `nft` uses is added to them when that ends.
    let cpu = accounting.cpu_seconds()?;
    figures.add(side, &format!("{what}: CPU from start to rules in place (ms)"), cpu * 1000.0, Better::Less);
    let mut times = Vec::new();
    for change in 0..plan.workload.changes {
        tokio::time::sleep(Duration::from_millis(plan.workload.pause_ms)).await;
        times.push(changed(server, addresses, change, &mut daemons).await?);
    }
    let cpu = (accounting.cpu_seconds()? - cpu) * 1000.0 / times.len() as f64;
    times.sort_unstable();
    figures.add(side, &format!("{what}: one changed endpoint (ms)"), milliseconds(times[times.len() / 2]), Better::Less);
    figures.add(side, &format!("{what}: CPU a changed endpoint (ms)"), cpu, Better::Less);
    figures.add(side, &format!("{what}: memory after it, PSS (MiB)"), mib(processes::of_pids(&[pid])?.pss_kib), Better::Less);
    daemons.stop()?;
    figures.add(side, &format!("{what}: memory, peak (MiB)"), mib(peak.await?), Better::Less);
    // As it was, for the next proxy.
    if plan.workload.changes % 2 == 1 {
        let changed = Connection::open(&server.target).await?.fetch(&lead_to(addresses.len() / 2, ENDPOINTS[0])).await;
        changed.context("cannot change the endpoint back")?;
    }
    Ok(())
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// The most memory that the proxy, and the largest of the programs that it starts, had resident; ends with the process.
async fn watch_memory(pid: u32) -> u64 {
    let (mut own, mut started) = (0, 0);
    while let Ok(usage) = processes::of_pids(&[pid]) {
        own = own.max(usage.peak_kib);
        for child in processes::children(pid) {
            // It may have ended meanwhile.
            started = started.max(processes::of_pids(&[child]).map_or(0, |usage| usage.peak_kib));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    own + started
}

/// Waits until some Services, the last among them, take connections.
async fn in_place(addresses: &[IpAddr], probes: usize, started: Instant, daemons: &mut Daemons) -> anyhow::Result<()> {
    let step = (addresses.len() / probes).max(1);
    for address in addresses.iter().rev().step_by(step) {
        while reaches(*address).await.is_none() {
            daemons.check()?;
            ensure!(started.elapsed() < RULES_MAX, "no way to {address} after {RULES_MAX:?}: {}", daemons.tail("proxy"));
        }
    }
    Ok(())
}

/// Changes the endpoint of a Service in the middle, and waits until a connection reaches the new one.
async fn changed(server: &ApiServer, addresses: &[IpAddr], change: usize, daemons: &mut Daemons) -> anyhow::Result<Duration> {
    let (service, endpoint) = (addresses.len() / 2, (change + 1) % 2);
    Connection::open(&server.target).await?.fetch(&lead_to(service, ENDPOINTS[endpoint])).await?;
    let started = Instant::now();
    while reaches(addresses[service]).await != Some(endpoint as u8) {
        daemons.check()?;
        ensure!(started.elapsed() < RULES_MAX, "the changed endpoint is not reached after {RULES_MAX:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(started.elapsed())
}

/// Which endpoint a connection to the cluster IP reaches, if any.
async fn reaches(address: IpAddr) -> Option<u8> {
    let answer = async {
        let mut stream = TcpStream::connect(SocketAddr::new(address, 80)).await.ok()?;
        stream.read_u8().await.ok()
    };
    tokio::time::timeout(CONNECT_MAX, answer).await.ok()?
}

/// The endpoints: each says its number.
async fn listen() -> anyhow::Result<JoinSet<()>> {
    let mut listeners = JoinSet::new();
    for (number, address) in ENDPOINTS.into_iter().enumerate() {
        let listener = TcpListener::bind((address, PORT)).await.context("cannot listen as an endpoint")?;
        listeners.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // The probe may have given up.
                let _ = stream.write_u8(number as u8).await;
            }
        });
    }
    Ok(listeners)
}

/// The node and Services with one endpoint each; returns their cluster IPs in order.
async fn create(server: &ApiServer, services: usize) -> anyhow::Result<Vec<IpAddr>> {
    let mut connection = Connection::open(&server.target).await?;
    connection.fetch(&create_namespace()).await?;
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
        "status": {"addresses": [{"type": "InternalIP", "address": ENDPOINTS[0]}]},
    });
    connection.fetch(&json_call(Method::POST, "/api/v1/nodes", Some(node))).await?;
    let collection = format!("/api/v1/namespaces/{NAMESPACE}/services");
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
    let mut calls: Vec<Call> = Vec::new();
    for number in 0..services {
        let name = format!("service-{number}");
        let spec = json!({"ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": PORT}]});
        let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
        calls.push(json_call(Method::POST, &collection, Some(body)));
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}], "endpoints": endpoints(ENDPOINTS[0]),
        });
        calls.push(json_call(Method::POST, &slices, Some(slice)));
    }
    send_all(&server.target, calls).await?;
    let list: Value = serde_json::from_slice(&connection.fetch(&json_call(Method::GET, &collection, None)).await?)?;
    let mut addresses = Vec::new();
    for service in list["items"].as_array().into_iter().flatten() {
        let number: usize = service["metadata"]["name"].as_str().unwrap_or_default().trim_start_matches("service-").parse()?;
        let address: IpAddr = service["spec"]["clusterIP"].as_str().unwrap_or_default().parse().context("no cluster IP")?;
        addresses.push((number, address));
    }
    addresses.sort_unstable();
    Ok(addresses.into_iter().map(|(_, address)| address).collect())
}

fn endpoints(address: Ipv4Addr) -> Value {
    json!([{"addresses": [address], "conditions": {"ready": true}, "nodeName": NODE}])
}

/// The request that gives a Service another endpoint.
fn lead_to(service: usize, address: Ipv4Addr) -> Call {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/service-{service}");
    let patch = json!({"endpoints": endpoints(address)}).to_string();
    Call { body: Some(("application/merge-patch+json", patch.into())), ..json_call(Method::PATCH, &path, None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_workload_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/proxy.yaml");
        assert!(!ProxyWorkload::load(&path).expect("valid").services.is_empty());
    }
}
