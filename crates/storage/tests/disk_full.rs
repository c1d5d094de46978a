//! A full disk: the transaction fails whole and says so, reading goes on, and writing too once there is space again.
//!
//! Needs root, for a small tmpfs; the other tests of this workspace need it as well.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use storage::sqlite::{Options, open};
use storage::{Durability, LeaseId, Op, Store, StoreError, Txn};

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir.path()).status().unwrap();
        assert!(mounted.success(), "needs root to mount a tmpfs");
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn write(key: &str, value: Vec<u8>, durability: Durability) -> Txn {
    let put = |key: String| Op::Put { key: key.into(), value: value.clone().into(), lease: LeaseId(0) };
    Txn { success: vec![put(key.to_owned()), put(format!("{key}-twin"))], durability, ..Txn::default() }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_passes() {
    for durability in [Durability::Full, Durability::Relaxed] {
        let disk = SmallDisk::mount();
        let path = disk.path().join("state.db");
        let store = open(&path, Options::default()).unwrap();
        let ballast = disk.path().join("ballast");
        std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
        let mut written = Vec::new();
        let mut revision = store.current_revision().await.unwrap();
        let failed = loop {
            assert!(written.len() < 1000, "the disk never filled up");
            let key = format!("/k{:04}", written.len());
            match store.txn(write(&key, vec![b'x'; 20_000], durability)).await {
                Ok(response) => {
                    revision = response.revision;
                    written.push(key);
                }
                Err(StoreError::NoSpace { path }) => {
                    assert!(path.ends_with("state.db"));
                    break key;
                }
                Err(other) => panic!("{other}: {:?}", std::error::Error::source(&other)),
            }
        };
        assert!(!written.is_empty());
        assert_eq!(store.current_revision().await.unwrap(), revision, "a write that failed has no revision");
        for key in [failed.clone(), format!("{failed}-twin")] {
            assert!(store.get(key.as_bytes()).await.unwrap().is_none(), "half a transaction");
        }
        for key in &written {
            assert_eq!(store.get(key.as_bytes()).await.unwrap().unwrap().value.len(), 20_000);
        }

        std::fs::remove_file(&ballast).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = store.txn(write(&failed, vec![b'y'; 20_000], durability)).await {
            assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
            assert!(Instant::now() < deadline, "it does not recover");
        }
        store.close().await.unwrap();
        let store = open(&path, Options::default()).unwrap();
        for key in &written {
            assert_eq!(store.get(key.as_bytes()).await.unwrap().unwrap().value.len(), 20_000);
        }
        assert_eq!(store.get(failed.as_bytes()).await.unwrap().unwrap().value[0], b'y');
        store.close().await.unwrap();
    }
}
