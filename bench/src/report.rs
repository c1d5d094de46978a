//! Results as files: one JSON a run in `bench/results/`, and the tables in `docs/performance.md` made from all of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::load::Outcome;
use crate::machine::Machine;
use crate::page;

/// One run of one benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// `api`, `cluster`, ...
    pub(crate) benchmark: String,
    /// When it began (RFC 3339, UTC).
    pub(crate) started: String,
    /// The commit that was measured; `-dirty` if the tree had changes.
    pub(crate) commit: String,
    /// The peer, if there was one.
    pub(crate) peer: Option<String>,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// What a reader must know of this run, from `--note`: a build that is not the release, other work on the machine.
    #[serde(default)]
    pub(crate) note: Option<String>,
    /// The machine's load when the run ended.
    #[serde(default)]
    pub(crate) load_at_end: f64,
    /// Figures by name, in the order of the table.
    pub(crate) figures: Vec<Figure>,
    /// Figures of each phase of a workload.
    #[serde(default)]
    pub(crate) phases: Vec<PhaseFigures>,
}

/// Whose figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Our server's.
    Ours,
    /// The peer's.
    Peer,
}

impl Side {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Peer => "peer",
        }
    }
}

/// One line of a result.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What was measured, with its unit.
    pub(crate) name: String,
    /// Ours, one value a round.
    pub(crate) ours: Vec<f64>,
    /// The peer's, one value a round; empty without a peer.
    #[serde(default)]
    pub(crate) peer: Vec<f64>,
    /// Whether more is better.
    pub(crate) more_is_better: bool,
    /// How many times better than the peer's ours is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<f64>,
    /// What ours must come to, whatever the peer does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wanted: Option<f64>,
}

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// Rates.
    More,
    /// Times, memory, sizes.
    Less,
}

/// What a workload file wants of figures, by their names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Goals {
    /// How many times better than the peer's ours should be.
    #[serde(default)]
    ratios: BTreeMap<String, f64>,
    /// What ours should come to: at most, or at least where more is better.
    #[serde(default)]
    values: BTreeMap<String, f64>,
}

/// Figures in the order in which they first came, with their goals.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    figures: Vec<Figure>,
    goals: Goals,
}

impl Figures {
    /// None yet.
    pub(crate) fn new(goals: &Goals) -> Self {
        Self { figures: Vec::new(), goals: goals.clone() }
    }

    /// Adds the value of one round, and shows it to those who wait.
    pub(crate) fn add(&mut self, side: Side, name: &str, value: f64, better: Better) {
        eprintln!("  {:5} {name:70} {value:>12.3}", side.name());
        let index = self.figures.iter().position(|figure| figure.name == name).unwrap_or_else(|| {
            let (goal, wanted) = (self.goals.ratios.get(name).copied(), self.goals.values.get(name).copied());
            let more_is_better = better == Better::More;
            self.figures.push(Figure { name: name.to_owned(), more_is_better, goal, wanted, ..Figure::default() });
            self.figures.len() - 1
        });
        self.figures[index].side(side).push(value);
    }

    /// All of them.
    pub(crate) fn finish(self) -> Vec<Figure> {
        self.figures
    }
}

impl Figure {
    /// The values of one side.
    pub(crate) fn side(&mut self, side: Side) -> &mut Vec<f64> {
        match side {
            Side::Ours => &mut self.ours,
            Side::Peer => &mut self.peer,
        }
    }

    /// How many times better ours is than the peer's, round by round; empty without a peer.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let ratio = |(ours, peer): (&f64, &f64)| if self.more_is_better { ours / peer } else { peer / ours };
        self.ours.iter().zip(&self.peer).map(ratio).collect()
    }
}

/// What a phase cost the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// CPU time a request (a delivered event) in microseconds, over all processes of the server.
    pub(crate) cpu_us: f64,
    /// Proportional memory after the phase.
    pub(crate) pss_mib: f64,
    /// The highest resident memory during it.
    pub(crate) peak_mib: f64,
}

/// The figures of one phase of a workload.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PhaseFigures {
    /// The phase.
    pub(crate) name: String,
    /// How many times the peer's rate is wanted.
    pub(crate) goal: Option<f64>,
    /// Requests or delivered events a second.
    pub(crate) rate: Figure,
    /// The writers' requests a second, for watch phases.
    pub(crate) writes: Figure,
    /// The median time.
    pub(crate) p50_ms: Figure,
    /// The 99th percentile.
    pub(crate) p99_ms: Figure,
    /// CPU time of the server a request or event.
    pub(crate) cpu_us: Figure,
    /// Memory after it.
    pub(crate) pss_mib: Figure,
    /// The peak of memory.
    pub(crate) peak_mib: Figure,
}

impl PhaseFigures {
    /// Adds one round.
    pub(crate) fn add(&mut self, side: Side, outcome: &Outcome, cost: Cost) {
        let mut put = |figure: fn(&mut Self) -> &mut Figure, name: &str, value: Option<f64>, more_is_better: bool| {
            let figure = figure(self);
            name.clone_into(&mut figure.name);
            figure.more_is_better = more_is_better;
            figure.side(side).extend(value);
        };
        put(|phase| &mut phase.rate, "a second", Some(outcome.rate), true);
        put(|phase| &mut phase.writes, "writes a second", outcome.writes, true);
        put(|phase| &mut phase.p50_ms, "p50 (ms)", Some(outcome.p50_ms), false);
        put(|phase| &mut phase.p99_ms, "p99 (ms)", Some(outcome.p99_ms), false);
        put(|phase| &mut phase.cpu_us, "server CPU each (µs)", Some(cost.cpu_us), false);
        put(|phase| &mut phase.pss_mib, "PSS after (MiB)", Some(cost.pss_mib), false);
        put(|phase| &mut phase.peak_mib, "peak (MiB)", Some(cost.peak_mib), false);
    }
}

/// Writes the run's file and renews the page.
pub(crate) fn write(root: &Path, run: &Run) -> anyhow::Result<()> {
    let results = root.join("bench/results");
    std::fs::create_dir_all(&results)?;
    let name = run.benchmark.replace(", ", "-");
    let file = results.join(format!("{}-{name}.json", run.started.replace(':', "")));
    std::fs::write(&file, serde_json::to_string(run)? + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    let page = renew_page(root)?;
    println!("{} and {}", file.display(), page.display());
    Ok(())
}

/// Makes `docs/performance.md` from the newest run of each benchmark with each peer.
pub(crate) fn renew_page(root: &Path) -> anyhow::Result<std::path::PathBuf> {
    let mut newest: BTreeMap<String, Run> = BTreeMap::new();
    let entries = std::fs::read_dir(root.join("bench/results")).context("no results yet")?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        let text = std::fs::read_to_string(path)?;
        let run: Run = serde_json::from_str(&text).with_context(|| format!("{} is not a result", path.display()))?;
        newest.insert(format!("{} {}", run.benchmark, run.peer.clone().unwrap_or_default()), run);
    }
    let page = root.join("docs/performance.md");
    std::fs::write(&page, page::render(newest.values())).with_context(|| format!("cannot write {}", page.display()))?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_say_how_many_times_better() {
        let figure = |more_is_better| Figure {
            name: "f".into(),
            ours: vec![10.0, 30.0, 20.0],
            peer: vec![5.0, 10.0, 20.0],
            more_is_better,
            ..Figure::default()
        };
        assert_eq!(figure(true).ratios(), [2.0, 3.0, 1.0]);
        assert_eq!(figure(false).ratios()[0], 0.5);
        assert!(Figure { peer: vec![], ..figure(true) }.ratios().is_empty());
    }

    #[test]
    fn a_goal_belongs_to_a_figure() {
        let goals = Goals { ratios: BTreeMap::from([("f".to_owned(), 2.0)]), ..Goals::default() };
        let mut figures = Figures::new(&goals);
        figures.add(Side::Ours, "f", 1.0, Better::Less);
        figures.add(Side::Peer, "f", 3.0, Better::Less);
        let finished = figures.finish();
        assert_eq!((finished.len(), finished[0].goal, finished[0].ratios()), (1, Some(2.0), vec![3.0]));
    }
}
