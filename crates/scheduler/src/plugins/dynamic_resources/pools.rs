//! Pools: the slices of a node's devices, as far as they are complete (upstream's `structured/internal/incubating/pools_incubating.go`).

use std::collections::{BTreeMap, HashSet};

use client::node_selector::selector_matches;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;

use super::allocator::Slice;

/// The slices of a pool that have devices for a node.
pub(super) struct Pool<'a> {
    pub(super) driver: &'a str,
    pub(super) name: &'a str,
    pub(super) is_incomplete: bool,
    pub(super) is_invalid: bool,
    /// By their index in the inventory.
    pub(super) slices: Vec<usize>,
}

fn is_for(slice: &ResourceSlice, node: &Node) -> bool {
    let spec = &slice.spec;
    match (spec.node_name.as_deref().filter(|name| !name.is_empty()), &spec.node_selector) {
        (Some(name), _) => node.metadata.name.as_deref() == Some(name),
        (None, _) if spec.all_nodes == Some(true) => true,
        (None, Some(selector)) => selector_matches(selector, node),
        (None, None) => false,
    }
}

/// The pools with devices for a node, by driver and name.
pub(super) fn gather<'a>(slices: &'a [Slice], node: &Node) -> Vec<Pool<'a>> {
    let mut pools: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    let generation = |i: usize| slices[i].object.spec.pool.generation;
    for (i, slice) in slices.iter().enumerate() {
        let spec = &slice.object.spec;
        // Partitionable devices are off.
        let partitioned =
            spec.per_device_node_selection.is_some() || spec.shared_counters.iter().any(|shared| !shared.is_empty());
        if partitioned || !is_for(&slice.object, node) {
            continue;
        }
        let pool = pools.entry((&spec.driver, &spec.pool.name)).or_default();
        match pool.first().map(|first| generation(*first)) {
            Some(known) if generation(i) < known => {}
            Some(known) if generation(i) > known => *pool = vec![i],
            _ => pool.push(i),
        }
    }
    let gathered = pools.into_iter().filter_map(|((driver, name), own)| {
        let first = &slices[*own.first()?].object.spec.pool;
        let of_pool =
            || slices.iter().map(|slice| &slice.object.spec).filter(|spec| spec.driver == driver && spec.pool.name == name);
        let wanted = usize::try_from(first.resource_slice_count).unwrap_or_default();
        if own.len() != wanted && of_pool().any(|spec| spec.pool.generation > first.generation) {
            // What this node has is of an older generation.
            return None;
        }
        let known: Vec<_> = of_pool().filter(|spec| spec.pool.generation == first.generation).collect();
        let is_incomplete = own.len() != wanted && known.len() != wanted;
        let mut names = HashSet::new();
        let is_invalid = !is_incomplete
            && known.iter().flat_map(|spec| spec.devices.iter().flatten()).any(|device| !names.insert(&device.name));
        Some(Pool { driver, name, is_incomplete, is_invalid, slices: own })
    });
    gathered.collect()
}
