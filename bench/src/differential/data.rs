//! The valid objects that everything starts from (`bench/differential/objects.yaml`).

use anyhow::{Context, bail, ensure};
use apimachinery::schema::{self, ResourceInfo, TypeInfo};
use apimachinery::{Value, yaml};

const OBJECTS: &str = include_str!("../../differential/objects.yaml");
/// Where namespaced objects go.
pub(super) const NAMESPACE: &str = "differential";

/// What writing an object does beside that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effects {
    None,
    /// It changes what other requests come to: only the valid object itself is stored.
    Others,
    /// A controller in the API server writes to it at a time of its own: nothing is stored.
    Controlled,
}

/// A kind with a valid object of it.
pub(super) struct Base {
    pub(super) resource: &'static ResourceInfo,
    pub(super) info: &'static TypeInfo,
    pub(super) effects: Effects,
    name: Option<String>,
    object: Value,
}

/// Reads all of them; `only` keeps those whose resource contains it.
pub(super) fn load(only: Option<&str>) -> anyhow::Result<Vec<Base>> {
    let document = yaml::parse_one(OBJECTS.as_bytes()).context("objects.yaml")?;
    let rows = document.value.as_array().context("objects.yaml is a list")?;
    let bases = rows.iter().map(base).collect::<anyhow::Result<Vec<Base>>>()?;
    let wanted = |base: &Base| only.is_none_or(|only| base.title().contains(only));
    let bases: Vec<Base> = bases.into_iter().filter(wanted).collect();
    ensure!(!bases.is_empty(), "no kind is called so");
    Ok(bases)
}

fn base(row: &Value) -> anyhow::Result<Base> {
    let path = row["resource"].as_str().context("a row without resource")?;
    let parts: Vec<&str> = path.split('/').collect();
    let (group, version, plural) = match parts.as_slice() {
        [version, plural] => ("", *version, *plural),
        [group, version, plural] => (*group, *version, *plural),
        _ => bail!("{path} is not GROUP/VERSION/PLURAL"),
    };
    let resource = schema::resource(group, version, plural).with_context(|| format!("no resource {path}"))?;
    let info = schema::lookup(&resource.gvk()).with_context(|| format!("no type of {path}"))?;
    let effects = match row["effects"].as_str() {
        None | Some("none") => Effects::None,
        Some("others") => Effects::Others,
        Some("controlled") => Effects::Controlled,
        Some(other) => bail!("{path}: effects are none, others or controlled, not {other}"),
    };
    Ok(Base { resource, info, effects, name: row["name"].as_str().map(str::to_owned), object: row["object"].clone() })
}

impl Base {
    /// `apps/v1/deployments`.
    pub(super) fn title(&self) -> String {
        match self.resource.group {
            "" => format!("{}/{}", self.resource.version, self.resource.plural),
            group => format!("{group}/{}/{}", self.resource.version, self.resource.plural),
        }
    }

    /// The name of the object with this number.
    pub(super) fn name(&self, number: u64) -> String {
        match &self.name {
            Some(name) if name.ends_with(".#") => name.replace('#', &(number % 250 + 1).to_string()),
            Some(name) => name.replace('#', &number.to_string()),
            None => format!("d-{number}"),
        }
    }

    /// The object with this number.
    pub(super) fn object(&self, number: u64) -> Value {
        let text = self.object.to_json().replace('#', &number.to_string());
        // It was JSON a moment ago, and a number in place of a # does not change that.
        let mut object = Value::from_slice(text.as_bytes()).unwrap_or_default();
        let gvk = self.resource.gvk();
        object.insert("apiVersion", gvk.api_version());
        object.insert("kind", gvk.kind);
        object.set_path(&["metadata", "name"], self.name(number));
        object.set_path(&["metadata", "labels", "scenario"], format!("n{number}"));
        if self.resource.namespaced {
            object.set_path(&["metadata", "namespace"], NAMESPACE);
        }
        object
    }

    /// The path of the collection.
    pub(super) fn collection(&self) -> String {
        let root = match self.resource.group {
            "" => format!("/api/{}", self.resource.version),
            group => format!("/apis/{group}/{}", self.resource.version),
        };
        match self.resource.namespaced {
            true => format!("{root}/namespaces/{NAMESPACE}/{}", self.resource.plural),
            false => format!("{root}/{}", self.resource.plural),
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::decode::{self, Format};

    use super::*;

    #[test]
    fn every_object_decodes_strictly() {
        for base in load(None).expect("readable") {
            let bytes = base.object(7).to_vec();
            let decoded =
                decode::decode(&bytes, Format::Json, base.info).unwrap_or_else(|error| panic!("{}: {error}", base.title()));
            assert_eq!(decoded.strict, Vec::<String>::new(), "{}", base.title());
        }
    }

    #[test]
    fn every_stored_kind_has_one() {
        // Alpha and beta versions are off by default upstream. A definition takes time until it is served, so that it has no place here.
        let stored = schema::resources().iter().filter(|row| {
            let stable = !row.version.contains("alpha") && !row.version.contains("beta");
            stable && !row.storage_version_hash.is_empty() && row.group != "apiextensions.k8s.io"
        });
        let bases = load(None).expect("readable");
        for row in stored {
            assert!(bases.iter().any(|base| std::ptr::eq(base.resource, row)), "{} {}", row.group, row.plural);
        }
    }
}
