use super::*;
use serde_json::{Value, json};

fn service(extra: Value) -> Service {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "svc"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    });
    for (key, field) in extra.as_object().expect("is an object") {
        value["spec"][key] = field.clone();
    }
    serde_json::from_value(value).expect("is a service")
}

fn pod(number: u32, extra: Value) -> Arc<Pod> {
    let mut value = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "default", "uid": format!("u{number}")},
        "spec": {"containers": [], "nodeName": "n1"},
        "status": {"phase": "Running",
            "podIPs": [{"ip": format!("10.1.{}.{}", number / 200, number % 200 + 1)}, {"ip": format!("fd00::{:x}", number + 1)}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    for (key, fields) in extra.as_object().expect("is an object") {
        for (name, field) in fields.as_object().expect("is an object") {
            value[key][name] = field.clone();
        }
    }
    Arc::new(serde_json::from_value(value).expect("is a pod"))
}

fn run(service: &Service, pods: &[Arc<Pod>], existing: Vec<Arc<EndpointSlice>>) -> Plan {
    plan(service, pods, existing, 100, |name| match name {
        "n1" => Node::Known { zone: Some("z1".into()) },
        _ => Node::Unknown,
    })
}

/// As the API server would store it.
fn stored(slice: &EndpointSlice, name: &str) -> Arc<EndpointSlice> {
    let mut slice = slice.clone();
    slice.metadata.name = Some(name.into());
    slice.metadata.resource_version = Some("1".into());
    Arc::new(slice)
}

fn conditions(endpoint: &Endpoint) -> (bool, bool, bool) {
    let conditions = endpoint.conditions.clone().expect("has conditions");
    (conditions.ready == Some(true), conditions.serving == Some(true), conditions.terminating == Some(true))
}

#[test]
fn a_slice_tells_all_of_a_pod() {
    let plan = run(&service(json!({})), &[pod(0, json!({}))], vec![]);
    let [slice] = &plan.create[..] else { panic!("one slice: {plan:?}") };
    assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));
    assert_eq!(slice.address_type, "IPv4");
    assert_eq!(slice.labels()[SERVICE_NAME], "web");
    assert_eq!(slice.labels()[MANAGED_BY.0], MANAGED_BY.1);
    assert!(!slice.labels().contains_key(HEADLESS));
    let ports = slice.ports.as_ref().expect("has ports");
    assert_eq!((ports[0].name.as_deref(), ports[0].port), (Some("http"), Some(8080)));
    let endpoint = &slice.endpoints[0];
    assert_eq!(endpoint.addresses, ["10.1.0.1"]);
    assert_eq!((endpoint.node_name.as_deref(), endpoint.zone.as_deref()), (Some("n1"), Some("z1")));
    assert_eq!(endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref()), Some("p0"));
    assert_eq!(endpoint.hints, None);
}

#[test]
fn conditions_of_endpoints() {
    let not_ready = json!({"status": {"conditions": []}});
    let terminating = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}});
    for (publish, pod_fields, expected) in [
        (false, json!({}), (true, true, false)),
        (false, not_ready.clone(), (false, false, false)),
        (true, not_ready, (true, false, false)),
        (false, terminating.clone(), (false, true, true)),
        (true, terminating, (true, true, true)),
    ] {
        let service = service(json!({"publishNotReadyAddresses": publish}));
        let plan = run(&service, &[pod(0, pod_fields.clone())], vec![]);
        assert_eq!(conditions(&plan.create[0].endpoints[0]), expected, "{publish} {pod_fields}");
    }
}

#[test]
fn pods_that_are_no_endpoints() {
    for fields in [json!({"status": {"phase": "Succeeded"}}), json!({"status": {"podIPs": []}})] {
        let plan = run(&service(json!({})), &[pod(0, fields.clone())], vec![]);
        assert_eq!(plan.create.len(), 1, "a placeholder");
        assert!(plan.create[0].endpoints.is_empty(), "{fields}");
    }
    let elsewhere = run(&service(json!({})), &[pod(0, json!({"spec": {"nodeName": "gone"}}))], vec![]);
    assert!(elsewhere.missing_nodes && elsewhere.create[0].endpoints.is_empty());
}

#[test]
fn both_families_and_headless_hostnames() {
    let service = service(json!({"clusterIP": "None", "ipFamilies": ["IPv4", "IPv6"]}));
    let named = pod(0, json!({"spec": {"hostname": "db-0", "subdomain": "web"}}));
    let plan = run(&service, &[named], vec![]);
    let families: Vec<_> = plan.create.iter().map(|slice| slice.address_type.as_str()).collect();
    assert_eq!(families, ["IPv4", "IPv6"]);
    assert_eq!(plan.create[1].endpoints[0].addresses, ["fd00::1"]);
    for slice in &plan.create {
        assert_eq!(slice.endpoints[0].hostname.as_deref(), Some("db-0"));
        assert_eq!(slice.labels()[HEADLESS], "");
    }
}

#[test]
fn slices_hold_a_hundred_and_are_touched_sparingly() {
    let service = service(json!({}));
    let pods: Vec<_> = (0..150).map(|n| pod(n, json!({}))).collect();
    let first = run(&service, &pods, vec![]);
    let sizes: Vec<_> = first.create.iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(sizes, [100, 50]);
    let slices: Vec<_> = (0..).zip(&first.create).map(|(i, slice)| stored(slice, &format!("s{i}"))).collect();
    let same = run(&service, &pods, slices.clone());
    assert!(same.create.is_empty() && same.update.is_empty() && same.delete.is_empty());
    // One more goes into the slice with room; only that one is written.
    let more: Vec<_> = (0..151).map(|n| pod(n, json!({}))).collect();
    let added = run(&service, &more, slices.clone());
    assert_eq!((added.create.len(), added.update.len()), (0, 1));
    assert_eq!(added.update[0].metadata.name.as_deref(), Some("s1"));
    assert_eq!(added.update[0].endpoints.len(), 51);
    // One that becomes unready changes its slice only.
    let mut changed = pods.clone();
    changed[0] = pod(0, json!({"status": {"conditions": []}}));
    let unready = run(&service, &changed, slices);
    assert_eq!((unready.create.len(), unready.update.len(), unready.delete.len()), (0, 1, 0));
}

#[test]
fn the_last_endpoint_leaves_an_empty_slice() {
    let service = service(json!({}));
    let first = run(&service, &[pod(0, json!({}))], vec![]);
    let slice = stored(&first.create[0], "s0");
    let emptied = run(&service, &[], vec![slice]);
    assert_eq!((emptied.create.len(), emptied.update.len(), emptied.delete.len()), (0, 1, 0));
    let placeholder = &emptied.update[0];
    assert_eq!(placeholder.metadata.name.as_deref(), Some("s0"));
    assert!(placeholder.endpoints.is_empty());
    let settled = run(&service, &[], vec![stored(placeholder, "s0")]);
    assert!(settled.create.is_empty() && settled.update.is_empty() && settled.delete.is_empty(), "{settled:?}");
}

#[test]
fn traffic_distribution_becomes_hints() {
    for (distribution, zones, nodes) in [("PreferClose", 1, 0), ("PreferSameZone", 1, 0), ("PreferSameNode", 1, 1)] {
        let service = service(json!({"trafficDistribution": distribution}));
        let plan = run(&service, &[pod(0, json!({}))], vec![]);
        let hints = plan.create[0].endpoints[0].hints.clone().expect("has hints");
        let count = (hints.for_zones.map_or(0, |z| z.len()), hints.for_nodes.map_or(0, |n| n.len()));
        assert_eq!(count, (zones, nodes), "{distribution}");
    }
}

#[test]
fn relabeled_services_and_replaced_services() {
    let mut service = service(json!({}));
    let first = run(&service, &[pod(0, json!({}))], vec![]);
    let slice = stored(&first.create[0], "s0");
    service.metadata.labels = Some([("team".to_owned(), "a".to_owned())].into());
    let relabeled = run(&service, &[pod(0, json!({}))], vec![Arc::clone(&slice)]);
    assert_eq!(relabeled.update[0].labels()["team"], "a");
    service.metadata.uid = Some("another".into());
    let replaced = run(&service, &[pod(0, json!({}))], vec![slice]);
    assert_eq!((replaced.create.len(), replaced.delete.len()), (1, 1));
}
