//! What was found: printed, and as `docs/vectors.md`.

use std::collections::BTreeMap;
use std::fmt::Write;

/// One class of vectors.
#[derive(Debug, Default)]
pub(crate) struct Class {
    /// What it is.
    pub(crate) name: String,
    /// Where it comes from, or what is to say about it.
    pub(crate) note: String,
    /// How many there are.
    pub(crate) total: usize,
    /// What does not hold, one line each, and why.
    pub(crate) failures: Vec<Failure>,
    /// Differences that are meant, by reason: how many, and the first.
    pub(crate) explained: BTreeMap<&'static str, (usize, String)>,
    /// There is nothing of ours to hold against them.
    pub(crate) not_run: bool,
}

/// A vector that does not hold.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Which one.
    pub(crate) vector: String,
    /// What is wrong.
    pub(crate) why: String,
}

impl Class {
    pub(crate) fn new(name: impl Into<String>, note: impl Into<String>) -> Class {
        Class { name: name.into(), note: note.into(), ..Class::default() }
    }

    /// Counts a vector; what it says is wrong with it makes it a failure.
    pub(crate) fn count(&mut self, vector: &str, wrong: impl IntoIterator<Item = String>) {
        self.total += 1;
        self.failures.extend(wrong.into_iter().map(|why| Failure { vector: vector.to_owned(), why }));
    }

    /// Notes a difference that is meant.
    pub(crate) fn explain(&mut self, reason: &'static str, example: &str) {
        self.explained.entry(reason).or_insert_with(|| (0, example.to_owned())).0 += 1;
    }

    /// Whether all vectors hold.
    pub(crate) fn holds(&self) -> bool {
        self.failures.is_empty()
    }

    fn failed(&self) -> usize {
        let mut vectors: Vec<&str> = self.failures.iter().map(|failure| failure.vector.as_str()).collect();
        vectors.sort_unstable();
        vectors.dedup();
        vectors.len()
    }

    fn result(&self) -> String {
        match self.not_run {
            true => format!("not run ({})", self.total),
            false => format!("{} of {}", self.total - self.failed(), self.total),
        }
    }

    /// For the terminal.
    pub(crate) fn summary(&self, failures_max: usize) -> String {
        let mut out = format!("{:52} {}\n", self.name, self.result());
        for failure in self.failures.iter().take(failures_max) {
            let _ = writeln!(out, "    {}: {}", failure.vector, shortened(&failure.why));
        }
        if self.failures.len() > failures_max {
            let _ = writeln!(out, "    and {} more", self.failures.len() - failures_max);
        }
        for (reason, (count, example)) in &self.explained {
            let _ = writeln!(out, "    {count:6} x {reason} (first: {})", shortened(example));
        }
        out
    }
}

fn shortened(text: &str) -> String {
    let mut out: String = text.chars().take(240).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

/// The report.
pub(crate) fn document(classes: &[Class]) -> String {
    let mut out = String::from(
        "# Upstream's published data against ours\n\nWritten by `cargo xtask vectors`; never edited by hand. A vector holds when ours is the same as \
         upstream's, or differs\nonly for a reason that is listed.\n\n| Class | Holds | From |\n|---|---:|---|\n",
    );
    for class in classes {
        let _ = writeln!(out, "| {} | {} | {} |", class.name, class.result(), class.note);
    }
    let explained: Vec<&Class> = classes.iter().filter(|class| !class.explained.is_empty()).collect();
    if !explained.is_empty() {
        out.push_str("\n## Differences that are meant\n");
    }
    for class in explained {
        let _ = writeln!(out, "\n### {}\n\n| Count | Why | The first |\n|---:|---|---|", class.name);
        for (reason, (count, example)) in &class.explained {
            let _ = writeln!(out, "| {count} | {reason} | `{}` |", cell(&shortened(example)));
        }
    }
    let failed: Vec<&Class> = classes.iter().filter(|class| !class.holds()).collect();
    if !failed.is_empty() {
        out.push_str("\n## Differences that are not meant\n");
    }
    for class in failed {
        let _ = writeln!(out, "\n### {}\n", class.name);
        for failure in &class.failures {
            let _ = writeln!(out, "- {}: `{}`", failure.vector, cell(&shortened(&failure.why)));
        }
    }
    out.push_str(
        "\n## What is not here\n\nUpstream's tests of structured-merge-diff, of the CEL libraries, of quantities, selectors and patches are Go code, not data: \
         only\ntheir data files can be read. Behaviour is judged by `cargo xtask integration` and `cargo xtask conformance`.\n",
    );
    out
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('`', "'").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_vector() {
        let mut class = Class::new("Files", "somewhere");
        class.count("a", None);
        class.count("b", ["one".to_owned(), "two".to_owned()]);
        class.explain("it is meant", "here");
        class.explain("it is meant", "there");
        assert_eq!((class.result().as_str(), class.holds()), ("1 of 2", false));
        let document = document(&[class]);
        for line in ["| Files | 1 of 2 | somewhere |", "| 2 | it is meant | `here` |", "- b: `two`"] {
            assert!(document.contains(line), "{document}");
        }
    }
}
