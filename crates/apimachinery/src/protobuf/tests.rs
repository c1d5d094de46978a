//! Upstream's own objects, in protobuf and in JSON, must give the same tree; damaged ones an error, never a panic.

use std::path::{Path, PathBuf};

use super::*;
use crate::decode as text;

/// `k8s.io/api`'s testdata in Go's module cache, if this machine has it.
fn upstream() -> Option<PathBuf> {
    let cache = std::env::var_os("GOMODCACHE")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join("go/pkg/mod")))?;
    let directory = cache.join("k8s.io/api@v0.35.4/testdata/HEAD");
    directory.is_dir().then_some(directory)
}

/// The kind of a file named `GROUP.VERSION.KIND.pb`.
fn kind_of(path: &Path) -> Option<GroupVersionKind> {
    let stem = path.file_stem()?.to_str()?;
    let (rest, kind) = stem.rsplit_once('.')?;
    let (group, version) = rest.rsplit_once('.')?;
    Some(GroupVersionKind::new(if group == "core" { "" } else { group }, version, kind))
}

#[test]
fn upstream_objects_give_the_same_tree_as_their_json() {
    let Some(directory) = upstream() else {
        eprintln!("SKIPPED: k8s.io/api@v0.35.4 is not in Go's module cache");
        return;
    };
    let (mut checked, mut failures) = (0, Vec::new());
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let Some(gvk) = kind_of(&path).filter(|_| path.extension().is_some_and(|extension| extension == "pb")) else { continue };
        let Some(info) = schema::lookup(&gvk) else { continue };
        let json = std::fs::read(path.with_extension("json")).unwrap();
        let (mut expected, _) = text::parse(&json, text::Format::Json).unwrap();
        text::conform(&mut expected, info).unwrap();
        checked += 1;
        match decode(&std::fs::read(&path).unwrap(), &gvk) {
            Ok(mut object) => {
                if let Err(error) = text::conform(&mut object, info) {
                    failures.push(format!("{gvk:?}: {error}"));
                } else if object != expected {
                    failures.push(format!("{gvk:?}: {}", difference(&object, &expected, String::new())));
                }
            }
            Err(error) => failures.push(format!("{gvk:?}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{} of {checked}:\n{}", failures.len(), failures.join("\n"));
    assert!(checked > 90, "only {checked} objects");
}

/// The first place where two trees differ.
fn difference(found: &Value, expected: &Value, path: String) -> String {
    if let (Some(found), Some(expected)) = (found.as_object(), expected.as_object()) {
        for key in found.keys().chain(expected.keys()) {
            let null = &Value::Null;
            let (one, other) = (found.get(key).unwrap_or(null), expected.get(key).unwrap_or(null));
            if one != other {
                return difference(one, other, format!("{path}.{key}"));
            }
        }
    }
    if let (Some(found), Some(expected)) = (found.as_array(), expected.as_array()) {
        if let Some((index, (one, other))) = found.iter().zip(expected).enumerate().find(|(_, (one, other))| one != other) {
            return difference(one, other, format!("{path}[{index}]"));
        }
    }
    format!("{path}: found {found}, expected {expected}")
}

/// A ConfigMap as kubectl writes it: envelope, metadata.name, one entry of data.
fn config_map() -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
    let data = [field(1, b"colour"), field(2, b"blue")].concat();
    let object = [field(1, &field(1, b"settings")), field(2, &data)].concat();
    [MAGIC.to_vec(), field(1, &meta), field(2, &object), field(3, b""), field(4, b"")].concat()
}

#[test]
fn an_envelope_names_the_kind() {
    let object = decode(&config_map(), &GroupVersionKind::new("", "v1", "Secret")).unwrap();
    assert_eq!(object.kind(), "ConfigMap");
    assert_eq!(object.meta().name(), "settings");
    assert_eq!(object.str_at(&["data", "colour"]), Some("blue"));
}

#[test]
fn damaged_bytes_are_errors() {
    let gvk = GroupVersionKind::new("", "v1", "ConfigMap");
    let good = config_map();
    assert!(matches!(decode(b"{}", &gvk), Err(ProtobufError::NoMagic)));
    for length in MAGIC.len() + 1..good.len() - 4 {
        // Cut anywhere, it must not panic; most cuts are errors, some leave out whole fields.
        let _ = decode(&good[..length], &gvk);
    }
    for position in MAGIC.len()..good.len() {
        let mut bad = good.clone();
        bad[position] = 0xff;
        let _ = decode(&bad, &gvk);
    }
    assert!(matches!(decode(&good[..good.len() - 6], &gvk), Err(ProtobufError::Malformed(_))));
}
