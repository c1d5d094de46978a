//! The load generator: runs the phases of a workload against one server and says how long each request took.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http_body_util::BodyExt;
use hyper::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::connection::{Call, Connection};
use crate::objects::{self, STAMP};
use crate::target::Target;
use crate::workload::{Phase, Verb, Workload};

/// How long the last events may take to reach the last watcher.
const DELIVERY_MAX: Duration = Duration::from_secs(60);

/// What one phase came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The phase's name.
    pub(crate) phase: String,
    /// Requests (for a watch phase: delivered events) a second.
    pub(crate) rate: f64,
    /// The median of a request's (an event's) time in milliseconds.
    pub(crate) p50_ms: f64,
    /// The 99th percentile in milliseconds.
    pub(crate) p99_ms: f64,
    /// Bytes of an answer's body, on average.
    pub(crate) bytes: u64,
}

/// Runs all phases in order. A request that fails ends the run: figures of a server that errs mean nothing.
pub(crate) async fn run(target: &Target, workload: &Workload) -> anyhow::Result<Vec<Outcome>> {
    Connection::open(target).await?.fetch(&objects::create_namespace()).await.context("cannot create the namespace")?;
    let mut outcomes = Vec::new();
    for phase in &workload.phases {
        let outcome = match phase.verb {
            Verb::Watch => watch(target, phase).await,
            _ => requests(target, phase).await,
        };
        let outcome = outcome.with_context(|| format!("phase {:?}", phase.name))?;
        eprintln!("  {:40} {:>10.1}/s  p50 {:>8.2} ms  p99 {:>8.2} ms", phase.name, outcome.rate, outcome.p50_ms, outcome.p99_ms);
        if !phase.setup {
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
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
        let (next, phase) = (Arc::clone(&next), Arc::clone(&phase));
        tasks.spawn(async move {
            let (mut times, mut bytes) = (Vec::new(), 0);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= phase.requests {
                    return Ok::<_, anyhow::Error>((times, bytes));
                }
                let call = objects::call(&phase, phase.object_of(index), None)?;
                let sent = Instant::now();
                let (status, length) = connection.run(&call).await?;
                times.push(sent.elapsed());
                ensure!(status.is_success(), "{} {} answered {status}", call.method, call.path);
                bytes += length;
            }
        });
    }
    let (mut times, mut bytes) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let (some, length) = done??;
        times.extend(some);
        bytes += length;
    }
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    let bytes = bytes / times.len() as u64;
    Ok(outcome(&phase.name, rate, times, bytes))
}

fn outcome(phase: &str, rate: f64, mut times: Vec<Duration>, bytes: u64) -> Outcome {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1000.0;
    Outcome { phase: phase.to_owned(), rate, p50_ms: at(0.5), p99_ms: at(0.99), bytes }
}

/// One connection updates, `watchers` streams receive every update.
async fn watch(target: &Target, phase: &Phase) -> anyhow::Result<Outcome> {
    let mut writer = Connection::open(target).await?;
    let list = objects::json_call(Method::GET, &objects::collection_path(phase, "limit=1"), None);
    let list: serde_json::Value = serde_json::from_slice(&writer.fetch(&list).await?)?;
    let version = list["metadata"]["resourceVersion"].as_str().context("a list has a resourceVersion")?;
    let path = objects::collection_path(phase, &format!("watch=1&resourceVersion={version}"));
    let epoch = Instant::now();
    let (report, mut reports) = mpsc::channel(phase.watchers);
    let mut streams = JoinSet::new();
    for _ in 0..phase.watchers {
        let mut connection = Connection::open(target).await?;
        let call = Call { path: path.clone(), ..objects::json_call(Method::GET, "", None) };
        let response = connection.start(&call).await?;
        ensure!(response.status().is_success(), "the watch answered {}", response.status());
        let (report, events) = (report.clone(), phase.requests);
        streams.spawn(async move {
            let times = receive(response.into_body(), events, epoch).await;
            drop(connection);
            // Nobody listens any more only when the phase has failed already.
            let _ = report.send(times).await;
        });
    }
    drop(report);
    let started = Instant::now();
    for index in 0..phase.requests {
        writer.fetch(&objects::call(phase, phase.object_of(index), Some(epoch.elapsed().as_nanos()))?).await?;
    }
    let mut times = Vec::with_capacity(phase.watchers * phase.requests);
    for _ in 0..phase.watchers {
        let received = tokio::time::timeout(DELIVERY_MAX, reports.recv()).await.context("events did not arrive")?;
        times.extend(received.context("a watcher ended without a word")??);
    }
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    Ok(outcome(&phase.name, rate, times, 0))
}

/// Reads a watch until it has given the events; returns how long each was under way.
async fn receive(mut body: hyper::body::Incoming, events: usize, epoch: Instant) -> anyhow::Result<Vec<Duration>> {
    let (mut line, mut times) = (Vec::new(), Vec::with_capacity(events));
    while times.len() < events {
        let frame = body.frame().await.context("the watch ended early")??;
        let Some(data) = frame.data_ref() else { continue };
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if line.ends_with(b"\n") {
                let sent = stamp(&line).context("an event without a stamp")?;
                times.push(epoch.elapsed().saturating_sub(sent));
                line.clear();
            }
        }
    }
    Ok(times)
}

/// The stamp in an event's JSON.
fn stamp(event: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(event).ok()?;
    let (_, rest) = text.split_once(STAMP)?;
    let digits = rest.trim_start_matches(['"', ':', ' ']);
    let end = digits.find('"')?;
    digits[..end].parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let outcome = outcome("p", 5.0, times, 7);
        assert_eq!((outcome.p50_ms, outcome.p99_ms, outcome.bytes), (51.0, 99.0, 7));
    }

    #[test]
    fn a_stamp_is_found() {
        let event = br#"{"type":"MODIFIED","object":{"metadata":{"annotations":{"bench-stamp":"1500"},"name":"a"}}}"#;
        assert_eq!(stamp(event), Some(Duration::from_nanos(1500)));
        assert_eq!(stamp(b"{}"), None);
    }
}
