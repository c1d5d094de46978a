//! What ginkgo prints, read line by line: a block for each finished spec, between lines of dashes.
//!
//! Ginkgo prints whole blocks only when it runs in several processes; we always run it so.

use super::specs::Spec;
use super::table::{Outcome, Verdict};

/// A spec that has ended.
pub(crate) struct Finished {
    /// Its name in the list.
    pub(crate) name: String,
    /// How it ended, and after how many seconds.
    pub(crate) verdict: Verdict,
    /// Everything that ginkgo printed about it.
    pub(crate) text: String,
}

/// Cuts the stream into blocks.
pub(crate) struct Reader<'a> {
    specs: &'a [Spec],
    block: Vec<String>,
}

impl<'a> Reader<'a> {
    /// A reader that knows these specs.
    pub(crate) fn new(specs: &'a [Spec]) -> Self {
        Self { specs, block: Vec::new() }
    }

    /// Takes a line without its line feed. A spec is known to be finished when the next block starts.
    pub(crate) fn line(&mut self, line: &str) -> Option<Finished> {
        if line.len() >= 10 && line.bytes().all(|byte| byte == b'-') {
            return self.end();
        }
        self.block.push(line.to_owned());
        None
    }

    /// Ends the last block.
    pub(crate) fn end(&mut self) -> Option<Finished> {
        let block = std::mem::take(&mut self.block);
        let (header, rest) = block.split_first()?;
        let verdict = verdict(header)?;
        // A leaf is marked in the name of a spec that failed.
        let title = rest.first()?.replace("[It] ", "");
        let spec = self.specs.iter().filter(|spec| title.starts_with(&spec.name)).max_by_key(|spec| spec.name.len())?;
        Some(Finished { name: spec.name.clone(), verdict, text: block.join("\n") + "\n" })
    }
}

/// The first line of a block: `• [4.213 seconds]`, `• [FAILED] [61.002 seconds]`, `S [SKIPPED] [0.120 seconds]`.
fn verdict(header: &str) -> Option<Verdict> {
    let outcome = match header.chars().next()? {
        '•' if header.starts_with("• [") => Outcome::Passed,
        'S' if header.starts_with("S [SKIPPED]") => Outcome::Skipped,
        _ => return None,
    };
    let (marks, seconds) = header.rsplit_once('[')?;
    let seconds = seconds.strip_suffix(" seconds]")?.parse().ok()?;
    let failed = outcome == Outcome::Passed && marks.contains('[');
    Some(Verdict { outcome: if failed { Outcome::Failed } else { outcome }, seconds })
}

/// The reason that ginkgo gives for a failure, on one line.
pub(crate) fn reason(text: &str) -> Option<&str> {
    text.lines().map(str::trim).filter_map(|line| line.strip_prefix("[FAILED] ")).find(|reason| !reason.starts_with("in ["))
}

/// The namespaces whose events the suite collected, which are those that the failed spec made.
pub(crate) fn namespaces(text: &str) -> Vec<&str> {
    let marker = "Collecting events from namespace \"";
    let mut found: Vec<&str> = text.lines().filter_map(|line| line.split_once(marker)?.1.split('"').next()).collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
Running Suite: Kubernetes e2e suite
------------------------------
• [4.213 seconds]
[sig-node] Pods should run [Conformance] [sig-node, Conformance]
/path/pods.go:226
------------------------------
• [FAILED] [61.002 seconds]
[sig-node] Pods [It] should run fast [Conformance] [sig-node, Conformance]
  STEP: Collecting events from namespace \"pods-1\". @ 11/23/26
  [FAILED] timed out
  In [It] at: x.go:1
------------------------------
S [SKIPPED] [0.120 seconds]
[sig-node] Pods should skip [Conformance] [sig-node]
------------------------------
[SynchronizedAfterSuite] PASSED [0.001 seconds]
------------------------------
";

    #[test]
    fn blocks() {
        let names =
            ["[sig-node] Pods should run", "[sig-node] Pods should run fast [Conformance]", "[sig-node] Pods should skip"];
        let specs = names.map(|name| Spec { name: name.to_owned(), sig: "node".to_owned(), serial: false });
        let mut reader = Reader::new(&specs);
        let finished: Vec<Finished> = PRINTED.lines().filter_map(|line| reader.line(line)).collect();
        let seen: Vec<(&str, Outcome, f64)> =
            finished.iter().map(|one| (one.name.as_str(), one.verdict.outcome, one.verdict.seconds)).collect();
        let expected =
            [(names[0], Outcome::Passed, 4.213), (names[1], Outcome::Failed, 61.002), (names[2], Outcome::Skipped, 0.12)];
        assert_eq!(seen, expected);
        assert_eq!(reason(&finished[1].text), Some("timed out"));
        assert_eq!(namespaces(&finished[1].text), ["pods-1"]);
        assert!(reader.end().is_none());
    }
}
