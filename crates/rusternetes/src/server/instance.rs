//! One server's claim on this machine: its data directory (locked, with a format version) and its slot.
//!
//! The slot is a small number that keeps servers on one machine apart: bridge name, pod and service networks, nftables tables and
//! run directory derive from it. It is chosen at the first start and kept for ever, since the addresses in it are stored in the
//! cluster's objects. Claims are symbolic links `/var/lib/rusternetes-instances/SLOT -> DATA-DIR`: made atomically, and void once
//! the data directory that they name is gone or says something else.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::exit::{self, Exit};

/// The layout of the data directory that this version writes. A larger number on disk is refused.
const FORMAT: u32 = 1;
const CLAIMS: &str = "/var/lib/rusternetes-instances";
const RECORD: &str = "instance.json";
const LOCK: &str = "lock";
/// Second octets 42, 44, ... 240 of 10.0.0.0/8 are pod networks, the odd one after each is its service network.
const SLOTS: u8 = 100;

/// What the data directory says about itself.
#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    slot: u8,
    /// The version that wrote the directory last, for people.
    version: String,
}

/// A locked data directory. The lock ends with the process, however it ends.
pub(crate) struct Instance {
    data_dir: PathBuf,
    slot: u8,
    _lock: Flock<File>,
}

impl Instance {
    /// Creates or opens a data directory and locks it.
    pub(crate) fn open(data_dir: &Path) -> anyhow::Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Exit::new(
                exit::PRIVILEGES,
                "the server runs containers and needs root: start it with sudo (rootless mode is not implemented)",
            )
            .into());
        }
        fs::create_dir_all(data_dir).map_err(|error| unusable(data_dir, &format!("cannot be created: {error}")))?;
        let data_dir = data_dir.canonicalize().map_err(|error| unusable(data_dir, &error.to_string()))?;
        let lock = lock(&data_dir)?;
        let slot = match read_record(&data_dir)? {
            Some(record) => claim_again(&data_dir, record.slot)?,
            None => claim(&data_dir)?,
        };
        write_record(&data_dir, &Record { format: FORMAT, slot, version: crate::VERSION.to_owned() })?;
        Ok(Self { data_dir, slot, _lock: lock })
    }

    /// Removes the data directory and gives the slot back.
    pub(crate) fn release(self) -> anyhow::Result<()> {
        let entries = fs::read_dir(&self.data_dir).with_context(|| format!("cannot read {}", self.data_dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            let removed = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        // The directory itself may be a mount point, or belong to somebody: it stays if it does not want to go.
        let _ = fs::remove_dir(&self.data_dir);
        let link = Path::new(CLAIMS).join(self.slot.to_string());
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))
    }

    /// The absolute path of the data directory.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// State that a reboot may clear: sockets, namespaces.
    pub(crate) fn run_dir(&self) -> PathBuf {
        PathBuf::from("/run/rusternetes").join(self.slot.to_string())
    }

    /// The name of the pods' bridge.
    pub(crate) fn bridge(&self) -> String {
        format!("rn{}", self.slot)
    }

    /// Where the service proxy remembers which addresses of load balancers it gave to links.
    pub(crate) fn announced_addresses(&self) -> PathBuf {
        self.data_dir.join("announced-addresses.json")
    }

    /// The name (prefix) of our nftables tables.
    pub(crate) fn table(&self) -> String {
        format!("rusternetes-{}", self.slot)
    }

    /// The parent of all cgroups that we make, in every hierarchy.
    pub(crate) fn cgroup(&self) -> String {
        format!("/rusternetes-{}", self.slot)
    }

    /// The first address and prefix length of the cluster's pod network.
    pub(crate) fn pod_network(&self) -> (Ipv4Addr, u8) {
        (Ipv4Addr::new(10, 42 + 2 * self.slot, 0, 0), 16)
    }

    /// The first address and prefix length of the service network.
    pub(crate) fn service_network(&self) -> (Ipv4Addr, u8) {
        (Ipv4Addr::new(10, 43 + 2 * self.slot, 0, 0), 16)
    }
}

fn unusable(data_dir: &Path, reason: &str) -> anyhow::Error {
    Exit::new(exit::DATA_DIRECTORY, format!("the data directory {} {reason}", data_dir.display())).into()
}

/// Takes the lock and leaves our process id in the file for the message that the next one prints.
fn lock(data_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = data_dir.join(LOCK);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| unusable(data_dir, &format!("cannot be written: {error}")))?;
    let mut holder = String::new();
    // The text only helps a person: an unreadable one changes nothing.
    let _ = file.read_to_string(&mut holder);
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, _)| {
        let reason = format!("is in use by process {}: stop that server, or give this one another --data-dir", holder.trim());
        unusable(data_dir, &reason)
    })?;
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| write!(lock, "{}", std::process::id()))
        .context("cannot write the lock")?;
    Ok(lock)
}

fn read_record(data_dir: &Path) -> anyhow::Result<Option<Record>> {
    let text = match fs::read_to_string(data_dir.join(RECORD)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(data_dir, &format!("cannot be read: {error}"))),
    };
    let record: Record = serde_json::from_str(&text)
        .map_err(|error| unusable(data_dir, &format!("has a damaged {RECORD} ({error}): restore it from a backup")))?;
    if record.format > FORMAT {
        let reason = format!(
            "was written by version {} (format {}), which is newer than this one ({}, format {FORMAT}): \
             run that version or a later one; nothing was changed",
            record.version,
            record.format,
            crate::VERSION
        );
        return Err(unusable(data_dir, &reason));
    }
    Ok(Some(record))
}

/// Written beside and renamed: a crash leaves the old record or the new one.
fn write_record(data_dir: &Path, record: &Record) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(record).context("cannot encode the instance record")?;
    let path = data_dir.join(RECORD);
    if fs::read(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let temporary = data_dir.join(format!(".{RECORD}"));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| unusable(data_dir, &format!("cannot be written: {error}")))
}

/// Takes the first free slot.
fn claim(data_dir: &Path) -> anyhow::Result<u8> {
    for slot in 0..SLOTS {
        if try_claim(Path::new(CLAIMS), slot, data_dir)? {
            return Ok(slot);
        }
    }
    Err(Exit::new(exit::DATA_DIRECTORY, format!("all {SLOTS} instances of this machine are taken: see {CLAIMS}")).into())
}

/// Takes the slot that the data directory recorded.
fn claim_again(data_dir: &Path, slot: u8) -> anyhow::Result<u8> {
    if try_claim(Path::new(CLAIMS), slot, data_dir)? {
        return Ok(slot);
    }
    let link = Path::new(CLAIMS).join(slot.to_string());
    let other = fs::read_link(&link).unwrap_or_default();
    Err(unusable(
        data_dir,
        &format!(
            "uses the networks of instance {slot}, which {} now has (was it copied?): remove one of the two, or {} if that directory is no longer used",
            other.display(),
            link.display()
        ),
    ))
}

/// Makes the link, or finds it ours, or replaces it when the directory that it names no longer claims the slot.
fn try_claim(claims: &Path, slot: u8, data_dir: &Path) -> anyhow::Result<bool> {
    fs::create_dir_all(claims).with_context(|| format!("cannot create {}", claims.display()))?;
    let link = claims.join(slot.to_string());
    for _ in 0..2 {
        match std::os::unix::fs::symlink(data_dir, &link) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot write {}", link.display())),
        }
        let holder = fs::read_link(&link).unwrap_or_default();
        if holder == data_dir {
            return Ok(true);
        }
        if is_claimed_by(&holder, slot) {
            return Ok(false);
        }
        match fs::remove_file(&link) {
            // Another server that starts at the same time was faster.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.with_context(|| format!("cannot replace {}", link.display()))?,
        }
    }
    Ok(false)
}

/// A directory that is locked but has no record yet is a server at its first start.
fn is_claimed_by(data_dir: &Path, slot: u8) -> bool {
    match read_record(data_dir) {
        Ok(Some(record)) => record.slot == slot,
        Ok(None) => File::open(data_dir.join(LOCK)).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()),
        // Unreadable or newer: somebody's.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(data_dir: &Path, slot: u8) {
        write_record(data_dir, &Record { format: FORMAT, slot, version: "test".into() }).unwrap();
    }

    #[test]
    fn a_slot_belongs_to_the_directory_that_recorded_it() {
        let claims = tempfile::tempdir().unwrap();
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(try_claim(claims.path(), 0, first.path()).unwrap());
        record(first.path(), 0);
        assert!(!try_claim(claims.path(), 0, second.path()).unwrap(), "taken");
        assert!(try_claim(claims.path(), 0, first.path()).unwrap(), "its own, again");
        assert!(try_claim(claims.path(), 1, second.path()).unwrap());
        drop(first);
        assert!(try_claim(claims.path(), 0, second.path()).unwrap(), "the holder's directory is gone");
    }

    #[test]
    fn a_second_server_is_told_who_has_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let _held = lock(directory.path()).unwrap();
        let error = lock(directory.path()).unwrap_err();
        assert_eq!(exit::code(&error), exit::DATA_DIRECTORY);
        assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"format": 99, "slot": 0, "version": "9.0.0"}"#;
        fs::write(directory.path().join(RECORD), text).unwrap();
        let error = read_record(directory.path()).map(|_| ()).unwrap_err();
        assert_eq!(exit::code(&error), exit::DATA_DIRECTORY);
        assert!(error.to_string().contains("9.0.0"), "{error}");
        assert_eq!(fs::read_to_string(directory.path().join(RECORD)).unwrap(), text);
    }
}
