//! Removes unused images when the disk fills: from the high to the low threshold, the longest unused first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::v1;
use parking_lot::Mutex;

use crate::context::Core;
use crate::node::machine::Pressure;

/// How often use is looked at (upstream: `ImageGCPeriod`).
const PERIOD: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Seen {
    detected: Instant,
    used: Instant,
}

/// When images were first seen and last used.
#[derive(Default)]
pub(crate) struct ImageUse {
    seen: Mutex<HashMap<String, Seen>>,
}

/// An image that could go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    id: String,
    size: u64,
    used: Instant,
}

/// Collects until the kubelet stops.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        let candidates = candidates(&core).await;
        let pressure = Pressure::read(&core.config.root_dir);
        let wanted = bytes_to_free(pressure, core.config.image_gc_high_percent, core.config.image_gc_low_percent);
        if wanted > 0 {
            let freed = free(&core, candidates, wanted).await;
            if freed < wanted {
                let message = format!(
                    "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
                );
                core.events.node("Warning", "FreeDiskSpaceFailed", message);
            }
        }
        tokio::select! {
            () = core.token.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Removes every unused image, as under disk pressure; the bytes that were freed.
pub(crate) async fn free_all(core: &Core) -> u64 {
    let candidates = candidates(core).await;
    free(core, candidates, u64::MAX).await
}

fn bytes_to_free(pressure: Pressure, high_percent: u8, low_percent: u8) -> u64 {
    let used = pressure.disk_bytes.saturating_sub(pressure.disk_available_bytes);
    if pressure.disk_bytes == 0 || used * 100 < pressure.disk_bytes * u64::from(high_percent) {
        return 0;
    }
    used.saturating_sub(pressure.disk_bytes / 100 * u64::from(low_percent))
}

/// Images that no container uses, are not pinned and are old enough; the longest unused first.
async fn candidates(core: &Core) -> Vec<Candidate> {
    let containers = core.runtime.list_containers(v1::ListContainersRequest { filter: None }).await;
    let images = core.images.list_images(v1::ListImagesRequest { filter: None }).await;
    let (Ok(containers), Ok(images)) = (containers, images) else { return Vec::new() };
    let used: HashSet<String> =
        containers.containers.into_iter().flat_map(|c| [c.image_id, c.image_ref, c.image.unwrap_or_default().image]).collect();
    let now = Instant::now();
    let mut seen = core.image_use.seen.lock();
    seen.retain(|id, _| images.images.iter().any(|i| i.id == *id));
    let mut candidates = Vec::new();
    for image in images.images {
        let entry = seen.entry(image.id.clone()).or_insert(Seen { detected: now, used: now });
        let in_use =
            used.contains(&image.id) || image.repo_digests.iter().chain(&image.repo_tags).any(|name| used.contains(name));
        if in_use {
            entry.used = now;
        } else if !image.pinned && now.duration_since(entry.detected) >= core.config.image_gc_age_min {
            candidates.push(Candidate { id: image.id, size: image.size, used: entry.used });
        }
    }
    candidates.sort_by_key(|c| c.used);
    candidates
}

async fn free(core: &Core, candidates: Vec<Candidate>, wanted: u64) -> u64 {
    let mut freed = 0;
    for candidate in candidates {
        if freed >= wanted {
            break;
        }
        let spec = v1::ImageSpec { image: candidate.id.clone(), ..Default::default() };
        match core.images.remove_image(v1::RemoveImageRequest { image: Some(spec) }).await {
            Ok(_) => {
                tracing::info!(image = candidate.id, bytes = candidate.size, "removed an unused image to free disk space");
                freed += candidate.size;
            }
            Err(status) => tracing::warn!(image = candidate.id, error = status.message(), "an unused image was not removed"),
        }
    }
    freed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frees_down_to_the_low_threshold() {
        let disk = |available| Pressure { disk_bytes: 1000, disk_available_bytes: available, ..Pressure::default() };
        for (available, expected) in [(500, 0), (151, 0), (150, 50), (0, 200)] {
            assert_eq!(bytes_to_free(disk(available), 85, 80), expected, "{available} available");
        }
    }
}
