//! What is kept of a spec that failed: what the suite printed about it, and the objects, events and logs of its namespaces, which are
//! removed afterwards.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::cluster::Cluster;
use super::output::{self, Finished};

/// Writes `failed/NAME.txt`.
pub(crate) fn collect(cluster: &Cluster, kubectl: &Path, directory: &Path, finished: &Finished) -> anyhow::Result<()> {
    let mut text = finished.text.clone();
    for namespace in output::namespaces(&finished.text) {
        let call = |arguments: &[&str]| {
            let mut command = cluster.command(kubectl);
            command
                .arg("--kubeconfig")
                .arg(cluster.kubeconfig())
                .args(["--request-timeout=10s", "-n", namespace])
                .args(arguments);
            command
        };
        let everything =
            "events,pods,services,endpointslices,deployments,replicasets,statefulsets,daemonsets,jobs,persistentvolumeclaims";
        section(&mut text, &mut call(&["get", everything, "-o", "yaml"]));
        let pods = call(&["get", "pods", "-o", "name"]).output().map(|output| output.stdout).unwrap_or_default();
        for pod in String::from_utf8_lossy(&pods).lines() {
            section(&mut text, &mut call(&["logs", pod, "--all-containers", "--prefix", "--tail=500"]));
        }
        // A namespace that is gone already is as good.
        let _ = call(&["delete", "namespace", namespace, "--wait=false", "--ignore-not-found"]).output();
    }
    let directory = directory.join("failed");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let file = directory.join(file_name(&finished.name));
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Appends what a command prints, errors too: what cannot be collected is no reason to stop.
fn section(text: &mut String, command: &mut Command) {
    let printed = match command.output() {
        Ok(output) => String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        Err(error) => error.to_string(),
    };
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    writeln!(text, "\n===== {}\n{printed}", arguments.join(" ")).expect("a String takes everything");
}

/// A spec's name as a file name: letters and digits, other characters become one dash.
fn file_name(name: &str) -> String {
    let words: Vec<&str> =
        name.split(|character: char| !character.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut file = words.join("-");
    file.truncate(200);
    file + ".txt"
}
