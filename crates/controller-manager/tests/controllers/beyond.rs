//! What goes beyond upstream's controllers: rolls on configuration, load balancers on the nodes and out of a pool; and volumes of CSI drivers, with a stand-in
//! for the driver's attacher.

use controller_manager::{CONFIG_ROLL, Config, ServiceLoadBalancers, ensure_config_roll_rights};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, config, eventually, from, until, until_gone};

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_rolled_when_their_configuration_changes() {
    let with = Config { controllers: vec!["*".into(), CONFIG_ROLL.into()], ..config() };
    let mut cluster = Cluster::start(with).await;
    ensure_config_roll_rights(&cluster.client).await.expect("rights are made");
    cluster.run_pods().await;
    cluster.create::<ConfigMap>("default", json!({"metadata": {"name": "settings"}, "data": {"k": "1"}})).await;
    let deployment = |name: &str, wish: &str| {
        let env = json!([{"configMapRef": {"name": "settings"}}]);
        json!({"metadata": {"name": name, "annotations": {"rusternetes.io/roll-on-config-change": wish}}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "image:1", "envFrom": env}]}}}})
    };
    cluster.create::<Deployment>("default", deployment("rolls", "true")).await;
    cluster.create::<Deployment>("default", deployment("stays", "false")).await;
    let deployments: Api<Deployment> = cluster.api("default");
    let digest = |deployment: &Deployment| deployment.metadata.annotations.as_ref()?.get("rusternetes.io/config-digest").cloned();
    let noted = until(&deployments, "rolls", "what it was made with is noted, and its pod is there", |d| {
        digest(d).is_some() && d.status.as_ref().and_then(|status| status.updated_replicas) == Some(1)
    })
    .await;
    let sets: Api<ReplicaSet> = cluster.api("default");
    let of = |name: &str| ListParams::default().labels(&format!("app={name}"));
    assert_eq!(sets.list(&of("rolls")).await.expect("is listed").items.len(), 1, "to opt in rolls nothing");
    let maps: Api<ConfigMap> = cluster.api("default");
    let change = Patch::Merge(json!({"data": {"k": "2"}}));
    maps.patch("settings", &PatchParams::default(), &change).await.expect("is changed");
    until(&deployments, "rolls", "its pods are new", |d| {
        let status = d.status.clone().unwrap_or_default();
        digest(d) != digest(&noted) && status.observed_generation == d.metadata.generation && status.updated_replicas == Some(1)
    })
    .await;
    assert_eq!(sets.list(&of("rolls")).await.expect("is listed").items.len(), 2);
    until(&deployments, "stays", "its pod is there", |d| d.status.as_ref().and_then(|status| status.updated_replicas) == Some(1))
        .await;
    assert_eq!(sets.list(&of("stays")).await.expect("is listed").items.len(), 1);
}

async fn ready_node(cluster: &Cluster, name: &str, annotations: Value) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json!({"metadata": {"name": name, "annotations": annotations}});
    nodes.create(&PostParams::default(), &from(node)).await.expect("is created");
    let now = jiff::Timestamp::now().to_string();
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}],
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.expect("is ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_balancers_are_the_nodes_own_ports() {
    let cluster = Cluster::start(Config { service_load_balancers: ServiceLoadBalancers::NodePorts, ..config() }).await;
    ready_node(&cluster, "n1", json!({})).await;
    let service = |name: &str, port: i32| json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": port}]}});
    let services: Api<Service> = cluster.api("default");
    cluster.create::<Service>("default", service("first", 80)).await;
    let address = |service: &Service| {
        let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
        ingress.first()?.ip.clone()
    };
    let reached = |service: &Service| address(service).as_deref() == Some("192.0.2.7");
    until(&services, "first", "it is reached on the node", reached).await;
    // The port is taken: the second waits until the first goes.
    cluster.create::<Service>("default", service("second", 80)).await;
    // So is the port by which administrators come to the node.
    cluster.create::<Service>("default", service("ssh", 22)).await;
    let events: Api<Event> = cluster.api("default");
    for why in ["TCP/80 is taken by service default/first", "TCP/22 is reserved for the node's SSH server"] {
        eventually("it is told why it waits", || async {
            let events = events.list(&ListParams::default()).await.expect("is listed").items;
            let wanted = format!("Error syncing load balancer: failed to ensure load balancer: port {why}");
            events.iter().any(|event| event.message.as_deref() == Some(wanted.as_str())).then_some(())
        })
        .await;
    }
    services.delete("first", &DeleteParams::default()).await.expect("is deleted");
    until(&services, "second", "it has the port now", reached).await;
    let plain = Patch::Merge(json!({"spec": {"type": "ClusterIP"}}));
    services.patch("second", &PatchParams::default(), &plain).await.expect("is changed");
    until(&services, "second", "it is no load balancer any more", |service| address(service).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_balancers_have_addresses_of_a_pool() {
    let address = |last: u8| std::net::IpAddr::from([192, 0, 2, last]);
    let pool = ServiceLoadBalancers::Pool(vec![address(16)..=address(17)]);
    let cluster = Cluster::start(Config { service_load_balancers: pool, ..config() }).await;
    ready_node(&cluster, "n1", json!({})).await;
    let services: Api<Service> = cluster.api("default");
    // All may have the same port, the one of SSH too.
    for name in ["first", "second", "third"] {
        let service = json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 22}]}});
        cluster.create::<Service>("default", service).await;
    }
    let of = |service: &Service| -> Option<String> {
        let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
        ingress.first()?.ip.clone()
    };
    let addresses = || async {
        let all = services.list(&ListParams::default()).await.expect("is listed").items;
        let mut found: Vec<(String, String)> =
            all.iter().filter_map(|service| Some((of(service)?, service.metadata.name.clone()?))).collect();
        found.sort();
        found
    };
    let two = eventually("two have addresses", || async { Some(addresses().await).filter(|found| found.len() == 2) }).await;
    assert_eq!([two[0].0.as_str(), two[1].0.as_str()], ["192.0.2.16", "192.0.2.17"]);
    let events: Api<Event> = cluster.api("default");
    eventually("the third is told why it waits", || async {
        let events = events.list(&ListParams::default()).await.expect("is listed").items;
        let wanted = "Error syncing load balancer: failed to ensure load balancer: the pool has no free IPv4 address";
        events.iter().any(|event| event.message.as_deref() == Some(wanted)).then_some(())
    })
    .await;
    services.delete(&two[0].1, &DeleteParams::default()).await.expect("is deleted");
    let now =
        eventually("the third has what is free", || async { Some(addresses().await).filter(|found| found.len() == 2) }).await;
    assert!(now[0].0 == "192.0.2.16" && now[0].1 != two[0].1 && now[1] == two[1], "{two:?}, then {now:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_attached_and_detached() {
    let cluster = Cluster::start(config()).await;
    ready_node(&cluster, "n1", json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"})).await;
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
        "storageClassName": "", "persistentVolumeReclaimPolicy": "Retain", "csi": {"driver": "d", "volumeHandle": "h"}}});
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    volumes.create(&PostParams::default(), &from(volume)).await.expect("is created");
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.create::<PersistentVolumeClaim>("default", claim).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}], "containers": [{"name": "c", "image": "image:1"}]}});
    cluster.create::<Pod>("default", pod).await;
    let attachments: Api<VolumeAttachment> = Api::all(cluster.client.clone());
    let name = eventually("an attachment is asked for", || async {
        attachments.list(&ListParams::default()).await.expect("is listed").items.pop()?.metadata.name
    })
    .await;
    // printf hdn1 | sha256sum
    assert_eq!(name, "csi-8e3bb36fda804646cae96ea9b03b4b77d9b692e45ea0ddda23cccc30a6b1c3fe");
    let attached = Patch::Merge(json!({"status": {"attached": true}}));
    attachments.patch_status(&name, &PatchParams::default(), &attached).await.expect("is attached");
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let told = |node: &Node| {
        let entries = node.status.as_ref().and_then(|status| status.volumes_attached.clone()).unwrap_or_default();
        entries.iter().any(|entry| entry.name == "kubernetes.io/csi/d^h")
    };
    until(&nodes, "n1", "the node is told", told).await;
    let in_use = Patch::Merge(json!({"status": {"volumesInUse": ["kubernetes.io/csi/d^h"]}}));
    nodes.patch_status("n1", &PatchParams::default(), &in_use).await.expect("it mounts");
    let pods: Api<Pod> = cluster.api("default");
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.expect("is deleted");
    until_gone(&pods, "p").await;
    assert!(attachments.get_opt(&name).await.expect("is read").is_some(), "it is still mounted");
    let free = Patch::Merge(json!({"status": {"volumesInUse": null}}));
    nodes.patch_status("n1", &PatchParams::default(), &free).await.expect("it unmounts");
    until_gone(&attachments, &name).await;
    until(&nodes, "n1", "the node is told that, too", |node| !told(node)).await;
}
