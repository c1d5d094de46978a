//! Running code inside another network namespace.

use std::fs::File;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::error::Error;

/// Runs `work` on a fresh thread that has entered the namespace; the thread ends with it, so that no thread of a pool is
/// ever left in the wrong namespace.
pub(crate) fn run_in<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let enter = |source| Error::Namespace { path: netns.to_owned(), source };
    let file = File::open(netns).map_err(enter)?;
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| enter(errno.into()))?;
            work()
        });
        thread.join().unwrap_or(Err(Error::TaskDied))
    })
}
