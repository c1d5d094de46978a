//! Reads values by row, on connections of their own that never wait for the writer.

use std::path::PathBuf;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;

use super::schema;
use crate::contract::StoreError;
use crate::engine::Values;
use crate::mvcc::RowId;

/// Connections kept open for the next read; more are opened when more read at once.
const IDLE_MAX: usize = 4;
/// Rows read in one snapshot of SQLite: a longer one would keep the WAL from being reset.
const ROWS_PER_SNAPSHOT: usize = 500;

/// The values in a database file.
pub(super) struct Disk {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Disk {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::new(Vec::new()) }
    }

    /// Closes the connections that nobody uses.
    pub(super) fn close(&self) {
        self.idle.lock().clear();
    }

    fn read(&self, connection: &Connection, ids: &[RowId]) -> Result<Vec<Option<Bytes>>, rusqlite::Error> {
        let mut values = Vec::with_capacity(ids.len());
        let mut select = connection.prepare("SELECT value FROM log WHERE id = ?1")?;
        for chunk in ids.chunks(ROWS_PER_SNAPSHOT) {
            let snapshot = (chunk.len() > 1).then(|| connection.unchecked_transaction()).transpose()?;
            for id in chunk {
                let mut rows = select.query([id.0])?;
                values.push(rows.next()?.and_then(|row| row.get_ref(0).ok().and_then(schema::bytes)));
            }
            snapshot.map(rusqlite::Transaction::commit).transpose()?;
        }
        Ok(values)
    }
}

impl Values for Disk {
    const BLOCKS: bool = true;

    fn load(&self, ids: &[RowId]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let failed = |error: rusqlite::Error| StoreError::Backend { operation: "a read", source: Box::new(error) };
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::open_reader(&self.path).map_err(failed)?,
        };
        let values = self.read(&connection, ids).map_err(failed)?;
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(values)
    }
}
