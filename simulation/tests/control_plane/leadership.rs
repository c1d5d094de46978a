//! **Killing the leader under load loses and doubles nothing**: two controller managers and two schedulers, each pair with one lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client::LeaderElection;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::plane::{Plane, Process};

const DEPLOYMENTS: usize = 20;
const REPLICAS: usize = 4;
/// With the default maxSurge, a quarter.
const MOST: i32 = 5;
/// The three nodes have room for 30 pods each: for all that is wanted, and not for every pod that a rolling update would like to add, so
/// that a scheduler that does not look puts too much on them.
const NODES: usize = 3;
const POD_MILLI_CPU: u32 = 130;
const NODE_MILLI_CPU: u32 = 4000;

fn workload(name: &str, more: Value) -> Value {
    let containers = json!([{"name": "c", "image": "image:1", "resources": {"requests": {"cpu": format!("{POD_MILLI_CPU}m")}}}]);
    let template = json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}});
    let mut spec = json!({"replicas": REPLICAS, "selector": {"matchLabels": {"app": name}}, "template": template});
    spec.as_object_mut().expect("is an object").extend(more.as_object().expect("is an object").clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

/// A pair of candidates, by their identities.
struct Pair(BTreeMap<&'static str, Process>);

impl Pair {
    fn start(lease: &str, start: impl Fn(Option<LeaderElection>) -> Process) -> Self {
        Self(["a", "b"].map(|identity| (identity, start(Some(LeaderElection::new(lease, identity))))).into())
    }

    /// Kills who leads.
    async fn kill_leader(&mut self, plane: &Plane, lease: &str) {
        let leases: Api<Lease> = Api::namespaced(plane.admin.clone(), "kube-system");
        let lease = leases.get(lease).await.expect("somebody leads");
        let holder = lease.spec.and_then(|spec| spec.holder_identity).expect("somebody leads");
        assert!(self.0.remove(holder.as_str()).is_some(), "{holder} was killed before");
    }
}

/// What must hold at every moment: no Deployment asks for more pods than its surge allows (counted as upstream's own tests count, by what
/// its ReplicaSets ask for), no ReplicaSet has more pods than it ever asked for, no node has more than it can carry.
async fn check(plane: &Plane) {
    let mut asked: BTreeMap<String, i32> = BTreeMap::new();
    for set in plane.list::<ReplicaSet>().await {
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        *asked.entry(set.labels()["app"].clone()).or_default() += replicas;
    }
    for (app, count) in &asked {
        assert!(*count <= MOST, "never more than maxSurge above: {app} asks for {count}");
    }
    let mut alive: BTreeMap<String, usize> = BTreeMap::new();
    let mut milli_cpu: BTreeMap<String, u32> = BTreeMap::new();
    for pod in plane.list::<Pod>().await {
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            *milli_cpu.entry(node).or_default() += POD_MILLI_CPU;
        }
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.name.clone());
        if let (None, Some(owner)) = (&pod.metadata.deletion_timestamp, owner) {
            *alive.entry(owner).or_default() += 1;
        }
    }
    for (owner, count) in &alive {
        assert!(*count <= REPLICAS, "no pod is made twice: {owner} has {count}");
    }
    assert!(milli_cpu.values().all(|used| *used <= NODE_MILLI_CPU), "no node is overcommitted: {milli_cpu:?}");
}

/// Every workload has its pods, all of the newest template, and nothing else.
async fn is_done(plane: &Plane, image: &str) -> Result<(), String> {
    let deployments = plane.list::<Deployment>().await;
    for deployment in &deployments {
        let status = deployment.status.clone().unwrap_or_default();
        let counts = [status.replicas, status.updated_replicas, status.ready_replicas].map(Option::unwrap_or_default);
        if status.observed_generation != deployment.metadata.generation || counts != [4, 4, 4] {
            return Err(format!("{}: {counts:?}", deployment.name_any()));
        }
    }
    let sets = plane.list::<StatefulSet>().await;
    for set in &sets {
        let status = set.status.clone().unwrap_or_default();
        if status.ready_replicas != Some(4) || status.updated_replicas != Some(4) {
            return Err(format!("{}: {status:?}", set.name_any()));
        }
    }
    let pods = plane.list::<Pod>().await;
    let old =
        pods.iter().filter(|pod| pod.spec.as_ref().is_none_or(|spec| spec.containers[0].image.as_deref() != Some(image))).count();
    if pods.len() != (DEPLOYMENTS + 1) * REPLICAS || old > 0 {
        return Err(format!("{} pods, {old} of them old", pods.len()));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn killing_the_leader_under_load_loses_and_doubles_nothing() {
    let plane = Plane::start().await;
    let _hollow = plane.hollow_nodes(NODES);
    let mut managers = Pair::start("kube-controller-manager", |election| plane.controller_manager(election));
    let mut schedulers = Pair::start("kube-scheduler", |election| plane.scheduler(election));
    tokio::time::sleep(Duration::from_secs(30)).await;
    for i in 0..DEPLOYMENTS {
        plane.create::<Deployment>(workload(&format!("web-{i}"), json!({}))).await;
    }
    plane.create::<StatefulSet>(workload("db", json!({"serviceName": "db", "podManagementPolicy": "Parallel"}))).await;
    // In the middle of it: some pods are there, not all.
    plane
        .eventually("some pods are made", async || match plane.list::<Pod>().await.len() {
            count if count >= 10 => Ok(()),
            count => Err(count),
        })
        .await;
    managers.kill_leader(&plane, "kube-controller-manager").await;
    schedulers.kill_leader(&plane, "kube-scheduler").await;
    let made = plane.list::<Pod>().await.len();
    assert!(made < (DEPLOYMENTS + 1) * REPLICAS, "the leader was killed in the middle: {made}");
    plane
        .eventually("everything runs", async || {
            check(&plane).await;
            is_done(&plane, "image:1").await
        })
        .await;
    // The next in line takes a rolling update over from the middle as well.
    let second = Pair::start("kube-controller-manager", |mut election| {
        election.as_mut().expect("is given").identity.push('2');
        plane.controller_manager(election)
    });
    let image = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "image:2"}]}}}}));
    for i in 0..DEPLOYMENTS {
        let api: Api<Deployment> = Api::namespaced(plane.admin.clone(), "default");
        api.patch(&format!("web-{i}"), &PatchParams::default(), &image).await.expect("is patched");
    }
    let api: Api<StatefulSet> = Api::namespaced(plane.admin.clone(), "default");
    api.patch("db", &PatchParams::default(), &image).await.expect("is patched");
    plane
        .eventually("the update has begun", async || match plane.list::<ReplicaSet>().await.len() {
            count if count > DEPLOYMENTS + 2 => Ok(()),
            count => Err(count),
        })
        .await;
    assert!(is_done(&plane, "image:2").await.is_err(), "the leader is killed in the middle");
    managers.kill_leader(&plane, "kube-controller-manager").await;
    plane
        .eventually("everything is updated", async || {
            check(&plane).await;
            is_done(&plane, "image:2").await
        })
        .await;
    let ordinals: BTreeSet<String> =
        plane.list::<Pod>().await.iter().map(|p| p.name_any()).filter(|n| n.starts_with("db-")).collect();
    assert_eq!(ordinals.len(), REPLICAS);
    assert_eq!(plane.list::<ReplicaSet>().await.len(), 2 * DEPLOYMENTS, "one ReplicaSet of each template");
    drop(second);
}
