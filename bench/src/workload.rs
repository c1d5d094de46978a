//! Workloads as data: what is asked of a server, in which order, by how many connections. The files are in `bench/workloads/`.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// A sequence of phases that run one after the other against one server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workload {
    /// Shown above the results.
    pub(crate) title: String,
    /// What is done, in this order.
    pub(crate) phases: Vec<Phase>,
}

/// One kind of request, many times.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    /// Unique within the workload; a line of the results.
    pub(crate) name: String,
    /// What each request does.
    pub(crate) verb: Verb,
    /// The objects that are created, read or written.
    pub(crate) object: Object,
    /// Objects are called `POOL-0`, `POOL-1`, ...; phases with the same pool work on the same objects.
    pub(crate) pool: String,
    /// Parallel connections, each with one request at a time.
    #[serde(default = "one")]
    pub(crate) connections: usize,
    /// Requests in all.
    pub(crate) requests: usize,
    /// How many objects the pool has, when that is less than the requests: they are taken in turn.
    pub(crate) objects: Option<usize>,
    /// Appended to the URL of a list or watch (`fieldSelector=spec.nodeName%3Dnode-7`).
    #[serde(default)]
    pub(crate) query: String,
    /// The encoding of bodies and answers.
    #[serde(default)]
    pub(crate) content: Content,
    /// For lists: ask for a compressed answer.
    #[serde(default)]
    pub(crate) gzip: bool,
    /// For `watch`: how many watch streams receive the events of the requests, which are updates.
    #[serde(default)]
    pub(crate) watchers: usize,
    /// Not a result of its own: only prepares the next phases.
    #[serde(default)]
    pub(crate) setup: bool,
}

fn one() -> usize {
    1
}

impl Phase {
    /// The object that a request works on.
    pub(crate) fn object_of(&self, request: usize) -> usize {
        request % self.objects.unwrap_or(self.requests).max(1)
    }
}

/// What a request of a phase does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// POST of a new object.
    Create,
    /// GET of one object.
    Get,
    /// PUT of a whole object, without a resourceVersion.
    Update,
    /// Strategic merge patch of one label.
    Patch,
    /// Merge patch of the status subresource.
    Status,
    /// DELETE of one object.
    Delete,
    /// GET of the whole collection of the benchmark's namespace.
    List,
    /// Updates by one connection, seen by `watchers` streams.
    Watch,
}

/// What the objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Object {
    /// A ConfigMap with 1 KiB of data.
    Configmap1k,
    /// A Pod of about 5 KB, bound to one of 100 nodes that do not exist.
    Pod5k,
}

/// The encoding of a request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Content {
    /// `application/json`.
    #[default]
    Json,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Content {
    /// The media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// Reads and checks a workload.
pub(crate) fn load(path: &Path) -> anyhow::Result<Workload> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the workload {}", path.display()))?;
    let workload: Workload = serde_saphyr::from_str(&text).with_context(|| format!("{} is not a workload", path.display()))?;
    for phase in &workload.phases {
        ensure!(phase.connections > 0, "phase {:?}: connections must be at least 1", phase.name);
        ensure!(phase.requests > 0, "phase {:?}: requests must be at least 1", phase.name);
        ensure!(
            (phase.verb == Verb::Watch) == (phase.watchers > 0),
            "phase {:?}: `watchers` goes with the verb `watch`",
            phase.name
        );
    }
    Ok(workload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_workload_is_valid() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
        let mut seen = 0;
        for entry in std::fs::read_dir(directory).expect("the directory is committed") {
            let workload = load(&entry.expect("readable").path()).expect("valid");
            assert!(!workload.phases.is_empty());
            seen += 1;
        }
        assert!(seen > 0);
    }

    #[test]
    fn mistakes_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("w.yaml");
        let cases = [
            ("title: t\nphases: [{name: a, verb: fly, object: pod5k, pool: p, requests: 1}]", "is not a workload"),
            ("title: t\nphases: [{name: a, verb: get, object: pod5k, pool: p, requests: 0}]", "requests must be"),
            ("title: t\nphases: [{name: a, verb: watch, object: pod5k, pool: p, requests: 1}]", "`watchers` goes"),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, text).expect("writable");
            let error = format!("{:#}", load(&path).expect_err(text));
            assert!(error.contains(expected), "{error}");
        }
    }
}
