//! `bench dns`: our DNS and CoreDNS in turns, both with the Services of the same API server of ours.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hyper::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::api_server::{ApiServer, Kind, free_port};
use crate::connection::{Call, Connection};
use crate::daemons::Daemons;
use crate::objects::{NAMESPACE, create_namespace, json_call};
use crate::processes;
use crate::report::{Better, Figure, Figures, Goals, Side};
use crate::scheduler::send_all;
use crate::{component, peers};

/// How long a server may take until it knows all Services.
const START_MAX: Duration = Duration::from_secs(60);
/// No answer for so long: the question is lost, which fails the run.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The code of an answer for a name that there is not.
const NXDOMAIN: u8 = 3;

/// What to do, from the command line.
pub(crate) struct Plan {
    /// Our executable: the API server.
    pub(crate) executable: PathBuf,
    /// Where data directories are made.
    pub(crate) scratch: PathBuf,
    /// What is measured.
    pub(crate) workload: DnsWorkload,
    /// How often.
    pub(crate) rounds: usize,
    /// Whether to run CoreDNS, too.
    pub(crate) coredns: bool,
}

/// `bench/workloads/dns.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsWorkload {
    #[serde(rename = "title")]
    _title: String,
    services: usize,
    headless: usize,
    endpoints: usize,
    seconds: u64,
    clients: Vec<usize>,
    questions: Vec<Question>,
    #[serde(default)]
    goals: Goals,
}

/// What is asked.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    name: String,
    /// `{i}` is replaced by a number.
    ask: String,
    expect: Expect,
}

/// What the answer must be: figures of a server that errs mean nothing.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Expect {
    Found,
    NotFound,
}

impl DnsWorkload {
    /// Reads and checks a file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: Self = serde_saphyr::from_str(&text).with_context(|| format!("{} is no workload of DNS", path.display()))?;
        let positive = file.services > 0 && file.headless > 0 && file.endpoints > 0 && file.seconds > 0;
        ensure!(positive, "{}: numbers must be at least 1", path.display());
        ensure!(file.endpoints <= 250, "{}: at most 250 endpoints", path.display());
        ensure!(file.clients.iter().all(|clients| *clients > 0), "{}: at least 1 client", path.display());
        for question in &file.questions {
            encode(&question.ask, 0).with_context(|| format!("{}: {:?}", path.display(), question.ask))?;
        }
        Ok(file)
    }

    /// How many names a question has.
    fn names(&self, question: &Question) -> usize {
        if question.ask.starts_with("headless-") { self.headless } else { self.services }
    }
}

/// Runs the benchmark.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let server = ApiServer::start(&Kind::Ours(plan.executable.clone()), &plan.scratch).await?;
    create(&server, &plan.workload).await.context("cannot create the Services")?;
    let mut figures = Figures::new(&plan.workload.goals);
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}", plan.rounds);
        for side in [Side::Ours, Side::Peer].into_iter().filter(|side| *side == Side::Ours || plan.coredns) {
            one(plan, &server, side, &mut figures).await.with_context(|| side.name())?;
        }
    }
    Ok(figures.finish())
}

async fn one(plan: &Plan, server: &ApiServer, side: Side, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("bench-dns-").tempdir_in(&plan.scratch)?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut daemons = Daemons::new(directory.path());
    let command = match side {
        Side::Ours => component::dns(&server.kubeconfig(), address)?,
        Side::Peer => coredns(directory.path(), &server.kubeconfig(), address)?,
    };
    let started = Instant::now();
    daemons.start("dns", command)?;
    knows_all(&plan.workload, address, started, &mut daemons).await?;
    figures.add(side, "start to the last Service's answer (ms)", started.elapsed().as_secs_f64() * 1000.0, Better::Less);
    let pids = daemons.pids();
    figures.add(side, "memory with all Services, PSS (MiB)", processes::of_pids(&pids)?.pss_kib as f64 / 1024.0, Better::Less);
    for question in &plan.workload.questions {
        for clients in &plan.workload.clients {
            let before = processes::of_pids(&pids)?.cpu_seconds;
            let times = ask(&plan.workload, question, *clients, address).await.with_context(|| question.name.clone())?;
            let cpu = (processes::of_pids(&pids)?.cpu_seconds - before) * 1e6 / times.len() as f64;
            let what = format!("{}, {clients} client{}", question.name, if *clients == 1 { "" } else { "s" });
            let rate = times.len() as f64 / plan.workload.seconds as f64;
            let p99 = times[(times.len() - 1) * 99 / 100].as_secs_f64() * 1e3;
            figures.add(side, &format!("{what} (questions a second)"), rate, Better::More);
            figures.add(side, &format!("{what}: p99 (ms)"), p99, Better::Less);
            figures.add(side, &format!("{what}: CPU each (µs)"), cpu, Better::Less);
        }
    }
    figures.add(side, "memory after all, PSS (MiB)", processes::of_pids(&pids)?.pss_kib as f64 / 1024.0, Better::Less);
    daemons.stop()
}

/// CoreDNS as kubeadm v1.35 sets it up, without health ports and forwarding.
fn coredns(directory: &Path, kubeconfig: &Path, address: SocketAddr) -> anyhow::Result<Command> {
    let file = directory.join("Corefile");
    let text = format!(
        ".:{port} {{\n    bind {ip}\n    errors\n    kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        kubeconfig {kubeconfig} bench\n        \
         pods insecure\n        fallthrough in-addr.arpa ip6.arpa\n        ttl 30\n    }}\n    cache 30 {{\n        disable success cluster.local\n        \
         disable denial cluster.local\n    }}\n    loadbalance\n}}\n",
        port = address.port(),
        ip = address.ip(),
        kubeconfig = kubeconfig.display(),
    );
    std::fs::write(&file, text)?;
    let mut command = Command::new(peers::find("coredns")?);
    command.arg("-conf").arg(file);
    Ok(command)
}

/// Services with and without cluster IPs, and the latter's endpoints.
async fn create(server: &ApiServer, workload: &DnsWorkload) -> anyhow::Result<()> {
    Connection::open(&server.target).await?.fetch(&create_namespace()).await?;
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
    let mut calls: Vec<Call> = Vec::new();
    for number in 0..workload.services {
        let name = format!("service-{number}");
        let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports, "selector": {"app": name}}});
        calls.push(json_call(Method::POST, &services, Some(body)));
    }
    for number in 0..workload.headless {
        let name = format!("headless-{number}");
        let spec = json!({"clusterIP": "None", "ports": ports, "selector": {"app": name}});
        let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
        calls.push(json_call(Method::POST, &services, Some(body)));
        let endpoints: Vec<_> = (1..=workload.endpoints)
            .map(|last| json!({"addresses": [format!("10.200.{}.{last}", number % 250)], "conditions": {"ready": true}}))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        });
        calls.push(json_call(Method::POST, &slices, Some(slice)));
    }
    send_all(&server.target, calls).await
}

/// Waits until the names that were created last are found.
async fn knows_all(workload: &DnsWorkload, address: SocketAddr, started: Instant, daemons: &mut Daemons) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let last = [
        format!("service-{}.{NAMESPACE}.svc.cluster.local", workload.services - 1),
        format!("headless-{}.{NAMESPACE}.svc.cluster.local", workload.headless - 1),
    ];
    for name in last {
        let question = encode(&name, 1)?;
        let mut answer = [0; 1500];
        loop {
            daemons.check()?;
            ensure!(started.elapsed() < START_MAX, "{name} is not found after {START_MAX:?}: {}", daemons.tail("dns"));
            // Nobody may listen yet, which is an error of the next call.
            let _ = socket.send_to(&question, address).await;
            let received = tokio::time::timeout(Duration::from_millis(20), socket.recv(&mut answer)).await;
            if let Ok(Ok(length)) = received
                && matches(&answer[..length], 1, Expect::Found)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(())
}

/// Asks for the workload's time; returns how long each answer took, sorted.
async fn ask(workload: &DnsWorkload, question: &Question, clients: usize, address: SocketAddr) -> anyhow::Result<Vec<Duration>> {
    let mut tasks = JoinSet::new();
    let (end, names) = (Instant::now() + Duration::from_secs(workload.seconds), workload.names(question));
    for client in 0..clients {
        let (question, socket) = (question.clone(), UdpSocket::bind("127.0.0.1:0").await?);
        socket.connect(address).await?;
        tasks.spawn(async move {
            let (mut times, mut number, mut answer) = (Vec::new(), client * 7, [0; 1500]);
            while Instant::now() < end {
                let id = number as u16;
                let name = question.ask.replace("{i}", &(number % names).to_string());
                let message = encode(&name, id)?;
                let sent = Instant::now();
                socket.send(&message).await?;
                let received = tokio::time::timeout(ANSWER_MAX, socket.recv(&mut answer)).await;
                let length = received.with_context(|| format!("no answer for {name}"))??;
                times.push(sent.elapsed());
                ensure!(matches(&answer[..length], id, question.expect), "a wrong answer for {name}: {:?}", &answer[..12]);
                number += 1;
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    ensure!(!times.is_empty(), "no answer in time");
    times.sort_unstable();
    Ok(times)
}

/// A question for an address (RFC 1035, 4.1), as a resolver sends it: recursion desired.
fn encode(name: &str, id: u16) -> anyhow::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(64);
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&[0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        ensure!((1..=63).contains(&label.len()), "{name:?} is no domain name");
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(message)
}

/// Whether a message answers the question with that number as expected.
fn matches(answer: &[u8], id: u16, expect: Expect) -> bool {
    if answer.len() < 12 || answer[..2] != id.to_be_bytes() {
        return false;
    }
    let (code, answers) = (answer[3] & 0x0f, u16::from_be_bytes([answer[6], answer[7]]));
    match expect {
        Expect::Found => code == 0 && answers > 0,
        Expect::NotFound => code == NXDOMAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_workload_is_valid() {
        let file = DnsWorkload::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/dns.yaml")).expect("valid");
        assert_eq!(file.names(&file.questions[1]), file.headless);
    }

    #[test]
    fn answers_are_checked() {
        let message = encode("a.b", 0x1234).expect("a name");
        assert_eq!(message, [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 1, b'b', 0, 0, 1, 0, 1]);
        assert!(encode("a..b", 1).is_err());
        let answer = |code: u8, answers: u8| [0x12, 0x34, 0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0];
        assert!(matches(&answer(0, 1), 0x1234, Expect::Found) && !matches(&answer(0, 0), 0x1234, Expect::Found));
        assert!(matches(&answer(3, 0), 0x1234, Expect::NotFound) && !matches(&answer(3, 0), 0x1235, Expect::NotFound));
    }
}
