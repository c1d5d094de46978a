//! The list of conformance specs (`conformance/specs.txt`) and the choice of those to run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::process;

/// One spec of the suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    /// Its full name, as upstream writes it.
    pub(crate) name: String,
    /// Its special interest group, without `sig-`.
    pub(crate) sig: String,
    /// It must run alone.
    pub(crate) serial: bool,
}

/// Which specs are wanted; everything that is set must hold.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct Selection {
    /// Only specs whose name contains this text; may be repeated (any of them).
    #[arg(long, value_name = "TEXT")]
    focus: Vec<String>,
    /// Not the specs whose name contains this text; may be repeated.
    #[arg(long, value_name = "TEXT")]
    skip: Vec<String>,
    /// Only specs of this group (`node`, `apps`, ...); may be repeated (any of them).
    #[arg(long, value_name = "SIG")]
    sig: Vec<String>,
}

/// Reads the list: a spec a line, its name, a tab, its labels.
pub(crate) fn load(file: &Path) -> anyhow::Result<Vec<Spec>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines().map(parse).collect()
}

fn parse(line: &str) -> anyhow::Result<Spec> {
    let (name, labels) = line.split_once('\t').with_context(|| format!("a spec without labels: {line}"))?;
    let labels: Vec<&str> = labels.split(',').collect();
    let sig = labels.iter().find_map(|label| label.strip_prefix("sig-"));
    let sig = sig.with_context(|| format!("a spec without a SIG: {name}"))?;
    Ok(Spec { name: name.to_owned(), sig: sig.to_owned(), serial: labels.contains(&"Serial") })
}

/// Every spec of the suite, as the suite itself lists them: lines of `FILE:LINE: NAME`. A spec whose name has no SIG is not listed.
pub(crate) fn list(suite: &Path) -> anyhow::Result<Vec<Spec>> {
    let printed = process::output(Command::new(suite).arg("--list-tests")).context("cannot list the suite's specs")?;
    let mut seen = BTreeSet::new();
    Ok(printed.lines().filter_map(listed).filter(|spec| seen.insert(spec.name.clone())).collect())
}

fn listed(line: &str) -> Option<Spec> {
    let (_, name) = line.split_once(": [sig-")?;
    let (sig, _) = name.split_once(']')?;
    Some(Spec { name: format!("[sig-{name}"), sig: sig.to_owned(), serial: name.contains("[Serial]") })
}

impl Selection {
    /// The specs that are wanted, in the list's order. An unknown SIG or a choice of nothing is an error.
    pub(crate) fn apply(&self, specs: &[Spec]) -> anyhow::Result<Vec<Spec>> {
        let known: BTreeSet<&str> = specs.iter().map(|spec| spec.sig.as_str()).collect();
        let wanted: Vec<&str> = self.sig.iter().map(|sig| sig.strip_prefix("sig-").unwrap_or(sig)).collect();
        for sig in &wanted {
            ensure!(known.contains(sig), "there is no SIG {sig}: one of {}", Vec::from_iter(known).join(", "));
        }
        let chosen: Vec<Spec> = specs
            .iter()
            .filter(|spec| wanted.is_empty() || wanted.contains(&spec.sig.as_str()))
            .filter(|spec| self.focus.is_empty() || self.focus.iter().any(|text| spec.name.contains(text)))
            .filter(|spec| !self.skip.iter().any(|text| spec.name.contains(text)))
            .cloned()
            .collect();
        ensure!(!chosen.is_empty(), "no spec fits --sig, --focus and --skip (`--list` shows what there is)");
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<Spec> {
        ["[sig-node] Pods run\tConformance,sig-node", "[sig-apps] Job runs [Serial]\tSerial,sig-apps"]
            .map(|line| parse(line).unwrap())
            .into()
    }

    #[test]
    fn choosing() {
        let choose = |sig: &[&str], focus: &[&str], skip: &[&str]| {
            let own = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
            let selection = Selection { sig: own(sig), focus: own(focus), skip: own(skip) };
            selection.apply(&specs()).map(|chosen| chosen.iter().map(|spec| spec.sig.clone()).collect::<Vec<_>>().join(","))
        };
        assert_eq!(choose(&[], &[], &[]).unwrap(), "node,apps");
        assert_eq!(choose(&["sig-node"], &[], &[]).unwrap(), "node");
        assert_eq!(choose(&[], &["Pods", "Job"], &["Serial"]).unwrap(), "node");
        assert!(choose(&["nodes"], &[], &[]).unwrap_err().to_string().contains("apps, node"));
        assert!(choose(&[], &["nothing like it"], &[]).is_err());
        assert!(specs()[1].serial && !specs()[0].serial);
    }

    #[test]
    fn what_the_suite_lists() {
        let spec = |name: &str, sig: &str, serial| Some(Spec { name: name.to_owned(), sig: sig.to_owned(), serial });
        let name = "[sig-node] Pods [Serial] run: fast";
        assert_eq!(listed(&format!("    k8s.io/x/pods.go:12: {name}")), spec(name, "node", true));
        assert_eq!(listed("The following spec names can be used:"), None);
        assert_eq!(listed("    k8s.io/x/y.go:12: a spec of nobody"), None);
    }
}
