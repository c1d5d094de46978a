//! `bench api`: one workload against our API server and a peer's, in turns.

use std::path::PathBuf;

use crate::api_server::{ApiServer, Kind};
use crate::report::Figure;
use crate::workload::Workload;
use crate::{load, processes};

/// What to do, from the command line.
pub(crate) struct Plan {
    /// Our executable.
    pub(crate) executable: PathBuf,
    /// Where data directories are made.
    pub(crate) scratch: PathBuf,
    /// The phases.
    pub(crate) workload: Workload,
    /// How often each server runs it, from an empty store.
    pub(crate) rounds: usize,
    /// Whether to run upstream's server, too.
    pub(crate) upstream: bool,
}

/// Figures in the order in which they were first seen, ours and the peer's side by side.
#[derive(Default)]
struct Table(Vec<Figure>);

impl Table {
    fn add(&mut self, ours: bool, name: String, value: f64, more_is_better: bool) {
        let index = self.0.iter().position(|figure| figure.name == name).unwrap_or_else(|| {
            self.0.push(Figure { name, ours: Vec::new(), peer: Vec::new(), more_is_better });
            self.0.len() - 1
        });
        let figure = &mut self.0[index];
        if ours { &mut figure.ours } else { &mut figure.peer }.push(value);
    }
}

/// Runs the workload on each server in turn, `rounds` times.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut kinds = vec![(true, Kind::Ours(plan.executable.clone()))];
    if plan.upstream {
        kinds.push((false, Kind::Upstream));
    }
    let mut table = Table::default();
    for round in 1..=plan.rounds {
        for (ours, kind) in &kinds {
            eprintln!("round {round}, {}", if *ours { "ours" } else { "upstream" });
            one_round(plan, *ours, kind, &mut table).await?;
        }
    }
    Ok(table.0)
}

async fn one_round(plan: &Plan, ours: bool, kind: &Kind, table: &mut Table) -> anyhow::Result<()> {
    let server = ApiServer::start(kind, &plan.scratch).await?;
    table.add(ours, "start to /readyz (ms)".to_owned(), server.ready_after.as_secs_f64() * 1000.0, false);
    let executables = server.executables();
    let empty = processes::of_executables(&executables)?;
    table.add(ours, "memory when empty, PSS (MiB)".to_owned(), empty.pss_kib as f64 / 1024.0, false);
    for outcome in load::run(&server.target, &plan.workload).await? {
        table.add(ours, format!("{} (1/s)", outcome.phase), outcome.rate, true);
        table.add(ours, format!("{}: p99 (ms)", outcome.phase), outcome.p99_ms, false);
    }
    let used = processes::of_executables(&executables)?;
    table.add(ours, "memory after all, PSS (MiB)".to_owned(), used.pss_kib as f64 / 1024.0, false);
    table.add(ours, "CPU for all (s)".to_owned(), used.cpu_seconds - empty.cpu_seconds, false);
    table.add(ours, "written for all (MB)".to_owned(), (used.written_bytes - empty.written_bytes) as f64 / 1e6, false);
    Ok(())
}
