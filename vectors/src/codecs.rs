//! `k8s.io/api` testdata: an object of every kind in JSON, YAML and protobuf, as this version and older ones of Kubernetes write it.

use std::path::Path;

use anyhow::{Context, Result};
use apimachinery::decode::{self, Format};
use apimachinery::schema::{self, TypeInfo};
use apimachinery::{GroupVersionKind, Value, protobuf, yaml};

use crate::compare::differences;
use crate::modules::{Modules, files, read};
use crate::report::Class;

const ENCODINGS: [&str; 3] = ["json", "yaml", "pb"];
/// What a file is called that an older version's file becomes when this version reads and writes it.
const AFTER: &str = ".after_roundtrip";

const GONE: &str = "this version of Kubernetes does not have the kind any more; upstream's test passes over it";

/// One class for each encoding of this version's files, and one for each older version.
pub(crate) fn run(modules: &Modules) -> Result<Vec<Class>> {
    let testdata = modules.directory("k8s.io/api")?.join("testdata");
    let version = modules.version("k8s.io/api")?;
    let mut classes: Vec<Class> = Vec::new();
    for encoding in ENCODINGS {
        let mut class =
            Class::new(format!("Objects in {}", title(encoding)), format!("k8s.io/api@{version} testdata/HEAD/*.{encoding}"));
        each(&testdata.join("HEAD"), encoding, false, &mut class)?;
        classes.push(class);
    }
    let mut older: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(&testdata).with_context(|| format!("read {}", testdata.display()))? {
        older.extend(entry?.file_name().into_string().ok().filter(|name| name.starts_with('v')));
    }
    older.sort();
    for folder in older {
        let note = format!("k8s.io/api@{version} testdata/{folder}; read and written by this version");
        let mut class = Class::new(format!("Objects of {folder}"), note);
        for encoding in ENCODINGS {
            each(&testdata.join(&folder), encoding, true, &mut class)?;
        }
        classes.push(class);
    }
    Ok(classes)
}

fn title(encoding: &str) -> &'static str {
    match encoding {
        "json" => "JSON",
        "yaml" => "YAML",
        _ => "protobuf",
    }
}

/// Every file of one encoding.
fn each(directory: &Path, encoding: &str, older: bool, class: &mut Class) -> Result<()> {
    for (name, path) in files(directory, encoding)? {
        if name.ends_with(AFTER) {
            continue;
        }
        let after = directory.join(format!("{name}{AFTER}.{encoding}"));
        let before = read(&path)?;
        let expected = if after.is_file() { read(&after)? } else { before.clone() };
        // All encodings hold the same object: that in JSON is the one to read.
        let json = read(&directory.join(format!("{name}.json")))?;
        // Upstream's own test goes by the kinds that this version has.
        if older && kind_of(&name).is_some_and(|kind| schema::lookup(&kind).is_none()) {
            class.explain(GONE, &name);
            class.count(&format!("{name}.{encoding}"), None);
            continue;
        }
        let wrong = check(&name, encoding, &before, &expected, &json);
        class.count(&format!("{name}.{encoding}"), wrong.err());
    }
    Ok(())
}

/// `apps.v1.Deployment`, `rbac.authorization.k8s.io.v1.Role`
fn kind_of(name: &str) -> Option<GroupVersionKind> {
    let (rest, kind) = name.rsplit_once('.')?;
    let (group, version) = rest.rsplit_once('.')?;
    Some(GroupVersionKind::new(if group == "core" { "" } else { group }, version, kind))
}

fn check(name: &str, encoding: &str, before: &[u8], expected: &[u8], json: &[u8]) -> Result<(), String> {
    let gvk = kind_of(name).ok_or("no kind in the file's name")?;
    let info = schema::lookup(&gvk).ok_or_else(|| format!("{gvk} is not known"))?;
    let object = decoded(before, encoding, &gvk, info)?;
    let reference = decoded(json, "json", &gvk, info)?;
    same(&reference, &object).map_err(|why| format!("read as something else than the JSON file: {why}"))?;
    match encoding {
        "json" => {
            let expected = Value::from_slice(expected).map_err(|error| error.to_string())?;
            same(&expected, &object)
        }
        "yaml" => text_is(expected, yaml::to_yaml(&object).as_bytes()),
        _ => bytes_are(expected, &protobuf::encode(&object, info)),
    }
}

fn decoded(bytes: &[u8], encoding: &str, gvk: &GroupVersionKind, info: &'static TypeInfo) -> Result<Value, String> {
    let format = match encoding {
        "json" => Format::Json,
        "yaml" => Format::Yaml,
        _ => return protobuf::decode(bytes, gvk).map_err(|error| error.to_string()),
    };
    decode::decode(bytes, format, info).map(|decoded| decoded.object).map_err(|error| error.to_string())
}

fn same(upstream: &Value, ours: &Value) -> Result<(), String> {
    differences(upstream, ours).first().map_or(Ok(()), |difference| Err(difference.to_string()))
}

fn text_is(expected: &[u8], ours: &[u8]) -> Result<(), String> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (expected, ours) = (text(expected), text(ours));
    let line = expected.lines().zip(ours.lines()).position(|(a, b)| a != b);
    match line {
        Some(at) => Err(format!(
            "line {}: upstream {:?}, ours {:?}",
            at + 1,
            expected.lines().nth(at).unwrap_or_default(),
            ours.lines().nth(at).unwrap_or_default()
        )),
        None if expected != ours => Err("one text goes on where the other ends".to_owned()),
        None => Ok(()),
    }
}

fn bytes_are(expected: &[u8], ours: &[u8]) -> Result<(), String> {
    if expected == ours {
        return Ok(());
    }
    let at = ours.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(ours.len().min(expected.len()));
    let around = |bytes: &[u8]| String::from_utf8_lossy(&bytes[at.saturating_sub(30)..(at + 30).min(bytes.len())]).into_owned();
    Err(format!("byte {at} of {}: upstream {:?}, ours {:?}", expected.len(), around(expected), around(ours)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_in_names() {
        assert_eq!(kind_of("core.v1.Pod"), Some(GroupVersionKind::new("", "v1", "Pod")));
        let role = GroupVersionKind::new("rbac.authorization.k8s.io", "v1", "Role");
        assert_eq!(kind_of("rbac.authorization.k8s.io.v1.Role"), Some(role));
    }

    #[test]
    fn a_wrong_file_is_found() {
        let pod = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":null},"status":{}}"#;
        assert_eq!(check("core.v1.Pod", "json", pod, pod, pod), Ok(()));
        let other = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"},"spec":{"containers":null},"status":{}}"#;
        assert_eq!(check("core.v1.Pod", "json", pod, other, pod), Err("metadata > name: upstream \"b\", ours \"a\"".to_owned()));
        assert!(check("core.v1.Nope", "json", pod, pod, pod).unwrap_err().contains("not known"));
        assert!(bytes_are(b"ab", b"ac").is_err() && text_is(b"a\nb\n", b"a\nc\n").is_err());
    }
}
