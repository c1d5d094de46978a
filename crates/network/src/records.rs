//! What each sandbox was given, one JSON file per sandbox, so that it survives us.
//!
//! Files are written beside and renamed. They are not flushed to the disk: after a power loss no sandbox lives, and a file
//! that is then empty or torn is removed when it is found.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::firewall::PortMapping;

/// What a sandbox was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) sandbox_id: String,
    /// At most one per family.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<PortMapping>,
}

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    /// Opens the directory and reads what is there.
    pub(crate) fn open(dir: &Path) -> Result<(Self, HashMap<String, Record>), Error> {
        fs::create_dir_all(dir).map_err(file_error("create", dir))?;
        let mut found = HashMap::new();
        for entry in fs::read_dir(dir).map_err(file_error("read", dir))? {
            let path = entry.map_err(file_error("read", dir))?.path();
            let bytes = fs::read(&path).map_err(file_error("read", &path))?;
            let record = serde_json::from_slice::<Record>(&bytes).ok();
            match record.filter(|record| path == file(dir, &record.sandbox_id)) {
                Some(record) => {
                    found.insert(record.sandbox_id.clone(), record);
                }
                None => {
                    tracing::warn!(path = %path.display(), "removing an unfinished pod network record");
                    fs::remove_file(&path).map_err(file_error("remove", &path))?;
                }
            }
        }
        Ok((Self { dir: dir.to_owned() }, found))
    }

    pub(crate) fn write(&self, record: &Record) -> Result<(), Error> {
        let path = file(&self.dir, &record.sandbox_id);
        let beside = path.with_extension("new");
        let json = serde_json::to_vec(record).expect("a record has only string keys");
        fs::write(&beside, json).map_err(file_error("write", &beside))?;
        fs::rename(&beside, &path).map_err(file_error("write", &path))
    }

    pub(crate) fn remove(&self, sandbox_id: &str) -> Result<(), Error> {
        let path = file(&self.dir, sandbox_id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

/// Sandbox ids are the runtime's own (hexadecimal); anything else in one is replaced, so that it stays a file name.
fn file(dir: &Path, sandbox_id: &str) -> PathBuf {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '+' };
    dir.join(format!("{}.json", sandbox_id.chars().map(safe).collect::<String>()))
}

pub(crate) fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_torn_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let (records, found) = Records::open(dir.path()).unwrap();
        assert!(found.is_empty());
        let record = Record { sandbox_id: "abc".into(), addresses: vec!["10.42.0.2".parse().unwrap()], ports: vec![] };
        records.write(&record).unwrap();
        fs::write(dir.path().join("torn.json"), b"{\"sandbox").unwrap();
        fs::write(dir.path().join("abd.new"), b"").unwrap();
        let (records, found) = Records::open(dir.path()).unwrap();
        assert_eq!(found, HashMap::from([("abc".to_owned(), record)]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        records.remove("abc").unwrap();
        records.remove("abc").unwrap();
        assert!(Records::open(dir.path()).unwrap().1.is_empty());
    }
}
