//! `bench api`: one workload against our API server and a peer's, phase by phase in turns.

use std::path::PathBuf;

use hyper::Method;

use crate::api_server::{ApiServer, Kind};
use crate::connection::Connection;
use crate::load;
use crate::objects::{self, json_call};
use crate::processes::{self, Usage};
use crate::profile::Profiler;
use crate::report::{Cost, Figure, PhaseFigures, Side};
use crate::workload::{Phase, Workload};

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
    /// The other server.
    pub(crate) peer: Option<Kind>,
    /// Where to write a flame graph for each phase of ours.
    pub(crate) profile: Option<PathBuf>,
}

/// What a run came to.
#[derive(Default)]
pub(crate) struct Results {
    /// Figures of a server as a whole.
    pub(crate) figures: Vec<Figure>,
    /// Figures of each phase.
    pub(crate) phases: Vec<PhaseFigures>,
}

impl Results {
    fn add(&mut self, side: Side, name: &str, value: f64) {
        let index = self.figures.iter().position(|figure| figure.name == name).unwrap_or_else(|| {
            self.figures.push(Figure { name: name.to_owned(), ..Figure::default() });
            self.figures.len() - 1
        });
        self.figures[index].side(side).push(value);
    }

    /// The line of a phase: there, without figures, also where a server does not serve what the phase asks for.
    fn phase(&mut self, phase: &Phase) -> &mut PhaseFigures {
        let index = self.phases.iter().position(|figures| figures.name == phase.name).unwrap_or_else(|| {
            self.phases.push(PhaseFigures { name: phase.name.clone(), goal: phase.goal, ..PhaseFigures::default() });
            self.phases.len() - 1
        });
        &mut self.phases[index]
    }
}

/// Runs the workload on each server, `rounds` times: every phase on ours and then on the peer before the next one.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Results> {
    let mut kinds = vec![(Side::Ours, Kind::Ours(plan.executable.clone()))];
    kinds.extend(plan.peer.clone().map(|kind| (Side::Peer, kind)));
    let mut results = Results::default();
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}", plan.rounds);
        let mut servers = Vec::new();
        for (side, kind) in &kinds {
            let server = ApiServer::start(kind, &plan.scratch).await?;
            results.add(*side, "start on an empty store to /readyz (ms)", milliseconds(&server));
            load::prepare(&server.target).await?;
            servers.push((*side, server));
        }
        // What starts an API server goes on for a moment after it is ready.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        for (side, server) in &servers {
            results.add(*side, "memory when empty, PSS (MiB)", mib(processes::of_pids(&server.pids())?.pss_kib));
        }
        for phase in &plan.workload.phases {
            for (side, server) in &servers {
                one_phase(plan, *side, server, phase, &mut results).await?;
            }
        }
        for (side, server) in &mut servers {
            after_all(*side, server, &mut results).await?;
        }
    }
    Ok(results)
}

async fn one_phase(plan: &Plan, side: Side, server: &ApiServer, phase: &Phase, results: &mut Results) -> anyhow::Result<()> {
    if !load::is_served(&server.target, phase).await? {
        eprintln!("  {:8} {:50} not served", side.name(), phase.name);
        results.phase(phase);
        return Ok(());
    }
    let pids = server.pids();
    processes::reset_peaks(&pids)?;
    let before = processes::of_pids(&pids)?;
    let profiler = match (&plan.profile, side) {
        (Some(directory), Side::Ours) if !phase.setup => Some(Profiler::start(directory, &phase.name, &pids)?),
        _ => None,
    };
    let outcome = load::phase(&server.target, phase).await?;
    if let Some(profiler) = profiler {
        profiler.finish()?;
    }
    let after = processes::of_pids(&pids)?;
    let cost = Cost {
        cpu_us: (after.cpu_seconds - before.cpu_seconds) * 1e6 / outcome.count as f64,
        pss_mib: mib(after.pss_kib),
        peak_mib: mib(after.peak_kib),
    };
    let Cost { cpu_us, peak_mib, .. } = cost;
    eprintln!("  {:8} {}  CPU {cpu_us:.0} µs  peak {peak_mib:.0} MiB", side.name(), outcome.line());
    if !phase.setup {
        results.phase(phase).add(side, &outcome, cost);
    }
    Ok(())
}

/// What is stored, what memory that takes, and a restart on it.
async fn after_all(side: Side, server: &mut ApiServer, results: &mut Results) -> anyhow::Result<()> {
    let used = processes::of_pids(&server.pids())?;
    results.add(side, "memory after all, PSS (MiB)", mib(used.pss_kib));
    results.add(side, "written for all (MB)", used.written_bytes as f64 / 1e6);
    results.add(side, "JSON of what is stored (MiB)", stored_bytes(server).await? / 1024.0 / 1024.0);
    server.restart().await?;
    results.add(side, "restart on what is stored to /readyz (ms)", milliseconds(server));
    let started = std::time::Instant::now();
    let first = json_call(Method::GET, &format!("/api/v1/namespaces/{}/pods?limit=1", objects::NAMESPACE), None);
    Connection::open(&server.target).await?.fetch(&first).await?;
    results.add(side, "first read of the pods after it (ms)", started.elapsed().as_secs_f64() * 1000.0);
    let Usage { pss_kib, .. } = processes::of_pids(&server.pids())?;
    results.add(side, "memory after the restart and that read, PSS (MiB)", mib(pss_kib));
    Ok(())
}

/// The length of lists of all that the workload creates.
async fn stored_bytes(server: &ApiServer) -> anyhow::Result<f64> {
    let mut bytes = 0;
    for resource in ["pods", "configmaps"] {
        let list = json_call(Method::GET, &format!("/api/v1/namespaces/{}/{resource}", objects::NAMESPACE), None);
        let (status, length) = Connection::open(&server.target).await?.run(&list).await?;
        anyhow::ensure!(status.is_success(), "the list of {resource} answered {status}");
        bytes += length;
    }
    Ok(bytes as f64)
}

fn milliseconds(server: &ApiServer) -> f64 {
    server.ready_after.as_secs_f64() * 1000.0
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
