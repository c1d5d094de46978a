//! Defaults of a pod's own resources (KEP-2837): what the containers add up to.

use std::collections::BTreeMap;

use super::is_absent;
use crate::{Quantity, Value};

type Amounts = BTreeMap<String, Quantity>;

/// Sets the pod's huge page limits and its requests, when its resources are given in part.
pub(super) fn apply(spec: &mut Value) {
    if is_absent(spec, "resources") {
        return;
    }
    let has = |spec: &Value, part: &str| spec["resources"][part].as_object().is_some_and(|m| !m.is_empty());
    if has(spec, "limits") || has(spec, "requests") {
        let limits = aggregate(spec, "limits");
        for (name, amount) in limits.iter().filter(|(name, _)| name.starts_with("hugepages-")) {
            if spec.get_path(&["resources", "requests", name]).is_none() {
                set_if_absent(spec, "limits", name, Value::from(*amount));
            }
        }
    }
    if !has(spec, "limits") {
        return;
    }
    let requests = aggregate(spec, "requests");
    for (name, amount) in requests.iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")) {
        set_if_absent(spec, "requests", name, Value::from(*amount));
    }
    let limits = spec["resources"]["limits"].clone();
    for (name, limit) in limits.as_object().into_iter().flatten() {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            set_if_absent(spec, "requests", name, limit.clone());
        }
    }
}

fn set_if_absent(spec: &mut Value, part: &'static str, name: &str, amount: Value) {
    if spec.get_path(&["resources", part, name]).is_none() {
        spec.path_mut(&["resources", part]).insert(name, amount);
    }
}

fn amounts(container: &Value, part: &str) -> Amounts {
    let members = container["resources"][part].as_object().into_iter().flatten();
    members.filter_map(|(name, v)| Some((name.to_string(), Quantity::from_value(v).ok()?))).collect()
}

fn add(total: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let sum = total.get(name).map_or(*amount, |have| have.plus(*amount));
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        if total.get(name).is_none_or(|have| have < amount) {
            total.insert(name.clone(), *amount);
        }
    }
}

/// All containers with the sidecars, or what an init container needs beside the sidecars started before it, if that is more.
fn aggregate(spec: &Value, part: &str) -> Amounts {
    let mut total = Amounts::new();
    for container in spec.array_at(&["containers"]) {
        add(&mut total, &amounts(container, part));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.array_at(&["initContainers"]) {
        let mut own = amounts(container, part);
        if container["restartPolicy"] == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            add(&mut own, &sidecars);
            raise(&mut peak, &own);
        }
    }
    raise(&mut total, &peak);
    total
}
