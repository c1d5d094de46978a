//! The descriptions of types and fields: a table that `build.rs` makes from the schemas of the k8s-openapi crate.

use std::collections::HashMap;

use apimachinery::schema::TypeInfo;
use flate2::read::GzDecoder;

static TABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.json.gz"));

/// The descriptions of all types, some 2 MB. Unpacked for each document: documents are asked for seldom, and clients keep them.
pub(super) struct Descriptions {
    /// By the names of the schema facts, `core.v1.PodSpec`: of the type, and of its fields.
    types: HashMap<String, (String, HashMap<String, String>)>,
}

impl Descriptions {
    pub(super) fn unpack() -> Descriptions {
        let types = serde_json::from_reader(GzDecoder::new(TABLE)).expect("the table is of this build");
        Descriptions { types }
    }

    /// Of a type, or of one of its fields.
    pub(super) fn get(&self, info: &TypeInfo, field: Option<&str>) -> Option<String> {
        let (own, fields) = self.types.get(info.name)?;
        let text = match field {
            None => Some(own).filter(|text| !text.is_empty()),
            Some(field) => fields.get(field),
        };
        text.cloned()
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::{GroupVersionKind, schema};

    use super::*;

    #[test]
    fn every_built_in_kind_is_described() {
        let mut missing: Vec<String> = Vec::new();
        let descriptions = Descriptions::unpack();
        for resource in schema::resources().iter().filter(|resource| resource.kind_group_version.is_none()) {
            let kind = GroupVersionKind::new(resource.group, resource.version, resource.kind);
            let Some(info) = schema::lookup(&kind) else { continue };
            if descriptions.get(info, None).is_none() {
                missing.push(kind.to_string());
            }
        }
        assert_eq!(missing, Vec::<String>::new());
        let pod = schema::lookup(&GroupVersionKind::new("", "v1", "Pod")).expect("pods are known");
        assert!(descriptions.get(pod, Some("spec")).is_some_and(|text| text.contains("desired behavior")));
    }
}
