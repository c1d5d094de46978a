//! Files with keys: private, replaced atomically, never half written.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::PkiError;

const MODE_FILE: u32 = 0o600;
const MODE_DIR: u32 = 0o700;

/// Whether a file must survive power loss before the call returns. Leaves need not: a torn one is made anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// Flush the file and its directory to the disk.
    Yes,
    /// Let the kernel write when it likes.
    No,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { operation, path, source }
}

pub(super) fn create_dir(dir: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new().recursive(true).mode(MODE_DIR).create(dir).map_err(failed("create", dir))
}

/// The file's text; `None` when it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

/// Takes back permissions that somebody may have given away.
pub(super) fn restrict(path: &Path) -> Result<(), PkiError> {
    fs::set_permissions(path, Permissions::from_mode(MODE_FILE)).map_err(failed("restrict", path))
}

pub(super) fn write(path: &Path, text: &str, sync: Sync) -> Result<(), PkiError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = Path::new(&temporary);
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE_FILE).open(temporary)?;
        file.set_permissions(Permissions::from_mode(MODE_FILE))?;
        file.write_all(text.as_bytes())?;
        if sync == Sync::Yes {
            file.sync_all()?;
        }
        fs::rename(temporary, path)?;
        if sync == Sync::Yes
            && let Some(dir) = path.parent()
        {
            fs::File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(failed("write", path))
}
