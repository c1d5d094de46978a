//! Which kinds are deprecated: what the functions `APILifecycleDeprecated`, `APILifecycleRemoved` and `APILifecycleReplacement` of API
//! packages return.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::unserved::{directories, group_name};

/// Files that have them: generated ones, and the core group's own.
const FILES: [&str; 2] = ["lifecycle.go", "zz_generated.prerelease-lifecycle.go"];

/// Deprecated kinds by group, version and kind: `1.33,1.37,discovery.k8s.io/v1/EndpointSlice`; parts that are not known are empty.
pub(super) type Deprecations = BTreeMap<(String, String, String), String>;

/// The kinds that are deprecated by the Kubernetes version of this minor number.
pub(super) fn read(api: &Path, minor: u32) -> Result<Deprecations> {
    let mut found = Deprecations::new();
    for group in directories(api)? {
        for version in directories(&api.join(&group))? {
            let package = api.join(&group).join(&version);
            let Ok(register) = std::fs::read_to_string(package.join("register.go")) else { continue };
            let name = group_name(&register).with_context(|| format!("no GroupName in {}", package.display()))?;
            let sources: Vec<String> = FILES.iter().filter_map(|file| std::fs::read_to_string(package.join(file)).ok()).collect();
            for (kind, text) in deprecated(&sources.concat(), minor) {
                found.insert((name.to_owned(), version.clone(), kind), text);
            }
        }
    }
    Ok(found)
}

fn deprecated(source: &str, minor: u32) -> Vec<(String, String)> {
    let mut functions: BTreeMap<(String, &str), &str> = BTreeMap::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        // func (in *Endpoints) APILifecycleDeprecated() (major, minor int) {
        let Some((kind, rest)) = line.strip_prefix("func (in *").and_then(|rest| rest.split_once(") APILifecycle")) else {
            continue;
        };
        let (Some((which, _)), Some(body)) = (rest.split_once('('), lines.next()) else { continue };
        functions.insert((kind.to_owned(), which), body.trim().trim_start_matches("return "));
    }
    let version = |kind: &str, which: &str| functions.get(&(kind.to_owned(), which)).map(|body| body.replace(", ", "."));
    let kinds = functions.keys().filter(|(_, which)| *which == "Deprecated").map(|(kind, _)| kind);
    kinds
        .filter_map(|kind| {
            let since = version(kind, "Deprecated")?;
            let passed = since.strip_prefix("1.")?.parse::<u32>().is_ok_and(|since| since <= minor);
            let removed = version(kind, "Removed").filter(|removed| removed != "0.0").unwrap_or_default();
            let replacement =
                functions.get(&(kind.clone(), "Replacement")).map(|body| quoted(body).join("/")).unwrap_or_default();
            passed.then(|| (kind.clone(), format!("{since},{removed},{replacement}")))
        })
        .collect()
}

/// The string literals of an expression.
fn quoted(expression: &str) -> Vec<&str> {
    expression.split('"').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_functions() {
        let source = "func (in *A) APILifecycleDeprecated() (major, minor int) {\n\treturn 1, 33\n}\n\
            func (in *A) APILifecycleReplacement() schema.GroupVersionKind {\n\treturn schema.GroupVersionKind{Group: \"g\", Version: \"v1\", Kind: \"B\"}\n}\n\
            func (in *C) APILifecycleDeprecated() (major, minor int) {\n\treturn 1, 40\n}\n";
        assert_eq!(deprecated(source, 35), [("A".to_owned(), "1.33,,g/v1/B".to_owned())]);
    }
}
