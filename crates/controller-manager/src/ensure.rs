//! Objects that a controller beyond upstream's needs in the cluster: its rights, its classes. What is there stays as it is.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::PostParams;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Creates an object if there is none of its name.
pub(crate) async fn ensure<K>(client: &kube::Client, object: Value) -> kube::Result<()>
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

/// A ClusterRole with these rules, bound to a controller's ServiceAccount.
pub(crate) async fn ensure_role(client: &kube::Client, name: &str, account: &str, rules: Value) -> kube::Result<()> {
    ensure::<ClusterRole>(client, json!({"metadata": {"name": name}, "rules": rules})).await?;
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "namespace": "kube-system", "name": account}],
    });
    ensure::<ClusterRoleBinding>(client, binding).await
}
