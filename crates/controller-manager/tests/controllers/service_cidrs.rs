//! ServiceCIDRs become ready, and stay while Services have addresses of theirs.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{Cluster, config, from, until, until_gone};

fn ready(cidr: &ServiceCIDR) -> Option<(&str, &str)> {
    let conditions = cidr.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready").map(|ready| (&*ready.status, &*ready.reason))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_cidr_is_protected_while_it_is_used() {
    let cluster = Cluster::start(config()).await;
    let cidrs: Api<ServiceCIDR> = Api::all(cluster.client.clone());
    let addresses: Api<IPAddress> = Api::all(cluster.client.clone());
    let services: Api<Service> = cluster.api("default");
    let own = until(&cidrs, "kubernetes", "the cluster's own is ready", |cidr| {
        ready(cidr) == Some(("True", "")) && !cidr.finalizers().is_empty()
    })
    .await;
    assert_eq!(own.finalizers(), ["networking.k8s.io/service-cidr-finalizer"]);
    let kubernetes = addresses.get("10.43.0.1").await.expect("the API server's own Service has its object");
    assert_eq!(kubernetes.spec.expect("is set").parent_ref.name, "kubernetes");

    let second = json!({"metadata": {"name": "second"}, "spec": {"cidrs": ["203.0.113.0/24"]}});
    cidrs.create(&PostParams::default(), &from(second)).await.expect("is made");
    until(&cidrs, "second", "is ready", |cidr| ready(cidr).is_some() && !cidr.finalizers().is_empty()).await;
    let spec = json!({"clusterIP": "203.0.113.10", "ports": [{"port": 80}]});
    cluster.create::<Service>("default", json!({"metadata": {"name": "s"}, "spec": spec})).await;
    addresses.get("203.0.113.10").await.expect("the object is made with the Service");

    cidrs.delete("second", &DeleteParams::default()).await.expect("is accepted");
    until(&cidrs, "second", "is blocked", |cidr| ready(cidr) == Some(("False", "Terminating"))).await;
    services.delete("s", &DeleteParams::default()).await.expect("is deleted");
    until_gone(&addresses, "203.0.113.10").await;
    until_gone(&cidrs, "second").await;
}
