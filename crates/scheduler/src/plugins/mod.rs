//! The plugins, one module each, under upstream's names. The registry is their order.

mod balanced_allocation;
mod default_binder;
mod default_preemption;
mod default_selector;
mod dynamic_resources;
mod fit;
mod gang_scheduling;
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
mod scoring;
mod taint_toleration;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::ConfigError;
#[cfg(test)]
use crate::framework::Profile;
use crate::framework::{Handle, Plugin};

/// A plugin, or what is wrong with its arguments.
pub(crate) type Made = Result<Arc<dyn Plugin>, ConfigError>;

/// How a plugin is made, and what its score weighs.
pub struct Registration {
    /// Upstream's name.
    pub name: &'static str,
    /// Makes the plugin with the arguments of its `pluginConfig`, `null` for none.
    pub make: fn(&Arc<Handle>, &Value) -> Made,
    /// Multiplies its score in the sum; 0 for plugins that do not score.
    pub weight: i64,
}

/// A plugin that has no arguments.
fn plain(plugin: impl Plugin, args: &Value) -> Made {
    let only_kind = |args: &Map<String, Value>| args.keys().all(|key| key == "kind" || key == "apiVersion");
    match args {
        Value::Null => Ok(Arc::new(plugin)),
        Value::Object(args) if only_kind(args) => Ok(Arc::new(plugin)),
        _ => Err(ConfigError::NotImplemented(format!("an argument of the plugin {}", plugin.name()))),
    }
}

/// A plugin with arguments.
fn with<A: DeserializeOwned + Default, P: Plugin>(args: &Value, make: impl FnOnce(A) -> Result<P, ConfigError>) -> Made {
    let args = if args.is_null() {
        A::default()
    } else {
        let mut args = args.clone();
        if let Some(fields) = args.as_object_mut() {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        serde_json::from_value(args).map_err(|error| ConfigError::Decode(error.to_string()))?
    };
    Ok(Arc::new(make(args)?))
}

pub(crate) use gang_scheduling::NAME as GANG_SCHEDULING;

/// All plugins in the order in which they run, with upstream's default weights. All but [`GANG_SCHEDULING`] are there by default.
pub const REGISTRY: &[Registration] = &[
    Registration { name: "SchedulingGates", make: |_, args| plain(scheduling_gates::SchedulingGates, args), weight: 0 },
    Registration { name: "NodeUnschedulable", make: |_, args| plain(node_unschedulable::NodeUnschedulable, args), weight: 0 },
    Registration { name: "NodeName", make: |_, args| plain(node_name::NodeName, args), weight: 0 },
    Registration { name: "TaintToleration", make: |_, args| plain(taint_toleration::TaintToleration, args), weight: 3 },
    Registration { name: "NodeAffinity", make: |_, args| plain(node_affinity::NodeAffinity, args), weight: 2 },
    Registration { name: "NodePorts", make: |_, args| plain(node_ports::NodePorts, args), weight: 0 },
    Registration { name: "NodeResourcesFit", make: |_, args| with(args, fit::Fit::with_args), weight: 1 },
    Registration {
        name: "VolumeRestrictions",
        make: |handle, args| plain(volume_restrictions::VolumeRestrictions { handle: Arc::clone(handle) }, args),
        weight: 0,
    },
    Registration {
        name: "NodeVolumeLimits",
        make: |handle, args| plain(node_volume_limits::NodeVolumeLimits { handle: Arc::clone(handle) }, args),
        weight: 0,
    },
    Registration {
        name: "VolumeBinding",
        make: |handle, args| with(args, |args| volume_binding::VolumeBinding::with_args(handle, &args)),
        weight: 0,
    },
    Registration {
        name: "VolumeZone",
        make: |handle, args| plain(volume_zone::VolumeZone { handle: Arc::clone(handle) }, args),
        weight: 0,
    },
    Registration {
        name: "PodTopologySpread",
        make: |handle, args| with(args, |args| pod_topology_spread::PodTopologySpread::with_args(handle, args)),
        weight: 2,
    },
    Registration {
        name: "InterPodAffinity",
        make: |handle, args| with(args, |args| inter_pod_affinity::InterPodAffinity::with_args(handle, args)),
        weight: 2,
    },
    Registration {
        name: "DynamicResources",
        make: |handle, args| with(args, |args| dynamic_resources::DynamicResources::with_args(handle, &args)),
        weight: 2,
    },
    Registration {
        name: "DefaultPreemption",
        make: |handle, args| with(args, |args| default_preemption::DefaultPreemption::with_args(handle, args)),
        weight: 0,
    },
    Registration {
        name: "NodeResourcesBalancedAllocation",
        make: |_, args| plain(balanced_allocation::BalancedAllocation, args),
        weight: 1,
    },
    Registration { name: "ImageLocality", make: |_, args| plain(image_locality::ImageLocality, args), weight: 1 },
    Registration { name: "DefaultBinder", make: |_, args| plain(default_binder::DefaultBinder, args), weight: 0 },
    Registration {
        name: GANG_SCHEDULING,
        make: |handle, args| plain(gang_scheduling::GangScheduling { handle: Arc::clone(handle) }, args),
        weight: 0,
    },
];

/// The profile of the default scheduler.
#[cfg(test)]
pub(crate) fn default_profile(name: &str, handle: &Arc<Handle>) -> Profile {
    let make = |registration: &Registration| {
        ((registration.make)(handle, &Value::Null).expect("defaults are valid"), registration.weight)
    };
    Profile::new(name, REGISTRY.iter().map(make).collect(), Arc::clone(handle))
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
