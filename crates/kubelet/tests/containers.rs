//! The kubelet with the embedded runtime and real containers; needs root. This executable is the test, the runtime's shim, and the only
//! program in the containers (the built-in image), so it has its own `main`.

#![allow(clippy::unwrap_used)]

#[path = "support/api.rs"]
mod api;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Api;
use container_runtime::{Config as RuntimeConfig, ContainerRuntime, NetworkError, NetworkRequest, SandboxNetwork};
use kubelet::{Config, Kubelet};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What containers run: `payload COMMAND ARGS...`.
fn payload(arguments: &[String]) -> i32 {
    match arguments[0].as_str() {
        "print" => println!("{}", arguments[1..].join(" ")),
        "cat" => print!("{}", std::fs::read_to_string(&arguments[1]).unwrap_or_else(|e| e.to_string())),
        "env" => println!("{}", std::env::var(&arguments[1]).unwrap_or_default()),
        "exists" => return i32::from(!Path::new(&arguments[1]).exists()),
        "write" => std::fs::write(&arguments[1], &arguments[2]).unwrap(),
        "exit" => return arguments[1].parse().unwrap(),
        // Says what it has, then waits for its end.
        "serve" => {
            println!("serving {}", arguments[1..].join(" "));
            loop {
                std::thread::park();
            }
        }
        other => panic!("no payload {other}"),
    }
    0
}

/// Every pod has the same address: nothing connects to it here.
struct OneAddress;

#[async_trait::async_trait]
impl SandboxNetwork for OneAddress {
    async fn setup(&self, _: NetworkRequest) -> Result<Vec<IpAddr>, NetworkError> {
        Ok(vec![[127, 0, 0, 1].into()])
    }
    async fn teardown(&self, _: &str, _: &Path) -> Result<(), NetworkError> {
        Ok(())
    }
    async fn reconcile(&self, _: &[String]) -> Result<(), NetworkError> {
        Ok(())
    }
}

struct Node {
    api: Api,
    root: PathBuf,
    runtime: Arc<ContainerRuntime>,
    token: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), kubelet::Error>>,
}

impl Node {
    async fn start(api: Api, root: PathBuf) -> Self {
        let name = root.file_name().unwrap().to_string_lossy().into_owned();
        let runtime = ContainerRuntime::open(RuntimeConfig {
            root: root.join("runtime"),
            run_dir: PathBuf::from("/run").join(&name),
            executable: std::env::current_exe().unwrap(),
            cgroup_parent: format!("/{name}"),
            streaming_address: "127.0.0.1:0".parse().unwrap(),
            network: Arc::new(OneAddress),
            registries: container_runtime::RegistryConfig::default(),
        })
        .await
        .unwrap();
        let mut config = Config::new("node-a", vec![[192, 0, 2, 1].into()], root.join("kubelet"));
        config.cgroup_root = format!("/{name}");
        let token = CancellationToken::new();
        let task = tokio::spawn(Kubelet::run(config, api.client(), runtime.clone(), runtime.clone(), token.clone()));
        Self { api, root, runtime, token, task }
    }

    async fn stop(self) -> (Api, PathBuf) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
        self.runtime.close().await;
        (self.api, self.root)
    }

    async fn image(&self) -> String {
        let images = cri::Images::list_images(&*self.runtime, cri::v1::ListImagesRequest { filter: None }).await.unwrap().images;
        images[0].repo_tags[0].clone()
    }

    fn pod(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!("node-a");
        self.api.apply("pods", json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec}));
    }

    async fn status(&self, name: &str, expected: &[(&str, Value)]) -> Value {
        let mut last = Value::Null;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(pod) = self.api.get("pods", "n", name) {
                last = pod["status"].clone();
                if expected.iter().all(|(pointer, value)| last.pointer(pointer) == Some(value)) {
                    return pod;
                }
            }
            assert!(Instant::now() < deadline, "{name} never had {expected:?}: {last:#}\nevents: {:#?}", self.events());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn gone(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.api.get("pods", "n", name).is_some() {
            assert!(Instant::now() < deadline, "{name} never went: {:#?}", self.events());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn events(&self) -> Vec<String> {
        self.api.list("events").iter().map(|e| format!("{} {}", e["reason"], e["message"])).collect()
    }

    async fn log(&self, pod: &Value, container: &str) -> String {
        let name = format!("n_{}_{}", pod["metadata"]["name"].as_str().unwrap(), pod["metadata"]["uid"].as_str().unwrap());
        let path = self.root.join("kubelet/pod-logs").join(name).join(container).join("0.log");
        tokio::fs::read_to_string(&path).await.unwrap_or_else(|e| format!("{}: {e}", path.display()))
    }
}

fn command(words: &[&str]) -> Value {
    let mut all = vec!["/bin/rusternetes", "payload"];
    all.extend_from_slice(words);
    json!(all)
}

async fn simple_pods(node: &Node, image: &str) {
    node.pod(
        "web",
        json!({"terminationGracePeriodSeconds": 1, "hostname": "called", "containers": [{"name": "c", "image": image, "command": command(&["serve", "$(GREETING)"]), "env": [{"name": "GREETING", "value": "hello"}],
            "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}}]}),
    );
    let pod = node
        .status(
            "web",
            &[("/phase", json!("Running")), ("/containerStatuses/0/ready", json!(true)), ("/podIP", json!("127.0.0.1"))],
        )
        .await;
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    assert!(id.starts_with("rusternetes://"), "{id}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !node.log(&pod, "c").await.contains("serving hello") {
        assert!(Instant::now() < deadline, "log: {}", node.log(&pod, "c").await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.pod(
        "fails",
        json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": image, "command": command(&["exit", "7"])}]}),
    );
    let pod = node.status("fails", &[("/phase", json!("Failed"))]).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 7);
}

async fn volumes(node: &Node, image: &str) {
    node.api.apply("configmaps", json!({"metadata": {"name": "m", "namespace": "n"}, "data": {"key": "from-config"}}));
    node.api.apply("secrets", json!({"metadata": {"name": "s", "namespace": "n"}, "data": {"key": "ZnJvbS1zZWNyZXQ="}}));
    let mounts = json!([{"name": "m", "mountPath": "/m"}, {"name": "s", "mountPath": "/s"}, {"name": "t", "mountPath": "/t"}, {"name": "e", "mountPath": "/e"}, {"name": "e", "mountPath": "/sub", "subPath": "below"}]);
    let run = |name: &str, words: &[&str]| json!({"name": name, "image": image, "command": command(words), "volumeMounts": mounts, "terminationMessagePath": "/dev/termination-log"});
    node.pod(
        "files",
        json!({"restartPolicy": "Never", "securityContext": {"fsGroup": 4000},
            "volumes": [{"name": "m", "configMap": {"name": "m"}}, {"name": "s", "secret": {"secretName": "s"}}, {"name": "e", "emptyDir": {"medium": "Memory"}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}, {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}],
            "initContainers": [run("config", &["cat", "/m/key"]), run("secret", &["cat", "/s/key"]), run("token", &["cat", "/t/token"]), run("name", &["cat", "/t/name"]),
                run("write", &["write", "/sub/file", "shared"]), run("read", &["cat", "/e/below/file"]), run("hosts", &["cat", "/etc/hosts"])],
            "containers": [run("last", &["write", "/dev/termination-log", "the last word"])]}),
    );
    let pod = node.status("files", &[("/phase", json!("Succeeded"))]).await;
    for (container, expected) in [
        ("config", "from-config"),
        ("secret", "from-secret"),
        ("token", "a-token"),
        ("name", "files"),
        ("read", "shared"),
        ("hosts", "Kubernetes-managed hosts file"),
    ] {
        let log = node.log(&pod, container).await;
        assert!(log.contains(expected), "{container}: {log}");
    }
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"], "the last word");
}

async fn probes(node: &Node, image: &str) {
    node.pod(
        "probed",
        json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image, "command": command(&["serve"]),
            "startupProbe": {"exec": {"command": command(&["exists", "/bin/rusternetes"])}, "periodSeconds": 1},
            "readinessProbe": {"exec": {"command": command(&["exists", "/tmp/ready"])}, "periodSeconds": 1},
            "lifecycle": {"postStart": {"exec": {"command": command(&["write", "/tmp/ready", "yes"])}}}}]}),
    );
    node.status(
        "probed",
        &[
            ("/phase", json!("Running")),
            ("/containerStatuses/0/ready", json!(true)),
            ("/containerStatuses/0/started", json!(true)),
        ],
    )
    .await;
}

async fn scenario() {
    let root = std::env::temp_dir().join(format!("kubelet-real-{}", std::process::id()));
    let api = Api::new();
    api.apply("services", json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443}]}}));
    let node = Node::start(api, root).await;
    let image = node.image().await;
    simple_pods(&node, &image).await;
    volumes(&node, &image).await;
    probes(&node, &image).await;
    let before = node.status("web", &[("/phase", json!("Running"))]).await;
    let (api, root) = node.stop().await;
    let node = Node::start(api, root).await;
    // A pod that is new only starts after the kubelet is up; by then the old one must not have been touched.
    node.pod(
        "late",
        json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": image, "command": command(&["exit", "0"])}]}),
    );
    node.status("late", &[("/phase", json!("Succeeded"))]).await;
    let after = node.status("web", &[("/phase", json!("Running"))]).await;
    assert_eq!(before["status"]["containerStatuses"], after["status"]["containerStatuses"], "adopted as it was");
    for name in ["web", "fails", "files", "probed", "late"] {
        node.api.delete_pod("n", name, 1);
    }
    for name in ["web", "fails", "files", "probed", "late"] {
        node.gone(name).await;
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let pods = node.root.join("kubelet/pods");
    while std::fs::read_dir(&pods).unwrap().count() > 0 {
        assert!(Instant::now() < deadline, "left behind: {:?}", std::fs::read_dir(&pods).unwrap().flatten().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (_, root) = node.stop().await;
    std::fs::remove_dir_all(root).unwrap();
}

fn main() {
    container_runtime::reexec::dispatch();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "payload") {
        std::process::exit(payload(&arguments[1..]));
    }
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(scenario());
    println!("containers: ok");
}
