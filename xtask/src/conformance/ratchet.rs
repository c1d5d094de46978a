//! `conformance/passing.txt`: the specs that are known to pass. It only grows; a run in which one of them fails twice is a failure.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::specs::Spec;
use super::table::{Outcome, Table};

/// The list, and where it is kept.
pub(crate) struct Ratchet {
    file: PathBuf,
    names: BTreeSet<String>,
}

impl Ratchet {
    /// Reads the list; a missing file is an empty one.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        Ok(Self { file: file.to_owned(), names: text.lines().map(str::to_owned).collect() })
    }

    /// Whether a spec is known to pass.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Adds what passes now and writes the list.
    pub(crate) fn tighten(&mut self, specs: &[Spec], table: &Table) -> anyhow::Result<()> {
        let passed = |spec: &&Spec| table.get(&spec.name).is_some_and(|verdict| verdict.outcome == Outcome::Passed);
        self.names.extend(specs.iter().filter(passed).map(|spec| spec.name.clone()));
        let text: String = self.names.iter().map(|name| format!("{name}\n")).collect();
        std::fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// Specs that are known to pass, chosen by `seed`, as many as take about `seconds` of one process by what the table says. Specs that
    /// run alone are left out: they would wait for all others; so are those that take longer than `seconds_max`: one that is chosen last
    /// would decide how long the slice takes.
    pub(crate) fn slice(&self, specs: &[Spec], table: &Table, seed: &str, seconds: f64, seconds_max: f64) -> Vec<Spec> {
        let duration = |spec: &Spec| table.get(&spec.name).map_or(0.0, |verdict| verdict.seconds);
        let chosen = |spec: &&Spec| self.holds(&spec.name) && !spec.serial && duration(spec) <= seconds_max;
        let mut known: Vec<&Spec> = specs.iter().filter(chosen).collect();
        known.sort_by_key(|spec| {
            let mut hasher = DefaultHasher::new();
            (seed, &spec.name).hash(&mut hasher);
            hasher.finish()
        });
        let mut left = seconds;
        let fits = |spec: &&&Spec| {
            left -= duration(spec);
            left >= 0.0
        };
        known.iter().take_while(fits).map(|spec| (*spec).clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Verdict;
    use super::*;

    #[test]
    fn grows_and_slices() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("passing.txt");
        let specs: Vec<Spec> =
            (0..20).map(|n| Spec { name: format!("[sig-node] {n}"), sig: "node".to_owned(), serial: n == 0 }).collect();
        let mut table = Table::default();
        for spec in &specs[..15] {
            table.set(&spec.name, Verdict { outcome: Outcome::Passed, seconds: 10.0 }, "c");
        }
        table.set(&specs[15].name, Verdict { outcome: Outcome::Failed, seconds: 10.0 }, "c");
        Ratchet::read(&file).unwrap().tighten(&specs, &table).unwrap();
        let mut ratchet = Ratchet::read(&file).unwrap();
        assert_eq!(ratchet.names.len(), 15);
        table.set(&specs[1].name, Verdict { outcome: Outcome::Failed, seconds: 10.0 }, "d");
        ratchet.tighten(&specs, &table).unwrap();
        assert!(ratchet.holds(&specs[1].name), "what fails now is not forgotten");
        let slice = |seed| ratchet.slice(&specs, &table, seed, 45.0, 10.0);
        assert!(ratchet.slice(&specs, &table, "one", 45.0, 9.0).is_empty(), "all are too long");
        assert_eq!(slice("one").len(), 4);
        assert!(slice("one") == slice("one") && slice("one") != slice("two"));
        assert!(!ratchet.slice(&specs, &table, "one", 1e6, 1e6).contains(&specs[0]), "serial specs are not sliced");
    }
}
