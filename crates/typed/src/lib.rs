//! Built-in types from their JSON, where speed does not matter.
//!
//! Owns: [`FromJson`]. The code that reads one type with all that is in it is up to 100 KB, and more in a crate that is optimised for speed. The
//! API server reads a few of them in its authenticators, authorizers and admission plugins: it does so through this crate, whose
//! code the components share.
//!
//! Deliberately absent: everything that a request's own object passes; that is never a typed struct (`apimachinery`).

use k8s_openapi::Resource;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::IngressClass;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use serde::Deserialize;

/// A type that is read here.
pub trait FromJson: Resource + Sized {
    /// One object.
    fn from_json(json: &str) -> serde_json::Result<Self>;

    /// The `items` of a list.
    fn items_from_json(json: &str) -> serde_json::Result<Vec<Self>>;
}

#[derive(Deserialize)]
struct Items<K> {
    items: Vec<K>,
}

/// Not generic, so that the code is made here.
macro_rules! read {
    ($($kind:ty),+ $(,)?) => {
        $(impl FromJson for $kind {
            #[inline(never)]
            fn from_json(json: &str) -> serde_json::Result<Self> {
                serde_json::from_str(json)
            }

            #[inline(never)]
            fn items_from_json(json: &str) -> serde_json::Result<Vec<Self>> {
                serde_json::from_str::<Items<Self>>(json).map(|list| list.items)
            }
        })+
    };
}

read!(
    core::Endpoints,
    core::LimitRange,
    core::Node,
    core::PersistentVolume,
    core::PersistentVolumeClaim,
    core::Pod,
    core::Secret,
    core::ServiceAccount,
    ClusterRole,
    IngressClass,
    PriorityClass,
    Role,
    RuntimeClass,
    StorageClass,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_many() {
        let pod = core::Pod::from_json(r#"{"metadata": {"name": "p"}, "spec": {"containers": []}}"#).expect("is a pod");
        assert_eq!(pod.metadata.name.as_deref(), Some("p"));
        assert!(core::Pod::from_json(r#"{"metadata": {}, "spec": {"containers": 1}}"#).is_err());
        let nodes = core::Node::items_from_json(r#"{"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}"#);
        assert_eq!(nodes.expect("is a list").len(), 2);
        assert!(core::Node::items_from_json("{}").is_err());
    }
}
