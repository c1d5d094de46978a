//! The resource table: what upstream's discovery documents say, in their order.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::lifecycle::Deprecations;

const ALL_VERBS: &str = "create,delete,deletecollection,get,list,patch,update,watch";

fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
}

fn list(value: &Value) -> String {
    let items: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    items.join(",")
}

/// Prints the groups, versions, resources and subresources of the discovery documents in `directory`.
pub(super) fn print(directory: &Path, deprecations: &Deprecations, out: &mut String) -> Result<()> {
    let deprecated = |group: &str, version: &str, kind: &str| {
        deprecations.get(&(group.to_owned(), version.to_owned(), kind.to_owned())).map(String::as_str)
    };
    out.push_str("G -\nV v1\n");
    print_list(&read(&directory.join("api__v1.json"))?, &|kind| deprecated("", "v1", kind), out)?;
    let aggregated = read(&directory.join("aggregated_v2.json"))?;
    for group in aggregated["items"].as_array().context("no groups")? {
        let name = group["metadata"]["name"].as_str().context("group without a name")?;
        writeln!(out, "G {name}")?;
        for version in group["versions"].as_array().into_iter().flatten() {
            let version = version["version"].as_str().context("version without a name")?;
            writeln!(out, "V {version}")?;
            let document = read(&directory.join(format!("apis__{name}__{version}.json")))?;
            print_list(&document, &|kind| deprecated(name, version, kind), out)?;
        }
    }
    Ok(())
}

/// An APIResourceList: subresources follow their resource, because their names sort after it.
fn print_list<'a>(resources: &Value, deprecated: &dyn Fn(&str) -> Option<&'a str>, out: &mut String) -> Result<()> {
    let resources = resources["resources"].as_array().context("no resources")?;
    let (subs, mains): (Vec<&Value>, Vec<&Value>) =
        resources.iter().partition(|r| r["name"].as_str().is_some_and(|n| n.contains('/')));
    for resource in mains {
        let name = resource["name"].as_str().context("resource without a name")?;
        let scope = if resource["namespaced"] == true { "N" } else { "C" };
        let singular = resource["singularName"].as_str().unwrap_or_default();
        let kind = resource["kind"].as_str().context("no kind")?;
        write!(out, "R {name} {kind} {singular} {scope}")?;
        print_rest(resource, deprecated(kind), out)?;
        for sub in &subs {
            let Some((parent, sub_name)) = sub["name"].as_str().and_then(|n| n.split_once('/')) else { continue };
            if parent == name {
                write!(out, "S {sub_name} {}", sub["kind"].as_str().context("no kind")?)?;
                print_rest(sub, None, out)?;
            }
        }
    }
    Ok(())
}

fn print_rest(resource: &Value, deprecated: Option<&str>, out: &mut String) -> Result<()> {
    let verbs = list(&resource["verbs"]);
    write!(out, " v={}", if verbs == ALL_VERBS { "*" } else { &verbs })?;
    for (key, letter) in [("shortNames", 's'), ("categories", 'c')] {
        if !resource[key].is_null() {
            write!(out, " {letter}={}", list(&resource[key]))?;
        }
    }
    if let Some(hash) = resource["storageVersionHash"].as_str() {
        write!(out, " h={hash}")?;
    }
    if let Some(version) = resource["version"].as_str() {
        write!(out, " k={}/{version}", resource["group"].as_str().unwrap_or_default())?;
    }
    if let Some(deprecated) = deprecated {
        write!(out, " x={deprecated}")?;
    }
    out.push('\n');
    Ok(())
}
