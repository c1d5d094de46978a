//! For which audiences a kubelet may have tokens: those that a pod on its node asks for by its volumes, and those that somebody allows it
//! (KEP-4412).

use apimachinery::{Status, Value, go_quote};

use super::{NodeRestriction, migrated};
use crate::admission::Attributes;
use crate::admission::plugins::forbidden;
use crate::auth::{Attributes as Question, Decision};

/// The permission of a node to ask for an audience that no volume names. The resource is the audience, the name the account's.
const VERB: &str = "request-serviceaccounts-token-audience";

impl NodeRestriction {
    /// Refuses audiences that are not the node's to ask for.
    pub(super) async fn check_audience(&self, attributes: &Attributes, pod: &Value) -> Result<(), Status> {
        let request = attributes.object.as_ref();
        let audiences = request.map(|request| request.array_at(&["spec", "audiences"])).unwrap_or_default();
        let audience = match audiences {
            [] => "",
            [only] => only.as_str().unwrap_or_default(),
            _ => return Err(forbidden(attributes, "node may only request 0 or 1 audiences")),
        };
        if self.names_audience(attributes, pod, audience).await? {
            return Ok(());
        }
        let not_found = format!("audience {} not found in pod spec volume", go_quote(audience));
        let question = Question { version: "v1", ..Question::resource(&attributes.user, VERB, "", audience) };
        let user = &attributes.user.name;
        // A server that stops allows nothing.
        let Ok(server) = self.loopback.server() else { return Err(Status::service_unavailable("the server is shutting down")) };
        match server.access().authorizers.authorize(&question.named(&attributes.namespace, &attributes.name)).await {
            Ok(Decision::Allow(_)) => Ok(()),
            Ok(_) => {
                Err(forbidden(attributes, format!("{not_found}, {user} is not authorized to request tokens for this audience")))
            }
            Err(error) => {
                let why = format!("{not_found}, error authorizing {user} to request tokens for this audience: {error}");
                Err(forbidden(attributes, why))
            }
        }
    }

    /// Whether a volume of the pod needs tokens for an audience: its own, or those of its CSI driver.
    async fn names_audience(&self, attributes: &Attributes, pod: &Value, audience: &str) -> Result<bool, Status> {
        let mut errors: Vec<String> = Vec::new();
        for volume in pod.array_at(&["spec", "volumes"]) {
            let sources = volume.array_at(&["projected", "sources"]);
            let own = |source: &Value| {
                let token = &source["serviceAccountToken"];
                !token.is_null() && token["audience"].as_str().unwrap_or_default() == audience
            };
            if sources.iter().any(own) {
                return Ok(true);
            }
            match self.driver_names_audience(pod, volume, audience).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(why) if errors.contains(&why) => {}
                Err(why) => errors.push(why),
            }
        }
        let why = match errors.as_slice() {
            [] => return Ok(false),
            [only] => only.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        Err(forbidden(attributes, format!("error validating audience {}: {why}", go_quote(audience))))
    }

    async fn driver_names_audience(&self, pod: &Value, volume: &Value, audience: &str) -> Result<bool, String> {
        let driver = match (claim_of(pod, volume), volume["csi"]["driver"].as_str()) {
            (Some(claim), _) => self.driver_of_claim(pod.meta().namespace(), &claim).await?,
            (None, Some(driver)) => driver.to_owned(),
            (None, None) => migrated::driver_of_inline(volume)?.unwrap_or_default().to_owned(),
        };
        if driver.is_empty() {
            return Ok(false);
        }
        let driver = self.listed("storage.k8s.io", "csidrivers", "", &driver).await.map_err(|status| status.message)?;
        let requests = driver.array_at(&["spec", "tokenRequests"]);
        Ok(requests.iter().any(|request| request["audience"].as_str().unwrap_or_default() == audience))
    }

    /// The CSI driver behind a claim; empty where its volume has another kind.
    async fn driver_of_claim(&self, namespace: &str, name: &str) -> Result<String, String> {
        let message = |status: Status| status.message;
        let claim = self.listed("", "persistentvolumeclaims", namespace, name).await.map_err(message)?;
        let volume = claim.str_at(&["spec", "volumeName"]).unwrap_or_default();
        let volume = self.listed("", "persistentvolumes", "", volume).await.map_err(message)?;
        match volume.str_at(&["spec", "csi", "driver"]) {
            Some(driver) => Ok(driver.to_owned()),
            None => Ok(migrated::driver_of_volume(&volume)?.unwrap_or_default().to_owned()),
        }
    }
}

/// The claim of a volume, by name or made for the pod.
fn claim_of(pod: &Value, volume: &Value) -> Option<String> {
    if !volume["ephemeral"]["volumeClaimTemplate"].is_null() {
        return Some(format!("{}-{}", pod.meta().name(), volume["name"].as_str().unwrap_or_default()));
    }
    volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value as Json, json};

    use super::super::{FeatureGates, Loopback};
    use super::*;
    use crate::admission::AdmissionPlugin;
    use crate::admission::plugins::testing::{create, server};
    use crate::auth::UserInfo;
    use crate::gates::Feature;
    use crate::objects::memory::MemoryObjects;

    /// Objects with a pod `p` of node `n1` that has these volumes.
    fn objects(volumes: &Json) -> Arc<MemoryObjects> {
        let objects = MemoryObjects::default();
        let pod =
            json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": {"nodeName": "n1", "volumes": volumes}});
        objects.put("pods", pod);
        for (driver, audience) in [("inline", "of-inline"), ("bound", "of-bound"), ("file.csi.azure.com", "of-file")] {
            let spec = json!({"tokenRequests": [{"audience": "another"}, {"audience": audience}]});
            objects.put("csidrivers", json!({"metadata": {"name": driver}, "spec": spec}));
        }
        for (name, spec) in [
            ("bound", json!({"csi": {"driver": "bound"}})),
            ("filed", json!({"azureFile": {"secretNamespace": "ns"}})),
            ("local", json!({"local": {}})),
        ] {
            objects.put("persistentvolumes", json!({"metadata": {"name": name}, "spec": spec}));
            let claim = json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"volumeName": name}});
            objects.put("persistentvolumeclaims", claim);
        }
        let made = json!({"metadata": {"namespace": "ns", "name": "p-made"}, "spec": {"volumeName": "bound"}});
        objects.put("persistentvolumeclaims", made);
        objects.put("persistentvolumeclaims", json!({"metadata": {"namespace": "ns", "name": "waits"}, "spec": {}}));
        Arc::new(objects)
    }

    /// What is answered to the node when it asks for a token of an account.
    async fn refusal(gates: FeatureGates, volumes: &Json, audience: &str, account: &str) -> String {
        let rule = json!({"verbs": [VERB], "apiGroups": [""], "resources": ["allowed"], "resourceNames": ["robot"]});
        let server = server(&[("system:node:n1", rule)]);
        let plugin = NodeRestriction::new(objects(volumes), Loopback::new(Arc::downgrade(&server)), gates);
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
        let request = json!({"spec": {"boundObjectRef": bound, "audiences": [audience]}});
        let mut attributes = create("", "serviceaccounts", "TokenRequest", &request);
        attributes.user = Arc::new(UserInfo::node("n1"));
        (attributes.name, attributes.subresource) = (account.to_owned(), "token".to_owned());
        plugin.admit(&mut attributes).await.err().map(|status| status.message).unwrap_or_default()
    }

    fn claim(name: &str) -> Json {
        json!({"name": "v", "persistentVolumeClaim": {"claimName": name}})
    }

    #[tokio::test]
    async fn what_volumes_ask_for() {
        let projected =
            json!({"name": "v", "projected": {"sources": [{"downwardAPI": {}}, {"serviceAccountToken": {"audience": "own"}}]}});
        let ephemeral = json!({"name": "made", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
        for (volume, audience) in [
            (projected, "own"),
            (json!({"name": "v", "csi": {"driver": "inline"}}), "of-inline"),
            (claim("bound"), "of-bound"),
            (ephemeral, "of-bound"),
            (json!({"name": "v", "azureFile": {"secretName": "a", "shareName": "b"}}), "of-file"),
            (claim("filed"), "of-file"),
        ] {
            let volumes = json!([{"name": "first", "emptyDir": {}}, volume]);
            assert_eq!(refusal(FeatureGates::DEFAULT, &volumes, audience, "robot").await, "", "{volumes}");
            let refused = refusal(FeatureGates::DEFAULT, &volumes, "foreign", "robot").await;
            let why = "audience \"foreign\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this \
                       audience";
            assert!(refused.ends_with(why), "{volumes}: {refused}");
        }
    }

    #[tokio::test]
    async fn what_somebody_allows() {
        let volumes = json!([claim("local")]);
        for (audience, account, allowed) in
            [("allowed", "robot", true), ("allowed", "other", false), ("own", "robot", false), ("", "robot", false)]
        {
            let refused = refusal(FeatureGates::DEFAULT, &volumes, audience, account).await;
            assert_eq!(refused.is_empty(), allowed, "{audience} {account}: {refused}");
        }
        let free = FeatureGates::DEFAULT.with(Feature::ServiceAccountNodeAudienceRestriction, false);
        assert_eq!(refusal(free, &volumes, "own", "other").await, "");
    }

    #[tokio::test]
    async fn what_cannot_be_looked_up() {
        let gone = json!({"name": "v", "csi": {"driver": "gone"}});
        let (driver, shared) = ("csidriver.storage.k8s.io \"gone\" not found", "kind(Shared) is not supported in csi migration");
        for (volumes, why) in [
            (json!([gone]), driver.to_owned()),
            (json!([gone, gone]), driver.to_owned()),
            (json!([claim("gone")]), "persistentvolumeclaim \"gone\" not found".to_owned()),
            (json!([claim("waits")]), "persistentvolume \"\" not found".to_owned()),
            (json!([{"name": "v", "azureDisk": {"kind": "Shared"}}, gone]), format!("[{shared}, {driver}]")),
        ] {
            // Nobody is asked then.
            let refused = refusal(FeatureGates::DEFAULT, &volumes, "allowed", "robot").await;
            assert!(refused.ends_with(&format!("error validating audience \"allowed\": {why}")), "{volumes}: {refused}");
        }
        let volumes = json!([gone, {"name": "v", "csi": {"driver": "inline"}}]);
        assert_eq!(refusal(FeatureGates::DEFAULT, &volumes, "of-inline", "robot").await, "", "the one that is there will do");
    }
}
