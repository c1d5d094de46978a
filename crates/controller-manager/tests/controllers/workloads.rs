//! Deployments become pods, pods become endpoints.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::{Endpoints, Event, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, config, eventually, until, until_gone};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn deployment(replicas: i32) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "image:1"}]}},
        },
    })
}

fn is_rolled_out(deployment: &Deployment, replicas: i32) -> bool {
    let status: DeploymentStatus = deployment.status.clone().unwrap_or_default();
    let complete = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Progressing" && condition.reason.as_deref() == Some("NewReplicaSetAvailable"));
    complete
        && status.observed_generation >= deployment.metadata.generation
        && [status.replicas, status.updated_replicas, status.available_replicas] == [Some(replicas); 3]
}

async fn rolled_out(api: &Api<Deployment>, replicas: i32, revision: &str) -> Deployment {
    let what = format!("{replicas} replicas of revision {revision}");
    until(api, "web", &what, |deployment| {
        is_rolled_out(deployment, replicas) && deployment.annotations().get(REVISION).map(String::as_str) == Some(revision)
    })
    .await
}

async fn set_image(api: &Api<Deployment>, image: &str) {
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    api.patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.expect("image is set");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_out_scales_and_goes_back() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let deployments: Api<Deployment> = cluster.api("default");
    let sets: Api<ReplicaSet> = cluster.api("default");
    let pods: Api<Pod> = cluster.api("default");
    cluster.create::<Deployment>("default", deployment(3)).await;
    rolled_out(&deployments, 3, "1").await;
    let first: Vec<ReplicaSet> = sets.list(&ListParams::default()).await.expect("is listed").items;
    assert_eq!(first.len(), 1);

    set_image(&deployments, "image:2").await;
    rolled_out(&deployments, 3, "2").await;
    let all = sets.list(&ListParams::default()).await.expect("is listed").items;
    let sizes: Vec<_> = all.iter().map(|set| set.spec.as_ref().and_then(|spec| spec.replicas)).collect();
    assert!(all.len() == 2 && sizes.contains(&Some(0)) && sizes.contains(&Some(3)), "{sizes:?}");
    eventually("only pods of the new template are left", || async {
        let pods = pods.list(&ListParams::default()).await.expect("is listed").items;
        let new = |pod: &Pod| pod.spec.as_ref().is_some_and(|s| s.containers[0].image.as_deref() == Some("image:2"));
        (pods.len() == 3 && pods.iter().all(new)).then_some(())
    })
    .await;

    let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
    deployments.patch_scale("web", &PatchParams::default(), &scale).await.expect("is scaled");
    rolled_out(&deployments, 5, "2").await;

    set_image(&deployments, "image:1").await;
    rolled_out(&deployments, 5, "3").await;
    let back = sets.get(&first[0].name_any()).await.expect("the first set is used again");
    assert_eq!(back.annotations().get(REVISION).map(String::as_str), Some("3"));

    let events: Api<Event> = cluster.api("default");
    eventually("the scaling is told in events", || async {
        let events = events.list(&ListParams::default()).await.expect("is listed").items;
        let mut scaled = events.iter().filter(|event| event.reason.as_deref() == Some("ScalingReplicaSet"));
        scaled
            .any(|event| {
                event.message.as_deref().is_some_and(|message| message.ends_with("from 0 to 3"))
                    && event.source.as_ref().and_then(|source| source.component.as_deref()) == Some("deployment-controller")
            })
            .then_some(())
    })
    .await;

    deployments.delete("web", &DeleteParams::background()).await.expect("is deleted");
    eventually("everything goes with the deployment", || async {
        let sets = sets.list(&ListParams::default()).await.expect("is listed").items;
        let pods = pods.list(&ListParams::default()).await.expect("is listed").items;
        (sets.is_empty() && pods.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pod_is_replaced_and_a_stray_one_adopted() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let pods: Api<Pod> = cluster.api("default");
    let stray = json!({"metadata": {"name": "stray", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "image:1"}]}});
    cluster.create::<Pod>("default", stray).await;
    let set: ReplicaSet = cluster
        .create(
            "default",
            json!({"metadata": {"name": "set"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "image:1"}]}}}}),
        )
        .await;
    let uid = set.uid();
    until(&pods, "stray", "the stray pod is adopted", |pod| {
        pod.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref() && owner.controller == Some(true))
    })
    .await;
    let sets: Api<ReplicaSet> = cluster.api("default");
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas) == Some(2);
    until(&sets, "set", "two are ready", ready).await;
    assert_eq!(pods.list(&ListParams::default()).await.expect("is listed").items.len(), 2, "one was made, one adopted");
    pods.delete("stray", &DeleteParams::default()).await.expect("is deleted");
    until_gone(&pods, "stray").await;
    eventually("it is replaced", || async {
        let pods = pods.list(&ListParams::default()).await.expect("is listed").items;
        (pods.len() == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_become_endpoints_of_their_service() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let service = json!({"metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    cluster.create::<Service>("default", service).await;
    cluster.create::<Deployment>("default", deployment(3)).await;
    let slices: Api<EndpointSlice> = cluster.api("default");
    let of_service = ListParams::default().labels("kubernetes.io/service-name=web");
    let ready = |slice: &EndpointSlice| {
        let ready = |e: &&k8s_openapi::api::discovery::v1::Endpoint| {
            e.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
        };
        slice.endpoints.iter().filter(ready).count()
    };
    let slice = eventually("three endpoints are ready", || async {
        let slices = slices.list(&of_service).await.expect("is listed").items;
        slices.into_iter().find(|slice| slice.address_type == "IPv4" && ready(slice) == 3)
    })
    .await;
    assert_eq!(slice.ports.expect("has ports")[0].port, Some(8080));
    assert_eq!(slice.endpoints[0].node_name.as_deref(), Some("n1"));
    let endpoints: Api<Endpoints> = cluster.api("default");
    until(&endpoints, "web", "Endpoints has them too", |endpoints| {
        let mut subsets = endpoints.subsets.iter().flatten();
        subsets.next().and_then(|subset| subset.addresses.as_ref()).map_or(0, Vec::len) == 3
    })
    .await;
    let services: Api<Service> = cluster.api("default");
    services.delete("web", &DeleteParams::default()).await.expect("is deleted");
    until_gone(&endpoints, "web").await;
    eventually("slices go with their service", || async {
        slices.list(&of_service).await.expect("is listed").items.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_without_a_selector_are_mirrored() {
    let cluster = Cluster::start(config()).await;
    let slices: Api<EndpointSlice> = cluster.api("default");
    let selected = ListParams::default().labels("kubernetes.io/service-name=outside");
    cluster.create::<Service>("default", json!({"metadata": {"name": "outside"}, "spec": {"ports": [{"port": 80}]}})).await;
    let subsets = json!([{"addresses": [{"ip": "203.0.113.7"}], "ports": [{"port": 8080}]}]);
    cluster.create::<Endpoints>("default", json!({"metadata": {"name": "outside"}, "subsets": subsets})).await;
    let slice = eventually("the slice", || async {
        let found = slices.list(&selected).await.expect("is listed").items;
        found.into_iter().find(|slice| slice.endpoints.iter().any(|endpoint| endpoint.addresses == ["203.0.113.7"]))
    })
    .await;
    let manager = slice.labels().get("endpointslice.kubernetes.io/managed-by").map(String::as_str);
    assert_eq!(manager, Some("endpointslicemirroring-controller.k8s.io"));
    let endpoints: Api<Endpoints> = cluster.api("default");
    endpoints.delete("outside", &DeleteParams::default()).await.expect("are deleted");
    until_gone(&slices, &slice.name_any()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_appear_without_a_service_stay() {
    let cluster = Cluster::start(config()).await;
    let endpoints: Api<Endpoints> = cluster.api("default");
    let service =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"app": "none"}}});
    // The controller works, so that what comes now is not left over from before it began.
    cluster.create::<Service>("default", service("first")).await;
    until(&endpoints, "first", "exists", |_| true).await;
    let subsets = json!([{"addresses": [{"ip": "203.0.113.7"}], "ports": [{"port": 8080}]}]);
    cluster.create::<Endpoints>("default", json!({"metadata": {"name": "lonely"}, "subsets": subsets})).await;
    cluster.create::<Service>("default", service("second")).await;
    until(&endpoints, "second", "exists", |_| true).await;
    endpoints.get("lonely").await.expect("Endpoints without a Service stay");
}
