//! Gives memory back to the machine after a burst of work: the allocator keeps what was freed between what is still in use, and a server
//! that was busy once would stay as large as it then was.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(60);
/// By so much the process must have grown since it last gave memory back.
const WORTHWHILE_BYTES: usize = 4 * 1024 * 1024;

/// Looks every now and then until stopped. A process that does not grow is left alone.
pub(crate) async fn give_back(stop: CancellationToken) {
    let mut before = 0;
    while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
        if resident() > before + WORTHWHILE_BYTES {
            // It walks all free chunks: some milliseconds after a large burst.
            if tokio::task::spawn_blocking(trim).await.is_err() {
                return;
            }
            before = resident();
        }
    }
}

/// Resident memory in bytes; zero where it cannot be read.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<usize>().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    pages.unwrap_or(0) * page.and_then(|size| usize::try_from(size).ok()).unwrap_or(0)
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc's allocator has no safe interface")]
fn trim() {
    // SAFETY: it takes the allocator's own locks, and touches nothing that is in use.
    unsafe { nix::libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_goes_back() {
        const CHUNK: usize = 32 * 1024;
        // Every second chunk stays, so that none of it lies at the end of the heap.
        let mut chunks: Vec<Option<Vec<u8>>> = (0..4096).map(|_| Some(vec![1; CHUNK])).collect();
        for chunk in chunks.iter_mut().step_by(2) {
            *chunk = None;
        }
        let before = resident();
        trim();
        let after = resident();
        assert!(before > after + 1024 * CHUNK, "{before} bytes before, {after} after");
        assert_eq!(chunks.iter().flatten().map(Vec::len).sum::<usize>(), 2048 * CHUNK);
    }
}
