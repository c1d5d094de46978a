//! The thread that moves the WAL into the database, so that the writer never waits for more than the last bit of it.
//!
//! Most pages are moved while the writer goes on (passive checkpoints). Only for the rest, and so that the WAL starts again from its
//! first byte and stays bounded, the writer is held at the gate, for as long as a few pages take.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;

use super::schema;

/// Passive rounds at most; each leaves only what was written while it ran.
const PASSIVE_ROUNDS_MAX: usize = 4;
/// Frames (of 4 KiB) that may be left for the round that holds the writer up.
const REST_FRAMES: i64 = 64;

/// Held by the writer while it commits, and by the checkpointer for its last round.
pub(super) type Gate = Arc<Mutex<()>>;

pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub(super) fn start(path: &Path, gate: Gate) -> Result<Self, rusqlite::Error> {
        let connection = schema::open_writer(path)?;
        // Readers are short; when one lasts longer, the next round will do.
        connection.busy_timeout(Duration::from_millis(50))?;
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .stack_size(256 << 10)
            .spawn(move || run(&connection, &gate, &woken))
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    /// Asks for a checkpoint soon. Does nothing if one is due already.
    pub(super) fn wake(&self) {
        if let Some(wake) = &self.wake {
            let _ = wake.try_send(());
        }
    }

    /// Ends the thread, after the checkpoint that it is at.
    pub(super) fn stop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the checkpoint thread of the store panicked");
        }
    }
}

fn run(connection: &Connection, gate: &Gate, woken: &Receiver<()>) {
    let mut failing = false;
    while woken.recv().is_ok() {
        match checkpoint(connection, gate) {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "the store's WAL cannot be moved into the database; it grows until that works again");
            }
            Err(_) => {}
        }
    }
}

fn checkpoint(connection: &Connection, gate: &Gate) -> Result<(), rusqlite::Error> {
    let mut before = 0;
    for _ in 0..PASSIVE_ROUNDS_MAX {
        let frames = wal_checkpoint(connection, "PASSIVE")?;
        // What the writer added while the round before this one ran.
        let added = frames - before;
        before = frames;
        if added <= REST_FRAMES {
            break;
        }
    }
    let _closed = gate.lock();
    wal_checkpoint(connection, "RESTART").map(|_| ())
}

/// Returns the frames in the WAL.
fn wal_checkpoint(connection: &Connection, mode: &str) -> Result<i64, rusqlite::Error> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(1))
}
