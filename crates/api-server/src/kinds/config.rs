//! ConfigMaps and Secrets: names of their entries, their size, and those that never change again.

use std::sync::Arc;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::{Value, validation};

use super::Rules;
use crate::registry::{OperationContext, Strategy};

/// Upstream's `MaxSecretSize`.
const BYTES_MAX: usize = 1024 * 1024;

pub(super) fn rules(members: &'static [&'static str]) -> Rules {
    Rules { strategy: Arc::new(ConfigStrategy(members)), subresources: Vec::new() }
}

/// The members that hold entries.
struct ConfigStrategy(&'static [&'static str]);

impl Strategy for ConfigStrategy {
    fn prepare_for_create(&self, _context: &OperationContext, _object: &mut Value) {}

    fn prepare_for_update(&self, _context: &OperationContext, object: &mut Value, old: &Value) {
        // A Secret without a type keeps its own.
        if object["type"].is_empty() && !old["type"].is_empty() {
            object.insert("type", old["type"].clone());
        }
    }

    fn validate(&self, _context: &OperationContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut bytes = 0;
        for member in self.0 {
            for (key, value) in object[*member].as_object().into_iter().flatten() {
                let at = Path::new(member).key(key);
                errors.extend(validation::is_config_map_key(key).into_iter().map(|why| Error::invalid(&at, key.as_str(), why)));
                let text = value.as_str().unwrap_or_default();
                // Base64 is what the client sends for bytes; the limit is on the bytes.
                let is_text = *member == "data" && self.0.len() > 1;
                bytes += if is_text { text.len() } else { text.trim_end_matches('=').len() * 3 / 4 };
                let other = self.0.get(1).filter(|other| *member == self.0[0] && object[**other].get(key).is_some());
                if let Some(other) = other {
                    let why = format!("duplicate of key present in {other}");
                    errors.push(Error::invalid(&at, key.as_str(), why));
                }
            }
        }
        if bytes > BYTES_MAX {
            // Upstream names the root of a ConfigMap, and the data of a Secret.
            let at = if self.0.len() > 1 { Path::nameless() } else { Path::new("data") };
            errors.push(Error::too_long(&at, BYTES_MAX));
        }
        errors
    }

    fn validate_update(&self, context: &OperationContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if object["type"] != old["type"] {
            errors.push(Error::invalid(&Path::new("type"), object["type"].clone(), "field is immutable"));
        }
        if old.bool_at(&["immutable"]) == Some(true) {
            if object.bool_at(&["immutable"]) != Some(true) {
                errors.push(Error::forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set"));
            }
            for member in self.0.iter().filter(|member| object[**member] != old[**member]) {
                errors.push(Error::forbidden(&Path::new(member), "field is immutable when `immutable` is set"));
            }
        }
        errors.extend(self.validate(context, object));
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[]
    }
}
