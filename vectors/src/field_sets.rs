//! structured-merge-diff's data: field sets as `managedFields` hold them, and the objects that they are the fields of. Its cases of
//! merging are Go code.

use anyhow::{Context, Result};
use apimachinery::decode::{self, Format};
use apimachinery::managed_fields::{Comparison, Node, Set};
use apimachinery::{GroupVersionKind, Value, schema};

use crate::compare::differences;
use crate::modules::{Modules, files, read};
use crate::report::Class;

const MODULE: &str = "sigs.k8s.io/structured-merge-diff/v6";

/// Objects with a set, and their kinds.
const OBJECTS: [(&str, &str); 3] = [("pod", "Pod"), ("node", "Node"), ("endpoints", "Endpoints")];

const ATOMIC: &str = "upstream's data is of an older schema: references to owners and to keys of secrets have one owner since";

/// Whether a place in the sets is of a type whose fields had owners of their own when the data was made.
fn is_atomic_now(part: &str) -> bool {
    part.starts_with("k:{\"uid\"") || part == "f:secretKeyRef"
}

/// One class for the sets, one for what they are made from.
pub(crate) fn run(modules: &Modules) -> Result<Vec<Class>> {
    let directory = modules.directory(MODULE)?.join("internal/testdata");
    let from = format!("{MODULE}@{} internal/testdata", modules.version(MODULE)?);
    let mut sets = Class::new("Field sets, read and written", format!("{from}/*set.json"));
    for (name, path) in files(&directory, "json")? {
        sets.count(&name, round_trip(&read(&path)?).err());
    }
    let mut objects = Class::new("Field sets of objects", format!("{from}: the set of each object of a built-in kind"));
    for (name, kind) in OBJECTS {
        let object = read(&directory.join(format!("{name}.yaml")))?;
        let set = Value::from_slice(&read(&directory.join(format!("{name}set.json")))?)?;
        let info = schema::lookup(&GroupVersionKind::new("", "v1", kind)).context("kind")?;
        let (object, _) = decode::parse(&object, Format::Yaml)?;
        let ours = Comparison::of(&Value::object(), &object, Node::Kind(info)).added.to_value();
        let mut wrong = Vec::new();
        for difference in differences(&set, &ours) {
            match difference.ours.is_none() && difference.path.iter().any(|part| is_atomic_now(part)) {
                true => objects.explain(ATOMIC, &difference.to_string()),
                false => wrong.push(difference.to_string()),
            }
        }
        objects.count(name, wrong);
    }
    Ok(vec![sets, objects])
}

fn round_trip(json: &[u8]) -> Result<(), String> {
    let upstream = Value::from_slice(json).map_err(|error| error.to_string())?;
    let ours = Set::parse(&upstream).map_err(|error| error.to_string())?.to_value();
    differences(&upstream, &ours).first().map_or(Ok(()), |difference| Err(difference.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_come_back() {
        assert_eq!(round_trip(br#"{"f:a":{".":{},"k:{\"name\":\"x\"}":{}}}"#), Ok(()));
        assert!(round_trip(br#"{"x:a":{}}"#).is_err());
    }
}
