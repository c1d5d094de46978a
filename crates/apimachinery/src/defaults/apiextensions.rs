//! Defaults of the apiextensions.k8s.io group.

use super::{Rule, absent, zero};
use crate::{Value, value};

pub(super) const RULES: &[(&str, Rule)] = &[("apiextensions.v1.CustomResourceDefinition", definition)];

fn definition(definition: &mut Value) {
    let kind = definition["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let names = definition.path_mut(&["spec", "names"]);
    if !kind.is_empty() {
        zero(names, "singular", kind.to_lowercase());
        zero(names, "listKind", format!("{kind}List"));
    }
    absent(definition.path_mut(&["spec"]), "conversion", value!({"strategy": "None"}));
    let stored = definition.array_at(&["spec", "versions"]).iter().find(|v| v["storage"].as_bool() == Some(true));
    if let Some(name) = stored.map(|v| v["name"].clone()) {
        zero(definition.path_mut(&["status"]), "storedVersions", vec![name]);
    }
}
