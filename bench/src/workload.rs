//! Workloads as data: what is asked of a server, in which order, by how many connections. The files are in `bench/workloads/`.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// A sequence of phases that run one after the other against one server.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Shown above the results.
    pub(crate) title: String,
    /// What is done, in this order.
    pub(crate) phases: Vec<Phase>,
}

/// One kind of request, many times.
#[derive(Debug, Clone)]
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
    pub(crate) connections: usize,
    /// Requests in all.
    pub(crate) requests: usize,
    /// How many objects the pool has, when that is less than the requests: they are taken in turn.
    pub(crate) objects: Option<usize>,
    /// Appended to the URL of a list or watch (`fieldSelector=spec.nodeName%3Dnode-7`).
    pub(crate) query: String,
    /// The encoding of bodies and answers.
    pub(crate) content: Content,
    /// For lists: ask for a compressed answer.
    pub(crate) gzip: bool,
    /// For `watch`: how many watch streams receive the events of the requests, which are merge patches of an annotation.
    pub(crate) watchers: usize,
    /// For `watch`: each stream follows the pods of a node of its own.
    pub(crate) by_node: bool,
    /// For `watch`: writes a second in all, rather than as many as go.
    pub(crate) pace: Option<f64>,
    /// Not a result of its own: only prepares the next phases.
    pub(crate) setup: bool,
    /// How many times the peer's rate is wanted.
    pub(crate) goal: Option<f64>,
}

impl Phase {
    /// The object that a request works on.
    pub(crate) fn object_of(&self, request: usize) -> usize {
        request % self.objects.unwrap_or(self.requests).max(1)
    }
}

/// A workload file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    title: String,
    phases: Vec<Entry>,
}

/// One phase of a file, or several that differ in connections and encoding.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    name: String,
    verb: Verb,
    object: Object,
    /// Where there are several connections or encodings, each has a pool of its own.
    pool: String,
    #[serde(default = "one")]
    connections: Several<usize>,
    /// One number for each of `connections`, or one for all.
    requests: Several<usize>,
    objects: Option<usize>,
    #[serde(default)]
    query: String,
    #[serde(default = "json")]
    content: Several<Content>,
    #[serde(default)]
    gzip: bool,
    #[serde(default)]
    watchers: usize,
    #[serde(default)]
    by_node: bool,
    pace: Option<f64>,
    #[serde(default)]
    setup: bool,
    /// One number for each of `connections`, or one for all.
    goal: Option<Several<f64>>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Several<T> {
    One(T),
    Many(Vec<T>),
}

fn one() -> Several<usize> {
    Several::One(1)
}

fn json() -> Several<Content> {
    Several::One(Content::Json)
}

impl<T: Copy> Several<T> {
    fn all(&self) -> Vec<T> {
        match self {
            Several::One(value) => vec![*value],
            Several::Many(values) => values.clone(),
        }
    }

    fn at(&self, index: usize) -> Option<T> {
        match self {
            Several::One(value) => Some(*value),
            Several::Many(values) => values.get(index).copied(),
        }
    }
}

impl Entry {
    fn phases(&self) -> anyhow::Result<Vec<Phase>> {
        let (contents, connections) = (self.content.all(), self.connections.all());
        let mut phases = Vec::new();
        for content in &contents {
            for (index, count) in connections.iter().enumerate() {
                let mut name = self.name.clone();
                let mut pool = self.pool.clone();
                if connections.len() > 1 {
                    name = format!("{name}, {count} connection{}", if *count == 1 { "" } else { "s" });
                    pool = format!("{pool}-{count}");
                }
                if contents.len() > 1 {
                    pool = format!("{pool}-{}", content.name());
                }
                if *content == Content::Protobuf {
                    name = format!("{name}, protobuf");
                }
                let requests = self.requests.at(index).context("`requests` has fewer numbers than `connections`")?;
                phases.push(Phase {
                    name,
                    pool,
                    requests,
                    connections: *count,
                    content: *content,
                    verb: self.verb,
                    object: self.object,
                    objects: self.objects,
                    query: self.query.clone(),
                    gzip: self.gzip,
                    watchers: self.watchers,
                    by_node: self.by_node,
                    pace: self.pace,
                    setup: self.setup,
                    goal: self.goal.as_ref().and_then(|goal| goal.at(index)),
                });
            }
        }
        Ok(phases)
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
    /// Merge patches by `connections` writers, seen by `watchers` streams.
    Watch,
    /// The start of an informer: a connection of its own, and a watch with `sendInitialEvents` up to the bookmark that ends the state.
    Watchlist,
}

/// What the objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Object {
    /// A ConfigMap with 1 KiB of data.
    Configmap1k,
    /// A Pod of about 5 KB, bound to one of 100 nodes that do not exist.
    Pod5k,
    /// A CustomResourceDefinition with a schema of 40 fields.
    Definition,
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

    fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Protobuf => "protobuf",
        }
    }
}

/// Reads and checks a workload.
pub(crate) fn load(path: &Path) -> anyhow::Result<Workload> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the workload {}", path.display()))?;
    let document: Document = serde_saphyr::from_str(&text).with_context(|| format!("{} is not a workload", path.display()))?;
    Ok(Workload { title: document.title, phases: expand(&document.phases)? })
}

/// Makes the phases of a file's entries, and checks them.
pub(crate) fn expand(entries: &[Entry]) -> anyhow::Result<Vec<Phase>> {
    let mut phases: Vec<Phase> = Vec::new();
    for entry in entries {
        phases.extend(entry.phases().with_context(|| format!("phase {:?}", entry.name))?);
    }
    for (index, phase) in phases.iter().enumerate() {
        let name = &phase.name;
        ensure!(phase.connections > 0, "phase {name:?}: connections must be at least 1");
        ensure!(phase.requests > 0, "phase {name:?}: requests must be at least 1");
        ensure!((phase.verb == Verb::Watch) == (phase.watchers > 0), "phase {name:?}: `watchers` goes with the verb `watch`");
        ensure!(!phase.by_node || phase.object == Object::Pod5k, "phase {name:?}: only pods have nodes");
        ensure!(phases[..index].iter().all(|other| other.name != *name), "two phases are called {name:?}");
    }
    Ok(phases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_workload_is_valid() {
        for name in ["api.yaml", "definitions.yaml", "pods.yaml", "quick.yaml"] {
            let workload = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(name)).expect(name);
            assert!(!workload.phases.is_empty());
        }
    }

    fn parse(phases: &str) -> anyhow::Result<Workload> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("w.yaml");
        std::fs::write(&path, format!("title: t\nphases: [{phases}]")).expect("writable");
        load(&path)
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("{name: a, verb: fly, object: pod5k, pool: p, requests: 1}", "is not a workload"),
            ("{name: a, verb: get, object: pod5k, pool: p, requests: 0}", "requests must be"),
            ("{name: a, verb: watch, object: pod5k, pool: p, requests: 1}", "`watchers` goes"),
            ("{name: a, verb: get, object: pod5k, pool: p, connections: [1, 2], requests: [1]}", "fewer numbers"),
            ("{name: a, verb: watch, object: configmap1k, pool: p, requests: 1, watchers: 1, by_node: true}", "only pods"),
        ];
        for (phases, expected) in cases {
            let error = format!("{:#}", parse(phases).expect_err(phases));
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn several_connections_and_encodings_are_phases_of_their_own() {
        let entry = "{name: get, verb: get, object: pod5k, pool: p, connections: [1, 16], requests: [5, 50], \
                     content: [json, protobuf], goal: [2, 3]}";
        let phases = parse(entry).expect("valid").phases;
        let seen: Vec<_> = phases.iter().map(|phase| (phase.name.as_str(), phase.pool.as_str(), phase.requests)).collect();
        let expected = [
            ("get, 1 connection", "p-1-json", 5),
            ("get, 16 connections", "p-16-json", 50),
            ("get, 1 connection, protobuf", "p-1-protobuf", 5),
            ("get, 16 connections, protobuf", "p-16-protobuf", 50),
        ];
        assert_eq!(seen, expected);
        assert_eq!(phases[3].goal, Some(3.0));
    }
}
