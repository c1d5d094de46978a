//! What this controller wrote and the cache does not show yet. Planning on a cache that lacks an own slice would make
//! the slice twice.

use std::collections::HashMap;
use std::time::Duration;

use client::{NamespacedName, Store};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::time::Instant;

/// After that long the cache is believed: somebody else removed the slice before it was ever seen.
const TIMEOUT: Duration = Duration::from_secs(30);

enum Expected {
    Version(String),
    Gone,
}

/// The slices of one Service by name, with what is expected of each and since when.
type Slices = HashMap<String, (Expected, Instant)>;

#[derive(Default)]
pub(crate) struct Tracker {
    written: Mutex<HashMap<NamespacedName, Slices>>,
}

impl Tracker {
    pub(crate) fn wrote(&self, service: &NamespacedName, slice: &EndpointSlice) {
        let version = slice.resource_version().unwrap_or_default();
        self.note(service, slice.name_any(), Expected::Version(version));
    }

    pub(crate) fn deleted(&self, service: &NamespacedName, name: String) {
        self.note(service, name, Expected::Gone);
    }

    fn note(&self, service: &NamespacedName, name: String, expected: Expected) {
        let mut written = self.written.lock();
        let slices = written.entry(service.clone()).or_default();
        slices.insert(name, (expected, Instant::now()));
    }

    pub(crate) fn forget(&self, service: &NamespacedName) {
        self.written.lock().remove(service);
    }

    /// Whether the cache shows everything that was written for this service.
    pub(crate) fn caught_up(&self, service: &NamespacedName, cache: &Store<EndpointSlice>) -> bool {
        let mut written = self.written.lock();
        let Some(slices) = written.get_mut(service) else { return true };
        slices.retain(|name, (expected, since)| {
            let cached = cache.get(&service.namespace, name);
            let shown = match (expected, cached) {
                (Expected::Gone, cached) => cached.is_none(),
                (Expected::Version(_), None) => false,
                (Expected::Version(version), Some(slice)) => not_older(&slice.resource_version().unwrap_or_default(), version),
            };
            !shown && since.elapsed() < TIMEOUT
        });
        let caught_up = slices.is_empty();
        if caught_up {
            written.remove(service);
        }
        caught_up
    }
}

/// Resource versions of one object compare as numbers (KEP-5504).
fn not_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version >= than,
        _ => version == than,
    }
}
