//! The database file: what may be opened, its tables, and reading the state out of it.
//!
//! One table, `log`, holds every version of every key in the order of changes: a write appends, so that it dirties the fewest pages,
//! and nothing is written twice. The index is in memory (`mvcc`) and built at open. The view `state` is for people with `sqlite3`.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::contract::{LeaseId, Revision};
use crate::mvcc::{Row, RowId, State};

/// The layout that this code writes; a database with a greater number is left alone.
pub(super) const SCHEMA_VERSION: u32 = 1;
/// "RNST" in the database header tells our files from those of other programs.
const APPLICATION_ID: u32 = 0x524e_5354;
/// The size of a database header.
const HEADER_BYTES: usize = 100;
/// How many changes are pruned at once while the log is read.
const LOAD_PRUNE_STEP: usize = 4096;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS log (
    id INTEGER PRIMARY KEY,             -- revision << 12 | place in the transaction
    key TEXT NOT NULL,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    value TEXT                          -- NULL: deleted
);
CREATE TABLE IF NOT EXISTS lease (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIEW IF NOT EXISTS state AS
    SELECT key, value, create_revision, max(id) >> 12 AS mod_revision, version, lease
    FROM log GROUP BY key HAVING value IS NOT NULL;
";

/// What an open database holds.
pub(super) struct Loaded {
    pub(super) state: State,
    /// Rows that compaction made superfluous and nobody deleted yet.
    pub(super) doomed: Vec<RowId>,
    /// The revision that the rows in the file prove: what came later was not written by a synchronous commit.
    pub(super) on_disk: Revision,
    /// No revision up to this one may be given out again.
    pub(super) reserved: Revision,
    /// A number that is this database's own.
    pub(super) instance: i64,
}

/// Looks at the header without touching anything. Errors say what to do.
pub(super) fn check_header(path: &Path) -> Result<(), String> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| explain_io(&error, path))?;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    let read = file.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(|error| explain_io(&error, path))?;
    if read == 0 {
        return Ok(());
    }
    if read < HEADER_BYTES || !header.starts_with(b"SQLite format 3\0") {
        return Err("it is not a database: move it away, or restore it from a backup".to_owned());
    }
    let number = |at: usize| header[at..at + 4].iter().fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
    let (version, application) = (number(60), number(68));
    // Both are 0 in a file whose creation was interrupted.
    if application != APPLICATION_ID && (application, version) != (0, 0) {
        return Err("it is the database of another program: choose another data directory".to_owned());
    }
    if version > SCHEMA_VERSION {
        return Err(format!(
            "its layout has version {version} and this program knows up to {SCHEMA_VERSION}: a newer release wrote it; \
             run that release, or restore a backup from before the upgrade. Nothing was changed"
        ));
    }
    Ok(())
}

/// Opens the connection that writes, and creates the tables in a new file.
pub(super) fn open_writer(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    // auto_vacuum works only before the first table; checkpoints have a thread of their own; 8 MiB of WAL may stay on disk.
    connection.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 8388608;
         PRAGMA cache_size = -2048;
         PRAGMA mmap_size = 0;",
    )?;
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        let transaction = connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction.execute("INSERT OR IGNORE INTO meta VALUES ('instance', random())", [])?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
        // So that the header in the file itself says whose it is.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    Ok(connection)
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.execute_batch("PRAGMA cache_size = -512; PRAGMA mmap_size = 0;")?;
    Ok(connection)
}

/// Reads the state, without values. Leases start anew, as etcd's do.
pub(super) fn load(connection: &Connection, now: Instant) -> Result<Loaded, rusqlite::Error> {
    let mut state = State::new();
    state.compact_revision = Revision(meta(connection, "compact_revision")?);
    let mut leases = connection.prepare("SELECT id, ttl_ms FROM lease")?;
    let mut rows = leases.query([])?;
    while let Some(row) = rows.next()? {
        let ttl = Duration::from_millis(u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0));
        state.leases.grant(LeaseId(row.get(0)?), ttl, now);
    }
    let mut doomed = Vec::new();
    let mut log = connection.prepare(
        "SELECT id, key, create_revision, version, lease, CASE WHEN value IS NULL THEN 1 ELSE 0 END FROM log ORDER BY id",
    )?;
    let mut rows = log.query([])?;
    let mut since_prune = 0;
    while let Some(row) = rows.next()? {
        let deleted = row.get::<_, i64>(5)? != 0;
        let row = Row {
            id: RowId(row.get(0)?),
            key: bytes(row.get_ref(1)?).unwrap_or_default(),
            create_revision: Revision(row.get(2)?),
            version: row.get(3)?,
            lease: LeaseId(row.get(4)?),
            value: (!deleted).then(Bytes::new),
        };
        state.record(&row, false);
        since_prune += 1;
        if since_prune == LOAD_PRUNE_STEP {
            since_prune = 0;
            doomed.extend(state.prune(LOAD_PRUNE_STEP).0);
        }
    }
    while {
        let (gone, more) = state.prune(LOAD_PRUNE_STEP);
        doomed.extend(gone);
        more
    } {}
    let on_disk = state.revision.max(state.compact_revision);
    let reserved = Revision(meta(connection, "reserved_revision")?);
    Ok(Loaded { state, doomed, on_disk, reserved, instance: meta(connection, "instance")? })
}

fn meta(connection: &Connection, name: &str) -> Result<i64, rusqlite::Error> {
    let value = connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0));
    Ok(value.optional()?.unwrap_or(0))
}

/// The bytes of a text or blob column.
pub(super) fn bytes(value: ValueRef<'_>) -> Option<Bytes> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Bytes::copy_from_slice(bytes)),
        _ => None,
    }
}

/// Bytes as text where they are text, so that `sqlite3` shows them and its JSON functions work.
pub(super) fn readable(bytes: &[u8]) -> ValueRef<'_> {
    if std::str::from_utf8(bytes).is_ok() { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) }
}

/// What to do about an error of the file system.
pub(super) fn explain_io(error: &std::io::Error, path: &Path) -> String {
    use std::io::ErrorKind;
    let path = path.display();
    match error.kind() {
        ErrorKind::PermissionDenied => {
            format!("no permission for {path}: run as the user who owns it (root), or choose another data directory")
        }
        ErrorKind::ReadOnlyFilesystem => format!("{path} is on a read-only file system: choose another data directory"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!("no space left for {path}: free some disk space"),
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => format!("{path}: {error}; choose another data directory"),
        _ => format!("{path}: {error}"),
    }
}

/// What to do about an error of SQLite at open.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("it is damaged ({error}): restore it from a backup")
        }
        Some(ErrorCode::DiskFull) => "no space left: free some disk space".to_owned(),
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
            format!("no permission to write it or its directory ({error}): run as the user who owns it (root)")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program keeps it locked: end that program (a sqlite3 session?)".to_owned()
        }
        _ => error.to_string(),
    }
}
