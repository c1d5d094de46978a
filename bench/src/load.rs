//! The load generator: runs the phases of a workload against one server and says how long each request took.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::connection::Connection;
use crate::objects;
use crate::target::Target;
use crate::watchers;
use crate::workload::{Object, Phase, Verb, Workload};

/// What an informer's initial state ends with.
const INITIAL_END: &[u8] = b"k8s.io/initial-events-end";

/// What one phase came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The phase's name.
    pub(crate) phase: String,
    /// Requests (for a watch phase: delivered events) a second.
    pub(crate) rate: f64,
    /// Requests (delivered events) in all.
    pub(crate) count: usize,
    /// For a watch phase: the writers' requests a second.
    pub(crate) writes: Option<f64>,
    /// The median of a request's (an event's) time in milliseconds.
    pub(crate) p50_ms: f64,
    /// The 99th percentile in milliseconds.
    pub(crate) p99_ms: f64,
    /// Bytes of an answer's body, on average.
    pub(crate) bytes: u64,
}

/// Runs all phases in order.
pub(crate) async fn run(target: &Target, workload: &Workload) -> anyhow::Result<Vec<Outcome>> {
    prepare(target).await?;
    let mut outcomes = Vec::new();
    for one in &workload.phases {
        if !is_served(target, one).await? {
            eprintln!("  {:50} not served", one.name);
            continue;
        }
        let outcome = phase(target, one).await?;
        eprintln!("  {}", outcome.line());
        if !one.setup {
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

/// Makes what all phases need.
pub(crate) async fn prepare(target: &Target) -> anyhow::Result<()> {
    let mut connection = Connection::open(target).await?;
    connection.fetch(&objects::create_namespace()).await.context("cannot create the namespace")?;
    // In a whole cluster a controller may have been faster.
    let (status, _) = connection.run(&objects::create_service_account()).await?;
    ensure!(status.is_success() || status == StatusCode::CONFLICT, "cannot create the ServiceAccount: {status}");
    Ok(())
}

/// Whether the server has the kind of a phase's objects at all. Only asked of kinds that an API server can do without: a list may
/// warm what the phase is to measure cold.
pub(crate) async fn is_served(target: &Target, phase: &Phase) -> anyhow::Result<bool> {
    if phase.object != Object::Definition {
        return Ok(true);
    }
    let call = objects::json_call(Method::GET, &(objects::collection(phase.object) + "?limit=1"), None);
    let (status, _) = Connection::open(target).await?.run(&call).await?;
    ensure!(status.is_success() || status == StatusCode::NOT_FOUND, "{} answered {status}", call.path);
    Ok(status.is_success())
}

/// Runs one phase. A request that fails ends the run: figures of a server that errs mean nothing.
pub(crate) async fn phase(target: &Target, phase: &Phase) -> anyhow::Result<Outcome> {
    let outcome = match phase.verb {
        Verb::Watch => watchers::run(target, phase).await,
        _ => requests(target, phase).await,
    };
    outcome.with_context(|| format!("phase {:?}", phase.name))
}

impl Outcome {
    /// From the time of each request or event.
    pub(crate) fn new(phase: &Phase, elapsed: Duration, mut times: Vec<Duration>, bytes: u64) -> Self {
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1000.0;
        let (p50_ms, p99_ms) = (at(0.5), at(0.99));
        let count = times.len();
        let rate = count as f64 / elapsed.as_secs_f64();
        Self { phase: phase.name.clone(), rate, count, writes: None, p50_ms, p99_ms, bytes: bytes / count as u64 }
    }

    /// For people who wait.
    pub(crate) fn line(&self) -> String {
        let Self { phase, rate, p50_ms, p99_ms, .. } = self;
        let writes = self.writes.map(|writes| format!("  {writes:.0} writes/s")).unwrap_or_default();
        format!("{phase:50} {rate:>10.1}/s  p50 {p50_ms:>8.2} ms  p99 {p99_ms:>8.2} ms{writes}")
    }
}

/// Spreads the requests of a phase over its connections.
async fn requests(target: &Target, phase: &Phase) -> anyhow::Result<Outcome> {
    let mut connections = Vec::new();
    for _ in 0..phase.connections {
        connections.push(Connection::open(target).await?);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let phase = Arc::new(phase.clone());
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    for mut connection in connections {
        let (next, phase, target) = (Arc::clone(&next), Arc::clone(&phase), target.clone());
        tasks.spawn(async move {
            let (mut times, mut bytes) = (Vec::new(), 0);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= phase.requests {
                    return Ok::<_, anyhow::Error>((times, bytes));
                }
                let sent = Instant::now();
                bytes += match phase.verb {
                    Verb::Watchlist => informer(&target, &phase).await?,
                    _ => request(&mut connection, &phase, index).await?,
                };
                times.push(sent.elapsed());
            }
        });
    }
    let (mut times, mut bytes) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let (some, length) = done??;
        times.extend(some);
        bytes += length;
    }
    Ok(Outcome::new(&phase, started.elapsed(), times, bytes))
}

/// Sends a request, reads the answer, and returns its length.
async fn request(connection: &mut Connection, phase: &Phase, index: usize) -> anyhow::Result<u64> {
    let call = objects::call(phase, phase.object_of(index))?;
    let (status, length) = connection.run(&call).await?;
    ensure!(status.is_success(), "{} {} answered {status}", call.method, call.path);
    Ok(length)
}

/// Starts as an informer does, on a connection of its own, up to the end of the initial state; returns its length.
async fn informer(target: &Target, phase: &Phase) -> anyhow::Result<u64> {
    let mut connection = Connection::open(target).await?;
    let response = connection.start(&objects::call(phase, 0)?).await?;
    ensure!(response.status().is_success(), "the WatchList answered {}", response.status());
    let (mut body, mut length, mut tail) = (response.into_body(), 0, Vec::new());
    loop {
        let frame = body.frame().await.context("the WatchList ended before its bookmark")??;
        let Some(data) = frame.data_ref() else { continue };
        length += data.len() as u64;
        // The mark may lie across two frames, and it is in the last bytes of the state.
        let end = data.len().saturating_sub(512);
        tail.extend_from_slice(&data[end..]);
        if tail.windows(INITIAL_END.len()).any(|window| window == INITIAL_END) {
            return Ok(length);
        }
        tail.drain(..tail.len().saturating_sub(INITIAL_END.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("w.yaml");
        let text = "title: t\nphases: [{name: p, verb: get, object: pod5k, pool: p, requests: 1}]";
        std::fs::write(&path, text).expect("writable");
        let workload = workload::load(&path).expect("valid");
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let outcome = Outcome::new(&workload.phases[0], Duration::from_secs(20), times, 700);
        assert_eq!((outcome.rate, outcome.p50_ms, outcome.p99_ms, outcome.bytes), (5.0, 51.0, 99.0, 7));
    }
}
