//! Writes and latencies of the SQLite backend: `cargo run --release --example storage_bench -- [DIRECTORY] [SECONDS] [idle]`.
//!
//! With `idle`: what the Leases of a quiet node cost, in bytes written a second (run it for some minutes).
//! Prints writes a second, latency percentiles and bytes written for 1 KiB values, by number of clients and durability, and the largest
//! WAL seen. Not a test: it asserts nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use storage::sqlite::{Options, Sqlite, open};
use storage::{Durability, LeaseId, Op, Revision, Store, Txn};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let idle_only = arguments.next().is_some_and(|mode| mode == "idle");
    runtime.block_on(async {
        if idle_only {
            return idle(&directory, seconds).await;
        }
        for (clients, durability) in [
            (1, Durability::Full),
            (64, Durability::Full),
            (512, Durability::Full),
            (1, Durability::Relaxed),
            (64, Durability::Relaxed),
        ] {
            round(&directory, clients, durability, Duration::from_secs(seconds)).await?;
        }
        Ok(())
    })
}

async fn round(
    directory: &Path,
    clients: usize,
    durability: Durability,
    time: Duration,
) -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir_in(directory)?;
    let path = directory.path().join("state.db");
    let store = Arc::new(open(&path, Options::default())?);
    let stop = Arc::new(AtomicBool::new(false));
    let before = bytes_written();
    let start = Instant::now();
    let tasks: Vec<_> =
        (0..clients).map(|client| tokio::spawn(client_loop(store.clone(), client, durability, stop.clone()))).collect();
    let mut wal_max = 0;
    while start.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(100)).await;
        wal_max = wal_max.max(std::fs::metadata(directory.path().join("state.db-wal")).map_or(0, |file| file.len()));
        let revision = store.current_revision().await?;
        store.compact(Revision((revision.0 - 20_000).max(0))).await?;
    }
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await?);
    }
    let elapsed = start.elapsed();
    latencies.sort_unstable();
    let percentile = |p: usize| latencies.get(latencies.len() * p / 1000).copied().unwrap_or_default();
    println!(
        "{clients:4} clients, {durability:?}: {:8.0} writes/s, p50 {:?}, p99 {:?}, p99.9 {:?}, {:.1} MB/s to disk, WAL at most {:.1} MB",
        latencies.len() as f64 / elapsed.as_secs_f64(),
        percentile(500),
        percentile(990),
        percentile(999),
        (bytes_written() - before) as f64 / 1e6 / elapsed.as_secs_f64(),
        wal_max as f64 / 1e6,
    );
    store.close().await?;
    Ok(())
}

/// One node Lease every 10 s, two leader elections every 2 s, an event every 30 s, compaction every 5 minutes.
async fn idle(directory: &Path, seconds: u64) -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir_in(directory)?;
    let store = open(&directory.path().join("state.db"), Options::default())?;
    let before = bytes_written();
    let mut five_minutes_ago = store.current_revision().await?;
    for second in 1..=seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut due = Vec::new();
        due.extend((second % 2 == 0).then_some(["/leases/scheduler", "/leases/controller-manager"]).into_iter().flatten());
        due.extend(second.is_multiple_of(10).then_some("/leases/node"));
        due.extend(second.is_multiple_of(30).then_some("/events/x"));
        for key in due {
            let put = Op::Put { key: key.into(), value: vec![b'v'; 700].into(), lease: LeaseId(0) };
            store.txn(Txn { success: vec![put], durability: Durability::Relaxed, ..Txn::default() }).await?;
        }
        if second.is_multiple_of(300) {
            store.compact(five_minutes_ago).await?;
            five_minutes_ago = store.current_revision().await?;
        }
        if second.is_multiple_of(60) {
            let rate = (bytes_written() - before) as f64 / second as f64;
            println!("idle after {second} s: {rate:.0} bytes/s written");
        }
    }
    store.close().await?;
    println!("and closed: {:.0} bytes/s written", (bytes_written() - before) as f64 / seconds as f64);
    Ok(())
}

async fn client_loop(store: Arc<Sqlite>, client: usize, durability: Durability, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // Half are new keys, half are updates.
        let step = latencies.len();
        let key = if step.is_multiple_of(2) { format!("/bench/{client}/{step}") } else { format!("/bench/{client}/hot") };
        let put = Op::Put { key: key.into(), value: vec![b'v'; 1024].into(), lease: LeaseId(0) };
        let start = Instant::now();
        if let Err(error) = store.txn(Txn { success: vec![put], durability, ..Txn::default() }).await {
            eprintln!("{error}");
            break;
        }
        latencies.push(start.elapsed());
    }
    latencies
}

/// What this process made the kernel write to disks so far.
fn bytes_written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}
