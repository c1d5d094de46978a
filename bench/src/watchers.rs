//! Watch phases: writers patch objects, streams receive the events, each of which carries the time at which its write was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http_body_util::BodyExt;
use hyper::Method;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::connection::{Call, Connection};
use crate::load::Outcome;
use crate::objects::{self, NODES, STAMP};
use crate::target::Target;
use crate::workload::{Content, Phase};

/// How long the last events may take to reach the last watcher.
const DELIVERY_MAX: Duration = Duration::from_secs(60);
/// Connections that are opened at once.
const OPEN_AT_ONCE: usize = 32;

/// Opens the streams, writes, and waits until each stream has received what concerns it.
pub(crate) async fn run(target: &Target, phase: &Phase) -> anyhow::Result<Outcome> {
    allow_many_files()?;
    let mut first = Connection::open(target).await?;
    let list = objects::json_call(Method::GET, &objects::collection_path(phase, "limit=1"), None);
    let list: serde_json::Value = serde_json::from_slice(&first.fetch(&list).await?)?;
    let version = list["metadata"]["resourceVersion"].as_str().context("a list has a resourceVersion")?.to_owned();
    let epoch = Instant::now();
    let (report, mut reports) = mpsc::channel(phase.watchers);
    let mut streams = open(target, phase, &version, epoch, &report).await?;
    drop(report);
    let started = Instant::now();
    let written = write(target, phase, epoch).await?;
    let mut times = Vec::new();
    for _ in 0..phase.watchers {
        let received = tokio::time::timeout(DELIVERY_MAX, reports.recv()).await.context("events did not arrive")?;
        times.extend(received.context("a watcher ended without a word")??);
    }
    let elapsed = started.elapsed();
    streams.abort_all();
    let mut outcome = Outcome::new(phase, elapsed, times, 0);
    outcome.writes = Some(phase.requests as f64 / written.as_secs_f64());
    Ok(outcome)
}

type Report = anyhow::Result<Vec<Duration>>;

/// Opens the watch streams, some at a time; each reports when it has received all that it waits for.
async fn open(
    target: &Target,
    phase: &Phase,
    version: &str,
    epoch: Instant,
    report: &mpsc::Sender<Report>,
) -> anyhow::Result<JoinSet<()>> {
    let mut streams = JoinSet::new();
    let mut opening = JoinSet::new();
    for watcher in 0..phase.watchers {
        if opening.len() == OPEN_AT_ONCE {
            opening.join_next().await.context("a connection is being opened")???;
        }
        let (opened, is_open) = tokio::sync::oneshot::channel();
        opening.spawn(async move { is_open.await.context("a watch could not be opened")? });
        let (target, path, report) = (target.clone(), watch_path(phase, watcher, version), report.clone());
        let (events, content) = (events_of(phase, watcher), phase.content);
        streams.spawn(async move {
            let result = stream(&target, path, content, events, epoch, opened).await;
            // Nobody listens any more only when the phase has failed already.
            let _ = report.send(result).await;
        });
    }
    while let Some(opened) = opening.join_next().await {
        opened??;
    }
    Ok(streams)
}

async fn stream(
    target: &Target,
    path: String,
    content: Content,
    events: usize,
    epoch: Instant,
    opened: tokio::sync::oneshot::Sender<anyhow::Result<()>>,
) -> Report {
    let started = async {
        let mut connection = Connection::open(target).await?;
        let call = Call { path, accept: content.media_type(), ..objects::json_call(Method::GET, "", None) };
        let response = connection.start(&call).await?;
        ensure!(response.status().is_success(), "the watch answered {}", response.status());
        Ok((connection, response))
    };
    match started.await {
        Ok((connection, response)) => {
            // The other side waits for it.
            let _ = opened.send(Ok(()));
            let times = receive(response.into_body(), content, events, epoch).await;
            drop(connection);
            times
        }
        Err(error) => {
            let _ = opened.send(Err(anyhow::anyhow!("{error:#}")));
            Err(error)
        }
    }
}

fn watch_path(phase: &Phase, watcher: usize, version: &str) -> String {
    let mut query = format!("watch=1&resourceVersion={version}");
    if phase.by_node {
        query.push_str(&format!("&fieldSelector=spec.nodeName%3Dnode-{watcher}"));
    }
    objects::collection_path(phase, &query)
}

/// How many of the phase's writes a watcher sees.
fn events_of(phase: &Phase, watcher: usize) -> usize {
    match phase.by_node {
        false => phase.requests,
        true => (0..phase.requests).filter(|index| phase.object_of(*index) % NODES == watcher).count(),
    }
}

/// Sends the writes, as fast as they go or at the phase's pace; returns how long that took.
async fn write(target: &Target, phase: &Phase, epoch: Instant) -> anyhow::Result<Duration> {
    let (next, phase, started) = (Arc::new(AtomicUsize::new(0)), Arc::new(phase.clone()), Instant::now());
    let mut writers = JoinSet::new();
    for _ in 0..phase.connections {
        let (next, phase, mut connection) = (Arc::clone(&next), Arc::clone(&phase), Connection::open(target).await?);
        writers.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= phase.requests {
                    return Ok::<_, anyhow::Error>(());
                }
                if let Some(pace) = phase.pace {
                    tokio::time::sleep_until((started + Duration::from_secs_f64(index as f64 / pace)).into()).await;
                }
                let call = objects::stamped(&phase, phase.object_of(index), epoch.elapsed().as_nanos());
                connection.fetch(&call).await?;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(started.elapsed())
}

/// Reads a watch until it has given the events; returns how long each was under way.
async fn receive(mut body: hyper::body::Incoming, content: Content, events: usize, epoch: Instant) -> Report {
    let (mut pending, mut times) = (Vec::new(), Vec::with_capacity(events));
    if events == 0 {
        // It only has to be there: an idle informer.
        return Ok(times);
    }
    while times.len() < events {
        let frame = body.frame().await.context("the watch ended early")??;
        let Some(data) = frame.data_ref() else { continue };
        pending.extend_from_slice(data);
        let mut start = 0;
        while let Some(end) = frame_end(&pending[start..], content) {
            let sent = stamp(&pending[start..start + end]).context("an event without a stamp")?;
            times.push(epoch.elapsed().saturating_sub(sent));
            start += end;
        }
        pending.drain(..start);
    }
    Ok(times)
}

/// The length of the first whole frame of a watch.
fn frame_end(bytes: &[u8], content: Content) -> Option<usize> {
    match content {
        Content::Json => Some(bytes.iter().position(|byte| *byte == b'\n')? + 1),
        Content::Protobuf => {
            let length: [u8; 4] = bytes.first_chunk().copied()?;
            let end = 4 + u32::from_be_bytes(length) as usize;
            (bytes.len() >= end).then_some(end)
        }
    }
}

/// The stamp in an event, in either encoding: the first number after the annotation's name.
fn stamp(event: &[u8]) -> Option<Duration> {
    let at = event.windows(STAMP.len()).position(|window| window == STAMP.as_bytes())? + STAMP.len();
    // In protobuf the tag and the length of the value stand between, in JSON quotes and a colon.
    let digits: String = event[at..]
        .iter()
        .skip_while(|byte| !byte.is_ascii_digit())
        .map_while(|byte| byte.is_ascii_digit().then(|| char::from(*byte)))
        .collect();
    digits.parse().ok().map(Duration::from_nanos)
}

/// A connection is a file: thousands of watchers need more than the usual 1,024.
fn allow_many_files() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found() {
        let event = br#"{"type":"MODIFIED","object":{"metadata":{"annotations":{"bench-stamp":"1500"},"name":"a"}}}"#;
        assert_eq!(stamp(event), Some(Duration::from_nanos(1500)));
        assert_eq!(stamp(b"bench-stamp\x12\x041500\x1a\x03"), Some(Duration::from_nanos(1500)));
        assert_eq!(stamp(b"{}"), None);
    }

    #[test]
    fn frames_are_cut() {
        assert_eq!(frame_end(b"{}\n{}", Content::Json), Some(3));
        assert_eq!(frame_end(b"{}", Content::Json), None);
        assert_eq!(frame_end(&[0, 0, 0, 2, 7, 7, 0], Content::Protobuf), Some(6));
        assert_eq!(frame_end(&[0, 0, 0, 2, 7], Content::Protobuf), None);
    }
}
