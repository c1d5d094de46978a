//! What pods use is measured, shown by `kubectl top`, and autoscalers act on it.

use serde_json::Value;

use crate::harness::{Cluster, Kubectl};
use crate::images::{BUSYBOX, import_busybox};
use crate::kubectl::text;

/// A container that uses as much of a processor as it may, more than its autoscaler wants; the autoscaler's other target is out of reach.
fn manifest() -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: burn}}
spec:
  selector: {{matchLabels: {{app: burn}}}}
  template:
    metadata: {{labels: {{app: burn}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {BUSYBOX}
        command: [sh, -c, 'while :; do :; done']
        resources: {{requests: {{cpu: 10m}}, limits: {{cpu: 100m}}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: burn}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: burn}}
  maxReplicas: 3
  behavior: {{scaleDown: {{stabilizationWindowSeconds: 0}}}}
  metrics: [{{type: Resource, resource: {{name: cpu, target: {{type: Utilization, averageUtilization: 50}}}}}}]
"
    )
}

/// What `kubectl top` prints, once there is something.
fn top(cluster: &mut Cluster, kubectl: &Kubectl, what: &str) -> Vec<String> {
    let mut fields = Vec::new();
    cluster.wait_for("metrics", |_| {
        let output = kubectl.output(format!("top {what} --no-headers").split_whitespace());
        fields = String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect();
        output.status.success() && !fields.is_empty()
    });
    fields
}

fn reasons(kubectl: &Kubectl) -> Vec<String> {
    let events = kubectl.json("get events --field-selector involvedObject.kind=HorizontalPodAutoscaler,reason=SuccessfulRescale");
    events["items"].as_array().into_iter().flatten().map(|event| text(&event["message"])).collect()
}

/// More pods while they use more than the autoscaler's target, and fewer when it is raised: the numbers come from the pods' cgroups by
/// their kubelet and metrics.k8s.io.
#[test]
fn use_of_the_processor_is_told_and_scales() {
    let mut cluster = Cluster::start();
    import_busybox(&cluster);
    let kubectl = cluster.kubectl();
    kubectl.apply(&manifest());
    kubectl.ok("rollout status deployment/burn --timeout=120s");

    let node = top(&mut cluster, &kubectl, "nodes");
    assert!(node[1].ends_with('m') && node[1] != "0m", "{node:?}");
    let pod = top(&mut cluster, &kubectl, "pods --containers -l app=burn");
    assert_eq!(pod[1], "main");
    let millicores: u32 = pod[2].trim_end_matches('m').parse().expect("a number of thousandths");
    assert!((1..=300).contains(&millicores), "something, and about its limit of 100m at most: {pod:?}");

    let replicas = |kubectl: &Kubectl| kubectl.json("get deployment burn")["spec"]["replicas"].clone();
    cluster.wait_for("the autoscaler to scale up", |_| replicas(&kubectl) == 3);
    kubectl.ok("rollout status deployment/burn --timeout=120s");
    let status = |kubectl: &Kubectl| kubectl.json("get hpa burn")["status"].clone();
    cluster.wait_for("what it measured", |_| {
        let current = &status(&kubectl)["currentMetrics"][0]["resource"]["current"];
        current["averageUtilization"].as_u64().is_some_and(|percent| percent > 50)
    });

    // Ten processors for each pod are never used.
    let target = r#"{"spec":{"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"AverageValue","averageValue":"10"}}}]}}"#;
    kubectl.ok_arguments(["patch", "hpa", "burn", "--type=merge", "-p", target]);
    cluster.wait_for("the autoscaler to scale down", |_| replicas(&kubectl) == 1);
    let conditions = status(&kubectl)["conditions"].clone();
    let active = conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == "ScalingActive");
    assert_eq!(active.map(|condition| &condition["status"]), Some(&Value::from("True")), "{conditions}");
    for expected in ["New size: 3; reason: cpu resource utilization", "New size: 1; reason: All metrics below target"] {
        cluster.wait_for("the event", |_| reasons(&kubectl).iter().any(|message| message.starts_with(expected)));
    }
}
