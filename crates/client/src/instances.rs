//! Where code that every component needs is compiled: here, once.
//!
//! The compiler makes generic code for a type in the crate that asks for it, unless a crate below has made it already and neither is
//! optimised for speed (`share-generics`, on at the optimisation levels `0`, `s` and `z`). Reading and writing the built-in types is
//! the larger part of a component's code, so that the types which more than one of them uses are asked for below all of them.

use std::any::Any;
use std::fmt::Debug;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use kube::Resource;
use kube::core::ObjectList;
use serde::Serialize;
use serde::de::DeserializeOwned;
// Has some of the code already.
use typed as _;

use crate::Informers;

/// Asks for a type's code by using it; nobody calls this.
fn kind<K>(client: &kube::Client, text: &str) -> [BoxFuture<'static, Box<dyn Any>>; 2]
where
    K: Clone + Debug + DeserializeOwned + Send + Serialize + Sync + 'static,
{
    let one = serde_json::from_str::<K>(text).and_then(|object| serde_json::to_vec(&object)).unwrap_or_default();
    let (one, all) = (http::Request::new(one), http::Request::new(Vec::new()));
    let (first, second) = (client.clone(), client.clone());
    let get = async move { Box::new(first.request::<K>(one).await) as Box<dyn Any> };
    let list = async move { Box::new(second.request::<ObjectList<K>>(all).await) as Box<dyn Any> };
    [get.boxed(), list.boxed()]
}

fn watched<K>(informers: &Informers, text: &str) -> [BoxFuture<'static, Box<dyn Any>>; 2]
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Serialize + Sync + 'static,
{
    drop(informers.get::<K>());
    kind::<K>(informers.client(), text)
}

/// Code of the types that several components use. To be compiled, not to be called.
#[doc(hidden)]
pub fn shared(informers: &Informers, text: &str) -> Vec<[BoxFuture<'static, Box<dyn Any>>; 2]> {
    let client = informers.client();
    vec![
        kind::<Event>(client, text),
        kind::<SubjectAccessReview>(client, text),
        kind::<TokenRequest>(client, text),
        kind::<TokenReview>(client, text),
        watched::<ConfigMap>(informers, text),
        watched::<ControllerRevision>(informers, text),
        watched::<CSIDriver>(informers, text),
        watched::<CSINode>(informers, text),
        watched::<CSIStorageCapacity>(informers, text),
        watched::<DaemonSet>(informers, text),
        watched::<Deployment>(informers, text),
        watched::<DeviceClass>(informers, text),
        watched::<Endpoints>(informers, text),
        watched::<EndpointSlice>(informers, text),
        watched::<Job>(informers, text),
        watched::<Lease>(informers, text),
        watched::<Namespace>(informers, text),
        watched::<Node>(informers, text),
        watched::<PersistentVolume>(informers, text),
        watched::<PersistentVolumeClaim>(informers, text),
        watched::<Pod>(informers, text),
        watched::<PodDisruptionBudget>(informers, text),
        watched::<PriorityClass>(informers, text),
        watched::<ReplicaSet>(informers, text),
        watched::<ReplicationController>(informers, text),
        watched::<ResourceClaim>(informers, text),
        watched::<ResourceSlice>(informers, text),
        watched::<Secret>(informers, text),
        watched::<Service>(informers, text),
        watched::<ServiceAccount>(informers, text),
        watched::<StatefulSet>(informers, text),
        watched::<StorageClass>(informers, text),
        watched::<VolumeAttachment>(informers, text),
    ]
}
