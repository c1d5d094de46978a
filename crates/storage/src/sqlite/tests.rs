use super::*;
use crate::contract::{Durability, Op};
use crate::suite::{Subject, all, content, put, put_op, range, text};
use rusqlite::Connection;

fn eager() -> Options {
    Options { checkpoint_bytes: 64 << 10, relaxed_bytes_max: 4 << 10, ..Options::default() }
}

async fn open_one() -> (Subject, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Arc::new(open(&dir.path().join("state.db"), eager()).unwrap()), dir)
}

crate::contract_tests!(open_one);

fn reopen(path: &Path) -> Subject {
    Arc::new(open(path, Options::default()).unwrap())
}

async fn relaxed(store: &Subject, key: &str, value: &str) -> Revision {
    let txn = Txn { success: vec![put_op(key, value.to_owned())], durability: Durability::Relaxed, ..Txn::default() };
    store.txn(txn).await.unwrap().revision
}

/// Copies the files as a crash would leave them.
fn crash(path: &Path, to: &Path, files: &[&str]) -> PathBuf {
    let copy = to.join("crashed.db");
    for suffix in files {
        std::fs::copy(beside(path, suffix), beside(&copy, suffix)).unwrap();
    }
    copy
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let store = reopen(&path);
    let lease = store.lease_grant(Duration::from_secs(3600)).await.unwrap();
    let first = put(&store, "/a", "1").await;
    put(&store, "/a", "2").await;
    let op = Op::Put { key: "/leased".into(), value: "x".into(), lease };
    store.txn(Txn { success: vec![op], ..Txn::default() }).await.unwrap();
    let last = relaxed(&store, "/b", "1").await;
    store.close().await.unwrap();
    let store = reopen(&path);
    assert_eq!(store.current_revision().await.unwrap(), last, "nothing is skipped after a clean end");
    assert_eq!(content(&store, None).await, ["/a=2", "/b=1", "/leased=x"]);
    assert_eq!(content(&store, Some(first)).await, ["/a=1"]);
    let mut watch = store.watch(all(), Some(first), 10).await.unwrap();
    assert_eq!(crate::suite::events(&mut watch, 3).await.len(), 3);
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(content(&store, None).await, ["/a=2", "/b=1"]);
}

#[tokio::test]
async fn relaxed_writes_survive_the_process_and_may_go_with_the_power() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let store = reopen(&path);
    put(&store, "/full", "1").await;
    let lease = store.lease_grant(Duration::from_secs(3600)).await.unwrap();
    relaxed(&store, "/relaxed", "1").await;
    let last = relaxed(&store, "/relaxed", "2").await;
    // The page cache outlives the process: all files as they are now.
    let killed = tempfile::tempdir().unwrap();
    let copy = crash(&path, killed.path(), &["", "-wal", "-relaxed"]);
    // A power loss takes what was not synced.
    let unpowered = tempfile::tempdir().unwrap();
    let synced = crash(&path, unpowered.path(), &["", "-wal"]);
    drop(store);

    let store = reopen(&copy);
    assert_eq!(content(&store, None).await, ["/full=1", "/relaxed=2"]);
    assert_eq!(store.get(b"/relaxed").await.unwrap().unwrap().mod_revision, last);
    assert!(store.lease_keep_alive(lease).await.is_ok());
    assert!(put(&store, "/next", "1").await > last);

    let store = reopen(&synced);
    assert_eq!(content(&store, None).await, ["/full=1"]);
    assert!(store.current_revision().await.unwrap() >= last, "a revision would be given out twice");
}

#[tokio::test]
async fn a_synchronous_write_takes_the_relaxed_ones_before_it_along() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let store = reopen(&path);
    relaxed(&store, "/relaxed", "1").await;
    put(&store, "/full", "1").await;
    relaxed(&store, "/later", "1").await;
    let other = tempfile::tempdir().unwrap();
    let synced = crash(&path, other.path(), &["", "-wal"]);
    assert_eq!(content(&reopen(&synced), None).await, ["/full=1", "/relaxed=1"]);
    let whole = crash(&path, other.path(), &["", "-wal", "-relaxed"]);
    drop(store);
    let store = reopen(&whole);
    assert_eq!(content(&store, None).await, ["/full=1", "/later=1", "/relaxed=1"]);
}

#[tokio::test]
async fn people_can_read_the_state_with_sqlite3() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let store = reopen(&path);
    put(&store, "/a", r#"{"n":1}"#).await;
    let newest = put(&store, "/a", r#"{"n":2}"#).await;
    put(&store, "/gone", "{}").await;
    crate::suite::delete(&store, "/gone").await;
    let reader = Connection::open(&path).unwrap();
    let mut select = reader.prepare("SELECT key, json_extract(value, '$.n'), mod_revision, version FROM state").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    let rows: Vec<(String, i64, i64, i64)> = rows.map(Result::unwrap).collect();
    assert_eq!(rows, [("/a".to_owned(), 2, newest.0, 2)]);
}

fn refusal(path: &Path) -> String {
    match open(path, Options::default()) {
        Err(StoreError::Open { reason, .. }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test]
async fn refuses_what_it_must_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let store = reopen(&path);
    put(&store, "/a", "1").await;
    let reason = refusal(&path);
    assert!(reason.contains(&format!("process {}", std::process::id())), "{reason}");
    store.close().await.unwrap();
    drop(reopen(&path));

    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", schema::SCHEMA_VERSION + 1).unwrap();
    newer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(newer);
    let before = std::fs::read(&path).unwrap();
    let reason = refusal(&path);
    assert!(reason.contains("newer release") && reason.contains("version 2"), "{reason}");
    assert_eq!(std::fs::read(&path).unwrap(), before, "it was touched");

    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("PRAGMA user_version = 7; CREATE TABLE t (x)").unwrap();
    assert!(refusal(&foreign).contains("another program"));
    let text_file = dir.path().join("notes.txt");
    std::fs::write(&text_file, "not a database".repeat(50)).unwrap();
    assert!(refusal(&text_file).contains("not a database"));
    let reason = refusal(&text_file.join("state.db"));
    assert!(reason.contains("choose another data directory"), "{reason}");

    let damaged = dir.path().join("damaged.db");
    let mut bytes = std::fs::read(crash(&path, dir.path(), &[""])).unwrap();
    bytes[60..64].copy_from_slice(&schema::SCHEMA_VERSION.to_be_bytes());
    bytes[100..].fill(0xff);
    std::fs::write(&damaged, bytes).unwrap();
    let reason = refusal(&damaged);
    assert!(reason.contains("damaged") && reason.contains("backup"), "{reason}");
}

#[test]
fn explains_errors_of_the_file_system() {
    let check = |kind: std::io::ErrorKind, expected: &str| {
        let reason = schema::explain_io(&kind.into(), Path::new("/data/state.db"));
        assert!(reason.contains(expected) && reason.contains("/data/state.db"), "{reason}");
    };
    check(std::io::ErrorKind::PermissionDenied, "no permission");
    check(std::io::ErrorKind::ReadOnlyFilesystem, "read-only");
    check(std::io::ErrorKind::StorageFull, "no space left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wal_stays_bounded_and_compaction_frees_space() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let options = Options { checkpoint_bytes: 1 << 20, ..Options::default() };
    let store: Subject = Arc::new(open(&path, options).unwrap());
    let value = "x".repeat(16 << 10);
    let mut wal_max = 0;
    for _ in 0..40 {
        let writes: Vec<_> = (0..64)
            .map(|index| {
                let (store, value) = (store.clone(), value.clone());
                tokio::spawn(async move { put(&store, &format!("/k{index}"), value).await })
            })
            .collect();
        for write in writes {
            write.await.unwrap();
        }
        wal_max = wal_max.max(std::fs::metadata(beside(&path, "-wal")).unwrap().len());
    }
    assert!(wal_max < 24 << 20, "{wal_max} bytes of WAL for {} MiB written", 40);
    let full = std::fs::metadata(&path).unwrap().len();
    store.compact(store.current_revision().await.unwrap()).await.unwrap();
    // Deletions go along with commits, then free pages are given back and the file is cut at a checkpoint.
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::metadata(&path).unwrap().len() > full / 2 {
        assert!(Instant::now() < deadline, "the file is still as large: {full}");
        for index in 0..16 {
            put(&store, &format!("/k{index}"), value.clone()).await;
        }
        store.compact(store.current_revision().await.unwrap()).await.unwrap();
    }
    let response = range(&store, all(), 0, None).await.unwrap();
    assert_eq!(response.count, 64);
    assert!(response.kvs.iter().all(|kv| text(&kv.value) == value));
    store.close().await.unwrap();
    let integrity: String = Connection::open(&path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(integrity, "ok");
}
