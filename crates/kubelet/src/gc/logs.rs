//! Rotates container logs: a log above the size limit is renamed, the runtime reopens it, older ones are compressed, the oldest go.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use crate::context::Core;

/// How often sizes are looked at (upstream: `containerLogMonitorInterval`).
const PERIOD: Duration = Duration::from_secs(10);

/// Rotates until the kubelet stops.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.token.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let filter = v1::ContainerFilter {
            state: Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 }),
            ..Default::default()
        };
        let containers = core
            .runtime
            .list_containers(v1::ListContainersRequest { filter: Some(filter) })
            .await
            .map(|r| r.containers)
            .unwrap_or_default();
        for container in containers {
            if let Err(error) = rotate(&core, &container.id).await {
                tracing::warn!(id = container.id, %error, "a container's log was not rotated");
            }
        }
    }
}

async fn rotate(core: &Core, id: &str) -> io::Result<()> {
    let Ok(response) =
        core.runtime.container_status(v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false }).await
    else {
        return Ok(());
    };
    let Some(path) = response.status.map(|s| PathBuf::from(s.log_path)).filter(|p| p.is_absolute()) else { return Ok(()) };
    match tokio::fs::metadata(&path).await {
        Ok(metadata) if metadata.len() >= core.config.container_log_bytes_max => {}
        _ => return Ok(()),
    }
    let keep = usize::try_from(core.config.container_log_files_max).unwrap_or(usize::MAX);
    let log = path.clone();
    // The newest rotated log stays readable as it is; those before it are compressed.
    tokio::task::spawn_blocking(move || make_room(&log, keep)).await.map_err(io::Error::other)??;
    let rotated = with_suffix(&path, &Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string());
    tokio::fs::rename(&path, &rotated).await?;
    let reopened = core.runtime.reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.to_owned() }).await;
    if let Err(status) = reopened {
        // The runtime still writes the old file: it gets its name back.
        tokio::fs::rename(&rotated, &path).await?;
        return Err(io::Error::other(status.message().to_owned()));
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes what is too much for one more rotated log, and compresses the rest. `keep` counts the current log.
fn make_room(log: &Path, keep: usize) -> io::Result<()> {
    let directory = log.parent().unwrap_or(Path::new("/"));
    let prefix = format!("{}.", log.file_name().unwrap_or_default().to_string_lossy());
    let mut rotated: Vec<PathBuf> = std::fs::read_dir(directory)?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    let unfinished = |path: &PathBuf| path.extension().is_some_and(|e| e == "tmp");
    for path in rotated.iter().filter(|p| unfinished(p)) {
        std::fs::remove_file(path)?;
    }
    rotated.retain(|p| !unfinished(p));
    // Names are times: the oldest sort first.
    rotated.sort();
    let excess = (rotated.len() + 2).saturating_sub(keep);
    for path in rotated.drain(..excess.min(rotated.len())) {
        std::fs::remove_file(path)?;
    }
    for path in rotated.iter().filter(|p| p.extension().is_none_or(|e| e != "gz")) {
        compress(path)?;
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let temporary = with_suffix(path, "tmp");
    let mut encoder = GzEncoder::new(std::fs::File::create(&temporary)?, Compression::default());
    io::copy(&mut std::fs::File::open(path)?, &mut encoder)?;
    encoder.finish()?.flush()?;
    std::fs::rename(&temporary, with_suffix(path, "gz"))?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_compresses() {
        let directory = std::env::temp_dir().join(format!("kubelet-rotate-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let log = directory.join("0.log");
        for name in [
            "0.log",
            "0.log.20260101-000001.gz",
            "0.log.20260101-000002",
            "0.log.20260101-000003",
            "0.log.20260101-000003.tmp",
            "1.log",
        ] {
            std::fs::write(directory.join(name), "x").unwrap();
        }
        make_room(&log, 4).unwrap();
        let mut left: Vec<String> =
            std::fs::read_dir(&directory).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        left.sort();
        assert_eq!(left, ["0.log", "0.log.20260101-000002.gz", "0.log.20260101-000003.gz", "1.log"]);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
