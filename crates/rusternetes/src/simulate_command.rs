//! `rusternetes scheduler simulate`: where pods would go and why not elsewhere, against a live cluster or a dump of one. Only reads.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use apimachinery::yaml;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use scheduler::{Cluster, Config, Fate, Simulation, Verdict};
use serde_json::{Value, json};

use crate::exit::{self, Exit};

/// What to try.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Pods, or workloads with a template of them, in YAML or JSON; - reads the standard input.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The cluster. It is only read.
    #[arg(long, value_name = "FILE", conflicts_with = "dump", required_unless_present = "dump")]
    kubeconfig: Option<PathBuf>,
    /// Instead of a cluster its objects, as `kubectl get nodes,pods,... -A -o yaml` prints them. May be given again.
    #[arg(long, value_name = "FILE")]
    dump: Vec<PathBuf>,
    /// A KubeSchedulerConfiguration, if the scheduler has one. Its extenders are not asked.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What each node says: `text` counts the reasons, `wide` names every node, `json` is everything.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Wide,
    Json,
}

/// Runs it. The exit code is 1 when a pod would stay pending.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let config = match &options.config {
        None => Config::default(),
        Some(path) => Config::parse(&text(path)?).with_context(|| format!("cannot use {}", path.display()))?,
    };
    let mut pods = Vec::new();
    for path in &options.files {
        for object in documents(path)? {
            pods.extend(scheduler::pods_of(&object).with_context(|| format!("cannot use {}", path.display()))?);
        }
    }
    if pods.is_empty() {
        return Err(Exit::new(exit::USAGE, "there are no pods in the files").into());
    }
    let (cluster, pods) = match &options.kubeconfig {
        Some(path) => runtime.block_on(live(path, pods))?,
        None => {
            let objects = options.dump.iter().map(|path| documents(path)).collect::<anyhow::Result<Vec<_>>>()?;
            (Cluster::from_dump(objects.concat())?, pods)
        }
    };
    let mut simulation = Simulation::new(&config, cluster)?;
    let verdicts: Vec<Verdict> = pods.into_iter().map(|pod| simulation.place(pod)).collect();
    let printed = match options.output {
        Output::Json => serde_json::to_string_pretty(&verdicts.iter().map(as_json).collect::<Vec<_>>())? + "\n",
        output => verdicts.iter().map(|verdict| as_text(verdict, output == Output::Wide)).collect(),
    };
    // A closed output is no reason to fail differently.
    let _ = std::io::stdout().write_all(printed.as_bytes());
    let pending = verdicts.iter().filter(|verdict| matches!(verdict.fate, Fate::Pending { .. })).count();
    anyhow::ensure!(pending == 0, "{pending} of {} pods would stay pending", verdicts.len());
    Ok(())
}

/// The cluster of a kubeconfig, and the pods as it would have them.
async fn live(kubeconfig: &Path, pods: Vec<Pod>) -> anyhow::Result<(Cluster, Vec<Pod>)> {
    let client = client::from_kubeconfig(kubeconfig).await?;
    let pods = admitted(&client, pods).await;
    Ok((Cluster::read(&client).await?, pods))
}

/// The pods as the API server would store them, by a create that is not kept; where that is refused, as they were written.
async fn admitted(client: &kube::Client, pods: Vec<Pod>) -> Vec<Pod> {
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let mut answers = Vec::new();
    for pod in pods {
        let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api = Api::namespaced(client.clone(), &namespace);
        match api.create(&dry_run, &pod).await {
            Ok(stored) => answers.push(stored),
            Err(error) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                eprintln!(
                    "warning: {namespace}/{name} is taken as it is written, without the defaults of the API server: {error}"
                );
                answers.push(pod);
            }
        }
    }
    answers
}

fn text(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read the standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The documents of a YAML or JSON file.
fn documents(path: &Path) -> anyhow::Result<Vec<Value>> {
    let documents =
        yaml::parse_all(text(path)?.as_bytes()).with_context(|| format!("{} is neither YAML nor JSON", path.display()))?;
    documents.iter().map(|document| Ok(serde_json::from_str(&document.value.to_json())?)).collect()
}

fn as_text(verdict: &Verdict, wide: bool) -> String {
    let mut lines = vec![match &verdict.fate {
        Fate::Bound { node } => format!("{}: {node}", verdict.pod),
        Fate::Preempts { node, victims, .. } => format!("{}: {node}, after {} would be evicted", verdict.pod, victims.join(", ")),
        Fate::Pending { message } => format!("{}: pending: {message}", verdict.pod),
    }];
    if wide {
        lines.extend(verdict.nodes.iter().map(|node| match node.score {
            Some(score) => format!("  {}: fits, score {score}", node.node),
            None => format!("  {}: {}", node.node, node.reasons.join(", ")),
        }));
    } else {
        let fitting = verdict.nodes.iter().filter(|node| node.score.is_some()).count();
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in verdict.nodes.iter().flat_map(|node| &node.reasons) {
            *reasons.entry(reason).or_default() += 1;
        }
        lines.push(format!("  {fitting} of {} nodes fit", verdict.nodes.len()));
        lines.extend(reasons.into_iter().map(|(reason, count)| format!("  {count} {reason}")));
    }
    lines.join("\n") + "\n"
}

fn as_json(verdict: &Verdict) -> Value {
    let nodes: Vec<Value> = verdict
        .nodes
        .iter()
        .map(|node| json!({"node": node.node, "fits": node.score.is_some(), "score": node.score, "reasons": node.reasons}))
        .collect();
    let (node, victims, message) = match &verdict.fate {
        Fate::Bound { node } => (Some(node), None, None),
        Fate::Preempts { node, victims, message } => (Some(node), Some(victims), Some(message)),
        Fate::Pending { message } => (None, None, Some(message)),
    };
    json!({"pod": verdict.pod, "node": node, "victims": victims, "message": message, "nodes": nodes})
}

#[cfg(test)]
mod tests {
    use scheduler::NodeOpinion;

    use super::*;

    #[test]
    fn a_verdict_is_readable() {
        let opinion = |node: &str, score: Option<i64>, reasons: &[&str]| NodeOpinion {
            node: node.to_owned(),
            score,
            reasons: reasons.iter().map(ToString::to_string).collect(),
        };
        let nodes = vec![
            opinion("a", Some(7), &[]),
            opinion("b", None, &["Insufficient cpu"]),
            opinion("c", None, &["Insufficient cpu"]),
        ];
        let verdict = Verdict { pod: "d/p".into(), fate: Fate::Bound { node: "a".into() }, nodes };
        assert_eq!(as_text(&verdict, false), "d/p: a\n  1 of 3 nodes fit\n  2 Insufficient cpu\n");
        assert_eq!(as_text(&verdict, true), "d/p: a\n  a: fits, score 7\n  b: Insufficient cpu\n  c: Insufficient cpu\n");
        assert_eq!(as_json(&verdict)["nodes"][1]["reasons"][0], "Insufficient cpu");
    }
}
