//! Between versions of a kind: from the version that a client speaks to the one that is stored, and back.
//!
//! Most kinds have one version. Where two differ in more than their name, the function here says how (upstream's `conversion.go` of the kind).

use apimachinery::{GroupVersionKind, Map, Value, decode, schema};

use super::autoscaler;

/// Converts an object that is in `object`'s own version to `target`.
pub(crate) fn convert(mut object: Value, target: &GroupVersionKind) -> Value {
    let from = (object.api_version().to_owned(), target.api_version());
    match (from.0.as_str(), from.1.as_str(), target.kind.as_str()) {
        ("v1", "events.k8s.io/v1", "Event") => event_to_events_v1(&mut object),
        ("events.k8s.io/v1", "v1", "Event") => event_to_core_v1(&mut object),
        ("autoscaling/v1", "autoscaling/v2", "HorizontalPodAutoscaler") => autoscaler::to_v2(&mut object),
        ("autoscaling/v2", "autoscaling/v1", "HorizontalPodAutoscaler") => autoscaler::to_v1(&mut object),
        ("resource.k8s.io/v1beta1", _, kind) => devices(&mut object, kind, nest_request, lift_device),
        (_, "resource.k8s.io/v1beta1", kind) => devices(&mut object, kind, lift_request, nest_device),
        _ => {}
    }
    object.set_gvk(target);
    // What the other version always writes and this one left out. A stored object conformed when it came in; where it does not, it stays
    // as it is.
    if from.0 != from.1
        && let Some(info) = schema::lookup(target)
    {
        let mut conformed = object.clone();
        if decode::conform(&mut conformed, info).is_ok() {
            object = conformed;
        }
    }
    object
}

/// A change of one request of a claim, or of one device of a slice.
type Reshape = fn(&mut Value);

/// resource.k8s.io: v1beta1 has a request's members, which later versions have in `exactly`, in the request itself, and a device's
/// members, which later versions have in the device itself, in `basic`.
fn devices(object: &mut Value, kind: &str, request: Reshape, device: Reshape) {
    let (path, reshape): (&[&str], Reshape) = match kind {
        "ResourceClaim" => (&["spec", "devices", "requests"], request),
        "ResourceClaimTemplate" => (&["spec", "spec", "devices", "requests"], request),
        "ResourceSlice" => (&["spec", "devices"], device),
        _ => return,
    };
    if let Some(items) = object.get_path_mut(path).and_then(Value::as_array_mut) {
        items.iter_mut().for_each(reshape);
    }
}

/// Moves all members but these into a member of their own.
fn nest(item: &mut Value, kept: &[&str], into: &'static str) {
    let (mut outer, mut inner) = (Map::new(), Map::new());
    for (key, value) in item.as_object().into_iter().flatten() {
        let place = if kept.contains(&key.as_str()) { &mut outer } else { &mut inner };
        place.insert(key.clone(), value.clone());
    }
    if !inner.is_empty() {
        outer.insert(into, inner);
    }
    *item = outer.into();
}

/// Moves the members of a member up.
fn lift(item: &mut Value, from: &str) {
    let inner = item.remove(from).unwrap_or_default();
    for (key, value) in inner.as_object().into_iter().flatten() {
        item.insert(key.clone(), value.clone());
    }
}

fn nest_request(request: &mut Value) {
    nest(request, &["name", "firstAvailable"], "exactly");
}

fn lift_request(request: &mut Value) {
    lift(request, "exactly");
}

fn nest_device(device: &mut Value) {
    nest(device, &["name"], "basic");
}

fn lift_device(device: &mut Value) {
    lift(device, "basic");
}

/// Moves members to their names in the other version.
fn rename(object: &mut Value, names: &[(&str, &'static str)]) {
    for (from, to) in names {
        if let Some(value) = object.remove(from) {
            object.insert(*to, value);
        }
    }
}

const EVENT_NAMES: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn event_to_events_v1(object: &mut Value) {
    rename(object, &EVENT_NAMES);
    rename(object, &[("reportingComponent", "reportingController")]);
}

fn event_to_core_v1(object: &mut Value) {
    rename(object, &EVENT_NAMES.map(|(core, events)| (events, core)));
    rename(object, &[("reportingController", "reportingComponent")]);
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn events_round_trip() {
        let core = value!({"apiVersion": "v1", "kind": "Event", "metadata": {}, "involvedObject": {"name": "a"}, "message": "m",
            "source": {}, "count": 3, "reportingComponent": "kubelet", "reportingInstance": "", "eventTime": null,
            "firstTimestamp": null, "lastTimestamp": null});
        let events = convert(core.clone(), &GroupVersionKind::new("events.k8s.io", "v1", "Event"));
        assert_eq!(events["regarding"]["name"], "a");
        assert_eq!(events["note"], "m");
        assert_eq!(convert(events, &GroupVersionKind::new("", "v1", "Event")), core);
    }

    #[test]
    fn device_requests_round_trip() {
        let old = value!({"apiVersion": "resource.k8s.io/v1beta1", "kind": "ResourceClaim", "spec": {"devices": {"requests": [
            {"name": "a", "deviceClassName": "gpu", "count": 2}]}}});
        let new = convert(old.clone(), &GroupVersionKind::new("resource.k8s.io", "v1", "ResourceClaim"));
        assert_eq!(new["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"], "gpu");
        let back = convert(new, &GroupVersionKind::new("resource.k8s.io", "v1beta1", "ResourceClaim"));
        assert_eq!(back["spec"], old["spec"]);
        let old = value!({"apiVersion": "resource.k8s.io/v1beta1", "kind": "ResourceSlice", "spec": {"devices": [
            {"name": "a", "basic": {"attributes": {"x": {"bool": true}}}}]}});
        let new = convert(old.clone(), &GroupVersionKind::new("resource.k8s.io", "v1", "ResourceSlice"));
        assert_eq!(new["spec"]["devices"][0]["attributes"]["x"]["bool"].as_bool(), Some(true));
        let back = convert(new, &GroupVersionKind::new("resource.k8s.io", "v1beta1", "ResourceSlice"));
        assert_eq!(back["spec"]["devices"], old["spec"]["devices"]);
    }

    #[test]
    fn autoscalers_round_trip() {
        let v1 = value!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "a"}, "maxReplicas": 3, "targetCPUUtilizationPercentage": 80}});
        let v2 = convert(v1.clone(), &GroupVersionKind::new("autoscaling", "v2", "HorizontalPodAutoscaler"));
        assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"].as_i64(), Some(80));
        let back = convert(v2, &GroupVersionKind::new("autoscaling", "v1", "HorizontalPodAutoscaler"));
        assert_eq!(back["spec"], v1["spec"]);
    }
}
