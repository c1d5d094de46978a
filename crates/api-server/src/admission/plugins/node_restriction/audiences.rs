//! For which audiences a kubelet may have tokens: those that a pod on its node asks for by its volumes, and those that somebody allows it
//! (KEP-4412).

use apimachinery::{GroupResource, Reason, Status, Value, go_quote};

use super::NodeRestriction;
use crate::admission::Attributes;
use crate::admission::plugins::{forbidden, unreadable};
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
                Err(status) => errors.push(status.message),
            }
        }
        let why = match errors.as_slice() {
            [] => return Ok(false),
            [only] => only.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        Err(forbidden(attributes, format!("error validating audience {}: {why}", go_quote(audience))))
    }

    async fn driver_names_audience(&self, pod: &Value, volume: &Value, audience: &str) -> Result<bool, Status> {
        let driver = match volume["csi"]["driver"].as_str() {
            Some(driver) => driver.to_owned(),
            None => match claim_of(pod, volume) {
                Some(claim) => self.driver_of_claim(pod.meta().namespace(), &claim).await?,
                None => return Ok(false),
            },
        };
        if driver.is_empty() {
            return Ok(false);
        }
        let driver = self.listed("storage.k8s.io", "csidrivers", "", &driver).await?;
        let requests = driver.array_at(&["spec", "tokenRequests"]);
        Ok(requests.iter().any(|request| request["audience"].as_str().unwrap_or_default() == audience))
    }

    /// The CSI driver behind a claim; empty where its volume has another kind. (Upstream also asks the drivers that took over in-tree volumes.
    /// Here a pod with such a volume gets no tokens for its driver by this.)
    async fn driver_of_claim(&self, namespace: &str, name: &str) -> Result<String, Status> {
        let claim = self.listed("", "persistentvolumeclaims", namespace, name).await?;
        let volume = claim.str_at(&["spec", "volumeName"]).unwrap_or_default();
        let volume = self.listed("", "persistentvolumes", "", volume).await?;
        Ok(volume.str_at(&["spec", "csi", "driver"]).unwrap_or_default().to_owned())
    }

    /// An object that upstream has from its informers, which name resources in the singular.
    async fn listed(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        let singular = GroupResource::new(group, resource.trim_end_matches('s'));
        let found = self.found(group, resource, namespace, name).await;
        found.map_err(|status| if status.reason == Reason::NotFound { Status::not_found(&singular, name) } else { status })
    }

    pub(super) async fn found(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        match self.objects.get_json(group, resource, namespace, name).await.map_err(unreadable)? {
            Some(json) => Value::from_slice(&json).map_err(Status::internal_error),
            None => Err(Status::not_found(&GroupResource::new(group, resource), name)),
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
