//! `kill -9` under load, a few hundred times: every acknowledged write is there afterwards, at its revision, and revisions never go
//! backwards. The test executable runs itself as the writer that is killed.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::sqlite::{Options, open};
use storage::{Compare, Durability, KeyRange, LeaseId, Op, RangeRequest, Revision, Store, Txn};

const KILLS: u64 = 200;
const CLIENTS: usize = 8;
const KEYS_PER_CLIENT: u64 = 20;
const DATABASE: &str = "STORAGE_KILL_TEST_DATABASE";

/// Small limits, so that kills hit checkpoints and take-overs of the side journal too.
fn options() -> Options {
    Options { checkpoint_bytes: 128 << 10, relaxed_bytes_max: 16 << 10, relaxed_delay: Duration::from_millis(20) }
}

/// Not a test of its own: what the killed process runs. Prints `key value revision` of each acknowledged write.
#[test]
fn writer_that_is_killed() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(open(Path::new(&path), options()).unwrap());
        let clients: Vec<_> = (0..CLIENTS).map(|client| tokio::spawn(write_for_ever(store.clone(), client))).collect();
        let compactor = tokio::spawn(async move {
            loop {
                let revision = store.current_revision().await.unwrap();
                store.compact(Revision((revision.0 - 200).max(0))).await.unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        });
        for client in clients {
            client.await.unwrap();
        }
        compactor.await.unwrap();
    });
}

async fn write_for_ever(store: Arc<storage::sqlite::Sqlite>, client: usize) {
    // Half of the clients write in the cheap class.
    let durability = if client.is_multiple_of(2) { Durability::Full } else { Durability::Relaxed };
    for step in 0_u64.. {
        let name = |part: &str| format!("/{client}/{}{part}", step % KEYS_PER_CLIENT);
        let value = format!("{}-{}-{}", std::process::id(), step, "x".repeat(usize::try_from(step % 1500).unwrap()));
        // Two keys in one transaction: both or none must be there.
        let puts = ["", "-twin"].map(|part| Op::Put { key: name(part).into(), value: value.clone().into(), lease: LeaseId(0) });
        let txn = Txn { success: puts.to_vec(), durability, ..Txn::default() };
        let revision = store.txn(txn).await.unwrap().revision;
        let mut out = std::io::stdout().lock();
        writeln!(out, "ack {} {value} {revision}", name("")).unwrap();
        out.flush().unwrap();
    }
}

/// Starts a writer, kills it after a while, and returns what it acknowledged.
fn run_and_kill(path: &Path, lifetime: Duration) -> Vec<(String, String, i64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["writer_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(DATABASE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        // The last line may be cut off by the kill: it has no line end then.
        let mut lines = Vec::new();
        let mut out = out;
        let mut line = String::new();
        while out.read_line(&mut line).unwrap() > 0 {
            if line.ends_with('\n') && line.contains("ack ") {
                let words: Vec<&str> = line[line.find("ack ").unwrap()..].split_whitespace().collect();
                lines.push((words[1].to_owned(), words[2].to_owned(), words[3].parse().unwrap()));
            }
            line.clear();
        }
        lines
    });
    // Not a wait for something: the moment of the kill is the random input of this test.
    #[allow(clippy::disallowed_methods)]
    std::thread::sleep(lifetime);
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
    reader.join().unwrap()
}

async fn check(path: &Path, newest: &HashMap<String, (String, i64)>, highest: i64) -> (usize, i64) {
    let store = open(path, options()).unwrap();
    let revision = store.current_revision().await.unwrap();
    assert!(revision.0 >= highest, "the revision went backwards: {revision} after {highest}");
    let range = KeyRange { start: "/".into(), end: "0".into() };
    let request = RangeRequest { range, limit: 0, revision: None, keys_only: false };
    let kvs = store.range(request).await.unwrap().kvs;
    let found: HashMap<String, (String, i64)> = kvs
        .iter()
        .map(|kv| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(&kv.key), (text(&kv.value), kv.mod_revision.0))
        })
        .collect();
    for (key, (value, revision)) in newest {
        let (there, at) = found.get(key).unwrap_or_else(|| panic!("{key} was acknowledged at {revision} and is lost"));
        assert!(at >= revision, "{key} is at {at}, but {revision} was acknowledged");
        assert!(at > revision || there == value, "{key} has another value than acknowledged at {revision}");
        assert_eq!(found.get(&format!("{key}-twin")), Some(&(there.clone(), *at)), "half a transaction");
    }
    // It can be written to, at a revision of its own.
    let txn = Txn {
        compares: vec![Compare::ModRevision("/none".into(), Revision(0))],
        success: vec![Op::Put { key: "/check".into(), value: "x".into(), lease: LeaseId(0) }],
        ..Txn::default()
    };
    let next = store.txn(txn).await.unwrap().revision;
    assert_eq!(next, Revision(revision.0 + 1));
    store.close().await.unwrap();
    (found.len(), next.0)
}

#[tokio::test]
async fn no_kill_loses_an_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut newest: HashMap<String, (String, i64)> = HashMap::new();
    let (mut highest, mut acknowledged) = (0, 0);
    let mut seed = u64::from(std::process::id()) | 1;
    let deadline = Instant::now() + Duration::from_secs(100);
    let mut kills = 0;
    while kills < KILLS && Instant::now() < deadline {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let written = run_and_kill(&path, Duration::from_millis(40 + seed % 160));
        kills += 1;
        acknowledged += written.len();
        for (key, value, revision) in written {
            highest = highest.max(revision);
            let entry = newest.entry(key).or_default();
            if entry.1 < revision {
                *entry = (value, revision);
            }
        }
        // Most kills are recovered from by the next writer alone, which may be killed while it does so.
        if kills % 5 == 0 {
            (_, highest) = check(&path, &newest, highest).await;
        }
    }
    let (keys, _) = check(&path, &newest, highest).await;
    let integrity: String =
        rusqlite::Connection::open(&path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(integrity, "ok");
    assert!(kills >= 100, "the machine is too slow: {kills} kills");
    assert!(acknowledged > 1000 && keys > 100, "too little was written to mean something: {acknowledged}, {keys}");
    println!("{kills} kills, {acknowledged} acknowledged writes, {keys} keys");
}
