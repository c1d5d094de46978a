//! The plugins, one module each, under upstream's names. The registry is their order.

mod balanced_allocation;
mod default_binder;
mod default_preemption;
mod default_selector;
mod dynamic_resources;
mod fit;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod node_volume_limits;
mod pod_claims;
mod pod_topology_spread;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use crate::framework::{Handle, Plugin, Profile};

/// How a plugin is made, and what its score weighs.
pub struct Registration {
    /// Makes the plugin.
    pub make: fn(&Arc<Handle>) -> Arc<dyn Plugin>,
    /// Multiplies its score in the sum; 0 for plugins that do not score.
    pub weight: i64,
}

/// All plugins in the order in which they run, with upstream's default weights.
pub const REGISTRY: &[Registration] = &[
    Registration { make: |_| Arc::new(scheduling_gates::SchedulingGates), weight: 0 },
    Registration { make: |_| Arc::new(node_unschedulable::NodeUnschedulable), weight: 0 },
    Registration { make: |_| Arc::new(node_name::NodeName), weight: 0 },
    Registration { make: |_| Arc::new(taint_toleration::TaintToleration), weight: 3 },
    Registration { make: |_| Arc::new(node_affinity::NodeAffinity), weight: 2 },
    Registration { make: |_| Arc::new(node_ports::NodePorts), weight: 0 },
    Registration { make: |_| Arc::new(fit::Fit), weight: 1 },
    Registration { make: |handle| Arc::new(volume_restrictions::VolumeRestrictions { handle: Arc::clone(handle) }), weight: 0 },
    Registration { make: |handle| Arc::new(node_volume_limits::NodeVolumeLimits { handle: Arc::clone(handle) }), weight: 0 },
    Registration { make: |handle| Arc::new(volume_binding::VolumeBinding::new(handle)), weight: 0 },
    Registration { make: |handle| Arc::new(volume_zone::VolumeZone { handle: Arc::clone(handle) }), weight: 0 },
    Registration { make: |handle| Arc::new(pod_topology_spread::PodTopologySpread::new(handle)), weight: 2 },
    Registration { make: |handle| Arc::new(inter_pod_affinity::InterPodAffinity::new(handle)), weight: 2 },
    Registration { make: |_| Arc::new(dynamic_resources::DynamicResources), weight: 0 },
    Registration { make: |handle| Arc::new(default_preemption::DefaultPreemption::new(handle)), weight: 0 },
    Registration { make: |_| Arc::new(balanced_allocation::BalancedAllocation), weight: 1 },
    Registration { make: |_| Arc::new(image_locality::ImageLocality), weight: 1 },
    Registration { make: |_| Arc::new(default_binder::DefaultBinder), weight: 0 },
];

/// The profile of the default scheduler.
pub(crate) fn default_profile(name: &str, handle: &Arc<Handle>) -> Profile {
    let plugins = REGISTRY.iter().map(|registration| ((registration.make)(handle), registration.weight)).collect();
    Profile::new(name, plugins, Arc::clone(handle))
}

/// Brings scores to 0..=100 by the largest; `reverse` makes the smallest the best.
fn normalize_by_largest(scores: &mut [i64], reverse: bool) {
    use crate::framework::NODE_SCORE_MAX;
    let largest = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        let scaled = if largest == 0 { 0 } else { *score * NODE_SCORE_MAX / largest };
        *score = if reverse { NODE_SCORE_MAX - scaled } else { scaled };
    }
}

/// Whether a toleration covers a taint (core/v1 Toleration).
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let own = toleration.value.as_deref().unwrap_or_default();
    let value = taint.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => !key.is_empty() && own == value,
        "Exists" => true,
        _ => false,
    }
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod testing;
