//! Autoscalers follow metrics, within their limits, and do nothing without them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use api_server::{ApiServer, Body, Connector, RequestContext};
use apimachinery::Status;
use async_trait::async_trait;
use controller_manager::{Config, PodAutoscaler};
use http::{Request, Response};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, config, eventually, until};

/// Stands in for kubelets behind metrics.k8s.io: every pod uses the same.
struct SameForAll {
    client: std::sync::OnceLock<kube::Client>,
    millicores: AtomicI64,
}

#[async_trait]
impl Connector for SameForAll {
    async fn connect(
        &self,
        _server: &Arc<ApiServer>,
        context: &RequestContext,
        _request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let client = self.client.get().cloned().ok_or_else(|| Status::service_unavailable("not yet"))?;
        let pods: Api<Pod> = Api::namespaced(client, &context.info.namespace);
        let selected = ListParams::default().labels(context.query.get("labelSelector").unwrap_or_default());
        let pods = pods.list(&selected).await.expect("is listed").items;
        let usage = format!("{}m", self.millicores.load(Ordering::Relaxed));
        let items: Vec<Value> = pods
            .iter()
            .map(|pod| {
                json!({"metadata": {"name": pod.name_any()}, "timestamp": jiff::Timestamp::now().to_string(), "window": "15s",
                    "containers": [{"name": "c", "usage": {"cpu": usage}}]})
            })
            .collect();
        Ok(Response::new(Body::full(json!({"items": items}).to_string())))
    }
}

fn quick() -> Config {
    let pod_autoscaler = PodAutoscaler {
        sync_period: Duration::from_millis(200),
        downscale_stabilization: Duration::ZERO,
        cpu_initialization_period: Duration::ZERO,
        ..PodAutoscaler::default()
    };
    Config { pod_autoscaler, ..config() }
}

async fn deploy(cluster: &Cluster, min: i32, max: i32) {
    let container = json!({"name": "c", "image": "image:1", "resources": {"requests": {"cpu": "100m"}}});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    cluster.create::<Deployment>("default", json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let target = json!({"type": "Utilization", "averageUtilization": 100});
    let autoscaler = json!({"metadata": {"name": "web"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": min, "maxReplicas": max,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }});
    cluster.create::<HorizontalPodAutoscaler>("default", autoscaler).await;
}

fn condition(autoscaler: &HorizontalPodAutoscaler, type_: &str) -> Option<(String, String)> {
    let conditions = autoscaler.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((condition.status.clone(), condition.reason.clone()?))
}

fn is(autoscaler: &HorizontalPodAutoscaler, type_: &str, status: &str, reason: &str) -> bool {
    condition(autoscaler, type_) == Some((status.to_owned(), reason.to_owned()))
}

fn replicas(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.replicas)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_follows_its_load() {
    let metrics = Arc::new(SameForAll { client: std::sync::OnceLock::new(), millicores: AtomicI64::new(300) });
    let connector = metrics.clone();
    let mut cluster = Cluster::start_with(quick(), |builder| builder.connector("metrics.k8s.io", "pods", "", connector)).await;
    assert!(metrics.client.set(cluster.client.clone()).is_ok(), "is set once");
    cluster.run_pods().await;
    let deployments: Api<Deployment> = cluster.api("default");
    let autoscalers: Api<HorizontalPodAutoscaler> = cluster.api("default");
    deploy(&cluster, 1, 5).await;
    until(&deployments, "web", "as many as are allowed", |deployment| replicas(deployment) == Some(5)).await;
    let limited = until(&autoscalers, "web", "is limited", |autoscaler| {
        is(autoscaler, "ScalingLimited", "True", "TooManyReplicas") && is(autoscaler, "ScalingActive", "True", "ValidMetricFound")
    })
    .await;
    let current = limited.status.as_ref().and_then(|status| status.current_metrics.clone()).expect("are told");
    let cpu = current[0].resource.as_ref().expect("is the processor");
    assert_eq!((cpu.name.as_str(), cpu.current.average_utilization), ("cpu", Some(300)));
    assert_eq!(cpu.current.average_value.as_ref().map(|value| value.0.as_str()), Some("300m"));

    metrics.millicores.store(35, Ordering::Relaxed);
    until(&deployments, "web", "fewer", |deployment| replicas(deployment).is_some_and(|replicas| replicas <= 2)).await;
    metrics.millicores.store(1, Ordering::Relaxed);
    until(&deployments, "web", "one", |deployment| replicas(deployment) == Some(1)).await;
    let events: Api<Event> = cluster.api("default");
    eventually("both directions are told", || async {
        let events = events.list(&ListParams::default()).await.expect("is listed").items;
        let told = |text: &str| {
            let mut rescales = events.iter().filter(|event| event.reason.as_deref() == Some("SuccessfulRescale"));
            rescales.any(|event| event.message.as_deref().is_some_and(|message| message.contains(text)))
        };
        let up = "reason: cpu resource utilization (percentage of request) above target";
        (told(up) && told("New size: 1; reason: All metrics below target")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_metrics_only_the_limits_count() {
    let mut cluster = Cluster::start(quick()).await;
    cluster.run_pods().await;
    let deployments: Api<Deployment> = cluster.api("default");
    let autoscalers: Api<HorizontalPodAutoscaler> = cluster.api("default");
    deploy(&cluster, 3, 5).await;
    until(&deployments, "web", "the minimum", |deployment| replicas(deployment) == Some(3)).await;
    let idle = until(&autoscalers, "web", "has no metrics", |autoscaler| {
        is(autoscaler, "ScalingActive", "False", "FailedGetResourceMetric")
            && is(autoscaler, "AbleToScale", "True", "SucceededGetScale")
    })
    .await;
    let conditions = idle.status.and_then(|status| status.conditions).expect("are set");
    let message = conditions.iter().find(|condition| condition.type_ == "ScalingActive").and_then(|c| c.message.as_deref());
    let expected = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: ";
    assert!(message.is_some_and(|message| message.starts_with(expected)), "{message:?}");

    let lost = json!({"metadata": {"name": "lost"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "none"}, "maxReplicas": 2,
    }});
    cluster.create::<HorizontalPodAutoscaler>("default", lost).await;
    until(&autoscalers, "lost", "has no target", |autoscaler| is(autoscaler, "AbleToScale", "False", "FailedGetScale")).await;
    let rival = json!({"metadata": {"name": "rival"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 5, "minReplicas": 3,
    }});
    cluster.create::<HorizontalPodAutoscaler>("default", rival).await;
    until(&autoscalers, "rival", "is in the way", |autoscaler| is(autoscaler, "ScalingActive", "False", "AmbiguousSelector"))
        .await;
}
