//! The lock that keeps a second server off the same database, with the process id of the first for its error message.
//!
//! The kernel frees the lock with the process, however that ends; the file stays, for removing it would race with the next owner.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Held as long as the store is open.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock or says who has it.
    pub(super) fn acquire(path: &Path) -> Result<Self, String> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| super::schema::explain_io(&error, path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&mut file)),
            Err(TryLockError::Error(error)) => return Err(format!("its lock file cannot be locked: {error}")),
        }
        // On a full disk the number is missing; the lock holds all the same.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn in_use(file: &mut File) -> String {
    let mut owner = String::new();
    let _ = file.read_to_string(&mut owner);
    match owner.trim().parse::<u32>() {
        Ok(pid) => format!("another server uses it (process {pid}); stop that one, or give this one a data directory of its own"),
        Err(_) => "another server uses it; stop that one, or give this one a data directory of its own".to_owned(),
    }
}
