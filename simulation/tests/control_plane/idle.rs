//! **Nothing changes, nothing happens**: while a cluster with one of everything is at rest, no controller and no scheduler writes or
//! lists; node leases are all that is written.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use crate::plane::{Plane, Sent};

fn pods(app: &str) -> Value {
    let requests = json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "10m", "memory": "16Mi"}});
    let containers = json!([{"name": "c", "image": "image:1", "resources": requests}]);
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": containers}})
}

fn workload(name: &str, more: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}}, "template": pods(name)});
    spec.as_object_mut().expect("is an object").extend(more.as_object().expect("is an object").clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

/// One of everything that has a controller and needs no driver.
async fn populate(plane: &Plane) {
    plane
        .create::<ResourceQuota>(json!({"metadata": {"name": "quota"}, "spec": {"hard": {"pods": "100", "requests.cpu": "10"}}}))
        .await;
    plane.create::<Deployment>(workload("web", json!({"replicas": 3}))).await;
    plane.create::<StatefulSet>(workload("db", json!({"replicas": 2, "serviceName": "db"}))).await;
    plane.create::<DaemonSet>(workload("agent", json!({}))).await;
    let template = {
        let mut template = pods("job");
        template["spec"]["restartPolicy"] = "Never".into();
        template
    };
    plane.create::<Job>(json!({"metadata": {"name": "job"}, "spec": {"template": template, "parallelism": 1}})).await;
    let job = json!({"spec": {"template": template}});
    plane
        .create::<CronJob>(json!({"metadata": {"name": "yearly"}, "spec": {"schedule": "0 0 29 2 *", "jobTemplate": job}}))
        .await;
    plane
        .create::<Service>(json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}))
        .await;
    let budget = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    plane.create::<PodDisruptionBudget>(json!({"metadata": {"name": "web"}, "spec": budget})).await;
    // One that no volume can be found for, and nobody makes one.
    let storage =
        json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}});
    plane.create::<PersistentVolumeClaim>(json!({"metadata": {"name": "waits"}, "spec": storage})).await;
    // One that no node can take: the scheduler must not try again without a reason.
    let huge =
        json!([{"name": "c", "image": "image:1", "resources": {"requests": {"cpu": "5000m"}, "limits": {"cpu": "5000m"}}}]);
    plane.create::<Pod>(json!({"metadata": {"name": "huge"}, "spec": {"containers": huge}})).await;
}

fn is_watch(request: &Sent) -> bool {
    request.1 == "GET" && request.2.contains("watch=true")
}

fn is_node_lease((who, method, path): &Sent) -> bool {
    who == "hollow" && (method == "PUT" || method == "PATCH") && path.contains("/namespaces/kube-node-lease/leases/")
}

/// What was sent in so long, watches and node leases aside.
async fn sent_in(plane: &Plane, time: Duration) -> Vec<Sent> {
    plane.take_sent();
    tokio::time::sleep(time).await;
    plane.take_sent().into_iter().filter(|request| !is_watch(request) && !is_node_lease(request)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_idle_cluster_is_still() {
    let plane = Plane::start().await;
    let _hollow = plane.hollow_nodes(5);
    let _controllers = plane.controller_manager(None);
    let _scheduler = plane.scheduler(None);
    populate(&plane).await;
    plane
        .eventually("all pods but the huge one run", async || {
            let running = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
            let pods = plane.list::<Pod>().await;
            match pods.iter().filter(|pod| running(pod)).count() {
                // Three of the Deployment, two of the StatefulSet, five of the DaemonSet, one of the Job.
                11 => Ok(()),
                other => Err(other),
            }
        })
        .await;
    // What begins with a delay has begun after this: garbage collection's discovery, quarantines, back-offs.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let sent = sent_in(&plane, Duration::from_secs(300)).await;
    // What waits (a pod without a node, a claim without a volume) is tried again meanwhile, and told of again before its event expires.
    assert!(sent.is_empty(), "an idle cluster is still: {sent:#?}");
    // The test does something: a change is noticed.
    plane
        .create::<Pod>(json!({"metadata": {"name": "late"}, "spec": {"containers": [{"name": "c", "image": "image:1",
        "resources": {"requests": {"cpu": "1m"}, "limits": {"cpu": "1m"}}}]}}))
        .await;
    assert!(!sent_in(&plane, Duration::from_secs(60)).await.is_empty());
}

/// An autoscaler asks for metrics every fifteen seconds; that is its work, and it must not write.
#[tokio::test(start_paused = true)]
async fn an_autoscaler_without_metrics_writes_nothing_twice() {
    let plane = Plane::start().await;
    let _hollow = plane.hollow_nodes(1);
    let _controllers = plane.controller_manager(None);
    let _scheduler = plane.scheduler(None);
    plane.create::<Deployment>(workload("web", json!({"replicas": 1}))).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let metrics =
        json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]);
    plane
        .create::<HorizontalPodAutoscaler>(json!({"metadata": {"name": "web"}, "spec": {
            "scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3, "metrics": metrics}}))
        .await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let sent = sent_in(&plane, Duration::from_secs(300)).await;
    let writes: Vec<_> = sent.iter().filter(|(_, method, path)| method != "GET" && !path.contains("/events")).collect();
    assert!(writes.is_empty(), "nothing is written again: {writes:#?}");
}
