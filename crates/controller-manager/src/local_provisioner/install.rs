//! What a cluster needs beside the controller: the StorageClass, the default one, and the controller's rights.

use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use super::NAME;
use super::plan::PROVISIONER;
use crate::ensure::{ensure, ensure_role};

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
    ensure_role(client, ROLE, NAME, rules).await
}
