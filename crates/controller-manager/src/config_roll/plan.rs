//! Whether a workload's pods are to be rolled. Pure.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::references::{Reference, References};

/// A user's wish, on a Deployment, StatefulSet or DaemonSet.
pub(super) const WISH: &str = "rusternetes.io/roll-on-config-change";
/// What the pods were made with: on the workload when it is first seen, and on the template once something changed.
pub(super) const DIGEST: &str = "rusternetes.io/config-digest";

/// The data of what is referred to.
pub(super) trait Configuration {
    fn config_map(&self, name: &str) -> Option<std::sync::Arc<ConfigMap>>;
    fn secret(&self, name: &str) -> Option<std::sync::Arc<Secret>>;
}

/// A digest of all data that is referred to; `None` while something that must be there is not.
pub(super) fn digest(references: &References, configuration: &impl Configuration) -> Option<String> {
    let mut hash = Sha256::new();
    for reference in references.all() {
        // Names and data alone: labels and annotations are not seen by pods.
        let data = match reference {
            Reference::ConfigMap(name) => {
                let found = configuration.config_map(name);
                json!(["ConfigMap", name, found.map(|map| json!([map.data, map.binary_data]))])
            }
            Reference::Secret(name) => json!(["Secret", name, configuration.secret(name).map(|secret| json!(secret.data))]),
        };
        if data[2].is_null() && references.needed.contains(reference) {
            return None;
        }
        hash.update(data.to_string().as_bytes());
        hash.update([0]);
    }
    // Half of it is more than enough to tell configurations apart.
    Some(hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The patch for a workload that does not wish to be rolled any more: a wish that comes back must find no note of what was long ago.
pub(super) fn forget() -> Value {
    json!({"metadata": {"annotations": {DIGEST: null}}})
}

/// The patch for a workload whose configuration is now `digest`; `None` if it knows.
pub(super) fn plan(known: Option<&str>, digest: &str) -> Option<Value> {
    match known {
        Some(known) if known == digest => None,
        // Seen for the first time: its pods have what is there now.
        None => Some(json!({"metadata": {"annotations": {DIGEST: digest}}})),
        Some(_) => Some(json!({
            "metadata": {"annotations": {DIGEST: digest}},
            "spec": {"template": {"metadata": {"annotations": {DIGEST: digest}}}},
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct Known(Vec<(&'static str, Value)>);

    impl Configuration for Known {
        fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
            let found = self.0.iter().find(|(have, _)| *have == name)?;
            Some(Arc::new(serde_json::from_value(found.1.clone()).expect("is a ConfigMap")))
        }

        fn secret(&self, _name: &str) -> Option<Arc<Secret>> {
            None
        }
    }

    #[test]
    fn a_digest_follows_the_data_alone() {
        let map = |data: Value, labels: Value| Known(vec![("m", json!({"metadata": {"labels": labels}, "data": data}))]);
        let references = References {
            needed: [Reference::ConfigMap("m".to_owned())].into(),
            optional: [Reference::Secret("s".to_owned())].into(),
        };
        let of = |known: &Known| digest(&references, known);
        let first = of(&map(json!({"k": "1"}), json!({})));
        assert_eq!(first.as_ref().map(String::len), Some(32));
        assert_eq!(first, of(&map(json!({"k": "1"}), json!({"l": "x"}))));
        assert_ne!(first, of(&map(json!({"k": "2"}), json!({}))));
        assert_eq!(of(&Known(Vec::new())), None, "what must be there is missing");
    }

    #[test]
    fn only_a_change_rolls() {
        assert_eq!(plan(Some("a"), "a"), None);
        let first = plan(None, "a").expect("is noted");
        assert!(first.get("spec").is_none(), "{first}");
        let change = plan(Some("a"), "b").expect("is rolled");
        assert_eq!(change["spec"]["template"]["metadata"]["annotations"][DIGEST], "b");
    }
}
