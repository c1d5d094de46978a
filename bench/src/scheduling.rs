//! The workloads of `bench scheduler` as data: nodes, pods, and how many of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::report::Goals;

/// A file of workloads.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scheduling {
    /// Shown above the results.
    #[serde(rename = "title")]
    _title: String,
    /// What a node looks like.
    pub(crate) node: Value,
    /// What pods look like, by name.
    pods: BTreeMap<String, Value>,
    /// What is measured, in this order.
    pub(crate) workloads: Vec<Workload>,
    /// What is wanted.
    #[serde(default)]
    pub(crate) goals: Goals,
}

/// One workload.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workload {
    /// A line of the results.
    pub(crate) name: String,
    /// The `pluginConfig` of the profile.
    #[serde(default)]
    pub(crate) plugin_config: Vec<Value>,
    /// What is there when the scheduler starts.
    pub(crate) before: Group,
    /// What is timed.
    pub(crate) measured: Group,
}

/// A number of equal pods.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// The name of their template.
    pub(crate) pods: String,
    /// How many.
    #[serde(default)]
    count: usize,
    /// How many for each node.
    #[serde(default)]
    each: usize,
    /// They have a node already.
    #[serde(default)]
    pub(crate) bound: bool,
}

impl Group {
    /// How many there are in a cluster of so many nodes.
    pub(crate) fn len(&self, nodes: usize) -> usize {
        self.count + self.each * nodes
    }
}

impl Scheduling {
    /// Reads and checks a file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: Self = serde_saphyr::from_str(&text).with_context(|| format!("{} is no file of workloads", path.display()))?;
        for workload in &file.workloads {
            for group in [&workload.before, &workload.measured] {
                ensure!(file.pods.contains_key(&group.pods), "workload {:?}: no pods are called {:?}", workload.name, group.pods);
            }
            ensure!(!workload.measured.bound, "workload {:?}: the measured pods have no node yet", workload.name);
            ensure!(workload.measured.len(1) > 0, "workload {:?}: there must be measured pods", workload.name);
        }
        Ok(file)
    }

    /// The pod with a number of a group.
    pub(crate) fn pod(&self, group: &Group, name: &str, index: usize, nodes: usize) -> Value {
        let mut pod = numbered(&self.pods[&group.pods], index);
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = format!("{name}-{index}").into();
        pod["spec"]["automountServiceAccountToken"] = false.into();
        if group.bound {
            pod["spec"]["nodeName"] = format!("node-{}", index % nodes).into();
        }
        pod
    }
}

/// The same with `{i}` and `{i%N}` in texts replaced.
pub(crate) fn numbered(value: &Value, index: usize) -> Value {
    match value {
        Value::String(text) => Value::String(number(text, index)),
        Value::Array(items) => items.iter().map(|item| numbered(item, index)).collect(),
        Value::Object(fields) => fields.iter().map(|(key, item)| (key.clone(), numbered(item, index))).collect(),
        other => other.clone(),
    }
}

fn number(text: &str, index: usize) -> String {
    let Some((before, rest)) = text.split_once("{i") else { return text.to_owned() };
    let Some((modulus, after)) = rest.split_once('}') else { return text.to_owned() };
    let index_here = match modulus.strip_prefix('%').and_then(|modulus| modulus.parse::<usize>().ok()) {
        Some(modulus) if modulus > 0 => index % modulus,
        _ => index,
    };
    format!("{before}{index_here}{}", number(after, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_workloads_are_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/scheduler.yaml");
        let file = Scheduling::load(&path).expect("valid");
        let preemption = file.workloads.iter().find(|workload| workload.name == "preemption").expect("there is one");
        let pod = file.pod(&preemption.before, "before", 7, 5);
        assert_eq!(pod["spec"]["nodeName"], "node-2");
        assert_eq!(pod["metadata"]["name"], "before-7");
        assert_eq!(numbered(&file.node, 5)["metadata"]["labels"]["topology.kubernetes.io/zone"], "zone-2");
    }

    #[test]
    fn numbers_are_filled_in() {
        let check = |text: &str, expected: &str| assert_eq!(number(text, 7), expected);
        check("plain", "plain");
        check("node-{i}", "node-7");
        check("{i%3} of {i}", "1 of 7");
        check("{i%0}", "7");
    }
}
