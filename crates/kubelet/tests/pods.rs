//! The kubelet against an API server and a runtime that are test doubles: what it tells the one and asks of the other.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelet::{Config, Kubelet};
use serde_json::{Value, json};
use support::api::Api;
use support::runtime::Scripted;
use tokio_util::sync::CancellationToken;

struct Node {
    api: Api,
    runtime: Scripted,
    root: PathBuf,
    token: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), kubelet::Error>>,
}

impl Node {
    fn start(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("kubelet-test-{name}-{}", std::process::id()));
        let api = Api::new();
        api.apply("services", json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}));
        Self::on(api, Scripted::new(), root)
    }

    fn on(api: Api, runtime: Scripted, root: PathBuf) -> Self {
        let mut config = Config::new("node-a", vec![[192, 0, 2, 1].into()], &root);
        config.cgroups_per_qos = false;
        let token = CancellationToken::new();
        let run = Kubelet::run(config, api.client(), Arc::new(runtime.clone()), Arc::new(runtime.clone()), token.clone());
        Self { api, runtime, root, token, task: tokio::spawn(run) }
    }

    async fn stop(self) -> (Api, Scripted, PathBuf) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
        (self.api, self.runtime, self.root)
    }

    async fn end(self) {
        let (_, _, root) = self.stop().await;
        std::fs::remove_dir_all(root).unwrap();
    }

    fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("node-a");
        self.api.apply("pods", json!({"metadata": {"name": name, "namespace": "n", "labels": {"app": name}}, "spec": spec}));
    }

    /// Waits until the pod's status has these values by JSON pointer.
    async fn status(&self, name: &str, expected: &[(&str, Value)]) -> Value {
        let what = format!("{name}: {expected:?}");
        until(&what, || {
            let pod = self.api.get("pods", "n", name)?;
            expected
                .iter()
                .all(|(pointer, value)| pod["status"].pointer(pointer) == Some(value))
                .then(|| pod.clone())
                .ok_or(pod)
                .map_or_else(
                    |pod| {
                        LAST.with(|l| *l.borrow_mut() = pod["status"].to_string());
                        None
                    },
                    Some,
                )
        })
        .await
    }

    fn calls(&self, verb: &str) -> Vec<String> {
        self.runtime.calls().into_iter().filter_map(|c| c.strip_prefix(verb).map(|rest| rest.trim().to_owned())).collect()
    }

    fn events(&self, reason: &str) -> Vec<String> {
        self.api
            .list("events")
            .into_iter()
            .filter(|e| e["reason"] == reason)
            .map(|e| e["message"].as_str().unwrap_or("").to_owned())
            .collect()
    }
}

thread_local! {
    static LAST: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

async fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came true: {what}; last seen {}", LAST.with(|l| l.borrow().clone()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn running() -> (&'static str, Value) {
    ("/phase", json!("Running"))
}

#[tokio::test]
async fn the_node_registers_and_is_ready() {
    let node = Node::start("node");
    let found = until("a Ready node", || {
        let node = node.api.get("nodes", "", "node-a")?;
        let ready = node["status"]["conditions"].as_array()?.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        ready.then_some(node)
    })
    .await;
    assert_eq!(found["metadata"]["labels"]["kubernetes.io/hostname"], "node-a");
    assert_eq!(
        found["status"]["addresses"],
        json!([{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "node-a"}])
    );
    assert_eq!(found["status"]["nodeInfo"]["containerRuntimeVersion"], "scripted://1.0");
    assert_eq!(found["status"]["allocatable"]["pods"], "110");
    until("a Lease", || node.api.get("leases", "kube-node-lease", "node-a").filter(|l| l["spec"]["holderIdentity"] == "node-a"))
        .await;
    node.end().await;
}

#[tokio::test]
async fn a_pod_runs_and_goes() {
    let node = Node::start("runs");
    node.pod("web", json!({"containers": [{"name": "c", "image": "here", "command": ["run"], "args": ["$(WHO)"], "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}));
    let pod = node.status("web", &[running(), ("/containerStatuses/0/ready", json!(true))]).await;
    assert_eq!(pod["status"]["podIP"], "10.1.0.1");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    let config = node.runtime.config("c");
    assert_eq!(config.args, ["web"]);
    let env: Vec<String> = config.envs.iter().map(|e| format!("{}={}", e.key, e.value)).collect();
    assert!(env.contains(&"KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned()), "{env:?}");
    assert!(config.mounts.iter().any(|m| m.container_path == "/etc/hosts"));
    until("events", || {
        (node.events("Started") == ["Container started"] && node.events("Created") == ["Container created"]).then_some(())
    })
    .await;
    node.api.delete_pod("n", "web", 7);
    until("the pod's end", || node.api.get("pods", "n", "web").is_none().then_some(())).await;
    assert_eq!(node.calls("stop"), ["c 7"]);
    let pods = node.root.join("pods");
    until("an empty pods directory", || (std::fs::read_dir(&pods).unwrap().count() == 0).then_some(())).await;
    node.end().await;
}

#[tokio::test]
async fn init_containers_come_first_and_jobs_succeed() {
    let node = Node::start("init");
    node.pod(
        "job",
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "here", "command": ["exit", "0"]}, {"name": "j", "image": "here", "command": ["exit", "0"]}],
            "containers": [{"name": "c", "image": "here", "command": ["exit", "0"]}]}),
    );
    let pod = node.status("job", &[("/phase", json!("Succeeded"))]).await;
    assert_eq!(node.calls("create"), ["i", "j", "c"]);
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    node.pod("bad", json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "here", "command": ["exit", "3"]}]}));
    let pod = node.status("bad", &[("/phase", json!("Failed"))]).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    node.end().await;
}

#[tokio::test]
async fn crashes_back_off() {
    let node = Node::start("crash");
    node.pod(
        "crash",
        json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "here", "command": ["exit", "1"]}]}),
    );
    let waiting = ("/containerStatuses/0/state/waiting/reason", json!("CrashLoopBackOff"));
    let pod = node.status("crash", &[waiting, running()]).await;
    let container = &pod["status"]["containerStatuses"][0];
    assert_eq!((&container["restartCount"], &container["lastState"]["terminated"]["exitCode"]), (&json!(1), &json!(1)));
    assert!(
        container["state"]["waiting"]["message"]
            .as_str()
            .unwrap()
            .starts_with("back-off 10s restarting failed container=c pod=crash_n(uid-")
    );
    node.end().await;
}

#[tokio::test]
async fn missing_images_are_told() {
    let node = Node::start("image");
    let reason = |text: &str| ("/containerStatuses/0/state/waiting/reason", json!(text));
    node.pod("missing", json!({"containers": [{"name": "c", "image": "missing", "command": ["run"]}]}));
    node.status("missing", &[reason("ErrImagePull"), ("/phase", json!("Pending"))]).await;
    let pod = node.status("missing", &[reason("ImagePullBackOff")]).await;
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert_eq!(message, "Back-off pulling image \"missing\": ErrImagePull: missing:latest: not found");
    node.pod("never", json!({"containers": [{"name": "c", "image": "missing", "imagePullPolicy": "Never"}]}));
    node.status("never", &[reason("ErrImageNeverPull")]).await;
    node.pod("invalid", json!({"containers": [{"name": "c", "image": "Not Valid"}]}));
    node.status("invalid", &[reason("InvalidImageName")]).await;
    node.end().await;
}

#[tokio::test]
async fn config_is_waited_for_and_updated() {
    let node = Node::start("config");
    node.pod(
        "conf",
        json!({"volumes": [{"name": "v", "configMap": {"name": "m"}}, {"name": "e", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "here", "command": ["run"], "volumeMounts": [{"name": "v", "mountPath": "/conf"}, {"name": "e", "mountPath": "/tmp"}]}]}),
    );
    until("FailedMount", || {
        node.events("FailedMount")
            .iter()
            .any(|m| m == "MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found")
            .then_some(())
    })
    .await;
    node.api.apply("configmaps", json!({"metadata": {"name": "m", "namespace": "n"}, "data": {"key": "one"}}));
    node.status("conf", &[running()]).await;
    let mount = node.runtime.config("c").mounts.into_iter().find(|m| m.container_path == "/conf").unwrap();
    let read = || std::fs::read_to_string(PathBuf::from(&mount.host_path).join("key")).ok();
    assert_eq!(read().as_deref(), Some("one"));
    node.api.apply("configmaps", json!({"metadata": {"name": "m", "namespace": "n"}, "data": {"key": "two"}}));
    until("the new value", || (read().as_deref() == Some("two")).then_some(())).await;
    node.end().await;
}

#[tokio::test]
async fn probes_gate_readiness_and_restart() {
    let node = Node::start("probes");
    node.pod("unready", json!({"containers": [{"name": "c", "image": "here", "command": ["run"], "readinessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}}]}));
    node.status(
        "unready",
        &[running(), ("/containerStatuses/0/ready", json!(false)), ("/containerStatuses/0/started", json!(true))],
    )
    .await;
    until("Unhealthy", || node.events("Unhealthy").iter().any(|m| m.starts_with("Readiness probe failed")).then_some(())).await;
    node.pod("dead", json!({"terminationGracePeriodSeconds": 9, "restartPolicy": "Always", "containers": [{"name": "d", "image": "here", "command": ["run"], "livenessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}}]}));
    // At least one: on a busy machine the probe may have failed again by the time that this looks.
    until("a restart", || {
        let pod = node.api.get("pods", "n", "dead")?;
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64().filter(|restarts| *restarts >= 1)
    })
    .await;
    assert_eq!(node.calls("stop")[0], "d 9");
    assert!(node.events("Killing").iter().any(|m| m == "Container d failed liveness probe, will be restarted"));
    node.end().await;
}

#[tokio::test]
async fn sidecars_outlive_and_hooks_run() {
    let node = Node::start("sidecar");
    node.pod(
        "side",
        json!({"terminationGracePeriodSeconds": 5, "initContainers": [{"name": "s", "image": "here", "command": ["run"], "restartPolicy": "Always"}],
            "containers": [{"name": "c", "image": "here", "command": ["run"], "lifecycle": {"postStart": {"exec": {"command": ["up"]}}, "preStop": {"exec": {"command": ["down"]}}}}]}),
    );
    node.status("side", &[running(), ("/initContainerStatuses/0/started", json!(true))]).await;
    node.api.delete_pod("n", "side", 5);
    until("the pod's end", || node.api.get("pods", "n", "side").is_none().then_some(())).await;
    assert_eq!(node.calls("create"), ["s", "c"]);
    assert_eq!(node.calls("exec"), ["up", "down"]);
    assert_eq!(node.calls("stop"), ["c 5", "s 5"]);
    node.end().await;
}

#[tokio::test]
async fn a_restarted_kubelet_adopts_what_runs() {
    let node = Node::start("adopt");
    node.pod("web", json!({"containers": [{"name": "c", "image": "here", "command": ["run"]}]}));
    node.pod("gone", json!({"containers": [{"name": "g", "image": "here", "command": ["run"]}]}));
    let before = node.status("web", &[running()]).await;
    node.status("gone", &[running()]).await;
    let (api, runtime, root) = node.stop().await;
    // One pod was force-deleted while nobody looked.
    let client = api.client();
    kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(client, "n")
        .delete("gone", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    let node = Node::on(api, runtime, root);
    until("the orphan's end", || node.calls("stop").iter().any(|c| c.starts_with("g ")).then_some(())).await;
    node.runtime.end("c", 1);
    let after = node.status("web", &[("/containerStatuses/0/restartCount", json!(1)), running()]).await;
    let mut created = node.calls("create");
    created.sort();
    assert_eq!(created, ["c", "c", "g"], "only the container that ended was started anew");
    assert_eq!(before["status"]["podIP"], after["status"]["podIP"]);
    node.end().await;
}
