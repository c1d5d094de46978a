//! One call of upstream's suite: ginkgo with the e2e binary, watched while it runs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::cluster::Cluster;
use super::evidence;
use super::output::{self, Finished, Reader};
use super::specs::Spec;
use super::table::{Outcome, Table, Verdict};

/// Linux takes no single argument of 128 KiB; the choice of specs is one.
const FOCUS_MAX: usize = 128 * 1024 - 1;

/// How the suite is called.
pub(crate) struct Suite<'a> {
    /// What it runs against.
    pub(crate) cluster: &'a Cluster,
    /// Where `ginkgo` and `e2e.test` are.
    pub(crate) programs: &'a Path,
    /// What the specs of the command line call.
    pub(crate) kubectl: &'a Path,
    /// Where logs, junit and evidence go.
    pub(crate) directory: &'a Path,
    /// How many processes run specs.
    pub(crate) processes: usize,
    /// The media type that the suite's clients ask for; upstream's default (protobuf) unless given.
    pub(crate) content_type: Option<&'a str>,
}

impl Suite<'_> {
    /// Runs the specs and hands each verdict to `record` when it is there. A spec that fails is no error of the call.
    pub(crate) fn run(
        &self,
        name: &str,
        specs: &[Spec],
        past: &Table,
        mut record: impl FnMut(&str, Verdict) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let focus = focus(specs);
        ensure!(focus.len() <= FOCUS_MAX, "too many specs for one call: narrow the choice with --sig or --focus");
        let log = self.directory.join(format!("{name}.log"));
        let mut copy = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command(name, &focus);
        let mut ginkgo = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().context("cannot start ginkgo")?;
        let printed = ginkgo.stdout.take().context("ginkgo's output is a pipe")?;
        let mut progress = Progress::new(specs, past, self.processes);
        let mut reader = Reader::new(specs);
        let mut take = |finished: Finished| -> anyhow::Result<()> {
            progress.show(&finished);
            if finished.verdict.outcome == Outcome::Failed {
                evidence::collect(self.cluster, self.kubectl, self.directory, &finished)?;
            }
            record(&finished.name, finished.verdict)
        };
        for line in BufReader::new(printed).split(b'\n') {
            let line = line.context("cannot read what ginkgo prints")?;
            let line = String::from_utf8_lossy(&line);
            writeln!(copy, "{line}").with_context(|| format!("cannot write {}", log.display()))?;
            if let Some(finished) = reader.line(&line) {
                take(finished)?;
            }
        }
        reader.end().map_or(Ok(()), take)?;
        // Its code says whether all passed, which we know; a suite that did not run is seen by what is missing.
        ginkgo.wait().context("cannot wait for ginkgo")?;
        eprintln!("{name}: {} of {} specs ran; the log is {}", progress.done, specs.len(), log.display());
        Ok(())
    }

    fn command(&self, name: &str, focus: &str) -> std::process::Command {
        let mut command = self.cluster.command(&self.programs.join("ginkgo"));
        // At least two: one process would stream instead of printing whole blocks.
        command.arg(format!("--procs={}", self.processes.max(2))).args(["-v", "--no-color", "--timeout=24h"]);
        command.arg(format!("--focus={focus}")).arg(self.programs.join("e2e.test")).arg("--");
        let path = |flag: &str, path: PathBuf| format!("--{flag}={}", path.display());
        command.arg(path("kubeconfig", self.cluster.kubeconfig())).arg(path("kubectl-path", self.kubectl.to_path_buf()));
        command.arg(path("report-dir", self.directory.join(format!("{name}-junit"))));
        // The namespace of a failed spec stays until its events and logs are collected.
        command.args(["--provider=skeleton", "--dns-domain=cluster.local", "--delete-namespace-on-failure=false"]);
        if let Some(content_type) = self.content_type {
            command.arg(format!("--kube-api-content-type={content_type}"));
        }
        // Ours is the only proxy between the suite and the cluster.
        command.env_remove("http_proxy").env_remove("https_proxy").env_remove("HTTP_PROXY").env_remove("HTTPS_PROXY");
        command
    }
}

/// A regular expression for exactly these specs; ginkgo puts the suite's description before the name.
fn focus(specs: &[Spec]) -> String {
    let names: Vec<String> = specs.iter().map(|spec| escape(&spec.name)).collect();
    format!("suite (?:{})", names.join("|"))
}

/// Escapes what has a meaning in Go's regular expressions.
fn escape(text: &str) -> String {
    let special = |character| r"\.+*?()|[]{}^$".contains(character);
    text.chars().flat_map(|character| special(character).then_some('\\').into_iter().chain([character])).collect()
}

/// The line that is shown for each spec.
struct Progress {
    started: Instant,
    processes: usize,
    /// What each spec took in the past, in seconds.
    expected: BTreeMap<String, f64>,
    total: usize,
    done: usize,
    failed: usize,
}

impl Progress {
    /// A spec that was never run is expected to take as long as upstream's average.
    const AVERAGE: f64 = 14.0;

    fn new(specs: &[Spec], past: &Table, processes: usize) -> Self {
        let seconds = |spec: &Spec| past.get(&spec.name).map_or(Self::AVERAGE, |verdict| verdict.seconds);
        let expected = specs.iter().map(|spec| (spec.name.clone(), seconds(spec))).collect();
        Self { started: Instant::now(), processes, expected, total: specs.len(), done: 0, failed: 0 }
    }

    fn show(&mut self, finished: &Finished) {
        self.done += 1;
        self.failed += usize::from(finished.verdict.outcome == Outcome::Failed);
        self.expected.remove(&finished.name);
        let seconds: f64 = self.expected.values().sum();
        let left = Duration::from_secs_f64(seconds / self.processes as f64).as_secs();
        let word = finished.verdict.outcome.word();
        eprintln!(
            "[{}/{} done, {} failed, {} s, about {left} s left] {word} {:.1} s {}",
            self.done,
            self.total,
            self.failed,
            self.started.elapsed().as_secs(),
            finished.verdict.seconds,
            finished.name
        );
        if let Some(reason) = output::reason(&finished.text).filter(|_| finished.verdict.outcome == Outcome::Failed) {
            eprintln!("    {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_focus_is_exact() {
        let spec = |name: &str| Spec { name: name.to_owned(), sig: "node".to_owned(), serial: false };
        let regex = focus(&[spec("[sig-node] a (b) [x]"), spec("c/d.e")]);
        assert_eq!(regex, r"suite (?:\[sig-node\] a \(b\) \[x\]|c/d\.e)");
    }
}
