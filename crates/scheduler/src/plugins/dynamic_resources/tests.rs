//! Tables for the allocation of devices.

use k8s_openapi::api::resource::v1::{DeviceClass, ResourceSlice};
use serde_json::{Value, json};

use super::*;
use crate::framework::Transition;
use crate::plugins::testing::{node, pod, state};
use crate::snapshot::Snapshot;

fn typed<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("an object")
}

/// A claim with these requests.
fn claim(name: &str, requests: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "1"},
        "spec": {"devices": {"requests": requests}},
    })
}

fn exactly(class: &str, count: i64) -> Value {
    json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": count})
}

fn with(mut object: Value, path: &str, value: Value) -> Value {
    let (parent, member) = path.rsplit_once('/').expect("a path");
    object.pointer_mut(parent).expect("the parent")[member] = value;
    object
}

/// An allocation of a device of the pool of node `a`.
fn allocated(device: &str) -> Value {
    let result = json!({"request": "r", "driver": "x.io", "pool": "a", "device": device});
    let here = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]});
    json!({"devices": {"results": [result]}, "nodeSelector": {"nodeSelectorTerms": [here]}})
}

/// Two nodes with a pool each: `a` has two devices of zone 1 and one of zone 2, `b` one of zone 2.
fn slices() -> Vec<Value> {
    let device = |name: &str, zone: i64, memory: &str| {
        json!({"name": name, "attributes": {"zone": {"int": zone}, "kind": {"string": "gpu"}, "firmware": {"version": "1.2.3"}},
            "capacity": {"memory": {"value": memory}}})
    };
    let slice = |node: &str, devices: Value| {
        let pool = json!({"name": node, "generation": 1, "resourceSliceCount": 1});
        json!({"metadata": {"name": node}, "spec": {"driver": "x.io", "nodeName": node, "pool": pool, "devices": devices}})
    };
    vec![
        slice("a", json!([device("a0", 1, "10Gi"), device("a1", 2, "20Gi"), device("a2", 1, "40Gi")])),
        slice("b", json!([device("b0", 2, "80Gi")])),
    ]
}

fn class(name: &str, expression: &str) -> Value {
    let config = json!([{"opaque": {"driver": "x.io", "parameters": {"from": name}}}]);
    json!({"metadata": {"name": name}, "spec": {"selectors": [{"cel": {"expression": expression}}], "config": config}})
}

fn plugin(claims: Vec<Value>, slices: Vec<Value>) -> DynamicResources {
    let mut handle = Handle::default();
    handle.listers.resource_claims = client::Store::from_objects(claims.into_iter().map(typed::<ResourceClaim>));
    handle.listers.resource_slices = client::Store::from_objects(slices.into_iter().map(typed::<ResourceSlice>));
    let classes = [
        class("gpu", "device.attributes['x.io'].kind == 'gpu'"),
        class("big", "device.capacity['x.io'].memory.compareTo(quantity('40Gi')) >= 0"),
        class("none", "device.driver == 'other'"),
        class("broken", "device.attributes['x.io'].missing == 1"),
    ];
    handle.listers.device_classes = client::Store::from_objects(classes.map(typed::<DeviceClass>));
    DynamicResources::with_args(&Arc::new(handle), &Args::default()).expect("valid arguments")
}

fn user(claims: &[&str]) -> Pod {
    let claims: Vec<Value> = claims.iter().map(|name| json!({"name": name, "resourceClaimName": name})).collect();
    pod(json!({"containers": [], "resourceClaims": claims}))
}

/// What Filter says of a node: the devices of all claims, as `REQUEST=DEVICE`, or the reason.
type Said = Result<Vec<String>, String>;

fn on(plugin: &DynamicResources, state: &CycleState, pod: &Pod, name: &str) -> Said {
    let status = plugin.filter(state, pod, &node(json!({"metadata": {"name": name}})));
    if !status.is_success() {
        return Err(status.message());
    }
    let Attempt(work) = state.get::<Attempt>().expect("PreFilter ran");
    let found = work.found.lock().get(name).cloned().unwrap_or_default();
    let devices = found.iter().flat_map(|result| result.devices.iter().flat_map(|devices| devices.results.iter().flatten()));
    Ok(devices.map(|device| format!("{}={}", device.request, device.device)).collect())
}

/// What PreFilter refuses with, or what Filter says of both nodes.
fn outcome(plugin: &DynamicResources, pod: &Pod) -> Result<[Said; 2], String> {
    let mut state = state(pod);
    let (status, _) = plugin.pre_filter(&mut state, pod, &Snapshot::default());
    if !status.is_success() {
        return Err(if status.code() == Code::Skip { "skip".to_owned() } else { status.message() });
    }
    Ok([on(plugin, &state, pod, "a"), on(plugin, &state, pod, "b")])
}

fn said(devices: &[&str]) -> Said {
    Ok(devices.iter().map(|device| (*device).to_owned()).collect())
}

fn cannot(reason: &str) -> Said {
    Err(reason.to_owned())
}

const NOT_ALL: &str = "cannot allocate all claims";

/// An attempt at the claim `c` of a device of zone 2 by this expression.
fn attempt(exactly: &Value, expression: &str) -> (DynamicResources, CycleState, Pod) {
    let selectors = json!([{"cel": {"expression": expression}}]);
    let request = with(json!({"name": "r", "exactly": exactly}), "/exactly/selectors", selectors);
    let mut plugin = plugin(vec![claim("c", json!([request]))], slices());
    plugin.timeout = None;
    let pod = user(&["c"]);
    let mut state = state(&pod);
    assert!(plugin.pre_filter(&mut state, &pod, &Snapshot::default()).0.is_success());
    (plugin, state, pod)
}

/// Searches node `b` with a clock that is late from the question after this many on: whether there is an allocation (an error where it was
/// too late), and how often the clock was asked.
fn searched(state: &CycleState, in_time: usize) -> (Result<bool, String>, usize) {
    let Attempt(work) = state.get::<Attempt>().expect("PreFilter ran");
    let wanting: Vec<_> = work.wanting.iter().map(|i| Arc::clone(&work.claims.lock()[*i])).collect();
    let asked = std::cell::Cell::new(0);
    let is_late = || {
        asked.set(asked.get() + 1);
        asked.get() > in_time
    };
    let node = node(json!({"metadata": {"name": "b"}}));
    let found = work.inventory.as_ref().expect("something is wanted").allocate(node.node(), &wanting, &is_late);
    let found = found.map(|found| found.is_some()).map_err(|failure| match failure {
        Failure::OnNode(why) => why,
        Failure::Error(why) => format!("remembered for all nodes: {why}"),
    });
    (found, asked.get())
}

/// Whenever it gets too late, in the middle of an expression too, the search ends there, and what it then does not know it finds out later.
#[test]
fn what_was_too_late_is_asked_again() {
    for exactly in [exactly("gpu", 1), json!({"deviceClassName": "gpu", "allocationMode": "All"})] {
        let quick = "device.attributes['x.io'].zone == 2";
        let long = "lists.range(2000).all(i, device.attributes['x.io'].zone != i + 10)";
        let questions = |expression: &str| {
            let (found, asked) = searched(&attempt(&exactly, expression).1, usize::MAX);
            assert_eq!(found, Ok(true));
            asked
        };
        let (least, most) = (questions(quick), questions(long));
        assert!(most > least + 10, "the expression itself asks: {least}, {most}");
        for in_time in 0..most {
            let (plugin, state, pod) = attempt(&exactly, long);
            let late = Err("timed out trying to allocate devices".to_owned());
            assert_eq!(searched(&state, in_time), (late, in_time + 1));
            assert_eq!(on(&plugin, &state, &pod, "b"), said(&["r=b0"]), "late after {in_time} of {most}");
        }
    }
}

/// The deadline is the search's, and what costs too much is told apart from it.
#[test]
fn expressions_are_given_up_in_time() {
    let endless = "lists.range(1000).all(i, lists.range(100).all(j, device.attributes['x.io'].zone != i + 10))";
    for exactly in [exactly("gpu", 1), json!({"deviceClassName": "gpu", "allocationMode": "All"})] {
        let (mut plugin, state, pod) = attempt(&exactly, endless);
        // Costs more than it may: told apart from what is too late.
        assert!(on(&plugin, &state, &pod, "a").is_err_and(|why| why.contains("cost limit exceeded")));
        plugin.timeout = Some(Duration::from_nanos(1));
        assert_eq!(on(&plugin, &state, &pod, "b"), cannot("timed out trying to allocate devices"));
    }
}

#[test]
fn requests_are_matched_to_devices() {
    let check = |claims: Vec<Value>, a: Said, b: Said| {
        let names: Vec<String> =
            claims.iter().map(|claim| claim["metadata"]["name"].as_str().expect("a name").to_owned()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(outcome(&plugin(claims, slices()), &user(&names)), Ok([a, b]));
    };
    let one = |request: Value| vec![claim("c", json!([request]))];
    check(one(json!({"name": "r", "exactly": exactly("gpu", 1)})), said(&["r=a0"]), said(&["r=b0"]));
    check(one(json!({"name": "r", "exactly": exactly("gpu", 2)})), said(&["r=a0", "r=a1"]), cannot(NOT_ALL));
    check(one(json!({"name": "r", "exactly": exactly("big", 1)})), said(&["r=a2"]), said(&["r=b0"]));
    check(one(json!({"name": "r", "exactly": exactly("none", 1)})), cannot(NOT_ALL), cannot(NOT_ALL));
    let all = json!({"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "All"}});
    check(one(all), said(&["r=a0", "r=a1", "r=a2"]), said(&["r=b0"]));
    let selectors = json!([{"cel": {"expression": "device.attributes['x.io'].zone == 2"}}]);
    let zone = with(json!({"name": "r", "exactly": exactly("gpu", 1)}), "/exactly/selectors", selectors);
    check(one(zone), said(&["r=a1"]), said(&["r=b0"]));
    let version = json!([{"cel": {"expression": "device.attributes['x.io'].firmware.isLessThan(semver('1.0.0'))"}}]);
    let old = with(json!({"name": "r", "exactly": exactly("gpu", 1)}), "/exactly/selectors", version);
    check(one(old), cannot(NOT_ALL), cannot(NOT_ALL));
    // Two claims share what there is.
    let of = |name: &str, count| claim(name, json!([{"name": "r", "exactly": exactly("gpu", count)}]));
    check(vec![of("c", 2), of("d", 1)], said(&["r=a0", "r=a1", "r=a2"]), cannot(NOT_ALL));
    check(vec![of("c", 2), of("d", 2)], cannot(NOT_ALL), cannot(NOT_ALL));
}

#[test]
fn the_search_steps_back() {
    let requests = json!([{"name": "any", "exactly": exactly("gpu", 2)}, {"name": "big", "exactly": exactly("big", 1)}]);
    let plain = claim("c", requests.clone());
    let check = |claim: Value, a: Said| {
        let result = outcome(&plugin(vec![claim], slices()), &user(&["c"])).expect("it is tried");
        assert_eq!(result[0], a);
    };
    check(plain.clone(), said(&["any=a0", "any=a1", "big=a2"]));
    let same = |requests: Value| json!([{"requests": requests, "matchAttribute": "x.io/zone"}]);
    // Of three devices in one zone there are two.
    check(with(plain.clone(), "/spec/devices/constraints", same(json!([]))), cannot(NOT_ALL));
    let two = json!([{"name": "any", "exactly": exactly("gpu", 1)}, {"name": "big", "exactly": exactly("big", 1)}]);
    let pair = with(claim("c", two), "/spec/devices/constraints", same(json!(["any", "big"])));
    check(pair, said(&["any=a0", "big=a2"]));
    let zoned = json!([{"name": "any", "exactly": exactly("gpu", 2)}]);
    check(with(claim("c", zoned), "/spec/devices/constraints", same(json!([]))), said(&["any=a0", "any=a2"]));
    let unknown = json!([{"requests": [], "matchAttribute": "x.io/nothing"}]);
    check(with(plain, "/spec/devices/constraints", unknown), cannot(NOT_ALL));
}

#[test]
fn alternatives_are_tried_in_their_order() {
    let part = |name: &str, class: &str, count: i64| json!({"name": name, "deviceClassName": class, "allocationMode": "ExactCount", "count": count});
    let requests =
        json!([{"name": "r", "firstAvailable": [part("two-big", "big", 2), part("big", "big", 1), part("any", "gpu", 1)]}]);
    let plugin_ = plugin(vec![claim("c", requests.clone())], slices());
    let pod = user(&["c"]);
    assert_eq!(outcome(&plugin_, &pod), Ok([said(&["r/big=a2"]), said(&["r/big=b0"])]));
    // The one big device of `a` is taken: the next best is worth less.
    let taken = with(claim("t", json!([])), "/status", Value::Null);
    let taken = with(taken, "/status", json!({"allocation": allocated("a2")}));
    let plugin_ = plugin(vec![claim("c", requests), taken], slices());
    assert_eq!(outcome(&plugin_, &pod), Ok([said(&["r/any=a0"]), said(&["r/big=b0"])]));
    let mut state = state(&pod);
    plugin_.pre_filter(&mut state, &pod, &Snapshot::default());
    let nodes: Vec<Arc<NodeInfo>> = ["a", "b"].map(|name| Arc::new(node(json!({"metadata": {"name": name}})))).into();
    let mut scores: Vec<i64> = Vec::new();
    for node in &nodes {
        assert!(plugin_.filter(&state, &pod, node).is_success());
        scores.push(plugin_.score(&state, &pod, node));
    }
    assert_eq!(scores, [6, 7]);
    plugin_.normalize(&state, &nodes, &mut scores);
    assert_eq!(scores, [85, 100]);
}

#[test]
fn taken_devices_and_administrators() {
    let taken = with(claim("t", json!([])), "/status", json!({"allocation": allocated("a0")}));
    let own = claim("c", json!([{"name": "r", "exactly": exactly("gpu", 1)}]));
    let watcher = json!([{"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "All", "adminAccess": true}}]);
    let pod = user(&["c"]);
    assert_eq!(outcome(&plugin(vec![own.clone(), taken.clone()], slices()), &pod).expect("tried")[0], said(&["r=a1"]));
    let admin = plugin(vec![claim("c", watcher), taken.clone()], slices());
    assert_eq!(outcome(&admin, &pod).expect("tried")[0], said(&["r=a0", "r=a1", "r=a2"]));
    // What an administrator looks at is not taken.
    let looked = with(taken, "/status/allocation/devices/results/0/adminAccess", json!(true));
    assert_eq!(outcome(&plugin(vec![own, looked], slices()), &pod).expect("tried")[0], said(&["r=a0"]));
}

#[test]
fn pools_have_to_be_whole() {
    let own = || claim("c", json!([{"name": "r", "exactly": exactly("gpu", 1)}]));
    let all = || claim("c", json!([{"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "All"}}]));
    let check = |claim: Value, slices: Vec<Value>, a: Said| {
        assert_eq!(outcome(&plugin(vec![claim], slices), &user(&["c"])).expect("tried")[0], a);
    };
    let incomplete = || vec![with(slices().remove(0), "/spec/pool/resourceSliceCount", json!(2))];
    check(own(), incomplete(), cannot(NOT_ALL));
    check(
        all(),
        incomplete(),
        cannot("claim d/c, request r: asks for all devices, but resource pool x.io/a is currently being updated"),
    );
    // Of two generations the newer one counts.
    let mut newer = with(slices().remove(0), "/spec/pool/generation", json!(2));
    newer["metadata"]["name"] = json!("newer");
    newer["spec"]["devices"] = json!([newer["spec"]["devices"][2]]);
    check(own(), vec![slices().remove(0), newer], said(&["r=a2"]));
    let mut twice = slices().remove(0);
    twice["spec"]["devices"][1]["name"] = json!("a0");
    check(own(), vec![twice], cannot("invalid resource pools were encountered"));
    let conditional = with(slices().remove(0), "/spec/devices/0/bindingConditions", json!(["c"]));
    check(own(), vec![conditional], said(&["r=a1"]));
    let counting = with(slices().remove(0), "/spec/devices/0/consumesCounters", json!([{"counterSet": "s", "counters": {}}]));
    check(own(), vec![counting], said(&["r=a1"]));
    let everywhere = || {
        let mut slice = with(slices().remove(1), "/spec/nodeName", Value::Null);
        slice["spec"]["allNodes"] = json!(true);
        slice
    };
    check(own(), vec![everywhere()], said(&["r=b0"]));
}

#[test]
fn reasons() {
    let check = |claims: Vec<Value>, pod: Pod, expected: &str| {
        assert_eq!(outcome(&plugin(claims, slices()), &pod).err().as_deref(), Some(expected));
    };
    check(vec![], user(&["c"]), "could not find v1.ResourceClaim \"d/c\"");
    check(vec![], user(&[]), "skip");
    let leaving = with(claim("c", json!([])), "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
    check(vec![leaving], user(&["c"]), "resourceclaim \"c\" is being deleted");
    let unknown = claim("c", json!([{"name": "r", "exactly": exactly("x", 1)}]));
    check(vec![unknown], user(&["c"]), "request r: device class x does not exist");
    let generated = pod(json!({"containers": [], "resourceClaims": [{"name": "g", "resourceClaimTemplateName": "t"}]}));
    check(vec![], generated.clone(), "pod \"d/p\": ResourceClaim not created yet");
    let mut named = generated;
    named.status = Some(typed(json!({"resourceClaimStatuses": [{"name": "g", "resourceClaimName": "c"}]})));
    check(vec![claim("c", json!([]))], named.clone(), "ResourceClaim d/c was not created for pod d/p (pod is not owner)");
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
    let owned = with(claim("c", json!([{"name": "r", "exactly": exactly("gpu", 1)}])), "/metadata/ownerReferences", owner);
    assert_eq!(outcome(&plugin(vec![owned], slices()), &named).map(|said| said[0].clone()), Ok(said(&["r=a0"])));
    let broken = claim("c", json!([{"name": "r", "exactly": exactly("broken", 1)}]));
    let result = outcome(&plugin(vec![broken], slices()), &user(&["c"])).expect("tried");
    assert_eq!(result[0], cannot("class broken: selector #0: CEL runtime error: no such key: missing"));
    let many = claim("c", json!([{"name": "r", "exactly": exactly("gpu", 33)}]));
    let result = outcome(&plugin(vec![many], slices()), &user(&["c"])).expect("tried");
    assert_eq!(result[0], cannot("claim d/c: number of requested devices 33 exceeds the claim limit of 32"));
}

#[test]
fn results_say_where_and_how() {
    let requests = json!([{"name": "r", "exactly": exactly("gpu", 1)}, {"name": "s", "exactly": exactly("gpu", 1)}]);
    let config = json!([{"requests": ["s"], "opaque": {"driver": "x.io", "parameters": {"a": 1}}}]);
    let own = with(claim("c", requests), "/spec/devices/config", config);
    let plugin = plugin(vec![own], slices());
    let pod = user(&["c"]);
    let mut state = state(&pod);
    plugin.pre_filter(&mut state, &pod, &Snapshot::default());
    assert_eq!(on(&plugin, &state, &pod, "a"), said(&["r=a0", "s=a1"]));
    let Attempt(work) = state.get::<Attempt>().expect("PreFilter ran");
    let result = serde_json::to_value(&work.found.lock()["a"][0]).expect("JSON");
    let device = |request: &str, device: &str| json!({"request": request, "driver": "x.io", "pool": "a", "device": device});
    let here = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]});
    let config = json!([
        {"source": "FromClass", "requests": ["r", "s"], "opaque": {"driver": "x.io", "parameters": {"from": "gpu"}}},
        {"source": "FromClaim", "requests": ["s"], "opaque": {"driver": "x.io", "parameters": {"a": 1}}},
    ]);
    let devices = json!({"results": [device("r", "a0"), device("s", "a1")], "config": config});
    assert_eq!(result, json!({"devices": devices, "nodeSelector": here}));
}

#[test]
fn what_is_promised_is_not_given_twice() {
    let claims = vec![
        claim("c", json!([{"name": "r", "exactly": exactly("big", 1)}])),
        claim("d", json!([{"name": "r", "exactly": exactly("big", 1)}])),
    ];
    let plugin = plugin(claims, slices());
    let (first, second) = (user(&["c"]), user(&["d"]));
    let mut attempt = state(&first);
    plugin.pre_filter(&mut attempt, &first, &Snapshot::default());
    assert_eq!(on(&plugin, &attempt, &first, "a"), said(&["r=a2"]));
    assert!(plugin.reserve(&mut attempt, &first, "a").is_success());
    assert_eq!(outcome(&plugin, &second), Ok([cannot(NOT_ALL), said(&["r=b0"])]));
    let pending = "resource claim d/c is in the process of being allocated";
    assert_eq!(outcome(&plugin, &first).err().as_deref(), Some(pending));
    plugin.unreserve(&mut attempt, &first, "a");
    assert_eq!(outcome(&plugin, &second), Ok([said(&["r=a2"]), said(&["r=b0"])]));
    assert!(plugin.handle.releases.lock().is_empty());
}

#[test]
fn an_allocation_that_keeps_the_pod_from_its_node_is_given_up() {
    let own = |reserved: Value| {
        let claim = claim("c", json!([{"name": "r", "exactly": exactly("gpu", 1)}]));
        with(claim, "/status", json!({"allocation": allocated("a0"), "reservedFor": reserved}))
    };
    let reserved_by = |uid: &str| json!([{"resource": "pods", "name": "x", "uid": uid}]);
    let profile = crate::plugins::default_profile("default-scheduler", &Arc::default());
    let snapshot = Snapshot::default();
    for (reserved, freed) in [(json!([]), true), (reserved_by("u"), true), (reserved_by("other"), false)] {
        let plugin = plugin(vec![own(reserved)], slices());
        let pod = user(&["c"]);
        let mut state = state(&pod);
        plugin.pre_filter(&mut state, &pod, &snapshot);
        assert_eq!(on(&plugin, &state, &pod, "a"), said(&[]));
        assert_eq!(on(&plugin, &state, &pod, "b"), cannot("resourceclaim not available on the node"));
        let misfit = Misfit {
            profile: &profile,
            snapshot: &snapshot,
            rejected: &[],
            others: Status::new(Code::Unschedulable, [""]),
            extenders: &[],
        };
        let (status, _) = plugin.post_filter(&state, &pod, &misfit);
        let expected = if freed { "deallocation of ResourceClaim completed" } else { "still not schedulable" };
        assert_eq!((status.code(), status.message().as_str()), (Code::Unschedulable, expected));
        assert_eq!(plugin.handle.releases.lock().len(), usize::from(freed));
    }
}

#[test]
fn hints() {
    let own = claim("c", json!([{"name": "r", "exactly": exactly("gpu", 1)}]));
    let plugin = plugin(vec![own.clone()], slices());
    let info = crate::plugins::testing::info(user(&["c"]));
    let change = |old: Option<Value>, new: Option<Value>| {
        let object = |value: Value| Arc::new(typed::<ResourceClaim>(value));
        plugin.hint(&info, &ClusterEvent::ResourceClaim(Transition { old: old.map(object), new: new.map(object) }))
    };
    let taken = |name: &str| with(claim(name, json!([])), "/status", json!({"allocation": allocated("a0")}));
    assert_eq!(change(None, Some(own.clone())), Hint::Queue);
    assert_eq!(change(None, Some(claim("other", json!([])))), Hint::Skip);
    assert_eq!(change(Some(taken("other")), Some(claim("other", json!([])))), Hint::Queue);
    assert_eq!(change(Some(own.clone()), Some(own.clone())), Hint::Skip);
    assert_eq!(change(Some(own.clone()), None), Hint::Skip);
    let slice = Arc::new(typed::<ResourceSlice>(slices().remove(0)));
    assert_eq!(plugin.hint(&info, &ClusterEvent::ResourceSlice(Transition { old: None, new: Some(slice) })), Hint::Queue);
    let (old, mut new) = (Arc::new(user(&["c"])), user(&["c"]));
    let own_change = |new: Pod| plugin.hint(&info, &ClusterEvent::UnscheduledPod { old: old.clone(), new: Arc::new(new) });
    assert_eq!(own_change(new.clone()), Hint::Skip);
    new.status = Some(typed(json!({"resourceClaimStatuses": [{"name": "g", "resourceClaimName": "c"}]})));
    assert_eq!(own_change(new), Hint::Queue);
}
