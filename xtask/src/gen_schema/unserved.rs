//! Kinds that upstream's scheme knows and no server publishes: versions that are stored in old clusters but not served any more, the
//! reviews of webhooks, options of requests. Their objects can be read and written, and that is all that the facts say about them.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Options that belong to no package of their own: every group version knows them, the core group among them.
const META_KINDS: [&str; 5] = ["CreateOptions", "GetOptions", "ListOptions", "PatchOptions", "UpdateOptions"];

/// Type names of ours, each with a schema that says nothing but its kind, from the `register.go` of all packages of `k8s.io/api`.
pub(super) fn registered(api: &Path) -> Result<Vec<(String, Value)>> {
    let mut found: Vec<(String, Value)> =
        META_KINDS.iter().map(|kind| (format!("meta.v1.{kind}"), schema("", "v1", kind))).collect();
    for group in directories(api)? {
        for version in directories(&api.join(&group))? {
            let path = api.join(&group).join(&version).join("register.go");
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let name = group_name(&text).with_context(|| format!("no GroupName in {}", path.display()))?;
            for kind in kinds(&text) {
                found.push((format!("{group}.{version}.{kind}"), schema(name, &version, kind)));
            }
        }
    }
    Ok(found)
}

fn schema(group: &str, version: &str, kind: &str) -> Value {
    json!({"x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": kind}]})
}

/// The names of the directories in a directory, sorted.
pub(super) fn directories(path: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    Ok(names)
}

/// What a `register.go` says the group is called.
pub(super) fn group_name(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.trim().strip_prefix("const GroupName = \"")?.split('"').next())
}

/// `&Deployment{},`
fn kinds(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let kind = line.trim().strip_prefix('&')?.strip_suffix("{},")?;
        kind.chars().all(char::is_alphanumeric).then_some(kind)
    })
}
