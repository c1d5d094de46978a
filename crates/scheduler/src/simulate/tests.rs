//! Pods on a small cluster.

use serde_json::{Value, json};

use super::*;

fn machine(name: &str, cpu: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "10"}}})
}

fn running(name: &str, node: &str, cpu: &str) -> Value {
    let spec = json!({"nodeName": node, "priority": 0, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
    json!({"kind": "Pod", "metadata": {"name": name, "namespace": "d", "uid": name}, "spec": spec, "status": {"phase": "Running"}})
}

fn simulation(objects: Vec<Value>) -> Simulation {
    let list = json!({"kind": "List", "items": objects});
    Simulation::new(&Config::default(), Cluster::from_dump([list]).unwrap()).unwrap()
}

fn wants(name: &str, cpu: &str, class: Option<&str>) -> Value {
    let spec = json!({"priorityClassName": class, "containers": [{"name": "c", "resources": {"limits": {"cpu": cpu}}}]});
    json!({"kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn fate(simulation: &mut Simulation, pod: &Value) -> Fate {
    simulation.place(pods_of(pod).unwrap().remove(0)).fate
}

#[test]
fn each_pod_finds_those_before_it() {
    let mut simulation = simulation(vec![machine("one", "2"), running("there", "one", "1")]);
    assert_eq!(fate(&mut simulation, &wants("a", "1", None)), Fate::Bound { node: "one".into() });
    let Fate::Pending { message } = fate(&mut simulation, &wants("b", "1", None)) else { panic!("there is no room") };
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
}

#[test]
fn who_would_have_to_go_is_said() {
    let class = json!({"kind": "PriorityClass", "metadata": {"name": "high"}, "value": 10});
    let mut simulation = simulation(vec![machine("one", "2"), running("there", "one", "2"), class]);
    let Fate::Preempts { node, victims, .. } = fate(&mut simulation, &wants("a", "1", Some("high"))) else {
        panic!("it may preempt")
    };
    assert_eq!((node.as_str(), victims), ("one", vec!["d/there".to_owned()]));
    assert_eq!(
        fate(&mut simulation, &wants("b", "1", Some("high"))),
        Fate::Bound { node: "one".into() },
        "the victim is gone by then"
    );
}

#[test]
fn every_node_is_explained() {
    let mut cordoned = machine("cordoned", "8");
    cordoned["spec"] = json!({"unschedulable": true});
    let mut simulation = simulation(vec![machine("small", "1"), machine("big", "8"), machine("bigger", "16"), cordoned]);
    let verdict = simulation.place(pods_of(&wants("a", "2", None)).unwrap().remove(0));
    let names: Vec<&str> = verdict.nodes.iter().map(|node| node.node.as_str()).collect();
    assert_eq!(names, ["bigger", "big", "cordoned", "small"]);
    assert!(verdict.nodes[0].score > verdict.nodes[1].score);
    assert_eq!(verdict.nodes[2].reasons, ["node(s) were unschedulable"]);
    assert_eq!(verdict.nodes[3].reasons, ["Insufficient cpu"]);
    assert_eq!(verdict.fate, Fate::Bound { node: "bigger".into() });
}

#[test]
fn workloads_have_pods() {
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}});
    let check = |object: Value, expected: &[&str]| {
        let pods = pods_of(&object).map_err(|error| error.to_string()).unwrap();
        assert_eq!(pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), expected);
    };
    let of = |kind: &str, spec: Value| json!({"kind": kind, "metadata": {"name": "w", "namespace": "n"}, "spec": spec});
    check(of("Deployment", json!({"replicas": 2, "template": template})), &["w-0", "w-1"]);
    check(of("Job", json!({"template": template})), &["w-0"]);
    check(json!({"kind": "List", "items": [of("Pod", json!({"containers": []}))]}), &["w"]);
    assert!(pods_of(&of("Service", json!({}))).is_err());
}

#[test]
fn gates_and_other_schedulers_leave_it_pending() {
    let mut simulation = simulation(vec![machine("one", "2")]);
    let mut gated = wants("a", "1", None);
    gated["spec"]["schedulingGates"] = json!([{"name": "wait"}]);
    assert_eq!(fate(&mut simulation, &gated), Fate::Pending { message: "waiting for scheduling gates: [wait]".into() });
    let mut other = wants("a", "1", None);
    other["spec"]["schedulerName"] = json!("other");
    assert!(
        matches!(fate(&mut simulation, &other), Fate::Pending { message } if message.contains("no profile is called \"other\""))
    );
}
