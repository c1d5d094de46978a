//! The pods of hollow nodes: run at once, end at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use client::{Informer, NamespacedName, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::CONCURRENCY;
use super::node::address;
use crate::pod::access::{PodAccess, is_sidecar};
use crate::pod::report::status_patch;
use crate::pod::status::{Inputs, Readiness, generate};
use crate::runtime::snapshot::{ContainerRecord, SandboxRecord, Snapshot, State};

/// The prefix of container ids.
const RUNTIME: &str = "hollow";

/// The pods of all nodes of this process.
pub(super) struct HollowPods {
    queue: Arc<WorkQueue<NamespacedName>>,
}

/// What the workers share.
struct Worker {
    nodes: HashMap<String, usize>,
    pods: Informer<Pod>,
    client: kube::Client,
    addresses: AtomicU32,
}

impl HollowPods {
    /// Watches the pods that have a node, and works on those of `nodes` (name to number).
    pub(super) async fn start(
        nodes: HashMap<String, usize>,
        client: kube::Client,
        tasks: &TaskTracker,
        token: &CancellationToken,
    ) -> Result<Self, client::ResyncError> {
        let config = watcher::Config::default().fields("spec.nodeName!=");
        let (pods, watching) = Informer::<Pod>::start(client.clone(), config, token.clone());
        tasks.spawn(watching);
        let queue = Arc::new(WorkQueue::new("hollow_pods"));
        let worker = Arc::new(Worker { nodes, pods: pods.clone(), client, addresses: AtomicU32::new(0) });
        let (to, mine) = (Arc::clone(&queue), Arc::clone(&worker));
        pods.add_handler(move |change| {
            if mine.node_of(change.object()).is_some() {
                to.add(NamespacedName::of(change.object().as_ref()));
            }
        });
        for _ in 0..CONCURRENCY {
            let (queue, worker) = (Arc::clone(&queue), Arc::clone(&worker));
            tasks.spawn(async move {
                while let Some(key) = queue.get().await {
                    match worker.sync(&key).await {
                        Ok(()) => queue.forget(&key),
                        Err(error) => {
                            tracing::debug!(namespace = key.namespace, name = key.name, %error, "pod was not brought up to date");
                            queue.add_rate_limited(key.clone());
                        }
                    }
                    queue.done(&key);
                }
            });
        }
        pods.wait_synced().await?;
        Ok(Self { queue })
    }

    /// Lets the workers end.
    pub(super) fn stop(&self) {
        self.queue.shut_down();
    }
}

impl Worker {
    fn node_of(&self, pod: &Pod) -> Option<usize> {
        self.nodes.get(pod.spec.as_ref()?.node_name.as_deref()?).copied()
    }

    async fn sync(&self, key: &NamespacedName) -> Result<(), kube::Error> {
        let Some(pod) = self.pods.store().get_key(key) else { return Ok(()) };
        let Some(number) = self.node_of(&pod) else { return Ok(()) };
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if !leaving && pod.phase_is_terminal() {
            return Ok(());
        }
        let next = || address_of_pod(self.addresses.fetch_add(1, Ordering::Relaxed));
        let status = status_of(&pod, &address(number), leaving, next, Timestamp::now());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        if let Some(patch) = status_patch(&pod, &status) {
            match api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => {}
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if leaving {
            let parameters = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
                ..DeleteParams::default()
            };
            match api.delete(pod.name(), &parameters).await {
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The pod is not there any more, or is another of that name.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409 && status.message.contains("recondition"))
}

/// The upper half of 10.0.0.0/8, in turns.
fn address_of_pod(number: u32) -> String {
    let [_, b, c, d] = (number % 0x7f_fffe + 1).to_be_bytes();
    format!("10.{}.{c}.{d}", b | 0x80)
}

/// The status of a pod whose containers run, or have been stopped.
fn status_of(pod: &Pod, host: &str, stopped: bool, next_address: impl FnOnce() -> String, now: Timestamp) -> PodStatus {
    let old = pod.pod_status();
    let known = old.pod_ip.clone().filter(|_| !pod.host_network());
    let own = || if pod.host_network() { Vec::new() } else { vec![next_address()] };
    let snapshot = snapshot_of(pod, known.map_or_else(own, |ip| vec![ip]), stopped, now);
    let inputs = Inputs {
        old,
        failures: &HashMap::new(),
        probes: &|_| Readiness { startup: Some(true), readiness: Some(!stopped) },
        terminal: stopped,
        failed: None,
        resize_pending: None,
        host_ips: &[host.to_owned()],
        runtime_name: RUNTIME,
        now,
    };
    generate(pod, &snapshot, &inputs)
}

/// What a runtime would say: a sandbox, and every container in it.
fn snapshot_of(pod: &Pod, ips: Vec<String>, stopped: bool, now: Timestamp) -> Snapshot {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let sandbox_id = id(uid, "");
    let started = pod.pod_status().start_time.as_ref().map_or(now, |time| time.0);
    let record = |container: &k8s_openapi::api::core::v1::Container, ended: bool| ContainerRecord {
        id: id(uid, &container.name),
        name: container.name.clone(),
        sandbox_id: sandbox_id.clone(),
        state: if ended { State::Exited } else { State::Running },
        hash: String::new(),
        restart_count: 0,
        image: container.image.clone().unwrap_or_default(),
        image_ref: container.image.clone().unwrap_or_default(),
        created_at: started,
        started_at: Some(started),
        finished_at: ended.then_some(if stopped { now } else { started }),
        exit_code: 0,
        reason: if ended { "Completed" } else { "" }.to_owned(),
        message: String::new(),
        log_path: String::new(),
        memory_request: None,
        resources: None,
        user: None,
    };
    let init = pod.init_containers().iter().map(|container| record(container, stopped || !is_sidecar(container)));
    let containers = pod.containers().iter().map(|container| record(container, stopped)).chain(init).collect();
    let sandbox = SandboxRecord {
        id: sandbox_id.clone(),
        attempt: 0,
        ready: !stopped,
        created_at: i64::try_from(started.as_nanosecond()).unwrap_or(i64::MAX),
        host_network: pod.host_network(),
        ips,
    };
    Snapshot { sandboxes: vec![sandbox], containers }
}

/// The same at each start of this process: 64 hexadecimal digits, as runtimes have them.
fn id(uid: &str, container: &str) -> String {
    hex::encode(Sha256::digest(format!("{uid}/{container}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {
                "nodeName": "n", "restartPolicy": "Always",
                "initContainers": [{"name": "first", "image": "i"}, {"name": "beside", "image": "s", "restartPolicy": "Always"}],
                "containers": [{"name": "main", "image": "m"}],
            },
            "status": status,
        }))
        .unwrap()
    }

    fn conditions(status: &PodStatus) -> Vec<String> {
        let all = status.conditions.iter().flatten().filter(|condition| condition.status == "True");
        all.map(|condition| condition.type_.clone()).collect()
    }

    #[test]
    fn a_pod_runs_at_once_and_stays_as_it_is() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let status = status_of(&pod(json!({"phase": "Pending"})), "10.0.0.1", false, || "10.128.0.1".into(), now);
        assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Running"), Some("10.128.0.1")));
        assert_eq!(status.host_ip.as_deref(), Some("10.0.0.1"));
        for expected in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"] {
            assert!(conditions(&status).iter().any(|found| found == expected), "{expected}: {:?}", status.conditions);
        }
        let main = &status.container_statuses.as_ref().unwrap()[0];
        assert!(main.ready && main.started == Some(true) && main.state.as_ref().unwrap().running.is_some());
        let init = status.init_container_statuses.as_ref().unwrap();
        assert!(init[0].state.as_ref().unwrap().terminated.is_some() && init[1].state.as_ref().unwrap().running.is_some());
        let known = Pod { status: Some(status.clone()), ..pod(json!({})) };
        let later = Timestamp::from_second(1_700_000_100).unwrap();
        let again = status_of(&known, "10.0.0.1", false, || panic!("it has an address"), later);
        assert_eq!(status_patch(&known, &again), None, "nothing is left to write");
    }

    #[test]
    fn a_deleted_pod_ends() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let status = status_of(&pod(json!({"phase": "Running"})), "10.0.0.1", true, || "10.128.0.1".into(), now);
        assert_eq!(status.phase.as_deref(), Some("Succeeded"));
        let main = &status.container_statuses.as_ref().unwrap()[0];
        assert_eq!(main.state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 0);
        assert!(!conditions(&status).iter().any(|found| found == "Ready"));
    }

    #[test]
    fn addresses_go_round() {
        assert_eq!((address_of_pod(0), address_of_pod(255)), ("10.128.0.1".into(), "10.128.1.0".into()));
    }
}
