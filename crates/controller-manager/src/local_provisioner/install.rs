//! What a cluster needs beside the controller: the StorageClass, the default one, and the controller's rights.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::NAME;
use super::plan::PROVISIONER;

/// The StorageClass, named as k3s names it.
pub(super) const CLASS: &str = "local-path";
const ROLE: &str = "rusternetes:local-path-provisioner";

/// Creates what is not there; what is there stays as it is.
pub async fn ensure_local_storage(client: &kube::Client) -> kube::Result<()> {
    let class = json!({
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    });
    ensure::<StorageClass>(client, class).await?;
    let verbs = json!(["create", "delete", "get", "update"]);
    let rules = json!([{"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": verbs}]);
    ensure::<ClusterRole>(client, json!({"metadata": {"name": ROLE}, "rules": rules})).await?;
    let binding = json!({
        "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"kind": "ServiceAccount", "namespace": "kube-system", "name": NAME}],
    });
    ensure::<ClusterRoleBinding>(client, binding).await
}

async fn ensure<K>(client: &kube::Client, object: Value) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let object: K = serde_json::from_str(&object.to_string()).map_err(kube::Error::SerdeError)?;
    let api: Api<K> = Api::all_with(client.clone(), &());
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result.map(drop),
    }
}
