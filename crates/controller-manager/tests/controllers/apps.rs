//! StatefulSets and DaemonSets, with the rights that upstream's roles give their controllers.

use controller_manager::Config;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, config, eventually, until, until_gone};

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "image:1"}]}})
}

fn stateful_set(replicas: i32) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {
        "serviceName": "web", "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("web"),
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Retain"},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}]}})
}

async fn set_image<K>(api: &Api<K>, name: &str, image: &str)
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.expect("image is set");
}

async fn replicas(api: &Api<StatefulSet>, replicas: i32) {
    let scale = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    api.patch_scale("web", &PatchParams::default(), &scale).await.expect("is scaled");
}

fn is_rolled_out(set: &StatefulSet, replicas: i32) -> bool {
    let status = set.status.clone().unwrap_or_default();
    status.observed_generation == set.metadata.generation
        && status.replicas == replicas
        && [status.ready_replicas, status.updated_replicas, status.current_replicas].map(|count| count.unwrap_or(0))
            == [replicas; 3]
        && status.current_revision == status.update_revision
}

async fn names<K>(api: &Api<K>) -> Vec<String>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.list(&ListParams::default()).await.expect("is listed").items.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_comes_up_rolls_back_and_goes_in_order() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let sets: Api<StatefulSet> = cluster.api("default");
    let pods: Api<Pod> = cluster.api("default");
    let claims: Api<PersistentVolumeClaim> = cluster.api("default");
    let revisions: Api<ControllerRevision> = cluster.api("default");
    cluster.create::<StatefulSet>("default", stateful_set(3)).await;
    let set = until(&sets, "web", "three pods are ready", |set| is_rolled_out(set, 3)).await;
    let first = set.status.and_then(|status| status.current_revision).expect("has a revision");
    assert_eq!(names(&pods).await, ["web-0", "web-1", "web-2"]);
    assert_eq!(names(&claims).await, ["data-web-0", "data-web-1", "data-web-2"]);
    assert_eq!(names(&revisions).await, std::slice::from_ref(&first));
    let pod = pods.get("web-1").await.expect("is there");
    for (label, value) in [
        ("statefulset.kubernetes.io/pod-name", "web-1"),
        ("apps.kubernetes.io/pod-index", "1"),
        ("controller-revision-hash", first.as_str()),
    ] {
        assert_eq!(pod.labels()[label], value);
    }
    assert_eq!(pod.spec.expect("has a spec").hostname.as_deref(), Some("web-1"));

    set_image(&sets, "web", "image:2").await;
    let second = until(&sets, "web", "the second revision is out", |set| {
        is_rolled_out(set, 3) && set.status.as_ref().and_then(|status| status.update_revision.as_ref()) != Some(&first)
    });
    second.await;
    set_image(&sets, "web", "image:1").await;
    until(&sets, "web", "the first revision is back", |set| {
        is_rolled_out(set, 3) && set.status.as_ref().and_then(|status| status.update_revision.as_ref()) == Some(&first)
    })
    .await;
    assert_eq!(names(&revisions).await.len(), 2, "the first revision was used again");
    assert_eq!(revisions.get(&first).await.expect("is there").revision, 3);

    let before = pods.get("web-1").await.expect("is there").uid();
    pods.delete("web-1", &DeleteParams::default()).await.expect("is deleted");
    // The status may be of before: a scale-down now could find no pod whose claims it would mark.
    until(&pods, "web-1", "the pod is made again", |pod| pod.uid() != before).await;
    until(&sets, "web", "it is ready", |set| is_rolled_out(set, 3)).await;

    replicas(&sets, 1).await;
    until_gone(&pods, "web-1").await;
    // The garbage collector takes the claims with their pods, as the policy says.
    until_gone(&claims, "data-web-2").await;
    until_gone(&claims, "data-web-1").await;
    replicas(&sets, 2).await;
    until(&sets, "web", "it grows again", |set| is_rolled_out(set, 2)).await;
    assert_eq!(names(&claims).await, ["data-web-0", "data-web-1"]);

    let events: Api<Event> = cluster.api("default");
    for wanted in [
        "Create Pod web-0 in StatefulSet web successful",
        "Create Claim data-web-0 Pod web-0 in StatefulSet web success",
        "Delete Pod web-2 in StatefulSet web successful",
    ] {
        eventually(wanted, || async {
            let events = events.list(&ListParams::default()).await.expect("is listed").items;
            events.iter().any(|event| event.message.as_deref() == Some(wanted)).then_some(())
        })
        .await;
    }
    sets.delete("web", &DeleteParams::background()).await.expect("is deleted");
    eventually("pods and revisions go with the set", || async {
        (names(&pods).await.is_empty() && names(&revisions).await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(names(&claims).await, ["data-web-0", "data-web-1"], "claims are retained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pod_of_a_stateful_set_is_made_again() {
    let mut cluster = Cluster::start(config()).await;
    cluster.run_pods().await;
    let sets: Api<StatefulSet> = cluster.api("default");
    let pods: Api<Pod> = cluster.api("default");
    cluster.create::<StatefulSet>("default", stateful_set(1)).await;
    until(&sets, "web", "the pod is ready", |set| is_rolled_out(set, 1)).await;
    let old = pods.get("web-0").await.expect("is there").uid();
    let failed = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
    pods.patch_status("web-0", &PatchParams::default(), &Patch::Strategic(failed)).await.expect("fails");
    eventually("another takes its place", || async {
        let pod = pods.get_opt("web-0").await.expect("is read")?;
        (pod.uid() != old).then_some(())
    })
    .await;
}

fn is_everywhere(set: &DaemonSet, nodes: i32) -> bool {
    let status = set.status.clone().unwrap_or_default();
    status.observed_generation == set.metadata.generation
        && [status.desired_number_scheduled, status.number_ready, status.updated_number_scheduled.unwrap_or(0)] == [nodes; 3]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_follows_its_nodes_and_its_template() {
    // The stand-in for a node does not say that it is ready, so its taint is taken off by hand.
    let controllers = ["*", "-node-lifecycle-controller"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start(Config { controllers, ..config() }).await;
    cluster.run_pods().await;
    let sets: Api<DaemonSet> = cluster.api("default");
    let pods: Api<Pod> = cluster.api("default");
    let revisions: Api<ControllerRevision> = cluster.api("default");
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let untaint = Patch::Merge(json!({"spec": {"taints": []}}));
    nodes.patch("n1", &PatchParams::default(), &untaint).await.expect("is untainted");
    let set = json!({"metadata": {"name": "agent"}, "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent")}});
    cluster.create::<DaemonSet>("default", set).await;
    let set = until(&sets, "agent", "the node has its pod", |set| is_everywhere(set, 1)).await;
    assert_eq!(set.annotations()["deprecated.daemonset.template.generation"], "1");
    let list = || async { pods.list(&ListParams::default()).await.expect("is listed").items };
    let first = list().await.remove(0);
    let hash = first.labels()["controller-revision-hash"].clone();
    assert_eq!(first.labels()["pod-template-generation"], "1");
    assert_eq!(names(&revisions).await, [format!("agent-{hash}")]);

    set_image(&sets, "agent", "image:2").await;
    until(&sets, "agent", "the update is out", |set| is_everywhere(set, 1)).await;
    assert_eq!(sets.get("agent").await.expect("is there").annotations()["deprecated.daemonset.template.generation"], "2");
    set_image(&sets, "agent", "image:1").await;
    until(&sets, "agent", "and back", |set| is_everywhere(set, 1)).await;
    eventually("the pod is of the first revision", || async {
        let pods = list().await;
        (pods.len() == 1 && pods[0].labels()["controller-revision-hash"] == hash).then_some(())
    })
    .await;
    let back = revisions.get(&format!("agent-{hash}")).await.expect("is there");
    assert_eq!((back.revision, names(&revisions).await.len()), (3, 2));

    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}});
    nodes.patch("n1", &PatchParams::default(), &Patch::Merge(taint)).await.expect("is tainted");
    eventually("the pod leaves", || async { list().await.is_empty().then_some(()) }).await;
    until(&sets, "agent", "no node fits", |set| is_everywhere(set, 0)).await;
    nodes.patch("n1", &PatchParams::default(), &untaint).await.expect("is untainted");
    until(&sets, "agent", "it is back", |set| is_everywhere(set, 1)).await;

    let failed = list().await.remove(0);
    let status = json!({"status": {"phase": "Failed"}});
    pods.patch_status(&failed.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await.expect("fails");
    until_gone(&pods, &failed.name_any()).await;
    until(&sets, "agent", "it is replaced", |set| is_everywhere(set, 1)).await;
    let events: Api<Event> = cluster.api("default");
    for reason in ["SuccessfulCreate", "SuccessfulDelete", "FailedDaemonPod"] {
        eventually(reason, || async {
            let events = events.list(&ListParams::default()).await.expect("is listed").items;
            events.iter().any(|event| event.reason.as_deref() == Some(reason)).then_some(())
        })
        .await;
    }
}
