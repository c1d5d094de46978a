//! Upstream's discovery documents, plain and aggregated.

use anyhow::Result;
use apimachinery::Value;

use crate::compare::differences;
use crate::modules::{Modules, files, read};
use crate::report::Class;
use crate::server::Server;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One class: nothing may differ but the server's address.
pub(crate) fn run(modules: &Modules) -> Result<Vec<Class>> {
    let directory = modules.directory("k8s.io/kubernetes")?.join("api/discovery");
    let server = Server::start()?;
    let note = format!("k8s.io/kubernetes@{} api/discovery", modules.version("k8s.io/kubernetes")?);
    let mut class = Class::new("Discovery", note);
    for (name, path) in files(&directory, "json")? {
        let (url, accept) = match name.as_str() {
            "aggregated_v2" => ("/apis".to_owned(), AGGREGATED),
            name => (format!("/{}", name.replace("__", "/")), "application/json"),
        };
        let wrong = match server.get(&url, accept) {
            Ok((_, ours)) => compare(&read(&path)?, &ours)?,
            Err(error) => vec![error.to_string()],
        };
        class.count(&name, wrong);
    }
    Ok(vec![class])
}

fn compare(upstream: &[u8], ours: &[u8]) -> Result<Vec<String>> {
    let (upstream, ours) = (Value::from_slice(upstream)?, Value::from_slice(ours)?);
    let found = differences(&upstream, &ours);
    let meant = |path: &[&str]| path.last() == Some(&"serverAddress");
    Ok(found.iter().filter(|difference| !meant(&difference.path)).map(ToString::to_string).collect())
}
