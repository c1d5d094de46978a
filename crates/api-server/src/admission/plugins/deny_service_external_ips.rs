//! DenyServiceExternalIPs: no Service gets an external IP that it does not have yet (CVE-2020-8554).

use std::collections::HashSet;

use apimachinery::{Status, Value};
use async_trait::async_trait;

use super::forbidden;
use crate::admission::{AdmissionPlugin, Attributes, Operation};

pub(super) struct DenyServiceExternalIps;

#[async_trait]
impl AdmissionPlugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(service) = attributes.object.as_ref().filter(|_| attributes.is_resource("", "services")) else { return Ok(()) };
        let path = ["spec", "externalIPs"];
        let old = attributes.old_object.as_ref().map(|old| old.array_at(&path)).unwrap_or_default();
        let old: HashSet<&str> = old.iter().filter_map(Value::as_str).collect();
        if service.array_at(&path).iter().all(|ip| ip.as_str().is_some_and(|ip| old.contains(ip))) {
            return Ok(());
        }
        Err(forbidden(attributes, "Use of external IPs is denied by admission control"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::plugins::testing::create;

    #[tokio::test]
    async fn external_ips() {
        let service = |ips: serde_json::Value| {
            create("", "services", "Service", &json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}}))
        };
        for (old, new, free) in [
            (None, json!([]), true),
            (None, json!(["1.1.1.1"]), false),
            (Some(json!(["1.1.1.1", "2.2.2.2"])), json!(["2.2.2.2"]), true),
            (Some(json!(["1.1.1.1"])), json!(["1.1.1.1", "2.2.2.2"]), false),
        ] {
            let mut attributes = service(new);
            attributes.old_object = old.and_then(|old| service(old).object);
            match DenyServiceExternalIps.validate(&attributes).await {
                Ok(()) => assert!(free),
                Err(status) => {
                    assert!(!free);
                    assert_eq!(
                        status.message,
                        r#"services "s" is forbidden: Use of external IPs is denied by admission control"#
                    );
                }
            }
        }
    }
}
