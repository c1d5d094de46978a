//! ServiceAccount: every pod runs as one, and gets a token of it mounted unless somebody does not want that.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Status, Value, go_quote, validation};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::ServiceAccount;
use rand::Rng;
use serde_json::json;

use super::{forbidden, unreadable};
use crate::admission::{AdmissionPlugin, Attributes, Operation};
use crate::objects::{self, Objects};

const DEFAULT: &str = "default";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What kubelets ask for; see the extension in `review::token_request`.
const EXPIRATION_SECONDS: i64 = 3607;
/// The characters of generated names (upstream's `rand.String`): none that form words or are confused.
const SUFFIX_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The controller makes the `default` account right after its namespace: wait for it as upstream does.
const DEFAULT_ATTEMPTS: u32 = 10;
const DEFAULT_INTERVAL: Duration = Duration::from_millis(150);

pub(super) struct ServiceAccountPlugin {
    objects: Arc<dyn Objects>,
}

impl ServiceAccountPlugin {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    async fn account(&self, attributes: &Attributes, name: &str) -> Result<ServiceAccount, Status> {
        let attempts = if name == DEFAULT { DEFAULT_ATTEMPTS } else { 1 };
        let namespace = attributes.namespace.as_str();
        // Upstream's client asks for no name that a path cannot have.
        let unusable = validation::name_is_path_segment(name, false);
        if !unusable.is_empty() {
            let why = format!("invalid resource name {}: [{}]", go_quote(name), unusable.join(" "));
            return Err(forbidden(attributes, format!("error looking up service account {namespace}/{name}: {why}")));
        }
        for attempt in 0..attempts {
            if attempt > 0 {
                tokio::time::sleep(DEFAULT_INTERVAL).await;
            }
            if let Some(account) = objects::get(self.objects.as_ref(), namespace, name).await.map_err(unreadable)? {
                return Ok(account);
            }
        }
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        Err(forbidden(attributes, why))
    }
}

#[async_trait]
impl AdmissionPlugin for ServiceAccountPlugin {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if !attributes.is_resource("", "pods") {
            return Ok(());
        }
        let Some(mut pod) = attributes.object.take() else { return Ok(()) };
        let result = self.admit_pod(attributes, &mut pod).await;
        attributes.object = Some(pod);
        result
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(pod) = attributes.object.as_ref().filter(|_| attributes.is_resource("", "pods")) else { return Ok(()) };
        let account = pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default();
        if pod.meta().annotation(MIRROR_ANNOTATION).is_some() {
            return validate_mirror(attributes, pod, account);
        }
        if account.is_empty() {
            let why = format!("no service account specified for pod {}/{}", attributes.namespace, pod.meta().name());
            return Err(forbidden(attributes, why));
        }
        let account = self.account(attributes, account).await?;
        let annotation = account.metadata.annotations.as_ref().and_then(|a| a.get("kubernetes.io/enforce-mountable-secrets"));
        if annotation.is_some_and(|v| v == "true") {
            return validate_mountable(attributes, pod, &account);
        }
        Ok(())
    }
}

impl ServiceAccountPlugin {
    async fn admit_pod(&self, attributes: &Attributes, pod: &mut Value) -> Result<(), Status> {
        if pod.meta().annotation(MIRROR_ANNOTATION).is_some() {
            return Ok(());
        }
        let named = pod.str_at(&["spec", "serviceAccountName"]).filter(|n| !n.is_empty());
        // `serviceAccount` is the field's old name.
        let named = named.or_else(|| pod.str_at(&["spec", "serviceAccount"]).filter(|n| !n.is_empty()));
        let name = named.unwrap_or(DEFAULT).to_owned();
        pod.set_path(&["spec", "serviceAccountName"], name.as_str());
        pod.set_path(&["spec", "serviceAccount"], name.as_str());
        let account = self.account(attributes, &name).await?;
        let own = pod.bool_at(&["spec", "automountServiceAccountToken"]);
        if own.or(account.automount_service_account_token).unwrap_or(true) {
            mount_token(pod);
        }
        if pod.array_at(&["spec", "imagePullSecrets"]).is_empty() {
            let secrets: Vec<Value> = account
                .image_pull_secrets
                .iter()
                .flatten()
                .map(|secret| {
                    let mut reference = Value::object();
                    reference.insert("name", secret.name.as_str());
                    reference
                })
                .collect();
            if !secrets.is_empty() {
                pod.set_path(&["spec", "imagePullSecrets"], secrets);
            }
        }
        Ok(())
    }
}

/// Mounts the token into every container that has nothing at its path.
fn mount_token(pod: &mut Value) {
    let volumes = pod.array_at(&["spec", "volumes"]);
    let existing = volumes.iter().filter_map(|v| v["name"].as_str()).find(|n| n.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let has_volume = existing.is_some();
    let name = existing.unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix()));
    let mut mount = Value::object();
    mount.insert("name", name.as_str());
    mount.insert("readOnly", true);
    mount.insert("mountPath", MOUNT_PATH);
    let mut needed = false;
    for kind in ["initContainers", "containers"] {
        let Some(Value::Array(_)) = pod.get_path(&["spec", kind]) else { continue };
        for container in pod.path_mut(&["spec", kind]).array_mut() {
            if container.array_at(&["volumeMounts"]).iter().any(|m| m["mountPath"] == MOUNT_PATH) {
                continue;
            }
            container.path_mut(&["volumeMounts"]).array_mut().push(mount.clone());
            needed = true;
        }
    }
    if needed && !has_volume {
        pod.path_mut(&["spec", "volumes"]).array_mut().push(token_volume(&name));
    }
}

fn suffix() -> String {
    let mut random = rand::rng();
    (0..5).map(|_| char::from(SUFFIX_CHARACTERS[random.random_range(0..SUFFIX_CHARACTERS.len())])).collect()
}

/// Token, CA and namespace in one projected volume, as upstream makes it.
fn token_volume(name: &str) -> Value {
    let volume = json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": EXPIRATION_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {
                    "items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}],
                }},
            ],
        },
    });
    Value::from_typed(&volume).expect("a constant tree")
}

fn validate_mirror(attributes: &Attributes, pod: &Value, account: &str) -> Result<(), Status> {
    if !account.is_empty() {
        return Err(forbidden(attributes, "a mirror pod may not reference service accounts"));
    }
    let volumes = pod.array_at(&["spec", "volumes"]);
    if volumes.iter().any(|v| v.get("secret").is_some()) {
        return Err(forbidden(attributes, "a mirror pod may not reference secrets"));
    }
    let sources = volumes.iter().flat_map(|v| v.array_at(&["projected", "sources"]));
    if sources.clone().any(|s| s.get("serviceAccountToken").is_some()) {
        return Err(forbidden(attributes, "a mirror pod may not use ServiceAccountToken volume projections"));
    }
    if sources.clone().any(|s| s.get("secret").is_some()) {
        return Err(forbidden(attributes, "a mirror pod may not reference secrets"));
    }
    Ok(())
}

/// For accounts with the annotation: only secrets that the account lists may be used.
fn validate_mountable(attributes: &Attributes, pod: &Value, account: &ServiceAccount) -> Result<(), Status> {
    let owner = account.metadata.name.as_deref().unwrap_or_default();
    let allowed = |name: &str| account.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(name));
    for volume in pod.array_at(&["spec", "volumes"]) {
        if let Some(name) = volume.str_at(&["secret", "secretName"]).filter(|n| !allowed(n)) {
            let why = format!(
                "volume with secret.secretName={name:?} is not allowed because service account {owner} does not reference that secret"
            );
            return Err(forbidden(attributes, why));
        }
    }
    for (kind, text) in [("initContainers", "init container"), ("containers", "container")] {
        for container in pod.array_at(&["spec", kind]) {
            let of_env = container.array_at(&["env"]).iter().filter_map(|e| e.str_at(&["valueFrom", "secretKeyRef", "name"]));
            let of_all = container.array_at(&["envFrom"]).iter().filter_map(|e| e.str_at(&["secretRef", "name"]));
            if let Some(name) = of_env.chain(of_all).find(|n| !allowed(n)) {
                let container = container["name"].as_str().unwrap_or_default();
                let why = format!(
                    "{text} {container} referencing secret.secretName={name:?} is not allowed because service account {owner} does not reference that secret"
                );
                return Err(forbidden(attributes, why));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{create, object};
    use crate::objects::memory::MemoryObjects;

    fn plugin() -> ServiceAccountPlugin {
        let objects = MemoryObjects::default();
        objects.put(
            "serviceaccounts",
            json!({"metadata": {"namespace": "ns", "name": "default"}, "imagePullSecrets": [{"name": "pull"}]}),
        );
        objects.put(
            "serviceaccounts",
            json!({"metadata": {"namespace": "ns", "name": "quiet"}, "automountServiceAccountToken": false}),
        );
        ServiceAccountPlugin::new(Arc::new(objects))
    }

    #[tokio::test]
    async fn token_is_mounted() {
        let plugin = plugin();
        let mounted = json!([{"name": "mine", "mountPath": MOUNT_PATH}]);
        let spec =
            json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": mounted}], "initContainers": [{"name": "i"}]});
        let mut attributes = create("", "pods", "Pod", &json!({"metadata": {"name": "p"}, "spec": spec}));
        plugin.admit(&mut attributes).await.expect("admitted");
        plugin.validate(&attributes).await.expect("valid");
        let pod = object(&attributes);
        let spec = &pod["spec"];
        assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
        let volume = spec["volumes"][0]["name"].as_str().expect("a volume");
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + 5, "{volume}");
        let mount = json!([{"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}]);
        assert_eq!(spec["containers"][0]["volumeMounts"], mount);
        assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
        assert_eq!(spec["containers"][1]["volumeMounts"], mounted, "its own mount stays");
        assert_eq!(spec["volumes"][0]["projected"]["defaultMode"], 420);
        assert_eq!(spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        let before = object(&attributes);
        plugin.admit(&mut attributes).await.expect("admitted again");
        assert_eq!(object(&attributes), before, "a second pass changes nothing");
    }

    #[tokio::test]
    async fn accounts_decide() {
        let plugin = plugin();
        let pod =
            |name: &str| json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": name, "containers": [{"name": "a"}]}});
        let mut quiet = create("", "pods", "Pod", &pod("quiet"));
        plugin.admit(&mut quiet).await.expect("admitted");
        assert_eq!(object(&quiet)["spec"].get("volumes"), None);
        let mut missing = create("", "pods", "Pod", &pod("nobody"));
        let refused = plugin.admit(&mut missing).await.expect_err("no such account");
        assert_eq!(
            refused.message,
            r#"pods "p" is forbidden: error looking up service account ns/nobody: serviceaccount "nobody" not found"#
        );
    }
}
