//! Cycles over the default plugins.

use serde_json::{Value, json};

use super::*;
use crate::plugins::default_profile;

fn nodes(objects: Vec<Value>) -> Snapshot {
    let make = |object| Arc::new(NodeInfo::new(Arc::new(serde_json::from_value(object).unwrap())));
    Snapshot::of(objects.into_iter().map(make))
}

fn machine(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}})
}

fn place(spec: Value, nodes: Snapshot) -> Result<String, String> {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
    let (pod, profile) = (Arc::new(PodInfo::new(Arc::new(pod))), default_profile("s", &Arc::default()));
    schedule(&profile, &pod, Surroundings::of(&nodes), &mut Course::default())
        .map(|placed| placed.node)
        .map_err(|rejection| rejection.message)
}

fn asks(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

#[test]
fn the_pod_goes_where_it_fits_best() {
    assert_eq!(place(asks("2"), nodes(vec![machine("small", "1"), machine("big", "4")])), Ok("big".into()));
    assert_eq!(place(asks("1"), nodes(vec![machine("small", "1"), machine("big", "4")])), Ok("big".into()));
}

#[test]
fn a_rejection_counts_the_reasons() {
    let mut cordoned = machine("cordoned", "8");
    cordoned["spec"] = json!({"unschedulable": true});
    let all = nodes(vec![machine("one", "1"), machine("two", "1"), cordoned]);
    let message = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    assert_eq!(place(asks("2"), all), Err(message.into()));
    assert_eq!(place(asks("2"), nodes(vec![])), Err("no nodes available to schedule pods".into()));
}

#[test]
fn large_clusters_are_sampled() {
    let check = |nodes, expected| assert_eq!(nodes_wanted(nodes, 0), expected);
    check(1, 1);
    check(99, 99);
    check(100, 100);
    check(1000, 420);
    check(5000, 500);
    check(10_000, 500);
    assert_eq!(nodes_wanted(1000, 70), 700);
}
