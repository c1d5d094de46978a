//! Upstream's OpenAPI documents, version 3 and version 2. They were written by a server with all alpha features, without the values of
//! enumerations, and with the handler of log files; ours has what a server has by default.

use anyhow::{Context, Result};
use apimachinery::Value;

use crate::compare::{Difference, differences};
use crate::modules::{Modules, files, read};
use crate::report::Class;
use crate::server::Server;

const CBOR: &str =
    "CBOR is alpha (CBORServingAndStorage) and off by default; upstream wrote its documents with all alpha features on";
const ENUMS: &str =
    "servers list the values of enumerations (OpenAPIEnums is on by default); upstream turned that off for its documents";
const PARAMETERS: &str = "what a query parameter is for is said in our own words: the k8s-openapi crate, which field descriptions come from, has no parameters";
const LISTS: &str =
    "the k8s-openapi crate has one generic list type, so that there is no text for the fields of each kind's list";
const VERSION: &str = "the server's own version; upstream's documents say `unversioned`";
const LOGS: &str = "/logs is off by default (--enable-logs-handler); upstream turned it on for its documents";
/// Documents of paths that are off.
const OFF: [&str; 1] = ["logs"];

/// A class for each version.
pub(crate) fn run(modules: &Modules) -> Result<Vec<Class>> {
    let directory = modules.directory("k8s.io/kubernetes")?.join("api/openapi-spec");
    let from = format!("k8s.io/kubernetes@{} api/openapi-spec", modules.version("k8s.io/kubernetes")?);
    let server = Server::start()?;
    let mut third = Class::new("OpenAPI v3 documents", format!("{from}/v3"));
    let index = Value::from_slice(&server.get("/openapi/v3", "application/json")?.1)?;
    let mut listed: Vec<String> =
        index["paths"].as_object().into_iter().flatten().map(|(path, _)| path.as_str().to_owned()).collect();
    for (name, path) in files(&directory.join("v3"), "json")? {
        let document = name.trim_end_matches("_openapi").replace("__", "/");
        listed.retain(|known| *known != document);
        if OFF.contains(&document.as_str()) {
            third.explain(LOGS, &document);
            third.count(&document, None);
            continue;
        }
        let url = index["paths"][document.as_str()]["serverRelativeURL"].as_str().map(str::to_owned);
        let wrong = match url.context("not in the index").and_then(|url| server.get(&url, "application/json")) {
            Ok((_, ours)) => judge(&read(&path)?, &ours, &mut third)?,
            Err(error) => vec![format!("{error:#}")],
        };
        third.count(&document, wrong);
    }
    for document in listed {
        third.count(&document, ["upstream has no such document".to_owned()]);
    }
    let mut second = Class::new("OpenAPI v2, definitions and paths", format!("{from}/swagger.json"));
    let ours = server.get("/openapi/v2", "application/json")?.1;
    by_section(&read(&directory.join("swagger.json"))?, &ours, &mut second)?;
    Ok(vec![third, second])
}

/// What is wrong with a document; notes in the class what differs on purpose.
fn judge(upstream: &[u8], ours: &[u8], class: &mut Class) -> Result<Vec<String>> {
    let (upstream, ours) = (Value::from_slice(upstream)?, Value::from_slice(ours)?);
    Ok(unexplained(&upstream, &ours, &[], class))
}

/// Version 2 is one document: each definition, path and parameter is a vector.
fn by_section(upstream: &[u8], ours: &[u8], class: &mut Class) -> Result<()> {
    let (upstream, ours) = (Value::from_slice(upstream)?, Value::from_slice(ours)?);
    for section in ["definitions", "paths", "parameters"] {
        let names = |of: &Value| -> Vec<String> {
            of[section].as_object().into_iter().flatten().map(|(name, _)| name.as_str().to_owned()).collect()
        };
        let (theirs, own) = (names(&upstream), names(&ours));
        for name in &theirs {
            if name.starts_with("/logs/") || name.starts_with("logpath-") {
                class.explain(LOGS, name);
                class.count(name, None);
                continue;
            }
            let wrong = match ours[section].get(name) {
                Some(member) => unexplained(&upstream[section][name.as_str()], member, &[section, name], class),
                None => vec!["missing".to_owned()],
            };
            class.count(name, wrong);
        }
        for name in own.iter().filter(|name| !theirs.contains(name)) {
            class.count(name, ["not upstream's".to_owned()]);
        }
    }
    for section in ["info", "security", "securityDefinitions", "swagger"] {
        let wrong = unexplained(&upstream[section], &ours[section], &[section], class);
        class.count(section, wrong);
    }
    Ok(())
}

fn unexplained(upstream: &Value, ours: &Value, prefix: &[&str], class: &mut Class) -> Vec<String> {
    let mut wrong = Vec::new();
    for difference in differences(upstream, ours) {
        let path = [prefix, &difference.path].concat();
        match reason(&path, &difference) {
            Some(reason) => class.explain(reason, &format!("{} > {difference}", prefix.join(" > "))),
            None => wrong.push(difference.to_string()),
        }
    }
    wrong
}

/// Why a difference is meant; `None` when it is not.
fn reason(path: &[&str], difference: &Difference<'_>) -> Option<&'static str> {
    let last = *path.last()?;
    match last {
        _ if last.contains("cbor") && difference.ours.is_none() => Some(CBOR),
        "produces" | "consumes" if without_cbor(difference.upstream?) == *difference.ours? => Some(CBOR),
        "enum" if difference.upstream.is_none() => Some(ENUMS),
        "version" if path.contains(&"info") => Some(VERSION),
        "description" if path.contains(&"parameters") => Some(PARAMETERS),
        "description" if in_list(path) && difference.ours.is_none() => Some(LISTS),
        _ => None,
    }
}

/// Whether a path is in the schema of a kind's list.
fn in_list(path: &[&str]) -> bool {
    path.iter().any(|part| part.starts_with("io.k8s.") && part.ends_with("List"))
}

fn without_cbor(list: &Value) -> Value {
    list.as_array()
        .unwrap_or_default()
        .iter()
        .filter(|item| item.as_str().is_none_or(|text| !text.contains("cbor")))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    #[test]
    fn only_what_is_meant_is_explained() {
        let check = |upstream: Value, ours: Value, expected: Option<&str>| {
            let found = differences(&upstream, &ours);
            assert_eq!(reason(&found[0].path, &found[0]), expected, "{}", found[0]);
        };
        check(value!({"content": {"application/cbor": {}}}), value!({"content": {}}), Some(CBOR));
        check(value!({"content": {"application/json": {}}}), value!({"content": {}}), None);
        check(value!({"produces": ["a", "application/cbor"]}), value!({"produces": ["a"]}), Some(CBOR));
        check(value!({"produces": ["a", "b"]}), value!({"produces": ["a"]}), None);
        check(value!({"type": "string"}), value!({"type": "string", "enum": ["a"]}), Some(ENUMS));
        check(value!({"type": "string", "enum": ["a"]}), value!({"type": "string"}), None);
        check(
            value!({"io.k8s.api.core.v1.PodList": {"description": "a"}}),
            value!({"io.k8s.api.core.v1.PodList": {}}),
            Some(LISTS),
        );
        check(value!({"io.k8s.api.core.v1.Pod": {"description": "a"}}), value!({"io.k8s.api.core.v1.Pod": {}}), None);
    }
}
